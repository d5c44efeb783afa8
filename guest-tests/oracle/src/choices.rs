//! Where chance comes from: a seed, or the bytes of a fuzzer.

use std::ops::RangeInclusive;

/// A source of choices.
///
/// An implementer must give numbers below the limit it is asked for, and the same ones again when
/// it is made again from the same seed or bytes.
pub trait Choices {
    /// A step begins. A source of seeds starts anew here, so that leaving one step out changes no
    /// other: what makes a failing run shorter needs that.
    fn begin(&mut self, step: u64) {
        let _ = step;
    }

    /// A number below `limit`; 0 for a limit of 0.
    fn below(&mut self, limit: u64) -> u64;

    /// Whether there is nothing left to choose from; a run ends then.
    fn is_over(&self) -> bool {
        false
    }
}

impl dyn Choices + '_ {
    /// A number of a range.
    pub fn range(&mut self, range: RangeInclusive<u64>) -> u64 {
        let (low, high) = range.into_inner();
        low + self.below((high - low).saturating_add(1))
    }

    /// `true` one time in `count`.
    pub fn one_in(&mut self, count: u64) -> bool {
        self.below(count) + 1 == count
    }

    /// An index into something of `len` elements; 0 where there is none.
    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap_or_default()
    }

    /// An element of a list that has some.
    pub fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.index(list.len())]
    }

    /// 32 bits.
    pub fn bits32(&mut self) -> u32 {
        u32::try_from(self.below(1 << 32)).unwrap_or_default()
    }
}

/// Choices of a seed (SplitMix64).
#[derive(Clone, Copy, Debug)]
pub struct Seeded {
    seed: u64,
    state: u64,
}

impl Seeded {
    /// All choices of `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { seed, state: seed }
    }

    const fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

impl Choices for Seeded {
    fn begin(&mut self, step: u64) {
        self.state = self.seed ^ step.wrapping_mul(0xD6E8_FEB8_6659_FD93);
        self.state = self.next();
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next().checked_rem(limit).unwrap_or_default()
    }
}

/// Choices of a fuzzer's bytes: as many as a choice needs are taken from the front; zeroes follow.
#[derive(Clone, Copy, Debug)]
pub struct Bytes<'a> {
    rest: &'a [u8],
}

impl<'a> Bytes<'a> {
    /// The choices that `bytes` make.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl Choices for Bytes<'_> {
    fn below(&mut self, limit: u64) -> u64 {
        let Some(largest) = limit.checked_sub(1).filter(|&largest| largest > 0) else {
            return 0;
        };
        let bytes = (u64::BITS - largest.leading_zeros()).div_ceil(8) as usize;
        let (now, later) = self.rest.split_at(bytes.min(self.rest.len()));
        self.rest = later;
        let number = now
            .iter()
            .fold(0u64, |number, &byte| number << 8 | u64::from(byte));
        number % limit
    }

    fn is_over(&self) -> bool {
        self.rest.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_has_the_same_choices_whatever_was_before_it() {
        let mut one = Seeded::new(5);
        let mut other = Seeded::new(5);
        one.begin(1);
        let _ = one.below(100);
        one.begin(7);
        other.begin(7);
        assert_eq!(
            [one.below(1 << 40), one.below(9)],
            [other.below(1 << 40), other.below(9)]
        );
    }

    #[test]
    fn bytes_are_taken_as_a_choice_needs_them_and_end() {
        let mut bytes = Bytes::new(&[3, 1, 2, 9]);
        assert_eq!(bytes.below(1), 0);
        assert_eq!(bytes.below(256), 3);
        assert_eq!(bytes.below(1 << 16), 0x0102);
        assert!(!bytes.is_over());
        assert_eq!(bytes.below(1 << 40), 9);
        assert!(bytes.is_over());
        assert_eq!(bytes.below(10), 0);
    }
}
