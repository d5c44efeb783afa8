//! The guest as a debugger sees it: threads (the CPUs), memory, breakpoints, and what becomes of
//! them when it attaches, goes on and detaches. `target` answers the protocol with it.

use gdbstub::common::{Signal, Tid};
use gdbstub::stub::MultiThreadStopReason;
use kvm_bindings::{
    KVM_GUESTDBG_BLOCKIRQ, KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_INJECT_BP, KVM_GUESTDBG_INJECT_DB,
    KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW_BP, KVM_GUESTDBG_USE_SW_BP, kvm_guest_debug,
};

use super::kind::KvmKind;
use super::paging::{Paging, Place};
use super::patches::Patches;
use super::watch::{DebugRegisters, Kind};
use crate::machine::{Debugger, RunEnded, Stop};

/// What GDB is told of a stop.
pub(super) type Reason = MultiThreadStopReason<u64>;

/// #DB and #BP.
const DEBUG_EXCEPTION: u32 = 1;
const BREAKPOINT_EXCEPTION: u32 = 3;
/// DR6's bit of a single step.
const DR6_BS: u64 = 1 << 14;

/// What a CPU does when the guest goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Continue,
    Step,
}

/// The guest under a debugger.
pub(super) struct Guest {
    pub(super) debugger: Debugger,
    pub(super) kvm: KvmKind,
    pub(super) patches: Patches,
    pub(super) registers: DebugRegisters,
    /// The CPU that stopped last, or was looked at.
    pub(super) focus: usize,
    /// What each CPU was told; nothing said means go on, unless `locked`.
    pub(super) actions: Vec<Option<Action>>,
    pub(super) locked: bool,
    /// What KVM was told of each CPU.
    armed: Vec<kvm_guest_debug>,
    /// What stopped beside what was reported, and would not stop once more.
    pending: Vec<Reason>,
    /// A stop that is known although nothing has run.
    pub(super) immediate: Option<Reason>,
    /// Text for GDB's console, for when that can be sent.
    pub(super) notes: Vec<String>,
}

impl Guest {
    pub(super) fn new(debugger: Debugger) -> Self {
        let cpus = debugger.cpus();
        Self {
            kvm: KvmKind::of_host(),
            patches: Patches::new(debugger.memory().clone()),
            registers: DebugRegisters::default(),
            focus: 0,
            actions: vec![None; cpus],
            locked: false,
            armed: vec![kvm_guest_debug::default(); cpus],
            pending: Vec::new(),
            immediate: None,
            notes: Vec::new(),
            debugger,
        }
    }

    /// A debugger comes: all CPUs stop.
    pub(super) fn attach(&mut self) -> Result<(), RunEnded> {
        self.debugger.attach(true);
        (self.focus, self.immediate) = (0, None);
        self.debugger.pause()
    }

    /// The debugger goes, or is gone: nothing of it stays, and the guest goes on.
    pub(super) fn detach(&mut self) {
        self.debugger.attach(false);
        if self.debugger.pause().is_ok() {
            self.patches.clear();
            self.registers = DebugRegisters::default();
            self.pending.clear();
            self.actions.fill(None);
            self.locked = false;
            // A run that ends now needs none of it any more.
            let _ = self.arm();
            self.debugger.resume(|_| true);
        }
    }

    /// The CPU of a thread.
    pub(super) fn cpu(&self, tid: Tid) -> Option<usize> {
        let cpu = tid.get() - 1;
        (cpu < self.debugger.cpus()).then_some(cpu)
    }

    /// Where `address` lies by the page tables of CPU `cpu`; none where nothing is mapped.
    pub(super) fn place(&self, cpu: usize, address: u64) -> Result<Option<Place>, RunEnded> {
        let paging = self.paging(cpu)?;
        Ok(paging.and_then(|paging| self.place_by(&paging, address)))
    }

    /// The page tables of CPU `cpu`.
    pub(super) fn paging(&self, cpu: usize) -> Result<Option<Paging>, RunEnded> {
        let sregs = self.debugger.on_cpu(cpu, |fd| fd.get_sregs())?;
        Ok(sregs.ok().map(|sregs| Paging::from(&sregs)))
    }

    pub(super) fn place_by(&self, paging: &Paging, address: u64) -> Option<Place> {
        paging.translate(address, &|at, bytes| {
            let mut entry = [0; 8];
            let part = entry.get_mut(..bytes)?;
            self.patches
                .read(at, part)
                .then(|| u64::from_le_bytes(entry))
        })
    }

    /// Puts a software breakpoint where the CPU that is looked at has `address`, or else another
    /// one has it.
    pub(super) fn insert_patch(&mut self, address: u64) -> Result<bool, RunEnded> {
        let others = (0..self.debugger.cpus()).filter(|cpu| *cpu != self.focus);
        for cpu in std::iter::once(self.focus).chain(others) {
            if let Some(place) = self.place(cpu, address)? {
                return Ok(self.patches.insert(address, place.physical));
            }
        }
        Ok(false)
    }

