//! The built-in machine with our controller on it, ready for the test kernel: what the self-test
//! and the benchmarks run on.

use std::sync::Arc;
use std::time::Duration;

use ::nvme::{Controller, ControllerConfig, Stats};
use thiserror::Error;

use crate::{
    machine::{Machine, MachineConfig, MachineError, RunError, RunOutcome},
    nvme::{
        FunctionError, Ioeventfds, NvmeFunction, NvmePciIds, REGISTER_BAR, WaitPolicy, WorkerPanic,
        Workers, WorkersError,
    },
    options::{Doorbells, NvmeOptions},
};

/// The device number of the controller on PCI bus 0.
const CONTROLLER_SLOT: u8 = 1;
/// The exit code of a guest that says all is well: 10h in the debug exit (see the kernel's `exit`).
pub(crate) const GUEST_SUCCESS: u32 = 0x10 << 1 | 1;

/// It cannot be made.
#[derive(Debug, Error)]
pub enum TestbedError {
    /// The controller.
    #[error(transparent)]
    Function(#[from] FunctionError),
    /// The worker threads.
    #[error(transparent)]
    Workers(#[from] WorkersError),
    /// The machine.
    #[error(transparent)]
    Machine(#[from] MachineError),
}

/// A machine, a controller and its workers, which poll already.
pub(crate) struct Testbed {
    pub(crate) machine: Machine,
    pub(crate) controller: Arc<Controller>,
    workers: Workers,
}

/// What came of a run.
pub(crate) struct Ended {
    /// How the guest ended.
    pub(crate) outcome: Result<RunOutcome, RunError>,
    /// How the workers did.
    pub(crate) workers: Result<(), WorkerPanic>,
    /// What the controller did.
    pub(crate) stats: Stats,
}

impl Testbed {
    /// Makes both; `nvme` says what the controller's configuration does not: how its workers wait
    /// and doorbells come.
    pub(crate) fn new(
        nvme: &NvmeOptions,
        config: ControllerConfig,
        machine: MachineConfig,
    ) -> Result<Self, TestbedError> {
        let mut machine = Machine::new(machine)?;
        let router = Arc::new(machine.msi(config.vectors)?);
        let memory = machine.memory().clone();
        let (function, shards) = NvmeFunction::new(config, NvmePciIds::default(), memory, router)?;
        let function = Arc::new(function);
        let controller = function.controller().clone();
        let bdf = machine.attach_pci(CONTROLLER_SLOT, function)?;
        let policy = WaitPolicy {
            spin: Duration::from_micros(nvme.poll_us),
        };
        let stop = machine.stop_handle();
        let workers = Workers::start(&controller, shards, policy, move || stop.stop())?;
        if nvme.doorbells == Doorbells::Ioeventfd {
            let bar = machine.bar_events(bdf, REGISTER_BAR);
            let doorbells = Ioeventfds::new(bar, &workers).map_err(WorkersError::from)?;
            controller.set_doorbell_wakes(Arc::new(doorbells));
        }
        Ok(Self {
            machine,
            controller,
            workers,
        })
    }

    /// Runs the guest to its end. The machine and its devices are gone then, the serial sink too.
    pub(crate) fn run(self) -> Ended {
        let outcome = self.machine.run();
        let workers = self.workers.stop();
        Ended {
            outcome,
            workers,
            stats: self.controller.stats(),
        }
    }
}
