//! The thread of a console: waits for the host and the guest, and carries bytes between them.

use std::{
    fs::File,
    os::unix::net::{UnixListener, UnixStream},
    sync::Arc,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::{AsFd, BorrowedFd},
    io::Errno,
    stdio::{stdin, stdout},
};

use super::{
    escape::{Action, Escape, HELP},
    output::{Output, Reader},
    terminal,
};
use crate::machine::{SerialInput, StopHandle};

/// Bytes moved at once: what a pipe that is ready takes without waiting.
const PIECE: usize = 4096;
/// How often a process in the background looks whether it has its terminal again.
const BACKGROUND: Duration = Duration::from_millis(500);

/// Who is on the other side.
pub(super) enum Host {
    /// Standard input, as long as it `reads`, and output.
    Stdio { reads: bool },
    /// A file, which says nothing.
    File(File),
    /// Whoever connects, one at a time: others wait until the first has gone.
    Unix {
        listener: UnixListener,
        client: Option<UnixStream>,
    },
    /// Nobody.
    Nobody,
}

/// What the thread has.
pub(super) struct Engine {
    output: Arc<Output>,
    host: Host,
    input: SerialInput,
    stop: StopHandle,
    /// Keys that are ours, on a terminal.
    escape: Option<Escape>,
    /// Input that the guest's side had no room for.
    held: Vec<u8>,
    /// Scratch: the output that is next.
    next: Vec<u8>,
}

/// What has happened.
#[derive(Default)]
struct Ready {
    writable: bool,
    readable: bool,
    connecting: bool,
}

impl Engine {
    pub(super) fn new(
        output: Arc<Output>,
        host: Host,
        input: SerialInput,
        stop: StopHandle,
        escape: Option<Escape>,
    ) -> Self {
        Self {
            output,
            host,
            input,
            stop,
            escape,
            held: Vec::new(),
            next: Vec::with_capacity(PIECE),
        }
    }

    /// Carries bytes until the output is closed and written.
    pub(super) fn run(mut self) {
        loop {
            self.output.woken();
            self.push();
            let left = self.output.time_left();
            if left.is_some_and(|left| left.is_zero()) {
                return;
            }
            self.output.front(PIECE, &mut self.next);
            let ready = self.wait(left);
            if ready.writable && !self.next.is_empty() {
                self.write();
            }
            if ready.connecting {
                self.connect();
            }
            if ready.readable {
                self.read();
            }
        }
    }

    /// Gives the guest what is held.
    fn push(&mut self) {
        if !self.held.is_empty() {
            let count = self.input.push(&self.held);
            self.held.drain(..count.min(self.held.len()));
        }
    }

    /// Whether input is wanted, and may be read.
    fn reads(&self) -> (bool, bool) {
        let wanted = self.held.is_empty() && self.output.time_left().is_none();
        match &self.host {
            Host::Stdio { reads } => {
                let may = self.escape.is_none() || terminal::in_foreground();
                (wanted && *reads, may)
            }
            Host::Unix { client, .. } => (wanted && client.is_some(), true),
            Host::File(_) | Host::Nobody => (false, true),
        }
    }

    /// Sleeps until something can be done, or `left` has passed.
    fn wait(&self, left: Option<Duration>) -> Ready {
        let (wanted, may) = self.reads();
        let reads = wanted && may;
        let writes = !self.next.is_empty();
        let left = left.or((wanted && !may).then_some(BACKGROUND));
        let (from, to): (Option<BorrowedFd<'_>>, Option<BorrowedFd<'_>>) = match &self.host {
            Host::Stdio { .. } => (Some(stdin()), Some(stdout())),
            Host::File(file) => (None, Some(file.as_fd())),
            Host::Unix { client, .. } => {
                let client = client.as_ref().map(AsFd::as_fd);
                (client, client)
            }
            Host::Nobody => (None, None),
        };
        let listener = match &self.host {
            Host::Unix {
                listener,
                client: None,
            } => Some(listener.as_fd()),
            _ => None,
        };
        let mut ready = Ready::default();
        let wake = self.output.wake_fd();
        let mut fds = vec![PollFd::from_borrowed_fd(wake, PollFlags::IN)];
        let mut which: Vec<fn(&mut Ready)> = vec![|_| {}];
        let mut add = |fd: Option<_>, wanted: bool, flags, set: fn(&mut Ready)| {
            if let Some(fd) = fd.filter(|_| wanted) {
                fds.push(PollFd::from_borrowed_fd(fd, flags));
                which.push(set);
            }
        };
        add(to, writes, PollFlags::OUT, |ready| ready.writable = true);
        add(from, reads, PollFlags::IN, |ready| ready.readable = true);
        add(listener, true, PollFlags::IN, |ready| {
            ready.connecting = true
        });
        let timeout = left.map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        // An interrupted wait only looks early.
        let _ = poll(&mut fds, timeout.as_ref());
        for (fd, set) in fds.iter().zip(which) {
            // An error or a hang-up is told by what is tried then.
            if !fd.revents().is_empty() {
                set(&mut ready);
            }
        }
        ready
    }

    fn write(&mut self) {
        let written = match &self.host {
            Host::Stdio { .. } => rustix::io::write(stdout(), &self.next),
            Host::File(file) => rustix::io::write(file, &self.next),
            Host::Unix {
                client: Some(client),
                ..
            } => rustix::io::write(client, &self.next),
            Host::Unix { .. } | Host::Nobody => Ok(0),
        };
        match written {
            Ok(count) => self.output.consume(count),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(error) => self.lose_reader(error),
        }
    }

    /// Nobody takes the output any more, or a client has gone.
    fn lose_reader(&mut self, error: Errno) {
        if let Host::Unix { client, .. } = &mut self.host {
            *client = None;
            return self.output.set_reader(Reader::Awaited);
        }
        if error != Errno::PIPE {
            tracing::error!("the serial console's output is lost: {error}");
        }
        self.output.set_reader(Reader::Gone);
    }

    fn connect(&mut self) {
        if let Host::Unix { listener, client } = &mut self.host
            && let Ok((stream, _)) = listener.accept()
            && stream.set_nonblocking(true).is_ok()
        {
            *client = Some(stream);
            self.output.set_reader(Reader::There);
        }
    }

    fn read(&mut self) {
        let mut bytes = [0; PIECE];
        let count = match &self.host {
            Host::Stdio { .. } => rustix::io::read(stdin(), &mut bytes),
            Host::Unix {
                client: Some(client),
                ..
            } => rustix::io::read(client, &mut bytes),
            _ => return,
        };
        match count {
            Err(Errno::INTR | Errno::AGAIN) => {}
            // The end of input is none of the run.
            Ok(0) | Err(_) => match &mut self.host {
                Host::Stdio { reads } => *reads = false,
                _ => self.lose_reader(Errno::PIPE),
            },
            Ok(count) => self.take(bytes.get(..count).unwrap_or_default()),
        }
    }

    /// Takes input in: for the guest, but for what is ours.
    fn take(&mut self, bytes: &[u8]) {
        let Some(escape) = &mut self.escape else {
            self.held.extend(bytes);
            return;
        };
        for &byte in bytes {
            match escape.key(byte) {
                Action::Send(byte) => self.held.push(byte),
                Action::Nothing => {}
                Action::Quit => self.stop.stop(),
                Action::Help => self.output.say(HELP),
            }
        }
    }
}
