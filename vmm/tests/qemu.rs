//! The test kernel under QEMU, on QEMU's own nvme device: a machine and a controller that no one
//! here wrote.
//!
//! This holds the kernel's boot path and the suite's way from start to end. Which tests that
//! device passes is not decided here; the ones it fails are printed. `FERRITE_QEMU` names another
//! QEMU than `qemu-system-x86_64`.

#![allow(clippy::expect_used, clippy::panic, reason = "tests")]

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use ferrite::machine::open_kvm;
use nvme_suite::{Filter, Stop, tap::Report};
use tempfile::TempDir;

/// How long a guest may take: emulated CPUs and firmware need most of it.
const LIMIT: Duration = Duration::from_secs(300);
/// Exit codes of the kernel (its `exit` module), as isa-debug-exit passes them on.
const ALL_PASSED: i32 = 33;
const SOME_FAILED: i32 = 35;

/// The smallest machine: no firmware, PCI by ECAM, BARs that the kernel places.
const MICROVM: &str = "microvm,pcie=on";
/// A machine with firmware, CF8h and BARs that are placed already.
const Q35: &str = "q35";

/// What QEMU is given.
struct Guest<'a> {
    machine: &'a str,
    filter: &'a str,
    /// Properties of `-device nvme`, apart from its drive.
    controller: &'a str,
    /// Properties of each `-device nvme-ns`; none: the drive is the controller's.
    namespaces: &'a [&'a str],
}

/// What came of it.
struct Outcome {
    report: Report,
    text: String,
    status: ExitStatus,
}

fn qemu() -> OsString {
    std::env::var_os("FERRITE_QEMU").unwrap_or_else(|| "qemu-system-x86_64".into())
}

/// Whether there is a QEMU: without one the test says so and is skipped, unless skips are
/// forbidden (FERRITE_FORBID_SKIPS=1).
fn have_qemu() -> bool {
    match Command::new(qemu()).arg("--version").output() {
        Ok(output) => {
            print!("{}", String::from_utf8_lossy(&output.stdout));
            true
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let forbidden = std::env::var_os("FERRITE_FORBID_SKIPS").is_some_and(|v| v == "1");
            assert!(
                !forbidden,
                "skips are forbidden: {} is missing",
                qemu().display()
            );
            println!("skipped: {} is missing", qemu().display());
            false
        }
        Err(error) => panic!("{}: {error}", qemu().display()),
    }
}

impl Guest<'_> {
    /// The controller and its drives, each a sparse file of 64 MiB in `folder`.
    fn drives(&self, folder: &TempDir) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = Vec::new();
        let mut add = |option: &str, value: &OsStr| {
            arguments.push(option.into());
            arguments.push(value.into());
        };
        let count = self.namespaces.len().max(1);
        for number in 0..count {
            let path = folder.path().join(format!("ns{number}"));
            let file = File::create(&path).expect("a temporary file");
            file.set_len(64 << 20).expect("a sparse file");
            let mut drive = OsString::from(format!("if=none,id=d{number},format=raw,file="));
            drive.push(path);
            add("-drive", &drive);
        }
        let mut controller = vec!["nvme,id=nvme0,serial=QEMU0001"];
        if !self.controller.is_empty() {
            controller.push(self.controller);
        }
        if self.namespaces.is_empty() {
            controller.push("drive=d0");
        }
        add("-device", controller.join(",").as_ref());
        for (number, properties) in self.namespaces.iter().enumerate() {
            let namespace = format!("nvme-ns,bus=nvme0,drive=d{number},{properties}");
            add("-device", namespace.as_ref());
        }
        arguments
    }

    /// Runs the kernel to its end.
    fn run(&self) -> Outcome {
        let folder = TempDir::new().expect("a temporary folder");
        let kernel = folder.path().join("kernel");
        std::fs::write(&kernel, ferrite::TEST_KERNEL).expect("a temporary file");
        let accelerator = if open_kvm().is_ok() { "kvm" } else { "tcg" };
        let mut command = Command::new(qemu());
        command
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none", "-m", "256M"])
            .args(["-machine", self.machine, "-accel", accelerator])
            .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"])
            .args(["-serial", "stdio"])
            .arg("-kernel")
            .arg(&kernel)
            .arg("-append")
            .arg(format!("filter={}", self.filter))
            .args(self.drives(&folder))
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        println!("{command:?}");
        let mut child = command.spawn().expect("QEMU starts");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let (say, hear) = mpsc::channel();
        let reader = thread::spawn(move || {
            for line in output.split(b'\n').map_while(Result::ok) {
                // Firmware may say anything.
                if say
                    .send(String::from_utf8_lossy(&line).into_owned())
                    .is_err()
                {
                    return;
                }
            }
        });
        let deadline = Instant::now() + LIMIT;
        let mut text = String::new();
        loop {
            match hear.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => text = text + &line + "\n",
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    child.kill().expect("it is ours");
                    child.wait().expect("it was killed");
                    panic!("QEMU took longer than {LIMIT:?}; it said:\n{text}");
                }
            }
        }
        reader.join().expect("no panic");
        let status = child.wait().expect("it has ended");
        Outcome {
            report: Report::parse(&text),
            text,
            status,
        }
    }
}

