//! Admin commands (Base 5), all on shard 0.

mod changed;
mod clock;
mod data;
mod doorbells;
mod events;
mod features;
mod format;
mod identify;
mod keep_alive;
mod logs;
mod queues;

use std::sync::{Arc, atomic::Ordering};

use nvme_spec::{
    LogId, Sqe, Status,
    event::{EventType, NOTICE_NAMESPACE_ATTRIBUTE},
    queue::{ABORT_NOT_ABORTED, AbortCdw10},
    registers::{CC_AMS_ROUND_ROBIN, CC_CSS_ALL, CC_CSS_NVM},
};
use storage::{GuestRam, Request};

pub use self::features::FeatureValue;
use self::{changed::Changed, doorbells::close_doorbell, events::Events, queues::Queues};
pub(crate) use self::{
    features::{Features, feature_values, features_at_first},
    format::FormatPlan,
    identify::identify,
};
use crate::{
    command::Command,
    config::{ControllerConfig, MIN_PAGE_BYTES},
    doorbell::Side,
    ids::{AdminTicket, Epoch},
    lint::Kind,
    mailbox::{Answer, Message},
    queue::{CompletionQueue, SubmissionQueue},
    registers::{Registers, page_size_supported},
    shadow::ShadowBuffers,
    shared::Shared,
    table::{self, AdminKind},
    trace::Tag,
};

/// Abort commands that may wait at a time; ACL is one less (Base 5.1.1).
pub(crate) const ABORT_LIMIT: u8 = 4;

/// What an admin command works with.
pub(crate) struct AdminContext<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) memory: &'a Arc<GuestRam>,
    pub(crate) epoch: Epoch,
    pub(crate) now_ns: u64,
    /// What the command is followed by.
    pub(crate) tag: Tag,
}

/// What became of an admin command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// Complete it.
    Done { status: Status, dw0: u32 },
    /// A shard will answer to the ticket.
    Waits(AdminTicket),
    /// It will be among the deliveries: an Asynchronous Event Request, or the Abort of one.
    Delivered,
}

impl Outcome {
    const SUCCESS: Self = Self::Done {
        status: Status::SUCCESS,
        dw0: 0,
    };

    const fn value(dw0: u32) -> Self {
        Self::Done {
            status: Status::SUCCESS,
            dw0,
        }
    }
}

impl From<Status> for Outcome {
    fn from(status: Status) -> Self {
        Self::Done { status, dw0: 0 }
    }
}

/// The result of a handler: a status other than success is the short way out.
type Handled = Result<Outcome, Status>;

/// A completion that may have to wait for a slot: of an Asynchronous Event Request, or of the
/// Abort of one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Delivery {
    pub(crate) cid: u16,
    /// What the command is followed by.
    pub(crate) tag: Tag,
    pub(crate) status: Status,
    pub(crate) dw0: u32,
}

/// Shard 0's knowledge: which queues exist, features, events.
pub(crate) struct Admin {
    queues: Queues,
    features: Features,
    events: Events,
    changed: Changed,
    /// The memory of the last Doorbell Buffer Config.
    shadow: Option<ShadowBuffers>,
    /// Commands that wait for an answer, by ticket.
    waiting: Vec<Option<Waiting>>,
    /// Segments of an admin command's data.
    data: Request,
    /// When the first admin command came, from which Power On Hours count.
    first_command_ns: Option<u64>,
}

#[derive(Debug)]
struct Waiting {
    what: Wait,
    /// Set once the shard has put the command here.
    command: Option<(Command, Sqe)>,
}

/// What a waiting command waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wait {
    DeleteSq {
        qid: u16,
    },
    DeleteCq {
        qid: u16,
    },
    /// For `left` shards.
    TurnDoorbells {
        left: u16,
    },
    /// For `left` shards, and then for its turn to be executed.
    Drain {
        left: u16,
        plan: FormatPlan,
    },
    /// For `left` shards.
    Flush {
        left: u16,
        failed: bool,
    },
    Abort,
}

