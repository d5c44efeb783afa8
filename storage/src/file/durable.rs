//! What can be made durable, when the kernel tells a lost write once.
//!
//! A write-back that fails is told to the next `fdatasync`, or durable write, of the open file, and
//! to no other: one that ends at the same time says that all is well, whatever it was to cover. So
//! whoever succeeds waits for the others that were under way, and looks at what they were told.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

/// The system calls under way that may be told of a lost write.
#[derive(Debug, Default)]
pub(super) struct Durable {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// A write that had completed may be lost: nothing can be made durable any more.
    lost: bool,
    /// The number of the next call.
    next: u64,
    /// The numbers of those under way: as many as there are threads, at most.
    running: Vec<u64>,
}

/// Why such a call failed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failed {
    pub(super) error: Errno,
    /// It may have been about an earlier write.
    pub(super) lost: bool,
}

impl Durable {
    /// Makes such a call. It must not panic, and must not wait for another.
    ///
    /// # Errors
    /// The call's own, or `EIO` when a write was lost before the call or while it was under way.
    pub(super) fn call<T>(&self, call: impl FnOnce() -> Result<T, Failed>) -> Result<T, Errno> {
        let mut state = self.state();
        if state.lost {
            return Err(Errno::IO);
        }
        let own = state.next;
        state.next += 1;
        state.running.push(own);
        drop(state);
        let result = call();
        let mut state = self.state();
        state.running.retain(|&number| number != own);
        state.lost |= result.as_ref().is_err_and(|failed| failed.lost);
        self.ended.notify_all();
        let value = result.map_err(|failed| failed.error)?;
        // Later ones cannot have taken what was to be told to this one.
        let last = state.next;
        while !state.lost && state.running.iter().any(|&number| number < last) {
            state = self
                .ended
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        match state.lost {
            true => Err(Errno::IO),
            false => Ok(value),
        }
    }

    /// Nothing under this lock can panic half way.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
