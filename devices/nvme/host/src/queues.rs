//! Creating and deleting I/O queues, and their doorbells.

use nvme_spec::queue::CreateSqCdw11;
use nvme_spec::registers::{cq_head_doorbell, sq_tail_doorbell};
use nvme_spec::{CQE_BYTES, SQE_BYTES};

use crate::driver::{check, size_z};
use crate::queue::{CompletionQueue, MAX_QUEUE_ENTRIES, Place, SubmissionQueue};
use crate::shadow::tell;
use crate::{Buffer, Driver, Error, Transport, command};

/// How an I/O completion queue is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CqConfig {
    /// Its identifier, from 1.
    pub qid: u16,
    /// Entries, 2 to 65,536.
    pub entries: u32,
    /// The interrupt vector; `None` enables no interrupt.
    pub vector: Option<u16>,
    /// Waits sleep until the vector's interrupt instead of polling.
    pub sleep: bool,
    /// Page-aligned memory to use; `None` allocates it.
    pub memory: Option<u64>,
}

impl CqConfig {
    /// A polled queue.
    #[must_use]
    pub const fn new(qid: u16, entries: u32) -> Self {
        Self {
            qid,
            entries,
            vector: None,
            sleep: false,
            memory: None,
        }
    }
}

/// How an I/O submission queue is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SqConfig {
    /// Its identifier, from 1.
    pub qid: u16,
    /// The completion queue it is bound to.
    pub cqid: u16,
    /// Entries, 2 to 65,536.
    pub entries: u32,
    /// QPRIO: 0 urgent to 3 low; used with weighted round robin alone.
    pub qprio: u8,
    /// Page-aligned memory to use; `None` allocates it.
    pub memory: Option<u64>,
}

impl SqConfig {
    /// A queue of no particular priority.
    #[must_use]
    pub const fn new(qid: u16, cqid: u16, entries: u32) -> Self {
        Self {
            qid,
            cqid,
            entries,
            qprio: 0,
            memory: None,
        }
    }
}

