//! Why a guest could not be started.

use std::{io, path::PathBuf};

use thiserror::Error;

use crate::{
    attach::AttachError,
    gdb::GdbError,
    machine::MachineError,
    observe::ObserveError,
    options::{OptionError, Size},
};

/// The guest could not be started.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// A file cannot be read.
    #[error("{option} {path}", path = path.display())]
    File {
        /// The option that names it.
        option: &'static str,
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file has more bytes than the guest's memory.
    #[error(
        "{option} {path}: it is larger than the guest's memory of {}; give more with --memory",
        Size(*memory),
        path = path.display()
    )]
    Large {
        /// The option that names it.
        option: &'static str,
        /// Its path.
        path: PathBuf,
        /// Bytes of memory.
        memory: u64,
    },
    /// An option of a controller.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// A controller cannot be attached.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The machine, or what is to be loaded into it.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The debugger's server.
    #[error(transparent)]
    Gdb(#[from] GdbError),
    /// The trace or the control socket.
    #[error(transparent)]
    Observe(#[from] ObserveError),
    /// The process's signals cannot be watched.
    #[error("signals cannot be watched")]
    Signals(#[source] io::Error),
}
