//! A raw image: a file, or a block device of the host, read and written by plain system calls.
//!
//! Those calls may wait, and whoever polls a queue may not: so the image has a few threads that
//! make them (`pool`). A queue hands them jobs and takes back what is done (`queue`).
//!
//! ```text
//!   submit ──► gather the guest's data ──► job ──► a thread: pread, pwrite, fallocate, fdatasync
//!   reap ◄──── scatter it to the guest ◄── inbox ◄──────────┘ and Notify
//! ```
//!
//! The threads see buffers and never guest memory: what is copied to and from the guest is copied by
//! whoever polls, so that from a reset's or a cancellation's end on nothing can write there.
//!
//! What is promised: a completed write is in the host's page cache, and durable after a flush, or
//! at once with FUA or [`ImageOptions::durable`]; so is what is zeroed or discarded, and what is
//! read with FUA is durable before it is given. A failed `fdatasync` may have lost what was
//! written before, and the kernel tells of it once: so from then on every flush and every durable
//! write fails (`durable`). Of a write that fails on a full file system nothing is changed if the
//! request is [`whole`](crate::Request::whole) and the file system can allocate in advance; one that
//! fails for another reason, or that the host's own end cuts short, may be done in part: a file
//! promises no more. A file that becomes shorter fails what is written and what is read beyond its end.

mod durable;
mod io;
mod pool;
mod queue;
#[cfg(test)]
mod seam;

use std::{
    fs::{self, File, OpenOptions},
    io::{Error, ErrorKind, Seek, SeekFrom},
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64},
    },
};

use rustix::{
    fs::{FlockOperation, OFlags, flock},
    io::Errno,
};
use thiserror::Error;

use self::{durable::Durable, io::Disk, pool::Pool, queue::ImageQueue};
use crate::{BlockDevice, Capabilities, Geometry, OpenError, Queue};

/// How an image is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ImageOptions {
    /// Bytes of the file to make, all zero, if there is none.
    pub create: Option<u64>,
    /// Every write is durable before it completes: there is no volatile cache then.
    pub durable: bool,
}

/// A raw image as a block device, locked while it is open.
#[derive(Debug)]
pub struct Image {
    pool: Arc<Pool>,
    bytes: u64,
    durable: bool,
}

/// An image that cannot be used.
#[derive(Debug, Error)]
pub enum ImageError {
    /// There is no such file.
    #[error("there is no file {path}", path = path.display())]
    Missing {
        /// Its path.
        path: PathBuf,
    },
    /// It is something else.
    #[error("{path} is neither a file nor a block device", path = path.display())]
    Kind {
        /// Its path.
        path: PathBuf,
    },
    /// It may not be written.
    #[error(
        "{path} cannot be written ({source}), and a namespace that can only be read is not offered; \
         give write permission, or a copy",
        path = path.display()
    )]
    ReadOnly {
        /// Its path.
        path: PathBuf,
        /// What the kernel said.
        source: Error,
    },
    /// Another namespace or another process has it.
    #[error(
        "{path} is in use: by another namespace, by another process, or mounted",
        path = path.display()
    )]
    InUse {
        /// Its path.
        path: PathBuf,
    },
    /// It has no room for a block.
    #[error("{path} has {bytes} bytes; a block has 512 at least", path = path.display())]
    Size {
        /// Its path.
        path: PathBuf,
        /// Bytes that it has.
        bytes: u64,
    },
    /// The kernel refused something else.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Its path.
        path: PathBuf,
        /// What the kernel said.
        source: Error,
    },
}

impl Image {
    /// Opens the image at `path`, locks it, and starts its threads.
    ///
    /// # Errors
    /// [`ImageError`] naming the path and why not.
    pub fn open(path: &Path, options: ImageOptions) -> Result<Self, ImageError> {
        let file = open_or_create(path, options.create)?;
        let bytes = length(path, &file)?;
        if bytes < 512 {
            let path = path.to_path_buf();
            return Err(ImageError::Size { path, bytes });
        }
        let io = |source| ImageError::Io {
            path: path.to_path_buf(),
            source,
        };
        let disk = Disk {
            is_file: file.metadata().map_err(io)?.is_file(),
            file,
            path: path.to_path_buf(),
            bytes,
            no_zero_range: AtomicBool::new(false),
            no_punch: AtomicBool::new(false),
            no_dsync: AtomicBool::new(false),
            durable: Durable::default(),
            punched: AtomicU64::new(0),
            filled: AtomicU64::new(0),
            logged: AtomicU32::new(0),
            #[cfg(test)]
            seam: seam::Seam::default(),
        };
        Ok(Self {
            pool: Arc::new(Pool::start(disk).map_err(io)?),
            bytes,
            durable: options.durable,
        })
    }

