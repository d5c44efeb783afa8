//! Boots distribution kernels on Ferrite's machine, as their distribution built them, and runs steps
//! in them against its NVMe controllers.
//!
//! ```text
//! cargo run -p linux-tests                          every job; a table of what passed and its times
//! cargo run -p linux-tests -- --filter 6.12         those whose names contain a word
//! cargo run -p linux-tests -- shell -- COMMAND...   a command of yours where Ferrite runs Linux
//! ```
//!
//! **Where.** On a host whose KVM is hardware's (`vmx` or `svm` among its processor's flags) a job is
//! a shell script here. Elsewhere it runs in the *outer machine* ([`outer`]): QEMU emulates a
//! processor with AMD's virtualization, in which a Linux with KVM runs Ferrite, in which the guest
//! runs. One boot of the outer machine serves all jobs.
//!
//! **With what.** Kernels and tools are Debian's, got by an apt root of its own ([`mod@fetch`]) into
//! `target/linux`; nothing of the host is changed and nobody need be root. [`images`] packs what a
//! guest needs into initial RAM disks.
//!
//! **What.** [`jobs`] says what a job is and how it is judged: by its exit code and by the tests that
//! its guest reports as TAP on the serial console. The steps that guests run are shell scripts,
//! `guest/`.

#![forbid(unsafe_code)]

mod compressed;
mod cpio;
mod fetch;
mod here;
mod images;
mod jobs;
mod modules;
mod namespaces;
mod outer;
mod programs;
mod scenarios;
mod show;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand};

use fetch::Fetched;
use jobs::Job;
use show::{Progress, say};

/// Boots distribution kernels on Ferrite and runs steps in them.
#[derive(Parser)]
#[command(name = "linux-tests")]
struct Options {
    #[command(subcommand)]
    command: Option<Verb>,
    #[command(flatten)]
    common: Common,
    /// Run jobs whose names contain this; it may be given several times.
    #[arg(long, value_name = "WORD")]
    filter: Vec<String>,
    /// Print the jobs and run none.
    #[arg(long)]
    list: bool,
}

#[derive(Args)]
struct Common {
    /// Show everything that guests print, as they do.
    #[arg(long, short, global = true)]
    verbose: bool,
    /// The program to test, built by `cargo build --release` if not given.
    #[arg(long, value_name = "FILE", global = true)]
    ferrite: Option<PathBuf>,
    /// A mirror of Debian's archive; the host's own if not given.
    #[arg(long, value_name = "URL", global = true)]
    mirror: Option<String>,
    /// Fetch what is newest now, even if something was fetched less than a day ago.
    #[arg(long, global = true)]
    update: bool,
    /// Use the outer machine even where this host's KVM is hardware's.
    #[arg(long, global = true)]
    nested: bool,
}

