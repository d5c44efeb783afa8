//! `ferrite bench`: what the controller costs, as ratios within one run.
//!
//! A machine's speed changes from second to second, so nothing is measured alone: the cases of a
//! table take turns in short samples, each beside a sample of what it is held against, and a ratio
//! is the median over these pairs.

pub mod core;
pub mod guest;
mod rig;
mod sample;
mod work;

pub use sample::{Measured, Table};
