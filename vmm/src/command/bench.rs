//! `ferrite bench`.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Subcommand, ValueEnum, ValueHint};
use ferrite::{
    bench::{
        self,
        guest::{GuestBench, GuestProgress},
    },
    options::{ConfigFile, NvmeOptions, parse_size},
    peer::Qemu,
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Peer;
use crate::print_all;

/// What the controller of `bench guest` is unless --nvme says otherwise: blocks and a device that
/// the other side has too, more than caches hold, and writes that are not torn on purpose.
const GUEST_NVME: &str = "namespaces=1,size=128M,lba=4K,queues=2,mdts=1M,tear=never";

/// What to measure.
#[derive(Subcommand)]
pub(crate) enum Bench {
    /// The controller in this process, from doorbell to completion.
    Core(CoreArgs),
    /// The controller as a guest on KVM has it: IOPS and latencies, polled and by interrupt.
    Guest(Box<GuestArgs>),
}

#[derive(Args)]
pub(crate) struct CoreArgs {
    /// Seconds to measure for.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// What to print.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Cases to measure, separated by commas, by their identifiers in the table. Without it: all.
    #[arg(long, value_name = "CASES", value_delimiter = ',')]
    case: Vec<String>,
    /// Do this many commands of each case once, and take no samples: to count instructions, as the
    /// difference between two runs.
    #[arg(long, value_name = "COMMANDS", conflicts_with = "seconds", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    ops: Option<u64>,
}

/// How to print it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

#[derive(Args)]
#[command(after_long_help = format!(
    "Keys of --nvme, and of [[nvme]] in the file of --config:\n\n{}",
    NvmeOptions::help()
))]
pub(crate) struct GuestArgs {
    /// Cases to measure: patterns separated by commas, over names such as `polled.read-4K-d1-q1`;
    /// `*` stands for anything and `?` for one character, a bare word is what stands before the
    /// dot, `!` excludes.
    #[arg(
        long,
        visible_alias = "case",
        value_name = "PATTERNS",
        default_value = "",
        hide_default_value = true
    )]
    filter: String,
    /// List the cases, and measure nothing.
    #[arg(long)]
    list: bool,
    /// What to print.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// The controller; `--help` lists the keys. May be given several times.
    #[arg(long, value_name = "KEY=VALUE,...", long_help = format!(
        "The controller; the keys are below. May be given several times. What is not given is as \
         the keys' defaults, but for {GUEST_NVME}."
    ))]
    nvme: Vec<String>,
    /// A TOML file that describes the controller, as for selftest.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
    /// Seconds that each case is measured on each side, over all rounds.
    #[arg(long, value_name = "SECONDS", default_value = "0.3", value_parser = seconds)]
    seconds: Duration,
    /// How often the cases take turns.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// The guest's memory.
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = parse_size)]
    memory: u64,
    /// Measure another's controller too, in turns, and print both with their ratios.
    #[arg(long, value_enum, conflicts_with = "list")]
    peer: Option<Peer>,
    /// The QEMU that --peer runs; else FERRITE_QEMU, else qemu-system-x86_64.
    #[arg(long, value_name = "PATH", requires = "peer", value_hint = ValueHint::FilePath)]
    qemu: Option<PathBuf>,
}

/// Reads seconds, from a millisecond to an hour.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: Option<f64> = text.parse().ok();
    seconds
        .filter(|seconds| (0.001..=3600.0).contains(seconds))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "give seconds, 0.001 to 3600, such as 0.3".to_string())
}

impl Bench {
    /// Measures and prints.
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let text = match self {
            Self::Core(args) => core(args)?,
            Self::Guest(args) => guest(args)?,
        };
        print_all(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn core(args: &CoreArgs) -> anyhow::Result<String> {
    let table = bench::core::run(&bench::core::Plan {
        cases: args.case.clone(),
        time: Duration::from_secs(args.seconds),
        operations: args.ops,
    })?;
    Ok(match args.format {
        Format::Table => table.text(),
        Format::Json => format!("{:#}\n", table.to_json()),
    })
}

fn guest(args: &GuestArgs) -> anyhow::Result<String> {
    if args.list {
        return Ok(bench::guest::names().join("\n") + "\n");
    }
    let qemu = match args.peer {
        Some(Peer::Qemu) => Some(Qemu::find(args.qemu.as_deref())?),
        None => None,
    };
    let mut nvme = NvmeOptions::default();
    nvme.preset(GUEST_NVME)?;
    if let Some(path) = &args.config {
        ConfigFile::read(path)?.apply(&mut nvme)?;
    }
    for list in &args.nvme {
        nvme.apply(list)?;
    }
    let bench = GuestBench {
        nvme,
        filter: args.filter.clone(),
        time: args.seconds,
        rounds: args.rounds,
        memory: args.memory,
    };
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}") {
        bar.set_style(style);
    }
    let results = bench::guest::run(&bench, qemu.as_ref(), &mut |at: GuestProgress<'_>| {
        bar.set_length(at.all as u64);
        bar.set_position(at.done as u64);
        let (case, side) = at.last;
        bar.set_message(format!("{case} on {side}"));
    });
    bar.finish_and_clear();
    let results = results?;
    Ok(match args.format {
        Format::Table => results.text(),
        Format::Json => format!("{:#}\n", results.to_json()),
    })
}
