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
//! A write that finds reads marks the stripe, and reads that come later let it go first. A mark
//! says only that some write waits: a write that starts takes it away, and one that goes on waiting
//! marks again when it is tried again.

use std::sync::atomic::{AtomicU32, Ordering};

/// log2 of a stripe's bytes.
const STRIPE_SHIFT: u32 = 16;
/// Words; a power of two.
const WORDS: usize = 4096;
/// A word's value when a write has it; otherwise it counts reads.
const WRITING: u32 = u32::MAX;
/// The bit of a word that says that a write waits.
const WRITE_WAITS: u32 = 1 << 31;

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

    /// A write that was refused will not be tried again: later reads need not wait for it.
    pub(crate) fn forget_wait(&self, offset: u64, len: u64) {
        for word in self.stripes(offset, len) {
            let unmark = |value| (value != WRITING).then_some(value & !WRITE_WAITS);
            // Nothing to do where a write has it now.
            let _ = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, unmark);
        }
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
        (_, WRITING) => None,
        (Access::Write, 0 | WRITE_WAITS) => Some(WRITING),
        (Access::Write, reads) => (reads & WRITE_WAITS == 0).then_some(reads | WRITE_WAITS),
        // Commands in flight are far fewer than a word can count.
        (Access::Read, reads) => (reads & WRITE_WAITS == 0).then_some(reads + 1),
    };
    let before = word.fetch_update(Ordering::Acquire, Ordering::Relaxed, next);
    // A write that found reads has only marked the word.
    before.is_ok_and(|before| access == Access::Read || before & !WRITE_WAITS == 0)
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
    fn a_waiting_write_goes_before_later_reads() {
        let table = RangeTable::new();
        assert!(table.try_take(0, KIB, Access::Read));
        assert!(!table.try_take(0, KIB, Access::Write));
        assert!(!table.try_take(0, KIB, Access::Read), "overtook the write");
        table.give(0, KIB, Access::Read);
        assert!(table.try_take(0, KIB, Access::Write));
        table.give(0, KIB, Access::Write);
        assert!(
            table.try_take(0, KIB, Access::Read),
            "the mark outlived the write"
        );
    }

    #[test]
    fn a_write_that_gives_up_lets_reads_go_on() {
        let table = RangeTable::new();
        assert!(table.try_take(0, KIB, Access::Read));
        assert!(!table.try_take(0, 200 * KIB, Access::Write));
        table.forget_wait(0, 200 * KIB);
        assert!(table.try_take(0, 200 * KIB, Access::Read));
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
