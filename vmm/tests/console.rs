//! The serial console of `ferrite run`: pipes, a terminal, signals.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod support;

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::AsFd,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    fs::{Mode, OFlags, open},
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, tcgetattr},
};
use support::have_kvm;
use tempfile::NamedTempFile;

/// The embedded test kernel as a file.
fn kernel() -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a file");
    file.write_all(ferrite::TEST_KERNEL).expect("room");
    file
}

fn command(kernel: &Path, line: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ferrite"));
    command.args(["run", "--quiet", "--kernel"]).arg(kernel);
    command.args(["--cmdline", line, "--nvme", "size=1M"]);
    command.args(["--timeout", "100"]).args(arguments);
    command
}

#[test]
fn what_is_piped_in_reaches_the_guest_whole_and_its_output_is_complete() {
    if !have_kvm() {
        return;
    }
    let kernel = kernel();
    let mut command = command(kernel.path(), "selfcheck=echo", &[]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    // All bytes but the one that ends it: Ctrl-A is the guest's here.
    let bytes = (0..=255u8).cycle().take(6144).filter(|&b| b != 4);
    let text: Vec<u8> = bytes.collect();
    let mut input = child.stdin.take().expect("a pipe");
    let sent = text.clone();
    let pasting = std::thread::spawn(move || {
        input.write_all(&sent).expect("sent");
        input.write_all(&[4]).expect("sent");
    });
    let mut output = Vec::new();
    let mut stdout = child.stdout.take().expect("a pipe");
    stdout.read_to_end(&mut output).expect("read");
    pasting.join().expect("no panic");
    assert_eq!(child.wait().expect("it ends").code(), Some(33));
    let output = output.strip_prefix(b"echo\n").expect("it began");
    assert!(output[..text.len()] == text);
    let end = format!("\nechoed {} bytes\n", text.len());
    assert_eq!(String::from_utf8_lossy(&output[text.len()..]), end);
}

#[test]
fn each_list_is_a_controller_of_its_own() {
    if !have_kvm() {
        return;
    }
    let kernel = kernel();
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("log").display().to_string();
    let serial = format!("file:{log}");
    let arguments = ["--nvme", "queues=2,size=2M", "--serial", &serial];
    let status = command(kernel.path(), "selfcheck", &arguments).status();
    assert_eq!(status.expect("it ends").code(), Some(33));
    let text = std::fs::read_to_string(log).expect("a file");
    let drives = text.lines().filter(|line| line.starts_with("NVMe: BAR0"));
    assert_eq!(drives.count(), 2, "{text}");
}

/// A guest on a terminal of its own.
struct OnTerminal {
    child: Child,
    /// The user's side.
    user: File,
    /// The guest's side, to look at its modes.
    tty: File,
    seen: Vec<u8>,
}

impl OnTerminal {
    fn start(kernel: &Path, line: &str) -> Self {
        let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&user).expect("granted");
        unlockpt(&user).expect("unlocked");
        let name = ptsname(&user, Vec::new()).expect("its name");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let tty = File::from(open(&name, flags, Mode::empty()).expect("opened"));
        let side = || Stdio::from(tty.try_clone().expect("a descriptor"));
        let mut command = command(kernel, line, &[]);
        command.stdin(side()).stdout(side()).stderr(side());
        Self {
            child: command.spawn().expect("it starts"),
            user: File::from(user),
            tty,
            seen: Vec::new(),
        }
    }

    fn is_raw(&self) -> bool {
        let modes = tcgetattr(self.tty.as_fd()).expect("a terminal");
        !modes.local_modes.contains(LocalModes::ICANON)
    }

    fn press(&mut self, keys: &[u8]) {
        self.user.write_all(keys).expect("sent");
    }

    /// Reads until `text` is on the screen.
    fn expect(&mut self, text: &[u8]) {
        while !self.seen.windows(text.len()).any(|seen| seen == text) {
            let mut bytes = [0; 256];
            let count = self.user.read(&mut bytes).expect("a screen");
            self.seen.extend(&bytes[..count]);
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    /// Waits until the terminal is raw, or as before.
    fn becomes(&self, raw: bool) {
        let start = Instant::now();
        while self.is_raw() != raw {
            assert!(start.elapsed() < Duration::from_secs(30), "raw: {}", !raw);
            std::thread::yield_now();
        }
    }

    fn ends(&mut self, code: i32) {
        let status = self.child.wait().expect("it ends");
        let seen = String::from_utf8_lossy(&self.seen);
        assert_eq!(status.code(), Some(code), "{seen}");
        assert!(!self.is_raw(), "the terminal is left raw");
    }
}

#[test]
fn keys_are_the_guests_but_for_the_escape() {
    if !have_kvm() {
        return;
    }
    let kernel = kernel();
    let mut guest = OnTerminal::start(kernel.path(), "selfcheck=echo");
    guest.expect(b"echo");
    assert!(guest.is_raw());
    // Ctrl-C and Ctrl-Z are the guest's, and a Ctrl-A that is sent too.
    guest.press(b"\x03[\x1a\x01a]");
    guest.expect(b"\x03[\x1a\x01]");
    guest.press(b"\x01h");
    guest.expect(b"Ctrl-A x");
    guest.press(b"\x01x");
    guest.ends(8);
}

#[test]
fn signals_give_the_terminal_back() {
    if !have_kvm() {
        return;
    }
    let kernel = kernel();
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let mut guest = OnTerminal::start(kernel.path(), "selfcheck=echo");
        guest.expect(b"echo");
        assert!(guest.is_raw());
        guest.signal(Signal::TSTP);
        guest.becomes(false);
        guest.signal(Signal::CONT);
        guest.becomes(true);
        guest.press(b"still here");
        guest.expect(b"still here");
        guest.signal(signal);
        guest.ends(8);
    }
}

#[test]
fn a_guests_own_end_gives_the_terminal_back() {
    if !have_kvm() {
        return;
    }
    let kernel = kernel();
    for (line, code) in [
        ("selfcheck=exit value=21", 43),
        ("selfcheck=triple-fault", 6),
    ] {
        let mut guest = OnTerminal::start(kernel.path(), line);
        guest.ends(code);
    }
}
