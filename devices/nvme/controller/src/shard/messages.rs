//! What other threads ask of a shard, and what it answers when it is done.

use super::Shard;
use crate::{
    ids::Epoch,
    lifecycle::Event,
    mailbox::{Answer, Message},
    queue::QueueFault,
    rings::Rings,
    shared::Shared,
    sync::lock,
    work::Work,
};
use nvme_spec::Status;

/// A reset or shutdown that waits for the commands in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quiescing {
    pub(super) epoch: Epoch,
    /// The host has reset the controller: its queues are not to be touched any more.
    pub(super) drop_queues: bool,
}

impl Shard {
    pub(super) fn read_mailbox(&mut self, work: &mut Work<'_>) -> Result<(), QueueFault> {
        while let Some(message) = work.shared.mailboxes.get(self.id).and_then(|m| m.take()) {
            match message {
                Message::Enable => self.enable(work),
                Message::Halt => self.running = false,
                Message::Quiesce { epoch, drop_queues } => {
                    self.running = false;
                    self.epoch = epoch;
                    self.quiescing = Some(Quiescing { epoch, drop_queues });
                }
                Message::AddCq { epoch, queue } if epoch == self.epoch => {
                    self.running = true;
                    self.rings.add_cq(queue);
                }
                Message::AddSq { epoch, queue } if epoch == self.epoch => {
                    self.rings.add_sq(queue);
                }
                Message::DeleteSq { epoch, qid, ticket } if epoch == self.epoch => {
                    self.rings.delete_sq(qid, ticket);
                }
                Message::DeleteCq { epoch, qid, ticket } if epoch == self.epoch => {
                    self.rings.remove_cq(qid);
                    let answer = Answer::Deleted;
                    work.shared.mailboxes.post(
                        0,
                        Message::Answer {
                            epoch,
                            ticket,
                            answer,
                        },
                    );
                }
                Message::Abort {
                    epoch,
                    sqid,
                    cid,
                    ticket,
                } if epoch == self.epoch => {
                    let answer = self.abort(work, sqid, cid)?;
                    work.shared.mailboxes.post(
                        0,
                        Message::Answer {
                            epoch,
                            ticket,
                            answer,
                        },
                    );
                }
                Message::Answer {
                    epoch,
                    ticket,
                    answer,
                } if epoch == self.epoch => {
                    self.answered(work, ticket, answer)?;
                }
                // Of an epoch that is over.
                _ => {}
            }
        }
        Ok(())
    }

    /// Aborts a command that no backend has taken yet; what one has cannot be taken back.
    pub(super) fn abort(
        &mut self,
        work: &mut Work<'_>,
        sqid: u16,
        cid: u16,
    ) -> Result<Answer, QueueFault> {
        let aborted = self
            .rings
            .sq_index(sqid)
            .and_then(|sq| self.io.abort(sq, cid));
        let Some((command, sqe)) = aborted else {
            return Ok(Answer::NotAborted);
        };
        self.complete(work, command, &sqe, Status::ABORT_REQUESTED, 0)?;
        Ok(Answer::Aborted)
    }

    /// Makes the admin queues, if the registers describe any (Base 3.5.1).
    pub(super) fn enable(&mut self, work: &Work<'_>) {
        let mut registers = lock(&work.shared.registers);
        let Some(admin) = &mut self.admin else { return };
        match admin.enable(work.shared, work.memory, &registers) {
            Ok((cq, sq)) => {
                self.rings = Rings::default();
                self.rings.add_cq(cq);
                self.rings.add_sq(sq);
                self.running = true;
                work.shared.step(&mut registers, Event::Enabled);
            }
            Err(reason) => {
                tracing::warn!(reason, "the controller cannot be enabled");
                work.shared.step(&mut registers, Event::EnableFailed);
            }
        }
        // A reset may have been asked for before this message was read.
        self.running &= registers.lifecycle.runs();
    }

    /// Another shard, or this one, answers an admin command that waited.
    pub(super) fn answered(
        &mut self,
        work: &mut Work<'_>,
        ticket: u16,
        answer: Answer,
    ) -> Result<(), QueueFault> {
        let Some(admin) = &mut self.admin else {
            return Ok(());
        };
        let Some((command, sqe, dw0)) = admin.answered(work.shared, ticket, answer) else {
            return Ok(());
        };
        self.complete(work, command, &sqe, Status::SUCCESS, dw0)
    }

    /// Answers deletions whose last command is done.
    pub(super) fn finish_deletions(&mut self, work: &Work<'_>) {
        while let Some(ticket) = self.rings.take_deleted() {
            let (epoch, answer) = (self.epoch, Answer::Deleted);
            work.shared.mailboxes.post(
                0,
                Message::Answer {
                    epoch,
                    ticket,
                    answer,
                },
            );
        }
    }

    /// Reports a reset or shutdown when nothing is in flight any more.
    pub(super) fn finish_quiescing(&mut self, shared: &Shared) {
        if !self.io.is_idle() {
            return;
        }
        let Some(Quiescing { epoch, drop_queues }) = self.quiescing.take() else {
            return;
        };
        if drop_queues {
            if let Some(admin) = &mut self.admin {
                for command in admin.reset(shared) {
                    self.rings.hand_back(command);
                }
            }
            self.rings = Rings::default();
            self.interrupts.clear();
            self.turn = 0;
        }
        shared.quiesced(epoch);
    }
}
