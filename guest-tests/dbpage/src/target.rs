//! The file or block device that pages are written to.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, SeekFrom, StatxFlags};
use rustix::io::{Errno, ReadWriteFlags};

use crate::error::Error;
use crate::limits::AtomicLimits;
use crate::page::SECTOR;

/// `RWF_ATOMIC` of Linux 6.11 and later.
const RWF_ATOMIC: u32 = 0x40;
/// `STATX_DIOALIGN` of Linux 6.1 and later.
const STATX_DIOALIGN: u32 = 0x2000;
/// `STATX_WRITE_ATOMIC` of Linux 6.11 and later.
const STATX_WRITE_ATOMIC: u32 = 0x1_0000;

/// Whether the kernel's page cache is between us and the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Caching {
    /// [`Direct`](Self::Direct) for block devices, [`Buffered`](Self::Buffered) for files.
    #[default]
    Usual,
    /// `O_DIRECT`.
    Direct,
    /// Through the page cache.
    Buffered,
}

/// What a target is opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// To ask what it is, whoever else uses it.
    Look,
    /// To read pages that nobody overwrites.
    Read,
    /// To overwrite pages that nobody else does. Of a block device nothing is mounted.
    Write,
    /// The same; a file that is not there is made.
    Create,
}

/// How long others may hold a target before we give up: what looks at drives when they change
/// (udev) has a lock on them for moments.
const PATIENCE: Duration = Duration::from_secs(2);
/// Where devices are. A file there is one that was made by mistake, for the device was not.
const DEVICES: &str = "/dev";
/// Where they are not, in spite of its name.
const SHARED_MEMORY: &str = "/dev/shm";

/// How a page is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct How {
    /// `RWF_ATOMIC`: wholly or not at all, or the kernel refuses.
    pub atomic: bool,
    /// `RWF_DSYNC`: durable when it returns.
    pub dsync: bool,
}

/// An open file or block device.
#[derive(Debug)]
pub struct Target {
    path: PathBuf,
    file: OwnedFd,
    length: u64,
    direct: bool,
    is_device: bool,
    block: u64,
    atomic: AtomicLimits,
}

