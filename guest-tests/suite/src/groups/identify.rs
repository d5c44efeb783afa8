//! Identify: what is returned, and which identifiers are refused.

use alloc::vec::Vec;

use nvme_host::command;
use nvme_spec::identify::{
    CNTRLTYPE_IO, IdentifyController, NIDT_CSI, NIDT_EUI64, NIDT_NGUID, NIDT_UUID,
    NamespaceDescriptorHeader,
};
use nvme_spec::registers::Vs;
use nvme_spec::{Cns, IDENTIFY_BYTES, NSID_BROADCAST, Status};
use zerocopy::{FromBytes, IntoBytes};

use crate::{Env, Outcome, check};

group! { "identify":
    controller_version_matches_vs, "Base 2.1 5.1.13.2.1",
        "VER of Identify Controller holds what the VS register holds.";
    controller_vendor_matches_pci, "Base 2.1 5.1.13.2.1",
        "VID and SSVID of Identify Controller are those of the PCI header.";
    controller_strings_are_ascii, "Base 2.1 5.1.13.2.1",
        "Serial number, model number and firmware revision are printable ASCII, padded with spaces.";
    controller_entry_sizes_allow_64_and_16, "Base 2.1 5.1.13.2.1",
        "SQES requires 64-byte and CQES 16-byte entries, and the maximum is not below.";
    controller_type_is_io, "Base 2.1 5.1.13.2.1",
        "From version 1.4 on CNTRLTYPE tells an I/O controller.";
    controller_subnqn_is_a_name, "Base 2.1 5.1.13.2.1",
        "From version 1.2.1 on SUBNQN is a zero-terminated NVMe Qualified Name.";
    controller_atomic_units_are_ordered, "NVM 1.1 4.1.5.2",
        "AWUPF is not above AWUN.";
    controller_power_states_end_at_npss, "Base 2.1 5.1.13.2.1",
        "NPSS is at most 31, and descriptors beyond it are zero.";
    controller_is_the_same_after_reset, "Base 2.1 5.1.13.2.1",
        "Identity, limits and optional features of the controller do not change by a reset.";
    data_is_4096_bytes, "Base 2.1 5.1.13",
        "Identify writes 4,096 bytes, and no byte more.";
    active_list_is_ascending, "Base 2.1 5.1.13.2.2",
        "The active namespace list is ascending, holds identifiers up to NN alone, and ends in zeroes.";
    active_list_starts_above_nsid, "Base 2.1 5.1.13.2.2",
        "The active namespace list holds identifiers greater than the command's NSID alone, and all of them.";
    active_list_refuses_highest_nsids, "Base 2.1 5.1.13.2.2",
        "The active namespace list with NSID FFFFFFFEh or FFFFFFFFh completes with Invalid Namespace or Format.";
    namespace_sizes_are_ordered, "NVM 1.1 4.1.5.1",
        "An active namespace has NSZE at least NCAP, NCAP at least NUSE, and is not empty.";
    namespace_format_exists, "NVM 1.1 4.1.5.1",
        "FLBAS names one of the NLBAF + 1 formats, whose blocks have at least 512 bytes.";
    namespace_refuses_invalid_nsid, "Base 2.1 3.2.1.3",
        "Identify Namespace of an invalid NSID, 0 or above NN, completes with Invalid Namespace or Format.";
    inactive_namespace_is_zero_filled, "Base 2.1 5.1.13.2.1",
        "Identify Namespace of an inactive NSID returns zeroes.";
    descriptors_are_well_formed, "Base 2.1 5.1.13.2.3",
        "The descriptor list holds identifiers with their right lengths, each type once at most and one that identifies the namespace at least, and ends in a zero header.";
    descriptors_match_the_namespace, "Base 2.1 5.1.13.2.3",
        "EUI64 and NGUID are the same in Identify Namespace and in the descriptor list.";
    descriptors_refuse_invalid_nsid, "Base 2.1 5.1.13.2.3",
        "The descriptor list of an invalid NSID completes with Invalid Namespace or Format.";
    unsupported_cns_is_refused, "Base 2.1 5.1.13",
        "Identify with a reserved CNS completes with Invalid Field in Command.";
}

/// A CNS no version up to 2.1 defines.
const RESERVED_CNS: [Cns; 2] = [Cns(0x0F), Cns(0xBF)];

fn refused(env: &mut Env<'_>, cns: Cns, nsid: u32, expected: Status) -> Outcome {
    let mut data = alloc::vec![0; IDENTIFY_BYTES];
    let cqe = env
        .nvme
        .admin_data(command::identify(cns, nsid), &mut data)?;
    let what = alloc::format!("Identify CNS {:#04x} of NSID {nsid:#x}", cns.0);
    check::status(&what, cqe, expected)
}

