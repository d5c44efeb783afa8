//! Create and Delete I/O queues (Base 5.2.1 to 5.2.4), and which exist.

use std::sync::atomic::Ordering;

use nvme_spec::{
    CQE_BYTES, SQE_BYTES, Sqe, Status,
    queue::{CreateCqCdw11, CreateSqCdw11, QueueCdw10},
    registers::{CQE_LOG2, SQE_LOG2},
};
use storage::GuestRam;
use vm_memory::{GuestAddress, GuestMemoryBackend};

use super::{
    Admin, AdminContext, Handled, Outcome, Wait,
    doorbells::{close_doorbell, detach_doorbell},
};
use crate::{
    doorbell::Side,
    ids::ShardId,
    lint::Kind,
    mailbox::Message,
    queue::{CompletionQueue, SubmissionQueue},
    shared::Shared,
    sync::lock,
};

/// The I/O queues that exist, by identifier.
#[derive(Debug)]
pub(super) struct Queues {
    /// Submission queues bound to each completion queue; `None` where there is no queue.
    cqs: Vec<Option<CqEntry>>,
    sqs: Vec<Option<SqEntry>>,
}

#[derive(Clone, Copy, Debug)]
struct CqEntry {
    bound: u32,
    deleting: bool,
}

#[derive(Clone, Copy, Debug)]
struct SqEntry {
    cqid: u16,
    deleting: bool,
}

impl Queues {
    pub(super) fn new(io_queues: u16) -> Self {
        let entries = usize::from(io_queues) + 1;
        Self {
            cqs: vec![None; entries],
            sqs: vec![None; entries],
        }
    }

    /// Whether any I/O queue exists.
    pub(super) fn any(&self) -> bool {
        self.cqs.iter().any(Option::is_some)
    }

    /// The shard that serves a submission queue.
    pub(super) fn shard_of_sq(&self, shared: &Shared, qid: u16) -> Option<ShardId> {
        let entry = self.sqs.get(usize::from(qid)).copied().flatten()?;
        Some(shared.shard_of_cq(entry.cqid))
    }

    /// The shard that serves a queue, unless it is being deleted.
    pub(super) fn served_by(&self, shared: &Shared, qid: u16, side: Side) -> Option<ShardId> {
        let index = usize::from(qid);
        let cqid = match side {
            Side::SqTail => {
                let sq = self.sqs.get(index).copied().flatten();
                sq.filter(|sq| !sq.deleting)?.cqid
            }
            Side::CqHead => {
                let cq = self.cqs.get(index).copied().flatten();
                cq.filter(|cq| !cq.deleting).map(|_| qid)?
            }
        };
        Some(shared.shard_of_cq(cqid))
    }

    /// A submission queue is gone.
    pub(super) fn sq_deleted(&mut self, shared: &Shared, qid: u16) {
        let Some(entry) = self.sqs.get_mut(usize::from(qid)).and_then(Option::take) else {
            return;
        };
        close_doorbell(shared, qid, Side::SqTail);
        if let Some(lint) = &shared.lint {
            lint.deleted(Kind::Submission, qid);
        }
        if let Some(Some(cq)) = self.cqs.get_mut(usize::from(entry.cqid)) {
            cq.bound = cq.bound.saturating_sub(1);
        }
    }

    /// A completion queue is gone.
    pub(super) fn cq_deleted(&mut self, shared: &Shared, qid: u16) {
        if self
            .cqs
            .get_mut(usize::from(qid))
            .and_then(Option::take)
            .is_some()
        {
            close_doorbell(shared, qid, Side::CqHead);
            if let Some(lint) = &shared.lint {
                lint.deleted(Kind::Completion, qid);
            }
        }
    }

    /// No doorbell is a front end's any more.
    pub(super) fn detach_all(&self, shared: &Shared) {
        for (qid, (cq, sq)) in (0..=u16::MAX).zip(self.cqs.iter().zip(&self.sqs)) {
            if cq.is_some() {
                detach_doorbell(shared, qid, Side::CqHead);
            }
            if sq.is_some() {
                detach_doorbell(shared, qid, Side::SqTail);
            }
        }
    }

