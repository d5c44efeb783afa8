//! Where tests have system calls fail, as a disk would have them.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use rustix::io::Errno;

/// What the next calls do before they reach the kernel; by default nothing.
#[derive(Debug, Default)]
pub(super) struct Seam {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// What `fdatasync` and durable writes are told, once each.
    syncs: VecDeque<Errno>,
    writes: VecDeque<Errno>,
    /// Whoever is told something is kept from saying so.
    held: bool,
    /// How many have been told, and how many syncs there were.
    told: usize,
    synced: usize,
}

impl Seam {
    /// The next `fdatasync` fails.
    pub(super) fn fail_sync(&self, error: Errno) {
        self.state().syncs.push_back(error);
    }

    /// The next durable write fails before anything is written.
    pub(super) fn fail_write(&self, error: Errno) {
        self.state().writes.push_back(error);
    }

    /// Keeps whoever is told of a failure within its call, or lets it go.
    pub(super) fn hold(&self, held: bool) {
        self.state().held = held;
        self.changed.notify_all();
    }

    /// Waits until somebody was told.
    pub(super) fn wait_told(&self) {
        let mut state = self.state();
        while state.told == 0 {
            state = self.wait(state);
        }
    }

    /// How often `fdatasync` was called.
    pub(super) fn synced(&self) -> usize {
        self.state().synced
    }

    pub(super) fn sync(&self) -> Result<(), Errno> {
        let mut state = self.state();
        state.synced += 1;
        let error = state.syncs.pop_front();
        self.tell(state, error)
    }

    pub(super) fn write_through(&self) -> Result<(), Errno> {
        let mut state = self.state();
        let error = state.writes.pop_front();
        self.tell(state, error)
    }

    fn tell(&self, mut state: MutexGuard<'_, State>, error: Option<Errno>) -> Result<(), Errno> {
        let Some(error) = error else { return Ok(()) };
        state.told += 1;
        self.changed.notify_all();
        while state.held {
            state = self.wait(state);
        }
        Err(error)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'s>(&self, state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        self.changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner)
    }
}
