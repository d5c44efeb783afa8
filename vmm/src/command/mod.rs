//! The command's larger subcommands.

mod bench;
mod selftest;

pub(crate) use bench::Bench;
pub(crate) use selftest::{Peer, SelftestArgs, selftest};
