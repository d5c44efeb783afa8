//! Commands under way, and the last that ended: written by one thread, read by any, also when the
//! writer has died in the middle.
//!
//! A record is a seqlock of plain atomics: its number is odd while it is written, and a reader that
//! finds another number behind than before leaves the record out. The writer never waits, and its
//! stores are ordinary ones.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use nvme_spec::{Sqe, Status};

use super::event::{CommandEvent, Dropped, End};
use crate::{ids::ShardId, io::IN_FLIGHT};

/// I/O commands that can be under way: each that is in flight may be a fused operation of two, and
/// there is the one that is being executed.
const IO_IN_FLIGHT: usize = 2 * IN_FLIGHT + 64;
/// Admin commands that can be under way: as many as an admin queue has entries, and those that wait
/// without a slot of it.
const ADMIN_IN_FLIGHT: usize = 4096 + 64;
/// Words of an entry.
const SQE_WORDS: usize = 8;
/// Words of a record: the entry, both times, what the end was, and dword 0.
const WORDS: usize = SQE_WORDS + 4;

/// What [`Record`] holds of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Held {
    pub(super) sqid: u16,
    pub(super) sqe: Sqe,
    pub(super) fetched_ns: u64,
    pub(super) ended_ns: u64,
    pub(super) end: End,
}

/// One command, or nothing.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// Odd while the record is written; 0 before it ever was.
    number: AtomicU64,
    words: [AtomicU64; WORDS],
}

/// The kinds of ends, as a record has them.
const EMPTY: u16 = 0;
const PENDING: u16 = 1;
const COMPLETED: u16 = 2;
const RESET: u16 = 3;
const QUEUE_FAULT: u16 = 4;
const STOPPED: u16 = 5;

impl Record {
    /// The writer's: nobody else stores.
    pub(super) fn store(&self, held: &Held) {
        let [w0, w1, w2, w3, w4, w5, w6, w7]: [u64; SQE_WORDS] = zerocopy::transmute!(held.sqe);
        let (kind, status, dw0) = match held.end {
            End::Pending => (PENDING, 0, 0),
            End::Completed { status, dw0 } => (COMPLETED, status.0, dw0),
            End::Dropped(Dropped::Reset) => (RESET, 0, 0),
            End::Dropped(Dropped::QueueFault) => (QUEUE_FAULT, 0, 0),
            End::Dropped(Dropped::Stopped) => (STOPPED, 0, 0),
        };
        let end: u64 = zerocopy::transmute!([held.sqid, kind, status, 0]);
        let words = [
            w0,
            w1,
            w2,
            w3,
            w4,
            w5,
            w6,
            w7,
            held.fetched_ns,
            held.ended_ns,
            end,
            dw0.into(),
        ];
        self.write(&words);
    }

    fn clear(&self) {
        let number = self.begin();
        let [.., end, _] = &self.words;
        end.store(EMPTY.into(), Ordering::Relaxed);
        self.number.store(number, Ordering::Release);
    }

    fn write(&self, words: &[u64; WORDS]) {
        let number = self.begin();
        for (place, word) in self.words.iter().zip(words) {
            place.store(*word, Ordering::Relaxed);
        }
        self.number.store(number, Ordering::Release);
    }

    /// Marks the record as being written; the number that ends it.
    fn begin(&self) -> u64 {
        let number = self.number.load(Ordering::Relaxed);
        self.number
            .store(number.wrapping_add(1) | 1, Ordering::Relaxed);
        // No word is seen before the mark.
        fence(Ordering::Release);
        (number | 1).wrapping_add(1)
    }

    /// The writer's own look.
    fn own(&self) -> Option<Held> {
        self.read_words(Ordering::Relaxed)
    }

    /// A look from elsewhere: `None` if there is nothing, or if it is just being written.
    pub(super) fn read(&self) -> Option<Held> {
        let before = self.number.load(Ordering::Acquire);
        if !before.is_multiple_of(2) {
            return None;
        }
        let held = self.read_words(Ordering::Relaxed);
        fence(Ordering::Acquire);
        held.filter(|_| self.number.load(Ordering::Relaxed) == before)
    }

    fn read_words(&self, order: Ordering) -> Option<Held> {
        let [
            w0,
            w1,
            w2,
            w3,
            w4,
            w5,
            w6,
            w7,
            fetched_ns,
            ended_ns,
            end,
            dw0,
        ] = &self.words;
        let sqe = [w0, w1, w2, w3, w4, w5, w6, w7].map(|word| word.load(order));
        let [sqid, kind, status, _]: [u16; 4] = zerocopy::transmute!(end.load(order));
        let dw0 = u32::try_from(dw0.load(order)).unwrap_or_default();
        let end = match kind {
            PENDING => End::Pending,
            COMPLETED => End::Completed {
                status: Status(status),
                dw0,
            },
            RESET => End::Dropped(Dropped::Reset),
            QUEUE_FAULT => End::Dropped(Dropped::QueueFault),
            STOPPED => End::Dropped(Dropped::Stopped),
            _ => return None,
        };
        Some(Held {
            sqid,
            sqe: zerocopy::transmute!(sqe),
            fetched_ns: fetched_ns.load(order),
            ended_ns: ended_ns.load(order),
            end,
        })
    }
}

