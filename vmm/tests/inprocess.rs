//! The conformance suite on the controller in this process: no KVM, no thread, a stepped clock.
//!
//! The same list runs in the guest (`ferrite selftest`). Here it runs over block sizes, queue
//! counts, shards and schedules that would take too long there.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

#[path = "support/seeds.rs"]
mod seeds;

use std::{fmt::Write, sync::Arc};

use ferrite::nvme::inprocess::{InProcess, Schedule};
use nvme::{AtomicUnits, CacheMode, ControllerConfig, Extent, NamespaceConfig};
use nvme_host::{Config, Driver};
use nvme_spec::registers::Vs;
use nvme_suite::{Doorbells, Event, Filter, Stop, Summary};
use seeds::Seeds;
use storage::{media::Media, ram::Ram};

fn namespace(lba_bytes: u32) -> NamespaceConfig {
    let device = Arc::new(Ram::new(256 << 20).expect("memory"));
    NamespaceConfig {
        formats: formats(lba_bytes, &[512, 4096]),
        ..NamespaceConfig::new(device, lba_bytes)
    }
}

/// Block sizes, and one more if it is not among them.
fn formats(lba_bytes: u32, others: &[u32]) -> Vec<u32> {
    let mut formats = others.to_vec();
    formats.push(lba_bytes);
    formats.sort_unstable();
    formats.dedup();
    formats
}

/// The configuration that most tests start from: two namespaces of a block size.
fn config(lba_bytes: u32) -> ControllerConfig {
    ControllerConfig {
        namespaces: vec![namespace(lba_bytes), namespace(lba_bytes)],
        ..ControllerConfig::default()
    }
}

/// Runs the suite and panics with every failure, the configuration and the seed.
fn suite(config: ControllerConfig, seed: u64, filter: &str) -> Summary {
    let what = format!("{config:?} seed {seed}");
    let mut machine = InProcess::new(config, seed).expect(&what);
    let (summary, failures) = run(&mut machine, Doorbells::Registers, filter);
    assert!(summary.good(), "{what}:{failures}");
    summary
}

/// Runs the suite; the summary, and every failure.
fn run(machine: &mut InProcess, doorbells: Doorbells, filter: &str) -> (Summary, String) {
    let mut failures = String::new();
    let summary =
        nvme_suite::run_with(
            machine,
            &Filter::new(filter),
            doorbells,
            &mut |event| match event {
                Event::Finished {
                    test,
                    outcome: Err(Stop::Failed(message)),
                    ..
                } => {
                    let _ = write!(
                        failures,
                        "\n{}: {message}\n    {}",
                        test.full_name(),
                        test.rule
                    );
                }
                Event::BailOut(reason) => {
                    let _ = write!(failures, "\nbail out: {reason}");
                }
                _ => {}
            },
        );
    (summary, failures)
}

#[test]
fn every_block_size_passes() {
    for lba_bytes in [512, 4096, 16384, 65536] {
        suite(config(lba_bytes), 1, "");
    }
    // One format, and blocks as large as they come.
    let device = Arc::new(Ram::new(256 << 20).expect("memory"));
    let large = ControllerConfig {
        namespaces: vec![NamespaceConfig::new(device, 1 << 20)],
        mdts_bytes: 2 << 20,
        ..ControllerConfig::default()
    };
    suite(large, 1, "");
}

/// The whole suite in each LBA format, each come to by a Format NVM, with atomic units and an
/// indirection unit that are another number of blocks in each.
#[test]
fn every_format_passes_after_a_format() {
    const SIZES: [u32; 4] = [512, 4096, 65536, 16384];
    for shards in [1, 3] {
        let namespace = || {
            let ram = Arc::new(Ram::new(64 << 20).expect("memory"));
            NamespaceConfig {
                formats: SIZES.to_vec(),
                ..NamespaceConfig::new(Arc::new(Media::new(ram, 16384).expect("a unit")), 4096)
            }
        };
        let config = ControllerConfig {
            namespaces: vec![namespace(), namespace()],
            atomics: AtomicUnits {
                normal: Some(Extent::Bytes(32 << 10)),
                power_fail: Some(Extent::Bytes(16 << 10)),
                ..AtomicUnits::default()
            },
            shards,
            ..ControllerConfig::default()
        };
        let mut machine = InProcess::new(config, 5).expect("valid");
        for (index, size) in (0..).zip(SIZES) {
            let mut driver = Driver::new(&mut machine).expect("a controller");
            driver.reset().expect("reset");
            driver.enable(&Config::default()).expect("enabled");
            for nsid in 1..=2 {
                driver.format(nsid, index).expect("formatted");
                let identify = driver.identify_namespace(nsid).expect("identified");
                let unit = |bytes: u32| u16::try_from(bytes.div_ceil(size) - 1).expect("small");
                assert_eq!(identify.nsze, (64 << 20) / u64::from(size));
                assert_eq!(
                    (identify.nawun_z, identify.npwg_z),
                    (unit(32768), unit(16384))
                );
            }
            let (summary, failures) = run(&mut machine, Doorbells::Registers, "");
            assert!(
                summary.good(),
                "blocks of {size}, {shards} shards:{failures}"
            );
            assert!(summary.passed > 300, "{summary:?}");
        }
    }
}

#[test]
fn few_queues_and_vectors_pass() {
    for (io_queues, vectors) in [(1, 1), (1, 2), (8, 9), (8, 2)] {
        suite(
            ControllerConfig {
                io_queues,
                vectors,
                ..config(4096)
            },
            2,
            "",
        );
    }
}