fn controller_version_matches_vs(env: &mut Env<'_>) -> Outcome {
    let (ver, vs) = (env.context.controller.ver, u32::from(env.context.vs));
    check::equal_hex("VER", ver, vs)
}

fn controller_vendor_matches_pci(env: &mut Env<'_>) -> Outcome {
    let transport = env.nvme.transport();
    let (ids, subsystem) = (transport.config_read32(0x00), transport.config_read32(0x2C));
    require!(ids != u32::MAX, "there is no PCI header here");
    let [a, b, ..] = ids.to_le_bytes();
    let [c, d, ..] = subsystem.to_le_bytes();
    let controller = &env.context.controller;
    check::equal_hex("VID", controller.vid, u16::from_le_bytes([a, b]))?;
    check::equal_hex("SSVID", controller.ssvid, u16::from_le_bytes([c, d]))
}

fn controller_strings_are_ascii(env: &mut Env<'_>) -> Outcome {
    let controller = &env.context.controller;
    for (name, field) in [
        ("SN", controller.sn.as_slice()),
        ("MN", controller.mn.as_slice()),
        ("FR", controller.fr.as_slice()),
    ] {
        let odd = field.iter().find(|byte| !(0x20..0x7F).contains(*byte));
        ensure!(odd.is_none(), "{name} holds the byte {odd:#x?}");
        ensure!(
            field.first() != Some(&b' '),
            "{name} is empty or starts with a space"
        );
    }
    Ok(())
}

fn controller_entry_sizes_allow_64_and_16(env: &mut Env<'_>) -> Outcome {
    let IdentifyController { sqes, cqes, .. } = env.context.controller;
    check::equal("required SQ entry size, log2", sqes.required(), 6)?;
    check::equal("required CQ entry size, log2", cqes.required(), 4)?;
    ensure!(
        sqes.maximum() >= 6,
        "maximum SQ entry size, log2: {}",
        sqes.maximum()
    );
    ensure!(
        cqes.maximum() >= 4,
        "maximum CQ entry size, log2: {}",
        cqes.maximum()
    );
    Ok(())
}

fn controller_type_is_io(env: &mut Env<'_>) -> Outcome {
    require!(
        env.context.vs >= Vs::V1_4,
        "CNTRLTYPE came with version 1.4"
    );
    check::equal("CNTRLTYPE", env.context.controller.cntrltype, CNTRLTYPE_IO)
}

fn controller_subnqn_is_a_name(env: &mut Env<'_>) -> Outcome {
    let since = Vs::new().with_mjr(1).with_mnr(2).with_ter(1);
    require!(
        env.context.vs >= since,
        "SUBNQN became mandatory with version 1.2.1"
    );
    /// The most bytes of a name, without its terminator.
    const LONGEST: usize = 223;
    let field = &env.context.controller.subnqn;
    let Some(end) = field.iter().position(|byte| *byte == 0) else {
        fail!("SUBNQN is not zero-terminated");
    };
    ensure!(
        end <= LONGEST,
        "SUBNQN has {end} bytes, {LONGEST} are allowed"
    );
    ensure!(
        field.starts_with(b"nqn."),
        "SUBNQN does not start with \"nqn.\""
    );
    Ok(())
}

fn controller_atomic_units_are_ordered(env: &mut Env<'_>) -> Outcome {
    let IdentifyController {
        awun_z, awupf_z, ..
    } = env.context.controller;
    ensure!(awupf_z <= awun_z, "AWUPF {awupf_z} is above AWUN {awun_z}");
    Ok(())
}

fn controller_power_states_end_at_npss(env: &mut Env<'_>) -> Outcome {
    let controller = &env.context.controller;
    let last = usize::from(controller.npss_z);
    ensure!(last <= 31, "NPSS is {last}, at most 31 is allowed");
    for (number, state) in controller.psd.iter().enumerate().skip(last + 1) {
        let used = state.as_bytes().iter().any(|byte| *byte != 0);
        ensure!(
            !used,
            "power state {number} is beyond NPSS {last} and not zero"
        );
    }
    Ok(())
}

fn controller_is_the_same_after_reset(env: &mut Env<'_>) -> Outcome {
    let before = env.context.controller;
    let after = env.nvme.identify_controller()?;
    for (name, before, after) in [
        ("SN", before.sn.as_slice(), after.sn.as_slice()),
        ("MN", &before.mn, &after.mn),
        ("FR", &before.fr, &after.fr),
        ("SUBNQN", &before.subnqn, &after.subnqn),
    ] {
        check::same_bytes(name, after, before)?;
    }
    let numbers = |c: &IdentifyController| {
        [
            u32::from(c.cntlid),
            u32::from(c.mdts),
            u32::from(c.oacs),
            u32::from(c.oncs),
            u32::from(c.acl_z),
            u32::from(c.aerl_z),
            c.nn,
        ]
    };
    check::equal(
        "CNTLID, MDTS, OACS, ONCS, ACL, AERL, NN",
        numbers(&after),
        numbers(&before),
    )
}

