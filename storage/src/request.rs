//! One operation on a block device.

use std::sync::Arc;

use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, VolatileMemory, VolatileSlice};

use crate::GuestRam;

/// A contiguous piece of guest memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Guest physical address of the first byte.
    pub addr: u64,
    /// Bytes.
    pub len: u32,
}

/// What a request does with its range.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Op {
    /// Device to guest memory.
    Read,
    /// Guest memory to device.
    Write,
    /// Every write completed before this one was submitted, on any queue, becomes durable.
    #[default]
    Flush,
    /// Guest memory and device hold the same bytes, or [`IoError::Miscompare`]. Nothing changes.
    Compare,
    /// The range can be read. No data moves.
    Verify,
    /// The range reads as zeroes afterwards, stored as the device likes.
    WriteZeroes,
    /// The range's content is no longer needed; it reads as zeroes if
    /// [`Capabilities::discard_zeroes`](crate::Capabilities::discard_zeroes) says so.
    Discard,
}

/// One operation, owning all it needs. Kept in a pool and reused by its submitter.
///
/// One host command is one request all the way down, never split above the backend.
#[derive(Debug, Default)]
pub struct Request {
    /// The submitter's; a backend returns it unchanged.
    pub tag: u64,
    /// What to do.
    pub op: Op,
    /// First byte on the device.
    pub offset: u64,
    /// Bytes on the device; for reads, writes and compares also the sum of the segments.
    pub len: u64,
    /// What is written, zeroed or discarded is durable before the request completes; so is what was
    /// read, compared or verified.
    pub fua: bool,
    /// The guest memory of a read, write or compare, in order.
    pub segments: Vec<Segment>,
    /// The first byte of the request that is still to be moved: a backend that works in steps
    /// keeps its place here. Where it begins is the submitter's choice.
    pub progress: u64,
    /// The byte of the request that this submission ends before; `len` unless the submitter has
    /// a request done in parts, so that others see it half done.
    pub end: u64,
    /// A write that a reset or an error finds done or not begun: the guest's data is in hand before
    /// the first byte of the device changes, or it is moved in one step.
    pub whole: bool,
    /// A layer that counts operations has counted this one, in whichever part it came first.
    pub counted: bool,
    /// Guest memory kept alive while the request is pending; set by a backend that keeps it.
    pub memory: Option<Arc<GuestRam>>,
}

impl Request {
    /// A request with room for `segments` segments.
    #[must_use]
    pub fn with_capacity(segments: usize) -> Self {
        Self {
            segments: Vec::with_capacity(segments),
            ..Self::default()
        }
    }

    /// Makes this a fresh request, keeping its segment storage.
    pub fn reset(&mut self, tag: u64, op: Op, offset: u64, len: u64) {
        self.tag = tag;
        self.op = op;
        self.offset = offset;
        self.len = len;
        self.fua = false;
        self.segments.clear();
        self.progress = 0;
        self.end = len;
        self.whole = false;
        self.counted = false;
        self.memory = None;
    }

    /// Appends guest memory, joining it to the last segment where they touch.
    pub fn push_segment(&mut self, addr: u64, len: u32) {
        if let Some(last) = self.segments.last_mut()
            && last.addr.checked_add(u64::from(last.len)) == Some(addr)
            && let Some(joined) = last.len.checked_add(len)
        {
            last.len = joined;
            return;
        }
        self.segments.push(Segment { addr, len });
    }

    /// The last byte's offset plus one, or `OutOfRange` beyond `capacity` bytes.
    ///
    /// # Errors
    /// [`IoError::OutOfRange`] naming the range and the capacity.
    pub fn end_within(&self, capacity: u64) -> Result<u64, IoError> {
        self.offset
            .checked_add(self.len)
            .filter(|&end| end <= capacity)
            .ok_or(IoError::OutOfRange {
                offset: self.offset,
                len: self.len,
                capacity,
            })
    }

    /// Whether all its guest memory is mapped: a write asks before the first byte is moved, so
    /// that it fails whole.
    ///
    /// # Errors
    /// [`IoError::GuestMemory`] naming the first segment that is not.
    pub fn check_mapped(&self, memory: &GuestRam) -> Result<(), IoError> {
        let unmapped = self.segments.iter().find(|segment| {
            let len = usize::try_from(segment.len).unwrap_or(usize::MAX);
            !memory.check_range(GuestAddress(segment.addr), len)
        });
        unmapped.map_or(Ok(()), |&Segment { addr, len }| {
            Err(IoError::GuestMemory {
                addr,
                len: len.into(),
            })
        })
    }

