//! Which ranges of a namespace are being read and written, by all shards.
//!
//! A command holds the blocks it works on from its start to its end: reads share them, writes have
//! them alone. So no command sees a part of another's atomic write, whichever shards they are on;
//! a write that is not atomic takes its range piece by piece instead (NVM 2.1.4).
//!
//! The table is striped: a stripe of 64 KiB is one word, and stripes far apart share words, so
//! conflicts can be false but none is missed. Taking a stripe is one atomic operation and giving
//! it back another; plain loads and stores where one shard serves the namespace.
//!
//! Nobody waits in here. A command that finds its range in use gets a [`Ticket`] and is tried
//! again when its shard is told that a range was given back. Tickets are served in their order: a
//! command does not overtake an earlier one that wants the same stripe, so neither readers without
//! end nor small writes starve anyone. The list of tickets has a lock; it is taken only while
//! somebody waits.
//!
//! Whoever lets go of a word tells those that may have found it taken: who gives a range back, and
//! who had a part of one for a moment and then met another's.

use std::{collections::VecDeque, sync::atomic::Ordering};

use super::sync::{AtomicU32, AtomicUsize, Mutex, in_one_order, lock};
use crate::ids::ShardId;

/// log2 of a stripe's bytes.
pub(crate) const STRIPE_SHIFT: u32 = 16;
/// Words; a power of two.
pub(crate) const WORDS: usize = 4096;
/// A word's value when a write has it; otherwise it counts reads, which are far fewer.
const WRITING: u32 = u32::MAX;

/// How a range is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    Read,
    Write,
}

/// A range in bytes, and how it is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Use {
    pub(crate) offset: u64,
    pub(crate) len: u64,
    pub(crate) access: Access,
}

/// A place among those that wait. Its holder comes back with it, or gives it up by
/// [`RangeTable::forget`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ticket(u64);

/// Shards that have something to try again, a bit each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use = "the shards are told by the caller"]
pub(crate) struct Waiters(u64);

/// What became of an attempt to take a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(crate) struct Taken {
    /// Taken; or a ticket when the range is in use or an earlier ticket wants it: to be tried again
    /// with the ticket once the shard was told.
    pub(crate) result: Result<(), Ticket>,
    /// Whose commands the attempt may have held up while it had a part of the range.
    pub(crate) held_up: Waiters,
}

/// A namespace's table.
#[derive(Debug)]
pub(crate) struct RangeTable {
    words: Box<[AtomicU32]>,
    /// Several shards serve the namespace.
    shared: bool,
    /// How many wait; stored under the queue's lock.
    waiting: AtomicUsize,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    last: u64,
    waiters: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    ticket: Ticket,
    shard: ShardId,
    what: Use,
}

impl Waiters {
    /// The shards, in order.
    pub(crate) fn shards(self) -> impl Iterator<Item = ShardId> {
        // At most 64 shards; nearly always none.
        let mut left = self.0;
        std::iter::from_fn(move || {
            let shard = ShardId::try_from(left.trailing_zeros()).ok();
            let found = shard.filter(|_| left != 0);
            left &= left.wrapping_sub(1);
            found
        })
    }
}

impl Use {
    /// The first stripe and how many there are.
    fn stripes(self) -> (u64, u64) {
        let first = self.offset >> STRIPE_SHIFT;
        let last = self.offset.saturating_add(self.len.saturating_sub(1)) >> STRIPE_SHIFT;
        (first, last - first + 1)
    }

    /// Whether both cannot have their words at once, of `words` in all.
    pub(crate) fn conflicts(self, other: Self, words: u64) -> bool {
        if self.access == Access::Read && other.access == Access::Read {
            return false;
        }
        let ((first, count), (other_first, other_count)) = (self.stripes(), other.stripes());
        // How far the other begins behind this one, around the table.
        let behind = other_first.wrapping_sub(first) % words;
        behind < count || words - behind < other_count
    }
}

impl RangeTable {
    /// A table with nothing taken; `shards` serve the namespace.
    pub(crate) fn new(shards: ShardId) -> Self {
        Self::with_words(shards, WORDS)
    }

    /// A table of `words` words, a power of two.
    pub(crate) fn with_words(shards: ShardId, words: usize) -> Self {
        Self {
            words: (0..words).map(|_| AtomicU32::new(0)).collect(),
            shared: shards > 1,
            waiting: AtomicUsize::new(0),
            queue: Mutex::new(Queue::default()),
        }
    }

