//! What a comparison prints: a line a test for people, TAP and JSON for programs.

use std::fmt::{self, Write};

use nvme_suite::{Found, Outcome, Stop};
use serde_json::{Value, json};

use super::{Comparison, Counts, Row, Verdict};
use crate::figures::seconds;
use crate::options::Size;
use crate::selftest::output::{BOLD, GREEN, RED, Style, controller_json, promises};

/// The width of the first column of outcomes.
const OUTCOME: usize = 9;

impl Comparison {
    /// Writes both columns and what differs, for people.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_table(&self, out: &mut dyn Write, style: Style) -> fmt::Result {
        let Self {
            ferrite, qemu, run, ..
        } = self;
        write_found(out, "ferrite", &ferrite.report.facts.found, "kvm")?;
        write_found(out, "qemu", &run.report.facts.found, run.ended.accelerator)?;
        for note in &self.notes {
            writeln!(out, "note          {note}")?;
        }
        let width = self.rows.iter().map(|row| row.name.len()).max();
        let width = width.unwrap_or(0).max(4) + 2;
        let (bold, off) = style.wrap(BOLD);
        writeln!(
            out,
            "\n{bold}{:<width$}{:<OUTCOME$}qemu{off}",
            "test", "ferrite"
        )?;
        for row in &self.rows {
            write_row(out, style, row, width)?;
        }
        writeln!(out)?;
        for (name, report, elapsed) in [
            ("ferrite", &ferrite.report, ferrite.guest_time),
            ("qemu", &run.report, run.ended.elapsed),
        ] {
            let (passed, failed, skipped) = report.totals();
            let version = match name {
                "qemu" => format!(" (QEMU {})", qemu.version),
                _ => String::new(),
            };
            writeln!(
                out,
                "{name:<14}{passed} passed, {failed} failed, {skipped} skipped in {}{version}",
                seconds(elapsed)
            )?;
        }
        let (red, off) = style.wrap(RED);
        for trouble in [ferrite.trouble(), self.trouble()].iter().flatten() {
            writeln!(out, "\n{red}{trouble}{off}")?;
        }
        let (colour, off) = style.wrap(if self.good() { GREEN } else { RED });
        writeln!(out, "\n{colour}{}{off}", self.summary())
    }

    /// How many tests there are, and how many differ, in a line.
    #[must_use]
    pub fn summary(&self) -> String {
        let Counts {
            alike,
            failed,
            skipped,
            unexplained,
        } = self.counts();
        let tests = self.rows.len();
        format!(
            "{tests} tests: {alike} alike, {failed} that QEMU fails and {skipped} that one of both \
             skips for a known reason, {unexplained} unexplained"
        )
    }

    /// A test point for each test: `ok` unless our controller fails it or it differs and nobody
    /// knows why; skipped if both skip it.
    #[must_use]
    pub fn to_tap(&self) -> String {
        let mut text = format!("TAP version 13\n1..{}\n", self.rows.len());
        for (number, row) in (1..).zip(&self.rows) {
            let not = if row.good() { "" } else { "not " };
            let skip = match (&row.ferrite, &row.qemu) {
                (Some(Err(Stop::Skipped(reason))), Some(Err(Stop::Skipped(_)))) => {
                    format!(" # SKIP {reason}")
                }
                _ => String::new(),
            };
            text += &format!("{not}ok {number} - {}{skip}\n", row.name);
            if row.verdict == Verdict::Alike && row.good() {
                continue;
            }
            text += "  ---\n";
            for (key, outcome) in [("ferrite", &row.ferrite), ("qemu", &row.qemu)] {
                let (word, message) = words(outcome.as_ref());
                text += &format!("  {key}: {word}\n");
                if let Some(message) = message {
                    text += &format!("  {key}_message: {}\n", Value::from(message));
                }
            }
            if let Some((kind, why)) = row.why() {
                text += &format!("  {kind}: {}\n", Value::from(why));
            }
            text += "  ...\n";
        }
        for note in &self.notes {
            text += &format!("# {note}\n");
        }
        text += &format!("# {}\n", self.summary());
        for trouble in [self.ferrite.trouble(), self.trouble()].iter().flatten() {
            text += &format!("Bail out! {}\n", trouble.replace('\n', "\n# "));
        }
        text
    }

    /// Everything as one JSON object: `ferrite` is what a run without a peer says.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let Self {
            ferrite, qemu, run, ..
        } = self;
        let counts = self.counts();
        let (passed, failed, skipped) = run.report.totals();
        let tests: Vec<Value> = self.rows.iter().map(Row::to_json).collect();
        json!({
            "passed": self.good(),
            "trouble": ferrite.trouble().or_else(|| self.trouble()),
            "notes": self.notes,
            "tests": tests,
            "summary": {
                "alike": counts.alike,
                "qemu_fails": counts.failed,
                "one_skips": counts.skipped,
                "unexplained": counts.unexplained,
            },
            "ferrite": ferrite.to_json(),
            "qemu": {
                "program": qemu.program.display().to_string(),
                "version": qemu.version.to_string(),
                "accelerator": run.ended.accelerator,
                "command": run.ended.command,
                "trouble": self.trouble(),
                "controller": controller_json(&run.report.facts.found),
                "summary": { "passed": passed, "failed": failed, "skipped": skipped },
                "seconds": run.ended.elapsed.as_secs_f64(),
            },
        })
    }
}

