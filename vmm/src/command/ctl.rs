//! `ferrite ctl`: asks a running machine.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Subcommand, ValueEnum, ValueHint};
use ferrite::ctl::{self, Command, CtlError, Request};
use serde_json::Value;

use crate::print_all;

#[derive(Args)]
#[command(after_long_help = "Exit codes:\n  \
  0  answered\n  \
  1  the machine refused the request, and said why\n  \
  2  there is no machine at PATH, or no answer came")]
pub(crate) struct CtlArgs {
    /// The socket, as given to `ferrite run --control`.
    #[arg(value_name = "PATH", value_hint = ValueHint::FilePath)]
    path: PathBuf,
    /// The controller that is asked about, 0 for the first; for stats and trace all without it.
    #[arg(long, value_name = "N", global = true)]
    controller: Option<usize>,
    /// Print the answer as JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: CtlCommand,
}

#[derive(Subcommand)]
enum CtlCommand {
    /// Print Identify Controller, or Identify Namespace, field by field.
    Identify {
        /// The namespace.
        #[arg(long, value_name = "NSID", value_parser = clap::value_parser!(u32).range(1..))]
        namespace: Option<u32>,
    },
    /// Print what the controller takes at most, and what it promises to be atomic.
    Limits,
    /// Print what Get Features returns, now and by default.
    Features,
    /// Print the namespaces with their sizes and formats.
    Namespaces,
    /// Print commands, bytes, errors, interrupts, wake-ups, exits, and latencies.
    Stats,
    /// Print the last commands of the flight recorder; or switch the live trace on or off.
    Trace {
        /// Switch the live trace, which goes where `ferrite run --trace` says.
        #[arg(value_enum)]
        switch: Option<Switch>,
        /// How many commands of each controller at most.
        #[arg(
            long,
            value_name = "N",
            default_value_t = 64,
            conflicts_with = "switch"
        )]
        last: u64,
    },
    /// Print the versions of the machine and of its protocol.
    Version,
    /// Print the commands that the machine knows.
    Commands,
    /// End the run, with exit code 8.
    Quit,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Switch {
    On,
    Off,
}

pub(crate) fn ctl(args: &CtlArgs) -> anyhow::Result<ExitCode> {
    let request = Request {
        controller: args.controller,
        command: match &args.command {
            CtlCommand::Identify { namespace } => Command::Identify {
                namespace: *namespace,
            },
            CtlCommand::Limits => Command::Limits,
            CtlCommand::Features => Command::Features,
            CtlCommand::Namespaces => Command::Namespaces,
            CtlCommand::Stats => Command::Stats,
            CtlCommand::Trace { switch: None, last } => Command::Trace { last: *last },
            CtlCommand::Trace {
                switch: Some(switch),
                ..
            } => Command::SetTrace(*switch == Switch::On),
            CtlCommand::Version => Command::Version,
            CtlCommand::Commands => Command::Help,
            CtlCommand::Quit => Command::Quit,
        },
    };
    let answer = match ctl::ask(&args.path, &request) {
        Err(error @ CtlError::Refused { .. }) => {
            let _ = writeln!(io::stderr(), "ferrite: {error}");
            return Ok(ExitCode::FAILURE);
        }
        answer => answer?,
    };
    let text = match request.command {
        _ if args.json => format!("{answer:#}\n"),
        Command::Trace { .. } => commands(&answer),
        _ => ctl::table(&answer),
    };
    print_all(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// The flight recorder's commands, a line each.
fn commands(answer: &Value) -> String {
    let commands = answer.get("commands").and_then(Value::as_array);
    let lines = commands.into_iter().flatten();
    let lines = lines.filter_map(|command| command.get("line")?.as_str());
    lines.map(|line| format!("{line}\n")).collect()
}
