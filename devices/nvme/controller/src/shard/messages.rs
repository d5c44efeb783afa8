//! What other threads ask of a shard, and what it answers when it is done.

use nvme_spec::Status;

use super::{Lane, format::Draining};
use crate::{
    command::Command,
    ids::{AdminTicket, Epoch},
    io::FlushFor,
    lifecycle::{Event, Lifecycle},
    mailbox::{Answer, Message},
    queue::QueueFault,
    rings::Rings,
    shared::Shared,
    sync::lock,
    trace::Dropped,
    work::Work,
};

/// A reset or shutdown that waits for the commands in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quiescing {
    pub(super) round: Epoch,
    /// A reset: queues are dropped.
    pub(super) drop_queues: bool,
    /// Of a shutdown: what the commands wrote is being flushed.
    flushing: bool,
}

impl Lane {
    pub(super) fn read_mailbox(&mut self, work: &mut Work<'_>) -> Result<(), QueueFault> {
        while let Some(message) = work.shared.mailboxes.get(self.id).and_then(|m| m.take()) {
            match message {
                Message::Enable => self.enable(work),
                Message::Halt => {
                    self.running = false;
                    self.halted = true;
                }
                Message::Quiesce { round, drop_queues } => {
                    self.quiesce(work.shared, round, drop_queues);
                }
                Message::NamespaceChanged { nsid } => {
                    if let Some(admin) = &mut self.admin {
                        admin.namespace_changed(nsid);
                    }
                }
                Message::AddCq { epoch, queue } if epoch == self.epoch => {
                    // A shutdown that was asked for after the command was fetched goes first.
                    let ready = lock(&work.shared.registers).lifecycle == Lifecycle::Ready;
                    self.running = ready && !self.halted && self.quiescing.is_none();
                    self.rings.add_cq(queue);
                }
                Message::AddSq { epoch, queue } if epoch == self.epoch => {
                    self.rings.add_sq(queue);
                }
                Message::DeleteSq { epoch, qid, ticket } if epoch == self.epoch => {
                    self.delete_sq(work, qid, ticket)?;
                }
                Message::DeleteCq { epoch, qid, ticket } if epoch == self.epoch => {
                    if let Some(vector) = self.rings.remove_cq(qid) {
                        // Nothing is to be heard of a queue that is gone.
                        self.interrupts.signal_now(work.shared, vector);
                    }
                    self.answer(work.shared, ticket, Answer::Deleted);
                }
                Message::TurnDoorbells {
                    epoch,
                    buffers,
                    ticket,
                } if epoch == self.epoch => {
                    if let Some((_, earlier)) = self.turning.replace((buffers, ticket)) {
                        self.answer(work.shared, earlier, Answer::Turned);
                    }
                    self.turn_doorbells(work)?;
                }
                Message::Followed { epoch, qid, side } if epoch == self.epoch => {
                    // The end of a reset or shutdown takes doorbells back, once.
                    let ready = lock(&work.shared.registers).lifecycle == Lifecycle::Ready;
                    if let Some(admin) = self.admin.as_ref().filter(|_| ready) {
                        admin.offer_followed(work.shared, qid, side);
                    }
                }
                Message::Drain {
                    epoch,
                    first,
                    last,
                    ticket,
                } if epoch == self.epoch => {
                    self.draining.push(Draining {
                        first,
                        last,
                        ticket,
                    });
                }
                Message::Flush { epoch, ticket } if epoch == self.epoch => {
                    self.io.flush(FlushFor::Command(ticket));
                }
                Message::Abort {
                    epoch,
                    sqid,
                    cid,
                    ticket,
                } if epoch == self.epoch => {
                    let answer = self.abort(work, sqid, cid)?;
                    self.answer(work.shared, ticket, answer);
                }
                Message::Answer {
                    epoch,
                    ticket,
                    answer,
                } if epoch == self.epoch => {
                    self.answered(work, ticket, answer)?;
                }
                // Of before the last reset.
                _ => {}
            }
        }
        Ok(())
    }

    /// Tells shard 0, of this epoch.
    pub(super) fn answer(&self, shared: &Shared, ticket: AdminTicket, answer: Answer) {
        shared.mailboxes.post(
            0,
            Message::Answer {
                epoch: self.epoch,
                ticket,
                answer,
            },
        );
    }

    /// Fetches no more; a reset also drops what no backend has taken.
    fn quiesce(&mut self, shared: &Shared, round: Epoch, drop_queues: bool) {
        self.running = false;
        self.quiescing = Some(Quiescing {
            round,
            drop_queues,
            flushing: false,
        });
        if drop_queues {
            self.io.forget_flushes();
            self.epoch = round;
            self.halted = false;
            self.turning = None;
            self.draining.clear();
            for (command, _) in self.io.take_deferred(shared, |_| true) {
                self.rings.hand_back(command);
            }
            self.io.cancel_erasing();
        }
    }

