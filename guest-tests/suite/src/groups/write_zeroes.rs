//! Write Zeroes.

use nvme_host::command;
use nvme_spec::identify::{DLFEAT_WRITE_ZEROES_DEALLOCATES, ONCS_WRITE_ZEROES};
use nvme_spec::{Sqe, Status};

use super::logs::volume;
use super::optional::{changed, fill, nvm_limits, offered, refuses_nsids, refuses_ranges};
use super::place::{nlb_z, nowhere};
use crate::data::pattern;
use crate::{Env, Namespace, Outcome, check};

group! { "write_zeroes":
    range_reads_zeroes, "NVM 1.1 3.2.8",
        "After Write Zeroes the blocks of its range read as zeroes, and their neighbours hold what they held.";
    later_write_wins, "NVM 1.1 3.2.8",
        "A block written after Write Zeroes holds what was written.";
    no_data_is_moved, "NVM 1.1 3.2.8",
        "Write Zeroes has no data pointer: what stands in its place leads nowhere and does not matter.";
    larger_than_mdts_works, "Base 2.1 5.1.13.2.1",
        "MDTS does not limit Write Zeroes, which moves no data; beyond WZSL it may be refused.";
    deallocating_reads_zeroes, "NVM 1.1 3.2.8",
        "Where DLFEAT bit 3 offers Deallocate, Write Zeroes with it leaves zeroes too, and the neighbours alone.";
    fua_is_accepted, "NVM 1.1 3.2.8",
        "Force Unit Access is accepted, and the blocks read as zeroes.";
    range_beyond_the_end_is_refused, "NVM 1.1 3.2.8",
        "Write Zeroes of a range that is not all in the namespace completes with LBA Out of Range and changes nothing.";
    deallocating_beyond_the_end_is_refused, "NVM 1.1 3.2.8",
        "Write Zeroes with Deallocate of such a range completes with LBA Out of Range and changes nothing.";
    invalid_nsid_is_refused, "Base 2.1 3.2.1",
        "Write Zeroes of a namespace that is not there is refused, and the others keep their data.";
    smart_does_not_count_it_as_written, "NVM 1.1 4.1.4.2",
        "Write Zeroes counts neither in Host Write Commands nor in Data Units Written or Read.";
}

/// Writes blocks, zeroes all but the first and the last with a command that `change` makes from
/// Write Zeroes, and checks all of them.
fn zeroes(env: &mut Env<'_>, ns: Namespace, blocks: u64, change: impl Fn(Sqe) -> Sqe) -> Outcome {
    let slba = env.area(ns, blocks)?;
    let block = pattern(0x0E0 + blocks, ns.block_bytes);
    fill(env, ns, slba, blocks, &block)?;
    let inside = blocks - 2;
    let sqe = change(command::write_zeroes(ns.nsid, slba + 1, nlb_z(inside)));
    let cqe = env.io_exec(sqe)?;
    let what = alloc::format!("Write Zeroes of {inside} blocks");
    check::status(&what, cqe, Status::SUCCESS)?;
    let changed = changed(env, ns, (slba, blocks), &block, Some(0))?;
    for (at, changed) in (0..).zip(changed) {
        let lba = slba + at;
        if at == 0 || at == blocks - 1 {
            ensure!(!changed, "{what}: LBA {lba:#x} beside the range is zero");
        } else {
            ensure!(changed, "{what}: LBA {lba:#x} holds what was written");
        }
    }
    Ok(())
}

fn range_reads_zeroes(env: &mut Env<'_>) -> Outcome {
    offered(env, ONCS_WRITE_ZEROES, "Write Zeroes")?;
    for ns in env.namespaces() {
        let most = (ns.blocks / 2).min(env.max_blocks(ns).max(1) + 2);
        for blocks in [3, 4, 10] {
            zeroes(env, ns, most.min(blocks), |sqe| sqe)?;
        }
    }
    Ok(())
}

fn later_write_wins(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env, ONCS_WRITE_ZEROES, "Write Zeroes")?;
    let slba = env.area(ns, 3)?;
    zeroes(env, ns, 4.min(ns.blocks / 2), |sqe| sqe)?;
    env.write_pattern(ns, slba + 1, 1, 0x0E1)?;
    env.expect_pattern(ns, slba + 1, 1, 0x0E1)
}

