//! One thread's way to an image: requests become jobs, and guest memory is read and written here.

use std::{collections::VecDeque, sync::Arc};

use super::pool::{Inbox, Job, Pool};
use crate::{BlockQueue, GuestRam, IoError, Notify, Op, Reaped, Request, STEP_BYTES, Submitted};

/// The most that is moved of a request by one job, unless it is to be moved whole.
const CHUNK: u64 = 1 << 20;
/// Buffers of all requests of a queue together, in bytes; one is taken however long it is.
const BUFFERED: u64 = 32 << 20;
/// Bytes copied in one call of `reap`.
const REAPED: u64 = 4 * STEP_BYTES;
/// Buffers are kept for later up to this size and number.
const KEPT_BYTES: usize = 128 << 10;
const KEPT: usize = 64;

/// A request that the queue has.
struct Held {
    request: Box<Request>,
    memory: Arc<GuestRam>,
    /// The bytes of the request that its job is for.
    from: u64,
    to: u64,
    /// What of these is copied from or to the guest.
    copied: u64,
    buffer: Vec<u8>,
    given_up: bool,
}

/// A queue of an [`Image`](super::Image).
pub(super) struct ImageQueue {
    pool: Arc<Pool>,
    inbox: Arc<Inbox>,
    bytes: u64,
    durable: bool,
    slots: Vec<Option<Held>>,
    free: Vec<usize>,
    /// Requests whose data is being copied, in turn.
    copying: VecDeque<usize>,
    /// Bytes of buffers in use.
    buffered: u64,
    kept: Vec<Vec<u8>>,
    /// Scratch for reaping.
    finished: Vec<Job>,
}

impl ImageQueue {
    pub(super) fn new(pool: Arc<Pool>, bytes: u64, durable: bool, depth: usize) -> Self {
        Self {
            pool,
            inbox: Arc::default(),
            bytes,
            durable,
            slots: (0..depth).map(|_| None).collect(),
            free: (0..depth).rev().collect(),
            copying: VecDeque::with_capacity(depth),
            buffered: 0,
            kept: Vec::with_capacity(KEPT),
            finished: Vec::with_capacity(depth),
        }
    }

    /// The part of a request that begins at `from` and is done by one job, as its end.
    fn chunk(request: &Request, from: u64) -> u64 {
        let end = request.len.min(request.end).max(from);
        match moves_data(request.op) && !request.whole {
            true => end.min(from.saturating_add(CHUNK)),
            false => end,
        }
    }

    /// A buffer of `bytes` bytes.
    fn buffer(&mut self, bytes: u64) -> Vec<u8> {
        let mut buffer = self.kept.pop().unwrap_or_default();
        buffer.resize(usize::try_from(bytes).unwrap_or(0), 0);
        self.buffered += bytes;
        buffer
    }

    /// Begins with the part of a request that is next: copies its data, or has it done.
    fn begin(&mut self, slot: usize) {
        let Some(held) = self.slots.get_mut(slot).and_then(Option::as_mut) else {
            return;
        };
        held.copied = 0;
        let gathers = held.request.op == Op::Write;
        let bytes = match moves_data(held.request.op) {
            true => held.to - held.from,
            false => 0,
        };
        let buffer = self.buffer(bytes);
        if let Some(held) = self.slots.get_mut(slot).and_then(Option::as_mut) {
            held.buffer = buffer;
        }
        match gathers {
            true => self.copying.push_back(slot),
            false => self.send(slot),
        }
    }

    /// Hands a request's part to the threads.
    fn send(&mut self, slot: usize) {
        let Some(held) = self.slots.get_mut(slot).and_then(Option::as_mut) else {
            return;
        };
        let request = &held.request;
        let durable = match request.op {
            Op::Write | Op::WriteZeroes | Op::Discard => request.fua || self.durable,
            // What it finds is durable already where all writes are.
            Op::Read | Op::Compare | Op::Verify => request.fua && !self.durable,
            Op::Flush => false,
        };
        let job = Job {
            slot,
            op: request.op,
            offset: request.offset.saturating_add(held.from),
            len: held.to - held.from,
            done: 0,
            buffer: std::mem::take(&mut held.buffer),
            whole: request.whole,
            durable,
            round: self.inbox.round(),
            result: Ok(()),
        };
        self.pool.send(&self.inbox, job);
    }