#[derive(Subcommand)]
enum Verb {
    /// Fetch kernels and tools, and do no more.
    Fetch,
    /// Run a command in the outer machine, with `ferrite`, busybox and gdb in its path. `/guest` has
    /// vmlinux-NAME and bzImage-NAME (6.1, 6.12, newest), tools.cpio and modules-NAME.cpio.
    Shell {
        /// A file of this host to find in the folder where the command runs.
        #[arg(long, value_name = "PATH")]
        file: Vec<PathBuf>,
        /// Seconds it may take.
        #[arg(long, default_value_t = 600)]
        seconds: u64,
        /// The command: words for a shell.
        #[arg(last = true, required = true)]
        words: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(code) => code,
        Err(error) => {
            show::complain(&format!("linux-tests: {error:#}"));
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) -> Result<ExitCode> {
    let common = &options.common;
    let began = Instant::now();
    let place = target().join("linux");
    match &options.command {
        Some(Verb::Fetch) => fetch(&place, common).map(|_| ExitCode::SUCCESS),
        Some(Verb::Shell {
            file,
            seconds,
            words,
        }) => {
            let fetched = fetch(&place, common)?;
            let ferrite = ferrite(common)?;
            shell(&place, &fetched, &ferrite, file, *seconds, words)
        }
        None => {
            let fetched = fetch(&place, common)?;
            let mut jobs = scenarios::all(&fetched)?;
            jobs.retain(|job| {
                let wanted = options
                    .filter
                    .iter()
                    .any(|word| job.name.contains(word.as_str()));
                options.filter.is_empty() || wanted
            });
            ensure!(
                !jobs.is_empty(),
                "no job's name contains {:?}",
                options.filter
            );
            if options.list {
                jobs.iter().for_each(|job| say!("{}", job.name));
                return Ok(ExitCode::SUCCESS);
            }
            let ferrite = ferrite(common)?;
            let good = test(&place, &fetched, &ferrite, &jobs, common, began)?;
            Ok(if good {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
    }
}

fn fetch(place: &Path, common: &Common) -> Result<Fetched> {
    std::fs::create_dir_all(place)?;
    let fetched = fetch::fetch(place, common.mirror.as_deref(), common.update)?;
    for kernel in &fetched.kernels {
        say!("kernel {}: {}", kernel.name, kernel.release);
    }
    Ok(fetched)
}

/// Runs jobs, again those that failed and may be tried again, and shows what became of each.
fn test(
    place: &Path,
    fetched: &Fetched,
    ferrite: &Path,
    jobs: &[Job],
    common: &Common,
    began: Instant,
) -> Result<bool> {
    let guest = place.join("guest");
    images::guest_folder(&guest, fetched, &dbpage()?)?;
    let nested = common.nested || !here::can_run_guests();
    let mut progress = Progress::new(jobs, common.verbose, nested);
    if nested {
        let disk = place.join("outer.img");
        images::outer_disk(&disk, &place.join("outer"), fetched, ferrite, &guest, &[])?;
        say!("images made after {:.0} s", began.elapsed().as_secs_f32());
        boot_until_done(place, fetched, &disk, &mut progress)?;
    } else {
        say!("this host's KVM is hardware's: guests run here");
        let folder = place.join("jobs");
        while let due = progress.due()
            && !due.is_empty()
        {
            images::job_folder(&folder, &due)?;
            here::run(ferrite, &guest, &folder, &due, &mut progress)?;
        }
    }
    Ok(progress.summary(began))
}

/// Boots the outer machine until every job has passed or has no try left.
fn boot_until_done(
    place: &Path,
    fetched: &Fetched,
    disk: &Path,
    progress: &mut Progress<'_>,
) -> Result<()> {
    let kernel = fetched.kernel("6.12")?;
    let (folder, ram_disk) = (place.join("jobs"), place.join("outer.cpio"));
    let mut lost = 0;
    loop {
        let due = progress.due();
        if due.is_empty() {
            return Ok(());
        }
        ensure!(
            lost < show::OUTER_TRIES,
            "the outer machine ended {lost} times before a job"
        );
        images::job_folder(&folder, &due)?;
        images::outer_ram_disk(&ram_disk, fetched, kernel, &folder)?;
        let begun = outer::run(&kernel.elf, &ram_disk, disk, &due, progress)?;
        lost = if begun == 0 { lost + 1 } else { 0 };
    }
}

/// Runs a user's command in the outer machine.
fn shell(
    place: &Path,
    fetched: &Fetched,
    ferrite: &Path,
    files: &[PathBuf],
    seconds: u64,
    words: &[String],
) -> Result<ExitCode> {
    // Folders of its own: tests may be running at the same time.
    let place = place.join("shell");
    let guest = place.join("guest");
    images::guest_folder(&guest, fetched, &dbpage()?)?;
    let disk = place.join("outer.img");
    images::outer_disk(&disk, &place.join("outer"), fetched, ferrite, &guest, files)?;
    let jobs = [Job {
        name: "shell".into(),
        script: words.join(" "),
        files: Vec::new(),
        seconds,
        tries: 1,
        status: 0,
        reports: false,
        forgiven: &[],
    }];
    let mut progress = Progress::new(&jobs, true, true);
    boot_until_done(&place, fetched, &disk, &mut progress)?;
    let status = progress.last_status().unwrap_or(1);
    Ok(ExitCode::from(u8::try_from(status).unwrap_or(1)))
}

/// The program to test, built if none is named.
fn ferrite(common: &Common) -> Result<PathBuf> {
    if let Some(named) = &common.ferrite {
        ensure!(named.is_file(), "{} is no file", named.display());
        return Ok(named.clone());
    }
    build("ferrite", &mut cargo())?;
    Ok(target().join("release/ferrite"))
}

/// The page checker, which guests run: linked to nothing.
fn dbpage() -> Result<PathBuf> {
    let host = "x86_64-unknown-linux-gnu";
    let mut cargo = cargo();
    cargo.env(
        "RUSTFLAGS",
        "-C target-feature=+crt-static -C strip=symbols",
    );
    build("ferrite-dbpage", cargo.args(["--target", host]))?;
    Ok(target().join(host).join("release/ferrite-dbpage"))
}

fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--release", "--locked", "--quiet"]);
    cargo.arg("--manifest-path").arg(root().join("Cargo.toml"));
    // Of the run that this program is of; builds have their own.
    cargo.env_remove("CARGO_ENCODED_RUSTFLAGS");
    cargo
}

fn build(package: &str, cargo: &mut Command) -> Result<()> {
    let status = cargo.args(["--package", package]).status();
    let status = status.context("cargo cannot be run")?;
    ensure!(status.success(), "{package} was not built");
    Ok(())
}

/// The repository.
fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here)
}

/// Where cargo builds.
fn target() -> PathBuf {
    let named = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    named.unwrap_or_else(|| root().join("target"))
}
