//! Doorbells, right and wrong ones.

use alloc::vec::Vec;

use nvme_spec::Sqe;

use crate::env::IO;
use crate::{Env, Outcome, check};

group! { "doorbells":
    one_write_submits_many, "PCIe 1.1 3.1.2.1",
        "One tail doorbell write submits all entries stored since the last.";
    entries_wait_for_the_doorbell, "PCIe 1.1 3.1.2.1",
        "Entries in the submission queue are not fetched before the tail doorbell says so.";
    tail_wraps, "PCIe 1.1 3.1.2.1",
        "A tail below the last one submits the entries to the end of the ring and on from its start.";
    stride_separates_queues, "PCIe 1.1 3.1.2.1",
        "Doorbells of queue y lie at 1000h + 2y and 2y + 1 strides: ringing one queue serves that queue alone.";
    tail_beyond_the_ring_is_harmless, "Base 2.1 5.1.2.1",
        "A tail doorbell value beyond the ring submits nothing, and the queue goes on working.";
    head_beyond_the_ring_is_harmless, "Base 2.1 5.1.2.1",
        "A head doorbell value beyond the ring frees nothing, and the queue goes on working.";
    head_of_nothing_posted_is_harmless, "Base 2.1 5.1.2.1",
        "A head doorbell value beyond what was posted does not stop the controller or the queue's admin commands.";
    unchanged_values_are_harmless, "Base 2.1 5.1.2.1",
        "Writing the same tail or head again neither repeats nor loses a command.";
    absent_queues_are_harmless, "Base 2.1 5.1.2.1",
        "Doorbells of queues that were not created do nothing to those that were.";
    deleted_queue_is_not_served, "PCIe 1.1 3.1.2.1",
        "The tail doorbell of a deleted queue fetches nothing.";
}

/// A Flush stored by hand, for any namespace and block size.
pub(super) fn flush(env: &Env<'_>, cid: u16) -> Outcome<Sqe> {
    let ns = env.ns()?;
    Ok(Sqe {
        cid,
        ..nvme_host::command::flush(ns.nsid)
    })
}

/// Nothing more arrives on completion queue `cqid`.
pub(super) fn silent(env: &mut Env<'_>, cqid: u16, what: &str) -> Outcome {
    env.settle();
    let cqe = env.nvme.peek(cqid)?;
    ensure!(cqe.is_none(), "{what}: a completion came: {cqe:?}");
    Ok(())
}

fn one_write_submits_many(env: &mut Env<'_>) -> Outcome {
    env.io_sized(16, 16)?;
    let sqe = flush(env, 0)?;
    let mut tokens = Vec::new();
    for _ in 0..15 {
        tokens.push(env.nvme.enqueue(IO, sqe)?);
    }
    let before = env.nvme.stats().doorbells;
    env.nvme.ring(IO)?;
    check::equal(
        "tail doorbell writes",
        env.nvme.stats().doorbells - before,
        1,
    )?;
    for token in tokens {
        env.nvme.wait(token)?;
    }
    Ok(())
}

fn entries_wait_for_the_doorbell(env: &mut Env<'_>) -> Outcome {
    env.io_sized(16, 16)?;
    let sqe = flush(env, 0)?;
    let first = env.nvme.submit(IO, sqe)?;
    env.nvme.wait(first)?;
    let token = env.nvme.enqueue(IO, sqe)?;
    silent(env, IO, "without a doorbell write")?;
    env.nvme.ring(IO)?;
    Ok(env.nvme.wait(token).map(drop)?)
}

fn tail_wraps(env: &mut Env<'_>) -> Outcome {
    env.io_sized(5, 16)?;
    let sqe = flush(env, 0)?;
    // Batches of 4, 3 and 2 in a ring of 5 cross its end at different places.
    for batch in [4, 3, 4, 2, 4, 4, 1, 4] {
        let mut tokens = Vec::new();
        for _ in 0..batch {
            tokens.push(env.nvme.enqueue(IO, sqe)?);
        }
        env.nvme.ring(IO)?;
        for token in tokens {
            env.nvme.wait(token)?;
        }
    }
    Ok(())
}

