//! Which bits of a command are reserved, by its opcode.
//!
//! What the current documents (Base 2.1, NVM 1.1) define is not reserved, though 1.4 may not know
//! it: a host may be newer than the version that the controller reports.

use nvme_spec::{
    AdminOpcode, FeatureId, NvmOpcode, Sqe,
    queue::{GetFeaturesCdw10, SetFeaturesCdw10},
};
use zerocopy::{FromBytes, IntoBytes};

/// Dwords of a submission queue entry.
pub(super) const DWORDS: usize = 16;
/// All of a dword.
const ALL: u32 = u32::MAX;
/// Bits 5:2 of byte 1, between FUSE and PSDT (Base 4.1.1).
const FLAGS: u32 = 0x3C00;

const PRP1: &[(usize, u32)] = &[(6, 0), (7, 0)];
const PRPS: &[(usize, u32)] = &[(6, 0), (7, 0), (8, 0), (9, 0)];
/// MPTR, for commands whose blocks may have metadata.
const MPTR: &[(usize, u32)] = &[(4, 0), (5, 0)];
/// Starting LBA.
const SLBA: &[(usize, u32)] = &[(10, 0), (11, 0)];
/// Logical block tags (NVM 1.1 5.2.1.4.1), of use with protection alone and not looked at.
const TAGS: &[(usize, u32)] = &[(2, 0), (3, 0), (14, 0), (15, 0)];
/// CDW14 with nothing but UUID Index, in bits 6:0.
const UUID_INDEX: &[(usize, u32)] = &[(14, !0x7F)];

/// A command's dwords.
pub(super) fn dwords(sqe: &Sqe) -> [u32; DWORDS] {
    <[u32; DWORDS]>::read_from_bytes(sqe.as_bytes()).unwrap_or_default()
}

/// What a dword is called.
pub(super) fn name(dword: usize) -> String {
    match dword {
        0 => "DW0".to_string(),
        1 => "NSID".to_string(),
        4 | 5 => "MPTR".to_string(),
        6 | 7 => "PRP1".to_string(),
        8 | 9 => "PRP2".to_string(),
        _ => format!("CDW{dword}"),
    }
}

/// The reserved bits of each dword; `None` for a command that is not in this list. NSID has a rule
/// of its own.
pub(super) fn reserved(sqid: u16, sqe: &Sqe) -> Option<[u32; DWORDS]> {
    match sqid {
        0 => admin(sqe),
        _ => io(sqe.nvm_opcode()),
    }
}

/// All is reserved but the flags and what `parts` say.
fn mask(parts: &[&[(usize, u32)]]) -> Option<[u32; DWORDS]> {
    let mut dwords = [ALL; DWORDS];
    let always: &[(usize, u32)] = &[(0, FLAGS), (1, 0)];
    for (dword, bits) in parts.iter().copied().chain([always]).flatten() {
        *dwords.get_mut(*dword)? = *bits;
    }
    Some(dwords)
}

fn admin(sqe: &Sqe) -> Option<[u32; DWORDS]> {
    match sqe.admin_opcode() {
        AdminOpcode::DELETE_IO_SQ | AdminOpcode::DELETE_IO_CQ => mask(&[&[(10, 0xFFFF_0000)]]),
        AdminOpcode::CREATE_IO_SQ => {
            mask(&[PRP1, &[(10, 0), (11, 0x0000_FFF8), (12, 0xFFFF_0000)]])
        }
        AdminOpcode::CREATE_IO_CQ => mask(&[PRP1, &[(10, 0), (11, 0x0000_FFFC)]]),
        AdminOpcode::GET_LOG_PAGE => mask(&[
            PRPS,
            &[(10, 0), (11, 0), (12, 0), (13, 0), (14, 0x007F_FF80)],
        ]),
        AdminOpcode::IDENTIFY => mask(&[PRPS, &[(10, 0x0000_FF00), (11, 0x00FF_0000)], UUID_INDEX]),
        AdminOpcode::ABORT => mask(&[&[(10, 0)]]),
        AdminOpcode::SET_FEATURES => {
            let cdw11 = feature(SetFeaturesCdw10::from(sqe.cdw10).fid())?;
            mask(&[PRPS, &[(10, 0x7FFF_FF00), (11, cdw11)], UUID_INDEX])
        }
        AdminOpcode::GET_FEATURES => {
            // Which parts of CDW11 a Get uses differs; those that a Set has are left alone.
            let cdw11 = feature(GetFeaturesCdw10::from(sqe.cdw10).fid())?;
            mask(&[PRPS, &[(10, 0xFFFF_F800), (11, cdw11)], UUID_INDEX])
        }
        AdminOpcode::ASYNC_EVENT_REQUEST | AdminOpcode::KEEP_ALIVE => mask(&[]),
        AdminOpcode::DOORBELL_BUFFER_CONFIG => mask(&[PRPS]),
        AdminOpcode::FORMAT_NVM => mask(&[&[(10, 0xFFFF_C000)]]),
        _ => None,
    }
}

