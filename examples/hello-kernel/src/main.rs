//! A kernel that says hello to an NVMe drive: finds it, enables it, asks who it is, writes a block
//! and reads it back.
//!
//! Booting, the serial port, PCI and memory for devices come from `ferrite-guest-kernel`; the
//! driver is all in `nvme.rs`, on the wire types of `nvme-spec` alone. Copy this folder and go on
//! from there.

#![no_std]
#![no_main]

mod nvme;

use guest_kernel::pci::CLASS_NVME;
use guest_kernel::{ExitCode, Machine, println};
use nvme::Nvme;

/// What is written to the drive.
const GREETING: &[u8] = b"hello, drive";

fn hello(machine: &mut Machine) -> Result<(), nvme::Error> {
    let bus = machine.pci.as_mut().ok_or("there is no PCI bus")?;
    let mut function = bus.find_class(CLASS_NVME).ok_or("there is no NVMe drive")?;
    let (vendor, device) = function.ids();
    println!("found       {vendor:04x}:{device:04x} on PCI bus 0");
    bus.set_up(&mut function)
        .map_err(|_| "its BARs fit nowhere")?;
    function.set_bus_master(true);
    let registers = function.bar(0).ok_or("it has no BAR0")?;

    let mut nvme = Nvme::enable(registers, &mut machine.dma, &machine.clock)?;
    let (model, serial) = nvme.identify()?;
    println!("model       {model}");
    println!("serial      {serial}");
    let (blocks, bytes) = nvme.open(1)?;
    println!("namespace 1 {blocks} blocks of {bytes} bytes");

    nvme.write(7, GREETING)?;
    let mut found = [0; GREETING.len()];
    nvme.read(7, &mut found)?;
    if found != GREETING {
        return Err("block 7 does not hold what was written".into());
    }
    let text = core::str::from_utf8(&found).map_err(|_| "block 7 holds no text")?;
    println!("block 7     {text}");
    nvme.disable()
}

fn run(machine: &mut Machine) -> ExitCode {
    match hello(machine) {
        Ok(()) => ExitCode::Success,
        Err(error) => {
            println!("error: {error}");
            ExitCode::Failure
        }
    }
}

guest_kernel::program!(run);
