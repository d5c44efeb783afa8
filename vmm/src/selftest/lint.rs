//! What the guest's driver did wrong (`lint=on`), test by test.
//!
//! The guest prints a test's result when the test has ended, and a report is made before the
//! guest goes on: what is reported between two results belongs to the later one's test.

use std::{
    fmt::{self, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use nvme::{
    Lint,
    lint::{About, Counts, Report, Rule, RuleInfo},
};
use serde_json::{Value, json};

/// Reports kept, in all; the rest is counted by rule.
const MOST: usize = 10_000;

/// A report, and the test that provoked it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The test's full name; `None` outside of tests, or when the test came to no result.
    pub test: Option<String>,
    /// What is said.
    pub report: Report,
}

/// What the guest's driver did wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Findings {
    /// How often each rule was broken.
    pub counts: Counts,
    /// The reports that were kept: of each rule the first few of each test.
    pub kept: Vec<Finding>,
}

/// Takes reports in while the guest runs.
#[derive(Default)]
pub(super) struct Collector(Mutex<Collected>);

#[derive(Default)]
struct Collected {
    kept: Vec<Finding>,
    /// How many of those belong to tests that have ended.
    ended: usize,
}

impl Collector {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    fn collected(&self) -> MutexGuard<'_, Collected> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was reported since the last call is of this test.
    pub(super) fn test_ended(&self, name: &str) {
        let mut collected = self.collected();
        let Collected { kept, ended } = &mut *collected;
        for finding in kept.iter_mut().skip(*ended) {
            finding.test = Some(name.to_string());
        }
        *ended = kept.len();
    }

    /// What was taken in, and how much there was.
    pub(super) fn findings(&self, counts: Option<Counts>) -> Findings {
        Findings {
            counts: counts.unwrap_or_default(),
            kept: std::mem::take(&mut self.collected().kept),
        }
    }
}

impl Lint for Collector {
    fn report(&self, report: &Report) {
        let mut collected = self.collected();
        if collected.kept.len() < MOST {
            collected.kept.push(Finding {
                test: None,
                report: report.clone(),
            });
        }
    }
}

impl Findings {
    fn first(&self, rule: Rule) -> Option<&Finding> {
        self.kept.iter().find(|finding| finding.report.rule == rule)
    }

    /// Writes how often each rule was broken and the first report of it; with `verbose` every
    /// report that was kept.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_table(&self, out: &mut dyn Write, verbose: bool) -> fmt::Result {
        let (total, rules) = (self.counts.total(), self.counts.broken().count());
        if rules == 0 {
            writeln!(out, "\nlint          nothing to report")?;
            return self.write_unwatched(out);
        }
        let plural = |count: u64| if count == 1 { "" } else { "s" };
        writeln!(
            out,
            "\nlint          {total} report{} of {rules} rule{}",
            plural(total),
            plural(rules as u64)
        )?;
        for (rule, count) in self.counts.broken() {
            let severity = rule.severity();
            write!(out, "{count:>8}  {severity:<5} {rule:<34}")?;
            match self.first(rule) {
                Some(Finding { test, report }) => {
                    let test = test.as_deref().unwrap_or("no test");
                    writeln!(out, "first in {test}")?;
                    writeln!(out, "{:16}{}: {}", "", report.about, report.text)?;
                }
                None => writeln!(out)?,
            }
        }
        self.write_unwatched(out)?;
        if verbose {
            let mut last = None;
            for Finding { test, report } in &self.kept {
                if last != Some(test) {
                    writeln!(out, "\n{}", test.as_deref().unwrap_or("no test"))?;
                    last = Some(test);
                }
                writeln!(out, "  {report}")?;
            }
        }
        Ok(())
    }

    fn write_unwatched(&self, out: &mut dyn Write) -> fmt::Result {
        match self.counts.unwatched {
            0 => Ok(()),
            count => writeln!(
                out,
                "{count:>8}  entries or PRP lists were too many to watch"
            ),
        }
    }

    /// The counts as diagnostics for the end of the guest's TAP.
    #[must_use]
    pub fn to_tap(&self) -> String {
        let lines = self.counts.broken().map(|(rule, count)| {
            let severity = rule.severity();
            format!("# lint: {count} x {severity} {rule}\n")
        });
        lines.collect()
    }

    /// The counts by rule and the reports that were kept.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let rules: Vec<Value> = self
            .counts
            .broken()
            .map(|(rule, count)| {
                let RuleInfo {
                    id,
                    severity,
                    what,
                    section,
                    ..
                } = rule.info();
                json!({
                    "id": id, "severity": severity.name(), "count": count, "what": what,
                    "section": section,
                })
            })
            .collect();
        json!({
            "total": self.counts.total(),
            "unwatched": self.counts.unwatched,
            "rules": rules,
            "reports": self.kept.iter().map(finding_json).collect::<Vec<_>>(),
        })
    }
}

fn finding_json(Finding { test, report }: &Finding) -> Value {
    let command = match report.about {
        About::Command(command) => Some(json!({
            "sqid": command.sqid, "cid": command.cid, "opcode": command.opcode,
            "nsid": command.nsid, "slba": command.slba,
        })),
        _ => None,
    };
    json!({
        "sequence": report.sequence, "time_ns": report.time_ns, "rule": report.rule.id(),
        "test": test, "about": report.about.to_string(), "command": command,
        "expected": report.expected, "found": report.found, "text": report.text,
    })
}
