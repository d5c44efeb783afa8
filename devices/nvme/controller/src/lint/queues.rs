//! The queues as the host was told of them and told of itself: by doorbells and completions.

use std::{collections::BTreeMap, ops::Range};

use nvme_spec::{AdminOpcode, CQE_BYTES, SQE_BYTES, Sqe};

use super::pointers::List;
use crate::doorbell::Side;

/// Submission queue entries that are watched at once, over all queues.
const WATCHED_ENTRIES: usize = 1 << 16;
/// PRP entries that are watched at once, over all commands.
const WATCHED_POINTERS: usize = 1 << 20;

/// A command as it was when its doorbell was rung.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) sqe: Sqe,
    /// Its PRP lists; none if they are not watched.
    pub(super) lists: Vec<List>,
}

/// A shadow doorbell.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shadow {
    /// Where the host stores its value, once it does.
    pub(super) at: Option<u64>,
    /// What the controller left as event index and what was there instead, as it was reported.
    pub(super) event: Option<(u32, u32)>,
}

/// A submission queue.
#[derive(Debug)]
pub(super) struct Sq {
    pub(super) base: u64,
    pub(super) entries: u32,
    /// The next entry that the controller fetches.
    pub(super) head: u32,
    /// The last good doorbell value.
    pub(super) tail: u32,
    pub(super) shadow: Shadow,
    /// Entries rung for and not fetched, by slot.
    waiting: BTreeMap<u32, Watched>,
    /// Commands fetched and not completed, by identifier.
    in_flight: BTreeMap<u16, Watched>,
    /// How many of both have each identifier.
    cids: BTreeMap<u16, u32>,
}

/// A completion queue.
#[derive(Debug)]
pub(super) struct Cq {
    pub(super) base: u64,
    pub(super) entries: u32,
    /// The last good doorbell value.
    pub(super) head: u32,
    /// The slot of the next completion.
    pub(super) tail: u32,
    pub(super) shadow: Shadow,
}

/// Which kind of queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Submission,
    Completion,
}

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Submission => "SQ",
            Self::Completion => "CQ",
        }
    }

    const fn entry_bytes(self) -> u64 {
        match self {
            Self::Submission => SQE_BYTES as u64,
            Self::Completion => CQE_BYTES as u64,
        }
    }
}

/// Bytes of memory that a queue of `entries` at `base` lies in.
pub(super) fn memory_of(kind: Kind, base: u64, entries: u32) -> Range<u64> {
    base..base.saturating_add(u64::from(entries) * kind.entry_bytes())
}

/// A queue, and the memory it lies in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct QueueMemory {
    pub(super) kind: Kind,
    pub(super) qid: u16,
    pub(super) range: Range<u64>,
}

/// Every queue there is, the admin queues among them.
#[derive(Debug, Default)]
pub(super) struct Queues {
    pub(super) sqs: BTreeMap<u16, Sq>,
    pub(super) cqs: BTreeMap<u16, Cq>,
    entries: usize,
    pointers: usize,
    /// The memory of all queues, in order and joined; made when it is asked for.
    memory: Option<Vec<Range<u64>>>,
}

impl Queues {
    /// The last good doorbell value of a queue.
    pub(super) fn value(&self, qid: u16, side: Side) -> Option<u32> {
        match side {
            Side::SqTail => self.sqs.get(&qid).map(|sq| sq.tail),
            Side::CqHead => self.cqs.get(&qid).map(|cq| cq.head),
        }
    }

    /// What is known of a queue's shadow doorbell.
    pub(super) fn shadow(&mut self, qid: u16, side: Side) -> Option<&mut Shadow> {
        match side {
            Side::SqTail => self.sqs.get_mut(&qid).map(|sq| &mut sq.shadow),
            Side::CqHead => self.cqs.get_mut(&qid).map(|cq| &mut cq.shadow),
        }
    }

    /// Adds an empty queue.
    pub(super) fn add(&mut self, kind: Kind, qid: u16, base: u64, entries: u32) {
        self.remove(kind, qid);
        match kind {
            Kind::Submission => {
                let sq = Sq {
                    base,
                    entries,
                    head: 0,
                    tail: 0,
                    shadow: Shadow::default(),
                    waiting: BTreeMap::new(),
                    in_flight: BTreeMap::new(),
                    cids: BTreeMap::new(),
                };
                self.sqs.insert(qid, sq);
            }
            Kind::Completion => {
                let cq = Cq {
                    base,
                    entries,
                    head: 0,
                    tail: 0,
                    shadow: Shadow::default(),
                };
                self.cqs.insert(qid, cq);
            }
        }
        self.memory = None;
    }

    /// Forgets a queue and its commands.
    pub(super) fn remove(&mut self, kind: Kind, qid: u16) {
        match kind {
            Kind::Submission => {
                self.forget_waiting(qid);
                if let Some(sq) = self.sqs.remove(&qid) {
                    for watched in sq.in_flight.values() {
                        self.pointers -= pointers(watched);
                    }
                }
            }
            Kind::Completion => {
                self.cqs.remove(&qid);
            }
        }
        self.memory = None;
    }

