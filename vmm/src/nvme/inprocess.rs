//! The controller in this process, without KVM.
//!
//! [`InProcess`] is a host driver's [`Transport`] to an [`NvmeFunction`]. Made with
//! [`InProcess::new`] or [`InProcess::with_schedule`] it polls the shards itself, as a [`Schedule`]
//! of a seed says and with a stepped clock: the same seed and the same calls give the same run.
//! Made with [`InProcess::with_threads`] the shards have the worker threads they have under a
//! machine.
//!
//! Shadow doorbells are events, as KVM's ioeventfds are, unless [`InProcess::trap_doorbells`] says
//! otherwise.

mod events;
mod schedule;
mod stepped;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use nvme::{Controller, ControllerConfig, Shard, Wake};
use nvme_host::Transport;
use nvme_spec::registers::DOORBELL_BASE;
use pci::{
    MsiMessage, MsiRouter, PciFunction,
    capability::{self, msix},
    header::{self, Command},
};
use storage::{GuestRam, GuestRamHandle};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

pub use self::schedule::Schedule;
use self::{
    events::{EventDoorbells, NoEvents},
    stepped::Stepped,
};
use super::{
    FunctionError, NvmeFunction, NvmePciIds, REGISTER_BAR, WaitPolicy, Workers, function::MSIX_BAR,
};

/// Guest memory of the in-process machine, in bytes.
const MEMORY_BYTES: u64 = 160 << 20;
/// Where DMA memory starts: nothing lies below it.
const DMA_BASE: u64 = 1 << 20;
/// What the Transport contract promises.
const DMA_ALIGN: u64 = 64 * 1024;
/// Where an MSI-X table entry has its message data and its vector control (PCI 3.0 6.8.2).
const MESSAGE_DATA: u64 = 8;
const VECTOR_CONTROL: u64 = 12;

/// Where the vectors end: each has a count.
struct Counts {
    signals: Box<[AtomicU64]>,
    messages: Mutex<Vec<Option<MsiMessage>>>,
}

impl MsiRouter for Counts {
    fn route(&self, vector: u16, message: Option<MsiMessage>) {
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = messages.get_mut(usize::from(vector)) {
            *place = message;
        }
    }

