//! `ferrite bench guest`: a guest on KVM that does nothing but drive the controller.
//!
//! The test kernel runs [`nvme_bench`]'s cases on the built-in machine, and for a comparison on
//! QEMU's nvme device. A machine's speed changes from second to second, so no figure stands alone:
//! groups of cases take turns, a guest of ours and a guest of QEMU's, round after round, what
//! counts are the ratios within a round, and the median over the rounds is shown with its spread.
//! Beside the interrupts stands their floor: a function that answers at once (`answerer`).

mod answerer;
mod boot;
mod output;
mod results;

use std::{io, time::Duration};

use nvme_bench::{Case, Wait, cases};
use nvme_suite::Filter;
use thiserror::Error;

use self::boot::{Boot, Guest, QemuDrive};
use crate::{
    attach::AttachError,
    machine::{MachineError, RunError},
    options::{Backend, NvmeOptions, OptionError, Size},
    peer::{Qemu, QemuError, QemuNvme},
};

pub use self::results::{GuestResults, Row, Sample, Side, Summary};

/// The floors, as the test kernel knows them.
pub const FLOORS: [&str; 2] = ["floor.exit", "floor.memory"];
/// The floor of a controller whose doorbells are in memory.
pub(crate) const MEMORY_FLOOR: &str = FLOORS[1];
/// The least and the most memory that makes sense: buffers and queues must fit, and the kernel
/// uses nothing above 3 GiB.
const MEMORY: (u64, u64) = (64 << 20, 3 << 30);
/// What QEMU's nvme device lacks, as far as it matters for its figures.
const QEMU_LACKS: [&str; 3] = [
    "qemu: its nvme has no iothread: all commands are served by the main loop's thread, which \
     sleeps when there are none; ours polls for a while first (poll=)",
    "qemu: it sets the event index whenever it has served a queue, so that a host with one command \
     outstanding writes the doorbell's register for each",
    "qemu: exits to it are not counted here; each write of a doorbell's register is an exit of \
     the CPU at least to KVM, on both sides",
];
/// How long a guest may take beside what it measures.
const PATIENCE: Duration = Duration::from_secs(60);

/// What to measure.
#[derive(Clone, Debug)]
pub struct GuestBench {
    /// The controller.
    pub nvme: NvmeOptions,
    /// Which cases, as globs over their names; empty for all.
    pub filter: String,
    /// How long each case is measured, over all rounds.
    pub time: Duration,
    /// How often the cases take turns.
    pub rounds: u32,
    /// The guest's memory in bytes.
    pub memory: u64,
}

/// How far a run is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GuestProgress<'p> {
    /// Cases and floors done, of all rounds.
    pub done: usize,
    /// All there are.
    pub all: usize,
    /// What was done last, and where.
    pub last: (&'p str, Side),
}

