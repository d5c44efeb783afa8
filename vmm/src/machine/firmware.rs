//! What firmware would have set before a kernel starts, and Linux relies on.

use kvm_bindings::{Msrs, kvm_lapic_state, kvm_msr_entry};
use kvm_ioctls::VcpuFd;

use super::error::MachineError;

/// IA32_MISC_ENABLE (Intel SDM vol. 4, table 2-2): bit 0 is fast strings.
const MISC_ENABLE: u32 = 0x1a0;
const FAST_STRINGS: u64 = 1;
/// IA32_MTRR_DEF_TYPE (Intel SDM vol. 3, 12.11.2.1): bit 11 switches MTRRs on, type 6 is
/// write-back. Without it Linux takes all memory for uncached and says so.
const MTRR_DEF_TYPE: u32 = 0x2ff;
const ENABLED_WRITE_BACK: u64 = 1 << 11 | 6;

/// The LAPIC's local vectors (Intel SDM vol. 3, 11.5.1), as offsets of its registers.
const LINT0: usize = 0x350;
const LINT1: usize = 0x360;
/// Their delivery mode, bits 10:8, and their mask, bit 16.
const MODE: u32 = 7 << 8;
const NMI: u32 = 4 << 8;
const EXT_INT: u32 = 7 << 8;
const MASKED: u32 = 1 << 16;

/// Memory types and fast strings. A KVM that has not these registers runs the guest all the same.
pub(crate) fn set_msrs(cpu: &VcpuFd) {
    let entry = |index, data| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    };
    let Ok(mut old) = Msrs::from_entries(&[entry(MISC_ENABLE, 0)]) else {
        return;
    };
    let misc = match cpu.get_msrs(&mut old) {
        Ok(1) => old.as_slice().first().map(|msr| msr.data),
        _ => None,
    };
    let misc = misc.map(|misc| entry(MISC_ENABLE, misc | FAST_STRINGS));
    // One at a time: KVM stops at the first that it refuses.
    for msr in [entry(MTRR_DEF_TYPE, ENABLED_WRITE_BACK)]
        .into_iter()
        .chain(misc)
    {
        if let Ok(list) = Msrs::from_entries(&[msr]) {
            let _ = cpu.set_msrs(&list);
        }
    }
}

/// LINT0 takes the PICs' interrupts, LINT1 the NMI (MP specification, section 3.6.2.2): on CPU 0
/// open, on the others masked as reset leaves them.
pub(crate) fn set_local_interrupts(cpu: &VcpuFd, id: u8) -> Result<(), MachineError> {
    let mut lapic = cpu
        .get_lapic()
        .map_err(MachineError::kvm("KVM_GET_LAPIC"))?;
    set_mode(&mut lapic, LINT0, EXT_INT, id == 0);
    set_mode(&mut lapic, LINT1, NMI, id == 0);
    cpu.set_lapic(&lapic)
        .map_err(MachineError::kvm("KVM_SET_LAPIC"))
}

fn set_mode(lapic: &mut kvm_lapic_state, offset: usize, mode: u32, open: bool) {
    let Some(bytes) = lapic.regs.get_mut(offset..offset + 4) else {
        return;
    };
    let mut old = [0; 4];
    for (old, byte) in old.iter_mut().zip(&*bytes) {
        *old = byte.cast_unsigned();
    }
    let mut value = u32::from_le_bytes(old) & !MODE | mode;
    if open {
        value &= !MASKED;
    }
    for (byte, new) in bytes.iter_mut().zip(value.to_le_bytes()) {
        *byte = new.cast_signed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_replace_modes_and_open_unmasks() {
        let mut lapic = kvm_lapic_state::default();
        let register = |lapic: &kvm_lapic_state, offset: usize| {
            let bytes: Vec<u8> = lapic.regs[offset..offset + 4]
                .iter()
                .map(|byte| byte.cast_unsigned())
                .collect();
            u32::from_le_bytes(bytes.try_into().expect("four"))
        };
        lapic.regs[LINT0 + 2] = 1; // masked
        lapic.regs[LINT0 + 1] = 4;
        set_mode(&mut lapic, LINT0, EXT_INT, false);
        assert_eq!(register(&lapic, LINT0), MASKED | EXT_INT);
        set_mode(&mut lapic, LINT0, NMI, true);
        assert_eq!(register(&lapic, LINT0), NMI);
        assert_eq!(register(&lapic, LINT1), 0);
    }
}
