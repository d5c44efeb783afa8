//! Commands and completions flowing through queues: indices, phase, wrap, flow control.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use nvme_host::{Buffer, CqConfig, SqConfig, command};
use nvme_spec::{CQE_BYTES, Sqe};

use crate::env::IO;
use crate::{Env, Namespace, Outcome, check};

group! { "queues":
    smallest_queues_work, "Base 2.1 3.3.3.3",
        "I/O queues of two entries work, and wrap.";
    largest_queues_wrap, "Base 2.1 3.3.3.3",
        "I/O queues of CAP.MQES entries, 65,536 at most, work past their end.";
    phase_inverts_each_pass, "Base 2.1 4.2.4",
        "The phase tag of a completion queue entry is 1 in the first pass and inverts with each pass; entries are posted in order.";
    full_cq_stops_the_controller, "Base 2.1 3.3.1.2.1",
        "A completion queue of N entries takes N - 1 completions; the others come once the host moves the head, none lost.";
    small_cq_serves_large_sq, "Base 2.1 3.3.1.2.1",
        "A completion queue smaller than its submission queue delivers every completion once.";
    sqhd_tells_what_was_consumed, "Base 2.1 4.2.1",
        "SQHD of a completion is the entry after the last one the controller consumed.";
    sqid_and_cid_come_back, "Base 2.1 4.2.1",
        "A completion names the submission queue and the identifier of its command.";
    any_cid_is_allowed, "Base 2.1 4.1.1",
        "Command identifiers may have any value.";
    many_sqs_share_a_cq, "Base 2.1 3.3.1",
        "Several submission queues may be bound to one completion queue.";
    busy_queue_starves_no_other, "Base 2.1 3.4.4.1",
        "Under round robin a queue that is never empty does not keep another from being served.";
    several_queues_interleave, "Base 2.1 3.3.1",
        "Commands in flight on several queues at once each complete once, on their queue's completion queue.";
    nothing_is_posted_outside_the_cq, "Base 2.1 3.3.1.2",
        "Completions are written within the completion queue alone.";
    queues_lie_where_the_host_says, "Base 2.1 5.2.2",
        "Queues lie where the create command says: each at its own base.";
}

/// A Read of one block, stored by hand with an identifier of the caller's choice.
fn read_with_cid(ns: Namespace, buffer: Buffer, cid: u16) -> Sqe {
    Sqe {
        cid,
        prp1: buffer.address,
        ..command::read(ns.nsid, 0, 0)
    }
}

/// A one-block buffer and a command that needs no more than PRP1, whatever the block size: a Read
/// if a block fits a page, else a Flush.
fn simple(env: &mut Env<'_>) -> Outcome<(Namespace, Buffer, Sqe)> {
    let ns = env.ns()?;
    let buffer = env.nvme.alloc(ns.block_bytes)?;
    let sqe = if ns.block_bytes <= env.nvme.page_bytes() {
        read_with_cid(ns, buffer, 0)
    } else {
        command::flush(ns.nsid)
    };
    Ok((ns, buffer, sqe))
}

fn smallest_queues_work(env: &mut Env<'_>) -> Outcome {
    let ns = env.ns()?;
    env.io_sized(2, 2)?;
    let buffer = env.nvme.alloc(ns.block_bytes)?;
    for _ in 0..7 {
        env.nvme.read(IO, ns.nsid, 0, 1, buffer)?;
    }
    Ok(())
}

fn largest_queues_wrap(env: &mut Env<'_>) -> Outcome {
    const BATCH: u32 = 4096;
    /// Commands beyond the end.
    const BEYOND: u32 = 300;
    let entries = env.context.found.queue_entries;
    require!(
        entries > 1024,
        "MQES allows {entries} entries; the other tests go past the end of as many"
    );
    let (_, _, sqe) = simple(env)?;
    if let Err(nvme_host::Error::NoMemory { bytes }) = env.nvme.create_pair(IO, entries) {
        skip!("no {bytes} bytes of memory for queues of {entries} entries");
    }
    let total = entries + BEYOND;
    let mut done = 0;
    while done < total {
        let batch = BATCH.min(entries - 1).min(total - done);
        for _ in 0..batch {
            env.nvme.enqueue(IO, sqe)?;
        }
        env.nvme.ring(IO)?;
        for _ in 0..batch {
            let cqe = env.nvme.wait_any(IO)?;
            ensure!(
                cqe.status().is_success(),
                "command {done}: {}",
                cqe.status()
            );
        }
        env.nvme.ack(IO)?;
        done += batch;
    }
    let place = env.nvme.cq_head(IO);
    check::equal(
        "completion queue head and phase",
        place,
        Some((BEYOND, false)),
    )
}

