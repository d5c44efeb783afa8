//! MSI-X: who is interrupted, how often, and what masks do.

use nvme_host::{Config, CqConfig, SqConfig};
use nvme_spec::Sqe;

use crate::env::IO;
use crate::{Env, Outcome, check};

group! { "interrupts":
    completion_raises_its_vector, "Base 2.1 5.2.1",
        "A completion on a queue with interrupts enabled raises that queue's vector.";
    every_completion_can_be_waited_for, "PCIe 1.1 3.5",
        "A host that sleeps until the interrupt after each command is woken each time.";
    admin_queue_raises_vector_0, "PCIe 1.1 3.5",
        "Admin completions raise vector 0.";
    disabled_interrupts_raise_none, "Base 2.1 5.2.1",
        "A completion queue created with IEN = 0 raises no interrupt.";
    two_queues_two_vectors, "PCIe 1.1 3.5",
        "Each completion queue raises its own vector and no other.";
    shared_vector_serves_both, "PCIe 1.1 3.5",
        "Two completion queues may share a vector; completions of either raise it.";
    last_vector_works, "PCIe 1.1 3.5",
        "The highest vector can be used by a queue.";
    masked_vector_is_pending, "PCIe 1.1 3.5",
        "A completion while the vector is masked sets its pending bit and delivers nothing; unmasking delivers once and clears the bit.";
    function_mask_holds_every_vector, "PCIe 1.1 3.5",
        "Under the function mask completions set pending bits; clearing it delivers once.";
    unmasking_alone_delivers_nothing, "PCIe 1.1 3.5",
        "Masking and unmasking a vector without a completion between delivers nothing.";
    unconsumed_completions_survive_a_mask, "PCIe 1.1 3.5",
        "Completions posted and not consumed while masked are all there after unmasking, with at least one interrupt.";
    idle_queue_raises_none, "PCIe 1.1 3.5",
        "Without a new completion there is no interrupt, whether or not entries lie unconsumed.";
    not_more_than_completions, "PCIe 1.1 3.5",
        "There are not more interrupts than completions.";
    none_after_reset, "Base 2.1 3.7.2",
        "Once CSTS.RDY is 0 no interrupt comes for commands issued before.";
}

/// Entries of a queue, where the controller takes as many.
const ENTRIES: u32 = 16;
/// How long an interrupt may take.
const ARRIVAL_NS: u64 = 2_000_000_000;

pub(super) fn flush(env: &Env<'_>) -> Outcome<Sqe> {
    Ok(nvme_host::command::flush(env.ns()?.nsid))
}

/// A queue pair with an interrupt vector, or without one.
pub(super) fn pair(env: &mut Env<'_>, qid: u16, vector: Option<u16>) -> Outcome {
    let entries = ENTRIES.min(env.context.found.queue_entries);
    env.nvme.create_cq(&CqConfig {
        vector,
        ..CqConfig::new(qid, entries)
    })?;
    Ok(env.nvme.create_sq(&SqConfig::new(qid, qid, entries))?)
}

/// The vector of I/O queue 1 in these tests: not the admin queue's where there is a choice.
fn io_vector(env: &Env<'_>) -> u16 {
    u16::from(env.context.found.vectors > 1)
}

pub(super) fn count(env: &mut Env<'_>, vector: u16) -> u64 {
    env.nvme.transport().interrupts(vector)
}

/// Waits for the interrupt after `seen`.
pub(super) fn arrives(env: &mut Env<'_>, what: &str, vector: u16, seen: u64) -> Outcome {
    let arrived = env
        .nvme
        .transport()
        .wait_interrupt(vector, seen, ARRIVAL_NS);
    ensure!(
        arrived,
        "{what}: no interrupt of vector {vector} within 2 s"
    );
    Ok(())
}

/// Checks that no interrupt has come since `seen`, nor comes soon.
fn stays(env: &mut Env<'_>, what: &str, vector: u16, seen: u64) -> Outcome {
    env.settle();
    let now = count(env, vector);
    ensure!(
        now == seen,
        "{what}: expected no interrupt of vector {vector}, found {}",
        now.wrapping_sub(seen)
    );
    Ok(())
}

/// Waits until `entries` completions lie in a queue, without consuming any.
fn posted(env: &mut Env<'_>, qid: u16, entries: u32) -> Outcome {
    let memory = env.nvme.cq_memory(qid).unwrap_or_default();
    let (head, phase) = env.nvme.cq_head(qid).unwrap_or_default();
    let slot = u64::from(head + entries - 1);
    let at = memory.address + slot * nvme_spec::CQE_BYTES as u64 + nvme_spec::Cqe::LAST_DWORD;
    let transport = env.nvme.transport();
    let start = transport.now_ns();
    while (transport.mem_load32(at) >> 16 & 1 != 0) != phase {
        ensure!(
            transport.now_ns().saturating_sub(start) < ARRIVAL_NS,
            "no {entries} completions within 2 s"
        );
        transport.relax();
    }
    Ok(())
}

