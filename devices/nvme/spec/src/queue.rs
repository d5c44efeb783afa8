//! Submission and completion queue entries, and the dwords of each command.

use bitfield_struct::bitfield;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{AdminOpcode, Cns, Csi, FeatureId, LogId, NvmOpcode, Status};

/// Submission Queue Entry, 64 bytes (Base 4.1).
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Sqe {
    /// Opcode; what it means depends on the queue.
    pub opcode: u8,
    /// Fused operation and data pointer kind.
    pub flags: CommandFlags,
    /// Command Identifier, unique among a queue's outstanding commands.
    pub cid: u16,
    /// Namespace Identifier.
    pub nsid: u32,
    /// Command dword 2.
    pub cdw2: u32,
    /// Command dword 3.
    pub cdw3: u32,
    /// Metadata Pointer.
    pub mptr: u64,
    /// PRP Entry 1, or the first half of an SGL descriptor.
    pub prp1: u64,
    /// PRP Entry 2, or the second half of an SGL descriptor.
    pub prp2: u64,
    /// Command dword 10.
    pub cdw10: u32,
    /// Command dword 11.
    pub cdw11: u32,
    /// Command dword 12.
    pub cdw12: u32,
    /// Command dword 13.
    pub cdw13: u32,
    /// Command dword 14.
    pub cdw14: u32,
    /// Command dword 15.
    pub cdw15: u32,
}
assert_size!(Sqe, crate::SQE_BYTES);

/// FUSE of the first command of a fused operation (Base 4.1).
pub const FUSE_FIRST: u8 = 0b01;
/// FUSE of the second command of a fused operation (Base 4.1).
pub const FUSE_SECOND: u8 = 0b10;

/// Byte 1 of a command: FUSE and PSDT (Base 4.1).
#[bitfield(u8)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CommandFlags {
    /// Fused Operation: 00b normal, 01b first, 10b second.
    #[bits(2)]
    pub fuse: u8,
    #[bits(4)]
    __: u8,
    /// PRP or SGL for Data Transfer: 00b PRP.
    #[bits(2)]
    pub psdt: u8,
}

impl Sqe {
    /// The opcode as an admin command's.
    #[must_use]
    pub const fn admin_opcode(&self) -> AdminOpcode {
        AdminOpcode(self.opcode)
    }

    /// The opcode as an NVM command's.
    #[must_use]
    pub const fn nvm_opcode(&self) -> NvmOpcode {
        NvmOpcode(self.opcode)
    }

    /// Starting LBA of commands that have one: CDW10 low, CDW11 high (NVM 3.2).
    #[must_use]
    pub const fn slba(&self) -> u64 {
        self.cdw10 as u64 | (self.cdw11 as u64) << 32
    }

    /// Stores a starting LBA.
    pub const fn set_slba(&mut self, slba: u64) {
        let [a, b, c, d, e, f, g, h] = slba.to_le_bytes();
        self.cdw10 = u32::from_le_bytes([a, b, c, d]);
        self.cdw11 = u32::from_le_bytes([e, f, g, h]);
    }
}

/// Completion Queue Entry, 16 bytes (Base 4.2).
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Cqe {
    /// Command specific result.
    pub dw0: u32,
    /// Command specific result, second dword.
    pub dw1: u32,
    /// SQ Head Pointer: entries the controller has fetched up to.
    pub sqhd: u16,
    /// SQ Identifier.
    pub sqid: u16,
    /// Command Identifier.
    pub cid: u16,
    /// Status above the phase tag.
    pub status_phase: u16,
}
assert_size!(Cqe, crate::CQE_BYTES);

impl Cqe {
    /// Byte offset of the dword that holds CID, status and phase; stored last by a controller.
    pub const LAST_DWORD: u64 = 12;

    /// The status without the phase tag.
    #[must_use]
    pub const fn status(&self) -> Status {
        Status::from_wire(self.status_phase)
    }

