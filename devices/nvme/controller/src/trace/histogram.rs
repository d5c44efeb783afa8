//! How long commands took: a histogram of fixed size, and what is read from it.

use crate::stats::Counter;

/// Buckets of each power of two: 16, so that a bucket is at most a sixteenth of its values wide.
const SPLIT_LOG2: u32 = 4;
const SPLIT: u64 = 1 << SPLIT_LOG2;
/// Values from here on, 2^40 ns (18 minutes), are counted as one less.
const LIMIT_LOG2: u32 = 40;
const BUCKETS: usize = ((LIMIT_LOG2 - SPLIT_LOG2 + 1) << SPLIT_LOG2) as usize;

/// Counts of latencies, with one writer.
#[derive(Debug)]
pub(super) struct Histogram {
    buckets: Box<[Counter]>,
    most_ns: Counter,
}

impl Histogram {
    pub(super) fn new() -> Self {
        Self {
            buckets: (0..BUCKETS).map(|_| Counter::default()).collect(),
            most_ns: Counter::default(),
        }
    }

    /// Counts a command that took `ns`.
    pub(super) fn add(&self, ns: u64) {
        if let Some(bucket) = self.buckets.get(bucket(ns)) {
            bucket.add(1);
        }
        let most = self.most_ns.get();
        if ns > most {
            self.most_ns.add(ns - most);
        }
    }
}

/// Where a latency is counted.
fn bucket(ns: u64) -> usize {
    let ns = ns.min((1 << LIMIT_LOG2) - 1);
    let index = match ns.checked_ilog2() {
        // Below twice the split each value has its own.
        None | Some(..SPLIT_LOG2) => ns,
        Some(power) => {
            let shift = power - SPLIT_LOG2;
            (u64::from(shift) << SPLIT_LOG2) + (ns >> shift)
        }
    };
    usize::try_from(index).unwrap_or(usize::MAX)
}

/// The least latency that is counted in a bucket.
const fn least(index: u64) -> u64 {
    if index < 2 * SPLIT {
        return index;
    }
    let shift = (index >> SPLIT_LOG2) - 1;
    (index - (shift << SPLIT_LOG2)) << shift
}

/// How long the commands of an operation took, from fetch to end.
///
/// A percentile is the upper end of its bucket, which is at most a sixteenth (6.25 %) above the
/// latency itself, and never above the greatest that was measured.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Latency {
    counts: Vec<u64>,
    most_ns: u64,
}

impl Latency {
    /// Adds what a shard has counted.
    pub(super) fn add(&mut self, histogram: &Histogram) {
        self.counts.resize(BUCKETS, 0);
        for (count, bucket) in self.counts.iter_mut().zip(&histogram.buckets) {
            *count += bucket.get();
        }
        self.most_ns = self.most_ns.max(histogram.most_ns.get());
    }

    /// Commands that were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The greatest, in nanoseconds.
    #[must_use]
    pub const fn most_ns(&self) -> u64 {
        self.most_ns
    }

    /// Nanoseconds that `permille` of a thousand commands do not exceed (see the type for how
    /// exactly); `None` if there were none.
    #[must_use]
    pub fn permille_ns(&self, permille: u64) -> Option<u64> {
        let total = u128::from(self.count());
        let wanted = (total * u128::from(permille.min(1000)))
            .div_ceil(1000)
            .max(1);
        let mut seen = 0u128;
        for (index, count) in (0u64..).zip(&self.counts) {
            seen += u128::from(*count);
            if seen >= wanted {
                return Some((least(index + 1) - 1).min(self.most_ns));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_without_gaps_and_none_is_wider_than_promised() {
        for index in 0..BUCKETS as u64 {
            let (from, to) = (least(index), least(index + 1));
            assert!(from < to, "{index}");
            assert_eq!(bucket(from) as u64, index);
            assert_eq!(bucket(to - 1) as u64, index);
            assert!((to - 1 - from) * SPLIT <= from, "{index}: {from} to {to}");
        }
        assert_eq!(least(BUCKETS as u64), 1 << LIMIT_LOG2);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_are_those_of_the_values_within_a_sixteenth() {
        let histogram = Histogram::new();
        for ns in 1..=10_000u64 {
            histogram.add(ns * 100);
        }
        let mut latency = Latency::default();
        assert_eq!(latency.permille_ns(500), None);
        latency.add(&histogram);
        assert_eq!((latency.count(), latency.most_ns()), (10_000, 1_000_000));
        for permille in [1, 500, 990, 999, 1000] {
            let (right, told) = (
                permille * 1000,
                latency.permille_ns(permille).expect("some"),
            );
            assert!(
                (right..=right + right / 16).contains(&told),
                "{permille}: {told}"
            );
        }
        assert_eq!(latency.permille_ns(1000), Some(1_000_000));
        assert_eq!(
            latency.permille_ns(0),
            Some(103),
            "the least, of 100 to 103"
        );
    }

    #[test]
    fn two_shards_are_added() {
        let both = [Histogram::new(), Histogram::new()];
        both[0].add(10);
        both[1].add(30);
        let mut latency = Latency::default();
        both.iter().for_each(|one| latency.add(one));
        assert_eq!(latency.count(), 2);
        assert_eq!(latency.permille_ns(500), Some(10));
        assert_eq!(latency.permille_ns(501), Some(30));
    }
}
