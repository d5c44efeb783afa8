//! What an I/O command may be answered with, and what it then does.

use nvme_host::Transport;
use nvme_spec::{
    NSID_BROADCAST, NvmOpcode, Sqe, Status,
    identify::{
        FLUSH_BROADCAST_REFUSED, FLUSH_BROADCAST_SUPPORTED, ONCS_COMPARE, ONCS_DATASET_MANAGEMENT,
        ONCS_VERIFY, ONCS_WRITE_ZEROES,
    },
    queue::{DsmCdw10, DsmCdw11, DsmRange, RwCdw12},
};
use zerocopy::{FromZeros, IntoBytes};

use crate::{facts::Facts, prp, value::Value};

/// Blocks of a namespace, by its index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Blocks {
    pub(crate) namespace: usize,
    pub(crate) slba: u64,
    pub(crate) count: u64,
}

/// What a command does if it succeeds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Effect {
    /// Nothing that can be seen.
    Nothing,
    /// The blocks come to the buffer.
    Read(Blocks),
    /// The blocks hold these values.
    Compare(Blocks, Vec<Value>),
    /// The blocks get these values.
    Write(Blocks, Vec<Value>),
    /// The blocks may get the value, each by itself.
    Trim(Vec<Blocks>),
}

/// The judgement of a command before it runs.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    /// It must fail, with one of these. Empty: it may succeed.
    pub(crate) errors: Vec<Status>,
    /// It may fail with one of these.
    pub(crate) may: Vec<Status>,
    pub(crate) effect: Effect,
    /// Its buffer.
    pub(crate) pieces: Vec<(u64, u64)>,
}

impl Verdict {
    const fn new() -> Self {
        Self {
            errors: Vec::new(),
            may: Vec::new(),
            effect: Effect::Nothing,
            pieces: Vec::new(),
        }
    }

    fn buffer<T: Transport + ?Sized>(&mut self, transport: &T, facts: &Facts, sqe: &Sqe, len: u64) {
        let resolved = prp::resolve(transport, facts.page_bytes, sqe.prp1, sqe.prp2, len);
        self.errors.extend(resolved.errors);
        self.may.extend(resolved.may);
        self.pieces = resolved.pieces;
    }
}

/// The I/O opcodes that are there.
pub(crate) fn opcodes(facts: &Facts) -> Vec<NvmOpcode> {
    let mut opcodes = vec![NvmOpcode::FLUSH, NvmOpcode::WRITE, NvmOpcode::READ];
    for (bit, opcode) in [
        (ONCS_COMPARE, NvmOpcode::COMPARE),
        (ONCS_WRITE_ZEROES, NvmOpcode::WRITE_ZEROES),
        (ONCS_DATASET_MANAGEMENT, NvmOpcode::DATASET_MANAGEMENT),
        (ONCS_VERIFY, NvmOpcode::VERIFY),
    ] {
        if facts.oncs & bit != 0 {
            opcodes.push(opcode);
        }
    }
    opcodes
}

