//! Verify.

use nvme_host::command;
use nvme_spec::identify::ONCS_VERIFY;
use nvme_spec::{Sqe, Status};

use super::logs::volume;
use super::optional::{nvm_limits, offered, refuses_nsids, refuses_ranges};
use super::place::{nlb_z, nowhere};
use crate::{Env, Outcome, check};

group! { "verify":
    written_blocks_verify, "NVM 1.1 3.2.5",
        "Verify of blocks that were written succeeds, and they hold what they held.";
    unwritten_blocks_verify, "NVM 1.1 3.2.5",
        "Verify of a block never written succeeds.";
    no_data_is_moved, "NVM 1.1 3.2.5",
        "Verify has no data pointer: what stands in its place leads nowhere and does not matter.";
    larger_than_mdts_works, "Base 2.1 5.1.13.2.1",
        "MDTS does not limit Verify, which moves no data; beyond VSL it may be refused.";
    largest_nlb_works, "NVM 1.1 3.2.5",
        "NLB FFFFh verifies 65,536 blocks where the namespace has them; beyond VSL it may be refused.";
    range_beyond_the_end_is_refused, "NVM 1.1 3.2.5",
        "Verify of a range that is not all in the namespace completes with LBA Out of Range.";
    largest_nlb_across_the_end_is_refused, "NVM 1.1 3.2.5",
        "Verify of 65,536 blocks that end beyond the namespace completes with LBA Out of Range.";
    invalid_nsid_is_refused, "Base 2.1 3.2.1",
        "Verify of a namespace that is not there is refused.";
    smart_counts_its_data_as_read, "NVM 1.1 4.1.4.2",
        "Blocks that Verify looked at count in Data Units Read, as whole or not at all, and in no count of writes.";
}

fn written_blocks_verify(env: &mut Env<'_>) -> Outcome {
    offered(env, ONCS_VERIFY, "Verify")?;
    for ns in env.namespaces() {
        for blocks in [1, 4] {
            let blocks = env.max_blocks(ns).min(blocks);
            let slba = env.area(ns, blocks)?;
            env.write_pattern(ns, slba, blocks, 0x5E0)?;
            let cqe = env.io_exec(command::verify(ns.nsid, slba, nlb_z(blocks)))?;
            check::status("Verify", cqe, Status::SUCCESS)?;
            env.expect_pattern(ns, slba, blocks, 0x5E0)?;
        }
    }
    Ok(())
}

fn unwritten_blocks_verify(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env, ONCS_VERIFY, "Verify")?;
    // No test writes this block.
    let cqe = env.io_exec(command::verify(ns.nsid, ns.blocks / 2, 0))?;
    check::status("Verify of a block never written", cqe, Status::SUCCESS)
}

fn no_data_is_moved(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env, ONCS_VERIFY, "Verify")?;
    let blocks = env.max_blocks(ns).min(4);
    let slba = env.area(ns, blocks)?;
    env.write_pattern(ns, slba, blocks, 0x5E1)?;
    let bad = nowhere(env);
    for (prp1, prp2) in [(bad, bad), (0, 0), (1, 3), (u64::MAX, u64::MAX)] {
        let cqe = env.io_exec(Sqe {
            prp1,
            prp2,
            ..command::verify(ns.nsid, slba, nlb_z(blocks))
        })?;
        let what = alloc::format!("Verify with PRPs {prp1:#x} and {prp2:#x}");
        check::status(&what, cqe, Status::SUCCESS)?;
    }
    env.expect_pattern(ns, slba, blocks, 0x5E1)
}

/// Verify of the first `blocks` blocks.
fn verify(env: &mut Env<'_>, blocks: u64) -> Outcome {
    let ns = env.ns()?;
    let limit = nvm_limits(env)?.verify_bytes;
    let beyond = limit != 0 && blocks * ns.block_bytes > limit;
    let cqe = env.io_exec(command::verify(ns.nsid, 0, nlb_z(blocks)))?;
    let what = alloc::format!("Verify of {blocks} blocks");
    let allowed: &[Status] = if beyond {
        &[Status::SUCCESS, Status::INVALID_FIELD]
    } else {
        &[Status::SUCCESS]
    };
    check::one_of(&what, cqe, allowed)
}

fn larger_than_mdts_works(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env, ONCS_VERIFY, "Verify")?;
    let limit = env.context.found.max_transfer_bytes;
    require!(limit != 0, "MDTS sets no limit");
    let blocks = limit / ns.block_bytes + 1;
    require!(
        blocks <= 65_536 && blocks <= ns.blocks,
        "MDTS allows every transfer that NLB or the namespace does"
    );
    verify(env, blocks)
}

fn largest_nlb_works(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env, ONCS_VERIFY, "Verify")?;
    require!(
        ns.blocks >= 65_536,
        "the namespace has {} blocks",
        ns.blocks
    );
    verify(env, 65_536)
}

fn range_beyond_the_end_is_refused(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env, ONCS_VERIFY, "Verify")?;
    refuses_ranges(env, ns, |slba, nlb_z| command::verify(ns.nsid, slba, nlb_z))
}

fn largest_nlb_across_the_end_is_refused(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env, ONCS_VERIFY, "Verify")?;
    let limit = nvm_limits(env)?.verify_bytes;
    let mut allowed = alloc::vec![Status::LBA_OUT_OF_RANGE];
    if limit != 0 && 65_536 * ns.block_bytes > limit {
        allowed.push(Status::INVALID_FIELD);
    }
    let slba = ns.blocks - ns.blocks.min(65_535);
    let cqe = env.io_exec(command::verify(ns.nsid, slba, u16::MAX))?;
    check::one_of("65,536 blocks across the end", cqe, &allowed)
}

fn invalid_nsid_is_refused(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env, ONCS_VERIFY, "Verify")?;
    refuses_nsids(env, ns, |nsid| command::verify(nsid, 0, 0))
}

fn smart_counts_its_data_as_read(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env, ONCS_VERIFY, "Verify")?;
    let volume = volume(ns.block_bytes, env.max_blocks(ns));
    let before = env.nvme.smart_log()?;
    for _ in 0..volume.commands {
        let sqe = command::verify(ns.nsid, 0, nlb_z(volume.blocks_each));
        check::status("Verify", env.io_exec(sqe)?, Status::SUCCESS)?;
    }
    let after = env.nvme.smart_log()?;
    let units = after.data_units_read.wrapping_sub(before.data_units_read);
    ensure!(
        units == volume.units.into() || units == 0,
        "Data Units Read: expected {} more, or as many, found {units} more",
        volume.units
    );
    let (written, writes) = (after.data_units_written, after.host_writes);
    check::equal("Data Units Written", written, before.data_units_written)?;
    check::equal("Host Write Commands", writes, before.host_writes)
}