    /// Bytes of the image at `path`; `None` if there is none.
    ///
    /// # Errors
    /// [`ImageError`] when it cannot be an image, or be read.
    pub fn bytes_of(path: &Path) -> Result<Option<u64>, ImageError> {
        match check_kind(path) {
            Ok(()) => {}
            Err(ImageError::Missing { .. }) => return Ok(None),
            Err(error) => return Err(error),
        }
        let file = File::open(path).map_err(|source| ImageError::Io {
            path: path.to_path_buf(),
            source,
        })?;
        length(path, &file).map(Some)
    }
}

/// That a path is one of what can be an image: asked before it is opened, for opening some things
/// does something.
fn check_kind(path: &Path) -> Result<(), ImageError> {
    let named = || path.to_path_buf();
    let kind = match fs::metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(ImageError::Missing { path: named() });
        }
        Err(source) => {
            let path = named();
            return Err(ImageError::Io { path, source });
        }
    };
    match kind.is_file() || kind.is_block_device() {
        true => Ok(()),
        false => Err(ImageError::Kind { path: named() }),
    }
}

fn open_or_create(path: &Path, create: Option<u64>) -> Result<File, ImageError> {
    let io = |source| ImageError::Io {
        path: path.to_path_buf(),
        source,
    };
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    match (check_kind(path), create) {
        (Err(ImageError::Missing { .. }), Some(bytes)) => {
            let file = options.create_new(true).open(path).map_err(io)?;
            lock(path, &file)?;
            file.set_len(bytes).map_err(|source| {
                // Ours, and of no use.
                let _ = fs::remove_file(path);
                io(source)
            })?;
            return Ok(file);
        }
        (kind, _) => kind?,
    }
    if fs::metadata(path)
        .map_err(io)?
        .file_type()
        .is_block_device()
    {
        // Refused while it is mounted.
        options.custom_flags(OFlags::EXCL.bits().cast_signed());
    }
    let file = options.open(path).map_err(|source| {
        let path = path.to_path_buf();
        match Errno::from_io_error(&source) {
            Some(Errno::ACCESS | Errno::ROFS | Errno::PERM) => {
                ImageError::ReadOnly { path, source }
            }
            Some(Errno::BUSY) => ImageError::InUse { path },
            _ => ImageError::Io { path, source },
        }
    })?;
    lock(path, &file)?;
    Ok(file)
}

/// Takes the file for this namespace alone: whoever asks in the same way is refused, by whatever
/// path it comes. The lock goes with the descriptor.
fn lock(path: &Path, file: &File) -> Result<(), ImageError> {
    let path = || path.to_path_buf();
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => Err(ImageError::InUse { path: path() }),
        Err(error) => Err(ImageError::Io {
            path: path(),
            source: error.into(),
        }),
    }
}

/// Bytes of an open file or block device.
fn length(path: &Path, mut file: &File) -> Result<u64, ImageError> {
    file.seek(SeekFrom::End(0))
        .map_err(|source| ImageError::Io {
            path: path.to_path_buf(),
            source,
        })
}

impl BlockDevice for Image {
    fn geometry(&self) -> Geometry {
        Geometry { bytes: self.bytes }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            keeps_data: true,
            discard_zeroes: true,
            volatile_cache: !self.durable,
        }
    }

    fn open_queue(&self, depth: usize) -> Result<Queue, OpenError> {
        let queue = ImageQueue::new(self.pool.clone(), self.bytes, self.durable, depth);
        Ok(Queue::Other(Box::new(queue)))
    }
}

#[cfg(test)]
mod tests;
