//! The `ferrite` command.

use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use clap::{Args, Parser, Subcommand, ValueEnum};
use ferrite::{
    bench,
    options::{NvmeOptions, Size, parse_size},
    peer::{Qemu, QemuNvme},
    selftest::{self, Format, Progress, Selftest, Style},
};
use nvme::lint::{Rule, RuleInfo};

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
    Selftest(SelftestArgs),
    /// List the rules that `lint=on` holds a driver to.
    LintRules,
    /// Measure the controller; the figures that count are the ratios within a run.
    Bench(BenchArgs),
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

#[derive(Clone, Copy, clap::ValueEnum)]
enum What {
    /// The controller in this process, from doorbell to completion.
    Core,
}

#[derive(Args)]
#[command(after_long_help = format!("Keys of --nvme:\n{}", NvmeOptions::help()))]
struct SelftestArgs {
    /// Tests to run: patterns separated by commas, over `group.name`; `*` stands for anything and
    /// `?` for one character, a bare word is a group, `!` excludes. Such as `queues,prp.*list*`.
    #[arg(
        long,
        value_name = "PATTERNS",
        default_value = "",
        hide_default_value = true
    )]
    filter: String,
    /// What to print.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Print a line for every test.
    #[arg(long, short)]
    verbose: bool,
    /// List the tests with the rules they check, and run nothing.
    #[arg(long)]
    list: bool,
    /// Tell the controller of I/O queues' tails and heads in memory (shadow doorbells) in all tests.
    #[arg(long, conflicts_with = "peer")]
    shadow: bool,
    /// The controller; `--help` lists the keys. May be given several times. Without it:
    /// namespaces=2,size=256M,mdts=4M.
    #[arg(long, value_name = "KEY=VALUE,...")]
    nvme: Vec<String>,
    /// The guest's memory.
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = parse_size)]
    memory: u64,
    /// Seconds that the guest may run.
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
    /// Run the tests a second time on another's controller and print both outcomes of each, with
    /// the reason where they differ (docs/peers.md). A difference without a known reason is a
    /// failure.
    #[arg(long, value_enum, conflicts_with = "list")]
    peer: Option<Peer>,
    /// The QEMU that --peer runs; else FERRITE_QEMU, else qemu-system-x86_64.
    #[arg(long, value_name = "PATH", requires = "peer")]
    qemu: Option<PathBuf>,
}

/// Whose controller ours is compared with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Peer {
    /// QEMU's nvme device, in the QEMU that is installed.
    Qemu,
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
        Command::Selftest(args) => selftest(&args),
        Command::LintRules => lint_rules(),
        Command::Bench(args) => bench(&args),
    };
    result.unwrap_or_else(|error| {
        let _ = writeln!(io::stderr(), "ferrite: {error:#}");
        ExitCode::from(2)
    })
}

/// The largest transfer unless --nvme says otherwise, in bytes.
const LARGEST_TRANSFER: u64 = 4 << 20;

fn selftest(args: &SelftestArgs) -> anyhow::Result<ExitCode> {
    if args.list {
        return list(&args.filter);
    }
    let qemu = match args.peer {
        Some(Peer::Qemu) => Some(Qemu::find(args.qemu.as_deref())?),
        None => None,
    };
    let mut nvme = NvmeOptions::default();
    // Two, so that what concerns several namespaces is tested too, and transfers whose PRP lists
    // cross pages, as far as the peer can.
    let mdts = qemu.as_ref().map_or(LARGEST_TRANSFER, |qemu| {
        QemuNvme::largest_transfer(qemu.version).min(LARGEST_TRANSFER)
    });
    nvme.apply(&format!("namespaces=2,size=256M,mdts={}", Size(mdts)))?;
    for list in &args.nvme {
        nvme.apply(list)?;
    }
    if let Some(note) = nvme.memory_note() {
        let _ = writeln!(io::stderr(), "ferrite: note: {note}");
    }
    let selftest = Selftest {
        nvme,
        filter: args.filter.clone(),
        shadow: args.shadow,
        memory: args.memory,
        timeout: Duration::from_secs(args.timeout),
    };
    let (text, good) = match qemu {
        Some(qemu) => compare(args, &selftest, &qemu)?,
        None => alone(args, &selftest)?,
    };
    print_all(&text)?;
    Ok(match good {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Runs the suite on our controller: what is to be printed, and whether all is well.
fn alone(args: &SelftestArgs, selftest: &Selftest) -> anyhow::Result<(String, bool)> {
    let (tap, progress) = (args.format == Format::Tap, shows_progress(args));
    let results = selftest::run(selftest, move |line, at| {
        if tap {
            let _ = writeln!(io::stdout(), "{line}");
        } else if progress {
            show_progress("", at);
        }
    });
    clear_progress(progress);
    let results = results?;
    let mut text = String::new();
    match args.format {
        Format::Table => results.write_table(&mut text, style(), args.verbose)?,
        Format::Json => text = format!("{:#}\n", results.to_json()),
        Format::Tap => text = results.tap_end(),
    }
    Ok((text, results.good()))
}

/// Runs the suite on our controller and on QEMU's.
fn compare(
    args: &SelftestArgs,
    selftest: &Selftest,
    qemu: &Qemu,
) -> anyhow::Result<(String, bool)> {
    let progress = shows_progress(args);
    let comparison = selftest::run_with_qemu(selftest, qemu, move |whose, at| {
        if progress {
            show_progress(whose, at);
        }
    });
    clear_progress(progress);
    let comparison = comparison?;
    let mut text = String::new();
    match args.format {
        Format::Table => comparison.write_table(&mut text, style())?,
        Format::Json => text = format!("{:#}\n", comparison.to_json()),
        Format::Tap => text = comparison.to_tap(),
    }
    Ok((text, comparison.good()))
}

fn style() -> Style {
    match io::stdout().is_terminal() {
        true => Style::Terminal,
        false => Style::Plain,
    }
}

/// Whether somebody looks on.
fn shows_progress(args: &SelftestArgs) -> bool {
    args.format == Format::Table && io::stdout().is_terminal()
}

fn show_progress(whose: &str, at: Progress) {
    if let Some(planned) = at.planned {
        clear_progress(true);
        let space = if whose.is_empty() { "" } else { " " };
        let _ = write!(io::stdout(), "{whose}{space}{}/{planned} tests", at.done);
        let _ = io::stdout().flush();
    }
}

fn clear_progress(progress: bool) {
    if progress {
        let _ = write!(io::stdout(), "\r\x1b[K");
    }
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

fn list(filter: &str) -> anyhow::Result<ExitCode> {
    selftest::check_filter(filter)?;
    let filter = nvme_suite::Filter::new(filter);
    let mut text = String::new();
    for test in nvme_suite::tests().filter(|test| filter.matches(&test.full_name())) {
        text += &format!(
            "{}\n    {} ({})\n",
            test.full_name(),
            test.rule,
            test.section
        );
    }
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
