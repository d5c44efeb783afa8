//! Identify data structures (Base 5.1.13; NVM 4.1.5).

use bitfield_struct::bitfield;
use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Identify Controller, CNS 01h, 4,096 bytes (Base 5.1.13.2.1).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IdentifyController {
    /// PCI Vendor ID.
    pub vid: u16,
    /// PCI Subsystem Vendor ID.
    pub ssvid: u16,
    /// Serial Number, ASCII padded with spaces.
    pub sn: [u8; 20],
    /// Model Number, ASCII padded with spaces.
    pub mn: [u8; 40],
    /// Firmware Revision, ASCII padded with spaces.
    pub fr: [u8; 8],
    /// Recommended Arbitration Burst, log2 of commands.
    pub rab: u8,
    /// IEEE OUI Identifier, least significant byte first.
    pub ieee: [u8; 3],
    /// Controller Multi-Path I/O and Namespace Sharing Capabilities.
    pub cmic: u8,
    /// Maximum Data Transfer Size: 2^MDTS pages of CAP.MPSMIN, 0 for no limit.
    pub mdts: u8,
    /// Controller ID.
    pub cntlid: u16,
    /// Version, as in VS.
    pub ver: u32,
    /// RTD3 Resume Latency in microseconds.
    pub rtd3r: u32,
    /// RTD3 Entry Latency in microseconds.
    pub rtd3e: u32,
    /// Optional Asynchronous Events Supported.
    pub oaes: u32,
    /// Controller Attributes.
    pub ctratt: u32,
    /// Read Recovery Levels Supported.
    pub rrls: u16,
    /// Boot Partition Capabilities.
    pub bpcap: u8,
    reserved103: u8,
    /// NVM Subsystem Shutdown Latency in microseconds.
    pub nssl: u32,
    reserved108: [u8; 2],
    /// Power Loss Signaling Information.
    pub plsi: u8,
    /// Controller Type: 1 for an I/O controller (Base 1.4 and later).
    pub cntrltype: u8,
    /// FRU Globally Unique Identifier.
    pub fguid: [u8; 16],
    /// Command Retry Delay Times 1 to 3 in units of 100 ms.
    pub crdt: [u16; 3],
    reserved134: [u8; 119],
    /// NVM Subsystem Report.
    pub nvmsr: u8,
    /// VPD Write Cycle Information.
    pub vwci: u8,
    /// Management Endpoint Capabilities.
    pub mec: u8,
    /// Optional Admin Command Support.
    pub oacs: u16,
    /// Abort Command Limit, zero-based.
    pub acl_z: u8,
    /// Asynchronous Event Request Limit, zero-based.
    pub aerl_z: u8,
    /// Firmware Updates.
    pub frmw: FirmwareUpdates,
    /// Log Page Attributes.
    pub lpa: u8,
    /// Error Log Page Entries, zero-based.
    pub elpe_z: u8,
    /// Number of Power States Support, zero-based.
    pub npss_z: u8,
    /// Admin Vendor Specific Command Configuration.
    pub avscc: u8,
    /// Autonomous Power State Transition Attributes.
    pub apsta: u8,
    /// Warning Composite Temperature Threshold in kelvins.
    pub wctemp: u16,
    /// Critical Composite Temperature Threshold in kelvins.
    pub cctemp: u16,
    /// Maximum Time for Firmware Activation in units of 100 ms.
    pub mtfa: u16,
    /// Host Memory Buffer Preferred Size.
    pub hmpre: u32,
    /// Host Memory Buffer Minimum Size.
    pub hmmin: u32,
    /// Total NVM Capacity in bytes, low then high half.
    pub tnvmcap: [u64; 2],
    /// Unallocated NVM Capacity in bytes, low then high half.
    pub unvmcap: [u64; 2],
    /// Replay Protected Memory Block Support.
    pub rpmbs: u32,
    /// Extended Device Self-test Time in minutes.
    pub edstt: u16,
    /// Device Self-test Options.
    pub dsto: u8,
    /// Firmware Update Granularity.
    pub fwug: u8,
    /// Keep Alive Support: granularity in units of 100 ms, 0 for none.
    pub kas: u16,
    /// Host Controlled Thermal Management Attributes.
    pub hctma: u16,
    /// Minimum Thermal Management Temperature.
    pub mntmt: u16,
    /// Maximum Thermal Management Temperature.
    pub mxtmt: u16,
    /// Sanitize Capabilities.
    pub sanicap: u32,
    reserved332: [u8; 180],
    /// Submission Queue Entry Size: required in bits 3:0, maximum in bits 7:4, log2 of bytes.
    pub sqes: EntrySizes,
    /// Completion Queue Entry Size: required in bits 3:0, maximum in bits 7:4, log2 of bytes.
    pub cqes: EntrySizes,
    /// Maximum Outstanding Commands.
    pub maxcmd: u16,
    /// Number of Namespaces: the highest valid NSID.
    pub nn: u32,
    /// Optional NVM Command Support.
    pub oncs: u16,
    /// Fused Operation Support.
    pub fuses: u16,
    /// Format NVM Attributes.
    pub fna: u8,
    /// Volatile Write Cache.
    pub vwc: VolatileWriteCacheAttributes,
    /// Atomic Write Unit Normal in logical blocks, zero-based.
    pub awun_z: u16,
    /// Atomic Write Unit Power Fail in logical blocks, zero-based.
    pub awupf_z: u16,
    /// I/O Command Set Vendor Specific Command Configuration.
    pub icsvscc: u8,
    /// Namespace Write Protection Capabilities.
    pub nwpc: u8,
    /// Atomic Compare & Write Unit in logical blocks, zero-based.
    pub acwu_z: u16,
    /// Copy Descriptor Formats Supported.
    pub cdfs: u16,
    /// SGL Support.
    pub sgls: u32,
    /// Maximum Number of Allowed Namespaces.
    pub mnan: u32,
    reserved544: [u8; 224],
    /// NVM Subsystem NVMe Qualified Name, UTF-8, zero-terminated.
    pub subnqn: [u8; 256],
    reserved1024: [u8; 1024],
    /// Power State Descriptors 0 to 31.
    pub psd: [PowerStateDescriptor; 32],
    vendor: [u8; 1024],
}
assert_size!(IdentifyController, crate::IDENTIFY_BYTES);

