//! Format NVM: what a namespace is afterwards. Each test puts it back in the format it found.

use alloc::vec::Vec;

use nvme_host::{Config, command};
use nvme_spec::identify::{FNA_FORMAT_ALL, IdentifyNamespace, OACS_FORMAT_NVM};
use nvme_spec::log::CommandsEffectsLog;
use nvme_spec::queue::{FormatCdw10, SES_NONE, SES_USER_DATA};
use nvme_spec::{AdminOpcode, Cqe, LogId, NSID_BROADCAST, Status};
use zerocopy::{FromZeros, IntoBytes};

use super::optional::{changed, deallocated_byte, fill};
use crate::data::pattern;
use crate::env::{COMMAND_TIMEOUT_NS, IO};
use crate::found::describe;
use crate::{Env, Namespace, Outcome, Stop, check};

group! { "format":
    command_is_there_as_advertised, "Base 2.1 5.1.10",
        "Format NVM works if OACS bit 1 is set, and is refused as an opcode if it is clear.";
    effects_log_says_that_blocks_change, "Base 2.1 5.1.12.1.6",
        "The Commands Supported and Effects log lists Format NVM as OACS does, and that it changes logical blocks.";
    listed_formats_are_possible, "NVM 1.1 4.1.5.1",
        "Each LBA format has blocks of no data or of 512 bytes and more, and those beyond NLBAF are zero.";
    identify_follows, "NVM 1.1 4.1.5.1",
        "After Format NVM FLBAS names the LBA format that was asked for.";
    block_size_follows, "Base 2.1 5.1.10",
        "After Format NVM blocks have the new size from the first to the last, on queues of before too.";
    end_follows, "NVM 1.1 3.2.4",
        "After Format NVM a command that ends beyond the new NSZE completes with LBA Out of Range.";
    data_is_gone, "Base 2.1 5.1.10",
        "After Format NVM no block returns what the namespace held.";
    user_data_erase_takes_data, "Base 2.1 5.1.10",
        "After Format NVM with a secure erase of user data no block returns what the namespace held.";
    blocks_read_as_unwritten, "NVM 1.1 4.1.5.1",
        "After Format NVM blocks read as DLFEAT says of unwritten ones.";
    atomic_fields_follow, "NVM 1.1 4.1.5.1",
        "In every LBA format NAWUN and the like, if there are any, keep their order and what AWUN and AWUPF promise.";
    format_outlives_a_reset, "Base 2.1 5.1.10",
        "The LBA format and what was written in it stay over a Controller Level Reset.";
    other_namespaces_stay, "Base 2.1 5.1.13.2.1",
        "With FNA bit 0 cleared, Format NVM of one namespace changes neither format nor data of others.";
}

/// How long a Format NVM may take.
const TIMEOUT_NS: u64 = 60_000_000_000;
/// Blocks of data that tests write.
const BLOCKS: u64 = 4;

/// A namespace that carries data alone, and its structure, where Format NVM is offered.
pub(super) fn offered(env: &mut Env<'_>) -> Outcome<(Namespace, IdentifyNamespace)> {
    require!(
        env.context.controller.oacs & OACS_FORMAT_NVM != 0,
        "OACS does not offer Format NVM"
    );
    let ns = env.ns()?;
    Ok((ns, env.nvme.identify_namespace(ns.nsid)?))
}

/// Format NVM to the LBA format `index`, all else as the namespace has it.
pub(super) fn how(identify: &IdentifyNamespace, index: u8) -> FormatCdw10 {
    FormatCdw10::new()
        .with_index(index)
        .with_mset(identify.flbas.extended())
}

/// Issues a Format NVM, which takes its time.
pub(super) fn exec(env: &mut Env<'_>, nsid: u32, how: FormatCdw10) -> Outcome<Cqe> {
    env.nvme.set_command_timeout(TIMEOUT_NS);
    let cqe = env.nvme.admin(command::format_nvm(nsid, how));
    env.nvme.set_command_timeout(COMMAND_TIMEOUT_NS);
    Ok(cqe?)
}

