//! Controllers of other people, to run the test kernel on beside ours.
//!
//! [`Qemu`] is a QEMU that there is; [`QemuNvme`] is what its nvme device is told, from the same
//! options as our controller; [`QemuGuest`] boots the test kernel on it. [`gaps`] knows which
//! tests that device is known to fail, from docs/peers.md.
//!
//! Unsafe code is in `process`: a child asks the kernel to end with its parent.

pub mod gaps;
mod guest;
mod nvme;
mod process;
mod qemu;

pub use guest::{QemuEnd, QemuEnded, QemuGuest, QemuRun};
pub use nvme::{QemuNamespace, QemuNvme};
pub use qemu::{Qemu, QemuError, QemuVersion};