/// CNTRLTYPE: an I/O controller.
pub const CNTRLTYPE_IO: u8 = 1;

/// FUSES: Compare and Write is a fused operation (Base 5.1.13.2.1).
pub const FUSES_COMPARE_AND_WRITE: u16 = 1 << 0;

/// SQES and CQES (Base 5.1.13.2.1).
#[bitfield(u8)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct EntrySizes {
    /// Required (minimum) entry size, log2 of bytes.
    #[bits(4)]
    pub required: u8,
    /// Maximum entry size, log2 of bytes.
    #[bits(4)]
    pub maximum: u8,
}

/// FRMW, Firmware Updates (Base 5.1.13.2.1).
#[bitfield(u8)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct FirmwareUpdates {
    /// The first slot is read only.
    pub first_slot_read_only: bool,
    /// Number of firmware slots, 1 to 7.
    #[bits(3)]
    pub slots: u8,
    /// Activation without reset.
    pub without_reset: bool,
    /// Support for multiple update detection.
    pub multiple_update_detection: bool,
    #[bits(2)]
    __: u8,
}

/// VWC, Volatile Write Cache (Base 5.1.13.2.1).
#[bitfield(u8)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct VolatileWriteCacheAttributes {
    /// A volatile write cache is present.
    pub present: bool,
    /// Flush with NSID FFFFFFFFh: 00b not said, 10b refused, 11b flushes all.
    #[bits(2)]
    pub flush_behavior: u8,
    #[bits(5)]
    __: u8,
}

/// VWC flush behavior: Flush does not take NSID FFFFFFFFh.
pub const FLUSH_BROADCAST_REFUSED: u8 = 0b10;
/// VWC flush behavior: Flush takes NSID FFFFFFFFh and flushes every namespace.
pub const FLUSH_BROADCAST_SUPPORTED: u8 = 0b11;

/// LPA: the SMART log can be read per namespace.
pub const LPA_SMART_PER_NAMESPACE: u8 = 1 << 0;
/// LPA: the Commands Supported and Effects log is there.
pub const LPA_COMMANDS_EFFECTS: u8 = 1 << 1;
/// LPA: extended data (NUMDU, LPOL, LPOU) for Get Log Page.
pub const LPA_EXTENDED: u8 = 1 << 2;
/// LPA: log pages 00h, 12h and 13h are there, and the Commands Supported and Effects log tells
/// the scope of commands.
pub const LPA_MISCELLANEOUS: u8 = 1 << 5;