    /// Takes tails and heads from shadow doorbells, once memory may be accessed.
    pub(super) fn turn_doorbells(&mut self, work: &Work<'_>) -> Result<(), QueueFault> {
        if work.dma
            && let Some((buffers, ticket)) = self.turning.take()
        {
            self.rings.turn_doorbells(work, buffers)?;
            self.answer(work.shared, ticket, Answer::Turned);
        }
        Ok(())
    }

    /// Stops serving a submission queue. What no backend has taken is aborted; the rest is
    /// completed first (Base 5.2.4).
    fn delete_sq(
        &mut self,
        work: &mut Work<'_>,
        qid: u16,
        ticket: AdminTicket,
    ) -> Result<(), QueueFault> {
        let Some(index) = self.rings.delete_sq(qid, ticket) else {
            return Ok(());
        };
        let mut result = Ok(());
        for (command, sqe) in self
            .io
            .take_deferred(work.shared, |command| command.sq == index)
        {
            let aborted = Status::ABORTED_SQ_DELETION;
            result = result.and(self.complete(work, command, &sqe, aborted, 0));
        }
        result
    }

    /// Aborts a command that no backend has taken yet; what one has cannot be taken back.
    fn abort(&mut self, work: &mut Work<'_>, sqid: u16, cid: u16) -> Result<Answer, QueueFault> {
        let index = self.rings.sq_index(sqid);
        let is_it = |command: &Command| Some(command.sq) == index && command.cid() == cid;
        let aborted = self.io.take_deferred(work.shared, is_it);
        if aborted.is_empty() {
            return Ok(Answer::NotAborted);
        }
        // A host that used an identifier twice has asked for both. A fault must not lose the
        // others' slots.
        let mut result = Ok(Answer::Aborted);
        for (command, sqe) in aborted {
            // The other command of a fused operation cannot go on alone.
            let status = match is_it(&command) {
                true => Status::ABORT_REQUESTED,
                false => Status::ABORTED_FAILED_FUSED,
            };
            let posted = self.complete(work, command, &sqe, status, 0);
            result = posted.and(result);
        }
        result
    }

    /// Makes the admin queues, if the registers describe any (Base 3.5.1).
    fn enable(&mut self, work: &Work<'_>) {
        let mut registers = lock(&work.shared.registers);
        let Some(admin) = &mut self.admin else { return };
        // A reset may have been asked for before this message was read.
        if registers.lifecycle != Lifecycle::Enabling {
            return;
        }
        match admin.enable(work.shared, work.memory, &registers, work.now_ns) {
            Ok((cq, sq)) => {
                self.rings = Rings::default();
                self.rings.add_cq(cq);
                self.rings.add_sq(sq);
                self.running = true;
                work.shared.step(&mut registers, Event::Enabled);
            }
            Err(reason) => {
                if let Some(lint) = &work.shared.lint {
                    lint.not_enabled(&registers, reason);
                }
                work.shared.step(&mut registers, Event::EnableFailed);
                drop(registers);
                if work.shared.may_warn() {
                    tracing::warn!(reason, "the controller cannot be enabled");
                }
            }
        }
    }

    /// Another shard, or this one, answers an admin command that waited.
    pub(super) fn answered(
        &mut self,
        work: &mut Work<'_>,
        ticket: AdminTicket,
        answer: Answer,
    ) -> Result<(), QueueFault> {
        let Some(admin) = &mut self.admin else {
            return Ok(());
        };
        let answered = admin.answered(work.shared, ticket, answer);
        let Some((command, sqe, status, dw0)) = answered else {
            return Ok(());
        };
        self.complete(work, command, &sqe, status, dw0)
    }

    /// Tells shard 0 of doorbells whose values come from memory alone now. Before it is told that
    /// their queues are gone.
    pub(super) fn tell_followed(&mut self, shared: &Shared) {
        while let Some((qid, side)) = self.rings.next_followed() {
            let epoch = self.epoch;
            let message = Message::Followed { epoch, qid, side };
            shared.mailboxes.post(0, message);
        }
    }

    /// Answers deletions whose last command is done.
    pub(super) fn finish_deletions(&mut self, work: &Work<'_>) {
        while let Some(ticket) = self.rings.take_deleted() {
            self.answer(work.shared, ticket, Answer::Deleted);
        }
    }

    /// Goes on with flushes that no command asked for, and says which are done.
    pub(super) fn finish_flushes(&mut self, work: &Work<'_>) {
        while let Some((whom, result)) = self.io.flushed(work) {
            match (whom, result) {
                (FlushFor::Command(ticket), Ok(())) => {
                    self.answer(work.shared, ticket, Answer::Flushed);
                }
                (FlushFor::Command(ticket), Err(_)) => {
                    self.answer(work.shared, ticket, Answer::NotFlushed);
                }
                (FlushFor::Shutdown, Ok(())) => {}
                // The host is not told of it: there is nothing more that it could do.
                (FlushFor::Shutdown, Err(error)) if work.shared.may_warn() => {
                    tracing::warn!(%error, "what was written may not outlive the shutdown");
                }
                (FlushFor::Shutdown, Err(_)) => {}
            }
        }
    }