/// The formats that tests can use: without metadata, and with a few blocks that MDTS allows.
pub(super) fn usable(env: &Env<'_>, ns: Namespace, identify: &IdentifyNamespace) -> Vec<u8> {
    let most = match env.context.found.max_transfer_bytes {
        0 => u64::MAX,
        bytes => bytes,
    };
    let count = usize::from(identify.nlbaf_z) + 1;
    let formats = (0..).zip(&identify.lbaf).take(count);
    let fits = formats.filter(|(_, format)| {
        let block = 1_u64.checked_shl(format.lbads().into()).unwrap_or(0);
        let few = ns.bytes() / block.max(1);
        format.ms() == 0 && (512..=most).contains(&block) && few >= 4 * BLOCKS
    });
    fits.map(|(index, _)| index).collect()
}

/// Checks that a Format NVM is done; the namespace as it is then.
fn switch(env: &mut Env<'_>, ns: Namespace, how: FormatCdw10) -> Outcome<Namespace> {
    let cqe = exec(env, ns.nsid, how)?;
    let what = alloc::format!("Format NVM of namespace {} to {how:?}", ns.nsid);
    check::status(&what, cqe, Status::SUCCESS)?;
    described(env, ns.nsid)
}

/// A namespace as it is now.
pub(super) fn described(env: &mut Env<'_>, nsid: u32) -> Outcome<Namespace> {
    let identify = env.nvme.identify_namespace(nsid)?;
    Ok(describe(nsid, &env.context.controller, &identify))
}

/// Puts a namespace back in the format it had, and gives the test's outcome, or that of putting it
/// back if that fails alone.
pub(super) fn put_back(
    env: &mut Env<'_>,
    nsid: u32,
    home: FormatCdw10,
    outcome: Outcome,
) -> Outcome {
    // A test that went wrong, or was about a reset, may have left the controller in any state.
    if env.nvme.identify_controller().is_err() {
        env.restart(&Config::default())?;
    }
    let back = exec(env, nsid, home);
    outcome?;
    check::status("Format NVM back", back?, Status::SUCCESS)
}

/// Runs `work` in each format that can be used, with queue pair [`IO`] made before the first.
fn in_each(env: &mut Env<'_>, work: impl Fn(&mut Env<'_>, Namespace, u8) -> Outcome) -> Outcome {
    let (ns, identify) = offered(env)?;
    let usable = usable(env, ns, &identify);
    let home = how(&identify, identify.flbas.index());
    env.io()?;
    let outcome = usable.into_iter().try_for_each(|index| {
        let now = switch(env, ns, how(&identify, index))?;
        work(env, now, index).map_err(|stop| match stop {
            Stop::Failed(why) => Stop::Failed(alloc::format!("LBA format {index}: {why}")),
            skipped => skipped,
        })
    });
    put_back(env, ns.nsid, home, outcome)
}

fn command_is_there_as_advertised(env: &mut Env<'_>) -> Outcome {
    let ns = env.ns()?;
    let identify = env.nvme.identify_namespace(ns.nsid)?;
    let offered = env.context.controller.oacs & OACS_FORMAT_NVM != 0;
    let cqe = exec(env, ns.nsid, how(&identify, identify.flbas.index()))?;
    let expected = match offered {
        true => Status::SUCCESS,
        false => Status::INVALID_OPCODE,
    };
    check::status("Format NVM to the format that is there", cqe, expected)?;
    env.io()?;
    env.write_pattern(ns, 0, 1, 0xF00)?;
    env.expect_pattern(ns, 0, 1, 0xF00)
}

fn effects_log_says_that_blocks_change(env: &mut Env<'_>) -> Outcome {
    let mut log = CommandsEffectsLog::new_zeroed();
    let lid = LogId::COMMANDS_SUPPORTED;
    if env
        .nvme
        .log_page(lid, NSID_BROADCAST, log.as_mut_bytes())
        .is_err()
    {
        skip!("there is no Commands Supported and Effects log");
    }
    let effects = log.acs.get(usize::from(AdminOpcode::FORMAT_NVM.0));
    let effects = effects.copied().unwrap_or_default();
    let offered = env.context.controller.oacs & OACS_FORMAT_NVM != 0;
    check::equal("CSUPP of Format NVM", effects.csupp(), offered)?;
    check::equal("LBCC of Format NVM", effects.lbcc(), offered)
}

