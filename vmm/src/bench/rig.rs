//! A controller with queues that are filled once: what is measured is the controller, not a host.

use std::{
    sync::{
        Arc, Barrier,
        atomic::{Ordering, fence},
    },
    time::Instant,
};

use nvme::{Controller, ControllerConfig, Interrupt, Shard};
use nvme_host::{Config, Driver, Transport, passes_event};
use nvme_spec::{
    Sqe,
    registers::{cq_head_doorbell, sq_tail_doorbell},
};
use storage::{GuestRam, GuestRamHandle};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};
use zerocopy::IntoBytes;

use super::sample::Sample;

/// Guest memory in bytes.
const MEMORY_BYTES: u64 = 96 << 20;
/// Where DMA memory starts.
const DMA_BASE: u64 = 1 << 20;
const DMA_ALIGN: u64 = 64 * 1024;
/// What a poll may do, as worker threads have it, in commands.
const BUDGET: u32 = 64;

/// Interrupts go nowhere.
struct Nowhere;

impl Interrupt for Nowhere {
    fn signal(&self, _vector: u16) {}
}

/// How a controller is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Shape {
    pub(super) shards: u16,
    /// Queue pairs over all shards; the first of each shard is used, and the others are idle.
    pub(super) pairs: u16,
    /// Entries of each queue, a command in each.
    pub(super) entries: u32,
    /// Commands that are submitted at once; the entries are a multiple.
    pub(super) depth: u32,
    /// Tails and heads are told in memory.
    pub(super) shadow: bool,
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
    sq: u64,
    entries: u32,
    depth: u32,
    /// Where both rings are.
    at: u32,
    tail: Told,
    head: Told,
}

/// Where the controller is told of a tail or head.
struct Told {
    register: u64,
    /// The addresses of its entry and of its event index.
    shadow: Option<(u64, u64)>,
}

impl Rig {
    /// An enabled controller, and a queue pair of each shard.
    pub(super) fn new(config: ControllerConfig, shape: Shape) -> anyhow::Result<(Self, Vec<Lane>)> {
        let size = usize::try_from(MEMORY_BYTES)?;
        let ram = GuestRam::from_ranges(&[(GuestAddress(0), size)])?;
        let memory = GuestRamHandle::new(ram);
        let config = ControllerConfig {
            shards: shape.shards,
            ..config
        };
        let (controller, shards) = Controller::new(config, memory.clone(), Arc::new(Nowhere))?;
        let mut rig = Self {
            controller,
            shards,
            memory,
            dma_next: DMA_BASE,
            now_ns: 0,
        };
        let mut driver = Driver::new(&mut rig)?;
        driver.set_shadow_doorbells(shape.shadow);
        driver.enable(&Config::default())?;
        let mut lanes = Vec::new();
        for qid in 1..=shape.pairs {
            driver.create_pair(qid, shape.entries)?;
            let shadow = driver.shadow_doorbells();
            let told = |register| Told {
                register,
                shadow: shadow.map(|shadow| shadow.entry(register)),
            };
            if qid <= shape.shards {
                lanes.push(Lane {
                    sq: driver.sq_memory(qid).map_or(0, |memory| memory.address),
                    entries: shape.entries,
                    depth: shape.depth,
                    at: 0,
                    tail: told(sq_tail_doorbell(qid, 0)),
                    head: told(cq_head_doorbell(qid, 0)),
                });
            }
        }
        Ok((rig, lanes))
    }

    /// Memory for data, `bytes` long.
    pub(super) fn data(&mut self, bytes: u64) -> anyhow::Result<u64> {
        self.dma_alloc(bytes)
            .ok_or_else(|| anyhow::anyhow!("no memory left for {bytes} bytes"))
    }

    /// Puts a command into every slot of a submission queue.
    pub(super) fn fill(&mut self, lane: &Lane, command: impl Fn(u32, &mut Self) -> Sqe) {
        for slot in 0..lane.entries {
            let mut sqe = command(slot, self);
            sqe.cid = u16::try_from(slot).unwrap_or_default();
            self.mem_write(lane.sq + u64::from(slot) * 64, sqe.as_bytes());
        }
    }

    /// Runs at least `count` commands over all lanes, each lane with its shard and on a thread of
    /// its own if there are several, which have started when the clock does.
    pub(super) fn run(&mut self, lanes: &mut [Lane], count: u64) -> Sample {
        let (controller, memory) = (&self.controller, &*self.memory.memory());
        if let ([shard], [lane]) = (self.shards.as_mut_slice(), &mut *lanes) {
            let start = Instant::now();
            let count = lane.run(controller, memory, shard, count);
            return Sample {
                took: start.elapsed(),
                count,
            };
        }
        let each = count.div_ceil(lanes.len() as u64);
        let ready = Barrier::new(lanes.len() + 1);
        std::thread::scope(|scope| {
            let threads: Vec<_> = self
                .shards
                .iter_mut()
                .zip(lanes)
                .map(|(shard, lane)| {
                    let ready = &ready;
                    scope.spawn(move || {
                        ready.wait();
                        let count = lane.run(controller, memory, shard, each);
                        (Instant::now(), count)
                    })
                })
                .collect();
            let start = Instant::now();
            ready.wait();
            let ends = threads.into_iter().filter_map(|thread| thread.join().ok());
            ends.fold(Sample::default(), |all, (end, count)| Sample {
                took: all.took.max(end - start),
                count: all.count + count,
            })
        })
    }

    /// Commands that failed so far.
    pub(super) fn errors(&self) -> u64 {
        self.controller.stats().errors
    }
}

impl Lane {
    /// Runs at least `count` commands; how many it were.
    fn run(
        &mut self,
        controller: &Controller,
        memory: &GuestRam,
        shard: &mut Shard,
        count: u64,
    ) -> u64 {
        let batches = count.div_ceil(self.depth.into());
        let mut now_ns = 1;
        for _ in 0..batches {
            let moved = (self.at, (self.at + self.depth) % self.entries);
            self.tail.tell(controller, memory, moved);
            let mut done = 0;
            while done < self.depth {
                now_ns += 1;
                done += shard.poll(now_ns, BUDGET).completions;
            }
            self.head.tell(controller, memory, moved);
            (_, self.at) = moved;
        }
        batches * u64::from(self.depth)
    }
}

impl Told {
    fn tell(&self, controller: &Controller, memory: &GuestRam, (old, new): (u32, u32)) {
        if let Some((entry, event)) = self.shadow {
            // Nowhere takes nothing.
            let _ = memory.store(new.to_le(), GuestAddress(entry), Ordering::Release);
            fence(Ordering::SeqCst);
            let event = memory.load(GuestAddress(event), Ordering::Relaxed);
            if !passes_event(u32::from_le(event.unwrap_or(old)), old, new) {
                return;
            }
        }
        controller.bar_write(self.register, &new.to_le_bytes());
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
            shard.poll(self.now_ns, BUDGET);
        }
    }
}