fn no_data_is_moved(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env, ONCS_WRITE_ZEROES, "Write Zeroes")?;
    let bad = nowhere(env);
    for (prp1, prp2) in [(bad, bad), (0, 0), (1, 3), (u64::MAX, u64::MAX)] {
        zeroes(env, ns, 4.min(ns.blocks / 2), |sqe| Sqe {
            prp1,
            prp2,
            ..sqe
        })?;
    }
    Ok(())
}

fn larger_than_mdts_works(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env, ONCS_WRITE_ZEROES, "Write Zeroes")?;
    let mdts = env.context.found.max_transfer_bytes;
    require!(mdts != 0, "MDTS sets no limit");
    let blocks = mdts / ns.block_bytes + 1;
    require!(
        blocks <= 65_536 && blocks + 2 <= ns.blocks / 2,
        "MDTS allows every transfer that NLB or the namespace does"
    );
    let limit = nvm_limits(env)?.write_zeroes_bytes;
    require!(
        limit == 0 || blocks * ns.block_bytes <= limit,
        "WZSL is {limit} bytes, MDTS {mdts}"
    );
    zeroes(env, ns, blocks + 2, |sqe| sqe)
}

fn deallocating_reads_zeroes(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env, ONCS_WRITE_ZEROES, "Write Zeroes")?;
    let dlfeat = env.nvme.identify_namespace(ns.nsid)?.dlfeat;
    require!(
        dlfeat & DLFEAT_WRITE_ZEROES_DEALLOCATES != 0,
        "DLFEAT {dlfeat:#x} does not offer Deallocate in Write Zeroes"
    );
    let most = (ns.blocks / 2).min(env.max_blocks(ns).max(1) + 2);
    for blocks in [3, 10] {
        zeroes(env, ns, most.min(blocks), command::with_deallocate)?;
    }
    let slba = env.area(ns, 3)?;
    env.write_pattern(ns, slba + 1, 1, 0x0E2)?;
    env.expect_pattern(ns, slba + 1, 1, 0x0E2)
}

fn fua_is_accepted(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env, ONCS_WRITE_ZEROES, "Write Zeroes")?;
    zeroes(env, ns, 4.min(ns.blocks / 2), command::with_fua)
}

fn range_beyond_the_end_is_refused(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env, ONCS_WRITE_ZEROES, "Write Zeroes")?;
    refuses_ranges(env, ns, |slba, nlb_z| {
        command::write_zeroes(ns.nsid, slba, nlb_z)
    })
}

fn deallocating_beyond_the_end_is_refused(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env, ONCS_WRITE_ZEROES, "Write Zeroes")?;
    let dlfeat = env.nvme.identify_namespace(ns.nsid)?.dlfeat;
    require!(
        dlfeat & DLFEAT_WRITE_ZEROES_DEALLOCATES != 0,
        "DLFEAT {dlfeat:#x} does not offer Deallocate in Write Zeroes"
    );
    refuses_ranges(env, ns, |slba, nlb_z| {
        command::with_deallocate(command::write_zeroes(ns.nsid, slba, nlb_z))
    })
}

fn invalid_nsid_is_refused(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env, ONCS_WRITE_ZEROES, "Write Zeroes")?;
    env.write_pattern(ns, 0, 1, 0x0E3)?;
    refuses_nsids(env, ns, |nsid| command::write_zeroes(nsid, 0, 0))?;
    env.expect_pattern(ns, 0, 1, 0x0E3)
}

fn smart_does_not_count_it_as_written(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env, ONCS_WRITE_ZEROES, "Write Zeroes")?;
    let volume = volume(ns.block_bytes, env.max_blocks(ns).min(ns.blocks / 2));
    let slba = env.area(ns, volume.blocks_each)?;
    let before = env.nvme.smart_log()?;
    for _ in 0..volume.commands {
        let sqe = command::write_zeroes(ns.nsid, slba, nlb_z(volume.blocks_each));
        check::status("Write Zeroes", env.io_exec(sqe)?, Status::SUCCESS)?;
    }
    let after = env.nvme.smart_log()?;
    let (written, read) = (after.data_units_written, after.data_units_read);
    check::equal("Data Units Written", written, before.data_units_written)?;
    check::equal("Data Units Read", read, before.data_units_read)?;
    let writes = after.host_writes;
    check::equal("Host Write Commands", writes, before.host_writes)
}
