//! The guest's serial console on the host's side: a terminal, a file or a socket.
//!
//! ```text
//!   a CPU prints ──► Sink ──► Output (bounded) ──► thread ──► stdout, file or client
//!   a CPU reads ◄── SerialInput (bounded) ◄─────── thread ◄── stdin or client
//! ```
//!
//! One thread waits for all of these descriptors. What comes in is read only when the guest's side
//! has room, so that nothing is lost however much is pasted; what goes out waits in `Output`,
//! which says how long a CPU waits for a slow reader. [`Running::finish`] gives a reader who still
//! reads all that the guest has printed.
//!
//! A terminal is raw while the guest runs: Ctrl-C and the like are the guest's, and Ctrl-A begins
//! an escape (`escape`). It is restored at the end, on a panic, and by the signals that end or
//! stop the process ([`terminal`]).

mod engine;
mod escape;
mod output;
pub mod terminal;

use std::{
    convert::Infallible,
    fs::{self, File},
    io::{self, ErrorKind, IsTerminal},
    os::unix::{
        fs::FileTypeExt,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::{fs::Mode, process::umask};
use thiserror::Error;

use self::{
    engine::{Engine, Host},
    escape::Escape,
    output::{Output, Reader, Sink},
    terminal::Raw,
};
use crate::machine::{SerialInput, SerialSink, StopHandle};

pub use output::{BUFFERED, KEPT, PATIENCE};

/// Where the serial console is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum SerialTarget {
    /// Standard input and output.
    #[default]
    Stdio,
    /// Output alone, to a file that is emptied first.
    File(PathBuf),
    /// A Unix socket that one client at a time is connected to.
    Unix(PathBuf),
    /// Nowhere.
    None,
}

impl SerialTarget {
    /// Reads `stdio`, `file:PATH`, `unix:PATH` or `none`.
    ///
    /// # Errors
    /// What would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let path = |path: &str| match path.is_empty() {
            true => Err(format!("{text} lacks a path")),
            false => Ok(PathBuf::from(path)),
        };
        match text.split_once(':') {
            Some(("file", rest)) => path(rest).map(Self::File),
            Some(("unix", rest)) => path(rest).map(Self::Unix),
            None if text == "stdio" => Ok(Self::Stdio),
            None if text == "none" => Ok(Self::None),
            _ => Err("give stdio, file:PATH, unix:PATH or none".to_string()),
        }
    }
}

/// The console cannot be had.
#[derive(Debug, Error)]
pub enum ConsoleError {
    /// A file or socket.
    #[error("--serial {path}", path = path.display())]
    Open {
        /// Its path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Somebody listens there already.
    #[error("--serial unix:{path}: it is in use; give the path of a socket to make", path = path.display())]
    InUse {
        /// Its path.
        path: PathBuf,
    },
    /// The terminal, a thread or a descriptor.
    #[error("the serial console cannot be started")]
    Start(#[from] io::Error),
}

impl From<rustix::io::Errno> for ConsoleError {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Start(error.into())
    }
}

/// A console that is open and not running yet: what the guest prints waits.
pub struct Console {
    output: Arc<Output>,
    host: Host,
    socket: Option<Socket>,
}

/// Removes a socket's file.
struct Socket(PathBuf);

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Console {
    /// Opens what the target names.
    ///
    /// # Errors
    /// [`ConsoleError`] naming it.
    pub fn open(target: &SerialTarget) -> Result<Self, ConsoleError> {
        let mut socket = None;
        let (host, reader) = match target {
            SerialTarget::Stdio => (Host::Stdio { reads: true }, Reader::There),
            SerialTarget::File(path) => {
                let file = File::create(path).map_err(|source| ConsoleError::Open {
                    path: path.clone(),
                    source,
                })?;
                (Host::File(file), Reader::There)
            }
            SerialTarget::Unix(path) => {
                let listener = listen(path)?;
                socket = Some(Socket(path.clone()));
                let client = None;
                (Host::Unix { listener, client }, Reader::Awaited)
            }
            SerialTarget::None => (Host::Nobody, Reader::Gone),
        };
        Ok(Self {
            output: Arc::new(Output::new(reader)?),
            host,
            socket,
        })
    }

    /// Where the guest's output goes.
    #[must_use]
    pub fn sink(&self) -> SerialSink {
        Box::new(Sink(Arc::clone(&self.output)))
    }

    /// Makes a terminal raw and starts the thread. The escape that quits calls `stop`.
    ///
    /// # Errors
    /// When the host refuses.
    pub fn start(self, input: SerialInput, stop: StopHandle) -> Result<Running, ConsoleError> {
        let Self {
            output,
            host,
            socket,
        } = self;
        let stdio = matches!(host, Host::Stdio { .. });
        let terminal = stdio && io::stdin().is_terminal();
        let raw = terminal.then(Raw::enter).transpose()?;
        let wake = Arc::clone(&output);
        input.on_room(move || wake.wake());
        let engine = Engine::new(
            Arc::clone(&output),
            host,
            input,
            stop,
            terminal.then(Escape::default),
        );
        let (ended, end) = mpsc::sync_channel::<Infallible>(0);
        let thread = thread::Builder::new()
            .name("console".into())
            .spawn(move || {
                engine.run();
                drop(ended);
            })?;
        Ok(Running {
            output,
            thread: Some(thread),
            end,
            raw,
            _socket: socket,
        })
    }
}

/// A socket that its owner alone may connect to.
fn listen(path: &Path) -> Result<UnixListener, ConsoleError> {
    let open = |source| ConsoleError::Open {
        path: path.to_path_buf(),
        source,
    };
    if UnixStream::connect(path).is_ok() {
        let path = path.to_path_buf();
        return Err(ConsoleError::InUse { path });
    }
    // A socket that nobody listens to was left behind; anything else is not ours to remove.
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => fs::remove_file(path).map_err(open)?,
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(open(error)),
        _ => {}
    }
    // From its first moment on: a mode set later would leave a gap.
    let before = umask(Mode::RWXG | Mode::RWXO | Mode::XUSR);
    let listener = UnixListener::bind(path);
    umask(before);
    let listener = listener.map_err(open)?;
    listener.set_nonblocking(true).map_err(open)?;
    Ok(listener)
}

/// A running console. When it is dropped it ends as with [`finish`](Self::finish).
pub struct Running {
    output: Arc<Output>,
    thread: Option<JoinHandle<()>>,
    /// Closed when the thread has ended.
    end: mpsc::Receiver<Infallible>,
    raw: Option<Raw>,
    _socket: Option<Socket>,
}

impl Running {
    /// Writes out what the guest has printed, as long as somebody takes it, and restores the
    /// terminal.
    pub fn finish(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.output.close();
        // A write to a terminal that has stopped may wait for ever: the thread is left to it then.
        let ended = self.end.recv_timeout(PATIENCE + Duration::from_secs(1));
        let ended = matches!(ended, Err(mpsc::RecvTimeoutError::Disconnected))
            || self.output.is_progressing();
        if let Some(thread) = self.thread.take().filter(|_| ended) {
            // It does nothing that panics.
            let _ = thread.join();
        }
        self.raw = None;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.end();
        }
    }
}

#[cfg(test)]
mod tests;
