//! The edges: namespaces' ends, transfer sizes, identifiers, counts.

use nvme_host::{CqConfig, SqConfig, command};
use nvme_spec::{NSID_BROADCAST, Status};

use crate::env::IO;
use crate::{Env, Namespace, Outcome, check};

group! { "limits":
    read_beyond_the_end_is_refused, "NVM 1.1 3.2.4",
        "A Read that starts at or beyond NSZE completes with LBA Out of Range and moves no data.";
    write_beyond_the_end_is_refused, "NVM 1.1 3.2.6",
        "A Write that starts at or beyond NSZE completes with LBA Out of Range.";
    transfer_across_the_end_is_refused, "NVM 1.1 3.2.6",
        "A Read or Write that starts inside a namespace and ends beyond it completes with LBA Out of Range, and no block of it is written.";
    wrapping_range_is_refused, "NVM 1.1 3.2.4",
        "A range whose end exceeds 2^64 completes with LBA Out of Range.";
    transfer_beyond_mdts_is_refused, "Base 2.1 5.1.13.2.1",
        "A Read or Write of more than MDTS bytes completes with Invalid Field in Command, and writes nothing.";
    largest_nlb_is_handled, "NVM 1.1 3.2.4",
        "NLB FFFFh means 65,536 blocks: it moves them all, or is refused for MDTS or the namespace's size.";
    io_refuses_nsid_0, "Base 2.1 3.2.1.3",
        "Read and Write of NSID 0 complete with Invalid Namespace or Format.";
    io_refuses_nsid_above_nn, "Base 2.1 3.2.1.3",
        "Read and Write of an NSID above NN complete with Invalid Namespace or Format.";
    io_refuses_inactive_nsid, "Base 2.1 3.2.1.4",
        "Read and Write of an inactive NSID complete with Invalid Field in Command.";
    io_refuses_broadcast_nsid, "Base 2.1 3.2.1.2",
        "Read and Write of NSID FFFFFFFFh are refused.";
    every_granted_queue_can_be_created, "Base 2.1 5.1.25.1.5",
        "As many queues as were granted can be created and used at the same time.";
    one_vector_per_queue_works, "PCIe 1.1 3.5",
        "Queues on every vector that is there work at the same time.";
}

fn read_beyond_the_end_is_refused(env: &mut Env<'_>) -> Outcome {
    env.ns()?;
    env.io()?;
    for ns in env.namespaces() {
        let buffer = env.nvme.alloc(ns.block_bytes)?;
        env.guard(buffer);
        for slba in [ns.blocks, ns.blocks + 1, 1 << 63, u64::MAX] {
            let sqe = command::read(ns.nsid, slba, 0);
            let cqe = env.nvme.exec_data(IO, sqe, buffer)?;
            let what = alloc::format!("Read of LBA {slba:#x}");
            check::status(&what, cqe, Status::LBA_OUT_OF_RANGE)?;
        }
        env.guarded("data of a refused read", buffer)?;
    }
    Ok(())
}

fn write_beyond_the_end_is_refused(env: &mut Env<'_>) -> Outcome {
    env.ns()?;
    env.io()?;
    for ns in env.namespaces() {
        let buffer = env.nvme.alloc(ns.block_bytes)?;
        for slba in [ns.blocks, ns.blocks + 1, 1 << 63, u64::MAX] {
            let sqe = command::write(ns.nsid, slba, 0);
            let cqe = env.nvme.exec_data(IO, sqe, buffer)?;
            let what = alloc::format!("Write of LBA {slba:#x}");
            check::status(&what, cqe, Status::LBA_OUT_OF_RANGE)?;
        }
    }
    env.alive()
}