#[test]
fn one_namespace_and_mixed_block_sizes_pass() {
    let one = vec![namespace(512)];
    suite(
        ControllerConfig {
            namespaces: one,
            ..config(512)
        },
        3,
        "",
    );
    let mixed = vec![namespace(512), namespace(65536), namespace(4096)];
    suite(
        ControllerConfig {
            namespaces: mixed,
            ..config(512)
        },
        3,
        "",
    );
}

#[test]
fn small_queues_and_transfers_pass() {
    for (queue_entries, mdts_bytes) in [(2, 8192), (16, 16384), (1024, 64 << 20)] {
        suite(
            ControllerConfig {
                queue_entries,
                mdts_bytes,
                ..config(4096)
            },
            4,
            "",
        );
    }
}

#[test]
fn a_volatile_cache_passes() {
    suite(
        ControllerConfig {
            cache: CacheMode::Volatile,
            ..config(512)
        },
        5,
        "",
    );
}

#[test]
fn each_version_passes() {
    for version in [Vs::V1_4, Vs::V2_1] {
        let summary = suite(
            ControllerConfig {
                version,
                ..config(4096)
            },
            6,
            "",
        );
        assert!(summary.passed > 300, "{version:?}: {summary:?}");
    }
}

#[test]
fn any_number_of_shards_under_any_schedule_passes() {
    for shards in 1..=4 {
        for seed in 0..6 {
            suite(
                ControllerConfig {
                    shards,
                    ..config(4096)
                },
                seed * 0x9E37_79B9 + 7,
                "",
            );
        }
    }
}

/// Every test with tails and heads in memory, where shards sleep and only a ring that the event
/// index asks for wakes them; rings are wake-ups without a value, or traps.
#[test]
fn any_number_of_shards_with_shadow_doorbells_passes() {
    for shards in 1..=4 {
        for seed in 0..4 {
            let config = ControllerConfig {
                shards,
                ..config(4096)
            };
            let what = format!("{shards} shards, seed {seed}");
            let mut machine =
                InProcess::with_schedule(config, Schedule::sleeping(seed)).expect(&what);
            if seed % 2 == 1 {
                machine.trap_doorbells();
            }
            for doorbells in [Doorbells::Shadow, Doorbells::ShadowAfterQueues] {
                let (summary, failures) = run(&mut machine, doorbells, "");
                assert!(summary.good(), "{what}, {doorbells:?}:{failures}");
            }
        }
    }
}

/// Where not every queue's doorbells fit in a page the command is not offered (Base 5.2.5).
#[test]
fn shadow_doorbells_are_offered_where_they_fit() {
    for (io_queues, shadow_doorbells, offered) in
        [(511, true, true), (512, true, false), (4, false, false)]
    {
        let config = ControllerConfig {
            io_queues,
            shadow_doorbells,
            ..config(512)
        };
        let summary = suite(config, 6, "shadow");
        let tests = summary.passed + summary.skipped;
        let expected = if offered { tests } else { 1 };
        assert_eq!(summary.passed, expected, "{io_queues} queues");
    }
}

/// The suite with a configuration and a schedule of the seed's.
fn suite_under_schedule(seed: u64) -> Result<u64, String> {
    let pick = |list: &[u32], divisor: u64| {
        let index = (seed / divisor) % list.len() as u64;
        list[usize::try_from(index).unwrap_or_default()]
    };
    let config = ControllerConfig {
        shards: u16::try_from(1 + seed % 4).unwrap_or(1),
        queue_entries: pick(&[1024, 16, 2, 65_536], 8),
        vectors: u16::try_from(pick(&[66, 2, 9, 1], 3)).unwrap_or(1),
        ..config(pick(&[4096, 512, 4096, 16_384], 16))
    };
    let schedule = Schedule::any(seed);
    let what = format!("{config:?}\n{schedule:?}");
    let doorbells = match (seed / 5) % 3 {
        0 => Doorbells::Shadow,
        _ => Doorbells::Registers,
    };
    let what = format!("{what}\n{doorbells:?}");
    let mut machine = InProcess::with_schedule(config, schedule).expect(&what);
    if (seed / 15).is_multiple_of(2) {
        machine.trap_doorbells();
    }
    let (summary, failures) = run(&mut machine, doorbells, "");
    if summary.good() {
        return Ok(1);
    }
    Err(format!("{what}:{failures}"))
}

#[test]
fn schedules_that_starve_oversleep_and_delay_pass() {
    let test = "schedules_that_starve_oversleep_and_delay_pass";
    Seeds::counted(12).run("inprocess", test, false, suite_under_schedule);
}

#[test]
#[ignore = "slow: hundreds of schedules"]
fn hundreds_of_schedules_pass() {
    Seeds::counted(400).run(
        "inprocess",
        "hundreds_of_schedules_pass",
        true,
        suite_under_schedule,
    );
}

/// Invariant 1: what happened and when, on the stepped clock, to the nanosecond.
fn transcript(shards: u16, seed: u64) -> Vec<(String, u64)> {
    let config = ControllerConfig {
        shards,
        ..config(4096)
    };
    let mut machine = InProcess::new(config, seed).expect("valid");
    let mut transcript = Vec::new();
    nvme_suite::run(
        &mut machine,
        &Filter::new("queues,io,events"),
        &mut |event| {
            if let Event::Finished {
                test, elapsed_ns, ..
            } = event
            {
                transcript.push((test.full_name(), elapsed_ns));
            }
        },
    );
    let stats = machine.controller().stats();
    transcript.push((format!("{stats:?}"), 0));
    transcript
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for (shards, seed) in [(1, 7), (3, 7), (3, 8)] {
        assert_eq!(
            transcript(shards, seed),
            transcript(shards, seed),
            "{shards} shards"
        );
    }
    assert_ne!(
        transcript(3, 7),
        transcript(3, 8),
        "the seed decides nothing"
    );
}
