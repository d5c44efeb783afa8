//! One guest: booted, run to its end, and what it said.

use std::{
    os::fd::AsRawFd,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use nvme_bench::Report;
use rustix::fs::{MemfdFlags, Mode, OFlags, memfd_create, open};

use super::{
    FLOORS, Group, GuestBenchError,
    answerer::Answerer,
    results::{Sample, Side},
};
use crate::{
    machine::{GuestExit, Lines, LiveExits, MachineConfig},
    options::NvmeOptions,
    peer::{Qemu, QemuEnd, QemuGuest, QemuNvme},
    testbed::{GUEST_SUCCESS, Testbed},
};

/// The device number of the function that answers.
const ANSWERER_SLOT: u8 = 2;
/// What QEMU's controller is told besides what `--nvme` says: a doorbell that the guest rings wakes
/// its thread without an exit to it.
const QEMU_CONTROLLER: &str = "ioeventfd=on";

/// How QEMU's drives are told to move data: the best of what there is where it was tried.
pub(super) struct QemuDrive {
    properties: &'static str,
    pub(super) note: &'static str,
}

impl QemuDrive {
    /// Linux's own asynchronous I/O past the page cache is the quickest, where files in memory
    /// have it (Linux 6.6 and later).
    pub(super) fn best() -> Self {
        match direct_io_in_memory() {
            true => Self {
                properties: ",aio=native,cache=none",
                note: "qemu: nvme with ioeventfd=on, drive in memory (memfd) with \
                       aio=native,cache=none: of aio=threads, io_uring and native, and of both \
                       settings of ioeventfd, the quickest with one command at a time",
            },
            false => Self {
                properties: ",aio=threads",
                note: "qemu: nvme with ioeventfd=on, drive in memory (memfd) with aio=threads: \
                       aio=native, which is quicker, wants direct I/O, and this kernel has none \
                       for files in memory",
            },
        }
    }
}

/// Whether a file in memory can be opened for direct I/O.
fn direct_io_in_memory() -> bool {
    memfd_create("ferrite-probe", MemfdFlags::CLOEXEC).is_ok_and(|file| {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let flags = OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC;
        open(path, flags, Mode::empty()).is_ok()
    })
}

/// What every guest is told.
pub(super) struct Boot<'b> {
    pub(super) nvme: &'b NvmeOptions,
    /// How long each case is measured.
    pub(super) time: Duration,
    /// Bytes.
    pub(super) memory: u64,
    pub(super) timeout: Duration,
}

/// Whose machine and controller.
pub(super) enum Guest<'q> {
    Ferrite,
    Qemu {
        qemu: &'q Qemu,
        nvme: QemuNvme,
        drive: QemuDrive,
    },
}

impl Guest<'_> {
    pub(super) const fn side(&self) -> Side {
        match self {
            Self::Ferrite => Side::Ferrite,
            Self::Qemu { .. } => Side::Qemu,
        }
    }
}

/// What came of a guest.
pub(super) struct Run {
    /// What it printed.
    pub(super) report: Report,
    /// What was measured, by name.
    pub(super) samples: Vec<(String, Sample)>,
    /// I/O commands that the controller fetched; unknown of QEMU's.
    pub(super) fetched: Option<u64>,
}

/// What a guest says, with the exits that its machine counted meanwhile.
#[derive(Default)]
struct Listener {
    report: Report,
    exits: Option<Arc<LiveExits>>,
    /// Exits when the running case began.
    begun: u64,
    samples: Vec<(String, Sample)>,
}

impl Listener {
    /// Takes a line; the name of a case that it ended.
    fn feed(&mut self, line: &str) -> Option<&str> {
        let exits = self.exits.as_ref();
        // The ports are for what the guest prints.
        let exits = exits.map(|exits| exits.counts().beside_ports());
        let (running, before) = (self.report.running.is_some(), self.report.done.len());
        self.report.feed(line);
        if !running && self.report.running.is_some() {
            self.begun = exits.unwrap_or_default();
        }
        let (name, measured) = self.report.done.get(before)?;
        let sample = Sample {
            measured: measured.clone(),
            exits: exits.map(|exits| exits - self.begun),
        };
        self.samples.push((name.clone(), sample));
        Some(name)
    }
}

