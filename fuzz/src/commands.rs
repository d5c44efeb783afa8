//! Commands that are right, except in what the input says.

use nvme_spec::{
    AdminOpcode, Cns, FeatureId, LogId, NvmOpcode, Sqe,
    queue::{
        AbortCdw10, CreateCqCdw11, CreateSqCdw11, DsmCdw10, DsmCdw11, GetFeaturesCdw10,
        GetLogCdw10, QueueCdw10, RwCdw12,
    },
};
use zerocopy::IntoBytes;

use crate::{
    host::{DEPTH, Host, IO_QUEUES, entries_z, slot},
    input::Input,
    machine::{DATA_BYTES, QUEUES, VECTORS},
};

/// Data memory that a host's buffers and lists are in, if they are right.
const HOST_DATA_BYTES: u64 = 64 << 10;

const IO: [NvmOpcode; 7] = [
    NvmOpcode::READ,
    NvmOpcode::WRITE,
    NvmOpcode::FLUSH,
    NvmOpcode::COMPARE,
    NvmOpcode::VERIFY,
    NvmOpcode::WRITE_ZEROES,
    NvmOpcode::DATASET_MANAGEMENT,
];

const ADMIN: [AdminOpcode; 11] = [
    AdminOpcode::IDENTIFY,
    AdminOpcode::GET_LOG_PAGE,
    AdminOpcode::GET_FEATURES,
    AdminOpcode::SET_FEATURES,
    AdminOpcode::ABORT,
    AdminOpcode::ASYNC_EVENT_REQUEST,
    AdminOpcode::CREATE_IO_CQ,
    AdminOpcode::CREATE_IO_SQ,
    AdminOpcode::DELETE_IO_SQ,
    AdminOpcode::DELETE_IO_CQ,
    AdminOpcode::FORMAT_NVM,
];

/// A command for a queue.
pub(crate) fn command(host: &mut Host, input: &mut Input<'_>, qid: u16) -> Sqe {
    let mut sqe = if qid == 0 {
        let opcode = input.pick(&ADMIN);
        admin(host, input, opcode)
    } else {
        let opcode = input.pick(&IO);
        io(host, input, opcode)
    };
    while input.wrong() {
        let at = usize::from(input.u8() & 63);
        if let Some(byte) = sqe.as_mut_bytes().get_mut(at) {
            *byte = input.u8();
        }
        if input.is_empty() {
            break;
        }
    }
    sqe
}

/// An I/O command.
pub(crate) fn io(host: &mut Host, input: &mut Input<'_>, opcode: NvmOpcode) -> Sqe {
    let most = (host.mdts_bytes / host.lba_bytes).min(host.blocks);
    let count = 1 + match input.below(4) {
        0 => 0,
        1 => input.below(8),
        2 => input.below(256),
        _ => most - 1,
    };
    let count = count.min(host.blocks);
    let mut sqe = Sqe {
        opcode: opcode.0,
        nsid: 1 + small(input.below(host.namespaces.into())),
        ..Sqe::default()
    };
    let room = host.blocks - count;
    sqe.set_slba(u64::from(input.u16()) % (room + 1));
    if opcode == NvmOpcode::DATASET_MANAGEMENT {
        let ranges = 1 + if input.bool() { input.below(256) } else { 0 };
        sqe.cdw10 = DsmCdw10::new().with_nr_z(low(ranges - 1)).into();
        sqe.cdw11 = DsmCdw11::new().with_ad(!input.wrong()).into();
        (sqe.prp1, sqe.prp2) = buffer(host, input, ranges * 16);
        return sqe;
    }
    let cdw12 = RwCdw12::new().with_nlb_z(entries_z(small(count)));
    sqe.cdw12 = cdw12.with_fua(input.wrong()).into();
    if matches!(
        opcode,
        NvmOpcode::READ | NvmOpcode::WRITE | NvmOpcode::COMPARE
    ) {
        (sqe.prp1, sqe.prp2) = buffer(host, input, count * host.lba_bytes);
    }
    sqe
}

/// Create I/O Completion Queue, where that queue belongs.
pub(crate) fn create_cq(qid: u16, entries: u32, vector: u16) -> Sqe {
    let cdw11 = CreateCqCdw11::new()
        .with_pc(true)
        .with_ien(true)
        .with_iv(vector);
    Sqe {
        opcode: AdminOpcode::CREATE_IO_CQ.0,
        prp1: slot(qid, true),
        cdw10: queue(qid, entries),
        cdw11: cdw11.into(),
        ..Sqe::default()
    }
}

