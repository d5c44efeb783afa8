//! One PCI function: its configuration space, BARs and capabilities.

use core::fmt;

use super::{Access, BAR_WINDOW, MsiX, Place};
use crate::mmio::Mmio;

const COMMAND: u16 = 0x04;
const COMMAND_MEMORY: u32 = 1 << 1;
const COMMAND_MASTER: u32 = 1 << 2;
const COMMAND_INTX_OFF: u32 = 1 << 10;
const STATUS_CAPABILITIES: u32 = 1 << 20;
const CLASS: u16 = 0x08;
const BAR0: u16 = 0x10;
const CAPABILITIES: u16 = 0x34;

/// A function of bus 0.
#[derive(Clone, Debug)]
pub struct Function {
    access: Access,
    place: Place,
    bars: [Option<Mmio>; 6],
}

/// Why a function could not be set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PciError {
    /// There is no room left for this BAR.
    NoRoom {
        /// Its number, 0 to 5.
        bar: usize,
        /// Its size in bytes.
        bytes: u64,
    },
}

impl fmt::Display for PciError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoom { bar, bytes } => {
                write!(out, "no room below 4 GiB for BAR{bar} of {bytes:#x} bytes")
            }
        }
    }
}

impl fmt::Display for Function {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { device, function } = self.place;
        let (vendor, id) = self.ids();
        write!(
            out,
            "00:{device:02x}.{function} {vendor:04x}:{id:04x} class {:06x}",
            self.class()
        )
    }
}

impl Function {
    pub(super) fn new(access: Access, place: Place) -> Self {
        Self {
            access,
            place,
            bars: [None; 6],
        }
    }

    /// Device and function number.
    #[must_use]
    pub fn place(&self) -> Place {
        self.place
    }

    /// Reads an aligned dword of configuration space; all ones where there is none.
    #[must_use]
    pub fn read32(&self, offset: u16) -> u32 {
        self.access.read32(self.place, offset)
    }

    /// Writes an aligned dword of configuration space.
    pub fn write32(&self, offset: u16, value: u32) {
        self.access.write32(self.place, offset, value);
    }

    /// Vendor and device id.
    #[must_use]
    pub fn ids(&self) -> (u16, u16) {
        let ids = self.read32(0);
        (ids as u16, (ids >> 16) as u16)
    }

    /// Class, subclass and programming interface, 24 bits.
    #[must_use]
    pub fn class(&self) -> u32 {
        self.read32(CLASS) >> 8
    }

    /// A memory BAR's registers, once [`super::Bus::set_up`] has run.
    #[must_use]
    pub fn bar(&self, index: usize) -> Option<Mmio> {
        self.bars.get(index).copied().flatten()
    }

    /// Moves a memory BAR to another address in the window for BARs. `None`, and nothing is
    /// changed, when there is no such BAR or it cannot be there.
    pub fn move_bar(&mut self, index: usize, base: u64) -> Option<Mmio> {
        let bytes = self.bar(index)?.bytes();
        let (start, end) = BAR_WINDOW;
        let inside = start <= base && base <= end - bytes.min(end - start);
        if !inside || !base.is_multiple_of(bytes) {
            return None;
        }
        // The upper half of a 64-bit BAR is 0 since `place_bar`.
        self.write32(BAR0 + 4 * index as u16, base as u32);
        // SAFETY: the window holds BARs alone.
        let bar = unsafe { Mmio::new(base, bytes) };
        *self.bars.get_mut(index)? = Some(bar);
        Some(bar)
    }

    /// Switches bus mastering (DMA and messages) on or off.
    pub fn set_bus_master(&self, on: bool) {
        let command = self.read32(COMMAND) & 0xffff & !COMMAND_MASTER;
        self.write32(COMMAND, command | if on { COMMAND_MASTER } else { 0 });
    }

    /// Offset of the first capability with this id.
    #[must_use]
    pub fn capability(&self, id: u8) -> Option<u16> {
        if self.read32(COMMAND) & STATUS_CAPABILITIES == 0 {
            return None;
        }
        let mut at = self.read32(CAPABILITIES) as u16 & 0xfc;
        // A list longer than its space has room for is a loop.
        for _ in 0..48 {
            if at < 0x40 {
                return None;
            }
            let header = self.read32(at);
            if header as u8 == id {
                return Some(at);
            }
            at = (header >> 8) as u16 & 0xfc;
        }
        None
    }

    /// The MSI-X capability; `None` without one or when its tables lie in no usable BAR.
    #[must_use]
    pub fn msix(&self) -> Option<MsiX> {
        MsiX::new(self)
    }

    pub(super) fn set_up(&mut self, window: &mut (u64, u64)) -> Result<(), PciError> {
        // Decoding off while addresses are ones. Status bits are write-one-to-clear: write zeros.
        let command = self.read32(COMMAND) & 0xffff;
        self.write32(COMMAND, command & !COMMAND_MEMORY);
        let mut index = 0;
        while index < self.bars.len() {
            let (bar, slots) = self.place_bar(index, window)?;
            if let Some(slot) = self.bars.get_mut(index) {
                *slot = bar;
            }
            index += slots;
        }
        let command = command | COMMAND_MEMORY | COMMAND_MASTER | COMMAND_INTX_OFF;
        self.write32(COMMAND, command);
        Ok(())
    }

    /// Sizes one BAR and gives it an address below 4 GiB if it has none. Returns its registers and
    /// how many of the six slots it takes.
    fn place_bar(
        &self,
        index: usize,
        window: &mut (u64, u64),
    ) -> Result<(Option<Mmio>, usize), PciError> {
        let at = BAR0 + 4 * index as u16;
        let low = self.read32(at);
        if low & 1 != 0 {
            return Ok((None, 1));
        }
        let wide = low & 6 == 4 && index < 5;
        let slots = if wide { 2 } else { 1 };
        let high = if wide { self.read32(at + 4) } else { 0 };
        self.write32(at, u32::MAX);
        let mut mask = u64::from(self.read32(at) & !0xf) | 0xffff_ffff_0000_0000;
        if wide {
            self.write32(at + 4, u32::MAX);
            mask = mask & 0xffff_ffff | u64::from(self.read32(at + 4)) << 32;
        }
        if mask & 0xffff_ffff == 0 {
            return Ok((None, slots));
        }
        let bytes = (!mask).wrapping_add(1);
        let mut base = u64::from(low & !0xf) | u64::from(high) << 32;
        if base == 0 || base.saturating_add(bytes) > 1 << 32 {
            base = window.0.next_multiple_of(bytes.max(4096));
            let end = base.saturating_add(bytes.max(4096));
            if end > window.1 {
                return Err(PciError::NoRoom { bar: index, bytes });
            }
            window.0 = end;
        }
        self.write32(at, base as u32);
        if wide {
            self.write32(at + 4, 0);
        }
        // SAFETY: firmware's placing, or from the window, which is free of all else.
        Ok((Some(unsafe { Mmio::new(base, bytes) }), slots))
    }
}
