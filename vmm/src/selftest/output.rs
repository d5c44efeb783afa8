//! What `selftest` prints: a table for people, TAP and JSON for programs.

use std::fmt::{self, Write};

use nvme::Tear;
use nvme_suite::{Found, Namespace, Stop, Writes, tap::TestResult};
use serde_json::{Value, json};

use super::{End, Findings, Results};
use crate::{
    figures::{self, seconds},
    machine::GuestExit,
    options::Size,
};

/// A form of output.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum Format {
    /// A summary for people.
    #[default]
    Table,
    /// The guest's own lines, Test Anything Protocol 13.
    Tap,
    /// One JSON object.
    Json,
}

/// Whether colours are used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Style {
    /// Colours.
    Terminal,
    /// None.
    Plain,
}

impl Style {
    pub(super) const fn wrap(self, code: &'static str) -> (&'static str, &'static str) {
        match self {
            Self::Terminal => (code, "\x1b[0m"),
            Self::Plain => ("", ""),
        }
    }
}

pub(super) const RED: &str = "\x1b[31m";
pub(super) const GREEN: &str = "\x1b[32m";
pub(super) const BOLD: &str = "\x1b[1m";

/// The results of a group's tests.
struct Group<'a> {
    name: &'a str,
    passed: usize,
    failed: usize,
    skipped: usize,
}

fn groups(tests: &[TestResult]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for test in tests {
        let name = test.group();
        if groups.last().is_none_or(|group| group.name != name) {
            groups.push(Group {
                name,
                passed: 0,
                failed: 0,
                skipped: 0,
            });
        }
        let Some(group) = groups.last_mut() else {
            continue;
        };
        match test.outcome {
            Ok(()) => group.passed += 1,
            Err(Stop::Failed(_)) => group.failed += 1,
            Err(Stop::Skipped(_)) => group.skipped += 1,
        }
    }
    groups
}

