//! The control socket: a running machine looked at, and ended, from outside.
//!
//! [`Conversation`] is the protocol without a socket: bytes in, requests out, one a line, JSON with a
//! version. [`Subjects`] are the machine and its controllers; [`Subjects::answer`] answers a request
//! from what they hold themselves. [`ControlSocket`] joins the two on a Unix socket, and
//! [`ask`] is the other side. docs/control.md is the protocol's description.
//!
//! Who connects cannot hold the machine up: answers read atomics and short locks, on a thread of
//! the socket's own, which waits for nobody. Nor can it make memory grow: a client has a line of a
//! bounded length and an answer of a bounded size at a time, and there is a bounded number of
//! clients.
//!
//! A new command is a variant of [`Command`] with a row in [`COMMANDS`], and an arm in
//! [`Subjects::answer`].

mod answer;
mod client;
mod fields;
mod protocol;
mod socket;
mod table;

pub use answer::{Subject, Subjects};
pub use client::{CtlError, ask};
pub use protocol::{
    COMMANDS, Command, Conversation, ErrorCode, MAX_REQUEST, MAX_RESPONSE, Refused, Request,
    VERSION, reply,
};
pub use socket::{ControlSocket, SocketError};
pub use table::table;
