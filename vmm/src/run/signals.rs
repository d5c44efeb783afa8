//! SIGTERM and SIGINT end a run in order: the guest is stopped, devices go, files are flushed.

use std::thread::{self, JoinHandle};

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::{Handle, Signals as Watched},
    low_level::emulate_default_handler,
};

use super::error::LaunchError;
use crate::machine::StopHandle;

/// While it lives, the first SIGTERM or SIGINT stops the machine, and the second ends the process.
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
        let mut signals = Watched::new([SIGTERM, SIGINT]).map_err(LaunchError::Signals)?;
        let handle = signals.handle();
        let watch = move || {
            let mut stopping = false;
            for signal in signals.forever() {
                if std::mem::replace(&mut stopping, true) {
                    // Whoever asks twice does not want to wait.
                    let _ = emulate_default_handler(signal);
                }
                stop.stop();
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
