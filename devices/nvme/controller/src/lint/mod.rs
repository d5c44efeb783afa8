//! What the host does wrong, found where it can be known and reported by rule.
//!
//! A controller made with a [`Lint`] in its configuration checks its host: every
//! access to registers and doorbells when it is made, every submission queue entry when its
//! doorbell is rung, again when it is fetched, and its PRP lists once more when it is completed.
//! What it finds is a [`Report`] with a [`Rule`]; nothing that the controller does changes. Without
//! one it costs a branch in each of these places, and a doorbell is one atomic store.
//!
//! How it is known. An entry and its PRP lists are copied by whoever rings the doorbell, before
//! the shard can see the new tail: what the shard fetches later is compared with that copy, and
//! the lists are read again right before the completion is posted, for the host may not touch
//! either in between. What a doorbell may say follows from a mirror of the queues (`queues`), that
//! moves ahead of the controller where the host profits: a completion counts as posted, and its
//! identifier as free, before it is written. So what is reported is wrong in every order of
//! threads.
//!
//! What it cannot know. The controller never learns when a host has *seen* a completion, only
//! that it rings the head; a change that is undone before it is looked for; a buffer of data that
//! changes under a command. At most 65,536 entries and 1,048,576 PRP entries are watched at once;
//! [`Counts::unwatched`] tells of the rest.
//!
//! A tail or head that lies in memory (shadow doorbells) is looked at when the shard finds it
//! there (`Linter::stored`), which leaves a shorter time of watching. No doorbell is given to
//! the front end as a wake-up then, so that register writes are seen.

mod commands;
mod doorbells;
mod journal;
mod pointers;
mod queues;
mod registers;
mod report;
mod reserved;
mod rule;

use std::sync::{Arc, Mutex};

use nvme_spec::{CQE_BYTES, Sqe, registers::Register};
use storage::GuestRam;
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

pub(crate) use self::queues::Kind;
use self::{
    commands::Span,
    journal::Journal,
    queues::{Queues, Shadow, memory_of},
};
pub use self::{
    report::{About, CommandId, Counts, LintLog, Report},
    rule::{Rule, RuleInfo, Severity},
};
use crate::{
    doorbell::Side,
    registers::{Half, Registers},
    shared::Shared,
    signals::Lint,
    sync::lock,
};

/// Bytes of a completion queue that are read at once, to see its phase tags.
const PHASE_CHUNK: usize = 4096;

/// Checks the host. One lock stands before all of it; whoever holds the registers' lock may take
/// it, and nothing is locked within.
pub(crate) struct Linter(Mutex<State>);

struct State {
    journal: Journal,
    queues: Queues,
}

impl Linter {
    pub(crate) fn new(sink: Arc<dyn Lint>) -> Self {
        Self(Mutex::new(State {
            journal: Journal::new(sink),
            queues: Queues::default(),
        }))
    }

    pub(crate) fn counts(&self) -> Counts {
        lock(&self.0).journal.counts()
    }

    /// A poll begins.
    pub(crate) fn poll(&self, now_ns: u64) {
        let mut state = lock(&self.0);
        let journal = &mut state.journal;
        // Shards are polled in any order.
        journal.now_ns = journal.now_ns.max(now_ns);
    }

    /// BAR0 is read.
    pub(crate) fn read(&self, shared: &Shared, offset: u64, bytes: usize) {
        lock(&self.0).read(shared, offset, bytes);
    }

    /// BAR0 is written in a way that reaches no register.
    pub(crate) fn odd_write(&self, offset: u64, bytes: usize) {
        lock(&self.0).odd_access(offset, bytes, "write");
    }

    /// A register is about to be written.
    pub(crate) fn written(
        &self,
        shared: &Shared,
        registers: &Registers,
        register: Register,
        half: Option<Half>,
        data: &[u8],
    ) {
        lock(&self.0).written(shared, registers, register, half, data);
    }

    /// A doorbell is about to take effect.
    pub(crate) fn rung(&self, shared: &Shared, qid: u16, side: Side, value: u32) {
        let lifecycle = lock(&shared.registers).lifecycle;
        let memory = shared.memory.memory();
        lock(&self.0).rung(shared, &memory, lifecycle, (qid, side), value);
    }

    /// A doorbell's value was found in memory, at `at`, or in the register of a queue that has
    /// both; it is about to take effect.
    pub(crate) fn stored(
        &self,
        shared: &Shared,
        (qid, side): (u16, Side),
        at: Option<u64>,
        value: u32,
    ) {
        let lifecycle = lock(&shared.registers).lifecycle;
        let memory = shared.memory.memory();
        let mut state = lock(&self.0);
        if let (Some(at), Some(shadow)) = (at, state.queues.shadow(qid, side)) {
            shadow.at = Some(at);
        }
        // The host may have told it both ways, as it should.
        if state.queues.value(qid, side) != Some(value) {
            state.rung(shared, &memory, lifecycle, (qid, side), value);
        }
    }

