//! The host's side of one submission queue and one completion queue: indices, phase, identifiers.

use alloc::vec::Vec;

use nvme_spec::queue::{Cqe, Sqe};
use nvme_spec::{CQE_BYTES, SQE_BYTES};
use zerocopy::IntoBytes;

use crate::{Buffer, Transport};

/// The most entries a queue may have (Base 3.3.3.1).
pub const MAX_QUEUE_ENTRIES: u32 = 65_536;

/// FFFFh means "no command" in the Error Information log, so it is never given out.
const CIDS: usize = 0xFFFF;

/// The phase tag in the dword of a completion that is stored last.
const PHASE_IN_LAST_DWORD: u32 = 1 << 16;

/// A command that was issued: redeemed once by [`Driver::wait`](crate::Driver::wait).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Token {
    /// The submission queue.
    pub sqid: u16,
    /// The command identifier, unique among the queue's outstanding commands.
    pub cid: u16,
}

/// What a command identifier is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Use {
    #[default]
    Free,
    Outstanding {
        opcode: u8,
    },
    Done {
        opcode: u8,
        cqe: Cqe,
    },
}

/// A command identifier, with the list pages its command may need.
#[derive(Debug, Default)]
struct Slot {
    used_for: Use,
    lists: Vec<u64>,
}

/// One submission queue.
#[derive(Debug)]
pub(crate) struct SubmissionQueue {
    pub(crate) cqid: u16,
    pub(crate) memory: Buffer,
    pub(crate) owned: bool,
    pub(crate) entries: u32,
    pub(crate) doorbell: u64,
    /// Deleted: takes no more commands, still gives results of old ones.
    pub(crate) deleted: bool,
    head: u32,
    tail: u32,
    /// The tail the controller was told.
    told: u32,
    slots: Vec<Slot>,
    free: Vec<u16>,
}

/// Where a queue sits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) memory: Buffer,
    pub(crate) owned: bool,
    pub(crate) entries: u32,
    pub(crate) doorbell: u64,
}

impl SubmissionQueue {
    pub(crate) fn new(place: Place, cqid: u16) -> Self {
        Self {
            cqid,
            memory: place.memory,
            owned: place.owned,
            entries: place.entries,
            doorbell: place.doorbell,
            deleted: false,
            head: 0,
            tail: 0,
            told: 0,
            slots: Vec::new(),
            free: Vec::new(),
        }
    }

    /// Where the next entry goes.
    pub(crate) const fn tail(&self) -> u32 {
        self.tail
    }

    /// The tail the controller was told.
    pub(crate) const fn told(&self) -> u32 {
        self.told
    }

    /// The controller was told another than the driver's tail.
    pub(crate) const fn set_told(&mut self, value: u32) {
        self.told = value;
    }

    /// The tail the controller knows, and the one to tell it.
    pub(crate) const fn tell_tail(&mut self) -> (u32, u32) {
        let old = self.told;
        self.told = self.tail;
        (old, self.tail)
    }

    /// How many entries can be stored before the queue is full (Base 3.3.1.5: one stays empty).
    pub(crate) const fn room(&self) -> u32 {
        (self.head + self.entries - self.tail - 1) % self.entries
    }

    /// Stores an entry at the tail and moves it; the caller has seen that there is room.
    #[inline]
    pub(crate) fn store<T: Transport + ?Sized>(&mut self, transport: &mut T, sqe: &Sqe) {
        let at = self.memory.address + u64::from(self.tail) * SQE_BYTES as u64;
        transport.mem_write(at, sqe.as_bytes());
        self.tail += 1;
        if self.tail == self.entries {
            self.tail = 0;
        }
    }

    /// Takes a free command identifier; `None` when all are outstanding.
    pub(crate) fn take_cid(&mut self, opcode: u8) -> Option<u16> {
        let cid = match self.free.pop() {
            Some(cid) => cid,
            None => {
                if self.slots.len() >= CIDS {
                    return None;
                }
                let cid = u16::try_from(self.slots.len()).ok()?;
                self.slots.push(Slot::default());
                cid
            }
        };
        let slot = self.slots.get_mut(usize::from(cid))?;
        slot.used_for = Use::Outstanding { opcode };
        Some(cid)
    }

