//! A host: what it has, and how commands leave it and completions come in.

use std::collections::BTreeMap;

use nvme_host::Transport;
use nvme_spec::{
    Cqe, Sqe, Status,
    registers::{Cap, Register, cq_head_doorbell, sq_tail_doorbell},
};

use crate::{
    admin::Admin,
    facts::Facts,
    io::Io,
    memory::{Memory, Region},
    model::{Model, Time},
    rings::{CompletionRing, SubmissionRing},
    run::Options,
};

/// A completion queue in which there was nothing is checked to be untouched one time in so many.
const LOOKS: u64 = 64;

/// What breaks a rule, as text.
pub(crate) type Wrong = String;

/// What a command is.
#[derive(Debug)]
pub(crate) enum What {
    Io(Io),
    Admin(Admin),
}

/// A command that was stored and is not completed.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) sqid: u16,
    pub(crate) sqe: Sqe,
    /// Where it is in its queue.
    position: u64,
    /// When it was rung in.
    pub(crate) begun: Option<Time>,
    pub(crate) what: What,
    /// Its buffers, to be given back.
    pub(crate) regions: Vec<Region>,
}

/// A command by queue and identifier.
pub(crate) type Key = (u16, u16);

/// A host and all it knows.
pub(crate) struct Host<'a, T: Transport + ?Sized> {
    pub(crate) transport: &'a mut T,
    pub(crate) options: Options,
    pub(crate) cap: Cap,
    pub(crate) memory: Memory,
    pub(crate) facts: Facts,
    /// Identify's structures, as they were first read.
    pub(crate) identify_controller: Vec<u8>,
    pub(crate) identify_namespaces: Vec<Vec<u8>>,
    /// By namespace, NSID 1 first.
    pub(crate) models: Vec<Model>,
    pub(crate) sqs: BTreeMap<u16, SubmissionRing>,
    pub(crate) cqs: BTreeMap<u16, CompletionRing>,
    pub(crate) in_flight: BTreeMap<Key, Command>,
    pub(crate) now: Time,
    /// Numbers that were given to blocks and to commands that change some.
    pub(crate) values: u64,
    pub(crate) writes: u64,
    /// Commands that were completed as aborted, and those that an Abort says it has.
    pub(crate) aborted: Vec<Key>,
    pub(crate) claims: Vec<Key>,
    /// Something was done that the controller may report an event of.
    pub(crate) events_caused: bool,
    pub(crate) next_cid: u16,
    pub(crate) completed: u64,
    /// Times that a completion queue was looked at.
    pub(crate) polls: u64,
    pub(crate) trace: Vec<String>,
}

