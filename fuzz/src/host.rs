//! A host that keeps account: what it has asked for, and what the controller owes it.
//!
//! While the host is *trusted* (it has not written where its queues lie, or rung a doorbell
//! falsely) the controller owes each command but an Asynchronous Event Request exactly one
//! completion, on the right queue, and must leave everything else in queue memory as it is. In any
//! case it may not panic, must come to rest, and a reset mends it.
//!
//! Past 600 lines in one file: the account is one state, and every step of the host changes it.

use std::{collections::BTreeMap, sync::Arc};

use nvme::{CacheMode, ControllerConfig};
use nvme_spec::{
    AdminOpcode, CQE_BYTES, Cqe, FeatureId, SQE_BYTES, Sqe, Status,
    queue::{CreateCqCdw11, CreateSqCdw11, QueueCdw10, SetFeaturesCdw10},
    registers::{Aqa, CQE_LOG2, Cc, Register, SQE_LOG2, Shn, Shst},
};
use storage::{null::Null, ram::Ram};
use zerocopy::IntoBytes;

use crate::{
    device::Moody,
    input::Input,
    machine::{DATA, DATA_BYTES, Machine, QUEUES, QUEUES_BYTES, VECTORS, namespace},
    trace,
};

/// I/O queue pairs of the controller.
pub(crate) const IO_QUEUES: u16 = 4;
/// The most entries of a queue.
pub(crate) const DEPTH: u32 = 64;
/// Queue memory has this for each queue; aligned to it, for pages of up to 8 KiB.
const SLOT_BYTES: u64 = 8 << 10;
/// A slot that belongs to nobody, and one of an empty completion queue.
static CANARIES: [u8; 8 << 10] = [CANARY; 8 << 10];
static ZEROES: [u8; 8 << 10] = [0; 8 << 10];
/// Queue memory that the host looks after.
const HOST_QUEUES_BYTES: u64 = 96 << 10;
/// Bytes of each namespace.
const NAMESPACE_BYTES: u64 = 256 << 10;
/// What queue memory that belongs to nobody holds.
const CANARY: u8 = 0xC5;
/// Rounds of "let it work, take completions" before the host gives up.
const ROUNDS: u32 = 2_000;

/// A command that was submitted and has not completed.
#[derive(Clone, Copy)]
struct Command {
    sqe: Sqe,
    /// It may wait for ever.
    is_event_request: bool,
}

struct Sq {
    cqid: u16,
    base: u64,
    entries: u32,
    tail: u32,
    /// By the last completion.
    head: u32,
    outstanding: Vec<Command>,
}

struct Cq {
    base: u64,
    entries: u32,
    head: u32,
    phase: bool,
}

/// A host and its machine.
pub(crate) struct Host {
    pub(crate) machine: Machine,
    pub(crate) device: Moody,
    /// Bytes of a logical block, and blocks of a namespace.
    pub(crate) lba_bytes: u64,
    pub(crate) blocks: u64,
    pub(crate) namespaces: u32,
    pub(crate) mdts_bytes: u64,
    pub(crate) page_bytes: u64,
    sqs: BTreeMap<u16, Sq>,
    cqs: BTreeMap<u16, Cq>,
    next_cid: u16,
    trusted: bool,
    /// Wrong addresses are in memory; a reset does not take them away.
    spoilt: bool,
    pub(crate) mapped: bool,
}

/// Where the memory of a queue lies: the admin pair first.
pub(crate) const fn slot(qid: u16, is_cq: bool) -> u64 {
    QUEUES + SLOT_BYTES * (2 * qid as u64 + is_cq as u64)
}

/// Whether an address is within a page or so of the queues.
fn near_queues(address: u64) -> bool {
    (QUEUES.saturating_sub(1 << 20)..QUEUES + QUEUES_BYTES).contains(&address)
}

/// Bytes of a logical block in each format.
const LBA_BYTES: [u32; 3] = [512, 4096, 8192];

