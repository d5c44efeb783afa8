//! Images that are what they should be, and images that fail.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::{
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    sync::{Condvar, Mutex},
    time::Duration,
};

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, memfd_create};
use tempfile::TempDir;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::{BlockQueue, GuestRam, IoError, Notify, Op, Reaped, Request, STEP_BYTES, Submitted};

const MIB: u64 = 1 << 20;

/// A folder with a file of `bytes` bytes, all `byte`.
fn file(bytes: u64, byte: u8) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("image");
    let data = vec![byte; usize::try_from(bytes).expect("little")];
    fs::write(&path, data).expect("room");
    (folder, path)
}

fn open(path: &Path) -> Result<Image, ImageError> {
    Image::open(path, ImageOptions::default())
}

#[path = "durable_tests.rs"]
mod durable;

#[derive(Default)]
struct Bell(Mutex<bool>, Condvar);

impl Notify for Bell {
    fn notify(&self) {
        *self.0.lock().expect("no panic") = true;
        self.1.notify_all();
    }
}

/// A queue on an image and memory beside it.
struct Rig {
    queue: Queue,
    bell: Arc<Bell>,
    memory: Arc<GuestRam>,
}

impl Rig {
    fn new(image: &Image, memory: u64) -> Self {
        let mut queue = image.open_queue(256).expect("a queue");
        let bell = Arc::new(Bell::default());
        assert!(queue.set_notify(bell.clone()), "an image tells");
        let bytes = usize::try_from(memory).expect("little");
        let memory = GuestRam::from_ranges(&[(GuestAddress(0), bytes)]).expect("memory");
        Self {
            queue,
            bell,
            memory: Arc::new(memory),
        }
    }

    fn submit(&mut self, op: Op, offset: u64, len: u64, fua: bool) -> Submitted {
        let mut request = Box::new(Request::default());
        request.reset(offset, op, offset, len);
        if matches!(op, Op::Read | Op::Write | Op::Compare) {
            request.push_segment(0, u32::try_from(len).expect("little"));
            request.whole = true;
        }
        request.fua = fua;
        self.queue.submit(request, &self.memory)
    }

    fn sleep(&self) {
        let mut rung = self.bell.0.lock().expect("no panic");
        while !std::mem::replace(&mut *rung, false) {
            rung = self.bell.1.wait(rung).expect("no panic");
        }
    }

    /// Reaps until nothing is pending.
    fn finish(&mut self) -> Vec<Reaped> {
        let mut done = Vec::new();
        while self.queue.pending() > 0 {
            while !self.queue.runnable() {
                self.sleep();
            }
            self.queue.reap(&mut done);
        }
        done
    }

    fn run(&mut self, op: Op, offset: u64, len: u64, fua: bool) -> Result<(), IoError> {
        match self.submit(op, offset, len, fua) {
            Submitted::Done(_, result) => result,
            Submitted::Pending => self.finish().remove(0).1,
            Submitted::Full(_) => panic!("full"),
        }
    }

    fn fill(&self, byte: u8, len: u64) {
        let data = vec![byte; usize::try_from(len).expect("little")];
        let filled = self.memory.write_slice(&data, GuestAddress(0));
        filled.expect("memory");
    }

    fn holds(&self, byte: u8, len: u64) -> bool {
        let mut data = vec![!byte; usize::try_from(len).expect("little")];
        let read = self.memory.read_slice(&mut data, GuestAddress(0));
        read.expect("memory");
        data.iter().all(|&b| b == byte)
    }
}

fn is_failure(result: Result<(), IoError>) -> bool {
    matches!(result, Err(IoError::Backend { .. }))
}

#[test]
fn obeys_the_contract() {
    for durable in [false, true] {
        let folder = tempfile::tempdir().expect("a folder");
        let count = std::cell::Cell::new(0);
        crate::conformance::run(&|bytes| {
            count.set(count.get() + 1);
            let path = folder.path().join(count.get().to_string());
            let options = ImageOptions {
                create: Some(bytes),
                durable,
            };
            let image = Image::open(&path, options).expect("room");
            assert_eq!(image.capabilities().volatile_cache, !durable);
            Arc::new(image)
        });
    }
}

#[test]
fn what_is_written_is_in_the_file_and_what_is_discarded_takes_no_room() {
    let (_folder, path) = file(8 * MIB, 0x11);
    let mut rig = Rig::new(&open(&path).expect("an image"), 4 * MIB);
    rig.fill(0x22, 3 * MIB);
    assert_eq!(rig.run(Op::Write, MIB, 3 * MIB, true), Ok(()));
    assert_eq!(rig.run(Op::Flush, 0, 0, false), Ok(()));
    let bytes = fs::read(&path).expect("a file");
    let (mib, four) = (1 << 20, 4 << 20);
    assert!(bytes[..mib].iter().all(|&b| b == 0x11));
    assert!(bytes[mib..four].iter().all(|&b| b == 0x22));
    assert!(bytes[four..].iter().all(|&b| b == 0x11));
    let blocks = || fs::metadata(&path).expect("a file").blocks();
    let before = blocks();
    assert_eq!(rig.run(Op::Discard, 0, 8 * MIB, false), Ok(()));
    assert!(blocks() < before, "{before} blocks are {} now", blocks());
    assert!(fs::read(&path).expect("a file").iter().all(|&b| b == 0));
    assert_eq!(fs::metadata(&path).expect("a file").len(), 8 * MIB);
}