impl Target {
    /// Opens `path`.
    ///
    /// # Errors
    /// What the kernel says; what is not there, or used by somebody else; what is not taken for a
    /// target: folders, pipes, character devices, files among devices.
    pub fn open(path: &Path, access: Access, caching: Caching) -> Result<Self, Error> {
        let name = path.display();
        let kind = kind_of(path, access)?;
        let is_device = kind == Some(FileType::BlockDevice);
        let direct = match caching {
            Caching::Usual => is_device,
            Caching::Direct => true,
            Caching::Buffered => false,
        };
        let mut flags = OFlags::CLOEXEC;
        flags |= match access {
            Access::Look | Access::Read => OFlags::RDONLY,
            Access::Write | Access::Create => OFlags::RDWR,
        };
        flags.set(OFlags::DIRECT, direct);
        if kind.is_none() {
            // No link is followed to a place that was not looked at.
            flags |= OFlags::CREATE | OFlags::EXCL;
        } else if is_device && flags.contains(OFlags::RDWR) {
            // The kernel refuses a device that is mounted, or in use so by somebody else.
            flags |= OFlags::EXCL;
        }
        let what = match direct {
            true => format!("open {name} for direct I/O"),
            false => format!("open {name}"),
        };
        let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR).map_err(|source| {
            if is_device && source == Errno::BUSY {
                return in_use(path, "the device is mounted or otherwise in use");
            }
            Error::system(what)(source)
        })?;
        let opened = rustix::fs::fstat(&file).map_err(Error::system(format!("stat {name}")))?;
        let opened = FileType::from_raw_mode(opened.st_mode);
        if opened != kind.unwrap_or(FileType::RegularFile) {
            return Err(in_use(path, "it became something else meanwhile"));
        }
        lock(&file, path, access)?;
        let length = rustix::fs::seek(&file, SeekFrom::End(0))
            .map_err(Error::system(format!("seek to the end of {name}")))?;
        let mut target = Self {
            path: path.to_owned(),
            file,
            length,
            direct,
            is_device,
            block: SECTOR,
            atomic: AtomicLimits::default(),
        };
        target.ask_limits();
        Ok(target)
    }

    /// What the kernel says of block sizes and atomic writes; what it does not know stays.
    fn ask_limits(&mut self) {
        let wanted = StatxFlags::from_bits_retain(STATX_DIOALIGN | STATX_WRITE_ATOMIC);
        let known = rustix::fs::statx(&self.file, c"", AtFlags::EMPTY_PATH, wanted);
        if let Ok(known) = known {
            if known.stx_mask & STATX_WRITE_ATOMIC != 0 {
                self.atomic = AtomicLimits {
                    unit_min: known.stx_atomic_write_unit_min,
                    unit_max: known.stx_atomic_write_unit_max,
                    segments_max: known.stx_atomic_write_segments_max,
                };
            }
            if self.direct && known.stx_mask & STATX_DIOALIGN != 0 {
                self.block = u64::from(known.stx_dio_offset_align).max(SECTOR);
            }
        }
        if self.is_device
            && let Ok(block) = rustix::fs::ioctl_blksszget(&self.file)
        {
            self.block = u64::from(block).max(SECTOR);
        }
    }

    /// Its name.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// What offsets and lengths must be multiples of, in bytes.
    #[must_use]
    pub fn block(&self) -> u64 {
        self.block
    }

    /// Whether it is a block device.
    #[must_use]
    pub fn is_device(&self) -> bool {
        self.is_device
    }

    /// Whether it is read and written without the page cache.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// Which atomic writes it takes.
    #[must_use]
    pub fn atomic(&self) -> AtomicLimits {
        self.atomic
    }

    /// Makes a file at least this long.
    ///
    /// # Errors
    /// A device that is shorter, and what the kernel says.
    pub fn lengthen(&mut self, length: u64) -> Result<(), Error> {
        if length <= self.length {
            return Ok(());
        }
        if self.is_device {
            return Err(Error::Option {
                option: "--length",
                value: crate::size::show(length),
                rule: format!(
                    "with --offset, {} has {} bytes",
                    self.path.display(),
                    self.length
                ),
                would_do: "a shorter region would do".into(),
            });
        }
        rustix::fs::ftruncate(&self.file, length)
            .map_err(Error::system(format!("lengthen {}", self.path.display())))?;
        self.length = length;
        Ok(())
    }

    /// The same with blocks of other bytes, for tests of devices that are not there.
    #[cfg(test)]
    pub(crate) fn with_block(self, block: u64) -> Self {
        Self { block, ..self }
    }

    /// Fills `bytes` from `offset`.
    ///
    /// # Errors
    /// What the kernel says; its end.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), Error> {
        let asked = bytes.len();
        let mut slices = [IoSliceMut::new(bytes)];
        let done = rustix::io::preadv(&self.file, &mut slices, offset)
            .map_err(self.failed("read", asked, offset))?;
        whole("read", done, asked, offset)
    }

    /// Writes `bytes` at `offset`, in one system call.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn write(&self, offset: u64, bytes: &[u8], how: How) -> Result<(), Error> {
        let mut flags = ReadWriteFlags::empty();
        flags.set(ReadWriteFlags::from_bits_retain(RWF_ATOMIC), how.atomic);
        flags.set(ReadWriteFlags::DSYNC, how.dsync);
        let slices = [IoSlice::new(bytes)];
        let written = loop {
            let written = if flags.is_empty() {
                rustix::io::pwritev(&self.file, &slices, offset)
            } else {
                rustix::io::pwritev2(&self.file, &slices, offset, flags)
            };
            if written != Err(Errno::INTR) {
                break written;
            }
        };
        let what = if how.atomic {
            "write atomically"
        } else {
            "write"
        };
        let done = written.map_err(self.failed(what, bytes.len(), offset))?;
        whole("wrote", done, bytes.len(), offset)
    }

    /// Makes durable what was written before.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn sync(&self) -> Result<(), Error> {
        rustix::fs::fdatasync(&self.file)
            .map_err(Error::system(format!("fdatasync {}", self.path.display())))
    }

    fn failed(&self, what: &str, bytes: usize, offset: u64) -> impl FnOnce(Errno) -> Error {
        let path = self.path.display();
        Error::system(format!("{path}: {what} {bytes} bytes at {offset}"))
    }
}

