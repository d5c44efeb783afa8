//! Ferrite: the machine, and what hosts the drive.

pub mod machine;

/// The bare-metal test kernel (guest-tests/kernel): a PVH ELF, built by this crate's build script.
pub static TEST_KERNEL: &[u8] = include_bytes!(env!("FERRITE_TEST_KERNEL"));