#[test]
fn what_cannot_be_an_image_is_named() {
    let (folder, path) = file(4096, 0);
    let missing = folder.path().join("nothing");
    let short = folder.path().join("short");
    fs::write(&short, [0; 511]).expect("room");
    for (path, word) in [
        (&missing, "no file"),
        (&folder.path().to_path_buf(), "neither a file nor"),
        (&PathBuf::from("/dev/null"), "neither a file nor"),
        (&short, "511 bytes"),
    ] {
        let error = open(path).expect_err(word).to_string();
        assert!(error.contains(word), "{error}");
        assert!(error.contains(&path.display().to_string()), "{error}");
    }
    assert_eq!(Image::bytes_of(&missing).expect("no error"), None);
    assert_eq!(Image::bytes_of(&path).expect("no error"), Some(4096));
    assert!(!missing.exists());
}

#[test]
fn an_image_has_one_user() {
    let (folder, path) = file(4096, 0);
    let other = folder.path().join("other");
    fs::hard_link(&path, &other).expect("a link");
    let image = open(&path).expect("an image");
    for again in [&path, &other] {
        let error = open(again).expect_err("locked").to_string();
        assert!(error.contains("in use"), "{error}");
    }
    drop(image);
    open(&other).expect("free again");
}

#[test]
fn a_file_is_made_only_when_asked_for_and_never_made_anew() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("image");
    let make = |bytes| {
        let create = Some(bytes);
        let durable = false;
        Image::open(&path, ImageOptions { create, durable })
    };
    let image = make(MIB).expect("made");
    assert_eq!(image.geometry().bytes, MIB);
    drop(image);
    assert_eq!(make(2 * MIB).expect("there").geometry().bytes, MIB);
}

#[test]
fn a_file_that_becomes_shorter_fails_and_stays_short() {
    let (_folder, path) = file(MIB, 0x33);
    let mut rig = Rig::new(&open(&path).expect("an image"), MIB);
    let file = OpenOptions::new().write(true).open(&path).expect("a file");
    file.set_len(8192).expect("shorter");
    assert_eq!(rig.run(Op::Read, 0, 8192, false), Ok(()));
    for op in [
        Op::Read,
        Op::Write,
        Op::Compare,
        Op::Verify,
        Op::WriteZeroes,
        Op::Discard,
    ] {
        let result = rig.run(op, 4096, 8192, false);
        assert!(is_failure(result), "{op:?}: {result:?}");
    }
    assert_eq!(fs::metadata(&path).expect("a file").len(), 8192);
    assert_eq!(rig.run(Op::Read, 0, 8192, false), Ok(()));
    assert!(rig.holds(0x33, 8192), "and nothing was changed");
}

/// A file that nobody may write any more: what is tried fails with a status, each time.
#[test]
fn a_file_that_refuses_writes_fails_them_all_and_is_read() {
    let fd = memfd_create(c"image", MemfdFlags::ALLOW_SEALING).expect("a file");
    let sealed = File::from(fd);
    sealed.set_len(MIB).expect("room");
    let path = PathBuf::from(format!("/proc/self/fd/{}", sealed.as_raw_fd()));
    let mut rig = Rig::new(&open(&path).expect("an image"), MIB);
    rig.fill(0x44, MIB);
    fcntl_add_seals(&sealed, SealFlags::WRITE).expect("sealed");
    for round in 0..20 {
        for op in [Op::Write, Op::WriteZeroes, Op::Discard] {
            let result = rig.run(op, 0, 65536, round % 2 == 1);
            assert!(is_failure(result), "{op:?}: {result:?}");
        }
    }
    assert_eq!(rig.run(Op::Read, 0, MIB, false), Ok(()));
    assert!(rig.holds(0, MIB));
    let flushed = rig.run(Op::Flush, 0, 0, false);
    assert_eq!(flushed, Ok(()), "what failed by itself has lost nothing");
}

#[test]
fn data_that_was_read_does_not_reach_the_guest_after_a_cancellation() {
    let (_folder, path) = file(MIB, 0x55);
    let mut rig = Rig::new(&open(&path).expect("an image"), MIB);
    rig.fill(0xEE, MIB);
    for op in [Op::Read, Op::Compare] {
        assert!(matches!(rig.submit(op, 0, MIB, false), Submitted::Pending));
        while !rig.queue.runnable() {
            rig.sleep();
        }
        rig.queue.cancel();
        let (request, result) = rig.finish().remove(0);
        assert_eq!(result, Err(IoError::Cancelled));
        assert!(request.memory.is_none(), "guest memory is let go");
        assert!(rig.holds(0xEE, MIB));
    }
    assert_eq!(rig.run(Op::Read, 0, MIB, false), Ok(()), "and it goes on");
    assert!(rig.holds(0x55, MIB));
}