impl Boot<'_> {
    /// Boots a guest and lets it take a group of cases. `on_case` is told of each that is done.
    pub(super) fn run(
        &self,
        guest: &Guest<'_>,
        group: &Group,
        on_case: &mut dyn FnMut(&str),
    ) -> Result<Run, GuestBenchError> {
        let line = self.command_line(group, guest.side());
        match guest {
            Guest::Ferrite => self.on_ferrite(line, on_case),
            Guest::Qemu { qemu, nvme, drive } => self.on_qemu(line, (qemu, nvme, drive), on_case),
        }
    }

    fn command_line(&self, group: &Group, side: Side) -> String {
        let names: Vec<String> = group.cases.iter().map(ToString::to_string).collect();
        let floors = match group.floors && side == Side::Ferrite {
            true => FLOORS.join(","),
            false => String::new(),
        };
        let ms = self.time.as_millis().max(1);
        format!(
            "bench cases={} floors={floors} ms={ms} warm_ms={}",
            names.join(","),
            (ms / 10).max(1)
        )
    }

    fn on_ferrite(
        &self,
        command_line: String,
        on_case: &mut dyn FnMut(&str),
    ) -> Result<Run, GuestBenchError> {
        let exits = Arc::new(LiveExits::default());
        let listener = Arc::new(Mutex::new(Listener {
            exits: Some(exits.clone()),
            ..Listener::default()
        }));
        let heard = listener.clone();
        let feed = move |line: &str| {
            let mut listener = heard.lock().unwrap_or_else(PoisonError::into_inner);
            listener.feed(line);
        };
        let machine = MachineConfig {
            memory: self.memory,
            command_line,
            serial: Box::new(Lines::new(feed)),
            timeout: Some(self.timeout),
            exits,
            ..MachineConfig::default()
        };
        let mut testbed = Testbed::new(self.nvme, self.nvme.build()?, machine)?;
        let machine = &mut testbed.machine;
        let router = Arc::new(machine.msi(1)?);
        let answerer = Answerer::new(machine.memory().clone(), router)?;
        machine.attach_pci(ANSWERER_SLOT, Arc::new(answerer))?;
        let ended = testbed.run();
        let listener =
            std::mem::take(&mut *listener.lock().unwrap_or_else(PoisonError::into_inner));
        for (name, _) in &listener.samples {
            on_case(name);
        }
        let trouble = ended.workers.err().map(|panic| panic.to_string());
        let trouble = trouble.or_else(|| match ended.outcome {
            Ok(outcome) => account(&listener.report, &end_of(outcome.exit)),
            Err(error) => Some(format!("{:#}", anyhow::Error::new(error))),
        });
        finish(
            Side::Ferrite,
            listener,
            trouble,
            Some(ended.stats.io_commands),
        )
    }

    fn on_qemu(
        &self,
        command_line: String,
        (qemu, nvme, drive): (&Qemu, &QemuNvme, &QemuDrive),
        on_case: &mut dyn FnMut(&str),
    ) -> Result<Run, GuestBenchError> {
        let mut nvme = nvme.clone();
        nvme.controller.push(QEMU_CONTROLLER.to_string());
        let guest = QemuGuest {
            machine: QemuGuest::MICROVM,
            memory: self.memory,
            command_line,
            nvme,
            drive: drive.properties,
            timeout: self.timeout,
        };
        let mut listener = Listener::default();
        let ended = guest.run_lines(qemu, |line| {
            if let Some(name) = listener.feed(line) {
                on_case(name);
            }
        })?;
        let trouble =
            account(&listener.report, &ended.end).map(|trouble| match ended.stderr.as_str() {
                "" => trouble,
                stderr => format!("{trouble}\nQEMU's complaints:\n{stderr}"),
            });
        finish(Side::Qemu, listener, trouble, None)
    }
}

/// How our machine's guest ended, said as QEMU's.
fn end_of(exit: GuestExit) -> QemuEnd {
    match exit {
        GuestExit::Code(code) => QemuEnd::Code(code),
        GuestExit::TimedOut => QemuEnd::TimedOut,
        GuestExit::Stopped => QemuEnd::Died("the run was stopped".to_string()),
        GuestExit::PowerOff => QemuEnd::Died("the guest went off".to_string()),
        GuestExit::Reset => QemuEnd::Died("the guest asked for a reset".to_string()),
    }
}

/// What is wrong with a guest's output and its end.
fn account(report: &Report, end: &QemuEnd) -> Option<String> {
    let trouble = report.trouble();
    match end {
        QemuEnd::Code(GUEST_SUCCESS) => trouble,
        QemuEnd::Code(code) => Some(trouble.unwrap_or_else(|| format!("its exit code is {code}"))),
        QemuEnd::TimedOut => Some(format!(
            "it took too long; {}",
            trouble.unwrap_or_else(|| "all was done".to_string())
        )),
        QemuEnd::Died(how) => Some(format!("{how}; {}", trouble.unwrap_or_default())),
    }
}

fn finish(
    side: Side,
    listener: Listener,
    trouble: Option<String>,
    fetched: Option<u64>,
) -> Result<Run, GuestBenchError> {
    let Listener {
        report, samples, ..
    } = listener;
    let trouble = trouble.or_else(|| {
        let (said, fetched) = (report.ended?, fetched?);
        (said != fetched).then(|| {
            format!("the guest issued {said} I/O commands, and the controller fetched {fetched}")
        })
    });
    match trouble {
        Some(trouble) => Err(GuestBenchError::Guest { side, trouble }),
        None => Ok(Run {
            report,
            samples,
            fetched,
        }),
    }
}