impl Outcome {
    /// Holds what must be true of any run: every test that the filter picks was run, and the
    /// kernel's exit code says how they went.
    fn check(&self, filter: &str) {
        let Self {
            report,
            text,
            status,
        } = self;
        assert_eq!(report.bail_out, None, "{text}");
        let filter = Filter::new(filter);
        let expected: Vec<String> = nvme_suite::tests()
            .map(nvme_suite::Test::full_name)
            .filter(|name| filter.matches(name))
            .collect();
        let reported: Vec<&str> = report.tests.iter().map(|test| test.name.as_str()).collect();
        assert!(!expected.is_empty(), "the filter picks nothing");
        assert_eq!(report.planned, Some(expected.len()), "{text}");
        assert_eq!(reported, expected, "{text}");
        let mut failed = 0;
        for test in &report.tests {
            if let Err(Stop::Failed(message)) = &test.outcome {
                failed += 1;
                println!("QEMU fails {}: {message}", test.name);
            }
        }
        let code = if failed == 0 { ALL_PASSED } else { SOME_FAILED };
        assert_eq!(status.code(), Some(code), "{text}");
        println!("{} tests, {failed} failed", report.tests.len());
    }
}

#[test]
#[ignore = "needs QEMU"]
fn suite_runs_to_its_end_on_qemus_device() {
    if !have_qemu() {
        return;
    }
    let outcome = Guest {
        machine: MICROVM,
        filter: "*",
        controller: "",
        namespaces: &[],
    }
    .run();
    outcome.check("*");
    let found = &outcome.report.facts.found;
    assert_eq!(found.serial, "QEMU0001");
    assert!(found.vectors > 1, "MSI-X is there: {found:?}");
    assert_eq!(found.namespaces.len(), 1);
}

#[test]
#[ignore = "needs QEMU"]
fn suite_runs_to_its_end_on_two_namespaces_and_few_queues() {
    if !have_qemu() {
        return;
    }
    let block = "logical_block_size=4096,physical_block_size=4096";
    let outcome = Guest {
        machine: MICROVM,
        filter: "*",
        controller: "max_ioqpairs=2,msix_qsize=3,mdts=5",
        namespaces: &[&format!("nsid=1,{block}"), "nsid=3"],
    }
    .run();
    outcome.check("*");
    let found = &outcome.report.facts.found;
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
    if !have_qemu() {
        return;
    }
    let filter = "registers";
    let outcome = Guest {
        machine: Q35,
        filter,
        controller: "",
        namespaces: &[],
    }
    .run();
    outcome.check(filter);
}
