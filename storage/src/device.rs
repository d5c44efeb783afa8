//! The contract between whoever submits requests and a backend.

use std::sync::Arc;

use thiserror::Error;

use crate::{
    GuestRam, IoError, Request,
    media::{MediaQueue, MediaStats},
    null::NullQueue,
    ram::RamQueue,
};

/// Bytes a queue moves for one request in one call: longer requests are continued at each
/// [`BlockQueue::reap`], so that no call takes longer than a few such steps.
pub const STEP_BYTES: u64 = 128 * 1024;

/// The size of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// Bytes of the device.
    pub bytes: u64,
}

/// What a device can do beyond reading and writing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capabilities {
    /// What is written can be read back (false for null).
    pub keeps_data: bool,
    /// A discarded range reads as zeroes.
    pub discard_zeroes: bool,
    /// Completed writes may be lost until a flush.
    pub volatile_cache: bool,
}

/// A block device, shared by its queues.
///
/// An implementer must not block in any method but `open_queue`, must not panic on any request,
/// and must count a write as one operation: on failure it says so, whatever part was done. It may
/// rely on each queue being used by one thread at a time.
pub trait BlockDevice: Send + Sync {
    /// The device's size; constant.
    fn geometry(&self) -> Geometry;

    /// What the device can do; constant.
    fn capabilities(&self) -> Capabilities;

    /// Opens a queue for one thread, to hold up to `depth` requests.
    ///
    /// # Errors
    /// [`OpenError`] when the backend has no means for another queue.
    fn open_queue(&self, depth: usize) -> Result<Queue, OpenError>;

    /// The unit that writes should cover whole, in bytes, where there is one: a drive's
    /// indirection unit. Constant.
    fn write_unit(&self) -> Option<u32> {
        None
    }

    /// What the media was asked to do so far, where there is a model of it.
    fn media(&self) -> Option<MediaStats> {
        None
    }
}

/// A queue could not be opened.
#[derive(Debug, Error)]
#[error("no queue on {device}: {reason}")]
pub struct OpenError {
    /// What was to be opened.
    pub device: &'static str,
    /// Why it was not.
    pub reason: String,
}

/// What became of a submitted request.
#[derive(Debug)]
pub enum Submitted {
    /// It is finished and comes back with its result.
    Done(Box<Request>, Result<(), IoError>),
    /// The queue keeps it; [`BlockQueue::reap`] will give it back.
    Pending,
    /// There is no room now; try again after a reap.
    Full(Box<Request>),
}

/// A request that was pending and its result.
pub type Reaped = (Box<Request>, Result<(), IoError>);

/// One thread's way to a device.
///
/// An implementer must give every request back exactly once; must touch only the guest memory its
/// segments name, within the snapshot it was submitted with; must keep that snapshot alive
/// (`Request::memory`) while it holds the request; must not move more than a few
/// [`STEP_BYTES`] in one call; must move the bytes `progress..end` of a request and no others; must
/// fail a write whose memory is not mapped before it changes anything. It may rely on requests
/// lying within the geometry and on segments that add up to `len`.
pub trait BlockQueue: Send {
    /// Starts a request, or finishes it.
    fn submit(&mut self, request: Box<Request>, memory: &Arc<GuestRam>) -> Submitted;

    /// Sends what `submit` gathered, where the backend batches.
    fn kick(&mut self) {}

    /// Continues pending requests and appends the finished ones to `done`. Never waits.
    fn reap(&mut self, done: &mut Vec<Reaped>);

    /// Gives up what is pending, for guest memory may not be used any more. [`reap`](Self::reap)
    /// gives those requests back, as [`IoError::Cancelled`] if not all of them was done; what cannot
    /// be stopped comes back when it has ended.
    fn cancel(&mut self) {}

    /// Requests held.
    fn pending(&self) -> usize;

    /// Whether `reap` would make progress now without anything happening outside.
    fn runnable(&self) -> bool {
        self.pending() > 0
    }

    /// Says whom to tell when [`runnable`](Self::runnable) turns true by something that happens
    /// outside. `false`: nobody is told, and whoever has the queue looks from time to time.
    fn set_notify(&mut self, notify: Arc<dyn Notify>) -> bool {
        let _ = notify;
        false
    }
}

/// Hears that a queue has something to reap.
///
/// Called by any thread, after what there is to reap was stored: an implementer must not block,
/// and must not call the queue.
pub trait Notify: Send + Sync {
    /// Has the queue's owner poll soon.
    fn notify(&self);
}

/// A queue of any backend; the ones on the hot path are dispatched by enum.
pub enum Queue {
    /// Memory.
    Ram(RamQueue),
    /// Nothing.
    Null(NullQueue),
    /// Any of them behind a model of its media.
    Media(Box<MediaQueue>),
    /// Any other backend.
    Other(Box<dyn BlockQueue>),
}

macro_rules! each {
    ($self:expr, $queue:ident => $call:expr) => {
        match $self {
            Queue::Ram($queue) => $call,
            Queue::Null($queue) => $call,
            Queue::Media($queue) => $call,
            Queue::Other($queue) => $call,
        }
    };
}

impl BlockQueue for Queue {
    fn submit(&mut self, request: Box<Request>, memory: &Arc<GuestRam>) -> Submitted {
        each!(self, queue => queue.submit(request, memory))
    }

    fn kick(&mut self) {
        each!(self, queue => queue.kick());
    }

    fn reap(&mut self, done: &mut Vec<Reaped>) {
        each!(self, queue => queue.reap(done));
    }

    fn cancel(&mut self) {
        each!(self, queue => queue.cancel());
    }

    fn pending(&self) -> usize {
        each!(self, queue => queue.pending())
    }

    fn runnable(&self) -> bool {
        each!(self, queue => queue.runnable())
    }

    fn set_notify(&mut self, notify: Arc<dyn Notify>) -> bool {
        each!(self, queue => queue.set_notify(notify))
    }
}
