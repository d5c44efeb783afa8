//! Commands that overlap, and what each may see of the others.
//!
//! Two commands that change blocks are submitted together with readers. Each block holds one byte
//! throughout, which tells who wrote it. [`Overlap::judge`] knows which views can be: an atomic
//! command has been there wholly or not at all.

use std::ops::Range;

use ferrite::nvme::inprocess::InProcess;
use nvme_host::{Buffer, Driver, Token, Transport, command};
use nvme_spec::{
    Sqe, Status,
    queue::{DsmCdw11, DsmRange},
};
use zerocopy::IntoBytes;

/// What blocks hold before.
const OLD: u8 = 0x55;

/// A command that changes blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Op {
    Write,
    WriteZeroes,
    Deallocate,
}

/// A change of `nlb` blocks from `slba`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Change {
    pub(crate) op: Op,
    pub(crate) slba: u64,
    pub(crate) nlb: u64,
    /// What the blocks hold afterwards.
    pub(crate) byte: u8,
    /// It is there wholly or not at all.
    pub(crate) atomic: bool,
}

/// What was seen of the commands of one round.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Seen {
    /// Views that show a part of an atomic command, or half a block.
    pub(crate) broken: u32,
    /// Views that show a part of a command that is not atomic.
    pub(crate) torn: u32,
}

/// A driver with queues and buffers for overlapping commands.
pub(crate) struct Overlap<'t> {
    pub(crate) driver: Driver<'t, InProcess>,
    block: u64,
    changes: [Buffer; 2],
    ranges: [Buffer; 2],
    reads: Vec<Buffer>,
    expected: Buffer,
    /// What the readers of the last round saw, and the first block of it.
    views: Vec<Vec<Option<u8>>>,
    first: u64,
}

impl Change {
    fn covers(self, lba: u64) -> bool {
        (self.slba..self.slba + self.nlb).contains(&lba)
    }
}

/// Whether a view of blocks from `first` can be, and whether it shows a torn change.
///
/// For every choice of which changes were there, each block must hold what one of the changes
/// that cover it left, or what was there before; a change that was there wholly leaves no block
/// of its own as it was.
pub(crate) fn judge(changes: &[Change; 2], first: u64, view: &[u8]) -> Seen {
    let possible = (0..4u8).any(|there| {
        let was_there = |index: usize| there >> index & 1 == 1;
        // Where both cover a block, either may have been last; two atomic ones everywhere alike.
        let mut last: Option<u8> = None;
        (first..).zip(view).all(|(lba, &byte)| {
            let mut may_be = [false; 256];
            let covering = || (0..).zip(changes).filter(move |(_, c)| c.covers(lba));
            let surely = covering().any(|(index, c)| c.atomic && was_there(index));
            may_be[usize::from(OLD)] = !surely;
            for (index, change) in covering() {
                if !change.atomic || was_there(index) {
                    may_be[usize::from(change.byte)] = true;
                }
            }
            let both = changes.iter().all(|c| c.covers(lba) && c.atomic);
            if both && there == 0b11 {
                let alike = last.is_none_or(|last| last == byte);
                last = Some(byte);
                return alike && may_be[usize::from(byte)];
            }
            may_be[usize::from(byte)]
        })
    });
    let torn = changes.iter().filter(|c| !c.atomic).any(|change| {
        let other = |lba| changes.iter().any(|c| c != change && c.covers(lba));
        let own: Vec<u8> = (first..)
            .zip(view)
            .filter(|&(lba, _)| change.covers(lba) && !other(lba))
            .map(|(_, &byte)| byte)
            .collect();
        own.contains(&OLD) && own.contains(&change.byte)
    });
    Seen {
        broken: u32::from(!possible),
        torn: u32::from(torn),
    }
}

impl<'t> Overlap<'t> {
    /// Makes room for commands of up to `blocks` blocks of `block` bytes, and `queues` queue pairs.
    pub(crate) fn new(
        mut driver: Driver<'t, InProcess>,
        block: u64,
        blocks: u64,
        queues: u16,
    ) -> Self {
        for qid in 1..=queues {
            driver.create_pair(qid, 64).expect("queues");
        }
        let mut alloc = || driver.alloc(blocks * block).expect("memory");
        let (changes, expected) = ([alloc(), alloc()], alloc());
        let reads = (0..3).map(|_| alloc()).collect();
        let ranges = [driver.alloc(16), driver.alloc(16)].map(|r| r.expect("memory"));
        Self {
            driver,
            block,
            changes,
            ranges,
            reads,
            expected,
            views: Vec::new(),
            first: 0,
        }
    }