fn completion_raises_its_vector(env: &mut Env<'_>) -> Outcome {
    env.need_vectors(1)?;
    let sqe = flush(env)?;
    let vector = io_vector(env);
    pair(env, IO, Some(vector))?;
    let seen = count(env, vector);
    let token = env.nvme.submit(IO, sqe)?;
    arrives(env, "a completion", vector, seen)?;
    let cqe = env.nvme.try_wait(token)?;
    ensure!(
        cqe.is_some(),
        "the interrupt came before its completion could be seen"
    );
    Ok(())
}

fn every_completion_can_be_waited_for(env: &mut Env<'_>) -> Outcome {
    env.need_vectors(1)?;
    let sqe = flush(env)?;
    env.nvme.create_cq(&CqConfig {
        vector: Some(io_vector(env)),
        sleep: true,
        ..CqConfig::new(IO, 2)
    })?;
    env.nvme.create_sq(&SqConfig::new(IO, IO, 2))?;
    for _ in 0..40 {
        env.nvme.io_ok(IO, sqe)?;
    }
    Ok(())
}

fn admin_queue_raises_vector_0(env: &mut Env<'_>) -> Outcome {
    env.need_vectors(1)?;
    let seen = count(env, 0);
    env.nvme.identify_controller()?;
    arrives(env, "an admin completion", 0, seen)?;
    env.restart(&Config {
        admin_sleep: true,
        ..Config::default()
    })?;
    env.nvme.identify_controller().map(drop)?;
    Ok(())
}

fn disabled_interrupts_raise_none(env: &mut Env<'_>) -> Outcome {
    env.need_vectors(1)?;
    let sqe = flush(env)?;
    pair(env, IO, None)?;
    // The admin queue's last interrupt comes after its completion was seen.
    env.settle();
    let vectors = env.context.found.vectors.min(8);
    let seen: alloc::vec::Vec<u64> = (0..vectors).map(|vector| count(env, vector)).collect();
    for _ in 0..5 {
        env.nvme.io_ok(IO, sqe)?;
    }
    for (vector, seen) in (0..vectors).zip(seen) {
        stays(env, "IEN = 0", vector, seen)?;
    }
    Ok(())
}

fn two_queues_two_vectors(env: &mut Env<'_>) -> Outcome {
    env.need_vectors(3)?;
    env.need_pairs(2)?;
    let sqe = flush(env)?;
    pair(env, 1, Some(2))?;
    pair(env, 2, Some(1))?;
    for (qid, own, other) in [(1, 2, 1), (2, 1, 2)] {
        let (seen_own, seen_other) = (count(env, own), count(env, other));
        let token = env.nvme.submit(qid, sqe)?;
        arrives(env, "a completion", own, seen_own)?;
        env.nvme.wait(token)?;
        stays(env, "another queue's completion", other, seen_other)?;
    }
    Ok(())
}

fn shared_vector_serves_both(env: &mut Env<'_>) -> Outcome {
    env.need_vectors(1)?;
    env.need_pairs(2)?;
    let sqe = flush(env)?;
    let vector = io_vector(env);
    pair(env, 1, Some(vector))?;
    pair(env, 2, Some(vector))?;
    for qid in [1, 2, 1] {
        let seen = count(env, vector);
        let token = env.nvme.submit(qid, sqe)?;
        arrives(env, "a completion", vector, seen)?;
        env.nvme.wait(token)?;
    }
    Ok(())
}

fn last_vector_works(env: &mut Env<'_>) -> Outcome {
    env.need_vectors(2)?;
    let sqe = flush(env)?;
    let vector = env.context.found.vectors - 1;
    pair(env, IO, Some(vector))?;
    let seen = count(env, vector);
    let token = env.nvme.submit(IO, sqe)?;
    arrives(env, "a completion", vector, seen)?;
    env.nvme.wait(token).map(drop)?;
    Ok(())
}

fn masked_vector_is_pending(env: &mut Env<'_>) -> Outcome {
    env.need_vectors(2)?;
    let sqe = flush(env)?;
    let vector = 1;
    pair(env, IO, Some(vector))?;
    let before = env.nvme.transport().vector_pending(vector);
    ensure!(!before, "the pending bit is set before any completion");
    env.mask(vector, true);
    let seen = count(env, vector);
    env.nvme.submit(IO, sqe)?;
    posted(env, IO, 1)?;
    stays(env, "a masked vector", vector, seen)?;
    let pending = env.nvme.transport().vector_pending(vector);
    ensure!(
        pending,
        "the pending bit is not set after a completion under the mask"
    );
    env.mask(vector, false);
    arrives(env, "unmasking with the pending bit set", vector, seen)?;
    stays(env, "after the one interrupt", vector, seen + 1)?;
    let pending = env.nvme.transport().vector_pending(vector);
    ensure!(
        !pending,
        "the pending bit is still set after the interrupt was delivered"
    );
    Ok(())
}

