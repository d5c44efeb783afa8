//! How a shard goes to sleep without missing what is rung for it.
//!
//! ```text
//!   ringer                              sleeper
//!   store what there is to do           parked = true
//!   fence                               fence
//!   if parked: parked = false, wake     look for something to do; sleep if there is nothing
//! ```
//!
//! The two fences have an order. If the ringer's is first, the sleeper sees what was stored; if the
//! sleeper's is first, the ringer sees that it is parked. So one of them acts. This holds for
//! doorbells that are trapped and for messages; the tests run every interleaving of it.

use std::sync::atomic::{AtomicBool, Ordering, fence};

/// An atomic flag and its fence, so that a model checker can put its own in.
pub(crate) trait Flag {
    fn new(value: bool) -> Self;
    fn load(&self) -> bool;
    fn store(&self, value: bool);
    fn take(&self) -> bool;
    fn fence();
}

impl Flag for AtomicBool {
    fn new(value: bool) -> Self {
        Self::new(value)
    }

    fn load(&self) -> bool {
        self.load(Ordering::Relaxed)
    }

    fn store(&self, value: bool) {
        self.store(value, Ordering::Relaxed);
    }

    fn take(&self) -> bool {
        self.swap(false, Ordering::AcqRel)
    }

    fn fence() {
        fence(Ordering::SeqCst);
    }
}

/// Whether a shard sleeps, or is about to.
#[derive(Debug)]
pub(crate) struct Park<F = AtomicBool> {
    parked: F,
}

impl<F: Flag> Park<F> {
    pub(crate) fn new() -> Self {
        Self {
            parked: F::new(false),
        }
    }

    /// Called after something to do was stored: whether the sleeper must be woken, by the caller
    /// and by no one else.
    #[must_use]
    pub(crate) fn ring(&self) -> bool {
        F::fence();
        self.parked.load() && self.parked.take()
    }

    /// Says that the sleeper is about to sleep; it must look for something to do once more now.
    pub(crate) fn park(&self) {
        self.parked.store(true);
        F::fence();
    }

    /// The sleeper is awake, or did not sleep.
    pub(crate) fn unpark(&self) {
        self.parked.store(false);
    }
}

#[cfg(test)]
mod tests {
    use loom::{
        sync::{
            Arc,
            atomic::{AtomicBool as LoomBool, AtomicU32},
        },
        thread,
    };

    use super::*;

    impl Flag for LoomBool {
        fn new(value: bool) -> Self {
            Self::new(value)
        }

        fn load(&self) -> bool {
            self.load(Ordering::Relaxed)
        }

        fn store(&self, value: bool) {
            self.store(value, Ordering::Relaxed);
        }

        fn take(&self) -> bool {
            self.swap(false, Ordering::AcqRel)
        }

        fn fence() {
            loom::sync::atomic::fence(Ordering::SeqCst);
        }
    }

    struct Shard {
        doorbells: [AtomicU32; 2],
        park: Park<LoomBool>,
    }

    impl Shard {
        fn new() -> Arc<Self> {
            Arc::new(Self {
                doorbells: [AtomicU32::new(0), AtomicU32::new(0)],
                park: Park::new(),
            })
        }

        /// A vCPU rings a doorbell; whether it wakes the shard.
        fn ring(&self, doorbell: usize) -> bool {
            self.doorbells[doorbell].store(1, Ordering::Release);
            self.park.ring()
        }

        /// The shard goes to sleep; whether it does, having seen nothing of one of the doorbells.
        fn sleep(&self) -> bool {
            self.park.park();
            let rung = self
                .doorbells
                .iter()
                .all(|d| d.load(Ordering::Acquire) == 1);
            if rung {
                self.park.unpark();
            }
            !rung
        }
    }

    #[test]
    fn a_ring_while_going_to_sleep_is_seen_or_wakes() {
        loom::model(|| {
            let shard = Shard::new();
            shard.doorbells[1].store(1, Ordering::Relaxed);
            let vcpu = thread::spawn({
                let shard = shard.clone();
                move || shard.ring(0)
            });
            let sleeps = shard.sleep();
            let woken = vcpu.join().expect("no panic");
            assert!(!sleeps || woken, "asleep with a doorbell rung");
        });
    }

    #[test]
    fn two_rings_wake_a_sleeper_once() {
        loom::model(|| {
            let shard = Shard::new();
            let vcpus = [0, 1].map(|doorbell| {
                let shard = shard.clone();
                thread::spawn(move || shard.ring(doorbell))
            });
            let sleeps = shard.sleep();
            let woken = vcpus.map(|vcpu| vcpu.join().expect("no panic"));
            let wakes = woken.iter().filter(|&&woken| woken).count();
            assert!(!sleeps || wakes == 1, "asleep, and woken {wakes} times");
        });
    }

    #[test]
    fn who_is_awake_is_not_woken() {
        let park: Park = Park::new();
        assert!(!park.ring());
        park.park();
        assert!(park.ring());
        assert!(!park.ring());
        park.park();
        park.unpark();
        assert!(!park.ring());
    }
}
