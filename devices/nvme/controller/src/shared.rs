//! What the front end and the shards have in common.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU32, Ordering},
};

use nvme_spec::{
    Status,
    log::ErrorLogEntry,
    registers::{Cap, Register},
};
use storage::GuestRamHandle;

use crate::{
    admin::Features,
    config::ControllerConfig,
    doorbell::{Doorbells, FAULT_DOORBELL_REGISTER, Side},
    error_log::ErrorLog,
    ids::{Epoch, ShardId},
    lifecycle::{Event, Lifecycle},
    lint::Linter,
    mailbox::{Mailboxes, Message},
    namespace::Namespace,
    queue::QueueFault,
    registers::{self, Next, Registers},
    settings::Settings,
    signals::{DoorbellWakes, Interrupt},
    stats::ShardStats,
    sync::lock,
    trace::Watcher,
};

/// What the front end and the shards have in common.
pub(crate) struct Shared {
    pub(crate) config: ControllerConfig,
    pub(crate) cap: Cap,
    pub(crate) memory: GuestRamHandle,
    pub(crate) namespaces: Vec<Namespace>,
    /// A namespace can have blocks of more than a step of its backend.
    pub(crate) has_large_blocks: bool,
    pub(crate) registers: Mutex<Registers>,
    /// Shard 0's, as they were after the last command or reset that changed one: for those who
    /// look from outside.
    pub(crate) features: Mutex<Features>,
    pub(crate) doorbells: Doorbells,
    /// Backends ring them too.
    pub(crate) mailboxes: Arc<Mailboxes>,
    pub(crate) faults: AtomicU32,
    pub(crate) settings: Settings,
    /// Messages logged about what the guest did.
    pub(crate) warnings: AtomicU32,
    pub(crate) error_log: Mutex<ErrorLog>,
    pub(crate) stats: Vec<ShardStats>,
    pub(crate) interrupt: Arc<dyn Interrupt>,
    /// Checks the host; `None` unless the configuration asks for it.
    pub(crate) lint: Option<Box<Linter>>,
    /// Follows commands; `None` unless the configuration asks for it.
    pub(crate) watcher: Option<Arc<Watcher>>,
    pub(crate) doorbell_wakes: Mutex<Option<Arc<dyn DoorbellWakes>>>,
}

impl Shared {
    pub(crate) fn read(&self, registers: &Registers, register: Register) -> u64 {
        match register {
            Register::Cap => self.cap.into(),
            Register::Vs => u32::from(self.config.version).into(),
            Register::Cc => u32::from(registers.cc).into(),
            Register::Csts => u32::from(registers.lifecycle.csts()).into(),
            Register::Aqa => u32::from(registers.aqa).into(),
            Register::Asq => registers.asq,
            Register::Acq => registers.acq,
            Register::Intms | Register::Intmc => registers.interrupt_mask.into(),
            // Optional, and absent.
            Register::Nssr | Register::Cmbloc | Register::Cmbsz => 0,
            Register::Crto => u32::from(registers::crto(self.cap)).into(),
        }
    }

    pub(crate) fn write(&self, register: Register, half: Option<registers::Half>, data: &[u8]) {
        let mut registers = lock(&self.registers);
        if let Some(lint) = &self.lint {
            lint.written(self, &registers, register, half, data);
        }
        let value = registers::merge(0, Some(registers::Half::Low), data);
        let value = u32::try_from(value).unwrap_or_default();
        // The admin queue's place is changed only while the controller is disabled (Base 3.1.4.8).
        let disabled = !registers.cc.en();
        match register {
            Register::Cc => {
                let events = registers.write_cc(value);
                for event in events.into_iter().flatten() {
                    self.step(&mut registers, event);
                }
            }
            Register::Intms => registers.interrupt_mask |= value,
            Register::Intmc => registers.interrupt_mask &= !value,
            Register::Aqa if disabled => registers.aqa = registers::aqa(value),
            Register::Asq if disabled => {
                let value = registers::merge(registers.asq, half, data);
                registers.asq = registers::queue_base(value);
            }
            Register::Acq if disabled => {
                let value = registers::merge(registers.acq, half, data);
                registers.acq = registers::queue_base(value);
            }
            _ => {}
        }
    }

    pub(crate) fn ring(&self, qid: u16, side: Side, value: u32) {
        // First, for from the store on the shard may fetch.
        match &self.lint {
            None => {}
            // What comes from memory is judged when the shard finds it there.
            Some(lint) if self.doorbells.in_memory(qid, side) => {
                lint.register_rung(self, qid, side, value);
            }
            Some(lint) => lint.rung(self, qid, side, value),
        }
        match self.doorbells.ring(qid, side, value) {
            Some(shard) => self.mailboxes.ring(shard),
            None => self.fault(FAULT_DOORBELL_REGISTER),
        }
    }

    /// Who may turn doorbells into wake-ups.
    pub(crate) fn doorbell_wakes(&self) -> Option<Arc<dyn DoorbellWakes>> {
        lock(&self.doorbell_wakes).clone()
    }

