//! Compare.

use alloc::vec::Vec;

use nvme_host::{Buffer, command};
use nvme_spec::identify::ONCS_COMPARE;
use nvme_spec::{Cqe, Sqe, Status};

use super::logs::volume;
use super::optional::{offered, refuses_nsids, refuses_ranges};
use super::place::{nlb_z, nowhere};
use crate::data::pattern;
use crate::env::IO;
use crate::{Env, Namespace, Outcome, check};

group! { "compare":
    equal_data_succeeds, "NVM 1.1 3.2.1",
        "Compare of one block, or of several, with the data they hold succeeds.";
    one_differing_byte_fails, "NVM 1.1 3.2.1",
        "One differing byte, wherever it is in the data, completes with Compare Failure.";
    largest_transfer_is_compared_whole, "NVM 1.1 3.2.1",
        "Compare of as many blocks as MDTS allows looks at every block of them.";
    blocks_beside_the_range_do_not_matter, "NVM 1.1 3.2.1",
        "Compare looks at the blocks of its range alone.";
    failure_changes_no_block, "NVM 1.1 3.2.1",
        "A Compare that fails leaves the blocks as they were.";
    host_memory_is_not_written, "NVM 1.1 3.2.1",
        "Compare reads the host's data and writes none, whether it succeeds or fails.";
    unwritten_blocks_equal_what_they_read_as, "NVM 1.1 3.2.3.2.1",
        "Compare of a block never written with what it reads as succeeds.";
    data_nowhere_is_an_error, "Base 2.1 4.2.3.1",
        "Compare with data at an address where there is no memory completes with an error.";
    range_beyond_the_end_is_refused, "NVM 1.1 3.2.1",
        "Compare of a range that is not all in the namespace completes with LBA Out of Range.";
    beyond_mdts_is_refused, "Base 2.1 5.1.13.2.1",
        "Compare of more than MDTS bytes completes with Invalid Field in Command.";
    invalid_nsid_is_refused, "Base 2.1 3.2.1",
        "Compare of a namespace that is not there is refused.";
    smart_counts_it_as_a_read, "NVM 1.1 4.1.4.2",
        "Compare counts in Host Read Commands, its data in Data Units Read, and in no count of writes.";
}

/// Compares blocks with `data`, which lies in `buffer`.
fn compare(
    env: &mut Env<'_>,
    ns: Namespace,
    slba: u64,
    data: &[u8],
    buffer: Buffer,
) -> Outcome<Cqe> {
    env.nvme.copy_to(buffer, data);
    let blocks = buffer.bytes / ns.block_bytes;
    let sqe = command::compare(ns.nsid, slba, nlb_z(blocks));
    Ok(env.nvme.exec_data(IO, sqe, buffer)?)
}

/// The same data with the byte at `at` another.
fn with_other_byte(data: &[u8], at: usize) -> Vec<u8> {
    let mut data = data.to_vec();
    if let Some(byte) = data.get_mut(at) {
        *byte ^= 0x10;
    }
    data
}

fn equal_data_succeeds(env: &mut Env<'_>) -> Outcome {
    offered(env, ONCS_COMPARE, "Compare")?;
    for ns in env.namespaces() {
        for blocks in [1, 2, 5] {
            let blocks = env.max_blocks(ns).min(blocks);
            let slba = env.area(ns, blocks + 1)? + 1;
            env.write_pattern(ns, slba, blocks, 0xC0)?;
            let bytes = blocks * ns.block_bytes;
            let buffer = env.nvme.alloc(bytes)?;
            let cqe = compare(env, ns, slba, &pattern(0xC0, bytes), buffer)?;
            let what = alloc::format!("{blocks} blocks with their data");
            check::status(&what, cqe, Status::SUCCESS)?;
        }
    }
    Ok(())
}

