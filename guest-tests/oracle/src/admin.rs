//! Admin commands: queues that come and go, aborts, events, and questions, right and wrong.

use nvme_host::{Transport, command};
use nvme_spec::{
    AdminOpcode, Cns, Cqe, FeatureId, IDENTIFY_BYTES, LogId, NSID_BROADCAST, Sqe, Status,
    event::EventType,
    feature::{Arbitration, InterruptCoalescing, Select},
    queue::{ABORT_NOT_ABORTED, CreateCqCdw11, GetLogCdw10},
    registers::sq_tail_doorbell,
};

use crate::{
    choices::Choices,
    host::{Host, Key, What, Wrong},
    memory::Region,
    prp::{self, Layout},
    rings::{CompletionRing, SubmissionRing},
};

/// I/O queues of either kind that a host here has at most.
pub(crate) const MOST_QUEUES: u16 = 8;
/// The most entries of one.
const MOST_ENTRIES: u64 = 40;

/// An admin command in flight.
#[derive(Debug)]
pub(crate) enum Admin {
    /// One that answers a question or sets a feature.
    Plain {
        /// It must end in one of these.
        legal: Vec<Status>,
        /// What success gives it, if that is known.
        answer: Option<Vec<u8>>,
        pieces: Vec<(u64, u64)>,
    },
    /// Asynchronous Event Request.
    Event {
        over_limit: bool,
    },
    Abort {
        target: Key,
        over_limit: bool,
    },
    /// One that makes or ends a queue. `errors`: it must fail, with one of these.
    Queue {
        change: Change,
        errors: Vec<Status>,
    },
}

/// What becomes of a queue.
#[derive(Debug)]
pub(crate) enum Change {
    AddCq(CompletionRing),
    AddSq(SubmissionRing),
    DeleteSq(u16),
    DeleteCq(u16),
}

