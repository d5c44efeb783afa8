//! BARs that move and MSI-X with its masks, on a device of the machine's tests: it has the class
//! code `class=`; its BAR0 reads as the offset of each dword, and a dword written at 0 is the
//! number of the MSI-X entry to signal.

use crate::exit::ExitCode;
use crate::irq::Vector;
use crate::machine::Machine;
use crate::mmio::Mmio;
use crate::pci::{Function, MsiX};
use crate::println;

/// Reads that are timed.
const READS: u64 = 100;
/// Where the BAR moves to.
const ELSEWHERE: u64 = 0xd800_0000;

pub(super) fn run(machine: &mut Machine) -> ExitCode {
    match check(machine) {
        Ok(()) => ExitCode::Success,
        Err(what) => {
            println!("pci: {what}");
            ExitCode::Failure
        }
    }
}

fn check(machine: &mut Machine) -> Result<(), &'static str> {
    let class = machine
        .command_line
        .number("class")
        .ok_or("class= is missing")?;
    let bus = machine.pci.as_mut().ok_or("no PCI")?;
    let mut function = bus
        .functions()
        .find(|function| u64::from(function.class()) == class)
        .ok_or("no function of this class")?;
    bus.set_up(&mut function).map_err(|_| "BARs do not fit")?;
    let bar = function.bar(0).ok_or("no BAR0")?;
    println!("{function}: BAR0 {:#x}+{:#x}", bar.base(), bar.bytes());

    let start = machine.clock.now_ns();
    for _ in 0..READS {
        if bar.read32(0x84) != 0x84 {
            return Err("BAR0 does not answer");
        }
    }
    println!("{} ns a read", (machine.clock.now_ns() - start) / READS);

    let moved = move_bar(&mut function, bar)?;
    msix(machine, &function, moved)
}

fn move_bar(function: &mut Function, old: Mmio) -> Result<Mmio, &'static str> {
    let new = function.move_bar(0, ELSEWHERE).ok_or("BAR0 cannot move")?;
    if new.read32(0x84) != 0x84 {
        return Err("BAR0 does not answer where it was moved to");
    }
    if old.read32(0x84) != u32::MAX {
        return Err("BAR0 still answers where it was");
    }
    Ok(new)
}

fn msix(machine: &mut Machine, function: &Function, registers: Mmio) -> Result<(), &'static str> {
    let msix = function.msix().ok_or("no MSI-X")?;
    let clock = &machine.clock;
    let start = clock.now_ns();
    for entry in 0..msix.vectors() {
        msix.program(entry, vector(entry)?);
    }
    msix.set_enabled(true);
    let took = clock.now_ns() - start;
    println!("{took} ns for {} table entries", msix.vectors());

    for entry in 0..msix.vectors() {
        let seen = vector(entry)?.count();
        signal(registers, entry);
        arrived(machine, entry, seen + 1)?;
    }
    masks(machine, &msix, registers, &|masked| {
        msix.set_masked(1, masked)
    })?;
    masks(machine, &msix, registers, &|masked| {
        msix.set_function_masked(masked)
    })?;
    // No messages without bus mastering; what was signalled meanwhile comes with it.
    masks(machine, &msix, registers, &|masked| {
        function.set_bus_master(!masked)
    })
}

/// Two signals behind a mask are one pending interrupt, delivered once when the mask goes.
fn masks(
    machine: &Machine,
    msix: &MsiX,
    registers: Mmio,
    mask: &dyn Fn(bool),
) -> Result<(), &'static str> {
    let seen = vector(1)?.count();
    mask(true);
    signal(registers, 1);
    signal(registers, 1);
    if !msix.is_pending(1) {
        return Err("not pending behind the mask");
    }
    if vector(1)?.count() != seen {
        return Err("came through the mask");
    }
    mask(false);
    arrived(machine, 1, seen + 1)?;
    if msix.is_pending(1) {
        return Err("still pending after delivery");
    }
    signal(registers, 1);
    arrived(machine, 1, seen + 2)
}

fn signal(registers: Mmio, entry: u16) {
    registers.write32(0, entry.into());
}

fn vector(entry: u16) -> Result<Vector, &'static str> {
    Vector::device(entry).ok_or("more entries than vectors")
}

/// Spins until the count is as expected.
fn arrived(machine: &Machine, entry: u16, expected: u64) -> Result<(), &'static str> {
    let deadline = machine.clock.now_ns() + 2_000_000_000;
    while vector(entry)?.count() < expected {
        if machine.clock.now_ns() > deadline {
            return Err("an interrupt is lost");
        }
        core::hint::spin_loop();
    }
    if vector(entry)?.count() > expected {
        Err("an interrupt is doubled")
    } else {
        Ok(())
    }
}
