//! Where findings become reports: counted always, handed on as far as that is useful.

use std::{fmt, sync::Arc};

use super::{
    report::{About, Counts, Report},
    rule::Rule,
};
use crate::signals::Lint;

/// Reports of a rule that are handed on in full from one enabling of the controller to the next;
/// more of the same tell nothing new, and cost their text.
const IN_FULL: u32 = 16;

/// Takes findings in.
pub(super) struct Journal {
    sink: Arc<dyn Lint>,
    counts: Counts,
    sequence: u64,
    /// Reports handed on since the controller was last enabled.
    handed_on: [u32; Rule::ALL.len()],
    /// The time of the last poll.
    pub(super) now_ns: u64,
}

impl Journal {
    pub(super) fn new(sink: Arc<dyn Lint>) -> Self {
        Self {
            sink,
            counts: Counts::default(),
            sequence: 0,
            handed_on: [0; Rule::ALL.len()],
            now_ns: 0,
        }
    }

    /// Counts a finding, and hands it on unless there were many of its rule.
    pub(super) fn report(
        &mut self,
        rule: Rule,
        about: About,
        expected: impl Into<Option<u64>>,
        found: impl Into<Option<u64>>,
        text: fmt::Arguments<'_>,
    ) {
        self.sequence += 1;
        if let Some(count) = self.counts.by_rule.get_mut(rule as usize) {
            *count += 1;
        }
        let Some(handed_on) = self.handed_on.get_mut(rule as usize) else {
            return;
        };
        if *handed_on >= IN_FULL {
            return;
        }
        *handed_on += 1;
        self.sink.report(&Report {
            sequence: self.sequence,
            time_ns: self.now_ns,
            rule,
            about,
            expected: expected.into(),
            found: found.into(),
            text: text.to_string(),
        });
    }

    /// Something was not watched for changes.
    pub(super) const fn unwatched(&mut self) {
        self.counts.unwatched += 1;
    }

    /// The controller is enabled anew, perhaps by a driver that was mended: reports are handed on
    /// again.
    pub(super) const fn enabled(&mut self) {
        self.handed_on = [0; Rule::ALL.len()];
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts.clone()
    }
}
