//! The range table: who may have what at once, and in which order.

use crate::{
    ids::ShardId,
    range_table::{Access, RangeTable, STRIPE_SHIFT, Ticket, Use, WORDS, Waiters},
};

const KIB: u64 = 1024;

fn read(offset: u64, len: u64) -> Use {
    Use {
        offset,
        len,
        access: Access::Read,
    }
}

fn write(offset: u64, len: u64) -> Use {
    Use {
        offset,
        len,
        access: Access::Write,
    }
}

const NONE: [ShardId; 0] = [];

/// Both kinds of table, by the number of shards.
fn tables() -> [RangeTable; 2] {
    [RangeTable::new(1), RangeTable::new(2)]
}

/// Takes a range where nobody else tries to, so that the attempt holds up nobody.
fn take(
    table: &RangeTable,
    what: Use,
    shard: ShardId,
    ticket: Option<Ticket>,
) -> Result<(), Ticket> {
    let taken = table.take(what, shard, ticket);
    assert_eq!(shards(taken.held_up), NONE);
    taken.result
}

fn shards(waiters: Waiters) -> Vec<ShardId> {
    waiters.shards().collect()
}

#[test]
fn reads_share_and_writes_do_not() {
    for table in tables() {
        assert_eq!(take(&table, read(0, 4 * KIB), 0, None), Ok(()));
        assert_eq!(take(&table, read(0, 4 * KIB), 0, None), Ok(()));
        let ticket = take(&table, write(0, 4 * KIB), 1, None).expect_err("read");
        assert_eq!(shards(table.give(read(0, 4 * KIB))), [1]);
        assert_eq!(
            take(&table, write(0, 4 * KIB), 1, Some(ticket)),
            Err(ticket)
        );
        assert_eq!(shards(table.give(read(0, 4 * KIB))), [1]);
        assert_eq!(take(&table, write(0, 4 * KIB), 1, Some(ticket)), Ok(()));
        let ticket = take(&table, read(4095, 1), 0, None).expect_err("written");
        assert_eq!(shards(table.give(write(0, 4 * KIB))), [0]);
        assert_eq!(take(&table, read(4095, 1), 0, Some(ticket)), Ok(()));
    }
}

#[test]
fn what_nobody_waits_for_wakes_nobody() {
    for table in tables() {
        assert_eq!(take(&table, write(0, KIB), 0, None), Ok(()));
        assert_eq!(shards(table.give(write(0, KIB))), NONE);
        assert_eq!(take(&table, write(0, KIB), 0, None), Ok(()));
        let ticket = take(&table, write(0, KIB), 63, None).expect_err("written");
        assert_eq!(take(&table, write(256 * KIB, KIB), 0, None), Ok(()));
        assert_eq!(
            shards(table.give(write(256 * KIB, KIB))),
            NONE,
            "a range far away"
        );
        assert_eq!(shards(table.give(write(0, KIB))), [63]);
        assert_eq!(take(&table, write(0, KIB), 63, Some(ticket)), Ok(()));
    }
}

#[test]
fn a_waiting_write_goes_before_later_reads_and_writes() {
    for table in tables() {
        assert_eq!(take(&table, read(0, KIB), 0, None), Ok(()));
        // It waits for the first stripe and will want all four.
        let wide = take(&table, write(0, 256 * KIB), 1, None).expect_err("read");
        let later = take(&table, read(0, KIB), 0, None).expect_err("overtook");
        let small = take(&table, write(192 * KIB, KIB), 0, None);
        let small = small.expect_err("overtook in a stripe that nobody has");
        let _ = table.give(read(0, KIB));
        assert_eq!(take(&table, read(0, KIB), 0, Some(later)), Err(later));
        assert_eq!(take(&table, write(0, 256 * KIB), 1, Some(wide)), Ok(()));
        assert_eq!(shards(table.give(write(0, 256 * KIB))), [0]);
        assert_eq!(take(&table, read(0, KIB), 0, Some(later)), Ok(()));
        assert_eq!(take(&table, write(192 * KIB, KIB), 0, Some(small)), Ok(()));
    }
}