/// The reserved bits of a feature's CDW11; those listed use no other dword.
fn feature(fid: FeatureId) -> Option<u32> {
    Some(match fid {
        FeatureId::ARBITRATION => 0x0000_00F8,
        FeatureId::POWER_MANAGEMENT => 0xFFFF_FF00,
        FeatureId::TEMPERATURE_THRESHOLD => 0xFE00_0000,
        FeatureId::ERROR_RECOVERY | FeatureId::INTERRUPT_VECTOR_CONFIG => 0xFFFE_0000,
        FeatureId::VOLATILE_WRITE_CACHE | FeatureId::WRITE_ATOMICITY_NORMAL => 0xFFFF_FFFE,
        FeatureId::INTERRUPT_COALESCING => 0xFFFF_0000,
        FeatureId::TIMESTAMP | FeatureId::HOST_BEHAVIOR_SUPPORT => ALL,
        FeatureId::IO_COMMAND_SET_PROFILE => 0xFFFF_FE00,
        FeatureId::KEEP_ALIVE_TIMER => 0,
        // Its bits grow from version to version.
        FeatureId::NUMBER_OF_QUEUES | FeatureId::ASYNC_EVENT_CONFIG => 0,
        _ => return None,
    })
}

fn io(opcode: NvmOpcode) -> Option<[u32; DWORDS]> {
    match opcode {
        NvmOpcode::FLUSH => mask(&[]),
        NvmOpcode::READ => mask(&[
            MPTR,
            PRPS,
            SLBA,
            TAGS,
            &[(12, 0x02F0_0000), (13, 0x0000_FF00)],
        ]),
        NvmOpcode::WRITE => mask(&[
            MPTR,
            PRPS,
            SLBA,
            TAGS,
            &[(12, 0x0200_0000), (13, 0x0000_FF00)],
        ]),
        NvmOpcode::COMPARE => mask(&[MPTR, PRPS, SLBA, TAGS, &[(12, 0x02F0_0000), (13, 0)]]),
        NvmOpcode::VERIFY => mask(&[SLBA, TAGS, &[(12, 0x02F0_0000), (13, 0)]]),
        NvmOpcode::WRITE_ZEROES => mask(&[SLBA, TAGS, &[(12, 0), (13, 0)]]),
        NvmOpcode::DATASET_MANAGEMENT => mask(&[PRPS, &[(10, 0xFFFF_FF00), (11, !0b111)]]),
        _ => None,
    }
}

