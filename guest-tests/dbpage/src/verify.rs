//! Reads a region and says what is wrong with it.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::buffer::Buffer;
use crate::error::Error;
use crate::findings::{Counts, Finding};
use crate::history::Seen;
use crate::journal::Record;
use crate::region::{Region, STRIDE};
use crate::target::{Access, Caching, Target};

/// What to verify, and by what.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Whether to read through the page cache.
    pub caching: Caching,
    /// Where the region begins, in bytes from the target's beginning.
    pub offset: u64,
    /// What was acknowledged.
    pub journals: Vec<PathBuf>,
    /// Nothing crashed: what was acknowledged must be there, durable or not.
    pub no_crash: bool,
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The file or device.
    pub target: PathBuf,
    /// Bytes that were looked at.
    pub bytes: u64,
    /// How many runs of `write` there were.
    pub runs: u32,
    /// Pages that are there, wholly or in part.
    pub pages: usize,
    /// Writes that the journals say were acknowledged.
    pub acknowledged: usize,
    /// Those of them that must be there.
    pub durable: usize,
    /// How many findings there are.
    pub counts: Counts,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// Reads the region and judges it.
///
/// # Errors
/// There is no region, a journal is of another, or something cannot be read. What is torn or lost
/// is no error: it is in the report.
pub fn run(path: &Path, plan: &Plan, mut progress: impl FnMut(u64, u64)) -> Result<Report, Error> {
    let target = Target::open(path, Access::Read, plan.caching)?;
    let region = Region::find(&target, plan.offset)?;
    let record = Record::read(&plan.journals, region.id, plan.no_crash)?;
    let mut seen = Seen::new(region.id, region.first());
    let mut buffer = Buffer::new(usize::try_from(STRIDE).unwrap_or_default());
    let mut at = region.first();
    while at < region.end() {
        target.read(at, buffer.bytes_mut())?;
        seen.add(buffer.bytes());
        at += STRIDE;
        progress(at - region.first(), region.end() - region.first());
    }
    let findings = seen.judge(&record, region.run);
    Ok(Report {
        target: path.to_owned(),
        bytes: region.end() - region.first(),
        runs: region.run,
        pages: seen.writes().len(),
        acknowledged: record.acknowledged.len(),
        durable: record.durable.len(),
        counts: Counts::of(&findings),
        findings,
    })
}
