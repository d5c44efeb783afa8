//! What gdbstub asks of a target, answered with the [`Guest`].

use gdbstub::arch::Registers;
use gdbstub::common::{Signal, Tid};
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::multithread::{
    MultiThreadBase, MultiThreadResume, MultiThreadResumeOps, MultiThreadSchedulerLocking,
    MultiThreadSchedulerLockingOps, MultiThreadSingleStep, MultiThreadSingleStepOps,
};
use gdbstub::target::ext::base::single_register_access::{
    SingleRegisterAccess, SingleRegisterAccessOps,
};
use gdbstub::target::ext::breakpoints::{
    Breakpoints, BreakpointsOps, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps,
    SwBreakpoint, SwBreakpointOps, WatchKind,
};
use gdbstub::target::ext::monitor_cmd::{ConsoleOutput, MonitorCmd, MonitorCmdOps};
use gdbstub::target::ext::thread_extra_info::{ThreadExtraInfo, ThreadExtraInfoOps};
use gdbstub::target::{Target, TargetError, TargetResult};

use super::guest::{Action, Guest, tid};
use super::registers::{GuestRegisters, RegisterId, X86};
use super::watch::Kind;
use super::{monitor, state};
use crate::machine::RunEnded;

impl Target for Guest {
    type Arch = X86;
    type Error = RunEnded;

    fn base_ops(&mut self) -> BaseOps<'_, X86, RunEnded> {
        BaseOps::MultiThread(self)
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }

    fn support_monitor_cmd(&mut self) -> Option<MonitorCmdOps<'_, Self>> {
        Some(self)
    }
}

fn fatal<T>(result: Result<T, RunEnded>) -> Result<T, TargetError<RunEnded>> {
    result.map_err(TargetError::Fatal)
}

fn refused<T>(result: Result<T, state::Refused>) -> Result<T, TargetError<RunEnded>> {
    result.map_err(|error| TargetError::Errno(u8::try_from(error.errno()).unwrap_or(u8::MAX)))
}

/// No CPU has that number, or no memory that address.
fn errno<T>(number: i32) -> TargetResult<T, Guest> {
    Err(TargetError::Errno(u8::try_from(number).unwrap_or(u8::MAX)))
}

impl Guest {
    /// The CPU of a thread, which is looked at from now on.
    fn look(&mut self, tid: Tid) -> TargetResult<usize, Self> {
        let Some(cpu) = self.cpu(tid) else {
            return errno(libc::ESRCH);
        };
        self.focus = cpu;
        Ok(cpu)
    }

    fn registers_of(&mut self, tid: Tid) -> TargetResult<GuestRegisters, Self> {
        let cpu = self.look(tid)?;
        refused(fatal(self.debugger.on_cpu(cpu, |fd| state::read(fd)))?)
    }

    fn set_registers(&mut self, tid: Tid, registers: GuestRegisters) -> TargetResult<(), Self> {
        let cpu = self.look(tid)?;
        let write = self
            .debugger
            .on_cpu(cpu, move |fd| state::write(fd, &registers));
        refused(fatal(write)?)
    }

    /// Splits a range of virtual addresses by pages: (physical address, bytes) of each, up to the
    /// first that is not mapped.
    fn pages(
        &mut self,
        start: u64,
        bytes: usize,
        tid: Tid,
    ) -> TargetResult<Vec<(u64, usize)>, Self> {
        let cpu = self.look(tid)?;
        // Also keeps gdbstub, which adds to it, from passing the end.
        if start.checked_add(bytes as u64).is_none() {
            return errno(libc::EFAULT);
        }
        let Some(paging) = fatal(self.paging(cpu))? else {
            return errno(libc::EFAULT);
        };
        let (mut pages, mut at) = (Vec::new(), 0);
        while at < bytes {
            let Some(place) = self.place_by(&paging, start + at as u64) else {
                break;
            };
            let left = usize::try_from(place.left)
                .unwrap_or(usize::MAX)
                .min(bytes - at);
            pages.push((place.physical, left));
            at += left;
        }
        Ok(pages)
    }
}

impl MultiThreadBase for Guest {
    fn read_registers(
        &mut self,
        registers: &mut GuestRegisters,
        tid: Tid,
    ) -> TargetResult<(), Self> {
        *registers = self.registers_of(tid)?;
        Ok(())
    }

    fn write_registers(&mut self, registers: &GuestRegisters, tid: Tid) -> TargetResult<(), Self> {
        self.set_registers(tid, registers.clone())
    }

    fn support_single_register_access(&mut self) -> Option<SingleRegisterAccessOps<'_, Tid, Self>> {
        Some(self)
    }

    fn read_addrs(&mut self, start: u64, data: &mut [u8], tid: Tid) -> TargetResult<usize, Self> {
        let mut read = 0;
        for (physical, bytes) in self.pages(start, data.len(), tid)? {
            let Some(part) = data.get_mut(read..read + bytes) else {
                break;
            };
            if !self.patches.read(physical, part) {
                break;
            }
            read += bytes;
        }
        if read == 0 && !data.is_empty() {
            return errno(libc::EFAULT);
        }
        Ok(read)
    }

    fn write_addrs(&mut self, start: u64, data: &[u8], tid: Tid) -> TargetResult<(), Self> {
        let pages = self.pages(start, data.len(), tid)?;
        if pages.iter().map(|(_, bytes)| bytes).sum::<usize>() != data.len() {
            return errno(libc::EFAULT);
        }
        let mut rest = data;
        for (physical, bytes) in pages {
            let (part, after) = rest.split_at_checked(bytes).unwrap_or((rest, &[]));
            if !self.patches.write(physical, part) {
                return errno(libc::EFAULT);
            }
            rest = after;
        }
        Ok(())
    }

    fn list_active_threads(&mut self, active: &mut dyn FnMut(Tid)) -> Result<(), RunEnded> {
        (0..self.debugger.cpus()).map(tid).for_each(active);
        Ok(())
    }

    fn is_thread_alive(&mut self, tid: Tid) -> Result<bool, RunEnded> {
        Ok(self.cpu(tid).is_some())
    }

    fn support_resume(&mut self) -> Option<MultiThreadResumeOps<'_, Self>> {
        Some(self)
    }

    fn support_thread_extra_info(&mut self) -> Option<ThreadExtraInfoOps<'_, Self>> {
        Some(self)
    }
}

