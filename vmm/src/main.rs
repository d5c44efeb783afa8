//! The `ferrite` command.

mod command;

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use ferrite::{bench, options::NvmeOptions};
use nvme::lint::{Rule, RuleInfo};

use command::SelftestArgs;

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
    /// List the keys of `--nvme` and of `[[nvme]]` in a file, with ranges and defaults.
    Options,
    /// List the rules that `lint=on` holds a driver to.
    LintRules,
    /// Measure the controller; the figures that count are the ratios within a run.
    Bench(BenchArgs),
    /// Print what makes a shell complete this command's arguments.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

#[derive(Args)]
struct BenchArgs {
    /// What to measure.
    #[arg(value_enum)]
    what: What,
    /// Seconds to measure for.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// What to print.
    #[arg(long, value_enum, default_value_t)]
    format: TableFormat,
    /// Cases to measure, separated by commas, by their identifiers in the table. Without it: all.
    #[arg(long, value_name = "CASES", value_delimiter = ',')]
    case: Vec<String>,
    /// Do this many commands of each case once, and take no samples: to count instructions, as the
    /// difference between two runs.
    #[arg(long, value_name = "COMMANDS", conflicts_with = "seconds", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    ops: Option<u64>,
}

/// How a table is printed.
#[derive(Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum TableFormat {
    #[default]
    Table,
    Json,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// The controller in this process, from doorbell to completion.
    Core,
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("FERRITE_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("error,lint=info")),
        )
        .init();
    let Cli { command } = Cli::parse();
    let result = match command {
        Command::Selftest(args) => command::selftest(&args),
        Command::Options => print_all(&NvmeOptions::help()).map(|()| ExitCode::SUCCESS),
        Command::Completions { shell } => completions(shell),
        Command::LintRules => lint_rules(),
        Command::Bench(args) => bench(&args),
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

fn bench(args: &BenchArgs) -> anyhow::Result<ExitCode> {
    let table = match args.what {
        What::Core => bench::core::run(&bench::core::Plan {
            cases: args.case.clone(),
            time: Duration::from_secs(args.seconds),
            operations: args.ops,
        })?,
    };
    let text = match args.format {
        TableFormat::Table => table.text(),
        TableFormat::Json => format!("{:#}\n", table.to_json()),
    };
    print_all(&text)?;
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
