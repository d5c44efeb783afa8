//! What was found at boot, and the way from ring 3's first instruction to the program.

use alloc::vec::Vec;

use crate::cmdline::CommandLine;
use crate::exit::{self, ExitCode};
use crate::memory::{self, DmaPool, Memory};
use crate::pci::Bus;
use crate::start_info::{Module, StartInfo};
use crate::time::Clock;
use crate::{lapic, println, serial};

/// The machine the kernel runs on.
#[derive(Debug)]
pub struct Machine {
    /// The kernel's command line.
    pub command_line: CommandLine,
    /// What the memory map says.
    pub memory: Memory,
    /// Memory for devices.
    pub dma: DmaPool,
    /// Time.
    pub clock: Clock,
    /// PCI bus 0, if there is one.
    pub pci: Option<Bus>,
    /// Files the loader brought.
    pub modules: Vec<Module>,
    /// The address of ACPI's root pointer, or 0.
    pub(crate) rsdp: u64,
}

unsafe extern "Rust" {
    /// Defined by [`crate::program!`].
    fn guest_program(machine: &mut Machine) -> ExitCode;
}

/// Where `ring0.s` leaves ring 0 for good.
// SAFETY: the name is this kernel's own and only ring0.s refers to it.
#[unsafe(no_mangle)]
extern "C" fn ring3_entry(start_info: u64) -> ! {
    serial::init();
    // SAFETY: ring0.s passes on what the loader had in EBX.
    let Some(info) = (unsafe { StartInfo::read(start_info) }) else {
        println!("PANIC: no hvm_start_info at {start_info:#x}: not started by the PVH protocol");
        exit::exit(ExitCode::Panic)
    };
    // SAFETY: once, and nothing has been allocated.
    let Some((memory, dma)) = (unsafe { memory::init(&info, start_info) }) else {
        println!("PANIC: the memory map has no free stretch of 2 MiB between 1 MiB and 3 GiB");
        exit::exit(ExitCode::Panic)
    };
    lapic::init();
    let mut machine = Machine {
        command_line: CommandLine::new(info.command_line()),
        memory,
        dma,
        clock: Clock::new(),
        pci: Bus::find(info.rsdp),
        modules: info.modules(),
        rsdp: info.rsdp,
    };
    // SAFETY: `program!` defines it with this type.
    let code = unsafe { guest_program(&mut machine) };
    exit::exit(code)
}
