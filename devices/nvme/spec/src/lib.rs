//! NVMe wire types, and nothing else.
//!
//! What a host and a controller put in memory and registers: register layouts
//! ([`registers`]), submission and completion queue entries ([`queue`]), opcodes
//! ([`opcode`]), status values ([`status`]), Identify data ([`identify`]), features
//! ([`feature`]), log pages ([`log`]), I/O command sets ([`command_set`]) and asynchronous events
//! ([`event`]). There is no behaviour here: the controller and the host driver are built on the
//! same types and share nothing else.
//!
//! Conventions:
//! - Names are those of the NVM Express specifications: Base 2.1 ("Base"), NVM Command Set 1.1
//!   ("NVM"), NVMe over PCIe Transport 1.1 ("PCIe"). Each type names its section.
//! - A field that is zero-based on the wire ends in `_z`; it is converted once, by whoever reads
//!   it.
//! - Values that a peer may extend (opcodes, status, CNS, FID, LID) are *open enums*: every bit
//!   pattern is a value of the type, and the known ones are constants.
//! - Shifts and masks live here alone, in bit-field declarations.
//! - Everything is little-endian, as x86 is; other hosts are refused at compile time.

#![no_std]
#![forbid(unsafe_code)]

#[cfg(not(target_endian = "little"))]
compile_error!("nvme-spec lays its types out natively, which is right on little-endian hosts only");

/// Declares an open enum: a transparent integer whose known values are constants.
///
/// An unknown value is a value like any other, so decoding cannot fail; `name()` tells the known
/// ones for messages.
macro_rules! open_enum {
    (
        $(#[$meta:meta])*
        pub struct $name:ident($repr:ty) {
            $( $(#[$vmeta:meta])* $konst:ident = $value:expr, )*
        }
    ) => {
        $(#[$meta])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default,
            zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout,
        )]
        #[repr(transparent)]
        pub struct $name(pub $repr);

        impl $name {
            $( $(#[$vmeta])* pub const $konst: Self = Self($value); )*

            /// The specification's name of a known value, in capitals; `None` for another one.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $( x if x == $value => Some(stringify!($konst)), )*
                    _ => None,
                }
            }
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                match self.name() {
                    Some(name) => f.write_str(name),
                    None => write!(f, concat!(stringify!($name), "({:#x})"), self.0),
                }
            }
        }
    };
}

/// Fails the build unless a wire type has the size the specification gives it, in bytes.
macro_rules! assert_size {
    ($type:ty, $bytes:expr) => {
        const _: () = assert!(core::mem::size_of::<$type>() == $bytes);
    };
}

pub mod command_set;
pub mod event;
pub mod feature;
pub mod identify;
pub mod log;
pub mod opcode;
pub mod queue;
pub mod registers;
pub mod status;

pub use command_set::Csi;
pub use opcode::{AdminOpcode, Cns, FeatureId, LogId, NvmOpcode};
pub use queue::{Cqe, Sqe};
pub use status::Status;

/// The namespace identifier that means "every namespace" (Base 3.2.1.2).
pub const NSID_BROADCAST: u32 = 0xFFFF_FFFF;

/// Bytes of a Submission Queue Entry (Base 4.1).
pub const SQE_BYTES: usize = 64;

/// Bytes of a Completion Queue Entry (Base 4.2).
pub const CQE_BYTES: usize = 16;

/// Bytes of an Identify data structure (Base 5.1.13).
pub const IDENTIFY_BYTES: usize = 4096;

/// Bytes of one PRP entry in a PRP list (Base 4.3.1).
pub const PRP_ENTRY_BYTES: u64 = 8;
