//! The `ferrite` command.

mod command;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use ferrite::options::NvmeOptions;
use nvme::lint::{Rule, RuleInfo};

use command::{Bench, CtlArgs, RunArgs, SelftestArgs};

/// An emulated NVMe controller inside a small KVM virtual machine monitor.
#[derive(Parser)]
#[command(name = "ferrite", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Boot the built-in test kernel on KVM and run the conformance suite on the controller.
    Selftest(Box<SelftestArgs>),
    /// Boot a kernel of yours on KVM, with the controller.
    Run(Box<RunArgs>),
    /// Ask a machine that runs: what it is, what it does, its last commands; or end it.
    Ctl(CtlArgs),
    /// List the keys of `--nvme` and of `[[nvme]]` in a file, with ranges and defaults.
    Options,
    /// List the rules that `lint=on` holds a driver to.
    LintRules,
    /// Measure the controller; the figures that count are the ratios within a run.
    #[command(subcommand)]
    Bench(Bench),
    /// Print what makes a shell complete this command's arguments.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("FERRITE_LOG").unwrap_or_else(|_| {
                tracing_subscriber::EnvFilter::new("error,ferrite::gdb=info,lint=info")
            }),
        )
        .init();
    let Cli { command } = Cli::parse();
    let result = match command {
        Command::Selftest(args) => command::selftest(&args),
        Command::Run(args) => command::run(&args),
        Command::Ctl(args) => command::ctl(&args),
        Command::Options => print_all(&NvmeOptions::help()).map(|()| ExitCode::SUCCESS),
        Command::Completions { shell } => completions(shell),
        Command::LintRules => lint_rules(),
        Command::Bench(bench) => bench.run(),
    };
    result.unwrap_or_else(|error| {
        let _ = writeln!(io::stderr(), "ferrite: {error:#}");
        ExitCode::from(2)
    })
}

fn completions(shell: Shell) -> anyhow::Result<ExitCode> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "ferrite", &mut text);
    print_all(&String::from_utf8_lossy(&text))?;
    Ok(ExitCode::SUCCESS)
}

fn lint_rules() -> anyhow::Result<ExitCode> {
    let mut text = String::new();
    for rule in Rule::ALL {
        let RuleInfo {
            id,
            severity,
            what,
            why,
            section,
        } = rule.info();
        text += &format!("{id} ({severity}, {section})\n    {what}\n    {why}\n");
    }
    print_all(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints; a reader who has gone away is no error.
fn print_all(text: &str) -> anyhow::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("standard output"),
    }
}
