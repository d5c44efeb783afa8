//! A controller with queues that are filled once: what is measured is the controller, not a host.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use nvme::{Controller, ControllerConfig, Interrupt, Shard};
use nvme_host::{Config, Driver, Transport};
use nvme_spec::Sqe;
use storage::{GuestRam, GuestRamHandle};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};
use zerocopy::IntoBytes;

/// Guest memory in bytes.
const MEMORY_BYTES: u64 = 96 << 20;
/// Where DMA memory starts.
const DMA_BASE: u64 = 1 << 20;
const DMA_ALIGN: u64 = 64 * 1024;
/// Entries of each queue.
pub(super) const ENTRIES: u32 = 1024;
/// Commands that are submitted at once.
pub(super) const BATCH: u32 = 32;

/// Interrupts go nowhere.
struct Nowhere;

impl Interrupt for Nowhere {
    fn signal(&self, _vector: u16) {}
}

/// A controller, its shards and its memory.
pub(super) struct Rig {
    controller: Controller,
    shards: Vec<Shard>,
    memory: GuestRamHandle,
    dma_next: u64,
    now_ns: u64,
}

/// A queue pair whose submission queue is full of commands, ready to be rung.
pub(super) struct Lane {
    qid: u16,
    sq: u64,
    /// Where both rings are.
    at: u32,
}

impl Rig {
    /// An enabled controller with a queue pair for each shard.
    pub(super) fn new(config: ControllerConfig) -> anyhow::Result<(Self, Vec<Lane>)> {
        let size = usize::try_from(MEMORY_BYTES)?;
        let ram = GuestRam::from_ranges(&[(GuestAddress(0), size)])?;
        let memory = GuestRamHandle::new(ram);
        let lanes = config.shards;
        let (controller, shards) = Controller::new(config, memory.clone(), Arc::new(Nowhere))?;
        let mut rig = Self {
            controller,
            shards,
            memory,
            dma_next: DMA_BASE,
            now_ns: 0,
        };
        let mut driver = Driver::new(&mut rig)?;
        driver.enable(&Config::default())?;
        let mut queues = Vec::new();
        for qid in 1..=lanes {
            driver.create_pair(qid, ENTRIES)?;
            let sq = driver.sq_memory(qid).map_or(0, |memory| memory.address);
            queues.push(Lane { qid, sq, at: 0 });
        }
        Ok((rig, queues))
    }

    /// Memory for data, `bytes` long.
    pub(super) fn data(&mut self, bytes: u64) -> anyhow::Result<u64> {
        self.dma_alloc(bytes)
            .ok_or_else(|| anyhow::anyhow!("no memory left for {bytes} bytes"))
    }

    /// Puts a command into every slot of a submission queue.
    pub(super) fn fill(&mut self, lane: &Lane, command: impl Fn(u32, &mut Self) -> Sqe) {
        for slot in 0..ENTRIES {
            let mut sqe = command(slot, self);
            sqe.cid = u16::try_from(slot).unwrap_or_default();
            self.mem_write(lane.sq + u64::from(slot) * 64, sqe.as_bytes());
        }
    }

    /// Runs at least `count` commands on every lane, each with its shard and on a thread of its
    /// own if there are several, and says how long it took.
    pub(super) fn run(&mut self, lanes: &mut [Lane], count: u64) -> Duration {
        let controller = &self.controller;
        let start = Instant::now();
        if let ([shard], [lane]) = (self.shards.as_mut_slice(), &mut *lanes) {
            lane.run(controller, shard, count);
            return start.elapsed();
        }
        std::thread::scope(|scope| {
            for (shard, lane) in self.shards.iter_mut().zip(lanes) {
                scope.spawn(|| lane.run(controller, shard, count));
            }
        });
        start.elapsed()
    }

    /// Commands that failed so far.
    pub(super) fn errors(&self) -> u64 {
        self.controller.stats().errors
    }
}

impl Lane {
    fn run(&mut self, controller: &Controller, shard: &mut Shard, count: u64) {
        let doorbell = |head: u64| 0x1000 + (2 * u64::from(self.qid) + head) * 4;
        let (tail, head) = (doorbell(0), doorbell(1));
        let mut now_ns = 1;
        for _ in 0..count.div_ceil(BATCH.into()) {
            self.at = (self.at + BATCH) % ENTRIES;
            controller.bar_write(tail, &self.at.to_le_bytes());
            let mut done = 0;
            while done < BATCH {
                now_ns += 1;
                done += shard.poll(now_ns, BATCH).completions;
            }
            controller.bar_write(head, &self.at.to_le_bytes());
        }
    }
}

/// Enough of a machine for a driver to set the controller up.
impl Transport for Rig {
    fn bar_read(&mut self, offset: u64, data: &mut [u8]) {
        self.controller.bar_read(offset, data);
    }

    fn bar_write(&mut self, offset: u64, data: &[u8]) {
        self.controller.bar_write(offset, data);
    }

    fn config_read32(&mut self, _offset: u16) -> u32 {
        u32::MAX
    }

    fn config_write32(&mut self, _offset: u16, _value: u32) {}

    fn dma_alloc(&mut self, bytes: u64) -> Option<u64> {
        let address = self.dma_next;
        let end = address.checked_add(bytes)?;
        self.dma_next = end.checked_next_multiple_of(DMA_ALIGN)?;
        (end <= MEMORY_BYTES).then_some(address)
    }

    fn dma_reset(&mut self) {
        self.dma_next = DMA_BASE;
    }

    fn memory_end(&self) -> u64 {
        MEMORY_BYTES
    }

    fn mem_read(&self, address: u64, data: &mut [u8]) {
        let memory = self.memory.memory();
        if memory.read_slice(data, GuestAddress(address)).is_err() {
            data.fill(u8::MAX);
        }
    }

    fn mem_write(&mut self, address: u64, data: &[u8]) {
        // Nowhere takes nothing.
        let _ = self
            .memory
            .memory()
            .write_slice(data, GuestAddress(address));
    }

    fn mem_load32(&self, address: u64) -> u32 {
        let memory = self.memory.memory();
        let loaded = memory.load(GuestAddress(address), Ordering::Acquire);
        loaded.unwrap_or(u32::MAX)
    }

    fn vectors(&self) -> u16 {
        0
    }

    fn interrupts(&mut self, _vector: u16) -> u64 {
        0
    }

    fn wait_interrupt(&mut self, _vector: u16, _seen: u64, _timeout_ns: u64) -> bool {
        false
    }

    fn mask_vector(&mut self, _vector: u16, _masked: bool) {}

    fn vector_pending(&mut self, _vector: u16) -> bool {
        false
    }

    fn mask_function(&mut self, _masked: bool) {}

    fn now_ns(&mut self) -> u64 {
        self.now_ns
    }

    fn relax(&mut self) {
        self.now_ns += 1_000;
        for shard in &mut self.shards {
            shard.poll(self.now_ns, BATCH);
        }
    }
}
