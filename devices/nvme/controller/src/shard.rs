//! A shard: the queues that one thread serves, and the loop that serves them.

mod messages;

use std::sync::{Arc, atomic::Ordering};

use nvme_spec::{Sqe, Status};
use storage::OpenError;
use vm_memory::GuestAddressSpace;

use self::messages::Quiescing;
use crate::{
    admin::{Admin, AdminContext, Outcome},
    command::Command,
    ids::{Epoch, ShardId},
    interrupts::Interrupts,
    io::{self, Finished, IN_FLIGHT, IoEngine, Started},
    queue::QueueFault,
    rings::Rings,
    shared::Shared,
    sync::lock,
    work::{Progress, Work},
};

/// Submission queue entries fetched in one copy.
const BATCH: usize = 32;

/// The part of a controller that one thread polls.
///
/// The owner calls [`poll`](Self::poll) again and again. When a poll made no progress it may call
/// [`park`](Self::park), and if that says so wait until the shard's [`Wake`](crate::Wake) is
/// called or the last poll's deadline has come.
pub struct Shard {
    id: ShardId,
    shared: Arc<Shared>,
    epoch: Epoch,
    /// Commands are fetched.
    running: bool,
    /// What is to be reported when nothing is in flight any more.
    quiescing: Option<Quiescing>,
    rings: Rings,
    io: IoEngine,
    admin: Option<Box<Admin>>,
    interrupts: Interrupts,
    batch: Box<[Sqe; BATCH]>,
    finished: Vec<Finished>,
    /// Where the round robin over submission queues goes on.
    turn: usize,
}

impl Shard {
    pub(crate) fn new(id: ShardId, shared: Arc<Shared>) -> Result<Self, OpenError> {
        Ok(Self {
            id,
            epoch: 0,
            running: false,
            quiescing: None,
            rings: Rings::default(),
            io: IoEngine::new(&shared)?,
            admin: (id == 0).then(|| Box::new(Admin::new(&shared.config))),
            interrupts: Interrupts::new(shared.config.vectors),
            batch: Box::new([Sqe::default(); BATCH]),
            finished: Vec::with_capacity(IN_FLIGHT),
            turn: 0,
            shared,
        })
    }

    /// The shard's number, for [`Controller::set_waker`](crate::Controller::set_waker).
    #[must_use]
    pub const fn id(&self) -> u16 {
        self.id
    }

    /// Does what there is to do, up to about `budget` commands, at the time `now_ns`. A command
    /// of more than 128 KiB counts as several.
    ///
    /// Never waits. Time is any clock that does not go back, in nanoseconds.
    pub fn poll(&mut self, now_ns: u64, budget: u32) -> Progress {
        let shared = Arc::clone(&self.shared);
        let Some(stats) = shared.stats.get(usize::from(self.id)) else {
            return Progress::default();
        };
        stats.polls.add(1);
        let memory = shared.memory.memory().into_inner();
        let mut work = Work {
            shared: &shared,
            memory: &memory,
            stats,
            now_ns,
            spent: 0,
            progress: Progress::default(),
        };
        let result = self
            .read_mailbox(&mut work)
            .and_then(|()| self.serve(&mut work, budget))
            .and_then(|()| self.reap(&mut work))
            .and_then(|()| self.report_events(&mut work));
        if let Err(fault) = result {
            self.running = false;
            shared.fatal(fault);
        }
        self.finish_deletions(&work);
        self.finish_quiescing(&shared);
        let signalled = self.interrupts.flush(&shared, now_ns);
        stats.interrupts.add(signalled.count);
        work.progress.deadline_ns = signalled.next_ns;
        work.progress.more |= self.has_work();
        work.progress
    }

    /// Says that the owner is about to wait. `false`: there is work, poll instead.
    pub fn park(&mut self) -> bool {
        let Some(mailbox) = self.shared.mailboxes.get(self.id) else {
            return false;
        };
        mailbox.park();
        if self.has_work() || self.doorbell_rang() {
            mailbox.unpark();
            return false;
        }
        true
    }

    /// Says that the owner no longer waits.
    pub fn unpark(&mut self) {
        if let Some(mailbox) = self.shared.mailboxes.get(self.id) {
            mailbox.unpark();
        }
    }

    /// Whether commands are fetched and events reported.
    fn serving(&self) -> bool {
        self.running && self.shared.settings.dma.load(Ordering::Acquire)
    }

    /// Whether a poll would do something without a doorbell.
    fn has_work(&self) -> bool {
        let mailbox = self.shared.mailboxes.get(self.id);
        if mailbox.is_some_and(|mailbox| !mailbox.is_empty()) || self.io.runnable() {
            return true;
        }
        if !self.serving() {
            return false;
        }
        let fetchable = self.io.room() > 0 && self.rings.fetchable();
        fetchable
            || self.admin.as_ref().is_some_and(|admin| {
                self.shared.faults.load(Ordering::Acquire) != 0
                    || (admin.has_delivery() && self.rings.admin_has_room())
            })
    }

    fn doorbell_rang(&self) -> bool {
        self.serving() && self.rings.unseen_doorbell(&self.shared)
    }

