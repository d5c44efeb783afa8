//! Shadow doorbells: tails and heads in memory, and when the register has to be written as well
//! (Base 5.2.5, B.5).

use nvme_spec::registers::DOORBELL_BASE;

use crate::{Buffer, Driver, Error, Transport, command};

/// The two buffers of Doorbell Buffer Config, a memory page each. A doorbell's entry lies in both
/// as far from the start as its register from the first doorbell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShadowDoorbells {
    /// The Shadow Doorbell buffer, which the host writes.
    pub shadow: Buffer,
    /// The EventIdx buffer, which the controller writes.
    pub event: Buffer,
}

impl ShadowDoorbells {
    /// The addresses of a doorbell's entries, by the register's offset in BAR0: in the Shadow
    /// Doorbell buffer, in the EventIdx buffer.
    #[must_use]
    pub const fn entry(&self, register: u64) -> (u64, u64) {
        let at = register - DOORBELL_BASE;
        (self.shadow.address + at, self.event.address + at)
    }
}

/// Whether going from `old` to `new` passes the event index, so that the register has to be
/// written: it was at most `event`, and is greater. Values go around at 65,536 here, whatever the
/// queue's size: what lies between the last entry and the first is passed with the wrap.
#[must_use]
pub const fn passes_event(event: u32, old: u32, new: u32) -> bool {
    let beyond = new.wrapping_sub(event).wrapping_sub(1) & 0xFFFF;
    beyond < new.wrapping_sub(old) & 0xFFFF
}

/// Tells the controller a tail or head that was `old`: by the register, or in memory and by the
/// register if the controller asks for it. Whether the register was written.
#[inline]
pub(crate) fn tell<T: Transport + ?Sized>(
    transport: &mut T,
    shadow: Option<&ShadowDoorbells>,
    register: u64,
    (old, new): (u32, u32),
) -> bool {
    if let Some(buffers) = shadow {
        let (entry, event) = buffers.entry(register);
        // What the controller is to find was stored before.
        transport.mem_store32(entry, new);
        // The controller sets the event index and then looks at the entry; the other way around
        // here, one of the two sees what the other stored.
        transport.barrier();
        if !passes_event(transport.mem_load32(event), old, new) {
            return false;
        }
    }
    transport.write32(register, new);
    true
}

impl<T: Transport + ?Sized> Driver<'_, T> {
    /// Whether [`enable`](Self::enable) turns shadow doorbells on.
    pub const fn set_shadow_doorbells(&mut self, on: bool) {
        self.shadow_wanted = on;
    }

    /// Whether the first I/O submission queue that is made turns shadow doorbells on, if they are
    /// not on: as Linux does, whose queues are there before the command.
    pub const fn set_shadow_doorbells_after_queues(&mut self, on: bool) {
        self.shadow_after_queues = on;
    }

    /// The buffers, while shadow doorbells are on.
    #[must_use]
    pub const fn shadow_doorbells(&self) -> Option<ShadowDoorbells> {
        self.shadow
    }

    /// Turns shadow doorbells on for the I/O queues that are there and those to come, until the
    /// controller is disabled; again, moves them to new buffers. The admin queue keeps its
    /// registers.
    ///
    /// # Errors
    /// [`Error::Status`] when the controller refuses; memory and command errors.
    pub fn enable_shadow_doorbells(&mut self) -> Result<(), Error> {
        let page = self.page_bytes;
        let buffers = ShadowDoorbells {
            shadow: self.alloc(page)?,
            event: self.alloc(page)?,
        };
        let told = self.sqs.iter().flatten().map(|sq| (sq.doorbell, sq.told()));
        let told = told.chain(self.cqs.iter().flatten().map(|cq| (cq.doorbell, cq.told())));
        for (register, value) in told {
            let (entry, _) = buffers.entry(register);
            self.transport.mem_store32(entry, value);
        }
        let sqe = command::doorbell_buffer_config(buffers.shadow.address, buffers.event.address);
        if let Err(error) = self.admin_ok(sqe) {
            self.free(buffers.shadow);
            self.free(buffers.event);
            return Err(error);
        }
        self.forget_shadow_doorbells();
        self.shadow = Some(buffers);
        Ok(())
    }

    /// Clears what an earlier queue left in a doorbell's entries.
    pub(crate) fn clear_shadow(&mut self, qid: u16, register: u64) {
        if let Some(shadow) = self.shadow.filter(|_| qid != 0) {
            let (entry, event) = shadow.entry(register);
            self.transport.mem_store32(entry, 0);
            self.transport.mem_store32(event, 0);
        }
    }

    /// The controller no longer uses the buffers.
    pub(crate) fn forget_shadow_doorbells(&mut self) {
        if let Some(ShadowDoorbells { shadow, event }) = self.shadow.take() {
            self.free(shadow);
            self.free(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Base B.5, without arithmetic: the values from `old` up to the one before `new`, around a
    /// ring of `entries`.
    fn steps_over(event: u32, old: u32, new: u32, entries: u32) -> bool {
        let mut at = old;
        while at != new {
            if at == event {
                return true;
            }
            at = (at + 1) % entries;
        }
        false
    }

    #[test]
    fn an_event_index_is_passed_as_the_ring_is_walked() {
        for entries in 2..12 {
            for old in 0..entries {
                for new in 0..entries {
                    for event in 0..entries {
                        assert_eq!(
                            passes_event(event, old, new),
                            steps_over(event, old, new, entries),
                            "{old} to {new} over {event} of {entries}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn the_largest_queue_and_wrong_values_go_around() {
        assert!(passes_event(0xFFFF, 0xFFFF, 0));
        assert!(!passes_event(0xFFFE, 0xFFFF, 0));
        // An entry that held a wrong value: the controller has seen it, and hears of the next.
        assert!(passes_event(0xFFFF_FFFF, 0xFFFF_FFFF, 3));
        assert!(!passes_event(7, 7, 7));
    }
}
