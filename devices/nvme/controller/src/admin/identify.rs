//! Identify (Base 5.1.13).

use nvme_spec::{
    Csi, IDENTIFY_BYTES, NSID_BROADCAST, Sqe, Status,
    command_set::{
        CNTID_THIS, CommandSetVector, CommandSets, IndependentNamespace, NVM_COMMAND_SET_1_1,
        NamespaceStatus, NvmController, NvmNamespace,
    },
    identify::{
        CNTRLTYPE_IO, EntrySizes, FLUSH_BROADCAST_SUPPORTED, FirmwareUpdates, IdentifyController,
        NIDT_CSI, NIDT_EUI64, NIDT_NGUID, NamespaceDescriptorHeader, OAES_NAMESPACE_ATTRIBUTE,
        VolatileWriteCacheAttributes,
    },
    queue::{IdentifyCdw10, IdentifyCdw11},
    registers::{CQE_LOG2, SQE_LOG2, Vs},
};
use zerocopy::{FromZeros, IntoBytes};

use super::{
    ABORT_LIMIT, Admin, AdminContext, Handled, Outcome,
    events::REQUEST_LIMIT,
    features::{CRITICAL_TEMPERATURE_K, POWER_STATES, WARNING_TEMPERATURE_K},
    keep_alive,
};
use crate::{
    atomicity::{ControllerAtomics, field},
    config::{CacheMode, ControllerConfig, MIN_PAGE_BYTES},
    error_log,
    namespace::{self, Namespace},
    shared::Shared,
    table::{self, IdentifyKind},
};

/// IEEE OUI Identifier, least significant byte first: none is assigned, so a locally administered
/// one, as the namespaces' identifiers are.
const LOCAL_OUI: [u8; 3] = [0x26, 0xFE, 0x02];
/// The largest power the one power state draws, in centiwatts: 25 W, as a drive would.
const MAX_POWER_CENTIWATTS: u16 = 2500;
/// What a host should wait for a shutdown, in microseconds; a shutdown here takes one poll.
const RTD3_MICROSECONDS: u32 = 1_000_000;
/// CNTLID: the subsystem has this controller alone.
const CONTROLLER_ID: u16 = 0;

impl Admin {
    /// Identify: 4,096 bytes of the structure that CNS names.
    pub(super) fn identify(&mut self, cx: &AdminContext<'_>, sqe: &Sqe) -> Handled {
        let data = identify(cx.shared, sqe)?;
        self.send(cx, sqe, &data, IDENTIFY_BYTES as u64)?;
        Ok(Outcome::SUCCESS)
    }
}

/// The structure that CNS names.
///
/// # Errors
/// The command's status.
pub(crate) fn identify(shared: &Shared, sqe: &Sqe) -> Result<[u8; IDENTIFY_BYTES], Status> {
    let cdw10 = IdentifyCdw10::from(sqe.cdw10);
    let csi = IdentifyCdw11::from(sqe.cdw11).csi();
    let kind = table::identify_kind(cdw10.cns()).ok_or(Status::INVALID_FIELD.dnr())?;
    Ok(match kind {
        IdentifyKind::Controller => to_bytes(&controller(shared)),
        // Without Namespace Management, FFFFFFFFh asks for nothing: no namespace has it.
        IdentifyKind::Namespace => to_bytes(&named(shared, sqe)?.identify()),
        IdentifyKind::ActiveNamespaces => active_namespaces(shared, sqe.nsid)?,
        IdentifyKind::NamespaceDescriptors => descriptors(named(shared, sqe)?),
        IdentifyKind::CommandSetNamespace => {
            named(shared, sqe)?;
            if csi != Csi::NVM {
                return Err(Status::INVALID_COMMAND_SET.dnr());
            }
            // No protection information, and no preferences of a size that CNS 00h cannot say.
            to_bytes(&NvmNamespace::new_zeroed())
        }
        IdentifyKind::CommandSetController => {
            command_set(csi)?;
            // No limits: Verify, Write Zeroes and Dataset Management take any number of blocks.
            let mut data = NvmController::new_zeroed();
            if shared.config.version >= Vs::V2_1 {
                data.ver = NVM_COMMAND_SET_1_1;
            }
            to_bytes(&data)
        }
        IdentifyKind::CommandSetActiveNamespaces => {
            command_set(csi)?;
            active_namespaces(shared, sqe.nsid)?
        }
        IdentifyKind::IndependentNamespace => {
            named(shared, sqe)?;
            let mut data = IndependentNamespace::new_zeroed();
            data.nstat = NamespaceStatus::new().with_nrdy(true);
            to_bytes(&data)
        }
        IdentifyKind::CommandSets => {
            if !matches!(cdw10.cntid(), CONTROLLER_ID | CNTID_THIS) {
                return Err(Status::INVALID_FIELD.dnr());
            }
            let mut data = CommandSets::new_zeroed();
            if let Some(first) = data.vectors.first_mut() {
                *first = CommandSetVector::new().with_nvm(true);
            }
            to_bytes(&data)
        }
    })
}

/// The namespace that a command names.
fn named<'a>(shared: &'a Shared, sqe: &Sqe) -> Result<&'a Namespace, Status> {
    shared
        .namespace(sqe.nsid)
        .ok_or(Status::INVALID_NAMESPACE.dnr())
}