impl Host {
    /// A host before a disabled controller.
    pub(crate) fn new(input: &mut Input<'_>) -> Self {
        let mdts_bytes = input.pick(&[256 << 10, 8 << 10, 64 << 10]);
        let lba_bytes = input.pick(&[512, 4096, 512, 8192]);
        let shards = input.pick(&[1, 2, 3, 1]);
        let device = Moody::new(NAMESPACE_BYTES);
        let mut namespaces = vec![namespace(device.clone(), lba_bytes)];
        match input.below(3) {
            0 => {}
            1 => namespaces.push(namespace(
                Ram::new(NAMESPACE_BYTES).expect("memory"),
                lba_bytes,
            )),
            _ => namespaces.push(namespace(Null::new(NAMESPACE_BYTES), lba_bytes)),
        }
        for namespace in &mut namespaces {
            let others = LBA_BYTES.into_iter().filter(|&lba| lba != lba_bytes);
            namespace.formats.extend(others);
        }
        let count = u32::try_from(namespaces.len()).unwrap_or_default();
        let config = ControllerConfig {
            io_queues: IO_QUEUES,
            queue_entries: DEPTH,
            vectors: VECTORS,
            mdts_bytes,
            cache: input.pick(&[CacheMode::None, CacheMode::Volatile]),
            shards,
            namespaces,
            ..ControllerConfig::default()
        };
        trace!("{config:?}");
        Self {
            machine: Machine::new(config),
            device,
            lba_bytes: lba_bytes.into(),
            blocks: NAMESPACE_BYTES / u64::from(lba_bytes),
            namespaces: count,
            mdts_bytes: mdts_bytes.into(),
            page_bytes: 4096,
            sqs: BTreeMap::new(),
            cqs: BTreeMap::new(),
            next_cid: 0,
            trusted: true,
            spoilt: false,
            mapped: true,
        }
    }

    /// What the host does from here on is not to be relied on, until a reset.
    pub(crate) fn distrust(&mut self) {
        self.trusted = false;
    }

    /// The same, and a reset does not mend it.
    fn spoil(&mut self) {
        self.trusted = false;
        self.spoilt = true;
    }

    /// An identifier that was given not long ago.
    pub(crate) const fn recent_cid(&self, back: u8) -> u16 {
        self.next_cid.wrapping_sub(1 + back as u16)
    }

    /// Whether commands are executed.
    pub(crate) fn is_ready(&self) -> bool {
        let csts = self.machine.csts();
        self.machine.cc().en() && csts.rdy() && !csts.cfs() && csts.shst() == Shst::Normal
    }

    /// Submission queues that exist.
    pub(crate) fn sqids(&self) -> Vec<u16> {
        self.sqs.keys().copied().collect()
    }

    /// Enables a disabled controller with admin queues of so many entries, and checks that it gets
    /// ready.
    pub(crate) fn enable(&mut self, sq_entries: u32, cq_entries: u32, mps: u8) {
        self.describe(sq_entries, cq_entries, mps);
        self.settle();
        assert!(
            self.is_ready() || !self.mapped,
            "not ready: {:?} with {:?}",
            self.machine.csts(),
            self.machine.cc()
        );
    }

    /// Describes the admin queues and sets CC.EN.
    pub(crate) fn describe(&mut self, sq_entries: u32, cq_entries: u32, mps: u8) {
        trace!("enable: {sq_entries}, {cq_entries}, {mps}");
        for at in (QUEUES..QUEUES + HOST_QUEUES_BYTES).step_by(CANARIES.len()) {
            self.machine.write(at, &CANARIES);
        }
        for qid in 0..=IO_QUEUES {
            self.clear_cq(qid);
        }
        self.trusted = !self.spoilt && self.mapped;
        self.page_bytes = 4096 << mps;
        self.sqs.clear();
        self.cqs.clear();
        let aqa = Aqa::new()
            .with_asqs_z(entries_z(sq_entries))
            .with_acqs_z(entries_z(cq_entries));
        self.machine.write32(Register::Aqa, aqa.into());
        self.machine.write64(Register::Asq, slot(0, false));
        self.machine.write64(Register::Acq, slot(0, true));
        let cc = Cc::new()
            .with_en(true)
            .with_mps(mps)
            .with_iosqes(SQE_LOG2)
            .with_iocqes(CQE_LOG2);
        self.machine.write32(Register::Cc, cc.into());
        self.add_cq(0, slot(0, true), cq_entries);
        self.add_sq(0, slot(0, false), sq_entries, 0);
    }

