//! Interrupt Coalescing and its switch for a vector.
//!
//! The threshold and the time are recommendations: a controller may signal earlier. What it may
//! not do is lose the interrupt, or hold back one that coalescing does not apply to.

use nvme_host::{Config, command};
use nvme_spec::feature::{InterruptCoalescing, InterruptVectorConfig};
use nvme_spec::{FeatureId, Sqe, Status};

use super::features::{changeable, get, set};
use super::interrupts::{arrives, count, flush, pair};
use crate::env::IO;
use crate::{Env, Outcome, check};

group! { "coalescing":
    values_are_kept, "PCIe 1.1 3.3",
        "The aggregation threshold and the aggregation time that were set are read back.";
    reserved_bits_are_not_kept, "PCIe 1.1 3.3",
        "Reserved bits of the value are refused with Invalid Field in Command or not read back.";
    reset_turns_it_off, "PCIe 1.1 3.3",
        "After a Controller Reset threshold and time are 0, and no vector has Coalescing Disable set.";
    completions_share_an_interrupt, "PCIe 1.1 3.3",
        "Completions fewer than the threshold, within the time, raise no interrupt each; one comes when the time is over.";
    threshold_raises_before_the_time, "PCIe 1.1 3.3",
        "As many completions as the threshold raise an interrupt without waiting for the time.";
    last_completion_is_told, "PCIe 1.1 3.3",
        "Whatever threshold and time are, the last completion's interrupt comes.";
    without_time_nothing_waits, "PCIe 1.1 3.3",
        "With an aggregation time or threshold of 0 each completion's interrupt comes.";
    disabled_vector_does_not_wait, "PCIe 1.1 3.3",
        "A vector with Coalescing Disable raises its interrupts at once.";
    disabling_one_vector_leaves_others, "PCIe 1.1 3.3",
        "Coalescing Disable is kept for each vector by itself.";
    admin_queue_does_not_wait, "PCIe 1.1 3.3",
        "Coalescing is for I/O queues: the admin queue's interrupt comes at once.";
    turning_it_off_leaves_no_interrupt_behind, "PCIe 1.1 3.3",
        "An interrupt that waits when coalescing is turned off still comes.";
}

const FID: FeatureId = FeatureId::INTERRUPT_COALESCING;
/// The vector of the I/O queue in these tests.
const VECTOR: u16 = 1;
/// The unit of the aggregation time.
const TIME_UNIT_NS: u64 = 100_000;
/// The longest aggregation time, in its unit: 25.5 ms.
const LONGEST: u8 = u8::MAX;
/// How much later than the aggregation time an interrupt may come, for the machine's sake.
const SLACK_NS: u64 = 1_000_000_000;
/// How often a measurement is made, of which one has to be undisturbed.
const ATTEMPTS: u32 = 10;

fn coalesce(env: &mut Env<'_>, thr_z: u8, time: u8) -> Outcome {
    let value = InterruptCoalescing::new().with_thr_z(thr_z).with_time(time);
    set(env, FID, value.into())
}

fn disable(env: &mut Env<'_>, iv: u16, cd: bool) -> Outcome {
    let value = InterruptVectorConfig::new().with_iv(iv).with_cd(cd);
    set(env, FeatureId::INTERRUPT_VECTOR_CONFIG, value.into())
}

/// A queue pair on [`VECTOR`], not the admin queue's, and a command for it.
fn queue(env: &mut Env<'_>) -> Outcome<Sqe> {
    env.need_vectors(2)?;
    let sqe = flush(env)?;
    pair(env, IO, Some(VECTOR))?;
    Ok(sqe)
}

/// Waits until no interrupt of a vector is on its way.
fn quiet(env: &mut Env<'_>) {
    env.nvme
        .pause(u64::from(LONGEST) * TIME_UNIT_NS + 2 * TIME_UNIT_NS);
    env.settle();
}

