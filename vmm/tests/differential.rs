//! Random commands, right and wrong, on several queues, against an oracle (`nvme_oracle`).
//!
//! A seed decides everything: the configuration, its backends, the schedule of the shards, and
//! what the host does. A failure prints the shortest run that was found, and how to run it again.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

#[path = "support/seeds.rs"]
mod seeds;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ferrite::nvme::{
    WaitPolicy,
    inprocess::{InProcess, Schedule},
};
use nvme::{CacheMode, ControllerConfig, Extent, NamespaceAtomics, NamespaceConfig};
use nvme_oracle::{Choices, Failure, Options, Report, Seeded, Traits, Unsteady, run, shrink};
use seeds::Seeds;
use storage::{BlockDevice, ram::Ram};

/// Runs that may be spent on making a failing one shorter, and how long.
const SHRINKING: u32 = 300;
/// See [`SHRINKING`].
const SHRINKING_TIME: Duration = Duration::from_secs(20);

/// What a seed makes, but for the devices' content.
struct Case {
    config: ControllerConfig,
    options: Options,
    what: String,
}

/// A controller of a seed, with fresh devices.
fn case(seed: u64) -> Case {
    let mut seeded = Seeded::new(seed);
    let choices: &mut dyn Choices = &mut seeded;
    choices.begin(u64::MAX);
    let shards = u16::try_from(choices.range(1..=4)).unwrap_or(1);
    let faulty = choices.one_in(4);
    let lbas = [512, 512, 4096, 4096, 16_384, 65_536];
    let mut what = String::new();
    let namespaces: Vec<NamespaceConfig> = (0..choices.range(1..=3))
        .map(|index| {
            let lba_bytes: u32 = choices.pick(&lbas);
            let block = u64::from(lba_bytes);
            let bytes = block * choices.range(24..=(1 << 20).max(32 * block) / block);
            let device: Arc<dyn BlockDevice> = if choices.one_in(3) {
                what += &format!("\n  namespace of {lba_bytes}: Ram of {bytes}");
                Arc::new(Ram::new(bytes).expect("memory"))
            } else {
                let grain = choices.pick(&[64, 512, 4096]);
                let mut traits = Traits::of(seed + index, block, grain);
                traits.failing = if faulty { choices.range(2..=40) } else { 0 };
                let device = Unsteady::new(bytes, traits, seed + index);
                what += &format!("\n  namespace of {lba_bytes}: {device:?}");
                Arc::new(device)
            };
            let blocks = |count: u32| (count > 0).then_some(Extent::Blocks(count));
            let unit = choices.pick(&[0, 1, 2, 8, 100]);
            let between = choices.pick(&[0, 0, 100, 128]);
            let atomics = NamespaceAtomics {
                normal: blocks(unit),
                boundary: blocks(between),
                boundary_offset: blocks(if between > 0 {
                    u32::try_from(choices.below(50)).unwrap_or(0)
                } else {
                    0
                }),
                multiple: between > 0 && choices.one_in(2),
                ..NamespaceAtomics::default()
            };
            NamespaceConfig {
                atomics,
                ..NamespaceConfig::new(device, lba_bytes)
            }
        })
        .collect();
    let largest = namespaces.iter().map(|n| n.lba_bytes).max().unwrap_or(512);
    let config = ControllerConfig {
        shards,
        io_queues: u16::try_from(choices.range(1..=8)).unwrap_or(1),
        queue_entries: choices.pick(&[1024, 64, 8, 2]),
        vectors: choices.pick(&[9, 1, 3]),
        mdts_bytes: choices.pick(&[8192, 65_536, 262_144, 524_288]).max(largest),
        cache: choices.pick(&[CacheMode::None, CacheMode::Volatile]),
        namespaces,
        seed,
        ..ControllerConfig::default()
    };
    let options = Options {
        steps: 500,
        io_queues: config.io_queues,
        faulty,
        ..Options::default()
    };
    Case {
        config,
        options,
        what,
    }
}

/// One stepped run of a seed.
fn stepped(seed: u64, options: &Options) -> Result<Report, Failure> {
    let Case { config, .. } = case(seed);
    let mut machine = InProcess::with_schedule(config, Schedule::any(seed)).expect("valid");
    run(&mut machine, &mut Seeded::new(seed), options)
}

fn stepped_seed(seed: u64) -> Result<u64, String> {
    let Case {
        config,
        options,
        what,
    } = case(seed);
    let failure = match stepped(seed, &options) {
        Ok(report) => return Ok(report.completed),
        Err(failure) => failure,
    };
    let first = format!("step {}: {}", failure.step, failure.what);
    if seeds::brief() {
        return Err(first);
    }
    let start = Instant::now();
    let again = |options: &Options| {
        let in_time = options.trace || start.elapsed() < SHRINKING_TIME;
        in_time.then(|| stepped(seed, options).err()).flatten()
    };
    let (_, shortest) = shrink(&options, failure, SHRINKING, again);
    Err(format!(
        "{first}\n  {config:?}\n  {:?}{what}\n  the shortest run found that fails:\n{shortest}",
        Schedule::any(seed)
    ))
}

#[test]
fn random_hosts_find_nothing_illegal() {
    let test = "random_hosts_find_nothing_illegal";
    Seeds::counted(60).run("differential", test, false, stepped_seed);
}

#[test]
#[ignore = "slow: two minutes of random hosts"]
fn random_hosts_find_nothing_illegal_for_long() {
    let test = "random_hosts_find_nothing_illegal_for_long";
    Seeds::timed(120).run("differential", test, true, stepped_seed);
}

/// The same with worker threads: what happens when is not the seed's then, but what may happen is
/// the same.
fn threaded_seed(seed: u64) -> Result<u64, String> {
    let Case {
        config,
        options,
        what,
    } = case(seed);
    let options = Options {
        exact: false,
        trace: true,
        patience_ns: 20_000_000_000,
        ..options
    };
    let policy = WaitPolicy {
        spin: Duration::from_micros(seed % 3 * 40),
    };
    let described = format!("{config:?}{what}");
    let mut machine = InProcess::with_threads(config, policy).expect("valid");
    let report = run(&mut machine, &mut Seeded::new(seed), &options);
    report
        .map(|report| report.completed)
        .map_err(|failure| format!("{described}\n{failure}"))
}

#[test]
fn random_hosts_find_nothing_illegal_with_threads() {
    let test = "random_hosts_find_nothing_illegal_with_threads";
    Seeds::counted(12).run("differential", test, false, threaded_seed);
}

#[test]
#[ignore = "slow: random hosts in real time"]
fn random_hosts_find_nothing_illegal_with_threads_for_long() {
    let test = "random_hosts_find_nothing_illegal_with_threads_for_long";
    Seeds::timed(40).run("differential", test, true, threaded_seed);
}
