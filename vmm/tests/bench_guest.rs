//! `ferrite bench guest`: its loops on a controller in this process, the guest on KVM and on QEMU,
//! and what the command prints. No test looks at how long anything took.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod support;
#[path = "support/qemu.rs"]
mod support_qemu;

use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use ferrite::bench::guest::{self, FLOORS, GuestBench, GuestBenchError, GuestResults, Side};
use ferrite::nvme::inprocess::InProcess;
use ferrite::options::NvmeOptions;
use ferrite::peer::Qemu;
use nvme::{ControllerConfig, NamespaceConfig, Tear};
use nvme_bench::{Case, Line, Plan, Report, cases};
use serde_json::Value;
use storage::{BlockDevice, null::Null, ram::Ram};
use support::have_kvm;
use support_qemu::find_qemu;

/// Runs cases on a controller in this process over `device`: what was said of them, and the I/O
/// commands that the controller fetched.
fn in_process(device: Arc<dyn BlockDevice>, cases: Vec<Case>) -> (Report, u64) {
    let config = ControllerConfig {
        namespaces: vec![NamespaceConfig::new(device, 4096)],
        tear: Tear::Never,
        ..ControllerConfig::default()
    };
    let mut transport = InProcess::new(config, 1).expect("a valid configuration");
    let plan = Plan {
        cases,
        warm_ns: 10_000,
        ns: 100_000,
        area: 2 << 20,
    };
    let mut report = Report::default();
    let good = nvme_bench::run(&mut transport, &plan, &mut |line: &Line<'_>| {
        report.feed(&line.to_string());
    });
    assert_eq!(good, report.trouble().is_none(), "{report:?}");
    let fetched = transport.controller().stats().io_commands;
    (report, fetched)
}

fn ram() -> Arc<dyn BlockDevice> {
    Arc::new(Ram::new(4 << 20).expect("memory"))
}

#[test]
fn every_case_runs_in_process_and_its_data_is_moved() {
    let (report, fetched) = in_process(ram(), cases());
    assert_eq!(report.trouble(), None);
    assert_eq!(
        (report.skipped.len(), report.done.len()),
        (0, cases().len())
    );
    assert_eq!(report.ended, Some(fetched));
    assert_eq!(report.fact("doorbells"), Some("shadow"));
    assert_eq!(report.fact("area"), Some("2097152"));
    for (name, measured) in &report.done {
        assert!(measured.ops >= 32, "{name}: {measured:?}");
        assert!(measured.all_ops > measured.ops, "{name}: {measured:?}");
        assert!(measured.p50 <= measured.p99 && measured.p999 <= measured.max);
        let by_interrupt = name.starts_with("interrupt.");
        assert_eq!(
            measured.interrupts > 0,
            by_interrupt,
            "{name}: {measured:?}"
        );
    }
}

#[test]
fn a_device_that_keeps_nothing_is_found_out() {
    let of = |op: &str| {
        let name = format!("polled.{op}-4K-d1-q1");
        vec![name.parse().expect("a case")]
    };
    for (op, words) in [
        ("read", "a Read of the"),
        ("write", "after a Write of 1 blocks"),
    ] {
        let (report, _) = in_process(Arc::new(Null::new(4 << 20)), of(op));
        let trouble = report.trouble().expect(op);
        assert!(trouble.contains(words), "{trouble}");
    }
}

#[test]
fn what_a_controller_cannot_have_is_skipped_with_the_reason() {
    let config = ControllerConfig {
        namespaces: vec![NamespaceConfig::new(ram(), 65_536)],
        io_queues: 1,
        queue_entries: 16,
        mdts_bytes: 64 << 10,
        ..ControllerConfig::default()
    };
    let mut transport = InProcess::new(config, 1).expect("a valid configuration");
    let plan = Plan {
        cases: cases(),
        warm_ns: 0,
        ns: 0,
        area: u64::MAX,
    };
    let mut report = Report::default();
    assert!(nvme_bench::run(&mut transport, &plan, &mut |line| {
        report.feed(&line.to_string());
    }));
    assert_eq!((report.done.len(), report.skipped.len()), (0, 32));
    let reasons: Vec<_> = report
        .skipped
        .iter()
        .map(|(_, reason)| reason.as_str())
        .collect();
    for reason in ["a logical block has 65536 bytes", "MDTS allows 65536 bytes"] {
        assert!(reasons.contains(&reason), "{reasons:?}");
    }
}

/// A run of all cases, each as short as can be.
fn short(filter: &str, qemu: Option<&Qemu>) -> GuestResults {
    let mut nvme = NvmeOptions::default();
    nvme.apply("size=4M,lba=4K,queues=2,tear=never,mdts=1M")
        .expect("valid");
    let bench = GuestBench {
        nvme,
        filter: filter.to_owned(),
        time: Duration::from_millis(4),
        rounds: 2,
        memory: 128 << 20,
    };
    let mut last = (0, 0);
    let results = guest::run(&bench, qemu, &mut |at| {
        assert_eq!(at.done, last.0 + 1, "one after the other");
        last = (at.done, at.all);
    });
    assert_eq!(last.0, last.1, "all of them");
    results.expect("it is measured")
}

