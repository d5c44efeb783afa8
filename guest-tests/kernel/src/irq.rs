//! Interrupts as ring 3 sees them: a count a vector, and waiting for a change with a timeout.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::{call, lapic, time::Clock};

/// One of the CPU's interrupt vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Vector(u8);

impl Vector {
    /// First vector for devices' messages.
    pub const FIRST: Self = Self(0x30);
    /// Last vector for devices' messages.
    pub const LAST: Self = Self(0xef);
    /// The LAPIC timer, which ends waits.
    pub(crate) const TIMER: Self = Self(0xf0);
    /// The LAPIC's spurious interrupts.
    pub const SPURIOUS: Self = Self(0xff);

    /// How many vectors devices may have.
    pub const AVAILABLE: u16 = (Self::LAST.0 - Self::FIRST.0) as u16 + 1;

    /// The `index`th vector for devices.
    #[must_use]
    pub fn device(index: u16) -> Option<Self> {
        let number = u8::try_from(index).ok()?.checked_add(Self::FIRST.0)?;
        (number <= Self::LAST.0).then_some(Self(number))
    }

    /// The vector's number, 20h to FFh.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }

    /// How often the interrupt has arrived since boot.
    #[must_use]
    pub fn count(self) -> u64 {
        // SAFETY: defined in ring0.s with 256 aligned entries; only ever changed by whole-word
        // increments of the one CPU's interrupt stubs.
        let counts = unsafe { &COUNTS };
        counts
            .get(usize::from(self.0))
            .map_or(0, |count| count.load(Ordering::Acquire))
    }

    /// The MSI message that raises this vector on the boot CPU: (address, data), Intel SDM vol. 3,
    /// section 11.11: fixed delivery, edge, physical destination.
    #[must_use]
    pub fn message(self) -> (u64, u32) {
        (
            0xfee0_0000 | u64::from(lapic::id()) << 12,
            u32::from(self.0),
        )
    }
}

unsafe extern "C" {
    #[link_name = "interrupt_counts"]
    static COUNTS: [AtomicU64; 256];
    #[link_name = "interrupt_total"]
    static TOTAL: AtomicU64;
}

/// How many interrupts have arrived in all, the timer's and spurious ones included.
#[must_use]
pub fn total() -> u64 {
    // SAFETY: as COUNTS.
    unsafe { &TOTAL }.load(Ordering::Acquire)
}

/// Halts until `condition` holds, looking again after each interrupt, but no longer than
/// `timeout_ns`. Returns whether it holds.
///
/// The LAPIC timer is the waker. It is left running from one wait to the next and armed anew only
/// when it would come too late or has fired, so that a short wait touches no timer register.
pub fn wait_until(clock: &mut Clock, timeout_ns: u64, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = clock.now_ns().saturating_add(timeout_ns);
    loop {
        let seen = total();
        if condition() {
            return true;
        }
        if clock.now_ns() >= deadline {
            return false;
        }
        clock.wake_by(deadline);
        call::wait(seen);
    }
}

/// Waits until the count of `vector` differs from `seen`. Returns whether it does.
pub fn wait(clock: &mut Clock, vector: Vector, seen: u64, timeout_ns: u64) -> bool {
    wait_until(clock, timeout_ns, || vector.count() != seen)
}
