//! The command's larger subcommands.

mod bench;
mod run;
mod selftest;

pub(crate) use bench::Bench;
pub(crate) use run::{RunArgs, run};
pub(crate) use selftest::{Peer, SelftestArgs, selftest};
