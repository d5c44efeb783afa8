//! Shadow doorbells on KVM: what the guest rings wakes the worker, and takes no exit.

#![allow(clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::time::Duration;

use ferrite::{
    options::NvmeOptions,
    selftest::{self, Results, Selftest},
};
use nvme_suite::Doorbells;
use support::have_kvm;

/// Tests that ring often, none of which writes registers for its own sake.
const FILTER: &str = "io,queues,shadow,doorbells,prp";

fn run(doorbells: &str, told: Doorbells) -> Results {
    let mut nvme = NvmeOptions::default();
    // Workers that sleep at once are rung for most.
    let list = format!("namespaces=2,size=64M,mdts=4M,workers=2,poll=0,doorbells={doorbells}");
    nvme.apply(&list).expect("valid");
    let selftest = Selftest {
        nvme,
        filter: FILTER.to_string(),
        doorbells: told,
        memory: 256 << 20,
        timeout: Duration::from_secs(120),
        observe: Default::default(),
    };
    let results = selftest::run(&selftest, |_, _| ()).expect("a run");
    let failed = results
        .report
        .tests
        .iter()
        .filter(|test| matches!(test.outcome, Err(nvme_suite::Stop::Failed(_))))
        .collect::<Vec<_>>();
    assert!(
        results.good(),
        "doorbells={doorbells}: {:?} {failed:?}",
        results.trouble()
    );
    results
}

#[test]
fn events_take_the_place_of_exits() {
    if !have_kvm() {
        return;
    }
    for told in [Doorbells::Shadow, Doorbells::ShadowAfterQueues] {
        let trapped = run("shadow", told).exits.mmio_write;
        let events = run("ioeventfd", told).exits.mmio_write;
        println!("{told:?}: {trapped} MMIO writes trapped, {events} with ioeventfds");
        assert!(
            events * 6 < trapped * 5,
            "{told:?}: {events} with ioeventfds, {trapped} without"
        );
    }
}