fn transfer_across_the_end_is_refused(env: &mut Env<'_>) -> Outcome {
    let ns = env.ns()?;
    env.io()?;
    require!(env.max_blocks(ns) >= 2, "MDTS is below two blocks");
    let last = ns.blocks - 1;
    env.write_pattern(ns, last, 1, 0x21)?;
    let buffer = env.nvme.alloc(2 * ns.block_bytes)?;
    env.guard(buffer);
    let cqe = env
        .nvme
        .exec_data(IO, command::read(ns.nsid, last, 1), buffer)?;
    check::status("Read across the end", cqe, Status::LBA_OUT_OF_RANGE)?;
    let cqe = env
        .nvme
        .exec_data(IO, command::write(ns.nsid, last, 1), buffer)?;
    check::status("Write across the end", cqe, Status::LBA_OUT_OF_RANGE)?;
    env.expect_pattern(ns, last, 1, 0x21)
}

fn wrapping_range_is_refused(env: &mut Env<'_>) -> Outcome {
    let ns = env.ns()?;
    env.io()?;
    require!(env.max_blocks(ns) >= 2, "MDTS is below two blocks");
    let slba = env.area(ns, 2)?;
    env.write_pattern(ns, slba, 1, 0x22)?;
    let buffer = env.nvme.alloc(2 * ns.block_bytes)?;
    // The second block's number is 0 in 64 bits.
    for sqe in [
        command::read(ns.nsid, u64::MAX, 1),
        command::write(ns.nsid, u64::MAX, 1),
    ] {
        let cqe = env.nvme.exec_data(IO, sqe, buffer)?;
        check::status("a range around 2^64", cqe, Status::LBA_OUT_OF_RANGE)?;
    }
    env.expect_pattern(ns, slba, 1, 0x22)
}

fn transfer_beyond_mdts_is_refused(env: &mut Env<'_>) -> Outcome {
    let ns = env.ns()?;
    let limit = env.context.found.max_transfer_bytes;
    require!(limit != 0, "MDTS sets no limit");
    let blocks = limit / ns.block_bytes + 1;
    require!(
        blocks <= 65_536 && blocks <= ns.blocks,
        "MDTS allows every transfer that NLB or the namespace does"
    );
    env.io()?;
    let slba = env.area(ns, 1)?;
    env.write_pattern(ns, slba, 1, 0x23)?;
    let buffer = env.nvme.alloc(blocks * ns.block_bytes)?;
    let nlb_z = u16::try_from(blocks - 1).unwrap_or(u16::MAX);
    for sqe in [
        command::read(ns.nsid, slba, nlb_z),
        command::write(ns.nsid, slba, nlb_z),
    ] {
        let cqe = env.nvme.exec_data(IO, sqe, buffer)?;
        let what = alloc::format!("{blocks} blocks, MDTS {limit} bytes");
        check::status(&what, cqe, Status::INVALID_FIELD)?;
    }
    env.expect_pattern(ns, slba, 1, 0x23)
}

fn largest_nlb_is_handled(env: &mut Env<'_>) -> Outcome {
    const BLOCKS: u64 = 65_536;
    let ns = env.ns()?;
    env.io()?;
    let bytes = BLOCKS * ns.block_bytes;
    let limit = env.context.found.max_transfer_bytes;
    let beyond_mdts = limit != 0 && bytes > limit;
    let beyond_end = BLOCKS > ns.blocks;
    let sqe = command::read(ns.nsid, 0, u16::MAX);
    if !beyond_mdts && !beyond_end {
        let last = BLOCKS - 1;
        env.write_pattern(ns, last, 1, 0x24)?;
        let Ok(buffer) = env.nvme.alloc(bytes) else {
            skip!("no {bytes} bytes of memory for the data");
        };
        let cqe = env.nvme.exec_data(IO, sqe, buffer)?;
        check::status("65,536 blocks", cqe, Status::SUCCESS)?;
        let found = env.copy_out(buffer.slice(last * ns.block_bytes, ns.block_bytes));
        let expected = crate::data::pattern(0x24, ns.block_bytes);
        return check::same_bytes("the last block", &found, &expected);
    }
    // It is refused before any data moves, so the data pointer need not be as long.
    let buffer = env.nvme.alloc(3 * env.nvme.page_bytes())?;
    let cqe = env.nvme.exec_data(IO, sqe, buffer)?;
    let allowed: &[Status] = match (beyond_mdts, beyond_end) {
        (true, true) => &[Status::INVALID_FIELD, Status::LBA_OUT_OF_RANGE],
        (true, false) => &[Status::INVALID_FIELD],
        _ => &[Status::LBA_OUT_OF_RANGE],
    };
    check::one_of("65,536 blocks", cqe, allowed)?;
    env.alive()
}

