//! What a job is in system calls.

use std::{
    fs::File,
    io::IoSlice,
    os::unix::fs::{FileExt, MetadataExt},
    path::PathBuf,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};

use rustix::{
    fs::{FallocateFlags, SeekFrom, fallocate, seek},
    io::{Errno, ReadWriteFlags, pwritev2},
};

use super::{
    durable::{Durable, Failed},
    pool::Job,
};
use crate::{IoError, Op};

/// Bytes read to verify, or written as zeroes, in one turn of a job.
const PIECE: u64 = 1 << 20;
/// Bytes that the file system is asked to zero or to deallocate in one turn.
const RANGE: u64 = 256 << 20;
/// Failures logged of an image; a guest must not fill a log.
const LOGGED: u32 = 16;

/// An open image.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) file: File,
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    /// Not a block device: it can become shorter.
    pub(super) is_file: bool,
    /// What this file system was found not to know.
    pub(super) no_zero_range: AtomicBool,
    pub(super) no_punch: AtomicBool,
    pub(super) no_dsync: AtomicBool,
    pub(super) durable: Durable,
    /// How often a range was deallocated, and the one after which there were no holes in the file,
    /// plus one.
    pub(super) punched: AtomicU64,
    pub(super) filled: AtomicU64,
    pub(super) logged: AtomicU32,
    #[cfg(test)]
    pub(super) seam: super::seam::Seam,
}

impl Disk {
    /// Does a job's next turn; `true` when that was the last.
    pub(super) fn turn(&self, job: &mut Job) -> Result<bool, IoError> {
        self.try_turn(job).map_err(|error| {
            self.log(job, error);
            IoError::Backend {
                errno: error.raw_os_error(),
            }
        })
    }

    fn try_turn(&self, job: &mut Job) -> Result<bool, Errno> {
        let (at, left) = (job.offset + job.done, job.len.saturating_sub(job.done));
        let count = match job.op {
            Op::Read | Op::Compare => {
                self.read(&mut job.buffer, at)?;
                left
            }
            Op::Write => {
                self.check_length()?;
                if job.whole {
                    self.make_room(at, left)?;
                }
                self.write(&job.buffer, at, job.durable)?;
                left
            }
            Op::Flush => {
                self.sync()?;
                left
            }
            Op::Verify => {
                let count = left.min(PIECE);
                job.buffer.resize(usize::try_from(count).unwrap_or(0), 0);
                self.read(&mut job.buffer, at)?;
                count
            }
            Op::WriteZeroes => {
                self.check_length()?;
                self.zero(&mut job.buffer, at, left, false)?
            }
            Op::Discard => {
                self.check_length()?;
                self.zero(&mut job.buffer, at, left, true)?
            }
        };
        job.done += count;
        let ended = job.done >= job.len;
        // A write of data was durable at once, where that is known.
        if ended && job.durable && job.op != Op::Write {
            self.sync()?;
        }
        Ok(ended)
    }

    /// Fills `buffer`. What lies behind the end of a file that has become shorter fails.
    fn read(&self, buffer: &mut [u8], at: u64) -> Result<(), Errno> {
        self.file
            .read_exact_at(buffer, at)
            .map_err(|error| errno(&error))
    }

    fn write(&self, mut data: &[u8], mut at: u64, durable: bool) -> Result<(), Errno> {
        while durable && !data.is_empty() && !self.no_dsync.load(Ordering::Relaxed) {
            match self.durable.call(|| self.write_through(data, at)) {
                Ok(0) => return Err(Errno::IO),
                Ok(count) => {
                    data = data.get(count..).unwrap_or_default();
                    at += count as u64;
                }
                Err(Errno::INTR) => {}
                Err(error) if unknown(error) => self.no_dsync.store(true, Ordering::Relaxed),
                Err(error) => return Err(error),
            }
        }
        if data.is_empty() {
            return Ok(());
        }
        self.write_back(data, at)?;
        if durable { self.sync() } else { Ok(()) }
    }

    /// Writes to the host's page cache.
    fn write_back(&self, data: &[u8], at: u64) -> Result<(), Errno> {
        self.file
            .write_all_at(data, at)
            .map_err(|error| errno(&error))
    }

    /// Writes and makes durable; how much.
    fn write_through(&self, data: &[u8], at: u64) -> Result<usize, Failed> {
        #[cfg(test)]
        let written = self.seam.write_through();
        #[cfg(not(test))]
        let written = Ok(());
        let written = written
            .and_then(|()| pwritev2(&self.file, &[IoSlice::new(data)], at, ReadWriteFlags::DSYNC));
        written.map_err(|error| {
            // It may be what became of an earlier write, told once: then this one was written, and
            // can be again. An I/O error may be either.
            let lost = match error {
                Errno::INTR => false,
                error if unknown(error) => false,
                Errno::IO => true,
                error => self.write_back(data, at) != Err(error),
            };
            Failed { error, lost }
        })
    }

