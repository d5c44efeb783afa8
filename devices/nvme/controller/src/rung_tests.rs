//! Every interleaving of ringing and looking, by loom, whose atomics come in through [`Word`].

use loom::{
    sync::{
        Arc,
        atomic::{AtomicBool as LoomBool, AtomicU32, AtomicU64 as LoomU64},
    },
    thread,
};

use super::*;
use crate::park::Park;

impl Word for LoomU64 {
    fn zero() -> Self {
        Self::new(0)
    }

    fn load(&self, order: Ordering) -> u64 {
        self.load(order)
    }

    fn fetch_or(&self, bits: u64, order: Ordering) -> u64 {
        self.fetch_or(bits, order)
    }

    fn swap(&self, value: u64, order: Ordering) -> u64 {
        self.swap(value, order)
    }
}

/// Two doorbells of a shard.
struct Shard {
    numbers: [usize; 2],
    values: [AtomicU32; 2],
    rung: Rung<LoomU64>,
    park: Park<LoomBool>,
}

impl Shard {
    fn new(numbers: [usize; 2]) -> Arc<Self> {
        Arc::new(Self {
            numbers,
            values: [AtomicU32::new(0), AtomicU32::new(0)],
            rung: Rung::new(128),
            park: Park::new(),
        })
    }

    /// Rings a doorbell on a thread of its own, whose result is whether the shard is to be woken.
    fn ring(shard: &Arc<Self>, which: usize) -> thread::JoinHandle<bool> {
        let shard = shard.clone();
        thread::spawn(move || {
            shard.values[which].store(1, Ordering::Relaxed);
            shard.rung.set(shard.numbers[which]);
            shard.park.ring()
        })
    }

    /// Looks at what was rung; a value that was announced is there.
    fn look(&self, seen: &mut [bool; 2]) {
        self.rung.take(|number| {
            let which = usize::from(number == self.numbers[1]);
            assert_eq!(self.numbers[which], number);
            assert_eq!(self.values[which].load(Ordering::Relaxed), 1, "announced");
            seen[which] = true;
        });
    }

    /// Goes to sleep, unless there is something to look at.
    fn sleep(&self) -> bool {
        self.park.park(|| ());
        let rung = self.rung.any();
        if rung {
            self.park.unpark();
        }
        !rung
    }
}

/// Doorbells in the same word and in two words of the same summary.
#[test]
fn of_two_doorbells_rung_while_the_shard_looks_none_is_lost() {
    for numbers in [[3, 5], [3, 67]] {
        loom::model(move || {
            let shard = Shard::new(numbers);
            let vcpus = [Shard::ring(&shard, 0), Shard::ring(&shard, 1)];
            let mut seen = [false; 2];
            shard.look(&mut seen);
            for vcpu in vcpus {
                vcpu.join().expect("no panic");
            }
            shard.look(&mut seen);
            assert_eq!(seen, [true, true]);
            assert!(!shard.rung.any());
        });
    }
}

#[test]
fn a_doorbell_rung_while_going_to_sleep_is_seen_or_wakes() {
    loom::model(|| {
        let shard = Shard::new([3, 67]);
        let vcpu = Shard::ring(&shard, 1);
        let mut seen = [false; 2];
        shard.look(&mut seen);
        let sleeps = shard.sleep();
        let woken = vcpu.join().expect("no panic");
        assert!(seen[1] || !sleeps || woken, "asleep with a doorbell rung");
        shard.look(&mut seen);
        assert!(seen[1]);
    });
}

#[test]
fn what_was_rung_is_told_once_and_in_order() {
    const LAST: usize = 64 * 64 * 2 + 9;
    let rung: Rung = Rung::new(LAST + 1);
    assert!(!rung.any());
    for doorbell in [LAST, 64, 63, 0, 64 * 64, 64] {
        rung.set(doorbell);
    }
    assert!(rung.any());
    let mut told = Vec::new();
    rung.take(|doorbell| told.push(doorbell));
    assert_eq!(told, [0, 63, 64, 64 * 64, LAST]);
    rung.take(|doorbell| panic!("{doorbell} again"));
    assert!(!rung.any());
    // One that there is not is nobody's.
    rung.set(64 * 64 * 64);
    assert!(!rung.any());
}
