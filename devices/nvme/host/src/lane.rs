//! A queue pair without bookkeeping, for whoever counts nanoseconds.

use nvme_spec::queue::{Cqe, Sqe};

use crate::queue::{CompletionQueue, SubmissionQueue};
use crate::queues::peek;
use crate::shadow::tell;
use crate::{Driver, Error, ShadowDoorbells, Transport};

/// An I/O queue pair taken out of its driver by [`Driver::take_lane`]: entries go in and come out
/// as they are, and doorbells are told when the caller says so.
///
/// The caller keeps identifiers apart, and never has as many commands outstanding as the
/// submission queue has entries.
#[derive(Debug)]
pub struct Lane {
    sq: SubmissionQueue,
    cq: CompletionQueue,
    qid: u16,
    shadow: Option<ShadowDoorbells>,
    /// SQHD of the last completion.
    sqhd: Option<u16>,
    commands: u64,
    completions: u64,
    doorbells: u64,
    doorbell_writes: u64,
}

impl Lane {
    /// Stores an entry behind the last one, without a doorbell.
    #[inline]
    pub fn store<T: Transport + ?Sized>(&mut self, transport: &mut T, sqe: &Sqe) {
        self.sq.store(transport, sqe);
        self.commands += 1;
    }

    /// Tells the controller of the entries stored since the last time.
    #[inline]
    pub fn ring<T: Transport + ?Sized>(&mut self, transport: &mut T) {
        let change = self.sq.tell_tail();
        let written = tell(transport, self.shadow.as_ref(), self.sq.doorbell, change);
        self.doorbells += 1;
        self.doorbell_writes += u64::from(written);
    }

    /// Takes the next completion if it is there.
    #[inline]
    pub fn next<T: Transport + ?Sized>(&mut self, transport: &T) -> Option<Cqe> {
        let cqe = self.cq.next(transport)?;
        self.sqhd = Some(cqe.sqhd);
        self.completions += 1;
        Some(cqe)
    }

    /// Tells the controller which completions were taken, if any since the last time.
    #[inline]
    pub fn ack<T: Transport + ?Sized>(&mut self, transport: &mut T) {
        if let Some(change) = self.cq.tell_head() {
            let written = tell(transport, self.shadow.as_ref(), self.cq.doorbell, change);
            self.doorbells += 1;
            self.doorbell_writes += u64::from(written);
        }
    }

    /// Commands stored that were not completed yet.
    #[must_use]
    pub const fn outstanding(&self) -> u64 {
        self.commands - self.completions
    }

    /// Doorbell registers written so far: without shadow doorbells as many as were told.
    #[must_use]
    pub const fn doorbell_writes(&self) -> u64 {
        self.doorbell_writes
    }
}

impl<T: Transport + ?Sized> Driver<'_, T> {
    /// Takes the submission queue and the completion queue `qid` out of the driver, which has
    /// no such queues until [`return_lane`](Self::return_lane).
    ///
    /// # Errors
    /// [`Error::NoSubmissionQueue`] also for one that is bound to another completion queue or has
    /// commands outstanding; [`Error::NoCompletionQueue`].
    pub fn take_lane(&mut self, qid: u16) -> Result<Lane, Error> {
        let no_sq = Error::NoSubmissionQueue { sqid: qid };
        peek(&self.cqs, qid).ok_or(Error::NoCompletionQueue { cqid: qid })?;
        peek(&self.sqs, qid)
            .filter(|sq| qid != 0 && sq.cqid == qid && !sq.deleted && sq.outstanding() == 0)
            .ok_or(no_sq)?;
        let index = usize::from(qid);
        let sq = self.sqs.get_mut(index).and_then(Option::take);
        let cq = self.cqs.get_mut(index).and_then(Option::take);
        let (Some(sq), Some(cq)) = (sq, cq) else {
            return Err(no_sq);
        };
        Ok(Lane {
            sq,
            cq,
            qid,
            shadow: self.shadow,
            sqhd: None,
            commands: 0,
            completions: 0,
            doorbells: 0,
            doorbell_writes: 0,
        })
    }

    /// Takes a pair back; every command must have been completed. Its counts are added to the
    /// driver's.
    pub fn return_lane(&mut self, lane: Lane) {
        let Lane {
            mut sq, cq, qid, ..
        } = lane;
        if let Some(sqhd) = lane.sqhd {
            sq.note_head(sqhd);
        }
        self.stats.commands += lane.commands;
        self.stats.completions += lane.completions;
        self.stats.doorbells += lane.doorbells;
        self.stats.doorbell_writes += lane.doorbell_writes;
        let index = usize::from(qid);
        // Both had this place before.
        if let (Some(sq_place), Some(cq_place)) = (self.sqs.get_mut(index), self.cqs.get_mut(index))
        {
            *sq_place = Some(sq);
            *cq_place = Some(cq);
        }
    }
}