fn phase_inverts_each_pass(env: &mut Env<'_>) -> Outcome {
    const ENTRIES: u32 = 4;
    let (_, _, sqe) = simple(env)?;
    env.io_sized(ENTRIES, ENTRIES)?;
    let memory = env.nvme.cq_memory(IO).unwrap_or_default();
    for number in 0..3 * ENTRIES + 1 {
        let token = env.nvme.submit(IO, sqe)?;
        env.nvme.wait(token)?;
        let (slot, pass) = (number % ENTRIES, number / ENTRIES);
        let offset = u64::from(slot) * CQE_BYTES as u64;
        let mut entry = nvme_spec::Cqe::default();
        env.nvme.copy_from(
            memory.slice(offset, CQE_BYTES as u64),
            zerocopy::IntoBytes::as_mut_bytes(&mut entry),
        );
        ensure!(
            entry.phase() == pass.is_multiple_of(2),
            "entry {slot} in pass {pass}: expected phase {}, found {}",
            u8::from(pass.is_multiple_of(2)),
            u8::from(entry.phase())
        );
        check::equal("CID in the entry", entry.cid, token.cid)?;
    }
    Ok(())
}

fn full_cq_stops_the_controller(env: &mut Env<'_>) -> Outcome {
    const CQ_ENTRIES: u32 = 4;
    const COMMANDS: u16 = 10;
    let (_, _, sqe) = simple(env)?;
    env.io_sized(16, CQ_ENTRIES)?;
    for cid in 0..COMMANDS {
        env.nvme.push(IO, &Sqe { cid, ..sqe })?;
    }
    env.nvme.ring(IO)?;
    let mut seen = BTreeSet::new();
    // One at a time from here on: the queue stays as full as it may be.
    for number in 0..COMMANDS {
        let cqe = env.nvme.wait_any(IO)?;
        ensure!(
            cqe.status().is_success(),
            "command {}: {}",
            cqe.cid,
            cqe.status()
        );
        ensure!(seen.insert(cqe.cid), "CID {} completed twice", cqe.cid);
        if number == 0 {
            env.settle();
            let memory = env.nvme.cq_memory(IO).unwrap_or_default();
            let last = memory.slice(memory.bytes - CQE_BYTES as u64, CQE_BYTES as u64);
            let unused = env.copy_out(last);
            ensure!(
                unused.iter().all(|byte| *byte == 0),
                "entry {} was written though the head had not moved",
                CQ_ENTRIES - 1
            );
        }
        env.nvme.ack(IO)?;
    }
    let all: BTreeSet<u16> = (0..COMMANDS).collect();
    check::equal("identifiers completed", seen, all)?;
    env.settle();
    let more = env.nvme.peek(IO)?;
    ensure!(more.is_none(), "a completion too many: {more:?}");
    Ok(())
}

fn small_cq_serves_large_sq(env: &mut Env<'_>) -> Outcome {
    const SQ_ENTRIES: u32 = 32;
    let (_, _, sqe) = simple(env)?;
    env.io_sized(SQ_ENTRIES, 3)?;
    for _ in 0..3 {
        let mut tokens = Vec::new();
        for _ in 1..SQ_ENTRIES {
            tokens.push(env.nvme.enqueue(IO, sqe)?);
        }
        env.nvme.ring(IO)?;
        for token in tokens {
            let cqe = env.nvme.wait(token)?;
            ensure!(cqe.status().is_success(), "{token:?}: {}", cqe.status());
        }
    }
    Ok(())
}

