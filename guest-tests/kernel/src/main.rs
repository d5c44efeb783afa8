//! The test kernel's program.

#![no_std]
#![no_main]

use guest_kernel::{ExitCode, Machine, bench, conformance, selfcheck};

fn run(machine: &mut Machine) -> ExitCode {
    if machine.command_line.has("selfcheck") {
        selfcheck::run(machine)
    } else if machine.command_line.has("bench") {
        bench::run(machine)
    } else {
        conformance::run(machine)
    }
}

guest_kernel::program!(run);