    fn clear_cq(&mut self, qid: u16) {
        self.machine.write(slot(qid, true), &ZEROES);
    }

    fn add_cq(&mut self, qid: u16, base: u64, entries: u32) {
        self.cqs.insert(
            qid,
            Cq {
                base,
                entries,
                head: 0,
                phase: true,
            },
        );
    }

    fn add_sq(&mut self, qid: u16, base: u64, entries: u32, cqid: u16) {
        self.sqs.insert(
            qid,
            Sq {
                cqid,
                base,
                entries,
                tail: 0,
                head: 0,
                outstanding: Vec::new(),
            },
        );
    }

    /// Clears CC.EN: from here on no queue is there.
    pub(crate) fn disable(&mut self) {
        trace!("disable");
        let cc = self.machine.cc().with_en(false).with_shn(Shn::None);
        self.machine.write32(Register::Cc, cc.into());
        self.forget_queues();
    }

    /// The controller was reset by other means.
    pub(crate) fn forget_queues(&mut self) {
        self.sqs.clear();
        self.cqs.clear();
    }

    /// Asks for a shutdown.
    pub(crate) fn shut_down(&mut self, shn: Shn) {
        trace!("shutdown {shn:?}");
        let cc = self.machine.cc().with_shn(shn);
        self.machine.write32(Register::Cc, cc.into());
    }

    /// Puts a command into a queue, with an identifier that is free unless `cid` says which, and
    /// rings its doorbell if `rings`. `false`: there is no such queue, or no room.
    pub(crate) fn submit(&mut self, qid: u16, mut sqe: Sqe, cid: Option<u16>, rings: bool) -> bool {
        if self.is_ending(qid, false) {
            return false;
        }
        let Some(sq) = self.sqs.get_mut(&qid) else {
            return false;
        };
        let tail = (sq.tail + 1) % sq.entries;
        if tail == sq.head {
            return false;
        }
        sqe.cid = cid.unwrap_or(self.next_cid);
        self.next_cid = self.next_cid.wrapping_add(1);
        trace!("submit to {qid}: {sqe:x?}");
        let is_admin = qid == 0;
        sq.outstanding.push(Command {
            sqe,
            is_event_request: is_admin && sqe.admin_opcode() == AdminOpcode::ASYNC_EVENT_REQUEST,
        });
        let at = sq.base + u64::from(sq.tail) * SQE_BYTES as u64;
        sq.tail = tail;
        self.machine.write(at, sqe.as_bytes());
        self.judge(&sqe, is_admin);
        if rings {
            self.machine.ring(qid, false, tail);
        }
        true
    }

    /// Whether a queue's deletion was asked for: its doorbell may soon be another queue's.
    fn is_ending(&self, qid: u16, is_cq: bool) -> bool {
        let opcode = if is_cq {
            AdminOpcode::DELETE_IO_CQ
        } else {
            AdminOpcode::DELETE_IO_SQ
        };
        let admin = self.sqs.get(&0).map(|sq| &sq.outstanding);
        admin.into_iter().flatten().any(|command| {
            let sqe = &command.sqe;
            qid != 0 && sqe.admin_opcode() == opcode && QueueCdw10::from(sqe.cdw10).qid() == qid
        })
    }

    /// Whether a command can reach the queues' memory by its addresses.
    fn judge(&mut self, sqe: &Sqe, is_admin: bool) {
        let creates = is_admin
            && matches!(
                sqe.admin_opcode(),
                AdminOpcode::CREATE_IO_CQ | AdminOpcode::CREATE_IO_SQ
            );
        if near_queues(sqe.prp2) || (near_queues(sqe.prp1) && !creates) {
            self.spoil();
        }
        // Tails would be read from memory from then on, which this host does not write; and its
        // timer may run out, which is fatal.
        let shadows = sqe.admin_opcode() == AdminOpcode::DOORBELL_BUFFER_CONFIG;
        let fid = SetFeaturesCdw10::from(sqe.cdw10).fid();
        let times =
            sqe.admin_opcode() == AdminOpcode::SET_FEATURES && fid == FeatureId::KEEP_ALIVE_TIMER;
        if is_admin && (shadows || times) {
            self.distrust();
        }
    }

