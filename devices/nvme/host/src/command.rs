//! Constructors of submission queue entries, without CID and data pointer.
//!
//! Arguments are counts as people count; what is zero-based on the wire is converted here.

use nvme_spec::feature::Select;
use nvme_spec::queue::{
    AbortCdw10, CreateCqCdw11, CreateSqCdw11, DsmCdw10, DsmCdw11, FUSE_FIRST, FUSE_SECOND,
    FormatCdw10, GetFeaturesCdw10, GetLogCdw10, GetLogCdw11, GetLogCdw14, IdentifyCdw10,
    IdentifyCdw11, QueueCdw10, RwCdw12, SetFeaturesCdw10, WriteZeroesCdw12,
};
use nvme_spec::{AdminOpcode, Cns, Csi, FeatureId, LogId, NvmOpcode, Sqe};

/// An entry of which only the admin opcode is set.
#[must_use]
pub fn admin(opcode: AdminOpcode) -> Sqe {
    Sqe {
        opcode: opcode.0,
        ..Sqe::default()
    }
}

/// An entry of which only the I/O opcode and namespace are set.
#[must_use]
pub fn nvm(opcode: NvmOpcode, nsid: u32) -> Sqe {
    Sqe {
        opcode: opcode.0,
        nsid,
        ..Sqe::default()
    }
}

/// Identify (Base 5.1.13).
#[must_use]
pub fn identify(cns: Cns, nsid: u32) -> Sqe {
    Sqe {
        nsid,
        cdw10: IdentifyCdw10::new().with_cns_raw(cns.0).into(),
        ..admin(AdminOpcode::IDENTIFY)
    }
}

/// The same Identify of an I/O command set.
#[must_use]
pub fn with_command_set(mut sqe: Sqe, csi: Csi) -> Sqe {
    sqe.cdw11 = IdentifyCdw11::from(sqe.cdw11).with_csi_raw(csi.0).into();
    sqe
}

/// The same Identify of a controller.
#[must_use]
pub fn with_controller(mut sqe: Sqe, cntid: u16) -> Sqe {
    sqe.cdw10 = IdentifyCdw10::from(sqe.cdw10).with_cntid(cntid).into();
    sqe
}

/// Keep Alive (Base 5.1.14).
#[must_use]
pub fn keep_alive() -> Sqe {
    admin(AdminOpcode::KEEP_ALIVE)
}

/// Get Features (Base 5.1.11).
#[must_use]
pub fn get_features(fid: FeatureId, select: Select) -> Sqe {
    Sqe {
        cdw10: GetFeaturesCdw10::new()
            .with_fid_raw(fid.0)
            .with_sel(select as u8)
            .into(),
        ..admin(AdminOpcode::GET_FEATURES)
    }
}

/// Set Features with a value in CDW11 (Base 5.1.25).
#[must_use]
pub fn set_features(fid: FeatureId, value: u32) -> Sqe {
    Sqe {
        cdw10: SetFeaturesCdw10::new().with_fid_raw(fid.0).into(),
        cdw11: value,
        ..admin(AdminOpcode::SET_FEATURES)
    }
}

/// Get Log Page of `dwords` dwords (1 to 2^32; 0 counts as 1) from the start (Base 5.1.12).
#[must_use]
pub fn get_log_page(lid: LogId, nsid: u32, dwords: u32) -> Sqe {
    let [a, b, c, d] = dwords.saturating_sub(1).to_le_bytes();
    Sqe {
        nsid,
        cdw10: GetLogCdw10::new()
            .with_lid_raw(lid.0)
            .with_numdl_z(u16::from_le_bytes([a, b]))
            .into(),
        cdw11: GetLogCdw11::new()
            .with_numdu(u16::from_le_bytes([c, d]))
            .into(),
        ..admin(AdminOpcode::GET_LOG_PAGE)
    }
}

