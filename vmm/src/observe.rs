//! What a run is observed by: the trace, the flight recorder, the control socket.

use std::{
    io::{self, Write},
    path::PathBuf,
    sync::Arc,
};

use ::nvme::{Clock, ControllerConfig};
use thiserror::Error;

use crate::{
    attach::Attached,
    ctl::{ControlSocket, SocketError, Subject, Subjects},
    machine::{LiveExits, StopHandle},
    nvme::MonotonicClock,
    options::NvmeOptions,
    trace::{TraceError, TraceFormat, TraceTarget, Tracer, records},
};

/// What to observe a run by. The default is nothing but the flight recorder, which nobody reads.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Observe {
    /// Where each command is written, from the start.
    pub trace: Option<TraceTarget>,
    /// How; as the target's name says unless given.
    pub format: Option<TraceFormat>,
    /// Where the control socket is to be.
    pub control: Option<PathBuf>,
    /// Write to standard error what controllers did last that fail, or whose guest crashes.
    pub tell_failures: bool,
}

/// A run cannot be observed.
#[derive(Debug, Error)]
pub enum ObserveError {
    /// The trace.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// The control socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
}

/// What observes a run, from before its controllers are made until they are gone.
pub(crate) struct Observers {
    observe: Observe,
    tracer: Tracer,
    clock: Arc<dyn Clock>,
    socket: Option<ControlSocket>,
}

impl Observe {
    /// Starts what writes.
    pub(crate) fn begin(&self) -> Result<Observers, ObserveError> {
        let named = self.trace.as_ref().map(TraceTarget::format);
        let format = self.format.or(named).unwrap_or_default();
        Ok(Observers {
            tracer: Tracer::start(self.trace.as_ref(), format, self.tell_failures)?,
            clock: Arc::new(MonotonicClock::start()),
            socket: None,
            observe: self.clone(),
        })
    }
}

impl Observers {
    /// Has a controller watched that is to be made, the one of this index.
    pub(crate) fn watch(&self, index: usize, options: &NvmeOptions, config: &mut ControllerConfig) {
        let watch = &mut config.watch;
        watch.trace = Some(self.tracer.tap(index));
        watch.tracing = self.observe.trace.is_some();
        watch.clock = Some(self.clock.clone());
        watch.statistics = options.stats.unwrap_or(self.observe.control.is_some());
        if !watch.tracing
            && !watch.statistics
            && watch.recorder == 0
            && self.observe.control.is_none()
        {
            // Nothing that could be told of its commands.
            watch.trace = None;
        }
    }

    /// The controllers are on the machine: from here on they can be asked about.
    pub(crate) fn attached(
        &mut self,
        controllers: &[&Attached],
        exits: &Arc<LiveExits>,
        stop: StopHandle,
    ) -> Result<(), ObserveError> {
        let each = controllers.iter().map(|attached| &attached.controller);
        self.tracer.set_controllers(each);
        if let Some(path) = &self.observe.control {
            let subject = |attached: &&Attached| Subject {
                controller: attached.controller.clone(),
                sleeps: attached.sleeps().collect(),
                clock: self.clock.clone(),
            };
            let subjects = Subjects {
                controllers: controllers.iter().map(subject).collect(),
                exits: exits.clone(),
                quit: Box::new(move || stop.stop()),
            };
            self.socket = Some(ControlSocket::start(path, subjects)?);
        }
        Ok(())
    }

    /// Nobody is to ask any more: the socket goes, before what it tells of.
    pub(crate) fn close(&mut self) {
        self.socket = None;
    }

    /// The guest has crashed: what it had its controllers do last.
    pub(crate) fn crashed<'a>(&self, controllers: impl Iterator<Item = &'a Attached>) {
        if !self.observe.tell_failures {
            return;
        }
        for (index, attached) in controllers.enumerate() {
            let records = records(index, &attached.controller);
            if !records.is_empty() {
                let head = format!("ferrite: the last commands of nvme{index}:\n");
                // Where errors go nobody may listen.
                let _ = io::stderr().write_all((head + &records).as_bytes());
            }
        }
    }

    /// The controllers are gone: writes what is left.
    pub(crate) fn end(self) {
        self.tracer.finish();
    }
}