#[test]
fn every_case_reports_on_kvm_and_the_controller_counts_the_same_commands() {
    if !have_kvm() {
        return;
    }
    let results = short("", None);
    let names: Vec<&str> = results.rows.iter().map(|row| row.name.as_str()).collect();
    assert_eq!(names, guest::names());
    for row in &results.rows {
        // Two groups wait for interrupts, and each has the floors beside it.
        let samples = if row.name.starts_with("floor.") { 4 } else { 2 };
        assert_eq!(row.ferrite.len(), samples, "{row:?}");
        assert!(row.qemu.is_empty() && row.skipped.is_empty(), "{row:?}");
        for sample in &row.ferrite {
            assert!(sample.measured.ops > 0 && sample.exits.is_some(), "{row:?}");
        }
        let summary = row.summary(Side::Ferrite).expect("two samples");
        // One for each that asks for it, and none besides: the rest goes by memory and KVM.
        let exits = summary.exits.expect("counted");
        match row.name == FLOORS[0] {
            true => assert!(exits >= 1.0, "{row:?}"),
            false => assert!(exits < 1.0, "{row:?}"),
        }
    }
    let (issued, fetched) = results.commands;
    let of_cases: u64 = results
        .rows
        .iter()
        .filter(|row| !row.name.starts_with("floor."))
        .flat_map(|row| &row.ferrite)
        .map(|sample| sample.measured.all_ops)
        .sum();
    assert_eq!(issued, fetched);
    assert!(issued > of_cases && of_cases > 0, "{issued} {of_cases}");
}

#[test]
#[ignore = "needs QEMU"]
fn every_case_reports_on_qemu_beside_ours() {
    let Some(qemu) = find_qemu() else { return };
    if !have_kvm() {
        return;
    }
    let results = short("*4K*,*128K*d1*", Some(&qemu));
    for row in results
        .rows
        .iter()
        .filter(|row| !row.name.starts_with("floor."))
    {
        assert_eq!((row.ferrite.len(), row.qemu.len()), (2, 2), "{row:?}");
        for sample in row.ferrite.iter().chain(&row.qemu) {
            assert!(sample.measured.ops > 0, "{row:?}");
        }
        let ratio = row.ratio().expect("both");
        assert!(ratio.iops > 0.0 && ratio.p50 > 0.0, "{ratio:?}");
    }
    let text = results.text();
    for words in ["QEMU NVMe Ctrl", "IOPS x", "no iothread"] {
        assert!(text.contains(words), "{words}: {text}");
    }
}

fn ferrite(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ferrite"))
        .args(["bench", "guest"])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("it starts")
}

#[test]
fn the_command_prints_json_and_a_table() {
    if !have_kvm() {
        return;
    }
    let some = [
        "--filter",
        "polled.read-4K-d1-q1,floor",
        "--seconds",
        "0.002",
    ];
    let run = |more: &[&str]| {
        let output = ferrite(&[&some[..], more].concat());
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let json: Value = serde_json::from_str(&run(&["--format", "json"])).expect("JSON");
    let first = &json["cases"][0];
    assert_eq!(first["name"], "polled.read-4K-d1-q1");
    assert!(first["ferrite"]["ops"].as_u64().is_some_and(|ops| ops > 0));
    assert_eq!(json["commands"]["issued"], json["commands"]["fetched"]);
    let table = run(&["--rounds", "1"]);
    assert!(table.contains("polled.read-4K-d1-q1") && table.contains("p99.9 us"));
}

#[test]
fn what_cannot_be_measured_is_refused_with_value_and_rule() {
    let listed = ferrite(&["--list"]);
    let listed = String::from_utf8(listed.stdout).expect("UTF-8");
    assert!(listed.lines().eq(guest::names()));
    for (arguments, words) in [
        (&["--filter", "nonesuch"][..], ["nonesuch", "--list"]),
        (&["--nvme", "backend=null"], ["backend", "keeps no data"]),
        (&["--nvme", "lba=513"], ["lba=513", "power of two"]),
        (&["--seconds", "0"], ["--seconds", "0.001 to 3600"]),
        (&["--memory", "1M"], ["--memory", "64M"]),
        (&["--qemu", "sh"], ["--qemu", "--peer"]),
        (&["--peer", "qemu", "--qemu", "sh"], ["sh", "QEMU"]),
    ] {
        let output = ferrite(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let text = String::from_utf8_lossy(&output.stderr);
        for word in words {
            assert!(text.contains(word), "{arguments:?}: {text}");
        }
    }
    let error = GuestBenchError::Unmatched("x".to_owned()).to_string();
    assert!(error.contains("--list"), "{error}");
}
