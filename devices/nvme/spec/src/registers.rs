//! Controller properties as registers in BAR0 (Base 3.1.4; PCIe 3.1).

use bitfield_struct::bitfield;

/// A register of the BAR0 register file.
///
/// Offsets are bytes from BAR0; sizes are 4 or 8 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Register {
    /// Controller Capabilities, 8 bytes, read only.
    Cap,
    /// Version, 4 bytes, read only.
    Vs,
    /// Interrupt Mask Set, 4 bytes; undefined under MSI-X.
    Intms,
    /// Interrupt Mask Clear, 4 bytes; undefined under MSI-X.
    Intmc,
    /// Controller Configuration, 4 bytes.
    Cc,
    /// Controller Status, 4 bytes.
    Csts,
    /// NVM Subsystem Reset, 4 bytes, optional.
    Nssr,
    /// Admin Queue Attributes, 4 bytes.
    Aqa,
    /// Admin Submission Queue base address, 8 bytes.
    Asq,
    /// Admin Completion Queue base address, 8 bytes.
    Acq,
    /// Controller Memory Buffer Location, 4 bytes, optional.
    Cmbloc,
    /// Controller Memory Buffer Size, 4 bytes, optional.
    Cmbsz,
    /// Controller Ready Timeouts, 4 bytes (Base 2.0 and later).
    Crto,
}

impl Register {
    /// Every register, in the order of their offsets.
    pub const ALL: [Self; 13] = [
        Self::Cap,
        Self::Vs,
        Self::Intms,
        Self::Intmc,
        Self::Cc,
        Self::Csts,
        Self::Nssr,
        Self::Aqa,
        Self::Asq,
        Self::Acq,
        Self::Cmbloc,
        Self::Cmbsz,
        Self::Crto,
    ];

    /// Byte offset in BAR0.
    #[must_use]
    pub const fn offset(self) -> u64 {
        match self {
            Self::Cap => 0x00,
            Self::Vs => 0x08,
            Self::Intms => 0x0C,
            Self::Intmc => 0x10,
            Self::Cc => 0x14,
            Self::Csts => 0x1C,
            Self::Nssr => 0x20,
            Self::Aqa => 0x24,
            Self::Asq => 0x28,
            Self::Acq => 0x30,
            Self::Cmbloc => 0x38,
            Self::Cmbsz => 0x3C,
            Self::Crto => 0x68,
        }
    }

    /// Size in bytes: 4 or 8.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Cap | Self::Asq | Self::Acq => 8,
            _ => 4,
        }
    }
}

/// Byte offset of the first doorbell, SQ0TDBL (PCIe 3.1.2).
pub const DOORBELL_BASE: u64 = 0x1000;

/// Byte offset of a Submission Queue Tail doorbell with stride `dstrd` (CAP.DSTRD).
#[must_use]
pub const fn sq_tail_doorbell(qid: u16, dstrd: u8) -> u64 {
    DOORBELL_BASE + (2 * qid as u64) * (4 << dstrd)
}

/// Byte offset of a Completion Queue Head doorbell with stride `dstrd` (CAP.DSTRD).
#[must_use]
pub const fn cq_head_doorbell(qid: u16, dstrd: u8) -> u64 {
    DOORBELL_BASE + (2 * qid as u64 + 1) * (4 << dstrd)
}

/// Controller Capabilities, CAP (Base 3.1.4.1).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Cap {
    /// Maximum Queue Entries Supported, zero-based.
    pub mqes_z: u16,
    /// Contiguous Queues Required.
    pub cqr: bool,
    /// Arbitration Mechanism Supported: bit 0 weighted round robin, bit 1 vendor.
    #[bits(2)]
    pub ams: u8,
    #[bits(5)]
    __: u8,
    /// Timeout for CSTS.RDY, in units of 500 ms.
    pub to: u8,
    /// Doorbell Stride: 4 << DSTRD bytes.
    #[bits(4)]
    pub dstrd: u8,
    /// NVM Subsystem Reset Supported.
    pub nssrs: bool,
    /// Command Sets Supported: bit 0 NVM, bit 6 I/O command sets, bit 7 none.
    pub css: u8,
    /// Boot Partition Support.
    pub bps: bool,
    /// Controller Power Scope.
    #[bits(2)]
    pub cps: u8,
    /// Memory Page Size Minimum: 2^(12 + MPSMIN) bytes.
    #[bits(4)]
    pub mpsmin: u8,
    /// Memory Page Size Maximum: 2^(12 + MPSMAX) bytes.
    #[bits(4)]
    pub mpsmax: u8,
    /// Persistent Memory Region Supported.
    pub pmrs: bool,
    /// Controller Memory Buffer Supported.
    pub cmbs: bool,
    /// NVM Subsystem Shutdown Supported.
    pub nsss: bool,
    /// Controller Ready Modes Supported: bit 0 with media, bit 1 independent of media.
    #[bits(2)]
    pub crms: u8,
    /// NVM Subsystem Shutdown Enhancements Supported.
    pub nsses: bool,
    #[bits(2)]
    __: u8,
}

