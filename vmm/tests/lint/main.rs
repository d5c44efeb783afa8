//! What is reported of hosts that are wrong (`lint=on`), and that nothing is of those that are
//! right.

#![allow(clippy::expect_used, clippy::panic, reason = "tests")]

mod commands;
mod docs;
mod doorbells;
mod queues;
mod registers;
mod selftest;
mod suite;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use ferrite::nvme::inprocess::{InProcess, Schedule};
use nvme::{
    ControllerConfig, Lint, NamespaceConfig,
    lint::{Report, Rule},
};
use nvme_host::{Config, Driver, Transport};
use storage::ram::Ram;

/// Entries of queue pair 1 of every case.
pub(crate) const ENTRIES: u32 = 16;

/// Keeps every report.
#[derive(Clone, Default)]
pub(crate) struct Reports(Arc<Mutex<Vec<Report>>>);

impl Lint for Reports {
    fn report(&self, report: &Report) {
        self.0.lock().expect("no panic").push(report.clone());
    }
}

impl Reports {
    /// The reports since the last time.
    pub(crate) fn take(&self) -> Vec<Report> {
        std::mem::take(&mut *self.0.lock().expect("no panic"))
    }
}

/// A controller that is checked, with two namespaces.
pub(crate) fn config(reports: &Reports) -> ControllerConfig {
    let namespace = || NamespaceConfig::new(Arc::new(Ram::new(256 << 20).expect("memory")), 512);
    ControllerConfig {
        namespaces: vec![namespace(), namespace()],
        lint: Some(Arc::new(reports.clone())),
        ..ControllerConfig::default()
    }
}

pub(crate) type Host<'a> = Driver<'a, InProcess>;

/// Lets the controller run.
pub(crate) fn step(host: &mut Host<'_>) {
    for _ in 0..64 {
        host.transport().relax();
    }
}

/// A way to break a rule once, and no other, on a controller with queue pair 1.
pub(crate) struct Case {
    pub(crate) rule: Rule,
    pub(crate) breaks: fn(&mut Host<'_>),
}

fn cases() -> impl Iterator<Item = &'static Case> {
    [
        registers::CASES,
        doorbells::CASES,
        queues::CASES,
        commands::CASES,
    ]
    .into_iter()
    .flatten()
}

/// What is reported while `work` runs on an enabled controller.
pub(crate) fn reported(work: impl FnOnce(&mut Host<'_>)) -> Vec<Report> {
    let reports = Reports::default();
    let mut machine =
        InProcess::with_schedule(config(&reports), Schedule::sleeping(1)).expect("valid");
    let mut host = Driver::new(&mut machine).expect("a controller");
    host.enable(&Config::default()).expect("enabled");
    host.create_pair(1, ENTRIES).expect("queues");
    assert_eq!(reports.take(), [], "a correct host is reported");
    work(&mut host);
    let taken = reports.take();
    let counts = machine.controller().lint_counts().expect("on");
    assert_eq!(counts.total(), taken.len() as u64);
    taken
}

/// The one report of a case.
pub(crate) fn report_of(case: &Case) -> Report {
    let mut reports = reported(case.breaks);
    let lines: Vec<String> = reports.iter().map(ToString::to_string).collect();
    let report = reports.pop().filter(|_| reports.is_empty());
    let report = report.filter(|report| report.rule == case.rule);
    report.unwrap_or_else(|| panic!("{} alone, once, not {lines:#?}", case.rule))
}

#[test]
fn each_rule_is_reported_once_when_it_is_broken_once() {
    for case in cases() {
        let report = report_of(case);
        assert_eq!(report.sequence, 1, "{report}");
        assert!(report.time_ns > 0, "{report}");
    }
}

#[test]
fn every_rule_has_a_case() {
    let tried: BTreeSet<Rule> = cases().map(|case| case.rule).collect();
    let missing: Vec<Rule> = Rule::ALL
        .into_iter()
        .filter(|rule| !tried.contains(rule))
        .collect();
    assert_eq!(missing, []);
}

/// A flood of one mistake is counted, and the first of it are told in full; again after the
/// controller was enabled anew.
#[test]
fn a_flood_is_counted_and_its_beginning_told() {
    const IN_FULL: usize = 16;
    let reports = Reports::default();
    let mut machine = InProcess::new(config(&reports), 1).expect("valid");
    let mut host = Driver::new(&mut machine).expect("a controller");
    for _ in 0..2 {
        host.reset().expect("reset");
        host.enable(&Config::default()).expect("enabled");
        for _ in 0..1000 {
            host.write_sq_doorbell(9, 1);
        }
        assert_eq!(reports.take().len(), IN_FULL);
    }
    host.write_sq_doorbell(0, 100);
    let other = reports.take();
    assert_eq!(other.len(), 1, "another rule has a budget of its own");
    assert_eq!(other.first().map(|report| report.sequence), Some(2001));
    let counts = machine.controller().lint_counts().expect("on");
    assert_eq!(counts.of(Rule::DoorbellOfNoQueue), 2000);
}

#[test]
fn without_lint_there_are_no_counts() {
    let config = ControllerConfig {
        lint: None,
        ..config(&Reports::default())
    };
    let machine = InProcess::new(config, 1).expect("valid");
    assert_eq!(machine.controller().lint_counts(), None);
}