    /// Every queue is gone.
    pub(super) fn close_all(&mut self, shared: &Shared) {
        for (qid, (cq, sq)) in (0..=u16::MAX).zip(self.cqs.iter_mut().zip(&mut self.sqs)) {
            if cq.take().is_some() {
                close_doorbell(shared, qid, Side::CqHead);
            }
            if sq.take().is_some() {
                close_doorbell(shared, qid, Side::SqTail);
            }
        }
    }
}

/// Bytes of a submission queue.
pub(super) fn sq_bytes(entries: u32) -> u64 {
    u64::from(entries) * SQE_BYTES as u64
}

/// Bytes of a completion queue.
pub(super) fn cq_bytes(entries: u32) -> u64 {
    u64::from(entries) * CQE_BYTES as u64
}

/// Whether a range is guest memory.
pub(super) fn is_memory(memory: &GuestRam, base: u64, bytes: u64) -> bool {
    usize::try_from(bytes).is_ok_and(|bytes| memory.check_range(GuestAddress(base), bytes))
}

/// The entries that a create command asks for.
fn entries(cx: &AdminContext<'_>, cdw10: QueueCdw10) -> Result<u32, Status> {
    let entries = u32::from(cdw10.qsize_z()) + 1;
    if entries < 2 || entries > cx.shared.config.queue_entries {
        return Err(Status::INVALID_QUEUE_SIZE.dnr());
    }
    Ok(entries)
}

/// Checks where a create command wants its queue.
fn place(
    cx: &AdminContext<'_>,
    pc: bool,
    (kind, qid): (Kind, u16),
    prp1: u64,
    entries: u32,
) -> Result<(), Status> {
    // CAP.CQR: queues are physically contiguous.
    if !pc {
        return Err(Status::INVALID_FIELD.dnr());
    }
    let page_bytes = cx.shared.settings.page_bytes.load(Ordering::Relaxed);
    if !prp1.is_multiple_of(page_bytes) {
        return Err(Status::INVALID_PRP_OFFSET.dnr());
    }
    let bytes = match kind {
        Kind::Submission => sq_bytes(entries),
        Kind::Completion => cq_bytes(entries),
    };
    if !is_memory(cx.memory, prp1, bytes) {
        if let Some(lint) = &cx.shared.lint {
            lint.nowhere(kind, qid, prp1, entries);
        }
        return Err(Status::INVALID_FIELD.dnr());
    }
    Ok(())
}

impl Admin {
    /// Create I/O Completion Queue (Base 5.2.1).
    pub(super) fn create_cq(&mut self, cx: &AdminContext<'_>, sqe: &Sqe) -> Handled {
        let (cdw10, cdw11) = (QueueCdw10::from(sqe.cdw10), CreateCqCdw11::from(sqe.cdw11));
        let qid = cdw10.qid();
        if !matches!(self.queues.cqs.get(usize::from(qid)), Some(None)) || qid == 0 {
            return Err(Status::INVALID_QUEUE_IDENTIFIER.dnr());
        }
        let entries = entries(cx, cdw10)?;
        if lock(&cx.shared.registers).cc.iocqes() != CQE_LOG2 {
            return Err(Status::INVALID_QUEUE_SIZE.dnr());
        }
        if cdw11.iv() >= cx.shared.config.vectors {
            return Err(Status::INVALID_INTERRUPT_VECTOR.dnr());
        }
        place(cx, cdw11.pc(), (Kind::Completion, qid), sqe.prp1, entries)?;
        let vector = cdw11.ien().then_some(cdw11.iv());
        let mut queue = CompletionQueue::new(qid, sqe.prp1, entries, vector);
        queue.bell = self.doorbell(cx, qid, Side::CqHead)?;
        let shard = cx.shared.shard_of_cq(qid);
        if let Some(slot) = self.queues.cqs.get_mut(usize::from(qid)) {
            *slot = Some(CqEntry {
                bound: 0,
                deleting: false,
            });
        }
        if let Some(lint) = &cx.shared.lint {
            lint.created(cx.memory, Kind::Completion, qid, sqe.prp1, entries);
            lint.shadowed(qid, Side::CqHead, queue.bell.shadow_address());
        }
        self.open_doorbell(cx.shared, qid, Side::CqHead, shard);
        cx.shared.mailboxes.post(
            shard,
            Message::AddCq {
                epoch: cx.epoch,
                queue,
            },
        );
        Ok(Outcome::SUCCESS)
    }

