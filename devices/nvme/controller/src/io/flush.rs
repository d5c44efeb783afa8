//! Flushes that no command asked for: at a shutdown, and when the write cache is switched off.
//!
//! Each shard flushes behind its own commands, so together they cover all that was completed. They
//! touch no guest memory, and a reset does not wait for them.

use storage::{BlockQueue, IoError, Op, Request, Submitted};

use super::IoEngine;
use crate::{ids::AdminTicket, work::Work};

/// Tags of these flushes; below are the slots' numbers.
const OWN: u64 = 1 << 63;

/// Who waits for such a flush.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FlushFor {
    /// The shard, which is to say that it is ready for a shutdown.
    Shutdown,
    /// An admin command.
    Command(AdminTicket),
}

/// The flush of one namespace after the other.
#[derive(Debug)]
pub(super) struct OwnFlush {
    whom: FlushFor,
    /// Commands with a lower number are waited for.
    after: u64,
    /// The namespace, as an index, that is being flushed or is next.
    namespace: usize,
    /// The tag of the request that the backend has.
    with_backend: Option<u64>,
    /// The backend had no room.
    full: bool,
    result: Result<(), IoError>,
}

impl IoEngine {
    /// Begins to flush all namespaces that have a volatile cache, once the commands that are in
    /// flight now are done.
    pub(crate) fn flush(&mut self, whom: FlushFor) {
        self.flushes.push_back(OwnFlush {
            whom,
            after: self.begun,
            namespace: 0,
            with_backend: None,
            full: false,
            result: Ok(()),
        });
    }

    /// Goes on with it as far as that is possible now; whom there is to tell, and how it went.
    pub(crate) fn flushed(&mut self, work: &Work<'_>) -> Option<(FlushFor, Result<(), IoError>)> {
        let flush = self.flushes.front_mut()?;
        let mut slots = self.slots.iter();
        if flush.with_backend.is_some()
            || slots.any(|slot| slot.pending.is_some() && slot.begun < flush.after)
        {
            return None;
        }
        let namespaces = work.shared.namespaces.iter().zip(&mut self.queues);
        for (namespace, queue) in namespaces.skip(flush.namespace) {
            if namespace.device.capabilities().volatile_cache {
                self.own_tag = (self.own_tag + 1) | OWN;
                let mut request = Box::new(Request::default());
                request.reset(self.own_tag, Op::Flush, 0, 0);
                match queue.submit(request, work.memory) {
                    Submitted::Done(_, result) => flush.result = flush.result.and(result),
                    Submitted::Pending => {
                        queue.kick();
                        flush.with_backend = Some(self.own_tag);
                        return None;
                    }
                    Submitted::Full(_) => {
                        flush.full = true;
                        return None;
                    }
                }
            }
            flush.full = false;
            flush.namespace += 1;
        }
        let flush = self.flushes.pop_front()?;
        Some((flush.whom, flush.result))
    }

    /// Whether a flush is under way or waits.
    pub(crate) fn is_flushing(&self) -> bool {
        !self.flushes.is_empty()
    }

    /// Whether nothing else is with the backends: then guest memory is not needed.
    pub(crate) fn only_flushes(&self) -> bool {
        self.is_idle() && self.is_flushing()
    }

    /// Whether a flush waits for a backend's room.
    pub(super) fn flush_waits(&self) -> bool {
        self.flushes.front().is_some_and(|flush| flush.full)
    }

    /// A reset: nobody waits for them any more. What a backend has comes back some time.
    pub(crate) fn forget_flushes(&mut self) {
        self.flushes.clear();
    }

    /// Whether a request that came back was such a flush, maybe one that was forgotten.
    pub(super) fn take_flush(&mut self, tag: u64, result: Result<(), IoError>) -> bool {
        let flush = self.flushes.front_mut();
        if let Some(flush) = flush.filter(|flush| flush.with_backend == Some(tag)) {
            flush.with_backend = None;
            flush.namespace += 1;
            flush.result = flush.result.and(result);
        }
        tag >= OWN
    }
}
