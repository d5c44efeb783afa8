//! Opening KVM and making the bare virtual machine.

use std::io;
use std::path::Path;

use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config};
use kvm_ioctls::{Cap, Kvm, VmFd};

use super::error::MachineError;
use super::layout;

/// The stable version of KVM's interface (KVM API, section 4.1).
const API_VERSION: i32 = 12;

/// What the machine is built on, with the names of KVM's documentation.
const NEEDED: [(Cap, &str); 9] = [
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::Pit2, "KVM_CAP_PIT2"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::IrqRouting, "KVM_CAP_IRQ_ROUTING"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
];

/// Opens /dev/kvm and looks for all the machine needs.
///
/// # Errors
/// Each says what to do.
pub fn open() -> Result<Kvm, MachineError> {
    let kvm = Kvm::new().map_err(|error| open_error(error.into()))?;
    match kvm.get_api_version() {
        API_VERSION => {}
        other => return Err(MachineError::KvmVersion(other)),
    }
    match NEEDED
        .iter()
        .find(|(capability, _)| !kvm.check_extension(*capability))
    {
        Some((_, name)) => Err(MachineError::Capability(name)),
        None => Ok(kvm),
    }
}

/// Whether `error` means that there is no KVM on this host at all, so that a test may skip.
fn open_error(error: io::Error) -> MachineError {
    // ENODEV and ENXIO: the node is there, no module answers.
    const ENXIO: i32 = 6;
    const ENODEV: i32 = 19;
    match (error.kind(), error.raw_os_error()) {
        (io::ErrorKind::NotFound, _) | (_, Some(ENXIO | ENODEV)) => MachineError::NoKvm,
        (io::ErrorKind::PermissionDenied, _) => MachineError::KvmPermission,
        _ => MachineError::KvmOpen(error),
    }
}

/// Whether this host's KVM is PVM, which runs ring 3 natively and emulates ring 0.
#[must_use]
pub fn is_pvm() -> bool {
    let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    Path::new("/sys/module/kvm_pvm").exists() && !has_virtualisation(&flags)
}

fn has_virtualisation(cpuinfo: &str) -> bool {
    let flags = cpuinfo
        .lines()
        .find(|line| line.starts_with("flags"))
        .unwrap_or_default();
    flags
        .split_whitespace()
        .any(|flag| flag == "vmx" || flag == "svm")
}

/// A VM with interrupt controllers and timer in the kernel: two PICs, IOAPIC, LAPICs, PIT.
pub(crate) fn create_vm(kvm: &Kvm) -> Result<VmFd, MachineError> {
    let vm = kvm
        .create_vm()
        .map_err(MachineError::kvm("KVM_CREATE_VM"))?;
    let tss = usize::try_from(layout::KVM_TSS).unwrap_or_default();
    vm.set_identity_map_address(layout::KVM_IDENTITY_MAP)
        .map_err(MachineError::kvm("KVM_SET_IDENTITY_MAP_ADDR"))?;
    vm.set_tss_address(tss)
        .map_err(MachineError::kvm("KVM_SET_TSS_ADDR"))?;
    vm.create_irq_chip()
        .map_err(MachineError::kvm("KVM_CREATE_IRQCHIP"))?;
    let pit = kvm_pit_config {
        flags: KVM_PIT_SPEAKER_DUMMY,
        ..Default::default()
    };
    vm.create_pit2(pit)
        .map_err(MachineError::kvm("KVM_CREATE_PIT2"))?;
    Ok(vm)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_errors_say_what_to_do() {
        let text = |code| open_error(io::Error::from_raw_os_error(code)).to_string();
        let (missing, denied) = (text(2), text(13));
        assert!(
            missing.contains("ferrite serve") && missing.contains("cargo test"),
            "{missing}"
        );
        assert!(missing.contains("modprobe kvm_intel"), "{missing}");
        assert_eq!(missing, text(19));
        assert!(denied.contains("usermod -aG kvm"), "{denied}");
        assert!(text(24).contains("os error 24"));
    }

    #[test]
    fn virtualisation_flags_are_whole_words() {
        assert!(has_virtualisation("processor: 0\nflags\t\t: fpu svm sse"));
        assert!(has_virtualisation("flags : vmx"));
        assert!(!has_virtualisation("flags : fpu svm_lock\nbugs : vmx"));
        assert!(!has_virtualisation(""));
    }
}
