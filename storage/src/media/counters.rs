//! What the flash was asked to do, counted by each queue for itself.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// What the host asked of the media and what that cost, in bytes.
///
/// Without a cache and without garbage collection the write amplification of the indirection unit,
/// WAF_IU, is `bytes_written / host_bytes_written`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MediaStats {
    /// Bytes that the host's writes covered, and its Write Zeroes, which are written out here; the
    /// SMART log's Data Units Written has the former alone.
    pub host_bytes_written: u64,
    /// Bytes written to the media: whole units.
    pub bytes_written: u64,
    /// Bytes that the host's reads covered.
    pub host_bytes_read: u64,
    /// Bytes read from the media: whole units, those read for writes of a part of them too.
    pub bytes_read: u64,
    /// Of those, bytes read because a write covered a part of their unit.
    pub bytes_read_to_modify: u64,
    /// Writes that did not cover whole units.
    pub unaligned_writes: u64,
}

/// The counters of a queue, on cache lines of their own; its thread alone writes them.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Counters {
    host_bytes_written: AtomicU64,
    bytes_written: AtomicU64,
    host_bytes_read: AtomicU64,
    bytes_read: AtomicU64,
    bytes_read_to_modify: AtomicU64,
    unaligned_writes: AtomicU64,
}

fn add(counter: &AtomicU64, by: u64) {
    let value = counter.load(Ordering::Relaxed).wrapping_add(by);
    counter.store(value, Ordering::Relaxed);
}

/// The whole units around a range: where they begin and end. `unit` is a power of two, and the
/// range ends within a device, so there is no unit beyond 64 bits.
const fn around(unit: u64, offset: u64, len: u64) -> (u64, u64) {
    let mask = unit - 1;
    (offset & !mask, (offset + len).saturating_add(mask) & !mask)
}

impl Counters {
    /// A write of `len` bytes, not 0, at `offset`.
    pub(super) fn write(&self, unit: u64, offset: u64, len: u64) {
        let (start, end) = around(unit, offset, len);
        add(&self.host_bytes_written, len);
        add(&self.bytes_written, end - start);
        // The first and the last unit are read if they are not covered; they may be the same.
        let head = offset != start;
        let tail = offset + len != end;
        let read = match (head, tail) {
            (false, false) => return,
            (true, true) if end - start > unit => 2 * unit,
            _ => unit,
        };
        add(&self.bytes_read_to_modify, read);
        add(&self.bytes_read, read);
        add(&self.unaligned_writes, 1);
    }

    /// A read of `len` bytes, not 0, at `offset`.
    pub(super) fn read(&self, unit: u64, offset: u64, len: u64) {
        let (start, end) = around(unit, offset, len);
        add(&self.host_bytes_read, len);
        add(&self.bytes_read, end - start);
    }
}

impl MediaStats {
    pub(super) fn sum(queues: &[Arc<Counters>]) -> Self {
        let total = |counter: fn(&Counters) -> &AtomicU64| {
            queues
                .iter()
                .map(|queue| counter(queue).load(Ordering::Relaxed))
                .fold(0, u64::wrapping_add)
        };
        Self {
            host_bytes_written: total(|c| &c.host_bytes_written),
            bytes_written: total(|c| &c.bytes_written),
            host_bytes_read: total(|c| &c.host_bytes_read),
            bytes_read: total(|c| &c.bytes_read),
            bytes_read_to_modify: total(|c| &c.bytes_read_to_modify),
            unaligned_writes: total(|c| &c.unaligned_writes),
        }
    }
}
