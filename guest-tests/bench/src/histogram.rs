//! Latencies, counted by size.

use alloc::vec;
use alloc::vec::Vec;

/// Buckets of each power of two, as a power of two: a bucket is at most 1/64 wide.
const LOG2_PARTS: u32 = 6;
const PARTS: usize = 1 << LOG2_PARTS;
/// Values of 2^40 ns (18 minutes) and more count as that.
const LOG2_MOST: u32 = 40;
const BUCKETS: usize = (LOG2_MOST - LOG2_PARTS + 1) as usize * PARTS;

/// A log-linear histogram of nanoseconds. Recording allocates nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    count: u64,
    sum: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl Histogram {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self {
            counts: vec![0; BUCKETS],
            count: 0,
            sum: 0,
            max: 0,
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.counts.fill(0);
        (self.count, self.sum, self.max) = (0, 0, 0);
    }

    /// Counts one value.
    #[inline]
    pub fn record(&mut self, ns: u64) {
        if let Some(count) = self.counts.get_mut(bucket(ns)) {
            *count += 1;
        }
        self.count += 1;
        self.sum = self.sum.saturating_add(ns);
        self.max = self.max.max(ns);
    }

    /// How many values there are.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The greatest, exactly; 0 of none.
    #[must_use]
    pub const fn max(&self) -> u64 {
        self.max
    }

    /// The mean, rounded down; 0 of none.
    #[must_use]
    pub const fn mean(&self) -> u64 {
        match self.sum.checked_div(self.count) {
            Some(mean) => mean,
            None => 0,
        }
    }

    /// The value that `per_mille` thousandths of the values do not exceed, at most 1/64 too great;
    /// 0 of none.
    #[must_use]
    pub fn quantile(&self, per_mille: u64) -> u64 {
        let wanted = self.count.saturating_mul(per_mille).div_ceil(1000).max(1);
        let mut below = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            below += count;
            if below >= wanted {
                return last(bucket).min(self.max);
            }
        }
        self.max
    }
}

/// The bucket of a value.
#[inline]
fn bucket(ns: u64) -> usize {
    let ns = ns.min((1 << LOG2_MOST) - 1);
    let shift = (u64::BITS - ns.leading_zeros()).saturating_sub(LOG2_PARTS + 1);
    // Below 2^40, shifted to less than 2^7.
    let part = usize::try_from(ns >> shift).unwrap_or(usize::MAX);
    shift as usize * PARTS + part
}

/// The greatest value of a bucket.
fn last(bucket: usize) -> u64 {
    let shift = (bucket / PARTS).saturating_sub(1);
    let part = bucket - shift * PARTS;
    ((part as u64 + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_and_are_narrow() {
        let mut at = 0u64;
        for index in 0..BUCKETS {
            assert_eq!(bucket(at), index, "{at}");
            let end = last(index);
            assert_eq!(bucket(end), index, "{end}");
            assert!((end - at) * 64 <= at.max(63), "{at} to {end}");
            at = end + 1;
        }
        assert_eq!(at, 1 << LOG2_MOST);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_of_known_values() {
        let mut histogram = Histogram::new();
        assert_eq!((histogram.quantile(500), histogram.mean()), (0, 0));
        for ns in 1..=1000 {
            histogram.record(ns);
        }
        for (per_mille, exact) in [(500, 500), (990, 990), (999, 999), (1000, 1000), (0, 1)] {
            let found = histogram.quantile(per_mille);
            assert!(
                found >= exact && found <= exact + exact / 64,
                "{found} for {exact}"
            );
        }
        assert_eq!((histogram.max(), histogram.mean()), (1000, 500));
        histogram.record(5_000_000_000_000);
        assert_eq!(histogram.max(), 5_000_000_000_000);
        histogram.clear();
        assert_eq!(histogram, Histogram::new());
    }

    #[test]
    fn one_value_is_every_quantile() {
        let mut histogram = Histogram::new();
        histogram.record(123_457);
        for per_mille in [0, 1, 500, 999, 1000] {
            assert_eq!(histogram.quantile(per_mille), 123_457);
        }
    }
}
