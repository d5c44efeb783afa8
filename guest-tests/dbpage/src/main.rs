//! `ferrite-dbpage`: writes pages as databases do, and finds those that were torn or lost.
//!
//! Exit codes: 0 all is well, 1 something is torn, lost or not ours, 2 it could not be done.

#![forbid(unsafe_code)]

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, IsTerminal, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use ferrite_dbpage::error::Error;
use ferrite_dbpage::findings::Finding;
use ferrite_dbpage::region::{self, HEADER};
use ferrite_dbpage::size::{parse, show};
use ferrite_dbpage::target::{Access, Caching, Target};
use ferrite_dbpage::{verify, write};
use serde::Serialize;

/// Writes overlapping pages that describe themselves, as databases do, and finds those that were
/// torn or lost.
///
/// `init` a file or block device, `write` to it, crash it or not, `verify` it. Exit codes: 0 all
/// is well; 1 something is torn, lost or not ours; 2 it could not be done.
#[derive(Parser)]
#[command(name = "ferrite-dbpage", version)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a region: what is there is lost
    Init(Init),
    /// Overwrite pages, and note what was acknowledged
    Write(Write),
    /// Find pages that are torn, lost or not ours
    Verify(Verify),
    /// Print what it is, its block size and atomic write units as the kernel tells them
    Limits(Limits),
}

/// What is written to and how.
#[derive(Args)]
struct Place {
    /// A file or block device
    target: PathBuf,
    /// Where the region begins
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = parse)]
    offset: u64,
    /// Without the page cache (O_DIRECT); block devices are used so anyway
    #[arg(long, conflicts_with = "buffered")]
    direct: bool,
    /// Through the page cache; files are used so anyway
    #[arg(long)]
    buffered: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Place {
    fn caching(&self) -> Caching {
        match (self.direct, self.buffered) {
            (true, _) => Caching::Direct,
            (_, true) => Caching::Buffered,
            _ => Caching::Usual,
        }
    }
}

#[derive(Args)]
struct Init {
    #[command(flatten)]
    place: Place,
    /// Bytes of the region, 64K of which are its header's [default: 64M, or what the device has]
    #[arg(long, value_name = "SIZE", value_parser = parse)]
    length: Option<u64>,
    /// Make the file if it is not there; never among devices
    #[arg(long)]
    create: bool,
}

#[derive(Args)]
struct Write {
    #[command(flatten)]
    place: Place,
    /// Bytes of a page; of several sizes each page has one at random
    #[arg(long, value_name = "SIZE,…", default_value = "16K", value_parser = parse, value_delimiter = ',')]
    page: Vec<u64>,
    /// Pages begin at multiples of this, and so overlap [default: of their own size]
    #[arg(long, value_name = "SIZE", value_parser = parse)]
    shift: Option<u64>,
    /// Threads that write
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: u32,
    /// Threads that read pages meanwhile, and report those of which they see a part, or old ones
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=256))]
    readers: u32,
    /// Pages to write [default: 10000]
    #[arg(long, value_name = "COUNT", conflicts_with = "seconds")]
    ops: Option<u64>,
    /// How long to write
    #[arg(long)]
    seconds: Option<u64>,
    /// Ask the kernel for atomic writes (RWF_ATOMIC), or be refused; implies --direct
    #[arg(long, conflicts_with = "buffered")]
    atomic: bool,
    /// fdatasync after `each` write of a thread, after every COUNT, or `never`; `dsync`: each
    /// write is durable by itself (RWF_DSYNC)
    #[arg(long, value_name = "each|COUNT|never|dsync", default_value = "each", value_parser = parse_sync)]
    fsync: write::Sync,
    /// Chooses sizes and places; the same again for the same number [default: any]
    #[arg(long)]
    seed: Option<u64>,
    /// Note acknowledgements in a file, or on standard output (`-`), for `verify`
    #[arg(long, value_name = "FILE|-")]
    journal: Option<PathBuf>,
}

#[derive(Args)]
struct Verify {
    #[command(flatten)]
    place: Place,
    /// What `write --journal` noted, which must be there; may be given more than once
    #[arg(long, value_name = "FILE")]
    journal: Vec<PathBuf>,
    /// Nothing crashed: what was acknowledged must be there, durable or not
    #[arg(long, requires = "journal")]
    no_crash: bool,
    /// How many findings to print; all with --json
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    show: usize,
}

#[derive(Args)]
struct Limits {
    #[command(flatten)]
    place: Place,
}

fn parse_sync(text: &str) -> Result<write::Sync, String> {
    match text {
        "never" => Ok(write::Sync::Never),
        "each" => Ok(write::Sync::Every(1)),
        "dsync" => Ok(write::Sync::Dsync),
        count => match count.parse() {
            Ok(count @ 1..) => Ok(write::Sync::Every(count)),
            _ => Err(format!(
                "`{count}` is none of each, never, dsync; 100 would do"
            )),
        },
    }
}