    /// All that was written is durable.
    fn sync(&self) -> Result<(), Errno> {
        self.durable.call(|| {
            #[cfg(test)]
            let synced = self.seam.sync();
            #[cfg(not(test))]
            let synced = Ok(());
            let synced = synced.and_then(|()| self.file.sync_data().map_err(|error| errno(&error)));
            synced.map_err(|error| Failed { error, lost: true })
        })
    }

    /// Zeroes the beginning of a range, deallocating it or not; how much was done. Where the file
    /// system cannot, zeroes are written.
    fn zero(&self, buffer: &mut Vec<u8>, at: u64, len: u64, punch: bool) -> Result<u64, Errno> {
        let range = len.min(RANGE);
        let ways = [
            (FallocateFlags::ZERO_RANGE, &self.no_zero_range, !punch),
            (FallocateFlags::PUNCH_HOLE, &self.no_punch, true),
        ];
        for (flag, unknown_here, wanted) in ways {
            if !wanted || range == 0 || unknown_here.load(Ordering::Relaxed) {
                continue;
            }
            let done = fallocate(&self.file, flag | FallocateFlags::KEEP_SIZE, at, range);
            // Zeroes may be blocks that are written later, or none.
            self.punched.fetch_add(1, Ordering::AcqRel);
            match done {
                Ok(()) => return Ok(range),
                // A block device wants its own blocks whole: another range may have them.
                Err(Errno::INVAL) => {}
                Err(error) if unknown(error) => unknown_here.store(true, Ordering::Relaxed),
                Err(Errno::INTR) => return Ok(0),
                Err(error) => return Err(error),
            }
        }
        let count = len.min(PIECE);
        buffer.clear();
        buffer.resize(usize::try_from(count).unwrap_or(0), 0);
        self.write(buffer, at, false)?;
        Ok(count)
    }

    /// That the file has not become shorter: a write behind its end would make it longer again, with
    /// zeroes for what was lost.
    fn check_length(&self) -> Result<(), Errno> {
        let shorter = |len: u64| self.is_file && len < self.bytes;
        let metadata = self.file.metadata().map_err(|error| errno(&error))?;
        match shorter(metadata.len()) {
            true => Err(Errno::IO),
            false => Ok(()),
        }
    }

    /// Has blocks allocated for a write into a file with holes, so that it does not fail half way
    /// for want of room. File systems that copy on write promise nothing by this.
    pub(super) fn make_room(&self, at: u64, len: u64) -> Result<(), Errno> {
        if !self.is_file || len == 0 || !self.has_holes()? {
            return Ok(());
        }
        match fallocate(&self.file, FallocateFlags::KEEP_SIZE, at, len) {
            Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::IO)) => Err(error),
            // The write itself will tell.
            _ => Ok(()),
        }
    }

    /// Whether there may be holes. The number of blocks shows that there are some, and never that
    /// there are none: there may be blocks behind the file's end.
    fn has_holes(&self) -> Result<bool, Errno> {
        const SECTOR: u64 = 512;
        let metadata = self.file.metadata().map_err(|error| errno(&error))?;
        if metadata.blocks().saturating_mul(SECTOR) < self.bytes {
            return Ok(true);
        }
        // Holes come of what is deallocated here, and the range of that is nobody's until then.
        let now = self.punched.load(Ordering::Acquire).saturating_add(1);
        if self.filled.load(Ordering::Acquire) == now {
            return Ok(false);
        }
        let filled = seek(&self.file, SeekFrom::Hole(0)).is_ok_and(|hole| hole >= self.bytes);
        if filled {
            self.filled.store(now, Ordering::Release);
        }
        Ok(!filled)
    }

    fn log(&self, job: &Job, error: Errno) {
        let before = self.logged.fetch_add(1, Ordering::Relaxed);
        if before >= LOGGED {
            // Counted on from here, it cannot come round.
            self.logged.store(LOGGED, Ordering::Relaxed);
            return;
        }
        tracing::error!(
            path = %self.path.display(),
            op = ?job.op,
            offset = job.offset + job.done,
            len = job.len,
            last_logged = before + 1 == LOGGED,
            "the image failed: {error}"
        );
    }
}

/// Whether a system call is not known for this file.
fn unknown(error: Errno) -> bool {
    matches!(error, Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL)
}

/// What the kernel said; the end of the file is an I/O error.
fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
