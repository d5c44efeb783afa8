//! The `ferrite` command: what it prints and how it ends.

#![allow(clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nvme_suite::tap::Report;
use serde_json::Value;
use support::have_kvm;

fn ferrite(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ferrite"))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("it starts")
}

/// Standard output of a run that ends with `code`.
fn stdout(arguments: &[&str], code: i32) -> String {
    let output = ferrite(arguments);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        output.status.code(),
        Some(code),
        "{arguments:?}:\n{text}\n{errors}"
    );
    text
}

/// The last line of standard error of a run that could not be made.
fn refusal(arguments: &[&str]) -> String {
    let output = ferrite(arguments);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    String::from_utf8(output.stderr).expect("UTF-8")
}

const FEW: [&str; 3] = ["selftest", "--filter", "registers"];

#[test]
fn tap_and_json_tell_the_same_run() {
    if !have_kvm() {
        return;
    }
    let report = Report::parse(&stdout(&[&FEW[..], &["--format", "tap"]].concat(), 0));
    assert!(report.good(), "{report:?}");
    assert!(report.tests.len() > 10);
    let json: Value = serde_json::from_str(&stdout(&[&FEW[..], &["--format", "json"]].concat(), 0))
        .expect("JSON");
    let tests = json.get("tests").and_then(Value::as_array).expect("tests");
    let names = tests
        .iter()
        .map(|test| test.get("name").and_then(Value::as_str));
    let tap_names = report.tests.iter().map(|test| Some(test.name.as_str()));
    assert!(names.eq(tap_names), "{json:#}");
}

#[test]
fn table_is_plain_when_piped_and_ends_with_the_totals() {
    if !have_kvm() {
        return;
    }
    let text = stdout(&FEW, 0);
    assert!(!text.contains('\x1b'), "{text:?}");
    let last = text.lines().last().expect("lines");
    assert!(last.contains(" passed, 0 failed, "), "{text}");
    let verbose = stdout(&[&FEW[..], &["--verbose"]].concat(), 0);
    assert!(verbose.contains("registers.cap_as_two_dwords"), "{verbose}");
}

#[test]
fn list_names_every_test_and_runs_none() {
    let text = stdout(&["selftest", "--list"], 0);
    let listed = text.lines().filter(|line| !line.starts_with(' '));
    assert!(listed.eq(nvme_suite::tests().map(nvme_suite::Test::full_name)));
    let some = stdout(&["selftest", "--list", "--filter", "registers.cap_*"], 0);
    assert!(some.lines().count() >= 4 && !some.contains("aqa"), "{some}");
}

#[test]
fn what_cannot_be_is_refused_with_value_and_rule() {
    for (option, words) in [
        ("lba=513", ["lba=513", "power of two"]),
        ("queues=0", ["queues", "1 to 65535"]),
        ("colour=red", ["colour", "there is no such key"]),
        ("backend=null", ["backend", "keeps no data"]),
    ] {
        let text = refusal(&["selftest", "--nvme", option]);
        for word in words {
            assert!(text.contains(word), "{option}: {text}");
        }
    }
    assert!(refusal(&["selftest", "--filter", "a b"]).contains("--filter"));
    assert!(refusal(&["nonesuch"]).contains("nonesuch"));
}

#[test]
fn a_peer_that_cannot_be_is_refused_by_name() {
    let peer = |arguments: &[&str]| refusal(&[&["selftest", "--peer", "qemu"], arguments].concat());
    let text = peer(&["--qemu", "no-such-qemu"]);
    assert!(
        text.contains("no-such-qemu") && text.contains("qemu-system-x86"),
        "{text}"
    );
    let text = peer(&["--qemu", "sh"]);
    assert!(text.contains("does not say that it is QEMU"), "{text}");
    assert!(refusal(&["selftest", "--qemu", "sh"]).contains("--peer"));
    let old = FakeQemu::new("echo QEMU emulator version 6.2.0");
    let text = peer(&["--qemu", &old.program]);
    assert!(
        text.contains("QEMU 6.2.0") && text.contains("7.2.0 or later"),
        "{text}"
    );
    let fine = FakeQemu::new("echo QEMU emulator version 7.2.22");
    let text = peer(&["--qemu", &fine.program, "--nvme", "namespaces=300"]);
    assert!(
        text.contains("namespaces=300") && text.contains("256"),
        "{text}"
    );
}

/// A program that is run as QEMU.
struct FakeQemu {
    folder: tempfile::TempDir,
    program: String,
}

impl FakeQemu {
    fn new(script: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let program = folder.path().join("qemu");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("a file");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&program, mode).expect("executable");
        Self {
            program: program.to_str().expect("UTF-8").to_owned(),
            folder,
        }
    }
}

/// Asks until it is so, for a minute at most.
fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        match ask() {
            Some(answer) => return answer,
            None if start.elapsed() > Duration::from_secs(60) => panic!("{what} is not so"),
            None => std::thread::park_timeout(Duration::from_millis(5)),
        }
    }
}

#[test]
fn a_qemu_that_ends_too_early_fails_the_run_with_its_words() {
    if !have_kvm() {
        return;
    }
    let version = "[ \"$1\" = --version ] && exec echo QEMU emulator version 7.2.22\n";
    let arguments = ["selftest", "--filter", "registers.cap_*", "--peer", "qemu"];
    // Half of its tests, and then no more.
    let half = FakeQemu::new(&format!(
        "{version}echo TAP version 13; echo 1..4\n\
         echo 'ok 1 - registers.cap_limits_are_possible (9 us)'; echo out of steam >&2; exit 3"
    ));
    let text = stdout(&[&arguments[..], &["--qemu", &half.program]].concat(), 1);
    for words in [
        "no result came from QEMU",
        "on QEMU 1 results for a plan of 4 tests",
        "out of steam",
        "3 unexplained",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    // Nothing at all.
    let none = FakeQemu::new(&format!("{version}echo no such device >&2; exit 1"));
    let text = refusal(&[&arguments[..], &["--qemu", &none.program]].concat());
    for words in [
        "before the guest said anything",
        "no such device",
        "nvme-ns",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[test]
fn a_killed_ferrite_leaves_no_qemu_behind() {
    if !have_kvm() {
        return;
    }
    let fake = FakeQemu::new(
        "[ \"$1\" = --version ] && exec echo QEMU emulator version 7.2.22\n\
         echo $$ >\"$0.new\"; mv \"$0.new\" \"$0.pid\"; exec sleep 1000",
    );
    let mut ferrite = Command::new(env!("CARGO_BIN_EXE_ferrite"))
        .args(["selftest", "--filter", "registers.cap_*"])
        .args(["--peer", "qemu", "--qemu", &fake.program])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("it starts");
    let pid = wait_for("QEMU runs", || {
        std::fs::read_to_string(fake.folder.path().join("qemu.pid")).ok()
    });
    let qemu = Path::new("/proc").join(pid.trim());
    assert!(qemu.exists());
    ferrite.kill().expect("it is ours");
    ferrite.wait().expect("it was killed");
    // Gone, or a zombie that whoever inherits it has not buried yet.
    wait_for("QEMU is gone", || {
        let state = std::fs::read_to_string(qemu.join("stat")).unwrap_or_default();
        (state.is_empty() || state.contains(") Z ")).then_some(())
    });
}

#[test]
fn a_pattern_that_matches_nothing_is_named() {
    for arguments in [&["selftest", "--list"][..], &["selftest"][..]] {
        let text = refusal(&[arguments, &["--filter", "registers,nosuch"]].concat());
        assert!(text.contains("nosuch"), "{text}");
    }
}