/// A shard's records.
#[derive(Debug)]
pub(super) struct Records {
    /// Commands under way, by tag.
    open: Box<[Record]>,
    /// The last that ended: a ring.
    ended: Box<[Record]>,
    /// How many have ended.
    count: AtomicU64,
}

impl Records {
    pub(super) fn new(has_admin: bool, recorder: u32) -> Self {
        let open = IO_IN_FLIGHT + if has_admin { ADMIN_IN_FLIGHT } else { 0 };
        let ended = usize::try_from(recorder).unwrap_or_default();
        let records = |count: usize| (0..count).map(|_| Record::default()).collect();
        Self {
            open: records(open),
            ended: records(ended),
            count: AtomicU64::new(0),
        }
    }

    /// Commands that can be under way.
    pub(super) const fn places(&self) -> usize {
        self.open.len()
    }

    /// A command is fetched.
    pub(super) fn begin(&self, place: u16, held: &Held) {
        if let Some(record) = self.open.get(usize::from(place)) {
            record.store(held);
        }
    }

    /// Takes a command out of those under way.
    pub(super) fn take(&self, place: u16) -> Option<Held> {
        let record = self.open.get(usize::from(place))?;
        let held = record.own()?;
        record.clear();
        Some(held)
    }

    /// The places of the commands under way.
    pub(super) fn under_way(&self) -> impl Iterator<Item = (u16, Held)> {
        let records = (0..).zip(&self.open);
        records.filter_map(|(place, record)| Some((place, record.own()?)))
    }

    /// Keeps a command that has ended, in the place of the oldest.
    pub(super) fn end(&self, held: &Held) {
        if self.ended.is_empty() {
            return;
        }
        let count = self.count.load(Ordering::Relaxed);
        let place = usize::try_from(count).unwrap_or_default() % self.ended.len();
        if let Some(record) = self.ended.get(place) {
            record.store(held);
        }
        self.count.store(count.wrapping_add(1), Ordering::Release);
    }

    /// What there is, from any thread: those that ended, oldest first, and those under way.
    pub(super) fn read(&self, shard: ShardId) -> Vec<CommandEvent> {
        let count = usize::try_from(self.count.load(Ordering::Acquire)).unwrap_or_default();
        // The next place is the oldest's.
        let next = count % self.ended.len().max(1);
        let (newer, older) = self.ended.split_at_checked(next).unwrap_or_default();
        let ended = older.iter().chain(newer).filter_map(Record::read);
        let open = self.open.iter().filter_map(Record::read);
        let event = |held: Held| CommandEvent {
            shard,
            sqid: held.sqid,
            sqe: held.sqe,
            fetched_ns: held.fetched_ns,
            ended_ns: held.ended_ns,
            end: held.end,
        };
        ended.chain(open).map(event).collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn held(cid: u16) -> Held {
        let (sqid, end) = match cid % 3 {
            0 => (1, End::Dropped(Dropped::Reset)),
            1 => (
                0xFFFF,
                End::Completed {
                    status: Status::LBA_OUT_OF_RANGE.dnr().more(),
                    dw0: u32::MAX,
                },
            ),
            _ => (0, End::Pending),
        };
        Held {
            sqid,
            sqe: Sqe {
                cid,
                nsid: cid.into(),
                prp1: u64::from(cid) << 40,
                cdw15: cid.into(),
                ..Sqe::default()
            },
            fetched_ns: cid.into(),
            ended_ns: u64::MAX - u64::from(cid),
            end,
        }
    }

    #[test]
    fn a_record_gives_back_what_it_was_given() {
        let record = Record::default();
        assert_eq!(record.read(), None);
        for cid in 0..6 {
            record.store(&held(cid));
            assert_eq!(record.read(), Some(held(cid)));
        }
        record.clear();
        assert_eq!(record.read(), None);
    }

    #[test]
    fn of_many_that_ended_the_last_are_there_oldest_first() {
        let records = Records::new(false, 4);
        let cids = || -> Vec<u16> { records.read(0).iter().map(|e| e.sqe.cid).collect() };
        assert_eq!(cids(), [0; 0]);
        for cid in 1..=3 {
            records.end(&held(cid));
        }
        assert_eq!(cids(), [1, 2, 3]);
        for cid in 4..=9 {
            records.end(&held(cid));
        }
        assert_eq!(cids(), [6, 7, 8, 9]);
    }

    #[test]
    fn a_command_is_under_way_until_it_is_taken_once() {
        let records = Records::new(false, 0);
        records.begin(3, &held(5));
        assert_eq!(records.read(1).len(), 1);
        assert_eq!(records.take(3), Some(held(5)));
        assert_eq!(records.take(3), None);
        assert_eq!(records.read(1), []);
        // Kept nowhere.
        records.end(&held(5));
        assert_eq!(records.read(1), []);
    }
}
