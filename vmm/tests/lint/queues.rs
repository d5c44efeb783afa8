//! Rules of queues' memory.

use nvme::lint::Rule;
use nvme_host::{Config, CqConfig, SqConfig, Transport, command};
use nvme_spec::registers::Register;

use super::{Case, reported, step};

pub(crate) const CASES: &[Case] = &[
    Case {
        rule: Rule::QueuesOverlap,
        breaks: |host| {
            let memory = host.sq_memory(1).expect("a queue").address;
            let cq = CqConfig {
                memory: Some(memory),
                ..CqConfig::new(2, 16)
            };
            host.create_cq(&cq).expect("created");
        },
    },
    Case {
        rule: Rule::QueueNowhere,
        breaks: |host| {
            let address = host.transport().memory_end();
            host.admin(command::create_cq(2, 15, address, None))
                .expect("an answer");
        },
    },
    Case {
        rule: Rule::CqPhaseNotClear,
        breaks: |host| {
            let memory = host.alloc(0x1000).expect("memory");
            host.fill(memory, &[0xFF; 16]);
            // By hand: the driver would clear it.
            host.admin(command::create_cq(2, 255, memory.address, None))
                .expect("created");
        },
    },
];

#[test]
fn admin_queues_over_each_other_are_reported() {
    let reports = reported(|host| {
        host.disable().expect("disabled");
        host.prepare(&Config::default()).expect("prepared");
        let asq = host.transport().read64(Register::Asq.offset());
        host.transport().write64(Register::Acq.offset(), asq);
        host.start(&Config::default());
        step(host);
    });
    let rules: Vec<Rule> = reports.iter().map(|report| report.rule).collect();
    assert_eq!(rules, [Rule::QueuesOverlap]);
}

#[test]
fn a_queue_may_lie_where_one_was_that_is_gone() {
    let reports = reported(|host| {
        let memory = host.alloc(0x2000).expect("memory");
        for _ in 0..3 {
            let cq = CqConfig {
                memory: Some(memory.address),
                ..CqConfig::new(2, 256)
            };
            host.create_cq(&cq).expect("created");
            let sq = SqConfig {
                memory: Some(memory.address + 0x1000),
                ..SqConfig::new(2, 2, 64)
            };
            host.create_sq(&sq).expect("created");
            host.io_ok(2, command::flush(1)).expect("flushed");
            host.delete_sq(2).expect("deleted");
            host.delete_cq(2).expect("deleted");
        }
    });
    assert_eq!(reports, []);
}

#[test]
fn the_last_slot_of_a_completion_queue_is_looked_at() {
    let reports = reported(|host| {
        let memory = host.alloc(16 * 1000).expect("memory");
        host.copy_to(memory.slice(999 * 16 + 14, 2), &[1, 0]);
        host.admin(command::create_cq(2, 999, memory.address, None))
            .expect("created");
    });
    let told: Vec<&str> = reports.iter().map(|report| report.text.as_str()).collect();
    assert_eq!(told, ["the phase tag of slot 0x3e7 is 1"]);
}
