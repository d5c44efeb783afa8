//! Read, Write, Flush.

use alloc::vec::Vec;

use nvme_host::{Buffer, Config, command};
use nvme_spec::identify::{
    DLFEAT_READS_ZEROES, FLUSH_BROADCAST_REFUSED, FLUSH_BROADCAST_SUPPORTED,
};
use nvme_spec::queue::CommandFlags;
use nvme_spec::registers::Vs;
use nvme_spec::{NSID_BROADCAST, Sqe, Status};

use crate::data::pattern;
use crate::env::IO;
use crate::{Env, Namespace, Outcome, check};

group! { "io":
    written_blocks_are_read_back, "NVM 1.1 3.2.6",
        "Each namespace gives back what was written to it, block by block and several at once.";
    later_write_wins, "NVM 1.1 3.2.6",
        "A block holds what was written to it last, its neighbours what they held.";
    first_and_last_block_work, "NVM 1.1 3.2.4",
        "LBA 0 and LBA NSZE - 1 of each namespace can be written and read.";
    namespaces_are_independent, "Base 2.1 3.2.1",
        "Writing to one namespace does not change another.";
    unwritten_blocks_read_zeroes, "NVM 1.1 4.1.5.1",
        "Where DLFEAT says so, a block never written reads as zeroes.";
    largest_transfer_works, "Base 2.1 5.1.13.2.1",
        "A transfer of MDTS bytes works.";
    many_in_flight, "Base 2.1 3.3.1",
        "Writes and reads of different blocks may be in flight together, in any order of completion.";
    blocks_in_order_within_a_command, "NVM 1.1 3.2.4",
        "The blocks of one command lie one behind the other in memory, in the order of their LBAs.";
    fua_write_and_read_work, "NVM 1.1 3.2.6",
        "Force Unit Access is accepted, and the data is right.";
    limited_retry_is_accepted, "NVM 1.1 3.2.4",
        "Limited Retry changes nothing where there are no errors.";
    flush_succeeds, "Base 2.1 7.2",
        "Flush of each namespace succeeds, and what was written is still there.";
    broadcast_flush_follows_vwc, "Base 2.1 7.2",
        "Flush of NSID FFFFFFFFh succeeds or fails as VWC says, which says so from version 1.4 on.";
    flush_refuses_invalid_nsid, "Base 2.1 7.2",
        "Flush of an invalid namespace completes with Invalid Namespace or Format.";
    read_changes_nothing, "NVM 1.1 3.2.4",
        "Reading blocks, even again and again, does not change them.";
    reserved_data_pointer_is_refused, "Base 2.1 4.1.1",
        "PSDT = 11b completes with Invalid Field in Command.";
    sgl_without_support_is_refused, "Base 2.1 4.1.1",
        "Where SGLS offers no SGLs, PSDT = 01b completes with Invalid Field in Command.";
    fused_without_support_is_refused, "Base 2.1 4.1.1",
        "Where FUSES offers no fused operation, a non-zero FUSE completes with Invalid Field in Command.";
    data_is_there_after_reenable, "Base 2.1 3.7.2",
        "What a flushed namespace held is there after the controller was disabled and enabled.";
}

fn written_blocks_are_read_back(env: &mut Env<'_>) -> Outcome {
    env.ns()?;
    env.io()?;
    for ns in env.namespaces() {
        let most = env.max_blocks(ns).min(8);
        for (number, blocks) in (0..).zip([1, 2, 3, most]) {
            let blocks = blocks.min(most);
            let slba = env.area(ns, blocks)?;
            env.write_pattern(ns, slba, blocks, 0x100 + number)?;
            env.expect_pattern(ns, slba, blocks, 0x100 + number)?;
        }
        // Written as one, read as single blocks.
        let written = pattern(0x110, 3 * ns.block_bytes);
        let slba = env.area(ns, 3)?;
        let size = usize::try_from(ns.block_bytes).unwrap_or(1);
        for (lba, block) in (slba..).zip(written.chunks(size)) {
            write_block(env, ns, lba, block)?;
        }
        let found = read_each(env, ns, slba, 3)?;
        check::same_bytes("three blocks read one by one", &found, &written)?;
    }
    Ok(())
}

