//! The NVMe conformance suite: one list of tests over [`nvme_host`]'s driver.
//!
//! A [`Test`] names one rule of the specification and the section it stands in, and checks it
//! through the driver and its [`Transport`](nvme_host::Transport), so the same list runs
//! in-process, in a bare-metal guest on any controller, and over vfio-user. Tests adapt to what
//! the controller says of itself; what it does not offer is skipped with the reason, and where
//! the specification leaves several answers open, each of them passes.
//!
//! [`run`] finds out what the controller is ([`Found`]), runs the tests a [`Filter`] picks, each
//! on a controller freshly reset, and reports [`Event`]s. [`tap`] prints events as TAP version 13
//! lines plus `# ferrite: key=value` facts, and reads such lines back: the guest prints with it,
//! the host's front end reads with it.
//!
//! The namespaces' contents are overwritten. Block `NSZE / 2` of each is left alone, for the test
//! of what unwritten blocks read as.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

#[macro_use]
mod check;
#[macro_use]
mod test;
mod data;
mod env;
mod facts;
mod filter;
mod found;
mod groups;
mod rng;
mod runner;
pub mod tap;

pub use env::Env;
pub use facts::Facts;
pub use filter::Filter;
pub use found::{Context, Found, Namespace, Writes};
pub use groups::{GROUPS, tests};
pub use runner::{Doorbells, Event, Summary, run, run_with};
pub use test::{Outcome, Stop, Test};
