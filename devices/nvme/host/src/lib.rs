//! A small, correct NVMe host driver, written against a [`Transport`].
//!
//! [`Driver`] owns the conversation with one controller: it disables, enables and shuts down
//! ([`Driver::enable`], [`Driver::disable`], [`Driver::shutdown`]), creates and deletes queues
//! ([`CqConfig`], [`SqConfig`]), and issues commands.
//!
//! A command goes this way: a constructor of [`command`] makes the entry, [`Driver::submit`] (or
//! [`Driver::submit_data`], which builds the PRPs, see [`prp`]) gives it a command identifier,
//! stores it in queue memory and rings the doorbell, and the [`Token`] it returns is redeemed by
//! [`Driver::wait`]. Commands may complete in any order. [`Driver::exec`] does all of it for one
//! command. Typed helpers ([`Driver::identify_controller`], [`Driver::read`], …) sit on top.
//!
//! Beneath that is the raw layer that benches and hostile tests use: [`Driver::push`] stores an
//! entry as it is, [`Driver::poll`] takes the next completion as it is, and doorbells are rung by
//! hand. A [`Lane`] is a queue pair taken out of the driver, for loops that count nanoseconds.
//!
//! With shadow doorbells ([`Driver::enable_shadow_doorbells`]) tails and heads are stored in memory,
//! and registers written when the controller asks for it.
//!
//! Every wait has a limit in the transport's time and ends in an [`Error`] that names what was
//! waited for. Nothing here panics, whatever the controller does. Left out: interrupts as
//! callbacks, SGLs, metadata, multi-threading.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod admin;
pub mod command;
mod dma;
mod driver;
mod error;
mod issue;
mod lane;
mod nvm;
pub mod prp;
mod queue;
mod queues;
mod shadow;
mod transport;

pub use dma::Buffer;
pub use driver::{Config, DEFAULT_COMMAND_TIMEOUT_NS, Driver, Stats};
pub use error::{Awaited, Error};
pub use lane::Lane;
pub use queue::{MAX_QUEUE_ENTRIES, Token};
pub use queues::{CqConfig, SqConfig};
pub use shadow::{ShadowDoorbells, passes_event};
pub use transport::Transport;