/// What there is at `path`; nothing if a file is to be made there.
fn kind_of(path: &Path, access: Access) -> Result<Option<FileType>, Error> {
    let name = path.display();
    let refuse = |rule: &str, would_do: &str| {
        Err(Error::Option {
            option: "TARGET",
            value: name.to_string(),
            rule: rule.into(),
            would_do: would_do.into(),
        })
    };
    let device = "the name of a device that is there, or of a file elsewhere, would do";
    let kind = match rustix::fs::stat(path) {
        Ok(stat) => FileType::from_raw_mode(stat.st_mode),
        Err(Errno::NOENT) if access == Access::Create => {
            let folder = match path.parent() {
                Some(folder) if folder != Path::new("") => folder,
                _ => Path::new("."),
            };
            return match is_among_devices(folder) {
                true => refuse("there is no such device, and no file is made there", device),
                false => Ok(None),
            };
        }
        Err(Errno::NOENT) => {
            return refuse(
                "there is no such file or device",
                "`ferrite-dbpage init --create` makes a file",
            );
        }
        Err(source) => return Err(Error::system(format!("stat {name}"))(source)),
    };
    match kind {
        FileType::BlockDevice => Ok(Some(kind)),
        FileType::RegularFile if is_among_devices(path) => {
            refuse("it is a file where devices are", device)
        }
        FileType::RegularFile => Ok(Some(kind)),
        _ => refuse(
            "pages are written to files and block devices",
            "/dev/nvme0n1 or a file's name would do",
        ),
    }
}

fn is_among_devices(path: &Path) -> bool {
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    path.starts_with(DEVICES) && !path.starts_with(SHARED_MEMORY)
}

/// Sees that whoever writes is alone, for versions and the order of runs are one writer's, and that
/// nobody writes what is judged.
fn lock(file: &OwnedFd, path: &Path, access: Access) -> Result<(), Error> {
    let (operation, rule) = match access {
        Access::Look => return Ok(()),
        Access::Read => (
            FlockOperation::NonBlockingLockShared,
            "somebody writes to it (its lock is taken), and what is judged has to be at rest",
        ),
        Access::Write | Access::Create => (
            FlockOperation::NonBlockingLockExclusive,
            "somebody uses it (its lock is taken), and one `init` or `write` at a time may",
        ),
    };
    let began = Instant::now();
    loop {
        match rustix::fs::flock(file, operation) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK) if began.elapsed() < PATIENCE => {
                std::thread::park_timeout(PATIENCE / 40);
            }
            Err(Errno::WOULDBLOCK) => return Err(in_use(path, rule)),
            Err(Errno::INTR) => {}
            Err(source) => {
                return Err(Error::system(format!("lock {}", path.display()))(source));
            }
        }
    }
}

fn in_use(path: &Path, rule: &str) -> Error {
    Error::Option {
        option: "TARGET",
        value: path.display().to_string(),
        rule: rule.into(),
        would_do: "another target, or this one later, would do".into(),
    }
}

/// A page is one system call: a part of it is a failure.
fn whole(what: &'static str, done: usize, asked: usize, offset: u64) -> Result<(), Error> {
    if done == asked {
        return Ok(());
    }
    Err(Error::Short {
        what,
        done,
        asked,
        offset,
    })
}
