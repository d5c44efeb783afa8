//! Which of a shard's doorbells were written since it looked last: a bit each, in two levels, so
//! that a shard with many queues looks at those that were rung and at no others.
//!
//! ```text
//!   ringer                              shard
//!   store the doorbell's value          take the summary: what was set, leaving nothing
//!   set the doorbell's bit              take each word that the summary names
//!   set the bit of its word in the      load each doorbell whose bit was set
//!   summary
//! ```
//!
//! A bit that is set after its word was taken has its summary bit set after that, and is found at
//! the next look: none is lost. Who takes a bit sees the value stored before it was set. A shard
//! that goes to sleep looks at the summary last (see `park`). The tests run every interleaving.

use std::sync::atomic::{AtomicU64, Ordering};

/// An atomic 64-bit word, so that a model checker can put its own in.
pub(crate) trait Word {
    fn zero() -> Self;
    fn load(&self, order: Ordering) -> u64;
    fn fetch_or(&self, bits: u64, order: Ordering) -> u64;
    fn swap(&self, value: u64, order: Ordering) -> u64;
}

impl Word for AtomicU64 {
    fn zero() -> Self {
        Self::new(0)
    }

    fn load(&self, order: Ordering) -> u64 {
        self.load(order)
    }

    fn fetch_or(&self, bits: u64, order: Ordering) -> u64 {
        self.fetch_or(bits, order)
    }

    fn swap(&self, value: u64, order: Ordering) -> u64 {
        self.swap(value, order)
    }
}

/// Bits of a word.
const BITS: usize = 64;
const WORDS_A_LINE: usize = 8;

/// Words on a cache line that no other shard's are on.
#[derive(Debug)]
#[repr(align(64))]
struct Line<W>([W; WORDS_A_LINE]);

#[derive(Debug)]
struct Words<W> {
    lines: Box<[Line<W>]>,
    count: usize,
}

impl<W: Word> Words<W> {
    fn new(bits: usize) -> Self {
        let count = bits.div_ceil(BITS);
        let line = |_| Line(std::array::from_fn(|_| W::zero()));
        Self {
            lines: (0..count.div_ceil(WORDS_A_LINE)).map(line).collect(),
            count,
        }
    }

    fn get(&self, at: usize) -> Option<&W> {
        let Line(words) = self.lines.get(at / WORDS_A_LINE)?;
        words.get(at % WORDS_A_LINE)
    }

    fn iter(&self) -> impl Iterator<Item = &W> {
        (0..self.count).filter_map(|at| self.get(at))
    }
}

/// The doorbells of a shard that were rung, by a number each.
#[derive(Debug)]
pub(crate) struct Rung<W = AtomicU64> {
    bits: Words<W>,
    summary: Words<W>,
}

impl<W: Word> Rung<W> {
    /// For doorbells 0 to `doorbells` - 1.
    pub(crate) fn new(doorbells: usize) -> Self {
        let bits = Words::new(doorbells);
        Self {
            summary: Words::new(bits.count),
            bits,
        }
    }

    /// A doorbell has a new value, stored before. By any thread.
    pub(crate) fn set(&self, doorbell: usize) {
        let at = doorbell / BITS;
        if let (Some(word), Some(summary)) = (self.bits.get(at), self.summary.get(at / BITS)) {
            // Each after what was stored before it.
            word.fetch_or(1 << (doorbell % BITS), Ordering::Release);
            summary.fetch_or(1 << (at % BITS), Ordering::Release);
        }
    }

    /// Whether there is one to look at.
    pub(crate) fn any(&self) -> bool {
        self.summary
            .iter()
            .any(|summary| summary.load(Ordering::Relaxed) != 0)
    }

    /// Calls `look` for each doorbell that was rung since the last call, in order. By the shard's
    /// thread.
    #[inline]
    pub(crate) fn take(&self, mut look: impl FnMut(usize)) {
        for (at, summary) in self.summary.iter().enumerate() {
            if summary.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let named = summary.swap(0, Ordering::Acquire);
            for word in each(named).map(|bit| at * BITS + bit) {
                let word_of = self.bits.get(word);
                let rung = word_of.map_or(0, |word| word.swap(0, Ordering::Acquire));
                each(rung).for_each(|bit| look(word * BITS + bit));
            }
        }
    }
}

/// The bits that are set, lowest first.
fn each(mut bits: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = bits.trailing_zeros() as usize;
        let found = (bits != 0).then_some(bit);
        bits &= bits.wrapping_sub(1);
        found
    })
}

#[cfg(test)]
#[path = "rung_tests.rs"]
mod tests;