/// Create I/O Submission Queue, where that queue belongs.
pub(crate) fn create_sq(qid: u16, entries: u32, cqid: u16) -> Sqe {
    Sqe {
        opcode: AdminOpcode::CREATE_IO_SQ.0,
        prp1: slot(qid, false),
        cdw10: queue(qid, entries),
        cdw11: CreateSqCdw11::new().with_pc(true).with_cqid(cqid).into(),
        ..Sqe::default()
    }
}

fn queue(qid: u16, entries: u32) -> u32 {
    let cdw10 = QueueCdw10::new().with_qid(qid);
    cdw10.with_qsize_z(entries_z(entries)).into()
}

/// An admin command.
pub(crate) fn admin(host: &mut Host, input: &mut Input<'_>, opcode: AdminOpcode) -> Sqe {
    let qid = 1 + u16::from(low(input.below(u64::from(IO_QUEUES))));
    let mut sqe = Sqe {
        opcode: opcode.0,
        ..Sqe::default()
    };
    match opcode {
        AdminOpcode::CREATE_IO_CQ => {
            let entries = 2 + small(input.below(u64::from(DEPTH) - 1));
            let vector = u16::from(low(input.below(u64::from(VECTORS))));
            sqe = create_cq(qid, entries, vector);
        }
        AdminOpcode::CREATE_IO_SQ => {
            let entries = 2 + small(input.below(u64::from(DEPTH) - 1));
            let cqid = 1 + u16::from(low(input.below(u64::from(IO_QUEUES))));
            sqe = create_sq(qid, entries, cqid);
        }
        AdminOpcode::DELETE_IO_SQ | AdminOpcode::DELETE_IO_CQ => sqe.cdw10 = queue(qid, 1),
        AdminOpcode::IDENTIFY => {
            let any = input.u8();
            sqe.cdw10 = u32::from(input.pick(&[
                Cns::CONTROLLER.0,
                Cns::NAMESPACE.0,
                Cns::ACTIVE_NAMESPACES.0,
                Cns::NAMESPACE_DESCRIPTORS.0,
                any,
            ]));
            sqe.nsid = small(input.below(u64::from(host.namespaces) + 2));
            (sqe.prp1, sqe.prp2) = buffer(host, input, 4096);
        }
        AdminOpcode::GET_LOG_PAGE => {
            let dwords = 1 + match input.below(3) {
                0 => input.below(256),
                1 => u64::from(input.u16()) % (host.mdts_bytes / 4),
                _ => host.mdts_bytes / 4 - 1,
            };
            let any = LogId(input.u8());
            let lid = input.pick(&[
                LogId::ERROR_INFORMATION,
                LogId::SMART,
                LogId::FIRMWARE_SLOT,
                LogId::COMMANDS_SUPPORTED,
                any,
            ]);
            let cdw10 = GetLogCdw10::new().with_lid_raw(lid.0);
            let cdw10 = cdw10.with_rae(input.bool());
            sqe.cdw10 = cdw10.with_numdl_z(entries_z(small(dwords))).into();
            sqe.cdw12 = u32::from(input.u8()) * 4;
            (sqe.prp1, sqe.prp2) = buffer(host, input, dwords * 4);
        }
        AdminOpcode::GET_FEATURES | AdminOpcode::SET_FEATURES => {
            let any = input.u8();
            let fid = input.pick(&[
                FeatureId::ARBITRATION.0,
                FeatureId::POWER_MANAGEMENT.0,
                FeatureId::TEMPERATURE_THRESHOLD.0,
                FeatureId::ERROR_RECOVERY.0,
                FeatureId::VOLATILE_WRITE_CACHE.0,
                FeatureId::NUMBER_OF_QUEUES.0,
                FeatureId::INTERRUPT_COALESCING.0,
                FeatureId::INTERRUPT_VECTOR_CONFIG.0,
                FeatureId::WRITE_ATOMICITY_NORMAL.0,
                FeatureId::ASYNC_EVENT_CONFIG.0,
                any,
            ]);
            let sel = low(input.below(5));
            let get = opcode == AdminOpcode::GET_FEATURES;
            let cdw10 = GetFeaturesCdw10::new().with_fid_raw(fid);
            sqe.cdw10 = cdw10.with_sel(if get { sel } else { 0 }).into();
            sqe.cdw11 = input.u32();
            sqe.nsid = input.pick(&[0, 1, u32::MAX]);
            (sqe.prp1, sqe.prp2) = buffer(host, input, 4096);
        }
        AdminOpcode::ABORT => {
            let cdw10 = AbortCdw10::new().with_sqid(input.pick(&[0, 1, 2, 3, 4]));
            sqe.cdw10 = cdw10.with_cid(host.recent_cid(input.u8())).into();
        }
        AdminOpcode::FORMAT_NVM => {
            sqe.nsid = input.pick(&[1, 2, u32::MAX, 0]);
            sqe.cdw10 = input.pick(&[0, 1, 2, 3]);
        }
        _ => {}
    }
    sqe
}

