//! A device that keeps nothing: the floor under every benchmark.

use std::sync::Arc;

use crate::{
    BlockDevice, BlockQueue, Capabilities, Geometry, GuestRam, OpenError, Queue, Reaped, Request,
    Submitted,
};

/// A device of any size that drops what is written and leaves a read's memory as it is.
#[derive(Clone, Copy, Debug)]
pub struct Null {
    bytes: u64,
}

impl Null {
    /// A null device of `bytes` bytes.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self { bytes }
    }
}

impl BlockDevice for Null {
    fn geometry(&self) -> Geometry {
        Geometry { bytes: self.bytes }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            keeps_data: false,
            discard_zeroes: false,
            volatile_cache: false,
        }
    }

    fn open_queue(&self, _depth: usize) -> Result<Queue, OpenError> {
        Ok(Queue::Null(NullQueue { bytes: self.bytes }))
    }
}

/// A queue of [`Null`].
#[derive(Debug)]
pub struct NullQueue {
    bytes: u64,
}

impl BlockQueue for NullQueue {
    fn submit(&mut self, request: Box<Request>, _memory: &Arc<GuestRam>) -> Submitted {
        let result = request.end_within(self.bytes).map(|_| ());
        Submitted::Done(request, result)
    }

    fn reap(&mut self, _done: &mut Vec<Reaped>) {}

    fn pending(&self) -> usize {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn obeys_the_contract() {
        crate::conformance::run(&|bytes| Arc::new(Null::new(bytes)));
    }
}
