//! What can go wrong with the machine, and what to do about it.
//!
//! A message does not repeat its source's: whoever prints joins the chain (anyhow's `{:#}`).

use std::fmt;
use std::io;

use thiserror::Error;

/// Why a machine could not be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MachineError {
    /// There is no /dev/kvm.
    #[error(
        "no /dev/kvm: `run` and `selftest` need KVM. Load it with `modprobe kvm_intel` or \
         `modprobe kvm_amd` (and enable virtualisation in the firmware, or nesting in the outer \
         hypervisor). Without KVM, `cargo test` drives the controller in its own process"
    )]
    NoKvm,
    /// The permissions of /dev/kvm do not let this user open it.
    #[error("/dev/kvm ({owner}): permission denied. {advice}")]
    KvmPermission {
        /// Its owner, group and mode.
        owner: String,
        /// What would help.
        advice: String,
    },
    /// Something above the permissions of /dev/kvm forbids to open it: EPERM.
    #[error(
        "/dev/kvm: operation not permitted, whatever its permissions. A container's device rules \
         forbid it: start the container with `--device /dev/kvm`"
    )]
    KvmForbidden,
    /// /dev/kvm exists, but could not be opened.
    #[error("/dev/kvm cannot be opened")]
    KvmOpen(#[source] io::Error),
    /// What answers at /dev/kvm does not know KVM's first call.
    #[error(
        "/dev/kvm is not KVM: KVM_GET_API_VERSION fails. `ls -l /dev/kvm` should show a \
         character device 10, 232; remove what is there and load KVM anew"
    )]
    NotKvm,
    /// Another hypervisor holds the processor's virtualisation: EBUSY.
    #[error(
        "KVM_CREATE_VM: the processor's virtualisation is in use by another hypervisor. End the \
         machines of VirtualBox or VMware, or unload their modules (`rmmod vboxdrv`, `rmmod \
         vmmon`)"
    )]
    KvmBusy,
    /// A KVM of another interface.
    #[error("/dev/kvm speaks API version {0}, this program 12")]
    KvmVersion(i32),
    /// This KVM lacks something the machine is built on.
    #[error("this kernel's KVM lacks {0}, which the machine needs; Linux 5.4 or later has it")]
    Capability(&'static str),
    /// A call to KVM failed.
    #[error("{call} fails")]
    Kvm {
        /// The call's name.
        call: &'static str,
        /// Its error.
        source: io::Error,
    },
    /// Guest memory could not be made.
    #[error("guest memory of {bytes} bytes: {reason}")]
    Memory {
        /// Bytes asked for.
        bytes: u64,
        /// What failed.
        reason: String,
    },
    /// The number of CPUs asked for.
    #[error("{asked} CPUs: a machine has 1 to {most}")]
    Cpus {
        /// CPUs asked for.
        asked: u8,
        /// CPUs this machine can have.
        most: u8,
    },
    /// The kernel could not be loaded.
    #[error("kernel: {0}")]
    Kernel(String),
    /// The command line cannot be passed.
    #[error("command line: {0}")]
    CommandLine(String),
    /// Modules find no room.
    #[error("modules of {bytes} bytes find no room in guest memory; give it more than {least}")]
    Modules {
        /// Bytes of all modules.
        bytes: u64,
        /// Bytes of memory that are too few.
        least: u64,
    },
    /// A device's ports or addresses are another device's.
    #[error("{what}: {reason}")]
    Bus {
        /// Which range.
        what: String,
        /// What the bus says.
        reason: String,
    },
    /// A PCI function could not be attached.
    #[error("PCI bus 0")]
    Pci(#[from] pci::BusError),
    /// More interrupt vectors than KVM has routes.
    #[error("{asked} interrupt vectors: {left} are left of what KVM can route")]
    Vectors {
        /// Vectors asked for.
        asked: u16,
        /// Vectors left.
        left: u32,
    },
    /// The host gives no eventfd for a vector.
    #[error(
        "{vectors} interrupt vectors need an eventfd each, and this process may have {limit} open \
         descriptors (`ulimit -n`): raise that limit, or have fewer vectors"
    )]
    Descriptors {
        /// Vectors asked for.
        vectors: u16,
        /// The limit in force, which is as high as this process may set it.
        limit: u64,
        /// What the host says.
        source: io::Error,
    },
    /// Something of the host's other than KVM.
    #[error("{what} cannot be had")]
    Host {
        /// What was tried.
        what: &'static str,
        /// Its error.
        source: io::Error,
    },
}

impl MachineError {
    /// For `map_err` behind a call to KVM.
    pub(crate) fn kvm(call: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |error| Self::Kvm {
            call,
            source: error.into(),
        }
    }
}

