//! The tables as a guest reads them.

use super::*;

const START: u64 = 0xe_0000;

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

fn at(bytes: &[u8], address: u64, length: usize) -> &[u8] {
    let offset = usize::try_from(address - START).expect("in the area");
    &bytes[offset..offset + length]
}

fn u32_at(table: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(table[offset..offset + 4].try_into().expect("four"))
}

fn u64_at(table: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(table[offset..offset + 8].try_into().expect("eight"))
}

fn table(bytes: &[u8], address: u64) -> &[u8] {
    let length = u32_at(at(bytes, address, 8), 4);
    at(bytes, address, length.try_into().expect("small"))
}

/// All tables that the root names, by signature.
fn found(bytes: &[u8]) -> Vec<(&[u8], &[u8])> {
    let rsdp = at(bytes, START, 36);
    let root = table(bytes, u64_at(rsdp, 24));
    assert_eq!(&root[..4], b"XSDT");
    let entries = root[36..].chunks(8);
    let tables =
        entries.map(|entry| table(bytes, u64::from_le_bytes(entry.try_into().expect("eight"))));
    tables.map(|table| (&table[..4], table)).collect()
}

fn one<'t>(bytes: &'t [u8], signature: &[u8; 4]) -> &'t [u8] {
    let mut all = found(bytes).into_iter();
    all.find(|(name, _)| name == signature)
        .expect("the table")
        .1
}

#[test]
fn every_table_of_1_to_64_cpus_has_its_checksum_and_place() {
    for cpus in 1..=64 {
        let bytes = tables(START, cpus);
        assert!(bytes.len() as u64 <= layout::ACPI.1, "{}", bytes.len());
        let rsdp = at(&bytes, START, 36);
        assert_eq!((&rsdp[..8], rsdp[15]), (&b"RSD PTR "[..], 2));
        assert_eq!((sum(&rsdp[..20]), sum(rsdp)), (0, 0));
        assert_eq!(sum(table(&bytes, u64_at(rsdp, 24))), 0);
        let names: Vec<_> = found(&bytes)
            .iter()
            .map(|(name, _)| name.to_vec())
            .collect();
        assert_eq!(names, [b"FACP", b"APIC", b"MCFG"]);
        for (name, table) in found(&bytes) {
            assert_eq!(sum(table), 0, "{name:?}");
        }
        let fadt = one(&bytes, b"FACP");
        let (facs, dsdt) = (u32_at(fadt, 36).into(), u64_at(fadt, 140));
        assert_eq!(facs % 64, 0);
        assert_eq!(&at(&bytes, facs, 4), b"FACS");
        assert_eq!(
            (at(&bytes, dsdt, 4), u64::from(u32_at(fadt, 40))),
            (&b"DSDT"[..], dsdt)
        );
        assert_eq!(sum(table(&bytes, dsdt)), 0);
    }
}

#[test]
fn madt_has_each_cpu_once_and_the_interrupts_as_kvm_routes_them() {
    for cpus in 1..=64 {
        let bytes = tables(START, cpus);
        let madt = one(&bytes, b"APIC");
        assert_eq!((u32_at(madt, 36), u32_at(madt, 40)), (0xfee0_0000, 1));
        let mut rest = &madt[44..];
        let mut ids = Vec::new();
        let mut others = Vec::new();
        while let [kind, length, ..] = *rest {
            let (entry, behind) = rest.split_at(length.into());
            rest = behind;
            match kind {
                0 => {
                    assert_eq!(u32_at(entry, 4), 1, "enabled");
                    assert_eq!(entry[2], entry[3]);
                    ids.push(entry[3]);
                }
                _ => others.push(entry.to_vec()),
            }
        }
        assert!(ids.into_iter().eq(0..cpus));
        assert_eq!(
            others,
            [
                // The IOAPIC: id 0, FEC0_0000h, lines from 0 on.
                vec![1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0],
                // ISA's 9 is GSI 9, high and by level.
                vec![2, 10, 0, 9, 9, 0, 0, 0, 0x0d, 0],
                // LINT1 of every CPU is the NMI.
                vec![4, 6, 0xff, 0, 0, 1],
            ]
        );
    }
}

#[test]
fn fadt_names_the_ports_of_power_and_reset() {
    let bytes = tables(START, 1);
    let fadt = one(&bytes, b"FACP");
    assert_eq!((fadt.len(), fadt[8]), (276, 6));
    assert_eq!(u16::from_le_bytes([fadt[46], fadt[47]]), 9);
    // No SMI command: ACPI is on.
    assert_eq!(u32_at(fadt, 48), 0);
    assert_eq!((u32_at(fadt, 56), fadt[88]), (0x600, 4));
    assert_eq!((u32_at(fadt, 64), fadt[89]), (0x604, 2));
    assert_eq!(fadt[148..160], [1, 32, 0, 2, 0, 6, 0, 0, 0, 0, 0, 0]);
    assert_eq!(fadt[172..184], [1, 16, 0, 2, 4, 6, 0, 0, 0, 0, 0, 0]);
    let flags = u32_at(fadt, 112);
    assert_eq!(flags >> 10 & 1, 1, "there is a reset register");
    assert_eq!(flags >> 20 & 1, 0, "not hardware-reduced");
    assert_eq!(
        fadt[116..129],
        [1, 8, 0, 1, 0xf9, 0x0c, 0, 0, 0, 0, 0, 0, 6]
    );
    // Devices on ISA's ports, no keyboard controller, no VGA, a clock.
    assert_eq!(u16::from_le_bytes([fadt[109], fadt[110]]), 0b101);
}

#[test]
fn mcfg_covers_the_ecam() {
    let bytes = tables(START, 1);
    let mcfg = one(&bytes, b"MCFG");
    assert_eq!(mcfg.len(), 60);
    assert_eq!(u64_at(mcfg, 44), layout::ECAM.0);
    // Segment 0, buses 0 to 0.
    assert_eq!(mcfg[52..56], [0; 4]);
}

#[test]
fn dsdt_has_each_device_and_s5() {
    let aml = dsdt::aml();
    let contains = |part: &[u8]| aml.windows(part.len()).any(|window| window == part);
    for name in [b"PCI0", b"MBRD", b"COM1", b"RTC_", b"_OSC"] {
        assert!(contains(name), "{name:?}");
    }
    // Name(_S5_, Package(4) { 5, 5, 0, 0 }).
    assert!(contains(&[
        0x08, b'_', b'S', b'5', b'_', 0x12, 0x08, 4, 0x0a, 5, 0x0a, 5, 0, 0
    ]));
    // The window for BARs: DWordMemory, its least and last address, its length.
    let mut window = vec![0x87, 0x17, 0, 0, 0x0c, 0x01, 0, 0, 0, 0];
    for value in [0xc000_0000_u32, 0xdfff_ffff, 0, 0x2000_0000] {
        window.extend(value.to_le_bytes());
    }
    assert!(contains(&window), "{aml:x?}");
    // The ECAM, taken by Memory32Fixed.
    assert!(contains(&[0x86, 9, 0, 1, 0, 0, 0, 0xe0, 0, 0, 0x10, 0]));
    // The serial port's line: an edge, high, not shared, 4.
    assert!(contains(&[0x89, 6, 0, 3, 1, 4, 0, 0, 0]));
}
