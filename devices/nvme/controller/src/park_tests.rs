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
        self.park.park(|| ());
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
    park.park(|| ());
    assert!(park.ring());
    assert!(!park.ring());
    park.park(|| ());
    park.unpark();
    assert!(!park.ring());
}

/// What the host and the shard share of a doorbell in memory.
struct Shadow {
    tail: AtomicU32,
    event: AtomicU32,
    park: Park<LoomBool>,
}

/// How the host's ring reaches the shard.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// A trap: the ringer wakes who is parked.
    Trap,
    /// An eventfd: whoever sleeps wakes.
    Eventfd,
}

/// Base B.5, as hosts compute it: whether going from `old` to `new` passes `event`.
fn passes(event: u32, old: u32, new: u32) -> bool {
    let distance = |from: u32, to: u32| to.wrapping_sub(from) & 0xFFFF;
    distance(event + 1, new) < distance(old, new)
}

impl Shadow {
    /// A tail of 5, and an event index that asks for nothing.
    fn at_5() -> Arc<Self> {
        Arc::new(Self {
            tail: AtomicU32::new(5),
            event: AtomicU32::new(2),
            park: Park::new(),
        })
    }

    /// The host moves its tail; whether the shard is woken.
    fn submit(&self, old: u32, new: u32, way: Way) -> bool {
        self.tail.store(new, Ordering::Relaxed);
        loom::sync::atomic::fence(Ordering::SeqCst);
        passes(self.event.load(Ordering::Relaxed), old, new)
            && (way == Way::Eventfd || self.park.ring())
    }

    /// The shard goes to sleep, having seen `seen`; whether it does.
    fn sleep(&self, seen: u32) -> bool {
        self.park.park(|| self.event.store(seen, Ordering::Relaxed));
        let rung = self.tail.load(Ordering::Acquire) != seen;
        if rung {
            self.park.unpark();
        }
        !rung
    }
}

/// The event index is an old one, which asks for nothing, until the shard goes to sleep.
#[test]
fn a_tail_stored_in_memory_while_going_to_sleep_is_seen_or_rung() {
    for way in [Way::Trap, Way::Eventfd] {
        loom::model(move || {
            let shard = Shadow::at_5();
            let host = thread::spawn({
                let shard = shard.clone();
                move || shard.submit(5, 6, way)
            });
            let sleeps = shard.sleep(5);
            let woken = host.join().expect("no panic");
            assert!(!sleeps || woken, "asleep with a tail in memory");
        });
    }
}

/// Two commands, one after the other: the first may be seen, and the second come while the shard
/// goes to sleep for it.
#[test]
fn of_two_tails_stored_in_memory_the_last_is_seen_or_rung() {
    for way in [Way::Trap, Way::Eventfd] {
        loom::model(move || {
            let shard = Shadow::at_5();
            let host = thread::spawn({
                let shard = shard.clone();
                move || [(5, 6), (6, 0)].map(|(old, new)| shard.submit(old, new, way))
            });
            let seen = shard.tail.load(Ordering::Acquire);
            let sleeps = shard.sleep(seen);
            let woken = host.join().expect("no panic");
            assert!(
                !sleeps || seen == 0 || woken.contains(&true),
                "asleep after {seen} with a tail in memory"
            );
        });
    }
}

/// A doorbell of a queue that was made before the host had memory for it.
struct Turning {
    register: AtomicU32,
    shadow: Arc<Shadow>,
}

/// What a shard has seen of it, and whether it still looks at the register.
struct Looker {
    register: Option<u32>,
    entry: u32,
    tail: u32,
}

impl Turning {
    /// As `shadow.rs` looks: the entry is loaded first and comes second, and from the first value
    /// of the entry on the register does not count.
    fn look(&self, looker: &mut Looker) -> bool {
        let entry = self.shadow.tail.load(Ordering::Acquire);
        if let Some(seen) = &mut looker.register {
            let register = self.register.load(Ordering::Acquire);
            if register != *seen {
                (*seen, looker.tail) = (register, register);
                return true;
            }
        }
        if entry == looker.entry {
            return false;
        }
        *looker = Looker {
            register: None,
            entry,
            tail: entry,
        };
        true
    }
}

/// The host rings by the register, hears of the buffers, and goes on in memory, where its ring is
/// an exit or, if the shard was quick, an eventfd without a value.
#[test]
fn of_a_register_and_then_an_entry_the_last_is_seen_or_rung() {
    for way in [Way::Trap, Way::Eventfd] {
        loom::model(move || {
            let turning = Arc::new(Turning {
                register: AtomicU32::new(5),
                shadow: Shadow::at_5(),
            });
            let host = thread::spawn({
                let turning = turning.clone();
                move || {
                    turning.register.store(6, Ordering::Release);
                    let first = turning.shadow.park.ring();
                    // The entry is still as the controller left it.
                    let second = turning.shadow.submit(5, 7, way);
                    first || second
                }
            });
            let mut looker = Looker {
                register: Some(5),
                entry: 5,
                tail: 5,
            };
            let shadow = &turning.shadow;
            // It sleeps once: a model that goes to sleep again has to know that what the first ring
            // took comes before the second sleep, which loom does not.
            while turning.look(&mut looker) {}
            let entry = looker.entry;
            let arm = || shadow.event.store(entry, Ordering::Relaxed);
            shadow.park.park(arm);
            let sleeps = !turning.look(&mut looker);
            let woken = host.join().expect("no panic");
            assert!(
                !sleeps || looker.tail == 7 || woken,
                "asleep with {}",
                looker.tail
            );
        });
    }
}
