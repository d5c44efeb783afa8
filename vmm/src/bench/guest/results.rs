//! What was measured, and what it comes to over the rounds.

use std::fmt;

use nvme_bench::Measured;

use super::boot::Run;
use crate::{bench::sample::quantile, peer::Qemu};

/// Whose controller, in whose machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// Ours.
    Ferrite,
    /// QEMU's nvme device.
    Qemu,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ferrite => "ferrite",
            Self::Qemu => "qemu",
        })
    }
}

/// A case of one round.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sample {
    /// What the guest measured.
    pub measured: Measured,
    /// Exits of the CPU to the machine meanwhile, but those for ports; unknown of QEMU's machine.
    pub exits: Option<u64>,
}

/// A case or floor over the rounds.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// On our controller, a sample a round.
    pub ferrite: Vec<Sample>,
    /// On QEMU's.
    pub qemu: Vec<Sample>,
    /// Why one of them cannot have it.
    pub skipped: Vec<(Side, String)>,
}

/// A side of a case: medians over the rounds.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Summary {
    /// Operations a second.
    pub iops: f64,
    /// The greatest less the least IOPS of the rounds, by the median.
    pub spread: f64,
    /// Latencies in nanoseconds: mean, median, 99 and 99.9 of 100.
    pub mean_ns: f64,
    /// The median.
    pub p50_ns: f64,
    /// What 99 of 100 do not exceed.
    pub p99_ns: f64,
    /// What 999 of 1,000 do not exceed.
    pub p999_ns: f64,
    /// The greatest.
    pub max_ns: f64,
    /// Doorbell registers written, per operation.
    pub rings: f64,
    /// Exits to the machine, per operation.
    pub exits: Option<f64>,
    /// Interrupts, per operation.
    pub interrupts: f64,
    /// Operations in all, of all rounds.
    pub ops: u64,
}

/// How two sides compare: medians of the ratios within each round.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Ratio {
    /// Our IOPS by QEMU's.
    pub iops: f64,
    /// QEMU's median latency by ours.
    pub p50: f64,
    /// QEMU's 99th percentile by ours.
    pub p99: f64,
}

/// Everything.
#[derive(Clone, PartialEq, Debug)]
pub struct GuestResults {
    /// Cases in the order they ran, then the floors.
    pub rows: Vec<Row>,
    /// The release of QEMU, if there is one.
    pub qemu: Option<String>,
    /// What is to be known.
    pub notes: Vec<String>,
    /// What the guests said of each controller.
    pub facts: Vec<(Side, Vec<(String, String)>)>,
    /// I/O commands that guests say they issued to our controller, and that it fetched.
    pub commands: (u64, u64),
}

impl Sample {
    #[expect(clippy::cast_precision_loss, reason = "counts and times below 2^52")]
    fn iops(&self) -> f64 {
        let Measured { ops, ns, .. } = self.measured;
        ops as f64 / (ns as f64 * 1e-9)
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts and times below 2^52")]
fn float(count: u64) -> f64 {
    count as f64
}

/// The median over samples of one of their values.
fn median(samples: &[Sample], value: impl Fn(&Sample) -> f64) -> f64 {
    let values: Vec<f64> = samples.iter().map(value).collect();
    quantile(&values, 0.5)
}

impl Summary {
    /// Of the rounds of one side; `None` without one.
    #[must_use]
    pub fn of(samples: &[Sample]) -> Option<Self> {
        let first = samples.first()?;
        let iops: Vec<f64> = samples.iter().map(Sample::iops).collect();
        let middle = quantile(&iops, 0.5);
        let latency =
            |value: fn(&Measured) -> u64| median(samples, |sample| float(value(&sample.measured)));
        let per_op = |value: fn(&Sample) -> u64| {
            median(samples, |sample| {
                float(value(sample)) / float(sample.measured.all_ops.max(1))
            })
        };
        Some(Self {
            iops: middle,
            spread: (quantile(&iops, 1.0) - quantile(&iops, 0.0)) / middle,
            mean_ns: latency(|measured| measured.mean),
            p50_ns: latency(|measured| measured.p50),
            p99_ns: latency(|measured| measured.p99),
            p999_ns: latency(|measured| measured.p999),
            max_ns: latency(|measured| measured.max),
            rings: per_op(|sample| sample.measured.rings),
            exits: first
                .exits
                .map(|_| per_op(|sample| sample.exits.unwrap_or_default())),
            interrupts: per_op(|sample| sample.measured.interrupts),
            ops: samples.iter().map(|sample| sample.measured.ops).sum(),
        })
    }
}

impl Row {
    /// One side's figures.
    #[must_use]
    pub fn summary(&self, side: Side) -> Option<Summary> {
        Summary::of(match side {
            Side::Ferrite => &self.ferrite,
            Side::Qemu => &self.qemu,
        })
    }

    /// How they compare; `None` unless both have it.
    #[must_use]
    pub fn ratio(&self) -> Option<Ratio> {
        let pairs = || self.ferrite.iter().zip(&self.qemu);
        pairs().next()?;
        let ratio = |of: &dyn Fn(&Sample, &Sample) -> f64| {
            let ratios: Vec<f64> = pairs().map(|(ours, theirs)| of(ours, theirs)).collect();
            quantile(&ratios, 0.5)
        };
        let latency = |value: fn(&Measured) -> u64| {
            ratio(&|ours, theirs| float(value(&theirs.measured)) / float(value(&ours.measured)))
        };
        Some(Ratio {
            iops: ratio(&|ours, theirs| ours.iops() / theirs.iops()),
            p50: latency(|measured| measured.p50),
            p99: latency(|measured| measured.p99),
        })
    }
}

impl GuestResults {
    pub(super) fn new(qemu: Option<&Qemu>, notes: Vec<String>) -> Self {
        Self {
            rows: Vec::new(),
            qemu: qemu.map(|qemu| qemu.version.to_string()),
            notes,
            facts: Vec::new(),
            commands: (0, 0),
        }
    }

    /// Adds what came of a guest.
    pub(super) fn add(&mut self, side: Side, run: Run) {
        for (name, sample) in run.samples {
            let at = self.place(&name);
            if let Some(row) = self.rows.get_mut(at) {
                match side {
                    Side::Ferrite => row.ferrite.push(sample),
                    Side::Qemu => row.qemu.push(sample),
                }
            }
        }
        for (name, reason) in run.report.skipped {
            let (at, reason) = (self.place(&name), (side, reason));
            if let Some(row) = self.rows.get_mut(at)
                && !row.skipped.contains(&reason)
            {
                row.skipped.push(reason);
            }
        }
        if !self.facts.iter().any(|(whose, _)| *whose == side) {
            self.facts.push((side, run.report.facts));
        }
        if let (Some(said), Some(fetched)) = (run.report.ended, run.fetched) {
            self.commands.0 += said;
            self.commands.1 += fetched;
        }
    }

    /// A case or floor by its name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }

    /// Where a case or floor is; made if it is not there.
    fn place(&mut self, name: &str) -> usize {
        let is_floor = |name: &str| name.starts_with("floor.");
        if let Some(at) = self.rows.iter().position(|row| row.name == name) {
            return at;
        }
        // The floors, which run before their group's cases, come last.
        let floors = self.rows.iter().position(|row| is_floor(&row.name));
        let at = floors
            .filter(|_| !is_floor(name))
            .unwrap_or(self.rows.len());
        let row = Row {
            name: name.to_string(),
            ..Row::default()
        };
        self.rows.insert(at, row);
        at
    }
}
