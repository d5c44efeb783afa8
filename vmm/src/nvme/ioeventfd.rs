//! Shadow doorbells as KVM's ioeventfds: a ring wakes the worker without an exit.

use std::{io, sync::Arc};

use nvme::DoorbellWakes;

use super::Workers;
use crate::machine::{BarEvents, Event};

/// Doorbells in the register BAR whose writes wake workers.
pub struct Ioeventfds {
    bar: Arc<BarEvents>,
    /// Each shard's worker.
    workers: Vec<Arc<Event>>,
}

impl Ioeventfds {
    /// Doorbells in `bar`, the function's [`REGISTER_BAR`](super::REGISTER_BAR).
    ///
    /// # Errors
    /// When the host has no descriptors left.
    pub fn new(bar: Arc<BarEvents>, workers: &Workers) -> io::Result<Self> {
        let workers = workers.wake_fds().map(|fd| Ok(Arc::new(fd?.into())));
        Ok(Self {
            bar,
            workers: workers.collect::<io::Result<_>>()?,
        })
    }
}

impl DoorbellWakes for Ioeventfds {
    fn attach(&self, offset: u64, shard: u16) {
        if let Some(worker) = self.workers.get(usize::from(shard)) {
            self.bar.attach(offset, worker);
        }
    }

    fn detach(&self, offset: u64) {
        self.bar.detach(offset);
    }
}