/// OAES: namespace attribute notices can be enabled.
pub const OAES_NAMESPACE_ATTRIBUTE: u32 = 1 << 8;

/// CTRATT: any command restarts the Keep Alive timer (TBKAS).
pub const CTRATT_TRAFFIC_KEEP_ALIVE: u32 = 1 << 6;
/// CTRATT: extended LBA formats can be enabled (ELBAS).
pub const CTRATT_EXTENDED_LBA_FORMATS: u32 = 1 << 15;

/// OACS: the Format NVM command is supported.
pub const OACS_FORMAT_NVM: u16 = 1 << 1;
/// OACS: the Doorbell Buffer Config command is supported.
pub const OACS_DOORBELL_BUFFER_CONFIG: u16 = 1 << 8;

/// FNA: a format changes all namespaces, whichever the command names.
pub const FNA_FORMAT_ALL: u8 = 1 << 0;
/// FNA: a secure erase erases all namespaces, whichever the command names.
pub const FNA_ERASE_ALL: u8 = 1 << 1;
/// FNA: cryptographic erase is supported.
pub const FNA_CRYPTOGRAPHIC_ERASE: u8 = 1 << 2;
/// FNA: Format NVM does not take NSID FFFFFFFFh (2.0).
pub const FNA_NO_BROADCAST: u8 = 1 << 3;

/// ONCS: Compare is supported.
pub const ONCS_COMPARE: u16 = 1 << 0;
/// ONCS: Dataset Management is supported.
pub const ONCS_DATASET_MANAGEMENT: u16 = 1 << 2;
/// ONCS: Write Zeroes is supported.
pub const ONCS_WRITE_ZEROES: u16 = 1 << 3;
/// ONCS: Verify is supported.
pub const ONCS_VERIFY: u16 = 1 << 7;
/// ONCS: the Timestamp feature is supported.
pub const ONCS_TIMESTAMP: u16 = 1 << 6;
/// ONCS: the Save and Select fields of Set and Get Features are supported.
pub const ONCS_FEATURES_SAVE_SELECT: u16 = 1 << 4;

/// Power State Descriptor, 32 bytes (Base 5.1.13.2.1).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PowerStateDescriptor {
    /// Maximum Power, in centiwatts unless the scale says otherwise.
    pub mp: u16,
    reserved2: u8,
    /// Bit 0: Max Power Scale; bit 1: Non-Operational State.
    pub flags: u8,
    /// Entry Latency in microseconds.
    pub enlat: u32,
    /// Exit Latency in microseconds.
    pub exlat: u32,
    /// Relative Read Throughput.
    pub rrt: u8,
    /// Relative Read Latency.
    pub rrl: u8,
    /// Relative Write Throughput.
    pub rwt: u8,
    /// Relative Write Latency.
    pub rwl: u8,
    reserved16: [u8; 16],
}
assert_size!(PowerStateDescriptor, 32);

