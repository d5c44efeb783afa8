//! Rules of doorbells.

use nvme::lint::Rule;
use nvme_host::{Transport, command};
use nvme_spec::{
    Sqe,
    registers::{Shn, sq_tail_doorbell},
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
