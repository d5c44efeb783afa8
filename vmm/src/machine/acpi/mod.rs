//! What ACPI 6.5 tells a guest of the machine: its CPUs and interrupt controllers, its PCI bus,
//! its devices, and how it is switched off and reset.
//!
//! The machine is not "hardware-reduced" (ACPI 6.5, 4.1): it has the two 8259s, the PIT and the
//! IOAPIC that KVM keeps in the kernel, and PM1's registers as fixed hardware ([`super::power`]).
//! docs/decisions/0012-fixed-hardware.md says why.

mod dsdt;
mod madt;

use acpi_tables::{
    Aml,
    facs::FACS,
    fadt::{FADTBuilder, Flags},
    gas::{AccessSize, AddressSpace, GAS},
    mcfg::MCFG,
    rsdp::Rsdp,
    sdt::Sdt,
    xsdt::XSDT,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{error::MachineError, layout};

/// Who made the tables.
const OEM: [u8; 6] = *b"FERRIT";
const OEM_TABLE: [u8; 8] = *b"FERRITE ";
const OEM_REVISION: u32 = 1;

/// IAPC_BOOT_ARCH (ACPI 6.5, table 5.11): there are devices on ISA's ports, and no VGA; the
/// keyboard controller's and the missing clock's bits are 0, as only the clock is there.
const LEGACY_DEVICES: u16 = 1 << 0;
const NO_VGA: u16 = 1 << 2;
/// The clock's byte for the century, beyond the MC146818's own.
const CENTURY: u8 = 0x32;
/// A latency that says there is no such processor state (C2, C3).
const NO_C2: u16 = 101;
const NO_C3: u16 = 1001;

/// Writes the tables for a machine of `cpus` CPUs into [`layout::ACPI`] and returns the root
/// pointer's address.
///
/// # Errors
/// When there is no memory at that place.
pub(crate) fn write(memory: &GuestMemoryMmap, cpus: u8) -> Result<u64, MachineError> {
    let (start, _) = layout::ACPI;
    let bytes = tables(start, cpus);
    memory
        .write_slice(&bytes, GuestAddress(start))
        .map_err(|error| MachineError::Memory {
            bytes: bytes.len() as u64,
            reason: format!("ACPI's tables at {start:#x}: {error}"),
        })?;
    Ok(start)
}

/// All tables as they lie from `start` on, the root pointer first.
fn tables(start: u64, cpus: u8) -> Vec<u8> {
    let mut area = Area {
        start,
        bytes: vec![0; Area::ALIGNMENT],
    };
    let facs = area.put(&FACS::new());
    let mut dsdt = Sdt::new(*b"DSDT", 36, 2, OEM, OEM_TABLE, OEM_REVISION);
    dsdt.append_slice(&dsdt::aml());
    let dsdt = area.put(&dsdt);
    let fadt = area.put(&fadt(facs, dsdt).finalize());
    let madt = area.put(&madt::madt(cpus));
    let mut mcfg = MCFG::new(OEM, OEM_TABLE, OEM_REVISION);
    mcfg.add_ecam(layout::ECAM.0, 0, 0, last_bus());
    let mcfg = area.put(&mcfg);
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    for table in [fadt, madt, mcfg] {
        xsdt.add_entry(table);
    }
    let root = area.put(&xsdt);
    let mut bytes = area.bytes;
    let mut pointer = Vec::new();
    Rsdp::new(OEM, root).to_aml_bytes(&mut pointer);
    for (place, byte) in bytes.iter_mut().zip(pointer) {
        *place = byte;
    }
    bytes
}

/// The last bus that [`layout::ECAM`] has room for: 1 MiB a bus.
fn last_bus() -> u8 {
    u8::try_from((layout::ECAM.1 >> 20).saturating_sub(1)).unwrap_or(u8::MAX)
}

/// Where tables are put one behind the other.
struct Area {
    start: u64,
    bytes: Vec<u8>,
}

impl Area {
    /// The FACS must lie at a multiple of 64 (ACPI 6.5, 5.2.10); the others may.
    const ALIGNMENT: usize = 64;

    /// Adds a table and returns its address.
    fn put(&mut self, table: &dyn Aml) -> u64 {
        let at = self.bytes.len();
        table.to_aml_bytes(&mut self.bytes);
        let end = self.bytes.len().next_multiple_of(Self::ALIGNMENT);
        self.bytes.resize(end, 0);
        self.start + at as u64
    }
}

/// The fixed ACPI description table (ACPI 6.5, 5.2.9).
fn fadt(facs: u64, dsdt: u64) -> FADTBuilder {
    let (events, control) = (layout::PM1_PORTS, layout::PM1_PORTS + 4);
    let port = |bits, access, port: u16| {
        GAS::new(AddressSpace::SystemIo, bits, 0, access, u64::from(port))
    };
    // The tables lie below 1 MiB.
    let low = |address: u64| u32::try_from(address).unwrap_or_default();
    let mut table = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        // No power button, no sleep button and no alarm among the fixed registers.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::ResetRegSup);
    table.firmware_ctrl = low(facs).into();
    table.dsdt = low(dsdt).into();
    table.x_dsdt = dsdt.into();
    table.sci_int = u16::try_from(layout::SCI_IRQ).unwrap_or_default().into();
    table.pm1a_evt_blk = u32::from(events).into();
    table.pm1_evt_len = 4;
    table.x_pm1a_evt_blk = port(32, AccessSize::WordAccess, events);
    table.pm1a_cnt_blk = u32::from(control).into();
    table.pm1_cnt_len = 2;
    table.x_pm1a_cnt_blk = port(16, AccessSize::WordAccess, control);
    table.p_lvl2_lat = NO_C2.into();
    table.p_lvl3_lat = NO_C3.into();
    table.century = CENTURY;
    table.iapc_boot_arch = (LEGACY_DEVICES | NO_VGA).into();
    table.reset_reg = port(8, AccessSize::ByteAccess, layout::RESET_PORT);
    table.reset_value = layout::RESET_VALUE;
    table
}

#[cfg(test)]
mod tests;
