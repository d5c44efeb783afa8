//! `ferrite bench`: what the controller costs, as ratios within one run.
//!
//! A machine's speed changes from second to second, so nothing is measured alone: the cases of a
//! table take turns in short samples, and a ratio is the median of the ratios within each turn.

pub mod core;
mod rig;
mod sample;

pub use sample::{Measured, Table};
