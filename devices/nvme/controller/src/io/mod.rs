//! I/O commands: checked, turned into storage requests, and finished (NVM 3.2).

mod flush;
mod fused;
mod job;
mod pieces;
mod prepare;
mod ranges;
mod settle;

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
};

use nvme_spec::{Sqe, Status, queue::DsmRange};
use storage::{BlockQueue, IoError, Notify, Op, OpenError, Queue, Reaped, Request, Submitted};

pub(crate) use self::{
    flush::FlushFor,
    fused::{Half, is_first, is_pair},
    prepare::cost,
};
use self::{
    flush::OwnFlush,
    job::Job,
    pieces::{Chance, Pieces},
    prepare::Prepared,
    ranges::{forget_range, give_range, take_range},
    settle::settle,
};
use crate::{
    admin::FormatPlan,
    command::Command,
    config::{MIN_PAGE_BYTES, Tear},
    ids::ShardId,
    mailbox::Bell,
    shared::Shared,
    work::Work,
};

/// Commands that a shard can have in flight; more wait in their queues.
pub(crate) const IN_FLIGHT: usize = 256;
/// Requests of one command submitted in a row, before other commands have their turn.
const REQUESTS_AT_ONCE: usize = 16;
/// The largest transfer whose segments each request has room for from the start; a request that
/// had more gives the room back when it is done.
const ROOM_BYTES: u32 = 1 << 20;

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
    /// It is with its namespace's backend, or waits to be.
    Kept,
}

/// A pending command that has finished.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) command: Command,
    pub(crate) sqe: Sqe,
    pub(crate) status: Status,
    /// What was to be formatted, if the command is a Format NVM.
    pub(crate) plan: Option<FormatPlan>,
}

/// A shard's queues to the backends and its commands in flight.
pub(crate) struct IoEngine {
    shard: ShardId,
    chance: Chance,
    /// One queue a namespace, NSID 1 first.
    queues: Vec<Queue>,
    /// Whether each of these rings when it has something to reap.
    rings: Vec<bool>,
    slots: Vec<Slot>,
    free: Vec<u16>,
    /// Slots whose request waits to be submitted, oldest first.
    deferred: VecDeque<u16>,
    /// How many of these wait for their turn, and for room.
    turns: usize,
    rooms: usize,
    /// Scratch for trying those again.
    retrying: VecDeque<u16>,
    /// Segments that every request has room for.
    segments: usize,
    /// Scratch for reaping.
    reaped: Vec<Reaped>,
    /// Commands begun so far.
    begun: u64,
    /// Flushes of the shard's own, one after the other, and the last one's tag.
    flushes: VecDeque<OwnFlush>,
    own_tag: u64,
}

/// A place for a command in flight. Its index is the request's tag.
struct Slot {
    /// At rest or deferred here; with the backend while pending.
    request: Option<Box<Request>>,
    /// Room for the ranges of a Dataset Management command, while there is none.
    ranges: Vec<DsmRange>,
    pending: Option<Pending>,
    /// How many commands were begun before the last one here.
    begun: u64,
    /// Why the request is deferred, if it is.
    waits_for: WaitsFor,
}

/// Why a request is not with its backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum WaitsFor {
    /// Its backend has no room.
    Room,
    /// Another command uses its range, or wants it too; the shard is told when that changes.
    Range,
    /// Other commands, for its own has had several requests, or shows one piece of a torn write.
    Turn,
}

struct Pending {
    command: Command,
    sqe: Sqe,
    /// The other command of a fused operation.
    second: Option<Half>,
    job: Job,
}