    /// Changes a byte of an entry that was submitted: `back` entries before the tail. Identifiers
    /// stay, and so do admin commands, which say what the queues are.
    pub(crate) fn change_entry(&mut self, qid: u16, back: u32, at: usize, value: u8) {
        let Some(sq) = self.sqs.get(&qid).filter(|_| qid != 0) else {
            return;
        };
        let index = (sq.tail + sq.entries - 1 - back % sq.entries) % sq.entries;
        let address = sq.base + u64::from(index) * SQE_BYTES as u64;
        let mut sqe = Sqe::default();
        self.machine.read(address, sqe.as_mut_bytes());
        if !matches!(at, 2 | 3)
            && let Some(byte) = sqe.as_mut_bytes().get_mut(at)
        {
            *byte = value;
            trace!("change entry {index} of {qid}: {sqe:x?}");
            self.machine.write(address, sqe.as_bytes());
            self.judge(&sqe, false);
        }
    }

    /// Writes eight bytes of data memory, whatever they are: data, a list of pages, ranges.
    pub(crate) fn write_data(&mut self, address: u64, value: u64) {
        if near_queues(value) {
            self.spoil();
        }
        let address = (DATA + address % DATA_BYTES) & !7;
        self.machine.write(address, &value.to_le_bytes());
    }

    /// Writes any doorbell.
    pub(crate) fn ring_any(&mut self, qid: u16, head: bool, value: u32) {
        trace!("ring {qid}, head {head}: {value:#x}");
        let (entries, right) = if head {
            let queue = self.cqs.get(&qid);
            queue.map_or((0, 0), |queue| (queue.entries, queue.head))
        } else {
            let queue = self.sqs.get(&qid);
            queue.map_or((0, 0), |queue| (queue.entries, queue.tail))
        };
        if value < entries && (value != right || self.is_ending(qid, head)) {
            self.distrust();
        }
        self.machine.ring(qid, head, value);
    }

    /// Takes the completions of a queue and tells the controller so.
    pub(crate) fn consume(&mut self, cqid: u16) -> usize {
        let mut count = 0;
        while let Some(cqe) = self.next_completion(cqid) {
            count += 1;
            self.completed(cqid, cqe);
            if !self.trusted && count > 100 {
                break;
            }
        }
        if count > 0 {
            self.ring_head(cqid);
        }
        count
    }

    /// Tells the controller how far completions were taken.
    fn ring_head(&mut self, cqid: u16) {
        if let Some(head) = self.cqs.get(&cqid).map(|cq| cq.head)
            && !self.is_ending(cqid, true)
        {
            self.machine.ring(cqid, true, head);
        }
    }

    fn next_completion(&mut self, cqid: u16) -> Option<Cqe> {
        let cq = self.cqs.get_mut(&cqid)?;
        let mut cqe = Cqe::default();
        let at = cq.base + u64::from(cq.head) * CQE_BYTES as u64;
        self.machine.read(at, cqe.as_mut_bytes());
        if cqe.phase() != cq.phase {
            return None;
        }
        cq.head += 1;
        if cq.head == cq.entries {
            cq.head = 0;
            cq.phase = !cq.phase;
        }
        Some(cqe)
    }

    fn completed(&mut self, cqid: u16, cqe: Cqe) {
        trace!("completion on {cqid}: {cqe:x?} {:?}", cqe.status());
        if !self.trusted {
            return;
        }
        let Cqe { sqid, cid, .. } = cqe;
        let Some(sq) = self.sqs.get_mut(&sqid) else {
            panic!("a completion of queue {sqid}, which is not there: {cqe:x?}");
        };
        assert_eq!(sq.cqid, cqid, "on the wrong queue: {cqe:x?}");
        assert_eq!(cqe.dw1, 0, "{cqe:x?}");
        let owed = |command: &Command| command.sqe.cid == cid;
        let plain = |command: &Command| owed(command) && !command.is_event_request;
        let at = sq
            .outstanding
            .iter()
            .position(plain)
            .or_else(|| sq.outstanding.iter().position(owed));
        let Some(at) = at else {
            panic!("a completion that nobody asked for, or a second one: {cqe:x?}");
        };
        let Command { sqe, .. } = sq.outstanding.remove(at);
        let steps = |to: u32| (to + sq.entries - sq.head) % sq.entries;
        let head = u32::from(cqe.sqhd);
        assert!(
            head < sq.entries && steps(head) <= steps(sq.tail),
            "SQHD {head} is not between {} and {}",
            sq.head,
            sq.tail
        );
        sq.head = head;
        if sqid == 0 && cqe.status().is_success() {
            self.admin_succeeded(&sqe);
        }
    }

