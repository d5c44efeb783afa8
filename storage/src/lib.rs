//! Block devices: what stands behind a namespace.
//!
//! A [`BlockDevice`] is an array of bytes with a geometry; [`BlockDevice::open_queue`] gives a
//! [`Queue`] to one thread, which submits [`Request`]s and reaps their completions. Nothing here
//! knows of NVMe, PCI or KVM: offsets and lengths are bytes, and data sits in guest memory, named
//! by [`Segment`]s.
//!
//! How data moves: the caller fills a pooled `Box<Request>` (operation, range, segments) and
//! submits it. A backend that can answer at once gives the box back in [`Submitted::Done`]; one
//! that cannot keeps it, with a handle on the guest memory it uses, until
//! [`BlockQueue::reap`] returns it. The box is the operation: it travels by pointer, is never
//! copied, and comes back whatever happens, so the hot path allocates nothing.
//!
//! Backends: [`ram::Ram`] (memfd, memory taken on first write) and [`null::Null`] (keeps no
//! data), which [`Queue`] dispatches by enum; [`file::Image`] (a raw image) and any other through a
//! trait object. A backend that waits for something tells its queue's owner by [`Notify`].
//!
//! [`media::Media`] goes around any of them: the model of a drive's indirection unit.
//!
//! Left out, for now: io_uring, NBD, and the rest of the media model (cache, flash, power).

#![forbid(unsafe_code)]

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod device;
pub mod file;
pub mod media;
pub mod null;
pub mod ram;
mod request;

pub use device::{
    BlockDevice, BlockQueue, Capabilities, Geometry, Notify, OpenError, Queue, Reaped, STEP_BYTES,
    Submitted,
};
pub use request::{IoError, Op, Request, Segment};

/// Guest physical memory: one snapshot of the regions mapped now.
pub type GuestRam = vm_memory::GuestMemoryMmap<()>;

/// The handle a front end shares: a snapshot is taken once a poll.
pub type GuestRamHandle = vm_memory::GuestMemoryAtomic<GuestRam>;
