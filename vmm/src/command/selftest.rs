//! `ferrite selftest`: its arguments, and what it prints while it runs.

use std::{
    io::{self, IsTerminal, Write},
    num::NonZero,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::{Args, ValueEnum, ValueHint};
use ferrite::{
    options::{ConfigFile, NvmeOptions, Size, parse_size},
    peer::{Qemu, QemuNvme},
    selftest::{self, Format, Matrix, Outcome, Progress, Selftest, Style, quoted},
};

use nvme_suite::Doorbells;

use super::ObserveArgs;
use crate::print_all;

/// When the tests turn shadow doorbells on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum ShadowFrom {
    /// When the controller is enabled.
    AtOnce,
    /// When the first queue pair is there.
    AfterQueues,
}

#[derive(Args)]
#[command(after_long_help = format!(
    "Keys of --nvme, and of [[nvme]] in the file of --config:\n\n{}",
    NvmeOptions::help()
))]
pub(crate) struct SelftestArgs {
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
    /// Tell the controller of I/O queues' tails and heads in memory (shadow doorbells) in all tests;
    /// `after-queues`: from the first queue pair on, made before, as Linux does it.
    #[arg(long, conflicts_with = "peer", value_name = "WHEN", num_args = 0..=1,
          require_equals = true, default_missing_value = "at-once")]
    shadow: Option<ShadowFrom>,
    /// The controller; `--help` lists the keys. May be given several times. What is not given is
    /// as the keys' defaults, but for namespaces=2,size=256M,mdts=4M.
    #[arg(long, value_name = "KEY=VALUE,...")]
    nvme: Vec<String>,
    /// A TOML file that describes the controller: a table `[[nvme]]` with the keys of --nvme, which
    /// override it key by key, and `[[nvme.namespace]]` for what single namespaces have.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
    /// Print the controller as a file for --config, all defaults included, and run nothing.
    #[arg(long, conflicts_with_all = ["peer", "matrix", "list"])]
    print_config: bool,
    /// The guest's memory.
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = parse_size)]
    memory: u64,
    /// Seconds that the guest may run.
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
    #[command(flatten)]
    observe: ObserveArgs,
    /// Run the tests a second time on another's controller and print both outcomes of each, with
    /// the reason where they differ (docs/peers.md). A difference without a known reason is a
    /// failure.
    #[arg(long, value_enum, conflicts_with = "list")]
    peer: Option<Peer>,
    /// Run the tests on many controllers: block sizes, indirection units, atomic units and
    /// boundaries, queues. What --nvme and --config give is the same for all.
    #[arg(long, conflicts_with_all = ["peer", "list", "verbose", "trace", "control"])]
    matrix: bool,
    /// How many controllers --matrix tests at a time; else as many as there are CPUs.
    #[arg(long, value_name = "N", requires = "matrix")]
    jobs: Option<NonZero<usize>>,
    /// The QEMU that --peer runs; else FERRITE_QEMU, else qemu-system-x86_64.
    #[arg(long, value_name = "PATH", requires = "peer", value_hint = ValueHint::FilePath)]
    qemu: Option<PathBuf>,
}

/// Whose controller ours is compared with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Peer {
    /// QEMU's nvme device, in the QEMU that is installed.
    Qemu,
}

/// The largest transfer unless --nvme says otherwise, in bytes.
const LARGEST_TRANSFER: u64 = 4 << 20;

pub(crate) fn selftest(args: &SelftestArgs) -> anyhow::Result<ExitCode> {
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
    nvme.preset(&format!("namespaces=2,size=256M,mdts={}", Size(mdts)))?;
    if let Some(path) = &args.config {
        ConfigFile::read(path)?.apply(&mut nvme)?;
    }
    for list in &args.nvme {
        nvme.apply(list)?;
    }
    let notes = nvme.notes()?;
    if args.print_config {
        print_all(&nvme.to_toml())?;
        return Ok(ExitCode::SUCCESS);
    }
    for note in notes {
        let _ = writeln!(io::stderr(), "ferrite: note: {note}");
    }
    let selftest = Selftest {
        nvme,
        filter: args.filter.clone(),
        doorbells: match args.shadow {
            None => Doorbells::Registers,
            Some(ShadowFrom::AtOnce) => Doorbells::Shadow,
            Some(ShadowFrom::AfterQueues) => Doorbells::ShadowAfterQueues,
        },
        memory: args.memory,
        timeout: Duration::from_secs(args.timeout),
        observe: args.observe.observe(),
    };
    let (text, good) = match qemu {
        Some(qemu) => compare(args, &selftest, &qemu)?,
        None if args.matrix => matrix(args, selftest)?,
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

/// Runs the suite on many controllers.
fn matrix(args: &SelftestArgs, selftest: Selftest) -> anyhow::Result<(String, bool)> {
    // What repeats a combination, but for its --nvme.
    let mut arguments = Vec::new();
    if let Some(path) = &args.config {
        arguments.extend(["--config".to_string(), quoted(&path.to_string_lossy())]);
    }
    match args.shadow {
        None => {}
        Some(ShadowFrom::AtOnce) => arguments.push("--shadow".to_string()),
        Some(ShadowFrom::AfterQueues) => arguments.push("--shadow=after-queues".to_string()),
    }
    let cpus = || std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN);
    let matrix = Matrix {
        selftest,
        arguments,
        fixed: args.nvme.clone(),
        jobs: args.jobs.unwrap_or_else(cpus),
    };
    let (format, style) = (args.format, style());
    let planned = matrix.plan()?.len();
    match format {
        Format::Table => print_all(&Outcome::head(style))?,
        Format::Tap => print_all(&format!("TAP version 13\n1..{planned}\n"))?,
        Format::Json => {}
    }
    let results = matrix.run(|outcome, number, planned| {
        let text = match format {
            Format::Table => outcome.line(style, number, planned),
            Format::Tap => outcome.to_tap(number),
            Format::Json => String::new(),
        };
        // A reader who has gone does not end the run: its exit code may be what counts.
        let _ = print_all(&text);
    })?;
    let text = match format {
        Format::Table => results.summary(style),
        Format::Tap => String::new(),
        Format::Json => format!("{:#}\n", results.to_json()),
    };
    Ok((text, results.good()))
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