    /// The register of a doorbell is about to be written whose value the controller takes from
    /// memory.
    pub(crate) fn register_rung(&self, shared: &Shared, qid: u16, side: Side, value: u32) {
        let memory = shared.memory.memory();
        lock(&self.0).register_rung(&memory, (qid, side), value);
    }

    /// A queue's value is stored at `at`, as its host knows; `None`: it may not know yet.
    pub(crate) fn shadowed(&self, qid: u16, side: Side, at: Option<u64>) {
        if let Some(shadow) = lock(&self.0).queues.shadow(qid, side) {
            *shadow = Shadow { at, event: None };
        }
    }

    /// The event index at `at` is another than the controller `left` there.
    pub(crate) fn event_index_written(
        &self,
        (qid, side): (u16, Side),
        at: u64,
        (left, found): (u32, u32),
    ) {
        lock(&self.0).event_index_written((qid, side), at, (left, found));
    }

    /// The controller could not be enabled.
    pub(crate) fn not_enabled(&self, registers: &Registers, reason: &str) {
        let mut state = lock(&self.0);
        state.journal.enabled();
        state.not_enabled(registers, reason);
    }

    /// The controller is enabled, without queues yet.
    pub(crate) fn enabled(&self) {
        let mut state = lock(&self.0);
        state.journal.enabled();
        state.queues = Queues::default();
    }

    /// A queue is made; its create command, if it has one, is not completed yet.
    pub(crate) fn created(&self, memory: &GuestRam, kind: Kind, qid: u16, base: u64, entries: u32) {
        let state = &mut *lock(&self.0);
        let about = about(kind, qid);
        let range = memory_of(kind, base, entries);
        if let Some(other) = state.queues.over(&range) {
            let text = format_args!(
                "{} lies over {} {} at {}",
                Span(&range),
                other.kind.name(),
                other.qid,
                Span(&other.range)
            );
            let rule = Rule::QueuesOverlap;
            state.journal.report(rule, about, None, base, text);
        }
        if kind == Kind::Completion
            && let Some(slot) = phase_set(memory, base, entries)
        {
            let text = format_args!("the phase tag of slot {slot:#x} is 1");
            let rule = Rule::CqPhaseNotClear;
            state.journal.report(rule, about, 0, 1, text);
        }
        state.queues.add(kind, qid, base, entries);
    }

    /// A queue was to be made where there is no memory.
    pub(crate) fn nowhere(&self, kind: Kind, qid: u16, base: u64, entries: u32) {
        let text = format_args!(
            "{entries:#x} entries at {}",
            Span(&memory_of(kind, base, entries))
        );
        let (rule, about) = (Rule::QueueNowhere, about(kind, qid));
        lock(&self.0).journal.report(rule, about, None, base, text);
    }

    /// A queue is gone; its delete command is not completed yet.
    pub(crate) fn deleted(&self, kind: Kind, qid: u16) {
        lock(&self.0).queues.remove(kind, qid);
    }

    /// A reset has ended all queues.
    pub(crate) fn reset(&self) {
        lock(&self.0).queues = Queues::default();
    }

    /// Entries were fetched, the first of them from slot `first`.
    pub(crate) fn fetched(&self, sqid: u16, first: u32, sqes: &[Sqe]) {
        lock(&self.0).fetched(sqid, first, sqes);
    }

    /// A completion is about to be posted.
    pub(crate) fn completing(&self, memory: &GuestRam, sqid: u16, cqid: u16, cid: u16) {
        lock(&self.0).completing(memory, sqid, cqid, cid);
    }
}

const fn about(kind: Kind, qid: u16) -> About {
    match kind {
        Kind::Submission => About::SubmissionQueue(qid),
        Kind::Completion => About::CompletionQueue(qid),
    }
}

/// The first slot whose phase tag is set.
fn phase_set(memory: &GuestRam, base: u64, entries: u32) -> Option<usize> {
    /// The phase tag in the last dword of an entry.
    const PHASE: u32 = 1 << 16;
    let mut chunk = [0; PHASE_CHUNK];
    let bytes = usize::try_from(entries).unwrap_or(usize::MAX) * CQE_BYTES;
    for start in (0..bytes).step_by(PHASE_CHUNK) {
        let part = chunk.get_mut(..PHASE_CHUNK.min(bytes - start))?;
        let at = base.checked_add(start as u64)?;
        memory.read_slice(part, GuestAddress(at)).ok()?;
        let is_set = |entry: &[u8]| {
            let last = entry.last_chunk().copied().map(u32::from_le_bytes);
            last.is_some_and(|dword| dword & PHASE != 0)
        };
        if let Some(index) = part.chunks_exact(CQE_BYTES).position(is_set) {
            return Some(start / CQE_BYTES + index);
        }
    }
    None
}