/// Read and Write of one block of a namespace that is not there.
fn refused_nsid(env: &mut Env<'_>, nsid: u32, allowed: &[Status]) -> Outcome {
    env.io()?;
    let block_bytes = env.ns().map_or(4096, |ns| ns.block_bytes);
    let buffer = env.nvme.alloc(block_bytes)?;
    env.guard(buffer);
    for sqe in [command::read(nsid, 0, 0), command::write(nsid, 0, 0)] {
        let cqe = env.nvme.exec_data(IO, sqe, buffer)?;
        let what = alloc::format!("opcode {:#04x} of NSID {nsid:#x}", sqe.opcode);
        check::one_of(&what, cqe, allowed)?;
    }
    env.guarded("data of a refused read", buffer)
}

fn io_refuses_nsid_0(env: &mut Env<'_>) -> Outcome {
    refused_nsid(env, 0, &[Status::INVALID_NAMESPACE])
}

fn io_refuses_nsid_above_nn(env: &mut Env<'_>) -> Outcome {
    let nsid = env.invalid_nsid()?;
    refused_nsid(env, nsid, &[Status::INVALID_NAMESPACE])
}

fn io_refuses_inactive_nsid(env: &mut Env<'_>) -> Outcome {
    let nsid = env.inactive_nsid()?;
    refused_nsid(env, nsid, &[Status::INVALID_FIELD])
}

fn io_refuses_broadcast_nsid(env: &mut Env<'_>) -> Outcome {
    refused_nsid(
        env,
        NSID_BROADCAST,
        &[Status::INVALID_NAMESPACE, Status::INVALID_FIELD],
    )
}

fn one_read(env: &mut Env<'_>, ns: Namespace, sqid: u16) -> Outcome {
    let buffer = env.nvme.alloc(ns.block_bytes)?;
    env.nvme.read(sqid, ns.nsid, 0, 1, buffer)?;
    env.nvme.free(buffer);
    Ok(())
}

fn every_granted_queue_can_be_created(env: &mut Env<'_>) -> Outcome {
    /// Beyond this the test would take too long in a slow guest.
    const MOST: u32 = 64;
    let ns = env.ns()?;
    let pairs = u16::try_from(env.pairs().min(MOST)).unwrap_or(1);
    for qid in 1..=pairs {
        env.nvme.create_pair(qid, 2)?;
    }
    for qid in (1..=pairs).rev() {
        one_read(env, ns, qid)?;
    }
    // The identifiers are all taken now.
    let memory = env.nvme.alloc(4096)?;
    let cqe = env
        .nvme
        .admin(command::create_cq(pairs, 1, memory.address, None))?;
    check::status("one more", cqe, Status::INVALID_QUEUE_IDENTIFIER)
}

fn one_vector_per_queue_works(env: &mut Env<'_>) -> Outcome {
    env.need_vectors(1)?;
    let ns = env.ns()?;
    let pairs = u16::try_from(env.pairs().min(16)).unwrap_or(1);
    let vectors = env.context.found.vectors;
    for qid in 1..=pairs {
        env.nvme.create_cq(&CqConfig {
            vector: Some(qid % vectors),
            sleep: true,
            ..CqConfig::new(qid, 2)
        })?;
        env.nvme.create_sq(&SqConfig::new(qid, qid, 2))?;
    }
    for qid in 1..=pairs {
        one_read(env, ns, qid)?;
        env.nvme.io_ok(qid, command::flush(ns.nsid))?;
    }
    Ok(())
}
