//! CPUs that are stopped, looked at and let go, on the test kernel.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail like tests"
)]

mod support;

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use ferrite::machine::{Debugger, Machine, RunEnded, RunError, RunOutcome, Stop};
use pci::{Bars, Effects, PciFunction};
use support::{SUCCESS, have_kvm, machine};

/// Where the test kernel's ELF begins, and with it the machine.
const ENTRY: u64 = 0x10_0000;
const EINTR: i32 = 4;

/// Runs the test kernel, first of all held before its first instruction, under `look`.
fn debug(mut machine: Machine, look: impl FnOnce(&Debugger)) -> Result<RunOutcome, RunError> {
    let debugger = machine.debugger().expect("descriptors");
    debugger.hold();
    let stop = machine.stop_handle();
    thread::scope(|scope| {
        let run = scope.spawn(|| machine.run());
        look(&debugger);
        // A test that failed to let it go must end too.
        wait(Duration::from_secs(60), || run.is_finished());
        stop.stop();
        run.join().expect("no panic")
    })
}

/// A function that is not there, and takes its time to say so: while the CPU waits for it, it is
/// told to stand.
struct Slow(mpsc::Sender<()>);

impl PciFunction for Slow {
    fn config_read(&self, _: u16, data: &mut [u8]) {
        let _ = self.0.send(());
        wait(Duration::from_millis(20), || false);
        data.fill(u8::MAX);
    }

    fn config_write(&self, _: u16, _: &[u8]) -> Effects {
        Effects::default()
    }

    fn bars(&self) -> Bars {
        Bars::default()
    }

    fn bar_base(&self, _: u8) -> Option<u64> {
        None
    }

    fn bar_read(&self, _: u8, _: u64, _: &mut [u8]) {}

    fn bar_write(&self, _: u8, _: u64, _: &[u8]) {}

    fn reset(&self) {}
}

/// Waits until `done`, at most `time`.
fn wait(time: Duration, done: impl Fn() -> bool) {
    let deadline = Instant::now() + time;
    while !done() && Instant::now() < deadline {
        thread::yield_now();
    }
}

fn rip(debugger: &Debugger) -> u64 {
    let regs = debugger.on_cpu(0, |fd| fd.get_regs().expect("registers"));
    regs.expect("it stands").rip
}

#[test]
fn held_cpu_stands_at_the_entry_and_runs_to_the_end_when_let_go() {
    if !have_kvm() {
        return;
    }
    let outcome = debug(machine("selfcheck").0, |debugger| {
        debugger.pause().expect("it runs");
        assert_eq!(debugger.stop(0), Some(Stop::Paused));
        assert_eq!(rip(debugger), ENTRY);
        debugger.resume(|_| false);
        assert_eq!(rip(debugger), ENTRY);
        debugger.resume(|_| true);
    });
    assert_eq!(outcome.expect("a run").exit, SUCCESS);
}

#[test]
fn stopped_in_the_middle_of_an_access_it_stands_after_it() {
    if !have_kvm() {
        return;
    }
    let (read, reads) = mpsc::channel();
    let (mut machine, _output) = machine("selfcheck");
    let function = Arc::new(Slow(read));
    machine.attach_pci(5, function).expect("free");
    let mut stops = 0;
    let outcome = debug(machine, |debugger| {
        debugger.resume(|_| true);
        while reads.recv_timeout(Duration::from_secs(1)).is_ok() && debugger.pause().is_ok() {
            // What KVM still had to do for the last exit would move it now.
            let moved = debugger.on_cpu(0, |fd| {
                let before = fd.get_regs().expect("registers");
                fd.set_kvm_immediate_exit(1);
                let entered = fd.run().map(|exit| format!("{exit:?}"));
                fd.set_kvm_immediate_exit(0);
                assert_eq!(entered.map_err(|error| error.errno()), Err(EINTR));
                fd.get_regs().expect("registers").rip - before.rip
            });
            assert!(matches!(moved, Ok(0) | Err(RunEnded)), "{moved:x?}");
            stops += 1;
            debugger.resume(|_| true);
        }
    });
    assert_eq!(outcome.expect("a run").exit, SUCCESS);
    assert!(stops > 0, "{stops} stops");
}

#[test]
fn a_run_that_ended_answers_nothing_and_blocks_nobody() {
    if !have_kvm() {
        return;
    }
    let (mut machine, _output) = machine("selfcheck");
    let debugger = machine.debugger().expect("descriptors");
    debugger.hold();
    let events = debugger.events().expect("descriptors");
    drop(machine);
    assert_eq!(debugger.pause(), Err(RunEnded));
    assert_eq!(debugger.on_cpu(0, |_| ()), Err(RunEnded));
    assert!(debugger.ended());
    let mut count = [0; 8];
    assert_eq!(rustix::io::read(&events, &mut count), Ok(8));
    assert_eq!(u64::from_ne_bytes(count), 1);
}
