//! Compare and Write, fused.

use alloc::vec::Vec;

use nvme_host::{Buffer, Token, command};
use nvme_spec::identify::FUSES_COMPARE_AND_WRITE;
use nvme_spec::{Cqe, Sqe, Status};

use super::place::{nlb_z, nowhere};
use crate::data::pattern;
use crate::env::IO;
use crate::{Env, Namespace, Outcome, check};

group! { "fused":
    equal_data_is_replaced, "NVM 1.1 2.1.3",
        "A fused Compare and Write of blocks that hold the compared data writes them, and both complete.";
    differing_data_stays, "NVM 1.1 2.1.3",
        "Where the Compare fails, the Write is aborted due to Failed Fused Command and writes nothing.";
    neighbours_are_left_alone, "Base 2.1 3.4.2",
        "Commands before and behind a pair, with the same doorbell, complete as if they were alone.";
    pair_may_wrap_around_the_queue, "Base 2.1 3.4.2",
        "The second command may be in the first slot when the first one is in the last.";
    first_alone_is_aborted, "Base 2.1 4.2.3.1",
        "A first command whose next entry is no second is aborted due to Missing Fused Command.";
    second_alone_is_aborted, "Base 2.1 4.2.3.1",
        "A second command without a first before it is aborted due to Missing Fused Command, and writes nothing.";
    reserved_value_is_refused, "Base 2.1 4.1.1",
        "FUSE 11b, which is reserved, completes with Invalid Field in Command.";
    different_ranges_write_nothing_when_refused, "NVM 1.1 2.1.3",
        "A pair whose commands name different blocks completes twice, and blocks whose Write is refused stay.";
    unit_is_written_whole, "NVM 1.1 4.1.5.1",
        "Compare and Write takes as many blocks as ACWU, or NACWU, allows.";
    above_the_unit_is_done_or_refused, "NVM 1.1 4.1.5.1",
        "Above ACWU, or NACWU, a pair is executed, or aborted due to Atomic Write Unit Exceeded and writes nothing.";
    wrong_data_pointer_of_the_first_writes_nothing, "NVM 1.1 2.1.3",
        "Where the Compare's data is no memory, it completes with an error, and the Write is aborted and writes nothing.";
    range_beyond_the_end_writes_nothing, "NVM 1.1 2.1.3",
        "A pair beyond the namespace's end completes with LBA Out of Range for the first, and the second is aborted.";
    pairs_of_two_queues_exclude_each_other, "Base 2.1 3.4.2",
        "Of two pairs that expect the same data and write other, on two queues at once, one succeeds.";
    writes_of_another_queue_do_not_come_between, "Base 2.1 3.4.2",
        "A write of another queue comes before the pair, which then fails, or behind it, and is what is there.";
}

/// The most data of a pair that tests move.
const MOST_BYTES: u64 = 1 << 20;

/// A namespace, if FUSES offers Compare and Write, and the queue pair [`IO`].
fn offered(env: &mut Env<'_>) -> Outcome<Namespace> {
    let fuses = env.context.controller.fuses;
    require!(
        fuses & FUSES_COMPARE_AND_WRITE != 0,
        "FUSES {fuses:#x} does not offer Compare and Write"
    );
    // Two commands, and in either ring a slot that stays empty.
    env.need_entries(3)?;
    let ns = env.ns()?;
    env.io()?;
    Ok(ns)
}

/// Writes the same pattern to each of some blocks, one by one: several may be above MDTS.
fn fill(env: &mut Env<'_>, ns: Namespace, slba: u64, blocks: u64, seed: u64) -> Outcome {
    (slba..slba + blocks).try_for_each(|slba| env.write_pattern(ns, slba, 1, seed))
}

/// Checks that each of some blocks holds the same pattern.
fn expect(env: &mut Env<'_>, ns: Namespace, slba: u64, blocks: u64, seed: u64) -> Outcome {
    (slba..slba + blocks).try_for_each(|slba| env.expect_pattern(ns, slba, 1, seed))
}

/// Both buffers of a pair, filled.
fn buffers(env: &mut Env<'_>, bytes: u64, old: u64, new: u64) -> Outcome<[Buffer; 2]> {
    let both = [env.nvme.alloc(bytes)?, env.nvme.alloc(bytes)?];
    for (buffer, seed) in both.into_iter().zip([old, new]) {
        env.nvme.copy_to(buffer, &pattern(seed, bytes));
    }
    Ok(both)
}

