//! `ferrite selftest`: the test kernel on the built-in machine, driving the controller.
//!
//! [`run`] makes the machine and the controller, boots the embedded kernel, and reads what it
//! prints ([`nvme_suite::tap`]); [`Results`] is what came of it, and `output` says it to people
//! and programs. [`run_with_qemu`] runs the kernel a second time, on QEMU's nvme device, and
//! [`Comparison`] is both beside each other. A [`Matrix`] runs it over many controllers.

mod comparison;
mod lint;
mod matrix;
mod output;

use std::{
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use ::nvme::{Lint, Stats, Tear};
use nvme_suite::{Doorbells, Filter, tap::Report};
use thiserror::Error;

use crate::{
    attach::AttachError,
    machine::{ExitCounts, GuestExit, Lines, MachineConfig, RunError, RunOutcome},
    observe::{Observe, ObserveError},
    options::{Backend, NvmeOptions, OptionError, Size},
    peer::{Qemu, QemuError, QemuGuest, QemuNvme},
    testbed::{Ended, GUEST_SUCCESS, Testbed},
};
use lint::Collector;

pub use comparison::{Comparison, Row, Verdict, compare};
pub use lint::{Finding, Findings};
pub use matrix::{Combination, Matrix, MatrixResults, MatrixTotals, Outcome, quoted};
pub use output::{Format, Style};

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
    /// How the tests tell the controller of tails and heads, unless they are about that.
    pub doorbells: Doorbells,
    /// The guest's memory in bytes.
    pub memory: u64,
    /// How long the guest may run.
    pub timeout: Duration,
    /// What it is observed by.
    pub observe: Observe,
}

/// What came of it.
#[derive(Debug)]
pub struct Results {
    /// What the guest printed.
    pub report: Report,
    /// How the guest ended.
    pub end: End,
    /// Where its first CPU was, if it did not end by itself.
    pub stopped_at: Option<String>,
    /// Why the guest came out of KVM.
    pub exits: ExitCounts,
    /// Accesses that no device claimed: reads, writes.
    pub unclaimed: (u64, u64),
    /// What the controller did.
    pub stats: Stats,
    /// Which writes the controller tore.
    pub tear: Tear,
    /// What the guest's driver did wrong; `None` unless it was asked for (`lint=on`).
    pub lint: Option<Findings>,
    /// How long the guest ran.
    pub guest_time: Duration,
    /// How long everything took.
    pub total_time: Duration,
}

/// How far a run is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Tests finished.
    pub done: usize,
    /// Tests planned, once that is known.
    pub planned: Option<usize>,
}

/// How the guest ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// By itself, by the time allowed, or from outside.
    Exit(GuestExit),
    /// It could not go on: why, and where it was.
    Died(String),
    /// The controller could not: why.
    Controller(String),
}

