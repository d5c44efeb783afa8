//! The queues of a shard, and the bookkeeping between submission and completion.

use std::collections::VecDeque;

use nvme_spec::{Cqe, Sqe, Status};
use storage::GuestRam;

use crate::{
    command::{Command, Name},
    doorbell::{Doorbells, FAULT_DOORBELL_VALUE, Side},
    ids::{AdminTicket, ShardId},
    interrupts::Interrupts,
    queue::{BadDoorbell, CompletionQueue, QueueFault, SubmissionQueue},
    shadow::{Bell, Rung, ShadowBuffers},
    shared::Shared,
    trace::Tag,
    work::Work,
};

/// A shard's submission and completion queues. A queue keeps its place in its list for life.
#[derive(Debug, Default)]
pub(crate) struct Rings {
    sqs: Vec<Option<SubmissionQueue>>,
    cqs: Vec<Option<CompletionQueue>>,
    sq_places: Places,
    cq_places: Places,
    /// The submission queues that may have commands, by their places, in the order of their turns.
    active: VecDeque<usize>,
    /// A queue's doorbell may have a value that no ring tells of: it was there before the queue.
    unread: bool,
    /// Queues have their tails and heads in memory, where nothing tells of them.
    in_memory: bool,
    /// Submission queues being deleted.
    deleting: usize,
    /// Doorbells whose registers do not count any more, to be told.
    followed: Vec<(u16, Side)>,
}

/// Where queues are in their list, by identifier.
#[derive(Debug, Default)]
struct Places(Vec<Option<u32>>);

impl Places {
    fn get(&self, qid: u16) -> Option<usize> {
        usize::try_from((*self.0.get(usize::from(qid))?)?).ok()
    }

    fn set(&mut self, qid: u16, place: Option<usize>) {
        let qid = usize::from(qid);
        if self.0.len() <= qid {
            self.0.resize(qid + 1, None);
        }
        if let Some(entry) = self.0.get_mut(qid) {
            *entry = place.and_then(|place| u32::try_from(place).ok());
        }
    }
}

fn place<T>(list: &mut Vec<Option<T>>, value: T) -> usize {
    let free = list.iter_mut().position(|slot| slot.is_none());
    let index = free.unwrap_or(list.len());
    match list.get_mut(index) {
        Some(slot) => *slot = Some(value),
        None => list.push(Some(value)),
    }
    index
}

impl Rings {
    pub(crate) fn add_cq(&mut self, queue: CompletionQueue) {
        let qid = queue.qid;
        self.in_memory |= queue.bell.is_in_memory();
        self.unread = true;
        let place = place(&mut self.cqs, queue);
        self.cq_places.set(qid, Some(place));
    }

    /// Adds a submission queue whose completion queue is here.
    pub(crate) fn add_sq(&mut self, mut queue: SubmissionQueue) {
        if let Some(cq_slot) = self.cq_places.get(queue.cqid) {
            let qid = queue.qid;
            queue.cq_slot = cq_slot;
            self.in_memory |= queue.bell.is_in_memory();
            self.unread = true;
            let place = place(&mut self.sqs, queue);
            self.sq_places.set(qid, Some(place));
            // No queue is twice in the list.
            self.active.reserve(self.sqs.len());
        }
    }

    /// Takes out a completion queue that no submission queue is bound to; its vector.
    pub(crate) fn remove_cq(&mut self, qid: u16) -> Option<u16> {
        let place = self.cq_places.get(qid)?;
        self.cq_places.set(qid, None);
        self.cqs.get_mut(place)?.take()?.vector
    }

    /// Fetches no more from a queue; [`take_deleted`](Self::take_deleted) tells when its commands
    /// are done. Its place.
    pub(crate) fn delete_sq(&mut self, qid: u16, ticket: AdminTicket) -> Option<usize> {
        let index = self.sq_index(qid)?;
        let sq = self.sqs.get_mut(index)?.as_mut()?;
        sq.deleting = Some(ticket);
        sq.active = false;
        self.active.retain(|&active| active != index);
        self.deleting += 1;
        Some(index)
    }