    /// Reports a reset or shutdown when nothing is in flight any more.
    pub(super) fn finish_quiescing(&mut self, work: &Work<'_>) {
        let Some(Quiescing {
            round,
            drop_queues,
            flushing,
        }) = self.quiescing
        else {
            return;
        };
        let shared = work.shared;
        // A shutdown also completes the admin commands that wait for shards to answer.
        let waiting = self.admin.as_ref().is_some_and(|admin| admin.has_waiting());
        if !self.io.is_idle() || !self.unposted.is_empty() || (waiting && !drop_queues) {
            return;
        }
        if !drop_queues {
            if !flushing {
                // From its end on the host may switch the power off (Base 3.6.1).
                self.io.flush(FlushFor::Shutdown);
                let flushing = self.quiescing.as_mut().map(|it| &mut it.flushing);
                flushing.into_iter().for_each(|it| *it = true);
                self.finish_flushes(work);
            }
            if self.io.is_flushing() {
                return;
            }
        }
        self.quiescing = None;
        if !drop_queues {
            if let Some(admin) = &self.admin {
                admin.shut_down(shared);
            }
        } else {
            if let Some(admin) = &mut self.admin {
                for command in admin.reset(shared, work.now_ns) {
                    self.rings.hand_back(command);
                }
            }
            self.rings = Rings::default();
            self.interrupts.clear();
            if let Some(observer) = &mut self.observer {
                observer.end_all(shared, Dropped::Reset);
            }
        }
        shared.quiesced(round);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        sync::{Arc, Mutex},
    };

