//! The NVMe controller: a deterministic state machine.
//!
//! No thread, clock, file descriptor, KVM or `unsafe` is in this crate. Memory and time are handed
//! in, interrupts and wake-ups handed out through [`Interrupt`] and [`Wake`]; whoever owns a
//! [`Shard`] decides when it runs.
//!
//! How a command flows. A front end (a vCPU's exit, a vfio-user message, a test) calls
//! [`Controller::bar_write`]; a doorbell write is an atomic store (`doorbell`), a bit that tells
//! its shard to look (`rung`), and a wake if the shard is parked (`mailbox`). After Doorbell Buffer
//! Config, tails and heads are read from memory instead (`shadow`). [`Shard::poll`] reads its
//! mailbox, judges doorbells, reserves completion queue slots, fetches that many submission queue
//! entries in one copy (`queue`), and hands each to `admin` or `io`. An I/O command is checked, its
//! PRPs become segments (`prp`), and one [`storage::Request`] goes to the namespace's backend. What
//! is done at once is completed at once; the rest is reaped later in the same or another poll. At
//! the end of the poll each vector with new completions is signalled once.
//!
//! Who owns what. A completion queue and the submission queues bound to it live on one shard.
//! Shard 0 also has the admin queue and all knowledge of which queues exist; it asks the other
//! shards by message. [`Controller`] is shared by all threads: it holds the registers, the
//! [`lifecycle`] (a pure function, from which CSTS is read), and the doorbells. What may be asked of
//! it (commands, features, log pages, Identify) is in one table (`table`), from which dispatch and
//! Identify derive.
//!
//! A namespace has one of several LBA formats (`format`): a command learns which from one load
//! (`namespace`) and keeps it. Format NVM marks the namespace, waits until every shard has nothing
//! in flight there, erases and stores the next one (`admin::format`).
//!
//! What the controller does can be traced, recorded and counted command by command ([`trace`]); what
//! a host does wrong is reported by rule when the configuration asks for it ([`lint`]).
//!
//! Left out so far: SGLs, metadata, weighted round robin; docs/conformance.md has the list.

#![forbid(unsafe_code)]

mod admin;
mod atomicity;
mod command;
pub mod config;
mod controller;
mod doorbell;
mod effects;
mod error_log;
mod format;
mod granularity;
mod ids;
mod interrupts;
mod io;
pub mod lifecycle;
pub mod lint;
mod mailbox;
mod namespace;
mod park;
mod prp;
mod queue;
mod range_table;
#[cfg(test)]
mod range_table_model_tests;
#[cfg(test)]
mod range_table_tests;
mod registers;
mod rings;
mod rung;
mod settings;
mod shadow;
mod shard;
mod shared;
mod signals;
mod stats;
mod sync;
mod table;
pub mod trace;
mod work;

pub use admin::FeatureValue;
pub use config::{
    AtomicUnits, CacheMode, ConfigError, ControllerConfig, Extent, NamespaceAtomics,
    NamespaceConfig, Tear,
};
pub use controller::{Controller, SetupError};
pub use shard::Shard;
pub use signals::{Clock, DoorbellWakes, Interrupt, Lint, Trace, Wake};
pub use stats::Stats;
pub use work::Progress;