    /// Takes out a queue whose deletion waited for its last command, which is done.
    pub(crate) fn take_deleted(&mut self) -> Option<AdminTicket> {
        if self.deleting == 0 {
            return None;
        }
        for slot in &mut self.sqs {
            if let Some(SubmissionQueue {
                qid,
                deleting: Some(ticket),
                in_flight: 0,
                ..
            }) = slot
            {
                let ticket = *ticket;
                self.sq_places.set(*qid, None);
                *slot = None;
                self.deleting -= 1;
                return Some(ticket);
            }
        }
        None
    }

    /// Judges the heads that the host wrote, and finds the submission queues that it may have
    /// written a tail for: they get a turn.
    pub(crate) fn read_doorbells(
        &mut self,
        work: &Work<'_>,
        shard: ShardId,
    ) -> Result<(), QueueFault> {
        let mut result = Ok(());
        work.shared.doorbells.take_rung(shard, |qid, side| {
            let heads = (side == Side::CqHead).then(|| self.cq_places.get(qid));
            match heads {
                Some(place) => {
                    let cq = place.and_then(|place| self.cqs.get_mut(place)?.as_mut());
                    let read = cq.map_or(Ok(()), |cq| read_head(cq, work, &mut self.followed));
                    result = std::mem::replace(&mut result, Ok(())).and(read);
                }
                None => {
                    if let Some(place) = self.sq_places.get(qid)
                        && let Some(Some(sq)) = self.sqs.get_mut(place)
                    {
                        activate(sq, place, &mut self.active);
                    }
                }
            }
        });
        if self.unread || self.in_memory {
            let all = std::mem::take(&mut self.unread);
            let concerns = |bell: &Bell| all || bell.is_in_memory();
            for cq in self
                .cqs
                .iter_mut()
                .flatten()
                .filter(|cq| concerns(&cq.bell))
            {
                read_head(cq, work, &mut self.followed)?;
            }
            for (place, sq) in self.sqs.iter_mut().enumerate() {
                let Some(sq) = sq.as_mut().filter(|sq| concerns(&sq.bell)) else {
                    continue;
                };
                read_tail(sq, work, &mut self.followed)?;
                if sq.waiting() > 0 {
                    activate(sq, place, &mut self.active);
                }
            }
        }
        result
    }

    /// A doorbell whose register does not count any more, once.
    pub(crate) fn next_followed(&mut self) -> Option<(u16, Side)> {
        self.followed.pop()
    }

    /// How many submission queues may have commands.
    pub(crate) fn active(&self) -> usize {
        self.active.len()
    }

    /// Takes the queue whose turn it is, by its place; [`had_turn`](Self::had_turn) follows.
    pub(crate) fn next_turn(&mut self) -> Option<usize> {
        self.active.pop_front()
    }

    /// Puts a queue in line again if it has more.
    pub(crate) fn had_turn(&mut self, index: usize) {
        if let Some(Some(sq)) = self.sqs.get_mut(index) {
            sq.active = sq.waiting() > 0 && sq.deleting.is_none();
            if sq.active {
                self.active.push_back(index);
            }
        }
    }

    /// Every queue had its turn; the next round begins with another.
    pub(crate) fn end_round(&mut self) {
        if self.active.len() > 1 {
            self.active.rotate_left(1);
        }
    }

    /// Takes tails and heads from shadow doorbells from now on (Base 5.2.5).
    pub(crate) fn turn_doorbells(
        &mut self,
        work: &Work<'_>,
        buffers: ShadowBuffers,
    ) -> Result<(), QueueFault> {
        (self.in_memory, self.unread) = (true, true);
        for cq in self.cqs.iter_mut().flatten() {
            // The register's last value and the entry's.
            read_head(cq, work, &mut self.followed)?;
            read_head(cq, work, &mut self.followed)?;
            let head = cq.head();
            cq.bell.turn(work.memory, buffers, head)?;
            lint_turned(work.shared, &cq.bell);
            work.shared.doorbells.turn(cq.qid, Side::CqHead);
        }
        for sq in self.sqs.iter_mut().flatten() {
            read_tail(sq, work, &mut self.followed)?;
            read_tail(sq, work, &mut self.followed)?;
            let tail = sq.tail();
            sq.bell.turn(work.memory, buffers, tail)?;
            lint_turned(work.shared, &sq.bell);
            work.shared.doorbells.turn(sq.qid, Side::SqTail);
        }
        Ok(())
    }

