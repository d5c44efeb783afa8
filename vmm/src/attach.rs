//! A controller, as options describe it, on a machine: its PCI function, its interrupt vectors,
//! its worker threads, and its doorbells as events.

use std::{sync::Arc, time::Duration};

use ::nvme::{Controller, ControllerConfig};
use thiserror::Error;

use crate::{
    machine::{Machine, MachineError},
    nvme::{
        FunctionError, Ioeventfds, NvmeFunction, NvmePciIds, REGISTER_BAR, WaitPolicy, WorkerPanic,
        WorkerSleeps, Workers, WorkersError,
    },
    options::{Doorbells, NvmeOptions},
};

/// It cannot be attached.
#[derive(Debug, Error)]
pub enum AttachError {
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

/// A controller on a machine, and the threads that serve it already.
pub struct Attached {
    /// The controller.
    pub controller: Arc<Controller>,
    workers: Workers,
}

impl Attached {
    /// Puts a controller of this configuration at device number `slot` (1 to 31) of PCI bus 0.
    /// `options` say what the configuration does not: how its workers wait and doorbells come.
    /// A worker that panics stops the machine.
    ///
    /// # Errors
    /// When the configuration is none, the slot is taken, or the host gives no threads, vectors
    /// or descriptors.
    pub fn new(
        machine: &mut Machine,
        slot: u8,
        options: &NvmeOptions,
        config: ControllerConfig,
    ) -> Result<Self, AttachError> {
        let router = Arc::new(machine.msi(config.vectors)?);
        let memory = machine.memory().clone();
        let (function, shards) = NvmeFunction::new(config, NvmePciIds::default(), memory, router)?;
        let function = Arc::new(function);
        let controller = function.controller().clone();
        let bdf = machine.attach_pci(slot, function)?;
        let policy = WaitPolicy {
            spin: Duration::from_micros(options.poll_us),
        };
        let stop = machine.stop_handle();
        let workers = Workers::start(&controller, shards, policy, move || stop.stop())?;
        if options.doorbells == Doorbells::Ioeventfd {
            let bar = machine.bar_events(bdf, REGISTER_BAR);
            let doorbells = Ioeventfds::new(bar, &workers).map_err(WorkersError::from)?;
            controller.set_doorbell_wakes(Arc::new(doorbells));
        }
        Ok(Self {
            controller,
            workers,
        })
    }

    /// How often each worker slept; to be looked at while it runs.
    pub fn sleeps(&self) -> impl Iterator<Item = Arc<WorkerSleeps>> {
        self.workers.sleeps()
    }

    /// Ends the workers, after the machine.
    ///
    /// # Errors
    /// [`WorkerPanic`] when one of them had panicked.
    pub fn stop(self) -> Result<(), WorkerPanic> {
        self.workers.stop()
    }
}