    /// Whether there are queues beside the admin queues.
    pub(super) fn any_io(&self) -> bool {
        let io = |qid: Option<&u16>| qid.is_some_and(|&qid| qid != 0);
        io(self.sqs.keys().next_back()) || io(self.cqs.keys().next_back())
    }

    fn ranges(&self) -> impl Iterator<Item = QueueMemory> {
        let sqs = self.sqs.iter().map(|(&qid, sq)| {
            let kind = Kind::Submission;
            let range = memory_of(kind, sq.base, sq.entries);
            QueueMemory { kind, qid, range }
        });
        let cqs = self.cqs.iter().map(|(&qid, cq)| {
            let kind = Kind::Completion;
            let range = memory_of(kind, cq.base, cq.entries);
            QueueMemory { kind, qid, range }
        });
        sqs.chain(cqs)
    }

    /// A queue with memory in `range`.
    pub(super) fn over(&self, range: &Range<u64>) -> Option<QueueMemory> {
        self.ranges().find(|queue| overlap(&queue.range, range))
    }

    /// The first of `ranges` that has memory of a queue, and which.
    pub(super) fn first_over(
        &mut self,
        ranges: &[Range<u64>],
    ) -> Option<(Range<u64>, QueueMemory)> {
        if self.memory.is_none() {
            let mut all: Vec<_> = self.ranges().map(|queue| queue.range).collect();
            all.sort_unstable_by_key(|range| range.start);
            all.dedup_by(|next, kept| {
                let joins = next.start <= kept.end;
                if joins {
                    kept.end = kept.end.max(next.end);
                }
                joins
            });
            self.memory = Some(all);
        }
        let memory = self.memory.as_deref().unwrap_or_default();
        let hit = ranges.iter().find(|range| {
            let after = memory.partition_point(|queue| queue.end <= range.start);
            memory.get(after).is_some_and(|queue| overlap(queue, range))
        })?;
        Some((hit.clone(), self.over(hit)?))
    }

    /// Commands that are not completed, other than Asynchronous Event Requests.
    pub(super) fn outstanding(&self) -> usize {
        let counts = |(&qid, sq): (&u16, &Sq)| {
            let commands = sq.waiting.values().chain(sq.in_flight.values());
            let is_request = |watched: &&Watched| {
                qid == 0 && watched.sqe.admin_opcode() == AdminOpcode::ASYNC_EVENT_REQUEST
            };
            commands.filter(|watched| !is_request(watched)).count()
        };
        self.sqs.iter().map(counts).sum()
    }

    /// Entries that can be watched now.
    pub(super) const fn room(&self) -> usize {
        WATCHED_ENTRIES.saturating_sub(self.entries)
    }

    /// PRP entries that can be watched now.
    pub(super) const fn pointer_room(&self) -> usize {
        WATCHED_POINTERS.saturating_sub(self.pointers)
    }

    /// Watches an entry until it is fetched. Whether its identifier is in use already.
    pub(super) fn rung(&mut self, sqid: u16, slot: u32, watched: Watched) -> bool {
        let Some(sq) = self.sqs.get_mut(&sqid) else {
            return false;
        };
        let reused = take_cid(sq, watched.sqe.cid);
        self.entries += 1;
        self.pointers += pointers(&watched);
        if let Some(old) = sq.waiting.insert(slot, watched) {
            self.entries -= 1;
            self.pointers -= pointers(&old);
            give_cid(sq, old.sqe.cid);
        }
        reused
    }

    /// Stops watching the entries of a queue that are not fetched.
    pub(super) fn forget_waiting(&mut self, sqid: u16) {
        let Some(sq) = self.sqs.get_mut(&sqid) else {
            return;
        };
        for watched in std::mem::take(&mut sq.waiting).into_values() {
            self.entries -= 1;
            self.pointers -= pointers(&watched);
            give_cid(sq, watched.sqe.cid);
        }
    }

    /// The controller fetched the entry in a slot. What it was when it was rung, if it was watched
    /// and is another now; and whether the identifier of one that was not watched is in use.
    pub(super) fn fetched(&mut self, sqid: u16, slot: u32, sqe: &Sqe) -> (Option<Sqe>, bool) {
        let Some(sq) = self.sqs.get_mut(&sqid) else {
            return (None, false);
        };
        sq.head = (slot + 1) % sq.entries;
        let mut result = (None, false);
        let watched = match sq.waiting.remove(&slot) {
            Some(watched) => {
                self.entries -= 1;
                if watched.sqe == *sqe {
                    watched
                } else {
                    self.pointers -= pointers(&watched);
                    give_cid(sq, watched.sqe.cid);
                    take_cid(sq, sqe.cid);
                    result.0 = Some(watched.sqe);
                    bare(sqe)
                }
            }
            None => {
                result.1 = take_cid(sq, sqe.cid);
                bare(sqe)
            }
        };
        if let Some(old) = sq.in_flight.insert(sqe.cid, watched) {
            self.pointers -= pointers(&old);
        }
        result
    }

