//! What the guest's CPUs say of themselves: what KVM supports, with each CPU's own identity.

use kvm_bindings::{
    CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2,
};
use kvm_ioctls::Kvm;

use super::error::MachineError;

/// Frequency of KVM's LAPIC timers in kHz (`APIC_BUS_FREQUENCY` of Linux's KVM: 1 GHz).
const LAPIC_KHZ: u32 = 1_000_000;

/// Base of the hypervisor's leaves, and the one that tells frequencies: EAX the TSC's, EBX the
/// LAPIC timer's, in kHz (first VMware's, then QEMU's and KVM guests' as well).
const HYPERVISOR: u32 = 0x4000_0000;
const FREQUENCY: u32 = 0x4000_0010;

/// Extended topology, and its second version.
const TOPOLOGY: [u32; 2] = [0xb, 0x1f];

/// What KVM supports on this host.
pub(crate) fn supported(kvm: &Kvm) -> Result<CpuId, MachineError> {
    kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(MachineError::kvm("KVM_GET_SUPPORTED_CPUID"))
}

/// The leaves of CPU `id` of `cpus`, whose TSC ticks at `tsc_khz` (0: unknown).
pub(crate) fn for_cpu(supported: &CpuId, id: u8, cpus: u8, tsc_khz: u32) -> Option<CpuId> {
    let mut entries: Vec<kvm_cpuid_entry2> = supported.as_slice().to_vec();
    let threads = u32::from(cpus);
    for entry in &mut entries {
        match entry.function {
            1 => {
                entry.ebx = entry.ebx & 0x0000_ffff | threads << 16 | u32::from(id) << 24;
                entry.ecx |= 1 << 31; // a hypervisor is there
                set_bit(&mut entry.edx, 28, cpus > 1); // EBX[23:16] is meaningful
            }
            // Caches: shared by no one but the CPU itself, all CPUs in one package.
            4 => {
                entry.eax &= 0x3fff;
                entry.eax |= package_width(cpus) << 26;
            }
            0x8000_0008 => entry.ecx = threads.saturating_sub(1) | (width_bits(cpus) << 12),
            0x8000_001e => {
                entry.eax = u32::from(id);
                entry.ebx = u32::from(id);
                entry.ecx = 0;
            }
            HYPERVISOR => entry.eax = entry.eax.max(FREQUENCY),
            _ => {}
        }
    }
    for leaf in TOPOLOGY {
        if entries.iter().any(|entry| entry.function == leaf) {
            entries.retain(|entry| entry.function != leaf);
            entries.extend(topology(leaf, id, cpus));
        }
    }
    if tsc_khz != 0 {
        entries.retain(|entry| entry.function != FREQUENCY);
        entries.push(kvm_cpuid_entry2 {
            function: FREQUENCY,
            eax: tsc_khz,
            ebx: LAPIC_KHZ,
            ..Default::default()
        });
    }
    CpuId::from_entries(&entries).ok()
}

/// All subleaves of a topology leaf: one thread a core, all cores in one package, and the end;
/// the x2APIC id in EDX. KVM's own list has them all or, from Linux 6.3 on, the first alone.
fn topology(leaf: u32, id: u8, cpus: u8) -> [kvm_cpuid_entry2; 3] {
    const THREADS: u32 = 1 << 8;
    const CORES: u32 = 2 << 8;
    let levels = [
        (0, 0, 1, THREADS),
        (1, width_bits(cpus), u32::from(cpus), CORES),
        (2, 0, 0, 0),
    ];
    levels.map(|(index, shift, count, kind)| kvm_cpuid_entry2 {
        function: leaf,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: count,
        ecx: index | kind,
        edx: u32::from(id),
        ..Default::default()
    })
}

fn set_bit(register: &mut u32, bit: u32, on: bool) {
    *register = *register & !(1 << bit) | u32::from(on) << bit;
}

/// Bits of the APIC id that number the CPUs of the package.
fn width_bits(cpus: u8) -> u32 {
    u32::from(cpus).next_power_of_two().trailing_zeros()
}

/// Leaf 4's addressable ids of cores in the package, less one, in six bits.
fn package_width(cpus: u8) -> u32 {
    ((1 << width_bits(cpus)) - 1).min(0x3f)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(cpuid: &CpuId, function: u32) -> kvm_cpuid_entry2 {
        *cpuid
            .as_slice()
            .iter()
            .find(|entry| entry.function == function)
            .expect("the leaf")
    }

    #[test]
    fn each_cpu_has_its_own_identity() {
        let entry = |function, index| kvm_cpuid_entry2 {
            function,
            index,
            ..Default::default()
        };
        let list = [entry(1, 0), entry(0xb, 0), entry(HYPERVISOR, 0)];
        let supported = CpuId::from_entries(&list).expect("few entries");
        let third = for_cpu(&supported, 2, 3, 2_000_000).expect("few entries");
        assert_eq!(leaf(&third, 1).ebx, 2 << 24 | 3 << 16);
        assert_ne!(leaf(&third, 1).edx & 1 << 28, 0);
        assert_eq!(leaf(&third, 0xb).edx, 2);
        assert_eq!(leaf(&third, FREQUENCY).eax, 2_000_000);
        assert!(leaf(&third, HYPERVISOR).eax >= FREQUENCY);
        let only = for_cpu(&supported, 0, 1, 0).expect("few entries");
        assert_eq!(leaf(&only, 1).edx & 1 << 28, 0);
    }

    #[test]
    fn topology_of_one_subleaf_becomes_threads_cores_and_the_end() {
        let first = kvm_cpuid_entry2 {
            function: 0xb,
            ..Default::default()
        };
        let supported = CpuId::from_entries(&[first]).expect("few entries");
        let subleaves = |id, cpus| -> Vec<_> {
            let cpuid = for_cpu(&supported, id, cpus, 0).expect("few entries");
            let entries = cpuid.as_slice().iter();
            let registers = entries.map(|entry| {
                assert_eq!(entry.flags, KVM_CPUID_FLAG_SIGNIFCANT_INDEX);
                assert_eq!(entry.function, 0xb);
                (entry.index, [entry.eax, entry.ebx, entry.ecx, entry.edx])
            });
            registers.collect()
        };
        assert_eq!(
            subleaves(2, 3),
            [
                (0, [0, 1, 0x100, 2]),
                (1, [2, 3, 0x201, 2]),
                (2, [0, 0, 2, 2])
            ]
        );
        assert_eq!(
            subleaves(0, 1),
            [
                (0, [0, 1, 0x100, 0]),
                (1, [0, 1, 0x201, 0]),
                (2, [0, 0, 2, 0])
            ]
        );
    }
}
