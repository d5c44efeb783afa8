//! The first CPU's registers as a kernel's boot protocol prescribes them.

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;

use super::Entry;
use crate::machine::error::MachineError;
use crate::machine::layout;

/// CR0: protection, the FPU's type, paging.
const PE: u64 = 1 << 0;
const ET: u64 = 1 << 4;
const PG: u64 = 1 << 31;
/// CR4: page tables of 64-bit entries.
const PAE: u64 = 1 << 5;
/// EFER: long mode is enabled, and active.
const LME: u64 = 1 << 8;
const LMA: u64 = 1 << 10;

/// Bytes of the descriptor table of Linux's protocol.
const DESCRIPTORS: u16 = 4 * 8;

/// Sets the first CPU's registers. The others stay as they are: waiting for INIT and SIPI.
pub(crate) fn set(cpu: &VcpuFd, entry: Entry) -> Result<(), MachineError> {
    let mut sregs = cpu
        .get_sregs()
        .map_err(MachineError::kvm("KVM_GET_SREGS"))?;
    let mut regs = cpu.get_regs().map_err(MachineError::kvm("KVM_GET_REGS"))?;
    regs.rflags = 0x2;
    match entry {
        Entry::Pvh { rip } => pvh(&mut sregs, &mut regs, rip),
        Entry::Linux64 { rip } => linux64(&mut sregs, &mut regs, rip),
    }
    cpu.set_sregs(&sregs)
        .map_err(MachineError::kvm("KVM_SET_SREGS"))?;
    cpu.set_regs(&regs)
        .map_err(MachineError::kvm("KVM_SET_REGS"))
}

/// A segment from 0 to 4 GiB.
fn flat(type_: u8, selector: u16) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    }
}

/// Code, readable, accessed; data, writable, accessed.
const CODE: u8 = 0xb;
const DATA: u8 = 0x3;

fn set_data(sregs: &mut kvm_sregs, data: kvm_segment) {
    (sregs.ds, sregs.es, sregs.ss, sregs.fs, sregs.gs) = (data, data, data, data, data);
}

/// A task segment, which the processor wants to have.
fn task(selector: u16) -> kvm_segment {
    kvm_segment {
        limit: 0x67,
        db: 0,
        s: 0,
        g: 0,
        ..flat(CODE, selector)
    }
}

/// 32-bit protected mode, flat segments, paging off, EBX the start info.
fn pvh(sregs: &mut kvm_sregs, regs: &mut kvm_regs, rip: u64) {
    sregs.cs = flat(CODE, 0x08);
    set_data(sregs, flat(DATA, 0x10));
    sregs.tr = task(0x18);
    sregs.cr0 = PE | ET;
    sregs.cr4 = 0;
    sregs.efer = 0;
    regs.rip = rip;
    regs.rbx = layout::START_INFO;
}

/// Long mode, the segments of [`layout::DESCRIPTORS`], low memory mapped to itself, RSI the boot
/// parameters.
fn linux64(sregs: &mut kvm_sregs, regs: &mut kvm_regs, rip: u64) {
    sregs.gdt = kvm_dtable {
        base: layout::DESCRIPTORS,
        limit: DESCRIPTORS - 1,
        ..Default::default()
    };
    sregs.cs = kvm_segment {
        l: 1,
        db: 0,
        ..flat(CODE, 0x10)
    };
    set_data(sregs, flat(DATA, 0x18));
    sregs.tr = task(0x20);
    sregs.cr3 = layout::PAGE_TABLES;
    sregs.cr4 = PAE;
    sregs.efer = LME | LMA;
    sregs.cr0 = PE | ET | PG;
    regs.rip = rip;
    regs.rsi = layout::BOOT_PARAMS;
}
