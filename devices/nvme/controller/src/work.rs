//! What one poll works with, and what it has done.

use std::sync::Arc;

use storage::GuestRam;

use crate::{shared::Shared, stats::ShardStats};

/// What a poll did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// Commands fetched.
    pub commands: u32,
    /// Completions posted.
    pub completions: u32,
    /// Polling again at once gets more done.
    pub more: bool,
    /// When to poll again even if nothing happens, on the clock that [`Shard::poll`](crate::Shard::poll) was given.
    pub deadline_ns: Option<u64>,
}

/// What one poll works with.
pub(crate) struct Work<'a> {
    pub(crate) shared: &'a Shared,
    /// The memory that is mapped now.
    pub(crate) memory: &'a Arc<GuestRam>,
    pub(crate) stats: &'a ShardStats,
    pub(crate) now_ns: u64,
    /// Memory may be read and written (Bus Master Enable), as it was when the poll began.
    pub(crate) dma: bool,
    /// What was done of the budget, in commands of up to [`STEP_BYTES`](storage::STEP_BYTES).
    pub(crate) spent: u32,
    pub(crate) progress: Progress,
}

impl Work<'_> {
    /// Bytes of a memory page (CC.MPS).
    pub(crate) fn page_bytes(&self) -> u64 {
        self.shared.page_bytes()
    }
}