fn one_differing_byte_fails(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env, ONCS_COMPARE, "Compare")?;
    let most = env.max_blocks(ns).min(4);
    for blocks in [1, most] {
        let slba = env.area(ns, blocks)?;
        env.write_pattern(ns, slba, blocks, 0xC1)?;
        let bytes = blocks * ns.block_bytes;
        let data = pattern(0xC1, bytes);
        let buffer = env.nvme.alloc(bytes)?;
        for at in [0, 1, data.len() / 2 - 1, data.len() / 2, data.len() - 1] {
            let cqe = compare(env, ns, slba, &with_other_byte(&data, at), buffer)?;
            let what = alloc::format!("byte {at:#x} of {blocks} blocks differs");
            check::status(&what, cqe, Status::COMPARE_FAILURE)?;
        }
        let cqe = compare(env, ns, slba, &data, buffer)?;
        check::status("the same data afterwards", cqe, Status::SUCCESS)?;
    }
    Ok(())
}

fn largest_transfer_is_compared_whole(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env, ONCS_COMPARE, "Compare")?;
    require!(
        env.context.found.max_transfer_bytes != 0,
        "MDTS sets no limit"
    );
    let blocks = env.max_blocks(ns);
    require!(blocks != 0, "MDTS is below one block");
    let slba = env.area(ns, blocks)?;
    env.write_pattern(ns, slba, blocks, 0xC2)?;
    let bytes = blocks * ns.block_bytes;
    let data = pattern(0xC2, bytes);
    let buffer = env.nvme.alloc(bytes)?;
    let cqe = compare(env, ns, slba, &data, buffer)?;
    check::status("equal data", cqe, Status::SUCCESS)?;
    let block = usize::try_from(ns.block_bytes).unwrap_or(1);
    for at in [data.len() - block, data.len() - 1] {
        let cqe = compare(env, ns, slba, &with_other_byte(&data, at), buffer)?;
        let what = alloc::format!("byte {at:#x} differs");
        check::status(&what, cqe, Status::COMPARE_FAILURE)?;
    }
    Ok(())
}

fn blocks_beside_the_range_do_not_matter(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env, ONCS_COMPARE, "Compare")?;
    let slba = env.area(ns, 3)?;
    for lba in slba..slba + 3 {
        env.write_pattern(ns, lba, 1, 0xC30 + lba)?;
    }
    let buffer = env.nvme.alloc(ns.block_bytes)?;
    let data = pattern(0xC30 + slba + 1, ns.block_bytes);
    for (lba, expected) in [
        (slba, Status::COMPARE_FAILURE),
        (slba + 1, Status::SUCCESS),
        (slba + 2, Status::COMPARE_FAILURE),
    ] {
        let cqe = compare(env, ns, lba, &data, buffer)?;
        let what = alloc::format!("LBA {lba:#x} with the data of LBA {:#x}", slba + 1);
        check::status(&what, cqe, expected)?;
    }
    Ok(())
}

fn failure_changes_no_block(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env, ONCS_COMPARE, "Compare")?;
    let blocks = env.max_blocks(ns).min(4);
    let slba = env.area(ns, blocks)?;
    env.write_pattern(ns, slba, blocks, 0xC4)?;
    let bytes = blocks * ns.block_bytes;
    let buffer = env.nvme.alloc(bytes)?;
    let cqe = compare(env, ns, slba, &pattern(0xC5, bytes), buffer)?;
    check::status("other data", cqe, Status::COMPARE_FAILURE)?;
    env.expect_pattern(ns, slba, blocks, 0xC4)
}

fn host_memory_is_not_written(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env, ONCS_COMPARE, "Compare")?;
    let blocks = env.max_blocks(ns).min(4);
    let slba = env.area(ns, blocks)?;
    env.write_pattern(ns, slba, blocks, 0xC6)?;
    let bytes = blocks * ns.block_bytes;
    let buffer = env.nvme.alloc(bytes)?;
    for (seed, expected) in [(0xC6, Status::SUCCESS), (0xC7, Status::COMPARE_FAILURE)] {
        let data = pattern(seed, bytes);
        let cqe = compare(env, ns, slba, &data, buffer)?;
        check::status("Compare", cqe, expected)?;
        let found = env.copy_out(buffer);
        check::same_bytes("the host's data", &found, &data)?;
    }
    Ok(())
}