impl Results {
    /// Writes the summary for people; with `verbose` a line for every test.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_table(&self, out: &mut dyn Write, style: Style, verbose: bool) -> fmt::Result {
        self.write_found(out)?;
        let (bold, off) = style.wrap(BOLD);
        writeln!(
            out,
            "\n{bold}{:<16}{:>8}{:>8}{:>8}{off}",
            "group", "passed", "failed", "skipped"
        )?;
        for group in groups(&self.report.tests) {
            let Group {
                name,
                passed,
                failed,
                skipped,
            } = group;
            let (colour, off) = style.wrap(if failed > 0 { RED } else { "" });
            writeln!(
                out,
                "{colour}{name:<16}{passed:>8}{failed:>8}{skipped:>8}{off}"
            )?;
            if verbose {
                let tests = self.report.tests.iter().filter(|test| test.group() == name);
                tests
                    .into_iter()
                    .try_for_each(|test| write_test(out, style, test))?;
            }
        }
        if !verbose {
            let notable = self
                .report
                .tests
                .iter()
                .filter(|test| test.outcome.is_err());
            for (index, test) in notable.enumerate() {
                if index == 0 {
                    writeln!(out)?;
                }
                write_test(out, style, test)?;
            }
        }
        self.write_figures(out)?;
        if let Some(findings) = &self.lint {
            findings.write_table(out, verbose)?;
        }
        if let Some(trouble) = self.trouble() {
            let (red, off) = style.wrap(RED);
            writeln!(out, "\n{red}{trouble}{off}")?;
        }
        let (passed, failed, skipped) = self.report.totals();
        let (colour, off) = style.wrap(if self.good() { GREEN } else { RED });
        writeln!(
            out,
            "\n{colour}{passed} passed, {failed} failed, {skipped} skipped{off}"
        )
    }

    fn write_found(&self, out: &mut dyn Write) -> fmt::Result {
        let found = &self.report.facts.found;
        let (major, minor, _) = found.version;
        writeln!(
            out,
            "controller    {}, serial {}, firmware {}, NVMe {major}.{minor}",
            found.model, found.serial, found.firmware
        )?;
        writeln!(
            out,
            "queues        {} submission and {} completion, of up to {} entries",
            found.submission_queues, found.completion_queues, found.queue_entries
        )?;
        let transfer = match found.max_transfer_bytes {
            0 => "without limit".to_string(),
            bytes => format!("up to {}", Size(bytes)),
        };
        writeln!(out, "vectors       {} used (MSI-X)", found.vectors)?;
        writeln!(
            out,
            "transfers     {transfer}, memory pages of {} to {}",
            Size(found.min_page_bytes),
            Size(found.max_page_bytes)
        )?;
        for ns in &found.namespaces {
            let bytes = Size(ns.blocks.saturating_mul(ns.block_bytes));
            let (nsid, blocks, lba) = (ns.nsid, ns.blocks, Size(ns.block_bytes));
            writeln!(out, "namespace {nsid:<3} {bytes}: {blocks} blocks of {lba}")?;
            writeln!(out, "              {}", promises(ns))?;
        }
        writeln!(out, "torn writes   {}", tear_words(self.tear))
    }

    fn write_figures(&self, out: &mut dyn Write) -> fmt::Result {
        write!(
            out,
            "\n{}{}",
            figures::controller(&self.stats),
            figures::exits(&self.exits)
        )?;
        writeln!(
            out,
            "time          {} ({} in the guest)",
            seconds(self.total_time),
            seconds(self.guest_time)
        )
    }

    /// What is to follow the guest's own lines, so that TAP says all.
    #[must_use]
    pub fn tap_end(&self) -> String {
        let lint = self.lint.as_ref().map(Findings::to_tap).unwrap_or_default();
        let Some(trouble) = self.trouble().filter(|_| self.report.bail_out.is_none()) else {
            return lint;
        };
        let mut lines = trouble.lines();
        let first = format!("{lint}Bail out! {}\n", lines.next().unwrap_or_default());
        lines.fold(first, |text, line| text + "# " + line + "\n")
    }

    /// Everything as one JSON object.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let (passed, failed, skipped) = self.report.totals();
        let groups: Vec<Value> = groups(&self.report.tests)
            .iter()
            .map(|group| {
                json!({
                    "name": group.name, "passed": group.passed, "failed": group.failed,
                    "skipped": group.skipped,
                })
            })
            .collect();
        let exits: serde_json::Map<String, Value> = self
            .exits
            .iter()
            .map(|(kind, count)| (kind.replace(' ', "_"), count.into()))
            .collect();
        json!({
            "passed": self.good(),
            "trouble": self.trouble(),
            "guest_exit_code": match self.end {
                End::Exit(GuestExit::Code(code)) => Some(code),
                _ => None,
            },
            "controller": controller_json(&self.report.facts.found),
            "tear": tear_name(self.tear),
            "groups": groups,
            "tests": self.report.tests.iter().map(test_json).collect::<Vec<_>>(),
            "summary": { "passed": passed, "failed": failed, "skipped": skipped },
            "commands": {
                "admin": self.stats.admin_commands,
                "io": self.stats.io_commands,
                "interrupts": self.stats.interrupts,
                "bytes_written": self.stats.bytes_written,
                "bytes_read": self.stats.bytes_read,
            },
            "vm_exits": exits,
            "lint": self.lint.as_ref().map(Findings::to_json),
            "seconds": { "total": self.total_time.as_secs_f64(), "guest": self.guest_time.as_secs_f64() },
        })
    }
}

fn write_test(out: &mut dyn Write, style: Style, test: &TestResult) -> fmt::Result {
    match &test.outcome {
        Ok(()) => writeln!(out, "  ok      {} ({} us)", test.name, test.elapsed_us),
        Err(Stop::Skipped(reason)) => writeln!(out, "  skipped {}: {reason}", test.name),
        Err(Stop::Failed(message)) => {
            let (red, off) = style.wrap(RED);
            writeln!(out, "  {red}FAILED  {}{off}: {message}", test.name)?;
            writeln!(out, "          rule: {} ({})", test.rule, test.section)
        }
    }
}