    /// The phase tag.
    #[must_use]
    pub const fn phase(&self) -> bool {
        self.status_phase & 1 != 0
    }

    /// The dword stored last: CID below status and phase.
    #[must_use]
    pub const fn last_dword(&self) -> u32 {
        self.cid as u32 | (self.status_phase as u32) << 16
    }
}

/// CDW10 of Create and Delete I/O queue commands (Base 5.2.1 to 5.2.4).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct QueueCdw10 {
    /// Queue Identifier.
    pub qid: u16,
    /// Queue Size in entries, zero-based; reserved in deletes.
    pub qsize_z: u16,
}

/// CDW11 of Create I/O Completion Queue (Base 5.2.1).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct CreateCqCdw11 {
    /// Physically Contiguous.
    pub pc: bool,
    /// Interrupts Enabled.
    pub ien: bool,
    #[bits(14)]
    __: u16,
    /// Interrupt Vector.
    pub iv: u16,
}

/// CDW11 of Create I/O Submission Queue (Base 5.2.2).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct CreateSqCdw11 {
    /// Physically Contiguous.
    pub pc: bool,
    /// Queue Priority: 00b urgent, 01b high, 10b medium, 11b low.
    #[bits(2)]
    pub qprio: u8,
    #[bits(13)]
    __: u16,
    /// The completion queue to bind to.
    pub cqid: u16,
}

/// CDW10 of Identify (Base 5.1.13).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct IdentifyCdw10 {
    /// Controller or Namespace Structure, a [`Cns`].
    pub cns_raw: u8,
    __: u8,
    /// Controller Identifier.
    pub cntid: u16,
}

impl IdentifyCdw10 {
    /// What is asked for.
    #[must_use]
    pub const fn cns(self) -> Cns {
        Cns(self.cns_raw())
    }
}

/// CDW11 of Identify (Base 5.1.13).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct IdentifyCdw11 {
    /// CNS Specific Identifier.
    pub cnssid: u16,
    __: u8,
    /// Command Set Identifier, a [`Csi`].
    pub csi_raw: u8,
}

impl IdentifyCdw11 {
    /// The command set that is asked about.
    #[must_use]
    pub const fn csi(self) -> Csi {
        Csi(self.csi_raw())
    }
}

/// CDW10 of Get Log Page (Base 5.1.12).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct GetLogCdw10 {
    /// Log Page Identifier, a [`LogId`].
    pub lid_raw: u8,
    /// Log Specific Parameter.
    #[bits(7)]
    pub lsp: u8,
    /// Retain Asynchronous Event.
    pub rae: bool,
    /// Number of Dwords Lower, zero-based with NUMDU.
    pub numdl_z: u16,
}

impl GetLogCdw10 {
    /// Which log page is asked for.
    #[must_use]
    pub const fn lid(self) -> LogId {
        LogId(self.lid_raw())
    }
}

/// CDW11 of Get Log Page (Base 5.1.12).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct GetLogCdw11 {
    /// Number of Dwords Upper, zero-based with NUMDL.
    pub numdu: u16,
    /// Log Specific Identifier.
    pub lsi: u16,
}

/// CDW14 of Get Log Page (Base 5.1.12).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct GetLogCdw14 {
    /// UUID Index.
    #[bits(7)]
    pub uuid_index: u8,
    #[bits(16)]
    __: u16,
    /// Offset Type: set when the offset is an index.
    pub ot: bool,
    /// Command Set Identifier, a [`Csi`].
    pub csi_raw: u8,
}

impl GetLogCdw14 {
    /// The command set that is asked about.
    #[must_use]
    pub const fn csi(self) -> Csi {
        Csi(self.csi_raw())
    }
}

/// CDW10 of Get Features (Base 5.1.11).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct GetFeaturesCdw10 {
    /// Feature Identifier, a [`FeatureId`].
    pub fid_raw: u8,
    /// Select.
    #[bits(3)]
    pub sel: u8,
    #[bits(21)]
    __: u32,
}

