//! What the guest's CPUs say of themselves: what KVM supports, less what this machine does not
//! have, with each CPU's own identity.

use kvm_bindings::{
    CpuId, KVM_CAP_PMU_CAPABILITY, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES,
    KVM_PMU_CAP_DISABLE, kvm_cpuid_entry2, kvm_enable_cap,
};
use kvm_ioctls::{Cap, Kvm, VmFd};

use super::error::MachineError;

/// Frequency of KVM's LAPIC timers in kHz (`APIC_BUS_FREQUENCY` of Linux's KVM: 1 GHz).
const LAPIC_KHZ: u32 = 1_000_000;

/// Base of the hypervisor's leaves, and the one that tells frequencies: EAX the TSC's, EBX the
/// LAPIC timer's, in kHz (first VMware's, then QEMU's and KVM guests' as well).
const HYPERVISOR: u32 = 0x4000_0000;
const FREQUENCY: u32 = 0x4000_0010;

/// Extended topology, and its second version.
const TOPOLOGY: [u32; 2] = [0xb, 0x1f];

/// Leaf 0's EBX of AMD and of Hygon, whose processors tell cores in leaves of their own.
const AMD: [u32; 2] = [u32::from_le_bytes(*b"Auth"), u32::from_le_bytes(*b"Hygo")];

/// Leaf 1's ECX: MONITOR and MWAIT, VMX, what PMUs can do, the LAPIC timer's deadlines.
const MONITOR: u32 = 1 << 3;
const VMX: u32 = 1 << 5;
const PDCM: u32 = 1 << 15;
const TSC_DEADLINE: u32 = 1 << 24;
/// Leaf 8000_0001h's ECX: SVM; counters of cores, of the north bridge and of the last cache.
const SVM: u32 = 1 << 2;
const AMD_COUNTERS: u32 = 1 << 23 | 1 << 24 | 1 << 28;
/// Leaves of what is taken away: MONITOR, the PMU, SVM, AMD's PMU; and AMD's newer topology, which
/// the older leaves tell.
const ABSENT: [u32; 5] = [0x5, 0xa, 0x8000_000a, 0x8000_0022, 0x8000_0026];

/// What KVM supports on this host, and a guest may have.
pub(crate) fn supported(kvm: &Kvm) -> Result<CpuId, MachineError> {
    let mut cpuid = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(MachineError::kvm("KVM_GET_SUPPORTED_CPUID"))?;
    let deadline = kvm.check_extension(Cap::TscDeadlineTimer);
    filter(cpuid.as_mut_slice(), deadline);
    Ok(cpuid)
}

/// Has KVM keep performance counters from the guest, which is told of none. A KVM that cannot
/// (before Linux 5.18) only lets a guest find them that does not ask.
pub(crate) fn without_counters(vm: &VmFd) {
    let mut cap = kvm_enable_cap {
        cap: KVM_CAP_PMU_CAPABILITY,
        ..Default::default()
    };
    if let Some(first) = cap.args.first_mut() {
        *first = KVM_PMU_CAP_DISABLE.into();
    }
    let _ = vm.enable_cap(&cap);
}