    /// Calls `piece` with the guest memory of bytes `from..to` of the request, in order, and with
    /// the position of each piece within the request.
    ///
    /// # Errors
    /// [`IoError::GuestMemory`] when a segment is not mapped, or the segments are too short.
    pub fn for_each_slice(
        &self,
        memory: &GuestRam,
        from: u64,
        to: u64,
        mut piece: impl FnMut(u64, VolatileSlice<'_, ()>) -> Result<(), IoError>,
    ) -> Result<(), IoError> {
        let mut start = 0u64;
        for segment in &self.segments {
            let end = start + u64::from(segment.len);
            let (low, high) = (start.max(from), end.min(to));
            if low < high {
                let addr = segment.addr.wrapping_add(low - start);
                slices(memory, addr, high - low, |at, slice| piece(low + at, slice))?;
            }
            if end >= to {
                return Ok(());
            }
            start = end;
        }
        Err(IoError::GuestMemory {
            addr: start,
            len: to.saturating_sub(start),
        })
    }
}

/// Calls `piece` for each region that `addr..addr + len` touches.
fn slices(
    memory: &GuestRam,
    addr: u64,
    len: u64,
    mut piece: impl FnMut(u64, VolatileSlice<'_, ()>) -> Result<(), IoError>,
) -> Result<(), IoError> {
    let unmapped = |_| IoError::GuestMemory { addr, len };
    let count = usize::try_from(len).map_err(|_| IoError::GuestMemory { addr, len })?;
    if let Ok(slice) = memory.get_slice(GuestAddress(addr), count) {
        return piece(0, slice);
    }
    let mut at = 0u64;
    for slice in GuestMemoryBackend::get_slices(memory, GuestAddress(addr), count) {
        let slice = slice.map_err(unmapped)?;
        let bytes = slice.len() as u64;
        piece(at, slice)?;
        at += bytes;
    }
    if at == len {
        Ok(())
    } else {
        Err(IoError::GuestMemory { addr, len })
    }
}

/// Why a request failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum IoError {
    /// The range is not on the device.
    #[error("bytes {offset}+{len} are beyond the device's {capacity}")]
    OutOfRange {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
        /// The device's bytes.
        capacity: u64,
    },
    /// Guest memory that the request names is not mapped.
    #[error("guest memory {addr:#x}+{len:#x} is not mapped")]
    GuestMemory {
        /// First byte.
        addr: u64,
        /// Bytes.
        len: u64,
    },
    /// The backend failed.
    #[error("the backend failed: errno {errno}")]
    Backend {
        /// The errno it gave.
        errno: i32,
    },
    /// A compare found a difference.
    #[error("guest memory and device differ")]
    Miscompare,
    /// The request was given up; a part of it may have been done.
    #[error("cancelled")]
    Cancelled,
}

/// Copies between guest memory and a mapped device, in the direction `op` says, or compares them.
pub(crate) fn move_mapped(
    device: &impl VolatileMemory<B = ()>,
    request: &Request,
    memory: &GuestRam,
    from: u64,
    to: u64,
) -> Result<(), IoError> {
    let capacity = device.len() as u64;
    request.for_each_slice(memory, from, to, |at, guest| {
        let offset = request.offset + at;
        let here = usize::try_from(offset)
            .ok()
            .and_then(|offset| device.get_slice(offset, guest.len()).ok())
            .ok_or(IoError::OutOfRange {
                offset,
                len: guest.len() as u64,
                capacity,
            })?;
        match request.op {
            Op::Read => here.copy_to_volatile_slice(guest),
            Op::Compare => return compare(&here, &guest),
            _ => guest.copy_to_volatile_slice(here),
        }
        Ok(())
    })
}

/// Compares two slices of the same length, each byte read once: the guest may change its own
/// meanwhile.
fn compare(here: &VolatileSlice<'_, ()>, guest: &VolatileSlice<'_, ()>) -> Result<(), IoError> {
    const PIECE: usize = 4096;
    let (mut mine, mut theirs) = ([0; PIECE], [0; PIECE]);
    for at in (0..guest.len()).step_by(PIECE) {
        let count = PIECE.min(guest.len() - at);
        let read = |slice: &VolatileSlice<'_, ()>, into: &mut [u8; PIECE]| {
            let part = into.get_mut(..count).unwrap_or_default();
            slice.read_slice(part, at).map_err(|_| IoError::Miscompare)
        };
        read(here, &mut mine)?;
        read(guest, &mut theirs)?;
        if mine.get(..count) != theirs.get(..count) {
            return Err(IoError::Miscompare);
        }
    }
    Ok(())
}

/// Fills mapped device bytes with zeroes.
pub(crate) fn zero_mapped(
    device: &impl VolatileMemory<B = ()>,
    mut offset: u64,
    mut len: u64,
) -> Result<(), IoError> {
    const ZEROES: [u8; 4096] = [0; 4096];
    let capacity = device.len() as u64;
    while len > 0 {
        let count = len.min(ZEROES.len() as u64);
        let bad = IoError::OutOfRange {
            offset,
            len: count,
            capacity,
        };
        let at = usize::try_from(offset).map_err(|_| bad)?;
        let bytes = usize::try_from(count).map_err(|_| bad)?;
        let zeroes = ZEROES.get(..bytes).ok_or(bad)?;
        device
            .get_slice(at, bytes)
            .and_then(|s| s.write_slice(zeroes, 0))
            .map_err(|_| bad)?;
        offset += count;
        len -= count;
    }
    Ok(())
}
