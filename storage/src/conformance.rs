//! What every backend must do; each backend's tests call [`run`].

#![allow(
    clippy::panic,
    clippy::expect_used,
    reason = "checks that fail by panicking"
)]

use std::{
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use vm_memory::{Bytes, GuestAddress};

use crate::{
    BlockDevice, BlockQueue, GuestRam, IoError, Notify, Op, Queue, Reaped, Request, STEP_BYTES,
    Submitted,
};

const DEVICE_BYTES: u64 = 4 << 20;
const RAM_BYTES: usize = 8 << 20;

/// One device with a queue and guest memory.
struct Bench {
    queue: Queue,
    memory: Arc<GuestRam>,
    keeps_data: bool,
    /// Rings when something can be reaped, if the queue tells.
    bell: Option<Arc<Bell>>,
}

/// Waits to be told.
#[derive(Default)]
struct Bell(Mutex<bool>, Condvar);

/// How long a queue that tells may take: no test is as slow as a request that is lost.
const PATIENCE: Duration = Duration::from_secs(60);

impl Notify for Bell {
    fn notify(&self) {
        *self.0.lock().expect("no panic") = true;
        self.1.notify_all();
    }
}

impl Bell {
    /// Waits until it has rung since the last time.
    fn wait(&self) {
        let rung = self.0.lock().expect("no panic");
        let (mut rung, timeout) = self
            .1
            .wait_timeout_while(rung, PATIENCE, |rung| !*rung)
            .expect("no panic");
        assert!(!timeout.timed_out(), "nobody told of a request's end");
        *rung = false;
    }
}

/// Runs every check against devices that `make` gives for a size in bytes.
///
/// # Panics
/// When the backend breaks the contract.
#[allow(
    clippy::panic,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "checks that fail"
)]
pub fn run(make: &dyn Fn(u64) -> Arc<dyn BlockDevice>) {
    let open = || {
        let device = make(DEVICE_BYTES);
        assert_eq!(device.geometry().bytes, DEVICE_BYTES);
        let memory = GuestRam::from_ranges(&[
            (GuestAddress(0), RAM_BYTES / 2),
            (GuestAddress(RAM_BYTES as u64 / 2), RAM_BYTES / 2),
        ]);
        Bench::new(&*device, 8, Arc::new(memory.expect("guest memory")))
    };
    fresh_device_reads_zeroes(&mut open());
    scattered_write_reads_back(&mut open());
    segment_across_regions(&mut open());
    long_requests_take_several_steps(&mut open());
    beyond_the_end_is_refused(&mut open());
    unmapped_memory_is_refused(&mut open());
    a_write_with_unmapped_memory_changes_nothing(&mut open());
    a_part_moves_no_more(&mut open());
    zeroes_and_discard(&mut open());
    compare_finds_any_difference(&mut open());
    verify_checks_the_range(&mut open());
    two_queues_see_one_device(make);
}

impl Bench {
    fn new(device: &dyn BlockDevice, depth: usize, memory: Arc<GuestRam>) -> Self {
        let mut queue = device.open_queue(depth).expect("a queue opens");
        let bell = Arc::new(Bell::default());
        Self {
            bell: queue.set_notify(bell.clone()).then_some(bell),
            queue,
            memory,
            keeps_data: device.capabilities().keeps_data,
        }
    }

    /// Submits and reaps until the request is back.
    fn finish(&mut self, request: Request) -> (Box<Request>, Result<(), IoError>, usize) {
        match self.queue.submit(Box::new(request), &self.memory) {
            Submitted::Done(request, result) => (request, result, 0),
            Submitted::Full(_) => panic_full(),
            Submitted::Pending => {
                let mut done: Vec<Reaped> = Vec::new();
                let mut polls = 0;
                while done.is_empty() {
                    assert_eq!(self.queue.pending(), 1);
                    self.queue.kick();
                    // What tells is waited for as a shard does that sleeps: only while there is
                    // nothing to reap.
                    while let Some(bell) = &self.bell
                        && !self.queue.runnable()
                    {
                        bell.wait();
                    }
                    self.queue.reap(&mut done);
                    polls += 1;
                    assert!(polls < 1_000_000, "a request never came back");
                }
                assert_eq!(self.queue.pending(), 0);
                let (request, result) = done.remove(0);
                (request, result, polls)
            }
        }
    }

    fn transfer(&mut self, op: Op, offset: u64, pieces: &[(u64, u32)]) -> Result<(), IoError> {
        let mut request = Request::default();
        let len = pieces.iter().map(|&(_, len)| u64::from(len)).sum();
        request.reset(7, op, offset, len);
        for &(addr, len) in pieces {
            request.push_segment(addr, len);
        }
        let (back, result, _) = self.finish(request);
        assert_eq!(back.tag, 7);
        result
    }