/// Judges an I/O command; its lists and, for Dataset Management, its ranges are in memory.
///
/// A command with several mistakes may be refused for any of them: the specification gives no
/// order. Values that it writes or compares are not known here.
pub(crate) fn judge<T: Transport + ?Sized>(transport: &T, facts: &Facts, sqe: &Sqe) -> Verdict {
    let mut verdict = Verdict::new();
    if sqe.flags.fuse() != 0 || sqe.flags.psdt() != 0 {
        verdict.errors.push(Status::INVALID_FIELD);
    }
    if has_reserved_bits(sqe) {
        verdict.may.push(Status::INVALID_FIELD);
    }
    let opcode = sqe.nvm_opcode();
    let is_known = opcodes(facts).contains(&opcode);
    if !is_known {
        verdict.errors.push(Status::INVALID_OPCODE);
    }
    let Some((index, namespace)) = facts.namespace(sqe.nsid) else {
        match (opcode, sqe.nsid, facts.flush_behavior) {
            (NvmOpcode::FLUSH, NSID_BROADCAST, FLUSH_BROADCAST_SUPPORTED) => {}
            (NvmOpcode::FLUSH, NSID_BROADCAST, FLUSH_BROADCAST_REFUSED) => {
                verdict.errors.push(Status::INVALID_NAMESPACE);
            }
            (NvmOpcode::FLUSH, NSID_BROADCAST, _) => {
                verdict.may.push(Status::INVALID_NAMESPACE);
            }
            (_, NSID_BROADCAST, _) => {
                let refusals = [Status::INVALID_NAMESPACE, Status::INVALID_FIELD];
                verdict.errors.extend(refusals);
            }
            _ => verdict.errors.push(Status::INVALID_NAMESPACE),
        }
        return verdict;
    };
    if !is_known || opcode == NvmOpcode::FLUSH {
        return verdict;
    }
    if opcode == NvmOpcode::DATASET_MANAGEMENT {
        dataset_management(transport, facts, sqe, &mut verdict);
        return verdict;
    }
    let cdw12 = RwCdw12::from(sqe.cdw12);
    let blocks = Blocks {
        namespace: index,
        slba: sqe.slba(),
        count: u64::from(cdw12.nlb_z()) + 1,
    };
    let end = blocks.slba.checked_add(blocks.count);
    if end.is_none_or(|end| end > namespace.blocks) {
        verdict.errors.push(Status::LBA_OUT_OF_RANGE);
    }
    let bytes = blocks.count * namespace.lba_bytes;
    let moves = matches!(
        opcode,
        NvmOpcode::READ | NvmOpcode::WRITE | NvmOpcode::COMPARE
    );
    if moves && bytes > facts.mdts_bytes {
        verdict.errors.push(Status::INVALID_FIELD);
        let of_lists = [Status::INVALID_PRP_OFFSET, Status::DATA_TRANSFER_ERROR];
        verdict.may.extend(of_lists);
    } else if moves {
        verdict.buffer(transport, facts, sqe, bytes);
    }
    // No directive is there, so no write names one.
    if opcode == NvmOpcode::WRITE && cdw12.dtype() != 0 {
        verdict.errors.push(Status::INVALID_FIELD);
    }
    if verdict.errors.is_empty() {
        verdict.effect = match opcode {
            NvmOpcode::READ => Effect::Read(blocks),
            NvmOpcode::WRITE => Effect::Write(blocks, Vec::new()),
            NvmOpcode::COMPARE => Effect::Compare(blocks, Vec::new()),
            NvmOpcode::WRITE_ZEROES => {
                let count = usize::try_from(blocks.count).unwrap_or_default();
                Effect::Write(blocks, vec![Value::ZERO; count])
            }
            _ => Effect::Nothing,
        };
    }
    verdict
}

/// Fields that the specification reserves, or that mean nothing without protection information
/// and directives: a controller ignores them or refuses the command.
fn has_reserved_bits(sqe: &Sqe) -> bool {
    const RESERVED_12: u32 = 0x3F00_0000 | 0x000F_0000;
    let reserved_12 = match sqe.nvm_opcode() {
        NvmOpcode::READ | NvmOpcode::WRITE | NvmOpcode::COMPARE | NvmOpcode::VERIFY => RESERVED_12,
        // Bit 25 is Deallocate.
        NvmOpcode::WRITE_ZEROES => RESERVED_12 & !(1 << 25),
        _ => u32::MAX,
    };
    let rest = sqe.cdw2 | sqe.cdw3 | sqe.cdw13 | sqe.cdw14 | sqe.cdw15;
    rest != 0 || sqe.mptr != 0 || sqe.cdw12 & reserved_12 != 0
}

/// Dataset Management (NVM 3.2.3): no range is touched unless all are right.
fn dataset_management<T: Transport + ?Sized>(
    transport: &T,
    facts: &Facts,
    sqe: &Sqe,
    verdict: &mut Verdict,
) {
    let Some((index, namespace)) = facts.namespace(sqe.nsid) else {
        return;
    };
    let count = usize::from(DsmCdw10::from(sqe.cdw10).nr_z()) + 1;
    verdict.buffer(
        transport,
        facts,
        sqe,
        (count * size_of::<DsmRange>()) as u64,
    );
    if !verdict.errors.is_empty() {
        // The ranges cannot be read.
        verdict.may.push(Status::LBA_OUT_OF_RANGE);
        return;
    }
    let mut ranges = vec![DsmRange::new_zeroed(); count];
    let mut rest = ranges.as_mut_bytes();
    for &(address, bytes) in &verdict.pieces {
        let (now, later) = rest.split_at_mut(usize::try_from(bytes).unwrap_or_default());
        transport.mem_read(address, now);
        rest = later;
    }
    let deallocates = DsmCdw11::from(sqe.cdw11).ad();
    let is_beyond = |range: &DsmRange| {
        let end = range.slba.checked_add(range.nlb.into());
        end.is_none_or(|end| end > namespace.blocks)
    };
    if ranges.iter().any(is_beyond) {
        // Without Deallocate the ranges are hints, which may be looked at or not.
        let refusals = if deallocates {
            &mut verdict.errors
        } else {
            &mut verdict.may
        };
        refusals.push(Status::LBA_OUT_OF_RANGE);
    }
    if deallocates && verdict.errors.is_empty() {
        let blocks = ranges.iter().filter(|range| range.nlb > 0);
        let blocks = blocks.map(|range| Blocks {
            namespace: index,
            slba: range.slba,
            count: range.nlb.into(),
        });
        verdict.effect = Effect::Trim(blocks.collect());
    }
}