    fn signal(&self, vector: u16) {
        if let Some(count) = self.signals.get(usize::from(vector)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Who polls the shards.
enum Engine {
    /// The transport, when it relaxes.
    Stepped(Box<Stepped>),
    /// Threads.
    Threads { _workers: Workers, start: Instant },
}

/// A controller with memory, interrupts and time of its own, all in this process.
pub struct InProcess {
    engine: Engine,
    events: Arc<EventDoorbells>,
    function: NvmeFunction,
    counts: Arc<Counts>,
    memory: GuestRamHandle,
    dma_next: u64,
    msix_control: u16,
}

impl InProcess {
    /// A controller ready for a driver: bus master on, every vector enabled with a message. Its
    /// schedule is [even-handed](Schedule::even).
    ///
    /// # Errors
    /// When the configuration breaks a rule, which the error names.
    ///
    /// # Panics
    /// When the host has no memory for the guest's.
    pub fn new(config: ControllerConfig, seed: u64) -> Result<Self, FunctionError> {
        Self::with_schedule(config, Schedule::even(seed))
    }

    /// The same, polled as `schedule` says.
    ///
    /// # Errors
    /// When the configuration breaks a rule, which the error names.
    ///
    /// # Panics
    /// When the host has no memory for the guest's.
    pub fn with_schedule(
        config: ControllerConfig,
        schedule: Schedule,
    ) -> Result<Self, FunctionError> {
        Self::make(config, |controller, shards| {
            let stepped = Stepped::new(controller, shards, schedule);
            let wakers = stepped.wakers();
            (Engine::Stepped(Box::new(stepped)), wakers)
        })
    }

    /// The same, polled by worker threads in real time.
    ///
    /// # Errors
    /// When the configuration breaks a rule, which the error names.
    ///
    /// # Panics
    /// When the host has no memory for the guest's, or no threads.
    pub fn with_threads(
        config: ControllerConfig,
        policy: WaitPolicy,
    ) -> Result<Self, FunctionError> {
        Self::make(config, |controller, shards| {
            #[expect(
                clippy::expect_used,
                reason = "a test harness without threads cannot go on"
            )]
            let workers = Workers::start(controller, shards, policy, || ()).expect("threads");
            let wakers = workers.wakers().collect();
            let start = Instant::now();
            (
                Engine::Threads {
                    _workers: workers,
                    start,
                },
                wakers,
            )
        })
    }

    fn make(
        config: ControllerConfig,
        engine: impl FnOnce(&Arc<Controller>, Vec<Shard>) -> (Engine, Vec<Arc<dyn Wake>>),
    ) -> Result<Self, FunctionError> {
        let size = usize::try_from(MEMORY_BYTES).unwrap_or(usize::MAX);
        #[expect(
            clippy::expect_used,
            reason = "a test harness without its memory cannot go on"
        )]
        let ram = GuestRam::from_ranges(&[(GuestAddress(0), size)]).expect("guest memory");
        let memory = GuestRamHandle::new(ram);
        let vectors = config.vectors;
        let counts = Arc::new(Counts {
            signals: (0..vectors).map(|_| AtomicU64::new(0)).collect(),
            messages: Mutex::new(vec![None; usize::from(vectors)]),
        });
        let ids = NvmePciIds::default();
        let (function, shards) = NvmeFunction::new(config, ids, memory.clone(), counts.clone())?;
        let control = capability_offset(&function, capability::ID_MSIX) + msix::MESSAGE_CONTROL;
        let (engine, wakers) = engine(function.controller(), shards);
        let events = Arc::new(EventDoorbells::new(wakers));
        function.controller().set_doorbell_wakes(events.clone());
        let mut machine = Self {
            engine,
            events,
            function,
            counts,
            memory,
            dma_next: DMA_BASE,
            msix_control: control,
        };
        machine.start(vectors);
        Ok(machine)
    }

    /// What firmware and an operating system do before a driver starts.
    fn start(&mut self, vectors: u16) {
        for vector in 0..vectors {
            let entry = u64::from(vector) * msix::ENTRY_SIZE;
            let message = 0xFEE0_0000u64.to_le_bytes();
            self.function.bar_write(MSIX_BAR, entry, &message);
            self.function.bar_write(
                MSIX_BAR,
                entry + MESSAGE_DATA,
                &u32::from(vector).to_le_bytes(),
            );
            self.mask_vector(vector, false);
        }
        self.set_msix_control(true, false);
        let command = Command::MEMORY_SPACE | Command::BUS_MASTER;
        let _ = self
            .function
            .config_write(header::COMMAND, &command.bits().to_le_bytes());
    }

    fn set_msix_control(&self, enable: bool, function_mask: bool) {
        let mut control = msix::MessageControl::empty();
        control.set(msix::MessageControl::ENABLE, enable);
        control.set(msix::MessageControl::FUNCTION_MASK, function_mask);
        let _ = self
            .function
            .config_write(self.msix_control, &control.bits().to_le_bytes());
    }

    /// The controller, for its counters and its lifecycle.
    #[must_use]
    pub const fn controller(&self) -> &Arc<Controller> {
        self.function.controller()
    }

    /// The PCI function, for what a driver does not do.
    #[must_use]
    pub const fn function(&self) -> &NvmeFunction {
        &self.function
    }

    /// The guest's memory, to take it away.
    #[must_use]
    pub const fn memory(&self) -> &GuestRamHandle {
        &self.memory
    }

    /// Has every doorbell write come to the controller, as without ioeventfds. For queues made
    /// from now on.
    pub fn trap_doorbells(&self) {
        self.controller().set_doorbell_wakes(Arc::new(NoEvents));
    }

    /// How many doorbells only wake a shard now.
    #[must_use]
    pub fn event_doorbells(&self) -> usize {
        self.events.count()
    }

    /// Moves a stepped clock without polling anything.
    pub const fn advance(&mut self, ns: u64) {
        if let Engine::Stepped(stepped) = &mut self.engine {
            stepped.advance(ns);
        }
    }

    /// Polls the shards whose turn it is, once. With threads, lets them run.
    pub fn step(&mut self) {
        let Engine::Stepped(stepped) = &mut self.engine else {
            std::thread::yield_now();
            return;
        };
        stepped.poll();
        self.deliver(false);
    }

    /// Moves a stepped clock to the next deadline, but not beyond `end_ns`, if every shard would
    /// sleep until then.
    fn sleep(&mut self, end_ns: u64) {
        if !self.all_idle() {
            return;
        }
        if let Engine::Stepped(stepped) = &mut self.engine {
            stepped.sleep(end_ns);
        }
    }

    /// Whether every stepped shard would go to sleep now.
    pub fn all_idle(&mut self) -> bool {
        match &mut self.engine {
            Engine::Stepped(stepped) => stepped.all_idle(),
            Engine::Threads { .. } => false,
        }
    }

    /// Lets doorbell writes arrive: those whose time has come, or `all`, for what the host does
    /// next cannot overtake them.
    fn deliver(&mut self, all: bool) {
        while let Engine::Stepped(stepped) = &mut self.engine
            && let Some((offset, value)) = stepped.arrived(all)
        {
            self.arrive(offset, &value);
        }
    }

    /// A register write arrives: at the controller, unless it is one that only wakes a shard.
    fn arrive(&self, offset: u64, data: &[u8]) {
        if !self.events.take(offset) {
            self.function.bar_write(REGISTER_BAR, offset, data);
        }
    }

    /// The host is about to do something: the controller may run before it does.
    fn before_access(&mut self) {
        if let Engine::Stepped(stepped) = &mut self.engine
            && stepped.between_accesses()
        {
            self.relax();
        }
    }

    fn ram(&self) -> impl std::ops::Deref<Target = GuestRam> {
        self.memory.memory()
    }
}

