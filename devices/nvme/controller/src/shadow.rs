//! Where the values of a doorbell come from: its register, or shadow doorbells, tails and heads
//! that the host leaves in memory (Base 5.2.5, B.5).
//!
//! The host stores a tail or head in its entry of the Shadow Doorbell buffer, and writes the
//! register only if the new value passes what the same entry of the EventIdx buffer holds. A shard
//! that polls reads the entries and leaves the event indexes as they are: an old one asks for a
//! register write once a round of the ring at most. Before it sleeps it sets each to the last
//! value that it read ([`Bell::arm`]), and looks at the entries once more (see `park`): whatever
//! the host stores next passes it.
//!
//! A wrong value stays in memory. It is judged once, when it is first seen.

use std::sync::atomic::Ordering;

use nvme_spec::registers::{DOORBELL_BASE, cq_head_doorbell, sq_tail_doorbell};
use storage::GuestRam;
use vm_memory::{Bytes, GuestAddress};

use crate::{
    doorbell::{Doorbells, Side},
    queue::QueueFault,
};

/// CAP.DSTRD: doorbells lie 4 bytes apart.
const STRIDE: u8 = 0;

/// The byte offset of a doorbell in BAR0 (PCIe 3.1.2).
pub(crate) const fn doorbell_offset(qid: u16, side: Side) -> u64 {
    match side {
        Side::SqTail => sq_tail_doorbell(qid, STRIDE),
        Side::CqHead => cq_head_doorbell(qid, STRIDE),
    }
}

/// The memory that Doorbell Buffer Config names: a page each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ShadowBuffers {
    /// The Shadow Doorbell buffer, which the host writes.
    pub(crate) shadow: u64,
    /// The EventIdx buffer, which the controller writes.
    pub(crate) event: u64,
}

/// A doorbell's entry in both buffers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry {
    qid: u16,
    shadow: u64,
    event: u64,
    /// What the host's entry held when it was read last.
    seen: u32,
    /// What the event index holds.
    armed: u32,
}

impl Entry {
    /// A doorbell's entry, with `value` stored in both buffers; but a host's entry that is `old`'s
    /// too keeps what the host stored there.
    fn set_up(
        memory: &GuestRam,
        buffers: ShadowBuffers,
        (qid, side): (u16, Side),
        value: u32,
        old: Option<&Self>,
    ) -> Result<Self, QueueFault> {
        let at = doorbell_offset(qid, side) - DOORBELL_BASE;
        let address = buffers.shadow.wrapping_add(at);
        let seen = match old {
            Some(old) if old.shadow == address => old.seen,
            _ => {
                memory
                    .store(value.to_le(), GuestAddress(address), Ordering::Relaxed)
                    .map_err(|_| QueueFault { qid, address })?;
                value
            }
        };
        let mut entry = Self {
            qid,
            shadow: address,
            event: buffers.event.wrapping_add(at),
            seen,
            armed: !seen,
        };
        entry.arm(memory)?;
        Ok(entry)
    }

    /// What the host's entry holds now. What the host stored before it is seen afterwards.
    fn load(&self, memory: &GuestRam) -> Result<u32, QueueFault> {
        let (qid, address) = (self.qid, self.shadow);
        memory
            .load(GuestAddress(address), Ordering::Acquire)
            .map(u32::from_le)
            .map_err(|_| QueueFault { qid, address })
    }

    fn arm(&mut self, memory: &GuestRam) -> Result<(), QueueFault> {
        let (qid, address) = (self.qid, self.event);
        if self.armed != self.seen {
            let value = self.seen.to_le();
            memory
                .store(value, GuestAddress(address), Ordering::Relaxed)
                .map_err(|_| QueueFault { qid, address })?;
            self.armed = self.seen;
        }
        Ok(())
    }
}

/// Where the values come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    /// The register, which a front end stores.
    Trapped { seen: u32 },
    /// Either, whichever changes: the admin queue, whose entry few hosts write, and queues that
    /// were there before the command, whose host may be writing a register right now, and may go on
    /// so; until it stores in the entry ([`Bell::follow`]).
    Both { seen: u32, entry: Entry },
    /// The host's entry. The register says when to look, and its value nothing.
    Shadow(Entry),
}

/// A new value of a doorbell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Rung {
    pub(crate) value: u32,
    /// What the register held before, if the value is the register's.
    register_before: Option<u32>,
}

impl Rung {
    /// Whether the value is that of the host's entry, and not the register's.
    pub(crate) const fn is_from_memory(self) -> bool {
        self.register_before.is_none()
    }
}

/// One doorbell, as the shard that serves its queue sees it.
#[derive(Debug)]
pub(crate) struct Bell {
    pub(crate) qid: u16,
    pub(crate) side: Side,
    mode: Mode,
}

impl Bell {
    /// The doorbell of a new queue, which reads 0, by its register.
    pub(crate) const fn trapped(qid: u16, side: Side) -> Self {
        let mode = Mode::Trapped { seen: 0 };
        Self { qid, side, mode }
    }

    /// The doorbell of a new queue by its entry, which is set to 0: what an earlier queue left
    /// there is none of this one's.
    ///
    /// # Errors
    /// When the buffers are not memory any more.
    pub(crate) fn shadow(
        qid: u16,
        side: Side,
        memory: &GuestRam,
        buffers: ShadowBuffers,
    ) -> Result<Self, QueueFault> {
        let mode = Mode::Shadow(Entry::set_up(memory, buffers, (qid, side), 0, None)?);
        Ok(Self { qid, side, mode })
    }

