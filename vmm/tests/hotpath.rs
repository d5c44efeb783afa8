//! The path from a submission queue entry to its completion allocates nothing.

#![allow(clippy::expect_used, reason = "tests")]
#![expect(unsafe_code, reason = "a global allocator that counts")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::Arc,
};

use ferrite::nvme::inprocess::InProcess;
use nvme::{ControllerConfig, NamespaceConfig, trace::Watch};
use nvme_host::{Buffer, Config, Driver, ShadowDoorbells, Transport, command, passes_event};
use nvme_spec::{Cqe, NvmOpcode, Sqe};
use storage::{BlockDevice, null::Null, ram::Ram};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, which counts what each thread asks of it.
struct Counting;

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise, passed on.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations_in(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.with(Cell::get);
    work();
    ALLOCATIONS.with(Cell::get) - before
}

const ENTRIES: u32 = 64;
const BATCH: u16 = 32;
/// The default MDTS.
const LARGE: u64 = 512 * 1024;

/// Submits a batch of reads and writes of one size by hand, so that the host driver's own
/// bookkeeping does not count, and takes their completions.
fn batch(
    driver: &mut Driver<'_, InProcess>,
    slot: &mut u32,
    bytes: u64,
    list: Buffer,
    data: Buffer,
) {
    let (sq, cq) = (
        driver.sq_memory(1).expect("queue"),
        driver.cq_memory(1).expect("queue"),
    );
    let blocks = u16::try_from(bytes / 4096).expect("small");
    let shadow = driver.shadow_doorbells();
    let transport = driver.transport();
    for cid in 0..BATCH {
        let opcode = if cid % 2 == 0 {
            NvmOpcode::WRITE
        } else {
            NvmOpcode::READ
        };
        let base = if opcode == NvmOpcode::WRITE {
            command::write(1, u64::from(cid) * 128, blocks - 1)
        } else {
            command::read(1, u64::from(cid) * 128, blocks - 1)
        };
        let prp2 = if blocks == 1 { 0 } else { list.address };
        let sqe = Sqe {
            cid,
            prp1: data.address,
            prp2,
            ..base
        };
        let at = sq.address + u64::from((*slot + u32::from(cid)) % ENTRIES) * 64;
        transport.mem_write(at, zerocopy::IntoBytes::as_bytes(&sqe));
    }
    let tail = (*slot + u32::from(BATCH)) % ENTRIES;
    let moved = |transport: &InProcess| {
        let stats = transport.controller().stats();
        stats.reads + stats.writes
    };
    let before = moved(transport);
    tell(transport, shadow, 0x1008, (*slot, tail));
    for _ in 0..512 {
        transport.relax();
    }
    assert_eq!(moved(transport) - before, u64::from(BATCH));
    let mut cqe = Cqe::default();
    for step in 0..u32::from(BATCH) {
        let at = cq.address + u64::from((*slot + step) % ENTRIES) * 16;
        transport.mem_read(at, zerocopy::IntoBytes::as_mut_bytes(&mut cqe));
        assert!(cqe.status().is_success(), "{:?}", cqe.status());
    }
    tell(transport, shadow, 0x100C, (*slot, tail));
    *slot = tail;
}

/// Tells a tail or head by a register, or by memory and the register if that is asked for.
fn tell(
    transport: &mut InProcess,
    shadow: Option<ShadowDoorbells>,
    register: u64,
    (old, new): (u32, u32),
) {
    if let Some(shadow) = shadow {
        let (entry, event) = shadow.entry(register);
        transport.mem_store32(entry, new);
        if !passes_event(transport.mem_load32(event), old, new) {
            return;
        }
    }
    transport.write32(register, new);
}

fn counted(device: Arc<dyn BlockDevice>, bytes: u64, (shadow, watched): (bool, bool)) -> u64 {
    let config = ControllerConfig {
        namespaces: vec![NamespaceConfig::new(device, 4096)],
        watch: Watch {
            recorder: if watched { 16 } else { 0 },
            statistics: watched,
            ..Watch::default()
        },
        ..ControllerConfig::default()
    };
    let mut machine = InProcess::new(config, 1).expect("valid");
    let mut driver = Driver::new(&mut machine).expect("a controller");
    driver.set_shadow_doorbells(shadow);
    driver.enable(&Config::default()).expect("enabled");
    driver.create_pair(1, ENTRIES).expect("queues");
    let data = driver.alloc(LARGE).expect("memory");
    let list = driver.alloc(4096).expect("memory");
    // Every second page, so that no two segments join and each command needs them all.
    for page in 1..LARGE / 4096 {
        let entry = data.address + (page * 7 % (LARGE / 4096)) * 4096;
        driver
            .transport()
            .mem_write(list.address + (page - 1) * 8, &entry.to_le_bytes());
    }
    let mut slot = 0;
    // Once to warm up, with the smallest commands, and again as often as it takes to go around
    // both rings.
    batch(&mut driver, &mut slot, 4096, list, data);
    allocations_in(|| {
        for _ in 0..8 {
            batch(&mut driver, &mut slot, bytes, list, data);
        }
    })
}

#[test]
fn reads_and_writes_allocate_nothing() {
    let ram = || -> Arc<dyn BlockDevice> { Arc::new(Ram::new(64 << 20).expect("memory")) };
    let null = || -> Arc<dyn BlockDevice> { Arc::new(Null::new(64 << 20)) };
    for bytes in [4096, LARGE] {
        for how in [(false, false), (true, false), (false, true)] {
            assert_eq!(counted(ram(), bytes, how), 0, "ram, {bytes} bytes");
            assert_eq!(counted(null(), bytes, how), 0, "null, {bytes} bytes");
        }
    }
}

#[test]
fn the_counter_counts() {
    let count = allocations_in(|| drop(std::hint::black_box(vec![0u8; 100])));
    assert_eq!(count, 1);
}
