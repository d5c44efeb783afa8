//! `ferrite selftest`: the test kernel on the built-in machine, driving the controller.
//!
//! [`run`] makes the machine and the controller, boots the embedded kernel, and reads what it
//! prints ([`nvme_suite::tap`]); [`Results`] is what came of it, and `output` says it to people
//! and programs.

mod output;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use ::nvme::Stats;
use nvme_suite::tap::Report;
use thiserror::Error;

use crate::{
    machine::{
        ExitCounts, GuestExit, Lines, Machine, MachineConfig, MachineError, RunError, RunOutcome,
    },
    nvme::{FunctionError, NvmeFunction, NvmePciIds, WaitPolicy, Workers, WorkersError},
    options::{Backend, NvmeOptions, OptionError, Size},
};

pub use output::{Format, Style};

/// The device number of the controller on PCI bus 0.
const CONTROLLER_SLOT: u8 = 1;
/// The exit code of a guest whose tests passed: 10h in the debug exit (see the kernel's `exit`).
const GUEST_SUCCESS: u32 = 0x10 << 1 | 1;

/// The least and the most memory that makes sense: queues of 65,536 entries must fit, and the
/// kernel uses nothing above 3 GiB.
const MEMORY: (u64, u64) = (64 << 20, 3 << 30);

/// What to run.
#[derive(Clone, Debug)]
pub struct Selftest {
    /// The controller.
    pub nvme: NvmeOptions,
    /// Which tests, as globs over `group.name`; empty for all.
    pub filter: String,
    /// The guest's memory in bytes.
    pub memory: u64,
    /// How long the guest may run.
    pub timeout: Duration,
}

/// What came of it.
#[derive(Debug)]
pub struct Results {
    /// What the guest printed.
    pub report: Report,
    /// How the guest ended.
    pub exit: GuestExit,
    /// Why the guest came out of KVM.
    pub exits: ExitCounts,
    /// Accesses that no device claimed: reads, writes.
    pub unclaimed: (u64, u64),
    /// What the controller did.
    pub stats: Stats,
    /// How long the guest ran.
    pub guest_time: Duration,
    /// How long everything took.
    pub total_time: Duration,
}

/// The self-test could not be run to its end.
#[derive(Debug, Error)]
pub enum SelftestError {
    /// An option.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// The filter cannot be given to the guest.
    #[error("--filter {0:?}: a filter is printable ASCII without spaces, such as `queues.*,!io`")]
    Filter(String),
    /// The guest's memory.
    #[error("--memory {}: the test kernel runs with {} to {}", Size(*.0), Size(MEMORY.0), Size(MEMORY.1))]
    Memory(u64),
    /// The controller.
    #[error(transparent)]
    Function(#[from] FunctionError),
    /// The worker threads.
    #[error(transparent)]
    Workers(#[from] WorkersError),
    /// The machine.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The guest; what it printed before is kept.
    #[error("{source}{}", said(.report))]
    Guest {
        /// What happened.
        source: RunError,
        /// What the guest had printed.
        report: Box<Report>,
    },
}

/// The guest's last words, to go with an error.
fn said(report: &Report) -> String {
    let last: Vec<&str> = report
        .others
        .iter()
        .rev()
        .take(5)
        .rev()
        .map(String::as_str)
        .collect();
    let test = report
        .tests
        .last()
        .map(|test| format!("\nlast test finished: {}", test.name));
    let words =
        (!last.is_empty()).then(|| format!("\nthe guest's last words:\n  {}", last.join("\n  ")));
    test.into_iter().chain(words).collect()
}

impl Results {
    /// Whether there were tests, every one ran and none failed.
    #[must_use]
    pub fn good(&self) -> bool {
        self.exit == GuestExit::Code(GUEST_SUCCESS)
            && self.report.good()
            && self.trouble().is_none()
    }

    /// What went wrong beyond single tests, if anything did.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        if let Some(reason) = &self.report.bail_out {
            return Some(format!("the guest gave up: {reason}"));
        }
        let last = self
            .report
            .tests
            .last()
            .map_or("none", |test| test.name.as_str());
        match self.exit {
            GuestExit::TimedOut => Some(format!(
                "the guest took longer than allowed; the last test to finish was {last}; give it \
                 more with --timeout"
            )),
            GuestExit::Stopped => Some("the run was stopped".to_string()),
            GuestExit::Code(_) if self.report.planned == Some(0) => {
                Some("the filter matches no test; see --list".to_string())
            }
            GuestExit::Code(_) if self.report.planned != Some(self.report.tests.len()) => {
                let words = said(&self.report);
                Some(format!("the guest ended before all tests had run{words}"))
            }
            GuestExit::Code(_) => None,
        }
    }
}

/// Boots the test kernel and lets it test the controller. `on_line` gets each line as the guest
/// prints it.
///
/// # Errors
/// When the options, the host or the guest do not let it come to an end.
pub fn run(
    selftest: &Selftest,
    on_line: impl FnMut(&str, &Report) + Send + 'static,
) -> Result<Results, SelftestError> {
    let start = Instant::now();
    let filter = &selftest.filter;
    if !filter.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(SelftestError::Filter(filter.clone()));
    }
    if !(MEMORY.0..=MEMORY.1).contains(&selftest.memory) {
        return Err(SelftestError::Memory(selftest.memory));
    }
    let each = selftest.nvme.each_namespace()?;
    if let Some(nsid) = (1..).zip(&each).find(|(_, ns)| ns.backend == Backend::Null) {
        return Err(OptionError {
            list: "nvme",
            key: if each.len() == 1 {
                "backend".into()
            } else {
                format!("ns{}.backend", nsid.0)
            },
            value: "null".to_string(),
            reason: "null keeps no data, so nothing that is written can be verified; give ram"
                .to_string(),
        }
        .into());
    }
    let config = selftest.nvme.build()?;
    let report = Arc::new(Mutex::new(Report::default()));
    let sink = Lines::new(feed(report.clone(), on_line));
    let mut machine = Machine::new(MachineConfig {
        memory: selftest.memory,
        command_line: match filter.is_empty() {
            true => String::new(),
            false => format!("filter={filter}"),
        },
        serial: Box::new(sink),
        timeout: Some(selftest.timeout),
        ..MachineConfig::default()
    })?;
    let router = Arc::new(machine.msi(config.vectors)?);
    let memory = machine.memory().clone();
    let (function, shards) = NvmeFunction::new(config, NvmePciIds::default(), memory, router)?;
    let function = Arc::new(function);
    let controller = function.controller().clone();
    machine.attach_pci(CONTROLLER_SLOT, function)?;
    let policy = WaitPolicy {
        spin: Duration::from_micros(selftest.nvme.poll_us),
    };
    let workers = Workers::start(&controller, shards, policy)?;
    let outcome = machine.run();
    drop(workers);
    let report = std::mem::take(&mut *report.lock().unwrap_or_else(PoisonError::into_inner));
    match outcome {
        Ok(RunOutcome {
            exit,
            exits,
            unclaimed,
            elapsed,
        }) => Ok(Results {
            report,
            exit,
            exits,
            unclaimed,
            stats: controller.stats(),
            guest_time: elapsed,
            total_time: start.elapsed(),
        }),
        Err(source) => Err(SelftestError::Guest {
            source,
            report: Box::new(report),
        }),
    }
}

fn feed(
    report: Arc<Mutex<Report>>,
    mut on_line: impl FnMut(&str, &Report) + Send,
) -> impl FnMut(&str) + Send {
    move |line| {
        let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
        report.feed(line);
        on_line(line, &report);
    }
}
