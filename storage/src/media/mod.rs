//! What a drive does between its interface and its flash, as far as a host can notice it.
//!
//! A [`Media`] wraps a [`BlockDevice`] and is one. So far it has the indirection unit: the grain
//! in which a drive maps blocks to flash. A write that does not cover whole units costs the flash
//! whole units all the same, and a read of what it does not cover. Above memory that can be
//! written by bytes this is accounting: no data moves twice.

mod counters;

use std::sync::{Arc, Mutex, PoisonError};

use thiserror::Error;

use self::counters::Counters;
pub use self::counters::MediaStats;
use crate::{
    BlockDevice, BlockQueue, Capabilities, Geometry, GuestRam, IoError, Notify, Op, OpenError,
    Queue, Reaped, Request, Submitted,
};

/// The smallest and largest indirection unit, in bytes.
pub const UNIT_BYTES: std::ops::RangeInclusive<u32> = 512..=1 << 20;

/// The media of a drive around a device that keeps the data.
pub struct Media {
    device: Arc<dyn BlockDevice>,
    unit: u32,
    /// One for each queue that was opened.
    counters: Mutex<Vec<Arc<Counters>>>,
}

/// An indirection unit that cannot be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error(
    "an indirection unit of {unit} bytes: it is a power of two from {} to {}",
    UNIT_BYTES.start(),
    UNIT_BYTES.end()
)]
pub struct UnitError {
    /// Bytes that were asked for.
    pub unit: u32,
}

impl Media {
    /// Media with an indirection unit of `unit` bytes.
    ///
    /// # Errors
    /// [`UnitError`] when the unit is no power of two, or out of [`UNIT_BYTES`].
    pub fn new(device: Arc<dyn BlockDevice>, unit: u32) -> Result<Self, UnitError> {
        if !unit.is_power_of_two() || !UNIT_BYTES.contains(&unit) {
            return Err(UnitError { unit });
        }
        Ok(Self {
            device,
            unit,
            counters: Mutex::new(Vec::new()),
        })
    }
}

impl BlockDevice for Media {
    fn geometry(&self) -> Geometry {
        self.device.geometry()
    }

    fn capabilities(&self) -> Capabilities {
        self.device.capabilities()
    }

    fn open_queue(&self, depth: usize) -> Result<Queue, OpenError> {
        let inner = self.device.open_queue(depth)?;
        let counters = Arc::new(Counters::default());
        let mut all = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(counters.clone());
        Ok(Queue::Media(Box::new(MediaQueue {
            inner,
            capacity: self.device.geometry().bytes,
            unit: u64::from(self.unit),
            counters,
        })))
    }

    fn write_unit(&self) -> Option<u32> {
        Some(self.unit)
    }

    fn media(&self) -> Option<MediaStats> {
        let all = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        Some(MediaStats::sum(&all))
    }
}

/// A queue of [`Media`].
pub struct MediaQueue {
    inner: Queue,
    /// Bytes of the device.
    capacity: u64,
    unit: u64,
    counters: Arc<Counters>,
}

impl BlockQueue for MediaQueue {
    fn submit(&mut self, mut request: Box<Request>, memory: &Arc<GuestRam>) -> Submitted {
        // Once an operation, in however many parts or tries it is submitted.
        let first = !std::mem::replace(&mut request.counted, true);
        let (op, offset, len) = (request.op, request.offset, request.len);
        let counts = first && len > 0 && request.end_within(self.capacity).is_ok();
        let submitted = self.inner.submit(request, memory);
        if let Submitted::Full(mut request) = submitted {
            request.counted = !first;
            return Submitted::Full(request);
        }
        // What failed at once has cost nothing, unless it was read to find that it differs.
        let failed = match submitted {
            Submitted::Done(_, Err(error)) => error != IoError::Miscompare,
            _ => false,
        };
        if counts && !failed {
            match op {
                Op::Write | Op::WriteZeroes => self.counters.write(self.unit, offset, len),
                Op::Read | Op::Compare | Op::Verify => self.counters.read(self.unit, offset, len),
                Op::Flush | Op::Discard => {}
            }
        }
        submitted
    }

    fn kick(&mut self) {
        self.inner.kick();
    }

    fn reap(&mut self, done: &mut Vec<Reaped>) {
        self.inner.reap(done);
    }

    fn cancel(&mut self) {
        self.inner.cancel();
    }

    fn pending(&self) -> usize {
        self.inner.pending()
    }

    fn runnable(&self) -> bool {
        self.inner.runnable()
    }

    fn set_notify(&mut self, notify: Arc<dyn Notify>) -> bool {
        self.inner.set_notify(notify)
    }
}

#[cfg(test)]
mod tests;
