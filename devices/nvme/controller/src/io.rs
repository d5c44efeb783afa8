//! I/O commands: checked, turned into storage requests, and finished (NVM 3.2).

use std::collections::VecDeque;

use nvme_spec::{NSID_BROADCAST, NvmOpcode, Sqe, Status, queue::RwCdw12};
use storage::{BlockQueue, IoError, Op, OpenError, Queue, Reaped, Request, STEP_BYTES, Submitted};

use crate::{
    command::Command,
    namespace::Namespace,
    prp,
    range_table::{Access, RangeTable},
    shared::Shared,
    table::{self, IoKind},
    work::Work,
};

/// Commands that a shard can have in flight; more wait in their queues.
pub(crate) const IN_FLIGHT: usize = 256;
/// Segments that a request has room for from the start: 128 KiB of pages and an offset.
const SEGMENTS: usize = 33;

/// What became of a command that was started.
#[derive(Debug)]
pub(crate) enum Started {
    /// Finished: complete it now.
    Done(Command, Status),
    /// [`IoEngine::reap`] will return it.
    Pending,
}

/// What became of a request.
enum Submission {
    /// It came back with its status.
    Back(Box<Request>, Status),
    /// It is with a namespace's backend, or waits to be.
    Kept(usize),
}

/// A pending command that has finished.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) command: Command,
    pub(crate) sqe: Sqe,
    pub(crate) status: Status,
}

/// A shard's queues to the backends and its commands in flight.
pub(crate) struct IoEngine {
    /// One queue a namespace, NSID 1 first.
    queues: Vec<Queue>,
    slots: Vec<Slot>,
    free: Vec<u16>,
    /// Slots whose request found its backend full or its range in use, oldest first.
    deferred: VecDeque<u16>,
    /// Scratch for reaping.
    reaped: Vec<Reaped>,
}

/// A place for a command in flight. Its index is the request's tag.
struct Slot {
    /// At rest or deferred here; with the backend while pending.
    request: Option<Box<Request>>,
    pending: Option<Pending>,
}

struct Pending {
    command: Command,
    sqe: Sqe,
    /// The namespace, as an index, whose backend has or will have the request.
    namespace: usize,
}

impl IoEngine {
    pub(crate) fn new(shared: &Shared) -> Result<Self, OpenError> {
        let queues = shared
            .namespaces
            .iter()
            .map(|namespace| namespace.device.open_queue(IN_FLIGHT))
            .collect::<Result<_, _>>()?;
        let slot = |_| Slot {
            request: Some(Box::new(Request::with_capacity(SEGMENTS))),
            pending: None,
        };
        let count = u16::try_from(IN_FLIGHT).unwrap_or(u16::MAX);
        Ok(Self {
            queues,
            slots: (0..count).map(slot).collect(),
            free: (0..count).rev().collect(),
            deferred: VecDeque::with_capacity(IN_FLIGHT),
            reaped: Vec::with_capacity(IN_FLIGHT),
        })
    }

    /// Commands that can be started now.
    pub(crate) fn room(&self) -> u32 {
        u32::try_from(self.free.len()).unwrap_or(u32::MAX)
    }

