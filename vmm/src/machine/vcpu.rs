//! One virtual CPU: its first state, its thread, and what its exits mean.

use std::cell::Cell;
use std::ptr;
use std::sync::Arc;
use std::sync::Once;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::{self, JoinHandle};

use kvm_bindings::{CpuId, kvm_debug_exit_arch};
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use super::boot::{self, Entry};
use super::bus::Buses;
use super::control::Control;
use super::debug::{Gate, Stop};
use super::error::{CpuState, MachineError, RunError};
use super::exits::LiveExits;
use super::memory::GuestMemory;
use super::{cpuid, firmware, kvm};

const EINTR: i32 = 4;
const EAGAIN: i32 = 11;

/// A CPU that has not run yet.
pub(crate) struct Vcpu {
    id: u8,
    fd: VcpuFd,
    buses: Arc<Buses>,
    /// Holds the mapping that KVM has the address of; for reading code when something fails.
    memory: GuestMemory,
    exits: Arc<LiveExits>,
    /// Where a debugger stops it, if there may be one.
    gate: Option<Arc<Gate>>,
}

/// What a return from the guest asks for.
enum Exit {
    /// Nothing more.
    Answered,
    /// A signal came: there is something to look at.
    Interrupted,
    /// To stand for the debugger.
    Debug(Stop),
}

/// A CPU's thread.
pub(crate) struct Running {
    id: u8,
    thread: JoinHandle<Ended>,
}

/// Where CPU 0 was if the run was cut short.
pub(crate) type Ended = Option<Box<CpuState>>;

impl Vcpu {
    pub(crate) fn new(
        vm: &VmFd,
        id: u8,
        cpus: u8,
        supported: &CpuId,
        (buses, memory): (Arc<Buses>, GuestMemory),
        exits: Arc<LiveExits>,
    ) -> Result<Self, MachineError> {
        let fd = vm
            .create_vcpu(id.into())
            .map_err(MachineError::kvm("KVM_CREATE_VCPU"))?;
        let tsc_khz = fd.get_tsc_khz().unwrap_or_default();
        let cpuid = cpuid::for_cpu(supported, id, cpus, tsc_khz)
            .ok_or(MachineError::Capability("room for a CPUID leaf"))?;
        fd.set_cpuid2(&cpuid)
            .map_err(MachineError::kvm("KVM_SET_CPUID2"))?;
        firmware::set_msrs(&fd);
        firmware::set_local_interrupts(&fd, id)?;
        Ok(Self {
            id,
            fd,
            buses,
            memory,
            exits,
            gate: None,
        })
    }

    /// Lets a debugger stop this CPU.
    pub(crate) fn set_gate(&mut self, gate: Arc<Gate>) {
        self.gate = Some(gate);
    }

    /// Sets the registers for a kernel's entry point.
    pub(crate) fn start_at(&self, entry: Entry) -> Result<(), MachineError> {
        boot::set_registers(&self.fd, entry)
    }

    /// Starts the thread, which runs until `control` says stop.
    pub(crate) fn start(self, control: Arc<Control>) -> Result<Running, MachineError> {
        install_kick().map_err(|source| MachineError::Host {
            what: "sigaction",
            source,
        })?;
        let id = self.id;
        let thread = thread::Builder::new()
            .name(format!("vcpu{id}"))
            .spawn(move || self.run(&control))
            .map_err(|source| MachineError::Host {
                what: "thread of a CPU",
                source,
            })?;
        Ok(Running { id, thread })
    }

    fn run(mut self, control: &Control) -> Ended {
        // Whoever waits must learn of a panic too.
        let _end = EndOnPanic(control, self.id);
        let _kick = Kickable::new(&mut self.fd);
        let gate = self.gate.clone();
        let gate = gate.as_ref();
        let _entered = gate.map(|gate| gate.enter(self.id, CpuThread::this()));
        while !control.stopping() {
            let result = match gate {
                Some(gate) if gate.wanted() => self.settle(),
                _ => self.step(),
            };
            match result {
                Ok(Exit::Debug(stop)) => self.stand(gate, stop),
                Ok(Exit::Answered | Exit::Interrupted) => {}
                Err(error) => {
                    let attached = gate.filter(|gate| gate.attached());
                    self.stand(attached, Stop::from(&error));
                    control.end(Err(error));
                }
            }
        }
        (self.id == 0 && control.cut_short()).then(|| self.state())
    }

    /// Completes what the last exit began, for the debugger to find the CPU between two
    /// instructions: KVM does that on the next KVM_RUN, which is made to return at once.
    fn settle(&mut self) -> Result<Exit, RunError> {
        loop {
            self.fd.set_kvm_immediate_exit(1);
            match self.step()? {
                // Another part of the same access.
                Exit::Answered => {}
                Exit::Interrupted => return Ok(Exit::Debug(Stop::Paused)),
                debug => return Ok(debug),
            }
        }
    }

