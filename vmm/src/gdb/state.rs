//! Registers between KVM and GDB.

use gdbstub_arch::x86::reg::{F80, X86_64CoreRegs, X86SegmentRegs, X87FpuInternalRegs};
use kvm_bindings::{Msrs, kvm_fpu, kvm_msr_entry, kvm_regs, kvm_sregs};
use kvm_ioctls::VcpuFd;

use super::registers::GuestRegisters;

/// KERNEL_GS_BASE (Intel SDM volume 4): what SWAPGS gives.
const KERNEL_GS_BASE: u32 = 0xc000_0102;

/// What KVM knows of a CPU.
#[derive(Clone, Copy, PartialEq)]
struct State {
    regs: kvm_regs,
    sregs: kvm_sregs,
    fpu: kvm_fpu,
    kernel_gs_base: u64,
}

/// KVM refused.
pub(super) type Refused = kvm_ioctls::Error;

/// Reads all registers.
pub(super) fn read(fd: &VcpuFd) -> Result<GuestRegisters, Refused> {
    State::read(fd).map(|state| state.gdb())
}

/// Writes what differs from what the CPU has. Segment selectors cannot be written: their
/// descriptors would have to come along.
pub(super) fn write(fd: &VcpuFd, registers: &GuestRegisters) -> Result<(), Refused> {
    let before = State::read(fd)?;
    let mut after = before;
    if !after.change(registers) {
        return Err(Refused::new(libc::EINVAL));
    }
    if after.sregs != before.sregs {
        fd.set_sregs(&after.sregs)?;
    }
    if after.regs != before.regs {
        fd.set_regs(&after.regs)?;
    }
    if after.fpu != before.fpu {
        fd.set_fpu(&after.fpu)?;
    }
    if after.kernel_gs_base != before.kernel_gs_base {
        let msrs = kernel_gs_base(after.kernel_gs_base)?;
        if fd.set_msrs(&msrs)? != 1 {
            return Err(Refused::new(libc::EINVAL));
        }
    }
    Ok(())
}

fn kernel_gs_base(data: u64) -> Result<Msrs, Refused> {
    let entry = kvm_msr_entry {
        index: KERNEL_GS_BASE,
        data,
        ..Default::default()
    };
    Msrs::from_entries(&[entry]).map_err(|_| Refused::new(libc::ENOMEM))
}

impl State {
    fn read(fd: &VcpuFd) -> Result<Self, Refused> {
        let mut msrs = kernel_gs_base(0)?;
        fd.get_msrs(&mut msrs)?;
        Ok(Self {
            regs: fd.get_regs()?,
            sregs: fd.get_sregs()?,
            fpu: fd.get_fpu()?,
            kernel_gs_base: msrs.as_slice().first().map_or(0, |entry| entry.data),
        })
    }

    fn gdb(&self) -> GuestRegisters {
        let Self {
            regs, sregs, fpu, ..
        } = self;
        let mut st = [F80::default(); 8];
        for (st, fpr) in st.iter_mut().zip(&fpu.fpr) {
            if let Some(bytes) = fpr.first_chunk() {
                *st = *bytes;
            }
        }
        let low = |value: u64| u32::try_from(value & u64::from(u32::MAX)).unwrap_or_default();
        let core = X86_64CoreRegs {
            regs: [
                regs.rax, regs.rbx, regs.rcx, regs.rdx, regs.rsi, regs.rdi, regs.rbp, regs.rsp,
                regs.r8, regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
            ],
            eflags: low(regs.rflags),
            rip: regs.rip,
            segments: X86SegmentRegs {
                cs: sregs.cs.selector.into(),
                ss: sregs.ss.selector.into(),
                ds: sregs.ds.selector.into(),
                es: sregs.es.selector.into(),
                fs: sregs.fs.selector.into(),
                gs: sregs.gs.selector.into(),
            },
            st,
            fpu: X87FpuInternalRegs {
                fctrl: fpu.fcw.into(),
                fstat: fpu.fsw.into(),
                ftag: full_tags(fpu.ftwx).into(),
                fiseg: low(fpu.last_ip >> 32),
                fioff: low(fpu.last_ip),
                foseg: low(fpu.last_dp >> 32),
                fooff: low(fpu.last_dp),
                fop: fpu.last_opcode.into(),
            },
            xmm: fpu.xmm.map(u128::from_le_bytes),
            mxcsr: fpu.mxcsr,
        };
        GuestRegisters {
            core,
            system: [
                sregs.fs.base,
                sregs.gs.base,
                self.kernel_gs_base,
                sregs.cr0,
                sregs.cr2,
                sregs.cr3,
                sregs.cr4,
                sregs.cr8,
                sregs.efer,
            ],
        }
    }