/// Issues commands one after the other, and waits for the interrupt. Returns how long it took
/// from the first command to the interrupt.
fn interrupt_after(env: &mut Env<'_>, sqe: Sqe, commands: u32) -> Outcome<u64> {
    let seen = count(env, VECTOR);
    let start = env.nvme.transport().now_ns();
    for _ in 0..commands {
        env.nvme.io_ok(IO, sqe)?;
    }
    arrives(env, "coalesced completions", VECTOR, seen)?;
    Ok(env.nvme.transport().now_ns().saturating_sub(start))
}

/// Checks that of some tries at least one takes less than half the longest aggregation time; a
/// busy machine may delay the others.
fn prompt(
    env: &mut Env<'_>,
    what: &str,
    mut attempt: impl FnMut(&mut Env<'_>) -> Outcome<u64>,
) -> Outcome {
    let limit = u64::from(LONGEST) * TIME_UNIT_NS / 2;
    let mut least = u64::MAX;
    for _ in 0..ATTEMPTS {
        least = least.min(attempt(env)?);
        if least < limit {
            return Ok(());
        }
        quiet(env);
    }
    fail!("{what}: expected an interrupt within {limit} ns, found {least} ns at best")
}

fn values_are_kept(env: &mut Env<'_>) -> Outcome {
    for (thr_z, time) in [(0, 0), (7, 1), (0xFF, 0xFF), (0, 10), (3, 0)] {
        let value = InterruptCoalescing::new().with_thr_z(thr_z).with_time(time);
        set(env, FID, value.into())?;
        let found = get(env, FID, 0)?;
        check::equal_hex("Interrupt Coalescing", found, value.into())?;
    }
    Ok(())
}

fn reserved_bits_are_not_kept(env: &mut Env<'_>) -> Outcome {
    let value = u32::from(InterruptCoalescing::new().with_thr_z(2).with_time(3));
    let cqe = env
        .nvme
        .admin(command::set_features(FID, value | 0xFFFF_0000))?;
    changeable(env, FID, cqe)?;
    check::one_of(
        "reserved bits",
        cqe,
        &[Status::SUCCESS, Status::INVALID_FIELD],
    )?;
    let found = get(env, FID, 0)?;
    check::equal_hex("reserved bits", found & 0xFFFF_0000, 0)?;
    let expected = if cqe.status().is_success() { value } else { 0 };
    check::equal_hex("Interrupt Coalescing", found, expected)
}

fn reset_turns_it_off(env: &mut Env<'_>) -> Outcome {
    env.need_vectors(2)?;
    coalesce(env, 9, 9)?;
    disable(env, VECTOR, true)?;
    env.restart(&Config::default())?;
    check::equal_hex("Interrupt Coalescing", get(env, FID, 0)?, 0)?;
    let found = get(env, FeatureId::INTERRUPT_VECTOR_CONFIG, VECTOR.into())?;
    let found = InterruptVectorConfig::from(found);
    check::equal("Coalescing Disable", found.cd(), false)
}

fn completions_share_an_interrupt(env: &mut Env<'_>) -> Outcome {
    const COMMANDS: u64 = 8;
    let sqe = queue(env)?;
    coalesce(env, 0xFF, LONGEST)?;
    let time = u64::from(LONGEST) * TIME_UNIT_NS;
    for _ in 0..ATTEMPTS {
        quiet(env);
        let seen = count(env, VECTOR);
        let start = env.nvme.transport().now_ns();
        for _ in 0..COMMANDS {
            env.nvme.io_ok(IO, sqe)?;
        }
        let early = count(env, VECTOR) - seen;
        let took = env.nvme.transport().now_ns().saturating_sub(start);
        let arrived = env
            .nvme
            .transport()
            .wait_interrupt(VECTOR, seen, time + SLACK_NS);
        ensure!(arrived, "no interrupt within the time and a second");
        if took >= time {
            continue;
        }
        require!(
            early == 0,
            "the controller raised {early} interrupts before threshold and time, which it may"
        );
        quiet(env);
        let came = count(env, VECTOR) - seen;
        ensure!(
            came < COMMANDS,
            "expected fewer than {COMMANDS} interrupts for as many completions, found {came}"
        );
        return Ok(());
    }
    skip!("{COMMANDS} commands took longer than {time} ns each time")
}

fn threshold_raises_before_the_time(env: &mut Env<'_>) -> Outcome {
    let sqe = queue(env)?;
    coalesce(env, 3, LONGEST)?;
    prompt(env, "a threshold of four completions", |env| {
        interrupt_after(env, sqe, 4)
    })
}

fn last_completion_is_told(env: &mut Env<'_>) -> Outcome {
    let sqe = queue(env)?;
    for (thr_z, time, commands) in [(0xFF, 1, 1), (0xFF, LONGEST, 1), (1, 20, 3), (3, 20, 5)] {
        coalesce(env, thr_z, time)?;
        for _ in 0..3 {
            let seen = count(env, VECTOR);
            for _ in 1..commands {
                env.nvme.io_ok(IO, sqe)?;
            }
            // Those before may have raised theirs.
            if commands > 1 {
                arrives(env, "the completions before", VECTOR, seen)?;
            }
            quiet(env);
            let seen = count(env, VECTOR);
            let token = env.nvme.submit(IO, sqe)?;
            let limit = u64::from(time) * TIME_UNIT_NS + SLACK_NS;
            let arrived = env.nvme.transport().wait_interrupt(VECTOR, seen, limit);
            ensure!(
                arrived,
                "threshold {thr_z}, time {time}: no interrupt for the last completion in {limit} ns"
            );
            env.nvme.wait(token)?;
        }
    }
    Ok(())
}

fn without_time_nothing_waits(env: &mut Env<'_>) -> Outcome {
    let sqe = queue(env)?;
    for (thr_z, time) in [(0xFF, 0), (0, 0), (0, LONGEST)] {
        coalesce(env, thr_z, time)?;
        let what = alloc::format!("threshold {thr_z}, time {time}");
        if time == 0 {
            prompt(env, &what, |env| interrupt_after(env, sqe, 1))?;
        } else {
            interrupt_after(env, sqe, 1)?;
        }
    }
    Ok(())
}

fn disabled_vector_does_not_wait(env: &mut Env<'_>) -> Outcome {
    let sqe = queue(env)?;
    coalesce(env, 0xFF, LONGEST)?;
    disable(env, VECTOR, true)?;
    quiet(env);
    prompt(env, "Coalescing Disable", |env| {
        interrupt_after(env, sqe, 1)
    })?;
    // And again with coalescing.
    disable(env, VECTOR, false)?;
    interrupt_after(env, sqe, 1).map(drop)
}

fn disabling_one_vector_leaves_others(env: &mut Env<'_>) -> Outcome {
    env.need_vectors(3)?;
    disable(env, 2, true)?;
    for (iv, cd) in [(1, false), (2, true)] {
        let found = get(env, FeatureId::INTERRUPT_VECTOR_CONFIG, iv.into())?;
        let found = InterruptVectorConfig::from(found);
        check::equal("Interrupt Vector", found.iv(), iv)?;
        check::equal("Coalescing Disable", found.cd(), cd)?;
    }
    disable(env, 2, false)
}

fn admin_queue_does_not_wait(env: &mut Env<'_>) -> Outcome {
    env.need_vectors(1)?;
    coalesce(env, 0xFF, LONGEST)?;
    quiet(env);
    prompt(env, "the admin queue", |env| {
        let seen = count(env, 0);
        let start = env.nvme.transport().now_ns();
        get(env, FID, 0)?;
        arrives(env, "an admin completion", 0, seen)?;
        Ok(env.nvme.transport().now_ns().saturating_sub(start))
    })
}

fn turning_it_off_leaves_no_interrupt_behind(env: &mut Env<'_>) -> Outcome {
    let sqe = queue(env)?;
    for _ in 0..3 {
        coalesce(env, 0xFF, LONGEST)?;
        quiet(env);
        let seen = count(env, VECTOR);
        env.nvme.io_ok(IO, sqe)?;
        coalesce(env, 0, 0)?;
        arrives(env, "a completion before the change", VECTOR, seen)?;
    }
    Ok(())
}
