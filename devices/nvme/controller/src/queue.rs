//! Submission and completion queues as rings in guest memory.

use std::sync::atomic::Ordering;

use nvme_spec::{CQE_BYTES, Cqe, SQE_BYTES, Sqe};
use storage::GuestRam;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, VolatileMemoryError, VolatileSlice};
use zerocopy::IntoBytes;

use crate::{doorbell::Side, ids::AdminTicket, shadow::Bell};

/// Queue memory cannot be reached: fatal to the controller (Base 3.1.4.6, CSTS.CFS).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct QueueFault {
    pub(crate) qid: u16,
    pub(crate) address: u64,
}

/// A doorbell value that no correct host writes (Base 5.1.2.1, invalid doorbell write value); the
/// last good one holds on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BadDoorbell;

/// The right to post one completion: a slot of the completion queue, reserved before the command
/// is fetched. Consumed exactly once, by posting or by giving it back.
#[derive(Debug)]
#[must_use = "a reserved slot is consumed by `post`, `release` or `forget`"]
pub(crate) struct Permit(());

impl Permit {
    /// Lets go of a slot whose queue no longer exists.
    pub(crate) const fn forget(self) {
        std::mem::forget(self);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        debug_assert!(std::thread::panicking(), "a completion queue slot was lost");
    }
}

/// A completion queue (Base 3.3.3.1).
#[derive(Debug)]
pub(crate) struct CompletionQueue {
    pub(crate) qid: u16,
    /// The vector to signal; `None` when interrupts are disabled (IEN 0).
    pub(crate) vector: Option<u16>,
    base: u64,
    entries: u32,
    /// The slot that the next completion takes.
    tail: u32,
    /// The first slot that the host has not taken yet.
    head: u32,
    /// Slots promised to commands being executed.
    reserved: u32,
    phase: bool,
    /// Where the host's heads come from.
    pub(crate) bell: Bell,
}

impl CompletionQueue {
    /// An empty queue of `entries` (2 to 65,536) at `base`.
    pub(crate) const fn new(qid: u16, base: u64, entries: u32, vector: Option<u16>) -> Self {
        Self {
            qid,
            vector,
            base,
            entries,
            tail: 0,
            head: 0,
            reserved: 0,
            phase: true,
            bell: Bell::trapped(qid, Side::CqHead),
        }
    }

    /// Slots that are neither filled nor promised. One slot stays empty (Base 3.3.1.5).
    pub(crate) const fn free(&self) -> u32 {
        self.entries - 1 - self.filled() - self.reserved
    }

    /// Completions that it can ever hold at once.
    pub(crate) const fn capacity(&self) -> u32 {
        self.entries - 1
    }

    const fn filled(&self) -> u32 {
        distance(self.head, self.tail, self.entries)
    }

    /// Judges a doorbell value: whether the host took completions, or wrote nonsense.
    pub(crate) fn set_head(&mut self, value: u32) -> Result<(), BadDoorbell> {
        if value >= self.entries || distance(self.head, value, self.entries) > self.filled() {
            return Err(BadDoorbell);
        }
        self.head = value;
        Ok(())
    }

    /// The last good value of the doorbell.
    pub(crate) const fn head(&self) -> u32 {
        self.head
    }

    pub(crate) const fn reserve(&mut self) -> Option<Permit> {
        if self.free() == 0 {
            return None;
        }
        self.reserved += 1;
        Some(Permit(()))
    }

    /// Gives a slot back unused.
    pub(crate) fn release(&mut self, permit: Permit) {
        permit.forget();
        debug_assert!(self.reserved > 0, "a slot was given back twice");
        self.reserved = self.reserved.saturating_sub(1);
    }

    /// Writes a completion with this queue's phase, its last dword last.
    pub(crate) fn post(
        &mut self,
        permit: Permit,
        mut cqe: Cqe,
        memory: &GuestRam,
    ) -> Result<(), QueueFault> {
        self.release(permit);
        cqe.status_phase = cqe.status().to_wire(self.phase);
        let address = self.base + u64::from(self.tail) * CQE_BYTES as u64;
        // A slot lies within a page, and so within a region: one look-up for all of it.
        memory
            .get_slice(GuestAddress(address), CQE_BYTES)
            .map_err(|_| ())
            .and_then(|slot| store(&slot, &cqe).map_err(|_| ()))
            .map_err(|()| QueueFault {
                qid: self.qid,
                address,
            })?;
        self.tail += 1;
        if self.tail == self.entries {
            self.tail = 0;
            self.phase = !self.phase;
        }
        Ok(())
    }
}

/// Byte offsets in a completion queue entry.
const DW2: usize = 8;
const DW3: usize = 12;

