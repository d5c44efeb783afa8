//! Two things of ACPI: where the MCFG table puts PCI's enhanced configuration space
//! (ACPI 6.5, sections 5.2.5 to 5.2.9; PCI Firmware Specification 3.3, section 4.1.2), and how the
//! machine is switched off and reset.

/// Start of the ECAM of segment 0, with its first bus.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ecam {
    pub(crate) base: u64,
    pub(crate) first_bus: u8,
}

/// How the machine is switched off and reset, by the fixed description table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Power {
    /// PM1a's control register, a port.
    pub(crate) control: u16,
    /// SLP_TYP of S5.
    pub(crate) off: u8,
    /// The reset register, a port, and what is to be written there.
    pub(crate) reset: (u16, u8),
}

/// Where the root pointer (0: look for it where BIOSes put it) leads to for PCI.
pub(crate) fn ecam(rsdp: u64) -> Option<Ecam> {
    let table = table(rsdp, b"MCFG")?;
    let [first_bus] = read(table + 54)?;
    Some(Ecam {
        base: u64::from_le_bytes(read(table + 44)?),
        first_bus,
    })
}

/// Where it leads to for power.
pub(crate) fn power(rsdp: u64) -> Option<Power> {
    /// An address in the space of ports.
    const PORTS: u8 = 1;
    let table = table(rsdp, b"FACP")?;
    let [space] = read(table + 116)?;
    if space != PORTS {
        return None;
    }
    let [value] = read(table + 128)?;
    let control = u32::from_le_bytes(read(table + 64)?);
    let dsdt = u64::from(u32::from_le_bytes(read(table + 40)?));
    Some(Power {
        control: u16::try_from(control).ok()?,
        off: sleep_type(dsdt)?,
        reset: (u16::from_le_bytes(read(table + 120)?), value),
    })
}

/// The first element of the package `_S5_`: there is no interpreter here, but its name is unique.
fn sleep_type(dsdt: u64) -> Option<u8> {
    /// PackageOp, and BytePrefix, without which the value is one of Zero and One.
    const PACKAGE: u8 = 0x12;
    const BYTE: u8 = 0x0a;
    let length = u64::from(u32::from_le_bytes(read(dsdt + 4)?));
    let name = (dsdt + 36..dsdt + length).find(|&at| read(at) == Some(*b"_S5_"))?;
    // The operation, the package's length in one byte, the number of elements.
    let [package, _, _, first, second] = read(name + 4)?;
    match (package, first) {
        (PACKAGE, BYTE) => Some(second),
        (PACKAGE, 0 | 1) => Some(first),
        _ => None,
    }
}

/// A table's address.
fn table(rsdp: u64, signature: &[u8; 4]) -> Option<u64> {
    let rsdp = if rsdp != 0 { rsdp } else { scan()? };
    if read::<8>(rsdp)? != *b"RSD PTR " {
        return None;
    }
    let [revision] = read(rsdp + 15)?;
    let xsdt = if revision >= 2 {
        u64::from_le_bytes(read(rsdp + 24)?)
    } else {
        0
    };
    let (root, width) = match xsdt {
        0 => (u64::from(u32::from_le_bytes(read(rsdp + 16)?)), 4),
        address => (address, 8),
    };
    let length = u64::from(u32::from_le_bytes(read(root + 4)?));
    let mut at = 36;
    while at + width <= length {
        let table = match width {
            4 => u64::from(u32::from_le_bytes(read(root + at)?)),
            _ => u64::from_le_bytes(read(root + at)?),
        };
        if read::<4>(table)? == *signature {
            return Some(table);
        }
        at += width;
    }
    None
}

fn scan() -> Option<u64> {
    (0xe_0000..0x10_0000)
        .step_by(16)
        .find(|&address| read(address) == Some(*b"RSD PTR "))
}

/// Bytes of firmware tables, which lie in memory below 3 GiB.
fn read<const BYTES: usize>(address: u64) -> Option<[u8; BYTES]> {
    if address == 0 || address.checked_add(BYTES as u64)? > 3 << 30 {
        return None;
    }
    // SAFETY: identity-mapped; plain bytes that nothing changes.
    Some(unsafe { (address as *const [u8; BYTES]).read_unaligned() })
}
