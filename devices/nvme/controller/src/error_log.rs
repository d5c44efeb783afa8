//! The Error Information log: the last errors, newest first (Base 5.1.12.1.2).

use std::collections::VecDeque;

use nvme_spec::{
    Sqe, Status,
    log::{ERROR_LOG_VERSION, ErrorLogEntry},
    registers::Vs,
};

/// Entries kept; ELPE is one less.
pub(crate) const ENTRIES: u8 = 64;

/// The log. Written when a command fails, behind a lock that success never takes.
#[derive(Debug)]
pub(crate) struct ErrorLog {
    entries: VecDeque<ErrorLogEntry>,
    count: u64,
    /// Log Page Version of the entries.
    version: u8,
}

impl ErrorLog {
    pub(crate) fn new(version: Vs) -> Self {
        Self {
            // The byte is reserved before 2.0.
            version: if version >= Vs::V2_0 {
                ERROR_LOG_VERSION
            } else {
                0
            },
            entries: VecDeque::with_capacity(usize::from(ENTRIES)),
            count: 0,
        }
    }

    /// Records a command that failed.
    pub(crate) fn command(&mut self, sqid: u16, sqe: &Sqe, status: Status, has_lba: bool) {
        let mut entry = entry(sqid, sqe.cid, status);
        entry.lba = if has_lba { sqe.slba() } else { 0 };
        entry.nsid = sqe.nsid;
        entry.opcode = sqe.opcode;
        self.push(entry);
    }

    /// Records an error that no command caused.
    pub(crate) fn event(&mut self, sqid: u16, status: Status) {
        self.push(entry(sqid, ErrorLogEntry::NONE, status));
    }

    fn push(&mut self, mut entry: ErrorLogEntry) {
        self.count += 1;
        entry.error_count = self.count;
        entry.log_page_version = self.version;
        if self.entries.len() == usize::from(ENTRIES) {
            self.entries.pop_back();
        }
        self.entries.push_front(entry);
    }

    /// Errors over the controller's life.
    pub(crate) const fn count(&self) -> u64 {
        self.count
    }

    /// The entries, newest first.
    pub(crate) fn newest_first(&self) -> impl Iterator<Item = &ErrorLogEntry> {
        self.entries.iter()
    }
}

fn entry(sqid: u16, cid: u16, status: Status) -> ErrorLogEntry {
    let mut entry = ErrorLogEntry::default();
    entry.sqid = sqid;
    entry.cid = cid;
    entry.status_phase = status.to_wire(false);
    entry.parameter_error_location = ErrorLogEntry::NONE;
    entry
}