    /// Whether no command is in flight.
    pub(crate) fn is_idle(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// Whether polling again now gets something done.
    pub(crate) fn runnable(&self) -> bool {
        !self.deferred.is_empty() || (!self.is_idle() && self.queues.iter().any(Queue::runnable))
    }

    /// What a command costs beyond the first [`STEP_BYTES`] of its data, in such steps.
    pub(crate) fn cost(&self, shared: &Shared, sqe: &Sqe) -> u32 {
        let nlb = u64::from(RwCdw12::from(sqe.cdw12).nlb_z()) + 1;
        let bytes = shared
            .namespace(sqe.nsid)
            .map_or(0, |namespace| namespace.bytes(nlb));
        let bytes = bytes.min(shared.config.mdts_bytes.into());
        u32::try_from(bytes / STEP_BYTES).unwrap_or(u32::MAX)
    }

    /// Starts a command; the caller has made sure of [`room`](Self::room).
    pub(crate) fn start(&mut self, work: &Work<'_>, command: Command, sqe: &Sqe) -> Started {
        let Some(tag) = self.free.pop() else {
            return Started::Done(command, Status::INTERNAL_ERROR);
        };
        let Some(mut request) = self
            .slots
            .get_mut(usize::from(tag))
            .and_then(|s| s.request.take())
        else {
            return Started::Done(command, Status::INTERNAL_ERROR);
        };
        let namespace = match prepare(work, &mut request, sqe) {
            Ok(namespace) => namespace,
            Err(status) => {
                self.retire(tag, request);
                return Started::Done(command, status);
            }
        };
        request.tag = u64::from(tag);
        match self.submit(work, sqe, namespace, request) {
            Submission::Back(request, status) => {
                self.retire(tag, request);
                Started::Done(command, status)
            }
            Submission::Kept(namespace) => {
                let pending = Pending {
                    command,
                    sqe: *sqe,
                    namespace,
                };
                if let Some(slot) = self.slots.get_mut(usize::from(tag)) {
                    slot.pending = Some(pending);
                }
                Started::Pending
            }
        }
    }

    /// Gives a request to its backend, if nobody uses its range, and when it comes back at once
    /// says how it went. A Flush of every namespace goes on to the next one here.
    fn submit(
        &mut self,
        work: &Work<'_>,
        sqe: &Sqe,
        mut namespace: usize,
        mut request: Box<Request>,
    ) -> Submission {
        loop {
            let Some(queue) = self.queues.get_mut(namespace) else {
                return Submission::Back(request, Status::SUCCESS);
            };
            if !take_range(work, namespace, &request) {
                self.defer(request);
                return Submission::Kept(namespace);
            }
            let (back, result) = match queue.submit(request, work.memory) {
                Submitted::Done(back, result) => (back, result),
                Submitted::Pending => return Submission::Kept(namespace),
                Submitted::Full(back) => {
                    give_range(work, namespace, &back);
                    self.defer(back);
                    return Submission::Kept(namespace);
                }
            };
            give_range(work, namespace, &back);
            let status = settle(work, sqe, &back, result);
            if !status.is_success() || !is_broadcast_flush(sqe) {
                return Submission::Back(back, status);
            }
            namespace += 1;
            request = back;
        }
    }

    /// Keeps a request that cannot be submitted now; the next reap tries again.
    fn defer(&mut self, request: Box<Request>) {
        let tag = request.tag;
        if let Some(slot) = self.slot(tag) {
            slot.request = Some(request);
            self.deferred
                .push_back(u16::try_from(tag).unwrap_or_default());
        }
    }

    /// Continues pending commands; those that are finished are appended to `finished`.
    pub(crate) fn reap(&mut self, work: &Work<'_>, finished: &mut Vec<Finished>) {
        if self.is_idle() {
            return;
        }
        for _ in 0..self.deferred.len() {
            let Some(tag) = self.deferred.pop_front() else {
                break;
            };
            let Some(slot) = self.slots.get_mut(usize::from(tag)) else {
                continue;
            };
            if let (Some(request), Some(pending)) = (slot.request.take(), &slot.pending) {
                let (sqe, namespace) = (pending.sqe, pending.namespace);
                let submission = self.submit(work, &sqe, namespace, request);
                self.proceed(submission, tag, finished);
            }
        }
        let mut reaped = std::mem::take(&mut self.reaped);
        for queue in &mut self.queues {
            queue.kick();
            queue.reap(&mut reaped);
        }
        for (request, result) in reaped.drain(..) {
            let Ok(tag) = u16::try_from(request.tag) else {
                continue;
            };
            let pending = self
                .slot(request.tag)
                .and_then(|slot| slot.pending.as_ref());
            let Some(pending) = pending else { continue };
            let (sqe, namespace) = (pending.sqe, pending.namespace);
            give_range(work, namespace, &request);
            let status = settle(work, &sqe, &request, result);
            let submission = if status.is_success() && is_broadcast_flush(&sqe) {
                self.submit(work, &sqe, namespace + 1, request)
            } else {
                Submission::Back(request, status)
            };
            self.proceed(submission, tag, finished);
        }
        self.reaped = reaped;
    }

    /// Finishes a pending command, or notes which namespace it is with now.
    fn proceed(&mut self, submission: Submission, tag: u16, finished: &mut Vec<Finished>) {
        match submission {
            Submission::Back(request, status) => self.finish(request, status, finished),
            Submission::Kept(namespace) => {
                let slot = self.slots.get_mut(usize::from(tag));
                if let Some(pending) = slot.and_then(|slot| slot.pending.as_mut()) {
                    pending.namespace = namespace;
                }
            }
        }
    }

    /// Takes back a command that waits for room in its backend.
    pub(crate) fn abort(&mut self, sq: usize, cid: u16) -> Option<(Command, Sqe)> {
        let waits = |slot: &Slot| {
            let pending = slot.pending.as_ref().map(|pending| &pending.command);
            slot.request.is_some() && pending.is_some_and(|c| c.sq == sq && c.cid == cid)
        };
        let index = self.slots.iter().position(waits)?;
        let slot = self.slots.get_mut(index)?;
        let Pending { command, sqe, .. } = slot.pending.take()?;
        let tag = u16::try_from(index).ok()?;
        self.deferred.retain(|&deferred| deferred != tag);
        self.free.push(tag);
        Some((command, sqe))
    }

    /// Takes out every command in flight, for a shard that ends.
    pub(crate) fn take_pending(&mut self) -> impl Iterator<Item = Command> {
        self.slots
            .iter_mut()
            .filter_map(|slot| Some(slot.pending.take()?.command))
    }

    fn finish(&mut self, request: Box<Request>, status: Status, finished: &mut Vec<Finished>) {
        let tag = request.tag;
        let pending = self.slot(tag).and_then(|slot| slot.pending.take());
        self.retire(u16::try_from(tag).unwrap_or_default(), request);
        if let Some(Pending { command, sqe, .. }) = pending {
            finished.push(Finished {
                command,
                sqe,
                status,
            });
        }
    }

    fn retire(&mut self, tag: u16, request: Box<Request>) {
        if let Some(slot) = self.slots.get_mut(usize::from(tag)) {
            slot.request = Some(request);
            self.free.push(tag);
        }
    }

    fn slot(&mut self, tag: u64) -> Option<&mut Slot> {
        self.slots.get_mut(usize::try_from(tag).ok()?)
    }
}

/// Takes the range of a request in its namespace's table; a flush has none.
fn take_range(work: &Work<'_>, namespace: usize, request: &Request) -> bool {
    match (ranges(work, namespace), access(request.op)) {
        (Some(ranges), Some(access)) => ranges.try_take(request.offset, request.len, access),
        _ => true,
    }
}

fn give_range(work: &Work<'_>, namespace: usize, request: &Request) {
    if let (Some(ranges), Some(access)) = (ranges(work, namespace), access(request.op)) {
        ranges.give(request.offset, request.len, access);
    }
}

fn ranges<'a>(work: &Work<'a>, namespace: usize) -> Option<&'a RangeTable> {
    work.shared.namespaces.get(namespace)?.ranges.as_ref()
}