    /// Takes over what GDB says; false when it would load a segment register.
    fn change(&mut self, to: &GuestRegisters) -> bool {
        let core = &to.core;
        if core.segments != self.gdb().core.segments {
            return false;
        }
        let Self {
            regs, sregs, fpu, ..
        } = self;
        [
            regs.rax, regs.rbx, regs.rcx, regs.rdx, regs.rsi, regs.rdi, regs.rbp, regs.rsp,
            regs.r8, regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
        ] = core.regs;
        regs.rip = core.rip;
        regs.rflags = core.eflags.into();
        for (fpr, st) in fpu.fpr.iter_mut().zip(&core.st) {
            if let Some(bytes) = fpr.first_chunk_mut() {
                *bytes = *st;
            }
        }
        let short = |value: u32| u16::try_from(value & 0xffff).unwrap_or_default();
        fpu.fcw = short(core.fpu.fctrl);
        fpu.fsw = short(core.fpu.fstat);
        fpu.ftwx = short_tags(short(core.fpu.ftag));
        fpu.last_opcode = short(core.fpu.fop);
        fpu.last_ip = u64::from(core.fpu.fiseg) << 32 | u64::from(core.fpu.fioff);
        fpu.last_dp = u64::from(core.fpu.foseg) << 32 | u64::from(core.fpu.fooff);
        fpu.xmm = core.xmm.map(u128::to_le_bytes);
        fpu.mxcsr = core.mxcsr;
        [
            sregs.fs.base,
            sregs.gs.base,
            self.kernel_gs_base,
            sregs.cr0,
            sregs.cr2,
            sregs.cr3,
            sregs.cr4,
            sregs.cr8,
            sregs.efer,
        ] = to.system;
        true
    }
}

/// The x87 tag word from FXSAVE's short form (Intel SDM volume 1, 10.5.1): a register is empty (3)
/// or not (given as 0, valid; which of the other two it is stands in the register).
fn full_tags(short: u8) -> u16 {
    (0..8).fold(0, |tags, register| match short >> register & 1 {
        0 => tags | 3 << (2 * register),
        _ => tags,
    })
}

fn short_tags(full: u16) -> u8 {
    (0..8).fold(0, |tags, register| match full >> (2 * register) & 3 {
        3 => tags,
        _ => tags | 1 << register,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_survive_the_way_to_gdb_and_back() {
        let mut state = State {
            regs: kvm_regs::default(),
            sregs: kvm_sregs::default(),
            fpu: kvm_fpu::default(),
            kernel_gs_base: 7,
        };
        (state.regs.r9, state.regs.rip, state.regs.rflags) = (9, 0x1234, 0x202);
        (
            state.sregs.gs.base,
            state.sregs.efer,
            state.sregs.cs.selector,
        ) = (u64::MAX, 0xd01, 0x10);
        (state.fpu.fpr[7][9], state.fpu.xmm[15][15], state.fpu.ftwx) = (0x40, 0xf0, 0x81);
        state.fpu.last_ip = 0x1_0000_0002;
        let mut other = State {
            regs: kvm_regs::default(),
            sregs: kvm_sregs::default(),
            fpu: kvm_fpu::default(),
            kernel_gs_base: 0,
        };
        other.sregs.cs.selector = 0x10;
        assert!(other.change(&state.gdb()));
        assert!(other == state);
        let mut registers = state.gdb();
        registers.core.segments.cs = 0x33;
        assert!(!other.change(&registers));
    }

    #[test]
    fn tags_have_a_short_and_a_full_form() {
        assert_eq!(full_tags(0), 0xffff);
        assert_eq!(full_tags(0x81), 0x3ffc);
        assert_eq!(short_tags(0x3ffc), 0x81);
        assert_eq!(short_tags(0x7ffe), 0x81, "zero and special are not empty");
    }
}