    /// Asks the host to ring with the next tail that it stores in memory, and with the next head of
    /// a completion queue that is full: where a slot is free, no head gives the shard work, unless
    /// a fused operation waits for two.
    pub(crate) fn arm_doorbells(
        &mut self,
        shared: &Shared,
        memory: &GuestRam,
    ) -> Result<(), QueueFault> {
        if !self.in_memory {
            return Ok(());
        }
        for sq in self.sqs.iter_mut().flatten() {
            lint_event_index(shared, &sq.bell, memory);
            sq.bell.arm(memory)?;
        }
        let pairs = self.sqs.iter().flatten().any(|sq| sq.slots > 1);
        for cq in self.cqs.iter_mut().flatten() {
            lint_event_index(shared, &cq.bell, memory);
            if cq.free() == 0 || (pairs && cq.free() == 1) {
                cq.bell.arm(memory)?;
            }
        }
        Ok(())
    }

    /// Judges a queue's tail and copies up to `most` commands, as many as have a completion slot
    /// and, if they are I/O commands, one of `room`. Whether they are admin commands.
    pub(crate) fn copy<'b>(
        &mut self,
        work: &Work<'_>,
        index: usize,
        most: u32,
        room: u32,
        batch: &'b mut [Sqe],
    ) -> Result<Option<(&'b [Sqe], bool)>, QueueFault> {
        let Some(Some(sq)) = self.sqs.get_mut(index) else {
            return Ok(None);
        };
        read_tail(sq, work, &mut self.followed)?;
        let Some(Some(cq)) = self.cqs.get(sq.cq_slot) else {
            return Ok(None);
        };
        let is_admin = sq.qid == 0;
        let capacity = u32::try_from(batch.len()).unwrap_or(u32::MAX);
        let most = most
            .min(cq.free())
            .min(capacity)
            .min(if is_admin { u32::MAX } else { room });
        if most == 0 || cq.free() < sq.slots || sq.waiting() == 0 || sq.deleting.is_some() {
            return Ok(None);
        }
        Ok(Some((sq.copy(most, batch, work.memory)?, is_admin)))
    }

    /// After [`copy`](Self::copy) gave `copied` entries of which the last is the first of a fused
    /// operation: copies the next entry behind them, so that both can be taken. How many there
    /// are then: one more; as many as before if none was submitted behind it (both are to come
    /// with one doorbell, Base 3.4.2), or if the completion queue can never hold two; one fewer
    /// if the two have to wait for completion slots or for a batch of their own.
    pub(crate) fn copy_second(
        &mut self,
        work: &Work<'_>,
        index: usize,
        copied: usize,
        batch: &mut [Sqe],
    ) -> Result<usize, QueueFault> {
        let Some(Some(sq)) = self.sqs.get_mut(index) else {
            return Ok(copied);
        };
        let Some(Some(cq)) = self.cqs.get(sq.cq_slot) else {
            return Ok(copied);
        };
        let behind = u32::try_from(copied).unwrap_or(u32::MAX);
        if sq.waiting() <= behind || cq.capacity() < 2 {
            return Ok(copied);
        }
        let before = copied.saturating_sub(1);
        if cq.free() <= behind {
            if before == 0 {
                sq.slots = 2;
            }
            return Ok(before);
        }
        let Some(place) = batch.get_mut(copied) else {
            return Ok(before);
        };
        sq.copy_behind(behind, place, work.memory)?;
        Ok(copied + 1)
    }

    /// A queue's identifier and the slot that it is fetched from next.
    pub(crate) fn place(&self, index: usize) -> Option<(u16, u32)> {
        let sq = self.sqs.get(index)?.as_ref()?;
        Some((sq.qid, u32::from(sq.head())))
    }

    /// Moves a queue's head past commands that were copied and will be executed.
    pub(crate) fn take(&mut self, index: usize, count: usize) {
        if let Some(Some(sq)) = self.sqs.get_mut(index) {
            sq.take(u32::try_from(count).unwrap_or_default());
        }
    }

    /// Reserves the completion slot of a command that was fetched from the queue at `sq`.
    pub(crate) fn command(&mut self, sq: usize, cid: u16) -> Option<Command> {
        let cq_slot = self.sqs.get(sq)?.as_ref()?.cq_slot;
        let permit = self.cqs.get_mut(cq_slot)?.as_mut()?.reserve()?;
        let name = Name::new(cid, Tag::NONE);
        Some(Command { sq, name, permit })
    }

    /// A completion slot of the admin queue, for a command that handed its own back.
    pub(crate) fn admin_slot(&mut self) -> Option<Command> {
        let index = self.sq_index(0)?;
        let command = self.command(index, 0)?;
        if let Some(Some(sq)) = self.sqs.get_mut(index) {
            sq.in_flight += 1;
        }
        Some(command)
    }

    /// Whether the admin completion queue has a slot free.
    pub(crate) fn admin_has_room(&self) -> bool {
        let place = self.cq_places.get(0);
        let cq = place.and_then(|place| self.cqs.get(place)?.as_ref());
        cq.is_some_and(|cq| cq.free() > 0)
    }

    /// The place of a submission queue.
    pub(crate) fn sq_index(&self, qid: u16) -> Option<usize> {
        self.sq_places.get(qid)
    }

    /// Gives a command's completion slot back: nothing is posted for it now.
    pub(crate) fn hand_back(&mut self, command: Command) {
        let Command { sq, permit, .. } = command;
        let sq = self.sqs.get_mut(sq).and_then(Option::as_mut);
        let cq_slot = sq.map(|sq| {
            sq.in_flight = sq.in_flight.saturating_sub(1);
            sq.cq_slot
        });
        match cq_slot.and_then(|slot| self.cqs.get_mut(slot)?.as_mut()) {
            Some(cq) => cq.release(permit),
            // Its queue has gone, and the slot with it.
            None => permit.forget(),
        }
    }

    /// The submission queue identifier of a command.
    pub(crate) fn qid(&self, command: &Command) -> u16 {
        self.sqs
            .get(command.sq)
            .and_then(Option::as_ref)
            .map_or(0, |sq| sq.qid)
    }

    /// Posts a command's completion and notes its interrupt.
    pub(crate) fn complete(
        &mut self,
        work: &Work<'_>,
        command: Command,
        status: Status,
        dw0: u32,
        interrupts: &mut Interrupts,
    ) -> Result<(), QueueFault> {
        let Command { sq, name, permit } = command;
        let cid = name.cid();
        let sq = self.sqs.get_mut(sq).and_then(Option::as_mut);
        let Some(sq) = sq else {
            permit.forget();
            return Ok(());
        };
        sq.in_flight = sq.in_flight.saturating_sub(1);
        let cqe = Cqe {
            dw0,
            dw1: 0,
            sqhd: sq.head(),
            sqid: sq.qid,
            cid,
            status_phase: status.to_wire(false),
        };
        let Some(cq) = self.cqs.get_mut(sq.cq_slot).and_then(Option::as_mut) else {
            permit.forget();
            return Ok(());
        };
        if let Some(lint) = &work.shared.lint {
            lint.completing(work.memory, sq.qid, cq.qid, cid);
        }
        cq.post(permit, cqe, work.memory)?;
        if let Some(vector) = cq.vector {
            interrupts.raise(vector, cq.qid == 0);
        }
        Ok(())
    }

    /// Whether a queue has commands that can be executed now; I/O commands if there is `room`.
    pub(crate) fn fetchable(&self, room: bool) -> bool {
        let queue = |&place: &usize| self.sqs.get(place)?.as_ref();
        self.active.iter().filter_map(queue).any(|sq| {
            sq.waiting() > 0
                && (room || sq.qid == 0)
                && sq.deleting.is_none()
                && matches!(self.cqs.get(sq.cq_slot), Some(Some(cq)) if cq.free() >= sq.slots)
        })
    }

    /// Whether a doorbell may have a value that was not judged yet.
    pub(crate) fn unseen_doorbell(
        &self,
        registers: &Doorbells,
        shard: ShardId,
        memory: &GuestRam,
    ) -> bool {
        // A queue in line that has nothing is there for a tail that its turn will read.
        let queue = |&place: &usize| self.sqs.get(place)?.as_ref();
        let mut in_line = self.active.iter().filter_map(queue);
        if self.unread || registers.any_rung(shard) || in_line.any(|sq| sq.waiting() == 0) {
            return true;
        }
        let unseen = |bell: &Bell| bell.is_in_memory() && bell.unseen(registers, memory);
        self.in_memory
            && (self.sqs.iter().flatten().any(|sq| unseen(&sq.bell))
                || self.cqs.iter().flatten().any(|cq| unseen(&cq.bell)))
    }
}