#[test]
fn those_who_wait_elsewhere_are_in_nobodys_way() {
    for table in tables() {
        assert_eq!(take(&table, write(0, KIB), 0, None), Ok(()));
        let _ticket = take(&table, write(0, KIB), 0, None).expect_err("written");
        assert_eq!(take(&table, write(64 * KIB, KIB), 0, None), Ok(()));
        assert_eq!(take(&table, read(128 * KIB, KIB), 0, None), Ok(()));
    }
}

#[test]
fn a_ticket_given_up_lets_later_ones_go_on() {
    for table in tables() {
        assert_eq!(take(&table, read(0, KIB), 0, None), Ok(()));
        let wide = take(&table, write(0, 200 * KIB), 0, None).expect_err("read");
        let later = take(&table, read(0, KIB), 7, None).expect_err("overtook");
        assert_eq!(shards(table.forget(wide)), [7]);
        assert_eq!(take(&table, read(0, KIB), 7, Some(later)), Ok(()));
        assert_eq!(shards(table.forget(wide)), NONE, "it was given up already");
    }
}

#[test]
fn a_refused_range_leaves_nothing_taken() {
    for table in tables() {
        assert_eq!(take(&table, write(128 * KIB, KIB), 0, None), Ok(()));
        let ticket = take(&table, write(0, 256 * KIB), 0, None).expect_err("taken");
        let _ = table.forget(ticket);
        assert_eq!(take(&table, write(0, 128 * KIB), 0, None), Ok(()));
        assert_eq!(take(&table, write(192 * KIB, 64 * KIB), 0, None), Ok(()));
    }
}

#[test]
fn a_range_longer_than_the_table_is_taken_once() {
    for table in tables() {
        let whole = (WORDS as u64) << STRIPE_SHIFT;
        assert_eq!(take(&table, write(5, 3 * whole), 0, None), Ok(()));
        let ticket = take(&table, read(0, 1), 0, None).expect_err("taken");
        let _ = table.give(write(5, 3 * whole));
        assert_eq!(take(&table, read(0, 1), 0, Some(ticket)), Ok(()));
        assert_eq!(take(&table, read(0, whole), 0, None), Ok(()));
    }
}

#[test]
fn conflicts_are_found_around_the_end_of_the_table() {
    let words = WORDS as u64;
    let stripes = |first: u64, count: u64| write(first << STRIPE_SHIFT, count << STRIPE_SHIFT);
    for (one, other, conflict) in [
        (stripes(words - 1, 2), stripes(0, 1), true),
        (stripes(words - 1, 1), stripes(0, 1), false),
        (stripes(0, 1), stripes(words, 1), true),
        (stripes(3, 1), stripes(4, words - 1), false),
        (stripes(3, 1), stripes(4, words), true),
        (stripes(10, 5), stripes(15, 1), false),
        (stripes(10, 5), stripes(14, 1), true),
    ] {
        assert_eq!(one.conflicts(other, words), conflict, "{one:?} {other:?}");
        assert_eq!(other.conflicts(one, words), conflict, "{other:?} {one:?}");
    }
}

#[test]
fn threads_that_take_by_turns_lose_no_wake_up() {
    use std::sync::{Arc, mpsc};

    const ROUNDS: u32 = 20_000;
    let table = Arc::new(RangeTable::new(2));
    let (to_one, one) = mpsc::channel();
    let (to_two, two) = mpsc::channel();
    let senders = [to_one, to_two];
    let work = |shard: ShardId, woken: mpsc::Receiver<()>| {
        let (table, senders) = (table.clone(), senders.clone());
        std::thread::spawn(move || {
            let tell = |waiters: Waiters| {
                for waiter in waiters.shards() {
                    let _ = senders[usize::from(waiter)].send(());
                }
            };
            for round in 0..ROUNDS {
                let what = write(u64::from(round % 2) * 32 * KIB, 64 * KIB);
                let mut ticket = None;
                loop {
                    let taken = table.take(what, shard, ticket);
                    tell(taken.held_up);
                    let Err(again) = taken.result else { break };
                    ticket = Some(again);
                    // One from before is no harm.
                    let limit = std::time::Duration::from_secs(20);
                    woken.recv_timeout(limit).expect("a wake-up was lost");
                }
                tell(table.give(what));
            }
        })
    };
    let threads = [work(0, one), work(1, two)];
    drop(senders);
    for thread in threads {
        thread.join().expect("no panic");
    }
}
