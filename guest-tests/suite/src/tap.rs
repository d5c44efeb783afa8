//! The suite's output: TAP version 13, written and read.
//!
//! A passing test is `ok 3 - queues.create (812 us)`, a skipped one ends in ` # SKIP reason`, a
//! failing one is followed by a YAML block with `message`, `rule` and `section`. Facts are
//! diagnostics of the form `# ferrite: key=value`. Other lines may stand in between (a guest
//! prints what it likes); they are kept as they are.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::{self, Write};

use crate::facts::{of_found, of_summary};
use crate::{Event, Facts, Outcome, Stop};

const VERSION: &str = "TAP version 13";
const FACT: &str = "# ferrite: ";
const SKIP: &str = " # SKIP ";
const BAIL_OUT: &str = "Bail out! ";

/// Writes an event as lines.
///
/// # Errors
/// Those of `out`.
pub fn write(out: &mut dyn Write, event: &Event<'_>) -> fmt::Result {
    match event {
        Event::Found(found) => {
            writeln!(out, "{VERSION}")?;
            for (key, value) in of_found(found) {
                write_fact(out, key, &value)?;
            }
            Ok(())
        }
        Event::Plan(count) => writeln!(out, "1..{count}"),
        Event::Started(_) => Ok(()),
        Event::Finished {
            number,
            test,
            outcome,
            elapsed_ns,
        } => {
            let not = if matches!(outcome, Err(Stop::Failed(_))) {
                "not "
            } else {
                ""
            };
            let us = elapsed_ns / 1000;
            write!(
                out,
                "{not}ok {number} - {}.{} ({us} us)",
                test.group, test.name
            )?;
            match outcome {
                Ok(()) => writeln!(out),
                Err(Stop::Skipped(reason)) => writeln!(out, "{SKIP}{}", OneLine(reason)),
                Err(Stop::Failed(message)) => {
                    writeln!(out)?;
                    writeln!(out, "  ---")?;
                    for (key, value) in [
                        ("message", message.as_str()),
                        ("rule", test.rule),
                        ("section", test.section),
                    ] {
                        writeln!(out, "  {key}: {}", Quoted(value))?;
                    }
                    writeln!(out, "  ...")
                }
            }
        }
        Event::BailOut(reason) => writeln!(out, "{BAIL_OUT}{}", OneLine(reason)),
        Event::Done(summary) => {
            for (key, value) in of_summary(summary) {
                writeln!(out, "{FACT}{key}={value}")?;
            }
            Ok(())
        }
    }
}

/// Writes one fact of the caller's own, read back into [`Facts::others`].
///
/// # Errors
/// Those of `out`.
pub fn write_fact(out: &mut dyn Write, key: &str, value: &str) -> fmt::Result {
    writeln!(out, "{FACT}{key}={}", OneLine(value))
}

/// A test's result, as read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TestResult {
    /// Its number in the plan, from 1.
    pub number: usize,
    /// Its full name, `group.name`.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// How long it took, in microseconds.
    pub elapsed_us: u64,
    /// The rule it broke; empty unless it failed.
    pub rule: String,
    /// The rule's section; empty unless it failed.
    pub section: String,
}

impl TestResult {
    /// The group it belongs to.
    #[must_use]
    pub fn group(&self) -> &str {
        self.name.split('.').next().unwrap_or_default()
    }
}

/// A run's output, read line by line.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// The facts.
    pub facts: Facts,
    /// How many tests were to run, once the plan was read.
    pub planned: Option<usize>,
    /// Results so far, in order.
    pub tests: Vec<TestResult>,
    /// Why the run gave up.
    pub bail_out: Option<String>,
    /// What a correct run does not print: a second plan, a result out of its order.
    pub problems: Vec<String>,
    /// Lines that are none of these, in order.
    pub others: Vec<String>,
    in_yaml: bool,
}