    /// Judges doorbells and executes what is waiting, queue after queue.
    fn serve(&mut self, work: &mut Work<'_>, budget: u32) -> Result<(), QueueFault> {
        if !self.serving() {
            return Ok(());
        }
        self.rings.read_cq_doorbells(work.shared);
        let burst = work
            .shared
            .settings
            .arbitration_burst
            .load(Ordering::Relaxed);
        let queues = self.rings.sqs.len();
        let first = self.turn;
        for step in 0..queues {
            let index = (first + step) % queues.max(1);
            let left = budget.saturating_sub(work.spent);
            if left == 0 {
                // The next poll starts where this one stopped.
                self.turn = index;
                return Ok(());
            }
            self.serve_sq(work, index, burst.min(left))?;
        }
        self.turn = (first + 1) % queues.max(1);
        Ok(())
    }

    fn serve_sq(&mut self, work: &mut Work<'_>, index: usize, most: u32) -> Result<(), QueueFault> {
        let most = most.min(self.io.room());
        let fetched = self
            .rings
            .fetch(work, index, most, self.batch.as_mut_slice())?;
        let Some((count, is_admin)) = fetched else {
            return Ok(());
        };
        for at in 0..count {
            let Some(sqe) = self.batch.get(at).copied() else {
                break;
            };
            let Some(command) = self.rings.command(index, sqe.cid) else {
                break;
            };
            work.progress.commands += 1;
            work.spent = work.spent.saturating_add(1);
            if is_admin {
                work.stats.admin_commands.add(1);
                self.admin_command(work, command, &sqe)?;
                continue;
            }
            work.stats.io_commands.add(1);
            work.spent = work.spent.saturating_add(io::cost(work.shared, &sqe));
            if let Started::Done(command, status) = self.io.start(work, command, &sqe) {
                self.complete(work, command, &sqe, status, 0)?;
            }
        }
        Ok(())
    }

    fn admin_command(
        &mut self,
        work: &mut Work<'_>,
        command: Command,
        sqe: &Sqe,
    ) -> Result<(), QueueFault> {
        let Some(admin) = &mut self.admin else {
            return self.complete(work, command, sqe, Status::INTERNAL_ERROR, 0);
        };
        let cx = AdminContext {
            shared: work.shared,
            memory: work.memory,
            epoch: self.epoch,
            now_ns: work.now_ns,
        };
        match admin.execute(&cx, sqe) {
            Outcome::Done { status, dw0 } => self.complete(work, command, sqe, status, dw0),
            Outcome::Waits(ticket) => {
                admin.wait(ticket, command, *sqe);
                Ok(())
            }
            Outcome::Event => {
                // It may wait for ever: its slot goes back until there is an event to report.
                self.rings.hand_back(command);
                Ok(())
            }
        }
    }

    fn reap(&mut self, work: &mut Work<'_>) -> Result<(), QueueFault> {
        let mut finished = std::mem::take(&mut self.finished);
        self.io.reap(work, &mut finished);
        let mut result = Ok(());
        for Finished {
            command,
            sqe,
            status,
        } in finished.drain(..)
        {
            // A fault must not lose the other commands' slots.
            let posted = self.complete(work, command, &sqe, status, 0);
            result = result.and(posted);
        }
        self.finished = finished;
        result
    }

    /// Completes Asynchronous Event Requests with what has happened (Base 5.1.2).
    fn report_events(&mut self, work: &mut Work<'_>) -> Result<(), QueueFault> {
        if !self.serving() || self.admin.is_none() {
            return Ok(());
        }
        let faults = match work.shared.faults.load(Ordering::Relaxed) {
            0 => 0,
            _ => work.shared.faults.swap(0, Ordering::AcqRel),
        };
        if let (Some(admin), true) = (&mut self.admin, faults != 0) {
            admin.doorbell_faults(work.shared, faults);
        }
        while let Some(admin) = &mut self.admin
            && admin.has_delivery()
            && let Some(slot) = self.rings.admin_slot()
        {
            let Some(delivery) = admin.next_delivery() else {
                self.rings.hand_back(slot);
                break;
            };
            let command = Command {
                cid: delivery.cid,
                ..slot
            };
            self.post(work, command, delivery.status, delivery.dw0)?;
        }
        Ok(())
    }

    /// Completes a command, and records a failure in the Error Information log.
    fn complete(
        &mut self,
        work: &mut Work<'_>,
        command: Command,
        sqe: &Sqe,
        mut status: Status,
        dw0: u32,
    ) -> Result<(), QueueFault> {
        if !status.is_success() {
            work.stats.errors.add(1);
            let sqid = self.rings.qid(&command);
            lock(&work.shared.error_log).command(sqid, sqe, status, sqid != 0);
            status = status.more();
        }
        self.post(work, command, status, dw0)
    }

    fn post(
        &mut self,
        work: &mut Work<'_>,
        command: Command,
        status: Status,
        dw0: u32,
    ) -> Result<(), QueueFault> {
        work.progress.completions += 1;
        if self.quiescing.is_some_and(|q| q.drop_queues) {
            // The host has reset the controller: its queues are not to be touched any more.
            self.rings.hand_back(command);
            return Ok(());
        }
        self.rings
            .complete(work, command, status, dw0, &mut self.interrupts)
    }
}

impl Drop for Shard {
    /// Whoever drops a shard ends its commands without completing them.
    fn drop(&mut self) {
        let waiting = self.admin.as_mut().map(|admin| admin.take_waiting());
        for command in self.io.take_pending().chain(waiting.into_iter().flatten()) {
            command.permit.forget();
        }
    }
}
