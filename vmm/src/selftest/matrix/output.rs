//! What `selftest --matrix` prints: a line a combination, for people, TAP and JSON.

use std::fmt::Write;

use nvme_suite::{Stop, tap::TestResult};
use serde_json::{Value, json};

use super::{MatrixResults, Outcome, quoted};
use crate::figures::seconds;
use crate::selftest::output::{BOLD, GREEN, RED, Style};

/// How the combinations ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MatrixTotals {
    /// Combinations that are fine.
    pub passed: usize,
    /// Combinations that are not.
    pub failed: usize,
}

impl Outcome {
    /// Whether nothing failed. That every test is skipped is fine here: others have what the
    /// tests are about.
    fn good(&self) -> bool {
        self.results.good() || self.results.nothing_applies()
    }

    fn failures(&self) -> impl Iterator<Item = (&TestResult, &str)> {
        self.results
            .report
            .tests
            .iter()
            .filter_map(|test| match &test.outcome {
                Err(Stop::Failed(message)) => Some((test, message.as_str())),
                _ => None,
            })
    }

    /// What repeats a test on this combination; without one, all of them.
    fn repeat(&self, test: Option<&str>) -> String {
        let filter = test.map(|test| format!(" --filter {}", quoted(test)));
        format!(
            "ferrite selftest {}{}",
            self.combination.arguments,
            filter.unwrap_or_default()
        )
    }

    fn name(&self) -> &str {
        match self.combination.options.as_str() {
            "" => "defaults",
            options => options,
        }
    }

    /// The head of the lines that [`line`](Self::line) gives.
    #[must_use]
    pub fn head(style: Style) -> String {
        let (bold, off) = style.wrap(BOLD);
        format!(
            "{bold}{:<8}{:>6}{:>7}{:>8}{:>9}  combination{off}\n",
            "", "passed", "failed", "skipped", "time"
        )
    }

    /// Its line for people, and after it what failed with the command that repeats it.
    #[must_use]
    pub fn line(&self, style: Style, number: usize, planned: usize) -> String {
        let (passed, failed, skipped) = self.results.report.totals();
        let good = self.good();
        let (colour, off) = style.wrap(if good { "" } else { RED });
        let mut text = format!(
            "{colour}{:<8}{passed:>6}{failed:>7}{skipped:>8}{:>9}  {}{off}\n",
            format!("{number}/{planned}"),
            seconds(self.elapsed),
            self.name(),
        );
        if good {
            return text;
        }
        let (red, off) = style.wrap(RED);
        for (test, message) in self.failures() {
            // A String takes everything.
            let _ = writeln!(text, "  {red}FAILED  {}{off}: {message}", test.name);
            let _ = writeln!(text, "          rule: {} ({})", test.rule, test.section);
            let _ = writeln!(text, "          {}", self.repeat(Some(&test.name)));
        }
        if let Some(trouble) = self.results.trouble() {
            let _ = writeln!(text, "  {red}{}{off}", trouble.replace('\n', "\n  "));
            let _ = writeln!(text, "          {}", self.repeat(None));
        }
        text
    }

    /// Its test point; what failed is in its YAML block.
    #[must_use]
    pub fn to_tap(&self, number: usize) -> String {
        let (passed, failed, skipped) = self.results.report.totals();
        let good = self.good();
        let mut text = format!(
            "{}ok {number} - {} ({} us)\n  ---\n  passed: {passed}\n  failed: {failed}\n  \
             skipped: {skipped}\n",
            if good { "" } else { "not " },
            self.name(),
            self.elapsed.as_micros(),
        );
        if !good {
            text += "  failures:\n";
            for (test, message) in self.failures() {
                let _ = writeln!(text, "    - test: {}", test.name);
                let _ = writeln!(text, "      message: {}", Value::from(message));
            }
            if let Some(trouble) = self.results.trouble() {
                let _ = writeln!(text, "  trouble: {}", Value::from(trouble));
            }
            let _ = writeln!(text, "  repeat: {}", Value::from(self.repeat(None)));
        }
        text + "  ...\n"
    }

    fn to_json(&self) -> Value {
        let (passed, failed, skipped) = self.results.report.totals();
        let failures: Vec<Value> = self
            .failures()
            .map(|(test, message)| {
                json!({
                    "name": test.name, "message": message, "rule": test.rule,
                    "section": test.section, "repeat": self.repeat(Some(&test.name)),
                })
            })
            .collect();
        json!({
            "options": self.combination.options,
            "repeat": self.repeat(None),
            "passed": self.good(),
            "trouble": self.results.trouble().filter(|_| !self.good()),
            "summary": { "passed": passed, "failed": failed, "skipped": skipped },
            "failures": failures,
            "seconds": self.elapsed.as_secs_f64(),
        })
    }
}

impl MatrixResults {
    /// How many combinations are fine, and how many are not.
    #[must_use]
    pub fn totals(&self) -> MatrixTotals {
        let good = self.outcomes.iter().filter(|outcome| outcome.good());
        let passed = good.count();
        MatrixTotals {
            passed,
            failed: self.outcomes.len() - passed,
        }
    }

    /// Whether all of them are fine, and in one at least a test passed.
    #[must_use]
    pub fn good(&self) -> bool {
        let some = self.outcomes.iter().any(|outcome| outcome.results.good());
        self.totals().failed == 0 && some
    }

    /// The last line, for people.
    #[must_use]
    pub fn summary(&self, style: Style) -> String {
        let MatrixTotals { passed, failed } = self.totals();
        let tests: usize = self
            .outcomes
            .iter()
            .map(|outcome| outcome.results.report.totals().0)
            .sum();
        let (colour, off) = style.wrap(if self.good() { GREEN } else { RED });
        format!(
            "\n{colour}{} combinations: {passed} passed, {failed} failed; {tests} tests passed in {}{off}\n",
            self.outcomes.len(),
            seconds(self.elapsed),
        )
    }

    /// Everything as one JSON object.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let MatrixTotals { passed, failed } = self.totals();
        json!({
            "passed": self.good(),
            "summary": { "passed": passed, "failed": failed },
            "combinations": self.outcomes.iter().map(Outcome::to_json).collect::<Vec<_>>(),
            "seconds": self.elapsed.as_secs_f64(),
        })
    }
}