impl Admin {
    pub(crate) fn new(config: &ControllerConfig) -> Self {
        Self {
            queues: Queues::new(config.io_queues),
            features: Features::new(config),
            events: Events::default(),
            changed: Changed::default(),
            shadow: None,
            waiting: Vec::new(),
            data: Request::default(),
            first_command_ns: None,
        }
    }

    /// Checks what the registers ask for and makes the admin queues (Base 3.5.1).
    ///
    /// # Errors
    /// What is wrong with the registers; the controller then reports CSTS.CFS.
    pub(crate) fn enable(
        &mut self,
        shared: &Shared,
        memory: &GuestRam,
        registers: &Registers,
        now_ns: u64,
    ) -> Result<(CompletionQueue, SubmissionQueue), &'static str> {
        let Registers {
            cc, aqa, asq, acq, ..
        } = *registers;
        if !matches!(cc.css(), CC_CSS_NVM | CC_CSS_ALL) {
            return Err("CC.CSS selects a command set that CAP.CSS does not offer");
        }
        if cc.ams() != CC_AMS_ROUND_ROBIN {
            return Err("CC.AMS selects an arbitration that CAP.AMS does not offer");
        }
        if !page_size_supported(cc.mps()) {
            return Err("CC.MPS is above CAP.MPSMAX");
        }
        let page_bytes = u64::from(MIN_PAGE_BYTES) << cc.mps();
        let (sq_entries, cq_entries) = (u32::from(aqa.asqs_z()) + 1, u32::from(aqa.acqs_z()) + 1);
        if sq_entries < 2 || cq_entries < 2 {
            return Err("AQA gives an admin queue fewer than 2 entries");
        }
        if !asq.is_multiple_of(page_bytes) || !acq.is_multiple_of(page_bytes) {
            return Err("ASQ or ACQ is not aligned to the memory page size");
        }
        if !queues::is_memory(memory, asq, queues::sq_bytes(sq_entries))
            || !queues::is_memory(memory, acq, queues::cq_bytes(cq_entries))
        {
            return Err("an admin queue is not in memory");
        }
        shared
            .settings
            .page_bytes
            .store(page_bytes, Ordering::Relaxed);
        // What was rung while no queue was there belongs to no life of the controller.
        shared.faults.store(0, Ordering::Relaxed);
        if let Some(lint) = &shared.lint {
            lint.enabled();
            lint.created(memory, Kind::Submission, 0, asq, sq_entries);
            lint.created(memory, Kind::Completion, 0, acq, cq_entries);
        }
        self.features.clock.start(now_ns);
        self.features.publish(shared);
        shared.doorbells.open(0, Side::SqTail, 0);
        shared.doorbells.open(0, Side::CqHead, 0);
        Ok((
            CompletionQueue::new(0, acq, cq_entries, Some(0)),
            SubmissionQueue::new(0, asq, sq_entries, 0),
        ))
    }

    /// Forgets all that a Controller Level Reset ends (Base 3.7.2); the commands that waited.
    pub(crate) fn reset(
        &mut self,
        shared: &Shared,
        now_ns: u64,
    ) -> impl Iterator<Item = Command> + use<> {
        close_doorbell(shared, 0, Side::SqTail);
        close_doorbell(shared, 0, Side::CqHead);
        self.queues.close_all(shared);
        self.shadow = None;
        if let Some(lint) = &shared.lint {
            lint.reset();
        }
        // A Format NVM that was under way is not any more.
        for namespace in &shared.namespaces {
            namespace.give_up_format();
        }
        shared.settings.reset();
        self.features = Features::new(&shared.config);
        self.features.clock.start(now_ns);
        self.features.publish(shared);
        self.events = Events::default();
        self.changed = Changed::default();
        self.take_waiting()
    }

    /// After a shutdown the host may use its memory for other things; its queues stay until the
    /// reset, and are not served.
    pub(crate) fn shut_down(&self, shared: &Shared) {
        self.queues.detach_all(shared);
    }

    /// Takes out the commands that wait for an answer.
    pub(crate) fn take_waiting(&mut self) -> impl Iterator<Item = Command> + use<> {
        std::mem::take(&mut self.waiting)
            .into_iter()
            .flatten()
            .filter_map(|waiting| waiting.command.map(|(command, _)| command))
    }

    /// Executes a command.
    pub(crate) fn execute(&mut self, cx: &AdminContext<'_>, sqe: &Sqe) -> Outcome {
        self.first_command_ns.get_or_insert(cx.now_ns);
        self.handle(cx, sqe).unwrap_or_else(Outcome::from)
    }

    fn handle(&mut self, cx: &AdminContext<'_>, sqe: &Sqe) -> Handled {
        let kind = table::admin_kind(sqe.admin_opcode(), &cx.shared.config)
            .ok_or(Status::INVALID_OPCODE.dnr())?;
        // Admin commands take PRPs over PCIe, and are never fused (Base 4.1, PCIe 2.3).
        if sqe.flags.fuse() != 0 || sqe.flags.psdt() != 0 {
            return Err(Status::INVALID_FIELD.dnr());
        }
        match kind {
            AdminKind::CreateCq => self.create_cq(cx, sqe),
            AdminKind::CreateSq => self.create_sq(cx, sqe),
            AdminKind::DeleteCq => self.delete_cq(cx, sqe),
            AdminKind::DeleteSq => self.delete_sq(cx, sqe),
            AdminKind::Identify => self.identify(cx, sqe),
            AdminKind::GetLogPage => self.get_log_page(cx, sqe),
            AdminKind::SetFeatures => {
                let handled = self.set_features(cx, sqe);
                self.features.publish(cx.shared);
                handled
            }
            AdminKind::GetFeatures => self.get_features(cx, sqe),
            AdminKind::Abort => self.abort(cx, sqe),
            AdminKind::FormatNvm => self.format_nvm(cx, sqe),
            AdminKind::DoorbellBufferConfig => self.doorbell_buffer_config(cx, sqe),
            AdminKind::AsyncEventRequest => {
                let requested = self.events.request(sqe.cid, cx.tag);
                requested.map(|()| Outcome::Delivered)
            }
            AdminKind::KeepAlive => {
                self.features.keep_alive.restart(cx.now_ns);
                Ok(Outcome::SUCCESS)
            }
        }
    }

    /// Abort (Base 5.1.1): an Asynchronous Event Request at once, others by their shard. With the
    /// request there are two completions, for which the queue may have one slot: both wait for
    /// theirs.
    fn abort(&mut self, cx: &AdminContext<'_>, sqe: &Sqe) -> Handled {
        let cdw10 = AbortCdw10::from(sqe.cdw10);
        let (sqid, cid) = (cdw10.sqid(), cdw10.cid());
        if sqid == 0 {
            if !self.events.is_request(cid) {
                return Ok(Outcome::value(ABORT_NOT_ABORTED));
            }
            self.check_abort_limit()?;
            self.events.abort(cid, (sqe.cid, cx.tag));
            return Ok(Outcome::Delivered);
        }
        let Some(shard) = self.queues.shard_of_sq(cx.shared, sqid) else {
            return Ok(Outcome::value(ABORT_NOT_ABORTED));
        };
        self.check_abort_limit()?;
        let (epoch, ticket) = (cx.epoch, self.ticket(Wait::Abort));
        cx.shared.mailboxes.post(
            shard,
            Message::Abort {
                epoch,
                sqid,
                cid,
                ticket,
            },
        );
        Ok(Outcome::Waits(ticket))
    }

    fn check_abort_limit(&self) -> Result<(), Status> {
        let aborts = self
            .waiting
            .iter()
            .flatten()
            .filter(|w| w.what == Wait::Abort)
            .count();
        if aborts + self.events.aborts() >= usize::from(ABORT_LIMIT) {
            return Err(Status::ABORT_LIMIT_EXCEEDED);
        }
        Ok(())
    }

    /// Whether a command waits for an answer.
    pub(crate) fn has_waiting(&self) -> bool {
        self.waiting.iter().any(Option::is_some)
    }

    /// A ticket for a command that is about to wait.
    fn ticket(&mut self, what: Wait) -> AdminTicket {
        let waiting = Some(Waiting {
            what,
            command: None,
        });
        let free = self
            .waiting
            .iter()
            .position(Option::is_none)
            .unwrap_or(self.waiting.len());
        match self.waiting.get_mut(free) {
            Some(slot) => *slot = waiting,
            None => self.waiting.push(waiting),
        }
        // As many commands wait at most as the admin queue has entries, 4,096.
        AdminTicket::try_from(free).unwrap_or(AdminTicket::MAX)
    }

    /// Keeps a command until its ticket is answered.
    pub(crate) fn wait(&mut self, ticket: AdminTicket, command: Command, sqe: Sqe) {
        match self.waiting.get_mut(usize::from(ticket)) {
            Some(Some(waiting)) => waiting.command = Some((command, sqe)),
            _ => command.permit.forget(),
        }
    }

    /// A shard answers: the command to complete, its status and its dword 0.
    pub(crate) fn answered(
        &mut self,
        shared: &Shared,
        ticket: AdminTicket,
        answer: Answer,
    ) -> Option<(Command, Sqe, Status, u32)> {
        let place = self.waiting.get_mut(usize::from(ticket))?;
        if let Some(Wait::Drain { left, .. }) = place.as_mut().map(|waiting| &mut waiting.what) {
            *left = left.saturating_sub(1);
            return None;
        }
        if let Some(Wait::TurnDoorbells { left }) = place.as_mut().map(|waiting| &mut waiting.what)
        {
            *left = left.saturating_sub(1);
            if *left > 0 {
                return None;
            }
        }
        if let Some(Wait::Flush { left, failed }) = place.as_mut().map(|waiting| &mut waiting.what)
        {
            *left = left.saturating_sub(1);
            *failed |= answer == Answer::NotFlushed;
            if *left > 0 {
                return None;
            }
        }
        let waiting = place.take()?;
        let status = match waiting.what {
            Wait::Flush { failed: true, .. } => Status::INTERNAL_ERROR,
            _ => Status::SUCCESS,
        };
        let dw0 = match (waiting.what, answer) {
            (Wait::DeleteSq { qid }, _) => {
                self.queues.sq_deleted(shared, qid);
                0
            }
            (Wait::DeleteCq { qid }, _) => {
                self.queues.cq_deleted(shared, qid);
                0
            }
            (Wait::TurnDoorbells { .. } | Wait::Drain { .. } | Wait::Flush { .. }, _)
            | (Wait::Abort, Answer::Aborted) => 0,
            (Wait::Abort, _) => ABORT_NOT_ABORTED,
        };
        let (command, sqe) = waiting.command?;
        Some((command, sqe, status, dw0))
    }

    /// A namespace is not what it was: the host may want to hear of it (Base 5.1.2.1).
    pub(crate) fn namespace_changed(&mut self, nsid: u32) {
        self.changed.add(nsid);
        if self.features.events.namespace_attribute() {
            self.events.raise(
                EventType::Notice,
                NOTICE_NAMESPACE_ATTRIBUTE,
                LogId::CHANGED_NAMESPACES,
            );
        }
    }

    /// When the host is taken for dead unless it sends a Keep Alive command, if it asked for that.
    pub(crate) const fn keep_alive_ns(&self) -> Option<u64> {
        self.features.keep_alive.deadline_ns()
    }

    /// Records doorbell writes that no correct host makes.
    pub(crate) fn doorbell_faults(&mut self, shared: &Shared, faults: u32) {
        self.events.doorbell_faults(shared, faults);
    }

    /// Whether a command that waits for no shard can be completed now.
    pub(crate) fn has_delivery(&self) -> bool {
        self.events.has_delivery()
    }

    /// The next of them.
    pub(crate) fn next_delivery(&mut self) -> Option<Delivery> {
        self.events.next_delivery()
    }
}
