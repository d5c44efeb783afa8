//! The bare-metal test kernel: what a test program needs of a machine with nothing on it.
//!
//! An ordinary PVH ELF that starts under Ferrite's own machine and under
//! `qemu-system-x86_64 -kernel` (`-M q35` and `-M microvm,pcie=on`). Ring 0 is a page of
//! assembly (`ring0.s`): boot, interrupt and exception entries, and a handful of calls that
//! ring 3 makes by a deliberate UD2 ([`call`]). **No Rust runs in ring 0**: hosts without
//! hardware virtualisation emulate it, slowly, and end the VM at the first SSE instruction,
//! while ring 3 runs at native speed. So drivers, tests and benchmarks all run in ring 3, with
//! every page of the low 4 GiB identity-mapped and open to it, every I/O port open through the
//! TSS's bitmap, and interrupts enabled.
//!
//! A program is `fn(&mut Machine) -> ExitCode`, named to [`program!`]. [`Machine`] holds what was
//! found: command line, memory, [`time`], [`irq`], [`pci`]. One CPU, one thread; interrupt stubs
//! only count, so no Rust code is ever interrupted by Rust code.
//!
//! Left out: memory above 4 GiB, more than one CPU, legacy interrupts, PCI bridges.

#![no_std]

extern crate alloc;

mod acpi;
pub mod bench;
pub mod call;
pub mod cmdline;
pub mod conformance;
pub mod exit;
mod fault;
pub mod irq;
mod lapic;
pub mod machine;
pub mod memory;
pub mod mmio;
pub mod nvme;
pub mod pci;
pub mod port;
mod runtime;
pub mod selfcheck;
pub mod serial;
mod start_info;
pub mod time;

pub use exit::ExitCode;
pub use machine::Machine;
pub use start_info::Module;

// All of ring 0, the descriptor and page tables, the PVH note and the stacks.
core::arch::global_asm!(include_str!("ring0.s"), options(att_syntax, raw));

/// Names the function that the kernel runs once it is up: `fn(&mut Machine) -> ExitCode`.
#[macro_export]
macro_rules! program {
    ($main:path) => {
        // SAFETY: the name is this kernel's own; `machine::ring3_entry` declares the same type.
        #[unsafe(no_mangle)]
        fn guest_program(machine: &mut $crate::Machine) -> $crate::ExitCode {
            $main(machine)
        }
    };
}