/// Takes away what would not work or is nobody's here: MONITOR waits without an exit, a guest's
/// own guests are not asked for, and performance counters differ from host to host. KVM's LAPICs
/// have deadlines, although its list does not say so.
fn filter(entries: &mut [kvm_cpuid_entry2], deadline: bool) {
    for entry in entries {
        match entry.function {
            1 => {
                entry.ecx &= !(MONITOR | VMX | PDCM | TSC_DEADLINE);
                entry.ecx |= if deadline { TSC_DEADLINE } else { 0 };
            }
            0x8000_0001 => entry.ecx &= !(SVM | AMD_COUNTERS),
            leaf if ABSENT.contains(&leaf) => {
                (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
            }
            _ => {}
        }
    }
}

/// The leaves of CPU `id` of `cpus`, whose TSC ticks at `tsc_khz` (0: unknown).
pub(crate) fn for_cpu(supported: &CpuId, id: u8, cpus: u8, tsc_khz: u32) -> Option<CpuId> {
    let mut entries: Vec<kvm_cpuid_entry2> = supported.as_slice().to_vec();
    let threads = u32::from(cpus);
    let leaf_0 = entries.iter().find(|entry| entry.function == 0);
    let amd = leaf_0.is_some_and(|leaf| AMD.contains(&leaf.ebx));
    for entry in &mut entries {
        match entry.function {
            1 => {
                entry.ebx = entry.ebx & 0x0000_ffff | threads << 16 | u32::from(id) << 24;
                entry.ecx |= 1 << 31; // a hypervisor is there
                set_bit(&mut entry.edx, 28, cpus > 1); // EBX[23:16] is meaningful
            }
            4 => {
                entry.eax = entry.eax & 0x3fff | sharing(entry.eax, cpus) << 14;
                entry.eax |= package_width(cpus) << 26;
            }
            0x8000_001d => entry.eax = entry.eax & 0x3fff | sharing(entry.eax, cpus) << 14,
            // Of several cores on AMD's, HTT alone would say threads.
            0x8000_0001 if amd => set_bit(&mut entry.ecx, 1, cpus > 1),
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

/// A cache's sharers, less one: the CPU alone has those of levels 1 and 2, all have the others.
fn sharing(cache: u32, cpus: u8) -> u32 {
    match cache >> 5 & 7 {
        ..=2 => 0,
        _ => (1 << width_bits(cpus)) - 1,
    }
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
    fn what_the_machine_lacks_is_taken_away_and_deadlines_are_told() {
        let entry = |function| kvm_cpuid_entry2 {
            function,
            eax: 0x3f,
            ebx: 7,
            ecx: u32::MAX,
            edx: 7,
            ..Default::default()
        };
        let leaves = [1, 5, 7, 0xa, 0x8000_0001, 0x8000_000a, 0x8000_0022];
        for deadline in [false, true] {
            let mut entries = leaves.map(entry);
            filter(&mut entries, deadline);
            let [one, monitor, seven, pmu, extended, svm, amd_pmu] = entries;
            assert_eq!(!one.ecx & !TSC_DEADLINE, MONITOR | VMX | PDCM);
            assert_eq!(one.ecx & TSC_DEADLINE != 0, deadline);
            assert_eq!(!extended.ecx, SVM | AMD_COUNTERS);
            assert_eq!(seven, entry(7));
            for gone in [monitor, pmu, svm, amd_pmu] {
                assert_eq!([gone.eax, gone.ebx, gone.ecx, gone.edx], [0; 4]);
            }
        }
    }

    #[test]
    fn packages_and_caches_of_1_to_64_cpus_agree_in_every_leaf() {
        let entry = |function, index, eax| kvm_cpuid_entry2 {
            function,
            index,
            eax,
            ..Default::default()
        };
        // A first-level and a third-level cache, as shared as can be.
        let caches = [entry(4, 0, 0xffff_c121), entry(4, 3, 0xffff_c163)];
        let others = [1, 0xb, 0x8000_0001, 0x8000_0008, 0x8000_001e].map(|leaf| entry(leaf, 0, 0));
        let vendor = kvm_cpuid_entry2 {
            ebx: AMD[0],
            ..entry(0, 0, 0)
        };
        let list = [&[vendor][..], &caches, &others].concat();
        let supported = CpuId::from_entries(&list).expect("few entries");
        for cpus in 1..=64_u8 {
            let width = width_bits(cpus);
            assert!(
                u32::from(cpus) <= 1 << width && (cpus == 1 || u32::from(cpus) > 1 << (width - 1))
            );
            for id in 0..cpus {
                let cpuid = for_cpu(&supported, id, cpus, 0).expect("few entries");
                let of = |function, index| {
                    let mut all = cpuid.as_slice().iter();
                    all.find(|entry| (entry.function, entry.index) == (function, index))
                        .expect("the leaf")
                };
                assert_eq!(of(1, 0).ebx >> 16, u32::from(id) << 8 | u32::from(cpus));
                assert_eq!(of(4, 0).eax >> 14 & 0xfff, 0);
                assert_eq!(of(4, 3).eax >> 14 & 0xfff, (1 << width) - 1);
                assert_eq!(of(4, 0).eax & 0x3fff, 0x121);
                assert_eq!(of(4, 0).eax >> 26, (1 << width) - 1);
                assert_eq!([of(0xb, 1).eax, of(0xb, 1).ebx], [width, u32::from(cpus)]);
                assert_eq!(of(0xb, 2).edx, u32::from(id));
                assert_eq!(of(0x8000_0001, 0).ecx, if cpus > 1 { 2 } else { 0 });
                assert_eq!(of(0x8000_0008, 0).ecx, width << 12 | u32::from(cpus - 1));
                assert_eq!(of(0x8000_001e, 0).eax, u32::from(id));
            }
        }
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