impl IoEngine {
    pub(crate) fn new(shared: &Shared, shard: ShardId) -> Result<Self, OpenError> {
        let mut queues = shared
            .namespaces
            .iter()
            .map(|namespace| namespace.device.open_queue(IN_FLIGHT))
            .collect::<Result<Vec<_>, _>>()?;
        let mailboxes = &shared.mailboxes;
        let bell: Arc<dyn Notify> = Arc::new(Bell {
            mailboxes: mailboxes.clone(),
            shard,
        });
        let rings = queues.iter_mut().map(|q| q.set_notify(bell.clone()));
        let rings = rings.collect();
        // A page each, and one more when the first begins within a page.
        let pages = shared.config.mdts_bytes.min(ROOM_BYTES) / MIN_PAGE_BYTES + 1;
        let segments = usize::try_from(pages).unwrap_or_default();
        let slot = |_| Slot {
            request: Some(Box::new(Request::with_capacity(segments))),
            waits_for: WaitsFor::Turn,
            ranges: Vec::new(),
            pending: None,
            begun: 0,
        };
        let count = u16::try_from(IN_FLIGHT).unwrap_or(u16::MAX);
        Ok(Self {
            shard,
            chance: Chance::new(shared.config.seed ^ u64::from(shard) << 48),
            queues,
            rings,
            slots: (0..count).map(slot).collect(),
            free: (0..count).rev().collect(),
            deferred: VecDeque::with_capacity(IN_FLIGHT),
            turns: 0,
            rooms: 0,
            retrying: VecDeque::with_capacity(IN_FLIGHT),
            segments,
            reaped: Vec::with_capacity(IN_FLIGHT),
            begun: 0,
            flushes: VecDeque::new(),
            own_tag: 0,
        })
    }

    /// Commands that can be started now.
    pub(crate) fn room(&self) -> u32 {
        u32::try_from(self.free.len()).unwrap_or(u32::MAX)
    }

    /// Whether a command waits to be tried again.
    pub(crate) fn has_deferred(&self) -> bool {
        !self.deferred.is_empty()
    }