    /// Of each range of blocks and each reader of the last round: whether it saw some as they
    /// were before and others changed.
    pub(crate) fn parts(&self, ranges: &[Range<u64>]) -> Vec<bool> {
        let mut mixed = Vec::new();
        for view in &self.views {
            for range in ranges {
                let part: Vec<_> = (self.first..)
                    .zip(view)
                    .filter(|(lba, _)| range.contains(lba))
                    .collect();
                let old = part.iter().filter(|(_, byte)| **byte == Some(OLD)).count();
                mixed.push(old > 0 && old < part.len());
            }
        }
        mixed
    }

    fn fill(&mut self, buffer: Buffer, blocks: u64, byte: u8) {
        let bytes = usize::try_from(blocks * self.block).expect("small");
        self.driver
            .transport()
            .mem_write(buffer.address, &vec![byte; bytes]);
    }

    /// Brings blocks from `first` back to what was there before.
    pub(crate) fn restore(&mut self, first: u64, blocks: u64) {
        self.fill(self.changes[0], blocks, OLD);
        let nlb_z = u16::try_from(blocks - 1).expect("small");
        let token = self.driver.submit_data(
            1,
            command::write(1, first, nlb_z),
            sized(self.changes[0], blocks * self.block),
        );
        let cqe = self.driver.wait(token.expect("room")).expect("completed");
        assert!(cqe.status().is_success(), "{:?}", cqe.status());
    }

    fn submit_change(&mut self, qid: u16, index: usize, change: Change) -> Token {
        let nlb_z = u16::try_from(change.nlb - 1).expect("small");
        let (sqe, data): (Sqe, Option<Buffer>) = match change.op {
            Op::Write => {
                self.fill(self.changes[index], change.nlb, change.byte);
                let data = sized(self.changes[index], change.nlb * self.block);
                (command::write(1, change.slba, nlb_z), Some(data))
            }
            Op::WriteZeroes => (command::write_zeroes(1, change.slba, nlb_z), None),
            Op::Deallocate => {
                let range = DsmRange {
                    cattr: 0,
                    nlb: u32::try_from(change.nlb).expect("small"),
                    slba: change.slba,
                };
                let memory = self.ranges[index];
                self.driver
                    .transport()
                    .mem_write(memory.address, range.as_bytes());
                let sqe = command::dsm(1, 1, DsmCdw11::new().with_ad(true));
                (sqe, Some(sized(memory, 16)))
            }
        };
        match data {
            Some(data) => self.driver.submit_data(qid, sqe, data),
            None => self.driver.submit(qid, sqe),
        }
        .expect("room")
    }

    /// Submits both changes and readers of `blocks` blocks from `first`, all at once, over so
    /// many `queues`, in an order that `turn` decides; judges what the readers saw
    /// and what is left.
    pub(crate) fn round(
        &mut self,
        changes: &[Change; 2],
        (first, blocks): (u64, u64),
        queues: u16,
        turn: usize,
    ) -> Seen {
        let nlb_z = u16::try_from(blocks - 1).expect("small");
        let bytes = blocks * self.block;
        // Half old, half new: what Compare must never find of an atomic change.
        let mixed = self.mixed(changes, first, blocks);
        let mut tokens = Vec::new();
        let mut compare = None;
        for place in 0..6 {
            let what = (place + turn) % 6;
            let queue = (what + turn) % usize::from(queues);
            let qid = 1 + u16::try_from(queue).expect("small");
            let token = match what {
                0 | 1 => self.submit_change(qid, what, changes[what]),
                2 => {
                    let sqe = command::compare(1, first, nlb_z);
                    let data = sized(self.expected, bytes);
                    let token = self.driver.submit_data(qid, sqe, data).expect("room");
                    compare = Some(token);
                    continue;
                }
                reader => {
                    let data = sized(self.reads[reader - 3], bytes);
                    let sqe = command::read(1, first, nlb_z);
                    self.driver.submit_data(qid, sqe, data).expect("room")
                }
            };
            tokens.push(token);
        }
        for token in tokens {
            let cqe = self.driver.wait(token).expect("completed");
            assert!(cqe.status().is_success(), "{:?}", cqe.status());
        }
        let mut seen = Seen::default();
        if let Some(token) = compare {
            let status = self.driver.wait(token).expect("completed").status();
            let found = status.is_success();
            assert!(
                found || status.same_code(Status::COMPARE_FAILURE),
                "{status:?}"
            );
            seen.add(mixed.filter(|_| found).unwrap_or_default());
        }
        self.first = first;
        self.views.clear();
        for reader in 0..self.reads.len() {
            let view = self.view(self.reads[reader], blocks);
            seen.add(self.judge_view(changes, first, &view));
            self.views.push(view);
        }
        let token = self.driver.submit_data(
            1,
            command::read(1, first, nlb_z),
            sized(self.reads[0], bytes),
        );
        self.driver.wait(token.expect("room")).expect("completed");
        let left = self.view(self.reads[0], blocks);
        // What is left at the end may hold no block of an atomic change's as it was before.
        seen.add(self.judge_view(changes, first, &left));
        let untouched = (first..).zip(&left).any(|(lba, blocks)| {
            blocks == &Some(OLD) && changes.iter().any(|change| change.covers(lba))
        });
        seen.broken += u32::from(untouched);
        seen
    }

