//! The suite's own driver is correct, and so nothing is reported of it; but tests that are wrong
//! on purpose are, by the rules they break.

use std::collections::{BTreeMap, BTreeSet};

use ferrite::nvme::{WaitPolicy, inprocess::InProcess};
use nvme::{ControllerConfig, lint::Rule};
use nvme_suite::{Doorbells, Event, Filter, Stop};

use super::{Reports, config};

/// The tests that break rules on purpose, and which.
const WRONG: &[(&str, &[Rule])] = &[
    (
        "coalescing.reserved_bits_are_not_kept",
        &[Rule::ReservedBitsSet],
    ),
    ("compare.data_nowhere_is_an_error", &[Rule::PrpNowhere]),
    (
        "doorbells.absent_queues_are_harmless",
        &[Rule::DoorbellOfNoQueue],
    ),
    (
        "doorbells.deleted_queue_is_not_served",
        &[Rule::DoorbellOfNoQueue],
    ),
    (
        "doorbells.head_beyond_the_ring_is_harmless",
        &[Rule::CqHeadBeyondRing],
    ),
    (
        "doorbells.head_of_nothing_posted_is_harmless",
        &[Rule::CqHeadBeyondPosted],
    ),
    (
        "doorbells.tail_beyond_the_ring_is_harmless",
        &[Rule::SqTailBeyondRing],
    ),
    (
        "doorbells.unchanged_values_are_harmless",
        &[Rule::DoorbellUnchanged],
    ),
    ("dsm.list_nowhere_is_an_error", &[Rule::PrpNowhere]),
    (
        "events.doorbell_register_raises_event",
        &[Rule::DoorbellOfNoQueue],
    ),
    (
        "events.doorbell_value_raises_event",
        &[Rule::SqTailBeyondRing],
    ),
    (
        "events.event_completes_one_request",
        &[Rule::SqTailBeyondRing],
    ),
    (
        "events.event_type_is_masked_until_its_log_is_read",
        &[Rule::SqTailBeyondRing],
    ),
    (
        "events.retained_event_stays_masked",
        &[Rule::SqTailBeyondRing],
    ),
    (
        "features.timestamp_data_nowhere_is_an_error",
        &[Rule::PrpNowhere],
    ),
    (
        "hostile.admin_queues_nowhere_can_be_mended",
        &[Rule::CannotBeEnabled],
    ),
    ("hostile.all_ones_entry_completes", &[Rule::CidFfff]),
    ("hostile.all_zero_entries_complete", &[Rule::CidReused]),
    (
        "hostile.completion_queue_nowhere_harms_no_other",
        &[Rule::QueueNowhere],
    ),
    (
        "hostile.configuration_changed_while_enabled",
        &[Rule::CcChangedWhileEnabled],
    ),
    (
        "hostile.data_over_its_own_completion_queue",
        &[Rule::DataOverQueue],
    ),
    (
        "hostile.data_over_its_own_prp_list",
        &[Rule::DataOverPrpList],
    ),
    (
        "hostile.data_over_its_own_submission_queue",
        &[Rule::DataOverQueue],
    ),
    (
        "hostile.entry_changed_after_the_doorbell_completes",
        &[Rule::SqeChanged],
    ),
    ("hostile.list_chain_to_itself_ends", &[Rule::PrpMisaligned]),
    (
        "hostile.mutated_writes_complete",
        &[Rule::PrpMisaligned, Rule::PrpNowhere, Rule::ReservedBitsSet],
    ),
    (
        "hostile.odd_register_accesses_are_harmless",
        &[Rule::ReadOnlyRegisterWritten, Rule::RegisterAccessWidth],
    ),
    (
        "hostile.one_entry_admin_queues_can_be_mended",
        &[Rule::CannotBeEnabled],
    ),
    (
        "hostile.page_size_beyond_range_can_be_mended",
        &[Rule::CannotBeEnabled],
    ),
    ("hostile.queues_over_each_other_end", &[Rule::QueuesOverlap]),
    (
        "hostile.random_admin_entries_complete",
        &[
            Rule::NsidNotUsed,
            Rule::PrpMisaligned,
            Rule::PrpNowhere,
            Rule::ReservedBitsSet,
        ],
    ),
    (
        "hostile.random_doorbells_can_be_mended",
        &[
            Rule::CqHeadBeyondRing,
            Rule::DoorbellOfNoQueue,
            Rule::SqTailBeyondRing,
        ],
    ),
    (
        "hostile.random_io_entries_complete",
        &[Rule::PrpMisaligned, Rule::PrpNowhere, Rule::ReservedBitsSet],
    ),
    ("hostile.same_cid_twice_completes_both", &[Rule::CidReused]),
    (
        "hostile.submission_queue_nowhere_harms_no_other",
        &[Rule::QueueNowhere],
    ),
    ("prp.data_nowhere_is_an_error", &[Rule::PrpNowhere]),
    ("prp.entry_nowhere_is_an_error", &[Rule::PrpNowhere]),
    (
        "prp.list_entry_with_offset_is_refused",
        &[Rule::PrpMisaligned],
    ),
    ("prp.list_nowhere_is_an_error", &[Rule::PrpNowhere]),
    (
        "prp.list_pointer_below_qword_is_checked_or_ignored",
        &[Rule::PrpMisaligned],
    ),
    (
        "prp.prp1_below_dword_is_checked_or_ignored",
        &[Rule::PrpMisaligned],
    ),
    ("prp.prp2_with_offset_is_refused", &[Rule::PrpMisaligned]),
    ("prp.unused_prp2_is_ignored", &[Rule::ReservedBitsSet]),
    (
        "registers.cap_and_vs_are_read_only",
        &[Rule::ReadOnlyRegisterWritten],
    ),
    (
        "registers.csts_is_read_only",
        &[Rule::ReadOnlyRegisterWritten],
    ),
    (
        "registers.writable_registers_keep_reserved_bits_zero",
        &[Rule::ReservedBitsSet],
    ),
    (
        "shadow.misaligned_buffers_are_refused",
        &[Rule::PrpMisaligned],
    ),
    ("shadow.buffers_nowhere_are_refused", &[Rule::PrpNowhere]),
    ("verify.no_data_is_moved", &[Rule::ReservedBitsSet]),
    ("write_zeroes.no_data_is_moved", &[Rule::ReservedBitsSet]),
];

