//! A program that is run to its end: read while it runs, ended when it takes too long and when
//! we end.

use std::{
    collections::VecDeque,
    io::{self, Read},
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Child, ChildStderr, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal},
};

use crate::machine::Lines;

/// The most of its error output that is kept, in bytes: the last ones.
const STDERR_KEPT: usize = 8 << 10;
/// How long its error output may stay open after it has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Lines that wait for us; the program waits when there are more.
const LINES_WAITING: usize = 256;

/// How it ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// Its exit status; `None` if it took too long and was killed.
    pub(super) status: Option<ExitStatus>,
    /// The end of what it wrote to standard error.
    pub(super) stderr: String,
}

/// A running program, killed when this is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already: either way it is gone, and no zombie is left.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a program with nothing to read, and calls `on_line` for each line it prints. It ends with
/// the calling thread at the latest.
///
/// # Errors
/// When it cannot be started or waited for.
pub(super) fn run(
    command: &mut Command,
    limit: Duration,
    mut on_line: impl FnMut(&str),
) -> io::Result<Ended> {
    let deadline = Instant::now() + limit;
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    end_with_us(command);
    let mut running = Running(command.spawn()?);
    let child = &mut running.0;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (say, hear) = mpsc::sync_channel::<String>(LINES_WAITING);
    thread::spawn(move || {
        // When it took too long nobody listens any more.
        let mut lines = Lines::new(|line: &str| drop(say.send(line.to_owned())));
        stdout.map(|mut stdout| io::copy(&mut stdout, &mut lines))
    });
    let (complain, complaint) = mpsc::sync_channel(1);
    thread::spawn(move || complain.send(stderr.map(last_of).unwrap_or_default()));
    // The deadline holds for one who never stops talking too.
    let left = || deadline.saturating_duration_since(Instant::now());
    while !left().is_zero()
        && let Ok(line) = hear.recv_timeout(left())
    {
        on_line(&line);
    }
    let status = match wait_until(child, deadline)? {
        true => Some(child.wait()?),
        false => None,
    };
    drop(hear);
    drop(running);
    // Its output ends with it, unless it left that to others, who may go on.
    let stderr = complaint.recv_timeout(LAST_WORDS).unwrap_or_default();
    Ok(Ended { status, stderr })
}

/// Makes the program end with the thread that starts it, however that ends.
#[expect(unsafe_code, reason = "runs between fork and exec")]
fn end_with_us(command: &mut Command) {
    let us = rustix::process::getpid();
    let ask = move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        match rustix::process::getppid() {
            Some(parent) if parent == us => Ok(()),
            // We ended before it asked.
            _ => Err(io::Error::from(io::ErrorKind::BrokenPipe)),
        }
    };
    // SAFETY: between fork and exec only what is async-signal-safe may run: the closure makes two
    // system calls, allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(ask);
    }
}

/// Whether it has ended by then.
fn wait_until(child: &Child, deadline: Instant) -> io::Result<bool> {
    let pid: OwnedFd = rustix::process::pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        let fd = pid.as_fd();
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&left)) {
            Ok(ended) => return Ok(ended > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The last bytes of what it says, as text.
fn last_of(mut stderr: ChildStderr) -> String {
    let mut kept = VecDeque::with_capacity(STDERR_KEPT);
    let mut part = [0; 1024];
    // What cannot be read any more is lost.
    while let Ok(count @ 1..) = stderr.read(&mut part) {
        kept.extend(part.iter().take(count));
        kept.drain(..kept.len().saturating_sub(STDERR_KEPT));
    }
    String::from_utf8_lossy(kept.make_contiguous())
        .trim_end()
        .replace(|c: char| c.is_control() && c != '\n', "\u{FFFD}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration) -> (Ended, Vec<String>) {
        let mut lines = Vec::new();
        let ended = run(Command::new("sh").args(["-c", script]), limit, |line| {
            lines.push(line.to_owned());
        });
        (ended.expect("there is a shell"), lines)
    }

    #[test]
    fn lines_errors_and_exit_code_arrive() {
        let (ended, lines) = shell(
            "echo one; echo two; echo why >&2; exit 7",
            Duration::from_secs(60),
        );
        assert_eq!(lines, ["one", "two"]);
        assert_eq!(ended.stderr, "why");
        assert_eq!(ended.status.and_then(|status| status.code()), Some(7));
    }

    #[test]
    fn what_takes_too_long_is_killed() {
        // Also when it has closed its output, or never stops.
        for script in [
            "echo $$; exec yes",
            "echo $$; exec sleep 1000",
            "echo $$; exec >&-; exec sleep 1000",
        ] {
            let (ended, lines) = shell(script, Duration::from_millis(300));
            assert!(ended.status.is_none(), "{ended:?}");
            let pid = lines.first().expect("its pid");
            assert!(!std::path::Path::new("/proc").join(pid).exists(), "{pid}");
        }
    }

    #[test]
    fn the_end_of_a_long_complaint_is_kept() {
        let (ended, _) = shell(
            "yes 0123456789 | head -n 10000 >&2; echo last >&2",
            Duration::from_secs(60),
        );
        assert!(ended.stderr.len() <= STDERR_KEPT && ended.stderr.ends_with("last"));
    }
}
