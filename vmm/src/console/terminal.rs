//! The process's terminal, raw while a guest has it.
//!
//! There is one, whatever thread ends the process, so its state is a static: a panic's hook and the
//! thread that waits for signals restore it too.

use std::{
    io, panic,
    sync::{Mutex, MutexGuard, Once, PoisonError},
};

use rustix::{
    process::getpgrp,
    stdio::stdin,
    termios::{OptionalActions, OutputModes, Termios, tcgetattr, tcgetpgrp, tcsetattr},
};

/// How the terminal was before, while a [`Raw`] lives.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// While it lives the terminal on standard input is raw, but for what is suspended.
pub(super) struct Raw(());

impl Raw {
    /// Makes it raw, now or when this process comes to the foreground.
    pub(super) fn enter() -> io::Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let previous = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                // Before the message: raw, it would come out as stairs.
                restore();
                previous(info);
            }));
        });
        *lock() = Some(tcgetattr(stdin())?);
        resume();
        Ok(Self(()))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
        *lock() = None;
    }
}

/// Whether this process may read the terminal and set it up: one in the background is stopped for
/// either. Without job control there is no background.
pub(super) fn in_foreground() -> bool {
    tcgetpgrp(stdin()).map_or(true, |group| group == getpgrp())
}

/// Gives the terminal back as it was, if it is raw: before the process ends or stops.
pub fn restore() {
    if let Some(before) = &*lock()
        && in_foreground()
    {
        // Whoever has gone with the terminal misses nothing.
        let _ = tcsetattr(stdin(), OptionalActions::Now, before);
    }
}

/// Makes the terminal raw again, if it is to be: after the process was stopped.
pub fn resume() {
    if let Some(before) = &*lock()
        && in_foreground()
    {
        let mut raw = before.clone();
        raw.make_raw();
        // A guest's console sends its own carriage returns; our messages have none.
        raw.output_modes = before.output_modes | OutputModes::OPOST;
        let _ = tcsetattr(stdin(), OptionalActions::Now, &raw);
    }
}

fn lock() -> MutexGuard<'static, Option<Termios>> {
    BEFORE.lock().unwrap_or_else(PoisonError::into_inner)
}
