//! Every interleaving of ringing and going to sleep, by loom, whose atomics come in through
//! [`Flag`]: these run with plain `cargo test`.

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
