//! Rules of registers.

use nvme::lint::{About, Rule};
use nvme_host::{Config, Transport};
use nvme_spec::registers::{Cc, Register};

use super::{Case, reported, step};

pub(crate) const CASES: &[Case] = &[
    Case {
        rule: Rule::CcWrittenWhileNotReady,
        breaks: |host| {
            // Completions of before are not to be taken for new ones.
            let acq = host.cq_memory(0).expect("a queue");
            host.fill(acq, &[0; 16]);
            let cc = host.cc();
            host.set_cc(cc.with_en(false));
            host.set_cc(cc);
            step(host);
        },
    },
    Case {
        rule: Rule::CcChangedWhileEnabled,
        breaks: |host| {
            let cc = host.cc();
            host.set_cc(cc.with_mps(1));
        },
    },
    Case {
        rule: Rule::AdminQueueChangedWhileEnabled,
        breaks: |host| host.transport().write64(Register::Asq.offset(), 0x20_0000),
    },
    Case {
        rule: Rule::CannotBeEnabled,
        breaks: |host| {
            host.disable().expect("disabled");
            host.prepare(&Config::default()).expect("prepared");
            host.transport().write32(Register::Aqa.offset(), 0);
            host.start(&Config::default());
            step(host);
        },
    },
    Case {
        rule: Rule::RegisterAccessWidth,
        breaks: |host| host.transport().bar_write(Register::Cc.offset(), &[1]),
    },
    Case {
        rule: Rule::ReadOnlyRegisterWritten,
        breaks: |host| host.transport().write32(Register::Vs.offset(), 0),
    },
    Case {
        rule: Rule::ReservedBitsSet,
        breaks: |host| {
            let cc = u32::from(host.cc());
            host.set_cc(Cc::from(cc | 0b1000));
        },
    },
];

/// The rules that `work` breaks.
fn rules(work: impl FnOnce(&mut super::Host<'_>)) -> Vec<Rule> {
    let reports = reported(work);
    reports.into_iter().map(|report| report.rule).collect()
}

#[test]
fn accesses_that_a_register_allows_are_fine() {
    let found = rules(|host| {
        for register in Register::ALL {
            for offset in (0..register.bytes()).step_by(4) {
                host.transport().read32(register.offset() + offset);
            }
            if register.bytes() == 8 {
                host.transport().read64(register.offset());
            }
        }
        // Beside all registers, nothing is known.
        host.transport().bar_read(0x800, &mut [0; 8]);
        host.transport().bar_write(0x800, &[0xFF; 2]);
        // Clearing NSSRO is what CSTS is written for.
        host.transport().write32(Register::Csts.offset(), 1 << 4);
    });
    assert_eq!(found, []);
}

#[test]
fn odd_accesses_are_named_by_what_they_touch() {
    let reports = reported(|host| {
        host.transport().bar_read(0x1C, &mut [0; 1]);
        host.transport().bar_read(0x08, &mut [0; 8]);
        host.transport().bar_read(0x16, &mut [0; 4]);
        host.transport().bar_write(0x1000, &[0; 8]);
        host.transport().bar_write(0x1002, &[0; 4]);
    });
    let told: Vec<String> = reports.iter().map(|report| report.text.clone()).collect();
    assert_eq!(
        told,
        [
            "a read of width 1 over CSTS, which has 4 bytes",
            "a read of width 8 over VS, which has 4 bytes",
            "a read of width 4 over CC, which has 4 bytes",
            "a write of width 8 over a doorbell, which has 4 bytes",
            "a write of width 4 over a doorbell, which has 4 bytes",
        ]
    );
    for report in reports {
        assert_eq!(report.rule, Rule::RegisterAccessWidth);
        assert!(matches!(report.about, About::Access { .. }));
    }
}

#[test]
fn entry_sizes_are_fixed_once_there_are_queues() {
    let change = |host: &mut super::Host<'_>| {
        let cc = host.cc();
        host.set_cc(cc.with_iosqes(7));
    };
    assert_eq!(rules(change), [Rule::CcChangedWhileEnabled]);
    let without_queues = rules(|host| {
        host.delete_sq(1).expect("deleted");
        host.delete_cq(1).expect("deleted");
        change(host);
    });
    assert_eq!(without_queues, []);
}

#[test]
fn a_host_may_clear_cc_whole_and_may_give_up_a_controller_that_failed() {
    let found = rules(|host| {
        host.set_cc(Cc::new());
        step(host);
    });
    assert_eq!(found, []);
    let found = rules(|host| {
        host.disable().expect("disabled");
        host.transport().write32(Register::Aqa.offset(), 0);
        host.start(&Config::default());
        step(host);
        // CSTS.CFS is 1 and CSTS.RDY 0: a reset is what is left.
        host.set_cc(Cc::new());
        step(host);
    });
    assert_eq!(found, [Rule::CannotBeEnabled]);
}

#[test]
fn reserved_bits_of_every_register_are_named() {
    let reports = reported(|host| {
        host.disable().expect("disabled");
        for (register, value) in [
            (Register::Aqa, 0x0010_8010),
            (Register::Asq, 0x10_0001),
            (Register::Acq, 0x10_0800),
            (Register::Cc, 0x8100_000E),
        ] {
            host.transport().write32(register.offset(), value);
        }
        // The upper half has no reserved bits.
        host.transport().write32(Register::Asq.offset() + 4, 1);
    });
    let found: Vec<_> = reports
        .iter()
        .map(|report| (report.rule, report.about, report.found))
        .collect();
    let of = |register, bits| (Rule::ReservedBitsSet, About::Register(register), Some(bits));
    assert_eq!(
        found,
        [
            of(Register::Aqa, 0x8000),
            of(Register::Asq, 1),
            of(Register::Acq, 0x800),
            of(Register::Cc, 0x8100_000E),
        ]
    );
}
