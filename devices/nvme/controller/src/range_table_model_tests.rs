//! Every interleaving of shards that take and give ranges, by loom, on tables of a few words.

use loom::{
    model::Builder,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use self::range_table::{Access, RangeTable, STRIPE_SHIFT, Ticket, Use, Waiters};
use crate::ids::ShardId;

/// What the table is made of, as loom has it.
mod sync {
    use std::sync::PoisonError;

    use loom::sync::MutexGuard;

    pub(super) use loom::sync::{
        Mutex,
        atomic::{AtomicU32, AtomicUsize},
    };

    pub(super) fn in_one_order() {
        loom::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    }

    pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[path = "range_table.rs"]
#[allow(
    clippy::duplicate_mod,
    dead_code,
    unreachable_pub,
    reason = "the table once more, over loom's atomics; not all of it is used here"
)]
mod range_table;

struct Shards {
    table: RangeTable,
    told: Vec<AtomicBool>,
}

impl Shards {
    fn tell(&self, waiters: Waiters) {
        for shard in waiters.shards() {
            self.told[usize::from(shard)].store(true, Ordering::SeqCst);
        }
    }

    /// Tries once; whoever fails sleeps, with a ticket.
    fn attempt(&self, shard: ShardId, what: Use, ticket: Option<Ticket>) -> Option<Ticket> {
        let taken = self.table.take(what, shard, ticket);
        self.tell(taken.held_up);
        match taken.result {
            Ok(()) => self.tell(self.table.give(what)),
            Err(ticket) => return Some(ticket),
        }
        None
    }
}

const fn write(first: u64, count: u64) -> Use {
    Use {
        offset: first << STRIPE_SHIFT,
        len: count << STRIPE_SHIFT,
        access: Access::Write,
    }
}

/// Each shard does its own at the same time as the others, and sleeps if it has to; then those
/// that were told go on: all must have come to their ends when nobody is left to be told.
fn all_finish(words: usize, uses: &[Use]) {
    let uses = uses.to_vec();
    let mut builder = Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(move || {
        let count = ShardId::try_from(uses.len()).expect("a few");
        let shards = Arc::new(Shards {
            table: RangeTable::with_words(count, words),
            told: uses.iter().map(|_| AtomicBool::new(false)).collect(),
        });
        let run = |shard: ShardId, what: Use| {
            let shards = shards.clone();
            thread::spawn(move || shards.attempt(shard, what, None))
        };
        let threads: Vec<_> = (0..count)
            .zip(&uses)
            .map(|(n, what)| run(n, *what))
            .collect();
        let mut tickets: Vec<Option<Ticket>> = threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .collect();
        while let Some(next) = (0..uses.len())
            .find(|&n| tickets[n].is_some() && shards.told[n].swap(false, Ordering::SeqCst))
        {
            let shard = ShardId::try_from(next).expect("a few");
            tickets[next] = shards.attempt(shard, uses[next], tickets[next]);
        }
        assert!(tickets.iter().all(Option::is_none), "asleep: {tickets:?}");
    });
}

#[test]
fn two_that_meet_in_the_middle_both_finish() {
    all_finish(2, &[write(0, 2), write(1, 2)]);
}

#[test]
fn a_small_write_that_meets_a_large_one_is_told_when_that_lets_go() {
    all_finish(2, &[write(1, 1), write(0, 2), write(0, 1)]);
}
