//! Rules of commands and the memory they name.

use std::sync::{Arc, Mutex, OnceLock};

use ferrite::nvme::inprocess::InProcess;
use nvme::{
    ControllerConfig, Lint,
    lint::{About, Report, Rule},
};
use nvme_host::{Config, Driver, Transport, command};
use nvme_spec::{Cns, Cqe, NvmOpcode, SQE_BYTES, Sqe, registers::Shn};
use storage::GuestRamHandle;
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};
use zerocopy::IntoBytes;

use super::{Case, Host, Reports, config, reported, step};

const PAGE: u64 = 4096;

fn flush(cid: u16) -> Sqe {
    Sqe {
        cid,
        ..command::flush(1)
    }
}

/// Submits an entry to queue 1 and lets it be done.
fn done(host: &mut Host<'_>, sqe: &Sqe) {
    host.push(1, sqe).expect("room");
    host.ring(1).expect("a queue");
    host.wait_any(1).expect("a completion");
    host.ack(1).expect("a queue");
}

/// A Read of `pages` pages, PRP1 at a page of its own and PRP2 as given.
fn read(host: &mut Host<'_>, pages: u16, prp2: u64) -> Sqe {
    let data = host.alloc(PAGE).expect("memory");
    Sqe {
        cid: 5,
        prp1: data.address,
        prp2,
        ..command::read(1, 8, pages * 8 - 1)
    }
}

/// A page with a list of `entries`; its address.
fn list(host: &mut Host<'_>, entries: &[u64]) -> u64 {
    let page = host.alloc(PAGE).expect("memory");
    host.copy_to(page, entries.as_bytes());
    page.address
}

pub(crate) const CASES: &[Case] = &[
    Case {
        rule: Rule::CidReused,
        breaks: |host| {
            host.push(1, &flush(7)).expect("room");
            host.push(1, &flush(7)).expect("room");
            host.ring(1).expect("a queue");
            step(host);
        },
    },
    Case {
        rule: Rule::CidFfff,
        breaks: |host| done(host, &flush(0xFFFF)),
    },
    Case {
        rule: Rule::SqeChanged,
        breaks: |host| {
            let memory = host.sq_memory(1).expect("a queue");
            host.push(1, &flush(1)).expect("room");
            host.ring(1).expect("a queue");
            host.copy_to(memory.slice(0, SQE_BYTES as u64), flush(2).as_bytes());
            step(host);
        },
    },
    Case {
        rule: Rule::NsidNotUsed,
        breaks: |host| {
            let data = host.alloc(PAGE).expect("memory");
            host.exec_data(0, command::identify(Cns::CONTROLLER, 1), data)
                .expect("an answer");
        },
    },
    Case {
        rule: Rule::PrpNowhere,
        breaks: |host| {
            let end = host.transport().memory_end();
            let good = host.alloc(PAGE).expect("memory").address;
            let at = list(host, &[good, end]);
            let sqe = read(host, 3, at);
            done(host, &sqe);
        },
    },
    Case {
        rule: Rule::PrpMisaligned,
        breaks: |host| {
            let good = host.alloc(PAGE).expect("memory").address;
            let sqe = read(host, 2, good + 8);
            done(host, &sqe);
        },
    },
    Case {
        rule: Rule::PrpListChanged,
        breaks: |host| {
            let data = host.alloc(3 * PAGE).expect("memory").address;
            let at = list(host, &[data, data + PAGE]);
            let sqe = read(host, 3, at);
            host.push(1, &sqe).expect("room");
            host.ring(1).expect("a queue");
            let later = (data + 2 * PAGE).to_le_bytes();
            host.transport().mem_write(at + 8, &later);
            host.wait_any(1).expect("a completion");
        },
    },
    Case {
        rule: Rule::DataOverPrpList,
        breaks: |host| {
            let data = host.alloc(PAGE).expect("memory").address;
            let at = list(host, &[data, data]);
            host.transport().mem_write(at + 8, &at.to_le_bytes());
            let sqe = read(host, 3, at);
            done(host, &sqe);
        },
    },
    Case {
        rule: Rule::DataOverQueue,
        breaks: |host| {
            host.create_pair(2, 16).expect("queues");
            let queue = host.cq_memory(2).expect("a queue").address;
            let sqe = read(host, 2, queue);
            done(host, &sqe);
        },
    },
    Case {
        rule: Rule::ShutdownWithCommands,
        breaks: |host| {
            // A request for events may stay.
            host.submit(0, command::async_event_request())
                .expect("submitted");
            host.submit(1, command::flush(1)).expect("submitted");
            let cc = host.cc();
            host.set_cc(cc.with_shn(Shn::Normal));
            step(host);
        },
    },
];