fn expected(test: &str) -> BTreeSet<Rule> {
    let row = WRONG.iter().find(|(name, _)| *name == test);
    row.map(|(_, rules)| rules.iter().copied().collect())
        .unwrap_or_default()
}

/// The rules that each test breaks, with a report of each; tests that were skipped are left out.
fn broken(
    machine: &mut InProcess,
    doorbells: Doorbells,
    reports: &Reports,
) -> BTreeMap<String, BTreeMap<Rule, String>> {
    let mut all = BTreeMap::new();
    let filter = Filter::new("");
    let summary = nvme_suite::run_with(machine, &filter, doorbells, &mut |event| {
        if let Event::Finished { test, outcome, .. } = event {
            let reports = reports.take();
            if matches!(outcome, Err(Stop::Skipped(_))) {
                return;
            }
            let rules = reports
                .into_iter()
                .map(|report| (report.rule, report.to_string()));
            all.insert(test.full_name(), rules.collect());
        }
    });
    assert!(summary.good());
    all
}

/// Runs the suite and holds what it breaks against [`WRONG`]: no more, and with `all` no less.
fn check(machine: &mut InProcess, reports: &Reports, all: bool, what: &str) {
    check_with(machine, Doorbells::Registers, reports, all, what);
}

fn check_with(
    machine: &mut InProcess,
    doorbells: Doorbells,
    reports: &Reports,
    all: bool,
    what: &str,
) {
    let mut wrong = Vec::new();
    for (test, found) in broken(machine, doorbells, reports) {
        let expected = expected(&test);
        for (rule, report) in &found {
            if !expected.contains(rule) {
                wrong.push(format!("{test} is not to break {rule}, and does: {report}"));
            }
        }
        let absent = expected.iter().filter(|rule| !found.contains_key(rule));
        wrong.extend(
            absent
                .filter(|_| all)
                .map(|rule| format!("{test} breaks {rule}, and nothing is reported")),
        );
    }
    assert!(
        wrong.is_empty(),
        "{what}: WRONG in this file names the tests that are wrong on purpose\n{}",
        wrong.join("\n")
    );
}

#[test]
fn tests_that_are_wrong_are_reported_and_no_others() {
    let reports = Reports::default();
    let mut machine = InProcess::new(config(&reports), 1).expect("valid");
    check(&mut machine, &reports, true, "one shard");
}

#[test]
fn no_schedule_or_configuration_makes_a_correct_host_wrong() {
    for (shards, seed, io_queues, queue_entries) in
        [(2, 5, 65, 65_536), (3, 6, 65, 65_536), (4, 7, 3, 16)]
    {
        let reports = Reports::default();
        let config = ControllerConfig {
            shards,
            io_queues,
            queue_entries,
            ..config(&reports)
        };
        let what = format!("{config:?} seed {seed}");
        let mut machine = InProcess::new(config, seed).expect("valid");
        check(&mut machine, &reports, false, &what);
    }
}

/// A report in one order of threads and not in another would be worth nothing.
#[test]
fn no_order_of_threads_makes_a_correct_host_wrong() {
    for (shards, spin_us) in [(1, 0), (3, 50)] {
        let reports = Reports::default();
        let config = ControllerConfig {
            shards,
            ..config(&reports)
        };
        let policy = WaitPolicy {
            spin: std::time::Duration::from_micros(spin_us),
        };
        let what = format!("{shards} threads");
        let mut machine = InProcess::with_threads(config, policy).expect("valid");
        check(&mut machine, &reports, false, &what);
    }
}

/// Tails and heads in memory are looked at when a shard finds them, beside what comes by registers.
#[test]
fn shadow_doorbells_make_no_correct_host_wrong() {
    for (shards, threads, trapped) in [(1, false, false), (3, false, true), (2, true, false)] {
        let reports = Reports::default();
        let config = ControllerConfig {
            shards,
            ..config(&reports)
        };
        let what = format!("{shards} shards, threads {threads}, trapped {trapped}");
        let mut machine = match threads {
            false => InProcess::new(config, 8),
            true => InProcess::with_threads(config, WaitPolicy::default()),
        }
        .expect("valid");
        if trapped {
            machine.trap_doorbells();
        }
        check_with(&mut machine, Doorbells::Shadow, &reports, false, &what);
    }
}

#[test]
fn the_tests_that_are_wrong_exist() {
    for (name, rules) in WRONG {
        let is_it = |test: &nvme_suite::Test| test.full_name() == *name;
        assert!(nvme_suite::tests().any(is_it), "{name}");
        assert!(!rules.is_empty(), "{name}");
    }
}