    fn fill(&self, addr: u64, byte: u8, len: usize) {
        self.memory
            .write_slice(&vec![byte; len], GuestAddress(addr))
            .expect("guest memory");
    }

    fn expect(&self, addr: u64, byte: u8, len: usize) {
        let mut data = vec![!byte; len];
        self.memory
            .read_slice(&mut data, GuestAddress(addr))
            .expect("guest memory");
        if self.keeps_data {
            assert!(
                data.iter().all(|&b| b == byte),
                "expected {byte:#x} at {addr:#x}+{len:#x}"
            );
        }
    }
}

fn panic_full() -> ! {
    panic!("an empty queue is full")
}

fn fresh_device_reads_zeroes(bench: &mut Bench) {
    bench.fill(0, 0xFF, 65536);
    assert_eq!(
        bench.transfer(Op::Read, DEVICE_BYTES - 65536, &[(0, 65536)]),
        Ok(())
    );
    bench.expect(0, 0, 65536);
}

fn scattered_write_reads_back(bench: &mut Bench) {
    bench.fill(0x1000, 0xA1, 512);
    bench.fill(0x9000, 0xB2, 1024);
    assert_eq!(
        bench.transfer(Op::Write, 512, &[(0x1000, 512), (0x9000, 1024)]),
        Ok(())
    );
    assert_eq!(bench.transfer(Op::Read, 512, &[(0x20000, 1536)]), Ok(()));
    bench.expect(0x20000, 0xA1, 512);
    bench.expect(0x20200, 0xB2, 1024);
}

fn segment_across_regions(bench: &mut Bench) {
    let seam = RAM_BYTES as u64 / 2;
    bench.fill(seam - 512, 0xC3, 1024);
    assert_eq!(
        bench.transfer(Op::Write, 4096, &[(seam - 512, 1024)]),
        Ok(())
    );
    assert_eq!(bench.transfer(Op::Read, 4096, &[(0, 1024)]), Ok(()));
    bench.expect(0, 0xC3, 1024);
}

fn long_requests_take_several_steps(bench: &mut Bench) {
    let len = 3 * STEP_BYTES + 512;
    bench.fill(0, 0xD4, usize::try_from(len).unwrap_or(0));
    let mut request = Request::default();
    request.reset(9, Op::Write, 1 << 20, len);
    request.push_segment(0, u32::try_from(len).unwrap_or(0));
    let (_, result, polls) = bench.finish(request);
    assert_eq!(result, Ok(()));
    if bench.keeps_data {
        assert!(polls > 0, "{len} bytes were moved in one call");
    }
    let pieces = [(2 << 20, u32::try_from(len).unwrap_or(0))];
    assert_eq!(bench.transfer(Op::Read, 1 << 20, &pieces), Ok(()));
    bench.expect(2 << 20, 0xD4, usize::try_from(len).unwrap_or(0));
}

fn beyond_the_end_is_refused(bench: &mut Bench) {
    for offset in [DEVICE_BYTES - 511, DEVICE_BYTES, u64::MAX - 100] {
        let result = bench.transfer(Op::Write, offset, &[(0, 512)]);
        assert!(
            matches!(result, Err(IoError::OutOfRange { .. })),
            "{offset:#x}: {result:?}"
        );
    }
}

fn unmapped_memory_is_refused(bench: &mut Bench) {
    let result = bench.transfer(Op::Write, 0, &[(RAM_BYTES as u64 - 256, 512)]);
    if bench.keeps_data {
        assert!(
            matches!(result, Err(IoError::GuestMemory { .. })),
            "{result:?}"
        );
    }
}

/// A failed write leaves all old: a power-fail atomic write holds under errors too (NVM 2.1.4).
fn a_write_with_unmapped_memory_changes_nothing(bench: &mut Bench) {
    let nowhere = RAM_BYTES as u64 + 4096;
    let long = u32::try_from(2 * STEP_BYTES).unwrap_or(0);
    for first in [4096, long] {
        let len = u64::from(first) + 4096;
        bench.fill(0, 0x0B, usize::try_from(len).unwrap_or(0));
        let whole = [(0, first + 4096)];
        assert_eq!(bench.transfer(Op::Write, 0, &whole), Ok(()));
        bench.fill(0, 0x0C, usize::try_from(len).unwrap_or(0));
        let result = bench.transfer(Op::Write, 0, &[(0, first), (nowhere, 4096)]);
        if bench.keeps_data {
            assert!(
                matches!(result, Err(IoError::GuestMemory { .. })),
                "{result:?}"
            );
        }
        let back = [(2 << 20, first + 4096)];
        assert_eq!(bench.transfer(Op::Read, 0, &back), Ok(()));
        bench.expect(2 << 20, 0x0B, usize::try_from(len).unwrap_or(0));
    }
}

