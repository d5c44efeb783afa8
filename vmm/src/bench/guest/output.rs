//! The figures for people and for programs.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{
    MEMORY_FLOOR,
    results::{GuestResults, Row, Side, Summary},
};

/// Above the columns.
const HEADER: &str = "                              kIOPS      MB/s    p50 us    p99 us  p99.9 us    max us  \
                      +-%   rings   exits   irqs";

impl GuestResults {
    /// Lines for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        for (side, facts) in &self.facts {
            let facts: Vec<String> = facts
                .iter()
                .map(|(key, value)| format!("{key} {value}"))
                .collect();
            writeln!(out, "{side:8} {}", facts.join(", "))?;
        }
        for note in &self.notes {
            writeln!(out, "note     {note}")?;
        }
        let compares = self.qemu.is_some();
        writeln!(
            out,
            "\n{HEADER}  above floor{}",
            if compares {
                "    IOPS x   p50 /   p99 /"
            } else {
                ""
            }
        )?;
        for row in &self.rows {
            self.write_row(out, row)?;
        }
        writeln!(
            out,
            "\nmedians of the rounds; +-: half of what lies between the greatest and the least IOPS; \
             per operation: writes of doorbell registers (rings), exits from KVM to the machine, \
             interrupts"
        )?;
        if compares {
            writeln!(
                out,
                "x, /: how often QEMU's IOPS go into ours, and our latencies into QEMU's; medians \
                 of the ratios within a round"
            )?;
        }
        let (issued, fetched) = self.commands;
        writeln!(
            out,
            "I/O commands by the guests' counts {issued}, by the controller's {fetched}"
        )
    }

    fn write_row(&self, out: &mut String, row: &Row) -> std::fmt::Result {
        let ratio = row.ratio();
        let mut name = row.name.as_str();
        for side in [Side::Ferrite, Side::Qemu] {
            if let Some(summary) = row.summary(side) {
                write!(out, "{name:22} ")?;
                write_summary(out, &summary, row.transfer())?;
                let above = self.above_floor(row, &summary);
                let above = above.map_or_else(String::new, |ns| format!("{:+.1} us", ns / 1000.0));
                write!(out, "  {above:>11}")?;
                match (side, ratio) {
                    (Side::Ferrite, Some(ratio)) => writeln!(
                        out,
                        "  {:8.2} {:7.2} {:7.2}",
                        ratio.iops, ratio.p50, ratio.p99
                    )?,
                    (Side::Ferrite, None) => writeln!(out)?,
                    (Side::Qemu, _) => writeln!(out, "  qemu")?,
                }
                name = "";
            }
        }
        for (side, reason) in &row.skipped {
            writeln!(out, "{name:22} {side} skips it: {reason}")?;
        }
        Ok(())
    }

    /// How much the median latency of a case of one command at a time, by interrupt, is above
    /// that of the floor.
    fn above_floor(&self, row: &Row, summary: &Summary) -> Option<f64> {
        let alone = row.name.starts_with("interrupt.") && row.name.ends_with("-d1-q1");
        let floor = self.get(MEMORY_FLOOR).filter(|_| alone)?;
        Some(summary.p50_ns - floor.summary(Side::Ferrite)?.p50_ns)
    }

    /// The same for programs.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let rows: Vec<Value> = self.rows.iter().map(|row| self.row_json(row)).collect();
        let facts: serde_json::Map<String, Value> = self
            .facts
            .iter()
            .map(|(side, facts)| {
                let facts = facts.iter().map(|(key, value)| (key.clone(), json!(value)));
                (side.to_string(), Value::Object(facts.collect()))
            })
            .collect();
        let (issued, fetched) = self.commands;
        json!({
            "controllers": facts,
            "qemu": self.qemu,
            "notes": self.notes,
            "cases": rows,
            "commands": { "issued": issued, "fetched": fetched },
        })
    }

    fn row_json(&self, row: &Row) -> Value {
        let side = |side| {
            row.summary(side).map(|summary| {
                json!({
                    "iops": summary.iops,
                    "bytes_per_second": row.transfer().map(|bytes| summary.iops * bytes),
                    "spread": summary.spread,
                    "mean_ns": summary.mean_ns,
                    "p50_ns": summary.p50_ns,
                    "p99_ns": summary.p99_ns,
                    "p99.9_ns": summary.p999_ns,
                    "max_ns": summary.max_ns,
                    "above_floor_ns": self.above_floor(row, &summary),
                    "rings_per_op": summary.rings,
                    "exits_per_op": summary.exits,
                    "interrupts_per_op": summary.interrupts,
                    "ops": summary.ops,
                })
            })
        };
        let skipped: Vec<Value> = row
            .skipped
            .iter()
            .map(|(side, reason)| json!({ "on": side.to_string(), "reason": reason }))
            .collect();
        json!({
            "name": row.name,
            "ferrite": side(Side::Ferrite),
            "qemu": side(Side::Qemu),
            "ratio": row.ratio().map(|ratio| {
                json!({ "iops": ratio.iops, "p50": ratio.p50, "p99": ratio.p99 })
            }),
            "skipped": skipped,
        })
    }
}

impl Row {
    /// Bytes of a transfer; floors have none.
    fn transfer(&self) -> Option<f64> {
        let case: nvme_bench::Case = self.name.parse().ok()?;
        Some(f64::from(case.bytes))
    }
}

fn write_summary(out: &mut String, summary: &Summary, bytes: Option<f64>) -> std::fmt::Result {
    let Summary {
        iops,
        spread,
        p50_ns,
        p99_ns,
        p999_ns,
        max_ns,
        rings,
        exits,
        interrupts,
        ..
    } = *summary;
    let rate = bytes.map_or_else(String::new, |bytes| format!("{:.0}", iops * bytes / 1e6));
    let exits = exits.map_or_else(|| "?".to_string(), |exits| format!("{exits:.3}"));
    write!(
        out,
        "{:12.2} {rate:>9} {:9.2} {:9.2} {:9.1} {:9.1} {:4.0} {rings:7.3} {exits:>7} {interrupts:6.3}",
        iops / 1e3,
        p50_ns / 1e3,
        p99_ns / 1e3,
        p999_ns / 1e3,
        max_ns / 1e3,
        spread * 50.0,
    )
}
