//! A shard: the queues that one thread serves, and the loop that serves them.

mod format;
mod messages;

use std::{
    sync::{Arc, atomic::Ordering},
    thread::panicking,
};

use nvme_spec::{Sqe, Status};
use storage::{GuestRam, OpenError};
use vm_memory::GuestAddressSpace;

use self::{format::Draining, messages::Quiescing};
use crate::{
    admin::{Admin, AdminContext, Outcome},
    command::{Command, Name},
    ids::{AdminTicket, Epoch, ShardId},
    interrupts::Interrupts,
    io::{self, Finished, IN_FLIGHT, IoEngine, Started},
    mailbox::Mailbox,
    queue::QueueFault,
    rings::Rings,
    shadow::ShadowBuffers,
    shared::Shared,
    sync::lock,
    trace::{Dropped, End, Observer, Tag},
    work::{Progress, Work},
};

/// Submission queue entries copied at once.
const BATCH: usize = 32;
/// How long a shard whose commands wait for a backend's room sleeps before it looks again, in
/// nanoseconds.
const RETRY_NS: u64 = 50_000;

/// The part of a controller that one thread polls.
///
/// The owner calls [`poll`](Self::poll) again and again. When a poll made no progress it may call
/// [`park`](Self::park), and if that says so wait until the shard's [`Wake`](crate::Wake) is
/// called or the last poll's deadline has come.
pub struct Shard {
    shared: Arc<Shared>,
    /// The snapshot of guest memory that the last poll used; a poll renews it when it changed.
    memory: Arc<GuestRam>,
    lane: Lane,
}

/// What a shard has for itself.
struct Lane {
    id: ShardId,
    /// The number of the reset that this shard has seen last.
    epoch: Epoch,
    /// Commands are fetched.
    running: bool,
    /// The controller has failed: nothing is fetched until a reset.
    halted: bool,
    /// What is to be reported when nothing is in flight any more.
    quiescing: Option<Quiescing>,
    /// Shadow doorbells to turn to once the function may access memory again.
    turning: Option<(ShadowBuffers, AdminTicket)>,
    /// Namespaces that are to be formatted.
    draining: Vec<Draining>,
    rings: Rings,
    io: IoEngine,
    admin: Option<Box<Admin>>,
    interrupts: Interrupts,
    batch: Box<[Sqe; BATCH]>,
    finished: Vec<Finished>,
    /// Completions that could not be posted while the function may not write memory.
    unposted: Vec<(Command, Status, u32)>,
    /// Follows the commands; `None` unless the configuration asks for it.
    observer: Option<Box<Observer>>,
}

impl Shard {
    pub(crate) fn new(id: ShardId, shared: Arc<Shared>) -> Result<Self, OpenError> {
        let lane = Lane {
            id,
            epoch: 0,
            running: false,
            halted: false,
            quiescing: None,
            turning: None,
            draining: Vec::new(),
            rings: Rings::default(),
            io: IoEngine::new(&shared, id)?,
            admin: (id == 0).then(|| Box::new(Admin::new(&shared.config))),
            interrupts: Interrupts::new(shared.config.vectors),
            batch: Box::new([Sqe::default(); BATCH]),
            // Each may be a fused operation of two commands.
            finished: Vec::with_capacity(2 * IN_FLIGHT),
            unposted: Vec::new(),
            observer: Observer::new(&shared, id),
        };
        Ok(Self {
            memory: shared.memory.memory().into_inner(),
            lane,
            shared,
        })
    }

    /// The shard's number, for [`Controller::set_waker`](crate::Controller::set_waker).
    #[must_use]
    pub const fn id(&self) -> u16 {
        self.lane.id
    }