fn write_block(env: &mut Env<'_>, ns: Namespace, lba: u64, data: &[u8]) -> Outcome {
    let buffer = env.nvme.alloc(ns.block_bytes)?;
    env.nvme.copy_to(buffer, data);
    env.nvme.write(IO, ns.nsid, lba, 1, buffer)?;
    env.nvme.free(buffer);
    Ok(())
}

fn read_each(env: &mut Env<'_>, ns: Namespace, slba: u64, blocks: u64) -> Outcome<Vec<u8>> {
    let mut data = Vec::new();
    for lba in slba..slba + blocks {
        data.extend(env.read_blocks(ns, lba, 1)?);
    }
    Ok(data)
}

fn later_write_wins(env: &mut Env<'_>) -> Outcome {
    let ns = env.ns()?;
    env.io()?;
    let slba = env.area(ns, 4)?;
    for lba in slba..slba + 4 {
        env.write_pattern(ns, lba, 1, 0x200 + lba)?;
    }
    env.write_pattern(ns, slba + 1, 1, 0x2F1)?;
    env.write_pattern(ns, slba + 2, 1, 0x2F2)?;
    env.write_pattern(ns, slba + 1, 1, 0x2F3)?;
    let expected = [0x200 + slba, 0x2F3, 0x2F2, 0x203 + slba];
    for (lba, seed) in (slba..).zip(expected) {
        env.expect_pattern(ns, lba, 1, seed)?;
    }
    Ok(())
}

fn first_and_last_block_work(env: &mut Env<'_>) -> Outcome {
    env.ns()?;
    env.io()?;
    for ns in env.namespaces() {
        let last = ns.blocks - 1;
        env.write_pattern(ns, 0, 1, 0x300)?;
        env.write_pattern(ns, last, 1, 0x301)?;
        env.expect_pattern(ns, 0, 1, 0x300)?;
        env.expect_pattern(ns, last, 1, 0x301)?;
    }
    Ok(())
}

fn namespaces_are_independent(env: &mut Env<'_>) -> Outcome {
    let all: Vec<Namespace> = env.namespaces().take(4).collect();
    require!(all.len() >= 2, "needs two namespaces");
    env.io()?;
    for ns in &all {
        env.write_pattern(*ns, 0, 1, 0x400 + u64::from(ns.nsid))?;
    }
    for ns in all.iter().rev() {
        env.expect_pattern(*ns, 0, 1, 0x400 + u64::from(ns.nsid))?;
    }
    Ok(())
}

fn unwritten_blocks_read_zeroes(env: &mut Env<'_>) -> Outcome {
    let ns = env.ns()?;
    let dlfeat = env.nvme.identify_namespace(ns.nsid)?.dlfeat;
    require!(
        dlfeat & 0b111 == DLFEAT_READS_ZEROES,
        "DLFEAT {dlfeat:#x} does not say what unwritten blocks read as"
    );
    env.io()?;
    // No test writes this block.
    let found = env.read_blocks(ns, ns.blocks / 2, 1)?;
    let zeroes = alloc::vec![0; found.len()];
    check::same_bytes("a block never written", &found, &zeroes)
}

fn largest_transfer_works(env: &mut Env<'_>) -> Outcome {
    let ns = env.ns()?;
    env.io()?;
    let limit = env.context.found.max_transfer_bytes;
    require!(limit != 0, "MDTS sets no limit");
    let blocks = limit / ns.block_bytes;
    require!(blocks != 0, "MDTS is below one block");
    let blocks = blocks.min(65_536);
    let slba = env.area(ns, blocks)?;
    env.write_pattern(ns, slba, blocks, 0x500)?;
    env.expect_pattern(ns, slba, blocks, 0x500)
}

