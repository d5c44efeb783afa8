//! Opening KVM and making the bare virtual machine.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config};
use kvm_ioctls::{Cap, Kvm, VmFd};

use super::error::MachineError;
use super::layout;

/// The stable version of KVM's interface (KVM API, section 4.1).
const API_VERSION: i32 = 12;

/// What the machine is built on, with the names of KVM's documentation.
const NEEDED: [(Cap, &str); 8] = [
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::Pit2, "KVM_CAP_PIT2"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
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
        // ENOTTY, or whatever else the call fails with.
        ..0 => return Err(MachineError::NotKvm),
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

/// What an error of opening the node means.
fn open_error(error: io::Error) -> MachineError {
    // ENODEV and ENXIO: the node is there, no module answers.
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENXIO | libc::ENODEV) => MachineError::NoKvm,
        Some(libc::EACCES) => {
            let node = fs::metadata("/dev/kvm").map(|node| (node.uid(), node.gid(), node.mode()));
            let groups = fs::read_to_string("/etc/group").unwrap_or_default();
            permission(node.ok(), &groups)
        }
        Some(libc::EPERM) => MachineError::KvmForbidden,
        _ => MachineError::KvmOpen(error),
    }
}

/// What EACCES means of a node with this owner, group and mode, where /etc/group is `groups`.
fn permission(node: Option<(u32, u32, u32)>, groups: &str) -> MachineError {
    /// Reading and writing, for the group.
    const GROUP: u32 = 0o060;
    let Some((uid, gid, mode)) = node else {
        return MachineError::KvmPermission {
            owner: "out of sight".into(),
            advice: "Run as root".into(),
        };
    };
    let group = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(gid)).then_some(name)
    });
    let group = group.map_or_else(|| gid.to_string(), str::to_string);
    let advice = if mode & GROUP != GROUP || gid == 0 {
        "Its group may not use it: give it one that may (`chgrp kvm /dev/kvm; chmod 660 \
         /dev/kvm`, which udev's rules do otherwise) and join that, or run as root"
            .into()
    } else {
        format!("Join its group (`usermod -aG {group} $USER`, then log in anew) or run as root")
    };
    MachineError::KvmPermission {
        owner: format!("user {uid}, group {group}, mode {:04o}", mode & 0o7777),
        advice,
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

/// What an error of KVM_CREATE_VM means.
fn create_error(error: kvm_ioctls::Error) -> MachineError {
    match error.errno() {
        libc::EBUSY => MachineError::KvmBusy,
        _ => MachineError::kvm("KVM_CREATE_VM")(error),
    }
}

/// A VM with interrupt controllers and timer in the kernel: two PICs, IOAPIC, LAPICs, PIT.
pub(crate) fn create_vm(kvm: &Kvm) -> Result<VmFd, MachineError> {
    let vm = kvm.create_vm().map_err(create_error)?;
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
        let text = |code| {
            let error = open_error(io::Error::from_raw_os_error(code));
            format!("{:#}", anyhow::Error::new(error))
        };
        let missing = text(libc::ENOENT);
        assert!(missing.contains("`cargo test`"), "{missing}");
        assert!(!missing.contains("ferrite serve"), "{missing}");
        assert!(missing.contains("modprobe kvm_intel"), "{missing}");
        assert_eq!(missing, text(libc::ENODEV));
        assert!(text(libc::EACCES).contains("permission denied"));
        assert!(text(libc::EPERM).contains("--device /dev/kvm"));
        assert_eq!(text(libc::EMFILE).matches("os error 24").count(), 1);
    }

    #[test]
    fn denied_node_is_shown_with_what_its_mode_allows() {
        let text = |node| permission(node, "root:x:0:\nkvm:x:108:qemu\n").to_string();
        let ours = text(Some((0, 108, 0o20_660)));
        assert!(ours.contains("user 0, group kvm, mode 0660"), "{ours}");
        assert!(ours.contains("usermod -aG kvm"), "{ours}");
        let unknown = text(Some((0, 36, 0o20_660)));
        assert!(unknown.contains("usermod -aG 36"), "{unknown}");
        let roots = text(Some((0, 0, 0o20_600)));
        assert!(roots.contains("group root, mode 0600"), "{roots}");
        assert!(roots.contains("chmod 660"), "{roots}");
        assert!(!roots.contains("usermod"), "{roots}");
        assert!(text(None).contains("root"));
    }

    #[test]
    fn busy_virtualisation_names_who_may_have_it() {
        let text = |errno| {
            let error = create_error(kvm_ioctls::Error::new(errno));
            format!("{:#}", anyhow::Error::new(error))
        };
        assert!(text(libc::EBUSY).contains("VirtualBox"));
        assert!(text(libc::ENOMEM).contains("KVM_CREATE_VM fails: "));
    }

    #[test]
    fn virtualisation_flags_are_whole_words() {
        assert!(has_virtualisation("processor: 0\nflags\t\t: fpu svm sse"));
        assert!(has_virtualisation("flags : vmx"));
        assert!(!has_virtualisation("flags : fpu svm_lock\nbugs : vmx"));
        assert!(!has_virtualisation(""));
    }
}
