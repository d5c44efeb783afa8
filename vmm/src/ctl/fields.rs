//! Structures by the names that the specification gives their fields.

use nvme_spec::{
    Cns, Csi,
    identify::{IdentifyController, IdentifyNamespace},
};
use serde_json::{Map, Value, json};
use zerocopy::FromBytes;

use ::nvme::Controller;

use super::protocol::{ErrorCode, Refused};

/// An object of the fields that are named, each by its name.
macro_rules! fields {
    ($of:expr; $($name:ident),* $(,)?) => {{
        let mut map = Map::new();
        $(map.insert(stringify!($name).trim_end_matches("_z").to_string(), json!($of.$name));)*
        map
    }};
}

/// Text that is padded with spaces, or ends with a zero.
fn text(bytes: &[u8]) -> Value {
    let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).trim_end().into()
}

/// An identifier, most significant byte first.
fn identifier(bytes: &[u8]) -> Value {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.into()
}

/// Asks the controller, as a host's Identify would.
fn identify(controller: &Controller, cns: Cns, nsid: u32) -> Result<Vec<u8>, Refused> {
    let data = controller.identify(cns, nsid, Csi::NVM);
    data.map(|data| data.to_vec()).map_err(|status| {
        let message = format!("Identify of namespace {nsid} says {status}");
        Refused::new(ErrorCode::NotFound, message)
    })
}

/// Identify Controller.
pub(super) fn controller(controller: &Controller) -> Result<IdentifyController, Refused> {
    let data = identify(controller, Cns::CONTROLLER, 0)?;
    IdentifyController::read_from_bytes(&data).map_err(|_| internal())
}

/// Identify Namespace.
pub(super) fn namespace(controller: &Controller, nsid: u32) -> Result<IdentifyNamespace, Refused> {
    let data = identify(controller, Cns::NAMESPACE, nsid)?;
    IdentifyNamespace::read_from_bytes(&data).map_err(|_| internal())
}

fn internal() -> Refused {
    Refused::new(ErrorCode::NotAvailable, "the structure has another size")
}

/// The fields of Identify Controller that are not reserved, as they are on the wire; those that are
/// 0 for all controllers of this kind (fabrics, management endpoints) are left out.
pub(super) fn controller_fields(data: &IdentifyController) -> Value {
    let mut map = fields!(data; vid, ssvid, rab, cmic, mdts, cntlid, ver, rtd3r, rtd3e, oaes, ctratt,
        cntrltype, crdt, oacs, acl_z, aerl_z, lpa, elpe_z, npss_z, avscc, apsta, wctemp, cctemp, mtfa,
        hmpre, hmmin, edstt, dsto, fwug, kas, hctma, mntmt, mxtmt, sanicap, maxcmd, nn, oncs, fuses,
        fna, awun_z, awupf_z, icsvscc, nwpc, acwu_z, cdfs, sgls, mnan);
    for (name, value) in [
        ("sn", text(&data.sn)),
        ("mn", text(&data.mn)),
        ("fr", text(&data.fr)),
        ("subnqn", text(&data.subnqn)),
        ("ieee", identifier(&data.ieee)),
        ("frmw", u8::from(data.frmw).into()),
        ("sqes", u8::from(data.sqes).into()),
        ("cqes", u8::from(data.cqes).into()),
        ("vwc", u8::from(data.vwc).into()),
    ] {
        map.insert(name.into(), value);
    }
    map.into()
}

/// The fields of Identify Namespace that are not reserved, as they are on the wire.
pub(super) fn namespace_fields(data: &IdentifyNamespace) -> Value {
    let mut map = fields!(data; nsze, ncap, nuse, nsfeat, nlbaf_z, mc, dpc, dps, nmic, rescap, fpi,
        dlfeat, nawun_z, nawupf_z, nacwu_z, nabsn_z, nabo, nabspf_z, noiob, npwg_z, npwa_z, npdg_z,
        npda_z, nows_z, mssrl, mcl, msrc_z, nulbaf, anagrpid, nsattr, nvmsetid, endgid);
    let formats = usize::from(data.nlbaf_z) + 1;
    let format = |format: &nvme_spec::identify::LbaFormat| json!({ "ms": format.ms(), "lbads": format.lbads(), "rp": format.rp() });
    let lbaf: Vec<Value> = data.lbaf.iter().take(formats).map(format).collect();
    for (name, value) in [
        ("flbas", u8::from(data.flbas).into()),
        ("nguid", identifier(&data.nguid)),
        ("eui64", identifier(&data.eui64)),
        ("lbaf", lbaf.into()),
    ] {
        map.insert(name.into(), value);
    }
    map.into()
}

/// Bytes of a logical block of a namespace.
pub(super) fn block_bytes(data: &IdentifyNamespace) -> u64 {
    let format = data.lbaf.get(usize::from(data.flbas.index()));
    let shift = format.map_or(0, |format| format.lbads());
    1u64.checked_shl(shift.into()).unwrap_or_default()
}
