//! The register file behind BAR0: reads, writes, and the access rules, once.

use nvme_spec::registers::{
    ADMIN_QUEUE_BASE_MASK, Aqa, CAP_CRMS_WITH_MEDIA, CAP_CSS_IOCSS, CAP_CSS_NVM, Cap, Cc, Crto,
    DOORBELL_BASE, Register, Shn, Vs,
};

use crate::{
    config::ControllerConfig,
    doorbell::Side,
    ids::Epoch,
    lifecycle::{Event, Lifecycle},
};

/// The bits of CC that a host can set: all but the reserved ones and CRIME.
const CC_WRITABLE: u32 = 0x00FF_FFF1;
/// The bits of CC that change while CC.EN is 1: EN, SHN, IOSQES and IOCQES. The others are
/// latched when the controller is enabled (Base 3.1.4.5).
const CC_WRITABLE_ENABLED: u32 = 0x00FF_C001;
/// The bits of AQA that a host can set.
const AQA_WRITABLE: u32 = 0x0FFF_0FFF;
/// log2 of the largest memory page over 4 KiB: 64 KiB.
const MPSMAX: u8 = 4;
/// CAP.TO: a host waits at most this many half seconds for CSTS.RDY.
const TIMEOUT_HALF_SECONDS: u8 = 20;

/// What the registers hold, behind one lock that no command takes.
#[derive(Debug)]
pub(crate) struct Registers {
    pub(crate) cc: Cc,
    pub(crate) aqa: Aqa,
    pub(crate) asq: u64,
    pub(crate) acq: u64,
    /// INTMS and INTMC. It masks pin interrupts, which this function does not raise; MSI-X has
    /// masks of its own (Base 3.1.4.3).
    pub(crate) interrupt_mask: u32,
    pub(crate) lifecycle: Lifecycle,
    /// Counts the times the shards were asked to quiesce.
    pub(crate) round: Epoch,
    /// What follows when the shards are done with the reset or shutdown under way.
    pub(crate) next: Next,
    /// Shards that have not answered the last request.
    pub(crate) quiesce_left: u16,
}

/// What a host asked for before a reset, or a shutdown of a disabled controller, was done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Next {
    pub(crate) enable: bool,
    pub(crate) shutdown: bool,
}

impl Registers {
    pub(crate) const fn new() -> Self {
        Self {
            cc: Cc::new(),
            aqa: Aqa::new(),
            asq: 0,
            acq: 0,
            interrupt_mask: 0,
            lifecycle: Lifecycle::Disabled,
            round: 0,
            next: Next {
                enable: false,
                shutdown: false,
            },
            quiesce_left: 0,
        }
    }

    /// Notes what is to follow the state `old`, if it must be left first.
    pub(crate) const fn remember(&mut self, old: Lifecycle, event: Event) {
        match (old, event) {
            (
                Lifecycle::Resetting { .. } | Lifecycle::ShuttingDown { rdy: false },
                Event::Enable,
            ) => {
                self.next.enable = true;
            }
            (Lifecycle::Resetting { .. }, Event::Disable) => self.next.enable = false,
            (Lifecycle::Resetting { .. }, Event::Shutdown) => self.next.shutdown = true,
            _ => {}
        }
    }

    /// Stores CC; what happens follows, in order.
    pub(crate) fn write_cc(&mut self, value: u32) -> [Option<Event>; 2] {
        let old = self.cc;
        let writable = if old.en() {
            CC_WRITABLE_ENABLED
        } else {
            CC_WRITABLE
        };
        let new = Cc::from((u32::from(old) & CC_WRITABLE & !writable) | (value & writable));
        self.cc = new;
        let asks = |cc: Cc| matches!(cc.shn(), Shn::Normal | Shn::Abrupt);
        let shutdown = (asks(new) && !asks(old)).then_some(Event::Shutdown);
        match (old.en(), new.en()) {
            (false, true) => [Some(Event::Enable), shutdown],
            (true, false) => [Some(Event::Disable), shutdown],
            _ => [shutdown, None],
        }
    }
}

/// Controller Capabilities of a configuration (Base 3.1.4.1).
pub(crate) fn cap(config: &ControllerConfig) -> Cap {
    let crms = if config.version >= Vs::V2_0 {
        CAP_CRMS_WITH_MEDIA
    } else {
        0
    };
    Cap::new()
        .with_crms(crms)
        .with_mqes_z(u16::try_from(config.queue_entries - 1).unwrap_or(u16::MAX))
        .with_cqr(true)
        .with_to(TIMEOUT_HALF_SECONDS)
        .with_css(CAP_CSS_NVM | CAP_CSS_IOCSS)
        .with_mpsmax(MPSMAX)
}

/// Controller Ready Timeouts, where CAP.CRMS says that they are there: what CAP.TO says.
pub(crate) fn crto(cap: Cap) -> Crto {
    match cap.crms() {
        0 => Crto::new(),
        _ => Crto::new().with_crwmt(cap.to().into()),
    }
}

