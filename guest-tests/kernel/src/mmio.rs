//! Loads and stores of device registers.
//!
//! Every access is one plain MOV of the stated width, in assembly: hosts that emulate the access
//! must see the width the caller asked for, and never a vector or string instruction.

use core::arch::asm;

/// A range of device registers in the identity-mapped low 4 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mmio {
    base: u64,
    bytes: u64,
}

macro_rules! access {
    ($read:ident, $write:ident, $type:ty, $load:literal, $store:literal, $class:ident) => {
        #[doc = concat!("Loads a `", stringify!($type), "`; all ones outside the window.")]
        #[must_use]
        pub fn $read(&self, offset: u64) -> $type {
            let Some(address) = self.address(offset, size_of::<$type>() as u64) else {
                return <$type>::MAX;
            };
            let value;
            // SAFETY: within the window, which holds device registers alone (see `new`).
            unsafe {
                asm!($load, out($class) value, in(reg) address,
                     options(nostack, preserves_flags));
            }
            value
        }

        #[doc = concat!("Stores a `", stringify!($type), "`; dropped outside the window.")]
        pub fn $write(&self, offset: u64, value: $type) {
            if let Some(address) = self.address(offset, size_of::<$type>() as u64) {
                // SAFETY: within the window, which holds device registers alone (see `new`).
                unsafe {
                    asm!($store, in($class) value, in(reg) address,
                         options(nostack, preserves_flags));
                }
            }
        }
    };
}

impl Mmio {
    /// A window of `bytes` bytes of registers at physical address `base`.
    ///
    /// # Safety
    /// No memory that Rust or a DMA buffer uses lies within, and all of it is below 4 GiB.
    #[must_use]
    pub const unsafe fn new(base: u64, bytes: u64) -> Self {
        Self { base, bytes }
    }

    /// Physical address of the first byte.
    #[must_use]
    pub const fn base(&self) -> u64 {
        self.base
    }

    /// Length in bytes.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A part of this window; `None` when it is not within.
    #[must_use]
    pub fn part(&self, offset: u64, bytes: u64) -> Option<Self> {
        let base = self.address(offset, bytes)?;
        Some(Self { base, bytes })
    }

    fn address(&self, offset: u64, bytes: u64) -> Option<u64> {
        let end = offset.checked_add(bytes)?;
        (end <= self.bytes).then(|| self.base + offset)
    }

    access!(
        read8,
        write8,
        u8,
        "mov {0}, [{1}]",
        "mov [{1}], {0}",
        reg_byte
    );
    access!(
        read16,
        write16,
        u16,
        "mov {0:x}, [{1}]",
        "mov [{1}], {0:x}",
        reg
    );
    access!(
        read32,
        write32,
        u32,
        "mov {0:e}, [{1}]",
        "mov [{1}], {0:e}",
        reg
    );
    access!(
        read64,
        write64,
        u64,
        "mov {0}, [{1}]",
        "mov [{1}], {0}",
        reg
    );

    /// Loads `data.len()` bytes: one access for 1, 2, 4 and 8, else byte by byte.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        match data {
            [byte] => *byte = self.read8(offset),
            [_, _] => data.copy_from_slice(&self.read16(offset).to_le_bytes()),
            [_, _, _, _] => data.copy_from_slice(&self.read32(offset).to_le_bytes()),
            [_, _, _, _, _, _, _, _] => data.copy_from_slice(&self.read64(offset).to_le_bytes()),
            _ => {
                for (at, byte) in data.iter_mut().enumerate() {
                    *byte = self.read8(offset.saturating_add(at as u64));
                }
            }
        }
    }

    /// Stores `data.len()` bytes: one access for 1, 2, 4 and 8, else byte by byte.
    pub fn write(&self, offset: u64, data: &[u8]) {
        match *data {
            [byte] => self.write8(offset, byte),
            [a, b] => self.write16(offset, u16::from_le_bytes([a, b])),
            [a, b, c, d] => self.write32(offset, u32::from_le_bytes([a, b, c, d])),
            [a, b, c, d, e, f, g, h] => {
                self.write64(offset, u64::from_le_bytes([a, b, c, d, e, f, g, h]));
            }
            _ => {
                for (at, &byte) in data.iter().enumerate() {
                    self.write8(offset.saturating_add(at as u64), byte);
                }
            }
        }
    }
}