    use nvme_spec::{
        Sqe,
        registers::{Cc, Register, Shn},
    };
    use storage::{GuestRam, GuestRamHandle, null::Null};
    use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};
    use zerocopy::IntoBytes;

    use crate::{
        Controller, ControllerConfig, DoorbellWakes, Interrupt, NamespaceConfig, Shard,
        doorbell::Side,
        lifecycle::Lifecycle,
        mailbox::Message,
        queue::{CompletionQueue, SubmissionQueue},
        sync::lock,
    };

    struct Nowhere;

    impl Interrupt for Nowhere {
        fn signal(&self, _: u16) {}
    }

    fn two_shards() -> (Controller, Vec<Shard>) {
        let memory = GuestRam::from_ranges(&[(GuestAddress(0), 0x10000)]).expect("memory");
        let config = ControllerConfig {
            namespaces: vec![NamespaceConfig::new(Arc::new(Null::new(1 << 20)), 512)],
            shards: 2,
            ..ControllerConfig::default()
        };
        let handle = GuestRamHandle::new(memory);
        Controller::new(config, handle, Arc::new(Nowhere)).expect("valid")
    }

    /// Shard 0 may be making a queue while the host resets: the other shard may be done with the
    /// reset before it hears of the queue.
    #[test]
    fn a_queue_of_before_a_reset_is_not_served_after_it() {
        let (_, mut shards) = two_shards();
        let shard = &mut shards[1];
        let shared = shard.shared.clone();
        let post = |message| shared.mailboxes.post(1, message);
        let add = |epoch| Message::AddCq {
            epoch,
            queue: CompletionQueue::new(2, 0, 2, Some(3)),
        };
        post(Message::Quiesce {
            round: 1,
            drop_queues: true,
        });
        shard.poll(0, 1);
        post(add(0));
        shard.poll(0, 1);
        assert_eq!(shard.lane.rings.remove_cq(2), None);
        post(add(1));
        shard.poll(0, 1);
        assert_eq!(shard.lane.rings.remove_cq(2), Some(3));
    }

    /// The same with a shutdown, which keeps queues.
    #[test]
    fn a_queue_that_arrives_after_a_shutdown_is_not_served() {
        for shuts_down in [false, true] {
            let (controller, mut shards) = two_shards();
            let write = |register: Register, value: u32| {
                controller.bar_write(register.offset(), &value.to_le_bytes());
            };
            let poll = |shards: &mut Vec<Shard>| -> u32 {
                let polls = shards.iter_mut().map(|shard| shard.poll(0, 8));
                polls.map(|progress| progress.commands).sum()
            };
            write(Register::Aqa, 0x000F_000F);
            write(Register::Acq, 0x1000);
            let cc = Cc::new().with_en(true);
            write(Register::Cc, cc.into());
            poll(&mut shards);
            assert_eq!(controller.lifecycle(), Lifecycle::Ready);
            if shuts_down {
                write(Register::Cc, cc.with_shn(Shn::Normal).into());
                poll(&mut shards);
                let state = controller.lifecycle();
                assert_eq!(state, Lifecycle::ShutDown { rdy: true });
            }
            let shared = shards[1].shared.clone();
            let epoch = shards[1].lane.epoch;
            let queue = CompletionQueue::new(2, 0x2000, 16, None);
            shared.mailboxes.post(1, Message::AddCq { epoch, queue });
            let queue = SubmissionQueue::new(2, 0x3000, 16, 2);
            shared.mailboxes.post(1, Message::AddSq { epoch, queue });
            shared.doorbells.open(2, Side::SqTail, 1);
            poll(&mut shards);
            shared.ring(2, Side::SqTail, 1);
            assert_eq!(poll(&mut shards), u32::from(!shuts_down));
        }
    }

    /// Offsets of the doorbells that are offered.
    #[derive(Default)]
    struct Offered(Mutex<BTreeSet<u64>>);

    impl DoorbellWakes for Offered {
        fn attach(&self, offset: u64, _: u16) {
            lock(&self.0).insert(offset);
        }

        fn detach(&self, offset: u64) {
            lock(&self.0).remove(&offset);
        }
    }

    /// The shard that has the queue may find a value in memory while shard 0 ends everything.
    #[test]
    fn a_doorbell_that_is_found_in_memory_too_late_is_not_offered() {
        for resets in [false, true] {
            let (controller, mut shards) = two_shards();
            let offered = Arc::new(Offered::default());
            controller.set_doorbell_wakes(offered.clone());
            let shared = shards[0].shared.clone();
            let write =
                |offset: u64, value: u32| controller.bar_write(offset, &value.to_le_bytes());
            let poll = |shards: &mut Vec<Shard>| {
                for _ in 0..4 {
                    shards.iter_mut().for_each(|shard| {
                        shard.poll(0, 8);
                    });
                }
            };
            write(Register::Aqa.offset(), 0x000F_000F);
            write(Register::Acq.offset(), 0x1000);
            write(Register::Asq.offset(), 0x2000);
            let cc = Cc::new().with_en(true).with_iocqes(4).with_iosqes(6);
            write(Register::Cc.offset(), cc.into());
            poll(&mut shards);
            let commands = [
                Sqe {
                    opcode: 0x05,
                    prp1: 0x3000,
                    cdw10: 0x000F_0002,
                    cdw11: 1,
                    ..Sqe::default()
                },
                Sqe {
                    opcode: 0x7C,
                    prp1: 0x4000,
                    prp2: 0x5000,
                    ..Sqe::default()
                },
            ];
            for (tail, sqe) in (1..).zip(commands) {
                let at = GuestAddress(0x2000 + u64::from(tail - 1) * 64);
                let memory = shared.memory.memory();
                memory.write_slice(sqe.as_bytes(), at).expect("mapped");
                write(0x1000, tail);
                poll(&mut shards);
            }
            let epoch = shards[0].lane.epoch;
            let found = |qid, side| {
                shared
                    .mailboxes
                    .post(0, Message::Followed { epoch, qid, side });
            };
            let count = || lock(&offered.0).len();
            found(2, Side::CqHead);
            // These are none.
            found(2, Side::SqTail);
            found(1, Side::CqHead);
            found(u16::MAX, Side::CqHead);
            poll(&mut shards);
            assert_eq!(count(), 1);
            let end = match resets {
                true => cc.with_en(false),
                false => cc.with_shn(Shn::Normal),
            };
            write(Register::Cc.offset(), end.into());
            poll(&mut shards);
            assert_eq!(count(), 0, "taken back");
            found(2, Side::CqHead);
            poll(&mut shards);
            assert_eq!(count(), 0, "offered late");
        }
    }

    /// Shard 0 opens a doorbell before the queue's shard has its message.
    #[test]
    fn a_doorbell_rung_before_the_queue_is_heard_of_is_looked_at() {
        let (_controller, mut shards) = two_shards();
        let shard = &mut shards[1];
        shard.lane.running = true;
        let (shared, epoch) = (shard.shared.clone(), shard.lane.epoch);
        let queue = CompletionQueue::new(2, 0x2000, 16, None);
        shard.lane.rings.add_cq(queue);
        shard.poll(0, 8);
        shared.doorbells.open(2, Side::SqTail, 1);
        shared.ring(2, Side::SqTail, 3);
        // The bit is taken while nobody has the queue.
        assert_eq!(shard.poll(0, 8).commands, 0);
        let queue = SubmissionQueue::new(2, 0x3000, 16, 2);
        shared.mailboxes.post(1, Message::AddSq { epoch, queue });
        assert_eq!(shard.poll(0, 8).commands, 3);
    }
}
