//! The least an interrupt can take here: a function that does nothing but answer.
//!
//! Register 0 of its BAR0 answers any write with MSI-X vector 0, from the CPU's own thread
//! (`floor.exit`). Register 8 takes the address of a dword that a thread of the machine watches:
//! it answers each change (`floor.memory`), as a controller does whose doorbells are in memory.

use alloc::format;
use alloc::string::String;

use nvme_bench::{Histogram, Line, Measured};

use crate::irq::{self, Vector};
use crate::machine::Machine;
use crate::println;

/// The function's class code: none of the classes there are, no interface (Code and ID Assignment
/// 1.16, 1).
const CLASS: u32 = 0xFF_00_00;
const ANSWER: u64 = 0;
const WATCH: u64 = 8;
/// The fewest answers that are measured, however long they take.
const LEAST: u64 = 32;
/// How long an answer may take, in nanoseconds.
const PATIENCE_NS: u64 = 10_000_000_000;

/// Measures the round trips of one floor and prints what came of it.
pub(super) fn run(
    machine: &mut Machine,
    name: &str,
    (warm_ns, ns): (u64, u64),
) -> Result<(), String> {
    let in_memory = match name {
        "floor.exit" => false,
        "floor.memory" => true,
        _ => return Err(format!("{name} is no floor")),
    };
    let bus = machine.pci.as_mut().ok_or("there is no PCI bus")?;
    let mut function = bus
        .find_class(CLASS)
        .ok_or("there is no function that answers")?;
    bus.set_up(&mut function)
        .map_err(|error| format!("its BARs: {error}"))?;
    let registers = function.bar(0).ok_or("its BAR0 has no address")?;
    let msix = function.msix().ok_or("it has no MSI-X")?;
    let vector = Vector::LAST;
    msix.program(0, vector);
    msix.set_function_masked(false);
    msix.set_enabled(true);
    let word = machine.dma.alloc(4, 4096).ok_or("there is no memory")?;
    if in_memory {
        registers.write64(WATCH, word);
    }
    println!("{}", Line::Begin { case: name });
    let mut histogram = Histogram::new();
    let (clock, dma) = (&mut machine.clock, &mut machine.dma);
    let before = vector.count();
    let mut now = clock.now_ns();
    let warm = now.saturating_add(warm_ns);
    let end = warm.saturating_add(ns);
    let (mut from, mut all_ops) = (None, 0u64);
    while now < end || histogram.count() < LEAST {
        let (start, seen) = (now, vector.count());
        all_ops += 1;
        match in_memory {
            false => registers.write32(ANSWER, 1),
            true => dma.store32(word, all_ops as u32),
        }
        if !irq::wait(clock, vector, seen, PATIENCE_NS) {
            return Err(format!("{name}: no interrupt came for 10 s"));
        }
        now = clock.now_ns();
        match from {
            Some(_) => histogram.record(now.saturating_sub(start)),
            None if now >= warm => from = Some(now),
            None => {}
        }
    }
    let measured = Measured {
        all_ops,
        rings: if in_memory { 0 } else { all_ops },
        interrupts: vector.count() - before,
        ..Measured::of(&histogram, from.map_or(0, |from| now.saturating_sub(from)))
    };
    println!(
        "{}",
        Line::Done {
            case: name,
            measured: &measured
        }
    );
    registers.write64(WATCH, 0);
    Ok(())
}
