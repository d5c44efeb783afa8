//! `ferrite run`: a guest's own kernel on the built-in machine, with our controller.
//!
//! [`Run`] says what to run; [`Run::prepare`] reads the files and makes machine and controllers,
//! so that all that can be wrong with them is told before the guest's first instruction; and
//! [`Prepared::run`] runs the guest to its [`End`], of which each has its exit code.

mod end;
mod error;
mod signals;
mod symbols;

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use ::nvme::{Controller, Stats};

use crate::{
    attach::Attached,
    figures::{self, seconds},
    gdb::{GdbAddress, GdbError, GdbServer, RunEnd},
    machine::{
        self, ExitCounts, LiveExits, Machine, MachineConfig, Module, RunError, RunOutcome,
        SerialInput, SerialSink, StopHandle,
    },
    observe::{Observe, Observers},
    options::NvmeOptions,
};

pub use end::End;
pub use error::LaunchError;
pub use signals::Signals;

/// What to run.
#[derive(Clone, Debug)]
pub struct Run {
    /// The kernel's file; see [`MachineConfig::kernel`] for its forms.
    pub kernel: PathBuf,
    /// The file that Linux takes as its first root file system.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line.
    pub command_line: String,
    /// CPUs.
    pub cpus: u8,
    /// Bytes of memory.
    pub memory: u64,
    /// The controllers, at device number 1 of PCI bus 0 and the next ones.
    pub controllers: Vec<NvmeOptions>,
    /// How long the guest may run.
    pub timeout: Option<Duration>,
    /// What it is observed by.
    pub observe: Observe,
}

/// A machine that is ready to start, with its controllers.
pub struct Prepared {
    machine: Machine,
    controllers: Vec<Attached>,
    /// The kernel's file, for its symbols.
    kernel: PathBuf,
    exits: Arc<LiveExits>,
    gdb: Option<GdbServer>,
    observers: Observers,
}

/// What came of a run.
#[derive(Debug)]
pub struct Ended {
    /// How it ended.
    pub end: End,
    /// Where CPU 0 was, if the guest was stopped or its time was over.
    pub stopped_at: Option<String>,
    /// The function that the guest was in when it crashed or was stopped, if its file has symbols.
    pub function: Option<String>,
    /// Why the guest came out of KVM.
    pub exits: ExitCounts,
    /// Accesses that no device claimed: reads, writes. `None` when the guest died.
    pub unclaimed: Option<(u64, u64)>,
    /// How long it ran.
    pub time: Duration,
    /// What each controller did.
    pub controllers: Vec<Stats>,
}

impl Run {
    /// Reads the files and makes the machine and its controllers. Serial output goes to `serial`.
    ///
    /// # Errors
    /// [`LaunchError`] names what cannot be had, and what would do.
    pub fn prepare(&self, serial: SerialSink) -> Result<Prepared, LaunchError> {
        machine::check_memory(self.memory)?;
        let mut configs = Vec::with_capacity(self.controllers.len());
        for options in &self.controllers {
            configs.push(options.build()?);
        }
        let mut observers = self.observe.begin()?;
        for (index, (options, config)) in self.controllers.iter().zip(&mut configs).enumerate() {
            observers.watch(index, options, config);
        }
        let kernel = self.read("--kernel", &self.kernel)?;
        let initrd = self.initrd.as_deref();
        let initrd = initrd.map(|path| self.read("--initrd", path)).transpose()?;
        let exits = Arc::<LiveExits>::default();
        let mut machine = Machine::new(MachineConfig {
            memory: self.memory,
            cpus: self.cpus,
            kernel: kernel.into(),
            command_line: self.command_line.clone(),
            modules: initrd.map(Module::unnamed).into_iter().collect(),
            serial,
            timeout: self.timeout,
            exits: Arc::clone(&exits),
        })?;
        let mut controllers = Vec::with_capacity(configs.len());
        for ((slot, options), config) in (1..).zip(&self.controllers).zip(configs) {
            controllers.push(Attached::new(&mut machine, slot, options, config)?);
        }
        let all: Vec<&Attached> = controllers.iter().collect();
        observers.attached(&all, &exits, machine.stop_handle())?;
        Ok(Prepared {
            machine,
            controllers,
            kernel: self.kernel.clone(),
            exits,
            gdb: None,
            observers,
        })
    }