fn sqhd_tells_what_was_consumed(env: &mut Env<'_>) -> Outcome {
    const ENTRIES: u32 = 5;
    let (_, _, sqe) = simple(env)?;
    env.io_sized(ENTRIES, 8)?;
    for number in 1..=12_u32 {
        let token = env.nvme.submit(IO, sqe)?;
        let cqe = env.nvme.wait(token)?;
        // Nothing else is queued, so exactly this command was consumed.
        check::equal("SQHD", u32::from(cqe.sqhd), number % ENTRIES)?;
    }
    Ok(())
}

fn sqid_and_cid_come_back(env: &mut Env<'_>) -> Outcome {
    let (_, _, sqe) = simple(env)?;
    env.need_submission_queues(2)?;
    env.need_entries(32)?;
    env.nvme.create_cq(&CqConfig::new(IO, 32))?;
    env.nvme.create_sq(&SqConfig::new(1, IO, 8))?;
    env.nvme.create_sq(&SqConfig::new(2, IO, 8))?;
    let mut expected = BTreeSet::new();
    for number in 0..5 {
        for sqid in [1, 2] {
            let cid = 0x100 * sqid + number;
            env.nvme.push(sqid, &Sqe { cid, ..sqe })?;
            expected.insert((sqid, cid));
        }
    }
    env.nvme.ring(2)?;
    env.nvme.ring(1)?;
    let mut found = BTreeSet::new();
    for _ in 0..expected.len() {
        let cqe = env.nvme.wait_any(IO)?;
        ensure!(
            found.insert((cqe.sqid, cqe.cid)),
            "SQID {} CID {:#x} completed twice",
            cqe.sqid,
            cqe.cid
        );
    }
    check::equal("(SQID, CID) completed", found, expected)
}

fn any_cid_is_allowed(env: &mut Env<'_>) -> Outcome {
    let (_, _, sqe) = simple(env)?;
    env.io()?;
    for cid in [0, 1, 0x7FFF, 0x8000, 0xABCD, 0xFFFE] {
        env.nvme.push(IO, &Sqe { cid, ..sqe })?;
        env.nvme.ring(IO)?;
        let cqe = env.nvme.wait_any(IO)?;
        env.nvme.ack(IO)?;
        check::equal_hex("CID", cqe.cid, cid)?;
        ensure!(cqe.status().is_success(), "CID {cid:#x}: {}", cqe.status());
    }
    Ok(())
}

fn many_sqs_share_a_cq(env: &mut Env<'_>) -> Outcome {
    let (_, _, sqe) = simple(env)?;
    let queues = env.context.found.submission_queues.min(4);
    env.need_submission_queues(2)?;
    let queues = u16::try_from(queues).unwrap_or(2);
    env.need_entries(8)?;
    env.nvme.create_cq(&CqConfig::new(IO, 8))?;
    for sqid in 1..=queues {
        env.nvme.create_sq(&SqConfig::new(sqid, IO, 8))?;
    }
    let mut tokens = Vec::new();
    for sqid in 1..=queues {
        for _ in 0..7 {
            tokens.push(env.nvme.enqueue(sqid, sqe)?);
        }
    }
    for sqid in 1..=queues {
        env.nvme.ring(sqid)?;
    }
    for token in tokens {
        let cqe = env.nvme.wait(token)?;
        ensure!(cqe.status().is_success(), "{token:?}: {}", cqe.status());
    }
    Ok(())
}

fn busy_queue_starves_no_other(env: &mut Env<'_>) -> Outcome {
    /// Commands of the busy queue until the other one must have been served.
    const PATIENCE: u32 = 1000;
    const BUSY: u16 = 1;
    const OTHER: u16 = 2;
    let (_, _, sqe) = simple(env)?;
    env.need_submission_queues(2)?;
    env.need_entries(64)?;
    env.nvme.create_cq(&CqConfig::new(IO, 64))?;
    env.nvme.create_sq(&SqConfig::new(BUSY, IO, 32))?;
    env.nvme.create_sq(&SqConfig::new(OTHER, IO, 8))?;
    for _ in 0..31 {
        env.nvme.enqueue(BUSY, sqe)?;
    }
    env.nvme.ring(BUSY)?;
    let mut waiting = 4;
    for _ in 0..waiting {
        env.nvme.enqueue(OTHER, sqe)?;
    }
    env.nvme.ring(OTHER)?;
    let mut busy_done = 0;
    while waiting != 0 {
        let mut refilled = false;
        let mut next = Some(env.nvme.wait_any(IO)?);
        while let Some(cqe) = next {
            if cqe.sqid == OTHER {
                waiting -= 1;
            } else {
                busy_done += 1;
            }
            if env.nvme.sq_room(BUSY).unwrap_or(0) != 0 {
                env.nvme.enqueue(BUSY, sqe)?;
                refilled = true;
            }
            next = env.nvme.poll(IO)?;
        }
        env.nvme.ack(IO)?;
        if refilled {
            env.nvme.ring(BUSY)?;
        }
        ensure!(
            busy_done < PATIENCE,
            "{busy_done} commands of one queue completed while {waiting} of another waited"
        );
    }
    Ok(())
}

