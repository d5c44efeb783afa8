//! A random host, and an oracle that knows what an NVMe controller may answer it.
//!
//! [`run()`] drives a controller behind a [`Transport`](nvme_host::Transport): it makes and deletes
//! queues, stores commands that are right and wrong in several of them at once, rings, aborts,
//! asks, resets, and lets the controller run, all as a source of [`Choices`] says: a seed, or a
//! fuzzer's bytes. The same choices and the same controller give the same run.
//!
//! It judges everything the controller does. Of each command (`legal`): may it be answered so?
//! Of each block that is read or compared (`model`, `value`): may it hold this, and is it whole?
//! Of each completion (`rings`, `host`): was such a command sent, is it the first completion of
//! it, had its entry been taken, was there room? Of memory (`memory`): did the controller write
//! what it was told to, and nothing else? Of time: is everything completed that has to be, and
//! nothing after a reset?
//!
//! Where the specification leaves a choice, all of it is legal; docs/random-hosts.md says which
//! bugs that were put in on purpose it finds, and how soon.
//!
//! [`Unsteady`] is a block device that does whatever a backend may: late, in pieces, in another
//! order, and, if asked, not at all. [`shrink()`] makes a failing run shorter.
//!
//! Left out: metadata and protection, SGLs, fused operations, interrupts, what admin commands
//! return beyond Identify, several controllers.

#![forbid(unsafe_code)]
#![allow(
    clippy::indexing_slicing,
    reason = "a tool of tests: a defect of its own is to end the test, loudly"
)]

mod admin;
mod choices;
mod facts;
mod host;
mod io;
mod legal;
mod life;
mod memory;
mod model;
mod prp;
mod read_back;
mod rings;
mod run;
mod shrink;
mod unsteady;
mod value;

pub use choices::{Bytes, Choices, Seeded};
pub use run::{Failure, Options, Report, run};
pub use shrink::shrink;
pub use unsteady::{Traits, Unsteady};
