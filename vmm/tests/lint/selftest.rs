//! `ferrite selftest --nvme lint=on`: reports by test, in a guest.

use std::time::Duration;

use ferrite::{
    options::NvmeOptions,
    selftest::{self, Selftest, Style},
};
use nvme::lint::Rule;

#[path = "../support/mod.rs"]
mod support;

#[test]
fn reports_belong_to_the_tests_that_provoke_them() {
    if !support::have_kvm() {
        return;
    }
    let mut nvme = NvmeOptions::default();
    nvme.apply("size=64M,lint=on,workers=2").expect("valid");
    let selftest = Selftest {
        doorbells: nvme_suite::Doorbells::Registers,
        nvme,
        filter: "io.many_in_flight,hostile.same_cid_twice_completes_both,\
                 doorbells.tail_beyond_the_ring_is_harmless,queues.phase_inverts_each_pass"
            .to_string(),
        memory: 256 << 20,
        timeout: Duration::from_secs(60),
        observe: Default::default(),
    };
    let results = selftest::run(&selftest, |_, _| ()).expect("ran");
    assert!(results.good(), "{:?}", results.trouble());
    let findings = results.lint.as_ref().expect("on");
    let found: Vec<(Option<&str>, Rule)> = findings
        .kept
        .iter()
        .map(|finding| (finding.test.as_deref(), finding.report.rule))
        .collect();
    let tail = "doorbells.tail_beyond_the_ring_is_harmless";
    let cid = "hostile.same_cid_twice_completes_both";
    assert_eq!(
        found,
        [
            (Some(tail), Rule::SqTailBeyondRing),
            (Some(tail), Rule::SqTailBeyondRing),
            (Some(tail), Rule::SqTailBeyondRing),
            (Some(cid), Rule::CidReused),
        ]
    );
    let mut table = String::new();
    results
        .write_table(&mut table, Style::Plain, true)
        .expect("a String takes all");
    for part in [
        "4 reports of 2 rules".to_string(),
        "       3  error sq-tail-beyond-ring ".to_string(),
        format!(" first in {tail}\n"),
        "  error cid-reused: SQ 1 CID 0x0077 flush NSID 0x1: ".to_string(),
    ] {
        assert!(table.contains(&part), "{part}\n{table}");
    }
    let json = results.to_json();
    let count = json.pointer("/lint/rules/0/count");
    assert_eq!(count, Some(&3.into()), "{json:#}");
    let test = json.pointer("/lint/reports/3/test");
    assert_eq!(test, Some(&cid.into()), "{json:#}");
    assert!(results.tap_end().contains("# lint: 1 x error cid-reused\n"));
}