impl<T: Transport + ?Sized> Host<'_, T> {
    fn has_admin_room(&self) -> bool {
        self.sqs.get(&0).is_some_and(|sq| sq.room() > 0)
    }

    /// Whether a command that makes or ends a queue is in flight. There is one at a time: what the
    /// next may be answered depends on it.
    fn changes_queues(&self) -> bool {
        let is_change = |what: &What| matches!(what, What::Admin(Admin::Queue { .. }));
        self.in_flight
            .values()
            .any(|command| is_change(&command.what))
    }

    fn count(&self, which: impl Fn(&Admin) -> bool) -> usize {
        let admin = self.in_flight.values().filter(|c| match &c.what {
            What::Admin(admin) => which(admin),
            What::Io(_) => false,
        });
        admin.count()
    }

    /// Stores an admin command by chance, if there is room.
    pub(crate) fn send_admin(&mut self, choices: &mut (dyn Choices + '_)) {
        if !self.has_admin_room() {
            return;
        }
        match choices.below(12) {
            0..=2 => self.send_abort(choices),
            3 => {
                let waiting = self.count(|admin| matches!(admin, Admin::Event { .. }));
                let over_limit = waiting + 1 > self.facts.event_requests;
                let event = What::Admin(Admin::Event { over_limit });
                self.store(0, command::async_event_request(), event, Vec::new());
            }
            4 => self.ring_nobody(choices),
            5 | 6 => self.send_identify(choices),
            7 => self.send_get_log(choices),
            8 | 9 => self.send_feature(choices),
            10 => self.send_nonsense(choices),
            _ => self.send_get_feature(choices),
        }
    }

    fn send_abort(&mut self, choices: &mut (dyn Choices + '_)) {
        let keys: Vec<Key> = self.in_flight.keys().copied().collect();
        let target = if keys.is_empty() || choices.one_in(6) {
            (u16::try_from(choices.below(12)).unwrap_or_default(), 0xDEAD)
        } else {
            choices.pick(&keys)
        };
        let others = self.count(|admin| matches!(admin, Admin::Abort { .. }));
        let over_limit = others + 1 > self.facts.aborts;
        let abort = Admin::Abort { target, over_limit };
        let sqe = command::abort(target.0, target.1);
        self.store(0, sqe, What::Admin(abort), Vec::new());
    }

    /// Writes the doorbell of a queue that is not there: an event.
    fn ring_nobody(&mut self, choices: &mut (dyn Choices + '_)) {
        if self.changes_queues() {
            return;
        }
        let last = self.facts.io_queues;
        let qid = (1..=last).rev().find(|qid| !self.sqs.contains_key(qid));
        if let Some(qid) = qid {
            self.events_caused = true;
            self.note(|| format!("ring SQ {qid}, which is not there"));
            let at = sq_tail_doorbell(qid, self.cap.dstrd());
            let value = u32::try_from(choices.below(64)).unwrap_or_default();
            self.transport.write32(at, value);
        }
    }

    fn send_plain(&mut self, sqe: Sqe, legal: &[Status]) {
        let plain = Admin::Plain {
            legal: legal.to_vec(),
            answer: None,
            pieces: Vec::new(),
        };
        self.store(0, sqe, What::Admin(plain), Vec::new());
    }

    /// Stores a question whose answer needs a buffer.
    fn send_question(
        &mut self,
        mut sqe: Sqe,
        bytes: u64,
        legal: Status,
        answer: Option<Vec<u8>>,
        choices: &mut (dyn Choices + '_),
    ) {
        let defect = choices.one_in(6).then(|| choices.pick(&prp::DEFECTS));
        let (transport, memory) = (&mut *self.transport, &mut self.memory);
        let Some(layout) = prp::lay_out(transport, memory, choices, bytes, defect) else {
            return;
        };
        let Layout {
            prp1,
            prp2,
            regions,
        } = layout;
        (sqe.prp1, sqe.prp2) = (prp1, prp2);
        let resolved = prp::resolve(self.transport, self.facts.page_bytes, prp1, prp2, bytes);
        let mut statuses = resolved.errors.clone();
        statuses.extend(resolved.may);
        if resolved.errors.is_empty() || !legal.is_success() {
            statuses.push(legal);
        }
        // A controller need not look at the part of a buffer that it has nothing for.
        if legal.is_success() && answer.is_none() {
            statuses.push(Status::SUCCESS);
        }
        let plain = Admin::Plain {
            legal: statuses,
            answer,
            pieces: resolved.pieces,
        };
        self.store(0, sqe, What::Admin(plain), regions);
    }

    fn send_identify(&mut self, choices: &mut (dyn Choices + '_)) {
        let count = u32::try_from(self.facts.namespaces.len()).unwrap_or_default();
        let index = choices.index(self.facts.namespaces.len());
        let nsid = u32::try_from(index + 1).unwrap_or_default();
        let (cns, nsid, legal, answer) = match choices.below(5) {
            0 => {
                let page = self.identify_controller.clone();
                (Cns::CONTROLLER, 0, Status::SUCCESS, Some(page))
            }
            1 => {
                let page = self.identify_namespaces.get(index).cloned();
                (Cns::NAMESPACE, nsid, Status::SUCCESS, page)
            }
            2 => {
                let mut page: Vec<u8> = (1..=count).flat_map(u32::to_le_bytes).collect();
                page.resize(IDENTIFY_BYTES, 0);
                (Cns::ACTIVE_NAMESPACES, 0, Status::SUCCESS, Some(page))
            }
            3 => (Cns::NAMESPACE, count + 1, Status::INVALID_NAMESPACE, None),
            _ => (Cns(0xBF), 0, Status::INVALID_FIELD, None),
        };
        let sqe = command::identify(cns, nsid);
        self.send_question(sqe, IDENTIFY_BYTES as u64, legal, answer, choices);
    }

    fn send_get_log(&mut self, choices: &mut (dyn Choices + '_)) {
        let dwords = u32::try_from(choices.range(1..=128)).unwrap_or(1);
        let pages = [
            (LogId::ERROR_INFORMATION, Status::SUCCESS),
            (LogId::SMART, Status::SUCCESS),
            (LogId::FIRMWARE_SLOT, Status::SUCCESS),
            (LogId(0xBE), Status::INVALID_LOG_PAGE),
        ];
        let (lid, legal) = choices.pick(&pages);
        let mut sqe = command::get_log_page(lid, NSID_BROADCAST, dwords);
        sqe.cdw10 = GetLogCdw10::from(sqe.cdw10)
            .with_rae(choices.one_in(2))
            .into();
        self.send_question(sqe, u64::from(dwords) * 4, legal, None, choices);
    }

    /// Sets what decides in which order commands run and when the host hears of them.
    fn send_feature(&mut self, choices: &mut (dyn Choices + '_)) {
        let byte = |choices: &mut (dyn Choices + '_), limit| {
            u8::try_from(choices.below(limit)).unwrap_or_default()
        };
        let (fid, value) = if choices.one_in(2) {
            let burst = Arbitration::new().with_ab(byte(choices, 8));
            (FeatureId::ARBITRATION, burst.into())
        } else {
            let set = InterruptCoalescing::new()
                .with_thr_z(byte(choices, 256))
                .with_time(byte(choices, 4));
            (FeatureId::INTERRUPT_COALESCING, set.into())
        };
        self.send_plain(command::set_features(fid, value), &[Status::SUCCESS]);
    }

    fn send_get_feature(&mut self, choices: &mut (dyn Choices + '_)) {
        let asked = [
            (FeatureId::ARBITRATION, Status::SUCCESS),
            (FeatureId::NUMBER_OF_QUEUES, Status::SUCCESS),
            (FeatureId::POWER_MANAGEMENT, Status::SUCCESS),
            (FeatureId(0), Status::INVALID_FIELD),
        ];
        let (fid, legal) = choices.pick(&asked);
        self.send_plain(command::get_features(fid, Select::Current), &[legal]);
    }

    /// A command that no controller has, or one with bits that no admin command may have.
    fn send_nonsense(&mut self, choices: &mut (dyn Choices + '_)) {
        let (opcode, flags) = match choices.below(3) {
            0 => (AdminOpcode(0x07), 0),
            1 => (AdminOpcode(0xFF), 0),
            _ => (
                AdminOpcode::GET_FEATURES,
                choices.pick(&[0x01, 0x02, 0x40, 0xC0]),
            ),
        };
        let sqe = Sqe {
            flags: flags.into(),
            ..command::admin(opcode)
        };
        let legal = if flags == 0 {
            Status::INVALID_OPCODE
        } else {
            Status::INVALID_FIELD
        };
        self.send_plain(sqe, &[legal]);
    }

    /// Stores a command that makes or ends a queue, by chance, unless one is in flight.
    pub(crate) fn change_queues(&mut self, choices: &mut (dyn Choices + '_)) {
        if !self.has_admin_room() || self.changes_queues() {
            return;
        }
        let io = |qids: Vec<u16>| qids.into_iter().filter(|&qid| qid > 0).collect::<Vec<_>>();
        let sqs = io(self.sqs.keys().copied().collect());
        let cqs = io(self.cqs.keys().copied().collect());
        match choices.below(8) {
            0 if cqs.len() < usize::from(MOST_QUEUES) => self.add_cq(choices),
            1..=3 if !cqs.is_empty() && sqs.len() < usize::from(MOST_QUEUES) => {
                self.add_sq(choices);
            }
            4 | 5 if sqs.len() > 1 => {
                let qid = choices.pick(&sqs);
                self.delete_sq(qid, choices);
            }
            6 if !cqs.is_empty() => self.delete_cq(choices.pick(&cqs)),
            _ => self.change_wrongly(choices),
        }
    }

    fn free_qid(&self, taken: impl Fn(u16) -> bool) -> Option<u16> {
        let last = self.facts.io_queues.min(MOST_QUEUES);
        (1..=last).find(|&qid| !taken(qid))
    }

    fn entries(&self, choices: &mut (dyn Choices + '_)) -> u32 {
        let most = MOST_ENTRIES.min(self.facts.queue_entries.into());
        let entries = if choices.one_in(4) {
            2
        } else {
            choices.range(2..=most)
        };
        u32::try_from(entries).unwrap_or(2)
    }

    pub(crate) fn add_cq(&mut self, choices: &mut (dyn Choices + '_)) {
        let Some(qid) = self.free_qid(|qid| self.cqs.contains_key(&qid)) else {
            return;
        };
        let entries = self.entries(choices);
        let Some(region) = self.queue_memory(CompletionRing::bytes(entries)) else {
            return;
        };
        let vector = choices.one_in(2).then_some(0);
        let sqe = command::create_cq(qid, size_z(entries), region.address, vector);
        let change = Change::AddCq(CompletionRing::new(qid, region, entries));
        self.send_change(sqe, change, Vec::new());
    }

    pub(crate) fn add_sq(&mut self, choices: &mut (dyn Choices + '_)) {
        let cqids: Vec<u16> = self.cqs.keys().copied().filter(|&qid| qid > 0).collect();
        let free = self.free_qid(|qid| self.sqs.contains_key(&qid));
        let (Some(qid), false) = (free, cqids.is_empty()) else {
            return;
        };
        let cqid = choices.pick(&cqids);
        let entries = self.entries(choices);
        let Some(region) = self.queue_memory(SubmissionRing::bytes(entries)) else {
            return;
        };
        let sqe = command::create_sq(qid, size_z(entries), region.address, cqid);
        let change = Change::AddSq(SubmissionRing::new(qid, cqid, region, entries));
        self.send_change(sqe, change, Vec::new());
    }

    fn delete_sq(&mut self, qid: u16, choices: &mut (dyn Choices + '_)) {
        if choices.one_in(2) {
            self.ring(qid);
        }
        self.send_change(command::delete_sq(qid), Change::DeleteSq(qid), Vec::new());
        if let Some(sq) = self.sqs.get_mut(&qid) {
            sq.deleting = true;
        }
    }

    fn delete_cq(&mut self, qid: u16) {
        let is_bound = self.sqs.values().any(|sq| sq.cqid == qid);
        let errors = if is_bound {
            vec![Status::INVALID_QUEUE_DELETION]
        } else {
            Vec::new()
        };
        if let Some(cq) = self.cqs.get_mut(&qid) {
            cq.deleting = errors.is_empty();
        }
        self.send_change(command::delete_cq(qid), Change::DeleteCq(qid), errors);
    }

    /// Asks for something that cannot be.
    fn change_wrongly(&mut self, choices: &mut (dyn Choices + '_)) {
        let Some(region) = self.queue_memory(self.memory.page()) else {
            return;
        };
        let at = region.address;
        self.memory.free(region);
        let free = self.free_qid(|qid| self.cqs.contains_key(&qid));
        let beyond = self.facts.io_queues.saturating_add(1);
        let (sqe, error) = match (choices.below(9), free) {
            (0, _) => (
                command::create_cq(0, 1, at, None),
                Status::INVALID_QUEUE_IDENTIFIER,
            ),
            (1, _) => {
                let sqe = command::create_cq(beyond, 1, at, None);
                (sqe, Status::INVALID_QUEUE_IDENTIFIER)
            }
            (2, Some(qid)) => (
                command::create_cq(qid, 0, at, None),
                Status::INVALID_QUEUE_SIZE,
            ),
            (3, Some(qid)) => {
                let sqe = command::create_cq(qid, 1, at + 64, None);
                (sqe, Status::INVALID_PRP_OFFSET)
            }
            (4, Some(qid)) => {
                let mut sqe = command::create_cq(qid, 1, at, None);
                sqe.cdw11 = CreateCqCdw11::from(sqe.cdw11).with_pc(false).into();
                // Only where queues have to be contiguous.
                if !self.cap.cqr() {
                    return;
                }
                (sqe, Status::INVALID_FIELD)
            }
            (5, Some(qid)) => {
                let sqe = command::create_sq(beyond - 1, 1, at, qid);
                if self.sqs.contains_key(&(beyond - 1)) {
                    return;
                }
                (sqe, Status::COMPLETION_QUEUE_INVALID)
            }
            (6, _) => (
                command::create_sq(0, 1, at, 1),
                Status::INVALID_QUEUE_IDENTIFIER,
            ),
            (7, _) => (command::delete_sq(0), Status::INVALID_QUEUE_IDENTIFIER),
            _ => (command::delete_cq(beyond), Status::INVALID_QUEUE_IDENTIFIER),
        };
        self.send_plain(sqe, &[error]);
    }

    /// Memory of a queue, zeroed, as the controller's phase tags need it.
    pub(crate) fn queue_memory(&mut self, bytes: u64) -> Option<Region> {
        let region = self.memory.alloc(bytes)?;
        let zeroes = vec![0; usize::try_from(region.bytes).unwrap_or_default()];
        self.memory.write(self.transport, region.address, &zeroes);
        Some(region)
    }

    fn send_change(&mut self, sqe: Sqe, change: Change, errors: Vec<Status>) {
        let queue = Admin::Queue { change, errors };
        self.store(0, sqe, What::Admin(queue), Vec::new());
    }

    /// Judges the end of an admin command.
    pub(crate) fn finish_admin(&mut self, sqe: &Sqe, admin: Admin, cqe: &Cqe) -> Result<(), Wrong> {
        let status = cqe.status();
        let is = |other: Status| status.same_code(other);
        match admin {
            Admin::Plain {
                legal,
                answer,
                pieces,
            } => {
                if !legal.iter().any(|&legal| is(legal)) {
                    return Err(format!("status {status:?}: the legal ones are {legal:?}"));
                }
                self.judge_answer(status, answer, &pieces)
            }
            Admin::Event { over_limit } => {
                if is(Status::ABORT_REQUESTED) || (over_limit && is(Status::AER_LIMIT_EXCEEDED)) {
                    return Ok(());
                }
                if !status.is_success() || !self.events_caused {
                    return Err(format!("status {status:?}: nothing has happened"));
                }
                match nvme_spec::event::EventResult::from(cqe.dw0).event_type() {
                    EventType::Error => Ok(()),
                    other => Err(format!(
                        "an event of type {other:?}: nothing of that happened"
                    )),
                }
            }
            Admin::Abort { target, over_limit } => {
                if status.is_success() {
                    if cqe.dw0 & ABORT_NOT_ABORTED == 0 {
                        self.claims.push(target);
                    }
                    return Ok(());
                }
                if over_limit && is(Status::ABORT_LIMIT_EXCEEDED) {
                    return Ok(());
                }
                Err(format!(
                    "status {status:?} of an Abort within its limit: {over_limit}"
                ))
            }
            Admin::Queue { change, errors } => {
                if !errors.is_empty() {
                    if errors.iter().any(|&error| is(error)) {
                        self.unchanged(change);
                        return Ok(());
                    }
                    return Err(format!("status {status:?}: the legal ones are {errors:?}"));
                }
                if !status.is_success() {
                    return Err(format!("status {status:?} of {:?}", sqe.admin_opcode()));
                }
                self.changed(change)
            }
        }
    }

    fn judge_answer(
        &mut self,
        status: Status,
        answer: Option<Vec<u8>>,
        pieces: &[(u64, u64)],
    ) -> Result<(), Wrong> {
        let mut rest = answer.as_deref().filter(|_| status.is_success());
        for &(address, bytes) in pieces {
            self.memory
                .accept(self.transport, Region { address, bytes });
            let Some(expected) = &mut rest else { continue };
            let count = usize::try_from(bytes).unwrap_or_default();
            let (now, later) = expected.split_at(count.min(expected.len()));
            if self.memory.expected(Region { address, bytes }) != now {
                return Err("the answer is not the one given before".into());
            }
            *expected = later;
        }
        Ok(())
    }

    fn unchanged(&mut self, change: Change) {
        match change {
            Change::AddCq(cq) => self.memory.free(cq.region),
            Change::AddSq(sq) => self.memory.free(sq.region),
            Change::DeleteSq(_) | Change::DeleteCq(_) => {}
        }
    }

    fn changed(&mut self, change: Change) -> Result<(), Wrong> {
        match change {
            Change::AddCq(cq) => {
                self.cqs.insert(cq.qid, cq);
            }
            Change::AddSq(sq) => {
                self.sqs.insert(sq.qid, sq);
            }
            Change::DeleteSq(qid) => {
                // All that will ever be completed is.
                if let Some(cqid) = self.sqs.get(&qid).map(|sq| sq.cqid) {
                    self.poll_one(cqid)?;
                }
                self.drop_sq(qid);
            }
            Change::DeleteCq(qid) => {
                self.poll_one(qid)?;
                if let Some(cq) = self.cqs.remove(&qid) {
                    self.memory.check(self.transport, cq.region)?;
                    self.memory.free(cq.region);
                }
            }
        }
        Ok(())
    }

    /// A submission queue is gone, and with it what was not completed.
    pub(crate) fn drop_sq(&mut self, qid: u16) {
        let lost: Vec<Key> = self
            .in_flight
            .range((qid, 0)..=(qid, u16::MAX))
            .map(|(&key, _)| key)
            .collect();
        lost.into_iter().for_each(|key| self.lose(key));
        if let Some(sq) = self.sqs.remove(&qid) {
            self.memory.free(sq.region);
        }
    }
}

fn size_z(entries: u32) -> u16 {
    u16::try_from(entries.saturating_sub(1)).unwrap_or(u16::MAX)
}
