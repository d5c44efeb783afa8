//! The guest's page tables: where a linear address lies in guest physical memory.
//!
//! Only the present bits are looked at: a debugger reads and writes what the guest's code may not.
//! Sections are of the Intel SDM, volume 3.

use kvm_bindings::kvm_sregs;

/// What a CPU's registers say of its page tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Paging {
    pub(super) cr0: u64,
    pub(super) cr3: u64,
    pub(super) cr4: u64,
    pub(super) efer: u64,
}

/// Where a byte lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Its guest physical address.
    pub(super) physical: u64,
    /// Bytes from there to the page's end.
    pub(super) left: u64,
}

const CR0_PG: u64 = 1 << 31;
const CR4_PSE: u64 = 1 << 4;
const CR4_PAE: u64 = 1 << 5;
const CR4_LA57: u64 = 1 << 12;
const EFER_LMA: u64 = 1 << 10;

const PRESENT: u64 = 1;
/// An entry that maps a page although it is none of the last level.
const PAGE_SIZE: u64 = 1 << 7;
/// The address in an entry of eight bytes: bits 51:12.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const PAGE_BITS: u32 = 12;

impl From<&kvm_sregs> for Paging {
    fn from(sregs: &kvm_sregs) -> Self {
        Self {
            cr0: sregs.cr0,
            cr3: sregs.cr3,
            cr4: sregs.cr4,
            efer: sregs.efer,
        }
    }
}

impl Paging {
    /// Where `address` lies; `read` gives the four or eight bytes of an entry at a physical
    /// address. None when nothing is mapped there, or the tables lie outside of memory.
    pub(super) fn translate(
        &self,
        address: u64,
        read: &dyn Fn(u64, usize) -> Option<u64>,
    ) -> Option<Place> {
        let wide = |at| read(at, 8);
        match () {
            () if self.cr0 & CR0_PG == 0 => place(u32::try_from(address).ok()?.into(), PAGE_BITS),
            () if self.efer & EFER_LMA != 0 => {
                // 4.5: four levels of nine bits, or five.
                let levels = if self.cr4 & CR4_LA57 == 0 { 4 } else { 5 };
                let unused = u64::BITS - (PAGE_BITS + 9 * levels);
                let extended = (address << unused).cast_signed() >> unused;
                if extended.cast_unsigned() != address {
                    return None; // not canonical
                }
                walk(self.cr3 & ADDRESS, levels, address, &wide)
            }
            () if self.cr4 & CR4_PAE != 0 => {
                // 4.4: four pointers to directories of two levels.
                let address = u64::from(u32::try_from(address).ok()?);
                let pointer = wide((self.cr3 & 0xffff_ffe0) + (address >> 30) * 8)?;
                present(pointer)?;
                walk(pointer & ADDRESS, 2, address, &wide)
            }
            () => self.two_levels(u32::try_from(address).ok()?, read),
        }
    }

    /// 4.3: two levels of ten bits, entries of four bytes.
    fn two_levels(&self, address: u32, read: &dyn Fn(u64, usize) -> Option<u64>) -> Option<Place> {
        const LARGE_BITS: u32 = 22;
        let address = u64::from(address);
        let directory = read((self.cr3 & 0xffff_f000) + (address >> LARGE_BITS) * 4, 4)?;
        present(directory)?;
        if directory & PAGE_SIZE != 0 && self.cr4 & CR4_PSE != 0 {
            // PSE-36: bits 20:13 are the address's bits 39:32.
            let base = directory & 0xffc0_0000 | (directory & 0x1f_e000) << 19;
            return place(base | address & mask(LARGE_BITS), LARGE_BITS);
        }
        let index = address >> PAGE_BITS & 0x3ff;
        let entry = read((directory & 0xffff_f000) + index * 4, 4)?;
        present(entry)?;
        place(entry & 0xffff_f000 | address & mask(PAGE_BITS), PAGE_BITS)
    }
}

/// From a table of level `levels` down to a page; pages are larger on levels 2 and 3.
fn walk(table: u64, levels: u32, address: u64, read: &dyn Fn(u64) -> Option<u64>) -> Option<Place> {
    let mut table = table;
    for level in (1..=levels).rev() {
        let bits = PAGE_BITS + 9 * (level - 1);
        let entry = read(table + (address >> bits & 0x1ff) * 8)?;
        present(entry)?;
        if level == 1 || entry & PAGE_SIZE != 0 {
            if level > 3 {
                return None; // reserved
            }
            return place(entry & ADDRESS & !mask(bits) | address & mask(bits), bits);
        }
        table = entry & ADDRESS;
    }
    None
}

fn present(entry: u64) -> Option<()> {
    (entry & PRESENT != 0).then_some(())
}

fn mask(bits: u32) -> u64 {
    (1 << bits) - 1
}