/// Identify Namespace of the NVM Command Set, CNS 00h, 4,096 bytes (NVM 4.1.5.1).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IdentifyNamespace {
    /// Namespace Size in logical blocks.
    pub nsze: u64,
    /// Namespace Capacity in logical blocks.
    pub ncap: u64,
    /// Namespace Utilization in logical blocks.
    pub nuse: u64,
    /// Namespace Features.
    pub nsfeat: u8,
    /// Number of LBA Formats, zero-based.
    pub nlbaf_z: u8,
    /// Formatted LBA Size.
    pub flbas: Flbas,
    /// Metadata Capabilities.
    pub mc: u8,
    /// End-to-end Data Protection Capabilities.
    pub dpc: u8,
    /// End-to-end Data Protection Type Settings.
    pub dps: u8,
    /// Namespace Multi-path I/O and Sharing Capabilities.
    pub nmic: u8,
    /// Reservation Capabilities.
    pub rescap: u8,
    /// Format Progress Indicator.
    pub fpi: u8,
    /// Deallocate Logical Block Features.
    pub dlfeat: u8,
    /// Namespace Atomic Write Unit Normal in logical blocks, zero-based.
    pub nawun_z: u16,
    /// Namespace Atomic Write Unit Power Fail in logical blocks, zero-based.
    pub nawupf_z: u16,
    /// Namespace Atomic Compare & Write Unit in logical blocks, zero-based.
    pub nacwu_z: u16,
    /// Namespace Atomic Boundary Size Normal in logical blocks, zero-based; 0 for none.
    pub nabsn_z: u16,
    /// Namespace Atomic Boundary Offset: an LBA.
    pub nabo: u16,
    /// Namespace Atomic Boundary Size Power Fail in logical blocks, zero-based; 0 for none.
    pub nabspf_z: u16,
    /// Namespace Optimal I/O Boundary in logical blocks; 0 for none.
    pub noiob: u16,
    /// NVM Capacity in bytes, low then high half.
    pub nvmcap: [u64; 2],
    /// Namespace Preferred Write Granularity in logical blocks, zero-based.
    pub npwg_z: u16,
    /// Namespace Preferred Write Alignment in logical blocks, zero-based.
    pub npwa_z: u16,
    /// Namespace Preferred Deallocate Granularity in logical blocks, zero-based.
    pub npdg_z: u16,
    /// Namespace Preferred Deallocate Alignment in logical blocks, zero-based.
    pub npda_z: u16,
    /// Namespace Optimal Write Size in logical blocks, zero-based.
    pub nows_z: u16,
    /// Maximum Single Source Range Length in logical blocks.
    pub mssrl: u16,
    /// Maximum Copy Length in logical blocks.
    pub mcl: u32,
    /// Maximum Source Range Count, zero-based.
    pub msrc_z: u8,
    /// Key Per I/O Status.
    pub kpios: u8,
    /// Number of Unique Attribute LBA Formats.
    pub nulbaf: u8,
    reserved83: u8,
    /// Key Per I/O Data Access Alignment and Granularity.
    pub kpiodaag: u32,
    reserved88: [u8; 4],
    /// ANA Group Identifier.
    pub anagrpid: u32,
    reserved96: [u8; 3],
    /// Namespace Attributes: bit 0, currently write protected.
    pub nsattr: u8,
    /// NVM Set Identifier.
    pub nvmsetid: u16,
    /// Endurance Group Identifier.
    pub endgid: u16,
    /// Namespace Globally Unique Identifier, big-endian.
    pub nguid: [u8; 16],
    /// IEEE Extended Unique Identifier, big-endian.
    pub eui64: [u8; 8],
    /// LBA Formats 0 to 63.
    pub lbaf: [LbaFormat; 64],
    vendor: [u8; 3712],
}
assert_size!(IdentifyNamespace, crate::IDENTIFY_BYTES);

bitflags! {
    /// NSFEAT, Namespace Features (NVM 4.1.5.1).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct NamespaceFeatures: u8 {
        /// Thin provisioning.
        const THINP = 1 << 0;
        /// NAWUN, NAWUPF and NACWU are defined for this namespace.
        const NSABP = 1 << 1;
        /// Deallocated or Unwritten Logical Block error supported.
        const DAE = 1 << 2;
        /// NGUID and EUI64 are never reused.
        const UIDREUSE = 1 << 3;
        /// Before 2.1: NPWG, NPWA, NPDG, NPDA and NOWS are defined.
        const OPTPERF = 1 << 4;
        /// Multiple Atomicity Mode.
        const MAM = 1 << 6;
    }
}

/// DLFEAT: a deallocated block reads as zeroes (bits 2:0 = 001b; NVM 4.1.5.1).
pub const DLFEAT_READS_ZEROES: u8 = 0b001;

/// DLFEAT: Write Zeroes takes the Deallocate bit (bit 3; NVM 4.1.5.1).
pub const DLFEAT_WRITE_ZEROES_DEALLOCATES: u8 = 1 << 3;

/// FLBAS, Formatted LBA Size (NVM 4.1.5.1).
#[bitfield(u8)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Flbas {
    /// Index of the current LBA format, bits 3:0.
    #[bits(4)]
    pub index_low: u8,
    /// Metadata is transferred at the end of the data.
    pub extended: bool,
    /// Index of the current LBA format, bits 5:4.
    #[bits(2)]
    pub index_high: u8,
    __: bool,
}

impl Flbas {
    /// With the index of the current LBA format, 0 to 63.
    #[must_use]
    pub const fn with_index(self, index: u8) -> Self {
        self.with_index_low(index & 0xF)
            .with_index_high(index >> 4 & 0b11)
    }

    /// Index of the current LBA format, 0 to 63.
    #[must_use]
    pub const fn index(self) -> u8 {
        self.index_low() | self.index_high() << 4
    }
}