/// Stores both commands, without a doorbell.
fn enqueue(env: &mut Env<'_>, qid: u16, pair: [Sqe; 2], data: [Buffer; 2]) -> Outcome<[Token; 2]> {
    let [first, second] = pair;
    let [old, new] = data;
    Ok([
        env.nvme.enqueue_data(qid, first, old)?,
        env.nvme.enqueue_data(qid, second, new)?,
    ])
}

fn wait(env: &mut Env<'_>, tokens: [Token; 2]) -> Outcome<[Cqe; 2]> {
    let [first, second] = tokens;
    Ok([env.nvme.wait(first)?, env.nvme.wait(second)?])
}

/// Issues a pair on [`IO`] with one doorbell, and waits for both.
fn exec(env: &mut Env<'_>, pair: [Sqe; 2], data: [Buffer; 2]) -> Outcome<[Cqe; 2]> {
    let tokens = enqueue(env, IO, pair, data)?;
    env.nvme.ring(IO)?;
    wait(env, tokens)
}

fn both(what: &str, [first, second]: [Cqe; 2], expected: [Status; 2]) -> Outcome {
    let [one, other] = expected;
    check::status(&alloc::format!("{what}: Compare"), first, one)?;
    check::status(&alloc::format!("{what}: Write"), second, other)
}

/// What a pair completes with whose Compare differs.
const DIFFERS: [Status; 2] = [Status::COMPARE_FAILURE, Status::ABORTED_FAILED_FUSED];

fn equal_data_is_replaced(env: &mut Env<'_>) -> Outcome {
    offered(env)?;
    for ns in env.namespaces().collect::<Vec<_>>() {
        let slba = env.area(ns, 3)? + 1;
        fill(env, ns, slba - 1, 3, 1)?;
        fill(env, ns, slba, 1, 2)?;
        let data = buffers(env, ns.block_bytes, 2, 3)?;
        let cqes = exec(env, command::compare_and_write(ns.nsid, slba, 0), data)?;
        both("the data is there", cqes, [Status::SUCCESS; 2])?;
        for (slba, seed) in [(slba - 1, 1), (slba, 3), (slba + 1, 1)] {
            expect(env, ns, slba, 1, seed)?;
        }
    }
    Ok(())
}

fn differing_data_stays(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env)?;
    let slba = env.area(ns, 1)?;
    env.write_pattern(ns, slba, 1, 1)?;
    let data = buffers(env, ns.block_bytes, 2, 3)?;
    for round in 0..3 {
        let cqes = exec(env, command::compare_and_write(ns.nsid, slba, 0), data)?;
        both(&alloc::format!("round {round}"), cqes, DIFFERS)?;
        env.expect_pattern(ns, slba, 1, 1)?;
    }
    // One byte, the last.
    let mut nearly = pattern(1, ns.block_bytes);
    if let Some(last) = nearly.last_mut() {
        *last ^= 1;
    }
    let [old, _] = data;
    env.nvme.copy_to(old, &nearly);
    let cqes = exec(env, command::compare_and_write(ns.nsid, slba, 0), data)?;
    both("the last byte differs", cqes, DIFFERS)?;
    env.expect_pattern(ns, slba, 1, 1)
}

fn neighbours_are_left_alone(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env)?;
    env.need_entries(7)?;
    let slba = env.area(ns, 4)?;
    fill(env, ns, slba, 4, 1)?;
    let good = buffers(env, ns.block_bytes, 1, 2)?;
    let bad = buffers(env, ns.block_bytes, 9, 3)?;
    let single = env.nvme.alloc(ns.block_bytes)?;
    env.nvme.copy_to(single, &pattern(4, ns.block_bytes));
    let before = env
        .nvme
        .enqueue_data(IO, command::write(ns.nsid, slba, 0), single)?;
    let one = enqueue(
        env,
        IO,
        command::compare_and_write(ns.nsid, slba + 1, 0),
        good,
    )?;
    let other = enqueue(
        env,
        IO,
        command::compare_and_write(ns.nsid, slba + 2, 0),
        bad,
    )?;
    let behind = env
        .nvme
        .enqueue_data(IO, command::write(ns.nsid, slba + 3, 0), single)?;
    env.nvme.ring(IO)?;
    check::status(
        "the command before",
        env.nvme.wait(before)?,
        Status::SUCCESS,
    )?;
    let cqes = wait(env, one)?;
    both("the first pair", cqes, [Status::SUCCESS; 2])?;
    let cqes = wait(env, other)?;
    both("the second pair", cqes, DIFFERS)?;
    check::status(
        "the command behind",
        env.nvme.wait(behind)?,
        Status::SUCCESS,
    )?;
    for (at, seed) in [(0, 4), (1, 2), (2, 1), (3, 4)] {
        env.expect_pattern(ns, slba + at, 1, seed)?;
    }
    Ok(())
}