impl GetFeaturesCdw10 {
    /// Which feature is asked for.
    #[must_use]
    pub const fn fid(self) -> FeatureId {
        FeatureId(self.fid_raw())
    }
}

/// CDW10 of Set Features (Base 5.1.25).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct SetFeaturesCdw10 {
    /// Feature Identifier, a [`FeatureId`].
    pub fid_raw: u8,
    #[bits(23)]
    __: u32,
    /// Save.
    pub sv: bool,
}

impl SetFeaturesCdw10 {
    /// Which feature is set.
    #[must_use]
    pub const fn fid(self) -> FeatureId {
        FeatureId(self.fid_raw())
    }
}

/// CDW10 of Abort (Base 5.1.1).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct AbortCdw10 {
    /// The submission queue of the command to abort.
    pub sqid: u16,
    /// The identifier of the command to abort.
    pub cid: u16,
}

/// Dword 0 of Abort's completion, bit 0: the command was *not* aborted (Base 5.1.1).
pub const ABORT_NOT_ABORTED: u32 = 1;

/// CDW10 of Format NVM (Base 5.1.10).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct FormatCdw10 {
    /// LBA Format Lower: bits 3:0 of the format's index.
    #[bits(4)]
    pub lbafl: u8,
    /// Metadata Settings: metadata is transferred at the end of the data.
    pub mset: bool,
    /// Protection Information: 0 for none, else its type.
    #[bits(3)]
    pub pi: u8,
    /// Protection Information Location: the first bytes of the metadata.
    pub pil: bool,
    /// Secure Erase Settings.
    #[bits(3)]
    pub ses: u8,
    /// LBA Format Upper: bits 5:4 of the format's index.
    #[bits(2)]
    pub lbafu: u8,
    #[bits(18)]
    __: u32,
}

impl FormatCdw10 {
    /// The index of an LBA format, 0 to 63, as LBAFL and LBAFU.
    #[must_use]
    pub const fn with_index(self, index: u8) -> Self {
        self.with_lbafl(index & 0xF).with_lbafu(index >> 4 & 0b11)
    }

    /// The index of the LBA format, 0 to 63.
    #[must_use]
    pub const fn index(self) -> u8 {
        self.lbafl() | self.lbafu() << 4
    }
}

/// SES: no secure erase is asked for.
pub const SES_NONE: u8 = 0b000;
/// SES: all user data is to be erased.
pub const SES_USER_DATA: u8 = 0b001;
/// SES: the key that user data is encrypted with is to be deleted.
pub const SES_CRYPTOGRAPHIC: u8 = 0b010;

/// The highest type of protection information (PI).
pub const PI_TYPE_MAX: u8 = 3;

/// CDW12 of Read and Write (NVM 3.2.4, 3.2.6).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct RwCdw12 {
    /// Number of Logical Blocks, zero-based.
    pub nlb_z: u16,
    #[bits(4)]
    __: u8,
    /// Directive Type (writes).
    #[bits(4)]
    pub dtype: u8,
    /// Storage Tag Check.
    pub stc: bool,
    __: bool,
    /// Protection Information: PRCHK in bits 2:0, PRACT in bit 3.
    #[bits(4)]
    pub prinfo: u8,
    /// Force Unit Access.
    pub fua: bool,
    /// Limited Retry.
    pub lr: bool,
}

/// CDW12 of Write Zeroes (NVM 3.2.8).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct WriteZeroesCdw12 {
    /// Number of Logical Blocks, zero-based.
    pub nlb_z: u16,
    #[bits(7)]
    __: u8,
    /// Namespace Zeroes.
    pub nsz: bool,
    /// Storage Tag Check.
    pub stc: bool,
    /// Deallocate.
    pub deac: bool,
    /// Protection Information.
    #[bits(4)]
    pub prinfo: u8,
    /// Force Unit Access.
    pub fua: bool,
    /// Limited Retry.
    pub lr: bool,
}