impl Report {
    /// Reads a whole output.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut report = Self::default();
        for line in text.lines() {
            report.feed(line);
        }
        report
    }

    /// Reads one line, without its end.
    pub fn feed(&mut self, line: &str) {
        // What a guest prints must not reach a terminal's controls.
        let line = line
            .trim_end_matches(['\r', '\n'])
            .replace(char::is_control, "\u{FFFD}");
        let line = line.as_str();
        if self.in_yaml {
            self.feed_yaml(line);
        } else if line == "  ---" && !self.tests.is_empty() {
            self.in_yaml = true;
        } else if let Some(fact) = line.strip_prefix(FACT) {
            match fact.split_once('=') {
                Some((key, value)) => self.facts.accept(key, value),
                None => self.others.push(line.to_string()),
            }
        } else if let Some(reason) = line.strip_prefix(BAIL_OUT) {
            self.bail_out = Some(reason.to_string());
        } else if let Some(count) = line.strip_prefix("1..").and_then(|n| n.parse().ok()) {
            if let Some(planned) = self.planned.replace(count) {
                self.problems
                    .push(format!("a plan of {count} tests after one of {planned}"));
            }
        } else if let Some(test) = parse_test(line) {
            let expected = self.tests.len() + 1;
            if test.number != expected {
                let TestResult { number, name, .. } = &test;
                self.problems
                    .push(format!("{name} is result {number} where {expected} is due"));
            }
            self.tests.push(test);
        } else if line != VERSION && !line.is_empty() {
            self.others.push(line.to_string());
        }
    }

    /// Tests that passed, failed and were skipped.
    #[must_use]
    pub fn totals(&self) -> (usize, usize, usize) {
        self.tests
            .iter()
            .fold((0, 0, 0), |(passed, failed, skipped), test| {
                match test.outcome {
                    Ok(()) => (passed + 1, failed, skipped),
                    Err(Stop::Failed(_)) => (passed, failed + 1, skipped),
                    Err(Stop::Skipped(_)) => (passed, failed, skipped + 1),
                }
            })
    }

    /// Whether every planned test was reported once and in order, some passed, none failed, and
    /// the run did not give up.
    #[must_use]
    pub fn good(&self) -> bool {
        let (passed, failed, _) = self.totals();
        self.bail_out.is_none()
            && self.problems.is_empty()
            && self.planned == Some(self.tests.len())
            && passed > 0
            && failed == 0
    }

    fn feed_yaml(&mut self, line: &str) {
        if line.trim() == "..." {
            self.in_yaml = false;
            return;
        }
        let Some(test) = self.tests.last_mut() else {
            return;
        };
        let Some((key, value)) = line.trim_start().split_once(": ") else {
            return;
        };
        let value = unquote(value);
        match key {
            "message" => {
                if let Err(Stop::Failed(message)) = &mut test.outcome {
                    *message = value;
                }
            }
            "rule" => test.rule = value,
            "section" => test.section = value,
            _ => {}
        }
    }
}

/// Reads `[not ]ok N - name (U us)[ # SKIP reason]`.
fn parse_test(line: &str) -> Option<TestResult> {
    let (ok, rest) = match line.strip_prefix("not ok ") {
        Some(rest) => (false, rest),
        None => (true, line.strip_prefix("ok ")?),
    };
    let (number, rest) = rest.split_once(" - ")?;
    let (rest, skip) = match rest.split_once(SKIP) {
        Some((rest, reason)) => (rest, Some(reason)),
        None => (rest, None),
    };
    let (name, elapsed_us) = match rest.split_once(" (") {
        Some((name, time)) => (name, time.strip_suffix(" us)")?.parse().ok()?),
        None => (rest.trim_end(), 0),
    };
    Some(TestResult {
        number: number.parse().ok()?,
        name: name.to_string(),
        outcome: match (ok, skip) {
            (false, _) => Err(Stop::Failed(String::new())),
            (true, Some(reason)) => Err(Stop::Skipped(reason.to_string())),
            (true, None) => Ok(()),
        },
        elapsed_us,
        rule: String::new(),
        section: String::new(),
    })
}

/// Text with its line ends and other control characters as spaces.
struct OneLine<'t>(&'t str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            f.write_char(if c.is_control() { ' ' } else { c })?;
        }
        Ok(())
    }
}

/// Text as a double-quoted YAML scalar.
struct Quoted<'t>(&'t str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                c if c.is_control() => f.write_char(' ')?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

