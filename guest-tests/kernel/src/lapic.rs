//! The boot CPU's local APIC in xAPIC mode (Intel SDM vol. 3, chapter 11).

use crate::irq::Vector;
use crate::mmio::Mmio;

// SAFETY: the architectural address of the LAPIC's registers, which no memory overlaps.
const REGISTERS: Mmio = unsafe { Mmio::new(0xfee0_0000, 0x1000) };

const ID: u64 = 0x20;
const TASK_PRIORITY: u64 = 0x80;
const SPURIOUS: u64 = 0xf0;
const LVT_TIMER: u64 = 0x320;
const LVT_LINT0: u64 = 0x350;
const LVT_LINT1: u64 = 0x360;
const TIMER_INITIAL: u64 = 0x380;
const TIMER_CURRENT: u64 = 0x390;
const TIMER_DIVIDE: u64 = 0x3e0;

const MASKED: u32 = 1 << 16;
const SOFTWARE_ENABLE: u32 = 1 << 8;
const DIVIDE_BY_1: u32 = 0b1011;

/// Enables the LAPIC and closes its way to the legacy PIC, whose lines `ring0.s` has masked.
pub(crate) fn init() {
    REGISTERS.write32(LVT_LINT0, MASKED);
    REGISTERS.write32(LVT_LINT1, MASKED);
    REGISTERS.write32(LVT_TIMER, MASKED);
    REGISTERS.write32(TASK_PRIORITY, 0);
    REGISTERS.write32(
        SPURIOUS,
        SOFTWARE_ENABLE | u32::from(Vector::SPURIOUS.number()),
    );
    REGISTERS.write32(TIMER_DIVIDE, DIVIDE_BY_1);
    REGISTERS.write32(LVT_TIMER, u32::from(Vector::TIMER.number()));
}

/// This CPU's APIC id.
pub(crate) fn id() -> u8 {
    (REGISTERS.read32(ID) >> 24) as u8
}

/// Starts the timer: one interrupt after `ticks` of the bus clock. 0 stops it.
pub(crate) fn start_timer(ticks: u32) {
    REGISTERS.write32(TIMER_INITIAL, ticks);
}

/// Ticks left.
pub(crate) fn timer() -> u32 {
    REGISTERS.read32(TIMER_CURRENT)
}