    /// Makes what Compare is to look for: blocks of a change as it leaves them in one half and as
    /// they were in the other. What finding it would show, if there is more than a block.
    fn mixed(&mut self, changes: &[Change; 2], first: u64, blocks: u64) -> Option<Seen> {
        let [change, other] = changes;
        let half = change.slba + change.nlb / 2;
        for lba in first..first + blocks {
            let new = change.covers(lba) && lba < half;
            let byte = if new { change.byte } else { OLD };
            let at = self.expected.address + (lba - first) * self.block;
            let block = vec![byte; usize::try_from(self.block).expect("small")];
            self.driver.transport().mem_write(at, &block);
        }
        (change.nlb > 1 && change.byte != other.byte).then_some(Seen {
            broken: u32::from(change.atomic),
            torn: u32::from(!change.atomic),
        })
    }

    /// The byte of each block; `None` where a block holds several.
    fn view(&mut self, buffer: Buffer, blocks: u64) -> Vec<Option<u8>> {
        let block = usize::try_from(self.block).expect("small");
        let mut data = vec![0; block * usize::try_from(blocks).expect("small")];
        self.driver.transport().mem_read(buffer.address, &mut data);
        data.chunks_exact(block)
            .map(|block| block.iter().all(|byte| *byte == block[0]).then(|| block[0]))
            .collect()
    }

    fn judge_view(&self, changes: &[Change; 2], first: u64, view: &[Option<u8>]) -> Seen {
        let whole: Option<Vec<u8>> = view.iter().copied().collect();
        whole.map_or(Seen { broken: 1, torn: 0 }, |view| {
            judge(changes, first, &view)
        })
    }
}

impl Seen {
    pub(crate) fn add(&mut self, other: Self) {
        self.broken += other.broken;
        self.torn += other.torn;
    }
}

const fn sized(buffer: Buffer, bytes: u64) -> Buffer {
    Buffer { bytes, ..buffer }
}

mod tests {
    use super::*;

    fn write(slba: u64, nlb: u64, byte: u8, atomic: bool) -> Change {
        Change {
            op: Op::Write,
            slba,
            nlb,
            byte,
            atomic,
        }
    }

    /// Each view with whether it can be and whether it shows a tear.
    #[test]
    fn the_judge_knows_which_views_can_be() {
        let o = OLD;
        let both = [write(0, 3, 1, true), write(1, 3, 2, true)];
        for (view, possible) in [
            ([o, o, o, o], true),
            ([1, 1, 1, o], true),
            ([o, 2, 2, 2], true),
            ([1, 1, 1, 2], true),
            ([1, 2, 2, 2], true),
            ([1, 1, o, o], false),
            ([1, 1, 2, 2], false),
            ([1, 2, 1, 2], false),
            ([o, 1, 1, 2], false),
            ([1, 2, 2, o], false),
            ([o, 2, 2, o], false),
            ([9, 1, 1, o], false),
        ] {
            assert_eq!(judge(&both, 0, &view).broken == 0, possible, "{view:?}");
        }
        let one = [write(0, 3, 1, false), write(1, 3, 2, true)];
        for (view, possible, torn) in [
            ([1, 2, 1, 2], true, false),
            ([o, 1, o, o], true, false),
            ([o, 1, 2, 2], true, false),
            ([o, o, 2, 2], false, false),
            ([1, 2, 2, o], false, false),
        ] {
            let seen = judge(&one, 0, &view);
            assert_eq!(
                (seen.broken == 0, seen.torn > 0),
                (possible, torn),
                "{view:?}"
            );
        }
        let torn = [write(0, 3, 1, false), write(3, 1, 2, true)];
        assert_eq!(judge(&torn, 0, &[1, o, 1, 2]).torn, 1);
        assert_eq!(judge(&torn, 0, &[1, 1, 1, 2]).torn, 0);
    }
}