const fn access(op: Op) -> Option<Access> {
    match op {
        Op::Read => Some(Access::Read),
        Op::Write | Op::WriteZeroes | Op::Discard => Some(Access::Write),
        Op::Flush => None,
    }
}

/// Checks a command and fills its request; the namespace's index.
fn prepare(work: &Work<'_>, request: &mut Request, sqe: &Sqe) -> Result<usize, Status> {
    let kind = table::io_kind(sqe.nvm_opcode()).ok_or(Status::INVALID_OPCODE.dnr())?;
    if sqe.flags.fuse() != 0 || sqe.flags.psdt() != 0 {
        return Err(Status::INVALID_FIELD.dnr());
    }
    match kind {
        IoKind::Flush => {
            request.reset(0, Op::Flush, 0, 0);
            if sqe.nsid == NSID_BROADCAST {
                return Ok(0);
            }
            Ok(namespace(work, sqe)?.0)
        }
        IoKind::Read => read_or_write(work, request, sqe, Op::Read),
        IoKind::Write => read_or_write(work, request, sqe, Op::Write),
    }
}

fn read_or_write(
    work: &Work<'_>,
    request: &mut Request,
    sqe: &Sqe,
    op: Op,
) -> Result<usize, Status> {
    let (index, namespace) = namespace(work, sqe)?;
    let cdw12 = RwCdw12::from(sqe.cdw12);
    let nlb = u64::from(cdw12.nlb_z()) + 1;
    if namespace.bytes(nlb) > u64::from(work.shared.config.mdts_bytes) {
        return Err(Status::INVALID_FIELD.dnr());
    }
    // No directive is supported, so no write may name one.
    if op == Op::Write && cdw12.dtype() != 0 {
        return Err(Status::INVALID_FIELD.dnr());
    }
    let (offset, len) = namespace.range(sqe.slba(), nlb)?;
    request.reset(0, op, offset, len);
    request.fua = cdw12.fua();
    prp::walk(
        request,
        work.memory,
        work.page_bytes(),
        sqe.prp1,
        sqe.prp2,
        len,
    )?;
    Ok(index)
}