    /// The list pages of an identifier.
    pub(crate) fn lists(&mut self, cid: u16) -> Option<&mut Vec<u64>> {
        self.slots.get_mut(usize::from(cid)).map(|s| &mut s.lists)
    }

    /// Every list page, when the queue goes away.
    pub(crate) fn all_lists(&self) -> impl Iterator<Item = u64> + '_ {
        self.slots
            .iter()
            .flat_map(|slot| slot.lists.iter().copied())
    }

    /// The opcode of a command that is outstanding or done.
    pub(crate) fn opcode(&self, cid: u16) -> Option<u8> {
        match self.slots.get(usize::from(cid))?.used_for {
            Use::Free => None,
            Use::Outstanding { opcode } | Use::Done { opcode, .. } => Some(opcode),
        }
    }

    /// Commands issued by token whose completion has not been seen.
    pub(crate) fn outstanding(&self) -> usize {
        self.slots
            .iter()
            .filter(|slot| matches!(slot.used_for, Use::Outstanding { .. }))
            .count()
    }

    /// Moves the head to what a completion says. `false`, and no move, if no entry the host has
    /// stored lies there (Base 4.2.1: SQHD).
    pub(crate) fn note_head(&mut self, sqhd: u16) -> bool {
        let new = u32::from(sqhd);
        if new >= self.entries {
            return false;
        }
        let forward = (new + self.entries - self.head) % self.entries;
        let used = (self.tail + self.entries - self.head) % self.entries;
        if forward > used {
            return false;
        }
        self.head = new;
        true
    }

    /// Ends the use of an identifier whose completion the caller hands on itself. `false` if it
    /// was not outstanding.
    pub(crate) fn release(&mut self, cid: u16) -> bool {
        match self.slots.get_mut(usize::from(cid)) {
            Some(slot) if matches!(slot.used_for, Use::Outstanding { .. }) => {
                slot.used_for = Use::Free;
                self.free.push(cid);
                true
            }
            _ => false,
        }
    }

    /// Keeps a completion for [`take`](Self::take). `false` if the command was not outstanding.
    pub(crate) fn keep(&mut self, cqe: Cqe) -> bool {
        match self.slots.get_mut(usize::from(cqe.cid)) {
            Some(slot) => match slot.used_for {
                Use::Outstanding { opcode } => {
                    slot.used_for = Use::Done { opcode, cqe };
                    true
                }
                _ => false,
            },
            None => false,
        }
    }

    /// The completion of a command that is done, freeing its identifier. `Err` if the command is
    /// not known.
    pub(crate) fn take(&mut self, cid: u16) -> Result<Option<Cqe>, ()> {
        let slot = self.slots.get_mut(usize::from(cid)).ok_or(())?;
        match slot.used_for {
            Use::Free => Err(()),
            Use::Outstanding { .. } => Ok(None),
            Use::Done { cqe, .. } => {
                slot.used_for = Use::Free;
                self.free.push(cid);
                Ok(Some(cqe))
            }
        }
    }
}

/// One completion queue.
#[derive(Debug)]
pub(crate) struct CompletionQueue {
    pub(crate) memory: Buffer,
    pub(crate) owned: bool,
    pub(crate) entries: u32,
    pub(crate) doorbell: u64,
    /// Waits of this queue sleep until its vector's interrupt; `None` polls.
    pub(crate) sleep_on: Option<u16>,
    head: u32,
    phase: bool,
    /// The head the controller was told.
    told: u32,
}

impl CompletionQueue {
    pub(crate) fn new(place: Place, sleep_on: Option<u16>) -> Self {
        Self {
            memory: place.memory,
            owned: place.owned,
            entries: place.entries,
            doorbell: place.doorbell,
            sleep_on,
            head: 0,
            phase: true,
            told: 0,
        }
    }

