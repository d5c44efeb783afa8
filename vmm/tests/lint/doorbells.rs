//! Rules of doorbells.

use nvme::lint::Rule;
use nvme_host::{ShadowDoorbells, Transport, command};
use nvme_spec::{
    Sqe,
    registers::{Shn, cq_head_doorbell, sq_tail_doorbell},
};

use super::{Case, ENTRIES, Host, reported, step};

/// Where a function's Command register is, and its Bus Master Enable.
const COMMAND: u16 = 4;
const BUS_MASTER: u32 = 1 << 2;

/// Stores `count` Flushes in queue 1.
fn store(host: &mut Host<'_>, count: u16) {
    for cid in 0..count {
        let sqe = Sqe {
            cid,
            ..command::flush(1)
        };
        host.push(1, &sqe).expect("room");
    }
}

/// Turns shadow doorbells on and makes queue pair 2.
fn with_shadow_doorbells(host: &mut Host<'_>) -> ShadowDoorbells {
    host.enable_shadow_doorbells().expect("offered");
    host.create_pair(2, ENTRIES).expect("queues");
    host.shadow_doorbells().expect("on")
}

pub(crate) const CASES: &[Case] = &[
    Case {
        rule: Rule::SqTailBeyondRing,
        breaks: |host| host.write_sq_doorbell(1, ENTRIES),
    },
    Case {
        rule: Rule::SqOverrun,
        breaks: |host| {
            store(host, 3);
            host.ring(1).expect("a queue");
            // One back: taken as a way around the ring, which has not been fetched.
            host.write_sq_doorbell(1, 2);
        },
    },
    Case {
        rule: Rule::CqHeadBeyondRing,
        breaks: |host| host.write_cq_doorbell(1, ENTRIES),
    },
    Case {
        rule: Rule::CqHeadBeyondPosted,
        breaks: |host| host.write_cq_doorbell(1, 5),
    },
    Case {
        rule: Rule::DoorbellOfNoQueue,
        breaks: |host| host.write_sq_doorbell(9, 1),
    },
    Case {
        rule: Rule::DoorbellWhileNotReady,
        breaks: |host| {
            let cc = host.cc();
            host.set_cc(cc.with_en(false));
            host.write_sq_doorbell(1, 1);
            // What drivers do that take the last completions when the controller is down.
            host.write_cq_doorbell(1, 1);
            step(host);
        },
    },
    Case {
        rule: Rule::DoorbellUnchanged,
        breaks: |host| host.write_sq_doorbell(1, 0),
    },
    Case {
        rule: Rule::DoorbellRead,
        breaks: |host| {
            host.transport().read32(sq_tail_doorbell(1, 0));
        },
    },
    Case {
        rule: Rule::ShadowNotWritten,
        breaks: |host| {
            with_shadow_doorbells(host);
            // A driver that forgot about them when it made a queue.
            host.transport().write32(sq_tail_doorbell(2, 0), 1);
            step(host);
        },
    },
    Case {
        rule: Rule::EventIndexWritten,
        breaks: |host| {
            let buffers = with_shadow_doorbells(host);
            let (_, event) = buffers.entry(sq_tail_doorbell(2, 0));
            step(host);
            host.transport().mem_store32(event, 9);
            // The shard looks when it has been awake.
            host.io_ok(1, command::flush(1)).expect("flushed");
            step(host);
        },
    },
    Case {
        rule: Rule::BusMasterOff,
        breaks: |host| {
            let command = host.transport().config_read32(COMMAND);
            host.transport()
                .config_write32(COMMAND, command & !BUS_MASTER);
            store(host, 1);
            host.ring(1).expect("a queue");
        },
    },
];