impl<T: Transport + ?Sized> Host<'_, T> {
    /// Notes what happens, for the report of a failure.
    pub(crate) fn note(&mut self, what: impl FnOnce() -> String) {
        if self.options.trace {
            self.trace.push(what());
        }
    }

    /// The moment after the last.
    pub(crate) const fn tick(&mut self) -> Time {
        self.now += 1;
        self.now
    }

    /// An identifier that no command of the queue has, and that no Abort names.
    fn free_cid(&mut self, sqid: u16) -> u16 {
        loop {
            self.next_cid = self.next_cid.wrapping_mul(5).wrapping_add(0x2F31);
            let key = (sqid, self.next_cid);
            let is_named = self.in_flight.values().any(|c| c.aborts() == Some(key));
            if !self.in_flight.contains_key(&key) && !is_named && !self.claims.contains(&key) {
                self.aborted.retain(|&aborted| aborted != key);
                return self.next_cid;
            }
        }
    }

    /// Stores a command in a queue that has room.
    pub(crate) fn store(&mut self, sqid: u16, sqe: Sqe, what: What, regions: Vec<Region>) {
        let cid = self.free_cid(sqid);
        let sqe = Sqe { cid, ..sqe };
        let Some(sq) = self.sqs.get_mut(&sqid) else {
            return;
        };
        let position = sq.store(self.transport, &mut self.memory, &sqe);
        self.note(|| format!("store {}", describe(sqid, &sqe)));
        let command = Command {
            sqid,
            sqe,
            position,
            begun: None,
            what,
            regions,
        };
        self.in_flight.insert((sqid, cid), command);
    }

    /// Rings in what was stored in a queue, unless it is to be deleted: it may be gone.
    pub(crate) fn ring(&mut self, sqid: u16) {
        let sq = self.sqs.get_mut(&sqid);
        let Some(sq) = sq.filter(|sq| sq.is_waiting() && !sq.deleting) else {
            return;
        };
        let tail = sq.ring();
        let now = self.tick();
        let of_queue = (sqid, 0)..=(sqid, u16::MAX);
        let models = &mut self.models;
        for (_, command) in self.in_flight.range_mut(of_queue) {
            if command.begun.is_none() {
                command.begun = Some(now);
                if let What::Io(io) = &command.what {
                    io.begin(models, &self.facts, now);
                }
            }
        }
        self.note(|| format!("ring SQ {sqid} tail {tail}"));
        let at = sq_tail_doorbell(sqid, self.cap.dstrd());
        self.transport.write32(at, tail);
    }

    pub(crate) fn ring_all(&mut self) {
        let qids: Vec<u16> = self.sqs.keys().copied().collect();
        qids.into_iter().for_each(|qid| self.ring(qid));
    }

    /// Tells the controller which completions of a queue were taken.
    pub(crate) fn ack(&mut self, cqid: u16) {
        if let Some(head) = self.cqs.get_mut(&cqid).and_then(CompletionRing::ack) {
            let at = cq_head_doorbell(cqid, self.cap.dstrd());
            self.transport.write32(at, head);
        }
    }

    pub(crate) fn ack_all(&mut self) {
        let qids: Vec<u16> = self.cqs.keys().copied().collect();
        qids.into_iter().for_each(|qid| self.ack(qid));
    }

    /// Takes every completion of a queue.
    pub(crate) fn poll(&mut self, cqid: u16) -> Result<(), Wrong> {
        self.take(cqid)?;
        if self.claims.is_empty() {
            return Ok(());
        }
        // What an Abort has ended was completed before the Abort was.
        self.poll_all()
    }

    /// Takes every completion there is.
    pub(crate) fn poll_all(&mut self) -> Result<(), Wrong> {
        let qids: Vec<u16> = self.cqs.keys().copied().collect();
        for qid in qids {
            self.take(qid)?;
        }
        // Those of the admin queue may have come after those of others were taken.
        for (sqid, cid) in std::mem::take(&mut self.claims) {
            if let Some(cqid) = self.sqs.get(&sqid).map(|sq| sq.cqid) {
                self.take(cqid)?;
            }
            if !self.aborted.contains(&(sqid, cid)) && self.sqs.contains_key(&sqid) {
                return Err(format!(
                    "an Abort says that it has ended command {cid:#06x} of queue {sqid}, which is \
                     not completed as aborted"
                ));
            }
        }
        Ok(())
    }

    /// Takes every completion of a queue, without judging what Aborts say.
    pub(crate) fn poll_one(&mut self, cqid: u16) -> Result<(), Wrong> {
        self.take(cqid)
    }

    fn take(&mut self, cqid: u16) -> Result<(), Wrong> {
        let completed = self.completed;
        self.polls += 1;
        while let Some(cq) = self.cqs.get_mut(&cqid) {
            let Some(cqe) = cq.next(self.transport, &mut self.memory)? else {
                let region = cq.written();
                let is_due = self.completed != completed || self.polls.is_multiple_of(LOOKS);
                if self.options.exact && is_due {
                    let check = self.memory.check(self.transport, region);
                    check.map_err(|wrong| format!("completion queue {cqid}: {wrong}"))?;
                }
                break;
            };
            self.completion(cqid, &cqe)
                .map_err(|wrong| format!("completion queue {cqid}, {cqe:?}: {wrong}"))?;
        }
        Ok(())
    }

    /// Judges a completion.
    fn completion(&mut self, cqid: u16, cqe: &Cqe) -> Result<(), Wrong> {
        let now = self.tick();
        let (key, status) = ((cqe.sqid, cqe.cid), cqe.status());
        self.note(|| {
            let Cqe { dw0, sqhd, .. } = *cqe;
            format!(
                "  done SQ {} CID {:#06x} {status} dw0 {dw0:#x} SQHD {sqhd}",
                key.0, key.1
            )
        });
        let sq = self
            .sqs
            .get_mut(&cqe.sqid)
            .ok_or("there is no such submission queue")?;
        if sq.cqid != cqid {
            return Err(format!("that submission queue is bound to {}", sq.cqid));
        }
        let is_rung = self.in_flight.get(&key).is_some_and(|c| c.begun.is_some());
        let command = self.in_flight.remove(&key).filter(|_| is_rung);
        let command =
            command.ok_or("no such command is in flight: never sent, or completed twice")?;
        sq.fetched(cqe.sqhd, command.position)?;
        self.completed += 1;
        let what = describe(command.sqid, &command.sqe);
        let regions = command.regions.clone();
        if status.same_code(Status::ABORT_REQUESTED) {
            self.may_be_aborted(key)
                .map_err(|wrong| format!("{what}: {wrong}"))?;
        }
        self.finish(command, cqe, now)
            .map_err(|wrong| format!("{what}: {wrong}"))?;
        for region in regions {
            self.memory
                .check(self.transport, region)
                .map_err(|wrong| format!("{what}: {wrong}"))?;
            self.memory.free(region);
        }
        Ok(())
    }

    fn finish(&mut self, command: Command, cqe: &Cqe, now: Time) -> Result<(), Wrong> {
        let Command {
            sqid,
            sqe,
            begun,
            what,
            ..
        } = command;
        match what {
            What::Io(io) => {
                if (cqe.dw0, cqe.dw1) != (0, 0) {
                    return Err("dwords 0 and 1 are reserved".into());
                }
                let is_deleting = self.sqs.get(&sqid).is_some_and(|sq| sq.deleting);
                self.finish_io(
                    &sqe,
                    io,
                    begun.unwrap_or(now),
                    cqe.status(),
                    is_deleting,
                    now,
                )
            }
            What::Admin(admin) => self.finish_admin(&sqe, admin, cqe),
        }
    }

    /// Whether somebody has asked for a command's abort; notes that it was aborted.
    fn may_be_aborted(&mut self, key: Key) -> Result<(), Wrong> {
        let is_asked = self.in_flight.values().any(|c| c.aborts() == Some(key));
        if !is_asked && !self.claims.contains(&key) {
            return Err("nobody has asked for it to be aborted".into());
        }
        self.aborted.push(key);
        Ok(())
    }

    /// A command will not be completed any more, and may have been executed or not.
    pub(crate) fn lose(&mut self, key: Key) {
        let Some(command) = self.in_flight.remove(&key) else {
            return;
        };
        let now = self.tick();
        if let (What::Io(io), Some(_)) = (command.what, command.begun) {
            self.lose_io(&io, now);
        }
        for region in command.regions {
            self.memory.free(region);
        }
    }

    /// Forgets what no command can see any more.
    pub(crate) fn forget(&mut self) {
        let begun = self.in_flight.values().filter_map(|c| match c.what {
            What::Io(_) => c.begun,
            What::Admin(_) => None,
        });
        let oldest = begun.min().unwrap_or(self.now);
        self.models
            .iter_mut()
            .for_each(|model| model.forget(oldest));
    }

    /// Commands that will be completed without anything else happening.
    pub(crate) fn is_busy(&self) -> bool {
        self.in_flight
            .values()
            .any(|command| !command.waits_for_ever())
    }

    /// Lets the controller run, and takes what it completes, until `done`.
    ///
    /// # Errors
    /// What the controller did wrong, or that it does no more.
    pub(crate) fn pump(&mut self, done: impl Fn(&Self) -> bool) -> Result<(), Wrong> {
        let start = self.transport.now_ns();
        let (mut idle, mut completed) = (0u32, self.completed);
        self.ring_all();
        while !done(self) {
            self.transport.relax();
            self.poll_all()?;
            self.ack_all();
            self.ring_all();
            idle += 1;
            if self.completed != completed {
                (idle, completed) = (0, self.completed);
            }
            let waited_ns = self.transport.now_ns().saturating_sub(start);
            if idle > self.options.patience && waited_ns > self.options.patience_ns {
                return Err(self.stuck());
            }
        }
        Ok(())
    }

    /// Why nothing happens any more.
    fn stuck(&mut self) -> Wrong {
        let csts = self.transport.read32(Register::Csts.offset());
        let waiting = self.in_flight.values().filter(|c| !c.waits_for_ever());
        let waiting: Vec<String> = waiting.map(|c| describe(c.sqid, &c.sqe)).collect();
        format!(
            "nothing happens any more (CSTS {csts:#x}) and these are not completed: {waiting:#?}"
        )
    }
}