fn place(physical: u64, bits: u32) -> Option<Place> {
    Some(Place {
        physical,
        left: (1 << bits) - (physical & mask(bits)),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Tables as (address of an entry, entry).
    fn translate(paging: Paging, tables: &[(u64, u64)], address: u64) -> Option<Place> {
        let tables: BTreeMap<u64, u64> = tables.iter().copied().collect();
        paging.translate(address, &|at, bytes| {
            assert!(at.is_multiple_of(bytes as u64));
            tables.get(&at).copied()
        })
    }

    fn at(physical: u64, left: u64) -> Option<Place> {
        Some(Place { physical, left })
    }

    const LONG: Paging = Paging {
        cr0: CR0_PG,
        cr3: 0x1000,
        cr4: CR4_PAE,
        efer: EFER_LMA,
    };
    /// Bits that are not the address's: no-execute, software's, and the low flags.
    const FLAGS: u64 = 1 << 63 | 1 << 52 | 0xe63;

    #[test]
    fn without_paging_an_address_is_its_own_place() {
        let off = Paging::default();
        assert_eq!(translate(off, &[], 0x10_0ffe), at(0x10_0ffe, 2));
        assert_eq!(translate(off, &[], 0xffff_ffff), at(0xffff_ffff, 1));
        assert_eq!(translate(off, &[], 1 << 32), None);
    }

    #[test]
    fn four_levels_reach_pages_of_three_sizes() {
        let tables = [
            (0x1000 + 511 * 8, 0x2000 | FLAGS),
            (0x2000 + 510 * 8, 0x3000 | FLAGS),
            (0x2000 + 511 * 8, 0x1_c000_0000 | PAGE_SIZE | FLAGS),
            (0x3000 + 8 * 8, 0x0120_0000 | 1 << 12 | PAGE_SIZE | FLAGS),
            (0x3000 + 9 * 8, 0x4000 | FLAGS),
            (0x4000, 0x000f_ffff_ffff_f000 | FLAGS),
            (0x4000 + 8, 0x5000 | FLAGS & !PRESENT),
        ];
        let look = |address| translate(LONG, &tables, address);
        assert_eq!(
            look(0xffff_ffff_8101_2345),
            at(0x0121_2345, 0x1f_0000 - 0x2345)
        );
        assert_eq!(look(0xffff_ffff_8120_0fff), at(0x000f_ffff_ffff_ffff, 1));
        assert_eq!(
            look(0xffff_ffff_c000_0001),
            at(0x1_c000_0001, (1 << 30) - 1)
        );
        assert_eq!(look(0xffff_ffff_8120_1000), None, "not present");
        assert_eq!(look(0xffff_ffff_8140_0000), None, "no such entry");
        assert_eq!(look(0x0000_ffff_8101_2345), None, "not canonical");
    }

    #[test]
    fn five_levels_reach_57_bits() {
        let five = Paging {
            cr4: CR4_PAE | CR4_LA57,
            ..LONG
        };
        let tables = [
            (0x1000 + 256 * 8, 0x2000 | FLAGS),
            (0x2000, 0x3000 | FLAGS),
            (0x3000, 0x4000_0000 | PAGE_SIZE | FLAGS),
            (0x1000 + 257 * 8, 0x2000 | PAGE_SIZE | FLAGS),
        ];
        let look = |address| translate(five, &tables, address);
        assert_eq!(look(0xff00_0000_0000_0010), at(0x4000_0010, (1 << 30) - 16));
        assert_eq!(look(0xff01_0000_0000_0000), None, "a page on level 5");
        assert_eq!(look(0x0100_0000_0000_0000), None, "not canonical");
    }

    #[test]
    fn pae_has_four_directories_of_two_levels() {
        let pae = Paging {
            cr3: 0x1020,
            efer: 0,
            ..LONG
        };
        let tables = [
            (0x1020 + 3 * 8, 0x2000 | PRESENT),
            (0x2000 + 8, 0x8000_0000 | PAGE_SIZE | FLAGS),
            (0x2000, 0x3000 | FLAGS),
            (0x3000 + 5 * 8, 0x7_0000_0000 | FLAGS),
        ];
        let look = |address| translate(pae, &tables, address);
        assert_eq!(look(0xc020_0004), at(0x8000_0004, (2 << 20) - 4));
        assert_eq!(look(0xc000_5678), at(0x7_0000_0678, 0x988));
        assert_eq!(look(0x0000_5678), None);
        assert_eq!(look(1 << 32 | 0xc000_5678), None);
    }

    #[test]
    fn two_levels_have_entries_of_four_bytes() {
        let legacy = Paging {
            cr4: CR4_PSE,
            efer: 0,
            ..LONG
        };
        let tables = [
            (0x1000 + 4, 0x2000 | PRESENT),
            (0x2000 + 1023 * 4, 0x9000 | PRESENT),
            (0x1000 + 8, 0xffc0_0000 | 0x2000 | PAGE_SIZE | PRESENT),
        ];
        let look = |address| translate(legacy, &tables, address);
        assert_eq!(look(0x007f_f123), at(0x9123, 0xedd));
        assert_eq!(look(0x0080_0001), at(0x1_ffc0_0001, (4 << 20) - 1));
        let without = Paging { cr4: 0, ..legacy };
        assert_eq!(
            translate(without, &tables, 0x0080_0001),
            None,
            "a table then"
        );
    }

    proptest::proptest! {
        #[test]
        fn no_tables_panic_or_lead_out_of_their_page(
            cr0: u64, cr3: u64, cr4: u64, efer: u64, address: u64, entry: u64,
        ) {
            let paging = Paging { cr0, cr3, cr4, efer };
            let place = paging.translate(address, &|at, _| Some(entry ^ at >> 3));
            if let Some(place) = place {
                assert!((1..=1 << 30).contains(&place.left));
                assert!(place.physical.checked_add(place.left).is_some());
            }
        }
    }
}