fn several_queues_interleave(env: &mut Env<'_>) -> Outcome {
    let ns = env.ns()?;
    env.need_pairs(2)?;
    let queues = u16::try_from(env.pairs().min(4)).unwrap_or(2);
    env.need_entries(8)?;
    const PER_QUEUE: u64 = 6;
    for qid in 1..=queues {
        env.nvme.create_pair(qid, 8)?;
    }
    let blocks = u64::from(queues) * PER_QUEUE;
    let start = env.area(ns, blocks)?;
    let mut writes = Vec::new();
    for number in 0..PER_QUEUE {
        for qid in 1..=queues {
            let slba = start + u64::from(qid - 1) * PER_QUEUE + number;
            let buffer = env.nvme.alloc(ns.block_bytes)?;
            let data = crate::data::pattern(0x5000 + slba, ns.block_bytes);
            env.nvme.copy_to(buffer, &data);
            let sqe = command::write(ns.nsid, slba, 0);
            writes.push(env.nvme.enqueue_data(qid, sqe, buffer)?);
        }
    }
    for qid in (1..=queues).rev() {
        env.nvme.ring(qid)?;
    }
    for token in writes.into_iter().rev() {
        let cqe = env.nvme.wait(token)?;
        ensure!(cqe.status().is_success(), "{token:?}: {}", cqe.status());
    }
    for slba in start..start + blocks {
        env.expect_pattern(ns, slba, 1, 0x5000 + slba)?;
    }
    Ok(())
}

fn nothing_is_posted_outside_the_cq(env: &mut Env<'_>) -> Outcome {
    const ENTRIES: u32 = 4;
    let (_, _, sqe) = simple(env)?;
    env.need_entries(8)?;
    let page = env.nvme.page_bytes();
    let area = env.nvme.alloc(3 * page)?;
    env.guard(area);
    let bytes = u64::from(ENTRIES) * CQE_BYTES as u64;
    env.nvme.create_cq(&CqConfig {
        memory: Some(area.address + page),
        ..CqConfig::new(IO, ENTRIES)
    })?;
    env.nvme.create_sq(&SqConfig::new(IO, IO, 8))?;
    for _ in 0..3 * ENTRIES {
        let token = env.nvme.submit(IO, sqe)?;
        env.nvme.wait(token)?;
    }
    env.guarded("the page before the completion queue", area.slice(0, page))?;
    env.guarded(
        "behind the completion queue",
        area.slice(page + bytes, page),
    )
}

fn queues_lie_where_the_host_says(env: &mut Env<'_>) -> Outcome {
    let (_, _, sqe) = simple(env)?;
    env.need_entries(8)?;
    let page = env.nvme.page_bytes();
    let area = env.nvme.alloc(4 * page)?;
    // Submission queue behind the completion queue, with a page between them.
    for (cq_page, sq_page) in [(0, 2), (3, 1)] {
        env.nvme.create_cq(&CqConfig {
            memory: Some(area.address + cq_page * page),
            ..CqConfig::new(IO, 8)
        })?;
        env.nvme.create_sq(&SqConfig {
            memory: Some(area.address + sq_page * page),
            ..SqConfig::new(IO, IO, 8)
        })?;
        for _ in 0..10 {
            let token = env.nvme.submit(IO, sqe)?;
            let cqe = env.nvme.wait(token)?;
            ensure!(cqe.status().is_success(), "{}", cqe.status());
        }
        env.nvme.delete_sq(IO)?;
        env.nvme.delete_cq(IO)?;
    }
    Ok(())
}
