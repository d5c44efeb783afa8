//! When a self-test passes and when it does not, by what the guest printed and how it ended.

#![allow(clippy::expect_used, reason = "tests")]

use std::time::Duration;

use ferrite::{
    machine::{ExitCounts, GuestExit},
    selftest::{End, Results, Style},
};
use nvme_suite::tap::Report;

/// Exit codes of the kernel: 10h and 11h at the debug exit.
const PASSED: End = End::Exit(GuestExit::Code(33));
const FAILED: End = End::Exit(GuestExit::Code(35));

const TWO: &str = "TAP version 13\n1..2\nok 1 - a.b (5 us)\nok 2 - a.c (5 us)\n";

fn results(output: &str, end: End) -> Results {
    Results {
        report: Report::parse(output),
        end,
        stopped_at: None,
        exits: ExitCounts::default(),
        unclaimed: (0, 0),
        stats: nvme::Stats::default(),
        tear: nvme::Tear::Legal,
        lint: None,
        guest_time: Duration::ZERO,
        total_time: Duration::ZERO,
    }
}

#[test]
fn all_tests_passed_and_the_guest_agrees() {
    let results = results(TWO, PASSED);
    assert!(results.good());
    assert_eq!(results.trouble(), None);
    assert_eq!(results.tap_end(), "");
}

#[test]
fn a_failed_test_fails_without_further_trouble() {
    let output = "TAP version 13\n1..2\nok 1 - a.b (5 us)\nnot ok 2 - a.c (5 us)\n";
    let results = results(output, FAILED);
    assert!(!results.good());
    assert_eq!(results.trouble(), None);
}

#[test]
fn everything_else_fails_and_says_why() {
    let ok = "ok 1 - a.b (5 us)\n";
    for (output, end, why) in [
        (
            TWO.to_string(),
            FAILED,
            "exit code 35 does not agree with 0 failed",
        ),
        (
            format!("1..2\n{ok}not ok 2 - a.c (5 us)\n"),
            PASSED,
            "exit code 33 does not agree",
        ),
        (format!("1..2\n{ok}{ok}"), PASSED, "result 1 where 2 is due"),
        (
            format!("1..5\n{ok}1..1\n"),
            PASSED,
            "a plan of 1 tests after one of 5",
        ),
        (format!("1..2\n{ok}"), PASSED, "1 results for a plan of 2"),
        (
            format!("1..1\n{ok}ok 2 - a.c (5 us)\n"),
            PASSED,
            "2 results for a plan of 1",
        ),
        (ok.to_string(), PASSED, "planned no tests"),
        ("1..0\n".to_string(), PASSED, "the filter leaves no test"),
        (
            "1..1\nok 1 - a.b (5 us) # SKIP none\n".to_string(),
            PASSED,
            "every test was skipped",
        ),
        (
            format!("1..2\n{ok}Bail out! no controller\n"),
            FAILED,
            "gave up: no controller",
        ),
        (
            TWO.to_string(),
            End::Exit(GuestExit::TimedOut),
            "longer than allowed",
        ),
        (TWO.to_string(), End::Exit(GuestExit::Stopped), "stopped"),
        (
            format!("1..2\n{ok}oops\n"),
            End::Died("triple fault".into()),
            "triple fault",
        ),
        (
            TWO.to_string(),
            End::Controller("a thread panicked".into()),
            "a thread panicked",
        ),
    ] {
        let results = results(&output, end);
        assert!(!results.good(), "{output}");
        let trouble = results.trouble().expect("a reason");
        assert!(trouble.contains(why), "{trouble}");
        let json = results.to_json();
        assert_eq!(json.get("passed"), Some(&false.into()), "{output}");
        assert_eq!(
            json.get("trouble"),
            Some(&trouble.clone().into()),
            "{output}"
        );
        let mut table = String::new();
        results
            .write_table(&mut table, Style::Plain, false)
            .expect("a String takes all");
        assert!(table.contains(why), "{table}");
        let tap = results.tap_end();
        let bailed = output.contains("Bail out!");
        assert_eq!(tap.starts_with("Bail out! "), !bailed, "{tap}");
        assert!(
            tap.lines().skip(1).all(|line| line.starts_with("# ")),
            "{tap}"
        );
    }
}

#[test]
fn a_guest_cannot_reach_the_terminal() {
    let report = Report::parse("1..1\nok 1 - a.\x1b[2Jb (5 us)\nsaid \x1b[31mred\n");
    let text = format!("{report:?}");
    assert!(
        !text.contains('\x1b') && !text.contains("\\u{1b}"),
        "{text}"
    );
    assert_eq!(report.tests.len(), 1);
}

#[test]
fn a_namespace_is_described_with_its_units_and_boundaries() {
    let facts = "# ferrite: namespace=1 blocks:1000 lba:512 metadata:0 npwg:32 awun:32 awupf:1 \
                 nabsn:64 nabspf:0 nabo:3 mam:1\n\
                 # ferrite: namespace=2 blocks:1000 lba:4096 metadata:0 npwg:0 awun:65536 \
                 awupf:8 nabsn:0 nabspf:0 nabo:0 mam:0\n";
    let results = results(&format!("{facts}{TWO}"), PASSED);
    let mut text = String::new();
    results
        .write_table(&mut text, Style::Plain, false)
        .expect("a String takes it");
    for words in [
        "indirection unit 16K (32 blocks); atomic 16K (32 blocks), when the power fails 512 (1 block)",
        "boundaries 32K, when the power fails none from LBA 3: a write over one is atomic in parts (MAM 1)",
        "no indirection unit told; atomic every write, when the power fails 32K (8 blocks)\n",
        "torn writes   legal",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let json = results.to_json();
    let at = |path: &str| json.pointer(path).cloned().expect("there");
    assert_eq!(at("/controller/namespaces/0/indirection_unit/bytes"), 16384);
    assert_eq!(at("/controller/namespaces/0/boundary/blocks"), 64);
    assert_eq!(at("/controller/namespaces/0/boundary_offset/blocks"), 3);
    assert_eq!(
        at("/controller/namespaces/1/boundary"),
        serde_json::Value::Null
    );
    assert_eq!(
        at("/controller/namespaces/1/atomic_unit_power_fail/bytes"),
        32768
    );
    assert_eq!(at("/tear"), "legal");
}