fn function_mask_holds_every_vector(env: &mut Env<'_>) -> Outcome {
    env.need_vectors(2)?;
    let sqe = flush(env)?;
    let vector = 1;
    pair(env, IO, Some(vector))?;
    env.mask_function(true);
    let seen = count(env, vector);
    env.nvme.submit(IO, sqe)?;
    posted(env, IO, 1)?;
    stays(env, "under the function mask", vector, seen)?;
    let pending = env.nvme.transport().vector_pending(vector);
    ensure!(
        pending,
        "the pending bit is not set after a completion under the mask"
    );
    env.mask_function(false);
    arrives(env, "clearing the function mask", vector, seen)?;
    stays(env, "after the one interrupt", vector, seen + 1)
}

fn unmasking_alone_delivers_nothing(env: &mut Env<'_>) -> Outcome {
    env.need_vectors(2)?;
    let sqe = flush(env)?;
    let vector = 1;
    pair(env, IO, Some(vector))?;
    let seen = count(env, vector);
    let token = env.nvme.submit(IO, sqe)?;
    arrives(env, "a completion", vector, seen)?;
    env.nvme.wait(token)?;
    let seen = count(env, vector);
    for _ in 0..3 {
        env.mask(vector, true);
        env.mask(vector, false);
    }
    env.mask_function(true);
    env.mask_function(false);
    stays(env, "unmasking", vector, seen)
}

fn unconsumed_completions_survive_a_mask(env: &mut Env<'_>) -> Outcome {
    env.need_vectors(2)?;
    env.need_entries(ENTRIES)?;
    let sqe = flush(env)?;
    let vector = 1;
    pair(env, IO, Some(vector))?;
    env.mask(vector, true);
    let seen = count(env, vector);
    let mut tokens = alloc::vec::Vec::new();
    for _ in 0..5 {
        tokens.push(env.nvme.enqueue(IO, sqe)?);
    }
    env.nvme.ring(IO)?;
    posted(env, IO, 5)?;
    env.mask(vector, false);
    arrives(env, "unmasking", vector, seen)?;
    for token in tokens {
        let done = env.nvme.try_wait(token)?;
        ensure!(
            done.is_some(),
            "{token:?} is not in the queue after unmasking"
        );
    }
    // The queue works on, by interrupt.
    let seen = count(env, vector);
    let token = env.nvme.submit(IO, sqe)?;
    arrives(env, "the next completion", vector, seen)?;
    env.nvme.wait(token).map(drop)?;
    Ok(())
}

fn idle_queue_raises_none(env: &mut Env<'_>) -> Outcome {
    env.need_vectors(2)?;
    let sqe = flush(env)?;
    let vector = 1;
    pair(env, IO, Some(vector))?;
    let seen = count(env, vector);
    let token = env.nvme.submit(IO, sqe)?;
    arrives(env, "a completion", vector, seen)?;
    posted(env, IO, 1)?;
    env.settle();
    let seen = count(env, vector);
    stays(env, "an unconsumed completion", vector, seen)?;
    env.nvme.wait(token)?;
    let seen = count(env, vector);
    stays(env, "an empty queue", vector, seen)
}

fn not_more_than_completions(env: &mut Env<'_>) -> Outcome {
    const COMMANDS: u64 = 12;
    env.need_vectors(2)?;
    env.need_entries(ENTRIES)?;
    let sqe = flush(env)?;
    let vector = 1;
    pair(env, IO, Some(vector))?;
    let seen = count(env, vector);
    let mut tokens = alloc::vec::Vec::new();
    for _ in 0..COMMANDS {
        tokens.push(env.nvme.submit(IO, sqe)?);
    }
    for token in tokens {
        env.nvme.wait(token)?;
    }
    arrives(env, "twelve completions", vector, seen)?;
    env.settle();
    let came = count(env, vector) - seen;
    ensure!(
        (1..=COMMANDS).contains(&came),
        "expected 1 to {COMMANDS} interrupts for {COMMANDS} completions, found {came}"
    );
    Ok(())
}

fn none_after_reset(env: &mut Env<'_>) -> Outcome {
    env.need_vectors(2)?;
    env.need_entries(ENTRIES)?;
    let sqe = flush(env)?;
    let vector = 1;
    pair(env, IO, Some(vector))?;
    for _ in 0..15 {
        env.nvme.enqueue(IO, sqe)?;
    }
    env.nvme.ring(IO)?;
    env.nvme.disable()?;
    let seen = count(env, vector);
    stays(env, "a disabled controller", vector, seen)?;
    check::equal("CSTS.RDY", env.nvme.csts().rdy(), false)
}
