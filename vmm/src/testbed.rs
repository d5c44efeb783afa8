//! The built-in machine with our controller on it, ready for the test kernel: what the self-test
//! and the benchmarks run on.

use std::sync::Arc;

use ::nvme::{Controller, ControllerConfig, Stats};

use crate::{
    attach::{AttachError, Attached},
    machine::{Machine, MachineConfig, RunError, RunOutcome},
    nvme::WorkerPanic,
    options::NvmeOptions,
};

/// The device number of the controller on PCI bus 0.
const CONTROLLER_SLOT: u8 = 1;
/// The exit code of a guest that says all is well: 10h in the debug exit (see the kernel's `exit`).
pub(crate) const GUEST_SUCCESS: u32 = 0x10 << 1 | 1;

/// A machine, a controller and its workers, which poll already.
pub(crate) struct Testbed {
    pub(crate) machine: Machine,
    pub(crate) controller: Arc<Controller>,
    pub(crate) attached: Attached,
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
    /// Makes both; see [`Attached::new`].
    pub(crate) fn new(
        nvme: &NvmeOptions,
        config: ControllerConfig,
        machine: MachineConfig,
    ) -> Result<Self, AttachError> {
        let mut machine = Machine::new(machine)?;
        let attached = Attached::new(&mut machine, CONTROLLER_SLOT, nvme, config)?;
        Ok(Self {
            machine,
            controller: attached.controller.clone(),
            attached,
        })
    }

    /// Runs the guest to its end. The machine and its devices are gone then, the serial sink too.
    pub(crate) fn run(self) -> Ended {
        let outcome = self.machine.run();
        let workers = self.attached.stop();
        Ended {
            outcome,
            workers,
            stats: self.controller.stats(),
        }
    }
}