fn pair_may_wrap_around_the_queue(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env)?;
    let slba = env.area(ns, 1)?;
    env.write_pattern(ns, slba, 1, 0)?;
    // A queue of an odd number of entries: pairs begin in every slot.
    const QID: u16 = 2;
    env.need_pairs(2)?;
    env.need_entries(7)?;
    env.nvme.create_pair(QID, 7)?;
    let data = buffers(env, ns.block_bytes, 0, 1)?;
    let mut wrapped = 0;
    for round in 0..20_u64 {
        for (buffer, seed) in data.into_iter().zip([round, round + 1]) {
            env.nvme.copy_to(buffer, &pattern(seed, ns.block_bytes));
        }
        wrapped += u32::from(env.nvme.sq_tail(QID) == Some(6));
        let pair = command::compare_and_write(ns.nsid, slba, 0);
        let tokens = enqueue(env, QID, pair, data)?;
        env.nvme.ring(QID)?;
        let cqes = wait(env, tokens)?;
        both(&alloc::format!("round {round}"), cqes, [Status::SUCCESS; 2])?;
    }
    ensure!(wrapped > 0, "no pair began in the last slot");
    env.expect_pattern(ns, slba, 1, 20)
}

fn first_alone_is_aborted(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env)?;
    let slba = env.area(ns, 1)?;
    env.write_pattern(ns, slba, 1, 1)?;
    let data = buffers(env, ns.block_bytes, 1, 2)?;
    let [old, new] = data;
    let [first, _] = command::compare_and_write(ns.nsid, slba, 0);
    let plain = command::write(ns.nsid, slba, 0);
    let tokens = enqueue(env, IO, [first, plain], [old, new])?;
    env.nvme.ring(IO)?;
    let cqes = wait(env, tokens)?;
    let expected = [Status::ABORTED_MISSING_FUSED, Status::SUCCESS];
    both("a first, and a Write that is not fused", cqes, expected)?;
    env.expect_pattern(ns, slba, 1, 2)
}

fn second_alone_is_aborted(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env)?;
    let slba = env.area(ns, 1)?;
    env.write_pattern(ns, slba, 1, 1)?;
    let [old, new] = buffers(env, ns.block_bytes, 1, 2)?;
    let [_, second] = command::compare_and_write(ns.nsid, slba, 0);
    let plain = command::compare(ns.nsid, slba, 0);
    let tokens = enqueue(env, IO, [plain, second], [old, new])?;
    env.nvme.ring(IO)?;
    let cqes = wait(env, tokens)?;
    let expected = [Status::SUCCESS, Status::ABORTED_MISSING_FUSED];
    both("a Compare that is not fused, and a second", cqes, expected)?;
    let cqe = env.nvme.exec_data(IO, second, new)?;
    check::status("a second alone", cqe, Status::ABORTED_MISSING_FUSED)?;
    env.expect_pattern(ns, slba, 1, 1)
}

fn reserved_value_is_refused(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env)?;
    let slba = env.area(ns, 1)?;
    env.write_pattern(ns, slba, 1, 1)?;
    let [_, new] = buffers(env, ns.block_bytes, 1, 2)?;
    let write = command::write(ns.nsid, slba, 0);
    let cqe = env
        .nvme
        .exec_data(IO, command::with_fuse(write, 0b11), new)?;
    check::status("FUSE 11b", cqe, Status::INVALID_FIELD)?;
    env.expect_pattern(ns, slba, 1, 1)
}

