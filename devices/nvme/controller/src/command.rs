//! A command being executed.

use crate::queue::Permit;

/// A command being executed: where it came from, and its place in the completion queue.
#[derive(Debug)]
#[must_use]
pub(crate) struct Command {
    /// The submission queue's place in its shard's list.
    pub(crate) sq: usize,
    pub(crate) cid: u16,
    pub(crate) permit: Permit,
}
