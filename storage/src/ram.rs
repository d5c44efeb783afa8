//! A device in memory: a shared anonymous file (memfd), whose pages are taken when first written.

use std::{collections::VecDeque, fs::File, io, sync::Arc};

use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, memfd_create};
use thiserror::Error;
use vm_memory::{FileOffset, MmapRegion, VolatileMemory, VolatileSlice};

use crate::{
    BlockDevice, BlockQueue, Capabilities, Geometry, GuestRam, IoError, Op, OpenError, Queue,
    Reaped, Request, STEP_BYTES, Submitted,
    request::{move_mapped, zero_mapped},
};

/// Bytes discarded in one call: giving back 512 pages takes about as long as copying
/// [`STEP_BYTES`].
const DISCARD_STEP: u64 = 2 << 20;

/// A RAM disk.
#[derive(Debug)]
pub struct Ram {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    map: MmapRegion<()>,
    file: Arc<File>,
    bytes: u64,
}

/// A RAM disk could not be made.
#[derive(Debug, Error)]
pub enum RamError {
    /// The size is not one a RAM disk can have.
    #[error("a RAM disk of {bytes} bytes: the size must be at least 512 and fit the address space")]
    Size {
        /// What was asked for.
        bytes: u64,
    },
    /// The kernel refused the memory.
    #[error("a RAM disk of {bytes} bytes cannot be had; give a smaller size")]
    Memory {
        /// What was asked for.
        bytes: u64,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Ram {
    /// A RAM disk of `bytes` bytes, all zero. Takes address space now and memory as it is written.
    ///
    /// # Errors
    /// [`RamError`] naming the size.
    pub fn new(bytes: u64) -> Result<Self, RamError> {
        let size = usize::try_from(bytes)
            .ok()
            .filter(|&size| size >= 512 && isize::try_from(size).is_ok())
            .ok_or(RamError::Size { bytes })?;
        let fail = |source: io::Error| RamError::Memory { bytes, source };
        let fd = memfd_create(c"ferrite-ram", MemfdFlags::CLOEXEC).map_err(|e| fail(e.into()))?;
        let file = File::from(fd);
        file.set_len(bytes).map_err(fail)?;
        let offset = FileOffset::new(file, 0);
        let file = offset.arc().clone();
        let map = MmapRegion::from_file(offset, size)
            .map_err(|e| fail(io::Error::other(e.to_string())))?;
        Ok(Self {
            shared: Arc::new(Shared { map, file, bytes }),
        })
    }

    /// The disk's bytes, as its queues move them: what is done to them here is seen by no queue's
    /// owner but in the data.
    #[must_use]
    pub fn memory(&self) -> VolatileSlice<'_, ()> {
        self.shared.map.as_volatile_slice()
    }
}

impl BlockDevice for Ram {
    fn geometry(&self) -> Geometry {
        Geometry {
            bytes: self.shared.bytes,
        }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            keeps_data: true,
            discard_zeroes: true,
            volatile_cache: false,
        }
    }

    fn open_queue(&self, depth: usize) -> Result<Queue, OpenError> {
        Ok(Queue::Ram(RamQueue {
            shared: self.shared.clone(),
            pending: VecDeque::with_capacity(depth),
            depth,
        }))
    }
}

impl Shared {
    /// Does up to one step of `request`; `true` when that was the rest.
    fn step(&self, request: &mut Request, memory: &GuestRam) -> Result<bool, IoError> {
        let from = request.progress;
        let end = request.len.min(request.end);
        let to = match request.whole {
            true => end,
            false => end.min(from.saturating_add(STEP_BYTES)),
        };
        match request.op {
            Op::Read | Op::Write | Op::Compare => {
                move_mapped(&self.map, request, memory, from, to)?
            }
            Op::Flush | Op::Verify => return Ok(true),
            Op::WriteZeroes => {
                zero_mapped(&self.map, request.offset + from, to.saturating_sub(from))?;
            }
            Op::Discard => {
                let to = end.min(from.saturating_add(DISCARD_STEP));
                self.punch(request.offset + from, to.saturating_sub(from))?;
                request.progress = to;
                return Ok(to >= end);
            }
        }
        request.progress = to;
        Ok(to >= end)
    }

    /// Gives a range's memory back; the kernel zeroes the pages it does not cover whole.
    fn punch(&self, offset: u64, len: u64) -> Result<(), IoError> {
        if len == 0 {
            return Ok(());
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&self.file, flags, offset, len).map_err(|e| IoError::Backend {
            errno: e.raw_os_error(),
        })
    }
}

/// A queue of [`Ram`]. Requests of up to [`STEP_BYTES`] are done at once.
#[derive(Debug)]
pub struct RamQueue {
    shared: Arc<Shared>,
    /// Long requests, continued in turn.
    pending: VecDeque<Box<Request>>,
    depth: usize,
}

impl BlockQueue for RamQueue {
    fn submit(&mut self, mut request: Box<Request>, memory: &Arc<GuestRam>) -> Submitted {
        if let Err(error) = request.end_within(self.shared.bytes) {
            return Submitted::Done(request, Err(error));
        }
        if request.len > STEP_BYTES && self.pending.len() >= self.depth {
            return Submitted::Full(request);
        }
        if request.op == Op::Write
            && let Err(error) = request.check_mapped(memory)
        {
            return Submitted::Done(request, Err(error));
        }
        match self.shared.step(&mut request, memory) {
            Ok(true) => Submitted::Done(request, Ok(())),
            Err(error) => Submitted::Done(request, Err(error)),
            Ok(false) => {
                request.memory = Some(memory.clone());
                self.pending.push_back(request);
                Submitted::Pending
            }
        }
    }

    fn reap(&mut self, done: &mut Vec<Reaped>) {
        let Some(mut request) = self.pending.pop_front() else {
            return;
        };
        let Some(memory) = request.memory.take() else {
            // Cancelled.
            done.push((request, Err(IoError::Cancelled)));
            return;
        };
        match self.shared.step(&mut request, &memory) {
            Ok(true) => done.push((request, Ok(()))),
            Err(error) => done.push((request, Err(error))),
            Ok(false) => {
                request.memory = Some(memory);
                self.pending.push_back(request);
            }
        }
    }

    /// Zeroes are written to the end: that is a write, which may be promised whole, and needs no
    /// guest memory.
    fn cancel(&mut self) {
        let ends = |op| op != Op::WriteZeroes;
        for request in self.pending.iter_mut().filter(|request| ends(request.op)) {
            request.memory = None;
        }
    }

    fn pending(&self) -> usize {
        self.pending.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn obeys_the_contract() {
        crate::conformance::run(&|bytes| Arc::new(Ram::new(bytes).expect("small")));
    }

    #[test]
    fn impossible_sizes_are_refused_by_value() {
        for bytes in [0, 511, u64::MAX] {
            let error = Ram::new(bytes).expect_err("refused").to_string();
            assert!(error.contains(&bytes.to_string()), "{error}");
        }
    }
}