fn many_in_flight(env: &mut Env<'_>) -> Outcome {
    let ns = env.ns()?;
    env.io()?;
    let count = u64::from(env.nvme.sq_room(IO).unwrap_or(1)).min(ns.blocks / 2);
    let slba = env.area(ns, count)?;
    let data = env.nvme.alloc(count * ns.block_bytes)?;
    let part = |buffer: Buffer, block: u64| buffer.slice(block * ns.block_bytes, ns.block_bytes);
    // A block at a time: the heap has no room for as many large ones.
    for block in 0..count {
        let bytes = pattern(0x600 + block, ns.block_bytes);
        env.nvme.copy_to(part(data, block), &bytes);
    }
    let back = env.nvme.alloc(count * ns.block_bytes)?;
    for (buffer, write) in [(data, true), (back, false)] {
        let mut tokens = Vec::new();
        // Every second block first, then the others.
        let order = (0..count).step_by(2).chain((1..count).step_by(2));
        for block in order {
            let sqe = if write {
                command::write(ns.nsid, slba + block, 0)
            } else {
                command::read(ns.nsid, slba + block, 0)
            };
            let part = part(buffer, block);
            tokens.push(env.nvme.enqueue_data(IO, sqe, part)?);
        }
        env.nvme.ring(IO)?;
        for token in tokens.into_iter().rev() {
            let cqe = env.nvme.wait(token)?;
            check::status("a command in flight", cqe, Status::SUCCESS)?;
        }
    }
    for block in 0..count {
        let found = env.copy_out(part(back, block));
        let expected = env.copy_out(part(data, block));
        check::same_bytes("a block read", &found, &expected)?;
    }
    Ok(())
}

fn blocks_in_order_within_a_command(env: &mut Env<'_>) -> Outcome {
    let ns = env.ns()?;
    env.io()?;
    let blocks = env.max_blocks(ns).min(4);
    let slba = env.area(ns, blocks)?;
    let mut expected = Vec::new();
    for block in 0..blocks {
        let data = pattern(0x700 + block, ns.block_bytes);
        write_block(env, ns, slba + block, &data)?;
        expected.extend(data);
    }
    let found = env.read_blocks(ns, slba, blocks)?;
    check::same_bytes("blocks read at once", &found, &expected)
}

/// Writes and reads a block with a change to both commands.
fn roundtrip(env: &mut Env<'_>, seed: u64, change: fn(Sqe) -> Sqe) -> Outcome {
    let ns = env.ns()?;
    env.io()?;
    let slba = env.area(ns, 1)?;
    let buffer = env.nvme.alloc(ns.block_bytes)?;
    let data = pattern(seed, ns.block_bytes);
    env.nvme.copy_to(buffer, &data);
    let write = change(command::write(ns.nsid, slba, 0));
    env.nvme.io_data_ok(IO, write, buffer)?;
    env.guard(buffer);
    let read = change(command::read(ns.nsid, slba, 0));
    env.nvme.io_data_ok(IO, read, buffer)?;
    let found = env.copy_out(buffer);
    check::same_bytes("the block", &found, &data)
}

fn fua_write_and_read_work(env: &mut Env<'_>) -> Outcome {
    roundtrip(env, 0x800, command::with_fua)
}

fn limited_retry_is_accepted(env: &mut Env<'_>) -> Outcome {
    roundtrip(env, 0x801, |sqe| Sqe {
        cdw12: nvme_spec::queue::RwCdw12::from(sqe.cdw12)
            .with_lr(true)
            .into(),
        ..sqe
    })
}

fn flush_succeeds(env: &mut Env<'_>) -> Outcome {
    env.ns()?;
    env.io()?;
    for ns in env.namespaces() {
        env.write_pattern(ns, 0, 1, 0x900)?;
        env.nvme.flush(IO, ns.nsid)?;
        env.expect_pattern(ns, 0, 1, 0x900)?;
    }
    Ok(())
}

