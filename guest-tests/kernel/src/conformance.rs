//! Runs the conformance suite and prints TAP: what the kernel does unless told otherwise.
//!
//! `filter=PATTERNS` on the command line picks tests; see [`nvme_suite::Filter`].
//! `doorbells=shadow` has all of them use shadow doorbells, `doorbells=shadow-after-queues` from
//! the first queue pair on.

use alloc::string::String;

use nvme_suite::{Doorbells, Filter, tap};

use crate::exit::ExitCode;
use crate::machine::Machine;
use crate::nvme::PciTransport;
use crate::{print, println};

/// Finds the controller and runs the tests that are asked for.
pub fn run(machine: &mut Machine) -> ExitCode {
    let filter = Filter::new(machine.command_line.get("filter").unwrap_or_default());
    let doorbells = match machine.command_line.get("doorbells") {
        Some("shadow") => Doorbells::Shadow,
        Some("shadow-after-queues") => Doorbells::ShadowAfterQueues,
        _ => Doorbells::Registers,
    };
    let mut transport = match PciTransport::find(machine) {
        Ok(transport) => transport,
        Err(reason) => {
            println!("Bail out! {reason}");
            return ExitCode::Failure;
        }
    };
    let summary = nvme_suite::run_with(&mut transport, &filter, doorbells, &mut |event| {
        // In one piece: each piece costs a poll of the port's status. A String takes everything.
        let mut lines = String::new();
        let _ = tap::write(&mut lines, &event);
        print!("{lines}");
    });
    if summary.good() {
        ExitCode::Success
    } else {
        ExitCode::Failure
    }
}