impl<T: Transport + ?Sized> Driver<'_, T> {
    /// Creates an I/O completion queue.
    ///
    /// # Errors
    /// [`Error::Status`] when the controller refuses; memory and command errors.
    pub fn create_cq(&mut self, config: &CqConfig) -> Result<(), Error> {
        let memory = self.place_cq(config)?;
        let sqe = command::create_cq(
            config.qid,
            size_z(config.entries),
            memory.address,
            config.vector,
        );
        let done = self.admin_ok(sqe);
        if done.is_err() {
            self.drop_cq(config.qid);
        }
        done.map(drop)
    }

    /// Creates an I/O submission queue.
    ///
    /// # Errors
    /// [`Error::Status`] when the controller refuses; memory and command errors.
    pub fn create_sq(&mut self, config: &SqConfig) -> Result<(), Error> {
        let memory = self.place_sq(config.qid, config.cqid, config.entries, config.memory)?;
        let sqe = command::create_sq(
            config.qid,
            size_z(config.entries),
            memory.address,
            config.cqid,
        );
        let sqe = nvme_spec::Sqe {
            cdw11: CreateSqCdw11::from(sqe.cdw11)
                .with_qprio(config.qprio)
                .into(),
            ..sqe
        };
        let done = self.admin_ok(sqe);
        if done.is_err() {
            self.drop_sq(config.qid);
        }
        done?;
        if self.shadow_after_queues && self.shadow.is_none() {
            self.enable_shadow_doorbells()?;
        }
        Ok(())
    }

    /// A completion queue and a submission queue of the same identifier and size, polled.
    ///
    /// # Errors
    /// As [`create_cq`](Self::create_cq) and [`create_sq`](Self::create_sq).
    pub fn create_pair(&mut self, qid: u16, entries: u32) -> Result<(), Error> {
        self.create_cq(&CqConfig::new(qid, entries))?;
        self.create_sq(&SqConfig::new(qid, qid, entries))
    }

    /// Deletes an I/O submission queue. Completions of its commands that were posted can still be
    /// taken.
    ///
    /// # Errors
    /// [`Error::Status`] when the controller refuses; command errors.
    pub fn delete_sq(&mut self, qid: u16) -> Result<(), Error> {
        self.admin_ok(command::delete_sq(qid))?;
        if let Some(sq) = entry(&mut self.sqs, qid) {
            sq.deleted = true;
        }
        Ok(())
    }

    /// Deletes an I/O completion queue.
    ///
    /// # Errors
    /// [`Error::Status`] when the controller refuses; command errors.
    pub fn delete_cq(&mut self, qid: u16) -> Result<(), Error> {
        self.admin_ok(command::delete_cq(qid))?;
        self.drop_cq(qid);
        Ok(())
    }

    /// Makes the driver's side of a completion queue, zeroed, without a command.
    ///
    /// # Errors
    /// [`Error::OutOfRange`], [`Error::NoMemory`].
    pub fn place_cq(&mut self, config: &CqConfig) -> Result<Buffer, Error> {
        self.drop_cq(config.qid);
        let doorbell = cq_head_doorbell(config.qid, self.cap.dstrd());
        let place = self.place(config.entries, CQE_BYTES as u64, config.memory, doorbell)?;
        self.clear_shadow(config.qid, doorbell);
        let sleep_on = config.vector.filter(|_| config.sleep);
        put(
            &mut self.cqs,
            config.qid,
            CompletionQueue::new(place, sleep_on),
        );
        Ok(place.memory)
    }

    /// Makes the driver's side of a submission queue, without a command.
    ///
    /// # Errors
    /// [`Error::OutOfRange`], [`Error::NoMemory`].
    pub fn place_sq(
        &mut self,
        qid: u16,
        cqid: u16,
        entries: u32,
        memory: Option<u64>,
    ) -> Result<Buffer, Error> {
        // Results of a queue that had this identifier before must not be taken for new ones.
        if let Some(old) = entry(&mut self.sqs, qid).map(|sq| sq.cqid)
            && entry(&mut self.cqs, old).is_some()
        {
            self.process(old)?;
        }
        self.drop_sq(qid);
        let doorbell = sq_tail_doorbell(qid, self.cap.dstrd());
        let place = self.place(entries, SQE_BYTES as u64, memory, doorbell)?;
        self.clear_shadow(qid, doorbell);
        put(&mut self.sqs, qid, SubmissionQueue::new(place, cqid));
        Ok(place.memory)
    }

    fn place(
        &mut self,
        entries: u32,
        entry_bytes: u64,
        memory: Option<u64>,
        doorbell: u64,
    ) -> Result<Place, Error> {
        check("queue entries", entries.into(), 2, MAX_QUEUE_ENTRIES.into())?;
        let bytes = u64::from(entries) * entry_bytes;
        let (memory, owned) = match memory {
            Some(address) => {
                crate::dma::zero(self.transport, address, bytes);
                (Buffer { address, bytes }, false)
            }
            None => (self.alloc(bytes)?, true),
        };
        Ok(Place {
            memory,
            owned,
            entries,
            doorbell,
        })
    }

    fn drop_cq(&mut self, qid: u16) {
        let old = self.cqs.get_mut(usize::from(qid)).and_then(Option::take);
        if let Some(cq) = old.filter(|cq| cq.owned) {
            self.pool.release(cq.memory);
        }
    }

    fn drop_sq(&mut self, qid: u16) {
        let old = self.sqs.get_mut(usize::from(qid)).and_then(Option::take);
        if let Some(sq) = old {
            for address in sq.all_lists() {
                self.pool.release(Buffer {
                    address,
                    bytes: self.page_bytes,
                });
            }
            if sq.owned {
                self.pool.release(sq.memory);
            }
        }
    }

    /// Drops every queue, when the controller has lost them, and the shadow doorbells.
    pub(crate) fn forget_queues(&mut self) {
        self.forget_shadow_doorbells();
        for qid in (0..self.sqs.len()).filter_map(|qid| u16::try_from(qid).ok()) {
            self.drop_sq(qid);
        }
        for qid in (0..self.cqs.len()).filter_map(|qid| u16::try_from(qid).ok()) {
            self.drop_cq(qid);
        }
    }

    /// Tells the controller a submission queue's tail.
    ///
    /// # Errors
    /// [`Error::NoSubmissionQueue`].
    pub fn ring(&mut self, sqid: u16) -> Result<(), Error> {
        let sq = entry(&mut self.sqs, sqid).ok_or(Error::NoSubmissionQueue { sqid })?;
        let shadow = self.shadow.as_ref().filter(|_| sqid != 0);
        let change = sq.tell_tail();
        self.stats.doorbells += 1;
        let written = tell(self.transport, shadow, sq.doorbell, change);
        self.stats.doorbell_writes += u64::from(written);
        Ok(())
    }

    /// Tells the controller a completion queue's head if it moved since the last time.
    ///
    /// # Errors
    /// [`Error::NoCompletionQueue`].
    pub fn ack(&mut self, cqid: u16) -> Result<(), Error> {
        let cq = entry(&mut self.cqs, cqid).ok_or(Error::NoCompletionQueue { cqid })?;
        if let Some(change) = cq.tell_head() {
            let shadow = self.shadow.as_ref().filter(|_| cqid != 0);
            self.stats.doorbells += 1;
            let written = tell(self.transport, shadow, cq.doorbell, change);
            self.stats.doorbell_writes += u64::from(written);
        }
        Ok(())
    }

    /// Writes any value to any submission queue's tail doorbell, there or not; to its shadow too,
    /// if it is there and has one.
    pub fn write_sq_doorbell(&mut self, qid: u16, value: u32) {
        let at = sq_tail_doorbell(qid, self.cap.dstrd());
        let shadow = self.shadow.filter(|_| qid != 0);
        let sq = entry(&mut self.sqs, qid).filter(|sq| !sq.deleted);
        if let (Some(shadow), Some(sq)) = (shadow, sq) {
            sq.set_told(value);
            self.transport.mem_store32(shadow.entry(at).0, value);
        }
        self.write_doorbell(at, value);
    }

    /// Writes any value to any completion queue's head doorbell, there or not; to its shadow too,
    /// if it is there and has one.
    pub fn write_cq_doorbell(&mut self, qid: u16, value: u32) {
        let at = cq_head_doorbell(qid, self.cap.dstrd());
        let shadow = self.shadow.filter(|_| qid != 0);
        if let (Some(shadow), Some(cq)) = (shadow, entry(&mut self.cqs, qid)) {
            cq.set_told(value);
            self.transport.mem_store32(shadow.entry(at).0, value);
        }
        self.write_doorbell(at, value);
    }

    fn write_doorbell(&mut self, register: u64, value: u32) {
        self.stats.doorbells += 1;
        self.stats.doorbell_writes += 1;
        self.transport.write32(register, value);
    }

    /// The next index a submission queue's entry will be stored at.
    #[must_use]
    pub fn sq_tail(&self, sqid: u16) -> Option<u32> {
        peek(&self.sqs, sqid).map(SubmissionQueue::tail)
    }

    /// How many entries a submission queue has room for, by the SQHD last seen.
    #[must_use]
    pub fn sq_room(&self, sqid: u16) -> Option<u32> {
        peek(&self.sqs, sqid).map(SubmissionQueue::room)
    }

    /// Commands of [`submit`](Self::submit) whose completion was not seen yet.
    #[must_use]
    pub fn outstanding(&self, sqid: u16) -> usize {
        peek(&self.sqs, sqid).map_or(0, SubmissionQueue::outstanding)
    }

    /// The index of the next completion to be read, and the phase tag it will have.
    #[must_use]
    pub fn cq_head(&self, cqid: u16) -> Option<(u32, bool)> {
        peek(&self.cqs, cqid).map(|cq| (cq.head(), cq.phase()))
    }

    /// A submission queue's memory.
    #[must_use]
    pub fn sq_memory(&self, sqid: u16) -> Option<Buffer> {
        peek(&self.sqs, sqid).map(|sq| sq.memory)
    }

    /// A completion queue's memory.
    #[must_use]
    pub fn cq_memory(&self, cqid: u16) -> Option<Buffer> {
        peek(&self.cqs, cqid).map(|cq| cq.memory)
    }
}

/// A queue by identifier.
#[inline]
pub(crate) fn entry<Q>(queues: &mut [Option<Q>], qid: u16) -> Option<&mut Q> {
    queues.get_mut(usize::from(qid)).and_then(Option::as_mut)
}

/// A queue by identifier, to look at.
#[inline]
pub(crate) fn peek<Q>(queues: &[Option<Q>], qid: u16) -> Option<&Q> {
    queues.get(usize::from(qid)).and_then(Option::as_ref)
}

fn put<Q>(queues: &mut alloc::vec::Vec<Option<Q>>, qid: u16, queue: Q) {
    let index = usize::from(qid);
    if queues.len() <= index {
        queues.resize_with(index + 1, || None);
    }
    if let Some(slot) = queues.get_mut(index) {
        *slot = Some(queue);
    }
}