    /// Does what there is to do, up to about `budget` commands, at the time `now_ns`. A command
    /// of more than 128 KiB counts as several.
    ///
    /// Never waits. Time is any clock that does not go back, in nanoseconds.
    pub fn poll(&mut self, now_ns: u64, budget: u32) -> Progress {
        let shared = &*self.shared;
        let Some(stats) = shared.stats.get(usize::from(self.lane.id)) else {
            return Progress::default();
        };
        stats.polls.add(1);
        if let Some(lint) = &shared.lint {
            lint.poll(now_ns);
        }
        if let Some(observer) = &mut self.lane.observer {
            observer.poll(now_ns);
        }
        let mapped = shared.memory.memory();
        if !std::ptr::eq(&raw const *mapped, Arc::as_ptr(&self.memory)) {
            self.memory = mapped.into_inner();
        }
        let dma = shared.settings.dma.load(Ordering::Acquire);
        let progress = Progress::default();
        let mut work = Work {
            shared,
            memory: &self.memory,
            stats,
            now_ns,
            dma,
            spent: 0,
            progress,
        };
        self.lane.poll(&mut work, budget);
        work.progress
    }

    /// Says that the owner is about to wait. `false`: there is work, poll instead.
    pub fn park(&mut self) -> bool {
        let Some(mailbox) = self.shared.mailboxes.get(self.lane.id) else {
            return false;
        };
        let (lane, shared, memory) = (&mut self.lane, &*self.shared, &*self.memory);
        let armed = mailbox.park().park(|| lane.arm_doorbells(shared, memory));
        if let Err(fault) = armed {
            lane.running = false;
            shared.fatal(fault);
        }
        if lane.has_work(shared) || lane.doorbell_rang(shared, memory) {
            mailbox.park().unpark();
            return false;
        }
        true
    }

    /// Says that the owner no longer waits.
    pub fn unpark(&mut self) {
        if let Some(mailbox) = self.shared.mailboxes.get(self.lane.id) {
            mailbox.park().unpark();
        }
    }
}

impl Lane {
    fn poll(&mut self, work: &mut Work<'_>, budget: u32) {
        let result = self
            .post_late(work)
            .and_then(|()| self.read_mailbox(work))
            .and_then(|()| self.turn_doorbells(work))
            .and_then(|()| self.retry(work))
            .and_then(|()| self.start_formats(work))
            .and_then(|()| self.serve(work, budget))
            .and_then(|()| self.reap(work))
            .and_then(|()| self.report_events(work));
        if let Err(fault) = result {
            self.running = false;
            work.shared.fatal(fault);
        }
        self.tell_followed(work.shared);
        self.check_keep_alive(work);
        self.finish_deletions(work);
        self.finish_draining(work);
        self.finish_flushes(work);
        self.finish_quiescing(work);
        let signalled = self.interrupts.flush(work.shared, work.now_ns);
        work.stats.interrupts.add(signalled.count);
        let moves = self.moving(work.shared) || self.io.only_flushes();
        let waits = self.io.waits() && moves;
        let retry = waits.then(|| work.now_ns.saturating_add(RETRY_NS));
        let deadlines = [signalled.next_ns, retry, self.keep_alive_ns()];
        work.progress.deadline_ns = deadlines.into_iter().fold(None, earlier);
        work.progress.more |= self.has_work(work.shared);
    }

    /// When the host is taken for dead; the timer stands still unless commands are processed.
    fn keep_alive_ns(&self) -> Option<u64> {
        let admin = self.admin.as_ref().filter(|_| self.running)?;
        admin.keep_alive_ns()
    }

    /// Stops the controller when the host has been silent for too long. The commands that this poll
    /// found are executed already: a Keep Alive among them counts.
    fn check_keep_alive(&mut self, work: &Work<'_>) {
        if self.keep_alive_ns().is_some_and(|at| at <= work.now_ns) {
            self.running = false;
            work.shared.keep_alive_expired();
        }
    }

    /// Whether commands are fetched and events reported.
    fn serving(&self, shared: &Shared) -> bool {
        self.running && shared.settings.dma.load(Ordering::Acquire)
    }

    /// Whether backends may go on: they move data, unless the host has given its memory up. A reset
    /// has them end.
    fn moving(&self, shared: &Shared) -> bool {
        shared.settings.dma.load(Ordering::Acquire) || self.resetting()
    }