/// Stores a completion in its slot, the dword with the phase last.
fn store(slot: &VolatileSlice<'_, ()>, cqe: &Cqe) -> Result<(), VolatileMemoryError> {
    let dw2 = u32::from(cqe.sqhd) | u32::from(cqe.sqid) << 16;
    let [low, high] = [cqe.dw0, cqe.dw1].map(u64::from);
    slot.store(low | high << 32, 0, Ordering::Relaxed)?;
    slot.store(dw2, DW2, Ordering::Relaxed)?;
    slot.store(cqe.last_dword(), DW3, Ordering::Release)
}

/// A submission queue (Base 3.3.3.2).
#[derive(Debug)]
pub(crate) struct SubmissionQueue {
    pub(crate) qid: u16,
    /// The completion queue it is bound to.
    pub(crate) cqid: u16,
    /// Where that is in its shard's list.
    pub(crate) cq_slot: usize,
    base: u64,
    entries: u32,
    /// The next entry to fetch.
    head: u32,
    /// The first entry that the host has not filled.
    tail: u32,
    /// Where the host's tails come from.
    pub(crate) bell: Bell,
    /// It is in its shard's list of queues that may have commands.
    pub(crate) active: bool,
    /// Completion slots that the next entry needs: two for a fused operation that waits for them.
    pub(crate) slots: u32,
    /// Commands fetched and not completed.
    pub(crate) in_flight: u32,
    /// The Delete I/O Submission Queue command that waits for the last of them.
    pub(crate) deleting: Option<AdminTicket>,
}

impl SubmissionQueue {
    /// An empty queue of `entries` (2 to 65,536) at `base`, bound to `cqid`.
    pub(crate) const fn new(qid: u16, base: u64, entries: u32, cqid: u16) -> Self {
        Self {
            qid,
            cqid,
            cq_slot: 0,
            base,
            entries,
            head: 0,
            tail: 0,
            bell: Bell::trapped(qid, Side::SqTail),
            active: false,
            slots: 1,
            in_flight: 0,
            deleting: None,
        }
    }

    /// SQ Head Pointer for completions.
    pub(crate) fn head(&self) -> u16 {
        // A head is below `entries`, which is at most 65,536.
        u16::try_from(self.head).unwrap_or_default()
    }

    /// Entries submitted and not fetched.
    pub(crate) const fn waiting(&self) -> u32 {
        distance(self.head, self.tail, self.entries)
    }

    /// Judges a doorbell value.
    pub(crate) fn set_tail(&mut self, value: u32) -> Result<(), BadDoorbell> {
        if value >= self.entries {
            return Err(BadDoorbell);
        }
        self.tail = value;
        Ok(())
    }

    /// The last good value of the doorbell.
    pub(crate) const fn tail(&self) -> u32 {
        self.tail
    }

    /// Copies up to `most` waiting entries, as many as lie in a row. The head stays.
    pub(crate) fn copy<'a>(
        &self,
        most: u32,
        into: &'a mut [Sqe],
        memory: &GuestRam,
    ) -> Result<&'a [Sqe], QueueFault> {
        let count = most.min(self.waiting()).min(self.entries - self.head);
        let address = self.base + u64::from(self.head) * SQE_BYTES as u64;
        let fault = QueueFault {
            qid: self.qid,
            address,
        };
        let batch = into.get_mut(..count as usize).unwrap_or_default();
        memory
            .read_slice(batch.as_mut_bytes(), GuestAddress(address))
            .map_err(|_| fault)?;
        Ok(batch)
    }

    /// Copies the waiting entry that is `behind` entries after the head, around the ring's end too.
    pub(crate) fn copy_behind(
        &self,
        behind: u32,
        into: &mut Sqe,
        memory: &GuestRam,
    ) -> Result<(), QueueFault> {
        let slot = (self.head + behind) % self.entries;
        let address = self.base + u64::from(slot) * SQE_BYTES as u64;
        let qid = self.qid;
        memory
            .read_slice(into.as_mut_bytes(), GuestAddress(address))
            .map_err(|_| QueueFault { qid, address })
    }

    /// Moves the head past `count` of the entries that were copied.
    pub(crate) const fn take(&mut self, count: u32) {
        self.head = (self.head + count) % self.entries;
        self.slots = 1;
        self.in_flight += count;
    }
}

