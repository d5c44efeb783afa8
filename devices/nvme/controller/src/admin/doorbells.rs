//! Doorbell Buffer Config (Base 5.2.5), and the doorbells that a front end may take over.

use std::sync::atomic::Ordering;

use nvme_spec::{Sqe, Status};

use super::{Admin, AdminContext, Handled, Outcome, Wait, queues::is_memory};
use crate::{
    doorbell::Side,
    ids::ShardId,
    mailbox::Message,
    shadow::{Bell, ShadowBuffers, doorbell_offset},
    shared::Shared,
};

impl Admin {
    /// Doorbell Buffer Config: every shard turns to the buffers before the command completes.
    /// Given again, it moves to other buffers; a reset turns back to registers.
    pub(super) fn doorbell_buffer_config(&mut self, cx: &AdminContext<'_>, sqe: &Sqe) -> Handled {
        let page_bytes = cx.shared.settings.page_bytes.load(Ordering::Relaxed);
        let buffers = ShadowBuffers {
            shadow: sqe.prp1,
            event: sqe.prp2,
        };
        for address in [buffers.shadow, buffers.event] {
            // Each is a whole page; a table row offers the command only if all entries fit.
            if !address.is_multiple_of(page_bytes) || !is_memory(cx.memory, address, page_bytes) {
                return Err(Status::INVALID_FIELD.dnr());
            }
        }
        let (epoch, left) = (cx.epoch, cx.shared.config.shards);
        let ticket = self.ticket(Wait::TurnDoorbells { left });
        for shard in 0..left {
            let message = Message::TurnDoorbells {
                epoch,
                buffers,
                ticket,
            };
            cx.shared.mailboxes.post(shard, message);
        }
        self.shadow = Some(buffers);
        Ok(Outcome::Waits(ticket))
    }

    /// The doorbell of a queue that is about to be made.
    ///
    /// # Errors
    /// `DATA_TRANSFER_ERROR` when the shadow doorbells are not memory any more.
    pub(super) fn doorbell(
        &self,
        cx: &AdminContext<'_>,
        qid: u16,
        side: Side,
    ) -> Result<Bell, Status> {
        match self.shadow {
            None => Ok(Bell::trapped(qid, side)),
            Some(buffers) => Bell::shadow(qid, side, cx.memory, buffers)
                .map_err(|_| Status::DATA_TRANSFER_ERROR.dnr()),
        }
    }

    /// Lets rings of a new queue's doorbell come in.
    pub(super) fn open_doorbell(&self, shared: &Shared, qid: u16, side: Side, shard: ShardId) {
        shared.doorbells.open(qid, side, shard);
        if self.shadow.is_some() {
            shared.doorbells.turn(qid, side);
            offer_doorbell(shared, qid, side, shard);
        }
    }

    /// The values of a queue of before the command come from memory alone now. The queue may be
    /// gone, or another's.
    pub(crate) fn offer_followed(&self, shared: &Shared, qid: u16, side: Side) {
        if let Some(shard) = self.queues.served_by(shared, qid, side)
            && self.shadow.is_some()
        {
            offer_doorbell(shared, qid, side, shard);
        }
    }
}

/// Offers the front end a doorbell whose register only says when to look.
fn offer_doorbell(shared: &Shared, qid: u16, side: Side, shard: ShardId) {
    // A host that is checked is heard whenever it rings.
    if shared.lint.is_none()
        && let Some(wakes) = shared.doorbell_wakes()
    {
        wakes.attach(doorbell_offset(qid, side), shard);
    }
}

/// Takes a doorbell back from the front end.
pub(super) fn detach_doorbell(shared: &Shared, qid: u16, side: Side) {
    if let Some(wakes) = shared.doorbell_wakes() {
        wakes.detach(doorbell_offset(qid, side));
    }
}

/// Refuses rings of a doorbell from now on.
pub(super) fn close_doorbell(shared: &Shared, qid: u16, side: Side) {
    detach_doorbell(shared, qid, side);
    shared.doorbells.close(qid, side);
}