    /// Leaves a doorbell fault for shard 0 to report.
    pub(crate) fn fault(&self, fault: u32) {
        if self.faults.fetch_or(fault, Ordering::AcqRel) & fault == 0 {
            self.mailboxes.ring(0);
        }
    }

    /// Steps the lifecycle and tells the shards what follows.
    pub(crate) fn step(&self, registers: &mut Registers, event: Event) {
        let old = registers.lifecycle;
        let new = old.step(event);
        registers.lifecycle = new;
        registers.remember(old, event);
        if new == old {
            return;
        }
        tracing::debug!(?old, ?event, ?new, "lifecycle");
        if let Some(watcher) = &self.watcher {
            watcher.stepped(old, event, new);
        }
        match (old, new) {
            (Lifecycle::Resetting { .. }, Lifecycle::Resetting { .. }) => {}
            (_, Lifecycle::Enabling) => self.mailboxes.post(0, Message::Enable),
            (_, Lifecycle::ShuttingDown { .. }) => self.quiesce(registers, false),
            (_, Lifecycle::Resetting { .. }) => {
                registers.next = Next::default();
                self.quiesce(registers, true);
            }
            (_, Lifecycle::Failed { .. }) => {
                for shard in 0..self.config.shards {
                    self.mailboxes.post(shard, Message::Halt);
                }
            }
            (_, Lifecycle::Disabled | Lifecycle::ShutDown { rdy: false }) => {
                // What the host asked for meanwhile.
                let Next { enable, shutdown } = std::mem::take(&mut registers.next);
                if enable {
                    self.step(registers, Event::Enable);
                } else if shutdown {
                    self.step(registers, Event::Shutdown);
                }
            }
            _ => {}
        }
    }

    fn quiesce(&self, registers: &mut Registers, drop_queues: bool) {
        registers.round = registers.round.wrapping_add(1);
        registers.quiesce_left = self.config.shards;
        for shard in 0..self.config.shards {
            let round = registers.round;
            self.mailboxes
                .post(shard, Message::Quiesce { round, drop_queues });
        }
    }

    /// A shard has done what `quiesce` of `round` asked.
    pub(crate) fn quiesced(&self, round: Epoch) {
        let mut registers = lock(&self.registers);
        if round != registers.round || registers.quiesce_left == 0 {
            return;
        }
        registers.quiesce_left -= 1;
        if registers.quiesce_left == 0 {
            self.step(&mut registers, Event::Quiesced);
        }
    }

    /// Queue memory cannot be reached: the controller stops, and the host sees CSTS.CFS; unless a
    /// reset was asked for meanwhile, which drops the queues.
    pub(crate) fn fatal(&self, fault: QueueFault) {
        let mut registers = lock(&self.registers);
        let before = registers.lifecycle;
        if matches!(before, Lifecycle::Resetting { .. }) {
            return;
        }
        self.step(&mut registers, Event::Fatal);
        let failed = registers.lifecycle != before;
        drop(registers);
        if failed && self.may_warn() {
            tracing::warn!(
                qid = fault.qid,
                address = format_args!("{:#x}", fault.address),
                "queue memory cannot be reached; the controller reports a fatal error"
            );
        }
    }

    /// The Keep Alive timer has expired: the controller stops, and the host sees CSTS.CFS and, after
    /// a reset, why (Base 3.9). A shutdown or a reset that was asked for meanwhile goes first.
    pub(crate) fn keep_alive_expired(&self) {
        let mut registers = lock(&self.registers);
        if registers.lifecycle != Lifecycle::Ready {
            return;
        }
        lock(&self.error_log).event(ErrorLogEntry::NONE, Status::KEEP_ALIVE_EXPIRED);
        self.step(&mut registers, Event::Fatal);
        drop(registers);
        if self.may_warn() {
            tracing::warn!("no Keep Alive command came in time; the controller stops");
        }
    }

    /// Stops the controller, whose host sees CSTS.CFS.
    pub(crate) fn fail(&self) {
        self.step(&mut lock(&self.registers), Event::Fatal);
    }

    /// Whether there may be one more message about what the guest did: it must not fill a log.
    pub(crate) fn may_warn(&self) -> bool {
        const WARNINGS: u32 = 16;
        self.warnings.load(Ordering::Relaxed) < WARNINGS
            && self.warnings.fetch_add(1, Ordering::Relaxed) < WARNINGS
    }

    /// Bytes of a memory page (CC.MPS).
    pub(crate) fn page_bytes(&self) -> u64 {
        self.settings.page_bytes.load(Ordering::Relaxed)
    }

    /// The namespace that a command names.
    pub(crate) fn namespace(&self, nsid: u32) -> Option<&Namespace> {
        self.namespaces
            .get(usize::try_from(nsid.checked_sub(1)?).ok()?)
    }

    /// The shard that serves a completion queue.
    pub(crate) fn shard_of_cq(&self, cqid: u16) -> ShardId {
        cqid.saturating_sub(1) % self.config.shards
    }
}