fn unwritten_blocks_equal_what_they_read_as(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env, ONCS_COMPARE, "Compare")?;
    // No test writes this block.
    let lba = ns.blocks / 2;
    let data = env.read_blocks(ns, lba, 1)?;
    let buffer = env.nvme.alloc(ns.block_bytes)?;
    let cqe = compare(env, ns, lba, &data, buffer)?;
    check::status("what it reads as", cqe, Status::SUCCESS)?;
    let cqe = compare(env, ns, lba, &with_other_byte(&data, 0), buffer)?;
    check::status("other data", cqe, Status::COMPARE_FAILURE)
}

fn data_nowhere_is_an_error(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env, ONCS_COMPARE, "Compare")?;
    let slba = env.area(ns, 1)?;
    env.write_pattern(ns, slba, 1, 0xC8)?;
    let prp1 = nowhere(env);
    let page = env.nvme.page_bytes();
    let list = env.nvme.alloc(page)?;
    env.nvme.fill(list, &prp1.to_le_bytes());
    let prp2 = match ns.block_bytes.div_ceil(page) {
        1 => 0,
        2 => prp1,
        _ => list.address,
    };
    let cqe = env.io_exec(Sqe {
        prp1,
        prp2,
        ..command::compare(ns.nsid, slba, 0)
    })?;
    check::refused("Compare with data nowhere", cqe)?;
    env.alive()
}

fn range_beyond_the_end_is_refused(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env, ONCS_COMPARE, "Compare")?;
    refuses_ranges(env, ns, |slba, nlb_z| {
        command::compare(ns.nsid, slba, nlb_z)
    })
}

fn beyond_mdts_is_refused(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env, ONCS_COMPARE, "Compare")?;
    let limit = env.context.found.max_transfer_bytes;
    require!(limit != 0, "MDTS sets no limit");
    let blocks = limit / ns.block_bytes + 1;
    require!(
        blocks <= 65_536 && blocks <= ns.blocks,
        "MDTS allows every transfer that NLB or the namespace does"
    );
    let buffer = env.nvme.alloc(blocks * ns.block_bytes)?;
    let sqe = command::compare(ns.nsid, 0, nlb_z(blocks));
    let cqe = env.nvme.exec_data(IO, sqe, buffer)?;
    let what = alloc::format!("{blocks} blocks, MDTS {limit} bytes");
    check::status(&what, cqe, Status::INVALID_FIELD)
}

fn invalid_nsid_is_refused(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env, ONCS_COMPARE, "Compare")?;
    refuses_nsids(env, ns, |nsid| command::compare(nsid, 0, 0))
}

fn smart_counts_it_as_a_read(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env, ONCS_COMPARE, "Compare")?;
    let volume = volume(ns.block_bytes, env.max_blocks(ns).min(ns.blocks / 2));
    let blocks = volume.blocks_each;
    let slba = env.area(ns, blocks)?;
    env.write_pattern(ns, slba, blocks, 0xC9)?;
    let bytes = blocks * ns.block_bytes;
    let buffer = env.nvme.alloc(bytes)?;
    env.nvme.copy_to(buffer, &pattern(0xC9, bytes));
    let before = env.nvme.smart_log()?;
    for _ in 0..volume.commands {
        let sqe = command::compare(ns.nsid, slba, nlb_z(blocks));
        env.nvme.io_data_ok(IO, sqe, buffer)?;
    }
    let after = env.nvme.smart_log()?;
    let units = after.data_units_read.wrapping_sub(before.data_units_read);
    check::equal("Data Units Read more", units, volume.units.into())?;
    let commands = after.host_reads.wrapping_sub(before.host_reads);
    check::equal("Host Read Commands more", commands, volume.commands.into())?;
    let (written, writes) = (after.data_units_written, after.host_writes);
    check::equal("Data Units Written", written, before.data_units_written)?;
    check::equal("Host Write Commands", writes, before.host_writes)
}
