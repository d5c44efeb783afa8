//! What the guest prints, and how it is read.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use crate::Histogram;

/// How each line begins.
const MARK: &str = "bench: ";

/// What was measured of one case.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Measured {
    /// Operations that ended in the time measured.
    pub ops: u64,
    /// The time measured, in nanoseconds.
    pub ns: u64,
    /// All operations of the case, those of warming up and of the end included.
    pub all_ops: u64,
    /// The mean latency in nanoseconds, as all latencies of those in the time measured.
    pub mean: u64,
    /// What half of the latencies does not exceed.
    pub p50: u64,
    /// What 99 of 100 do not exceed.
    pub p99: u64,
    /// What 999 of 1,000 do not exceed.
    pub p999: u64,
    /// The greatest.
    pub max: u64,
    /// Writes of doorbell registers, of all operations.
    pub rings: u64,
    /// Interrupts that came, of all operations.
    pub interrupts: u64,
}

impl Measured {
    /// What a histogram says of `ns` nanoseconds; counts beside it are 0.
    #[must_use]
    pub fn of(histogram: &Histogram, ns: u64) -> Self {
        Self {
            ops: histogram.count(),
            ns,
            mean: histogram.mean(),
            p50: histogram.quantile(500),
            p99: histogram.quantile(990),
            p999: histogram.quantile(999),
            max: histogram.max(),
            ..Self::default()
        }
    }

    fn fields(&self) -> [(&'static str, u64); 10] {
        [
            ("ops", self.ops),
            ("ns", self.ns),
            ("all", self.all_ops),
            ("mean", self.mean),
            ("p50", self.p50),
            ("p99", self.p99),
            ("p999", self.p999),
            ("max", self.max),
            ("rings", self.rings),
            ("irqs", self.interrupts),
        ]
    }

    fn field(&mut self, name: &str) -> Option<&mut u64> {
        Some(match name {
            "ops" => &mut self.ops,
            "ns" => &mut self.ns,
            "all" => &mut self.all_ops,
            "mean" => &mut self.mean,
            "p50" => &mut self.p50,
            "p99" => &mut self.p99,
            "p999" => &mut self.p999,
            "max" => &mut self.max,
            "rings" => &mut self.rings,
            "irqs" => &mut self.interrupts,
            _ => return None,
        })
    }

    /// Reads `ops=1 ns=2 …`: every field once, in any order.
    fn parse(text: &str) -> Option<Self> {
        let mut measured = Self::default();
        let mut seen = Vec::new();
        for word in text.split_whitespace() {
            let (name, value) = word.split_once('=')?;
            if seen.contains(&name) {
                return None;
            }
            *measured.field(name)? = value.parse().ok()?;
            seen.push(name);
        }
        (seen.len() == measured.fields().len()).then_some(measured)
    }
}

/// A line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Line<'l> {
    /// Something about the controller or the run.
    Fact {
        /// What.
        key: &'l str,
        /// How it is.
        value: &'l str,
    },
    /// A case begins.
    Begin {
        /// Its name.
        case: &'l str,
    },
    /// A case has ended; its loop did before this was printed.
    Done {
        /// Its name.
        case: &'l str,
        /// What came of it.
        measured: &'l Measured,
    },
    /// A case that this controller cannot have.
    Skipped {
        /// Its name.
        case: &'l str,
        /// Why.
        reason: &'l str,
    },
    /// The run gives up.
    Failed {
        /// Why.
        reason: &'l str,
    },
    /// The run has ended.
    End {
        /// I/O commands of the whole run.
        commands: u64,
    },
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MARK)?;
        match *self {
            Self::Fact { key, value } => write!(f, "fact {key}={}", OneLine(value)),
            Self::Begin { case } => write!(f, "begin {case}"),
            Self::Done { case, measured } => {
                write!(f, "done {case}")?;
                for (name, value) in measured.fields() {
                    write!(f, " {name}={value}")?;
                }
                Ok(())
            }
            Self::Skipped { case, reason } => write!(f, "skipped {case} {}", OneLine(reason)),
            Self::Failed { reason } => write!(f, "failed {}", OneLine(reason)),
            Self::End { commands } => write!(f, "end {commands}"),
        }
    }
}

/// Text with its line ends and other control characters as spaces.
struct OneLine<'t>(&'t str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            fmt::Write::write_char(f, if c.is_control() { ' ' } else { c })?;
        }
        Ok(())
    }
}

/// A run's output, read line by line.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// What is said of the controller and the run.
    pub facts: Vec<(String, String)>,
    /// The case that has begun and not ended.
    pub running: Option<String>,
    /// What was measured, by name, in order.
    pub done: Vec<(String, Measured)>,
    /// Cases that the controller cannot have, and why.
    pub skipped: Vec<(String, String)>,
    /// Why the run gave up.
    pub failed: Option<String>,
    /// I/O commands of the whole run, once it has ended.
    pub ended: Option<u64>,
    /// Lines that are none of these, or come where they cannot, in order.
    pub others: Vec<String>,
}