fn broadcast_flush_follows_vwc(env: &mut Env<'_>) -> Outcome {
    env.io()?;
    let behavior = env.context.controller.vwc.flush_behavior();
    let cqe = env.nvme.exec(IO, command::flush(NSID_BROADCAST))?;
    match behavior {
        FLUSH_BROADCAST_SUPPORTED => check::status("broadcast Flush", cqe, Status::SUCCESS)?,
        FLUSH_BROADCAST_REFUSED => check::one_of(
            "broadcast Flush",
            cqe,
            &[Status::INVALID_NAMESPACE, Status::INVALID_FIELD],
        )?,
        other => ensure!(
            env.context.vs < Vs::V1_4,
            "VWC bits 2:1 are {other:#04b}; from version 1.4 on they must be 10b or 11b"
        ),
    }
    Ok(())
}

fn flush_refuses_invalid_nsid(env: &mut Env<'_>) -> Outcome {
    env.io()?;
    let nsid = env.invalid_nsid()?;
    let cqe = env.nvme.exec(IO, command::flush(nsid))?;
    check::status("Flush of NSID above NN", cqe, Status::INVALID_NAMESPACE)
}

fn read_changes_nothing(env: &mut Env<'_>) -> Outcome {
    let ns = env.ns()?;
    env.io()?;
    let slba = env.area(ns, 2)?;
    env.write_pattern(ns, slba, 1, 0xA00)?;
    env.write_pattern(ns, slba + 1, 1, 0xA01)?;
    for _ in 0..4 {
        env.expect_pattern(ns, slba, 1, 0xA00)?;
        env.expect_pattern(ns, slba + 1, 1, 0xA01)?;
    }
    Ok(())
}

/// A one-block Read with a data pointer and flags made by hand.
fn flagged_read(env: &mut Env<'_>, flags: CommandFlags, expected: Status) -> Outcome {
    let ns = env.ns()?;
    env.io()?;
    let buffer = env.nvme.alloc(ns.block_bytes)?;
    env.guard(buffer);
    let sqe = Sqe {
        flags,
        prp1: buffer.address,
        ..command::read(ns.nsid, 0, 0)
    };
    let cqe = env.nvme.exec(IO, sqe)?;
    let what = alloc::format!("FUSE {:02b}b PSDT {:02b}b", flags.fuse(), flags.psdt());
    check::status(&what, cqe, expected)?;
    env.guarded("data of a refused read", buffer)?;
    env.alive()
}

fn reserved_data_pointer_is_refused(env: &mut Env<'_>) -> Outcome {
    flagged_read(
        env,
        CommandFlags::new().with_psdt(0b11),
        Status::INVALID_FIELD,
    )
}

fn sgl_without_support_is_refused(env: &mut Env<'_>) -> Outcome {
    let sgls = env.context.controller.sgls;
    require!(sgls & 0b11 == 0, "SGLS {sgls:#x} offers SGLs");
    flagged_read(
        env,
        CommandFlags::new().with_psdt(0b01),
        Status::INVALID_FIELD,
    )
}

fn fused_without_support_is_refused(env: &mut Env<'_>) -> Outcome {
    let fuses = env.context.controller.fuses;
    require!(fuses == 0, "FUSES {fuses:#x} offers fused operations");
    let ns = env.ns()?;
    env.io()?;
    let buffer = env.nvme.alloc(ns.block_bytes)?;
    for fuse in 1..4 {
        let sqe = Sqe {
            flags: CommandFlags::new().with_fuse(fuse),
            prp1: buffer.address,
            ..command::read(ns.nsid, 0, 0)
        };
        let cqe = env.nvme.exec(IO, sqe)?;
        let what = alloc::format!("FUSE {fuse:02b}b");
        check::status(&what, cqe, Status::INVALID_FIELD)?;
    }
    env.alive()
}

fn data_is_there_after_reenable(env: &mut Env<'_>) -> Outcome {
    let ns = env.ns()?;
    env.io()?;
    let blocks = env.max_blocks(ns).min(4);
    let slba = env.area(ns, blocks)?;
    env.write_pattern(ns, slba, blocks, 0xB00)?;
    env.nvme.flush(IO, ns.nsid)?;
    env.restart(&Config::default())?;
    env.request_queues()?;
    env.io()?;
    env.expect_pattern(ns, slba, blocks, 0xB00)
}