    /// A file's content, of which no more than the guest's memory holds makes sense.
    fn read(&self, option: &'static str, path: &Path) -> Result<Vec<u8>, LaunchError> {
        let fail = |source| LaunchError::File {
            option,
            path: path.to_path_buf(),
            source,
        };
        let mut content = Vec::new();
        let file = File::open(path).map_err(fail)?;
        let mut bounded = file.take(self.memory.saturating_add(1));
        bounded.read_to_end(&mut content).map_err(fail)?;
        match content.len() as u64 > self.memory {
            true => Err(LaunchError::Large {
                option,
                path: path.to_path_buf(),
                memory: self.memory,
            }),
            false => Ok(content),
        }
    }
}

impl Prepared {
    /// The host's end of the serial line.
    #[must_use]
    pub fn serial_input(&self) -> SerialInput {
        self.machine.serial_input()
    }

    /// Ends the run from another thread.
    #[must_use]
    pub fn stop_handle(&self) -> StopHandle {
        self.machine.stop_handle()
    }

    /// Lets debuggers connect to `address`, and says where: with the port that was taken if any
    /// would do. With `wait` the guest stands before its first instruction until one has come.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub fn debug(&mut self, address: &GdbAddress, wait: bool) -> Result<GdbAddress, LaunchError> {
        let debugger = self.machine.debugger().map_err(GdbError::from)?;
        let server = GdbServer::start(address, wait, debugger, self.stop_handle())?;
        let address = server.address().clone();
        self.gdb = Some(server);
        Ok(address)
    }

    /// The controllers, in the order of [`Run::controllers`].
    pub fn controllers(&self) -> impl Iterator<Item = &Arc<Controller>> {
        self.controllers.iter().map(|attached| &attached.controller)
    }

    /// Runs the guest to its end. The machine and its devices are gone then, the serial sink too,
    /// and no thread of them is left.
    ///
    /// # Errors
    /// When the guest could not be started: its kernel, its command line, its initrd.
    pub fn run(mut self) -> Result<Ended, LaunchError> {
        let start = Instant::now();
        let outcome = self.machine.run();
        let time = start.elapsed();
        self.observers.close();
        if outcome.is_err() {
            self.observers.crashed(self.controllers.iter());
        }
        let mut panic = None;
        let mut stats = Vec::with_capacity(self.controllers.len());
        for attached in self.controllers {
            let controller = Arc::clone(&attached.controller);
            panic = attached.stop().err().or(panic);
            stats.push(controller.stats());
        }
        self.observers.end();
        let mut ended = Ended {
            end: End::Stopped,
            stopped_at: None,
            function: None,
            exits: self.exits.counts(),
            unclaimed: None,
            time,
            controllers: stats,
        };
        match outcome {
            Err(RunError::Machine(error)) => return Err(error.into()),
            Err(error) => {
                let at = error.state().map(|state| state.rip);
                ended.function = at.and_then(|rip| symbols::function(&self.kernel, rip));
                ended.end = error.into();
            }
            Ok(RunOutcome {
                exit,
                unclaimed,
                stopped_at,
                elapsed,
                ..
            }) => {
                ended.end = exit.into();
                ended.unclaimed = Some(unclaimed);
                let at = stopped_at.as_ref().map(|state| state.rip);
                ended.function = at.and_then(|rip| symbols::function(&self.kernel, rip));
                ended.stopped_at = stopped_at.map(|state| state.to_string());
                ended.time = elapsed;
            }
        }
        // A worker that panics stops the machine, and is why.
        if let Some(panic) = panic {
            ended.end = End::Failed(panic.to_string());
        }
        if let Some(gdb) = self.gdb {
            gdb.finish(RunEnd::from(&ended.end));
        }
        Ok(ended)
    }
}

impl Ended {
    /// What people may want to know of it, in a few lines.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut text = format!("ferrite: {}\n", self.end);
        if let Some(at) = &self.stopped_at {
            text += &format!("it was at     {at}\n");
        }
        if let Some(function) = &self.function {
            text += &format!("in            {function}\n");
        }
        for stats in &self.controllers {
            text += &figures::controller(stats);
        }
        text += &figures::exits(&self.exits);
        if let Some((reads, writes)) = self.unclaimed {
            text += &format!("unclaimed     {reads} reads, {writes} writes\n");
        }
        text + &format!("time          {}\n", seconds(self.time))
    }
}