    /// Takes the whole of `what`, or nothing; `ticket` is of an earlier attempt.
    pub(crate) fn take(&self, what: Use, shard: ShardId, ticket: Option<Ticket>) -> Taken {
        let mut held_up = Waiters::default();
        if ticket.is_none() && self.waiting.load(Ordering::SeqCst) == 0 {
            match self.take_words(what) {
                Ok(()) => {
                    return Taken {
                        result: Ok(()),
                        held_up,
                    };
                }
                Err(0) => {}
                // Without the lock another may have met the words that were given back, and wait.
                Err(_) => held_up = self.waiters_behind(what),
            }
        }
        let result = self.take_in_turn(what, shard, ticket);
        Taken { result, held_up }
    }

    /// Takes the whole of `what`, or a place behind those that wait.
    fn take_in_turn(
        &self,
        what: Use,
        shard: ShardId,
        ticket: Option<Ticket>,
    ) -> Result<(), Ticket> {
        let mut queue = lock(&self.queue);
        let ticket = ticket.unwrap_or_else(|| {
            queue.last += 1;
            let ticket = Ticket(queue.last);
            queue.waiters.push_back(Waiter {
                ticket,
                shard,
                what,
            });
            // Seen by whoever gives a word back after it was found taken below.
            self.waiting.store(queue.waiters.len(), Ordering::SeqCst);
            in_one_order();
            ticket
        });
        let words = self.words.len() as u64;
        let mut earlier = queue.waiters.iter().take_while(|w| w.ticket != ticket);
        // Who meets words that are given back here gets the lock, and a ticket behind this one.
        if earlier.any(|w| w.what.conflicts(what, words)) || self.take_words(what).is_err() {
            return Err(ticket);
        }
        self.leave(&mut queue, ticket);
        Ok(())
    }

    /// Gives back what [`take`](Self::take) took.
    pub(crate) fn give(&self, what: Use) -> Waiters {
        self.words_of(what)
            .for_each(|word| self.give_word(word, what.access));
        self.waiters_behind(what)
    }

    /// Gives a ticket up: its command will not be tried again.
    pub(crate) fn forget(&self, ticket: Ticket) -> Waiters {
        let mut queue = lock(&self.queue);
        let left = self.leave(&mut queue, ticket);
        drop(queue);
        left.map_or(Waiters::default(), |what| self.waiters_behind(what))
    }

    /// The shards whose commands may get further now that `what` is free.
    fn waiters_behind(&self, what: Use) -> Waiters {
        in_one_order();
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return Waiters::default();
        }
        let freed = Use {
            access: Access::Write,
            ..what
        };
        let queue = lock(&self.queue);
        let words = self.words.len() as u64;
        let behind = queue.waiters.iter();
        let behind = behind.filter(|w| w.what.conflicts(freed, words));
        Waiters(behind.fold(0, |bits, waiter| bits | 1 << (waiter.shard % 64)))
    }

    fn leave(&self, queue: &mut Queue, ticket: Ticket) -> Option<Use> {
        let at = queue.waiters.iter().position(|w| w.ticket == ticket)?;
        let waiter = queue.waiters.remove(at)?;
        self.waiting.store(queue.waiters.len(), Ordering::SeqCst);
        Some(waiter.what)
    }

    /// Takes the words of a range, or none.
    ///
    /// # Errors
    /// How many were taken and given back when one was in use.
    fn take_words(&self, what: Use) -> Result<(), usize> {
        for (taken, word) in self.words_of(what).enumerate() {
            if !self.take_word(word, what.access) {
                self.words_of(what)
                    .take(taken)
                    .for_each(|word| self.give_word(word, what.access));
                return Err(taken);
            }
        }
        Ok(())
    }

    fn take_word(&self, word: &AtomicU32, access: Access) -> bool {
        let next = |value: u32| match (access, value) {
            (Access::Write, 0) => Some(WRITING),
            (Access::Write, _) | (Access::Read, WRITING) => None,
            (Access::Read, reads) => Some(reads + 1),
        };
        if self.shared {
            return word
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, next)
                .is_ok();
        }
        let next = next(word.load(Ordering::Relaxed));
        if let Some(value) = next {
            word.store(value, Ordering::Relaxed);
        }
        next.is_some()
    }

    fn give_word(&self, word: &AtomicU32, access: Access) {
        match (access, self.shared) {
            (Access::Write, false) => word.store(0, Ordering::Relaxed),
            (Access::Read, false) => {
                let reads = word.load(Ordering::Relaxed);
                word.store(reads.saturating_sub(1), Ordering::Relaxed);
            }
            (Access::Write, true) => {
                word.swap(0, Ordering::SeqCst);
            }
            (Access::Read, true) => {
                word.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }

    /// The words of a range, each once.
    fn words_of(&self, what: Use) -> impl Iterator<Item = &AtomicU32> {
        let (first, count) = what.stripes();
        // A power of two.
        let words = self.words.len() as u64;
        (0..count.min(words)).filter_map(move |step| {
            let word = first.wrapping_add(step) & words.wrapping_sub(1);
            self.words.get(usize::try_from(word).ok()?)
        })
    }
}