    /// A command is about to be completed: it, if it is known.
    pub(super) fn completing(&mut self, sqid: u16, cqid: u16, cid: u16) -> Option<Watched> {
        if let Some(cq) = self.cqs.get_mut(&cqid) {
            cq.tail = (cq.tail + 1) % cq.entries;
        }
        let sq = self.sqs.get_mut(&sqid)?;
        give_cid(sq, cid);
        let watched = sq.in_flight.remove(&cid)?;
        self.pointers -= pointers(&watched);
        Some(watched)
    }

    /// The slots from `from` to `to` of a ring.
    pub(super) fn slots(from: u32, to: u32, entries: u32) -> impl Iterator<Item = u32> {
        let count = distance(from, to, entries);
        (0..count).map(move |step| (from + step) % entries)
    }
}

const fn bare(sqe: &Sqe) -> Watched {
    Watched {
        sqe: *sqe,
        lists: Vec::new(),
    }
}

fn pointers(watched: &Watched) -> usize {
    watched.lists.iter().map(|list| list.entries.len()).sum()
}

/// Counts a use of an identifier. Whether it was in use.
fn take_cid(sq: &mut Sq, cid: u16) -> bool {
    let uses = sq.cids.entry(cid).or_default();
    *uses += 1;
    *uses > 1
}

fn give_cid(sq: &mut Sq, cid: u16) {
    if let Some(uses) = sq.cids.get_mut(&cid) {
        *uses -= 1;
        if *uses == 0 {
            sq.cids.remove(&cid);
        }
    }
}

pub(super) const fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

/// Steps from `from` to `to` around a ring.
pub(super) const fn distance(from: u32, to: u32, entries: u32) -> u32 {
    if to >= from {
        to - from
    } else {
        entries - from + to
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched(cid: u16, pointers: usize) -> Watched {
        let sqe = Sqe {
            cid,
            ..Sqe::default()
        };
        let list = List {
            at: 0,
            entries: vec![0; pointers],
        };
        Watched {
            sqe,
            lists: vec![list],
        }
    }

    #[test]
    fn what_is_watched_is_counted_until_it_ends() {
        let mut queues = Queues::default();
        queues.add(Kind::Submission, 1, 0x1000, 8);
        queues.add(Kind::Completion, 1, 0x2000, 8);
        let (room, pointer_room) = (queues.room(), queues.pointer_room());
        assert!(!queues.rung(1, 0, watched(7, 3)));
        assert!(queues.rung(1, 1, watched(7, 4)));
        assert!(!queues.rung(1, 2, watched(8, 5)));
        assert_eq!(queues.room(), room - 3);
        assert_eq!(queues.pointer_room(), pointer_room - 12);
        assert_eq!(queues.outstanding(), 3);
        assert_eq!(queues.fetched(1, 0, &watched(7, 0).sqe), (None, false));
        // Another command than the one that was rung for.
        let changed = queues.fetched(1, 1, &watched(9, 0).sqe);
        assert_eq!(changed, (Some(watched(7, 0).sqe), false));
        assert_eq!(queues.room(), room - 1);
        assert!(queues.completing(1, 1, 7).is_some());
        assert_eq!(queues.pointer_room(), pointer_room - 5);
        // Both identifiers are free again.
        assert!(!queues.rung(1, 3, watched(7, 0)));
        queues.remove(Kind::Submission, 1);
        assert_eq!((queues.room(), queues.pointer_room()), (room, pointer_room));
    }

    #[test]
    fn memory_of_queues_is_found() {
        let mut queues = Queues::default();
        queues.add(Kind::Submission, 0, 0x1000, 64);
        queues.add(Kind::Completion, 0, 0x2000, 16);
        queues.add(Kind::Completion, 3, 0x8000, 2);
        let found = |queues: &mut Queues, range: Range<u64>| {
            let (_, QueueMemory { kind, qid, .. }) =
                queues.first_over(&[0x40000..0x50000, range])?;
            Some((kind, qid))
        };
        assert_eq!(found(&mut queues, 0x0..0x1000), None);
        assert_eq!(
            found(&mut queues, 0xFFF..0x1001),
            Some((Kind::Submission, 0))
        );
        assert_eq!(
            found(&mut queues, 0x20FF..0x8000),
            Some((Kind::Completion, 0))
        );
        assert_eq!(found(&mut queues, 0x2100..0x8000), None);
        assert_eq!(
            found(&mut queues, 0x2100..0x8001),
            Some((Kind::Completion, 3))
        );
        queues.remove(Kind::Completion, 3);
        assert_eq!(found(&mut queues, 0x2100..0x8001), None);
    }

    #[test]
    fn slots_go_around_the_ring() {
        let slots = |from, to| Vec::from_iter(Queues::slots(from, to, 4));
        assert_eq!(slots(2, 1), [2, 3, 0]);
        assert!(slots(1, 1).is_empty());
    }
}