fn main() -> ExitCode {
    match run(&Options::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            let _ = writeln!(io::stderr(), "ferrite-dbpage: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether all is well.
fn run(command: &Command) -> anyhow::Result<bool> {
    match command {
        Command::Init(options) => init(options),
        Command::Write(options) => write_pages(options),
        Command::Verify(options) => verify_region(options),
        Command::Limits(options) => limits(options),
    }
}

/// A number that was not there before.
fn any_number() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn say(text: &str) -> anyhow::Result<()> {
    io::stdout()
        .write_all(text.as_bytes())
        .context("standard output")
}

fn say_json(value: &impl Serialize) -> anyhow::Result<()> {
    say(&format!("{}\n", serde_json::to_string(value)?))
}

/// A line on a terminal that the next one takes the place of.
fn progress(text: &str) {
    let mut stderr = io::stderr();
    if stderr.is_terminal() {
        let _ = write!(stderr, "\r\x1b[K{text}");
    }
}

#[derive(Serialize)]
struct Made<'a> {
    target: &'a PathBuf,
    region: String,
    offset: u64,
    length: u64,
}

fn init(options: &Init) -> anyhow::Result<bool> {
    let place = &options.place;
    let plan = region::Plan {
        caching: place.caching(),
        create: options.create,
        offset: place.offset,
        length: options.length,
        id: any_number(),
    };
    let region = region::init(&place.target, &plan)?;
    if place.json {
        say_json(&Made {
            target: &place.target,
            region: format!("{:016x}", region.id),
            offset: region.offset,
            length: region.length,
        })?;
    } else {
        say(&format!(
            "region        {:016x} on {}: {} from byte {}, pages behind its first {}\n",
            region.id,
            place.target.display(),
            show(region.length),
            region.offset,
            show(HEADER),
        ))?;
    }
    Ok(true)
}

fn write_pages(options: &Write) -> anyhow::Result<bool> {
    let place = &options.place;
    if place.json && options.journal.as_deref() == Some(Path::new("-")) {
        let error = Error::Option {
            option: "--journal",
            value: "-".into(),
            rule: "with --json there is nothing but the object on standard output".into(),
            would_do: "a file, or no --json, would do".into(),
        };
        return Err(error.into());
    }
    let seed = options.seed.unwrap_or_else(any_number);
    let plan = write::Plan {
        caching: if options.atomic {
            Caching::Direct
        } else {
            place.caching()
        },
        offset: place.offset,
        sizes: options.page.clone(),
        shift: options.shift,
        writers: options.threads,
        readers: options.readers,
        until: match (options.ops, options.seconds) {
            (_, Some(seconds)) => write::Until::Time(Duration::from_secs(seconds)),
            (ops, None) => write::Until::Writes(ops.unwrap_or(10_000)),
        },
        atomic: options.atomic,
        sync: options.fsync,
        seed,
        journal: options.journal.clone(),
    };
    let report = write::run(&place.target, &plan, |writes| {
        progress(&format!("{writes} pages written"));
    })?;
    progress("");
    if place.json {
        say_json(&report)?;
    } else {
        let per_second = if report.seconds > 0.0 {
            #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
            let writes = report.writes as f64;
            writes / report.seconds
        } else {
            0.0
        };
        say(&format!(
            "written       {} pages ({} bytes) in {:.2} s, {per_second:.0} a second; run {}, seed {seed}\n\
             synced        {} times\n",
            report.writes, report.bytes, report.seconds, report.run, report.syncs,
        ))?;
        if options.readers > 0 {
            let more = if report.mixes.is_empty() {
                "none"
            } else {
                "these"
            };
            say(&format!(
                "read          {} pages, parts of writes or older ones in {more}\n",
                report.reads
            ))?;
            say(&list(&report.mixes, 20))?;
        }
    }
    Ok(report.mixes.is_empty())
}

fn verify_region(options: &Verify) -> anyhow::Result<bool> {
    let place = &options.place;
    let plan = verify::Plan {
        caching: place.caching(),
        offset: place.offset,
        journals: options.journal.clone(),
        no_crash: options.no_crash,
    };
    let report = verify::run(&place.target, &plan, |done, all| {
        if done % (64 << 20) == 0 {
            progress(&format!("{} of {} read", show(done), show(all)));
        }
    })?;
    progress("");
    let fine = report.findings.is_empty();
    if place.json {
        say_json(&report)?;
        return Ok(fine);
    }
    say(&list(&report.findings, options.show))?;
    let recorded = if options.journal.is_empty() {
        "no journal, so what is lost is not known".to_owned()
    } else {
        format!(
            "{} writes acknowledged, {} must be there",
            report.acknowledged, report.durable
        )
    };
    say(&format!(
        "read          {} of {}: {} pages of {} runs; {recorded}\n\
         found         {}\n",
        show(report.bytes),
        report.target.display(),
        report.pages,
        report.runs,
        report.counts,
    ))?;
    Ok(fine)
}

fn list(findings: &[Finding], most: usize) -> String {
    let mut text = String::new();
    for finding in findings.iter().take(most) {
        text += &format!("{finding}\n");
    }
    if findings.len() > most {
        text += &format!("… and {} more\n", findings.len() - most);
    }
    text
}

#[derive(Serialize)]
struct Told<'a> {
    target: &'a PathBuf,
    is_device: bool,
    length: u64,
    block: u64,
    atomic: ferrite_dbpage::limits::AtomicLimits,
}

fn limits(options: &Limits) -> anyhow::Result<bool> {
    let place = &options.place;
    let target = Target::open(&place.target, Access::Look, place.caching())?;
    let told = Told {
        target: &place.target,
        is_device: target.is_device(),
        length: target.length(),
        block: target.block(),
        atomic: target.atomic(),
    };
    if place.json {
        say_json(&told)?;
    } else {
        let atomic = told.atomic;
        let units = if atomic.unit_max == 0 {
            "none".to_owned()
        } else {
            let (min, max) = (u64::from(atomic.unit_min), u64::from(atomic.unit_max));
            format!("{} to {}, at multiples of their size", show(min), show(max))
        };
        say(&format!(
            "target        {}\nlength        {}\nwritten by    {}\natomic writes {units}\n",
            if told.is_device {
                "a block device"
            } else {
                "a file"
            },
            show(told.length),
            show(told.block),
        ))?;
    }
    Ok(true)
}
