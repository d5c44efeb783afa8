//! Software breakpoints: INT3 instructions in the guest's memory, which its debugger does not see.

use std::collections::{BTreeMap, BTreeSet};

use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

use crate::machine::GuestMemory;

/// INT3, of one byte.
const INT3: u8 = 0xcc;
/// Most breakpoints: more than people set, and a bound for a client that never ends.
const MOST: usize = 1024;

/// The breakpoints that are in place, by guest physical address.
pub(super) struct Patches {
    memory: GuestMemory,
    places: BTreeMap<u64, Patch>,
}

struct Patch {
    /// What the guest has there.
    original: u8,
    /// Linear addresses that it was asked for by: one page may be mapped at several.
    addresses: BTreeSet<u64>,
}

impl Patches {
    pub(super) fn new(memory: GuestMemory) -> Self {
        Self {
            memory,
            places: BTreeMap::new(),
        }
    }

    /// Whether there is any.
    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Whether one was asked for at a linear address.
    pub(super) fn has(&self, address: u64) -> bool {
        let mut patches = self.places.values();
        patches.any(|patch| patch.addresses.contains(&address))
    }

    /// Puts a breakpoint at linear address `address`, which lies at `physical`. False when that is
    /// no memory, or there are too many.
    pub(super) fn insert(&mut self, address: u64, physical: u64) -> bool {
        if let Some(patch) = self.places.get_mut(&physical) {
            return patch.addresses.len() < MOST && {
                patch.addresses.insert(address);
                true
            };
        }
        if self.places.len() >= MOST {
            return false;
        }
        let memory = self.memory.memory();
        let Ok(original) = memory.read_obj(GuestAddress(physical)) else {
            return false;
        };
        if memory.write_obj(INT3, GuestAddress(physical)).is_err() {
            return false;
        }
        let addresses = BTreeSet::from([address]);
        self.places.insert(
            physical,
            Patch {
                original,
                addresses,
            },
        );
        true
    }

    /// Takes the breakpoint at linear address `address` away, wherever that was mapped when it was
    /// put there. False when there is none.
    pub(super) fn remove(&mut self, address: u64) -> bool {
        let found = self.places.iter_mut().find_map(|(physical, patch)| {
            (patch.addresses.remove(&address)).then_some((*physical, patch.addresses.is_empty()))
        });
        if let Some((physical, true)) = found {
            self.restore(physical);
        }
        found.is_some()
    }

    /// Takes all of them away.
    pub(super) fn clear(&mut self) {
        while let Some((&physical, _)) = self.places.first_key_value() {
            self.restore(physical);
        }
    }

    /// Reads memory as the guest has it.
    pub(super) fn read(&self, physical: u64, data: &mut [u8]) -> bool {
        let memory = self.memory.memory();
        if memory.read_slice(data, GuestAddress(physical)).is_err() {
            return false;
        }
        for (&place, patch) in self.places.range(within(physical, data.len())) {
            let at = usize::try_from(place - physical).ok();
            if let Some(byte) = at.and_then(|at| data.get_mut(at)) {
                *byte = patch.original;
            }
        }
        true
    }

    /// Writes memory; breakpoints stay in place.
    pub(super) fn write(&mut self, physical: u64, data: &[u8]) -> bool {
        let mut data = data.to_vec();
        for (&place, patch) in self.places.range_mut(within(physical, data.len())) {
            let at = usize::try_from(place - physical).ok();
            if let Some(byte) = at.and_then(|at| data.get_mut(at)) {
                patch.original = std::mem::replace(byte, INT3);
            }
        }
        let memory = self.memory.memory();
        memory.write_slice(&data, GuestAddress(physical)).is_ok()
    }

    /// A guest that wrote its own code there since keeps what it wrote.
    fn restore(&mut self, physical: u64) {
        let Some(patch) = self.places.remove(&physical) else {
            return;
        };
        let memory = self.memory.memory();
        if let Ok(INT3) = memory.read_obj::<u8>(GuestAddress(physical)) {
            let _ = memory.write_obj(patch.original, GuestAddress(physical));
        }
    }
}

fn within(start: u64, bytes: usize) -> std::ops::Range<u64> {
    start..start.saturating_add(bytes as u64)
}

#[cfg(test)]
mod tests {
    use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

    use super::*;

    fn patches() -> Patches {
        let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 0x1000)]);
        let memory = memory.expect("small");
        memory
            .write_slice(&[1, 2, 3, 4], GuestAddress(0x10))
            .expect("in range");
        Patches::new(GuestMemoryAtomic::new(memory))
    }

    fn raw(patches: &Patches) -> [u8; 4] {
        patches
            .memory
            .memory()
            .read_obj(GuestAddress(0x10))
            .expect("in range")
    }

    fn seen(patches: &Patches) -> [u8; 4] {
        let mut data = [0; 4];
        assert!(patches.read(0x10, &mut data));
        data
    }

    #[test]
    fn the_debugger_sees_no_breakpoint_and_the_guest_does() {
        let mut patches = patches();
        assert!(patches.insert(0xff11, 0x11));
        assert_eq!(
            (raw(&patches), seen(&patches)),
            ([1, INT3, 3, 4], [1, 2, 3, 4])
        );
        assert!(patches.has(0xff11) && !patches.has(0xff12));
        assert!(patches.write(0x10, &[5, 6, 7]));
        assert_eq!(
            (raw(&patches), seen(&patches)),
            ([5, INT3, 7, 4], [5, 6, 7, 4])
        );
        assert!(patches.remove(0xff11) && !patches.remove(0xff11));
        assert_eq!(raw(&patches), [5, 6, 7, 4]);
    }

    #[test]
    fn one_place_with_two_addresses_keeps_its_breakpoint_for_the_second() {
        let mut patches = patches();
        assert!(patches.insert(0xa11, 0x11) && patches.insert(0xb11, 0x11));
        assert!(patches.remove(0xa11));
        assert_eq!(raw(&patches), [1, INT3, 3, 4]);
        assert!(patches.remove(0xb11) && patches.is_empty());
        assert_eq!(raw(&patches), [1, 2, 3, 4]);
    }

    #[test]
    fn clearing_restores_all_but_what_the_guest_has_overwritten() {
        let mut patches = patches();
        assert!(patches.insert(0x10, 0x10) && patches.insert(0x12, 0x12));
        patches
            .memory
            .memory()
            .write_obj(9_u8, GuestAddress(0x12))
            .expect("in range");
        patches.clear();
        assert_eq!(raw(&patches), [1, 2, 9, 4]);
        assert!(patches.is_empty());
    }

    #[test]
    fn no_memory_and_too_many_are_refused() {
        let mut patches = patches();
        assert!(!patches.insert(0x1000, 0x1000) && !patches.insert(0, u64::MAX));
        assert!(!patches.read(0xfff, &mut [0; 2]) && !patches.write(u64::MAX, &[0; 2]));
        assert!((0..MOST as u64).all(|at| patches.insert(at, at)));
        assert!(!patches.insert(0xfff, 0xfff));
    }
}
