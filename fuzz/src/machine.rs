//! A controller on PCI with a little memory, whose shards are stepped one at a time.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use ferrite::nvme::{NvmeFunction, NvmePciIds};
use nvme::{ControllerConfig, NamespaceConfig, Shard};
use nvme_spec::registers::{Cc, Csts, Register};
use pci::{
    MsiMessage, MsiRouter, PciFunction,
    capability::{self, express, msix},
    header::{self, Command},
};
use storage::{BlockDevice, GuestRam, GuestRamHandle};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

/// BAR of the registers, and that of the MSI-X table.
pub(crate) const REGISTER_BAR: u8 = 0;
pub(crate) const MSIX_BAR: u8 = 4;

/// Memory for data: two regions that touch, so that a transfer can cross from one to the other.
pub(crate) const DATA: u64 = 0;
pub(crate) const DATA_BYTES: u64 = 192 << 10;
const DATA_SPLIT: u64 = 40 << 10;
/// Memory for queues, at an address that no data looks like.
pub(crate) const QUEUES: u64 = 0x5A_6B70_0000;
pub(crate) const QUEUES_BYTES: u64 = 256 << 10;

/// The parts of both that are watched while the controller may not write.
const FROZEN_DATA: u64 = 64 << 10;
const FROZEN_QUEUES: u64 = 96 << 10;

/// Polls after which a controller that still finds work has lost its way.
const SETTLE_POLLS: u32 = 50_000;

/// What is due later than this is not waited for: a host that is silent for ever dies of Keep Alive.
const PATIENCE_NS: u64 = 50_000_000;

/// The most vectors a machine has.
pub(crate) const VECTORS: u16 = 5;

/// Where vectors end. A vector is signalled only after it was given a message.
struct Router {
    messages: Mutex<Vec<Option<MsiMessage>>>,
    signals: AtomicU64,
}

impl MsiRouter for Router {
    fn route(&self, vector: u16, message: Option<MsiMessage>) {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)[usize::from(vector)] = message;
    }

    fn signal(&self, vector: u16) {
        let messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(
            messages[usize::from(vector)].is_some(),
            "vector {vector} was signalled without a route"
        );
        self.signals.fetch_add(1, Ordering::Relaxed);
    }
}

/// Guest memory at a time when the controller may not write it.
struct Frozen {
    why: &'static str,
    data: Vec<u8>,
    queues: Vec<u8>,
}

/// A machine.
pub(crate) struct Machine {
    pub(crate) function: NvmeFunction,
    shards: Vec<Shard>,
    handle: GuestRamHandle,
    /// What is mapped when nothing is taken away.
    ram: Arc<GuestRam>,
    now_ns: u64,
    frozen: Option<Frozen>,
    /// Where Device Control is in configuration space.
    pub(crate) device_control: u16,
    /// Where MSI-X Message Control is.
    pub(crate) msix_control: u16,
}

impl Machine {
    /// A controller as firmware leaves it: decoding memory, master of the bus, every vector with a
    /// message and open.
    pub(crate) fn new(config: ControllerConfig) -> Self {
        let ranges = [
            (GuestAddress(DATA), bytes(DATA_SPLIT)),
            (GuestAddress(DATA_SPLIT), bytes(DATA_BYTES - DATA_SPLIT)),
            (GuestAddress(QUEUES), bytes(QUEUES_BYTES)),
        ];
        let ram = GuestRam::from_ranges(&ranges).expect("memory");
        let handle = GuestRamHandle::new(ram);
        let ram = handle.memory().into_inner();
        let router = Arc::new(Router {
            messages: Mutex::new(vec![None; usize::from(config.vectors)]),
            signals: AtomicU64::new(0),
        });
        let vectors = config.vectors;
        let (function, shards) =
            NvmeFunction::new(config, NvmePciIds::default(), handle.clone(), router)
                .expect("a valid configuration");
        let mut machine = Self {
            function,
            shards,
            handle,
            ram,
            now_ns: 0,
            frozen: None,
            device_control: 0,
            msix_control: 0,
        };
        machine.device_control =
            machine.capability(capability::ID_EXPRESS) + express::DEVICE_CONTROL;
        machine.msix_control = machine.capability(capability::ID_MSIX) + msix::MESSAGE_CONTROL;
        machine.start(vectors);
        machine
    }

