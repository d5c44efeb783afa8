//! The guest's side of `ferrite bench guest`: how fast a controller is for a host that does
//! nothing but drive it.
//!
//! [`run()`] takes [`Case`]s through [`nvme_host`]'s driver, one after the other: how to wait, read
//! or write, how large, how many outstanding on how many queues. What is timed is a loop
//! over [`nvme_host::Lane`]s that reaps, and submits anew for each completion it found, with
//! buffers and PRP lists made before: nothing is allocated, filled or compared in it. Statuses are
//! checked there; that writes landed and reads read what was written is checked when it is over.
//! Latencies go into a [`Histogram`].
//!
//! It says what came of it in lines ([`Line`]) that [`Report`] reads back on the other side, so
//! that the same loops run on any controller a test kernel finds.
//!
//! Left out: more than one CPU, so several queues are driven in turn; sequential and mixed loads.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod case;
mod drive;
mod histogram;
mod hot;
mod line;
mod run;

pub use case::{Case, NotACase, Op, Wait, cases};
pub use histogram::Histogram;
pub use line::{Line, Measured, Report};
pub use run::{Plan, run};
