//! Runs the tests.

use alloc::format;
use alloc::vec::Vec;

use nvme_host::{Driver, Stats, Transport};
use nvme_spec::identify::OACS_DOORBELL_BUFFER_CONFIG;

use crate::{Context, Env, Filter, Found, Outcome, Stop, Test, tests};

/// What happens while the suite runs.
#[derive(Clone, Copy, Debug)]
pub enum Event<'e> {
    /// What the controller is; the first event.
    Found(&'e Found),
    /// How many tests will run.
    Plan(usize),
    /// A test begins.
    Started(&'static Test),
    /// A test ended.
    Finished {
        /// Its number, from 1.
        number: usize,
        /// The test.
        test: &'static Test,
        /// How it ended.
        outcome: &'e Outcome,
        /// How long it took, bringing the controller up included, in nanoseconds.
        elapsed_ns: u64,
    },
    /// The tests cannot run: why.
    BailOut(&'e str),
    /// All tests ended; the last event.
    Done(&'e Summary),
}

/// The totals of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed.
    pub failed: u64,
    /// Tests that were skipped.
    pub skipped: u64,
    /// Commands issued.
    pub commands: u64,
    /// Bytes of data sent to the controller.
    pub bytes_to_device: u64,
    /// Bytes of data received from the controller.
    pub bytes_from_device: u64,
    /// Time taken, in nanoseconds of the transport's clock.
    pub elapsed_ns: u64,
    /// The controller could not be brought up, and nothing ran.
    pub bailed_out: bool,
}

impl Summary {
    /// Whether tests ran and none failed.
    #[must_use]
    pub const fn good(&self) -> bool {
        !self.bailed_out && self.failed == 0
    }

    const fn add(&mut self, stats: Stats) {
        self.commands += stats.commands;
        self.bytes_to_device += stats.bytes_to_device;
        self.bytes_from_device += stats.bytes_from_device;
    }
}

/// How the tests tell the controller of tails and heads, unless they are about that.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Doorbells {
    /// By registers.
    #[default]
    Registers,
    /// Of I/O queues, in memory (Base 5.2.5).
    Shadow,
    /// The same, but the first queue pair is made before, as Linux does it.
    ShadowAfterQueues,
}

/// Runs the tests that `filter` picks, each on a fresh controller, and leaves the controller
/// disabled.
pub fn run(
    transport: &mut dyn Transport,
    filter: &Filter,
    on_event: &mut dyn FnMut(Event<'_>),
) -> Summary {
    run_with(transport, filter, Doorbells::default(), on_event)
}

/// As [`run`], with doorbells of a kind; bails out if the controller has none such.
pub fn run_with(
    transport: &mut dyn Transport,
    filter: &Filter,
    doorbells: Doorbells,
    on_event: &mut dyn FnMut(Event<'_>),
) -> Summary {
    let start = transport.now_ns();
    let mut summary = Summary::default();
    let mut bail_out = |reason: &str| {
        on_event(Event::BailOut(reason));
        Summary {
            bailed_out: true,
            ..Summary::default()
        }
    };
    let mut context = match Context::discover(transport) {
        Ok(context) => context,
        Err(error) => return bail_out(&format!("the controller did not come up: {error}")),
    };
    context.doorbells = doorbells;
    let offered = context.controller.oacs & OACS_DOORBELL_BUFFER_CONFIG != 0;
    if doorbells != Doorbells::Registers && !offered {
        return bail_out("OACS does not offer Doorbell Buffer Config");
    }
    on_event(Event::Found(&context.found));
    let picked: Vec<&'static Test> = tests()
        .filter(|test| filter.matches(&test.full_name()))
        .collect();
    on_event(Event::Plan(picked.len()));
    for (number, test) in (1..).zip(picked) {
        on_event(Event::Started(test));
        let began = transport.now_ns();
        let outcome = run_one(transport, &context, test, &mut summary);
        match &outcome {
            Ok(()) => summary.passed += 1,
            Err(Stop::Failed(_)) => summary.failed += 1,
            Err(Stop::Skipped(_)) => summary.skipped += 1,
        }
        on_event(Event::Finished {
            number,
            test,
            outcome: &outcome,
            elapsed_ns: transport.now_ns().saturating_sub(began),
        });
    }
    if let Ok(mut nvme) = Driver::new(&mut *transport) {
        // The tests are over; a controller that does not come down has failed one of them.
        let _ = nvme.reset();
    }
    summary.elapsed_ns = transport.now_ns().saturating_sub(start);
    on_event(Event::Done(&summary));
    summary
}

fn run_one(
    transport: &mut dyn Transport,
    context: &Context,
    test: &Test,
    summary: &mut Summary,
) -> Outcome {
    let mut env = Env::fresh(transport, context)
        .map_err(|error| Stop::Failed(format!("the controller did not come up: {error}")))?;
    let outcome = (test.run)(&mut env);
    env.restore();
    summary.add(env.nvme.stats());
    outcome
}