    fn runs(&self, cpu: usize) -> bool {
        !self.locked || self.actions.get(cpu).is_some_and(Option::is_some)
    }

    fn steps(&self, cpu: usize) -> bool {
        self.actions.get(cpu) == Some(&Some(Action::Step))
    }

    /// Lets the guest go on as GDB said; [`Self::immediate`] when it need not or cannot.
    pub(super) fn go_on(&mut self) -> Result<(), RunEnded> {
        // A watchpoint may have been taken away since.
        while let Some(reason) = self.pending.pop() {
            if !matches!(reason, Reason::Watch { .. }) || !self.registers.is_empty() {
                self.immediate = Some(reason);
                return Ok(());
            }
        }
        if let Some(why) = self.kvm.no_step_in_ring_3() {
            for cpu in 0..self.debugger.cpus() {
                if self.steps(cpu) && self.ring(cpu)? == Some(3) {
                    self.refuse(cpu, why);
                    return Ok(());
                }
            }
        }
        match self.arm()? {
            Ok(()) => self.debugger.resume(|cpu| self.runs(cpu)),
            Err((cpu, error)) => self.refuse(cpu, &format!("KVM_SET_GUEST_DEBUG: {error}")),
        }
        Ok(())
    }

    /// The guest stays where it is, and GDB's user learns why. The signal is none that GDB steps
    /// on over.
    fn refuse(&mut self, cpu: usize, why: &str) {
        self.notes
            .push(format!("The guest stays where it is: {why}.\n"));
        self.immediate = Some(signal(cpu, Signal::SIGSTOP));
    }

    /// The ring in which CPU `cpu` is.
    pub(super) fn ring(&self, cpu: usize) -> Result<Option<u8>, RunEnded> {
        let sregs = self.debugger.on_cpu(cpu, |fd| fd.get_sregs())?;
        Ok(sregs.ok().map(|sregs| sregs.ss.dpl))
    }

    /// Tells KVM what is to stop each CPU. The inner error names a CPU for which it will not.
    fn arm(&mut self) -> Result<Result<(), (usize, kvm_ioctls::Error)>, RunEnded> {
        for cpu in 0..self.debugger.cpus() {
            let wanted = self.wanted(cpu);
            let Some(armed) = self.armed.get_mut(cpu) else {
                continue;
            };
            if *armed == wanted {
                continue;
            }
            let set = self
                .debugger
                .on_cpu(cpu, move |fd| fd.set_guest_debug(&wanted))?;
            match set {
                Ok(()) => *armed = wanted,
                Err(error) => return Ok(Err((cpu, error))),
            }
        }
        Ok(Ok(()))
    }

    fn wanted(&self, cpu: usize) -> kvm_guest_debug {
        let mut control = 0;
        if !self.patches.is_empty() {
            control |= KVM_GUESTDBG_USE_SW_BP;
        }
        if !self.registers.is_empty() {
            control |= KVM_GUESTDBG_USE_HW_BP;
        }
        if self.steps(cpu) {
            control |= KVM_GUESTDBG_SINGLESTEP;
            if self.kvm.blocks_interrupts() {
                control |= KVM_GUESTDBG_BLOCKIRQ;
            }
        }
        if control == 0 {
            return kvm_guest_debug::default();
        }
        kvm_guest_debug {
            control: control | KVM_GUESTDBG_ENABLE,
            pad: 0,
            arch: self.registers.to_kvm(),
        }
    }

    /// After CPUs have stopped by themselves, or GDB has asked for it: stops all, and says what
    /// GDB is to be told. None when it is no business of its; the guest has gone on then.
    pub(super) fn stopped(&mut self, asked: bool) -> Result<Option<Reason>, RunEnded> {
        self.debugger.pause()?;
        let mut first = None;
        for cpu in 0..self.debugger.cpus() {
            let stop = self.debugger.stop(cpu).filter(|_| self.runs(cpu));
            let Some(stop) = stop else { continue };
            tracing::debug!(cpu, ?stop, "a CPU stands");
            let Some(reason) = self.reason(cpu, &stop)? else {
                continue;
            };
            if let Stop::Crashed { message, .. } = stop {
                self.notes
                    .push(format!("The guest cannot go on: {message}\n"));
            }
            if first.is_none() {
                first = Some((cpu, reason));
            } else if again(&reason) {
                self.pending.push(reason);
            }
        }
        match first {
            Some((cpu, reason)) => {
                self.focus = cpu;
                Ok(Some(reason))
            }
            None if asked => Ok(Some(signal(self.focus, Signal::SIGINT))),
            None => {
                self.debugger.resume(|cpu| self.runs(cpu));
                Ok(None)
            }
        }
    }

