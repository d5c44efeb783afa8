//! Interrupts of a shard: at most one a vector a poll, fewer where they are coalesced.

use std::sync::atomic::Ordering;

use crate::shared::Shared;

/// The vectors that have completions to tell of.
#[derive(Debug)]
pub(crate) struct Interrupts {
    vectors: Box<[Vector]>,
    /// The vectors with a count, in the order they got it.
    raised: Vec<u16>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Vector {
    /// Completions not told of.
    completions: u32,
    /// When the first of them was seen by `flush`.
    since_ns: Option<u64>,
    /// One of them must not wait: the admin queue's (PCIe 3.3).
    urgent: bool,
}

/// What a flush did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Signalled {
    pub(crate) count: u64,
    /// When a waiting interrupt is due.
    pub(crate) next_ns: Option<u64>,
}

impl Interrupts {
    pub(crate) fn new(vectors: u16) -> Self {
        Self {
            vectors: vec![Vector::default(); usize::from(vectors)].into_boxed_slice(),
            raised: Vec::with_capacity(usize::from(vectors)),
        }
    }

    /// Notes a completion for `vector`.
    pub(crate) fn raise(&mut self, vector: u16, urgent: bool) {
        let Some(state) = self.vectors.get_mut(usize::from(vector)) else {
            return;
        };
        if state.completions == 0 {
            self.raised.push(vector);
        }
        state.completions = state.completions.saturating_add(1);
        state.urgent |= urgent;
    }

    /// Signals what is due at `now_ns` (Interrupt Coalescing, PCIe 3.3).
    pub(crate) fn flush(&mut self, shared: &Shared, now_ns: u64) -> Signalled {
        let mut signalled = Signalled::default();
        if self.raised.is_empty() {
            return signalled;
        }
        let count = shared.settings.coalescing_count.load(Ordering::Relaxed);
        let wait_ns = shared.settings.coalescing_ns.load(Ordering::Relaxed);
        let vectors = &mut self.vectors;
        self.raised.retain(|&vector| {
            let Some(state) = vectors.get_mut(usize::from(vector)) else {
                return false;
            };
            let due_ns = state.since_ns.get_or_insert(now_ns).saturating_add(wait_ns);
            let due = state.urgent
                || state.completions >= count
                || now_ns >= due_ns
                || shared.settings.is_coalescing_disabled(vector);
            if due {
                *state = Vector::default();
                shared.interrupt.signal(vector);
                signalled.count += 1;
            } else {
                let next = signalled.next_ns.map_or(due_ns, |next| next.min(due_ns));
                signalled.next_ns = Some(next);
            }
            !due
        });
        signalled
    }

    /// Signals a vector that has completions to tell of, whatever coalescing says.
    pub(crate) fn signal_now(&mut self, shared: &Shared, vector: u16) {
        let Some(state) = self.vectors.get_mut(usize::from(vector)) else {
            return;
        };
        if state.completions > 0 {
            *state = Vector::default();
            self.raised.retain(|&raised| raised != vector);
            shared.interrupt.signal(vector);
        }
    }

    /// Forgets everything: the controller was reset.
    pub(crate) fn clear(&mut self) {
        self.vectors.fill(Vector::default());
        self.raised.clear();
    }
}