impl Row {
    /// Whether there is nothing to mend.
    fn good(&self) -> bool {
        !matches!(self.verdict, Verdict::Unexplained(_))
            && !matches!(self.ferrite, Some(Err(Stop::Failed(_))))
    }

    /// What is said of the difference, and how it is called.
    fn why(&self) -> Option<(&'static str, &str)> {
        match &self.verdict {
            Verdict::Alike => None,
            Verdict::Explained(why) => Some(("reason", why)),
            Verdict::Unexplained(why) => Some(("unexplained", why)),
        }
    }

    fn to_json(&self) -> Value {
        let outcome = |outcome: &Option<Outcome>| {
            let (word, message) = words(outcome.as_ref());
            json!({ "outcome": word, "message": message })
        };
        let why = self.why();
        json!({
            "name": self.name,
            "ferrite": outcome(&self.ferrite),
            "qemu": outcome(&self.qemu),
            "alike": why.is_none(),
            "explained": !matches!(self.verdict, Verdict::Unexplained(_)),
            "reason": why.map(|(_, why)| why),
        })
    }
}

/// An outcome in a word, and what the test said.
fn words(outcome: Option<&Outcome>) -> (&'static str, Option<&str>) {
    match outcome {
        None => ("missing", None),
        Some(Ok(())) => ("passed", None),
        Some(Err(Stop::Failed(message))) => ("failed", Some(message)),
        Some(Err(Stop::Skipped(reason))) => ("skipped", Some(reason)),
    }
}

/// A test's line; where the outcomes differ, what was said and why.
fn write_row(out: &mut dyn Write, style: Style, row: &Row, width: usize) -> fmt::Result {
    let (red, off) = style.wrap(if row.good() { "" } else { RED });
    let column = |outcome: &Option<Outcome>| match words(outcome.as_ref()).0 {
        "passed" => "ok",
        "failed" => "FAILED",
        word => word,
    };
    writeln!(
        out,
        "{red}{:<width$}{:<OUTCOME$}{}{off}",
        row.name,
        column(&row.ferrite),
        column(&row.qemu)
    )?;
    for (name, outcome) in [("ferrite", &row.ferrite), ("qemu", &row.qemu)] {
        if let Some(Err(Stop::Failed(message))) = outcome {
            writeln!(out, "    {name}: {message}")?;
        }
    }
    match row.why() {
        Some((kind, why)) => writeln!(out, "    {red}{kind}: {why}{off}"),
        None => Ok(()),
    }
}

/// What a controller is, in two lines.
fn write_found(out: &mut dyn Write, name: &str, found: &Found, accelerator: &str) -> fmt::Result {
    let (major, minor, _) = found.version;
    writeln!(
        out,
        "{name:<14}{}, firmware {}, NVMe {major}.{minor}, on {accelerator}",
        found.model, found.firmware
    )?;
    writeln!(
        out,
        "              {} queue pairs of {} entries, {} vectors, transfers of {}",
        found.submission_queues,
        found.queue_entries,
        found.vectors,
        Size(found.max_transfer_bytes),
    )?;
    found.namespaces.iter().try_for_each(|ns| {
        let (size, lba) = (Size(ns.bytes()), Size(ns.block_bytes));
        let (nsid, promises) = (ns.nsid, promises(ns));
        writeln!(out, "  namespace {nsid:<3} {size} of {lba}; {promises}")
    })
}