    /// Follows what an admin command has changed, which must have been allowed.
    fn admin_succeeded(&mut self, sqe: &Sqe) {
        let cdw10 = QueueCdw10::from(sqe.cdw10);
        let (qid, entries) = (cdw10.qid(), u32::from(cdw10.qsize_z()) + 1);
        let fits = (1..=IO_QUEUES).contains(&qid)
            && (2..=DEPTH).contains(&entries)
            && sqe.prp1.is_multiple_of(self.page_bytes);
        match sqe.admin_opcode() {
            AdminOpcode::CREATE_IO_CQ => {
                let cdw11 = CreateCqCdw11::from(sqe.cdw11);
                let allowed = fits && cdw11.pc() && cdw11.iv() < VECTORS;
                assert!(allowed && !self.cqs.contains_key(&qid), "{sqe:x?}");
                self.add_cq(qid, sqe.prp1, entries);
                if sqe.prp1 != slot(qid, true) {
                    self.spoil();
                }
            }
            AdminOpcode::CREATE_IO_SQ => {
                let cdw11 = CreateSqCdw11::from(sqe.cdw11);
                let cqid = cdw11.cqid();
                let allowed = fits && cdw11.pc() && cqid != 0 && self.cqs.contains_key(&cqid);
                assert!(allowed && !self.sqs.contains_key(&qid), "{sqe:x?}");
                self.add_sq(qid, sqe.prp1, entries, cqid);
                if sqe.prp1 != slot(qid, false) {
                    self.spoil();
                }
            }
            AdminOpcode::DELETE_IO_SQ => {
                // Its completions are there already; none may come later.
                if let Some(cqid) = self.sqs.get(&qid).map(|sq| sq.cqid) {
                    self.consume(cqid);
                }
                let was = self.sqs.remove(&qid).is_some() && qid != 0;
                assert!(was, "queue {qid} was deleted and not there");
            }
            AdminOpcode::DELETE_IO_CQ => {
                let bound = self.sqs.values().any(|sq| sq.cqid == qid);
                let was = self.cqs.remove(&qid).is_some() && qid != 0;
                assert!(was && !bound, "queue {qid} was deleted: bound: {bound}");
                self.clear_cq(qid);
            }
            _ => {}
        }
    }

    /// Says what the controller may not do in this state, and checks that it has not.
    pub(crate) fn watch(&mut self) {
        let (cc, csts) = (self.machine.cc(), self.machine.csts());
        let why = if !self.machine.bus_master() {
            Some("the function was no bus master")
        } else if csts.shst() == Shst::Complete {
            Some("the controller was shut down")
        } else if !cc.en() && !csts.rdy() {
            Some("the controller was disabled")
        } else {
            None
        };
        self.machine.freeze(why);
    }

    /// Lets the controller come to rest with everything rung, released and taken, and checks that
    /// nothing is owed.
    pub(crate) fn settle(&mut self) {
        self.device.open();
        for _ in 0..ROUNDS {
            let queues: Vec<(u16, u32)> = self.sqs.iter().map(|(&q, sq)| (q, sq.tail)).collect();
            for (qid, tail) in queues {
                if !self.is_ending(qid, false) {
                    self.machine.ring(qid, false, tail);
                }
            }
            let cqids: Vec<u16> = self.cqs.keys().copied().collect();
            for &cqid in &cqids {
                self.ring_head(cqid);
            }
            self.machine.settle();
            let taken: usize = cqids.into_iter().map(|cqid| self.consume(cqid)).sum();
            if taken == 0 {
                self.device.close();
                self.check_rest();
                return;
            }
        }
        assert!(!self.trusted, "completions without end");
        self.device.close();
    }

