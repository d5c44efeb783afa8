//! The test kernel under QEMU, on QEMU's own nvme device: a machine and a controller that no one
//! here wrote.
//!
//! This holds the kernel's boot path, the suite's way from start to end, and `--peer qemu` as a
//! user runs it. `FERRITE_QEMU` names another QEMU than `qemu-system-x86_64`.

#![allow(clippy::expect_used, clippy::panic, reason = "tests")]

mod support;
#[path = "support/qemu.rs"]
mod support_qemu;

use std::process::{Command, Stdio};
use std::time::Duration;

use ferrite::peer::{Qemu, QemuEnd, QemuGuest, QemuNamespace, QemuNvme, QemuRun};
use nvme_suite::{Filter, Stop, tap::Report};
use serde_json::Value;
use support::have_kvm;
use support_qemu::find_qemu;

/// How long a guest may take: emulated CPUs and firmware need most of it.
const LIMIT: Duration = Duration::from_secs(300);
/// Exit codes of the kernel (its `exit` module), as isa-debug-exit passes them on.
const ALL_PASSED: u32 = 33;
const SOME_FAILED: u32 = 35;

/// Namespaces of 64 MiB each: their identifiers and block sizes.
fn namespaces(each: &[(usize, u64)]) -> Vec<QemuNamespace> {
    let namespace = |&(nsid, lba)| QemuNamespace {
        nsid,
        size: 64 << 20,
        lba,
    };
    each.iter().map(namespace).collect()
}

/// Runs the kernel to its end and holds what must be true of any run: every test that the filter
/// picks was run, and the kernel's exit code says how they went.
fn run(qemu: &Qemu, machine: &'static str, filter: &str, nvme: QemuNvme) -> QemuRun {
    let guest = QemuGuest {
        machine,
        memory: 256 << 20,
        command_line: format!("filter={filter}"),
        nvme,
        drive: "",
        timeout: LIMIT,
    };
    let run = guest.run(qemu, |_| {}).expect("QEMU runs");
    println!("{}", run.ended.command);
    let QemuRun { report, ended } = &run;
    assert_eq!(report.bail_out, None, "{run:#?}");
    let filter = Filter::new(filter);
    let expected: Vec<String> = nvme_suite::tests()
        .map(nvme_suite::Test::full_name)
        .filter(|name| filter.matches(name))
        .collect();
    let reported: Vec<&str> = report.tests.iter().map(|test| test.name.as_str()).collect();
    assert!(!expected.is_empty(), "the filter picks nothing");
    assert_eq!(report.planned, Some(expected.len()), "{run:#?}");
    assert_eq!(reported, expected, "{run:#?}");
    let mut failed = 0;
    for test in &report.tests {
        if let Err(Stop::Failed(message)) = &test.outcome {
            failed += 1;
            println!("QEMU fails {}: {message}", test.name);
        }
    }
    let code = if failed == 0 { ALL_PASSED } else { SOME_FAILED };
    assert_eq!(ended.end, QemuEnd::Code(code), "{run:#?}");
    println!("{} tests, {failed} failed", report.tests.len());
    run
}

fn controller(properties: &str, each: &[(usize, u64)]) -> QemuNvme {
    QemuNvme {
        controller: properties.split(',').map(str::to_owned).collect(),
        namespaces: namespaces(each),
        notes: Vec::new(),
    }
}

#[test]
#[ignore = "needs QEMU"]
fn suite_runs_to_its_end_on_qemus_device() {
    let Some(qemu) = find_qemu() else { return };
    let nvme = controller("serial=QEMU0001", &[(1, 512)]);
    let found = run(&qemu, QemuGuest::MICROVM, "*", nvme).report.facts.found;
    assert_eq!(found.serial, "QEMU0001");
    assert!(found.vectors > 1, "MSI-X is there: {found:?}");
    assert_eq!(found.namespaces.len(), 1);
}

#[test]
#[ignore = "needs QEMU"]
fn suite_runs_to_its_end_on_two_namespaces_and_few_queues() {
    let Some(qemu) = find_qemu() else { return };
    let nvme = controller(
        "serial=QEMU0001,max_ioqpairs=2,msix_qsize=3,mdts=5",
        &[(1, 4096), (3, 512)],
    );
    let found = run(&qemu, QemuGuest::MICROVM, "*", nvme).report.facts.found;
    let namespaces: Vec<(u32, u64)> = found
        .namespaces
        .iter()
        .map(|ns| (ns.nsid, ns.block_bytes))
        .collect();
    assert_eq!(namespaces, [(1, 4096), (3, 512)]);
    assert_eq!((found.submission_queues, found.vectors), (2, 3));
    assert_eq!(found.max_transfer_bytes, 128 << 10);
}