/// The self-test could not be run.
#[derive(Debug, Error)]
pub enum SelftestError {
    /// An option.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// A combination of the matrix, by what it adds to the options that are the same for all.
    #[error("--matrix with {0}: {1}; or fix one of the two with --nvme")]
    Combination(String, Box<OptionError>),
    /// The filter cannot be given to the guest.
    #[error("--filter {0:?}: a filter is printable ASCII without spaces, such as `queues.*,!io`")]
    Filter(String),
    /// A pattern of the filter picks nothing.
    #[error("--filter {0}: no test has this name; `ferrite selftest --list` lists them")]
    Unmatched(String),
    /// The guest's memory.
    #[error("--memory {}: the test kernel runs with {} to {}", Size(*.0), Size(MEMORY.0), Size(MEMORY.1))]
    Memory(u64),
    /// The machine and the controller.
    #[error(transparent)]
    Testbed(#[from] AttachError),
    /// The trace or the control socket.
    #[error(transparent)]
    Observe(#[from] ObserveError),
    /// The machine could not be completed.
    #[error(transparent)]
    Run(RunError),
    /// QEMU, to compare with.
    #[error(transparent)]
    Qemu(#[from] QemuError),
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
    /// Whether there were tests, every one ran, none failed, and the guest says so too.
    #[must_use]
    pub fn good(&self) -> bool {
        self.end == End::Exit(GuestExit::Code(GUEST_SUCCESS))
            && self.report.good()
            && self.trouble().is_none()
    }

    /// Whether all is well but for every test being skipped: this controller has nothing that
    /// the tests are about.
    #[must_use]
    pub fn nothing_applies(&self) -> bool {
        let End::Exit(GuestExit::Code(code)) = &self.end else {
            return false;
        };
        let (passed, failed, _) = self.report.totals();
        let none = passed == 0 && failed == 0 && self.report.bail_out.is_none();
        none && account(&self.report, *code).is_none()
    }

    /// What went wrong beyond single tests, if anything did.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let report = &self.report;
        let said = || said(report);
        if let Some(reason) = &report.bail_out {
            return Some(format!("the guest gave up: {reason}"));
        }
        let code = match &self.end {
            End::Controller(why) => return Some(why.clone()),
            End::Died(why) => return Some(format!("the guest died: {why}{}", said())),
            End::Exit(GuestExit::TimedOut) => {
                let at = self
                    .stopped_at
                    .as_ref()
                    .map(|at| format!("\nit was at {at}"));
                return Some(format!(
                    "the guest took longer than allowed; give it more with --timeout{}{}",
                    at.unwrap_or_default(),
                    said()
                ));
            }
            End::Exit(GuestExit::Stopped) => return Some("the run was stopped".to_string()),
            End::Exit(GuestExit::PowerOff) => return Some("the guest went off".to_string()),
            End::Exit(GuestExit::Reset) => return Some("the guest asked for a reset".to_string()),
            End::Exit(GuestExit::Code(code)) => *code,
        };
        account(report, code).or_else(|| {
            let (_, _, skipped) = report.totals();
            self.nothing_applies()
                .then(|| format!("every test was skipped ({skipped}); none says anything"))
        })
    }
}

/// What is wrong with a guest's output and the exit code that goes with it, if they do not tell
/// of one whole run.
fn account(report: &Report, code: u32) -> Option<String> {
    let said = || said(report);
    if let Some(problem) = report.problems.first() {
        return Some(format!(
            "the guest's output is not that of one run: {problem}"
        ));
    }
    let results = report.tests.len();
    match report.planned {
        None => return Some(format!("the guest planned no tests{}", said())),
        Some(0) => return Some("the filter leaves no test; see --list".to_string()),
        Some(planned) if planned != results => {
            return Some(format!(
                "{results} results for a plan of {planned} tests{}",
                said()
            ));
        }
        Some(_) => {}
    }
    let (_, failed, _) = report.totals();
    if (failed == 0) != (code == GUEST_SUCCESS) {
        return Some(format!(
            "the guest's exit code {code} does not agree with {failed} failed tests \
             ({GUEST_SUCCESS} is for none){}",
            said()
        ));
    }
    None
}

/// A pattern of the filter that picks no test.
fn unmatched(filter: &str) -> Option<&str> {
    let patterns = filter
        .split(',')
        .map(|pattern| pattern.trim_start_matches('!'));
    patterns
        .filter(|pattern| !pattern.is_empty())
        .find(|pattern| {
            let filter = Filter::new(pattern);
            !nvme_suite::tests().any(|test| filter.matches(&test.full_name()))
        })
}

/// Checks a filter: printable, and each of its patterns picks something.
///
/// # Errors
/// The filter, or the pattern that picks nothing.
pub fn check_filter(filter: &str) -> Result<(), SelftestError> {
    if !filter.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(SelftestError::Filter(filter.to_string()));
    }
    match unmatched(filter) {
        Some(pattern) => Err(SelftestError::Unmatched(pattern.to_string())),
        None => Ok(()),
    }
}

/// What the test kernel is told.
fn command_line(selftest: &Selftest) -> String {
    let filter = (!selftest.filter.is_empty()).then(|| format!("filter={}", selftest.filter));
    let shadow = match selftest.doorbells {
        Doorbells::Registers => None,
        Doorbells::Shadow => Some("doorbells=shadow".to_string()),
        Doorbells::ShadowAfterQueues => Some("doorbells=shadow-after-queues".to_string()),
    };
    let words: Vec<String> = filter.into_iter().chain(shadow).collect();
    words.join(" ")
}

/// Boots the test kernel and lets it test the controller. `on_line` gets each line as the guest
/// prints it.
///
/// # Errors
/// When the options, the host or the guest do not let it come to an end.
pub fn run(
    selftest: &Selftest,
    on_line: impl FnMut(&str, Progress) + Send + 'static,
) -> Result<Results, SelftestError> {
    let start = Instant::now();
    let filter = &selftest.filter;
    check_filter(filter)?;
    if !(MEMORY.0..=MEMORY.1).contains(&selftest.memory) {
        return Err(SelftestError::Memory(selftest.memory));
    }
    let each = selftest.nvme.each_namespace()?;
    if each.iter().any(|ns| ns.backend == Backend::Null) {
        let reason = "null keeps no data, so nothing that is written can be verified; give ram";
        return Err(selftest.nvme.error("backend", "null", reason).into());
    }
    selftest.nvme.refuse_images(&each, "selftest")?;
    let mut config = selftest.nvme.build()?;
    let collector = config.lint.is_some().then(Collector::new);
    config.lint = collector
        .clone()
        .map(|collector| collector as Arc<dyn Lint>);
    let report = Arc::new(Mutex::new(Report::default()));
    let (feed, printer) = reader(report.clone(), collector.clone(), on_line);
    let sink = Lines::new(feed);
    let machine = MachineConfig {
        memory: selftest.memory,
        command_line: command_line(selftest),
        serial: Box::new(sink),
        timeout: Some(selftest.timeout),
        ..MachineConfig::default()
    };
    let mut observers = selftest.observe.begin()?;
    observers.watch(0, &selftest.nvme, &mut config);
    let exits = machine.exits.clone();
    let testbed = Testbed::new(&selftest.nvme, config, machine)?;
    let controller = testbed.controller.clone();
    let stop = testbed.machine.stop_handle();
    observers.attached(&[&testbed.attached], &exits, stop)?;
    let Ended {
        outcome,
        workers,
        stats,
    } = testbed.run();
    observers.close();
    observers.end();
    // The machine is gone, and with it the sender of lines.
    let _ = printer.join();
    let report = std::mem::take(&mut *report.lock().unwrap_or_else(PoisonError::into_inner));
    let mut results = Results {
        report,
        end: End::Exit(GuestExit::Stopped),
        stopped_at: None,
        exits: ExitCounts::default(),
        unclaimed: (0, 0),
        stats,
        tear: selftest.nvme.tear,
        lint: collector.map(|collector| collector.findings(controller.lint_counts())),
        guest_time: start.elapsed(),
        total_time: start.elapsed(),
    };
    match outcome {
        Ok(RunOutcome {
            exit,
            exits,
            unclaimed,
            elapsed,
            stopped_at,
        }) => {
            results.end = End::Exit(exit);
            results.stopped_at = stopped_at.map(|at| at.to_string());
            results.exits = exits;
            results.unclaimed = unclaimed;
            results.guest_time = elapsed;
        }
        Err(error @ RunError::Machine(_)) => return Err(SelftestError::Run(error)),
        Err(error) => results.end = End::Died(format!("{:#}", anyhow::Error::new(error))),
    }
    if let Err(panic) = workers {
        results.end = End::Controller(panic.to_string());
    }
    Ok(results)
}

/// Runs the test kernel on our controller, and then on QEMU's nvme device with the same options.
/// `on_test` is told of each result with whose it is and how far that run is.
///
/// # Errors
/// Those of [`run`], and when QEMU cannot be started or be what the options say.
pub fn run_with_qemu(
    selftest: &Selftest,
    qemu: &Qemu,
    on_test: impl Fn(&'static str, Progress) + Clone + Send + 'static,
) -> Result<Comparison, SelftestError> {
    // What QEMU cannot be is said before anything runs.
    let nvme = QemuNvme::from_options(&selftest.nvme, qemu.version).map_err(QemuError::Option)?;
    let notes = nvme.notes.clone();
    let guest = QemuGuest {
        machine: QemuGuest::MICROVM,
        memory: selftest.memory,
        command_line: command_line(selftest),
        nvme,
        drive: "",
        timeout: selftest.timeout,
    };
    let progress = on_test.clone();
    let ferrite = run(selftest, move |_, at| progress("ferrite", at))?;
    let run = guest.run(qemu, |report| {
        on_test(
            "qemu",
            Progress {
                done: report.tests.len(),
                planned: report.planned,
            },
        );
    })?;
    Ok(Comparison::new(ferrite, qemu.clone(), run, notes))
}

/// Takes the guest's lines in, and gives them to `on_line` on a thread of their own: a reader who
/// stalls must not stall the CPU that prints.
fn reader(
    report: Arc<Mutex<Report>>,
    collector: Option<Arc<Collector>>,
    mut on_line: impl FnMut(&str, Progress) + Send + 'static,
) -> (impl FnMut(&str) + Send, JoinHandle<()>) {
    let (sender, lines) = mpsc::channel::<(String, Progress)>();
    let printer = thread::spawn(move || {
        for (line, progress) in lines {
            on_line(&line, progress);
        }
    });
    let feed = move |line: &str| {
        let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
        let before = report.tests.len();
        report.feed(line);
        if let (Some(collector), Some(test)) = (&collector, report.tests.get(before)) {
            collector.test_ended(&test.name);
        }
        let progress = Progress {
            done: report.tests.len(),
            planned: report.planned,
        };
        // A printer that has gone prints nothing.
        let _ = sender.send((line.to_string(), progress));
    };
    (feed, printer)
}
