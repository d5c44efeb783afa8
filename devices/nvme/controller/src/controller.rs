//! The controller as its front end sees it.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU32, Ordering},
};

use nvme_spec::{
    Cns, Csi, IDENTIFY_BYTES, Sqe, Status,
    queue::{IdentifyCdw10, IdentifyCdw11},
    registers::{Cap, DOORBELL_BASE, Register},
};
use storage::{GuestRamHandle, OpenError, STEP_BYTES};
use thiserror::Error;

use crate::{
    admin::{self, FeatureValue},
    config::{ConfigError, ControllerConfig},
    doorbell::Doorbells,
    error_log::ErrorLog,
    lifecycle::{Event, Lifecycle},
    lint::{Counts, Linter},
    mailbox::{Mailboxes, Message},
    namespace::Namespace,
    registers::{self, Registers, Target},
    settings::Settings,
    shard::Shard,
    shared::Shared,
    signals::{DoorbellWakes, Interrupt, Wake},
    stats::{ShardStats, Stats},
    sync::lock,
    trace::{CommandEvent, Statistics, Watcher},
};

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
    shared: Arc<Shared>,
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
            has_large_blocks: config
                .namespaces
                .iter()
                .flat_map(|namespace| &namespace.formats)
                .any(|&lba| u64::from(lba) > STEP_BYTES),
            features: Mutex::new(admin::features_at_first(&config)),
            registers: Mutex::new(Registers::new()),
            doorbells: Doorbells::new(config.io_queues, config.shards),
            mailboxes: Arc::new(Mailboxes::new(config.shards)),
            faults: AtomicU32::new(0),
            settings: Settings::new(config.vectors),
            warnings: AtomicU32::new(0),
            error_log: Mutex::new(ErrorLog::new(config.version)),
            stats: (0..config.shards).map(|_| ShardStats::default()).collect(),
            interrupt,
            lint: config.lint.clone().map(|sink| Box::new(Linter::new(sink))),
            watcher: Watcher::new(&config),
            doorbell_wakes: Mutex::new(None),
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
        if let Some(lint) = &self.shared.lint {
            lint.read(&self.shared, offset, data.len());
        }
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
            _ => {
                if let Some(lint) = &self.shared.lint {
                    lint.odd_write(offset, data.len());
                }
            }
        }
    }

    /// Resets the function: as clearing CC.EN, and every register returns to its first value.
    pub fn function_reset(&self) {
        let mut registers = lock(&self.shared.registers);
        let Registers {
            lifecycle,
            round,
            quiesce_left,
            ..
        } = *registers;
        *registers = Registers {
            lifecycle,
            round,
            quiesce_left,
            ..Registers::new()
        };
        self.shared.step(&mut registers, Event::FunctionReset);
    }

    /// Reports a fatal error to the host (CSTS.CFS): a thread that polled has died.
    pub fn fail(&self) {
        self.shared.fail();
    }

    /// Lets the controller read and write memory, or not: PCI's Bus Master Enable. While it may
    /// not, it fetches no command and reports no event.
    pub fn set_bus_master(&self, enabled: bool) {
        self.shared.settings.dma.store(enabled, Ordering::Release);
        for shard in 0..self.shared.config.shards {
            self.shared.mailboxes.ring(shard);
        }
    }

    /// Tells the host that what Identify says of a namespace is not what it was: its identifier
    /// goes to the Changed Attached Namespace list, and an Asynchronous Event Request is completed
    /// if the host asked for that (Base 5.1.2.1, 5.1.12.1.5). For whoever changes what stands behind
    /// a namespace. An identifier that no namespace has is ignored.
    pub fn namespace_changed(&self, nsid: u32) {
        if self.shared.namespace(nsid).is_some() {
            let message = Message::NamespaceChanged { nsid };
            self.shared.mailboxes.post(0, message);
        }
    }

    /// Says how to wake the thread that polls a shard.
    pub fn set_waker(&self, shard: u16, waker: Arc<dyn Wake>) {
        if let Some(mailbox) = self.shared.mailboxes.get(shard) {
            mailbox.set_waker(waker);
        }
    }

    /// Says who may turn doorbells into wake-ups; without it every write comes to
    /// [`bar_write`](Self::bar_write). Queues that are there already keep their doorbells.
    pub fn set_doorbell_wakes(&self, wakes: Arc<dyn DoorbellWakes>) {
        *lock(&self.shared.doorbell_wakes) = Some(wakes);
    }

    /// What was done so far, over all shards.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            wakes: self.shared.mailboxes.wakes(),
            ..Stats::sum(&self.shared.stats)
        }
    }

    /// How often the host broke each rule; `None` unless it is checked.
    #[must_use]
    pub fn lint_counts(&self) -> Option<Counts> {
        self.shared.lint.as_ref().map(|lint| lint.counts())
    }

    /// Has commands traced or not, from those that end after this on; `false` if they are not, for
    /// want of a [`Trace`](crate::Trace) or because `on` is `false`.
    pub fn set_tracing(&self, on: bool) -> bool {
        let watcher = self.shared.watcher.as_ref();
        watcher.is_some_and(|watcher| watcher.set_tracing(on))
    }

    /// Whether commands are traced.
    #[must_use]
    pub fn is_tracing(&self) -> bool {
        let watcher = self.shared.watcher.as_ref();
        watcher.is_some_and(|watcher| watcher.is_tracing())
    }

    /// What the flight recorder holds: commands that ended, oldest first, and those under way, by
    /// the time of their fetch. A record that is written at this moment is left out. Empty unless
    /// the configuration [watches](crate::trace::Watch).
    #[must_use]
    pub fn recorded(&self) -> Vec<CommandEvent> {
        let watcher = self.shared.watcher.as_ref();
        watcher.map_or_else(Vec::new, |watcher| watcher.recorded())
    }

    /// What Identify returns: the structure that CNS names, of a namespace or command set where it
    /// is about one (Base 5.1.13). The host's command gets the same.
    ///
    /// # Errors
    /// The status that a host's command would be completed with.
    pub fn identify(&self, cns: Cns, nsid: u32, csi: Csi) -> Result<[u8; IDENTIFY_BYTES], Status> {
        let sqe = Sqe {
            nsid,
            cdw10: IdentifyCdw10::new().with_cns_raw(cns.0).into(),
            cdw11: IdentifyCdw11::new().with_csi_raw(csi.0).into(),
            ..Sqe::default()
        };
        admin::identify(&self.shared, &sqe)
    }

    /// What Get Features returns of each feature that there is (Base 5.1.11): its current value and
    /// its default. `now_ns` is the time on the clock that polls are given.
    #[must_use]
    pub fn features(&self, now_ns: u64) -> Vec<FeatureValue> {
        admin::feature_values(&self.shared, now_ns)
    }

    /// Controller Capabilities, CAP (Base 3.1.4.1).
    #[must_use]
    pub fn capabilities(&self) -> Cap {
        self.shared.cap
    }

    /// What was counted by queue, namespace and operation; `None` unless the configuration asks for
    /// it.
    #[must_use]
    pub fn statistics(&self) -> Option<Statistics> {
        self.shared.watcher.as_ref()?.statistics()
    }

    /// The lifecycle state now.
    #[must_use]
    pub fn lifecycle(&self) -> Lifecycle {
        lock(&self.shared.registers).lifecycle
    }
}
