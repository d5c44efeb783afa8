//! How a run ends: the first who says so wins, and everyone hears of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::error::RunError;

/// How the guest's run ended when nothing went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestExit {
    /// The guest switched the machine off (ACPI's S5).
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// The guest wrote `value` to the debug exit: (value << 1) | 1, as QEMU would exit.
    Code(u32),
    /// [`StopHandle::stop`] was called.
    Stopped,
    /// The time allowed was over.
    TimedOut,
}

/// Ends a machine's run from outside.
#[derive(Clone, Debug)]
pub struct StopHandle(Arc<Control>);

impl StopHandle {
    /// Ends the run, or makes it end at once if it has not begun. Later ends change nothing.
    pub fn stop(&self) {
        self.0.end(Ok(GuestExit::Stopped));
    }
}

/// Shared by the CPUs' threads, the debug exit and whoever waits.
#[derive(Debug, Default)]
pub(crate) struct Control {
    ended: Mutex<Option<Result<GuestExit, RunError>>>,
    changed: Condvar,
    /// Set with `ended` and never cleared: what the CPUs look at after each exit.
    stopping: AtomicBool,
}

impl Control {
    pub(crate) fn stop_handle(self: &Arc<Self>) -> StopHandle {
        StopHandle(Arc::clone(self))
    }

    /// Ends the run; the first end counts.
    pub(crate) fn end(&self, end: Result<GuestExit, RunError>) {
        let mut ended = self.lock();
        if !self.stopping.swap(true, Ordering::SeqCst) {
            *ended = Some(end);
            self.changed.notify_all();
        }
    }

    /// Whether the run is ending.
    pub(crate) fn stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Whether the guest was made to stop: by its owner, or as the time allowed was over.
    pub(crate) fn cut_short(&self) -> bool {
        matches!(
            *self.lock(),
            Some(Ok(GuestExit::Stopped | GuestExit::TimedOut))
        )
    }

    /// Waits for the end; the time allowed may be it.
    pub(crate) fn wait(&self, timeout: Option<Duration>) {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut ended = self.lock();
        while !self.stopping() {
            ended = match deadline {
                None => self
                    .changed
                    .wait(ended)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        drop(ended);
                        self.end(Ok(GuestExit::TimedOut));
                        return;
                    }
                    let (guard, _) = self
                        .changed
                        .wait_timeout(ended, left)
                        .unwrap_or_else(PoisonError::into_inner);
                    guard
                }
            }
        }
    }

    /// Takes the end, after [`Self::wait`].
    pub(crate) fn take(&self) -> Result<GuestExit, RunError> {
        self.lock().take().unwrap_or(Ok(GuestExit::Stopped))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Result<GuestExit, RunError>>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_end_counts() {
        let control = Arc::new(Control::default());
        control.end(Ok(GuestExit::Code(33)));
        control.stop_handle().stop();
        control.wait(None);
        assert_eq!(control.take().expect("no error"), GuestExit::Code(33));
    }

    #[test]
    fn no_time_is_over_at_once() {
        let control = Control::default();
        control.wait(Some(Duration::ZERO));
        assert!(control.stopping());
        assert_eq!(control.take().expect("no error"), GuestExit::TimedOut);
    }
}