    /// Whether the host has reset the controller: its queues are not to be touched any more.
    fn resetting(&self) -> bool {
        self.quiescing
            .is_some_and(|quiescing| quiescing.drop_queues)
    }

    /// Whether a poll would do something without a doorbell.
    fn has_work(&self, shared: &Shared) -> bool {
        let mailbox = shared.mailboxes.get(self.id);
        if mailbox.is_some_and(|mailbox| !mailbox.is_empty()) {
            return true;
        }
        if self.io.only_flushes() && self.io.runnable() {
            return true;
        }
        let nudged = mailbox.is_some_and(Mailbox::is_nudged);
        let runnable = self.io.runnable() || self.can_start_format();
        if self.moving(shared) && (runnable || !self.unposted.is_empty() || nudged) {
            return true;
        }
        self.serving(shared)
            && (self.rings.fetchable(self.io.room() > 0)
                || self.admin.as_ref().is_some_and(|admin| {
                    shared.faults.load(Ordering::Acquire) != 0
                        || (admin.has_delivery() && self.rings.admin_has_room())
                }))
    }

    /// Asks the host to ring with the next tail or head that it stores in memory.
    fn arm_doorbells(&mut self, shared: &Shared, memory: &GuestRam) -> Result<(), QueueFault> {
        if self.serving(shared) {
            self.rings.arm_doorbells(shared, memory)?;
        }
        Ok(())
    }

    fn doorbell_rang(&self, shared: &Shared, memory: &GuestRam) -> bool {
        self.serving(shared)
            && self
                .rings
                .unseen_doorbell(&shared.doorbells, self.id, memory)
    }

    /// Judges doorbells and executes what is waiting, queue after queue.
    fn serve(&mut self, work: &mut Work<'_>, budget: u32) -> Result<(), QueueFault> {
        if !self.running || !work.dma {
            return Ok(());
        }
        self.rings.read_doorbells(work, self.id)?;
        let burst = work
            .shared
            .settings
            .arbitration_burst
            .load(Ordering::Relaxed);
        for _ in 0..self.rings.active() {
            let left = budget.saturating_sub(work.spent);
            if left == 0 {
                // The next poll starts where this one stopped.
                return Ok(());
            }
            let Some(index) = self.rings.next_turn() else {
                break;
            };
            let served = self.serve_sq(work, index, burst, left);
            self.rings.had_turn(index);
            served?;
        }
        self.rings.end_round();
        Ok(())
    }

    /// Executes up to `burst` commands of a queue, as many as `left` of the budget pays for and
    /// at least one.
    fn serve_sq(
        &mut self,
        work: &mut Work<'_>,
        index: usize,
        burst: u32,
        left: u32,
    ) -> Result<(), QueueFault> {
        let room = self.io.room();
        let most = burst.min(left);
        let copied = self
            .rings
            .copy(work, index, most, room, self.batch.as_mut_slice())?;
        let Some((sqes, is_admin)) = copied else {
            return Ok(());
        };
        let mut copied = sqes.len();
        if !is_admin && sqes.last().is_some_and(io::is_first) {
            let batch = self.batch.as_mut_slice();
            copied = self.rings.copy_second(work, index, copied, batch)?;
        }
        let sqes = self.batch.get(..copied).unwrap_or_default();
        let mut cost = 0u32;
        let mut count = 0usize;
        while let Some(sqe) = sqes.get(count) {
            if count > 0 && cost >= left {
                break;
            }
            let more = if is_admin {
                0
            } else {
                io::cost(work.shared, sqe)
            };
            cost = cost.saturating_add(1).saturating_add(more);
            count += 1;
            // Both of a fused operation, or neither.
            let pair = |second: &Sqe| io::is_pair(sqe, second);
            if !is_admin && io::is_first(sqe) && sqes.get(count).is_some_and(pair) {
                cost = cost.saturating_add(1).saturating_add(more);
                count += 1;
            }
        }
        if count == 0 {
            return Ok(());
        }
        work.spent = work.spent.saturating_add(cost);
        // The rest stays in the queue: SQHD tells the host only of what was taken.
        if let (Some(lint), Some((sqid, first))) = (&work.shared.lint, self.rings.place(index)) {
            lint.fetched(sqid, first, self.batch.get(..count).unwrap_or_default());
        }
        self.rings.take(index, count);
        if let Some(observer) = &mut self.observer {
            observer.fetched();
        }
        let mut at = 0;
        while at < count {
            let Some(sqe) = self.batch.get(at).copied() else {
                break;
            };
            at += 1;
            if !is_admin
                && io::is_first(&sqe)
                && let Some(second) = self.batch.get(at).filter(|_| at < count).copied()
                && io::is_pair(&sqe, &second)
            {
                at += 1;
                self.fused(work, index, sqe, second)?;
                continue;
            }
            let Some(command) = self.command(index, &sqe) else {
                debug_assert!(false, "a command was taken without a completion slot");
                break;
            };
            work.progress.commands += 1;
            if is_admin {
                work.stats.admin_commands.add(1);
                self.admin_command(work, command, &sqe)?;
                continue;
            }
            work.stats.io_commands.add(1);
            if let Started::Done(command, status) = self.io.start(work, command, &sqe) {
                self.complete(work, command, &sqe, status, 0)?;
            }
        }
        Ok(())
    }