    /// The next entry to be read.
    pub(crate) const fn head(&self) -> u32 {
        self.head
    }

    /// The phase tag a new entry at the head will have.
    pub(crate) const fn phase(&self) -> bool {
        self.phase
    }

    /// The entry at the head if it is new.
    #[inline]
    pub(crate) fn peek<T: Transport + ?Sized>(&self, transport: &T) -> Option<Cqe> {
        let at = self.memory.address + u64::from(self.head) * CQE_BYTES as u64;
        let last = transport.mem_load32(at + Cqe::LAST_DWORD);
        if (last & PHASE_IN_LAST_DWORD != 0) != self.phase {
            return None;
        }
        let mut cqe = Cqe::default();
        transport.mem_read(at, cqe.as_mut_bytes());
        Some(cqe)
    }

    /// Takes the entry at the head if it is new.
    #[inline]
    pub(crate) fn next<T: Transport + ?Sized>(&mut self, transport: &T) -> Option<Cqe> {
        let cqe = self.peek(transport)?;
        self.head += 1;
        if self.head == self.entries {
            self.head = 0;
            self.phase = !self.phase;
        }
        Some(cqe)
    }

    /// The head the controller was told.
    pub(crate) const fn told(&self) -> u32 {
        self.told
    }

    /// The controller was told another than the driver's head.
    pub(crate) const fn set_told(&mut self, value: u32) {
        self.told = value;
    }

    /// The head the controller knows and the one to tell it, if it does not know it.
    pub(crate) fn tell_head(&mut self) -> Option<(u32, u32)> {
        let old = self.told;
        self.told = self.head;
        (old != self.head).then_some((old, self.head))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(entries: u32) -> Place {
        Place {
            memory: Buffer::default(),
            owned: true,
            entries,
            doorbell: 0,
        }
    }

    #[test]
    fn queue_of_n_has_room_for_n_minus_one() {
        let mut sq = SubmissionQueue::new(place(4), 1);
        assert_eq!(sq.room(), 3);
        sq.tail = 3;
        assert_eq!(sq.room(), 0);
        assert!(sq.note_head(2));
        assert_eq!(sq.room(), 2);
        sq.tail = 1;
        assert_eq!(sq.room(), 0);
    }

    #[test]
    fn head_beyond_the_tail_is_refused() {
        let mut sq = SubmissionQueue::new(place(4), 1);
        sq.tail = 2;
        assert!(!sq.note_head(3));
        assert!(!sq.note_head(4));
        assert!(sq.note_head(2));
        sq.tail = 1;
        assert!(sq.note_head(0));
        assert!(!sq.note_head(2));
    }

    #[test]
    fn cid_comes_back_only_after_its_completion_was_taken() {
        let mut sq = SubmissionQueue::new(place(4), 1);
        let a = sq.take_cid(1).unwrap();
        let b = sq.take_cid(2).unwrap();
        assert_ne!(a, b);
        assert_eq!(sq.take(a), Ok(None));
        assert!(sq.keep(Cqe {
            cid: a,
            ..Cqe::default()
        }));
        assert!(!sq.keep(Cqe {
            cid: a,
            ..Cqe::default()
        }));
        assert_ne!(sq.take_cid(3), Some(a));
        assert!(sq.take(a).unwrap().is_some());
        assert_eq!(sq.take(a), Err(()));
        assert_eq!(sq.take_cid(4), Some(a));
        assert_eq!(sq.outstanding(), 3);
        assert_eq!(sq.opcode(b), Some(2));
    }

    #[test]
    fn cid_ffff_is_never_given() {
        let mut sq = SubmissionQueue::new(place(2), 1);
        for cid in 0..0xFFFF {
            assert_eq!(sq.take_cid(0), Some(cid));
        }
        assert_eq!(sq.take_cid(0), None);
    }
}
