//! Stopping the CPUs to look at them: what a debugger asks of the machine.
//!
//! ```text
//!   Debugger (its own thread)                    a CPU's thread
//!   pause ── all are to stand, signal ─────────► leaves KVM_RUN, finishes its access, stands
//!   on_cpu(work) ──────────────────────────────► does the work with its descriptor
//!   resume(who) ───────────────────────────────► goes on; the others stand
//!   events ◄──────────── a breakpoint, a step, a crash: this CPU stands, the others are stopped
//! ```
//!
//! A machine without a debugger has no gate: its CPUs test one `Option` after an exit. With one
//! they also load one flag. Devices are not stopped; a guest that was stopped is told so by the
//! paravirtual clock, whose time goes on (KVM_KVMCLOCK_CTRL).

mod gate;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc;

use kvm_ioctls::VcpuFd;

use super::error::MachineError;
use super::memory::GuestMemory;
pub(crate) use gate::{Gate, GateOwner};

/// Why a CPU stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It was told to, or another CPU stopped.
    Paused,
    /// KVM_EXIT_DEBUG: a breakpoint, a watchpoint or a step.
    Debug {
        /// 1 (#DB) or 3 (#BP).
        exception: u32,
        /// Linear address of the instruction that stopped it, or of the next one.
        pc: u64,
        /// DR6: which debug register (bits 3:0), or a step (bit 14).
        dr6: u64,
    },
    /// The guest cannot go on: the run ends when this CPU is told to.
    Crashed {
        /// Whether it is the guest's own doing (a triple fault), and not KVM's.
        triple_fault: bool,
        /// The error that the run will end with.
        message: String,
    },
}

/// The run has ended, so there is no CPU to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the guest's run has ended")]
pub struct Ended;

/// Stops, asks and resumes the CPUs of one machine; belongs to one thread.
pub struct Debugger {
    gate: Arc<Gate>,
    memory: GuestMemory,
    cpus: usize,
}

impl Debugger {
    pub(crate) fn new(gate: Arc<Gate>, memory: GuestMemory, cpus: usize) -> Self {
        Self { gate, memory, cpus }
    }

    /// CPUs of the machine, numbered from 0.
    #[must_use]
    pub fn cpus(&self) -> usize {
        self.cpus
    }

    /// The guest's memory.
    #[must_use]
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// A non-blocking eventfd that becomes readable when a CPU stops by itself and when the run ends.
    ///
    /// # Errors
    /// When the host has no descriptor left.
    pub fn events(&self) -> Result<OwnedFd, MachineError> {
        self.gate.events()
    }

    /// Makes CPUs that have not run yet stand before their first instruction.
    pub fn hold(&self) {
        self.gate.hold();
    }

    /// While attached, a crash stops the guest instead of ending its run.
    pub fn attach(&self, attached: bool) {
        self.gate.attach(attached);
    }

    /// Stops all CPUs, and returns when all stand with no access half done. A CPU that has not
    /// started is waited for.
    ///
    /// # Errors
    /// When the run has ended.
    pub fn pause(&self) -> Result<(), Ended> {
        self.gate.pause()
    }

    /// Lets those CPUs run of whose number `run` says so, and forgets why they stood; the others
    /// go on standing. All must stand.
    pub fn resume(&self, run: impl Fn(usize) -> bool) {
        self.gate.resume(run);
    }

    /// Why CPU `cpu` stands; none if it runs.
    #[must_use]
    pub fn stop(&self, cpu: usize) -> Option<Stop> {
        self.gate.stop(cpu)
    }

    /// Whether the run has ended.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.gate.ended()
    }

    /// Does `work` on the thread of CPU `cpu`, which must stand.
    ///
    /// # Errors
    /// When it does not, or the run ends before it was done.
    pub fn on_cpu<R: Send + 'static>(
        &self,
        cpu: usize,
        work: impl FnOnce(&mut VcpuFd) -> R + Send + 'static,
    ) -> Result<R, Ended> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let request = Box::new(move |fd: &mut VcpuFd| {
            // The receiver waits below.
            let _ = sender.send(work(fd));
        });
        self.gate.request(cpu, request)?;
        // A run that ends drops the request, and with it the sender.
        receiver.recv().map_err(|_| Ended)
    }
}