    /// Copies the next step of a request's data; how many bytes, and whether that is all.
    fn copy(&mut self, slot: usize) -> Result<(u64, bool), IoError> {
        let Some(held) = self.slots.get_mut(slot).and_then(Option::as_mut) else {
            return Ok((0, true));
        };
        if held.given_up {
            return Err(IoError::Cancelled);
        }
        let (from, to) = (held.from + held.copied, held.to);
        let to = to.min(from.saturating_add(STEP_BYTES));
        let op = held.request.op;
        let mut compared = [0; COMPARED];
        let (request, buffer) = (&held.request, &mut held.buffer);
        let base = held.from;
        request.for_each_slice(&held.memory, from, to, |at, guest| {
            let start = usize::try_from(at - base).unwrap_or(usize::MAX);
            let end = start.saturating_add(guest.len());
            let mine = buffer.get_mut(start..end).unwrap_or_default();
            match op {
                Op::Write => drop(guest.copy_to(mine)),
                Op::Read => guest.copy_from(mine),
                _ => return compare(&guest, mine, &mut compared),
            }
            Ok(())
        })?;
        held.copied += to - from;
        Ok((to - from, to == held.to))
    }

    /// Copies a step, and goes on with what follows then; how many bytes.
    fn copy_on(&mut self, slot: usize, done: &mut Vec<Reaped>) -> u64 {
        let gathers = self.op(slot) == Some(Op::Write);
        match self.copy(slot) {
            Ok((bytes, false)) => {
                self.copying.push_back(slot);
                bytes
            }
            Ok((bytes, true)) if gathers => {
                self.send(slot);
                bytes
            }
            Ok((bytes, true)) => {
                self.go_on(slot, done);
                bytes
            }
            Err(error) => {
                self.finish(slot, Err(error), done);
                0
            }
        }
    }

    fn op(&self, slot: usize) -> Option<Op> {
        let held = self.slots.get(slot)?.as_ref()?;
        Some(held.request.op)
    }

    /// A part is done: goes on with the next, or gives the request back.
    fn go_on(&mut self, slot: usize, done: &mut Vec<Reaped>) {
        let Some(held) = self.slots.get_mut(slot).and_then(Option::as_mut) else {
            return;
        };
        held.request.progress = held.to;
        let next = Self::chunk(&held.request, held.to);
        if next == held.to {
            return self.finish(slot, Ok(()), done);
        }
        if held.given_up {
            return self.finish(slot, Err(IoError::Cancelled), done);
        }
        (held.from, held.to) = (held.to, next);
        let buffer = std::mem::take(&mut held.buffer);
        self.give_back(buffer);
        self.begin(slot);
    }

    fn give_back(&mut self, buffer: Vec<u8>) {
        self.buffered = self.buffered.saturating_sub(buffer.len() as u64);
        if buffer.capacity() > 0 && buffer.capacity() <= KEPT_BYTES && self.kept.len() < KEPT {
            self.kept.push(buffer);
        }
    }

    fn finish(&mut self, slot: usize, result: Result<(), IoError>, done: &mut Vec<Reaped>) {
        if let Some(mut held) = self.slots.get_mut(slot).and_then(Option::take) {
            self.give_back(std::mem::take(&mut held.buffer));
            self.free.push(slot);
            held.request.memory = None;
            done.push((held.request, result));
        }
    }

