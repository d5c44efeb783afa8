//! The controller with its worker threads, in real time.

#![allow(clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/held.rs"]
mod held;

use std::{fmt::Write, sync::Arc, time::Duration};

use ferrite::nvme::{WaitPolicy, inprocess::InProcess};
use held::Held;
use nvme::{ControllerConfig, NamespaceConfig};
use nvme_host::{Buffer, Config, CqConfig, Driver, SqConfig, Token, Transport, command};
use nvme_suite::{Event, Filter, Stop};
use storage::ram::Ram;

fn config(lba_bytes: u32, shards: u16) -> ControllerConfig {
    let namespace = || {
        let device = Arc::new(Ram::new(256 << 20).expect("memory"));
        NamespaceConfig::new(device, lba_bytes)
    };
    ControllerConfig {
        namespaces: vec![namespace(), namespace()],
        shards,
        ..ControllerConfig::default()
    }
}

#[test]
fn the_suite_passes_with_threads_that_sleep_at_once_and_that_poll() {
    for (shards, spin_us) in [(1, 0), (2, 0), (2, 50)] {
        let policy = WaitPolicy {
            spin: Duration::from_micros(spin_us),
        };
        let mut machine = InProcess::with_threads(config(4096, shards), policy).expect("valid");
        let mut failures = String::new();
        let all = Filter::new("");
        let summary = nvme_suite::run(&mut machine, &all, &mut |event| {
            if let Event::Finished {
                test,
                outcome: Err(Stop::Failed(message)),
                ..
            } = event
            {
                let _ = write!(failures, "\n{}: {message}", test.full_name());
            }
        });
        assert!(summary.good(), "{shards} shards, {spin_us} us:{failures}");
    }
}

/// Bytes of a block in the test below: the largest there is, so that copying one takes longest.
const BLOCK: u64 = 65536;

fn fill(driver: &mut Driver<'_, InProcess>, buffer: Buffer, byte: u8) {
    driver
        .transport()
        .mem_write(buffer.address, &vec![byte; 65536]);
}

/// Base 2.1 and NVM 2.1.4: with AWUN 0 a single block is written and read as a whole, whichever
/// queue and thread has it. Fails when the range table takes nothing.
#[test]
fn no_read_sees_a_block_of_two_writes() {
    const ROUNDS: usize = 1500;
    let policy = WaitPolicy {
        spin: Duration::from_micros(200),
    };
    let mut machine = InProcess::with_threads(config(65536, 2), policy).expect("valid");
    let mut driver = Driver::new(&mut machine).expect("a controller");
    driver.enable(&Config::default()).expect("enabled");
    for qid in 1..=2 {
        driver.create_pair(qid, 64).expect("queues");
    }
    let writes: Vec<Buffer> = (0..4)
        .map(|_| driver.alloc(BLOCK).expect("memory"))
        .collect();
    let reads: Vec<Buffer> = (0..4)
        .map(|_| driver.alloc(BLOCK).expect("memory"))
        .collect();
    for (byte, &buffer) in (1u8..).zip(&writes) {
        fill(&mut driver, buffer, byte);
    }
    let mut mixed = 0;
    let mut bytes = vec![0; 65536];
    for round in 0..ROUNDS {
        let mut tokens: Vec<Token> = Vec::new();
        for (index, (&write, &read)) in writes.iter().zip(&reads).enumerate() {
            let (one, other) = if (round + index) % 2 == 0 {
                (1, 2)
            } else {
                (2, 1)
            };
            tokens.push(
                driver
                    .submit_data(one, command::write(1, 0, 0), write)
                    .expect("write"),
            );
            tokens.push(
                driver
                    .submit_data(other, command::read(1, 0, 0), read)
                    .expect("read"),
            );
        }
        for token in tokens {
            let cqe = driver.wait(token).expect("completed");
            assert!(cqe.status().is_success(), "{:?}", cqe.status());
        }
        for read in &reads {
            driver.transport().mem_read(read.address, &mut bytes);
            let first = bytes.first().copied();
            mixed += usize::from(bytes.iter().any(|&byte| Some(byte) != first));
        }
    }
    assert_eq!(mixed, 0, "of {} reads", ROUNDS * reads.len());
}