impl SingleRegisterAccess<Tid> for Guest {
    fn read_register(
        &mut self,
        tid: Tid,
        id: RegisterId,
        buf: &mut [u8],
    ) -> TargetResult<usize, Self> {
        let all = bytes(&self.registers_of(tid)?);
        let (Some(value), range) = (all.get(id.range()), id.range()) else {
            return errno(libc::EINVAL);
        };
        let Some(buf) = buf.get_mut(..range.len()) else {
            return errno(libc::EINVAL);
        };
        buf.copy_from_slice(value);
        Ok(range.len())
    }

    fn write_register(&mut self, tid: Tid, id: RegisterId, value: &[u8]) -> TargetResult<(), Self> {
        let mut registers = self.registers_of(tid)?;
        let mut all = bytes(&registers);
        match all.get_mut(id.range()) {
            Some(old) if old.len() == value.len() => old.copy_from_slice(value),
            _ => return errno(libc::EINVAL),
        }
        if registers.gdb_deserialize(&all).is_err() {
            return errno(libc::EINVAL);
        }
        self.set_registers(tid, registers)
    }
}

fn bytes(registers: &GuestRegisters) -> Vec<u8> {
    let mut bytes = Vec::new();
    registers.gdb_serialize(|byte| bytes.extend(byte));
    bytes
}

impl MultiThreadResume for Guest {
    fn resume(&mut self) -> Result<(), RunEnded> {
        self.go_on()
    }

    fn clear_resume_actions(&mut self) -> Result<(), RunEnded> {
        self.actions.fill(None);
        self.locked = false;
        Ok(())
    }

    /// Signals mean nothing to a CPU, so one that comes along is dropped.
    fn set_resume_action_continue(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), RunEnded> {
        self.set_action(tid, Action::Continue);
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    fn support_scheduler_locking(&mut self) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadSingleStep for Guest {
    fn set_resume_action_step(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), RunEnded> {
        self.set_action(tid, Action::Step);
        Ok(())
    }
}

impl MultiThreadSchedulerLocking for Guest {
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), RunEnded> {
        self.locked = true;
        Ok(())
    }
}

impl Guest {
    /// Of several actions for one thread the first counts.
    fn set_action(&mut self, tid: Tid, action: Action) {
        let Some(cpu) = self.cpu(tid) else { return };
        if let Some(slot) = self.actions.get_mut(cpu) {
            slot.get_or_insert(action);
        }
    }
}

impl ThreadExtraInfo for Guest {
    fn thread_extra_info(&self, tid: Tid, buf: &mut [u8]) -> Result<usize, RunEnded> {
        let Some(cpu) = self.cpu(tid) else {
            return Ok(0);
        };
        let state = self.debugger.on_cpu(cpu, |fd| fd.get_mp_state())?;
        let text = match state {
            Ok(state) => format!("CPU {cpu}, {}", monitor::waits(state.mp_state)),
            Err(_) => format!("CPU {cpu}"),
        };
        let bytes = text.as_bytes().iter().zip(buf);
        Ok(bytes.map(|(byte, to)| *to = *byte).count())
    }
}

impl MonitorCmd for Guest {
    fn handle_monitor_cmd(
        &mut self,
        command: &[u8],
        mut out: ConsoleOutput<'_>,
    ) -> Result<(), RunEnded> {
        out.write_raw(monitor::answer(self, command)?.as_bytes());
        Ok(())
    }
}

impl Breakpoints for Guest {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

impl SwBreakpoint for Guest {
    fn add_sw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        if let Some(why) = self.kvm.no_software_breakpoints() {
            // GDB shows an error's number at most, and takes console text only while it waits.
            tracing::info!("no breakpoint at {address:#x}: {why}");
            return Ok(false);
        }
        fatal(self.insert_patch(address))
    }

    fn remove_sw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.patches.remove(address))
    }
}

impl HwBreakpoint for Guest {
    fn add_hw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.registers.insert(address, 1, Kind::Execute))
    }

    fn remove_hw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.registers.remove(address, 1, Kind::Execute))
    }
}

impl HwWatchpoint for Guest {
    fn add_hw_watchpoint(
        &mut self,
        address: u64,
        bytes: u64,
        kind: WatchKind,
    ) -> TargetResult<bool, Self> {
        if let Some(why) = self.kvm.no_watchpoints() {
            tracing::info!("no watchpoint at {address:#x}: {why}");
            return Ok(false);
        }
        Ok(self.registers.insert(address, bytes, Kind::Data(kind)))
    }

    fn remove_hw_watchpoint(
        &mut self,
        address: u64,
        bytes: u64,
        kind: WatchKind,
    ) -> TargetResult<bool, Self> {
        Ok(self.registers.remove(address, bytes, Kind::Data(kind)))
    }
}