    /// A thread is done with a request's part.
    fn came_back(&mut self, mut job: Job, done: &mut Vec<Reaped>) {
        let slot = job.slot;
        let Some(held) = self.slots.get_mut(slot).and_then(Option::as_mut) else {
            return;
        };
        if !moves_data(job.op) {
            // Scratch of the thread's, not counted.
            job.buffer = Vec::new();
        }
        held.buffer = job.buffer;
        match (job.result, job.op) {
            (Ok(()), Op::Read | Op::Compare) => self.copying.push_back(slot),
            (Ok(()), _) => self.go_on(slot, done),
            (error, _) => self.finish(slot, error, done),
        }
    }
}

/// Whether guest memory is read or written for it.
const fn moves_data(op: Op) -> bool {
    matches!(op, Op::Read | Op::Write | Op::Compare)
}

/// Bytes compared at a time.
const COMPARED: usize = 4096;

/// Compares guest memory, each byte of it read once, with `mine`, of the same length.
fn compare(
    guest: &vm_memory::VolatileSlice<'_, ()>,
    mine: &[u8],
    scratch: &mut [u8; COMPARED],
) -> Result<(), IoError> {
    use vm_memory::Bytes;
    for (at, mine) in (0..).step_by(COMPARED).zip(mine.chunks(COMPARED)) {
        let theirs = scratch.get_mut(..mine.len()).unwrap_or_default();
        let read = guest.read_slice(theirs, at);
        if read.is_err() || theirs != mine {
            return Err(IoError::Miscompare);
        }
    }
    Ok(())
}

impl BlockQueue for ImageQueue {
    fn submit(&mut self, mut request: Box<Request>, memory: &Arc<GuestRam>) -> Submitted {
        if let Err(error) = request.end_within(self.bytes) {
            return Submitted::Done(request, Err(error));
        }
        let from = request.progress;
        let to = Self::chunk(&request, from);
        if to == from && request.op != Op::Flush {
            return Submitted::Done(request, Ok(()));
        }
        let full = moves_data(request.op) && self.buffered + (to - from) > BUFFERED;
        if full && self.pending() > 0 {
            return Submitted::Full(request);
        }
        if request.op == Op::Write
            && let Err(error) = request.check_mapped(memory)
        {
            return Submitted::Done(request, Err(error));
        }
        let Some(slot) = self.free.pop() else {
            return Submitted::Full(request);
        };
        request.memory = Some(memory.clone());
        if let Some(place) = self.slots.get_mut(slot) {
            *place = Some(Held {
                request,
                memory: memory.clone(),
                from,
                to,
                copied: 0,
                buffer: Vec::new(),
                given_up: false,
            });
        }
        self.begin(slot);
        // The first step of a write's data at once: mostly it is the only one.
        if self.copying.back() == Some(&slot) && self.copying.len() == 1 {
            self.copying.pop_back();
            match self.copy(slot) {
                Ok((_, true)) => self.send(slot),
                // An error is found again, and told, by `reap`.
                _ => self.copying.push_back(slot),
            }
        }
        Submitted::Pending
    }

    fn reap(&mut self, done: &mut Vec<Reaped>) {
        let mut finished = std::mem::take(&mut self.finished);
        self.inbox.take(&mut finished);
        for job in finished.drain(..) {
            self.came_back(job, done);
        }
        self.finished = finished;
        let mut bytes = 0;
        while bytes < REAPED
            && let Some(slot) = self.copying.pop_front()
        {
            bytes += self.copy_on(slot, done);
        }
    }

    /// From here on guest memory is neither read nor written for what is held now.
    fn cancel(&mut self) {
        if self.pending() == 0 {
            return;
        }
        self.pool.cancel(&self.inbox);
        for held in self.slots.iter_mut().flatten() {
            held.given_up = true;
        }
    }

    fn pending(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn runnable(&self) -> bool {
        self.inbox.has_finished() || !self.copying.is_empty()
    }

    fn set_notify(&mut self, notify: Arc<dyn Notify>) -> bool {
        self.inbox.set_notify(notify);
        true
    }
}
