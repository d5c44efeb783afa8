//! Two runs beside each other: what is explained and what is not, and that docs/peers.md is a
//! list that can be trusted.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::collections::BTreeSet;

use ferrite::{
    peer::{
        QemuVersion,
        gaps::{self, Gap},
    },
    selftest::{Row, Verdict, compare},
};
use nvme_suite::tap::Report;
use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

const VERSION: QemuVersion = QemuVersion {
    major: 7,
    minor: 2,
    micro: 22,
};

/// A report of one test, `a.b`, that ended so.
fn report(end: &str) -> Report {
    let text = match end {
        "ok" => "ok 1 - a.b (5 us)\n".to_owned(),
        "failed" => "not ok 1 - a.b (5 us)\n  ---\n  message: \"no\"\n  ...\n".to_owned(),
        "missing" => String::new(),
        reason => format!("ok 1 - a.b (5 us) # SKIP {reason}\n"),
    };
    Report::parse(&format!("TAP version 13\n1..1\n{text}"))
}

/// docs/peers.md with one row for `a.b`, of these releases.
fn listed(first: (u32, u32), last: (u32, u32)) -> Option<Gap> {
    Some(Gap {
        test: "a.b",
        releases: (first, last),
        at_times: false,
        reason: "known".to_owned(),
    })
}

fn verdict(ferrite: &str, qemu: &str, gap: Option<Gap>) -> Verdict {
    let rows = compare(&report(ferrite), &report(qemu), VERSION, |name| {
        gap.clone().filter(|gap| gap.test == name)
    });
    let [Row { verdict, .. }] = &rows[..] else {
        panic!("{rows:?}");
    };
    verdict.clone()
}

#[test]
fn equal_outcomes_are_alike() {
    for end in ["ok", "failed", "not offered"] {
        assert_eq!(verdict(end, end, None), Verdict::Alike, "{end}");
    }
    assert_eq!(verdict("not offered", "other reason", None), Verdict::Alike);
}

#[test]
fn a_failure_of_qemus_is_explained_if_it_is_listed_for_its_release() {
    let known = Verdict::Explained("known".to_owned());
    assert_eq!(verdict("ok", "failed", listed((7, 2), (11, 1))), known);
    assert_eq!(
        verdict("not offered", "failed", listed((7, 2), (7, 2))),
        known
    );
    for (gap, words) in [
        (None, "does not have it"),
        (
            listed((10, 0), (11, 1)),
            "QEMU 10.0 to 11.1, not for 7.2.22",
        ),
    ] {
        let Verdict::Unexplained(why) = verdict("ok", "failed", gap) else {
            panic!("{words}");
        };
        assert!(why.contains(words), "{why}");
    }
}

#[test]
fn a_failure_at_times_may_be_missing_but_only_in_its_releases() {
    let at_times = |first, last| {
        listed(first, last).map(|gap| Gap {
            at_times: true,
            ..gap
        })
    };
    let known = Verdict::Explained("known".to_owned());
    let gap = at_times((7, 2), (7, 2));
    assert_eq!(verdict("ok", "failed", gap.clone()), known);
    assert_eq!(verdict("ok", "ok", gap), Verdict::Alike);
    let later = verdict("ok", "failed", at_times((10, 0), (11, 1)));
    assert!(matches!(later, Verdict::Unexplained(_)), "{later:?}");
}

#[test]
fn what_one_skips_is_explained_by_its_reason() {
    let explained = |text: &str| Verdict::Explained(text.to_owned());
    assert_eq!(
        verdict("ok", "no Verify", None),
        explained("QEMU skips it: no Verify")
    );
    assert_eq!(
        verdict("no SGLs", "ok", None),
        explained("Ferrite skips it: no SGLs")
    );
    // Skipped, a listed failure shows neither way.
    assert_eq!(
        verdict("ok", "1 queue", listed((7, 2), (7, 2))),
        explained("QEMU skips it: 1 queue")
    );
}

#[test]
fn failures_of_ours_and_listed_tests_that_pass_are_unexplained() {
    for (ferrite, qemu, gap, words) in [
        ("failed", "ok", None, "Ferrite fails it"),
        ("failed", "no Verify", None, "Ferrite fails it"),
        (
            "ok",
            "ok",
            listed((7, 2), (11, 1)),
            "QEMU 7.2 to 11.1 fails it, and it passes",
        ),
        (
            "ok",
            "missing",
            listed((7, 2), (7, 2)),
            "no result came from QEMU",
        ),
        ("missing", "ok", None, "no result came from Ferrite"),
    ] {
        let Verdict::Unexplained(why) = verdict(ferrite, qemu, gap) else {
            panic!("{ferrite}, {qemu}");
        };
        assert!(why.contains(words), "{why}");
    }
}

/// Rows of the page's table `| Test | QEMU | Reason |`, as Markdown has them: cells of plain text.
fn table() -> Vec<Vec<String>> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/peers.md");
    let text = std::fs::read_to_string(path).expect("the page");
    let (mut tables, mut cell) = (Vec::new(), String::new());
    for event in Parser::new_ext(&text, Options::ENABLE_TABLES) {
        let rows: Option<&mut Vec<Vec<String>>> = tables.last_mut();
        match (event, rows) {
            (Event::Start(Tag::Table(_)), _) => tables.push(Vec::new()),
            (Event::Start(Tag::TableHead | Tag::TableRow), Some(rows)) => rows.push(Vec::new()),
            (Event::Start(Tag::TableCell), _) => cell.clear(),
            (Event::End(TagEnd::TableCell), Some(rows)) => {
                let row = rows.last_mut().expect("a row");
                row.push(std::mem::take(&mut cell));
            }
            (Event::Text(text) | Event::Code(text), _) => cell.push_str(&text),
            _ => {}
        }
    }
    let of_tests = |rows: &Vec<Vec<String>>| rows.first().is_some_and(|head| head[0] == "Test");
    let mut rows = tables.into_iter().find(of_tests).expect("the table");
    assert_eq!(rows.remove(0), ["Test", "QEMU", "Reason"]);
    rows
}

#[test]
fn every_row_of_the_page_is_read_and_says_what_it_must() {
    let read: Vec<Vec<String>> = gaps::all()
        .map(|gap| vec![gap.test.to_owned(), gap.seen(), gap.reason])
        .collect();
    assert_eq!(read, table());
    let suite: BTreeSet<String> = nvme_suite::tests()
        .map(nvme_suite::Test::full_name)
        .collect();
    let mut seen = BTreeSet::new();
    for gap in gaps::all() {
        assert!(
            suite.contains(gap.test),
            "no test of the suite: {}",
            gap.test
        );
        assert!(seen.insert(gap.test), "twice: {}", gap.test);
        assert!(
            gap.releases.0 <= gap.releases.1,
            "{}: {}",
            gap.test,
            gap.seen()
        );
        // A function of QEMU's, and the section that says otherwise.
        let section = ["(B ", "(N ", "(P "]
            .iter()
            .any(|at| gap.reason.contains(at));
        assert!(
            section && gap.reason.contains('_'),
            "{}: {}",
            gap.test,
            gap.reason
        );
    }
}
