//! `ferrite run`: how each end of a guest becomes an exit code, and what is refused.

#![allow(clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use support::have_kvm;
use tempfile::NamedTempFile;

/// The embedded test kernel as a file.
fn kernel() -> NamedTempFile {
    file(ferrite::TEST_KERNEL)
}

fn file(content: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a file");
    file.write_all(content).expect("room");
    file
}

/// `ferrite run` with a kernel and these arguments.
fn command(kernel: &OsStr, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ferrite"));
    command.args(["run", "--kernel"]).arg(kernel);
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs it to its end: exit code, standard output, standard error.
fn run(kernel: &OsStr, arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command(kernel, arguments).output().expect("it starts");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (status.code(), text(stdout), text(stderr))
}

/// Exit code and standard error of the test kernel's check of itself.
fn check(name: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let kernel = kernel();
    let line = format!("selfcheck={name}");
    let arguments = [&["--cmdline", &line], arguments].concat();
    let (code, _, errors) = run(kernel.path().as_os_str(), &arguments);
    (code, errors)
}

#[test]
fn guest_drives_the_controller_and_its_code_is_the_exit_code() {
    if !have_kvm() {
        return;
    }
    let kernel = kernel();
    let arguments = [
        "--cmdline",
        "filter=registers",
        "--nvme",
        "serial=OURS,size=16M",
    ];
    let (code, output, errors) = run(kernel.path().as_os_str(), &arguments);
    assert_eq!(code, Some(33), "{output}{errors}");
    assert!(output.contains("OURS"), "{output}");
    assert!(output.contains("ok 1 - registers."), "{output}");
    assert!(errors.contains("the guest ended with code 33"), "{errors}");
    assert!(errors.contains("I/O), "), "{errors}");
    let (code, errors) = check("exit value=21", &[]);
    assert_eq!(code, Some(43), "{errors}");
}

#[test]
fn bzimage_is_entered_in_long_mode_with_its_boot_parameters() {
    if !have_kvm() {
        return;
    }
    // A sector of setup beside the first; HdrS, protocol 2.15, loaded high, with a 64-bit entry
    // that wants no more memory than it has.
    let mut image = vec![0; 1024 + 0x400];
    for (at, bytes) in [
        (0x1f1, &[1][..]),
        (0x1f4, &[0x40, 0, 0, 0]),
        (0x202, b"HdrS\x0f\x02"),
        (0x211, &[1]),
        (0x22c, &[0xff, 0xff, 0xff, 0x7f]),
        (0x236, &[1, 0]),
        (0x238, &[0xff, 7, 0, 0]),
        // At the entry point: a REX prefix that is an instruction of its own outside long mode,
        // EAX = what lies at RSI + 202h, whether that is HdrS, and that to the debug exit.
        (
            1024 + 0x200,
            &[
                0x4c, 0x89, 0xc0, // mov rax, r8
                0x8b, 0x86, 0x02, 0x02, 0, 0, // mov eax, [rsi + 202h]
                0x3d, b'H', b'd', b'r', b'S', // cmp eax, "HdrS"
                0x0f, 0x94, 0xc0, // sete al
                0xe6, 0xf4, // out f4h, al
                0xf4, // hlt
            ],
        ),
    ] {
        let place = image.get_mut(at..at + bytes.len()).expect("in the file");
        place.copy_from_slice(bytes);
    }
    let image = file(&image);
    let (code, _, errors) = run(image.path().as_os_str(), &["--timeout", "20"]);
    assert_eq!(code, Some(3), "{errors}");
}

#[test]
fn initrd_is_the_kernels_first_module() {
    if !have_kvm() {
        return;
    }
    let (kernel, initrd) = (kernel(), file(&[7; 5000]));
    let path = initrd.path().to_string_lossy();
    let arguments = ["--cmdline", "selfcheck", "--initrd", &path];
    let (code, output, errors) = run(kernel.path().as_os_str(), &arguments);
    assert_eq!(code, Some(33), "{output}{errors}");
    assert!(output.contains("module: 5000 bytes"), "{output}");
}

#[test]
fn power_off_is_0_and_reset_is_4() {
    if !have_kvm() {
        return;
    }
    let (code, errors) = check("power-off", &[]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(errors.contains("switched the machine off"), "{errors}");
    let (code, errors) = check("reset", &[]);
    assert_eq!(code, Some(4), "{errors}");
    assert!(errors.contains("asked for a reset"), "{errors}");
}

#[test]
fn crash_is_6_and_says_where() {
    if !have_kvm() {
        return;
    }
    let (code, errors) = check("triple-fault", &["--quiet"]);
    assert_eq!(code, Some(6), "{errors}");
    assert!(
        errors.contains("the guest crashed: triple fault on CPU 0: ring 0, RIP 0x10"),
        "{errors}"
    );
    assert!(
        errors.contains(" RSP 0") && errors.contains(" R15 "),
        "{errors}"
    );
    // The test kernel has symbols.
    assert!(errors.contains("\nin            "), "{errors}");
}

#[test]
fn time_allowed_ends_it_with_124() {
    if !have_kvm() {
        return;
    }
    let (code, errors) = check("halt", &["--timeout", "1"]);
    assert_eq!(code, Some(124), "{errors}");
    assert!(errors.contains("was at     CPU 0: ring 0"), "{errors}");
    assert_eq!(
        check("halt", &["--timeout", "1", "--quiet"]),
        (code, String::new())
    );
}

/// Starts a guest that says a line and halts, and waits for the line.
fn halted(kernel: &NamedTempFile) -> Child {
    let arguments = ["--cmdline", "selfcheck=say-and-halt"];
    let mut child = command(kernel.path().as_os_str(), &arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let output = child.stdout.as_mut().expect("piped");
    let mut line = String::new();
    BufReader::new(output)
        .read_line(&mut line)
        .expect("the guest says a line");
    assert!(line.contains("halting"), "{line}");
    child
}

#[test]
fn sigterm_and_sigint_end_it_in_order_with_8() {
    if !have_kvm() {
        return;
    }
    let kernel = kernel();
    for signal in [Signal::TERM, Signal::INT] {
        let child = halted(&kernel);
        let id = Pid::from_child(&child);
        kill_process(id, signal).expect("it runs");
        let output = child.wait_with_output().expect("it ends");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(8), "{errors}");
        // The summary comes after the machine and its devices are gone.
        assert!(errors.contains("the guest was stopped"), "{errors}");
        assert!(errors.contains("time  "), "{errors}");
    }
}

#[test]
fn what_cannot_be_started_is_2_and_names_the_fault() {
    let good = kernel();
    let good = good.path().as_os_str();
    let text = file(b"no kernel at all");
    let text = text.path().as_os_str();
    let nowhere = OsStr::new("/nonexistent");
    let cases: [(&OsStr, &[&str], &str); 10] = [
        (nowhere, &[], "--kernel /nonexistent: "),
        (text, &[], "begins with 6e 6f 20 6b"),
        (good, &["--initrd", "/nonexistent"], "--initrd /nonexistent"),
        (
            good,
            &["--memory", "16M", "--initrd", "/dev/zero"],
            "larger than the guest's memory of 16M",
        ),
        (good, &["--memory", "12345"], "a multiple of 4096"),
        (good, &["--memory", "100000T"], "at most "),
        (good, &["--cpus", "0"], "1..=64"),
        (good, &["--cpus", "65"], "1..=64"),
        (good, &["--nvme", "queues=0"], "queues=0"),
        (good, &["--config", "/nonexistent"], "--config /nonexistent"),
    ];
    let kvm = have_kvm();
    for (kernel, arguments, words) in cases {
        // Without KVM that is what is told first.
        let needs_kvm = kernel == text;
        if needs_kvm && !kvm {
            continue;
        }
        let (code, output, errors) = run(kernel, arguments);
        assert_eq!((code, output.as_str()), (Some(2), ""), "{errors}");
        assert!(errors.contains(words), "{arguments:?}: {errors}");
    }
}