/// The page sizes that CC.MPS may select, as MPS values.
pub(crate) const fn page_size_supported(mps: u8) -> bool {
    mps <= MPSMAX
}

/// The size of BAR0 in bytes: registers and doorbells, a power of two.
pub(crate) fn bar_bytes(io_queues: u16) -> u64 {
    (DOORBELL_BASE + (u64::from(io_queues) + 1) * 8).next_power_of_two()
}

/// What an access to BAR0 is aimed at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    /// A whole register, or half of a 64-bit one.
    Register {
        register: Register,
        half: Option<Half>,
    },
    /// A doorbell.
    Doorbell { qid: u16, side: Side },
    /// Nothing, or an access of a width or alignment that the specification does not allow.
    Nothing,
}

/// A half of a 64-bit register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Half {
    Low,
    High,
}

/// Decodes a write of `bytes` at `offset` by the access rules (Base 3.1.3, PCIe 3.1): registers
/// in their own width or, the 64-bit ones, as two aligned dwords; doorbells as dwords. All else
/// is undefined by the specification and does nothing here.
pub(crate) fn decode(offset: u64, bytes: usize) -> Target {
    if offset >= DOORBELL_BASE {
        let index = (offset - DOORBELL_BASE) / 4;
        let Ok(qid) = u16::try_from(index / 2) else {
            return Target::Nothing;
        };
        if !offset.is_multiple_of(4) || bytes != 4 {
            return Target::Nothing;
        }
        let side = if index.is_multiple_of(2) {
            Side::SqTail
        } else {
            Side::CqHead
        };
        return Target::Doorbell { qid, side };
    }
    for register in Register::ALL {
        let half = match (register.bytes(), bytes) {
            (4, 4) | (8, 8) if offset == register.offset() => None,
            (8, 4) if offset == register.offset() => Some(Half::Low),
            (8, 4) if offset == register.offset() + 4 => Some(Half::High),
            _ => continue,
        };
        return Target::Register { register, half };
    }
    Target::Nothing
}

/// The bits of a writable register that are reserved.
pub(crate) fn reserved_bits(register: Register) -> u64 {
    match register {
        Register::Cc => u64::from(!CC_WRITABLE),
        Register::Aqa => u64::from(!AQA_WRITABLE),
        Register::Asq | Register::Acq => !ADMIN_QUEUE_BASE_MASK,
        _ => 0,
    }
}

/// A 64-bit register after `data` was written to it or to one of its halves.
pub(crate) fn merge(old: u64, half: Option<Half>, data: &[u8]) -> u64 {
    let mut bytes = old.to_le_bytes();
    let place = match half {
        None => bytes.get_mut(..),
        Some(Half::Low) => bytes.get_mut(..4),
        Some(Half::High) => bytes.get_mut(4..),
    };
    if let Some(place) = place
        && place.len() == data.len()
    {
        place.copy_from_slice(data);
    }
    u64::from_le_bytes(bytes)
}

/// AQA as a host can set it.
pub(crate) fn aqa(value: u32) -> Aqa {
    Aqa::from(value & AQA_WRITABLE)
}

/// ASQ or ACQ as a host can set it.
pub(crate) const fn queue_base(value: u64) -> u64 {
    value & ADMIN_QUEUE_BASE_MASK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_of_other_widths_or_alignments_hit_nothing() {
        for (offset, bytes) in [
            (0x14, 1),
            (0x14, 2),
            (0x14, 8),
            (0x15, 4),
            (0x16, 2),
            (0x0C, 8),
        ] {
            assert_eq!(
                decode(offset, bytes),
                Target::Nothing,
                "{offset:#x} {bytes}"
            );
        }
        for (offset, bytes) in [(0x1000, 1), (0x1000, 2), (0x1000, 8), (0x1002, 4)] {
            assert_eq!(
                decode(offset, bytes),
                Target::Nothing,
                "{offset:#x} {bytes}"
            );
        }
        assert_eq!(decode(!3, 4), Target::Nothing);
    }

    #[test]
    fn wide_registers_take_halves() {
        let half = |half| Target::Register {
            register: Register::Asq,
            half,
        };
        assert_eq!(decode(0x28, 8), half(None));
        assert_eq!(decode(0x28, 4), half(Some(Half::Low)));
        assert_eq!(decode(0x2C, 4), half(Some(Half::High)));
        assert_eq!(
            merge(0x1111_1111_2222_2222, Some(Half::High), &[3; 4]),
            0x0303_0303_2222_2222
        );
    }

    #[test]
    fn an_enabled_controller_keeps_its_page_size() {
        let mut registers = Registers::new();
        let enabled = Cc::new().with_en(true).with_mps(1);
        assert_eq!(
            registers.write_cc(enabled.into()),
            [Some(Event::Enable), None]
        );
        assert_eq!(
            registers.write_cc(enabled.with_mps(3).with_iosqes(6).into()),
            [None, None]
        );
        assert_eq!(registers.cc, enabled.with_iosqes(6));
        assert_eq!(registers.write_cc(!1), [Some(Event::Disable), None]);
    }
}