/// The host rings when the event index asks for it and not else, so that a wake-up that is lost
/// stops everything. Fails when the event index is not set before a worker sleeps, and when the
/// tails are not looked at once more after that.
#[test]
fn no_command_is_lost_when_only_what_is_asked_for_is_rung() {
    const ROUNDS: usize = 4000;
    for (shards, spin_us, traps) in [(1, 0, false), (2, 0, false), (2, 0, true), (2, 30, false)] {
        let policy = WaitPolicy {
            spin: Duration::from_micros(spin_us),
        };
        let mut machine = InProcess::with_threads(config(4096, shards), policy).expect("valid");
        if traps {
            machine.trap_doorbells();
        }
        let mut driver = Driver::new(&mut machine).expect("a controller");
        driver.set_shadow_doorbells(true);
        driver.set_command_timeout(5_000_000_000);
        driver.enable(&Config::default()).expect("enabled");
        // Small rings, which wrap often, and a completion queue that is full now and then.
        for (qid, entries) in [(1, 8), (2, 5)] {
            driver.create_cq(&CqConfig::new(qid, 4)).expect("queue");
            driver
                .create_sq(&SqConfig::new(qid, qid, entries))
                .expect("queue");
        }
        let before = driver.stats();
        let mut random = 0x2545_F491_4F6C_DD1D_u64;
        for round in 0..ROUNDS {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let mut tokens: Vec<Token> = Vec::new();
            for qid in 1..=2 {
                for _ in 0..=random.rotate_right(u32::from(qid) * 8) % 4 {
                    tokens.push(driver.submit(qid, command::flush(1)).expect("room"));
                    // Let the worker come to any point of going to sleep.
                    for _ in 0..random % 64 {
                        std::hint::spin_loop();
                    }
                }
            }
            for token in tokens {
                let cqe = driver.wait(token).unwrap_or_else(|error| {
                    panic!("{shards} shards, {spin_us} us, round {round}: {error}")
                });
                assert!(cqe.status().is_success(), "{:?}", cqe.status());
            }
        }
        let after = driver.stats();
        println!(
            "{shards} shards, {spin_us} us, traps {traps}: {} of {} tails and heads rung",
            after.doorbell_writes - before.doorbell_writes,
            after.doorbells - before.doorbells
        );
    }
}

#[test]
fn a_backend_that_tells_nobody_is_reaped_by_a_sleeping_worker() {
    let device = Held::new(8);
    let namespaces = vec![NamespaceConfig::new(Arc::new(device.clone()), 512)];
    let config = ControllerConfig {
        namespaces,
        ..ControllerConfig::default()
    };
    let policy = WaitPolicy {
        spin: Duration::ZERO,
    };
    let mut machine = InProcess::with_threads(config, policy).expect("valid");
    let mut driver = Driver::new(&mut machine).expect("a controller");
    driver.enable(&Config::default()).expect("enabled");
    driver.create_pair(1, 16).expect("queues");
    let token = driver.submit(1, command::flush(1)).expect("submitted");
    while device.with(|gate| gate.held) == 0 {
        driver.transport().relax();
    }
    device.release(1);
    driver.set_command_timeout(2_000_000_000);
    assert!(driver.wait(token).expect("reaped").status().is_success());
}

/// Invariant 7: a host whose controller's thread has died is told, and does not wait for ever.
#[test]
fn a_thread_that_dies_is_a_fatal_error_of_the_controller() {
    let device = Held::new(8);
    device.with(|gate| gate.deadly = true);
    let namespaces = vec![NamespaceConfig::new(Arc::new(device.clone()), 512)];
    let config = ControllerConfig {
        namespaces,
        ..ControllerConfig::default()
    };
    let policy = WaitPolicy::default();
    let mut machine = InProcess::with_threads(config, policy).expect("valid");
    let mut driver = Driver::new(&mut machine).expect("a controller");
    driver.enable(&Config::default()).expect("enabled");
    driver.create_pair(1, 16).expect("queues");
    driver.submit(1, command::flush(1)).expect("submitted");
    let end = driver.transport().now_ns() + 2_000_000_000;
    while !driver.csts().cfs() {
        assert!(driver.transport().now_ns() < end, "nobody says anything");
        driver.transport().relax();
    }
}
