//! I/O commands: made by chance, right and wrong, and judged when they are completed.

use nvme_host::Transport;
use nvme_spec::{
    NSID_BROADCAST, NvmOpcode, Sqe, Status,
    queue::{CommandFlags, DsmCdw10, DsmCdw11, DsmRange, RwCdw12, WriteZeroesCdw12},
};
use zerocopy::IntoBytes;

use crate::{
    choices::Choices,
    facts::{Facts, NamespaceFacts},
    host::{Host, What, Wrong},
    legal::{self, Blocks, Effect, Verdict},
    memory::Region,
    model::{Fate, Model, Time, WriteId},
    prp::{self, DEFECTS, Layout},
    value::Value,
};

/// Blocks at the start of a namespace that most commands go to.
const HOT: u64 = 12;
/// The most bytes that a command moves here, though it might move more.
const LARGEST: u64 = 320 * 1024;
/// Ranges of a Dataset Management command here: mostly a few, sometimes many.
const RANGES: u64 = 6;
/// See [`RANGES`].
const MANY_RANGES: u64 = 40;

/// An I/O command in flight.
#[derive(Debug)]
pub(crate) struct Io {
    pub(crate) verdict: Verdict,
    /// The number of what it changes; its ranges are numbered from there.
    write: WriteId,
}

impl Io {
    /// A command that was judged; `write` is the first number of what it changes.
    pub(crate) const fn new(verdict: Verdict, write: WriteId) -> Self {
        Self { verdict, write }
    }

    /// The blocks it changes, with the values they get.
    fn changes(&self) -> Vec<(WriteId, Blocks, Vec<Value>)> {
        match &self.verdict.effect {
            Effect::Write(blocks, values) => vec![(self.write, *blocks, values.clone())],
            Effect::Trim(ranges) => (self.write..)
                .zip(ranges)
                .map(|(write, &blocks)| {
                    let count = usize::try_from(blocks.count).unwrap_or_default();
                    (write, blocks, vec![Value::ZERO; count])
                })
                .collect(),
            _ => Vec::new(),
        }
    }

    /// It is the controller's from now on.
    pub(crate) fn begin(&self, models: &mut [Model], facts: &Facts, now: Time) {
        for (write, blocks, values) in self.changes() {
            let namespace = facts.namespaces[blocks.namespace];
            // Zeroes tell nobody which write they are of.
            let is_marked = values.first() != Some(&Value::ZERO);
            let atomic = is_marked && namespace.is_atomic(blocks.slba, blocks.count);
            let model = &mut models[blocks.namespace];
            model.begin(write, blocks.slba, values.into_iter(), atomic, now);
        }
    }

    fn end(&self, models: &mut [Model], fate: Fate, now: Time) {
        for (write, blocks, _) in self.changes() {
            models[blocks.namespace].end(write, blocks.slba, blocks.count, fate, now);
        }
    }
}

/// A command before it has a buffer.
struct Draft {
    sqe: Sqe,
    /// Bytes of its buffer, if it has one.
    bytes: u64,
    /// Dataset Management's.
    ranges: Vec<DsmRange>,
}