    /// What firmware and an operating system do before a driver starts, and after a reset of the
    /// function.
    pub(crate) fn start(&mut self, vectors: u16) {
        for vector in 0..vectors {
            let mut entry = [0; 16];
            entry[..4].copy_from_slice(&0xFEE0_0000u32.to_le_bytes());
            entry[8..10].copy_from_slice(&vector.to_le_bytes());
            let at = u64::from(vector) * msix::ENTRY_SIZE;
            for (half, data) in (0..).step_by(8).zip(entry.chunks(8)) {
                self.function.bar_write(MSIX_BAR, at + half, data);
            }
        }
        let _ = self
            .function
            .config_write(self.msix_control, &0x8000u16.to_le_bytes());
        self.set_bus_master(true);
    }

    /// Sets Bus Master Enable, with memory decoding on.
    pub(crate) fn set_bus_master(&mut self, on: bool) {
        let mut command = Command::MEMORY_SPACE;
        command.set(Command::BUS_MASTER, on);
        let _ = self
            .function
            .config_write(header::COMMAND, &command.bits().to_le_bytes());
    }

    pub(crate) fn bus_master(&self) -> bool {
        let command = self.config_read16(header::COMMAND);
        let powered = self.config_read16(self.capability(capability::ID_POWER_MANAGEMENT) + 4) & 3;
        command & Command::BUS_MASTER.bits() != 0 && powered == 0
    }

    pub(crate) fn config_read16(&self, offset: u16) -> u16 {
        let mut data = [0; 2];
        self.function.config_read(offset, &mut data);
        u16::from_le_bytes(data)
    }

    /// Where a capability is.
    pub(crate) fn capability(&self, id: u8) -> u16 {
        let mut at = self.config_read16(header::CAPABILITIES_POINTER) & 0xFF;
        while at != 0 {
            let entry = self.config_read16(at);
            if entry & 0xFF == u16::from(id) {
                return at;
            }
            at = entry >> 8;
        }
        panic!("capability {id:#x} is missing");
    }

    pub(crate) fn read32(&self, register: Register) -> u32 {
        let mut data = [0; 4];
        self.function
            .bar_read(REGISTER_BAR, register.offset(), &mut data);
        u32::from_le_bytes(data)
    }

    pub(crate) fn write32(&mut self, register: Register, value: u32) {
        self.bar_write(register.offset(), &value.to_le_bytes());
    }

    pub(crate) fn write64(&mut self, register: Register, value: u64) {
        self.bar_write(register.offset(), &value.to_le_bytes());
    }

    pub(crate) fn bar_write(&mut self, offset: u64, data: &[u8]) {
        self.function.bar_write(REGISTER_BAR, offset, data);
    }

    pub(crate) fn cc(&self) -> Cc {
        self.read32(Register::Cc).into()
    }

    pub(crate) fn csts(&self) -> Csts {
        self.read32(Register::Csts).into()
    }

    pub(crate) fn ring(&mut self, qid: u16, head: bool, value: u32) {
        let at = if head {
            nvme_spec::registers::cq_head_doorbell(qid, 0)
        } else {
            nvme_spec::registers::sq_tail_doorbell(qid, 0)
        };
        self.bar_write(at, &value.to_le_bytes());
    }

    /// Writes guest memory; nowhere takes nothing.
    pub(crate) fn write(&mut self, address: u64, data: &[u8]) {
        if self.ram.write_slice(data, GuestAddress(address)).is_err() {
            return;
        }
        if let Some(frozen) = &mut self.frozen {
            for (base, image) in [(DATA, &mut frozen.data), (QUEUES, &mut frozen.queues)] {
                if let Some(at) = address.checked_sub(base)
                    && let Some(place) = image.get_mut(bytes(at)..bytes(at) + data.len())
                {
                    place.copy_from_slice(data);
                }
            }
        }
    }

