//! Base address registers: what a function asks for and where it was put.

use crate::address::Bdf;
use crate::header;

/// How many address bits a memory BAR has (PCI 3.0, 6.2.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarWidth {
    /// One register, below 4 GiB.
    Bits32,
    /// Two registers, anywhere.
    Bits64,
}

/// A memory range that a function asks for (PCI 3.0, 6.2.5). I/O BARs are not offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// One register or two.
    pub width: BarWidth,
    /// Reads have no side effects and writes may be merged.
    pub prefetchable: bool,
    /// Bytes; a power of two of at least 16.
    pub size: u64,
}

impl Bar {
    /// A 32-bit memory BAR of `size` bytes, not prefetchable.
    #[must_use]
    pub const fn memory32(size: u64) -> Self {
        Self {
            width: BarWidth::Bits32,
            prefetchable: false,
            size,
        }
    }

    /// A 64-bit memory BAR of `size` bytes, not prefetchable. It takes two indices.
    #[must_use]
    pub const fn memory64(size: u64) -> Self {
        Self {
            width: BarWidth::Bits64,
            prefetchable: false,
            size,
        }
    }

    /// The same range, prefetchable.
    #[must_use]
    pub const fn prefetchable(self) -> Self {
        Self {
            prefetchable: true,
            ..self
        }
    }

    /// Registers that the BAR takes: 1 or 2.
    pub(crate) const fn registers(self) -> u8 {
        match self.width {
            BarWidth::Bits32 => 1,
            BarWidth::Bits64 => 2,
        }
    }

    /// The read-only type bits 3:0.
    pub(crate) const fn type_bits(self) -> u32 {
        let width = match self.width {
            BarWidth::Bits32 => 0,
            BarWidth::Bits64 => header::BAR_MEMORY_64,
        };
        if self.prefetchable {
            width | header::BAR_PREFETCHABLE
        } else {
            width
        }
    }

    /// The address bits that software may write, low half and high half: those that select
    /// a naturally aligned address. Sizing by all ones reads them back (PCI 3.0, 6.2.5.1).
    pub(crate) const fn writable_halves(self) -> (u32, u32) {
        let (low, high) = halves(!self.size.wrapping_sub(1));
        (low & header::BAR_MEMORY_ADDRESS, high)
    }
}

/// A function's BARs by index. The index above a 64-bit BAR is its upper half and `None`.
pub type Bars = [Option<Bar>; header::BAR_COUNT as usize];

/// A BAR where it answers now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarWindow {
    /// Whose BAR it is.
    pub function: Bdf,
    /// BAR index, 0 to 5.
    pub bar: u8,
    /// Guest physical address, a multiple of `size`.
    pub base: u64,
    /// Bytes, a power of two.
    pub size: u64,
}

impl BarWindow {
    /// Whether the two share an address.
    #[must_use]
    pub const fn overlaps(&self, other: &Self) -> bool {
        // Subtractions instead of ends: a window may reach the last address.
        if self.base <= other.base {
            other.base - self.base < self.size
        } else {
            self.base - other.base < other.size
        }
    }
}

/// A range of guest physical addresses that the host bridge forwards to its bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aperture {
    /// First guest physical address.
    pub base: u64,
    /// Bytes.
    pub size: u64,
}

impl Aperture {
    /// Whether `size` bytes from `base` lie wholly inside.
    #[must_use]
    pub const fn contains(&self, base: u64, size: u64) -> bool {
        base >= self.base
            && size <= self.size
            && base - self.base <= self.size - size
            && base.checked_add(size).is_some()
    }
}

/// The low and the high 32 bits.
pub(crate) const fn halves(value: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    (
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    )
}

/// The value whose low and high 32 bits these are.
pub(crate) const fn join(low: u32, high: u32) -> u64 {
    (high as u64) << u32::BITS | low as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(base: u64, size: u64) -> BarWindow {
        BarWindow {
            function: Bdf::on_bus_0(1),
            bar: 0,
            base,
            size,
        }
    }

    #[test]
    fn overlap_is_symmetric_and_exact_up_to_the_last_address() {
        let top = window(u64::MAX - 0xFFF, 0x1000);
        assert!(top.overlaps(&top));
        assert!(!top.overlaps(&window(0, 0x1000)));
        assert!(!window(0, 0x1000).overlaps(&top));
        assert!(!window(0x1000, 0x1000).overlaps(&window(0x2000, 0x1000)));
        assert!(window(0x1000, 0x1001).overlaps(&window(0x2000, 0x1000)));
        assert!(window(0x2000, 0x1000).overlaps(&window(0, 0x4000)));
    }

    #[test]
    fn an_aperture_holds_only_what_lies_wholly_inside() {
        let aperture = Aperture {
            base: 0x1000,
            size: 0x2000,
        };
        assert!(aperture.contains(0x1000, 0x2000));
        assert!(aperture.contains(0x2000, 0x1000));
        assert!(!aperture.contains(0x2000, 0x2000));
        assert!(!aperture.contains(0, 0x1000));
        assert!(!aperture.contains(u64::MAX, 0x1000));
        let everything = Aperture {
            base: 0,
            size: u64::MAX,
        };
        assert!(!everything.contains(u64::MAX - 0xFFF, 0x1000));
    }

    #[test]
    fn a_four_gibibyte_bar_has_no_writable_low_half() {
        assert_eq!(Bar::memory64(1 << 32).writable_halves(), (0, u32::MAX));
        assert_eq!(Bar::memory64(1 << 33).writable_halves(), (0, u32::MAX - 1));
        assert_eq!(Bar::memory32(0x4000).writable_halves().0, 0xFFFF_C000);
    }
}