/// Puts a submission queue in line for a turn, unless it is there.
fn activate(sq: &mut SubmissionQueue, place: usize, active: &mut VecDeque<usize>) {
    if !sq.active && sq.deleting.is_none() {
        sq.active = true;
        active.push_back(place);
    }
}

/// Judges a head that the host wrote.
fn read_head(
    cq: &mut CompletionQueue,
    work: &Work<'_>,
    followed: &mut Vec<(u16, Side)>,
) -> Result<(), QueueFault> {
    let registers = &work.shared.doorbells;
    if let Some(rung) = cq.bell.next(registers, work.memory)? {
        lint(work.shared, &cq.bell, rung);
        if let Err(BadDoorbell) = cq.set_head(rung.value) {
            cq.bell.refuse(registers, rung);
            work.shared.fault(FAULT_DOORBELL_VALUE);
        } else if cq.bell.follow(rung) {
            followed.push((cq.qid, Side::CqHead));
        }
    }
    Ok(())
}

/// Judges a tail that the host wrote.
fn read_tail(
    sq: &mut SubmissionQueue,
    work: &Work<'_>,
    followed: &mut Vec<(u16, Side)>,
) -> Result<(), QueueFault> {
    let registers = &work.shared.doorbells;
    if let Some(rung) = sq.bell.next(registers, work.memory)? {
        lint(work.shared, &sq.bell, rung);
        if let Err(BadDoorbell) = sq.set_tail(rung.value) {
            sq.bell.refuse(registers, rung);
            work.shared.fault(FAULT_DOORBELL_VALUE);
        } else if sq.bell.follow(rung) {
            followed.push((sq.qid, Side::SqTail));
        }
    }
    Ok(())
}

/// Has a value looked at that no register write has shown.
fn lint(shared: &Shared, bell: &Bell, rung: Rung) {
    if let Some(lint) = &shared.lint
        && bell.is_in_memory()
    {
        let at = bell.shadow_address().filter(|_| rung.is_from_memory());
        lint.stored(shared, (bell.qid, bell.side), at, rung.value);
    }
}

/// Has the event index looked at that the host is not to write.
fn lint_event_index(shared: &Shared, bell: &Bell, memory: &GuestRam) {
    if let Some(lint) = &shared.lint
        && let Some((at, left, found)) = bell.event_index_written(memory)
    {
        lint.event_index_written((bell.qid, bell.side), at, (left, found));
    }
}

/// Values may come from new buffers from now on, of which the host has not heard yet.
fn lint_turned(shared: &Shared, bell: &Bell) {
    if let Some(lint) = &shared.lint {
        lint.shadowed(bell.qid, bell.side, None);
    }
}