/// CDW10 of Dataset Management (NVM 3.2.3).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct DsmCdw10 {
    /// Number of Ranges, zero-based.
    pub nr_z: u8,
    #[bits(24)]
    __: u32,
}

/// CDW11 of Dataset Management (NVM 3.2.3).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct DsmCdw11 {
    /// Integral Dataset for Read.
    pub idr: bool,
    /// Integral Dataset for Write.
    pub idw: bool,
    /// Deallocate.
    pub ad: bool,
    #[bits(29)]
    __: u32,
}

/// A range of Dataset Management, 16 bytes (NVM 3.2.3.1).
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct DsmRange {
    /// Context Attributes: hints.
    pub cattr: u32,
    /// Length in logical blocks; not zero-based.
    pub nlb: u32,
    /// Starting LBA.
    pub slba: u64,
}
assert_size!(DsmRange, 16);

/// The most ranges of a Dataset Management command.
pub const DSM_MAX_RANGES: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_dwords_sit_where_the_specification_puts_them() {
        assert_eq!(
            u32::from(QueueCdw10::new().with_qsize_z(0xFFFF)),
            0xFFFF_0000
        );
        assert_eq!(
            u32::from(CreateCqCdw11::new().with_pc(true).with_ien(true)),
            3
        );
        assert_eq!(u32::from(CreateCqCdw11::new().with_iv(5)), 5 << 16);
        assert_eq!(
            u32::from(CreateSqCdw11::new().with_cqid(7).with_qprio(3)),
            7 << 16 | 6
        );
        assert_eq!(u32::from(GetLogCdw10::new().with_rae(true)), 1 << 15);
        assert_eq!(u32::from(GetFeaturesCdw10::new().with_sel(3)), 3 << 8);
        assert_eq!(u32::from(SetFeaturesCdw10::new().with_sv(true)), 1 << 31);
        assert_eq!(u32::from(GetLogCdw14::new().with_ot(true)), 1 << 23);
        assert_eq!(u32::from(IdentifyCdw10::new().with_cntid(5)), 5 << 16);
        assert_eq!(u32::from(IdentifyCdw11::new().with_csi_raw(2)), 2 << 24);
        assert_eq!(u32::from(RwCdw12::new().with_fua(true)), 1 << 30);
        assert_eq!(u32::from(RwCdw12::new().with_prinfo(0xF)), 0xF << 26);
        assert_eq!(u8::from(CommandFlags::new().with_psdt(1)), 1 << 6);
        assert_eq!(u32::from(WriteZeroesCdw12::new().with_nsz(true)), 1 << 23);
        assert_eq!(u32::from(WriteZeroesCdw12::new().with_deac(true)), 1 << 25);
        assert_eq!(u32::from(WriteZeroesCdw12::new().with_fua(true)), 1 << 30);
        assert_eq!(u32::from(DsmCdw11::new().with_ad(true)), 1 << 2);
        assert_eq!(u32::from(FormatCdw10::new().with_mset(true)), 1 << 4);
        assert_eq!(u32::from(FormatCdw10::new().with_pi(1)), 1 << 5);
        assert_eq!(u32::from(FormatCdw10::new().with_pil(true)), 1 << 8);
        assert_eq!(u32::from(FormatCdw10::new().with_ses(1)), 1 << 9);
        let format = FormatCdw10::new().with_index(0x35);
        assert_eq!((u32::from(format), format.index()), (3 << 12 | 5, 0x35));
    }

    #[test]
    fn slba_spans_two_dwords() {
        let mut sqe = Sqe::default();
        sqe.set_slba(0x0123_4567_89AB_CDEF);
        assert_eq!((sqe.cdw10, sqe.cdw11), (0x89AB_CDEF, 0x0123_4567));
        assert_eq!(sqe.slba(), 0x0123_4567_89AB_CDEF);
    }
}