/// Why a machine stopped other than by its guest's or its owner's wish.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunError {
    /// The guest's CPU shut down.
    #[error(
        "triple fault on {0}. The guest met an exception while it had no working IDT, GDT or stack"
    )]
    TripleFault(Box<CpuState>),
    /// KVM gave up.
    #[error("KVM_EXIT_INTERNAL_ERROR ({reason}) on {state}{}", pvm_note(.state))]
    Internal {
        /// KVM's suberror in words.
        reason: String,
        /// Where the guest was.
        state: Box<CpuState>,
    },
    /// The processor refused to run the guest.
    #[error("KVM_EXIT_FAIL_ENTRY, hardware reason {reason:#x}, on {state}")]
    Entry {
        /// The processor's reason.
        reason: u64,
        /// Where the guest was.
        state: Box<CpuState>,
    },
    /// An exit that this machine asks for nowhere.
    #[error("unexpected exit {exit} on {state}")]
    UnexpectedExit {
        /// The exit.
        exit: String,
        /// Where the guest was.
        state: Box<CpuState>,
    },
    /// KVM_RUN itself failed.
    #[error("KVM_RUN fails on {state}")]
    Run {
        /// Where the guest was.
        state: Box<CpuState>,
        /// The call's error.
        source: io::Error,
    },
    /// The machine could not be completed or its threads not be started.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// A CPU's thread ended by a panic: a bug of this program.
    #[error("the thread of CPU {0} panicked; its message is above")]
    Panicked(u8),
}

impl RunError {
    /// Where the guest was, if it is the guest's end that this tells of.
    #[must_use]
    pub fn state(&self) -> Option<&CpuState> {
        match self {
            Self::TripleFault(state)
            | Self::Internal { state, .. }
            | Self::Entry { state, .. }
            | Self::UnexpectedExit { state, .. }
            | Self::Run { state, .. } => Some(state),
            _ => None,
        }
    }
}

fn pvm_note(state: &CpuState) -> &'static str {
    match state {
        CpuState {
            pvm: true, ring: 0, ..
        } => {
            ". This host's KVM is PVM: ring 0 of the guest is emulated, and its emulator knows \
             integer instructions alone (no SSE, no AVX, no INT)"
        }
        _ => "",
    }
}

/// Where a guest's CPU was when it could not go on.
#[derive(Clone, Debug, Default)]
pub struct CpuState {
    /// CPU number.
    pub cpu: u8,
    /// Instruction pointer, a linear address but for CS's base.
    pub rip: u64,
    /// Privilege level, 0 to 3.
    pub ring: u8,
    /// The bytes at RIP, as many as could be read.
    pub code: Vec<u8>,
    /// CR0, CR2, CR3 and CR4.
    pub control: [u64; 4],
    /// The general registers by their names, and RFLAGS.
    pub general: Vec<(&'static str, u64)>,
    /// Whether the host's KVM emulates ring 0.
    pub pvm: bool,
}

impl fmt::Display for CpuState {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [cr0, cr2, cr3, cr4] = self.control;
        write!(
            out,
            "CPU {}: ring {}, RIP {:#x}",
            self.cpu, self.ring, self.rip
        )?;
        if self.code.is_empty() {
            write!(out, " (no memory there)")?;
        } else {
            write!(out, ", bytes there")?;
            self.code
                .iter()
                .try_for_each(|byte| write!(out, " {byte:02x}"))?;
        }
        write!(
            out,
            "; CR0 {cr0:#x}, CR2 {cr2:#x}, CR3 {cr3:#x}, CR4 {cr4:#x}"
        )?;
        for (index, (name, value)) in self.general.iter().enumerate() {
            let lead = if index % 4 == 0 { "\n   " } else { "" };
            write!(out, "{lead} {name:<3} {value:016x}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    #[test]
    fn no_message_of_a_chain_contains_the_next() {
        let io = || io::Error::from_raw_os_error(24);
        let kvm = || MachineError::kvm("KVM_SOMETHING")(kvm_ioctls::Error::new(24));
        let host = MachineError::Host {
            what: "eventfd",
            source: io(),
        };
        let descriptors = MachineError::Descriptors {
            vectors: 2048,
            limit: 1024,
            source: io(),
        };
        let run = RunError::Run {
            state: Box::default(),
            source: io(),
        };
        let chains: [Box<dyn Error>; 7] = [
            Box::new(MachineError::KvmOpen(io())),
            Box::new(kvm()),
            Box::new(MachineError::from(pci::BusError::DeviceTaken(3))),
            Box::new(host),
            Box::new(descriptors),
            Box::new(RunError::from(kvm())),
            Box::new(run),
        ];
        for first in &chains {
            let mut error: &dyn Error = first.as_ref();
            assert!(error.source().is_some(), "{error:?}");
            while let Some(source) = error.source() {
                let (outer, inner) = (error.to_string(), source.to_string());
                assert!(!outer.contains(&inner), "{outer:?} repeats {inner:?}");
                error = source;
            }
        }
    }
}