/// Abort (Base 5.1.1).
#[must_use]
pub fn abort(sqid: u16, cid: u16) -> Sqe {
    Sqe {
        cdw10: AbortCdw10::new().with_sqid(sqid).with_cid(cid).into(),
        ..admin(AdminOpcode::ABORT)
    }
}

/// Create I/O Completion Queue of contiguous memory (PC = 1) at `address` (Base 5.2.1).
/// `vector` enables interrupts.
#[must_use]
pub fn create_cq(qid: u16, qsize_z: u16, address: u64, vector: Option<u16>) -> Sqe {
    Sqe {
        prp1: address,
        cdw10: QueueCdw10::new().with_qid(qid).with_qsize_z(qsize_z).into(),
        cdw11: CreateCqCdw11::new()
            .with_pc(true)
            .with_ien(vector.is_some())
            .with_iv(vector.unwrap_or(0))
            .into(),
        ..admin(AdminOpcode::CREATE_IO_CQ)
    }
}

/// Create I/O Submission Queue of contiguous memory (PC = 1) at `address` (Base 5.2.2).
#[must_use]
pub fn create_sq(qid: u16, qsize_z: u16, address: u64, cqid: u16) -> Sqe {
    Sqe {
        prp1: address,
        cdw10: QueueCdw10::new().with_qid(qid).with_qsize_z(qsize_z).into(),
        cdw11: CreateSqCdw11::new().with_pc(true).with_cqid(cqid).into(),
        ..admin(AdminOpcode::CREATE_IO_SQ)
    }
}

/// Delete I/O Completion Queue (Base 5.2.3).
#[must_use]
pub fn delete_cq(qid: u16) -> Sqe {
    Sqe {
        cdw10: QueueCdw10::new().with_qid(qid).into(),
        ..admin(AdminOpcode::DELETE_IO_CQ)
    }
}

/// Delete I/O Submission Queue (Base 5.2.4).
#[must_use]
pub fn delete_sq(qid: u16) -> Sqe {
    Sqe {
        cdw10: QueueCdw10::new().with_qid(qid).into(),
        ..admin(AdminOpcode::DELETE_IO_SQ)
    }
}

/// Doorbell Buffer Config (Base 5.2.5): the addresses of the Shadow Doorbell and EventIdx buffers.
#[must_use]
pub fn doorbell_buffer_config(shadow: u64, event: u64) -> Sqe {
    Sqe {
        prp1: shadow,
        prp2: event,
        ..admin(AdminOpcode::DOORBELL_BUFFER_CONFIG)
    }
}

/// Format NVM of a namespace, or of all with NSID FFFFFFFFh (Base 5.1.10).
#[must_use]
pub fn format_nvm(nsid: u32, how: FormatCdw10) -> Sqe {
    Sqe {
        nsid,
        cdw10: how.into(),
        ..admin(AdminOpcode::FORMAT_NVM)
    }
}

/// Asynchronous Event Request (Base 5.1.2).
#[must_use]
pub fn async_event_request() -> Sqe {
    admin(AdminOpcode::ASYNC_EVENT_REQUEST)
}

/// Read of blocks `slba` to `slba + nlb_z` inclusive (NVM 3.2.4).
#[must_use]
pub fn read(nsid: u32, slba: u64, nlb_z: u16) -> Sqe {
    transfer(NvmOpcode::READ, nsid, slba, nlb_z)
}

/// Write of blocks `slba` to `slba + nlb_z` inclusive (NVM 3.2.6).
#[must_use]
pub fn write(nsid: u32, slba: u64, nlb_z: u16) -> Sqe {
    transfer(NvmOpcode::WRITE, nsid, slba, nlb_z)
}

/// Compare of blocks `slba` to `slba + nlb_z` inclusive with the host's data (NVM 3.2.1).
#[must_use]
pub fn compare(nsid: u32, slba: u64, nlb_z: u16) -> Sqe {
    transfer(NvmOpcode::COMPARE, nsid, slba, nlb_z)
}