    /// Whether no command is in flight.
    pub(crate) fn is_idle(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// Whether polling again now gets something done.
    pub(crate) fn runnable(&self) -> bool {
        let any = !self.is_idle() || self.is_flushing();
        any && (self.turns > 0 || self.queues.iter().any(Queue::runnable))
    }

    /// Whether commands wait for something that nobody will tell of: their backend.
    pub(crate) fn waits(&self) -> bool {
        if (self.is_idle() && !self.is_flushing()) || self.runnable() {
            return false;
        }
        let mut backends = self.queues.iter().zip(&self.rings);
        if backends.any(|(queue, rings)| !rings && queue.pending() > 0) {
            return true;
        }
        self.flush_waits()
            || (self.rooms > 0 && self.deferred.iter().any(|&tag| self.is_unheard(tag)))
    }

    /// Whether a deferred request waits for the room of a backend that has nothing pending of this
    /// shard: with what is pending it rings, and then there is room.
    fn is_unheard(&self, tag: u16) -> bool {
        let slot = self.slots.get(usize::from(tag));
        let pending = slot
            .filter(|slot| slot.waits_for == WaitsFor::Room)
            .and_then(|slot| slot.pending.as_ref());
        let queue = pending.and_then(|pending| self.queues.get(pending.job.namespace));
        queue.is_some_and(|queue| queue.pending() == 0)
    }

    /// Starts a command; the caller has made sure of [`room`](Self::room).
    pub(crate) fn start(&mut self, work: &Work<'_>, command: Command, sqe: &Sqe) -> Started {
        self.start_with(work, command, sqe, |request, job| {
            prepare::prepare(work, sqe, request, job)
        })
    }

    /// Starts to erase what a Format NVM names; the caller has made sure of [`room`](Self::room), and
    /// that no command uses it.
    pub(crate) fn erase(
        &mut self,
        work: &Work<'_>,
        command: Command,
        sqe: &Sqe,
        plan: FormatPlan,
    ) -> Started {
        self.start_with(work, command, sqe, |request, job| {
            (job.namespace, job.through) = (plan.first, plan.last);
            job.plan = Some(plan);
            match job.erase(work.shared, request) {
                true => Ok(Prepared::Request),
                false => Err(Status::INTERNAL_ERROR),
            }
        })
    }

    fn start_with(
        &mut self,
        work: &Work<'_>,
        command: Command,
        sqe: &Sqe,
        prepare: impl FnOnce(&mut Request, &mut Job) -> Result<Prepared, Status>,
    ) -> Started {
        let Some((tag, mut request, mut job)) = self.take_slot() else {
            return Started::Done(command, Status::INTERNAL_ERROR);
        };
        let status = match prepare(&mut request, &mut job) {
            Ok(Prepared::Request) => None,
            Ok(Prepared::Nothing) => Some(Status::SUCCESS),
            Err(status) => Some(status),
        };
        if let Some(status) = status {
            self.retire(tag, request, job.into_ranges());
            return Started::Done(command, status);
        }
        request.tag = u64::from(tag);
        self.tear(work, &mut job, &mut request);
        match self.submit(work, &mut job, request) {
            Submission::Back(request, status) => {
                self.retire(tag, request, job.into_ranges());
                Started::Done(command, status)
            }
            Submission::Kept => {
                if let Some(slot) = self.slots.get_mut(usize::from(tag)) {
                    slot.pending = Some(Pending {
                        command,
                        sqe: *sqe,
                        second: None,
                        job,
                    });
                }
                Started::Pending
            }
        }
    }

    /// A free slot's number, its request and a new job.
    fn take_slot(&mut self) -> Option<(u16, Box<Request>, Job)> {
        let tag = self.free.pop()?;
        let slot = self.slots.get_mut(usize::from(tag))?;
        slot.begun = self.begun;
        self.begun += 1;
        let request = slot.request.take()?;
        Some((tag, request, Job::new(std::mem::take(&mut slot.ranges))))
    }

    /// Cuts a write into pieces if it is one to be torn.
    fn tear(&mut self, work: &Work<'_>, job: &mut Job, request: &mut Request) {
        let tear = work.shared.config.tear;
        let namespace = work.shared.namespaces.get(job.namespace);
        let namespace = namespace.filter(|_| request.op == Op::Write);
        let Some(format) = namespace.and_then(|namespace| namespace.format(job.format)) else {
            return;
        };
        let (shift, settings) = (format.lba_shift, &work.shared.settings);
        let (slba, nlb) = (request.offset >> shift, request.len >> shift);
        // What holds when the power fails holds when a reset, an Abort or an error comes between, so
        // there is no between: not even for a write that boundaries let others see half done.
        request.whole = format.atomics.power_fail.holds(slba, nlb);
        let unit = match tear {
            Tear::Never => return,
            Tear::Legal if request.whole => return,
            Tear::Legal => {
                let disable_normal = settings.disable_normal.load(Ordering::Relaxed);
                Some(format.atomics.between_commands(disable_normal))
            }
            Tear::Always => None,
        };
        job.pieces = Pieces::cut(unit, slba, nlb, shift, &mut self.chance);
        job.next_piece(request);
    }

    /// Gives a command's request to its backend, if nobody uses its range, and says how it went
    /// if it comes back at once. A command of several requests goes on to the next one here, a
    /// few at a time; a torn write shows each of its pieces to other commands.
    fn submit(&mut self, work: &Work<'_>, job: &mut Job, mut request: Box<Request>) -> Submission {
        let mut waits_for = WaitsFor::Turn;
        for _ in 0..REQUESTS_AT_ONCE {
            if self.is_behind(job.namespace) {
                waits_for = WaitsFor::Room;
                break;
            }
            if !take_range(work.shared, self.shard, job, &request) {
                waits_for = WaitsFor::Range;
                break;
            }
            let Some(queue) = self.queues.get_mut(job.namespace) else {
                return Submission::Back(request, Status::INTERNAL_ERROR);
            };
            let (back, result) = match queue.submit(request, work.memory) {
                Submitted::Done(back, result) => (back, result),
                Submitted::Pending => return Submission::Kept,
                Submitted::Full(back) => {
                    // A pair keeps it from its Compare to its Write.
                    if job.fused.is_none() || job.is_comparing() {
                        give_range(work.shared, job);
                    }
                    request = back;
                    waits_for = WaitsFor::Room;
                    break;
                }
            };
            request = back;
            if let Some(status) = self.returned(work, job, &mut request, result, true) {
                return Submission::Back(request, status);
            }
            if job.pieces.is_some() {
                break;
            }
        }
        self.defer(request, waits_for);
        Submission::Kept
    }

    /// Whether a request must let a deferred one go first, which waits for the same backend's room.
    fn is_behind(&self, namespace: usize) -> bool {
        if self.rooms == 0 {
            return false;
        }
        self.deferred.iter().any(|&tag| {
            let slot = self.slots.get(usize::from(tag));
            slot.is_some_and(|slot| {
                let pending = slot.pending.as_ref();
                slot.waits_for == WaitsFor::Room
                    && pending.is_some_and(|pending| pending.job.namespace == namespace)
            })
        })
    }

    /// A request came back: the command's status, or `None` when the request is its next one and
    /// the command `goes_on`.
    fn returned(
        &self,
        work: &Work<'_>,
        job: &mut Job,
        request: &mut Request,
        result: Result<(), IoError>,
        goes_on: bool,
    ) -> Option<Status> {
        if result.is_ok() && job.is_comparing() {
            settle(work, request, Ok(()));
            let written = match goes_on {
                true => job.write(work, request),
                false => Err(Status::ABORT_REQUESTED),
            };
            let Err(status) = written else {
                return None;
            };
            give_range(work.shared, job);
            return Some(status);
        }
        give_range(work.shared, job);
        let result = match result {
            // A torn write counts when it is whole.
            Ok(()) if job.next(work, request) => match goes_on {
                true => return None,
                false => Err(IoError::Cancelled),
            },
            result => result,
        };
        Some(settle(work, request, result))
    }

    /// Keeps a request that cannot be submitted now, until [`retry`](Self::retry).
    fn defer(&mut self, request: Box<Request>, waits_for: WaitsFor) {
        let tag = request.tag;
        if let Some(slot) = self.slot(tag) {
            slot.request = Some(request);
            slot.waits_for = waits_for;
            self.deferred
                .push_back(u16::try_from(tag).unwrap_or_default());
            if let Some(count) = counted(waits_for, &mut self.turns, &mut self.rooms) {
                *count += 1;
            }
        }
    }

    /// Tries deferred commands, oldest first; those that are finished are appended to `finished`.
    pub(crate) fn retry(&mut self, work: &Work<'_>, finished: &mut Vec<Finished>) {
        std::mem::swap(&mut self.deferred, &mut self.retrying);
        (self.turns, self.rooms) = (0, 0);
        while let Some(tag) = self.retrying.pop_front() {
            let Some(slot) = self.slots.get_mut(usize::from(tag)) else {
                continue;
            };
            if let (Some(request), Some(mut pending)) = (slot.request.take(), slot.pending.take()) {
                let submission = self.submit(work, &mut pending.job, request);
                self.proceed(submission, tag, pending, finished);
            }
        }
    }

    /// Whether a command is in flight that uses one of the namespaces `first` to `last`, as indices.
    pub(crate) fn uses(&self, first: usize, last: usize) -> bool {
        let mut pending = self.slots.iter().filter_map(|slot| slot.pending.as_ref());
        pending.any(|pending| (first..=last).contains(&pending.job.namespace))
    }

    /// Has the backends give up what is being erased, as far as they can: no other command is there.
    pub(crate) fn cancel_erasing(&mut self) {
        let pending = self.slots.iter().filter_map(|slot| slot.pending.as_ref());
        for job in pending.map(|pending| &pending.job) {
            let queue = self.queues.get_mut(job.namespace);
            if let Some(queue) = queue.filter(|_| job.plan.is_some()) {
                queue.cancel();
            }
        }
    }

    /// Gives up what the backends have, as far as they can.
    pub(crate) fn cancel(&mut self) {
        for queue in &mut self.queues {
            queue.cancel();
        }
    }

    /// Continues pending commands, of which a reset lets none go on to another request; those that
    /// are finished are appended to `finished`.
    pub(crate) fn reap(&mut self, work: &Work<'_>, resetting: bool, finished: &mut Vec<Finished>) {
        let mut reaped = std::mem::take(&mut self.reaped);
        for queue in &mut self.queues {
            queue.kick();
            queue.reap(&mut reaped);
        }
        for (mut request, result) in reaped.drain(..) {
            let tag = request.tag;
            if self.take_flush(tag, result) {
                continue;
            }
            let Some(mut pending) = self.slot(tag).and_then(|slot| slot.pending.take()) else {
                continue;
            };
            let job = &mut pending.job;
            let submission = match self.returned(work, job, &mut request, result, !resetting) {
                Some(status) => Submission::Back(request, status),
                None => self.submit(work, &mut pending.job, request),
            };
            self.proceed(
                submission,
                u16::try_from(tag).unwrap_or_default(),
                pending,
                finished,
            );
        }
        self.reaped = reaped;
    }

    /// Finishes a pending command, or keeps it pending.
    fn proceed(
        &mut self,
        submission: Submission,
        tag: u16,
        pending: Pending,
        finished: &mut Vec<Finished>,
    ) {
        match submission {
            Submission::Back(request, status) => {
                let Pending {
                    command,
                    sqe,
                    second,
                    job,
                } = pending;
                let (status, other) = match job.fused {
                    Some(fused) => fused.statuses(status),
                    None => (status, status),
                };
                let plan = job.plan;
                self.retire(tag, request, job.into_ranges());
                finished.push(Finished {
                    command,
                    sqe,
                    status,
                    plan,
                });
                finished.extend(second.map(|(command, sqe)| Finished {
                    command,
                    sqe,
                    status: other,
                    plan: None,
                }));
            }
            Submission::Kept => {
                if let Some(slot) = self.slots.get_mut(usize::from(tag)) {
                    slot.pending = Some(pending);
                }
            }
        }
    }

    /// Takes back the commands that no backend has taken and that `which` picks, oldest first;
    /// of a fused operation both.
    pub(crate) fn take_deferred(
        &mut self,
        shared: &Shared,
        which: impl Fn(&Command) -> bool,
    ) -> Vec<(Command, Sqe)> {
        let mut taken = Vec::new();
        let (slots, free) = (&mut self.slots, &mut self.free);
        let (turns, rooms) = (&mut self.turns, &mut self.rooms);
        self.deferred.retain(|&tag| {
            let Some(slot) = slots.get_mut(usize::from(tag)) else {
                return false;
            };
            let picked = slot.pending.as_ref().is_some_and(|pending| {
                let second = pending.second.as_ref();
                which(&pending.command) || second.is_some_and(|(command, _)| which(command))
            });
            if !picked {
                return true;
            }
            let Some(pending) = slot.pending.take() else {
                return true;
            };
            let Pending {
                command,
                sqe,
                second,
                mut job,
            } = pending;
            give_range(shared, &mut job);
            forget_range(shared, &mut job);
            if let Some(count) = counted(slot.waits_for, turns, rooms) {
                *count = count.saturating_sub(1);
            }
            slot.ranges = job.into_ranges();
            free.push(tag);
            taken.push((command, sqe));
            taken.extend(second);
            false
        });
        taken
    }

    /// Takes out every command in flight, for a shard that ends.
    pub(crate) fn take_pending(&mut self) -> impl Iterator<Item = Command> {
        self.slots
            .iter_mut()
            .filter_map(|slot| slot.pending.take())
            .flat_map(|pending| {
                let second = pending.second.map(|(command, _)| command);
                std::iter::once(pending.command).chain(second)
            })
    }

    fn retire(&mut self, tag: u16, mut request: Box<Request>, ranges: Vec<DsmRange>) {
        if request.segments.capacity() > self.segments {
            request.segments.clear();
            request.segments.shrink_to(self.segments);
        }
        if let Some(slot) = self.slots.get_mut(usize::from(tag)) {
            slot.request = Some(request);
            slot.ranges = ranges;
            self.free.push(tag);
        }
    }

    fn slot(&mut self, tag: u64) -> Option<&mut Slot> {
        self.slots.get_mut(usize::try_from(tag).ok()?)
    }
}

/// The count that a deferred request is in, if it is in one.
const fn counted<'c>(
    waits_for: WaitsFor,
    turns: &'c mut usize,
    rooms: &'c mut usize,
) -> Option<&'c mut usize> {
    match waits_for {
        WaitsFor::Turn => Some(turns),
        WaitsFor::Room => Some(rooms),
        WaitsFor::Range => None,
    }
}
