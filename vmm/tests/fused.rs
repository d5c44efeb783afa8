//! Compare and Write, fused: where fetching could part the two, and threads that race.

#![allow(clippy::expect_used, clippy::panic, reason = "tests")]

use std::{sync::Arc, time::Duration};

use ferrite::nvme::{WaitPolicy, inprocess::InProcess};
use nvme::{ControllerConfig, NamespaceConfig};
use nvme_host::{Buffer, Config, CqConfig, Driver, SqConfig, Token, Transport, command};
use nvme_spec::Status;
use storage::ram::Ram;

fn config(lba_bytes: u32, shards: u16) -> ControllerConfig {
    let device = Arc::new(Ram::new(16 << 20).expect("memory"));
    ControllerConfig {
        namespaces: vec![NamespaceConfig::new(device, lba_bytes)],
        shards,
        ..ControllerConfig::default()
    }
}

fn enabled(machine: &mut InProcess) -> Driver<'_, InProcess> {
    let mut driver = Driver::new(machine).expect("a controller");
    driver.enable(&Config::default()).expect("enabled");
    driver
}

/// Buffers of a block each, in order full of 0, 1, 2, ...
fn numbered(driver: &mut Driver<'_, InProcess>, bytes: u64, count: u8) -> Vec<Buffer> {
    let length = usize::try_from(bytes).expect("small");
    let buffer = |byte| {
        let buffer = driver.alloc(bytes).expect("memory");
        let data = vec![byte; length];
        driver.transport().mem_write(buffer.address, &data);
        buffer
    };
    (0..count).map(buffer).collect()
}

/// Stores a pair that replaces block 0, full of one number, by another.
fn enqueue(driver: &mut Driver<'_, InProcess>, qid: u16, old: Buffer, new: Buffer) -> [Token; 2] {
    let [first, second] = command::compare_and_write(1, 0, 0);
    [
        driver.enqueue_data(qid, first, old).expect("room"),
        driver.enqueue_data(qid, second, new).expect("room"),
    ]
}

fn block(driver: &mut Driver<'_, InProcess>, qid: u16, bytes: u64) -> Vec<u8> {
    let buffer = driver.alloc(bytes).expect("memory");
    let read = driver.exec_data(qid, command::read(1, 0, 0), buffer);
    assert!(read.expect("completed").status().is_success());
    let mut data = vec![0; usize::try_from(bytes).expect("small")];
    driver.copy_from(buffer, &mut data);
    data
}

/// More pairs than a batch has entries, with an entry before them so that the batch ends within a
/// pair, under schedules that give a queue a command at a time. Fails when a pair is parted where
/// the batch, the burst or the ring ends.
#[test]
fn pairs_stay_together_however_they_are_fetched() {
    for seed in 0..24 {
        let mut machine = InProcess::new(config(512, 1), seed).expect("valid");
        let mut driver = enabled(&mut machine);
        driver.create_pair(1, 101).expect("queues");
        let numbers = numbered(&mut driver, 512, 46);
        let spare = driver.alloc(512).expect("memory");
        // From another slot each time, around the end of the ring.
        for lead in 0..seed % 7 {
            let read = driver.exec_data(1, command::read(1, lead, 0), spare);
            assert!(read.expect("completed").status().is_success());
        }
        let read = driver
            .enqueue_data(1, command::read(1, 0, 0), spare)
            .expect("room");
        let mut pairs = Vec::new();
        for (&old, &new) in numbers.iter().zip(&numbers[1..]) {
            pairs.push(enqueue(&mut driver, 1, old, new));
        }
        driver.ring(1).expect("a queue");
        let status = driver.wait(read).expect("completed").status();
        assert!(status.is_success(), "{status:?}");
        for token in pairs.into_iter().flatten() {
            let status = driver.wait(token).expect("completed").status();
            assert!(status.is_success(), "seed {seed}: {status:?}");
        }
        assert_eq!(block(&mut driver, 1, 512), [45; 512]);
    }
}

/// Both completions have their slots before one of the commands is executed. Fails when the pair
/// is fetched for one free slot.
#[test]
fn a_pair_waits_for_two_completion_slots() {
    for (seed, shadow) in (0..16).map(|seed| (seed, seed % 2 == 1)) {
        let mut machine = InProcess::new(config(512, 1), seed).expect("valid");
        let mut driver = Driver::new(&mut machine).expect("a controller");
        // With heads in memory the shard has to ask for the one that frees the second slot.
        driver.set_shadow_doorbells(shadow);
        driver.enable(&Config::default()).expect("enabled");
        driver.create_cq(&CqConfig::new(1, 3)).expect("a queue");
        driver.create_sq(&SqConfig::new(1, 1, 16)).expect("a queue");
        let numbers = numbered(&mut driver, 512, 2);
        let flush = driver.enqueue(1, command::flush(1)).expect("room");
        let [first, second] = enqueue(&mut driver, 1, numbers[0], numbers[1]);
        driver.ring(1).expect("a queue");
        for _ in 0..200 {
            driver.transport().relax();
        }
        // One of the two slots is taken and not given back.
        let cqe = driver.poll(1).expect("a queue").expect("the flush");
        assert_eq!((cqe.cid, cqe.sqhd), (flush.cid, 1), "seed {seed}");
        for _ in 0..200 {
            driver.transport().relax();
        }
        assert_eq!(driver.poll(1).expect("a queue"), None, "half of a pair");
        driver.ack(1).expect("a queue");
        for token in [first, second] {
            let status = driver.wait(token).expect("completed").status();
            assert!(status.is_success(), "seed {seed}: {status:?}");
        }
    }
}