fn different_ranges_write_nothing_when_refused(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env)?;
    let slba = env.area(ns, 3)?;
    let data = buffers(env, 2 * ns.block_bytes, 1, 2)?;
    let several = env.max_blocks(ns) > 1;
    for (at, write_z) in [(1, 0), (0, 1)]
        .into_iter()
        .filter(|&(_, z)| z == 0 || several)
    {
        fill(env, ns, slba, 3, 1)?;
        let [first, _] = command::compare_and_write(ns.nsid, slba, 0);
        let [_, second] = command::compare_and_write(ns.nsid, slba + at, write_z);
        let cut =
            |buffer: Buffer, nlb_z: u16| buffer.slice(0, (u64::from(nlb_z) + 1) * ns.block_bytes);
        let [old, new] = data;
        let [_, written] = exec(env, [first, second], [cut(old, 0), cut(new, write_z)])?;
        if !written.status().is_success() {
            expect(env, ns, slba, 3, 1)?;
        }
    }
    env.alive()
}

/// The most blocks of a pair, and whether the unit, not the test, says so.
fn unit(env: &Env<'_>, ns: Namespace) -> (u64, bool) {
    let unit = u64::from(ns.writes.compare_and_write);
    let most = env.max_blocks(ns).min(MOST_BYTES / ns.block_bytes);
    (unit.min(most), unit < most)
}

fn unit_is_written_whole(env: &mut Env<'_>) -> Outcome {
    offered(env)?;
    for ns in env.namespaces().collect::<Vec<_>>() {
        let (blocks, _) = unit(env, ns);
        let slba = env.area(ns, blocks + 1)? + 1;
        env.write_pattern(ns, slba, blocks, 1)?;
        let data = buffers(env, blocks * ns.block_bytes, 1, 2)?;
        let pair = command::compare_and_write(ns.nsid, slba, nlb_z(blocks));
        let cqes = exec(env, pair, data)?;
        let what = alloc::format!("{blocks} blocks");
        both(&what, cqes, [Status::SUCCESS; 2])?;
        env.expect_pattern(ns, slba, blocks, 2)?;
        let cqes = exec(env, pair, data)?;
        both(&alloc::format!("{what} again"), cqes, DIFFERS)?;
        for buffer in data {
            env.nvme.free(buffer);
        }
    }
    Ok(())
}

fn above_the_unit_is_done_or_refused(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env)?;
    let (blocks, is_units) = unit(env, ns);
    require!(is_units, "a command has no more blocks than ACWU");
    let blocks = blocks + 1;
    let slba = env.area(ns, blocks)?;
    env.write_pattern(ns, slba, blocks, 1)?;
    let data = buffers(env, blocks * ns.block_bytes, 1, 2)?;
    let pair = command::compare_and_write(ns.nsid, slba, nlb_z(blocks));
    let [first, second] = exec(env, pair, data)?;
    if second.status().is_success() {
        check::status("Compare", first, Status::SUCCESS)?;
        return env.expect_pattern(ns, slba, blocks, 2);
    }
    let exceeded = [first, second]
        .iter()
        .any(|cqe| cqe.status().same_code(Status::ATOMIC_WRITE_UNIT_EXCEEDED));
    ensure!(
        exceeded && !first.status().is_success(),
        "{blocks} blocks: neither is Atomic Write Unit Exceeded: {:?}, {:?}",
        first.status(),
        second.status()
    );
    env.expect_pattern(ns, slba, blocks, 1)
}

fn wrong_data_pointer_of_the_first_writes_nothing(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env)?;
    let slba = env.area(ns, 1)?;
    env.write_pattern(ns, slba, 1, 1)?;
    let [_, new] = buffers(env, ns.block_bytes, 1, 2)?;
    let [first, second] = command::compare_and_write(ns.nsid, slba, 0);
    let first = Sqe {
        prp1: nowhere(env),
        prp2: nowhere(env),
        ..first
    };
    let tokens = [
        env.nvme.enqueue(IO, first)?,
        env.nvme.enqueue_data(IO, second, new)?,
    ];
    env.nvme.ring(IO)?;
    let [compared, written] = wait(env, tokens)?;
    ensure!(
        !compared.status().is_success(),
        "Compare with data nowhere succeeded"
    );
    check::status("Write", written, Status::ABORTED_FAILED_FUSED)?;
    env.expect_pattern(ns, slba, 1, 1)
}

