//! `--trace nvme`: what controllers do, written as lines by a thread of its own.
//!
//! A controller hands its events to a [`Tracer`]'s ring, which is bounded: what finds no room is
//! counted as lost, and the count is written where the events would have been. So a shard never
//! waits for who reads. The same thread writes the flight recorder's records when a controller
//! fails, for all to see what it did last. docs/tracing.md describes the lines.

mod line;
mod writer;

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Write},
    os::unix::ffi::OsStrExt,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, SyncSender, TrySendError},
    },
    thread,
    time::Duration,
};

use ::nvme::{
    Controller, Trace,
    trace::{CommandEvent, LifecycleEvent},
};
use thiserror::Error;

pub use line::{command_json, command_text};

/// Events that wait to be written at most.
const RING: usize = 8192;
/// How long the end waits for what is still to be written.
const PATIENCE: Duration = Duration::from_secs(2);

/// How lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TraceFormat {
    /// For people.
    #[default]
    Text,
    /// An object a line.
    Json,
}

/// Where a trace goes, as `--trace` says: `nvme`, to standard error, or `nvme=FILE`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TraceTarget {
    /// The file; standard error without one.
    pub file: Option<PathBuf>,
}

impl TraceTarget {
    /// Reads the option's value.
    ///
    /// # Errors
    /// What would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            None if text == "nvme" => Ok(Self { file: None }),
            Some(("nvme", file)) if !file.is_empty() => Ok(Self {
                file: Some(file.into()),
            }),
            _ => Err(
                "what can be traced is nvme: give nvme, or nvme=FILE for lines in a file".into(),
            ),
        }
    }

    /// The format of what is written there unless the user says: JSON to files that end so.
    #[must_use]
    pub fn format(&self) -> TraceFormat {
        let extension = self.file.as_deref().and_then(|file| file.extension());
        let extension = extension.map(OsString::from).unwrap_or_default();
        match extension.as_bytes() {
            b"json" | b"jsonl" => TraceFormat::Json,
            _ => TraceFormat::Text,
        }
    }
}

/// A trace cannot be written.
#[derive(Debug, Error)]
pub enum TraceError {
    /// Its file.
    #[error("--trace nvme={}: it cannot be written", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Its thread.
    #[error("the thread that writes the trace cannot be started")]
    Thread(#[source] io::Error),
}

/// What the ring holds.
#[derive(Debug)]
enum Item {
    Command(usize, CommandEvent),
    Lifecycle(usize, LifecycleEvent),
    End,
}

/// What taps and writer share.
#[derive(Default)]
struct Shared {
    /// Events that found no room.
    lost: AtomicU64,
    /// Whose records are told of when they fail.
    controllers: Mutex<Vec<Weak<Controller>>>,
}

impl Shared {
    fn controller(&self, index: usize) -> Option<Arc<Controller>> {
        let controllers = self.controllers.lock();
        let controllers = controllers.unwrap_or_else(PoisonError::into_inner);
        controllers.get(index)?.upgrade()
    }
}

/// Writes what controllers do.
pub struct Tracer {
    ring: SyncSender<Item>,
    shared: Arc<Shared>,
    done: Receiver<()>,
}

/// A controller's way into the ring.
struct Tap {
    index: usize,
    ring: SyncSender<Item>,
    shared: Arc<Shared>,
}

impl Tap {
    fn give(&self, item: Item) {
        if let Err(TrySendError::Full(_)) = self.ring.try_send(item) {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Trace for Tap {
    fn command(&self, event: &CommandEvent) {
        self.give(Item::Command(self.index, *event));
    }

    fn lifecycle(&self, event: &LifecycleEvent) {
        self.give(Item::Lifecycle(self.index, *event));
    }
}

impl Tracer {
    /// Writes to a target, or to standard error if there is none; steps of lifecycles only if there
    /// is one. The flight recorder's records of a controller that fails go to standard error, if
    /// that is asked for.
    ///
    /// # Errors
    /// When the file cannot be made, or the thread.
    pub fn start(
        target: Option<&TraceTarget>,
        format: TraceFormat,
        tell_failures: bool,
    ) -> Result<Self, TraceError> {
        let output: Box<dyn Write + Send> = match target.and_then(|target| target.file.as_ref()) {
            None => Box::new(io::stderr()),
            Some(path) => {
                let file = File::create(path).map_err(|source| TraceError::File {
                    path: path.clone(),
                    source,
                })?;
                Box::new(file)
            }
        };
        let stderr = || Box::new(io::stderr()) as Box<dyn Write + Send>;
        let failures = tell_failures.then(stderr);
        Self::with_output(output, failures, format, target.is_some())
    }

    /// Writes to an output, and records of a controller that fails to another.
    fn with_output(
        output: Box<dyn Write + Send>,
        failures: Option<Box<dyn Write + Send>>,
        format: TraceFormat,
        lifecycle: bool,
    ) -> Result<Self, TraceError> {
        let (ring, items) = mpsc::sync_channel(RING);
        let (finished, done) = mpsc::channel();
        let shared = Arc::new(Shared::default());
        let writer = writer::Writer {
            output: io::BufWriter::new(output),
            failures,
            format,
            lifecycle,
            shared: shared.clone(),
        };
        thread::Builder::new()
            .name("trace".into())
            .spawn(move || {
                writer.run(&items);
                // Nobody waits if it takes too long.
                let _ = finished.send(());
            })
            .map_err(TraceError::Thread)?;
        Ok(Self { ring, shared, done })
    }

    /// Where the controller of this index, 0 for the first, has its events go.
    #[must_use]
    pub fn tap(&self, index: usize) -> Arc<dyn Trace> {
        Arc::new(Tap {
            index,
            ring: self.ring.clone(),
            shared: self.shared.clone(),
        })
    }

    /// Says which controllers they are, in the order of their indices.
    pub fn set_controllers<'a>(&self, controllers: impl Iterator<Item = &'a Arc<Controller>>) {
        let all = controllers.map(Arc::downgrade).collect();
        let mut controllers = self.shared.controllers.lock();
        **controllers.as_mut().unwrap_or_else(|error| error.get_mut()) = all;
    }

    /// Events that found no room in the ring so far.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    /// Writes what is left and ends, unless that takes longer than two seconds.
    pub fn finish(self) {
        let mut item = Item::End;
        // A full ring is being emptied, unless nobody reads what is written.
        for _ in 0..20 {
            match self.ring.try_send(item) {
                Err(TrySendError::Full(back)) => item = back,
                _ => break,
            }
            if self.done.recv_timeout(PATIENCE / 20).is_ok() {
                return;
            }
        }
        let _ = self.done.recv_timeout(PATIENCE);
    }
}

/// The records of a controller's flight recorder as lines for people, oldest first.
#[must_use]
pub fn records(index: usize, controller: &Controller) -> String {
    let events = controller.recorded();
    let lines = events.iter().map(|event| command_text(index, event) + "\n");
    lines.collect()
}

#[cfg(test)]
mod tests;
