//! The differentiated system description table: devices, in AML (ACPI 6.5, chapters 6 and 20).

use acpi_tables::{
    Aml,
    aml::{
        AddressSpace, AddressSpaceCacheable, And, Arg, CreateDWordField, Device, EISAName, Else,
        Equal, IO, If, Interrupt, Memory32Fixed, Method, Name, Or, Package, Path, ResourceTemplate,
        Return, Scope, Uuid, ZERO,
    },
};

use crate::machine::{layout, power};

/// `_OSC`'s UUID for PCI host bridges (PCI Firmware Specification 3.3, 4.5.1).
const PCI_HOST_BRIDGE: &str = "33DB4D5B-1FF7-401C-9657-7441C03DD766";
/// What `_OSC` hands to the guest: all of native hot plug, power management events, error
/// reporting, the PCI Express capability and LTR. No device here has firmware to keep them.
const GRANTED: u32 = 0x3f & !(1 << 1);
/// `_OSC`'s answer to a UUID that it does not know: bit 2 of the first word.
const UNKNOWN_UUID: u32 = 1 << 2;

/// The table's content behind its header.
pub(super) fn aml() -> Vec<u8> {
    let mut aml = Vec::new();
    sleep_states(&mut aml);
    let mut devices = Vec::new();
    host_bridge(&mut devices);
    motherboard(&mut devices);
    serial_port(&mut devices);
    clock(&mut devices);
    let devices = Raw(devices);
    Scope::new("_SB_".into(), vec![&devices]).to_aml_bytes(&mut aml);
    aml
}

/// AML that is made already.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

/// `\_S5_`: what to write into SLP_TYP to switch off. There is no other sleep.
fn sleep_states(aml: &mut Vec<u8>) {
    let off = power::OFF;
    Name::new("_S5_".into(), &Package::new(vec![&off, &off, &ZERO, &ZERO])).to_aml_bytes(aml);
}

/// PCI: bus 0 behind a PCI Express host bridge, its window for BARs and its ports.
fn host_bridge(aml: &mut Vec<u8>) {
    let (window, size) = layout::BAR_WINDOW;
    // Both ends are below 4 GiB.
    let low = |address: u64| u32::try_from(address).unwrap_or(u32::MAX);
    let bus = AddressSpace::new_bus_number(0_u16, u16::from(super::last_bus()));
    let ports = IO::new(layout::PCI_PORTS, layout::PCI_PORTS, 1, 8);
    let memory = AddressSpace::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        low(window),
        low(window + size - 1),
        None,
    );
    // The first word of what was asked, which tells of errors, and the third, what is handed over.
    let (first, third) = (Path::new("CDW1"), Path::new("CDW3"));
    let (asked, uuid) = (Arg(3), Uuid::new(PCI_HOST_BRIDGE));
    let known = Equal::new(&Arg(0), &uuid);
    let first_field = CreateDWordField::new(&first, &asked, &ZERO);
    let third_field = CreateDWordField::new(&third, &asked, &8_u8);
    let grant = And::new(&third, &third, &GRANTED);
    let refuse = Or::new(&first, &first, &UNKNOWN_UUID);
    let answer = Return::new(&asked);
    Device::new(
        "PCI0".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0A08")),
            &Name::new("_CID".into(), &EISAName::new("PNP0A03")),
            &Name::new("_UID".into(), &ZERO),
            &Name::new("_SEG".into(), &ZERO),
            &Name::new("_BBN".into(), &ZERO),
            &Name::new("_CCA".into(), &acpi_tables::aml::ONE),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![&bus, &ports, &memory]),
            ),
            &Method::new(
                "_OSC".into(),
                4,
                false,
                vec![
                    &If::new(&known, vec![&third_field, &grant]),
                    &Else::new(vec![&first_field, &refuse]),
                    &answer,
                ],
            ),
        ],
    )
    .to_aml_bytes(aml);
}

/// Ports and memory that belong to no device a driver could have: taken, so that nothing else is
/// put there. Linux uses the MCFG's ECAM only if it finds it here or in the memory map.
fn motherboard(aml: &mut Vec<u8>) {
    let (ecam, size) = layout::ECAM;
    let low = |address: u64| u32::try_from(address).unwrap_or(u32::MAX);
    let port = |first: u16, count: u8| IO::new(first, first, 1, count);
    Device::new(
        "MBRD".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0C02")),
            &Name::new("_UID".into(), &ZERO),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![
                    &Memory32Fixed::new(true, low(ecam), low(size)),
                    &port(layout::POST_PORT, 1),
                    &port(layout::PORT_92, 1),
                    &port(layout::DEBUG_EXIT_PORT, 4),
                    &port(layout::PM1_PORTS, 6),
                ]),
            ),
        ],
    )
    .to_aml_bytes(aml);
}

fn serial_port(aml: &mut Vec<u8>) {
    Device::new(
        "COM1".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0501")),
            &Name::new("_UID".into(), &ZERO),
            &Name::new("_DDN".into(), &"COM1"),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![
                    &IO::new(layout::SERIAL_PORT, layout::SERIAL_PORT, 1, 8),
                    &Interrupt::new(true, true, false, false, layout::SERIAL_IRQ),
                ]),
            ),
        ],
    )
    .to_aml_bytes(aml);
}

/// The clock, which has no alarm and so no interrupt.
fn clock(aml: &mut Vec<u8>) {
    Device::new(
        "RTC_".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0B00")),
            &Name::new("_UID".into(), &ZERO),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![&IO::new(
                    layout::CMOS_PORTS,
                    layout::CMOS_PORTS,
                    1,
                    2,
                )]),
            ),
        ],
    )
    .to_aml_bytes(aml);
}