    /// What holds when nothing moves.
    fn check_rest(&mut self) {
        let (cc, csts) = (self.machine.cc(), self.machine.csts());
        let state = (cc, csts, self.machine.function.controller().lifecycle());
        let fatal = csts.cfs();
        assert!(!fatal || !self.trusted, "fatal: {state:?}");
        if cc.en() && !fatal && csts.shst() == Shst::Normal {
            assert!(csts.rdy(), "enabled, and not ready: {state:?}");
        }
        if !cc.en() {
            assert!(!csts.rdy() && !fatal, "disabled, and not so: {state:?}");
        }
        if self.machine.bus_master() {
            assert_ne!(
                csts.shst(),
                Shst::Occurring,
                "a shutdown without end: {state:?}"
            );
        }
        if self.trusted && self.is_ready() && self.machine.bus_master() {
            for (qid, sq) in &self.sqs {
                let owed = sq.outstanding.iter().find(|c| !c.is_event_request);
                if let Some(owed) = owed {
                    panic!("queue {qid} never completed {:x?}", owed.sqe);
                }
            }
        }
        self.check_queue_memory();
        self.watch();
    }

    /// Submission queues and what no queue has are as the host left them.
    fn check_queue_memory(&self) {
        if !self.trusted || self.sqs.is_empty() {
            return;
        }
        // Slices are compared: a loop of our own is slow where each comparison is counted.
        let is_all = |address: u64, bytes: u64, byte: u8| {
            let image = self.machine.image(address, bytes);
            let right = if byte == CANARY { &CANARIES } else { &ZEROES };
            image == right[..image.len()]
        };
        for at in (slot(IO_QUEUES + 1, false)..QUEUES + HOST_QUEUES_BYTES).step_by(CANARIES.len()) {
            assert!(is_all(at, SLOT_BYTES, CANARY), "outside of every queue");
        }
        for qid in 0..=IO_QUEUES {
            // Entries beyond the largest queue.
            let most = u64::from(DEPTH) * SQE_BYTES as u64;
            let behind = is_all(slot(qid, false) + most, SLOT_BYTES - most, CANARY);
            assert!(behind, "behind queue {qid}");
        }
        for (&qid, cq) in &self.cqs {
            let end = u64::from(cq.entries) * CQE_BYTES as u64;
            let behind = is_all(slot(qid, true) + end, SLOT_BYTES - end, 0);
            assert!(behind, "behind completion queue {qid}");
        }
    }

    /// Whatever was done to it, a reset mends the controller.
    pub(crate) fn mend(&mut self) {
        trace!("mend");
        self.settle();
        self.device.open();
        self.map(true);
        self.machine.set_bus_master(true);
        self.watch();
        self.disable();
        self.settle();
        self.enable(8, 8, 0);
        // In any case: all that is asked for now is right.
        self.trusted = true;
        let identify = Sqe {
            opcode: AdminOpcode::IDENTIFY.0,
            cdw10: 1,
            prp1: DATA,
            ..Sqe::default()
        };
        assert!(self.submit(0, identify, None, true));
        self.machine.settle();
        let cqe = self.next_completion(0).expect("Identify completes");
        assert_eq!(cqe.status(), Status::SUCCESS);
        self.completed(0, cqe);
        self.disable();
        self.settle();
        self.watch();
        for shard in 0..self.machine.shards() {
            self.machine.poll(shard, 8);
        }
        self.machine.freeze(None);
    }

    /// Takes the queues' memory away, or gives it back.
    pub(crate) fn map(&mut self, mapped: bool) {
        if self.mapped != mapped {
            trace!("map {mapped}");
            self.mapped = mapped;
            self.distrust();
            self.machine.map_queues(mapped);
        }
    }

    /// Guest memory, for who changes it meanwhile: nothing can be relied on then.
    pub(crate) fn share_memory(&mut self) -> Arc<storage::GuestRam> {
        self.spoil();
        self.machine.ram()
    }
}

/// Entries as a field that is zero-based.
pub(crate) fn entries_z(entries: u32) -> u16 {
    u16::try_from(entries.wrapping_sub(1)).unwrap_or(u16::MAX)
}