/// CAP.CRMS bit: the controller can be ready with its media (CRWMS).
pub const CAP_CRMS_WITH_MEDIA: u8 = 1 << 0;

/// CAP.CSS bit: the NVM Command Set is supported.
pub const CAP_CSS_NVM: u8 = 1 << 0;
/// CAP.CSS bit: I/O command sets are selected by Identify (CNS 1Ch) and by CSI.
pub const CAP_CSS_IOCSS: u8 = 1 << 6;

/// Version, VS (Base 3.1.4.2).
#[bitfield(u32)]
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub struct Vs {
    /// Tertiary version number.
    pub ter: u8,
    /// Minor version number.
    pub mnr: u8,
    /// Major version number.
    pub mjr: u16,
}

impl Vs {
    /// NVMe 2.0.
    pub const V2_0: Self = Self::new().with_mjr(2);
    /// NVMe 1.4.
    pub const V1_4: Self = Self::new().with_mjr(1).with_mnr(4);
    /// NVMe 2.1.
    pub const V2_1: Self = Self::new().with_mjr(2).with_mnr(1);
}

/// Controller Configuration, CC (Base 3.1.4.5).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Cc {
    /// Enable.
    pub en: bool,
    #[bits(3)]
    __: u8,
    /// I/O Command Set Selected.
    #[bits(3)]
    pub css: u8,
    /// Memory Page Size: 2^(12 + MPS) bytes.
    #[bits(4)]
    pub mps: u8,
    /// Arbitration Mechanism Selected.
    #[bits(3)]
    pub ams: u8,
    /// Shutdown Notification.
    #[bits(2)]
    pub shn: Shn,
    /// I/O Submission Queue Entry Size, log2 of bytes.
    #[bits(4)]
    pub iosqes: u8,
    /// I/O Completion Queue Entry Size, log2 of bytes.
    #[bits(4)]
    pub iocqes: u8,
    /// Controller Ready Independent of Media Enable.
    pub crime: bool,
    #[bits(7)]
    __: u8,
}

/// CC.CSS: the NVM Command Set.
pub const CC_CSS_NVM: u8 = 0b000;
/// CC.CSS: every I/O command set that is supported, where CAP.CSS offers [`CAP_CSS_IOCSS`].
pub const CC_CSS_ALL: u8 = 0b110;
/// CC.AMS: round robin.
pub const CC_AMS_ROUND_ROBIN: u8 = 0b000;
/// log2 of a submission queue entry's bytes, for CC.IOSQES and SQES.
pub const SQE_LOG2: u8 = 6;
/// log2 of a completion queue entry's bytes, for CC.IOCQES and CQES.
pub const CQE_LOG2: u8 = 4;

/// CC.SHN, Shutdown Notification.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Shn {
    /// No notification.
    None = 0b00,
    /// Normal shutdown.
    Normal = 0b01,
    /// Abrupt shutdown.
    Abrupt = 0b10,
    /// Reserved value.
    Reserved = 0b11,
}

impl Shn {
    const fn from_bits(bits: u8) -> Self {
        match bits {
            0b00 => Self::None,
            0b01 => Self::Normal,
            0b10 => Self::Abrupt,
            _ => Self::Reserved,
        }
    }

    const fn into_bits(self) -> u8 {
        self as u8
    }
}

