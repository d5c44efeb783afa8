//! The Keep Alive timer (Base 3.9): a host that is silent for too long is taken for dead.

/// KAS: the timer's granularity, in units of 100 ms.
pub(super) const GRANULARITY: u16 = 1;

const GRANULARITY_MS: u64 = GRANULARITY as u64 * 100;
const NS_PER_MS: u64 = 1_000_000;

/// The timer. Only Keep Alive commands restart it (CTRATT has no TBKAS).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct KeepAlive {
    /// Milliseconds, a multiple of the granularity; 0: the timer does not run.
    timeout_ms: u64,
    deadline_ns: Option<u64>,
}

impl KeepAlive {
    /// Starts the timer with a timeout of KATO milliseconds, rounded up to the granularity; 0
    /// stops it.
    pub(super) fn set(&mut self, kato_ms: u32, now_ns: u64) {
        self.timeout_ms = u64::from(kato_ms).next_multiple_of(GRANULARITY_MS);
        self.deadline_ns = None;
        self.restart(now_ns);
    }

    /// The host has sent a Keep Alive command.
    pub(super) fn restart(&mut self, now_ns: u64) {
        let timeout_ns = self.timeout_ms * NS_PER_MS;
        self.deadline_ns = (timeout_ns != 0).then(|| now_ns.saturating_add(timeout_ns));
    }

    /// KATO: the timeout that is obeyed, in milliseconds.
    pub(super) fn kato_ms(&self) -> u32 {
        u32::try_from(self.timeout_ms).unwrap_or(u32::MAX)
    }

    /// When the host is taken for dead, if the timer runs.
    pub(super) const fn deadline_ns(&self) -> Option<u64> {
        self.deadline_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_rounded_up_and_zero_stops() {
        let mut timer = KeepAlive::default();
        assert_eq!((timer.kato_ms(), timer.deadline_ns()), (0, None));
        timer.restart(7);
        assert_eq!(timer.deadline_ns(), None, "a Keep Alive starts nothing");
        for (asked, obeyed) in [(1, 100), (100, 100), (101, 200)] {
            timer.set(asked, 7);
            assert_eq!(timer.kato_ms(), obeyed);
            let deadline = 7 + u64::from(obeyed) * NS_PER_MS;
            assert_eq!(timer.deadline_ns(), Some(deadline));
        }
        timer.restart(50);
        assert_eq!(timer.deadline_ns(), Some(50 + 200 * NS_PER_MS));
        timer.set(u32::MAX, u64::MAX);
        assert_eq!(timer.kato_ms(), u32::MAX);
        assert_eq!(timer.deadline_ns(), Some(u64::MAX));
        timer.set(0, 9);
        assert_eq!((timer.kato_ms(), timer.deadline_ns()), (0, None));
    }
}
