//! The command's larger subcommands.

mod selftest;

pub(crate) use selftest::{SelftestArgs, selftest};
