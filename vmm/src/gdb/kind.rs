//! What this host's KVM can do for a debugger.

use kvm_bindings::{KVM_CAP_SET_GUEST_DEBUG2, KVM_GUESTDBG_BLOCKIRQ};

use crate::machine::{is_pvm, open_kvm};

/// What debugging can rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KvmKind {
    below: Below,
    /// KVM_CAP_SET_GUEST_DEBUG2: flags of KVM_SET_GUEST_DEBUG; 0 before Linux 5.16.
    flags: u32,
}

/// What runs the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Below {
    /// A processor's virtualization.
    Hardware,
    /// The same as QEMU's TCG emulates it.
    Tcg,
    Pvm,
}

impl KvmKind {
    pub(super) fn of_host() -> Self {
        let number = KVM_CAP_SET_GUEST_DEBUG2.into();
        let flags = open_kvm().map_or(0, |kvm| kvm.check_extension_raw(number));
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Self {
            below: match () {
                () if is_pvm() => Below::Pvm,
                () if is_tcg(&cpuinfo) => Below::Tcg,
                () => Below::Hardware,
            },
            flags: u32::try_from(flags).unwrap_or_default(),
        }
    }

    /// Why INT3 cannot stop the guest, if so.
    pub(super) fn no_software_breakpoints(self) -> Option<&'static str> {
        match self.below {
            Below::Hardware => None,
            Below::Pvm => Some(
                "this host's KVM is PVM: INT3 would go to the guest in ring 3, and end it in ring \
                 0. `hbreak` stops in ring 0",
            ),
            Below::Tcg => Some(
                "this host's processor is QEMU's TCG, which gives a guest's INT3 to the guest and \
                 not to KVM. `hbreak` stops",
            ),
        }
    }

    /// Why no watchpoint stops the guest, if so.
    pub(super) fn no_watchpoints(self) -> Option<&'static str> {
        (self.below == Below::Pvm).then_some(
            "this host's KVM is PVM: ring 3 runs without the debugger's registers, and the \
             emulator of ring 0 looks at them for instructions alone",
        )
    }

    /// Why the guest's ring 3 cannot be stepped, if so.
    pub(super) fn no_step_in_ring_3(self) -> Option<&'static str> {
        (self.below == Below::Pvm).then_some(
            "this host's KVM is PVM: the trap flag would go to the guest in ring 3. Ring 0 can be \
             stepped; registers and memory can be read and written",
        )
    }

    /// Whether a step is safe from interrupts.
    pub(super) fn blocks_interrupts(self) -> bool {
        self.flags & KVM_GUESTDBG_BLOCKIRQ != 0
    }

    /// For people.
    pub(super) fn describe(self) -> String {
        let text = match self.below {
            Below::Hardware => {
                "KVM: on hardware\n\
                 break: yes\n\
                 hbreak, watch, awatch: four in all\n\
                 stepi: yes\n"
            }
            Below::Tcg => {
                "KVM: on a processor that QEMU's TCG emulates\n\
                 break: no, INT3 goes to the guest\n\
                 hbreak, watch, awatch: four in all, but none with QEMU 7.2\n\
                 stepi: yes\n"
            }
            Below::Pvm => {
                "KVM: PVM, which emulates the guest's ring 0 and runs ring 3 natively\n\
                 break: no, INT3 goes to the guest or ends it\n\
                 hbreak: four, in ring 0\n\
                 watch, awatch: no\n\
                 stepi: in ring 0\n"
            }
        };
        let blocked = match self.blocks_interrupts() {
            true => "held back",
            false => "delivered",
        };
        format!("{text}interrupts during a step: {blocked}\n")
    }
}

/// Whether the processor calls itself QEMU's emulation.
fn is_tcg(cpuinfo: &str) -> bool {
    let mut lines = cpuinfo.lines();
    lines.any(|line| line.starts_with("model name") && line.contains("QEMU TCG"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_emulated_processor_says_so() {
        assert!(is_tcg(
            "flags: svm\nmodel name\t: QEMU TCG CPU version 2.5+\n"
        ));
        assert!(!is_tcg("model name\t: AMD EPYC 9754\nbugs: QEMU TCG\n"));
    }

    #[test]
    fn what_is_refused_is_described() {
        for below in [Below::Hardware, Below::Tcg, Below::Pvm] {
            let kind = KvmKind { below, flags: 0 };
            let text = kind.describe();
            assert_eq!(
                text.contains("break: no"),
                kind.no_software_breakpoints().is_some()
            );
            assert_eq!(
                text.contains("stepi: yes"),
                kind.no_step_in_ring_3().is_none()
            );
            assert!(text.contains("step: delivered"));
        }
    }
}
