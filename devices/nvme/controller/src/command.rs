//! A command being executed.

use crate::{queue::Permit, trace::Tag};

/// A command being executed: where it came from, and its place in the completion queue.
///
/// Two words, which travel in registers: a third would be stored, and loaded again with its
/// neighbours before it is there, a quarter more for a Read.
#[derive(Debug)]
#[must_use]
pub(crate) struct Command {
    /// The submission queue's place in its shard's list.
    pub(crate) sq: usize,
    pub(crate) name: Name,
    pub(crate) permit: Permit,
}

impl Command {
    /// Command Identifier.
    pub(crate) const fn cid(&self) -> u16 {
        self.name.cid()
    }
}

/// What a command is known by: its identifier, and what it is followed by ([`trace`](crate::trace)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Name(u32);

impl Name {
    /// Of a command that is followed by `tag`.
    pub(crate) const fn new(cid: u16, tag: Tag) -> Self {
        let ([a, b], [c, d]) = (cid.to_le_bytes(), tag.0.to_le_bytes());
        Self(u32::from_le_bytes([a, b, c, d]))
    }

    /// Command Identifier.
    pub(crate) const fn cid(self) -> u16 {
        let [a, b, ..] = self.0.to_le_bytes();
        u16::from_le_bytes([a, b])
    }

    pub(crate) const fn tag(self) -> Tag {
        let [.., c, d] = self.0.to_le_bytes();
        Tag(u16::from_le_bytes([c, d]))
    }
}