    /// Stands until the debugger lets it go on.
    fn stand(&mut self, gate: Option<&Arc<Gate>>, stop: Stop) {
        let Some(gate) = gate else { return };
        gate.stand(self.id, stop, &mut self.fd);
        // A guest without the paravirtual clock need not be told that it stood: EINVAL.
        let _ = self.fd.kvmclock_ctrl();
    }

    /// Runs the guest to its next exit and answers that.
    #[expect(
        unsafe_code,
        reason = "string I/O needs kvm_run's element size beside its data"
    )]
    fn step(&mut self) -> Result<Exit, RunError> {
        let exits = &self.exits;
        let exit = match self.fd.run() {
            Ok(exit) => exit,
            Err(error) if matches!(error.errno(), EINTR | EAGAIN) => {
                exits.interrupted.add();
                // Before the flags are looked at that the signal is about.
                self.fd.set_kvm_immediate_exit(0);
                return Ok(Exit::Interrupted);
            }
            Err(source) => {
                return Err(RunError::Run {
                    state: self.state(),
                    source: source.into(),
                });
            }
        };
        match exit {
            VcpuExit::IoIn(port, data) => {
                exits.io_in.add();
                let (data, bytes) = (ptr::from_mut(data), data.len());
                let element = self.io_element(bytes);
                // SAFETY: the slice lies in kvm_run, is this CPU's alone until it runs again, and
                // `io_element` has finished with its own borrow.
                let data = unsafe { &mut *data };
                data.chunks_mut(element)
                    .for_each(|data| self.buses.port_read(port, data));
            }
            VcpuExit::IoOut(port, data) => {
                exits.io_out.add();
                let (data, bytes) = (ptr::from_ref(data), data.len());
                let element = self.io_element(bytes);
                // SAFETY: as for IoIn.
                let data = unsafe { &*data };
                data.chunks(element)
                    .for_each(|data| self.buses.port_write(port, data));
            }
            VcpuExit::MmioRead(address, data) => {
                exits.mmio_read.add();
                self.buses.mmio_read(address, data);
            }
            VcpuExit::MmioWrite(address, data) => {
                exits.mmio_write.add();
                self.buses.mmio_write(address, data);
            }
            VcpuExit::Hlt => exits.halt.add(),
            VcpuExit::Intr => exits.interrupted.add(),
            VcpuExit::Debug(info) if self.gate.is_some() => {
                exits.other.add();
                return Ok(Exit::Debug(Stop::from(&info)));
            }
            VcpuExit::Shutdown => {
                exits.shutdown.add();
                return Err(RunError::TripleFault(self.state()));
            }
            VcpuExit::InternalError => {
                exits.internal_error.add();
                let reason = self.internal_reason();
                return Err(RunError::Internal {
                    reason,
                    state: self.state(),
                });
            }
            VcpuExit::FailEntry(reason, _) => {
                exits.other.add();
                return Err(RunError::Entry {
                    reason,
                    state: self.state(),
                });
            }
            other => {
                exits.other.add();
                let exit = format!("{other:?}");
                return Err(RunError::UnexpectedExit {
                    exit,
                    state: self.state(),
                });
            }
        }
        Ok(Exit::Answered)
    }

    /// Bytes of one access of a port exit, which REP INS and REP OUTS may hold several of.
    #[expect(unsafe_code, reason = "kvm_run is a union")]
    fn io_element(&mut self, bytes: usize) -> usize {
        // SAFETY: the last exit was KVM_EXIT_IO, so `io` is what KVM filled; all integers.
        let size = usize::from(unsafe { self.fd.get_kvm_run().__bindgen_anon_1.io }.size);
        if size == 0 { bytes.max(1) } else { size }
    }

    /// KVM's suberror (KVM API, KVM_EXIT_INTERNAL_ERROR).
    #[expect(unsafe_code, reason = "kvm_run is a union")]
    fn internal_reason(&mut self) -> String {
        // SAFETY: the last exit was KVM_EXIT_INTERNAL_ERROR, so `internal` is what KVM filled.
        match unsafe { self.fd.get_kvm_run().__bindgen_anon_1.internal }.suberror {
            1 => "KVM cannot emulate the instruction".into(),
            2 => "an exception while another was being delivered".into(),
            3 => "an exit while an event was being delivered".into(),
            4 => "an unexpected exit of the processor".into(),
            other => format!("suberror {other}"),
        }
    }

    /// Where the guest is; what cannot be read stays zero.
    fn state(&self) -> Box<CpuState> {
        const CODE: u64 = 15;
        let regs = self.fd.get_regs().unwrap_or_default();
        let sregs = self.fd.get_sregs().unwrap_or_default();
        let linear = sregs.cs.base.wrapping_add(regs.rip);
        let memory = self.memory.memory();
        let byte = |address: u64| {
            let place = self
                .fd
                .translate_gva(address)
                .ok()
                .filter(|place| place.valid != 0)?;
            memory
                .read_obj::<u8>(GuestAddress(place.physical_address))
                .ok()
        };
        Box::new(CpuState {
            cpu: self.id,
            rip: regs.rip,
            ring: sregs.ss.dpl,
            code: (0..CODE)
                .map_while(|at| byte(linear.wrapping_add(at)))
                .collect(),
            control: [sregs.cr0, sregs.cr2, sregs.cr3, sregs.cr4],
            general: vec![
                ("RAX", regs.rax),
                ("RBX", regs.rbx),
                ("RCX", regs.rcx),
                ("RDX", regs.rdx),
                ("RSI", regs.rsi),
                ("RDI", regs.rdi),
                ("RSP", regs.rsp),
                ("RBP", regs.rbp),
                ("R8", regs.r8),
                ("R9", regs.r9),
                ("R10", regs.r10),
                ("R11", regs.r11),
                ("R12", regs.r12),
                ("R13", regs.r13),
                ("R14", regs.r14),
                ("R15", regs.r15),
                ("RFLAGS", regs.rflags),
            ],
            pvm: kvm::is_pvm(),
        })
    }
}

