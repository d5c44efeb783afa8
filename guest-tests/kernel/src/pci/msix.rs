//! The MSI-X capability (PCI Local Bus 3.0, section 6.8.2).

use super::Function;
use crate::irq::Vector;
use crate::mmio::Mmio;

const CAPABILITY: u8 = 0x11;
const ENABLE: u32 = 1 << 31;
const FUNCTION_MASK: u32 = 1 << 30;
const ENTRY: u64 = 16;
const ENTRY_DATA: u64 = 8;
const ENTRY_CONTROL: u64 = 12;
const ENTRY_MASKED: u32 = 1;

/// A function's MSI-X table and pending bits.
#[derive(Clone, Debug)]
pub struct MsiX {
    function: Function,
    capability: u16,
    table: Mmio,
    pending: Mmio,
    vectors: u16,
}

impl MsiX {
    pub(super) fn new(function: &Function) -> Option<Self> {
        let capability = function.capability(CAPABILITY)?;
        let vectors = (function.read32(capability) >> 16) as u16 & 0x7ff;
        let vectors = vectors + 1;
        let part = |register: u32, bytes| {
            function
                .bar(register as usize & 7)?
                .part(u64::from(register & !7), bytes)
        };
        let table = part(function.read32(capability + 4), u64::from(vectors) * ENTRY)?;
        let pending = part(
            function.read32(capability + 8),
            u64::from(vectors.div_ceil(64)) * 8,
        )?;
        Some(Self {
            function: function.clone(),
            capability,
            table,
            pending,
            vectors,
        })
    }

    /// Number of table entries, 1 to 2,048.
    #[must_use]
    pub fn vectors(&self) -> u16 {
        self.vectors
    }

    /// Lets `entry` raise `vector` and unmasks it.
    pub fn program(&self, entry: u16, vector: Vector) {
        let (address, data) = vector.message();
        let at = u64::from(entry) * ENTRY;
        self.set_masked(entry, true);
        self.table.write32(at, address as u32);
        self.table.write32(at + 4, (address >> 32) as u32);
        self.table.write32(at + ENTRY_DATA, data);
        self.set_masked(entry, false);
    }

    /// Masks or unmasks one entry.
    pub fn set_masked(&self, entry: u16, masked: bool) {
        let at = u64::from(entry) * ENTRY + ENTRY_CONTROL;
        self.table
            .write32(at, if masked { ENTRY_MASKED } else { 0 });
    }

    /// Whether the entry's message waits behind a mask.
    #[must_use]
    pub fn is_pending(&self, entry: u16) -> bool {
        entry < self.vectors
            && self.pending.read32(u64::from(entry / 32) * 4) >> (entry % 32) & 1 != 0
    }

    /// Switches MSI-X on or off for the function.
    pub fn set_enabled(&self, on: bool) {
        self.change(ENABLE, on);
    }

    /// Masks or unmasks all entries at once.
    pub fn set_function_masked(&self, masked: bool) {
        self.change(FUNCTION_MASK, masked);
    }

    fn change(&self, bit: u32, on: bool) {
        let control = self.function.read32(self.capability) & !bit;
        self.function
            .write32(self.capability, control | if on { bit } else { 0 });
    }
}
