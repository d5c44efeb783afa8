//! The command's larger subcommands.

mod bench;
mod ctl;
mod observe;
mod run;
mod selftest;

pub(crate) use bench::Bench;
pub(crate) use ctl::{CtlArgs, ctl};
pub(crate) use observe::ObserveArgs;
pub(crate) use run::{RunArgs, run};
pub(crate) use selftest::{Peer, SelftestArgs, selftest};
