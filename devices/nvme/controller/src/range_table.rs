//! Which ranges of a namespace are being read and written, by all shards.
//!
//! A command holds its whole block range from its start to its end: reads share it, writes have it
//! alone. So no command sees a part of another's write, whichever shards they are on; the
//! specification asks this of single blocks at least (AWUN 0; NVM 2.1.4).
//!
//! The table is striped: a stripe of 64 KiB is one word, and stripes far apart share words, so
//! conflicts can be false but none is missed. Taking a stripe is one atomic operation and giving
//! it back another. Nobody waits: a command that finds its range taken is tried again by its
//! shard's next poll. With one shard nothing is taken: each step of its backends ends within one
//! poll and at a block's end.
//!
//! Not yet: fairness. A write can be overtaken by reads that keep coming from other shards.

use std::sync::atomic::{AtomicU32, Ordering};

/// log2 of a stripe's bytes.
const STRIPE_SHIFT: u32 = 16;
/// Words; a power of two.
const WORDS: usize = 4096;
/// A word's value when a write has it; otherwise it counts reads.
const WRITING: u32 = u32::MAX;

/// How a range is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    Read,
    Write,
}

/// A namespace's table.
#[derive(Debug)]
pub(crate) struct RangeTable {
    words: Box<[AtomicU32]>,
}

impl RangeTable {
    pub(crate) fn new() -> Self {
        Self {
            words: (0..WORDS).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    /// Takes `len` bytes from `offset`, or nothing if a stripe of them is in use otherwise.
    pub(crate) fn try_take(&self, offset: u64, len: u64, access: Access) -> bool {
        for (taken, word) in self.stripes(offset, len).enumerate() {
            if !take(word, access) {
                self.stripes(offset, len)
                    .take(taken)
                    .for_each(|word| give(word, access));
                return false;
            }
        }
        true
    }

    /// Gives back what [`try_take`](Self::try_take) took.
    pub(crate) fn give(&self, offset: u64, len: u64, access: Access) {
        self.stripes(offset, len)
            .for_each(|word| give(word, access));
    }

    /// The words of a range, each once.
    fn stripes(&self, offset: u64, len: u64) -> impl Iterator<Item = &AtomicU32> {
        let words = self.words.len() as u64;
        let first = offset >> STRIPE_SHIFT;
        let last = offset.saturating_add(len.saturating_sub(1)) >> STRIPE_SHIFT;
        let count = (last - first + 1).min(words);
        (0..count).filter_map(move |step| {
            self.words
                .get(usize::try_from(first.wrapping_add(step) % words).ok()?)
        })
    }
}

fn take(word: &AtomicU32, access: Access) -> bool {
    let next = |value: u32| match (access, value) {
        (Access::Write, 0) => Some(WRITING),
        (Access::Write, _) | (Access::Read, WRITING) => None,
        // Commands in flight are far fewer than a word can count.
        (Access::Read, readers) => Some(readers + 1),
    };
    word.fetch_update(Ordering::Acquire, Ordering::Relaxed, next)
        .is_ok()
}

fn give(word: &AtomicU32, access: Access) {
    match access {
        Access::Write => word.store(0, Ordering::Release),
        Access::Read => {
            word.fetch_sub(1, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1024;

    #[test]
    fn reads_share_and_writes_do_not() {
        let table = RangeTable::new();
        assert!(table.try_take(0, 4 * KIB, Access::Read));
        assert!(table.try_take(0, 4 * KIB, Access::Read));
        assert!(!table.try_take(0, 4 * KIB, Access::Write));
        table.give(0, 4 * KIB, Access::Read);
        assert!(!table.try_take(0, 4 * KIB, Access::Write));
        table.give(0, 4 * KIB, Access::Read);
        assert!(table.try_take(0, 4 * KIB, Access::Write));
        assert!(!table.try_take(4095, 1, Access::Read));
        table.give(0, 4 * KIB, Access::Write);
        assert!(table.try_take(0, 4 * KIB, Access::Read));
    }

    #[test]
    fn a_refused_range_leaves_nothing_taken() {
        let table = RangeTable::new();
        assert!(table.try_take(128 * KIB, KIB, Access::Write));
        assert!(!table.try_take(0, 256 * KIB, Access::Write));
        assert!(table.try_take(0, 128 * KIB, Access::Write));
        assert!(table.try_take(192 * KIB, 64 * KIB, Access::Write));
    }

    #[test]
    fn a_range_longer_than_the_table_is_taken_once() {
        let table = RangeTable::new();
        let whole = (WORDS as u64) << STRIPE_SHIFT;
        assert!(table.try_take(5, 3 * whole, Access::Write));
        assert!(!table.try_take(0, 1, Access::Read));
        table.give(5, 3 * whole, Access::Write);
        assert!(table.try_take(0, whole, Access::Read));
    }
}