#[test]
fn a_write_that_is_given_up_before_its_data_is_in_hand_changes_nothing() {
    let (_folder, path) = file(MIB, 0x66);
    let mut rig = Rig::new(&open(&path).expect("an image"), MIB);
    rig.fill(0x77, MIB);
    assert!(matches!(
        rig.submit(Op::Write, 0, MIB, false),
        Submitted::Pending
    ));
    rig.queue.cancel();
    assert_eq!(rig.finish().remove(0).1, Err(IoError::Cancelled));
    assert!(fs::read(&path).expect("a file").iter().all(|&b| b == 0x66));
}

/// Whole writes under cancellation are done or not begun, and jobs that wait come back at once.
#[test]
fn cancelled_writes_are_all_old_or_all_new() {
    let (_folder, path) = file(32 * MIB, 0);
    let mut rig = Rig::new(&open(&path).expect("an image"), MIB);
    let len = 2 * STEP_BYTES;
    for round in 1..=40u8 {
        rig.fill(round, len);
        for slot in 0..64 {
            let submitted = rig.submit(Op::Write, slot * len, len, false);
            assert!(matches!(submitted, Submitted::Pending));
        }
        let mut done = Vec::new();
        for _ in 0..round {
            rig.queue.reap(&mut done);
        }
        rig.queue.cancel();
        done.extend(rig.finish());
        assert_eq!(done.len(), 64);
        let bytes = fs::read(&path).expect("a file");
        let step = usize::try_from(len).expect("little");
        for (request, result) in done {
            let at = usize::try_from(request.offset).expect("little");
            let own = &bytes[at..at + step];
            assert!(own.iter().all(|b| *b == own[0]), "a mix in round {round}");
            assert_eq!(own[0] == round, result.is_ok(), "round {round}");
        }
    }
}

#[test]
fn zeroes_are_written_to_the_end_and_a_long_verify_is_given_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("image");
    let options = ImageOptions {
        create: Some(1 << 40),
        durable: false,
    };
    let mut rig = Rig::new(&Image::open(&path, options).expect("sparse"), 4096);
    for _ in 0..8 {
        // Hours of it.
        assert!(matches!(
            rig.submit(Op::Verify, 0, 1 << 40, false),
            Submitted::Pending
        ));
    }
    assert!(matches!(
        rig.submit(Op::WriteZeroes, 0, 65536, false),
        Submitted::Pending
    ));
    rig.queue.cancel();
    for (request, result) in rig.finish() {
        let expected = match request.op {
            Op::WriteZeroes => Ok(()),
            _ => Err(IoError::Cancelled),
        };
        assert_eq!(result, expected, "{:?}", request.op);
    }
}

/// Blocks behind a file's end are as many as its holes miss.
#[test]
fn a_whole_write_has_room_allocated_wherever_the_file_has_a_hole() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("image");
    let options = ImageOptions {
        create: Some(MIB),
        durable: false,
    };
    let image = Image::open(&path, options).expect("sparse");
    let disk = image.pool.disk();
    let beyond = fallocate(&disk.file, FallocateFlags::KEEP_SIZE, MIB, 2 * MIB);
    if beyond.is_err() {
        println!("skipped: this file system allocates nothing in advance");
        return;
    }
    let blocks = || disk.file.metadata().expect("a file").blocks();
    let mut rig = Rig::new(&image, MIB);
    rig.fill(0x88, MIB);
    for _ in 0..2 {
        let before = blocks();
        assert!(before * 512 >= 2 * MIB);
        disk.make_room(0, MIB).expect("room");
        assert!(blocks() >= before + MIB / 512, "{before}");
        assert_eq!(rig.run(Op::Write, 0, MIB, true), Ok(()));
        let full = blocks();
        disk.make_room(0, MIB).expect("room");
        assert_eq!(blocks(), full);
        assert_eq!(rig.run(Op::Discard, 0, MIB, false), Ok(()));
    }
}

#[test]
fn buffers_are_bounded_and_a_full_queue_has_something_pending() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("image");
    let options = ImageOptions {
        create: Some(1 << 30),
        durable: false,
    };
    let mut rig = Rig::new(&Image::open(&path, options).expect("sparse"), 64 * MIB);
    let mut taken = 0;
    while let Submitted::Pending = rig.submit(Op::Read, 0, 8 * MIB, false) {
        taken += 1;
        assert!(taken < 100, "no bound");
    }
    assert_eq!(taken, 4);
    assert_eq!(rig.finish().len(), 4);
    // One that is larger than all buffers together is taken alone.
    assert_eq!(rig.run(Op::Read, 0, 64 * MIB, false), Ok(()));
}

#[test]
fn an_image_that_is_dropped_ends_with_requests_under_way() {
    let (_folder, path) = file(MIB, 0);
    let image = open(&path).expect("an image");
    let mut rig = Rig::new(&image, MIB);
    for _ in 0..50 {
        assert!(matches!(
            rig.submit(Op::Read, 0, 65536, false),
            Submitted::Pending
        ));
    }
    drop(image);
    drop(rig);
    open(&path).expect("the lock is gone with the last queue");
}
