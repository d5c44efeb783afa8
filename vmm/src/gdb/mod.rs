//! A debugger for the guest: GDB's remote serial protocol on a socket (`ferrite run --gdb`).
//!
//! ```text
//!   address ─► session ─► gdbstub ─► target ─► guest ─► machine's Debugger: pause, on_cpu, resume
//!   (socket)   (packets)             (answers)   ├─► registers, state   KVM's registers and GDB's
//!                                                ├─► paging             virtual to physical
//!                                                ├─► patches            INT3 in the guest's memory
//!                                                └─► watch              DR0 to DR7
//! ```
//!
//! One thread serves one client after another. The guest runs undisturbed until one attaches; then
//! all CPUs stop, and only stop and go together or as GDB's scheduler-locking says. A client that
//! detaches, or is gone for whatever reason, leaves nothing behind: breakpoints are taken out of
//! memory and debug registers, and the guest goes on. A crash stops in the debugger first. The end
//! of the run is told: an exit with the code of `ferrite run`, or a signal.
//!
//! Devices do not stop with the CPUs: the drive goes on with what it was asked for.
//!
//! Left out: tracepoints, reverse execution, the guest's own processes as threads.

mod address;
mod client;
mod guest;
mod kind;
mod monitor;
mod paging;
mod patches;
mod registers;
mod session;
mod state;
mod target;
mod watch;

use std::os::fd::OwnedFd;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::{self, JoinHandle};

use gdbstub::common::Signal;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use thiserror::Error;

pub use address::{AddressError, GdbAddress, ListenError};

use crate::machine::{Debugger, MachineError, StopHandle};
use address::Listener;
use client::Client;
use guest::{Guest, Reason};
use session::Left;

/// The debugger's server cannot be started.
#[derive(Debug, Error)]
pub enum GdbError {
    /// Its socket.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The machine's side of it.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// Its thread or its event.
    #[error("the debugger's thread cannot be started")]
    Thread(#[source] std::io::Error),
}

/// How the guest's run ended, for GDB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunEnd {
    /// By its own doing, with this exit code: "exited with code".
    Exited(u8),
    /// It could not go on: SIGABRT.
    Crashed,
    /// It was stopped from outside: SIGTERM.
    Stopped,
    /// Its time was over: SIGALRM.
    TimedOut,
}

/// Serves debuggers until the run has ended.
pub struct GdbServer {
    address: GdbAddress,
    end: SyncSender<RunEnd>,
    /// Readable once `end` has an answer, for a server that waits for clients.
    done: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl GdbServer {
    /// Listens at `address` for debuggers of a machine that has not run yet. With `wait` its CPUs
    /// stand before their first instruction until a debugger lets them go on, or leaves.
    ///
    /// # Errors
    /// When the address cannot be had, or a descriptor or thread.
    pub fn start(
        address: &GdbAddress,
        wait: bool,
        debugger: Debugger,
        stop: StopHandle,
    ) -> Result<Self, GdbError> {
        let (listener, address) = Listener::new(address)?;
        let done =
            eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| GdbError::Thread(error.into()))?;
        let events = debugger.events()?;
        if wait {
            debugger.hold();
        }
        let (end, ended) = mpsc::sync_channel(1);
        let mut server = Server {
            guest: Guest::new(debugger),
            listener,
            events,
            done: done.try_clone().map_err(GdbError::Thread)?,
            ended,
            stop,
        };
        let thread = thread::Builder::new()
            .name("gdb".into())
            .spawn(move || server.run())
            .map_err(GdbError::Thread)?;
        Ok(Self {
            address,
            end,
            done,
            thread: Some(thread),
        })
    }

    /// Where it listens: the port that was taken if any would do.
    #[must_use]
    pub fn address(&self) -> &GdbAddress {
        &self.address
    }

    /// Tells the debugger, if there is one, how the run ended, and ends the server.
    pub fn finish(self, end: RunEnd) {
        let _ = self.end.try_send(end);
    }
}

impl Drop for GdbServer {
    /// Without [`Self::finish`] the guest has never run.
    fn drop(&mut self) {
        let _ = self.end.try_send(RunEnd::Stopped);
        let _ = rustix::io::write(&self.done, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the debugger's thread panicked; its message is above");
        }
    }
}

/// The thread's.
struct Server {
    guest: Guest,
    listener: Listener,
    /// The guest stops by itself, or its run ends.
    events: OwnedFd,
    done: OwnedFd,
    ended: Receiver<RunEnd>,
    stop: StopHandle,
}

impl Server {
    fn run(&mut self) {
        while self.client_comes() {
            let Some(client) = self.listener.accept().and_then(|it| Client::new(it).ok()) else {
                continue;
            };
            if self.guest.attach().is_err() {
                continue; // the end is near, and wakes the wait
            }
            tracing::info!("a debugger has attached");
            let guard = Detach(&mut self.guest);
            let ended = &self.ended;
            let how = || reason(ended.recv().unwrap_or(RunEnd::Stopped));
            let left = session::serve(guard.0, client, &self.events, &how);
            drop(guard);
            match left {
                Left::Detached(why) => {
                    tracing::info!("the debugger has left: {why}")
                }
                Left::Kill => {
                    tracing::info!("the debugger ends the guest");
                    self.stop.stop();
                }
                Left::Ended => return,
            }
        }
    }

    /// Waits for a client: true, or the end: false.
    fn client_comes(&self) -> bool {
        loop {
            let mut fds = [
                PollFd::new(&self.listener, PollFlags::IN),
                PollFd::new(&self.done, PollFlags::IN),
            ];
            if let Err(error) = poll(&mut fds, None)
                && error != rustix::io::Errno::INTR
            {
                return false;
            }
            let [client, done] = fds.map(|fd| !fd.revents().is_empty());
            if done || client {
                return !done;
            }
        }
    }
}

/// Lets the guest go on however a session ends, by a panic too.
struct Detach<'a>(&'a mut Guest);

impl Drop for Detach<'_> {
    fn drop(&mut self) {
        self.0.detach();
    }
}

/// What GDB calls an end.
fn reason(end: RunEnd) -> Reason {
    match end {
        RunEnd::Exited(code) => Reason::Exited(code),
        RunEnd::Crashed => Reason::Terminated(Signal::SIGABRT),
        RunEnd::Stopped => Reason::Terminated(Signal::SIGTERM),
        RunEnd::TimedOut => Reason::Terminated(Signal::SIGALRM),
    }
}