impl Report {
    /// Reads one line, without its end.
    pub fn feed(&mut self, line: &str) {
        // What a guest prints must not reach a terminal's controls.
        let line = line
            .trim_end_matches(['\r', '\n'])
            .replace(char::is_control, "\u{FFFD}");
        if !line.is_empty() && self.accept(&line).is_none() {
            self.others.push(line);
        }
    }

    /// A fact's value.
    #[must_use]
    pub fn fact(&self, key: &str) -> Option<&str> {
        let mut facts = self.facts.iter();
        let (_, value) = facts.find(|(name, _)| name == key)?;
        Some(value)
    }

    fn accept(&mut self, line: &str) -> Option<()> {
        let line = line.strip_prefix(MARK)?;
        let (word, rest) = line.split_once(' ')?;
        match word {
            "fact" => {
                let (key, value) = rest.split_once('=')?;
                self.facts.push((key.to_string(), value.to_string()));
            }
            "begin" if self.running.is_none() => self.running = Some(rest.to_string()),
            "done" => {
                let (case, fields) = rest.split_once(' ')?;
                let measured = Measured::parse(fields)?;
                self.running.take_if(|running| running == case)?;
                self.done.push((case.to_string(), measured));
            }
            "skipped" => {
                let (case, reason) = rest.split_once(' ')?;
                self.skipped.push((case.to_string(), reason.to_string()));
            }
            "failed" => self.failed = Some(rest.to_string()),
            "end" if self.ended.is_none() => self.ended = Some(rest.parse().ok()?),
            _ => return None,
        }
        Some(())
    }

    /// What is wrong with a run that is over; `None` if it went to its end.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        if let Some(reason) = &self.failed {
            let during = self.running.as_ref();
            let during = during.map_or_else(String::new, |case| format!(" in {case}"));
            return Some(format!("the guest gave up{during}: {reason}"));
        }
        if self.ended.is_none() {
            let during = match (&self.running, self.done.last()) {
                (Some(case), _) => format!("in {case}"),
                (None, Some((case, _))) => format!("after {case}"),
                (None, None) => "before the first case".to_string(),
            };
            let words = self.others.iter().rev().take(5).rev();
            let words: String = words.map(|line| format!("\n  {line}")).collect();
            return Some(format!("the guest's output ends {during}{words}"));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured() -> Measured {
        let mut histogram = Histogram::new();
        for ns in [900, 1000, 1100, 40_000] {
            histogram.record(ns);
        }
        Measured {
            all_ops: 7,
            rings: 3,
            interrupts: 2,
            ..Measured::of(&histogram, 43_000)
        }
    }

    fn read(lines: &[Line<'_>]) -> Report {
        let mut report = Report::default();
        for line in lines {
            report.feed(&format!("{line}\r\n"));
        }
        report
    }

    #[test]
    fn what_is_written_is_read_back() {
        let measured = measured();
        let case = "polled.read-4K-d1-q1";
        let mut report = read(&[
            Line::Fact {
                key: "model",
                value: "A model = with\nsigns",
            },
            Line::Begin { case },
            Line::Done {
                case,
                measured: &measured,
            },
            Line::Skipped {
                case: "other",
                reason: "it has one queue",
            },
        ]);
        assert!(report.trouble().expect("no end").contains("after polled"));
        report.feed(&format!("{}", Line::End { commands: 9 }));
        assert_eq!(report.fact("model"), Some("A model = with signs"));
        assert_eq!(report.done, [(case.into(), measured)]);
        assert_eq!(
            report.skipped,
            [("other".into(), "it has one queue".into())]
        );
        assert_eq!((report.ended, report.trouble()), (Some(9), None));
        assert_eq!(report.others, [""; 0]);
    }

    #[test]
    fn a_run_that_ends_too_early_is_told_of() {
        let mut report = read(&[Line::Begin { case: "a" }]);
        report.feed("PANIC: \x1b[2J");
        let trouble = report.trouble().expect("no end");
        assert!(trouble.contains("in a") && trouble.contains("PANIC: \u{FFFD}[2J"));
        report.feed(&format!("{}", Line::Failed { reason: "why" }));
        assert_eq!(
            report.trouble().as_deref(),
            Some("the guest gave up in a: why")
        );
    }

    #[test]
    fn damaged_lines_are_kept_as_others() {
        let whole = format!(
            "{}",
            Line::Done {
                case: "a",
                measured: &measured()
            }
        );
        let mut report = read(&[Line::Begin { case: "a" }]);
        for line in [
            "bench: done b ops=1",
            "bench: begin b",
            "bench: end x",
            "bench: fact",
            "words",
            &whole.replace("ops=4", "ops=-4"),
            &whole.replace("ops=4", "nonesuch=4"),
            &whole.replace("ops=4", "ns=4"),
            &whole.replace(" ops=4", ""),
        ] {
            report.feed(line);
        }
        assert_eq!(report.others.len(), 9, "{report:?}");
        report.feed(&whole);
        report.feed(&whole);
        assert_eq!((report.done.len(), report.others.len()), (1, 10));
    }
}
