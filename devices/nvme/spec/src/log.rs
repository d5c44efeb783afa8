//! Log pages (Base 5.1.12.1).

use bitfield_struct::bitfield;
use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// One entry of the Error Information log, 64 bytes (Base 5.1.12.1.2).
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct ErrorLogEntry {
    /// Error Count: 1 for the first error of the controller's life; 0 marks an empty entry.
    pub error_count: u64,
    /// Submission queue of the command; FFFFh when no command is concerned.
    pub sqid: u16,
    /// Command Identifier; FFFFh when no command is concerned.
    pub cid: u16,
    /// Status above the phase tag, as in the completion.
    pub status_phase: u16,
    /// Parameter Error Location: byte in bits 7:0, bit in bits 10:8; FFFFh unknown.
    pub parameter_error_location: u16,
    /// The first LBA that met the error.
    pub lba: u64,
    /// Namespace.
    pub nsid: u32,
    /// A vendor log page with more, or 0.
    pub vendor_specific_log: u8,
    /// Transport Type: 0 for PCIe.
    pub trtype: u8,
    /// Command Set Indicator.
    pub csi: u8,
    /// Opcode.
    pub opcode: u8,
    /// Command specific information.
    pub command_specific: u64,
    /// Transport specific information.
    pub transport_specific: u16,
    reserved: [u8; 21],
    /// Log Page Version.
    pub log_page_version: u8,
}
assert_size!(ErrorLogEntry, 64);

/// Log Page Version of entries that have an opcode (Base 2.0 and later).
pub const ERROR_LOG_VERSION: u8 = 1;

impl ErrorLogEntry {
    /// Bytes of an entry.
    pub const BYTES: usize = 64;
    /// SQID, CID and Parameter Error Location of an error that no command caused.
    pub const NONE: u16 = 0xFFFF;
}

bitflags! {
    /// Critical Warning, byte 0 of the SMART log (Base 5.1.12.1.3).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct CriticalWarning: u8 {
        /// The available spare fell below its threshold.
        const SPARE = 1 << 0;
        /// A temperature is beyond its threshold.
        const TEMPERATURE = 1 << 1;
        /// Reliability is degraded.
        const RELIABILITY = 1 << 2;
        /// All media is read only.
        const READ_ONLY = 1 << 3;
        /// The volatile memory backup device failed.
        const BACKUP_FAILED = 1 << 4;
        /// The persistent memory region became read only or unreliable.
        const PMR = 1 << 5;
    }
}

/// SMART / Health Information log, 512 bytes (Base 5.1.12.1.3).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SmartLog {
    /// Critical Warning, a [`CriticalWarning`].
    pub critical_warning: u8,
    /// Composite Temperature in kelvins, little-endian.
    pub composite_temperature: [u8; 2],
    /// Available Spare in percent.
    pub available_spare: u8,
    /// Available Spare Threshold in percent.
    pub available_spare_threshold: u8,
    /// Percentage Used of the device's life.
    pub percentage_used: u8,
    /// Endurance Group Critical Warning Summary.
    pub endurance_group_warning: u8,
    reserved0: [u8; 25],
    /// Data Units Read, in thousands of 512 bytes, rounded up.
    pub data_units_read: u128,
    /// Data Units Written, in thousands of 512 bytes, rounded up.
    pub data_units_written: u128,
    /// Host Read Commands.
    pub host_reads: u128,
    /// Host Write Commands.
    pub host_writes: u128,
    /// Controller Busy Time in minutes.
    pub controller_busy_minutes: u128,
    /// Power Cycles.
    pub power_cycles: u128,
    /// Power On Hours.
    pub power_on_hours: u128,
    /// Unexpected Power Losses (unsafe shutdowns).
    pub unsafe_shutdowns: u128,
    /// Media and Data Integrity Errors.
    pub media_errors: u128,
    /// Number of Error Information Log Entries over the controller's life.
    pub error_log_entries: u128,
    /// Warning Composite Temperature Time in minutes.
    pub warning_temperature_minutes: u32,
    /// Critical Composite Temperature Time in minutes.
    pub critical_temperature_minutes: u32,
    /// Temperature Sensors 1 to 8 in kelvins, 0 where there is none.
    pub temperature_sensors: [u16; 8],
    reserved1: [u8; 296],
}
assert_size!(SmartLog, 512);

/// Bytes that one SMART data unit stands for: a thousand times 512 (Base 5.1.12.1.3).
pub const SMART_DATA_UNIT_BYTES: u64 = 512_000;

/// What a command does, one entry of the Commands Supported and Effects log (Base 5.1.12.1.6).
#[bitfield(u32)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CommandEffects {
    /// The command is supported.
    pub csupp: bool,
    /// It may change what logical blocks hold.
    pub lbcc: bool,
    /// It may change a namespace's capability.
    pub ncc: bool,
    /// It may change which namespaces there are.
    pub nic: bool,
    /// It may change the controller's capabilities.
    pub ccc: bool,
    #[bits(11)]
    __: u16,
    /// Command Submission and Execution: 0 for no restriction.
    #[bits(3)]
    pub cse: u8,
    /// A UUID may be selected.
    pub uss: bool,
    /// Command Scope (Base 2.0 and later).
    #[bits(12)]
    pub csp: u16,
}