fn listed_formats_are_possible(env: &mut Env<'_>) -> Outcome {
    for ns in env.namespaces() {
        let identify = env.nvme.identify_namespace(ns.nsid)?;
        let count = usize::from(identify.nlbaf_z) + 1 + usize::from(identify.nulbaf);
        for (index, format) in identify.lbaf.iter().enumerate() {
            let lbads = format.lbads();
            let what = alloc::format!("namespace {}: LBAF {index} is {format:?}", ns.nsid);
            ensure!(
                index < count || u32::from(*format) == 0,
                "{what}, beyond NLBAF"
            );
            ensure!(lbads == 0 || (9..64).contains(&lbads), "{what}");
        }
    }
    Ok(())
}

fn identify_follows(env: &mut Env<'_>) -> Outcome {
    in_each(env, |env, ns, index| {
        let identify = env.nvme.identify_namespace(ns.nsid)?;
        check::equal("FLBAS", identify.flbas.index(), index)?;
        ensure!(
            0 < identify.ncap && identify.ncap <= identify.nsze,
            "NSZE is {} and NCAP {}",
            identify.nsze,
            identify.ncap
        );
        Ok(())
    })
}

fn block_size_follows(env: &mut Env<'_>) -> Outcome {
    in_each(env, |env, ns, index| {
        let last = ns.blocks - 1;
        for (slba, seed) in [(0, 0xF10), (1, 0xF11), (last, 0xF12)] {
            env.write_pattern(ns, slba, 1, seed + u64::from(index))?;
        }
        for (slba, seed) in [(0, 0xF10), (1, 0xF11), (last, 0xF12)] {
            env.expect_pattern(ns, slba, 1, seed + u64::from(index))?;
        }
        Ok(())
    })
}

fn end_follows(env: &mut Env<'_>) -> Outcome {
    in_each(env, |env, ns, _| {
        let buffer = env.nvme.alloc(ns.block_bytes)?;
        for sqe in [
            command::read(ns.nsid, ns.blocks, 0),
            command::write(ns.nsid, ns.blocks, 0),
        ] {
            let cqe = env.nvme.exec_data(IO, sqe, buffer)?;
            check::status("a command beyond NSZE", cqe, Status::LBA_OUT_OF_RANGE)?;
        }
        env.nvme.free(buffer);
        Ok(())
    })
}

/// Writes blocks at both ends, formats, and checks in the next format that none of it is read.
fn erases(env: &mut Env<'_>, ses: u8) -> Outcome {
    let (ns, identify) = offered(env)?;
    env.io()?;
    let home = how(&identify, identify.flbas.index());
    for index in usable(env, ns, &identify) {
        let block = pattern(0xF20 + u64::from(index), ns.block_bytes);
        let end = ns.blocks - BLOCKS;
        for slba in [0, end] {
            fill(env, ns, slba, BLOCKS, &block)?;
        }
        // Elsewhere and back, so that the same blocks can be read.
        let there = how(&identify, index).with_ses(ses);
        let there = switch(env, ns, there).and_then(|now| {
            let data = env.read_blocks(now, 0, 1)?;
            let old = data.iter().zip(&block).take_while(|(a, b)| a == b).count();
            ensure!(
                old < 64,
                "the first {old} bytes are there in LBA format {index}"
            );
            Ok(())
        });
        put_back(env, ns.nsid, home, there)?;
        for slba in [0, end] {
            let changed = changed(env, ns, (slba, BLOCKS), &block, None)?;
            let kept = changed.iter().position(|changed| !changed);
            ensure!(kept.is_none(), "a block of before {index} at LBA {slba:#x}");
        }
    }
    Ok(())
}