    /// Create I/O Submission Queue (Base 5.2.2).
    pub(super) fn create_sq(&mut self, cx: &AdminContext<'_>, sqe: &Sqe) -> Handled {
        let (cdw10, cdw11) = (QueueCdw10::from(sqe.cdw10), CreateSqCdw11::from(sqe.cdw11));
        let (qid, cqid) = (cdw10.qid(), cdw11.cqid());
        if !matches!(self.queues.sqs.get(usize::from(qid)), Some(None)) || qid == 0 {
            return Err(Status::INVALID_QUEUE_IDENTIFIER.dnr());
        }
        match self.queues.cqs.get(usize::from(cqid)) {
            Some(Some(cq)) if !cq.deleting => {}
            Some(_) if cqid != 0 => return Err(Status::COMPLETION_QUEUE_INVALID.dnr()),
            // The admin queue's, or an identifier that no queue can have.
            _ => return Err(Status::INVALID_QUEUE_IDENTIFIER.dnr()),
        }
        let entries = entries(cx, cdw10)?;
        if lock(&cx.shared.registers).cc.iosqes() != SQE_LOG2 {
            return Err(Status::INVALID_QUEUE_SIZE.dnr());
        }
        place(cx, cdw11.pc(), (Kind::Submission, qid), sqe.prp1, entries)?;
        let mut queue = SubmissionQueue::new(qid, sqe.prp1, entries, cqid);
        queue.bell = self.doorbell(cx, qid, Side::SqTail)?;
        let shard = cx.shared.shard_of_cq(cqid);
        if let Some(slot) = self.queues.sqs.get_mut(usize::from(qid)) {
            *slot = Some(SqEntry {
                cqid,
                deleting: false,
            });
        }
        if let Some(Some(cq)) = self.queues.cqs.get_mut(usize::from(cqid)) {
            cq.bound += 1;
        }
        if let Some(lint) = &cx.shared.lint {
            lint.created(cx.memory, Kind::Submission, qid, sqe.prp1, entries);
            lint.shadowed(qid, Side::SqTail, queue.bell.shadow_address());
        }
        self.open_doorbell(cx.shared, qid, Side::SqTail, shard);
        cx.shared.mailboxes.post(
            shard,
            Message::AddSq {
                epoch: cx.epoch,
                queue,
            },
        );
        Ok(Outcome::SUCCESS)
    }

    /// Delete I/O Completion Queue (Base 5.2.3).
    pub(super) fn delete_cq(&mut self, cx: &AdminContext<'_>, sqe: &Sqe) -> Handled {
        let qid = QueueCdw10::from(sqe.cdw10).qid();
        match self.queues.cqs.get_mut(usize::from(qid)) {
            Some(Some(cq)) if cq.bound > 0 => return Err(Status::INVALID_QUEUE_DELETION.dnr()),
            Some(Some(cq)) if !cq.deleting => cq.deleting = true,
            _ => return Err(Status::INVALID_QUEUE_IDENTIFIER.dnr()),
        }
        let (epoch, ticket) = (cx.epoch, self.ticket(Wait::DeleteCq { qid }));
        let shard = cx.shared.shard_of_cq(qid);
        cx.shared
            .mailboxes
            .post(shard, Message::DeleteCq { epoch, qid, ticket });
        Ok(Outcome::Waits(ticket))
    }

    /// Delete I/O Submission Queue (Base 5.2.4): its commands end first.
    pub(super) fn delete_sq(&mut self, cx: &AdminContext<'_>, sqe: &Sqe) -> Handled {
        let qid = QueueCdw10::from(sqe.cdw10).qid();
        let shard = self.queues.shard_of_sq(cx.shared, qid);
        match (self.queues.sqs.get_mut(usize::from(qid)), shard) {
            (Some(Some(sq)), Some(shard)) if !sq.deleting => {
                sq.deleting = true;
                let (epoch, ticket) = (cx.epoch, self.ticket(Wait::DeleteSq { qid }));
                cx.shared
                    .mailboxes
                    .post(shard, Message::DeleteSq { epoch, qid, ticket });
                Ok(Outcome::Waits(ticket))
            }
            _ => Err(Status::INVALID_QUEUE_IDENTIFIER.dnr()),
        }
    }
}