/// What a controller is.
pub(super) fn controller_json(found: &Found) -> Value {
    let (major, minor, tertiary) = found.version;
    let namespaces: Vec<Value> = found.namespaces.iter().map(namespace_json).collect();
    json!({
        "model": found.model,
        "serial": found.serial,
        "firmware": found.firmware,
        "version": format!("{major}.{minor}.{tertiary}"),
        "submission_queues": found.submission_queues,
        "completion_queues": found.completion_queues,
        "queue_entries": found.queue_entries,
        "vectors": found.vectors,
        "max_transfer_bytes": found.max_transfer_bytes,
        "namespaces": namespaces,
    })
}

/// A namespace: sizes in blocks of its current format, as Identify has them, and in bytes.
fn namespace_json(ns: &Namespace) -> Value {
    let size = |blocks: u32| (blocks != 0).then(|| size_json(ns, blocks));
    let writes = &ns.writes;
    json!({
        "nsid": ns.nsid,
        "blocks": ns.blocks,
        "lba_bytes": ns.block_bytes,
        "indirection_unit": size(writes.granularity),
        "atomic_unit": size(writes.unit),
        "atomic_unit_power_fail": size(writes.unit_power_fail),
        "atomic_compare_and_write_unit": size(writes.compare_and_write),
        "boundary": size(writes.boundary),
        "boundary_power_fail": size(writes.boundary_power_fail),
        "boundary_offset": size_json(ns, writes.boundary_offset),
        "multiple_atomicity_mode": writes.multiple,
    })
}

fn size_json(ns: &Namespace, blocks: u32) -> Value {
    json!({ "blocks": blocks, "bytes": ns.block_bytes.saturating_mul(blocks.into()) })
}

/// What a namespace recommends and promises of writes, in words.
pub(super) fn promises(ns: &Namespace) -> String {
    /// A unit of as many blocks as a command can have: whatever is written is atomic.
    const EVERY_COMMAND: u32 = 65_536;
    let bytes = |blocks: u32| Size(ns.block_bytes.saturating_mul(blocks.into()));
    let unit = |blocks: u32| match blocks {
        EVERY_COMMAND => "every write".to_string(),
        1 => format!("{} (1 block)", bytes(1)),
        _ => format!("{} ({blocks} blocks)", bytes(blocks)),
    };
    let Writes {
        granularity,
        unit: normal,
        unit_power_fail,
        compare_and_write,
        boundary,
        boundary_power_fail,
        boundary_offset,
        multiple,
    } = ns.writes;
    let indirection = match granularity {
        0 => "no indirection unit told".to_string(),
        _ => format!("indirection unit {}", unit(granularity)),
    };
    let mut text = format!(
        "{indirection}; atomic {}, when the power fails {}",
        unit(normal),
        unit(unit_power_fail)
    );
    if compare_and_write != 0 {
        text += &format!(", compare and write {}", unit(compare_and_write));
    }
    if boundary != 0 || boundary_power_fail != 0 {
        let every = |blocks: u32| match blocks {
            0 => "none".to_string(),
            _ => bytes(blocks).to_string(),
        };
        let offset = match boundary_offset {
            0 => String::new(),
            lba => format!(" from LBA {lba}"),
        };
        let over = if multiple {
            "atomic in parts (MAM 1)"
        } else {
            "not atomic (MAM 0)"
        };
        text += &format!(
            "; boundaries {}, when the power fails {}{offset}: a write over one is {over}",
            every(boundary),
            every(boundary_power_fail),
        );
    }
    text
}

const fn tear_name(tear: Tear) -> &'static str {
    match tear {
        Tear::Never => "never",
        Tear::Legal => "legal",
        Tear::Always => "always",
    }
}

const fn tear_words(tear: Tear) -> &'static str {
    match tear {
        Tear::Never => "never: every write is executed at once",
        Tear::Legal => "legal: those above their atomic unit or over a boundary",
        Tear::Always => "always: every write of several blocks, whatever is promised",
    }
}

fn test_json(test: &TestResult) -> Value {
    let (outcome, message) = match &test.outcome {
        Ok(()) => ("passed", None),
        Err(Stop::Failed(message)) => ("failed", Some(message)),
        Err(Stop::Skipped(reason)) => ("skipped", Some(reason)),
    };
    json!({
        "name": test.name, "group": test.group(), "outcome": outcome, "message": message,
        "microseconds": test.elapsed_us,
    })
}