    /// Takes values from new buffers from now on, whose entry is set to `value`, the last good
    /// one. Values in other buffers that were not looked at yet are lost.
    ///
    /// # Errors
    /// When the buffers are not memory.
    pub(crate) fn turn(
        &mut self,
        memory: &GuestRam,
        buffers: ShadowBuffers,
        value: u32,
    ) -> Result<(), QueueFault> {
        let old = match &self.mode {
            Mode::Trapped { .. } => None,
            Mode::Both { entry, .. } | Mode::Shadow(entry) => Some(entry),
        };
        let entry = Entry::set_up(memory, buffers, (self.qid, self.side), value, old)?;
        self.mode = match self.mode {
            Mode::Trapped { seen } | Mode::Both { seen, .. } => Mode::Both { seen, entry },
            Mode::Shadow(_) => Mode::Shadow(entry),
        };
        Ok(())
    }

    /// The next value that was not looked at yet.
    ///
    /// # Errors
    /// When the buffers are not memory any more.
    #[inline]
    pub(crate) fn next(
        &mut self,
        registers: &Doorbells,
        memory: &GuestRam,
    ) -> Result<Option<Rung>, QueueFault> {
        let rung = self.look(registers, memory)?;
        match (&mut self.mode, rung) {
            (Mode::Shadow(entry), Some(rung)) => entry.seen = rung.value,
            (Mode::Both { entry, .. }, Some(rung)) if rung.register_before.is_none() => {
                entry.seen = rung.value;
            }
            (Mode::Trapped { seen } | Mode::Both { seen, .. }, Some(rung)) => *seen = rung.value,
            (_, None) => {}
        }
        Ok(rung)
    }

    /// The next value that was not looked at yet, left to be looked at.
    #[inline]
    fn look(&self, registers: &Doorbells, memory: &GuestRam) -> Result<Option<Rung>, QueueFault> {
        let of_entry = |value, entry: &Entry| {
            (value != entry.seen).then_some(Rung {
                value,
                register_before: None,
            })
        };
        let of_register = |seen| {
            let value = registers.value(self.qid, self.side);
            (value != seen).then_some(Rung {
                value,
                register_before: Some(seen),
            })
        };
        Ok(match &self.mode {
            Mode::Trapped { seen } => of_register(*seen),
            Mode::Shadow(entry) => of_entry(entry.load(memory)?, entry),
            Mode::Both { seen, entry } => {
                // The entry is loaded first and comes second: a host that stores to the entry
                // after it has written the register would have the newer value there.
                let value = entry.load(memory)?;
                of_register(*seen).or_else(|| of_entry(value, entry))
            }
        })
    }

    /// A value was wrong. In the register the one before takes its place, so that the same wrong
    /// value is seen when it is written again; unless something else was written meanwhile.
    pub(crate) fn refuse(&mut self, registers: &Doorbells, rung: Rung) {
        let Some(before) = rung.register_before else {
            return;
        };
        registers.restore(self.qid, self.side, rung.value, before);
        if let Mode::Trapped { seen } | Mode::Both { seen, .. } = &mut self.mode {
            *seen = before;
        }
    }

    /// A value was good. If the host has stored it in the entry of a queue that was there before
    /// the command, it knows of the buffers, and whatever it writes to the register is in the entry
    /// before: from now on the register only says when to look. What was there alone before the
    /// entry was stored has been looked at, since the register comes first. Whether that is news.
    pub(crate) const fn follow(&mut self, rung: Rung) -> bool {
        let Mode::Both { entry, .. } = self.mode else {
            return false;
        };
        let follows = rung.is_from_memory() && self.qid != 0;
        if follows {
            self.mode = Mode::Shadow(entry);
        }
        follows
    }

    /// Whether there is a value that was not looked at yet. Memory that is gone counts: the next
    /// look tells of it.
    pub(crate) fn unseen(&self, registers: &Doorbells, memory: &GuestRam) -> bool {
        !matches!(self.look(registers, memory), Ok(None))
    }

    /// Whether values come from memory too, or from there alone.
    pub(crate) const fn is_in_memory(&self) -> bool {
        !matches!(self.mode, Mode::Trapped { .. })
    }

    const fn entry(&self) -> Option<&Entry> {
        match &self.mode {
            Mode::Trapped { .. } => None,
            Mode::Both { entry, .. } | Mode::Shadow(entry) => Some(entry),
        }
    }

    /// Where the host's entry is.
    pub(crate) fn shadow_address(&self) -> Option<u64> {
        self.entry().map(|entry| entry.shadow)
    }

    /// Where the event index is, what was stored there and what is there, if the host has changed
    /// it.
    pub(crate) fn event_index_written(&self, memory: &GuestRam) -> Option<(u64, u32, u32)> {
        let entry = self.entry()?;
        let found = memory.load(GuestAddress(entry.event), Ordering::Relaxed);
        let found = u32::from_le(found.ok()?);
        (found != entry.armed).then_some((entry.event, entry.armed, found))
    }

    /// Asks the host to ring with the next value that it stores. [`unseen`](Self::unseen) has to
    /// be asked after a fence.
    ///
    /// # Errors
    /// When the buffers are not memory any more.
    pub(crate) fn arm(&mut self, memory: &GuestRam) -> Result<(), QueueFault> {
        match &mut self.mode {
            Mode::Trapped { .. } => Ok(()),
            Mode::Both { entry, .. } | Mode::Shadow(entry) => entry.arm(memory),
        }
    }
}

#[cfg(test)]
#[path = "shadow_tests.rs"]
mod tests;
