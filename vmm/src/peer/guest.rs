//! The test kernel on QEMU's nvme device.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsRawFd,
    process::Command,
    time::{Duration, Instant},
};

use nvme_suite::tap::Report;
use rustix::fs::{MemfdFlags, memfd_create};

use super::{Qemu, QemuError, QemuNvme, process};
use crate::{TEST_KERNEL, machine::open_kvm};

/// A machine of QEMU's and what is tested on it.
#[derive(Clone, Debug)]
pub struct QemuGuest {
    /// The value of `-machine`.
    pub machine: &'static str,
    /// Bytes of memory.
    pub memory: u64,
    /// The kernel's command line.
    pub command_line: String,
    /// The controller.
    pub nvme: QemuNvme,
    /// What is added to the properties of each `-drive`, such as `,aio=threads`.
    pub drive: &'static str,
    /// How long the guest may run.
    pub timeout: Duration,
}

/// How QEMU ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum QemuEnd {
    /// With this exit code.
    Code(u32),
    /// Otherwise: how.
    Died(String),
    /// It took too long, and was killed.
    TimedOut,
}

/// What came of a run of the suite.
#[derive(Clone, Debug)]
pub struct QemuRun {
    /// What the guest printed.
    pub report: Report,
    /// How QEMU ended and what it took.
    pub ended: QemuEnded,
}

/// What came of QEMU.
#[derive(Clone, Debug)]
pub struct QemuEnded {
    /// How it ended.
    pub end: QemuEnd,
    /// The end of what QEMU complained of.
    pub stderr: String,
    /// What runs the guest's instructions: `kvm` or `tcg`.
    pub accelerator: &'static str,
    /// The command line, for people.
    pub command: String,
    /// How long QEMU ran.
    pub elapsed: Duration,
}

impl QemuGuest {
    /// The smallest machine: no firmware, PCI by ECAM, BARs that the kernel places.
    pub const MICROVM: &'static str = "microvm,pcie=on";
    /// A machine with firmware, CF8h and BARs that are placed already.
    pub const Q35: &'static str = "q35";

    /// Boots the kernel and lets it run the suite to its end. `on_test` is told of each result with
    /// the report so far.
    ///
    /// # Errors
    /// When QEMU does not come so far that the guest says anything.
    pub fn run(&self, qemu: &Qemu, mut on_test: impl FnMut(&Report)) -> Result<QemuRun, QemuError> {
        let mut report = Report::default();
        let ended = self.run_lines(qemu, |line| {
            let before = report.tests.len();
            report.feed(line);
            if report.tests.len() > before {
                on_test(&report);
            }
        })?;
        Ok(QemuRun { report, ended })
    }

    /// Boots the kernel and lets it run to its end. `on_line` is told of each line it prints.
    ///
    /// # Errors
    /// When QEMU does not come so far that the guest says anything.
    pub fn run_lines(
        &self,
        qemu: &Qemu,
        mut on_line: impl FnMut(&str),
    ) -> Result<QemuEnded, QemuError> {
        let kernel = kernel().map_err(QemuError::Drive)?;
        let drives: Vec<File> = self
            .nvme
            .namespaces
            .iter()
            .map(|ns| memory_file("ferrite-drive", ns.size))
            .collect::<io::Result<_>>()
            .map_err(QemuError::Drive)?;
        let accelerator = if open_kvm().is_ok() { "kvm" } else { "tcg" };
        let mut command = self.command(qemu, accelerator, &kernel, &drives);
        let line = format!("{command:?}");
        let start = Instant::now();
        let mut said = false;
        let ended = process::run(&mut command, self.timeout, |line| {
            said |= !line.is_empty();
            on_line(line);
        });
        let ended = ended.map_err(|source| QemuError::Start {
            program: qemu.program.clone(),
            source,
        })?;
        let end = match ended.status {
            None => QemuEnd::TimedOut,
            Some(status) => match status.code().map(u32::try_from) {
                Some(Ok(code)) => QemuEnd::Code(code),
                _ => QemuEnd::Died(status.to_string()),
            },
        };
        if let Some(status) = ended.status
            && !said
        {
            return Err(QemuError::Died {
                status,
                stderr: ended.stderr,
                command: line,
            });
        }
        Ok(QemuEnded {
            end,
            stderr: ended.stderr,
            accelerator,
            command: line,
            elapsed: start.elapsed(),
        })
    }

    fn command(
        &self,
        qemu: &Qemu,
        accelerator: &'static str,
        kernel: &File,
        drives: &[File],
    ) -> Command {
        let mut command = Command::new(&qemu.program);
        command
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none", "-serial", "stdio"])
            .args(["-machine", self.machine, "-accel", accelerator])
            .args(["-m", &format!("size={}B", self.memory)])
            .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"])
            .args(["-kernel", &path(kernel)]);
        if !self.command_line.is_empty() {
            command.args(["-append", &self.command_line]);
        }
        let controller = self.nvme.controller.join(",");
        command.args(["-device", &format!("nvme,id=nvme0,{controller}")]);
        for (ns, drive) in self.nvme.namespaces.iter().zip(drives) {
            let id = format!("drive{}", ns.nsid);
            let file = path(drive);
            command
                .args([
                    "-drive",
                    &format!(
                        "if=none,id={id},format=raw,discard=unmap,file={file}{}",
                        self.drive
                    ),
                ])
                .args(["-device", &format!("{},bus=nvme0", ns.properties(&id))]);
        }
        command
    }
}

/// The test kernel as a file that QEMU can open.
fn kernel() -> io::Result<File> {
    let mut file = memory_file("ferrite-kernel", 0)?;
    file.write_all(TEST_KERNEL)?;
    Ok(file)
}

/// A file of zeroes in memory, as our own drives are. It has no name that could be left behind.
fn memory_file(name: &str, bytes: u64) -> io::Result<File> {
    let file = File::from(memfd_create(name, MemfdFlags::CLOEXEC)?);
    file.set_len(bytes)?;
    Ok(file)
}

/// Where another process of this user finds it, as long as we have it open.
fn path(file: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())
}
