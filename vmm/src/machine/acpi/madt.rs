//! The multiple APIC description table (ACPI 6.5, 5.2.12): CPUs and interrupt controllers.

use acpi_tables::sdt::Sdt;
use zerocopy::{Immutable, IntoBytes, little_endian};

use super::{OEM, OEM_REVISION, OEM_TABLE};
use crate::machine::layout;

type U16 = little_endian::U16;
type U32 = little_endian::U32;

/// The header, the LAPIC's address and the flags.
const HEADER: u32 = 44;
/// The table's revision in ACPI 6.5.
const REVISION: u8 = 6;
/// There are two 8259s too.
const PCAT_COMPAT: u32 = 1;

/// What a structure begins with.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Head {
    kind: u8,
    length: u8,
}

/// A CPU (5.2.12.2).
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Lapic {
    head: Head,
    processor: u8,
    apic_id: u8,
    flags: U32,
}

/// The IOAPIC (5.2.12.3).
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Ioapic {
    head: Head,
    id: u8,
    reserved: u8,
    address: U32,
    first_gsi: U32,
}

/// An ISA interrupt that is not an active-high edge, or not its own number (5.2.12.5).
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Override {
    head: Head,
    bus: u8,
    source: u8,
    gsi: U32,
    flags: U16,
}

/// Which local interrupt is the NMI (5.2.12.7).
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct LapicNmi {
    head: Head,
    processor: u8,
    flags: U16,
    lint: u8,
}

/// A CPU that can be used.
const ENABLED: u32 = 1;
/// Every CPU.
const ALL: u8 = 0xff;
/// Active high, level-triggered.
const LEVEL_HIGH: u16 = 0b11_01;

/// The table for `cpus` CPUs, whose APIC ids are 0, 1, 2 and so on.
///
/// KVM's routes lead each of the lines 0 to 23 to the IOAPIC's pin of that number, the PIT's line 0
/// too (see `irq`), so that only ACPI's own line, which is level-triggered, is told apart.
pub(super) fn madt(cpus: u8) -> Sdt {
    let mut table = Sdt::new(*b"APIC", HEADER, REVISION, OEM, OEM_TABLE, OEM_REVISION);
    table.write_u32(36, layout::LAPIC);
    table.write_u32(40, PCAT_COMPAT);
    for id in 0..cpus {
        add(&mut table, 0, |head| Lapic {
            head,
            processor: id,
            apic_id: id,
            flags: ENABLED.into(),
        });
    }
    add(&mut table, 1, |head| Ioapic {
        head,
        id: 0,
        reserved: 0,
        address: layout::IOAPIC.into(),
        first_gsi: 0.into(),
    });
    let sci = u8::try_from(layout::SCI_IRQ).unwrap_or_default();
    add(&mut table, 2, |head| Override {
        head,
        bus: 0,
        source: sci,
        gsi: layout::SCI_IRQ.into(),
        flags: LEVEL_HIGH.into(),
    });
    add(&mut table, 4, |head| LapicNmi {
        head,
        processor: ALL,
        flags: 0.into(),
        lint: 1,
    });
    table
}

fn add<T: IntoBytes + Immutable>(table: &mut Sdt, kind: u8, make: impl FnOnce(Head) -> T) {
    let length = u8::try_from(size_of::<T>()).unwrap_or(u8::MAX);
    table.append_slice(make(Head { kind, length }).as_bytes());
}