fn data_is_4096_bytes(env: &mut Env<'_>) -> Outcome {
    let page = env.nvme.page_bytes();
    let area = env.nvme.alloc(3 * page.max(4096))?;
    env.guard(area);
    let data = area.slice(page, IDENTIFY_BYTES as u64);
    let cqe = env
        .nvme
        .exec_data(0, command::identify(Cns::CONTROLLER, 0), data)?;
    check::status("Identify Controller", cqe, Status::SUCCESS)?;
    env.guarded("before the data", area.slice(0, page))?;
    let behind = page + IDENTIFY_BYTES as u64;
    env.guarded("behind the data", area.slice(behind, area.bytes - behind))?;
    let found = env.copy_out(data);
    let found = IdentifyController::read_from_bytes(&found)
        .map_err(|_| crate::Stop::Failed("Identify data has another length".into()))?;
    check::same_bytes("SN", &found.sn, &env.context.controller.sn)
}

fn active_list_is_ascending(env: &mut Env<'_>) -> Outcome {
    let data = env.nvme.identify(Cns::ACTIVE_NAMESPACES, 0)?;
    let (ids, _) = data.as_chunks::<4>();
    let ids: Vec<u32> = ids.iter().map(|id| u32::from_le_bytes(*id)).collect();
    let nn = env.context.controller.nn;
    let mut last = 0;
    let mut ended = false;
    for (index, id) in ids.into_iter().enumerate() {
        if id == 0 {
            ended = true;
            continue;
        }
        ensure!(!ended, "entry {index} is {id} behind the end of the list");
        ensure!(id > last, "entry {index} is {id} after {last}");
        ensure!(id <= nn, "entry {index} is {id}, above NN {nn}");
        last = id;
    }
    Ok(())
}

fn active_list_starts_above_nsid(env: &mut Env<'_>) -> Outcome {
    let all = env.nvme.active_namespaces(0)?;
    let mut starts = all.clone();
    starts.push(NSID_BROADCAST - 2);
    starts.extend(all.iter().map(|nsid| nsid - 1));
    for after in starts.into_iter().take(16) {
        let expected: Vec<u32> = all.iter().copied().filter(|id| *id > after).collect();
        let mut found = env.nvme.active_namespaces(after)?;
        // Where the first list was full, later ones may show more.
        found.truncate(
            expected
                .len()
                .max(usize::from(all.len() < 1024) * found.len()),
        );
        let what = alloc::format!("active namespaces after {after:#x}");
        check::equal(&what, found, expected)?;
    }
    Ok(())
}

fn active_list_refuses_highest_nsids(env: &mut Env<'_>) -> Outcome {
    for nsid in [NSID_BROADCAST - 1, NSID_BROADCAST] {
        refused(env, Cns::ACTIVE_NAMESPACES, nsid, Status::INVALID_NAMESPACE)?;
    }
    Ok(())
}

fn active(env: &Env<'_>) -> Vec<u32> {
    let namespaces = &env.context.found.namespaces;
    namespaces.iter().map(|ns| ns.nsid).collect()
}

fn namespace_sizes_are_ordered(env: &mut Env<'_>) -> Outcome {
    for nsid in active(env) {
        let ns = env.nvme.identify_namespace(nsid)?;
        let (nsze, ncap, nuse) = (ns.nsze, ns.ncap, ns.nuse);
        ensure!(nsze != 0, "namespace {nsid} is active and NSZE is 0");
        ensure!(
            ncap <= nsze,
            "namespace {nsid}: NCAP {ncap} is above NSZE {nsze}"
        );
        ensure!(
            nuse <= ncap,
            "namespace {nsid}: NUSE {nuse} is above NCAP {ncap}"
        );
    }
    Ok(())
}

fn namespace_format_exists(env: &mut Env<'_>) -> Outcome {
    for nsid in active(env) {
        let ns = env.nvme.identify_namespace(nsid)?;
        let (index, last) = (ns.flbas.index(), ns.nlbaf_z.saturating_add(ns.nulbaf));
        ensure!(
            index <= last,
            "namespace {nsid}: FLBAS names format {index}, the last one is {last}"
        );
        let lbads = ns.lbaf.get(usize::from(index)).map(|lbaf| lbaf.lbads());
        ensure!(
            lbads.is_some_and(|lbads| (9..64).contains(&lbads)),
            "namespace {nsid}: LBADS of its format is {lbads:?}, at least 9 is required"
        );
    }
    Ok(())
}