#[test]
#[ignore = "needs QEMU"]
fn kernel_boots_behind_firmware_that_has_placed_the_bars() {
    let Some(qemu) = find_qemu() else { return };
    let nvme = controller("serial=QEMU0001", &[(1, 512)]);
    run(&qemu, QemuGuest::Q35, "registers", nvme);
}

#[test]
#[ignore = "needs QEMU"]
fn a_device_that_qemu_refuses_is_an_error_with_its_words() {
    let Some(qemu) = find_qemu() else { return };
    let guest = QemuGuest {
        machine: QemuGuest::MICROVM,
        memory: 256 << 20,
        command_line: String::new(),
        drive: "",
        nvme: controller("serial=QEMU0001,max_ioqpairs=0", &[(1, 512)]),
        timeout: LIMIT,
    };
    let error = guest.run(&qemu, |_| {}).expect_err("no queues").to_string();
    for words in ["max_ioqpairs must be", "it was run as", "nvme-ns"] {
        assert!(error.contains(words), "{error}");
    }
}

#[test]
#[ignore = "needs QEMU"]
fn a_guest_that_takes_too_long_is_ended() {
    let Some(qemu) = find_qemu() else { return };
    let guest = QemuGuest {
        machine: QemuGuest::MICROVM,
        memory: 256 << 20,
        command_line: String::new(),
        drive: "",
        nvme: controller("serial=QEMU0001", &[(1, 512)]),
        timeout: Duration::from_millis(300),
    };
    let run = guest.run(&qemu, |_| {}).expect("it starts");
    assert_eq!(run.ended.end, QemuEnd::TimedOut, "{run:#?}");
}

/// `ferrite selftest --peer qemu` with these arguments: its output, when it ends with 0.
fn peer(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_ferrite"))
        .args(["selftest", "--peer", "qemu"])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("it starts");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}:\n{text}\n{errors}");
    text
}

#[test]
#[ignore = "needs QEMU"]
fn no_difference_from_qemu_is_unexplained() {
    if find_qemu().is_none() || !have_kvm() {
        return;
    }
    for nvme in [
        "queues=65",
        "lba=4K,queues=8",
        "lba=64K,queues=1,namespaces=1,mdts=128K",
    ] {
        let text = peer(&["--nvme", nvme]);
        let lines = || {
            text.lines()
                .map(|line| line.split_whitespace().collect::<Vec<_>>())
        };
        for test in nvme_suite::tests() {
            let name = test.full_name();
            let row = lines().find(|words| words.first() == Some(&name.as_str()));
            assert_eq!(row.expect(&name).len(), 3, "{nvme}: {name}");
        }
        let last = text.lines().last().expect("a summary");
        assert!(last.ends_with(", 0 unexplained"), "{nvme}: {last}");
        println!("{nvme}: {last}");
    }
}

#[test]
#[ignore = "needs QEMU"]
fn tap_and_json_tell_both_columns() {
    if find_qemu().is_none() || !have_kvm() {
        return;
    }
    let filter = ["--filter", "registers,verify"];
    let tap = peer(&[&filter[..], &["--format", "tap"]].concat());
    let report = Report::parse(&tap);
    assert!(report.good(), "{tap}");
    // Neither is of the version that has it.
    assert!(
        tap.contains("registers.crms_matches_version # SKIP version 1.4"),
        "{tap}"
    );
    assert!(
        tap.contains("  qemu: skipped\n  qemu_message: \"ONCS"),
        "{tap}"
    );
    let text = peer(&[&filter[..], &["--format", "json"]].concat());
    let json: Value = serde_json::from_str(&text).expect("JSON");
    let tests = json.get("tests").and_then(Value::as_array).expect("tests");
    assert_eq!(tests.len(), report.tests.len());
    let outcome = |test: &Value, whose: &str| {
        let outcome = test.get(whose).and_then(|column| column.get("outcome"));
        outcome.and_then(Value::as_str).map(str::to_owned)
    };
    for test in tests {
        let verify = test
            .get("name")
            .and_then(Value::as_str)
            .is_some_and(|n| n.starts_with("verify."));
        if verify {
            assert_eq!(
                outcome(test, "ferrite").as_deref(),
                Some("passed"),
                "{test}"
            );
            assert_eq!(outcome(test, "qemu").as_deref(), Some("skipped"), "{test}");
        }
    }
    assert_eq!(
        json.pointer("/ferrite/summary/failed"),
        Some(&0.into()),
        "{text}"
    );
}