/// Checks that the controller has a command set: it has one.
fn command_set(csi: Csi) -> Result<(), Status> {
    match csi {
        Csi::NVM => Ok(()),
        _ => Err(Status::INVALID_FIELD.dnr()),
    }
}

/// The active namespaces above `after` (Base 5.1.13.2.2). All are of the NVM Command Set.
fn active_namespaces(shared: &Shared, after: u32) -> Result<[u8; IDENTIFY_BYTES], Status> {
    // FFFFFFFEh and FFFFFFFFh are refused.
    if after >= NSID_BROADCAST - 1 {
        return Err(Status::INVALID_NAMESPACE.dnr());
    }
    let mut data = [0; IDENTIFY_BYTES];
    let nsids = shared.namespaces.iter().map(|n| n.nsid);
    let nsids = nsids.filter(|&nsid| nsid > after);
    for (place, nsid) in data.chunks_exact_mut(4).zip(nsids) {
        place.copy_from_slice(&nsid.to_le_bytes());
    }
    Ok(data)
}

/// What identifies a namespace, and its command set (Base 5.1.13.2.3).
fn descriptors(namespace: &Namespace) -> [u8; IDENTIFY_BYTES] {
    let list = [
        NamespaceDescriptorHeader::new(NIDT_EUI64, 8).as_bytes(),
        &namespace.eui64(),
        NamespaceDescriptorHeader::new(NIDT_NGUID, 16).as_bytes(),
        &namespace.nguid(),
        NamespaceDescriptorHeader::new(NIDT_CSI, 1).as_bytes(),
        Csi::NVM.as_bytes(),
    ]
    .concat();
    to_bytes(list.as_slice())
}

fn to_bytes<T: IntoBytes + zerocopy::Immutable + ?Sized>(value: &T) -> [u8; IDENTIFY_BYTES] {
    let mut data = [0; IDENTIFY_BYTES];
    for (place, byte) in data.iter_mut().zip(value.as_bytes()) {
        *place = *byte;
    }
    data
}

/// Text padded with spaces.
fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [b' '; N];
    for (place, byte) in field.iter_mut().zip(text.bytes()) {
        *place = byte;
    }
    field
}

/// Identify Controller (Base 5.1.13.2.1).
fn controller(shared: &Shared) -> IdentifyController {
    let config = &shared.config;
    let mut data = IdentifyController::new_zeroed();
    data.vid = config.vendor_id;
    data.ssvid = config.subsystem_vendor_id;
    data.sn = padded(&config.serial);
    data.mn = padded(&config.model);
    data.fr = padded(&config.firmware);
    data.ieee = LOCAL_OUI;
    data.mdts = mdts(config);
    data.cntlid = CONTROLLER_ID;
    data.ver = config.version.into();
    data.rtd3r = RTD3_MICROSECONDS;
    data.rtd3e = RTD3_MICROSECONDS;
    data.oaes = OAES_NAMESPACE_ATTRIBUTE;
    data.cntrltype = CNTRLTYPE_IO;
    data.oacs = table::oacs(config);
    data.acl_z = ABORT_LIMIT - 1;
    data.aerl_z = REQUEST_LIMIT - 1;
    data.frmw = FirmwareUpdates::new()
        .with_first_slot_read_only(true)
        .with_slots(1);
    data.lpa = table::lpa();
    data.elpe_z = error_log::ENTRIES - 1;
    data.npss_z = POWER_STATES - 1;
    data.wctemp = WARNING_TEMPERATURE_K;
    data.cctemp = CRITICAL_TEMPERATURE_K;
    data.kas = keep_alive::GRANULARITY;
    data.sqes = EntrySizes::new()
        .with_required(SQE_LOG2)
        .with_maximum(SQE_LOG2);
    data.cqes = EntrySizes::new()
        .with_required(CQE_LOG2)
        .with_maximum(CQE_LOG2);
    data.nn = u32::try_from(shared.namespaces.len()).unwrap_or(u32::MAX);
    data.oncs = table::oncs();
    data.fuses = table::fuses();
    let atomics = ControllerAtomics::new(config);
    data.awun_z = field(atomics.normal);
    data.awupf_z = field(atomics.power_fail);
    data.acwu_z = field(atomics.compare_and_write);
    data.vwc = VolatileWriteCacheAttributes::new()
        .with_present(config.cache == CacheMode::Volatile)
        .with_flush_behavior(FLUSH_BROADCAST_SUPPORTED);
    data.subnqn = subnqn(shared);
    if let Some(state) = data.psd.first_mut() {
        state.mp = MAX_POWER_CENTIWATTS;
    }
    data
}

/// MDTS: log2 of the largest transfer in pages of CAP.MPSMIN.
fn mdts(config: &ControllerConfig) -> u8 {
    let pages = config.mdts_bytes / MIN_PAGE_BYTES;
    u8::try_from(pages.ilog2()).unwrap_or_default()
}

/// The subsystem's NVMe Qualified Name, in the form made of a UUID (Base 4.7).
fn subnqn(shared: &Shared) -> [u8; 256] {
    let name = format!(
        "nqn.2014-08.org.nvmexpress:uuid:{}",
        namespace::subsystem_uuid(&shared.config)
    );
    let mut field = [0; 256];
    for (place, byte) in field.iter_mut().zip(name.bytes()) {
        *place = byte;
    }
    field
}