    /// Why a CPU stands, if that is for GDB; the guest's own exceptions are given to it.
    fn reason(&self, cpu: usize, stop: &Stop) -> Result<Option<Reason>, RunEnded> {
        let tid = tid(cpu);
        let reason = match *stop {
            Stop::Paused => return Ok(None),
            Stop::Crashed { triple_fault, .. } => {
                let kind = if triple_fault {
                    Signal::SIGSEGV
                } else {
                    Signal::SIGABRT
                };
                signal(cpu, kind)
            }
            Stop::Debug { exception, pc, .. } if exception == BREAKPOINT_EXCEPTION => {
                if !self.patches.has(pc) {
                    self.inject(cpu, KVM_GUESTDBG_INJECT_BP)?;
                    return Ok(None);
                }
                Reason::SwBreak(tid)
            }
            Stop::Debug { exception, dr6, .. } => match self.registers.hit(dr6) {
                Some((Kind::Data(kind), addr)) => Reason::Watch { tid, kind, addr },
                _ if self.steps(cpu) && dr6 & DR6_BS != 0 => signal(cpu, Signal::SIGTRAP),
                Some((Kind::Execute, _)) => Reason::HwBreak(tid),
                None if exception == DEBUG_EXCEPTION && !self.steps(cpu) => {
                    self.inject(cpu, KVM_GUESTDBG_INJECT_DB)?;
                    return Ok(None);
                }
                None => signal(cpu, Signal::SIGTRAP),
            },
        };
        Ok(Some(reason))
    }

    /// Gives an exception back to the guest whose own it is.
    fn inject(&self, cpu: usize, which: u32) -> Result<(), RunEnded> {
        let mut debug = self.wanted(cpu);
        debug.control |= which;
        let set = self
            .debugger
            .on_cpu(cpu, move |fd| fd.set_guest_debug(&debug))?;
        if let Err(error) = set {
            tracing::error!(cpu, %error, "an exception of the guest's own is lost to the debugger");
        }
        Ok(())
    }

    /// What a crash is, in words.
    pub(super) fn crash(&self) -> Option<String> {
        (0..self.debugger.cpus()).find_map(|cpu| match self.debugger.stop(cpu) {
            Some(Stop::Crashed { message, .. }) => Some(message),
            _ => None,
        })
    }
}

/// The thread of a CPU: GDB knows no thread 0.
pub(super) fn tid(cpu: usize) -> Tid {
    Tid::MIN.saturating_add(cpu)
}

fn signal(cpu: usize, signal: Signal) -> Reason {
    Reason::SignalWithThread {
        tid: tid(cpu),
        signal,
    }
}

/// Whether a stop is lost if it is not told: the others come once more when the CPU goes on, for
/// it stands before their instruction.
fn again(reason: &Reason) -> bool {
    match reason {
        Reason::Watch { .. } => true,
        Reason::SignalWithThread { signal, .. } => *signal != Signal::SIGTRAP,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::machine::{GuestExit, Machine, MachineConfig, open_kvm};

    /// The walk through the page tables, against KVM's own.
    #[test]
    fn places_are_those_that_kvm_finds() {
        if open_kvm().is_err() {
            println!("skipped: no KVM; the walk's own tests need none");
            return;
        }
        let machine = Machine::new(MachineConfig {
            memory: 64 << 20,
            command_line: "selfcheck=hang".into(),
            ..MachineConfig::default()
        });
        let mut machine = machine.expect("a machine");
        let guest = Guest::new(machine.debugger().expect("descriptors"));
        let stop = machine.stop_handle();
        let run = thread::spawn(move || machine.run());
        // Until the kernel has its page tables and is in ring 3.
        loop {
            guest.debugger.pause().expect("it runs");
            if guest.ring(0).expect("it stands") == Some(3) {
                break;
            }
            guest.debugger.resume(|_| true);
        }
        let addresses = (0..64 << 20).step_by(0x3_0117);
        let odd = [
            0xfee0_0000,
            0xc000_1000,
            1 << 32,
            1 << 47,
            u64::MAX,
            0xffff_8000_0000_0000,
        ];
        let mut mapped = 0;
        for address in addresses.chain(odd) {
            let ours = guest.place(0, address).expect("it stands");
            let kvms = guest
                .debugger
                .on_cpu(0, move |fd| fd.translate_gva(address));
            let kvms = kvms.expect("it stands").expect("KVM_TRANSLATE");
            let kvms = (kvms.valid != 0).then_some(kvms.physical_address);
            assert_eq!(ours.map(|place| place.physical), kvms, "{address:#x}");
            mapped += u32::from(ours.is_some());
        }
        assert!(mapped > 200, "{mapped} addresses are mapped");
        stop.stop();
        let end = run.join().expect("no panic").expect("a run");
        assert_eq!(end.exit, GuestExit::Stopped);
    }
}
