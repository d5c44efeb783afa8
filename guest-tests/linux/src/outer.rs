//! The outer machine: QEMU's emulation of an AMD processor with its virtualization, for hosts whose
//! own KVM is none of hardware's kind or that have none. Its KVM runs Ferrite.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::jobs::{Job, Run};

/// How long the machine may take to start, and to go on after a job's time is over.
const PATIENCE: Duration = Duration::from_secs(120);
/// The processor: QEMU's most capable one, less two instructions that QEMU 7.2 emulates wrong.
///
/// - CMPXCHG16B leaves what is no flag in EFLAGS. An interrupt that comes at once saves that, TF, DF
///   and NT included, and what was interrupted goes on with them. Kernels allocate memory by this
///   instruction: about one boot in eight crashed.
/// - XSETBV of a guest's guest comes to no exit, so that KVM does not know of it and CPUID's leaf Dh
///   goes on telling the size of an empty XCR0. Linux then does without XSAVE, and 7.3 crashes on
///   the way there. What needs XSAVE goes with it; QEMU does not take it away by itself.
const PROCESSOR: &str = "max,-cx16,-xsave,-avx,-avx2,-fma,-f16c,-vaes,-vpclmulqdq,-pku";
/// What begins the lines that the machine's runner prints for the harness.
const MARK: &str = "@@ ";

/// What the runner says.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Word<'l> {
    /// It is there, so many seconds after its kernel's start.
    Up(&'l str),
    Begin,
    End(i32),
    /// Something is missing.
    Fault(&'l str),
}

fn word(line: &str) -> Option<Word<'_>> {
    let rest = line.strip_prefix(MARK)?;
    let (verb, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    match verb {
        "up" => Some(Word::Up(rest)),
        "begin" => Some(Word::Begin),
        "end" => {
            let (_, status) = rest.rsplit_once(' ')?;
            Some(Word::End(status.parse().ok()?))
        }
        "fault" => Some(Word::Fault(rest)),
        _ => None,
    }
}

/// Whoever wants to see a run as it goes.
pub(crate) trait Watch {
    /// The machine is up after so many seconds.
    fn up(&mut self, seconds: &str);
    fn begins(&mut self, job: &Job);
    fn line(&mut self, line: &str);
    fn ended(&mut self, job: &Job, run: &Run);
    /// The machine ended, or says nothing more, where it should have begun a job. What it said last.
    fn lost(&mut self, last_words: &str);
}

/// Boots the machine once and runs jobs in it until it ends. Returns how many were begun; the last
/// of them may not have come to its end, which its [`Run`] tells. Under load QEMU's emulation fails
/// now and then by itself.
pub(crate) fn run(
    kernel: &Path,
    ram_disk: &Path,
    disk: &Path,
    jobs: &[&Job],
    watch: &mut dyn Watch,
) -> Result<usize> {
    let machine = Machine::start(kernel, ram_disk, disk)?;
    let mut waiting: VecDeque<&Job> = jobs.iter().copied().collect();
    let mut current: Option<(&Job, Run, Instant)> = None;
    let mut before = VecDeque::new();
    loop {
        let limit = match &current {
            Some((job, _, _)) => PATIENCE + Duration::from_secs(job.seconds),
            None => PATIENCE,
        };
        let line = match machine.lines.recv_timeout(limit) {
            Ok(line) => line,
            Err(ending) => {
                let Some((job, mut run, began)) = current else {
                    if !waiting.is_empty() {
                        watch.lost(&Vec::from(before).join("\n"));
                    }
                    return Ok(jobs.len() - waiting.len());
                };
                run.milliseconds = began.elapsed().as_millis();
                if ending == RecvTimeoutError::Timeout {
                    run.lines.push("the outer machine says nothing more".into());
                }
                watch.ended(job, &run);
                return Ok(jobs.len() - waiting.len());
            }
        };
        match (word(&line), &mut current) {
            (Some(Word::Up(seconds)), _) => watch.up(seconds),
            (Some(Word::Fault(fault)), _) => bail!("the outer machine: {fault}"),
            (Some(Word::Begin), None) => {
                let job = waiting
                    .pop_front()
                    .context("a job nobody asked for began")?;
                watch.begins(job);
                current = Some((job, Run::default(), Instant::now()));
            }
            (Some(Word::End(status)), Some(_)) => {
                if let Some((job, mut run, began)) = current.take() {
                    run.status = Some(status);
                    run.milliseconds = began.elapsed().as_millis();
                    watch.ended(job, &run);
                }
            }
            (_, Some((_, run, _))) => {
                watch.line(&line);
                run.lines.push(line);
            }
            (_, None) => {
                // Kept for the message if it ends here.
                before.push_back(line);
                if before.len() > 40 {
                    before.pop_front();
                }
            }
        }
    }
}

/// A running QEMU. Dropped, it is ended.
struct Machine {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Machine {
    fn start(kernel: &Path, ram_disk: &Path, disk: &Path) -> Result<Self> {
        let program = "qemu-system-x86_64";
        let mut command = Command::new(program);
        command.args(["-nodefaults", "-no-user-config", "-no-reboot"]);
        command.args(["-display", "none", "-M", "q35", "-m", "4G", "-smp", "2"]);
        // A thread for each CPU; "max" has AMD's virtualization.
        command.args(["-accel", "tcg,thread=multi", "-cpu", PROCESSOR]);
        command.arg("-kernel").arg(kernel);
        command.arg("-initrd").arg(ram_disk);
        command.args(["-append", "console=ttyS0 quiet loglevel=1 panic=-1"]);
        command.args([
            "-chardev",
            "stdio,id=out,signal=off",
            "-serial",
            "chardev:out",
        ]);
        let drive = format!(
            "id=payload,if=none,format=raw,snapshot=on,file={}",
            disk.display().to_string().replace(',', ",,")
        );
        command.args(["-drive", &drive]);
        command.args(["-device", "virtio-blk-pci,drive=payload,serial=payload"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command
            .spawn()
            .with_context(|| format!("{program} cannot be run (package qemu-system-x86)"))?;
        let out = child.stdout.take().context("no output of QEMU's")?;
        let (send, lines) = mpsc::channel();
        thread::spawn(move || {
            // Ends with QEMU, or when nobody listens any more.
            for line in BufReader::new(out).split(b'\n') {
                let Ok(line) = line else { return };
                let line = String::from_utf8_lossy(&line);
                if send.send(line.trim_end_matches('\r').to_owned()).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, lines })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runners_words_are_told_from_what_guests_print() {
        assert_eq!(word("@@ up 3.21"), Some(Word::Up("3.21")));
        assert_eq!(word("@@ begin 01-boot"), Some(Word::Begin));
        assert_eq!(word("@@ end 01-boot 124"), Some(Word::End(124)));
        assert_eq!(
            word("@@ fault no /dev/kvm"),
            Some(Word::Fault("no /dev/kvm"))
        );
        for line in [
            "ok 1 - a (1 us)",
            "@@",
            "@@ end x",
            "@@ end x y",
            "a @@ end x 0",
        ] {
            assert_eq!(word(line), None, "{line}");
        }
    }
}