    /// Reads guest memory that is there.
    pub(crate) fn read(&self, address: u64, data: &mut [u8]) {
        self.ram
            .read_slice(data, GuestAddress(address))
            .expect("memory");
    }

    pub(crate) fn image(&self, address: u64, len: u64) -> Vec<u8> {
        let mut image = vec![0; bytes(len)];
        self.read(address, &mut image);
        image
    }

    /// The memory itself, for who changes it meanwhile.
    pub(crate) fn ram(&self) -> Arc<GuestRam> {
        self.ram.clone()
    }

    /// Takes the queues' memory away, or gives it back.
    pub(crate) fn map_queues(&mut self, mapped: bool) {
        let ram = if mapped {
            (*self.ram).clone()
        } else {
            let queues = self.ram.remove_region(GuestAddress(QUEUES), QUEUES_BYTES);
            queues.expect("a region").0
        };
        self.handle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .replace(ram);
    }

    /// The controller may not write memory from now on, and why; `None`: it may. Whatever it has
    /// written since it might not is an error.
    pub(crate) fn freeze(&mut self, why: Option<&'static str>) {
        let queues = match (&self.frozen, why) {
            (None, None) => return,
            (Some(frozen), Some(why)) if frozen.why == why => return,
            _ => self.image(QUEUES, FROZEN_QUEUES),
        };
        let data = self.image(DATA, FROZEN_DATA);
        if let Some(frozen) = self.frozen.take() {
            for (base, before, now) in [
                (DATA, &frozen.data, &data),
                (QUEUES, &frozen.queues, &queues),
            ] {
                // Slices first: a loop of our own is slow where each comparison is counted.
                if before != now {
                    let same = |(before, now): (&u8, &u8)| before == now;
                    let at = before
                        .iter()
                        .zip(now)
                        .take_while(|&pair| same(pair))
                        .count();
                    panic!(
                        "memory at {:#x} was written while {}",
                        base + at as u64,
                        frozen.why
                    );
                }
            }
        }
        self.frozen = why.map(|why| Frozen { why, data, queues });
    }

    pub(crate) fn shards(&self) -> usize {
        self.shards.len()
    }

    pub(crate) fn advance(&mut self, ns: u64) {
        self.now_ns = self.now_ns.saturating_add(ns);
    }

    /// Polls one shard once.
    pub(crate) fn poll(&mut self, shard: usize, budget: u32) {
        let count = self.shards.len();
        self.shards[shard % count].poll(self.now_ns, budget);
    }

    /// Polls until there is nothing left to do, now or soon. Panics if that does not end.
    pub(crate) fn settle(&mut self) {
        for _ in 0..SETTLE_POLLS {
            let mut busy = false;
            let mut deadline: Option<u64> = None;
            for shard in &mut self.shards {
                let progress = shard.poll(self.now_ns, 64);
                busy |= progress.commands > 0 || progress.completions > 0 || progress.more;
                deadline = match (deadline, progress.deadline_ns) {
                    (Some(one), Some(other)) => Some(one.min(other)),
                    (one, other) => one.or(other),
                };
            }
            if busy {
                self.now_ns += 1_000;
                continue;
            }
            let idle = self.shards.iter_mut().all(|shard| {
                let idle = shard.park();
                shard.unpark();
                idle
            });
            let soon = self.now_ns.saturating_add(PATIENCE_NS);
            match deadline.filter(|&deadline| deadline <= soon) {
                Some(deadline) => self.now_ns = self.now_ns.max(deadline).saturating_add(1),
                None if idle => return,
                None => {}
            }
        }
        panic!(
            "still busy after {SETTLE_POLLS} polls, in state {:?}",
            self.function.controller().lifecycle()
        );
    }
}

/// A namespace of a device.
pub(crate) fn namespace(device: impl BlockDevice + 'static, lba_bytes: u32) -> NamespaceConfig {
    NamespaceConfig::new(Arc::new(device), lba_bytes)
}

fn bytes(count: u64) -> usize {
    usize::try_from(count).expect("a small number")
}