    /// A command that was fetched from the queue at `index`, with its completion slot.
    fn command(&mut self, index: usize, sqe: &Sqe) -> Option<Command> {
        let mut command = self.rings.command(index, sqe.cid)?;
        if self.observer.is_some() {
            self.begun(&mut command, sqe);
        }
        Some(command)
    }

    /// Tells the observer of a command. Apart from [`command`](Self::command), as
    /// [`posted`](Self::posted) is.
    #[inline(never)]
    fn begun(&mut self, command: &mut Command, sqe: &Sqe) {
        if let Some(observer) = &mut self.observer {
            let tag = observer.begin(self.rings.qid(command), sqe);
            command.name = Name::new(sqe.cid, tag);
        }
    }

    /// Executes both commands of a fused operation, whose completion slots are there.
    fn fused(
        &mut self,
        work: &mut Work<'_>,
        index: usize,
        first: Sqe,
        second: Sqe,
    ) -> Result<(), QueueFault> {
        let commands = (self.command(index, &first), self.command(index, &second));
        let (Some(one), Some(other)) = commands else {
            debug_assert!(false, "a command was taken without a completion slot");
            return Ok(());
        };
        work.progress.commands += 2;
        work.stats.io_commands.add(2);
        let mut result = Ok(());
        let done = self.io.start_fused(work, (one, first), (other, second));
        for ((command, sqe), status) in done.into_iter().flatten() {
            // A fault must not lose the other's slot.
            let posted = self.complete(work, command, &sqe, status, 0);
            result = result.and(posted);
        }
        result
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
        let (shared, memory, now_ns) = (work.shared, work.memory, work.now_ns);
        let cx = AdminContext {
            shared,
            memory,
            epoch: self.epoch,
            now_ns,
            tag: command.name.tag(),
        };
        match admin.execute(&cx, sqe) {
            Outcome::Done { status, dw0 } => self.complete(work, command, sqe, status, dw0),
            Outcome::Waits(ticket) => {
                admin.wait(ticket, command, *sqe);
                Ok(())
            }
            Outcome::Delivered => {
                // It may wait for ever: its slot goes back until it can be completed.
                self.rings.hand_back(command);
                Ok(())
            }
        }
    }

    /// Tries what found its backend full or its range in use, before newer commands come.
    fn retry(&mut self, work: &mut Work<'_>) -> Result<(), QueueFault> {
        if !work.dma {
            return Ok(());
        }
        if let Some(mailbox) = work.shared.mailboxes.get(self.id) {
            // Before the tries: what is given back after them nudges again.
            mailbox.clear_nudge();
        }
        if !self.io.has_deferred() {
            return Ok(());
        }
        let mut finished = std::mem::take(&mut self.finished);
        self.io.retry(work, &mut finished);
        self.complete_all(work, finished)
    }

