//! The arguments by which a run is observed.

use std::path::PathBuf;

use clap::{Args, ValueEnum, ValueHint};
use ferrite::{
    observe::Observe,
    trace::{TraceFormat, TraceTarget},
};

#[derive(Args)]
pub(crate) struct ObserveArgs {
    /// Write a line for each command that the controllers execute (docs/tracing.md): to standard
    /// error, or to FILE.
    #[arg(long, value_name = "nvme[=FILE]", value_parser = TraceTarget::parse)]
    trace: Option<TraceTarget>,
    /// How the trace is written; JSON to a FILE that ends in .json or .jsonl, text else.
    #[arg(long, value_enum, value_name = "FORMAT")]
    trace_format: Option<Format>,
    /// Make a socket at PATH for `ferrite ctl`, which this user alone can use (docs/control.md).
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    control: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// An object a line.
    Json,
}

impl ObserveArgs {
    /// What they ask for.
    pub(crate) fn observe(&self) -> Observe {
        Observe {
            trace: self.trace.clone(),
            format: self.trace_format.map(|format| match format {
                Format::Text => TraceFormat::Text,
                Format::Json => TraceFormat::Json,
            }),
            control: self.control.clone(),
            tell_failures: false,
        }
    }
}
