//! The values of features: CDW11 of Set Features, dword 0 of Get Features (Base 5.1.25.1).

use bitfield_struct::bitfield;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Get Features' Select field (Base 5.1.11).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Select {
    /// The current value.
    Current = 0b000,
    /// The default value.
    Default = 0b001,
    /// The saved value.
    Saved = 0b010,
    /// What may be done with the feature.
    Supported = 0b011,
}

impl Select {
    /// The select value of its three bits; `None` for a reserved one.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0b000 => Some(Self::Current),
            0b001 => Some(Self::Default),
            0b010 => Some(Self::Saved),
            0b011 => Some(Self::Supported),
            _ => None,
        }
    }
}

/// Dword 0 of Get Features with Select = Supported (Base 5.1.11).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Capabilities {
    /// The value can be saved across resets and power.
    pub saveable: bool,
    /// The value is kept per namespace.
    pub namespace_specific: bool,
    /// The value can be changed.
    pub changeable: bool,
    #[bits(29)]
    __: u32,
}

/// Arbitration, FID 01h (Base 5.1.25.1.1).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Arbitration {
    /// Arbitration Burst: 2^AB commands at a time, 111b for no limit.
    #[bits(3)]
    pub ab: u8,
    #[bits(5)]
    __: u8,
    /// Low Priority Weight, zero-based.
    pub lpw_z: u8,
    /// Medium Priority Weight, zero-based.
    pub mpw_z: u8,
    /// High Priority Weight, zero-based.
    pub hpw_z: u8,
}

/// Arbitration Burst that means "no limit".
pub const ARBITRATION_NO_LIMIT: u8 = 0b111;

/// Power Management, FID 02h (Base 5.1.25.1.2).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct PowerManagement {
    /// Power State.
    #[bits(5)]
    pub ps: u8,
    /// Workload Hint.
    #[bits(3)]
    pub wh: u8,
    #[bits(24)]
    __: u32,
}

/// Temperature Threshold, FID 04h (Base 5.1.25.1.3).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct TemperatureThreshold {
    /// Temperature Threshold in kelvins.
    pub tmpth: u16,
    /// Threshold Temperature Select: 0 composite, 1 to 8 a sensor, 1111b all (set only).
    #[bits(4)]
    pub tmpsel: u8,
    /// Threshold Type Select: 00b over, 01b under.
    #[bits(2)]
    pub thsel: u8,
    #[bits(10)]
    __: u16,
}

/// TMPSEL: the composite temperature.
pub const TMPSEL_COMPOSITE: u8 = 0;
/// TMPSEL in Set Features: every implemented sensor.
pub const TMPSEL_ALL: u8 = 0b1111;
/// THSEL: over temperature.
pub const THSEL_OVER: u8 = 0b00;
/// THSEL: under temperature.
pub const THSEL_UNDER: u8 = 0b01;

/// Error Recovery, FID 05h (NVM 4.1.3.2).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct ErrorRecovery {
    /// Time Limited Error Recovery in units of 100 ms, 0 for no limit.
    pub tler: u16,
    /// Deallocated or Unwritten Logical Block Error Enable.
    pub dulbe: bool,
    #[bits(15)]
    __: u16,
}

/// Volatile Write Cache, FID 06h (Base 5.1.25.1.4).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct VolatileWriteCache {
    /// Volatile Write Cache Enable.
    pub wce: bool,
    #[bits(31)]
    __: u32,
}

/// Number of Queues, FID 07h (Base 5.1.25.1.5): asked for in CDW11, allocated in dword 0.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct NumberOfQueues {
    /// I/O submission queues, zero-based.
    pub nsq_z: u16,
    /// I/O completion queues, zero-based.
    pub ncq_z: u16,
}

/// Interrupt Coalescing, FID 08h (PCIe 3.3).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct InterruptCoalescing {
    /// Aggregation Threshold in completions, zero-based.
    pub thr_z: u8,
    /// Aggregation Time in units of 100 microseconds, 0 for no delay.
    pub time: u8,
    __: u16,
}