/// Steps from `from` to `to` around a ring.
const fn distance(from: u32, to: u32, entries: u32) -> u32 {
    if to >= from {
        to - from
    } else {
        entries - from + to
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> GuestRam {
        GuestRam::from_ranges(&[(GuestAddress(0), 0x10000)]).expect("memory")
    }

    fn cqe_at(memory: &GuestRam, slot: u64) -> Cqe {
        let mut cqe = Cqe::default();
        memory
            .read_slice(cqe.as_mut_bytes(), GuestAddress(slot * 16))
            .expect("mapped");
        cqe
    }

    #[test]
    fn a_queue_of_two_holds_one_and_flips_phase_each_round() {
        let memory = memory();
        let mut cq = CompletionQueue::new(1, 0, 2, None);
        let mut head = 0;
        for round in 0..5u16 {
            assert_eq!(cq.free(), 1);
            let permit = cq.reserve().expect("one slot");
            assert!(cq.reserve().is_none());
            let cqe = Cqe {
                cid: round,
                ..Cqe::default()
            };
            cq.post(permit, cqe, &memory).expect("posted");
            assert_eq!(cq.free(), 0);
            let posted = cqe_at(&memory, u64::from(head));
            assert_eq!((posted.cid, posted.phase()), (round, (round / 2) % 2 == 0));
            head = (head + 1) % 2;
            assert_eq!(cq.set_head(head), Ok(()));
        }
    }

    #[test]
    fn a_head_beyond_what_was_posted_is_refused() {
        let memory = memory();
        let mut cq = CompletionQueue::new(1, 0, 8, None);
        for _ in 0..3 {
            let permit = cq.reserve().expect("room");
            cq.post(permit, Cqe::default(), &memory).expect("posted");
        }
        assert_eq!(cq.set_head(4), Err(BadDoorbell));
        assert_eq!(cq.set_head(8), Err(BadDoorbell));
        assert_eq!(cq.free(), 4);
        assert_eq!(cq.set_head(3), Ok(()));
        assert_eq!(cq.free(), 7);
    }

    #[test]
    fn a_head_that_is_no_slot_is_refused_however_full_the_ring_is() {
        let memory = memory();
        let mut cq = CompletionQueue::new(1, 0, 8, None);
        let post = |cq: &mut CompletionQueue, count: u32| {
            for _ in 0..count {
                let permit = cq.reserve().expect("room");
                cq.post(permit, Cqe::default(), &memory).expect("posted");
            }
        };
        post(&mut cq, 5);
        assert_eq!(cq.set_head(5), Ok(()));
        // Slots 5 to 7 and 0 to 3 are filled: 8 is no more than 7 steps away.
        post(&mut cq, 7);
        assert_eq!(cq.set_head(8), Err(BadDoorbell));
        assert_eq!(cq.set_head(4), Ok(()));
    }

    /// A host that polls takes an entry when it sees the phase (Base 4.2.4): the rest has to be
    /// there by then. Where the rest is not memory, the phase must not show either.
    #[test]
    fn the_phase_is_not_written_before_the_rest_of_its_entry() {
        // A slot that refuses its first store, of eight bytes that are not aligned, and no other.
        let mut words = [0u64; 3];
        let slot = words.as_mut_bytes().get_mut(4..20).expect("within");
        let slot = VolatileSlice::from(slot);
        let cqe = Cqe {
            cid: 7,
            ..Cqe::default()
        };
        assert!(store(&slot, &cqe).is_err());
        let dword = |at| slot.load::<u32>(at, Ordering::Acquire).expect("aligned");
        assert_eq!([dword(DW2), dword(DW3)], [0, 0]);
        assert!(slot.store(cqe.last_dword(), DW3, Ordering::Release).is_ok());
    }

    #[test]
    fn a_slot_that_is_not_memory_is_a_fault() {
        let entry = 0x1000;
        for bytes in [0x1000, 0x1008] {
            let memory = GuestRam::from_ranges(&[(GuestAddress(0), bytes)]).expect("memory");
            let mut cq = CompletionQueue::new(1, entry, 2, None);
            let permit = cq.reserve().expect("one slot");
            let fault = QueueFault {
                qid: 1,
                address: entry,
            };
            assert_eq!(cq.post(permit, Cqe::default(), &memory), Err(fault));
        }
    }

    #[test]
    fn a_fetch_stops_at_the_ring_end_and_goes_on_at_its_start() {
        let memory = memory();
        for slot in 0..4u16 {
            let sqe = Sqe {
                cid: slot,
                ..Sqe::default()
            };
            memory
                .write_slice(sqe.as_bytes(), GuestAddress(u64::from(slot) * 64))
                .expect("mapped");
        }
        let mut sq = SubmissionQueue::new(1, 0, 4, 1);
        let mut buffer = [Sqe::default(); 8];
        let mut cids = |sq: &mut SubmissionQueue| -> Vec<u16> {
            let copied = sq.copy(8, &mut buffer, &memory).expect("mapped");
            sq.take(u32::try_from(copied.len()).expect("few"));
            copied.iter().map(|sqe| sqe.cid).collect()
        };
        sq.set_tail(3).expect("in range");
        assert_eq!(cids(&mut sq), [0, 1, 2]);
        sq.set_tail(1).expect("in range");
        assert_eq!(cids(&mut sq), [3]);
        assert_eq!(sq.head(), 0);
        assert_eq!(cids(&mut sq), [0]);
        assert_eq!(sq.set_tail(4), Err(BadDoorbell));
        assert_eq!(sq.waiting(), 0);
    }
}
