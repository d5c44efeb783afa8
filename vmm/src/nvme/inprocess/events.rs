//! Doorbells whose writes only wake a shard, as KVM's ioeventfds do: the value goes nowhere.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use nvme::{DoorbellWakes, Wake};

/// The doorbells, and whom each wakes.
pub(super) struct EventDoorbells {
    /// The shard of each, by offset in BAR0.
    attached: Mutex<BTreeMap<u64, u16>>,
    wakers: Vec<Arc<dyn Wake>>,
}

impl EventDoorbells {
    /// None yet; `wakers` are those of shard 0 and the next ones.
    pub(super) const fn new(wakers: Vec<Arc<dyn Wake>>) -> Self {
        let attached = Mutex::new(BTreeMap::new());
        Self { attached, wakers }
    }

    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    /// Takes a write at `offset`, if it is such a doorbell's.
    pub(super) fn take(&self, offset: u64) -> bool {
        let shard = self.lock().get(&offset).copied();
        let waker = shard.and_then(|shard| self.wakers.get(usize::from(shard)));
        waker.map(|waker| waker.wake()).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, u16>> {
        self.attached.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DoorbellWakes for EventDoorbells {
    fn attach(&self, offset: u64, shard: u16) {
        self.lock().insert(offset, shard);
    }

    fn detach(&self, offset: u64) {
        self.lock().remove(&offset);
    }
}

/// A front end that takes every doorbell's writes to the controller.
pub(super) struct NoEvents;

impl DoorbellWakes for NoEvents {
    fn attach(&self, _offset: u64, _shard: u16) {}

    fn detach(&self, _offset: u64) {}
}
