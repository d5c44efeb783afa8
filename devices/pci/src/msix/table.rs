//! The vector table: what software wrote, and which vectors that opens.

use std::ops::Range;

use super::{MsiMessage, MsixControl};
use crate::bar::{halves, join};
use crate::capability::msix::{ADDRESS_LOW, ENTRY_SIZE, VECTOR_MASKED};
use crate::function::read_absent;

/// Bytes of the unit that the table is accessed by.
const DWORD: u64 = 4;

/// One vector (PCI 3.0, 6.8.2).
#[derive(Clone, Copy)]
struct Entry {
    message: MsiMessage,
    masked: bool,
    /// What the router has.
    routed: Option<MsiMessage>,
    /// The front end's own word on masking.
    client_mask: Option<bool>,
}

impl Entry {
    const RESET: Self = Self {
        message: MsiMessage {
            address: 0,
            data: 0,
        },
        masked: true,
        routed: None,
        client_mask: None,
    };

    /// The four dwords as software reads them.
    fn dwords(&self) -> [u32; 4] {
        let (low, high) = halves(self.message.address);
        [
            low,
            high,
            self.message.data,
            if self.masked { VECTOR_MASKED } else { 0 },
        ]
    }

    fn bytes(&self) -> impl Iterator<Item = u8> {
        self.dwords().into_iter().flat_map(u32::to_le_bytes)
    }

    fn write(&mut self, dword: u64, value: u32) {
        let (low, high) = halves(self.message.address);
        match dword {
            0 => self.message.address = join(value & ADDRESS_LOW, high),
            1 => self.message.address = join(low, value),
            2 => self.message.data = value,
            _ => self.masked = value & VECTOR_MASKED != 0,
        }
    }
}

pub(super) struct Table {
    entries: Box<[Entry]>,
    control: MsixControl,
    bus_master: bool,
}

impl Table {
    pub(super) fn new(vectors: u16) -> Self {
        Self {
            entries: vec![Entry::RESET; usize::from(vectors)].into(),
            control: MsixControl::default(),
            bus_master: false,
        }
    }

    /// Whether that changed anything.
    pub(super) fn set_control(&mut self, control: MsixControl, bus_master: bool) -> bool {
        let old = (self.control, self.bus_master);
        (self.control, self.bus_master) = (control, bus_master);
        old != (control, bus_master)
    }

    pub(super) fn set_client_mask(&mut self, vector: u16, masked: Option<bool>) {
        if let Some(entry) = self.entries.get_mut(usize::from(vector)) {
            entry.client_mask = masked;
        }
    }

    /// Whether interrupts of `vector` get through.
    pub(super) fn is_open(&self, vector: u16) -> bool {
        let Some(entry) = self.entries.get(usize::from(vector)) else {
            return false;
        };
        match entry.client_mask {
            Some(masked) => !masked,
            None => self.table_opens(entry),
        }
    }

    fn table_opens(&self, entry: &Entry) -> bool {
        self.control.enable && !self.control.function_mask && self.bus_master && !entry.masked
    }

    /// The message the router must be given before `vector` is opened, if it has another.
    pub(super) fn take_route_change(&mut self, vector: u16) -> Option<MsiMessage> {
        let entry = *self.entries.get(usize::from(vector))?;
        let governs = entry.client_mask.is_none();
        if !governs || !self.table_opens(&entry) || entry.routed == Some(entry.message) {
            return None;
        }
        self.entries.get_mut(usize::from(vector))?.routed = Some(entry.message);
        Some(entry.message)
    }

    /// State after reset; gives the vectors whose routes are to be withdrawn.
    pub(super) fn reset(&mut self) -> Vec<u16> {
        self.control = MsixControl::default();
        self.bus_master = false;
        let mut routed = Vec::new();
        for (vector, entry) in (0..).zip(&mut self.entries) {
            if entry.routed.is_some() {
                routed.push(vector);
            }
            *entry = Entry {
                client_mask: entry.client_mask,
                ..Entry::RESET
            };
        }
        routed
    }

    pub(super) fn read(&self, offset: u64, data: &mut [u8]) {
        read_absent(data);
        let first = usize::try_from(offset / ENTRY_SIZE).unwrap_or(usize::MAX);
        let within = usize::try_from(offset % ENTRY_SIZE).unwrap_or(0);
        let bytes = self
            .entries
            .iter()
            .skip(first)
            .flat_map(Entry::bytes)
            .skip(within);
        for (slot, byte) in data.iter_mut().zip(bytes) {
            *slot = byte;
        }
    }

    /// Writes whole aligned dwords; gives the vectors touched.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) -> Range<u16> {
        let (dwords, rest) = data.as_chunks::<4>();
        if !offset.is_multiple_of(DWORD) || !rest.is_empty() {
            return 0..0;
        }
        let mut touched = 0..0;
        for (index, value) in (offset / DWORD..).zip(dwords) {
            let per_entry = ENTRY_SIZE / DWORD;
            let Ok(vector) = u16::try_from(index / per_entry) else {
                break;
            };
            let Some(entry) = self.entries.get_mut(usize::from(vector)) else {
                break;
            };
            entry.write(index % per_entry, u32::from_le_bytes(*value));
            if touched.is_empty() {
                touched.start = vector;
            }
            touched.end = vector.saturating_add(1);
        }
        touched
    }
}
