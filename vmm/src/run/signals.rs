//! Signals that end a run in order, and those that stop and continue the process: a terminal that is
//! raw for the guest is given back before.

use std::thread::{self, JoinHandle};

use signal_hook::{
    consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP},
    iterator::{Handle, Signals as Watched},
    low_level::emulate_default_handler,
};

use super::error::LaunchError;
use crate::{console::terminal, machine::StopHandle};

const WATCHED: [i32; 6] = [SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT];

/// While it lives, the first SIGTERM, SIGINT or SIGHUP stops the machine, and the second ends the
/// process; SIGQUIT ends it at once. SIGTSTP stops the process with the terminal as it was before.
pub struct Signals {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Signals {
    /// Watches for them.
    ///
    /// # Errors
    /// When the host refuses a handler or a thread.
    pub fn watch(stop: StopHandle) -> Result<Self, LaunchError> {
        let mut signals = Watched::new(WATCHED).map_err(LaunchError::Signals)?;
        let handle = signals.handle();
        let watch = move || {
            let mut stopping = false;
            for signal in signals.forever() {
                match signal {
                    SIGCONT => terminal::resume(),
                    SIGTSTP | SIGQUIT => {
                        terminal::restore();
                        let _ = emulate_default_handler(signal);
                        terminal::resume();
                    }
                    _ => {
                        if std::mem::replace(&mut stopping, true) {
                            // Whoever asks twice does not want to wait.
                            terminal::restore();
                            let _ = emulate_default_handler(signal);
                        }
                        stop.stop();
                    }
                }
            }
        };
        let thread = thread::Builder::new().name("signals".into()).spawn(watch);
        Ok(Self {
            handle,
            thread: Some(thread.map_err(LaunchError::Signals)?),
        })
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            // It does nothing that panics.
            let _ = thread.join();
        }
    }
}
