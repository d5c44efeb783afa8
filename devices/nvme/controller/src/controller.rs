//! What every thread shares: registers, doorbells, and the way to the shards.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU32, Ordering},
};

use nvme_spec::registers::{Cap, DOORBELL_BASE, Register};
use storage::{GuestRamHandle, OpenError};
use thiserror::Error;

use crate::{
    config::{ConfigError, ControllerConfig},
    doorbell::{Doorbells, Side},
    error_log::ErrorLog,
    lifecycle::{Event, Lifecycle},
    mailbox::{Mailboxes, Message, Wake, lock},
    namespace::Namespace,
    queue::QueueFault,
    registers::{self, Registers, Target},
    settings::Settings,
    shard::{Epoch, Shard, ShardId},
    stats::{ShardStats, Stats},
};

/// Where the controller's interrupts go.
pub trait Interrupt: Send + Sync {
    /// Signals an MSI-X vector once. Called by the threads that poll; must not block.
    fn signal(&self, vector: u16);
}

/// A controller could not be made.
#[derive(Debug, Error)]
pub enum SetupError {
    /// A value breaks a rule.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A backend has no queue for a shard.
    #[error(transparent)]
    Backend(#[from] OpenError),
}

/// A controller, as its front end sees it: registers and doorbells. Shared by all threads.
pub struct Controller {
    pub(crate) shared: Arc<Shared>,
}

/// Doorbell writes that shard 0 has yet to report, as bits of [`Shared::faults`].
pub(crate) const FAULT_DOORBELL_REGISTER: u32 = 1 << 0;
pub(crate) const FAULT_DOORBELL_VALUE: u32 = 1 << 1;

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

impl Controller {
    /// A disabled controller, and the shards to poll: the first has the admin queue.
    ///
    /// # Errors
    /// [`SetupError`] naming the value, the rule and what would do, or the backend that refused.
    pub fn new(
        config: ControllerConfig,
        memory: GuestRamHandle,
        interrupt: Arc<dyn Interrupt>,
    ) -> Result<(Self, Vec<Shard>), SetupError> {
        config.validate()?;
        let namespaces = (1..)
            .zip(&config.namespaces)
            .map(|(nsid, namespace)| Namespace::new(nsid, &config, namespace))
            .collect();
        let shared = Arc::new(Shared {
            cap: registers::cap(&config),
            memory,
            namespaces,
            registers: Mutex::new(Registers::new()),
            doorbells: Doorbells::new(config.io_queues),
            mailboxes: Mailboxes::new(config.shards),
            faults: AtomicU32::new(0),
            settings: Settings::new(config.vectors),
            error_log: Mutex::new(ErrorLog::new()),
            stats: (0..config.shards).map(|_| ShardStats::default()).collect(),
            interrupt,
            config,
        });
        let shards = (0..shared.config.shards)
            .map(|id| Shard::new(id, shared.clone()))
            .collect::<Result<_, _>>()?;
        Ok((Self { shared }, shards))
    }

    /// Bytes of BAR0, a power of two, of a controller with this configuration.
    #[must_use]
    pub fn bar_bytes_of(config: &ControllerConfig) -> u64 {
        registers::bar_bytes(config.io_queues)
    }

    /// The configuration the controller was made with.
    #[must_use]
    pub fn config(&self) -> &ControllerConfig {
        &self.shared.config
    }

    /// Reads BAR0. Any width and alignment reads the bytes of the registers that lie there;
    /// reserved bytes and doorbells read 0.
    pub fn bar_read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if offset >= DOORBELL_BASE {
            return;
        }
        let registers = lock(&self.shared.registers);
        for register in Register::ALL {
            let bytes = self.shared.read(&registers, register).to_le_bytes();
            let end = register.offset() + register.bytes();
            for (at, byte) in (register.offset()..end).zip(bytes) {
                let place = at.checked_sub(offset).and_then(|i| usize::try_from(i).ok());
                if let Some(place) = place.and_then(|i| data.get_mut(i)) {
                    *place = byte;
                }
            }
        }
    }

    /// Writes BAR0. Never waits for a shard: what takes time is seen in CSTS later.
    pub fn bar_write(&self, offset: u64, data: &[u8]) {
        match (registers::decode(offset, data.len()), data) {
            (Target::Doorbell { qid, side }, &[a, b, c, d]) => {
                self.shared
                    .ring(qid, side, u32::from_le_bytes([a, b, c, d]));
            }
            (Target::Register { register, half }, _) => self.shared.write(register, half, data),
            _ => {}
        }
    }

    /// Resets the function: as clearing CC.EN, and every register returns to its first value.
    pub fn function_reset(&self) {
        let mut registers = lock(&self.shared.registers);
        let Registers {
            lifecycle,
            epoch,
            quiesce_left,
            ..
        } = *registers;
        *registers = Registers {
            lifecycle,
            epoch,
            quiesce_left,
            ..Registers::new()
        };
        self.shared.step(&mut registers, Event::FunctionReset);
    }

    /// Lets the controller read and write memory, or not: PCI's Bus Master Enable. While it may
    /// not, it fetches no command and reports no event.
    pub fn set_bus_master(&self, enabled: bool) {
        self.shared.settings.dma.store(enabled, Ordering::Release);
        for shard in 0..self.shared.config.shards {
            self.shared.mailboxes.ring(shard);
        }
    }

    /// Says how to wake the thread that polls a shard.
    pub fn set_waker(&self, shard: u16, waker: Arc<dyn Wake>) {
        if let Some(mailbox) = self.shared.mailboxes.get(shard) {
            mailbox.set_waker(waker);
        }
    }

    /// What was done so far, over all shards.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats::sum(&self.shared.stats)
    }

    /// The lifecycle state now.
    #[must_use]
    pub fn lifecycle(&self) -> Lifecycle {
        lock(&self.shared.registers).lifecycle
    }
}

impl Shared {
    fn read(&self, registers: &Registers, register: Register) -> u64 {
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

    fn write(&self, register: Register, half: Option<registers::Half>, data: &[u8]) {
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

    fn ring(&self, qid: u16, side: Side, value: u32) {
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
