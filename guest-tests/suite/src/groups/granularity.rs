//! What a namespace recommends of writes, and what its media then did.

use alloc::vec::Vec;

use nvme_spec::identify::{IdentifyNamespace, NamespaceFeatures};
use nvme_spec::log::OcpSmartLog;
use nvme_spec::{LogId, NSID_BROADCAST};
use zerocopy::FromBytes;

use crate::env::IO;
use crate::{Env, Namespace, Outcome};

group! { "granularity":
    preferred_sizes_are_multiples, "NVM 1.1 5.8.2",
        "Where NPWG and the like are defined, NOWS is a multiple of NPWG.";
    preferred_fields_without_their_bits_are_zero, "NVM 1.1 4.1.5.1",
        "With NSFEAT's OPTPERF cleared, NPWG, NPWA, NPDG, NPDA and NOWS are zero.";
    whole_units_cost_their_own_size, "NVM 1.1 5.8.2",
        "Where the OCP log counts media bytes, writes of whole aligned units cost what they are long.";
    a_part_of_a_unit_costs_the_unit, "NVM 1.1 5.8.2",
        "Where the OCP log counts media bytes, a write costs every unit that it touches, whole.";
}

/// Namespaces that recommend a size of writes, with the bytes of it.
fn recommended(env: &mut Env<'_>) -> Outcome<Vec<(Namespace, u64, IdentifyNamespace)>> {
    let mut found = Vec::new();
    for ns in env.namespaces() {
        let data = env.nvme.identify_namespace(ns.nsid)?;
        let features = NamespaceFeatures::from_bits_retain(data.nsfeat);
        if features.contains(NamespaceFeatures::OPTPERF) {
            let unit = (u64::from(data.npwg_z) + 1) * ns.block_bytes;
            found.push((ns, unit, data));
        }
    }
    require!(
        !found.is_empty(),
        "no namespace defines NPWG (NSFEAT OPTPERF)"
    );
    Ok(found)
}

/// The OCP C0h log, for a controller whose C0h page it is.
fn media(env: &mut Env<'_>) -> Outcome<OcpSmartLog> {
    let mut data = [0; size_of::<OcpSmartLog>()];
    let read = env
        .nvme
        .log_page(LogId::OCP_SMART, NSID_BROADCAST, &mut data);
    let log = OcpSmartLog::read_from_bytes(&data).ok();
    match (read, log) {
        (Ok(()), Some(log)) if log.log_page_guid == OcpSmartLog::GUID => Ok(log),
        _ => skip!("there is no OCP SMART log (C0h)"),
    }
}

fn preferred_sizes_are_multiples(env: &mut Env<'_>) -> Outcome {
    for (ns, _, data) in recommended(env)? {
        let (nows, npwg) = (u32::from(data.nows_z) + 1, u32::from(data.npwg_z) + 1);
        ensure!(
            nows % npwg == 0,
            "namespace {}: NOWS of {nows} blocks is no multiple of NPWG, {npwg}",
            ns.nsid
        );
    }
    Ok(())
}

fn preferred_fields_without_their_bits_are_zero(env: &mut Env<'_>) -> Outcome {
    /// NSFEAT bits 5:4, OPTPERF from version 2.1 on; one bit before.
    const OPTPERF: u8 = 0b11 << 4;
    for ns in env.namespaces() {
        let data = env.nvme.identify_namespace(ns.nsid)?;
        let fields = [
            data.npwg_z,
            data.npwa_z,
            data.npdg_z,
            data.npda_z,
            data.nows_z,
        ];
        ensure!(
            data.nsfeat & OPTPERF != 0 || fields == [0; 5],
            "namespace {}: {fields:?} without OPTPERF",
            ns.nsid
        );
    }
    Ok(())
}

/// Writes at an offset, and what that cost the media, in bytes.
fn cost(env: &mut Env<'_>, ns: Namespace, offset: u64, bytes: u64) -> Outcome<u128> {
    let before = media(env)?.physical_media_units_written;
    let (slba, blocks) = (offset / ns.block_bytes, bytes / ns.block_bytes);
    let buffer = env.nvme.alloc(bytes)?;
    env.nvme.write(IO, ns.nsid, slba, blocks, buffer)?;
    env.nvme.free(buffer);
    Ok(media(env)?
        .physical_media_units_written
        .wrapping_sub(before))
}

fn whole_units_cost_their_own_size(env: &mut Env<'_>) -> Outcome {
    media(env)?;
    let namespaces = recommended(env)?;
    env.io()?;
    for (ns, unit, _) in namespaces {
        let limit = env.max_blocks(ns) * ns.block_bytes;
        for bytes in [unit, 2 * unit, 5 * unit] {
            if bytes <= limit {
                let cost = cost(env, ns, 3 * unit, bytes)?;
                ensure!(
                    cost == bytes.into(),
                    "{bytes} bytes of whole units cost {cost}"
                );
            }
        }
    }
    Ok(())
}

fn a_part_of_a_unit_costs_the_unit(env: &mut Env<'_>) -> Outcome {
    media(env)?;
    let namespaces = recommended(env)?;
    env.io()?;
    let mut tried = false;
    for (ns, unit, _) in namespaces {
        let block = ns.block_bytes;
        let limit = env.max_blocks(ns) * block;
        // Three quarters into a unit and five quarters long: 1.6 times what was written.
        let quarter = unit / 4;
        let cases = [
            (3 * quarter, 5 * quarter, 2 * unit),
            (0, block, unit),
            (unit - block, 2 * block, 2 * unit),
            (block, unit - block, unit),
        ];
        for (offset, bytes, expected) in cases {
            let whole = offset % block == 0 && bytes % block == 0;
            if unit > block && whole && bytes <= limit {
                tried = true;
                let cost = cost(env, ns, offset, bytes)?;
                ensure!(
                    cost == expected.into(),
                    "{bytes} bytes at {offset} on units of {unit} cost {cost}, not {expected}"
                );
            }
        }
    }
    require!(tried, "no unit is larger than a block");
    Ok(())
}
