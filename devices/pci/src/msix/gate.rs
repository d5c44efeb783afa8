//! One vector's gate: open, or closed with perhaps an interrupt waiting behind it.
//!
//! This is the part of MSI-X that worker threads and vCPUs race on. It is one atomic byte
//! with two bits, and every transition is one read-modify-write of it:
//!
//! ```text
//!            signal: deliver                signal: keep one
//!               ┌───┐                          ┌───┐
//!               │   ▼        close             │   ▼
//!               OPEN ───────────────────────► CLOSED ──── signal ───► CLOSED + PENDING
//!                ▲                              │ ▲                       │  │
//!                │            open              │ └────── forget ─────────┘  │
//!                ├──────────────────────────────┘                            │
//!                └──────────────────── open: deliver the one kept ───────────┘
//! ```
//!
//! Why nothing is lost or doubled: the byte's modifications have one total order. A signal
//! that keeps its edge replaces the very value it looked at (compare-exchange), so it is
//! either before an `open`, which takes the pending bit and delivers it, or after, and then
//! the exchange fails and it looks again. Only `open` takes the bit, and takes it by the
//! same operation that opens, so it delivers it once.
//!
//! A signal that finds its edge pending already still does its compare-exchange, although it
//! changes no bit: without it, what the device wrote before signalling (a completion queue
//! entry) would not be ordered before the delivery that is to announce it.
//!
//! A signal that found the gate open delivers even if the gate closes between the look and
//! the delivery: it is an interrupt that was on its way.

use std::sync::atomic::{AtomicU8, Ordering};

const OPEN: u8 = 0;
const CLOSED: u8 = 1 << 0;
const PENDING: u8 = 1 << 1;

/// The atomic byte, so that a model checker can put its own in.
pub(super) trait Word {
    fn new(value: u8) -> Self;
    fn load(&self, order: Ordering) -> u8;
    fn exchange(&self, current: u8, new: u8, ok: Ordering, failed: Ordering) -> Result<u8, u8>;
    fn swap(&self, value: u8, order: Ordering) -> u8;
    fn fetch_or(&self, bits: u8, order: Ordering) -> u8;
    fn fetch_and(&self, bits: u8, order: Ordering) -> u8;
}

impl Word for AtomicU8 {
    fn new(value: u8) -> Self {
        Self::new(value)
    }

    fn load(&self, order: Ordering) -> u8 {
        self.load(order)
    }

    fn exchange(&self, current: u8, new: u8, ok: Ordering, failed: Ordering) -> Result<u8, u8> {
        self.compare_exchange(current, new, ok, failed)
    }

    fn swap(&self, value: u8, order: Ordering) -> u8 {
        self.swap(value, order)
    }

    fn fetch_or(&self, bits: u8, order: Ordering) -> u8 {
        self.fetch_or(bits, order)
    }

    fn fetch_and(&self, bits: u8, order: Ordering) -> u8 {
        self.fetch_and(bits, order)
    }
}

/// What became of a signalled edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Edge {
    /// The caller must deliver it.
    Deliver,
    /// It is the pending one now.
    Kept,
    /// One was pending; the two are one now.
    Coalesced,
}

/// A vector's gate. `open` and `close` are serialised by the caller; `signal`, `forget` and
/// `is_pending` may run at any time on any thread.
pub(super) struct Gate<W = AtomicU8> {
    state: W,
}

impl<W: Word> Gate<W> {
    /// Closed, nothing pending.
    pub(super) fn closed() -> Self {
        Self {
            state: W::new(CLOSED),
        }
    }

    /// Takes an edge. Lock-free; a single load when open.
    pub(super) fn signal(&self) -> Edge {
        // Acquire: pairs with `open`, so that the route it published is in place.
        let mut state = self.state.load(Ordering::Acquire);
        loop {
            if state & CLOSED == 0 {
                return Edge::Deliver;
            }
            // Release: what the device wrote before is visible to whoever opens.
            match self
                .state
                .exchange(state, state | PENDING, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(previous) if previous & PENDING == 0 => return Edge::Kept,
                Ok(_) => return Edge::Coalesced,
                Err(now) => state = now,
            }
        }
    }

    /// Opens the gate and takes the pending edge. True: the caller must deliver it.
    #[must_use]
    pub(super) fn open(&self) -> bool {
        self.state.swap(OPEN, Ordering::AcqRel) & PENDING != 0
    }

    /// Closes the gate; a pending edge stays.
    pub(super) fn close(&self) {
        self.state.fetch_or(CLOSED, Ordering::AcqRel);
    }

    /// Drops a pending edge; open stays open and closed closed.
    pub(super) fn forget(&self) {
        self.state.fetch_and(!PENDING, Ordering::AcqRel);
    }

    /// Whether an edge is waiting.
    pub(super) fn is_pending(&self) -> bool {
        self.state.load(Ordering::Acquire) & PENDING != 0
    }
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