/// Commands Supported and Effects log, 4,096 bytes (Base 5.1.12.1.6).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CommandsEffectsLog {
    /// Admin commands by opcode.
    pub acs: [CommandEffects; 256],
    /// I/O commands by opcode.
    pub iocs: [CommandEffects; 256],
    reserved: [u8; 2048],
}
assert_size!(CommandsEffectsLog, 4096);

/// CSE: no restriction.
pub const CSE_NONE: u8 = 0b000;
/// CSE: no other command of the namespace should be outstanding or submitted meanwhile.
pub const CSE_SAME_NAMESPACE: u8 = 0b001;

/// CSP and FSP: the scope is one namespace.
pub const SCOPE_NAMESPACE: u16 = 1 << 0;
/// CSP and FSP: the scope is one controller.
pub const SCOPE_CONTROLLER: u16 = 1 << 1;

/// What is known of a log page, one entry of the Supported Log Pages log (Base 5.1.12.1.1).
#[bitfield(u32)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct LogPageSupport {
    /// The log page is supported.
    pub lsupp: bool,
    /// Its offset may be an index (OT).
    pub ios: bool,
    #[bits(14)]
    __: u16,
    /// LID Specific Parameter.
    pub lidsp: u16,
}

/// Supported Log Pages log, 1,024 bytes (Base 5.1.12.1.1).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SupportedLogPages {
    /// Log pages by identifier.
    pub pages: [LogPageSupport; 256],
}
assert_size!(SupportedLogPages, 1024);

/// The most namespaces that the Changed Attached Namespace list names.
pub const CHANGED_NAMESPACES_LIMIT: usize = 1024;

/// Changed Attached Namespace list, 4,096 bytes (Base 5.1.12.1.5).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ChangedNamespaces {
    /// Namespace identifiers, ascending, then zeroes; FFFFFFFFh first if there are too many.
    pub nsids: [u32; CHANGED_NAMESPACES_LIMIT],
}
assert_size!(ChangedNamespaces, 4096);

/// What setting a feature does, one entry of the Feature Identifiers Supported and Effects log
/// (Base 5.1.12.1).
#[bitfield(u32)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct FeatureEffects {
    /// The feature is supported.
    pub fsupp: bool,
    /// It may change user data.
    pub udcc: bool,
    /// It may change a namespace's capability.
    pub ncc: bool,
    /// It may change which namespaces there are.
    pub nic: bool,
    /// It may change the controller's capabilities.
    pub ccc: bool,
    #[bits(14)]
    __: u16,
    /// A UUID may be selected.
    pub uss: bool,
    /// Feature Scope.
    #[bits(12)]
    pub fsp: u16,
}

/// Feature Identifiers Supported and Effects log, 1,024 bytes (Base 5.1.12.1).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FeaturesEffectsLog {
    /// Features by identifier.
    pub features: [FeatureEffects; 256],
}
assert_size!(FeaturesEffectsLog, 1024);

/// NVMe-MI Commands Supported and Effects log, 4,096 bytes (Base 5.1.12.1).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MiCommandsEffectsLog {
    /// NVMe-MI commands by opcode; 0 where one is not supported.
    pub commands: [u32; 256],
    reserved: [u8; 3072],
}
assert_size!(MiCommandsEffectsLog, 4096);

/// Firmware Slot Information log, 512 bytes (Base 5.1.12.1.4).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FirmwareSlotLog {
    /// Active Firmware Info: the active slot in bits 2:0, the next one in bits 6:4.
    pub afi: u8,
    reserved0: [u8; 7],
    /// Firmware Revision of slots 1 to 7, ASCII, zero where a slot is empty.
    pub frs: [[u8; 8]; 7],
    reserved1: [u8; 448],
}
assert_size!(FirmwareSlotLog, 512);

/// SMART / Health Information Extended log, C0h, 512 bytes (OCP Datacenter NVMe SSD 4.8.5).
///
/// The log's GUID tells it from other vendors' C0h pages.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct OcpSmartLog {
    /// Physical Media Units Written, in bytes.
    pub physical_media_units_written: u128,
    /// Physical Media Units Read, in bytes.
    pub physical_media_units_read: u128,
    reserved32: [u8; 104],
    /// Unaligned I/O: writes that do not cover whole indirection units.
    pub unaligned_io: u64,
    reserved144: [u8; 350],
    /// Log Page Version.
    pub log_page_version: u16,
    /// Log Page GUID, least significant byte first.
    pub log_page_guid: u128,
}
assert_size!(OcpSmartLog, 512);

impl OcpSmartLog {
    /// What [`log_page_guid`](Self::log_page_guid) is.
    pub const GUID: u128 = 0xAFD5_14C9_7C6F_4F9C_A4F2_BFEA_2810_AFC5;
    /// The version of the page that this is.
    pub const VERSION: u16 = 2;
}
