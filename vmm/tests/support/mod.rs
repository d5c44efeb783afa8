//! What the machine's tests share.

#![allow(dead_code, reason = "each test file uses its part")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ferrite::machine::{
    GuestExit, Lines, Machine, MachineConfig, MachineError, RunError, RunOutcome, open_kvm,
};

/// Exit code of a guest that found all well.
pub(crate) const SUCCESS: GuestExit = GuestExit::Code(33);

/// Whether this test can run: it says why not and is skipped without KVM, unless skips are
/// forbidden (FERRITE_FORBID_SKIPS=1).
#[must_use]
pub(crate) fn have_kvm() -> bool {
    match open_kvm() {
        Ok(_) => true,
        Err(
            error @ (MachineError::NoKvm
            | MachineError::KvmPermission { .. }
            | MachineError::KvmForbidden),
        ) => {
            let forbidden = std::env::var_os("FERRITE_FORBID_SKIPS").is_some_and(|v| v == "1");
            assert!(!forbidden, "skips are forbidden: {error}");
            println!("skipped: {error}");
            false
        }
        Err(error) => panic!("{:#}", anyhow::Error::new(error)),
    }
}

/// Lines of serial output, shared with the machine's sink.
#[derive(Clone, Default)]
pub(crate) struct Output(Arc<Mutex<Vec<String>>>);

impl Output {
    /// A sink that adds to these lines.
    #[must_use]
    pub(crate) fn sink(&self) -> Box<Lines<impl FnMut(&str) + Send + use<>>> {
        let lines = Arc::clone(&self.0);
        Box::new(Lines::new(move |line| {
            lines.lock().expect("no panic").push(line.to_owned())
        }))
    }

    /// All lines so far.
    #[must_use]
    pub(crate) fn text(&self) -> String {
        self.0.lock().expect("no panic").join("\n")
    }
}

/// A machine with the test kernel, which does what `command_line` asks for.
#[must_use]
pub(crate) fn machine(command_line: &str) -> (Machine, Output) {
    let output = Output::default();
    let machine = Machine::new(MachineConfig {
        memory: 64 << 20,
        command_line: command_line.to_owned(),
        serial: output.sink(),
        timeout: Some(Duration::from_secs(20)),
        ..MachineConfig::default()
    });
    (machine.expect("KVM is there"), output)
}

/// Runs the test kernel to its end.
pub(crate) fn run(command_line: &str) -> (Result<RunOutcome, RunError>, String) {
    let (machine, output) = machine(command_line);
    let outcome = machine.run();
    (outcome, output.text())
}