/// PRP entries of a buffer of the host's.
fn buffer(host: &mut Host, input: &mut Input<'_>, len: u64) -> (u64, u64) {
    let area = Area {
        bytes: HOST_DATA_BYTES,
        page: host.page_bytes,
    };
    pages(input, area, len, &mut |address, value| {
        host.write_data(address, value);
    })
}

/// Data memory from its start, in pages.
#[derive(Clone, Copy)]
pub(crate) struct Area {
    pub(crate) bytes: u64,
    pub(crate) page: u64,
}

/// PRP entries for so many bytes, the lists they need written; wrong in one place, if the input
/// says so.
pub(crate) fn pages(
    input: &mut Input<'_>,
    area: Area,
    len: u64,
    write: &mut impl FnMut(u64, u64),
) -> (u64, u64) {
    let Area { bytes, page } = area;
    let pages = bytes / page;
    let offset = if input.bool() {
        4 * input.below(256)
    } else {
        0
    };
    let mut prp1 = input.below(pages) * page + offset;
    let left = len.saturating_sub(page - offset);
    let mut prp2 = 0;
    if left > 0 {
        prp2 = input.below(pages) * page;
    }
    if left > page {
        prp2 = list(input, area, prp2, left.div_ceil(page), write);
    }
    if input.wrong() {
        let entry = if input.bool() { &mut prp1 } else { &mut prp2 };
        *entry = bad_address(input, *entry);
    }
    (prp1, prp2)
}

/// Writes a list of so many pages, chained where it has to be, from within the page `at`.
fn list(
    input: &mut Input<'_>,
    area: Area,
    at: u64,
    count: u64,
    write: &mut impl FnMut(u64, u64),
) -> u64 {
    let Area { bytes, page } = area;
    let pages = bytes / page;
    let entries = page / 8;
    // Near the page's end, a chain comes soon.
    let start = match input.below(3) {
        0 => 0,
        1 => entries - 1 - input.below(8),
        _ => input.below(256),
    };
    let (first, stride) = (input.below(pages), input.below(pages));
    let bad = input.wrong().then(|| u64::from(input.u8()));
    let list = at + start * 8;
    let (mut place, mut left) = (list, count);
    // A chain takes an entry too.
    for index in 0..count * 2 {
        if left == 0 {
            break;
        }
        let chain = (place + 8).is_multiple_of(page) && left > 1;
        let mut value = if chain {
            (place / page + 1) % pages * page
        } else {
            left -= 1;
            (first + index * stride) % pages * page
        };
        if bad == Some(index) {
            value = bad_address(input, value);
        }
        write(place, value);
        place = if chain {
            (value % bytes) & !(page - 1)
        } else {
            place + 8
        };
    }
    list
}

/// An address that is not what it should be.
fn bad_address(input: &mut Input<'_>, right: u64) -> u64 {
    match input.below(10) {
        0 => right + 4,
        1 => right + 8,
        2 => right + 1,
        3 => DATA_BYTES,
        4 => DATA_BYTES - 512,
        5 => u64::MAX - 4095,
        6 => u64::MAX,
        7 => QUEUES + 4096 * input.below(40),
        8 => 1 << input.below(64),
        _ => input.u64(),
    }
}

fn small(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn low(value: u64) -> u8 {
    u8::try_from(value & 0xFF).unwrap_or_default()
}
