//! Doorbells, judged when they are rung.

use std::sync::atomic::Ordering;

use nvme_spec::{SQE_BYTES, Sqe};
use storage::GuestRam;
use vm_memory::{Bytes, GuestAddress};
use zerocopy::IntoBytes;

use super::{
    State,
    queues::{Queues, distance},
    report::About,
    rule::Rule,
};
use crate::{doorbell::Side, lifecycle::Lifecycle, shared::Shared};

/// Entries of PRP lists that are read for one ring: whoever rings waits for it.
const POINTERS_PER_RING: usize = 1 << 16;

impl State {
    /// A doorbell is about to take effect. What it gives to the controller is looked at, and
    /// watched until it is fetched.
    pub(super) fn rung(
        &mut self,
        shared: &Shared,
        memory: &GuestRam,
        lifecycle: Lifecycle,
        (qid, side): (u16, Side),
        value: u32,
    ) {
        match (lifecycle, side) {
            (Lifecycle::Ready, _) => {}
            // The host may not know yet.
            (Lifecycle::Failed { .. }, _) => return,
            (_, Side::SqTail) => {
                let about = About::SqDoorbell(qid);
                let text = format_args!("tail {value:#x} while the controller is {lifecycle:?}");
                let (rule, value) = (Rule::DoorbellWhileNotReady, u64::from(value));
                return self.journal.report(rule, about, None, value, text);
            }
            // Drivers take what is left when the controller is down, and ring.
            (_, Side::CqHead) => return,
        }
        match side {
            Side::SqTail => self.tail_rung(shared, memory, qid, value),
            Side::CqHead => self.head_rung(qid, value),
        }
    }

    /// The register of a doorbell whose value the host stores in memory is written.
    pub(super) fn register_rung(
        &mut self,
        memory: &GuestRam,
        (qid, side): (u16, Side),
        value: u32,
    ) {
        let Some(at) = self.queues.shadow(qid, side).and_then(|shadow| shadow.at) else {
            return;
        };
        let stored: u32 = match memory.load(GuestAddress(at), Ordering::Acquire) {
            Ok(stored) => u32::from_le(stored),
            Err(_) => return,
        };
        if stored != value {
            let text =
                format_args!("{value:#x}, and the shadow doorbell at {at:#x} is {stored:#x}");
            let (rule, value) = (Rule::ShadowNotWritten, u64::from(value));
            let about = about(qid, side);
            self.journal
                .report(rule, about, u64::from(stored), value, text);
        }
    }

    /// An event index is another than the controller left there.
    pub(super) fn event_index_written(
        &mut self,
        (qid, side): (u16, Side),
        at: u64,
        (left, found): (u32, u32),
    ) {
        match self.queues.shadow(qid, side) {
            // It stays there, and was reported.
            Some(shadow) if shadow.event == Some((left, found)) => return,
            Some(shadow) => shadow.event = Some((left, found)),
            None => {}
        }
        let text = format_args!("the event index at {at:#x} was left {left:#x} and is {found:#x}");
        let (left, found) = (u64::from(left), u64::from(found));
        let (rule, about) = (Rule::EventIndexWritten, about(qid, side));
        self.journal.report(rule, about, left, found, text);
    }

    fn tail_rung(&mut self, shared: &Shared, memory: &GuestRam, qid: u16, value: u32) {
        let about = About::SqDoorbell(qid);
        let found = u64::from(value);
        let Some(sq) = self.queues.sqs.get_mut(&qid) else {
            let text = format_args!("tail {value:#x}: there is no such queue");
            let rule = Rule::DoorbellOfNoQueue;
            return self.journal.report(rule, about, None, found, text);
        };
        let (head, tail, entries) = (sq.head, sq.tail, sq.entries);
        if value >= entries {
            let text = format_args!("tail {value:#x} of a queue of {entries:#x} entries");
            let most = u64::from(entries) - 1;
            let rule = Rule::SqTailBeyondRing;
            return self.journal.report(rule, about, most, found, text);
        }
        if value == tail {
            let text = format_args!("the tail was {tail:#x} before");
            let rule = Rule::DoorbellUnchanged;
            return self.journal.report(rule, about, None, found, text);
        }
        sq.tail = value;
        let (base, waiting) = (sq.base, distance(head, tail, entries));
        let more = distance(tail, value, entries);
        let mut from = tail;
        if waiting.saturating_add(more) >= entries {
            let free = entries - 1 - waiting;
            let text = format_args!(
                "tail {tail:#x} to {value:#x}, {more} entries where {free} are free: the \
                 controller has fetched up to {head:#x} of {entries:#x}"
            );
            let (rule, free) = (Rule::SqOverrun, u64::from(free));
            self.journal
                .report(rule, about, free, u64::from(more), text);
            // What is fetched from here on are the entries that are there now.
            self.queues.forget_waiting(qid);
            from = head;
        }
        if !shared.settings.dma.load(Ordering::Acquire) {
            let text = format_args!("tail {value:#x}; nothing is fetched until it is 1");
            let rule = Rule::BusMasterOff;
            self.journal.report(rule, about, None, found, text);
        }
        let mut pointers = POINTERS_PER_RING;
        for slot in Queues::slots(from, value, entries) {
            if self.queues.room() == 0 {
                self.journal.unwatched();
                break;
            }
            let mut sqe = Sqe::default();
            let at = base.saturating_add(u64::from(slot) * SQE_BYTES as u64);
            let read = memory.read_slice(sqe.as_mut_bytes(), GuestAddress(at));
            if read.is_err() {
                break;
            }
            let watched = self.look_at(shared, memory, qid, &sqe, &mut pointers);
            if self.queues.rung(qid, slot, watched) {
                self.cid_reused(qid, &sqe);
            }
        }
    }

    fn head_rung(&mut self, qid: u16, value: u32) {
        let about = About::CqDoorbell(qid);
        let found = u64::from(value);
        let Some(cq) = self.queues.cqs.get_mut(&qid) else {
            let text = format_args!("head {value:#x}: there is no such queue");
            let rule = Rule::DoorbellOfNoQueue;
            return self.journal.report(rule, about, None, found, text);
        };
        let (head, tail, entries) = (cq.head, cq.tail, cq.entries);
        let filled = distance(head, tail, entries);
        if value >= entries {
            let text = format_args!("head {value:#x} of a queue of {entries:#x} entries");
            let most = u64::from(entries) - 1;
            let rule = Rule::CqHeadBeyondRing;
            self.journal.report(rule, about, most, found, text);
        } else if value == head {
            let text = format_args!("the head was {head:#x} before");
            let rule = Rule::DoorbellUnchanged;
            self.journal.report(rule, about, None, found, text);
        } else if distance(head, value, entries) > filled {
            let text = format_args!(
                "head {head:#x} to {value:#x}: {filled} completions are posted, up to {tail:#x} \
                 of {entries:#x}"
            );
            let (rule, tail) = (Rule::CqHeadBeyondPosted, u64::from(tail));
            self.journal.report(rule, about, tail, found, text);
        } else {
            cq.head = value;
        }
    }
}

const fn about(qid: u16, side: Side) -> About {
    match side {
        Side::SqTail => About::SqDoorbell(qid),
        Side::CqHead => About::CqDoorbell(qid),
    }
}