/// Compare and Write of `nlb_z` + 1 blocks, fused: two commands for neighbouring entries and one
/// doorbell (NVM 2.1.3).
#[must_use]
pub fn compare_and_write(nsid: u32, slba: u64, nlb_z: u16) -> [Sqe; 2] {
    [
        with_fuse(compare(nsid, slba, nlb_z), FUSE_FIRST),
        with_fuse(write(nsid, slba, nlb_z), FUSE_SECOND),
    ]
}

/// A command with another FUSE (Base 4.1.1).
#[must_use]
pub fn with_fuse(mut sqe: Sqe, fuse: u8) -> Sqe {
    sqe.flags = sqe.flags.with_fuse(fuse);
    sqe
}

/// Verify of blocks `slba` to `slba + nlb_z` inclusive, without data (NVM 3.2.5).
#[must_use]
pub fn verify(nsid: u32, slba: u64, nlb_z: u16) -> Sqe {
    transfer(NvmOpcode::VERIFY, nsid, slba, nlb_z)
}

/// Write Zeroes over blocks `slba` to `slba + nlb_z` inclusive, without data (NVM 3.2.8).
#[must_use]
pub fn write_zeroes(nsid: u32, slba: u64, nlb_z: u16) -> Sqe {
    transfer(NvmOpcode::WRITE_ZEROES, nsid, slba, nlb_z)
}

/// The same Write Zeroes with Deallocate.
#[must_use]
pub fn with_deallocate(mut sqe: Sqe) -> Sqe {
    sqe.cdw12 = WriteZeroesCdw12::from(sqe.cdw12).with_deac(true).into();
    sqe
}

/// Dataset Management of `ranges` ranges (1 to 256; 0 counts as 1), whose data is a list of
/// [`DsmRange`](nvme_spec::queue::DsmRange)s (NVM 3.2.3).
#[must_use]
pub fn dsm(nsid: u32, ranges: u16, attributes: DsmCdw11) -> Sqe {
    let nr_z = u8::try_from(ranges.saturating_sub(1)).unwrap_or(u8::MAX);
    Sqe {
        cdw10: DsmCdw10::new().with_nr_z(nr_z).into(),
        cdw11: attributes.into(),
        ..nvm(NvmOpcode::DATASET_MANAGEMENT, nsid)
    }
}

/// Flush (NVM 3.2; Base 7.2).
#[must_use]
pub fn flush(nsid: u32) -> Sqe {
    nvm(NvmOpcode::FLUSH, nsid)
}

fn transfer(opcode: NvmOpcode, nsid: u32, slba: u64, nlb_z: u16) -> Sqe {
    let mut sqe = Sqe {
        cdw12: RwCdw12::new().with_nlb_z(nlb_z).into(),
        ..nvm(opcode, nsid)
    };
    sqe.set_slba(slba);
    sqe
}

/// The same Read, Write, Compare, Verify or Write Zeroes with Force Unit Access.
#[must_use]
pub fn with_fua(mut sqe: Sqe) -> Sqe {
    sqe.cdw12 = RwCdw12::from(sqe.cdw12).with_fua(true).into();
    sqe
}

/// The same Set Features with Save set.
#[must_use]
pub fn with_save(mut sqe: Sqe) -> Sqe {
    sqe.cdw10 = SetFeaturesCdw10::from(sqe.cdw10).with_sv(true).into();
    sqe
}

/// The same Get Log Page with an offset that is an index (OT).
#[must_use]
pub fn with_index_offset(mut sqe: Sqe) -> Sqe {
    sqe.cdw14 = GetLogCdw14::from(sqe.cdw14).with_ot(true).into();
    sqe
}

/// The same Get Log Page with Retain Asynchronous Event set.
#[must_use]
pub fn with_retain(mut sqe: Sqe) -> Sqe {
    sqe.cdw10 = GetLogCdw10::from(sqe.cdw10).with_rae(true).into();
    sqe
}