impl Command {
    /// The command that it is to abort.
    pub(crate) const fn aborts(&self) -> Option<Key> {
        match &self.what {
            What::Admin(Admin::Abort { target, .. }) => Some(*target),
            _ => None,
        }
    }

    const fn waits_for_ever(&self) -> bool {
        matches!(self.what, What::Admin(Admin::Event { .. }))
    }
}

/// A command in a line.
pub(crate) fn describe(sqid: u16, sqe: &Sqe) -> String {
    let name = match sqid {
        0 => format!("{:?}", sqe.admin_opcode()),
        _ => format!("{:?}", sqe.nvm_opcode()),
    };
    let mut text = format!(
        "SQ {sqid} CID {:#06x} {name} nsid {:#x} prp {:#x} {:#x} cdw10.. {:#x} {:#x} {:#x}",
        sqe.cid, sqe.nsid, sqe.prp1, sqe.prp2, sqe.cdw10, sqe.cdw11, sqe.cdw12
    );
    let flags = u8::from(sqe.flags);
    let rest = [sqe.cdw2, sqe.cdw3, sqe.cdw13, sqe.cdw14, sqe.cdw15];
    if flags != 0 {
        text += &format!(" flags {flags:#x}");
    }
    if rest != [0; 5] || sqe.mptr != 0 {
        text += &format!(" cdw2, 3, 13.. {rest:x?} mptr {:#x}", sqe.mptr);
    }
    text
}