fn rules(work: impl FnOnce(&mut Host<'_>)) -> Vec<Rule> {
    let reports = reported(work);
    reports.into_iter().map(|report| report.rule).collect()
}

#[test]
fn an_identifier_is_free_when_its_completion_is_there() {
    let found = rules(|host| {
        for _ in 0..40 {
            done(host, &flush(7));
        }
        // The same on another queue at the same time.
        host.create_pair(2, 16).expect("queues");
        for qid in [1, 2] {
            host.push(qid, &flush(7)).expect("room");
            host.ring(qid).expect("a queue");
        }
        step(host);
    });
    assert_eq!(found, []);
}

#[test]
fn the_identifier_of_an_event_request_is_in_use() {
    let found = rules(|host| {
        let request = Sqe {
            cid: 0x300,
            ..command::async_event_request()
        };
        host.push(0, &request).expect("room");
        host.ring(0).expect("a queue");
        step(host);
        let sqe = Sqe {
            cid: 0x300,
            ..command::abort(1, 1)
        };
        host.push(0, &sqe).expect("room");
        host.ring(0).expect("a queue");
        step(host);
    });
    assert_eq!(found, [Rule::CidReused]);
}

#[test]
fn a_slot_may_be_filled_anew_once_it_was_fetched() {
    let found = rules(|host| {
        let memory = host.sq_memory(1).expect("a queue");
        host.push(1, &flush(1)).expect("room");
        host.ring(1).expect("a queue");
        step(host);
        host.copy_to(memory.slice(0, SQE_BYTES as u64), &[0xFF; SQE_BYTES]);
        done(host, &flush(2));
    });
    assert_eq!(found, []);
}

#[test]
fn a_change_of_any_dword_of_an_entry_is_found() {
    for dword in 0..SQE_BYTES / 4 {
        let found = rules(|host| {
            let memory = host.sq_memory(1).expect("a queue");
            let mut sqe = flush(1);
            host.push(1, &sqe).expect("room");
            host.ring(1).expect("a queue");
            sqe.as_mut_bytes()[dword * 4 + 3] ^= 1;
            host.copy_to(memory.slice(0, SQE_BYTES as u64), sqe.as_bytes());
            step(host);
        });
        assert!(found.contains(&Rule::SqeChanged), "DW{dword}: {found:?}");
    }
}

#[test]
fn a_list_may_change_once_its_command_is_completed() {
    let found = rules(|host| {
        let data = host.alloc(2 * PAGE).expect("memory").address;
        let at = list(host, &[data, data + PAGE]);
        for _ in 0..3 {
            let sqe = read(host, 3, at);
            done(host, &sqe);
            host.transport().mem_write(at, &[0xFF; 16]);
            host.transport()
                .mem_write(at, [data, data + PAGE].as_bytes());
        }
    });
    assert_eq!(found, []);
}

/// Looks into a completion queue when something is reported.
#[derive(Default)]
struct Witness {
    /// The guest's memory, and the first slot of the queue.
    queue: OnceLock<(GuestRamHandle, u64)>,
    /// The phase tag of the slot at each report.
    phases: Mutex<Vec<(Rule, bool)>>,
}

impl Lint for Witness {
    fn report(&self, report: &Report) {
        let (memory, slot) = self.queue.get().expect("no report before");
        let mut cqe = Cqe::default();
        memory
            .memory()
            .read_slice(cqe.as_mut_bytes(), GuestAddress(*slot))
            .expect("memory");
        let phase = (report.rule, cqe.phase());
        self.phases.lock().expect("no panic").push(phase);
    }
}

/// A host that sees a completion may change lists and use identifiers again at once: all that is
/// judged by the completion is judged before it can be seen.
#[test]
fn a_command_is_judged_before_its_completion_is_there() {
    let witness = Arc::new(Witness::default());
    let config = ControllerConfig {
        lint: Some(witness.clone()),
        ..config(&Reports::default())
    };
    let mut machine = InProcess::new(config, 1).expect("valid");
    let memory = machine.memory().clone();
    let mut host = Driver::new(&mut machine).expect("a controller");
    host.enable(&Config::default()).expect("enabled");
    host.create_pair(1, 16).expect("queues");
    let slot = host.cq_memory(1).expect("a queue").address;
    assert!(witness.queue.set((memory, slot)).is_ok());
    let changes = CASES.iter().find(|case| case.rule == Rule::PrpListChanged);
    (changes.expect("a case").breaks)(&mut host);
    assert_eq!(
        *witness.phases.lock().expect("no panic"),
        [(Rule::PrpListChanged, false)]
    );
}

#[test]
fn the_report_says_command_entry_and_values() {
    let reports = reported(|host| {
        let data = host.alloc(3 * PAGE).expect("memory").address;
        let at = list(host, &[data, data + PAGE]);
        let sqe = read(host, 3, at);
        host.push(1, &sqe).expect("room");
        host.ring(1).expect("a queue");
        host.transport().mem_write(at, &(data + PAGE).to_le_bytes());
        host.wait_any(1).expect("a completion");
        assert_eq!((data, at), (0x10_4000, 0x10_7000));
    });
    let report = reports.first().expect("one");
    assert_eq!(report.expected, Some(0x10_4000));
    assert_eq!(report.found, Some(0x10_5000));
    let About::Command(id) = report.about else {
        panic!("about a command: {report}");
    };
    assert_eq!((id.sqid, id.cid, id.nsid, id.slba), (1, 5, 1, Some(8)));
    assert_eq!(id.opcode_name().as_deref(), Some("read"));
    assert_eq!(
        report.to_string(),
        "error prp-list-changed: SQ 1 CID 0x0005 read NSID 0x1 LBA 0x8: entry 0 of the list at \
         0x107000 was 0x104000 when the doorbell was rung and is 0x105000 when the command \
         completes (Base 4.3.1)"
    );
}

#[test]
fn a_command_that_is_refused_before_its_data_is_looked_at_says_nothing_of_it() {
    let nowhere = |sqe: Sqe| Sqe {
        prp1: 1 << 50,
        ..sqe
    };
    let found = rules(|host| {
        // Beyond the namespace, of no namespace, and of an opcode that is not there.
        done(host, &nowhere(command::read(1, u64::MAX, 0)));
        done(host, &nowhere(command::read(99, 0, 0)));
        done(host, &nowhere(command::nvm(NvmOpcode(0x7F), 1)));
        // Data to the device may come from anywhere, a queue too.
        let queue = host.cq_memory(1).expect("a queue").address;
        let sqe = Sqe {
            prp1: queue,
            ..command::write(1, 0, 0)
        };
        done(host, &sqe);
    });
    assert_eq!(found, []);
}

#[test]
fn what_is_watched_is_bounded_and_the_rest_is_counted() {
    const ENTRIES: u32 = 65_536;
    let reports = Reports::default();
    let mut machine = InProcess::new(config(&reports), 1).expect("valid");
    let mut host = Driver::new(&mut machine).expect("a controller");
    host.enable(&Config::default()).expect("enabled");
    for qid in 1..=2 {
        host.create_pair(qid, ENTRIES).expect("queues");
        // Entries that were never written: more than are watched, in two rings.
        host.write_sq_doorbell(qid, ENTRIES - 1);
    }
    let counts = machine.controller().lint_counts().expect("on");
    assert!(counts.unwatched > 0);
    assert!(counts.of(Rule::CidReused) >= u64::from(ENTRIES - 2));
}