/// A request whose submitter has it done in parts: each submission moves its own bytes alone.
fn a_part_moves_no_more(bench: &mut Bench) {
    let len = 2 * STEP_BYTES + 4096;
    let bytes = usize::try_from(len).unwrap_or(0);
    let whole = [(0, u32::try_from(len).unwrap_or(0))];
    bench.fill(0, 0x01, bytes);
    assert_eq!(bench.transfer(Op::Write, 0, &whole), Ok(()));
    bench.fill(0, 0x02, bytes);
    let mut request = Request::default();
    request.reset(7, Op::Write, 0, len);
    request.push_segment(0, u32::try_from(len).unwrap_or(0));
    let (from, to) = (1536, len - 512);
    (request.progress, request.end) = (from, to);
    let (_, result, _) = bench.finish(request);
    assert_eq!(result, Ok(()));
    let back = [(2 << 20, u32::try_from(len).unwrap_or(0))];
    assert_eq!(bench.transfer(Op::Read, 0, &back), Ok(()));
    bench.expect(2 << 20, 0x01, 1536);
    bench.expect(
        (2 << 20) + from,
        0x02,
        usize::try_from(to - from).unwrap_or(0),
    );
    bench.expect((2 << 20) + to, 0x01, 512);
}

fn zeroes_and_discard(bench: &mut Bench) {
    for op in [Op::WriteZeroes, Op::Discard] {
        bench.fill(0, 0xE5, 32768);
        assert_eq!(bench.transfer(Op::Write, 0, &[(0, 32768)]), Ok(()));
        let mut request = Request::default();
        request.reset(1, op, 512, 16384);
        assert_eq!(bench.finish(request).1, Ok(()));
        assert_eq!(bench.transfer(Op::Read, 0, &[(65536, 32768)]), Ok(()));
        bench.expect(65536, 0xE5, 512);
        bench.expect(65536 + 512, 0, 16384);
        bench.expect(65536 + 512 + 16384, 0xE5, 512);
    }
    let mut request = Request::default();
    request.reset(2, Op::Flush, 0, 0);
    assert_eq!(bench.finish(request).1, Ok(()));
}

fn two_queues_see_one_device(make: &dyn Fn(u64) -> Arc<dyn BlockDevice>) {
    let device = make(DEVICE_BYTES);
    let memory =
        Arc::new(GuestRam::from_ranges(&[(GuestAddress(0), RAM_BYTES)]).expect("guest memory"));
    let bench = || Bench::new(&*device, 4, memory.clone());
    let (mut first, mut second) = (bench(), bench());
    first.fill(0, 0x77, 4096);
    assert_eq!(first.transfer(Op::Write, 8192, &[(0, 4096)]), Ok(()));
    assert_eq!(second.transfer(Op::Read, 8192, &[(65536, 4096)]), Ok(()));
    second.expect(65536, 0x77, 4096);
}

fn compare_finds_any_difference(bench: &mut Bench) {
    const LEN: u32 = 256 * 1024 + 512;
    bench.fill(0, 0x3C, LEN as usize);
    assert_eq!(bench.transfer(Op::Write, 4096, &[(0, LEN)]), Ok(()));
    assert_eq!(bench.transfer(Op::Compare, 4096, &[(0, LEN)]), Ok(()));
    for at in [0, 4095, LEN / 2, LEN - 1] {
        bench.fill(at.into(), 0x3D, 1);
        let result = bench.transfer(Op::Compare, 4096, &[(0, LEN)]);
        if bench.keeps_data {
            assert_eq!(result, Err(IoError::Miscompare), "byte {at}");
        }
        bench.fill(at.into(), 0x3C, 1);
    }
    assert_eq!(bench.transfer(Op::Compare, 4096, &[(0, LEN)]), Ok(()));
}

fn verify_checks_the_range(bench: &mut Bench) {
    let mut request = Request::default();
    request.reset(3, Op::Verify, 0, DEVICE_BYTES);
    assert_eq!(bench.finish(request).1, Ok(()));
    let mut request = Request::default();
    request.reset(4, Op::Verify, 512, DEVICE_BYTES);
    let result = bench.finish(request).1;
    assert!(
        matches!(result, Err(IoError::OutOfRange { .. })),
        "{result:?}"
    );
}
