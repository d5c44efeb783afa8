//! When a write began: what names it, and orders it among all others of its region.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Serialize, Serializer};

/// How many bits count within a run.
const TICKET: u32 = 40;

/// A moment in the life of a region: a run of `write`, and a ticket within it. A write is named
/// by the moment it began. 0 is the region's making; runs begin at 1.
///
/// One counter gives the tickets for beginnings and ends alike, so of two writes the first was
/// over before the other began exactly if its end is below the other's beginning.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Version(pub u64);

impl Version {
    /// The pages that [`crate::region::init`] writes.
    pub const INIT: Self = Self(0);
    /// The highest number that a run may have.
    pub const LAST_RUN: u32 = (1 << (u64::BITS - TICKET)) - 1;

    /// The moment a run begins, before its first ticket.
    #[must_use]
    pub const fn of_run(run: u32) -> Self {
        Self((run as u64) << TICKET)
    }

    /// The run it is of.
    #[must_use]
    pub const fn run(self) -> u64 {
        self.0 >> TICKET
    }

    /// The moment after which nothing of this one's run happens.
    #[must_use]
    pub const fn end_of_run(self) -> Self {
        Self((self.run() + 1) << TICKET)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.run(), self.0 & ((1 << TICKET) - 1))
    }
}

impl FromStr for Version {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (run, ticket) = text.split_once('.').ok_or(())?;
        let run: u32 = run.parse().map_err(drop)?;
        let ticket: u64 = ticket.parse().map_err(drop)?;
        if run > Self::LAST_RUN || ticket >> TICKET != 0 {
            return Err(());
        }
        Ok(Self(Self::of_run(run).0 | ticket))
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Gives the moments of a run, each later than those given before.
#[derive(Debug)]
pub struct Clock(AtomicU64);

impl Clock {
    /// The clock of a run.
    #[must_use]
    pub const fn new(run: u32) -> Self {
        Self(AtomicU64::new(Version::of_run(run).0))
    }

    /// The next moment.
    pub fn now(&self) -> Version {
        // Sequentially consistent: who saw a write end takes a later ticket for the next.
        Version(self.0.fetch_add(1, Ordering::SeqCst) + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::{Clock, Version};

    #[test]
    fn versions_are_read_as_they_are_written() {
        let clock = Clock::new(3);
        let (first, second) = (clock.now(), clock.now());
        assert!(Version::INIT < first && first < second && second < first.end_of_run());
        assert_eq!(first.to_string(), "3.1");
        assert_eq!(first.to_string().parse(), Ok(first));
        for wrong in ["", "3", "3.", ".1", "3.1x", "99999999.1", "1.9999999999999"] {
            assert_eq!(wrong.parse::<Version>(), Err(()), "{wrong}");
        }
    }
}
