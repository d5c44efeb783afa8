//! What the front end and the shards have in common.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU32, Ordering},
};

use nvme_spec::registers::{Cap, Register};
use storage::GuestRamHandle;

use crate::{
    config::ControllerConfig,
    doorbell::{Doorbells, FAULT_DOORBELL_REGISTER, Side},
    error_log::ErrorLog,
    ids::{Epoch, ShardId},
    lifecycle::{Event, Lifecycle},
    mailbox::{Mailboxes, Message},
    namespace::Namespace,
    queue::QueueFault,
    registers::{self, Registers},
    settings::Settings,
    signals::Interrupt,
    stats::ShardStats,
    sync::lock,
};

/// What the front end and the shards have in common.
pub(crate) struct Shared {
    pub(crate) config: ControllerConfig,
    pub(crate) cap: Cap,
    pub(crate) memory: GuestRamHandle,
    pub(crate) namespaces: Vec<Namespace>,
    pub(crate) registers: Mutex<Registers>,
    pub(crate) doorbells: Doorbells,
    pub(crate) mailboxes: Mailboxes,
    pub(crate) faults: AtomicU32,
    pub(crate) settings: Settings,
    pub(crate) error_log: Mutex<ErrorLog>,
    pub(crate) stats: Vec<ShardStats>,
    pub(crate) interrupt: Arc<dyn Interrupt>,
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
            Register::Nssr | Register::Cmbloc | Register::Cmbsz | Register::Crto => 0,
        }
    }

    pub(crate) fn write(&self, register: Register, half: Option<registers::Half>, data: &[u8]) {
        let mut registers = lock(&self.registers);
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
        match self.doorbells.ring(qid, side, value) {
            Some(shard) => self.mailboxes.ring(shard),
            None => self.fault(FAULT_DOORBELL_REGISTER),
        }
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
        registers.lifecycle = old.step(event);
        if registers.lifecycle == old {
            return;
        }
        tracing::debug!(?old, ?event, new = ?registers.lifecycle, "lifecycle");
        match registers.lifecycle {
            Lifecycle::Enabling => self.mailboxes.post(0, Message::Enable),
            Lifecycle::ShuttingDown { .. } => self.quiesce(registers, false),
            Lifecycle::Resetting { .. } => self.quiesce(registers, true),
            Lifecycle::Failed { .. } => {
                for shard in 0..self.config.shards {
                    self.mailboxes.post(shard, Message::Halt);
                }
            }
            // The host set CC.EN again before it saw RDY 0.
            Lifecycle::Disabled if registers.cc.en() => self.step(registers, Event::Enable),
            _ => {}
        }
    }

    fn quiesce(&self, registers: &mut Registers, drop_queues: bool) {
        registers.epoch = registers.epoch.wrapping_add(1);
        registers.quiesce_left = self.config.shards;
        for shard in 0..self.config.shards {
            let epoch = registers.epoch;
            self.mailboxes
                .post(shard, Message::Quiesce { epoch, drop_queues });
        }
    }

    /// A shard has done what `quiesce` of `epoch` asked.
    pub(crate) fn quiesced(&self, epoch: Epoch) {
        let mut registers = lock(&self.registers);
        if epoch != registers.epoch || registers.quiesce_left == 0 {
            return;
        }
        registers.quiesce_left -= 1;
        if registers.quiesce_left == 0 {
            self.step(&mut registers, Event::Quiesced);
        }
    }

    /// Queue memory cannot be reached: the controller stops, and the host sees CSTS.CFS.
    pub(crate) fn fatal(&self, fault: QueueFault) {
        tracing::warn!(
            qid = fault.qid,
            address = format_args!("{:#x}", fault.address),
            "queue memory cannot be reached; the controller reports a fatal error"
        );
        self.step(&mut lock(&self.registers), Event::Fatal);
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
