//! What keeps a command from being done.

use std::path::PathBuf;

use rustix::io::Errno;

/// Why a command could not be done. What is found on the target is no error but a finding.
#[derive(thiserror::Error, Debug)]
pub enum Error {
    /// A system call failed.
    #[error("{what}: {source}")]
    System {
        /// What was tried, and on what.
        what: String,
        /// What the kernel said.
        source: Errno,
    },
    /// The kernel did less than it was told.
    #[error("{what} {done} of {asked} bytes at {offset}, and said nothing of an error")]
    Short {
        /// What was done.
        what: &'static str,
        /// Bytes.
        done: usize,
        /// Bytes.
        asked: usize,
        /// Bytes from the target's beginning.
        offset: u64,
    },
    /// There is no region.
    #[error(
        "{path}: no region begins at byte {offset}: {why}. Make one with `ferrite-dbpage init`"
    )]
    NoRegion {
        /// The target.
        path: PathBuf,
        /// Where the region was looked for, in bytes.
        offset: u64,
        /// What is wrong with what is there.
        why: &'static str,
    },
    /// An option's value cannot be.
    #[error("{option} {value}: {rule}; {would_do}")]
    Option {
        /// The option.
        option: &'static str,
        /// What was given.
        value: String,
        /// What forbids it.
        rule: String,
        /// What would be right.
        would_do: String,
    },
    /// The target takes no atomic writes, or not of these.
    #[error("--atomic: {0}")]
    Atomic(String),
    /// The journal is not of this region.
    #[error("{path}: the journal is of region {found:016x}, the target holds {expected:016x}")]
    ForeignJournal {
        /// The journal.
        path: PathBuf,
        /// The region that the journal names.
        found: u64,
        /// The region that is there.
        expected: u64,
    },
    /// A journal could not be read or written.
    #[error("journal {path}: {source}")]
    Journal {
        /// The journal.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A thread panicked.
    #[error("a {0} panicked")]
    Panicked(&'static str),
}

impl Error {
    /// A failed system call on a target.
    pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(Errno) -> Self {
        let what = what.into();
        move |source| Self::System { what, source }
    }
}