    /// Continues what is with the backends.
    fn reap(&mut self, work: &mut Work<'_>) -> Result<(), QueueFault> {
        let resetting = self.resetting();
        let only_flushes = self.io.only_flushes();
        if !only_flushes && (self.io.is_idle() || !(work.dma || resetting)) {
            return Ok(());
        }
        if !work.dma && !only_flushes {
            // A reset goes on without the host's memory.
            self.io.cancel();
        }
        let mut finished = std::mem::take(&mut self.finished);
        self.io.reap(work, resetting, &mut finished);
        self.complete_all(work, finished)
    }

    fn complete_all(
        &mut self,
        work: &mut Work<'_>,
        mut finished: Vec<Finished>,
    ) -> Result<(), QueueFault> {
        let mut result = Ok(());
        for Finished {
            command,
            sqe,
            status,
            plan,
        } in finished.drain(..)
        {
            if let Some(plan) = plan {
                // A reset gives it up, however far it had come.
                let status = match self.resetting() {
                    true => Status::ABORT_REQUESTED,
                    false => status,
                };
                self.formatted(work, plan, status);
            }
            // A fault must not lose the other commands' slots.
            let posted = self.complete(work, command, &sqe, status, 0);
            result = result.and(posted);
        }
        self.finished = finished;
        result
    }

    /// Completes Asynchronous Event Requests with what has happened, or because they were aborted
    /// (Base 5.1.2).
    fn report_events(&mut self, work: &mut Work<'_>) -> Result<(), QueueFault> {
        if !self.running || !work.dma || self.admin.is_none() {
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
                name: Name::new(delivery.cid, delivery.tag),
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
        if self.resetting() {
            self.rings.hand_back(command);
            return Ok(());
        }
        if !work.dma {
            self.unposted.push((command, status, dw0));
            return Ok(());
        }
        work.progress.completions += 1;
        let tag = command.name.tag();
        let posted = self
            .rings
            .complete(work, command, status, dw0, &mut self.interrupts);
        if self.observer.is_some() {
            self.posted(work.shared, tag, posted.is_ok(), (status, dw0));
        }
        posted
    }

    /// Tells the observer of a command's end. Apart from [`post`](Self::post), which is to stay
    /// small where nobody observes.
    #[inline(never)]
    fn posted(&mut self, shared: &Shared, tag: Tag, posted: bool, (status, dw0): (Status, u32)) {
        if let Some(observer) = &mut self.observer {
            let end = match posted {
                true => End::Completed { status, dw0 },
                false => End::Dropped(Dropped::QueueFault),
            };
            observer.end(shared, tag, end);
        }
    }

    /// Posts what waited for the function to be allowed to write memory again.
    fn post_late(&mut self, work: &mut Work<'_>) -> Result<(), QueueFault> {
        if self.unposted.is_empty() || !(work.dma || self.resetting()) {
            return Ok(());
        }
        let mut result = Ok(());
        for (command, status, dw0) in std::mem::take(&mut self.unposted) {
            let posted = self.post(work, command, status, dw0);
            result = result.and(posted);
        }
        result
    }
}

/// The earlier of two times, where there are any.
fn earlier(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

impl Drop for Shard {
    /// Whoever drops a shard ends its commands without completing them.
    fn drop(&mut self) {
        let lane = &mut self.lane;
        // What is under way when its thread dies stays under way, for the flight recorder to tell.
        if let Some(observer) = lane.observer.as_mut().filter(|_| !panicking()) {
            observer.end_all(&self.shared, Dropped::Stopped);
        }
        let waiting = lane.admin.as_mut().map(|admin| admin.take_waiting());
        let unposted = lane.unposted.drain(..).map(|(command, ..)| command);
        for command in lane
            .io
            .take_pending()
            .chain(waiting.into_iter().flatten())
            .chain(unposted)
        {
            command.permit.forget();
        }
    }
}