fn rules(work: impl FnOnce(&mut Host<'_>)) -> Vec<Rule> {
    let reports = reported(work);
    reports.into_iter().map(|report| report.rule).collect()
}

#[test]
fn values_in_memory_are_judged_as_those_in_registers() {
    let found = rules(|host| {
        let buffers = with_shadow_doorbells(host);
        let (tail, _) = buffers.entry(sq_tail_doorbell(2, 0));
        let (head, _) = buffers.entry(cq_head_doorbell(2, 0));
        for (entry, value) in [(tail, ENTRIES), (head, ENTRIES + 1), (head, 3)] {
            host.transport().mem_store32(entry, value);
            // The ring wakes the shard.
            host.transport().write32(sq_tail_doorbell(2, 0), ENTRIES);
            step(host);
        }
    });
    let expected = [
        Rule::SqTailBeyondRing,
        Rule::CqHeadBeyondRing,
        Rule::CqHeadBeyondPosted,
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_queue_that_was_there_before_may_ring_until_its_host_knows() {
    let found = rules(|host| {
        host.enable_shadow_doorbells().expect("offered");
        // As a thread of the host would that has not heard of them.
        store(host, 1);
        host.transport().write32(sq_tail_doorbell(1, 0), 1);
        step(host);
    });
    assert_eq!(found, []);
    let found = rules(|host| {
        host.enable_shadow_doorbells().expect("offered");
        for _ in 0..3 {
            host.io_ok(1, command::flush(1)).expect("flushed");
        }
        host.transport().write32(sq_tail_doorbell(1, 0), 9);
    });
    assert_eq!(found, [Rule::ShadowNotWritten]);
}

#[test]
fn buffers_may_be_moved() {
    let found = rules(|host| {
        with_shadow_doorbells(host);
        for _ in 0..3 {
            for qid in [1, 2] {
                for _ in 0..20 {
                    host.io_ok(qid, command::flush(1)).expect("flushed");
                }
            }
            host.enable_shadow_doorbells().expect("offered");
        }
    });
    assert_eq!(found, []);
}

#[test]
fn shadow_doorbells_over_a_queue_are_reported() {
    let found = rules(|host| {
        let queue = host.sq_memory(1).expect("a queue").address;
        let other = host.alloc(4096).expect("memory").address;
        let sqe = command::doorbell_buffer_config(other, queue);
        host.admin(sqe).expect("an answer");
    });
    assert_eq!(found, [Rule::DataOverQueue]);
}

#[test]
fn a_queue_may_be_filled_to_its_last_slot_again_and_again() {
    let found = rules(|host| {
        for _ in 0..5 {
            for cid in 0..15 {
                let sqe = Sqe {
                    cid,
                    ..command::flush(1)
                };
                host.push(1, &sqe).expect("room");
            }
            host.ring(1).expect("a queue");
            for _ in 0..15 {
                host.wait_any(1).expect("a completion");
            }
            host.ack(1).expect("a queue");
        }
    });
    assert_eq!(found, []);
}

#[test]
fn one_entry_more_than_there_is_room_is_an_overrun() {
    let reports = reported(|host| {
        store(host, 15);
        host.ring(1).expect("a queue");
        // Slot 15 is the one that stays empty; the next tail is the head itself.
        host.write_sq_doorbell(1, 0);
    });
    let report = reports.first().expect("one");
    assert_eq!(report.rule, Rule::SqOverrun);
    assert_eq!((report.expected, report.found), (Some(0), Some(1)));
}

#[test]
fn heads_are_held_against_what_was_posted() {
    let found = rules(|host| {
        store(host, 6);
        host.ring(1).expect("a queue");
        step(host);
        host.write_cq_doorbell(1, 4);
        // Two more are posted, not three; and back is not forward.
        host.write_cq_doorbell(1, 7);
        host.write_cq_doorbell(1, 3);
        host.write_cq_doorbell(1, 6);
    });
    assert_eq!(found, [Rule::CqHeadBeyondPosted; 2]);
}

#[test]
fn commands_after_a_shutdown_are_reported() {
    let found = rules(|host| {
        host.shutdown(Shn::Normal).expect("shut down");
        store(host, 1);
        host.ring(1).expect("a queue");
    });
    assert_eq!(found, [Rule::DoorbellWhileNotReady]);
}

#[test]
fn doorbells_of_a_deleted_queue_are_of_no_queue() {
    let found = rules(|host| {
        host.delete_sq(1).expect("deleted");
        host.write_sq_doorbell(1, 1);
        host.delete_cq(1).expect("deleted");
        host.write_cq_doorbell(1, 1);
    });
    assert_eq!(found, [Rule::DoorbellOfNoQueue; 2]);
}