/// Controller Status, CSTS (Base 3.1.4.6).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Csts {
    /// Ready.
    pub rdy: bool,
    /// Controller Fatal Status.
    pub cfs: bool,
    /// Shutdown Status.
    #[bits(2)]
    pub shst: Shst,
    /// NVM Subsystem Reset Occurred.
    pub nssro: bool,
    /// Processing Paused.
    pub pp: bool,
    /// Shutdown Type: set for a subsystem shutdown.
    pub st: bool,
    #[bits(25)]
    __: u32,
}

/// CSTS.SHST, Shutdown Status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Shst {
    /// Normal operation, no shutdown requested.
    Normal = 0b00,
    /// Shutdown processing occurring.
    Occurring = 0b01,
    /// Shutdown processing complete.
    Complete = 0b10,
    /// Reserved value.
    Reserved = 0b11,
}

impl Shst {
    const fn from_bits(bits: u8) -> Self {
        match bits {
            0b00 => Self::Normal,
            0b01 => Self::Occurring,
            0b10 => Self::Complete,
            _ => Self::Reserved,
        }
    }

    const fn into_bits(self) -> u8 {
        self as u8
    }
}

/// Controller Ready Timeouts, CRTO (Base 3.1.4.20), in units of 500 ms.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Crto {
    /// Controller Ready With Media Timeout.
    pub crwmt: u16,
    /// Controller Ready Independent of Media Timeout.
    pub crimt: u16,
}

/// Admin Queue Attributes, AQA (Base 3.1.4.8).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Aqa {
    /// Admin Submission Queue Size in entries, zero-based.
    #[bits(12)]
    pub asqs_z: u16,
    #[bits(4)]
    __: u8,
    /// Admin Completion Queue Size in entries, zero-based.
    #[bits(12)]
    pub acqs_z: u16,
    #[bits(4)]
    __: u8,
}

/// Admin queue base address, ASQ and ACQ (Base 3.1.4.9, 3.1.4.10): the bits that hold the address.
pub const ADMIN_QUEUE_BASE_MASK: u64 = !0xFFF;
/// The fewest entries an admin queue may have (Base 3.1.4.8).
pub const ADMIN_QUEUE_MIN_ENTRIES: u32 = 2;
/// The most entries an admin queue may have (Base 3.1.4.8).
pub const ADMIN_QUEUE_MAX_ENTRIES: u32 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_tile_without_overlap() {
        for pair in Register::ALL.windows(2) {
            assert!(
                pair[0].offset() + pair[0].bytes() <= pair[1].offset(),
                "{pair:?}"
            );
            assert_eq!(pair[1].offset() % pair[1].bytes(), 0, "{pair:?}");
        }
    }

    #[test]
    fn fields_sit_where_the_specification_puts_them() {
        assert_eq!(u64::from(Cap::new().with_mqes_z(0xFFFF)), 0xFFFF);
        assert_eq!(u64::from(Cap::new().with_to(1)), 1 << 24);
        assert_eq!(u64::from(Cap::new().with_css(CAP_CSS_NVM)), 1 << 37);
        assert_eq!(u64::from(Cap::new().with_mpsmax(0xF)), 0xF << 52);
        assert_eq!(u64::from(Cap::new().with_crms(3)), 3 << 59);
        assert_eq!(u32::from(Cc::new().with_shn(Shn::Abrupt)), 2 << 14);
        assert_eq!(
            u32::from(Cc::new().with_iosqes(6).with_iocqes(4)),
            0x0046_0000
        );
        assert_eq!(u32::from(Csts::new().with_shst(Shst::Complete)), 2 << 2);
        assert_eq!(u32::from(Aqa::new().with_acqs_z(0xFFF)), 0x0FFF_0000);
        assert_eq!(u32::from(Crto::new().with_crimt(1)), 1 << 16);
        assert_eq!(u32::from(Vs::V1_4), 0x0001_0400);
        assert_eq!(u32::from(Vs::V2_0), 0x0002_0000);
        assert_eq!(u32::from(Vs::V2_1), 0x0002_0100);
        assert_eq!(sq_tail_doorbell(3, 0), 0x1018);
        assert_eq!(cq_head_doorbell(3, 0), 0x101C);
        assert_eq!(cq_head_doorbell(0, 2), 0x1010);
    }
}