fn data_is_gone(env: &mut Env<'_>) -> Outcome {
    erases(env, SES_NONE)
}

fn user_data_erase_takes_data(env: &mut Env<'_>) -> Outcome {
    erases(env, SES_USER_DATA)
}

fn blocks_read_as_unwritten(env: &mut Env<'_>) -> Outcome {
    let (_, identify) = offered(env)?;
    let Some(byte) = deallocated_byte(&identify) else {
        skip!(
            "DLFEAT {:#x} does not say what they read as",
            identify.dlfeat
        );
    };
    in_each(env, |env, ns, index| {
        // What the format before it is given up for held.
        for lba in [0, 1, ns.blocks / 2, ns.blocks - 1] {
            let data = env.read_blocks(ns, lba, 1)?;
            let other = data.iter().find(|found| **found != byte);
            ensure!(other.is_none(), "LBA {lba:#x} holds {other:02x?}");
        }
        for lba in [0, 1, ns.blocks - 1] {
            env.write_pattern(ns, lba, 1, 0xF30 + u64::from(index))?;
        }
        Ok(())
    })
}

fn atomic_fields_follow(env: &mut Env<'_>) -> Outcome {
    let controller = env.nvme.identify_controller()?;
    let (awun, awupf) = (
        u32::from(controller.awun_z) + 1,
        u32::from(controller.awupf_z) + 1,
    );
    in_each(env, |env, ns, _| {
        let writes = ns.writes;
        let (unit, power_fail) = (writes.unit, writes.unit_power_fail);
        ensure!(
            power_fail <= unit && awun <= unit && awupf <= power_fail,
            "NAWUN of {unit} and NAWUPF of {power_fail} blocks, AWUN of {awun} and AWUPF of {awupf}"
        );
        for (boundary, unit) in [
            (writes.boundary, unit),
            (writes.boundary_power_fail, power_fail),
        ] {
            let offset = writes.boundary_offset;
            ensure!(
                boundary == 0 || (boundary >= unit && offset < boundary),
                "a boundary of {boundary} blocks with a unit of {unit} and NABO {offset}"
            );
        }
        let data = env.nvme.identify_namespace(ns.nsid)?;
        let nows = u32::from(data.nows_z) + 1;
        ensure!(
            nows.is_multiple_of(writes.granularity.max(1)),
            "NOWS of {nows} blocks is no multiple of NPWG, {}",
            writes.granularity
        );
        Ok(())
    })
}

fn format_outlives_a_reset(env: &mut Env<'_>) -> Outcome {
    in_each(env, |env, ns, index| {
        env.write_pattern(ns, 0, 1, 0xF40)?;
        env.restart(&Config::default())?;
        env.request_queues()?;
        env.io()?;
        let identify = env.nvme.identify_namespace(ns.nsid)?;
        check::equal("FLBAS", identify.flbas.index(), index)?;
        check::equal("NSZE", identify.nsze, ns.blocks)?;
        env.expect_pattern(ns, 0, 1, 0xF40)
    })
}

fn other_namespaces_stay(env: &mut Env<'_>) -> Outcome {
    require!(
        env.context.controller.fna & FNA_FORMAT_ALL == 0,
        "FNA says that a format changes all namespaces"
    );
    let (ns, _) = offered(env)?;
    let others: Vec<_> = env
        .namespaces()
        .filter(|other| other.nsid != ns.nsid)
        .collect();
    require!(!others.is_empty(), "needs two namespaces");
    in_each(env, |env, _, index| {
        let seed = 0xF50 + u64::from(index);
        for other in &others {
            env.write_pattern(*other, 0, 1, seed)?;
        }
        let identify = env.nvme.identify_namespace(ns.nsid)?;
        switch(env, ns, how(&identify, index))?;
        for other in &others {
            let now = described(env, other.nsid)?;
            check::equal("another namespace", now, *other)?;
            env.expect_pattern(*other, 0, 1, seed)?;
        }
        Ok(())
    })
}
