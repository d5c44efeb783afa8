//! Threads that overwrite pages, and threads that read them meanwhile.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::buffer::Buffer;
use crate::error::Error;
use crate::findings::Finding;
use crate::history::Seen;
use crate::journal::{Journal, Line};
use crate::page::{self, Write};
use crate::random::Random;
use crate::recent::Recent;
use crate::region::{Region, check_page};
use crate::target::{Access, Caching, How, Target};
use crate::version::Clock;

/// When what was written is made durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sync {
    /// Not at all.
    Never,
    /// fdatasync after as many writes of a thread, from 1, and at the end.
    Every(u64),
    /// Each write by itself (`RWF_DSYNC`).
    Dsync,
}

/// How long to go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Until {
    /// As many writes, of all threads together.
    Writes(u64),
    /// For as long.
    Time(Duration),
}

/// What to write.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Whether to write through the page cache.
    pub caching: Caching,
    /// Where the region begins, in bytes from the target's beginning.
    pub offset: u64,
    /// Sizes of pages in bytes, chosen from at random.
    pub sizes: Vec<u64>,
    /// Pages begin at multiples of this many bytes; of their own size if there is none.
    pub shift: Option<u64>,
    /// Threads that write.
    pub writers: u32,
    /// Threads that read.
    pub readers: u32,
    /// When they stop.
    pub until: Until,
    /// Whether the kernel is asked for atomic writes.
    pub atomic: bool,
    /// When what was written is made durable.
    pub sync: Sync,
    /// Where pages are and in which order of sizes: the same for the same seed and thread.
    pub seed: u64,
    /// Where acknowledgements are noted.
    pub journal: Option<PathBuf>,
}

/// What was done.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The file or device.
    pub target: PathBuf,
    /// Which run of the region it was, from 1.
    pub run: u32,
    /// Pages written.
    pub writes: u64,
    /// Bytes written.
    pub bytes: u64,
    /// How often fdatasync was called.
    pub syncs: u64,
    /// Pages read meanwhile.
    pub reads: u64,
    /// Seconds it took.
    pub seconds: f64,
    /// Reads that saw a part of a write, or what was over before one that was over.
    pub mixes: Vec<Finding>,
}

/// How many mixes are kept; more say nothing new.
const MIXES: usize = 100;

/// Writes pages.
///
/// # Errors
/// There is no region, an option does not go with it, the target takes no such atomic writes, or
/// a system call failed. All threads stop at the first.
pub fn run(path: &Path, plan: &Plan, progress: impl FnMut(u64)) -> Result<Report, Error> {
    let target = Target::open(path, Access::Write, plan.caching)?;
    let mut region = Region::find(&target, plan.offset)?;
    for size in &plan.sizes {
        check_page(&region, &target, *size, plan.shift.unwrap_or(*size))?;
    }
    if plan.atomic {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease");
        let kernel = kernel.as_deref().map_or("not known", str::trim);
        target.atomic().allow(&plan.sizes, plan.shift, kernel)?;
    }
    let journal = Journal::open(plan.journal.as_deref())?;
    region.next_run(&target)?;
    journal.note(Line::Run(region.id, region.run))?;
    let began = Instant::now();
    let work = Work {
        plan,
        target: &target,
        region,
        journal: &journal,
        clock: Clock::new(region.run),
        end: match plan.until {
            Until::Time(time) => began.checked_add(time),
            Until::Writes(_) => None,
        },
        begun: AtomicU64::new(0),
        writes: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        syncs: AtomicU64::new(0),
        reads: AtomicU64::new(0),
        over: AtomicBool::new(false),
        recent: Mutex::new(Recent::default()),
        mixes: Mutex::new(Vec::new()),
    };
    work.threads(progress)?;
    Ok(Report {
        target: path.to_owned(),
        run: region.run,
        writes: work.writes.into_inner(),
        bytes: work.bytes.into_inner(),
        syncs: work.syncs.into_inner(),
        reads: work.reads.into_inner(),
        seconds: began.elapsed().as_secs_f64(),
        mixes: work
            .mixes
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner),
    })
}

/// What the threads share.
struct Work<'a> {
    plan: &'a Plan,
    target: &'a Target,
    region: Region,
    journal: &'a Journal,
    clock: Clock,
    end: Option<Instant>,
    /// Writes that threads have taken upon them.
    begun: AtomicU64,
    writes: AtomicU64,
    bytes: AtomicU64,
    syncs: AtomicU64,
    reads: AtomicU64,
    /// Readers stop; writers too, if one of them failed.
    over: AtomicBool,
    /// What readers judge by.
    recent: Mutex<Recent>,
    mixes: Mutex<Vec<Finding>>,
}

