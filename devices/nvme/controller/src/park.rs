//! How a shard goes to sleep without missing what is rung for it.
//!
//! ```text
//!   ringer                              sleeper
//!   store what there is to do           parked = true
//!   fence                               fence
//!   if parked: parked = false, wake     look for something to do; sleep if there is nothing
//! ```
//!
//! The two fences have an order. If the ringer's is first, the sleeper sees what was stored; if the
//! sleeper's is first, the ringer sees that it is parked. So one of them acts. This holds for
//! doorbells that are trapped and for messages.
//!
//! A host with shadow doorbells is a ringer that rings only when the event index says so:
//!
//! ```text
//!   host                                sleeper
//!   store the tail in memory            parked = true, event index = last tail seen
//!   fence                               fence
//!   if the tail passes the event        look for something to do; sleep if there is nothing
//!   index: ring, as above, or by
//!   an eventfd
//! ```
//!
//! If the host's fence is first, the sleeper sees the tail. If the sleeper's is, the host sees an
//! event index that any other tail passes, and rings: an eventfd wakes whoever sleeps, and a
//! ringer's own fence comes after the sleeper's then, so that it sees `parked`. The tests run every
//! interleaving of both.

use std::sync::atomic::{AtomicBool, Ordering, fence};

/// An atomic flag and its fence, so that a model checker can put its own in.
pub(crate) trait Flag {
    fn new(value: bool) -> Self;
    fn load(&self) -> bool;
    fn store(&self, value: bool);
    fn take(&self) -> bool;
    fn fence();
}

impl Flag for AtomicBool {
    fn new(value: bool) -> Self {
        Self::new(value)
    }

    fn load(&self) -> bool {
        self.load(Ordering::Relaxed)
    }

    fn store(&self, value: bool) {
        self.store(value, Ordering::Relaxed);
    }

    fn take(&self) -> bool {
        self.swap(false, Ordering::AcqRel)
    }

    fn fence() {
        fence(Ordering::SeqCst);
    }
}

/// Whether a shard sleeps, or is about to.
#[derive(Debug)]
pub(crate) struct Park<F = AtomicBool> {
    parked: F,
}

impl<F: Flag> Park<F> {
    pub(crate) fn new() -> Self {
        Self {
            parked: F::new(false),
        }
    }

    /// Called after something to do was stored: whether the sleeper must be woken, by the caller
    /// and by no one else.
    #[must_use]
    pub(crate) fn ring(&self) -> bool {
        F::fence();
        self.parked.load() && self.parked.take()
    }

    /// Says that the sleeper is about to sleep. `arm` sets event indexes; after this the sleeper
    /// must look for something to do once more.
    pub(crate) fn park<R>(&self, arm: impl FnOnce() -> R) -> R {
        self.parked.store(true);
        let armed = arm();
        F::fence();
        armed
    }

    /// The sleeper is awake, or did not sleep.
    pub(crate) fn unpark(&self) {
        self.parked.store(false);
    }
}

#[cfg(test)]
#[path = "park_tests.rs"]
mod tests;
