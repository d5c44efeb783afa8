//! The host's side of queues, strict about everything a controller writes to them.

use nvme_host::Transport;
use nvme_spec::{CQE_BYTES, Cqe, SQE_BYTES, Sqe};
use zerocopy::{FromBytes, IntoBytes};

use crate::memory::{Memory, Region};

/// The phase tag in the dword of a completion that is stored last.
const PHASE: u32 = 1 << 16;

/// A submission queue. Positions count entries since it was made.
#[derive(Debug)]
pub(crate) struct SubmissionRing {
    pub(crate) qid: u16,
    pub(crate) cqid: u16,
    pub(crate) region: Region,
    pub(crate) entries: u32,
    /// Entries stored.
    stored: u64,
    /// Entries that the controller was told of.
    rung: u64,
    /// Entries that the controller has said it has taken.
    head: u64,
    /// Its deletion was asked for.
    pub(crate) deleting: bool,
}

impl SubmissionRing {
    /// Bytes of a queue of `entries`.
    pub(crate) fn bytes(entries: u32) -> u64 {
        u64::from(entries) * SQE_BYTES as u64
    }

    pub(crate) const fn new(qid: u16, cqid: u16, region: Region, entries: u32) -> Self {
        Self {
            qid,
            cqid,
            region,
            entries,
            stored: 0,
            rung: 0,
            head: 0,
            deleting: false,
        }
    }

    /// Entries that can be stored; one stays empty (Base 3.3.1.5).
    pub(crate) fn room(&self) -> u64 {
        u64::from(self.entries) - 1 - (self.stored - self.head)
    }

    /// Whether there are entries that the controller was not told of.
    pub(crate) const fn is_waiting(&self) -> bool {
        self.rung < self.stored
    }

    /// Stores an entry where there is room; its position.
    pub(crate) fn store<T: Transport + ?Sized>(
        &mut self,
        transport: &mut T,
        memory: &mut Memory,
        sqe: &Sqe,
    ) -> u64 {
        let position = self.stored;
        let slot = position % u64::from(self.entries);
        let at = self.region.address + slot * SQE_BYTES as u64;
        memory.write(transport, at, sqe.as_bytes());
        self.stored += 1;
        position
    }

    /// The tail to ring; all that was stored is the controller's then.
    pub(crate) fn ring(&mut self) -> u32 {
        self.rung = self.stored;
        u32::try_from(self.rung % u64::from(self.entries)).unwrap_or_default()
    }

    /// A completion of the command at `position` says that the head is `sqhd`.
    pub(crate) fn fetched(&mut self, sqhd: u16, position: u64) -> Result<(), String> {
        let entries = u64::from(self.entries);
        let (sqhd, old) = (u64::from(sqhd), self.head);
        let head = old + (sqhd + entries - old % entries) % entries;
        if sqhd >= entries || head > self.rung {
            return Err(format!(
                "SQHD {sqhd} of queue {}: of {entries} entries, {} to {} are the controller's",
                self.qid,
                old % entries,
                self.rung % entries
            ));
        }
        if position >= head {
            return Err(format!(
                "SQHD {sqhd} of queue {}: the completed command is the entry {}, not taken yet",
                self.qid,
                position % entries
            ));
        }
        self.head = head;
        Ok(())
    }
}

/// A completion queue.
#[derive(Debug)]
pub(crate) struct CompletionRing {
    pub(crate) qid: u16,
    pub(crate) region: Region,
    pub(crate) entries: u32,
    taken: u64,
    /// Entries that the controller knows to be taken.
    acked: u64,
    /// Its deletion was asked for, and will be done.
    pub(crate) deleting: bool,
}

impl CompletionRing {
    /// Bytes of a queue of `entries`.
    pub(crate) fn bytes(entries: u32) -> u64 {
        u64::from(entries) * CQE_BYTES as u64
    }

    /// A queue in memory that the host has zeroed.
    pub(crate) const fn new(qid: u16, region: Region, entries: u32) -> Self {
        Self {
            qid,
            region,
            entries,
            taken: 0,
            acked: 0,
            deleting: false,
        }
    }

    /// The memory that its entries take.
    pub(crate) fn written(&self) -> Region {
        Region {
            bytes: Self::bytes(self.entries),
            ..self.region
        }
    }

    /// Takes the next completion, if there is one.
    pub(crate) fn next<T: Transport + ?Sized>(
        &mut self,
        transport: &mut T,
        memory: &mut Memory,
    ) -> Result<Option<Cqe>, String> {
        let entries = u64::from(self.entries);
        let at = self.region.address + self.taken % entries * CQE_BYTES as u64;
        let last = transport.mem_load32(at + Cqe::LAST_DWORD);
        let phase = (self.taken / entries).is_multiple_of(2);
        if (last & PHASE != 0) != phase {
            return Ok(None);
        }
        let mut bytes = [0; CQE_BYTES];
        transport.mem_read(at, &mut bytes);
        memory.expect(at, &bytes);
        self.taken += 1;
        if self.taken - self.acked >= entries {
            return Err(format!(
                "completion queue {} of {entries} entries was given {} that the host did not make \
                 room for",
                self.qid,
                self.taken - self.acked
            ));
        }
        Ok(Cqe::read_from_bytes(&bytes).ok())
    }

    /// Tells how far the host is, if the controller does not know: the head to ring. A queue that
    /// is to be deleted may be gone, and its doorbell with it.
    pub(crate) fn ack(&mut self) -> Option<u32> {
        if self.deleting {
            return None;
        }
        let is_new = self.acked < self.taken;
        self.acked = self.taken;
        let head = self.taken % u64::from(self.entries);
        is_new.then(|| u32::try_from(head).unwrap_or_default())
    }
}