fn namespace_refuses_invalid_nsid(env: &mut Env<'_>) -> Outcome {
    refused(env, Cns::NAMESPACE, 0, Status::INVALID_NAMESPACE)?;
    let nsid = env.invalid_nsid()?;
    refused(env, Cns::NAMESPACE, nsid, Status::INVALID_NAMESPACE)
}

fn inactive_namespace_is_zero_filled(env: &mut Env<'_>) -> Outcome {
    let nsid = env.inactive_nsid()?;
    let data = env.nvme.identify(Cns::NAMESPACE, nsid)?;
    let what = alloc::format!("Identify Namespace of inactive NSID {nsid}");
    check::same_bytes(&what, &data, &[0; IDENTIFY_BYTES])
}

/// The identifiers in a descriptor list: type and bytes.
pub(super) fn descriptors(list: &[u8]) -> Outcome<Vec<(u8, Vec<u8>)>> {
    let mut found: Vec<(u8, Vec<u8>)> = Vec::new();
    let mut rest = list;
    while let Ok((header, behind)) = NamespaceDescriptorHeader::read_from_prefix(rest) {
        if header.nidl == 0 {
            ensure!(header.nidt == 0, "type {} has length 0", header.nidt);
            break;
        }
        let expected = match header.nidt {
            NIDT_EUI64 => 8,
            NIDT_NGUID | NIDT_UUID => 16,
            NIDT_CSI => 1,
            other => fail!("type {other} is not defined"),
        };
        ensure!(
            header.nidl == expected,
            "type {}: expected length {expected}, found {}",
            header.nidt,
            header.nidl
        );
        let Some((id, behind)) = behind.split_at_checked(header.nidl.into()) else {
            fail!("type {} reaches beyond the list", header.nidt);
        };
        ensure!(
            !found.iter().any(|(nidt, _)| *nidt == header.nidt),
            "type {} appears twice",
            header.nidt
        );
        found.push((header.nidt, id.to_vec()));
        rest = behind;
    }
    Ok(found)
}

fn descriptors_are_well_formed(env: &mut Env<'_>) -> Outcome {
    for nsid in active(env) {
        let list = env.nvme.identify(Cns::NAMESPACE_DESCRIPTORS, nsid)?;
        let found = descriptors(&list)?;
        let identifies = found.iter().any(|(nidt, _)| *nidt != NIDT_CSI);
        ensure!(
            identifies,
            "namespace {nsid} has no EUI64, NGUID or UUID in its list"
        );
        // CAP.CSS bit 6 offers several command sets, of which the descriptor tells one.
        let several = env.context.cap.css() & 0b0100_0000 != 0;
        let tells = found.iter().any(|(nidt, _)| *nidt == NIDT_CSI);
        ensure!(
            tells || !several,
            "namespace {nsid} has no command set identifier in its list"
        );
    }
    Ok(())
}

fn descriptors_match_the_namespace(env: &mut Env<'_>) -> Outcome {
    for nsid in active(env) {
        let ns = env.nvme.identify_namespace(nsid)?;
        let list = env.nvme.identify(Cns::NAMESPACE_DESCRIPTORS, nsid)?;
        let found = descriptors(&list)?;
        for (name, nidt, field) in [
            ("EUI64", NIDT_EUI64, ns.eui64.as_slice()),
            ("NGUID", NIDT_NGUID, ns.nguid.as_slice()),
        ] {
            let listed = found.iter().find(|(other, _)| *other == nidt);
            let zero = field.iter().all(|byte| *byte == 0);
            match listed {
                Some((_, id)) => check::same_bytes(name, id, field)?,
                None => ensure!(zero, "namespace {nsid} has an {name} that is not listed"),
            }
        }
    }
    Ok(())
}

fn descriptors_refuse_invalid_nsid(env: &mut Env<'_>) -> Outcome {
    let cns = Cns::NAMESPACE_DESCRIPTORS;
    refused(env, cns, 0, Status::INVALID_NAMESPACE)?;
    refused(env, cns, NSID_BROADCAST, Status::INVALID_NAMESPACE)?;
    let nsid = env.invalid_nsid()?;
    refused(env, cns, nsid, Status::INVALID_NAMESPACE)
}

fn unsupported_cns_is_refused(env: &mut Env<'_>) -> Outcome {
    for cns in RESERVED_CNS {
        refused(env, cns, 0, Status::INVALID_FIELD)?;
    }
    Ok(())
}
