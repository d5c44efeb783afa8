//! Nanoseconds from the time-stamp counter, and the timer that ends waits.

use core::arch::x86_64::_rdtsc;

use crate::irq::Vector;
use crate::{call, lapic};

/// The LAPIC timer's input under KVM and under QEMU alike, in Hz, unless CPUID says otherwise.
const LAPIC_HZ: u64 = 1_000_000_000;

/// Where the hypervisor's leaves begin (`hypervisor` in Linux's cpufeatures.h), and the one that
/// tells frequencies, as VMware defined it and QEMU and Ferrite follow.
const HYPERVISOR_LEAVES: u32 = 0x4000_0000;
const FREQUENCY_LEAF: u32 = 0x4000_0010;

/// How the TSC's frequency was learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The hypervisor's CPUID leaf 4000_0010h.
    Cpuid,
    /// Measured against the LAPIC timer.
    Measured,
}

/// A monotonic clock.
#[derive(Clone, Debug)]
pub struct Clock {
    start: u64,
    tsc_hz: u64,
    lapic_hz: u64,
    source: Source,
    /// Nanoseconds per tick, in 2^-32.
    scale: u64,
    /// When the LAPIC timer fires next, and the timer's count when it was armed.
    armed: Option<(u64, u64)>,
}

impl Clock {
    /// Learns the frequencies. Needs the LAPIC; takes 10 ms where it must measure.
    pub(crate) fn new() -> Self {
        let [top, ..] = call::cpuid(HYPERVISOR_LEAVES, 0);
        let mut found = None;
        if (FREQUENCY_LEAF..FREQUENCY_LEAF + 0x100).contains(&top) {
            let [tsc_khz, bus_khz, ..] = call::cpuid(FREQUENCY_LEAF, 0);
            if tsc_khz != 0 && bus_khz != 0 {
                found = Some((u64::from(tsc_khz) * 1000, u64::from(bus_khz) * 1000));
            }
        }
        let source = if found.is_some() {
            Source::Cpuid
        } else {
            Source::Measured
        };
        let (tsc_hz, lapic_hz) = found.unwrap_or_else(|| (measure_tsc(), LAPIC_HZ));
        Self {
            start: tsc(),
            tsc_hz,
            lapic_hz,
            source,
            scale: (1_000_000_000_u64 << 32) / tsc_hz.max(1),
            armed: None,
        }
    }

    /// Ticks of the time-stamp counter a second.
    #[must_use]
    pub fn tsc_hz(&self) -> u64 {
        self.tsc_hz
    }

    /// How [`Self::tsc_hz`] was learnt.
    #[must_use]
    pub fn source(&self) -> Source {
        self.source
    }

    /// Nanoseconds since the clock was made.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        let ticks = tsc().saturating_sub(self.start);
        ((u128::from(ticks) * u128::from(self.scale)) >> 32) as u64
    }

    /// Sees to it that the timer interrupts at `deadline_ns` or before, and not in the past.
    pub(crate) fn wake_by(&mut self, deadline_ns: u64) {
        let fired = Vector::TIMER.count();
        if self
            .armed
            .is_some_and(|(at, count)| count == fired && at <= deadline_ns)
        {
            return;
        }
        let now = self.now_ns();
        let ns = deadline_ns.saturating_sub(now);
        let ticks = u128::from(ns) * u128::from(self.lapic_hz) / 1_000_000_000;
        let ticks = u32::try_from(ticks).unwrap_or(u32::MAX).max(1);
        self.armed = Some((now.saturating_add(ns.max(1)), fired));
        lapic::start_timer(ticks);
    }
}

/// The time-stamp counter.
#[must_use]
pub fn tsc() -> u64 {
    // SAFETY: CR4.TSD is 0 (ring0.s), so RDTSC is allowed in ring 3.
    unsafe { _rdtsc() }
}

fn measure_tsc() -> u64 {
    const TICKS: u32 = (LAPIC_HZ / 100) as u32;
    lapic::start_timer(u32::MAX);
    let (tsc_start, timer_start) = (tsc(), lapic::timer());
    while timer_start - lapic::timer() < TICKS {}
    let (tsc_end, timer_end) = (tsc(), lapic::timer());
    lapic::start_timer(0);
    let ticks = u128::from(timer_start - timer_end);
    (u128::from(tsc_end - tsc_start) * u128::from(LAPIC_HZ) / ticks) as u64
}
