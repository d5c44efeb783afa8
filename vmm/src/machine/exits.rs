//! How often and why the guest came out of KVM_RUN.

use std::ops::AddAssign;

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

        impl AddAssign for ExitCounts {
            fn add_assign(&mut self, other: Self) {
                $(self.$field += other.$field;)*
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
}
