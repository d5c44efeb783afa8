//! The suite against QEMU's nvme device, driven without a guest through QEMU's qtest socket.
//!
//! This checks the driver, the suite and the wire types against a controller that no one here
//! wrote: what that device fails is listed with the reason, and anything else it fails is an error
//! of ours until shown otherwise. `FERRITE_QEMU` names another QEMU than `qemu-system-x86_64`,
//! `FERRITE_FILTER` picks tests.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod qtest;
mod transport;

use std::collections::BTreeSet;

use nvme_suite::{Event, Filter, Stop, tap};

use crate::transport::{Options, QemuTransport};

fn run(options: &Options) -> Option<Vec<String>> {
    let Some(mut transport) = QemuTransport::start(options) else {
        let forbidden = std::env::var_os("FERRITE_FORBID_SKIPS").is_some_and(|v| v == "1");
        assert!(!forbidden, "skips are forbidden: QEMU cannot be run");
        println!("skipped: QEMU cannot be run");
        return None;
    };
    let filter = Filter::new(&std::env::var("FERRITE_FILTER").unwrap_or_default());
    let mut failed = Vec::new();
    let summary = nvme_suite::run(&mut transport, &filter, &mut |event| {
        let mut text = String::new();
        tap::write(&mut text, &event).unwrap();
        print!("{text}");
        if let Event::Finished { test, outcome, .. } = event
            && matches!(outcome, Err(Stop::Failed(_)))
        {
            failed.push(test.full_name());
        }
    });
    assert!(!summary.bailed_out);
    Some(failed)
}

/// Tests that QEMU's device fails (7.2), each with the reason.
const GAPS: &[(&str, &str)] = &[
    (
        "registers.writable_registers_keep_reserved_bits_zero",
        "it stores CC, AQA, ASQ and ACQ as written",
    ),
    (
        "lifecycle.reset_restores_features",
        "a reset leaves features as they are",
    ),
    (
        "queues.delete_cq_refuses_unknown",
        "it answers Completion Queue Invalid, which Delete I/O Completion Queue does not have",
    ),
    (
        "identify.descriptors_are_well_formed",
        "a namespace without a uuid property has no identifier",
    ),
    (
        "features.unknown_select_is_refused",
        "it takes a reserved Select for the current value",
    ),
    (
        "logs.smart_takes_nsid_0_and_broadcast",
        "it takes NSID FFFFFFFFh alone for the controller's log",
    ),
    (
        "logs.firmware_slot_holds_the_active_revision",
        "slot 1 says 1.0, Identify Controller its own version",
    ),
    (
        "prp.prp1_below_dword_is_checked_or_ignored",
        "it transfers from the odd address",
    ),
    (
        "prp.list_pointer_below_qword_is_checked_or_ignored",
        "it reads the list from the odd address",
    ),
    (
        "prp.data_nowhere_is_an_error",
        "block transfers ignore what becomes of accesses to no memory",
    ),
    (
        "prp.entry_nowhere_is_an_error",
        "block transfers ignore what becomes of accesses to no memory",
    ),
    (
        "dsm.range_beyond_the_end_is_refused",
        "it leaves such a range out and succeeds",
    ),
    (
        "dsm.list_nowhere_is_an_error",
        "block transfers ignore what becomes of accesses to no memory",
    ),
];

fn check(options: &Options) {
    let Some(failed) = run(options) else {
        return;
    };
    let known: BTreeSet<&str> = GAPS.iter().map(|(name, _)| *name).collect();
    let unknown: Vec<_> = failed
        .iter()
        .filter(|name| !known.contains(name.as_str()))
        .collect();
    assert!(unknown.is_empty(), "failed on QEMU: {unknown:?}");
}

#[test]
#[ignore = "needs QEMU"]
fn qemu_512() {
    check(&Options::default());
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
