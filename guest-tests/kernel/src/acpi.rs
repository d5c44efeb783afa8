//! One thing of ACPI: where the MCFG table puts PCI's enhanced configuration space
//! (ACPI 6.5, sections 5.2.5 to 5.2.8; PCI Firmware Specification 3.3, section 4.1.2).

/// Start of the ECAM of segment 0, with its first bus.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ecam {
    pub(crate) base: u64,
    pub(crate) first_bus: u8,
}

/// Follows the root pointer (0: look for it where BIOSes put it).
pub(crate) fn ecam(rsdp: u64) -> Option<Ecam> {
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
        if read::<4>(table)? == *b"MCFG" {
            let [first_bus] = read(table + 54)?;
            return Some(Ecam {
                base: u64::from_le_bytes(read(table + 44)?),
                first_bus,
            });
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
