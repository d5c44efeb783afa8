//! Commands out, completions in.

use nvme_spec::queue::{CommandFlags, Cqe, Sqe};

use crate::prp::{self, Prps};
use crate::queues::{entry, peek};
use crate::{Awaited, Buffer, Driver, Error, Token, Transport};

/// Opcode bits 1:0 (Base 4.1): the host's data goes to the controller.
const TO_DEVICE: u8 = 0b01;
/// Opcode bits 1:0: the controller's data comes to the host.
const FROM_DEVICE: u8 = 0b10;

impl<T: Transport + ?Sized> Driver<'_, T> {
    /// Stores an entry as it is, CID included, without a doorbell; the driver does not follow
    /// what becomes of it. Take its completion with [`poll`](Self::poll).
    ///
    /// # Errors
    /// [`Error::NoSubmissionQueue`], [`Error::SubmissionQueueFull`].
    pub fn push(&mut self, sqid: u16, sqe: &Sqe) -> Result<(), Error> {
        let sq = entry(&mut self.sqs, sqid)
            .filter(|sq| !sq.deleted)
            .ok_or(Error::NoSubmissionQueue { sqid })?;
        if sq.room() == 0 {
            return Err(Error::SubmissionQueueFull { sqid });
        }
        sq.store(self.transport, sqe);
        self.stats.commands += 1;
        Ok(())
    }

    /// Gives a command an identifier and stores it, without a doorbell. The data pointer is the
    /// caller's.
    ///
    /// # Errors
    /// [`Error::NoSubmissionQueue`], [`Error::SubmissionQueueFull`].
    pub fn enqueue(&mut self, sqid: u16, sqe: Sqe) -> Result<Token, Error> {
        let cid = self.reserve(sqid, sqe.opcode)?;
        self.push(sqid, &Sqe { cid, ..sqe })?;
        Ok(Token { sqid, cid })
    }

    /// As [`enqueue`](Self::enqueue), with PRPs for `data`, which may start at any byte.
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue); [`Error::NoMemory`] for the PRP list.
    pub fn enqueue_data(&mut self, sqid: u16, sqe: Sqe, data: Buffer) -> Result<Token, Error> {
        let cid = self.reserve(sqid, sqe.opcode)?;
        let prps = match self.build_prps(sqid, cid, data) {
            Ok(prps) => prps,
            Err(error) => {
                if let Some(sq) = entry(&mut self.sqs, sqid) {
                    sq.release(cid);
                }
                return Err(error);
            }
        };
        let sqe = Sqe {
            cid,
            flags: CommandFlags::new().with_fuse(sqe.flags.fuse()),
            prp1: prps.prp1,
            prp2: prps.prp2,
            ..sqe
        };
        self.push(sqid, &sqe)?;
        match sqe.opcode & 0b11 {
            TO_DEVICE => self.stats.bytes_to_device += data.bytes,
            FROM_DEVICE => self.stats.bytes_from_device += data.bytes,
            _ => {}
        }
        Ok(Token { sqid, cid })
    }

    /// [`enqueue`](Self::enqueue), then the doorbell.
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue).
    pub fn submit(&mut self, sqid: u16, sqe: Sqe) -> Result<Token, Error> {
        let token = self.enqueue(sqid, sqe)?;
        self.ring(sqid)?;
        Ok(token)
    }

    /// [`enqueue_data`](Self::enqueue_data), then the doorbell.
    ///
    /// # Errors
    /// As [`enqueue_data`](Self::enqueue_data).
    pub fn submit_data(&mut self, sqid: u16, sqe: Sqe, data: Buffer) -> Result<Token, Error> {
        let token = self.enqueue_data(sqid, sqe, data)?;
        self.ring(sqid)?;
        Ok(token)
    }

    /// Submits a command, after waiting for room, and waits for its completion, whatever its
    /// status.
    ///
    /// # Errors
    /// As [`submit`](Self::submit) and [`wait`](Self::wait).
    pub fn exec(&mut self, sqid: u16, sqe: Sqe) -> Result<Cqe, Error> {
        self.wait_room(sqid)?;
        let token = self.submit(sqid, sqe)?;
        self.wait(token)
    }

    /// As [`exec`](Self::exec), with PRPs for `data`.
    ///
    /// # Errors
    /// As [`submit_data`](Self::submit_data) and [`wait`](Self::wait).
    pub fn exec_data(&mut self, sqid: u16, sqe: Sqe, data: Buffer) -> Result<Cqe, Error> {
        self.wait_room(sqid)?;
        let token = self.submit_data(sqid, sqe, data)?;
        self.wait(token)
    }

    /// Waits for a command's completion. Others that arrive meanwhile are kept for their tokens,
    /// and the completion queue's head doorbell is rung.
    ///
    /// # Errors
    /// [`Error::Timeout`], [`Error::Fatal`], [`Error::Gone`], [`Error::StaleToken`],
    /// [`Error::BadCompletion`].
    pub fn wait(&mut self, token: Token) -> Result<Cqe, Error> {
        let Token { sqid, cid } = token;
        let sq = peek(&self.sqs, sqid).ok_or(Error::NoSubmissionQueue { sqid })?;
        let opcode = sq.opcode(cid).ok_or(Error::StaleToken { sqid, cid })?;
        let awaited = Awaited::Completion { sqid, cid, opcode };
        self.wait_on(sq.cqid, awaited, |driver| driver.try_take(token))
    }

    /// Takes what has arrived and returns a command's completion if it is among it.
    ///
    /// # Errors
    /// [`Error::StaleToken`], [`Error::BadCompletion`].
    pub fn try_wait(&mut self, token: Token) -> Result<Option<Cqe>, Error> {
        let sqid = token.sqid;
        let sq = peek(&self.sqs, sqid).ok_or(Error::NoSubmissionQueue { sqid })?;
        self.process(sq.cqid)?;
        self.try_take(token)
    }

    fn try_take(&mut self, Token { sqid, cid }: Token) -> Result<Option<Cqe>, Error> {
        entry(&mut self.sqs, sqid)
            .ok_or(Error::NoSubmissionQueue { sqid })?
            .take(cid)
            .map_err(|()| Error::StaleToken { sqid, cid })
    }

    /// Takes every new completion of a queue, keeps each for its token, and rings the head
    /// doorbell once. Returns how many.
    ///
    /// # Errors
    /// [`Error::BadCompletion`] for one that no outstanding command of a queue bound to `cqid`
    /// could have, or whose SQHD lies beyond the tail.
    pub fn process(&mut self, cqid: u16) -> Result<u32, Error> {
        let mut count = 0;
        let mut broken = None;
        let cq = entry(&mut self.cqs, cqid).ok_or(Error::NoCompletionQueue { cqid })?;
        while let Some(cqe) = cq.next(self.transport) {
            count += 1;
            self.stats.completions += 1;
            let rule = match entry(&mut self.sqs, cqe.sqid).filter(|sq| sq.cqid == cqid) {
                None => Some("SQID names a submission queue bound to this completion queue"),
                Some(sq) => {
                    let head_right = sq.deleted || sq.note_head(cqe.sqhd);
                    if !sq.keep(cqe) {
                        Some("CID names an outstanding command")
                    } else if !head_right {
                        Some("SQHD lies between the old head and the tail")
                    } else {
                        None
                    }
                }
            };
            broken = broken.or(rule.map(|rule| (cqe, rule)));
        }
        if count != 0 {
            self.ack(cqid)?;
        }
        match broken {
            None => Ok(count),
            Some((cqe, rule)) => Err(Error::BadCompletion {
                cqid,
                sqid: cqe.sqid,
                cid: cqe.cid,
                sqhd: cqe.sqhd,
                rule,
            }),
        }
    }

    /// Takes the next completion as it is, without ringing the head doorbell
    /// ([`ack`](Self::ack)). If a token stands for it, the token ends here.
    ///
    /// # Errors
    /// [`Error::NoCompletionQueue`].
    #[inline]
    pub fn poll(&mut self, cqid: u16) -> Result<Option<Cqe>, Error> {
        let cq = entry(&mut self.cqs, cqid).ok_or(Error::NoCompletionQueue { cqid })?;
        let Some(cqe) = cq.next(self.transport) else {
            return Ok(None);
        };
        self.stats.completions += 1;
        if let Some(sq) = entry(&mut self.sqs, cqe.sqid) {
            sq.note_head(cqe.sqhd);
            sq.release(cqe.cid);
        }
        Ok(Some(cqe))
    }

    /// The next completion, left where it is.
    ///
    /// # Errors
    /// [`Error::NoCompletionQueue`].
    pub fn peek(&self, cqid: u16) -> Result<Option<Cqe>, Error> {
        let cq = peek(&self.cqs, cqid).ok_or(Error::NoCompletionQueue { cqid })?;
        Ok(cq.peek(&*self.transport))
    }

    /// Waits for the next completion and takes it as [`poll`](Self::poll) does.
    ///
    /// # Errors
    /// [`Error::Timeout`], [`Error::Fatal`], [`Error::Gone`], [`Error::NoCompletionQueue`].
    pub fn wait_any(&mut self, cqid: u16) -> Result<Cqe, Error> {
        self.wait_on_queue(cqid, Awaited::AnyCompletion { cqid }, |driver| {
            driver.poll(cqid)
        })
    }

    fn wait_room(&mut self, sqid: u16) -> Result<(), Error> {
        let sq = peek(&self.sqs, sqid).ok_or(Error::NoSubmissionQueue { sqid })?;
        if sq.room() != 0 {
            return Ok(());
        }
        let cqid = sq.cqid;
        self.wait_on(cqid, Awaited::SubmissionSpace { sqid }, |driver| {
            Ok(driver.sq_room(sqid).filter(|room| *room != 0))
        })
        .map(drop)
    }

    /// Processes a completion queue until `done` gives something.
    fn wait_on<R>(
        &mut self,
        cqid: u16,
        awaited: Awaited,
        mut done: impl FnMut(&mut Self) -> Result<Option<R>, Error>,
    ) -> Result<R, Error> {
        self.wait_on_queue(cqid, awaited, |driver| {
            driver.process(cqid)?;
            done(driver)
        })
    }

    /// Calls `step` until it gives something, sleeping on the queue's interrupt or relaxing.
    fn wait_on_queue<R>(
        &mut self,
        cqid: u16,
        awaited: Awaited,
        mut step: impl FnMut(&mut Self) -> Result<Option<R>, Error>,
    ) -> Result<R, Error> {
        let cq = peek(&self.cqs, cqid).ok_or(Error::NoCompletionQueue { cqid })?;
        let sleep_on = cq.sleep_on;
        let start = self.transport.now_ns();
        loop {
            let seen = sleep_on.map(|vector| (vector, self.transport.interrupts(vector)));
            if let Some(result) = step(self)? {
                return Ok(result);
            }
            let after_ns = self.transport.now_ns().saturating_sub(start);
            let Some(left) = self.command_timeout_ns.checked_sub(after_ns) else {
                return Err(self.timed_out(awaited, after_ns));
            };
            match seen {
                Some((vector, count)) => {
                    self.transport.wait_interrupt(vector, count, left.max(1));
                }
                None => self.transport.relax(),
            }
        }
    }

    fn reserve(&mut self, sqid: u16, opcode: u8) -> Result<u16, Error> {
        let sq = entry(&mut self.sqs, sqid)
            .filter(|sq| !sq.deleted)
            .ok_or(Error::NoSubmissionQueue { sqid })?;
        if sq.room() == 0 {
            return Err(Error::SubmissionQueueFull { sqid });
        }
        sq.take_cid(opcode)
            .ok_or(Error::SubmissionQueueFull { sqid })
    }

    /// PRPs for `data`, in list pages that belong to the identifier and are used again.
    fn build_prps(&mut self, sqid: u16, cid: u16, data: Buffer) -> Result<Prps, Error> {
        if data.bytes == 0 {
            return Ok(Prps::default());
        }
        let page = self.page_bytes;
        let needed = prp::list_pages(prp::pages(data.address, data.bytes, page), page);
        let needed = usize::try_from(needed).unwrap_or(usize::MAX);
        let sq = entry(&mut self.sqs, sqid).ok_or(Error::NoSubmissionQueue { sqid })?;
        let lists = sq.lists(cid).ok_or(Error::StaleToken { sqid, cid })?;
        while lists.len() < needed {
            let list = self.pool.alloc(self.transport, page, page)?;
            lists.push(list.address);
        }
        let transport = &mut *self.transport;
        prp::build(data.address, data.bytes, page, lists, |at, entries| {
            transport.mem_write(at, entries);
        })
    }
}
