//! Ferrite: an emulated NVMe controller, and the machine it lives in.
//!
//! [`machine`] is the virtual machine (KVM, buses, PCI, serial port); [`nvme`] puts the controller
//! on PCI, drives it with worker threads or steps it in this process; [`options`] reads the
//! command line's lists; [`attach`] joins the three; [`mod@run`] boots a guest's kernel on all of
//! it, with its serial [`mod@console`]; [`selftest`] boots the embedded test kernel; [`peer`] boots it on other people's
//! controllers, to compare; [`mod@bench`] measures. [`observe`] joins what looks on: [`mod@trace`] writes what controllers do, and
//! [`ctl`] is the socket that a running machine is looked at by.

pub mod attach;
pub mod bench;
pub mod console;
pub mod ctl;
mod figures;
pub mod gdb;
pub mod machine;
pub mod nvme;
pub mod observe;
pub mod options;
pub mod peer;
pub mod run;
pub mod selftest;
mod testbed;
pub mod trace;

/// The bare-metal test kernel (guest-tests/kernel): a PVH ELF, built by this crate's build script.
pub static TEST_KERNEL: &[u8] = include_bytes!(env!("FERRITE_TEST_KERNEL"));