/// The text of a [`Quoted`] scalar; any other text as it is.
fn unquote(scalar: &str) -> String {
    let inner = scalar.strip_prefix('"').and_then(|s| s.strip_suffix('"'));
    let Some(inner) = inner else {
        return scalar.to_string();
    };
    let mut text = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => text.push('\n'),
                Some(other) => text.push(other),
                None => {}
            },
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Env, Found, Namespace, Summary, Test, Writes};

    fn pass(_: &mut Env<'_>) -> Outcome {
        Ok(())
    }

    static TEST: Test = Test {
        group: "queues",
        name: "create",
        rule: "A queue \"is\" made.",
        section: "Base 2.1 5.2.1",
        run: pass,
    };

    fn found() -> Found {
        Found {
            model: "A model = with signs".into(),
            serial: "S1".into(),
            firmware: "0.1".into(),
            version: (1, 4, 0),
            submission_queues: 8,
            completion_queues: 9,
            queue_entries: 65_536,
            vectors: 10,
            max_transfer_bytes: 131_072,
            min_page_bytes: 4096,
            max_page_bytes: 65_536,
            namespaces: [1, 7]
                .map(|nsid| Namespace {
                    nsid,
                    blocks: 1000,
                    block_bytes: 4096,
                    metadata_bytes: 8,
                    writes: Writes {
                        granularity: 4,
                        unit: 65_536,
                        unit_power_fail: 2,
                        compare_and_write: 7,
                        boundary: 16,
                        boundary_power_fail: 8,
                        boundary_offset: 3,
                        multiple: true,
                    },
                })
                .into(),
        }
    }

    fn output(events: &[Event<'_>]) -> String {
        let mut out = String::new();
        for event in events {
            write(&mut out, event).unwrap();
        }
        out
    }

    fn finished(number: usize, outcome: &Outcome) -> Event<'_> {
        Event::Finished {
            number,
            test: &TEST,
            outcome,
            elapsed_ns: 12_345,
        }
    }

    #[test]
    fn tests_are_written_as_tap_lines() {
        let failed = Err(Stop::Failed("expected \"1\",\nfound 2".into()));
        let skipped = Err(Stop::Skipped("no\nvectors".into()));
        let text = output(&[
            Event::Plan(3),
            finished(1, &Ok(())),
            finished(2, &failed),
            finished(3, &skipped),
        ]);
        let expected = "1..3\n\
            ok 1 - queues.create (12 us)\n\
            not ok 2 - queues.create (12 us)\n  \
            ---\n  \
            message: \"expected \\\"1\\\",\\nfound 2\"\n  \
            rule: \"A queue \\\"is\\\" made.\"\n  \
            section: \"Base 2.1 5.2.1\"\n  \
            ...\n\
            ok 3 - queues.create (12 us) # SKIP no vectors\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let found = found();
        let failed = Err(Stop::Failed("a \\ b: \"c\"\n# d".into()));
        let skipped = Err(Stop::Skipped("1 queue # only".into()));
        let summary = Summary {
            passed: 1,
            failed: 1,
            skipped: 1,
            commands: 99,
            bytes_to_device: 4096,
            bytes_from_device: 8192,
            elapsed_ns: 1_000_000,
            bailed_out: false,
        };
        let mut text = output(&[Event::Found(&found), Event::Plan(3)]);
        text.push_str("a word of the machine\r\n");
        text.push_str(&output(&[
            finished(1, &Ok(())),
            finished(2, &failed),
            finished(3, &skipped),
            Event::Done(&summary),
        ]));
        write_fact(&mut text, "vm", "one=two").unwrap();

        let report = Report::parse(&text);
        assert_eq!(report.facts.found, found);
        assert_eq!(report.facts.summary, summary);
        assert_eq!(report.facts.others, [("vm".into(), "one=two".into())]);
        assert_eq!(report.others, ["a word of the machine"]);
        assert_eq!(report.planned, Some(3));
        let outcomes: Vec<_> = report.tests.iter().map(|t| t.outcome.clone()).collect();
        assert_eq!(outcomes, [Ok(()), failed, skipped]);
        let test = &report.tests[1];
        assert_eq!(
            (test.group(), test.number, test.elapsed_us),
            ("queues", 2, 12)
        );
        assert_eq!(test.rule, TEST.rule);
        assert_eq!(test.section, TEST.section);
        assert!(!report.good());
    }

    #[test]
    fn report_is_good_only_when_whole() {
        let text = output(&[Event::Plan(2), finished(1, &Ok(()))]);
        assert!(!Report::parse(&text).good());
        let text = output(&[Event::Plan(1), finished(1, &Ok(()))]);
        assert!(Report::parse(&text).good());
        let ok = Ok(());
        let text = output(&[Event::Plan(2), finished(1, &ok), finished(1, &ok)]);
        assert!(!Report::parse(&text).good(), "a result came twice");
        let text = output(&[Event::BailOut("no controller")]);
        let report = Report::parse(&text);
        assert_eq!(report.bail_out.as_deref(), Some("no controller"));
        assert!(!report.good());
        assert!(!Report::default().good());
    }

    #[test]
    fn damaged_lines_are_kept_as_others() {
        let report = Report::parse("ok x - a\nok 1 - a (9 us\n# ferrite: nothing\n1..x");
        assert!(report.tests.is_empty());
        assert_eq!(report.others.len(), 4);
        let report = Report::parse("# ferrite: version=1.x\n# ferrite: namespace=1 size:3");
        assert_eq!(report.facts.others.len(), 2);
        assert_eq!(report.facts.found, Found::default());
    }

    #[test]
    fn yaml_ends_with_its_block() {
        let report = Report::parse("not ok 1 - a.b (1 us)\n  ---\n  other: 3\n  ...\nok 2 - a.c");
        assert_eq!(report.tests.len(), 2);
    }
}
