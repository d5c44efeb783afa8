//! What a run knows of its own writes while it goes on, for readers to judge by.

use std::collections::BTreeMap;

use crate::journal::Record;
use crate::page::Write;
use crate::version::Version;

/// Places that are remembered. What is written elsewhere is judged by what its sectors say alone.
const PLACES: usize = 1 << 18;
/// Writes of a place that are remembered: the last, and those that they may have torn.
const WRITES: usize = 4;

/// Writes that are over, and when they were.
#[derive(Debug, Default)]
pub struct Recent {
    /// By where a page begins and its bytes; each place's in the order they began.
    places: BTreeMap<(u64, u32), Vec<(Write, Version)>>,
    /// Bytes of the largest page.
    largest: u32,
}

impl Recent {
    /// A write was acknowledged, at `end`.
    pub fn ended(&mut self, write: Write, end: Version) {
        let place = (write.offset, write.size);
        if self.places.len() >= PLACES && !self.places.contains_key(&place) {
            return;
        }
        self.largest = self.largest.max(write.size);
        let writes = self.places.entry(place).or_default();
        let after = writes.partition_point(|(other, _)| other.version < write.version);
        writes.insert(after, (write, end));
        if writes.len() > WRITES {
            writes.remove(0);
        }
    }

    /// What a read of these bytes that begins now finds, unless something later is there.
    #[must_use]
    pub fn must_be_seen(&self, offset: u64, bytes: u64) -> Vec<Write> {
        let first = offset.saturating_sub(self.largest.into());
        let last = offset.saturating_add(bytes);
        let places = self.places.range((first, 0)..(last, 0));
        let writes = places.filter_map(|(_, writes)| writes.last());
        let writes = writes.map(|(write, _)| *write);
        writes.filter(|write| write.end() > offset).collect()
    }

    /// What to judge a read by that saw these writes, and must have seen those.
    #[must_use]
    pub fn record(&self, seen: &[Write], must_be_seen: Vec<Write>) -> Record {
        let end = |write: &Write| {
            let writes = self.places.get(&(write.offset, write.size))?;
            writes.iter().find(|(other, _)| other == write).copied()
        };
        Record {
            acknowledged: seen.iter().filter_map(end).collect(),
            durable: must_be_seen,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{PLACES, Recent, WRITES};
    use crate::findings::Finding;
    use crate::history::Seen;
    use crate::journal::Record;
    use crate::page::{self, Write};
    use crate::version::{Clock, Version};

    const REGION: u64 = 7;
    const KIB: usize = 1 << 10;

    fn page(write: Write) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(write.size).expect("small")];
        page::fill(&mut bytes, REGION, write);
        bytes
    }

    fn write(version: Version, offset: u64, size: u32) -> Write {
        Write {
            version,
            offset,
            size,
            writer: 0,
        }
    }

    fn seen(bytes: &[u8]) -> Seen {
        let mut seen = Seen::new(REGION, 0);
        seen.add(bytes);
        seen
    }

    #[test]
    fn a_page_that_is_torn_over_whole_smaller_ones_of_its_run_is_seen() {
        let (clock, mut recent) = (Clock::new(1), Recent::default());
        let mut bytes = Vec::new();
        for offset in [0, 4096, 8192, 12_288] {
            let small = write(clock.now(), offset, 4096);
            recent.ended(small, clock.now());
            bytes.extend(page(small));
        }
        let must = recent.must_be_seen(0, 16_384);
        assert_eq!(must.len(), 4);
        // It is under way: no end of it is known.
        let large = page(write(clock.now(), 0, 16_384));
        bytes[..8 * KIB].copy_from_slice(&large[..8 * KIB]);
        let seen = seen(&bytes);
        assert_eq!(
            seen.judge(&Record::default(), 1),
            [],
            "by the sectors alone"
        );
        let found = seen.judge(&recent.record(seen.writes(), must), 1);
        assert!(matches!(found[..], [Finding::Torn { .. }]), "{found:?}");
    }

    #[test]
    fn what_is_older_than_what_was_over_before_the_read_is_seen() {
        let (clock, mut recent) = (Clock::new(1), Recent::default());
        let (old, new) = (write(clock.now(), 0, 4096), clock.now());
        recent.ended(old, new);
        let new = write(clock.now(), 0, 4096);
        let before = recent.must_be_seen(0, 4096);
        let end = clock.now();
        recent.ended(new, end);
        let stale = seen(&page(old));
        let judge = |must| stale.judge(&recent.record(stale.writes(), must), 1);
        // The read may have been before the write.
        assert_eq!(judge(before), []);
        let found = judge(recent.must_be_seen(0, 4096));
        assert!(matches!(found[..], [Finding::Lost { .. }]), "{found:?}");
        // A page beside it must not be seen here.
        assert_eq!(recent.must_be_seen(4096, 4096), []);
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let (clock, mut recent) = (Clock::new(1), Recent::default());
        for _ in 0..2 * WRITES {
            recent.ended(write(clock.now(), 0, 512), clock.now());
        }
        assert_eq!(recent.places[&(0, 512)].len(), WRITES);
        for place in 0..PLACES as u64 + 10 {
            recent.ended(write(clock.now(), place * 512, 512), clock.now());
        }
        assert_eq!(recent.places.len(), PLACES);
    }
}
