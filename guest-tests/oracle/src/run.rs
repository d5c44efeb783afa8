//! A run: a host that does what chance says, step by step, to a controller.

use std::fmt;

use nvme_host::Transport;

use crate::{
    choices::Choices,
    host::{Host, Wrong},
};

/// How a run goes.
#[derive(Clone, Debug)]
pub struct Options {
    /// Steps, unless the choices are over before.
    pub steps: u64,
    /// Steps that are left out.
    pub skip: Vec<u64>,
    /// I/O queues of either kind that the controller grants.
    pub io_queues: u16,
    /// Backends may fail.
    pub faulty: bool,
    /// The controller runs only while the transport is called; without, it has threads.
    pub exact: bool,
    /// Keep a line for everything that happens.
    pub trace: bool,
    /// Polls without a completion, and nanoseconds of the transport's clock, after which a
    /// controller that has something to do is stuck.
    pub patience: u32,
    /// See [`patience`](Self::patience).
    pub patience_ns: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            steps: 600,
            skip: Vec::new(),
            io_queues: 8,
            faulty: false,
            exact: true,
            trace: false,
            patience: 300_000,
            patience_ns: 20_000_000,
        }
    }
}

/// What a run has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Steps.
    pub steps: u64,
    /// Commands completed.
    pub completed: u64,
}

/// The controller did what it may not.
#[derive(Clone, Debug)]
pub struct Failure {
    /// In which step it was seen.
    pub step: u64,
    /// The rule that was broken, or the command, its status and the legal ones.
    pub what: String,
    /// All that happened, if it was asked for.
    pub trace: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.trace {
            writeln!(f, "    {line}")?;
        }
        write!(f, "step {}: {}", self.step, self.what)
    }
}

impl std::error::Error for Failure {}

/// Runs a host that does what `choices` say to a controller that was just made: disabled, with
/// namespaces that hold zeroes.
///
/// # Errors
/// What the controller did that it may not.
pub fn run<T: Transport + ?Sized>(
    transport: &mut T,
    choices: &mut dyn Choices,
    options: &Options,
) -> Result<Report, Failure> {
    choices.begin(0);
    let failure = |step, what, trace| Failure { step, what, trace };
    let mut host = match Host::new(transport, options.clone(), choices) {
        Ok(host) => host,
        Err(what) => return Err(failure(0, what, Vec::new())),
    };
    let mut step = 0;
    match go(&mut host, choices, &mut step) {
        Ok(()) => Ok(Report {
            steps: step,
            completed: host.completed,
        }),
        Err(what) => Err(failure(step, what, std::mem::take(&mut host.trace))),
    }
}

fn go<T: Transport + ?Sized>(
    host: &mut Host<'_, T>,
    choices: &mut dyn Choices,
    step: &mut u64,
) -> Result<(), Wrong> {
    host.make_queues(choices)?;
    while *step < host.options.steps && !choices.is_over() {
        *step += 1;
        if host.options.skip.contains(step) {
            continue;
        }
        choices.begin(*step);
        let number = *step;
        host.note(|| format!("step {number}"));
        act(host, choices)?;
        if step.is_multiple_of(64) {
            host.forget();
        }
    }
    host.drain()?;
    host.check_quiet()?;
    host.read_back(choices)
}

/// One step.
fn act<T: Transport + ?Sized>(
    host: &mut Host<'_, T>,
    choices: &mut dyn Choices,
) -> Result<(), Wrong> {
    match choices.below(400) {
        0..=179 => {
            for _ in 0..choices.range(1..=4) {
                host.send_somewhere(choices);
            }
        }
        180..=239 => {
            let qids: Vec<u16> = host.sqs.keys().copied().collect();
            host.ring(choices.pick(&qids));
        }
        240..=259 => host.ring_all(),
        260..=309 => {
            for _ in 0..choices.range(1..=12) {
                host.transport.relax();
            }
        }
        310..=354 => {
            let qids: Vec<u16> = host.cqs.keys().copied().collect();
            host.poll(choices.pick(&qids))?;
        }
        355..=364 => host.poll_all()?,
        365..=376 => {
            let qids: Vec<u16> = host.cqs.keys().copied().collect();
            host.ack(choices.pick(&qids));
        }
        377..=389 => host.send_admin(choices),
        390..=394 => host.change_queues(choices),
        395 | 396 => host.drain()?,
        397 => {
            host.drain()?;
            host.check_quiet()?;
        }
        398 => host.reset(choices)?,
        _ => host.ack_all(),
    }
    Ok(())
}

impl<T: Transport + ?Sized> Host<'_, T> {
    /// Stores an I/O command in a queue that takes some.
    fn send_somewhere(&mut self, choices: &mut dyn Choices) {
        let open = self.sqs.values().filter(|sq| sq.qid > 0 && !sq.deleting);
        let open: Vec<u16> = open.filter(|sq| sq.room() > 0).map(|sq| sq.qid).collect();
        if !open.is_empty() {
            self.send_io(choices.pick(&open), choices);
        }
    }
}
