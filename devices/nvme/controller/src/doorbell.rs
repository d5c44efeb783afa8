//! Doorbell registers: where a host's tails and heads arrive, from any thread.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::{ids::ShardId, rung::Rung};

/// Which doorbell: that of a submission queue's tail or of a completion queue's head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    SqTail,
    CqHead,
}

/// A doorbell was written that no queue has; a bit of [`Shared::faults`](crate::shared::Shared).
pub(crate) const FAULT_DOORBELL_REGISTER: u32 = 1 << 0;
/// A doorbell was written with a value that no correct host writes; another bit of it.
pub(crate) const FAULT_DOORBELL_VALUE: u32 = 1 << 1;

/// No live queue has this doorbell.
const NOBODY: u32 = u32::MAX;

/// The doorbells of every queue pair the controller may have.
///
/// A ring is an atomic store, and a bit that tells the shard that owns the queue to look; it judges
/// the value when it reads it.
/// Only shard 0 opens and closes doorbells, before a queue's creation and after its end.
#[derive(Debug)]
pub(crate) struct Doorbells {
    pairs: Box<[Pair]>,
    /// What was rung, a shard each.
    rung: Box<[Rung]>,
}

/// A queue pair's doorbells, on a cache line of their own: CPUs ring different pairs at once.
#[derive(Debug)]
#[repr(align(64))]
struct Pair([Doorbell; 2]);

#[derive(Debug)]
struct Doorbell {
    value: AtomicU32,
    owner: AtomicU32,
    /// The queue's values come from memory too, or from there alone.
    in_memory: AtomicBool,
}

/// A doorbell's number among those of its shard: a queue pair's head first, that its slots are free
/// when its commands are fetched.
fn number(qid: u16, side: Side) -> usize {
    2 * usize::from(qid) + usize::from(side == Side::SqTail)
}

impl Doorbells {
    /// Doorbells for queue identifiers 0 to `io_queues`, of queues on `shards` shards.
    pub(crate) fn new(io_queues: u16, shards: ShardId) -> Self {
        let doorbell = || Doorbell {
            value: AtomicU32::new(0),
            owner: AtomicU32::new(NOBODY),
            in_memory: AtomicBool::new(false),
        };
        Self {
            pairs: (0..=io_queues)
                .map(|_| Pair([doorbell(), doorbell()]))
                .collect(),
            rung: (0..shards)
                .map(|_| Rung::new(2 * (usize::from(io_queues) + 1)))
                .collect(),
        }
    }

    fn get(&self, qid: u16, side: Side) -> Option<&Doorbell> {
        let Pair([tail, head]) = self.pairs.get(usize::from(qid))?;
        Some(match side {
            Side::SqTail => tail,
            Side::CqHead => head,
        })
    }

    /// Stores what the host wrote. The shard to wake, or `None` when no queue has this doorbell.
    pub(crate) fn ring(&self, qid: u16, side: Side, value: u32) -> Option<ShardId> {
        let doorbell = self.get(qid, side)?;
        let owner = doorbell.owner.load(Ordering::Acquire);
        if owner == NOBODY {
            return None;
        }
        doorbell.value.store(value, Ordering::Release);
        let shard = ShardId::try_from(owner).ok()?;
        if let Some(rung) = self.rung.get(usize::from(shard)) {
            rung.set(number(qid, side));
        }
        Some(shard)
    }

    /// Whether a doorbell of the shard was rung since it took what was.
    pub(crate) fn any_rung(&self, shard: ShardId) -> bool {
        let rung = self.rung.get(usize::from(shard));
        rung.is_some_and(|rung| rung.any())
    }

    /// Calls `look` for each doorbell of the shard that was rung since it was called last, whether
    /// or not the value is another. Values that were there before a queue are told too.
    pub(crate) fn take_rung(&self, shard: ShardId, mut look: impl FnMut(u16, Side)) {
        if let Some(rung) = self.rung.get(usize::from(shard)) {
            rung.take(|number| {
                let side = if number % 2 == 0 {
                    Side::CqHead
                } else {
                    Side::SqTail
                };
                if let Ok(qid) = u16::try_from(number / 2) {
                    look(qid, side);
                }
            });
        }
    }

    /// The last value written.
    pub(crate) fn value(&self, qid: u16, side: Side) -> u32 {
        self.get(qid, side)
            .map_or(0, |d| d.value.load(Ordering::Acquire))
    }

    /// Puts the last good value back in place of a bad one, so that the same bad value is seen
    /// when it is written again; unless something else was written meanwhile.
    pub(crate) fn restore(&self, qid: u16, side: Side, bad: u32, good: u32) {
        if let Some(doorbell) = self.get(qid, side) {
            let (set, fetch) = (Ordering::AcqRel, Ordering::Relaxed);
            let _ = doorbell.value.compare_exchange(bad, good, set, fetch);
        }
    }

    /// Gives a doorbell to a new queue's shard, reading 0.
    pub(crate) fn open(&self, qid: u16, side: Side, shard: ShardId) {
        if let Some(doorbell) = self.get(qid, side) {
            doorbell.value.store(0, Ordering::Relaxed);
            doorbell.in_memory.store(false, Ordering::Relaxed);
            doorbell.owner.store(u32::from(shard), Ordering::Release);
        }
    }

    /// Notes that a queue's values come from memory too, or from there alone.
    pub(crate) fn turn(&self, qid: u16, side: Side) {
        if let Some(doorbell) = self.get(qid, side) {
            doorbell.in_memory.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the queue's values come from memory.
    pub(crate) fn in_memory(&self, qid: u16, side: Side) -> bool {
        self.get(qid, side)
            .is_some_and(|doorbell| doorbell.in_memory.load(Ordering::Relaxed))
    }

    /// Takes a doorbell away; rings are refused from now on.
    pub(crate) fn close(&self, qid: u16, side: Side) {
        if let Some(doorbell) = self.get(qid, side) {
            doorbell.owner.store(NOBODY, Ordering::Release);
            doorbell.in_memory.store(false, Ordering::Relaxed);
        }
    }
}