/// Whether a command concerns no namespace, so that its NSID is to be 0 (Base 3.2.1).
pub(super) fn concerns_no_namespace(sqid: u16, sqe: &Sqe) -> bool {
    /// CNS 01h, in bits 7:0 of CDW10.
    const CNS_CONTROLLER: u32 = 0x01;
    sqid == 0
        && match sqe.admin_opcode() {
            AdminOpcode::CREATE_IO_CQ
            | AdminOpcode::CREATE_IO_SQ
            | AdminOpcode::DELETE_IO_CQ
            | AdminOpcode::DELETE_IO_SQ
            | AdminOpcode::ABORT
            | AdminOpcode::ASYNC_EVENT_REQUEST
            | AdminOpcode::KEEP_ALIVE
            | AdminOpcode::DOORBELL_BUFFER_CONFIG => true,
            AdminOpcode::IDENTIFY => sqe.cdw10 & 0xFF == CNS_CONTROLLER,
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table;

    #[test]
    fn every_command_that_is_there_has_a_row() {
        for row in table::ADMIN {
            let sqe = Sqe {
                opcode: row.id.0,
                cdw10: u32::from(FeatureId::ARBITRATION.0),
                ..Sqe::default()
            };
            assert!(reserved(0, &sqe).is_some(), "{:?}", row.id);
        }
        for row in table::IO {
            let sqe = Sqe {
                opcode: row.id.0,
                ..Sqe::default()
            };
            assert!(reserved(1, &sqe).is_some(), "{:?}", row.id);
        }
        for row in table::FEATURES {
            assert!(feature(row.id).is_some(), "{:?}", row.id);
        }
    }

    #[test]
    fn what_the_wire_types_name_is_not_reserved() {
        use nvme_spec::queue::{
            CreateCqCdw11, CreateSqCdw11, DsmCdw11, FormatCdw10, GetLogCdw14, IdentifyCdw10,
            IdentifyCdw11, RwCdw12, WriteZeroesCdw12,
        };
        let bits = |sqid, opcode, dword: usize| {
            let sqe = Sqe {
                opcode,
                ..Sqe::default()
            };
            reserved(sqid, &sqe).expect("listed")[dword]
        };
        let admin = |opcode: AdminOpcode, dword| bits(0, opcode.0, dword);
        let io = |opcode: NvmOpcode, dword| bits(1, opcode.0, dword);
        let create_cq = CreateCqCdw11::new().with_pc(true).with_ien(true);
        let create_cq = u32::from(create_cq.with_iv(u16::MAX));
        assert_eq!(!admin(AdminOpcode::CREATE_IO_CQ, 11), create_cq);
        let create_sq = CreateSqCdw11::new().with_pc(true).with_qprio(3);
        let create_sq = u32::from(create_sq.with_cqid(u16::MAX));
        assert_eq!(!admin(AdminOpcode::CREATE_IO_SQ, 11), create_sq);
        let identify = IdentifyCdw10::new().with_cns_raw(u8::MAX);
        let identify = u32::from(identify.with_cntid(u16::MAX));
        assert_eq!(!admin(AdminOpcode::IDENTIFY, 10), identify);
        let identify = IdentifyCdw11::new().with_cnssid(u16::MAX);
        let identify = u32::from(identify.with_csi_raw(u8::MAX));
        assert_eq!(!admin(AdminOpcode::IDENTIFY, 11), identify);
        let format = FormatCdw10::new().with_index(u8::MAX).with_mset(true);
        let format = format.with_pi(7).with_pil(true).with_ses(7);
        assert_eq!(!admin(AdminOpcode::FORMAT_NVM, 10), u32::from(format));
        let log = GetLogCdw14::new().with_uuid_index(0x7F).with_ot(true);
        let log = u32::from(log.with_csi_raw(u8::MAX));
        assert_eq!(!admin(AdminOpcode::GET_LOG_PAGE, 14), log);
        let dsm = DsmCdw11::new().with_idr(true).with_idw(true).with_ad(true);
        assert_eq!(!io(NvmOpcode::DATASET_MANAGEMENT, 11), u32::from(dsm));
        let transfer = RwCdw12::new().with_nlb_z(u16::MAX).with_dtype(0xF);
        let transfer = transfer.with_stc(true).with_prinfo(0xF).with_fua(true);
        let transfer = u32::from(transfer.with_lr(true));
        assert_eq!(io(NvmOpcode::WRITE, 12) & transfer, 0);
        let zeroes = WriteZeroesCdw12::new().with_nsz(true).with_deac(true);
        assert_eq!(io(NvmOpcode::WRITE_ZEROES, 12) & u32::from(zeroes), 0);
    }
}