/// LBA Format, 4 bytes (NVM 4.1.5.1).
#[bitfield(u32)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct LbaFormat {
    /// Metadata Size in bytes.
    pub ms: u16,
    /// LBA Data Size, log2 of bytes; 0 for an unused format.
    pub lbads: u8,
    /// Relative Performance: 0 best, 3 degraded.
    #[bits(2)]
    pub rp: u8,
    #[bits(6)]
    __: u8,
}

/// RP: the best performance of all formats.
pub const RP_BEST: u8 = 0b00;
/// RP: degraded performance.
pub const RP_DEGRADED: u8 = 0b11;

/// Header of a Namespace Identification Descriptor (Base 5.1.13.2.3); the identifier follows.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct NamespaceDescriptorHeader {
    /// Namespace Identifier Type.
    pub nidt: u8,
    /// Namespace Identifier Length in bytes.
    pub nidl: u8,
    reserved: [u8; 2],
}
assert_size!(NamespaceDescriptorHeader, 4);

impl NamespaceDescriptorHeader {
    /// A header for an identifier of `nidl` bytes.
    #[must_use]
    pub const fn new(nidt: u8, nidl: u8) -> Self {
        Self {
            nidt,
            nidl,
            reserved: [0; 2],
        }
    }
}

/// NIDT: IEEE EUI-64, 8 bytes.
pub const NIDT_EUI64: u8 = 1;
/// NIDT: NGUID, 16 bytes.
pub const NIDT_NGUID: u8 = 2;
/// NIDT: UUID, 16 bytes.
pub const NIDT_UUID: u8 = 3;
/// NIDT: Command Set Identifier, 1 byte.
pub const NIDT_CSI: u8 = 4;

#[cfg(test)]
mod tests {
    use core::mem::offset_of;

    use super::*;

    #[test]
    fn identify_controller_offsets() {
        let at = [
            (offset_of!(IdentifyController, mdts), 77),
            (offset_of!(IdentifyController, ver), 80),
            (offset_of!(IdentifyController, oaes), 92),
            (offset_of!(IdentifyController, ctratt), 96),
            (offset_of!(IdentifyController, cntrltype), 111),
            (offset_of!(IdentifyController, crdt), 128),
            (offset_of!(IdentifyController, nvmsr), 253),
            (offset_of!(IdentifyController, oacs), 256),
            (offset_of!(IdentifyController, elpe_z), 262),
            (offset_of!(IdentifyController, wctemp), 266),
            (offset_of!(IdentifyController, tnvmcap), 280),
            (offset_of!(IdentifyController, rpmbs), 312),
            (offset_of!(IdentifyController, kas), 320),
            (offset_of!(IdentifyController, sanicap), 328),
            (offset_of!(IdentifyController, sqes), 512),
            (offset_of!(IdentifyController, nn), 516),
            (offset_of!(IdentifyController, oncs), 520),
            (offset_of!(IdentifyController, vwc), 525),
            (offset_of!(IdentifyController, awun_z), 526),
            (offset_of!(IdentifyController, acwu_z), 532),
            (offset_of!(IdentifyController, sgls), 536),
            (offset_of!(IdentifyController, mnan), 540),
            (offset_of!(IdentifyController, subnqn), 768),
            (offset_of!(IdentifyController, psd), 2048),
        ];
        for (found, specified) in at {
            assert_eq!(found, specified);
        }
    }

    #[test]
    fn identify_namespace_offsets() {
        let at = [
            (offset_of!(IdentifyNamespace, flbas), 26),
            (offset_of!(IdentifyNamespace, dlfeat), 33),
            (offset_of!(IdentifyNamespace, nawun_z), 34),
            (offset_of!(IdentifyNamespace, noiob), 46),
            (offset_of!(IdentifyNamespace, nvmcap), 48),
            (offset_of!(IdentifyNamespace, npwg_z), 64),
            (offset_of!(IdentifyNamespace, nows_z), 72),
            (offset_of!(IdentifyNamespace, mssrl), 74),
            (offset_of!(IdentifyNamespace, anagrpid), 92),
            (offset_of!(IdentifyNamespace, nsattr), 99),
            (offset_of!(IdentifyNamespace, endgid), 102),
            (offset_of!(IdentifyNamespace, nguid), 104),
            (offset_of!(IdentifyNamespace, eui64), 120),
            (offset_of!(IdentifyNamespace, lbaf), 128),
        ];
        for (found, specified) in at {
            assert_eq!(found, specified);
        }
    }
}
