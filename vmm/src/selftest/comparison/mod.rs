//! The same tests on two controllers: what differs, and whether it is known why.

mod output;

use std::collections::BTreeMap;

use nvme_suite::{Outcome, Stop, tap::Report};

use super::{Results, account, said};
use crate::peer::{
    Qemu, QemuEnd, QemuRun, QemuVersion,
    gaps::{self, Gap},
};

/// What is to be thought of a test's two outcomes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// They are alike.
    Alike,
    /// They differ: why.
    Explained(String),
    /// They differ, or docs/peers.md says that they do: what nobody has explained.
    Unexplained(String),
}

/// A test and its two outcomes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// The test, `group.name`.
    pub name: String,
    /// On our controller; `None` if no result came.
    pub ferrite: Option<Outcome>,
    /// On QEMU's.
    pub qemu: Option<Outcome>,
    /// What is to be thought of it.
    pub verdict: Verdict,
}

/// Two runs beside each other.
#[derive(Debug)]
pub struct Comparison {
    /// On our controller.
    pub ferrite: Results,
    /// The QEMU that ran.
    pub qemu: Qemu,
    /// On its nvme device.
    pub run: QemuRun,
    /// What QEMU's device could not be told.
    pub notes: Vec<String>,
    /// The tests, in the order they ran.
    pub rows: Vec<Row>,
}

impl Verdict {
    /// Judges a test's outcomes; `gap` is what docs/peers.md says of it.
    fn of(
        ferrite: Option<&Outcome>,
        qemu: Option<&Outcome>,
        gap: Option<&Gap>,
        version: QemuVersion,
    ) -> Self {
        let known = gap.filter(|gap| gap.covers(version));
        let (Some(ferrite), Some(qemu)) = (ferrite, qemu) else {
            let which = if ferrite.is_none() { "Ferrite" } else { "QEMU" };
            return Self::Unexplained(format!("no result came from {which}"));
        };
        match (ferrite, qemu, known) {
            (Err(Stop::Failed(_)), Err(Stop::Failed(_)), _) => Self::Alike,
            (Err(Stop::Failed(_)), _, _) => Self::Unexplained("Ferrite fails it".to_string()),
            (_, Err(Stop::Failed(_)), Some(gap)) => Self::Explained(gap.reason.clone()),
            (_, Err(Stop::Failed(_)), None) => Self::Unexplained(match gap {
                Some(gap) => format!(
                    "docs/peers.md has it for QEMU {}, not for {version}",
                    gap.seen()
                ),
                None => "docs/peers.md does not have it".to_string(),
            }),
            (_, Ok(()), Some(gap)) if !gap.at_times => Self::Unexplained(format!(
                "docs/peers.md says that QEMU {} fails it, and it passes",
                gap.seen()
            )),
            (Ok(()), Ok(()), _) | (Err(Stop::Skipped(_)), Err(Stop::Skipped(_)), _) => Self::Alike,
            (Err(Stop::Skipped(reason)), Ok(()), _) => {
                Self::Explained(format!("Ferrite skips it: {reason}"))
            }
            (Ok(()), Err(Stop::Skipped(reason)), _) => {
                Self::Explained(format!("QEMU skips it: {reason}"))
            }
        }
    }
}

/// Puts two runs beside each other, in the order of ours; `gap` knows what docs/peers.md says of
/// a test.
pub fn compare(
    ferrite: &Report,
    qemu: &Report,
    version: QemuVersion,
    gap: impl Fn(&str) -> Option<Gap>,
) -> Vec<Row> {
    let outcomes = |report: &Report| -> BTreeMap<String, Outcome> {
        let tests = report.tests.iter();
        tests
            .map(|test| (test.name.clone(), test.outcome.clone()))
            .collect()
    };
    let (ours, theirs) = (outcomes(ferrite), outcomes(qemu));
    let only_theirs = qemu
        .tests
        .iter()
        .filter(|test| !ours.contains_key(&test.name));
    ferrite
        .tests
        .iter()
        .chain(only_theirs)
        .map(|test| {
            let name = &test.name;
            let (ours, theirs) = (ours.get(name), theirs.get(name));
            Row {
                name: name.clone(),
                ferrite: ours.cloned(),
                qemu: theirs.cloned(),
                verdict: Verdict::of(ours, theirs, gap(name).as_ref(), version),
            }
        })
        .collect()
}

impl Comparison {
    pub(super) fn new(ferrite: Results, qemu: Qemu, run: QemuRun, notes: Vec<String>) -> Self {
        let rows = compare(&ferrite.report, &run.report, qemu.version, gaps::of_test);
        Self {
            ferrite,
            qemu,
            run,
            notes,
            rows,
        }
    }

    /// Whether every test that ran passed on our controller, both runs came to their ends, and no
    /// difference is unexplained.
    #[must_use]
    pub fn good(&self) -> bool {
        self.ferrite.good() && self.trouble().is_none() && self.counts().unexplained == 0
    }

    /// What went wrong with QEMU's run beyond single tests, if anything did.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let report = &self.run.report;
        if let Some(reason) = &report.bail_out {
            return Some(format!("the guest on QEMU gave up: {reason}"));
        }
        let stderr = match self.run.ended.stderr.as_str() {
            "" => String::new(),
            text => format!("\nQEMU's complaints:\n  {}", text.replace('\n', "\n  ")),
        };
        match &self.run.ended.end {
            QemuEnd::TimedOut => Some(format!(
                "the guest on QEMU took longer than allowed; give it more with --timeout{}{stderr}",
                said(report)
            )),
            QemuEnd::Died(how) => Some(format!("QEMU ended: {how}{}{stderr}", said(report))),
            QemuEnd::Code(code) => {
                account(report, *code).map(|trouble| format!("on QEMU {trouble}{stderr}"))
            }
        }
    }

    fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for row in &self.rows {
            match row.verdict {
                Verdict::Alike => counts.alike += 1,
                Verdict::Explained(_) => match row.qemu {
                    Some(Err(Stop::Failed(_))) => counts.failed += 1,
                    _ => counts.skipped += 1,
                },
                Verdict::Unexplained(_) => counts.unexplained += 1,
            }
        }
        counts
    }
}

/// How many tests there are of each [`Verdict`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Counts {
    alike: usize,
    /// Explained: QEMU fails them.
    failed: usize,
    /// Explained: one of both skips them.
    skipped: usize,
    unexplained: usize,
}