/// A completion queue of two entries holds one completion: there a pair cannot be, and is not
/// waited for either.
#[test]
fn a_pair_for_a_completion_queue_of_two_entries_is_aborted() {
    let mut machine = InProcess::new(config(512, 1), 1).expect("valid");
    let mut driver = enabled(&mut machine);
    driver.create_cq(&CqConfig::new(1, 2)).expect("a queue");
    driver.create_sq(&SqConfig::new(1, 1, 16)).expect("a queue");
    let numbers = numbered(&mut driver, 512, 2);
    let tokens = enqueue(&mut driver, 1, numbers[0], numbers[1]);
    driver.ring(1).expect("a queue");
    for token in tokens {
        let status = driver.wait(token).expect("completed").status();
        assert!(
            status.same_code(Status::ABORTED_MISSING_FUSED),
            "{status:?}"
        );
    }
    assert_eq!(block(&mut driver, 1, 512), [0; 512]);
}

/// Pairs that are wrong complete with the statuses that the documents give, and write nothing.
#[test]
fn wrong_pairs_are_refused_with_their_statuses() {
    let mut machine = InProcess::new(config(512, 1), 1).expect("valid");
    let mut driver = enabled(&mut machine);
    driver.create_pair(1, 16).expect("queues");
    let numbers = numbered(&mut driver, 1024, 2);
    let pair = |nsid, slba, nlb_z| command::compare_and_write(nsid, slba, nlb_z);
    let [compare, write] = pair(1, 0, 0);
    let first = |sqe| command::with_fuse(sqe, 0b01);
    let second = |sqe| command::with_fuse(sqe, 0b10);
    let (failed, missing) = (Status::ABORTED_FAILED_FUSED, Status::ABORTED_MISSING_FUSED);
    let invalid = Status::INVALID_FIELD;
    for (what, sqes, expected) in [
        (
            "another SLBA",
            [compare, pair(1, 1, 0)[1]],
            [invalid, invalid],
        ),
        (
            "another NLB",
            [compare, pair(1, 0, 1)[1]],
            [invalid, invalid],
        ),
        (
            "another NSID",
            [compare, pair(2, 0, 0)[1]],
            [invalid, invalid],
        ),
        (
            "above ACWU",
            pair(1, 0, 1),
            [Status::ATOMIC_WRITE_UNIT_EXCEEDED, failed],
        ),
        (
            "no such namespace",
            pair(2, 0, 0),
            [Status::INVALID_NAMESPACE, failed],
        ),
        ("two firsts", [compare, first(write)], [missing, invalid]),
        ("two seconds", [second(compare), write], [invalid, missing]),
        (
            "the other way round",
            [first(write), second(compare)],
            [invalid, invalid],
        ),
        (
            "Read and Write",
            [first(command::read(1, 0, 0)), write],
            [invalid, missing],
        ),
        (
            "a second of no known opcode",
            [compare, second(command::nvm(nvme_spec::NvmOpcode(0x7F), 1))],
            [missing, Status::INVALID_OPCODE],
        ),
    ] {
        let tokens = [(sqes[0], numbers[0]), (sqes[1], numbers[1])]
            .map(|(sqe, data)| driver.enqueue_data(1, sqe, data).expect("room"));
        driver.ring(1).expect("a queue");
        for (token, expected) in tokens.into_iter().zip(expected) {
            let status = driver.wait(token).expect("completed").status();
            assert!(
                status.same_code(expected),
                "{what}: {status:?}, not {expected:?}"
            );
        }
        assert_eq!(block(&mut driver, 1, 512), [0; 512], "{what}");
    }
    let identify = command::identify(nvme_spec::Cns::CONTROLLER, 0);
    for fuse in 1..=3 {
        let sqe = command::with_fuse(identify, fuse);
        let data = driver.alloc(4096).expect("memory");
        let cqe = driver.exec_data(0, sqe, data).expect("completed");
        assert!(cqe.status().same_code(invalid), "admin, FUSE {fuse:02b}b");
    }
}

/// Several threads increment a block by pairs that expect the same: one of them succeeds each
/// time, so no increment is lost. Fails when the two commands of a pair take their blocks one
/// after the other.
#[test]
fn no_increment_of_several_threads_is_lost() {
    const SHARDS: u16 = 4;
    const BYTES: u64 = 65_536;
    let policy = WaitPolicy {
        spin: Duration::from_micros(100),
    };
    let mut machine = InProcess::with_threads(config(65_536, SHARDS), policy).expect("valid");
    let mut driver = enabled(&mut machine);
    for qid in 1..=SHARDS {
        driver.create_pair(qid, 16).expect("queues");
    }
    let numbers = numbered(&mut driver, BYTES, 250);
    for round in 0..1000usize {
        let at = round % (numbers.len() - 1);
        let (old, new) = (numbers[at], numbers[at + 1]);
        if at == 0 {
            let zero = driver.exec_data(1, command::write(1, 0, 0), old);
            assert!(zero.expect("completed").status().is_success());
        }
        let tokens: Vec<[Token; 2]> = (1..=SHARDS)
            .map(|qid| enqueue(&mut driver, qid, old, new))
            .collect();
        for qid in 1..=SHARDS {
            driver.ring(qid).expect("a queue");
        }
        let mut succeeded = 0;
        for pair in tokens {
            let [first, second] = pair.map(|token| driver.wait(token).expect("done").status());
            if first.is_success() && second.is_success() {
                succeeded += 1;
                continue;
            }
            assert!(
                first.same_code(Status::COMPARE_FAILURE)
                    && second.same_code(Status::ABORTED_FAILED_FUSED),
                "{first:?}, {second:?}"
            );
        }
        assert_eq!(succeeded, 1, "of {SHARDS} pairs in round {round}");
    }
}