impl<T: Transport + ?Sized> Host<'_, T> {
    /// Makes a command by chance and stores it; whether there was room.
    pub(crate) fn send_io(&mut self, sqid: u16, choices: &mut (dyn Choices + '_)) -> bool {
        let draft = self.draft(choices);
        let mut sqe = draft.sqe;
        let wrong = choices.one_in(4);
        let defect = (wrong && choices.one_in(3)).then(|| choices.pick(&DEFECTS));
        let mut layout = Layout::default();
        if draft.bytes > 0 {
            let (transport, memory) = (&mut *self.transport, &mut self.memory);
            let made = prp::lay_out(transport, memory, choices, draft.bytes, defect);
            let Some(made) = made else { return false };
            layout = made;
            (sqe.prp1, sqe.prp2) = (layout.prp1, layout.prp2);
        }
        if !draft.ranges.is_empty() {
            let resolved = prp::resolve(
                self.transport,
                self.facts.page_bytes,
                sqe.prp1,
                sqe.prp2,
                draft.bytes,
            );
            self.scatter(&resolved.pieces, &layout.regions, draft.ranges.as_bytes());
        }
        if wrong && defect.is_none() {
            self.spoil(&mut sqe, choices);
        }
        let mut verdict = legal::judge(self.transport, &self.facts, &sqe);
        self.give_values(&mut verdict, &layout.regions, choices);
        let io = Io::new(verdict, self.writes + 1);
        self.writes += io.changes().len() as u64;
        self.store(sqid, sqe, What::Io(io), layout.regions);
        true
    }

    /// A command that is right.
    fn draft(&mut self, choices: &mut (dyn Choices + '_)) -> Draft {
        let opcodes = legal::opcodes(&self.facts);
        let opcode = match choices.below(8) {
            0..=2 => NvmOpcode::WRITE,
            3 | 4 => NvmOpcode::READ,
            _ => choices.pick(&opcodes),
        };
        let index = choices.index(self.facts.namespaces.len());
        let namespace = self.facts.namespaces[index];
        let nsid = u32::try_from(index + 1).unwrap_or(1);
        let mut sqe = Sqe {
            opcode: opcode.0,
            nsid,
            ..Sqe::default()
        };
        let (mut bytes, mut ranges) = (0, Vec::new());
        match opcode {
            NvmOpcode::FLUSH => {
                if choices.one_in(4) {
                    sqe.nsid = NSID_BROADCAST;
                }
            }
            NvmOpcode::DATASET_MANAGEMENT => {
                ranges = self.ranges(namespace, choices);
                bytes = (ranges.len() * size_of::<DsmRange>()) as u64;
                let nr_z = u8::try_from(ranges.len() - 1).unwrap_or(u8::MAX);
                sqe.cdw10 = DsmCdw10::new().with_nr_z(nr_z).into();
                let deallocates = namespace.trims_to_zeroes && !choices.one_in(4);
                let cdw11 = DsmCdw11::new().with_ad(deallocates);
                sqe.cdw11 = cdw11.with_idr(choices.one_in(4)).into();
            }
            _ => {
                let moves = matches!(
                    opcode,
                    NvmOpcode::READ | NvmOpcode::WRITE | NvmOpcode::COMPARE
                );
                let most = if moves {
                    self.facts.mdts_bytes.min(LARGEST) / namespace.lba_bytes
                } else {
                    namespace.blocks
                };
                let (slba, count) = some_blocks(namespace, most, choices);
                sqe.set_slba(slba);
                let nlb_z = u16::try_from(count - 1).unwrap_or_default();
                let cdw12 = RwCdw12::new().with_nlb_z(nlb_z);
                let cdw12 = cdw12.with_fua(choices.one_in(4)).with_lr(choices.one_in(8));
                sqe.cdw12 = cdw12.into();
                if opcode == NvmOpcode::WRITE_ZEROES {
                    let cdw12 = WriteZeroesCdw12::from(sqe.cdw12);
                    sqe.cdw12 = cdw12.with_deac(choices.one_in(2)).into();
                }
                if moves {
                    bytes = count * namespace.lba_bytes;
                }
            }
        }
        Draft { sqe, bytes, ranges }
    }

    /// Ranges of blocks, of which one may go too far.
    fn ranges(&self, namespace: NamespaceFacts, choices: &mut (dyn Choices + '_)) -> Vec<DsmRange> {
        let most = if choices.one_in(16) {
            MANY_RANGES
        } else {
            RANGES
        };
        let count = choices.range(1..=most);
        let mut ranges: Vec<DsmRange> = (0..count)
            .map(|_| {
                let (slba, count) = some_blocks(namespace, 64, choices);
                DsmRange {
                    cattr: choices.bits32(),
                    nlb: u32::try_from(count - choices.below(2)).unwrap_or_default(),
                    slba,
                }
            })
            .collect();
        if choices.one_in(4) {
            let index = choices.index(ranges.len());
            let range = &mut ranges[index];
            match choices.below(3) {
                0 => range.slba = namespace.blocks,
                1 => range.nlb = u32::MAX,
                _ => range.slba = u64::MAX - u64::from(range.nlb / 2),
            }
        }
        ranges
    }

    /// Makes one or two fields of a command wrong.
    fn spoil(&self, sqe: &mut Sqe, choices: &mut (dyn Choices + '_)) {
        /// Opcodes that the NVM Command Set leaves to nobody, and vendors'.
        const NOBODYS: [u8; 8] = [0x03, 0x06, 0x07, 0x0A, 0x0B, 0x7F, 0x83, 0xFF];
        for _ in 0..choices.range(1..=2) {
            let blocks = self.facts.namespace(sqe.nsid).map(|(_, n)| n.blocks);
            let blocks = blocks.unwrap_or(1);
            let has_blocks = sqe.nvm_opcode() != NvmOpcode::DATASET_MANAGEMENT;
            let cdw12 = RwCdw12::from(sqe.cdw12);
            match choices.below(12) {
                0 => sqe.opcode = choices.pick(&NOBODYS),
                1 => {
                    let count = u32::try_from(self.facts.namespaces.len()).unwrap_or_default();
                    let bad = [0, count + 1, NSID_BROADCAST, NSID_BROADCAST - 1, 1 << 31];
                    sqe.nsid = choices.pick(&bad);
                }
                2 if has_blocks => sqe.set_slba(blocks.saturating_sub(cdw12.nlb_z().into())),
                3 if has_blocks => sqe.set_slba(choices.pick(&[blocks, u64::MAX, 1 << 63])),
                4 if has_blocks => {
                    // One that wraps to a block that is there.
                    sqe.set_slba(u64::MAX - u64::from(cdw12.nlb_z() / 2));
                }
                5 if has_blocks => sqe.cdw12 = cdw12.with_nlb_z(u16::MAX).into(),
                6 => {
                    let bits = if self.facts.sgls == 0 {
                        &[1, 2, 3][..]
                    } else {
                        &[3]
                    };
                    sqe.flags = sqe.flags.with_psdt(choices.pick(bits));
                }
                7 => {
                    let bits = if self.facts.fuses == 0 {
                        &[1, 2, 3][..]
                    } else {
                        &[3]
                    };
                    sqe.flags =
                        CommandFlags::from(u8::from(sqe.flags)).with_fuse(choices.pick(bits));
                }
                8 => {
                    sqe.cdw2 = choices.bits32();
                    sqe.cdw3 = choices.bits32();
                }
                9 => {
                    sqe.cdw14 = choices.bits32();
                    sqe.cdw15 = choices.bits32();
                    sqe.mptr = u64::from(choices.bits32()) << 8;
                }
                10 => sqe.cdw12 |= 0x3F << 24 & choices.bits32() & !(1 << 25),
                _ if sqe.nvm_opcode() == NvmOpcode::WRITE => {
                    sqe.cdw12 = cdw12.with_dtype(choices.pick(&[1, 2, 15])).into();
                }
                _ => sqe.cdw13 = choices.bits32(),
            }
        }
    }

    /// Gives every block that a command writes or compares its value.
    fn give_values(
        &mut self,
        verdict: &mut Verdict,
        regions: &[Region],
        choices: &mut (dyn Choices + '_),
    ) {
        let (blocks, values) = match &mut verdict.effect {
            Effect::Write(blocks, values) if values.is_empty() => {
                let fresh = self.values + 1..=self.values + blocks.count;
                self.values += blocks.count;
                values.extend(fresh.map(Value));
                (*blocks, values)
            }
            Effect::Compare(blocks, values) => {
                let model = &self.models[blocks.namespace];
                let lbas = blocks.slba..blocks.slba + blocks.count;
                values.extend(lbas.map(|lba| choices.pick(&model.legal(lba, self.now))));
                (*blocks, values)
            }
            _ => return,
        };
        let lba_bytes = self.facts.namespaces[blocks.namespace].lba_bytes;
        let block = usize::try_from(lba_bytes).unwrap_or_default();
        let mut data = vec![0; block * values.len()];
        for (value, place) in values.iter().zip(data.chunks_exact_mut(block)) {
            value.fill(place);
        }
        if matches!(verdict.effect, Effect::Compare(..)) && choices.one_in(3) {
            // One bit anywhere is a difference.
            let at = match choices.below(3) {
                0 => 0,
                1 => data.len() - 1,
                _ => choices.index(data.len()),
            };
            data[at] ^= 1 << choices.below(8);
            if let Effect::Compare(_, values) = &mut verdict.effect {
                values[at / block] = Value::NONE;
            }
        }
        self.scatter(&verdict.pieces, regions, &data);
    }

    /// Writes data to the pieces of a buffer that are the host's.
    fn scatter(&mut self, pieces: &[(u64, u64)], regions: &[Region], data: &[u8]) {
        let mut rest = data;
        for &(address, bytes) in pieces {
            let count = usize::try_from(bytes).unwrap_or(usize::MAX).min(rest.len());
            let (now, later) = rest.split_at(count);
            rest = later;
            let is_ours = |region: &Region| {
                region.address <= address && address + bytes <= region.address + region.bytes
            };
            if regions.iter().any(is_ours) {
                self.memory.write(self.transport, address, now);
            }
        }
    }

    /// Judges the end of an I/O command.
    pub(crate) fn finish_io(
        &mut self,
        sqe: &Sqe,
        io: Io,
        begun: Time,
        status: Status,
        is_deleting: bool,
        now: Time,
    ) -> Result<(), Wrong> {
        let verdict = &io.verdict;
        let is = |other: Status| status.same_code(other);
        let is_refused = |list: &[Status]| list.iter().any(|&error| is(error));
        let is_cut_short = is(Status::ABORT_REQUESTED)
            || (is(Status::ABORTED_SQ_DELETION) && is_deleting)
            || (self.options.faulty && verdict.errors.is_empty() && is_backends(status));
        let is_compare = matches!(verdict.effect, Effect::Compare(..));
        let is_difference = is_compare && is(Status::COMPARE_FAILURE);
        let is_legal = is_cut_short
            || is_refused(&verdict.errors)
            || is_refused(&verdict.may)
            || (verdict.errors.is_empty() && (status.is_success() || is_difference));
        if !is_legal {
            return Err(format!(
                "status {status:?}: the legal ones are {:?}, those it may have {:?}{}",
                if verdict.errors.is_empty() {
                    &[Status::SUCCESS][..]
                } else {
                    &verdict.errors
                },
                verdict.may,
                if is_compare {
                    ", and COMPARE_FAILURE"
                } else {
                    ""
                }
            ));
        }
        let fate = match &verdict.effect {
            _ if is_cut_short => Fate::Unknown,
            // A hint, each block by itself.
            Effect::Trim(_) if status.is_success() => Fate::Unknown,
            _ if status.is_success() => Fate::Done,
            _ => Fate::Refused,
        };
        let begun_at = begun;
        match &verdict.effect {
            Effect::Read(blocks) if status.is_success() => {
                self.judge_read(*blocks, &verdict.pieces, begun_at, now)?;
            }
            Effect::Compare(blocks, values) if status.is_success() || is_difference => {
                self.judge_compare(*blocks, values, is_difference, begun_at, now)?;
            }
            _ => {}
        }
        // What a read that failed has left in its buffer is nobody's.
        if sqe.nvm_opcode() == NvmOpcode::READ && !status.is_success() {
            self.accept(&verdict.pieces);
        }
        io.end(&mut self.models, fate, now);
        Ok(())
    }

    fn judge_read(
        &mut self,
        blocks: Blocks,
        pieces: &[(u64, u64)],
        begun: Time,
        now: Time,
    ) -> Result<(), Wrong> {
        let lba_bytes = self.facts.namespaces[blocks.namespace].lba_bytes;
        let block = usize::try_from(lba_bytes).unwrap_or_default();
        let mut data = Vec::new();
        for &(address, bytes) in pieces {
            let at = data.len();
            data.resize(at + usize::try_from(bytes).unwrap_or_default(), 0);
            self.transport.mem_read(address, &mut data[at..]);
            self.memory.expect(address, &data[at..]);
        }
        let mut values = Vec::new();
        let model = &mut self.models[blocks.namespace];
        for (lba, bytes) in (blocks.slba..).zip(data.chunks_exact(block)) {
            let value = Value::of(bytes).map_err(|wrong| format!("block {lba:#x}: {wrong}"))?;
            let legal = model.legal(lba, begun);
            if !legal.contains(&value) {
                return Err(format!(
                    "block {lba:#x} has {value:?}, but may only have {legal:?}"
                ));
            }
            values.push(value);
        }
        if let Some(wrong) = model.torn(blocks.slba, &values) {
            return Err(wrong);
        }
        for (lba, &value) in (blocks.slba..).zip(&values) {
            model.found(lba, value, begun, now);
        }
        Ok(())
    }

    fn judge_compare(
        &mut self,
        blocks: Blocks,
        values: &[Value],
        differs: bool,
        begun: Time,
        now: Time,
    ) -> Result<(), Wrong> {
        let model = &mut self.models[blocks.namespace];
        let mut may_differ = false;
        for (lba, value) in (blocks.slba..).zip(values) {
            let legal = model.legal(lba, begun);
            if !differs && !legal.contains(value) {
                return Err(format!(
                    "compared equal, but block {lba:#x} may only have {legal:?}, not {value:?}"
                ));
            }
            may_differ |= legal.iter().any(|other| other != value);
        }
        if differs && !may_differ {
            return Err("compared different, but every block holds what it was compared to".into());
        }
        if !differs {
            for (lba, &value) in (blocks.slba..).zip(values) {
                model.found(lba, value, begun, now);
            }
        }
        Ok(())
    }

    fn accept(&mut self, pieces: &[(u64, u64)]) {
        for &(address, bytes) in pieces {
            self.memory
                .accept(self.transport, Region { address, bytes });
        }
    }

    /// A command that was rung in will never be completed.
    pub(crate) fn lose_io(&mut self, io: &Io, now: Time) {
        if matches!(io.verdict.effect, Effect::Read(_)) {
            self.accept(&io.verdict.pieces);
        }
        io.end(&mut self.models, Fate::Unknown, now);
    }
}

/// Statuses of a backend that failed.
fn is_backends(status: Status) -> bool {
    [
        Status::WRITE_FAULT,
        Status::UNRECOVERED_READ_ERROR,
        Status::INTERNAL_ERROR,
    ]
    .iter()
    .any(|&other| status.same_code(other))
}

/// Blocks that are there, at most `most`: mostly a few of the first, some of the last.
fn some_blocks(
    namespace: NamespaceFacts,
    most: u64,
    choices: &mut (dyn Choices + '_),
) -> (u64, u64) {
    let most = most.min(namespace.blocks).clamp(1, 1 << 16);
    let count = match choices.below(16) {
        0 => choices.range(1..=most),
        1 => most,
        2..=8 => 1,
        _ => choices.range(1..=8).min(most),
    };
    let last = namespace.blocks - count;
    let slba = match choices.below(8) {
        0 => last,
        1 => last - choices.below(HOT).min(last),
        2 => choices.below(last + 1),
        _ => choices.below(HOT).min(last),
    };
    (slba, count)
}
