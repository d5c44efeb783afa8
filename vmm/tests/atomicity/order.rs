//! Conflicts delay those who must wait and nobody else, and nobody for ever.

use std::time::Duration;

use ferrite::nvme::{WaitPolicy, inprocess::InProcess};
use nvme_host::{Buffer, Driver, Token, Transport, command};
use nvme_spec::Sqe;

use crate::{config, enabled, unit};

/// Bytes of a command that takes many steps.
const LONG: u64 = 4 << 20;
/// Blocks of it, zero-based.
const LONG_Z: u16 = 8191;

struct Host<'t> {
    driver: Driver<'t, InProcess>,
    data: Buffer,
}

impl<'t> Host<'t> {
    fn new(machine: &'t mut InProcess, queues: u16) -> Self {
        let mut driver = enabled(machine);
        for qid in 1..=queues {
            driver.create_pair(qid, 64).expect("queues");
        }
        let data = driver.alloc(LONG).expect("memory");
        Self { driver, data }
    }

    fn submit(&mut self, qid: u16, sqe: Sqe, blocks: u64) -> Token {
        let data = self.data.slice(0, blocks * 512);
        self.driver.submit_data(qid, sqe, data).expect("room")
    }

    fn done(&mut self, token: Token) -> bool {
        let cqe = self.driver.try_wait(token).expect("a known command");
        cqe.is_some_and(|cqe| {
            assert!(cqe.status().is_success(), "{:?}", cqe.status());
            true
        })
    }

    fn step(&mut self) {
        self.driver.transport().relax();
    }
}

/// Keeps commands going that `again` submits, and counts the steps until one on queue 1 ends.
fn steps_beside(
    shards: u16,
    one: impl Fn(&mut Host<'_>) -> Token,
    again: impl Fn(&mut Host<'_>, u16) -> Token,
) -> u32 {
    const MOST: u32 = 20_000;
    let mut machine = InProcess::new(config(512, shards, unit(65_536)), 8).expect("valid");
    let mut host = Host::new(&mut machine, 3);
    let mut others: Vec<(u16, Token)> = Vec::new();
    for qid in [2, 3, 2, 3] {
        others.push((qid, again(&mut host, qid)));
        (0..5).for_each(|_| host.step());
    }
    let waits = one(&mut host);
    for steps in 0..MOST {
        if host.done(waits) {
            return steps;
        }
        for (qid, token) in &mut others {
            if host.done(*token) {
                *token = again(&mut host, *qid);
            }
        }
        host.step();
    }
    MOST
}

#[test]
fn a_write_is_not_starved_by_readers_without_end() {
    for shards in 1..=3 {
        let steps = steps_beside(
            shards,
            |host| host.submit(1, command::write(1, 100, 0), 1),
            |host, qid| host.submit(qid, command::read(1, 0, LONG_Z), 8192),
        );
        assert!(steps < 1000, "{shards} shards: {steps} steps");
    }
}

#[test]
fn a_wide_write_is_not_starved_by_small_writes_without_end() {
    for shards in 1..=3 {
        let steps = steps_beside(
            shards,
            |host| host.submit(1, command::write(1, 0, LONG_Z), 8192),
            |host, qid| {
                // Long enough to be found in progress, in different places.
                let start = if qid == 2 { 0 } else { 4096 };
                host.submit(qid, command::write(1, start, 2047), 2048)
            },
        );
        assert!(steps < 1000, "{shards} shards: {steps} steps");
    }
}

#[test]
fn a_command_that_waits_stalls_none_behind_it_in_its_queue() {
    for shards in 1..=3 {
        let mut machine = InProcess::new(config(512, shards, unit(65_536)), 8).expect("valid");
        let mut host = Host::new(&mut machine, 3);
        let writing = host.submit(1, command::write(1, 0, LONG_Z), 8192);
        (0..3).for_each(|_| host.step());
        let waits = host.submit(2, command::read(1, 4000, 0), 1);
        let behind = host.submit(2, command::read(1, 16384, 0), 1);
        let mut steps = 0;
        while !host.done(behind) {
            assert!(
                !host.done(writing),
                "{shards} shards: the write ended first"
            );
            host.step();
            steps += 1;
            assert!(steps < 1000, "{shards} shards");
        }
        assert!(!host.done(waits), "{shards} shards: it overlaps the write");
        while !host.done(waits) {
            host.step();
        }
        assert!(
            host.done(writing),
            "{shards} shards: it was still being written"
        );
    }
}

/// Workers that sleep at once: each has to be woken for the range it waits for.
#[test]
fn a_worker_that_sleeps_is_woken_for_its_range() {
    let policy = WaitPolicy {
        spin: Duration::ZERO,
    };
    let config = config(512, 2, unit(65_536));
    let mut machine = InProcess::with_threads(config, policy).expect("valid");
    let mut host = Host::new(&mut machine, 2);
    host.driver.set_command_timeout(5_000_000_000);
    // So many, for the two meet only if both have a CPU at that moment.
    for round in 0..20_000 {
        let (one, other) = (1 + round % 2, 2 - round % 2);
        let tokens = [
            host.submit(one, command::write(1, 0, 511), 512),
            host.submit(other, command::write(1, 0, 511), 512),
            host.submit(one, command::read(1, 0, 7), 8),
        ];
        for token in tokens {
            let cqe = host.driver.wait(token).expect("woken");
            assert!(cqe.status().is_success(), "{:?}", cqe.status());
        }
    }
}
