//! Bytes with write masks: the storage below [`ConfigSpace`](crate::ConfigSpace).

use crate::header::{CONVENTIONAL_SIZE, EXTENDED_SIZE};

/// One register of configuration space: where, its value after reset and which of its bits
/// software may write. Tables of these are the whole description of a header or capability.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Register {
    offset: u16,
    width: usize,
    reset: u32,
    writable: u32,
}

impl Register {
    pub(crate) fn byte(offset: u16, reset: u8, writable: u8) -> Self {
        Self {
            offset,
            width: 1,
            reset: reset.into(),
            writable: writable.into(),
        }
    }

    pub(crate) fn word(offset: u16, reset: u16, writable: u16) -> Self {
        Self {
            offset,
            width: 2,
            reset: reset.into(),
            writable: writable.into(),
        }
    }

    pub(crate) fn dword(offset: u16, reset: u32, writable: u32) -> Self {
        Self {
            offset,
            width: 4,
            reset,
            writable,
        }
    }

    /// The same register `base` bytes further up.
    pub(crate) fn shifted(self, base: u16) -> Self {
        Self {
            offset: self.offset.saturating_add(base),
            ..self
        }
    }
}

/// The first 256 bytes of configuration space. The rest up to 4 KiB has no register: it
/// reads 0, which in dword 100h says "no extended capability" (PCIe, 7.6.1).
#[derive(Clone)]
pub(crate) struct RegisterFile {
    value: [u8; CONVENTIONAL_SIZE],
    reset: [u8; CONVENTIONAL_SIZE],
    writable: [u8; CONVENTIONAL_SIZE],
}

impl RegisterFile {
    /// All zero and read-only.
    pub(crate) const fn empty() -> Self {
        Self {
            value: [0; CONVENTIONAL_SIZE],
            reset: [0; CONVENTIONAL_SIZE],
            writable: [0; CONVENTIONAL_SIZE],
        }
    }

    /// Defines registers. A later one replaces what an earlier one said of the same bytes.
    pub(crate) fn define(&mut self, registers: impl IntoIterator<Item = Register>) {
        for register in registers {
            let bytes = register.reset.to_le_bytes().into_iter();
            let masks = register.writable.to_le_bytes();
            let positions = usize::from(register.offset)..;
            for ((position, reset), writable) in
                positions.zip(bytes).zip(masks).take(register.width)
            {
                let slots = (
                    self.value.get_mut(position),
                    self.reset.get_mut(position),
                    self.writable.get_mut(position),
                );
                if let (Some(value_slot), Some(reset_slot), Some(writable_slot)) = slots {
                    (*value_slot, *reset_slot, *writable_slot) = (reset, reset, writable);
                }
            }
        }
    }

    /// Back to the values that the table gives.
    pub(crate) fn restore(&mut self) {
        self.value = self.reset;
    }

    pub(crate) fn read(&self, offset: u16, data: &mut [u8]) {
        for (position, byte) in (usize::from(offset)..).zip(data) {
            *byte = match self.value.get(position) {
                Some(value) => *value,
                None if position < EXTENDED_SIZE => 0,
                None => u8::MAX,
            };
        }
    }

    /// Writes what the masks allow.
    pub(crate) fn write(&mut self, offset: u16, data: &[u8]) {
        for (position, byte) in (usize::from(offset)..).zip(data) {
            if let (Some(value), Some(writable)) =
                (self.value.get_mut(position), self.writable.get(position))
            {
                *value = (*value & !writable) | (byte & writable);
            }
        }
    }

    pub(crate) fn word(&self, offset: u16) -> u16 {
        let mut bytes = [0; 2];
        self.read(offset, &mut bytes);
        u16::from_le_bytes(bytes)
    }

    pub(crate) fn dword(&self, offset: u16) -> u32 {
        let mut bytes = [0; 4];
        self.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// Sets a register from the device's side: masks do not apply.
    pub(crate) fn set_word(&mut self, offset: u16, value: u16) {
        for (position, byte) in (usize::from(offset)..).zip(value.to_le_bytes()) {
            if let Some(slot) = self.value.get_mut(position) {
                *slot = byte;
            }
        }
    }
}