fn range_beyond_the_end_writes_nothing(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env)?;
    let data = buffers(env, ns.block_bytes, 1, 2)?;
    for slba in [ns.blocks, u64::MAX] {
        let cqes = exec(env, command::compare_and_write(ns.nsid, slba, 0), data)?;
        let expected = [Status::LBA_OUT_OF_RANGE, Status::ABORTED_FAILED_FUSED];
        both(&alloc::format!("SLBA {slba:#x}"), cqes, expected)?;
    }
    env.alive()
}

/// How often pairs are made to meet.
const ROUNDS: u64 = 40;

fn pairs_of_two_queues_exclude_each_other(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env)?;
    env.need_pairs(2)?;
    env.nvme.create_pair(2, 16)?;
    let slba = env.area(ns, 1)?;
    let (blocks, _) = unit(env, ns);
    let blocks = blocks.min(64);
    let bytes = blocks * ns.block_bytes;
    env.write_pattern(ns, slba, blocks, 0)?;
    let old = env.nvme.alloc(bytes)?;
    let new = [env.nvme.alloc(bytes)?, env.nvme.alloc(bytes)?];
    let mut there = 0;
    for round in 1..=ROUNDS {
        env.nvme.copy_to(old, &pattern(there, bytes));
        let seeds = [2 * round, 2 * round + 1];
        for (buffer, seed) in new.into_iter().zip(seeds) {
            env.nvme.copy_to(buffer, &pattern(seed, bytes));
        }
        let mut tokens = Vec::new();
        for (qid, buffer) in [IO, 2].into_iter().zip(new) {
            let pair = command::compare_and_write(ns.nsid, slba, nlb_z(blocks));
            tokens.push(enqueue(env, qid, pair, [old, buffer])?);
        }
        env.nvme.ring(IO)?;
        env.nvme.ring(2)?;
        let mut winners = Vec::new();
        for (tokens, seed) in tokens.into_iter().zip(seeds) {
            let cqes = wait(env, tokens)?;
            let [first, _] = cqes;
            if first.status().is_success() {
                both("the pair that succeeds", cqes, [Status::SUCCESS; 2])?;
                winners.push(seed);
            } else {
                both("the pair that fails", cqes, DIFFERS)?;
            }
        }
        let [winner] = winners[..] else {
            fail!("round {round}: {} of two pairs succeeded", winners.len());
        };
        there = winner;
        env.expect_pattern(ns, slba, blocks, there)?;
    }
    Ok(())
}

fn writes_of_another_queue_do_not_come_between(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env)?;
    env.need_pairs(2)?;
    env.nvme.create_pair(2, 16)?;
    let slba = env.area(ns, 1)?;
    let bytes = ns.block_bytes;
    let data = buffers(env, bytes, 0, 0)?;
    let [old, new] = data;
    let other = env.nvme.alloc(bytes)?;
    for round in 1..=ROUNDS {
        let [before, pairs, writes] = [3 * round, 3 * round + 1, 3 * round + 2];
        env.write_pattern(ns, slba, 1, before)?;
        env.nvme.copy_to(old, &pattern(before, bytes));
        env.nvme.copy_to(new, &pattern(pairs, bytes));
        env.nvme.copy_to(other, &pattern(writes, bytes));
        let pair = command::compare_and_write(ns.nsid, slba, 0);
        let tokens = enqueue(env, IO, pair, data)?;
        let write = env
            .nvme
            .enqueue_data(2, command::write(ns.nsid, slba, 0), other)?;
        for qid in if round % 2 == 0 { [IO, 2] } else { [2, IO] } {
            env.nvme.ring(qid)?;
        }
        let cqes = wait(env, tokens)?;
        check::status("the write", env.nvme.wait(write)?, Status::SUCCESS)?;
        let [first, _] = cqes;
        let expected = match first.status().is_success() {
            true => [Status::SUCCESS; 2],
            false => DIFFERS,
        };
        both(&alloc::format!("round {round}"), cqes, expected)?;
        env.expect_pattern(ns, slba, 1, writes)?;
    }
    Ok(())
}
