//! The suite against QEMU's nvme device, driven without a guest through QEMU's qtest socket.
//!
//! This checks the driver, the suite and the wire types against a controller that no one here
//! wrote, in milliseconds and without KVM: what that device fails is listed in docs/peers.md, and
//! anything else it fails is an error of ours until shown otherwise. `FERRITE_QEMU` names another
//! QEMU than `qemu-system-x86_64`, `FERRITE_FILTER` picks tests.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod socket;
#[path = "../support/qemu.rs"]
mod support;
mod transport;

use ferrite::peer::{Qemu, gaps};
use nvme_suite::{Doorbells, Event, Filter, Stop, tap};

use crate::transport::{Options, QemuTransport};

/// Runs the suite: each test that was not skipped, and whether it failed.
fn run(qemu: &Qemu, options: &Options, doorbells: Doorbells) -> Vec<(String, bool)> {
    let mut transport = QemuTransport::start(&qemu.program, options);
    let filter = Filter::new(&std::env::var("FERRITE_FILTER").unwrap_or_default());
    let mut results = Vec::new();
    let summary = nvme_suite::run_with(&mut transport, &filter, doorbells, &mut |event| {
        let mut text = String::new();
        tap::write(&mut text, &event).unwrap();
        print!("{text}");
        if let Event::Finished { test, outcome, .. } = event {
            match outcome {
                Ok(()) => results.push((test.full_name(), false)),
                Err(Stop::Failed(_)) => results.push((test.full_name(), true)),
                Err(Stop::Skipped(_)) => {}
            }
        }
    });
    assert!(!summary.bailed_out);
    results
}

fn check(options: &Options) {
    check_with(options, Doorbells::Registers);
}

fn check_with(options: &Options, doorbells: Doorbells) {
    let Some(qemu) = support::find_qemu() else {
        return;
    };
    let mut wrong = Vec::new();
    for (name, failed) in run(&qemu, options, doorbells) {
        let known = gaps::of_test(&name).filter(|gap| gap.covers(qemu.version));
        match (failed, known) {
            (true, None) => wrong.push(format!("{name} fails, docs/peers.md does not have it")),
            (false, Some(gap)) if !gap.at_times => {
                wrong.push(format!("{name} passes, docs/peers.md has it"));
            }
            _ => {}
        }
    }
    assert!(
        wrong.is_empty(),
        "QEMU {}:\n{}",
        qemu.version,
        wrong.join("\n")
    );
}

#[test]
#[ignore = "needs QEMU"]
fn qemu_512() {
    check(&Options::default());
}

#[test]
#[ignore = "needs QEMU"]
fn qemu_shadow_doorbells() {
    check_with(&Options::default(), Doorbells::Shadow);
}

#[test]
#[ignore = "needs QEMU"]
fn qemu_4k_two_namespaces() {
    check(&Options {
        namespaces: vec![(1, 4096), (3, 512)],
        ..Options::default()
    });
}

#[test]
#[ignore = "needs QEMU"]
fn qemu_one_queue_pair() {
    check(&Options {
        queues: 1,
        ..Options::default()
    });
}

#[test]
#[ignore = "needs QEMU"]
fn qemu_64k_small_transfers() {
    check(&Options {
        namespaces: vec![(1, 65536)],
        more: ",mdts=5",
        ..Options::default()
    });
}