/// Interrupt Vector Configuration, FID 09h (PCIe 3.3).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct InterruptVectorConfig {
    /// Interrupt Vector.
    pub iv: u16,
    /// Coalescing Disable.
    pub cd: bool,
    #[bits(15)]
    __: u16,
}

/// Write Atomicity Normal, FID 0Ah (NVM 4.1.3.3).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct WriteAtomicityNormal {
    /// Disable Normal: only the power-fail units hold.
    pub dn: bool,
    #[bits(31)]
    __: u32,
}

/// Asynchronous Event Configuration, FID 0Bh (Base 5.1.25.1.6).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct AsyncEventConfig {
    /// SMART / health critical warnings that raise an event, bit by bit as in the log page.
    pub smart: u8,
    /// Namespace Attribute Notices.
    pub namespace_attribute: bool,
    /// Firmware Activation Notices.
    pub firmware_activation: bool,
    #[bits(22)]
    __: u32,
}

/// Timestamp, FID 0Eh, 8 bytes of data (Base 5.1.25.1).
#[bitfield(u64)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Timestamp {
    /// Milliseconds: since 1970-01-01 0:00 UTC if a host set it, else since a reset.
    #[bits(48)]
    pub milliseconds: u64,
    /// The clock may have stood still at times (Get Features only).
    pub synch: bool,
    /// Where the value comes from (Get Features only).
    #[bits(3)]
    pub origin: u8,
    #[bits(12)]
    __: u16,
}

impl Timestamp {
    /// Bytes of the feature's data.
    pub const BYTES: usize = 8;
}

/// Timestamp Origin: a Controller Level Reset cleared the value.
pub const TIMESTAMP_FROM_RESET: u8 = 0b000;
/// Timestamp Origin: Set Features set the value.
pub const TIMESTAMP_FROM_HOST: u8 = 0b001;

/// Host Behavior Support, FID 16h, 512 bytes of data (Base 5.1.25.1): what the host can take.
/// Each byte is 0 or 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HostBehavior {
    /// Advanced Command Retry Enable.
    pub acre: u8,
    /// Extended Telemetry Data Area 4 Supported.
    pub etdas: u8,
    /// LBA Format Extension Enable.
    pub lbafee: u8,
    /// Host Dispersed Namespace Support.
    pub hdisns: u8,
    /// Copy Descriptor Formats Enable, bit by bit.
    pub cdfe: u16,
    reserved6: [u8; 506],
}
assert_size!(HostBehavior, 512);

/// I/O Command Set Profile, FID 19h (Base 5.1.25.1).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct CommandSetProfile {
    /// I/O Command Set Combination Index, into Identify's CNS 1Ch.
    #[bits(9)]
    pub iocsci: u16,
    #[bits(23)]
    __: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn feature_values_sit_where_the_specification_puts_them() {
        assert_eq!(u32::from(Arbitration::new().with_hpw_z(1)), 1 << 24);
        assert_eq!(
            u32::from(TemperatureThreshold::new().with_thsel(THSEL_UNDER)),
            1 << 20
        );
        assert_eq!(
            u32::from(TemperatureThreshold::new().with_tmpsel(TMPSEL_ALL)),
            0xF << 16
        );
        assert_eq!(u32::from(ErrorRecovery::new().with_dulbe(true)), 1 << 16);
        assert_eq!(u32::from(NumberOfQueues::new().with_ncq_z(2)), 2 << 16);
        assert_eq!(
            u32::from(InterruptVectorConfig::new().with_cd(true)),
            1 << 16
        );
        assert_eq!(
            u32::from(AsyncEventConfig::new().with_firmware_activation(true)),
            1 << 9
        );
        assert_eq!(u32::from(Capabilities::new().with_changeable(true)), 4);
        assert_eq!(u64::from(Timestamp::new().with_synch(true)), 1 << 48);
        assert_eq!(
            u64::from(Timestamp::new().with_origin(TIMESTAMP_FROM_HOST)),
            1 << 49
        );
        assert_eq!(core::mem::offset_of!(HostBehavior, cdfe), 4);
        assert_eq!(u32::from(CommandSetProfile::new().with_iocsci(511)), 0x1FF);
    }
}