/// It could not be measured.
#[derive(Debug, Error)]
pub enum GuestBenchError {
    /// An option.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// A pattern of the filter picks nothing.
    #[error("--filter {0}: no case has this name; `ferrite bench guest --list` lists them")]
    Unmatched(String),
    /// The guest's memory.
    #[error("--memory {}: the test kernel runs with {} to {}", Size(*.0), Size(MEMORY.0), Size(MEMORY.1))]
    Memory(u64),
    /// The machine and the controller.
    #[error(transparent)]
    Testbed(#[from] AttachError),
    /// The function that answers.
    #[error(transparent)]
    Answerer(#[from] pci::ConfigError),
    /// Its place on the bus, its vector.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// Its thread.
    #[error("a thread cannot be started")]
    Thread(#[source] io::Error),
    /// The machine could not be completed, or the guest died.
    #[error(transparent)]
    Run(#[from] RunError),
    /// QEMU.
    #[error(transparent)]
    Qemu(#[from] QemuError),
    /// The guest ran, and did not do what it was asked for.
    #[error("on {side}: {trouble}")]
    Guest {
        /// Whose controller it had.
        side: Side,
        /// What went wrong.
        trouble: String,
    },
}

/// Cases that one guest takes one after the other.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Group {
    cases: Vec<Case>,
    floors: bool,
}

/// The names of all cases and floors, in the order they run.
#[must_use]
pub fn names() -> Vec<String> {
    let floors = FLOORS.iter().map(ToString::to_string);
    let cases = cases();
    cases.iter().map(Case::to_string).chain(floors).collect()
}

/// Picks cases. Those that wait in the same way and transfer as much are a group; with those that
/// wait for interrupts come the floors.
fn groups(patterns: &str) -> Result<Vec<Group>, GuestBenchError> {
    let all = names();
    let each = patterns.split(',').map(|one| one.trim_start_matches('!'));
    for pattern in each.filter(|pattern| !pattern.is_empty()) {
        let filter = Filter::new(pattern);
        if !all.iter().any(|name| filter.matches(name)) {
            return Err(GuestBenchError::Unmatched(pattern.to_string()));
        }
    }
    let filter = Filter::new(patterns);
    let mut groups: Vec<Group> = Vec::new();
    for case in cases() {
        if !filter.matches(&case.to_string()) {
            continue;
        }
        let alike = |other: &Case| (other.wait, other.bytes) == (case.wait, case.bytes);
        match groups.last_mut() {
            Some(group) if group.cases.last().is_some_and(alike) => group.cases.push(case),
            _ => groups.push(Group {
                cases: vec![case],
                floors: case.wait == Wait::Interrupt,
            }),
        }
    }
    if groups.is_empty() {
        groups.push(Group {
            cases: Vec::new(),
            floors: true,
        });
    }
    Ok(groups)
}

impl Group {
    /// How many lines it gives on one side.
    fn len(&self, side: Side) -> usize {
        let floors = self.floors && side == Side::Ferrite;
        self.cases.len() + if floors { FLOORS.len() } else { 0 }
    }
}

/// Measures on our controller, and on QEMU's if there is one.
///
/// # Errors
/// When an option cannot be, a machine cannot be made, or a guest does not do what it should.
pub fn run(
    bench: &GuestBench,
    qemu: Option<&Qemu>,
    progress: &mut dyn FnMut(GuestProgress<'_>),
) -> Result<GuestResults, GuestBenchError> {
    let groups = groups(&bench.filter)?;
    if !(MEMORY.0..=MEMORY.1).contains(&bench.memory) {
        return Err(GuestBenchError::Memory(bench.memory));
    }
    let rounds = bench.rounds.max(1);
    let boot = Boot {
        nvme: &bench.nvme,
        time: bench.time / rounds,
        memory: bench.memory,
        timeout: PATIENCE + bench.time,
    };
    // What cannot be is said before anything runs.
    boot.nvme.check()?;
    let each = bench.nvme.each_namespace()?;
    if each.first().is_some_and(|ns| ns.backend == Backend::Null) {
        let reason = "null keeps no data, and what is read is compared with what was written; give \
                      ram, or measure it with `ferrite bench core`";
        return Err(bench.nvme.error("backend", "null", reason).into());
    }
    bench.nvme.refuse_images(&each, "bench guest")?;
    let mut notes = Vec::new();
    let mut sides = vec![Guest::Ferrite];
    if let Some(qemu) = qemu {
        let nvme = QemuNvme::from_options(&bench.nvme, qemu.version).map_err(QemuError::Option)?;
        notes.extend(nvme.notes.iter().cloned());
        let drive = QemuDrive::best();
        notes.push(drive.note.to_string());
        notes.extend(QEMU_LACKS.map(String::from));
        sides.push(Guest::Qemu { qemu, nvme, drive });
    }
    let each = sides.iter().map(Guest::side);
    let all = each
        .flat_map(|side| groups.iter().map(move |group| group.len(side)))
        .sum::<usize>()
        * rounds as usize;
    let mut done = 0;
    let mut results = GuestResults::new(qemu, notes);
    for round in 0..rounds {
        for group in &groups {
            // Each is the first in every other round.
            let order: Vec<&Guest<'_>> = match round % 2 {
                0 => sides.iter().collect(),
                _ => sides.iter().rev().collect(),
            };
            for guest in order {
                let side = guest.side();
                let run = boot.run(guest, group, &mut |case| {
                    done += 1;
                    let last = (case, side);
                    progress(GuestProgress { done, all, last });
                })?;
                results.add(side, run);
            }
        }
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_cases_are_in_four_groups_and_floors_with_interrupts() {
        let groups = groups("").expect("all");
        let sizes: Vec<_> = groups
            .iter()
            .map(|group| (group.cases.len(), group.floors))
            .collect();
        assert_eq!(sizes, [(8, false), (8, false), (8, true), (8, true)]);
        assert_eq!(
            (groups[3].len(Side::Ferrite), groups[3].len(Side::Qemu)),
            (10, 8)
        );
    }

    #[test]
    fn filters_pick_cases_by_name() {
        let picked = groups("polled.*4K-d1-*,!*q2").expect("they are there");
        let names: Vec<_> = picked.iter().flat_map(|group| &group.cases).collect();
        let names: Vec<_> = names.iter().map(|case| case.to_string()).collect();
        assert_eq!(names, ["polled.read-4K-d1-q1", "polled.write-4K-d1-q1"]);
        let floors = groups("floor").expect("they are there");
        assert_eq!(floors.len(), 1);
        assert!(floors[0].floors && floors[0].cases.is_empty());
        let error = groups("polled,nonesuch.*").expect_err("no such case");
        assert!(error.to_string().contains("nonesuch.*"), "{error}");
    }
}
