//! The Timestamp feature's clock (Base 5.1.25.1): it runs on the time that polls are given.

use nvme_spec::feature::{TIMESTAMP_FROM_HOST, TIMESTAMP_FROM_RESET, Timestamp};

const NS_PER_MS: u64 = 1_000_000;
/// Timestamps are modulo 2^48.
const MODULUS: u64 = 1 << 48;

/// The clock.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clock {
    /// Milliseconds at `since_ns`, below 2^48.
    base_ms: u64,
    /// When it was set, or the controller was reset; `None` before anyone said what time it is.
    since_ns: Option<u64>,
    by_host: bool,
}

impl Clock {
    /// Starts at zero, as a reset does, unless it runs.
    pub(super) const fn start(&mut self, now_ns: u64) {
        if self.since_ns.is_none() {
            self.since_ns = Some(now_ns);
        }
    }

    /// A host sets it. What else is in `asked` means something in Get Features alone.
    pub(super) const fn set(&mut self, asked: Timestamp, now_ns: u64) {
        self.base_ms = asked.milliseconds();
        self.since_ns = Some(now_ns);
        self.by_host = true;
    }

    /// What it shows. It never stands still, so Synch is 0.
    pub(super) fn read(&self, now_ns: u64) -> Timestamp {
        let since_ns = self.since_ns.unwrap_or(now_ns);
        let elapsed_ms = now_ns.saturating_sub(since_ns) / NS_PER_MS;
        let origin = if self.by_host {
            TIMESTAMP_FROM_HOST
        } else {
            TIMESTAMP_FROM_RESET
        };
        Timestamp::new()
            .with_milliseconds(self.base_ms.wrapping_add(elapsed_ms) % MODULUS)
            .with_origin(origin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_from_the_reset_until_it_is_set_and_wraps_at_48_bits() {
        let mut clock = Clock::default();
        assert_eq!(u64::from(clock.read(5 * NS_PER_MS)), 0);
        clock.start(5 * NS_PER_MS);
        clock.start(6 * NS_PER_MS);
        let shown = clock.read(8 * NS_PER_MS - 1);
        assert_eq!((shown.milliseconds(), shown.origin()), (2, 0));
        let last = Timestamp::new().with_milliseconds(MODULUS - 1);
        clock.set(last.with_synch(true).with_origin(7), 9 * NS_PER_MS);
        let shown = clock.read(9 * NS_PER_MS);
        assert_eq!(shown, last.with_origin(1));
        assert_eq!(clock.read(11 * NS_PER_MS).milliseconds(), 1);
        assert_eq!(clock.read(u64::MAX).origin(), 1);
    }
}