impl Work<'_> {
    /// Runs all threads to their end, and says each second how many writes there were.
    fn threads(&self, mut progress: impl FnMut(u64)) -> Result<(), Error> {
        let (ended, endings) = channel();
        std::thread::scope(|scope| {
            let mut writers = Vec::new();
            for number in 0..self.plan.writers {
                let ended = ended.clone();
                writers.push(scope.spawn(move || {
                    let done = self.writer(number);
                    if done.is_err() {
                        self.over.store(true, Ordering::Relaxed);
                    }
                    // Nobody listens any more only when the scope is left.
                    let _ = ended.send(());
                    done
                }));
            }
            drop(ended);
            let readers: Vec<_> = (0..self.plan.readers)
                .map(|number| scope.spawn(move || self.reader(number)))
                .collect();
            // It is disconnected when the last writer is gone, be it by a panic.
            loop {
                match endings.recv_timeout(Duration::from_secs(1)) {
                    Ok(()) => {}
                    Err(RecvTimeoutError::Timeout) => progress(self.writes.load(Ordering::Relaxed)),
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            }
            self.over.store(true, Ordering::Relaxed);
            let mut result = Ok(());
            for writer in writers {
                let done = writer.join().unwrap_or(Err(Error::Panicked("writer")));
                result = result.and(done);
            }
            for reader in readers {
                let done = reader.join().unwrap_or(Err(Error::Panicked("reader")));
                result = result.and(done);
            }
            result
        })
    }

    /// Whether another write is to be begun.
    fn goes_on(&self) -> bool {
        if self.over.load(Ordering::Relaxed) {
            return false;
        }
        match self.plan.until {
            Until::Writes(count) => self.begun.fetch_add(1, Ordering::Relaxed) < count,
            Until::Time(_) => self.end.is_none_or(|end| Instant::now() < end),
        }
    }

    /// Where a page may lie, and its size.
    fn place(&self, random: &mut Random) -> (u64, u64) {
        let size = random
            .one_of(&self.plan.sizes)
            .copied()
            .unwrap_or(page::SECTOR);
        let step = self.plan.shift.unwrap_or(size);
        let (first, count) = self.region.places(size, step);
        (first + random.below(count) * step, size)
    }

    fn buffer(&self) -> Buffer {
        let largest = self.plan.sizes.iter().max().copied().unwrap_or_default();
        Buffer::new(usize::try_from(largest).unwrap_or_default())
    }

    fn writer(&self, number: u32) -> Result<(), Error> {
        let mut random = Random::new(self.plan.seed ^ (u64::from(number) << 32));
        let mut buffer = self.buffer();
        let how = How {
            atomic: self.plan.atomic,
            dsync: self.plan.sync == Sync::Dsync,
        };
        let mut unsynced = 0;
        while self.goes_on() {
            let (offset, size) = self.place(&mut random);
            let bytes = buffer.first_mut(usize::try_from(size).unwrap_or_default());
            let write = Write {
                version: self.clock.now(),
                offset,
                size: u32::try_from(size).unwrap_or(u32::MAX),
                writer: number,
            };
            page::fill(bytes, self.region.id, write);
            self.target.write(offset, bytes, how)?;
            let end = self.clock.now();
            if self.plan.readers > 0 {
                self.recent().ended(write, end);
            }
            self.journal.note(Line::Ack(write, end, how.dsync))?;
            self.writes.fetch_add(1, Ordering::Relaxed);
            self.bytes.fetch_add(size, Ordering::Relaxed);
            unsynced += 1;
            if matches!(self.plan.sync, Sync::Every(count) if unsynced >= count) {
                self.sync()?;
                unsynced = 0;
            }
        }
        if matches!(self.plan.sync, Sync::Every(_)) && unsynced > 0 {
            self.sync()?;
        }
        Ok(())
    }

    /// Makes durable what every thread wrote before.
    fn sync(&self) -> Result<(), Error> {
        let before = self.clock.now();
        self.target.sync()?;
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.journal.note(Line::Sync(before))
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reader(&self, number: u32) -> Result<(), Error> {
        let seed = !self.plan.seed ^ (u64::from(number) << 32);
        let mut random = Random::new(seed);
        let mut buffer = self.buffer();
        while !self.over.load(Ordering::Relaxed) {
            let (offset, size) = self.place(&mut random);
            let bytes = buffer.first_mut(usize::try_from(size).unwrap_or_default());
            let must_be_seen = self.recent().must_be_seen(offset, size);
            self.target.read(offset, bytes)?;
            self.reads.fetch_add(1, Ordering::Relaxed);
            let mut seen = Seen::new(self.region.id, offset);
            seen.add(bytes);
            let record = self.recent().record(seen.writes(), must_be_seen);
            let found = seen.judge(&record, self.region.run);
            if !found.is_empty() {
                let mut mixes = self.mixes.lock().unwrap_or_else(PoisonError::into_inner);
                let room = MIXES.saturating_sub(mixes.len());
                mixes.extend(found.into_iter().take(room));
            }
        }
        Ok(())
    }
}