/// Where a capability is; the function has the ones that are asked for.
fn capability_offset(function: &NvmeFunction, id: u8) -> u16 {
    let byte = |offset: u16| {
        let mut data = [0];
        function.config_read(offset, &mut data);
        data[0]
    };
    let mut at = u16::from(byte(header::CAPABILITIES_POINTER));
    while at != 0 && byte(at) != id {
        at = u16::from(byte(at + 1));
    }
    at
}

impl Transport for InProcess {
    fn bar_read(&mut self, offset: u64, data: &mut [u8]) {
        self.before_access();
        self.deliver(true);
        self.function.bar_read(REGISTER_BAR, offset, data);
    }

    fn bar_write(&mut self, offset: u64, data: &[u8]) {
        self.before_access();
        if let (Engine::Stepped(stepped), DOORBELL_BASE.., &[a, b, c, d]) =
            (&mut self.engine, offset, data)
            && stepped.post(offset, [a, b, c, d])
        {
            return;
        }
        self.deliver(true);
        self.arrive(offset, data);
    }

    fn config_read32(&mut self, offset: u16) -> u32 {
        self.deliver(true);
        let mut data = [0; 4];
        self.function.config_read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn config_write32(&mut self, offset: u16, value: u32) {
        self.before_access();
        self.deliver(true);
        let _ = self.function.config_write(offset, &value.to_le_bytes());
    }

    fn dma_alloc(&mut self, bytes: u64) -> Option<u64> {
        let address = self.dma_next;
        let end = address
            .checked_add(bytes)?
            .checked_next_multiple_of(DMA_ALIGN)?;
        if end > MEMORY_BYTES {
            return None;
        }
        self.dma_next = end;
        let zeroes = vec![0; usize::try_from(bytes).ok()?];
        self.mem_write(address, &zeroes);
        Some(address)
    }

    fn dma_reset(&mut self) {
        self.dma_next = DMA_BASE;
    }

    fn memory_end(&self) -> u64 {
        MEMORY_BYTES
    }

    fn mem_read(&self, address: u64, data: &mut [u8]) {
        if self.ram().read_slice(data, GuestAddress(address)).is_err() {
            data.fill(u8::MAX);
        }
    }

    fn mem_write(&mut self, address: u64, data: &[u8]) {
        self.before_access();
        // Nowhere takes nothing.
        let _ = self.ram().write_slice(data, GuestAddress(address));
    }

    fn mem_load32(&self, address: u64) -> u32 {
        self.ram()
            .load(GuestAddress(address), Ordering::Acquire)
            .unwrap_or(u32::MAX)
    }

    fn mem_store32(&mut self, address: u64, value: u32) {
        let value = value.to_le();
        // Nowhere takes nothing.
        let _ = self
            .ram()
            .store(value, GuestAddress(address), Ordering::Release);
    }

    fn vectors(&self) -> u16 {
        u16::try_from(self.counts.signals.len()).unwrap_or(u16::MAX)
    }

    fn interrupts(&mut self, vector: u16) -> u64 {
        let count = self.counts.signals.get(usize::from(vector));
        count.map_or(0, |count| count.load(Ordering::Relaxed))
    }

    fn wait_interrupt(&mut self, vector: u16, seen: u64, timeout_ns: u64) -> bool {
        let end = self.now_ns().saturating_add(timeout_ns);
        while self.interrupts(vector) == seen {
            if self.now_ns() >= end {
                return false;
            }
            self.relax();
        }
        true
    }

    fn mask_vector(&mut self, vector: u16, masked: bool) {
        self.deliver(true);
        let at = u64::from(vector) * msix::ENTRY_SIZE + VECTOR_CONTROL;
        self.function
            .bar_write(MSIX_BAR, at, &u32::from(masked).to_le_bytes());
    }

    fn vector_pending(&mut self, vector: u16) -> bool {
        self.deliver(true);
        self.function.msix_pending(vector)
    }

    fn mask_function(&mut self, masked: bool) {
        self.deliver(true);
        self.set_msix_control(true, masked);
    }

    fn now_ns(&mut self) -> u64 {
        match &self.engine {
            Engine::Stepped(stepped) => stepped.now_ns,
            Engine::Threads { start, .. } => {
                u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
            }
        }
    }

    fn relax(&mut self) {
        if let Engine::Stepped(stepped) = &mut self.engine {
            stepped.tick();
        }
        self.step();
    }

    fn pause(&mut self, ns: u64) {
        let end = self.now_ns().saturating_add(ns);
        while self.now_ns() < end {
            self.relax();
            self.sleep(end);
        }
    }
}
