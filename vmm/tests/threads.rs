//! The controller with its worker threads, in real time.

#![allow(clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/held.rs"]
mod held;

use std::{fmt::Write, sync::Arc, time::Duration};

use ferrite::nvme::{WaitPolicy, inprocess::InProcess};
use held::Held;
use nvme::{ControllerConfig, NamespaceConfig};
use nvme_host::{Buffer, Config, Driver, Token, Transport, command};
use nvme_suite::{Event, Filter, Stop};
use storage::ram::Ram;

fn config(lba_bytes: u32, shards: u16) -> ControllerConfig {
    let namespace = || {
        let device = Arc::new(Ram::new(256 << 20).expect("memory"));
        NamespaceConfig { device, lba_bytes }
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

#[test]
fn a_backend_that_tells_nobody_is_reaped_by_a_sleeping_worker() {
    let device = Held::new(8);
    let namespaces = vec![NamespaceConfig {
        device: Arc::new(device.clone()),
        lba_bytes: 512,
    }];
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
