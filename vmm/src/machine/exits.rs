//! How often and why the guest came out of KVM_RUN.

use std::sync::atomic::{AtomicU64, Ordering};

/// A count that any CPU adds to: an exit costs a hundred times as much.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

macro_rules! exit_counts {
    ($($field:ident: $name:literal, $doc:literal;)*) => {
        /// Exits by kind.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct ExitCounts {
            $(#[doc = $doc] pub $field: u64,)*
        }

        impl ExitCounts {
            /// Every kind's name and count.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$(($name, self.$field)),*].into_iter()
            }
        }

        /// Exits of a machine's CPUs, to be looked at while it runs.
        #[derive(Debug, Default)]
        pub struct LiveExits {
            $(pub(super) $field: Count,)*
        }

        impl LiveExits {
            /// The exits so far.
            #[must_use]
            pub fn counts(&self) -> ExitCounts {
                ExitCounts { $($field: self.$field.0.load(Ordering::Relaxed),)* }
            }
        }
    };
}

exit_counts! {
    io_in: "port reads", "Port reads.";
    io_out: "port writes", "Port writes.";
    mmio_read: "MMIO reads", "Memory-mapped reads.";
    mmio_write: "MMIO writes", "Memory-mapped writes.";
    halt: "halts", "HLT that came out of the kernel; its own interrupt controller keeps most.";
    interrupted: "signals", "Signals to the CPU's thread.";
    shutdown: "shutdowns", "Triple faults.";
    internal_error: "internal errors", "KVM gave up.";
    other: "other", "Everything else.";
}

impl ExitCounts {
    /// All exits.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.iter().map(|(_, count)| count).sum()
    }

    /// All exits but those for ports.
    #[must_use]
    pub fn beside_ports(&self) -> u64 {
        self.total() - self.io_in - self.io_out
    }
}
