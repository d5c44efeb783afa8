//! I/O command sets: their identifiers, and the Identify structures that are of one or of none.

use bitfield_struct::bitfield;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

open_enum! {
    /// Command Set Identifier (Base 5.1.13.1).
    pub struct Csi(u8) {
        /// NVM Command Set.
        NVM = 0x00,
        /// Key Value Command Set.
        KEY_VALUE = 0x01,
        /// Zoned Namespace Command Set.
        ZONED = 0x02,
    }
}

/// Identify Namespace specific to the NVM Command Set, CNS 05h, 4,096 bytes (NVM 4.1.5.3): what a
/// namespace has beyond CNS 00h.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NvmNamespace {
    /// Logical Block Storage Tag Mask.
    pub lbstm: u64,
    /// Protection Information Capabilities.
    pub pic: u8,
    /// Protection Information Format Attribute.
    pub pifa: u8,
    reserved10: [u8; 2],
    /// Extended LBA Formats 0 to 63.
    pub elbaf: [ExtendedLbaFormat; 64],
    /// Namespace Preferred Deallocate Granularity Large in logical blocks.
    pub npdgl: u32,
    /// Namespace Preferred Read Granularity in logical blocks.
    pub nprg: u32,
    /// Namespace Preferred Read Alignment in logical blocks.
    pub npra: u32,
    /// Namespace Optimal Read Size in logical blocks.
    pub nors: u32,
    /// Namespace Preferred Deallocate Alignment Large in logical blocks.
    pub npdal: u32,
    /// LBA Format Placement Shard Size.
    pub lbapss: u32,
    /// Tracked LBA Allocation Granularity.
    pub tlbaag: u32,
    reserved296: [u8; 3800],
}
assert_size!(NvmNamespace, crate::IDENTIFY_BYTES);

/// Extended LBA Format, 4 bytes (NVM 4.1.5.3).
#[bitfield(u32)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ExtendedLbaFormat {
    /// Storage Tag Size in bits.
    #[bits(7)]
    pub sts: u8,
    /// Protection Information Format: 00b a 16-bit guard.
    #[bits(2)]
    pub pif: u8,
    /// Qualified Protection Information Format.
    #[bits(4)]
    pub qpif: u8,
    #[bits(19)]
    __: u32,
}

/// Identify Controller specific to the NVM Command Set, CNS 06h, 4,096 bytes (NVM 4.1.5.4): limits
/// of commands that MDTS does not limit. 0 in any of them is no limit.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NvmController {
    /// Verify Size Limit: 2^VSL pages of CAP.MPSMIN.
    pub vsl: u8,
    /// Write Zeroes Size Limit: 2^WZSL pages of CAP.MPSMIN.
    pub wzsl: u8,
    /// Write Uncorrectable Size Limit: 2^WUSL pages of CAP.MPSMIN.
    pub wusl: u8,
    /// Dataset Management Ranges Limit.
    pub dmrl: u8,
    /// Dataset Management Range Size Limit: logical blocks of one range.
    pub dmrsl: u32,
    /// Dataset Management Size Limit: logical blocks of all ranges of a command.
    pub dmsl: u64,
    /// Key Per I/O Capabilities.
    pub kpiocap: u8,
    /// Write Zeroes With Deallocate Size Limit: 2^WZDSL pages of CAP.MPSMIN.
    pub wzdsl: u8,
    /// Admin Optional Command Support.
    pub aocs: u16,
    /// Version of the NVM Command Set specification; 0 before 1.1 of it.
    pub ver: u32,
    /// LBA Migration Queue Format.
    pub lbamqf: u8,
    reserved25: [u8; 4071],
}
assert_size!(NvmController, crate::IDENTIFY_BYTES);

/// VER of [`NvmController`]: version 1.1 of the NVM Command Set specification.
pub const NVM_COMMAND_SET_1_1: u32 = 0x0001_0100;

/// Identify Namespace of any I/O command set, CNS 08h, 4,096 bytes (Base 5.1.13.2.8).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IndependentNamespace {
    /// Common Namespace Features.
    pub nsfeat: u8,
    /// Namespace Multi-path I/O and Sharing Capabilities.
    pub nmic: u8,
    /// Reservation Capabilities.
    pub rescap: u8,
    /// Format Progress Indicator.
    pub fpi: u8,
    /// ANA Group Identifier.
    pub anagrpid: u32,
    /// Namespace Attributes: bit 0, currently write protected.
    pub nsattr: u8,
    reserved9: u8,
    /// NVM Set Identifier.
    pub nvmsetid: u16,
    /// Endurance Group Identifier.
    pub endgid: u16,
    /// Namespace Status.
    pub nstat: NamespaceStatus,
    /// Key Per I/O Status.
    pub kpios: u8,
    /// Maximum Key Tag.
    pub maxkt: u16,
    reserved18: [u8; 2],
    /// Reachability Group Identifier.
    pub rgrpid: u32,
    reserved24: [u8; 4072],
}
assert_size!(IndependentNamespace, crate::IDENTIFY_BYTES);

/// NSTAT, Namespace Status (Base 5.1.13.2.8).
#[bitfield(u8)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct NamespaceStatus {
    /// Namespace Ready.
    pub nrdy: bool,
    #[bits(7)]
    __: u8,
}

/// A combination of I/O command sets that can be enabled together (Base 5.1.13.2).
#[bitfield(u64)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CommandSetVector {
    /// NVM Command Set.
    pub nvm: bool,
    /// Key Value Command Set.
    pub key_value: bool,
    /// Zoned Namespace Command Set.
    pub zoned: bool,
    #[bits(61)]
    __: u64,
}

/// Identify I/O Command Set data structure, CNS 1Ch, 4,096 bytes (Base 5.1.13.2): the
/// combinations by their index, zero where there is none.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CommandSets {
    /// Combinations 0 to 511.
    pub vectors: [CommandSetVector; 512],
}
assert_size!(CommandSets, crate::IDENTIFY_BYTES);

/// CNTID of Identify with CNS 1Ch: the controller that is asked.
pub const CNTID_THIS: u16 = 0xFFFF;

#[cfg(test)]
mod tests {
    use core::mem::offset_of;

    use super::*;

    #[test]
    fn offsets() {
        let at = [
            (offset_of!(NvmNamespace, pic), 8),
            (offset_of!(NvmNamespace, elbaf), 12),
            (offset_of!(NvmNamespace, npdgl), 268),
            (offset_of!(NvmNamespace, nors), 280),
            (offset_of!(NvmNamespace, tlbaag), 292),
            (offset_of!(NvmController, dmrl), 3),
            (offset_of!(NvmController, dmrsl), 4),
            (offset_of!(NvmController, dmsl), 8),
            (offset_of!(NvmController, wzdsl), 17),
            (offset_of!(NvmController, ver), 20),
            (offset_of!(IndependentNamespace, anagrpid), 4),
            (offset_of!(IndependentNamespace, nvmsetid), 10),
            (offset_of!(IndependentNamespace, nstat), 14),
            (offset_of!(IndependentNamespace, maxkt), 16),
            (offset_of!(IndependentNamespace, rgrpid), 20),
        ];
        for (found, specified) in at {
            assert_eq!(found, specified);
        }
        assert_eq!(u64::from(CommandSetVector::new().with_zoned(true)), 4);
        assert_eq!(u32::from(ExtendedLbaFormat::new().with_pif(2)), 2 << 7);
        assert_eq!(u8::from(NamespaceStatus::new().with_nrdy(true)), 1);
    }
}