impl From<&kvm_debug_exit_arch> for Stop {
    fn from(info: &kvm_debug_exit_arch) -> Self {
        Self::Debug {
            exception: info.exception,
            pc: info.pc,
            dr6: info.dr6,
        }
    }
}

impl From<&RunError> for Stop {
    fn from(error: &RunError) -> Self {
        Self::Crashed {
            triple_fault: matches!(error, RunError::TripleFault(_)),
            message: error.to_string(),
        }
    }
}

/// A thread that runs a CPU.
#[derive(Clone, Copy)]
pub(crate) struct CpuThread(libc::pthread_t);

impl CpuThread {
    /// The calling thread.
    #[expect(unsafe_code, reason = "a call to C")]
    fn this() -> Self {
        // SAFETY: takes nothing and cannot fail.
        Self(unsafe { libc::pthread_self() })
    }

    /// As [`Running::kick`]; the thread must not have ended.
    pub(crate) fn kick(self) {
        let _ = self.kill(SIGRTMIN());
    }
}

#[expect(unsafe_code, reason = "names a thread to send a signal to")]
// SAFETY: it is the thread's own handle, and the gate forgets it, under its lock, before the thread
// ends.
unsafe impl Killable for CpuThread {
    fn pthread_handle(&self) -> libc::pthread_t {
        self.0
    }
}

impl Running {
    /// Gets the CPU out of the guest; its thread then looks whether it is to stop.
    pub(crate) fn kick(&self) {
        // Fails only when the thread has ended, which is what is wanted.
        let _ = self.thread.kill(SIGRTMIN());
    }

    /// Waits for the thread's end.
    pub(crate) fn join(self) -> Result<Ended, RunError> {
        self.thread.join().map_err(|_| RunError::Panicked(self.id))
    }
}

struct EndOnPanic<'a>(&'a Control, u8);

impl Drop for EndOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.end(Err(RunError::Panicked(self.1)));
        }
    }
}

thread_local! {
    /// kvm_run's `immediate_exit` while this thread may run a CPU; else null.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

/// While it lives, a signal makes this thread's KVM_RUN return, or its next one if the signal
/// comes between the look at the stop flag and KVM_RUN.
struct Kickable;

impl Kickable {
    fn new(fd: &mut VcpuFd) -> Self {
        IMMEDIATE_EXIT.set(&raw mut fd.get_kvm_run().immediate_exit);
        Self
    }
}

impl Drop for Kickable {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.set(ptr::null_mut());
    }
}

#[expect(unsafe_code, reason = "a signal handler writes to kvm_run")]
extern "C" fn on_kick(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let flag = IMMEDIATE_EXIT.get();
    if !flag.is_null() {
        // SAFETY: not null, so this thread's `Kickable` lives, and with it the CPU's mapping; an
        // atomic store is all that happens here, which a signal handler may do.
        unsafe { AtomicU8::from_ptr(flag) }.store(1, Ordering::Relaxed);
    }
}

fn install_kick() -> std::io::Result<()> {
    static ONCE: Once = Once::new();
    let mut result = Ok(());
    ONCE.call_once(|| {
        result = register_signal_handler(SIGRTMIN(), on_kick).map_err(std::io::Error::from);
    });
    result
}
