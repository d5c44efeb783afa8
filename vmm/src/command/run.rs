//! `ferrite run`: its arguments, and what it prints.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use super::ObserveArgs;
use clap::{Args, ValueHint};
use ferrite::{
    console::{Console, SerialTarget},
    gdb::GdbAddress,
    observe::Observe,
    options::{ConfigFile, NvmeOptions, parse_size},
    run::{Run, Signals},
};

#[derive(Args)]
#[command(after_long_help = format!(
    "Exit codes, even ones of Ferrite's, odd ones of the guest's:\n{EXIT_CODES}\n\
     Keys of --nvme, and of [[nvme]] in the file of --config:\n\n{}",
    NvmeOptions::help()
))]
pub(crate) struct RunArgs {
    /// The kernel: a Linux bzImage (`vmlinuz`), or an uncompressed ELF with a PVH entry point (a
    /// Linux's `vmlinux`).
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    kernel: PathBuf,
    /// The file that Linux takes as its first root file system.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    initrd: Option<PathBuf>,
    /// The kernel's command line.
    #[arg(long, value_name = "TEXT", default_value = "console=ttyS0")]
    cmdline: String,
    /// CPUs of the guest, 1 to 64.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    cpus: u8,
    /// The guest's memory.
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = parse_size)]
    memory: u64,
    /// A controller; `--help` lists the keys. Given several times, there are as many: at device number
    /// 1 of PCI bus 0 and the next ones.
    #[arg(long, value_name = "KEY=VALUE,...")]
    nvme: Vec<String>,
    /// A TOML file that describes controllers: a table `[[nvme]]` for each with the keys of --nvme,
    /// and `[[nvme.namespace]]` for what single namespaces have. The first --nvme overrides the first
    /// table key by key, the second the second.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
    /// The serial console: `stdio`; `file:PATH` for output alone, in a file that is emptied first;
    /// `unix:PATH`, a socket that one client at a time may connect to; or `none`. On a terminal,
    /// Ctrl-A x quits and Ctrl-A h prints the keys.
    #[arg(long, value_name = "WHERE", default_value = "stdio", value_parser = SerialTarget::parse)]
    serial: SerialTarget,
    /// Seconds that the guest may run; for ever unless given.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    timeout: Option<u64>,
    /// Let GDB connect here: HOST:PORT (:1234 is port 1234 of this host alone, port 0 a free one),
    /// or a Unix socket's path, which has a slash.
    #[arg(long, value_name = "HOST:PORT|PATH")]
    gdb: Option<GdbAddress>,
    /// Stand before the guest's first instruction until a debugger says continue.
    #[arg(long, short = 'S', requires = "gdb")]
    gdb_wait: bool,
    #[command(flatten)]
    observe: ObserveArgs,
    /// Print nothing of how the run ended, unless it is an error.
    #[arg(long, short)]
    quiet: bool,
}

/// What the exit codes mean.
const EXIT_CODES: &str = "  \
  0    the guest switched the machine off
  2    the guest could not be started: an option, a file, KVM
  4    the guest asked for a reset
  6    the guest crashed; standard error says where
  8    it was stopped by SIGTERM, SIGINT, SIGHUP, Ctrl-A x or `ferrite ctl PATH quit`
  10   Ferrite itself failed
  124  --timeout is over
  odd  the guest wrote V to port F4h: (V << 1 | 1) & 0xff
";

pub(crate) fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let file = args.config.as_deref().map(ConfigFile::read).transpose()?;
    let controllers = NvmeOptions::several(file.as_ref(), &args.nvme)?;
    for nvme in &controllers {
        for note in nvme.notes()? {
            let _ = writeln!(io::stderr(), "ferrite: note: {note}");
        }
    }
    let console = Console::open(&args.serial)?;
    let run = Run {
        kernel: args.kernel.clone(),
        initrd: args.initrd.clone(),
        command_line: args.cmdline.clone(),
        cpus: args.cpus,
        memory: args.memory,
        controllers,
        timeout: args.timeout.map(Duration::from_secs),
        observe: Observe {
            tell_failures: true,
            ..args.observe.observe()
        },
    };
    let mut prepared = run.prepare(console.sink())?;
    if let Some(address) = &args.gdb {
        let address = prepared.debug(address, args.gdb_wait)?;
        let waits = if args.gdb_wait {
            "; the guest waits"
        } else {
            ""
        };
        let _ = writeln!(io::stderr(), "ferrite: gdb: target remote {address}{waits}");
    }
    let signals = Signals::watch(prepared.stop_handle())?;
    let console = console.start(prepared.serial_input(), prepared.stop_handle())?;
    let ended = prepared.run();
    // All that the guest has printed comes before what we have to say of it.
    console.finish();
    drop(signals);
    let ended = ended?;
    if !args.quiet || ended.end.is_failure() {
        let _ = write!(io::stderr(), "{}", ended.summary());
    }
    Ok(ExitCode::from(ended.end.exit_code()))
}