/// The namespace that a command names, with its index (Base 3.2.1.2).
fn namespace<'a>(work: &Work<'a>, sqe: &Sqe) -> Result<(usize, &'a Namespace), Status> {
    if sqe.nsid == NSID_BROADCAST {
        return Err(Status::INVALID_FIELD.dnr());
    }
    let namespace = work
        .shared
        .namespace(sqe.nsid)
        .ok_or(Status::INVALID_NAMESPACE.dnr())?;
    Ok((namespace.nsid as usize - 1, namespace))
}

fn is_broadcast_flush(sqe: &Sqe) -> bool {
    sqe.nvm_opcode() == NvmOpcode::FLUSH && sqe.nsid == NSID_BROADCAST
}

/// The status of a request that came back, and its place in the counters.
fn settle(work: &Work<'_>, sqe: &Sqe, request: &Request, result: Result<(), IoError>) -> Status {
    let error = match result {
        Ok(()) => {
            match request.op {
                Op::Read => {
                    work.stats.reads.add(1);
                    work.stats.bytes_read.add(request.len);
                }
                Op::Write => {
                    work.stats.writes.add(1);
                    work.stats.bytes_written.add(request.len);
                }
                Op::Flush | Op::WriteZeroes | Op::Discard => {}
            }
            return Status::SUCCESS;
        }
        Err(error) => error,
    };
    match error {
        IoError::OutOfRange { .. } => Status::LBA_OUT_OF_RANGE.dnr(),
        IoError::GuestMemory { .. } => Status::DATA_TRANSFER_ERROR.dnr(),
        IoError::Cancelled => Status::ABORT_REQUESTED,
        IoError::Backend { errno } => {
            work.stats.media_errors.add(1);
            tracing::debug!(errno, nsid = sqe.nsid, op = ?request.op, "the backend failed");
            match request.op {
                Op::Read => Status::UNRECOVERED_READ_ERROR,
                Op::Write => Status::WRITE_FAULT,
                Op::Flush | Op::WriteZeroes | Op::Discard => Status::INTERNAL_ERROR,
            }
        }
    }
}
