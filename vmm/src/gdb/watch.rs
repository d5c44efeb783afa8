//! The debug registers DR0 to DR7 (Intel SDM volume 3, 18.2): breakpoints and watchpoints.

use gdbstub::target::ext::breakpoints::WatchKind;
use kvm_bindings::kvm_guest_debug_arch;

/// What a debug register stops at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An instruction that begins there.
    Execute,
    /// An access to data.
    Data(WatchKind),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    address: u64,
    /// 1, 2, 4 or 8; the address is a multiple of it.
    bytes: u64,
    kind: Kind,
    /// What was asked for, of which this is a part.
    asked: (u64, u64),
}

/// The four of a CPU; all CPUs have the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct DebugRegisters([Option<Slot>; 4]);

impl DebugRegisters {
    /// Whether none is in use.
    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// Stops at `bytes` bytes from `address` on, with as many registers as their alignment takes.
    /// False, and nothing changed, when too few are free, or for what x86 has not: reads alone,
    /// and nothing.
    pub(super) fn insert(&mut self, address: u64, bytes: u64, kind: Kind) -> bool {
        if kind == Kind::Data(WatchKind::Read) || bytes == 0 || bytes > 32 {
            return false;
        }
        let asked = (address, bytes);
        let same = |slot: &Slot| slot.asked == asked && slot.kind == kind;
        if self.0.iter().flatten().any(same) {
            return true;
        }
        let Some(end) = address.checked_add(bytes) else {
            return false;
        };
        let mut changed = self.clone();
        let mut at = address;
        while at < end {
            let fits = |bytes: &u64| at.is_multiple_of(*bytes) && at + bytes <= end;
            let bytes = [8, 4, 2, 1].into_iter().find(fits).unwrap_or(1);
            let Some(free) = changed.0.iter_mut().find(|slot| slot.is_none()) else {
                return false;
            };
            *free = Some(Slot {
                address: at,
                bytes,
                kind,
                asked,
            });
            at += bytes;
        }
        *self = changed;
        true
    }

    /// Gives back what [`Self::insert`] took. False when it took nothing.
    pub(super) fn remove(&mut self, address: u64, bytes: u64, kind: Kind) -> bool {
        let before = self.clone();
        for slot in &mut self.0 {
            if slot.is_some_and(|slot| slot.asked == (address, bytes) && slot.kind == kind) {
                *slot = None;
            }
        }
        *self != before
    }

    /// Which of them DR6 names: its kind and address, accesses to data first, for an instruction
    /// that has done one is over, and the other has not begun.
    pub(super) fn hit(&self, dr6: u64) -> Option<(Kind, u64)> {
        let hits = || {
            let slots = self.0.iter().enumerate();
            slots.filter_map(|(bit, slot)| slot.filter(|_| dr6 >> bit & 1 == 1))
        };
        let data = hits().find(|slot| slot.kind != Kind::Execute);
        data.or_else(|| hits().next())
            .map(|slot| (slot.kind, slot.address))
    }

    /// As KVM_SET_GUEST_DEBUG takes them.
    pub(super) fn to_kvm(&self) -> kvm_guest_debug_arch {
        /// Exact breakpoints (bit 9), and a bit that is always set.
        const ALWAYS: u64 = 0x600;
        let mut arch = kvm_guest_debug_arch::default();
        let [dr0, dr1, dr2, dr3, .., dr7] = &mut arch.debugreg;
        *dr7 = ALWAYS;
        for (bit, (slot, register)) in self.0.iter().zip([dr0, dr1, dr2, dr3]).enumerate() {
            let Some(slot) = slot else { continue };
            *register = slot.address;
            let access = match slot.kind {
                Kind::Execute => 0,
                Kind::Data(WatchKind::Write) => 1,
                Kind::Data(WatchKind::Read | WatchKind::ReadWrite) => 3,
            };
            let length = match slot.bytes {
                8 => 2,
                bytes => bytes - 1,
            };
            *dr7 |= 2 << (2 * bit) | (length << 2 | access) << (16 + 4 * bit);
        }
        arch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITE: Kind = Kind::Data(WatchKind::Write);
    const ACCESS: Kind = Kind::Data(WatchKind::ReadWrite);

    #[test]
    fn registers_are_coded_as_the_manual_says() {
        let mut registers = DebugRegisters::default();
        assert!(registers.insert(0x1001, 1, Kind::Execute));
        assert!(registers.insert(0x2008, 8, WRITE));
        assert!(registers.insert(0x3004, 4, ACCESS));
        assert!(registers.insert(0x4002, 2, WRITE));
        let arch = registers.to_kvm();
        assert_eq!(arch.debugreg[..4], [0x1001, 0x2008, 0x3004, 0x4002]);
        assert_eq!(arch.debugreg[7], 0x5f90_06aa);
        assert_eq!(registers.hit(0xffff_0ff2), Some((WRITE, 0x2008)));
        assert_eq!(registers.hit(0b101), Some((ACCESS, 0x3004)));
        assert_eq!(registers.hit(0b001), Some((Kind::Execute, 0x1001)));
        assert_eq!(registers.hit(0x4000), None);
    }

    #[test]
    fn odd_ranges_take_several_and_come_and_go_whole() {
        let mut registers = DebugRegisters::default();
        assert!(registers.insert(0x1003, 5, WRITE), "one byte, one of four");
        assert!(registers.insert(0x1003, 5, WRITE), "the same once more");
        assert_eq!(registers.hit(0b10), Some((WRITE, 0x1004)));
        let before = registers.clone();
        assert!(!registers.insert(0x2001, 7, WRITE), "three more");
        assert_eq!(registers, before);
        assert!(!registers.remove(0x1003, 5, ACCESS));
        assert!(registers.remove(0x1003, 5, WRITE));
        assert!(registers.is_empty());
    }

    #[test]
    fn what_x86_has_not_is_refused() {
        let mut registers = DebugRegisters::default();
        for (address, bytes, kind) in [
            (0, 4, Kind::Data(WatchKind::Read)),
            (0, 0, WRITE),
            (0, 33, WRITE),
            (0, u64::MAX, WRITE),
            (u64::MAX, 2, WRITE),
        ] {
            assert!(!registers.insert(address, bytes, kind));
        }
        assert!(registers.is_empty());
    }
}