fn stride_separates_queues(env: &mut Env<'_>) -> Outcome {
    env.need_pairs(2)?;
    env.nvme.create_pair(1, 2)?;
    env.nvme.create_pair(2, 2)?;
    let sqe = flush(env, 0)?;
    let on_1 = env.nvme.enqueue(1, sqe)?;
    let on_2 = env.nvme.enqueue(2, sqe)?;
    env.nvme.ring(2)?;
    env.nvme.wait(on_2)?;
    silent(env, 1, "the other queue's doorbell was written")?;
    env.nvme.ring(1)?;
    Ok(env.nvme.wait(on_1).map(drop)?)
}

fn tail_beyond_the_ring_is_harmless(env: &mut Env<'_>) -> Outcome {
    env.io_sized(8, 8)?;
    let sqe = flush(env, 0)?;
    let token = env.nvme.submit(IO, sqe)?;
    env.nvme.wait(token)?;
    for value in [8, 9, 0xFFFF] {
        env.nvme.write_sq_doorbell(IO, value);
        silent(env, IO, "a tail beyond the ring")?;
    }
    for _ in 0..10 {
        let token = env.nvme.submit(IO, sqe)?;
        env.nvme.wait(token)?;
    }
    Ok(())
}

fn head_beyond_the_ring_is_harmless(env: &mut Env<'_>) -> Outcome {
    env.io_sized(16, 4)?;
    let sqe = flush(env, 0)?;
    for cid in 0..8 {
        env.nvme.push(IO, &Sqe { cid, ..sqe })?;
    }
    env.nvme.ring(IO)?;
    // Three completions fill the ring; a value that is no entry frees none of them.
    let first = env.nvme.wait_any(IO)?;
    env.settle();
    for value in [4, 5, 0xFFFF] {
        env.nvme.write_cq_doorbell(IO, value);
        env.settle();
    }
    let mut cids = alloc::vec![first.cid];
    for _ in 0..2 {
        cids.push(env.nvme.wait_any(IO)?.cid);
    }
    silent(env, IO, "the completion queue is full")?;
    env.nvme.ack(IO)?;
    for _ in 0..5 {
        cids.push(env.nvme.wait_any(IO)?.cid);
        env.nvme.ack(IO)?;
    }
    cids.sort_unstable();
    check::equal("identifiers completed", cids, (0..8).collect())
}

fn head_of_nothing_posted_is_harmless(env: &mut Env<'_>) -> Outcome {
    env.io_sized(8, 8)?;
    env.nvme.write_cq_doorbell(IO, 5);
    env.settle();
    // What the completion queue does from here on is undefined; the rest must hold.
    env.nvme.identify_controller()?;
    env.nvme.delete_sq(IO)?;
    env.nvme.delete_cq(IO)?;
    env.io()?;
    env.alive()
}

fn unchanged_values_are_harmless(env: &mut Env<'_>) -> Outcome {
    env.io_sized(8, 8)?;
    let sqe = flush(env, 0)?;
    for _ in 0..9 {
        let token = env.nvme.submit(IO, sqe)?;
        env.nvme.ring(IO)?;
        env.nvme.wait(token)?;
        let (head, _) = env.nvme.cq_head(IO).unwrap_or_default();
        env.nvme.write_cq_doorbell(IO, head);
        env.nvme.ring(IO)?;
    }
    silent(env, IO, "an unchanged doorbell value")
}

fn absent_queues_are_harmless(env: &mut Env<'_>) -> Outcome {
    env.io_sized(8, 8)?;
    let sqe = flush(env, 0)?;
    let token = env.nvme.enqueue(IO, sqe)?;
    for qid in [IO + 1, IO + 5, 63] {
        env.nvme.write_sq_doorbell(qid, 1);
        env.nvme.write_cq_doorbell(qid, 1);
    }
    silent(env, IO, "another queue's doorbell")?;
    env.nvme.ring(IO)?;
    env.nvme.wait(token)?;
    env.alive()
}

fn deleted_queue_is_not_served(env: &mut Env<'_>) -> Outcome {
    env.io_sized(8, 8)?;
    let sqe = flush(env, 0)?;
    let token = env.nvme.enqueue(IO, sqe)?;
    env.nvme.delete_sq(IO)?;
    env.nvme.write_sq_doorbell(IO, 1);
    silent(env, IO, "the doorbell of a deleted queue")?;
    check::equal("SQID of the command not served", token.sqid, IO)?;
    // A new queue starts empty whatever was rung before.
    env.nvme.create_sq(&nvme_host::SqConfig::new(IO, IO, 8))?;
    silent(env, IO, "a new queue")?;
    env.alive()
}
