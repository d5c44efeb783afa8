//! How a run ends, and the exit code that tells of it.

use std::{error::Error, fmt};

use crate::{
    gdb::RunEnd,
    machine::{GuestExit, RunError},
};

/// How a run ended. Even exit codes are ours, odd ones the guest's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// The guest switched the machine off.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// The guest wrote to the debug exit: its exit code's low byte is ours.
    Exit(u32),
    /// The guest could not go on: why, and where it was.
    Crashed(String),
    /// It was stopped from outside.
    Stopped,
    /// Its time was over.
    TimedOut,
    /// Ferrite itself failed.
    Failed(String),
}

impl End {
    /// The process's exit code.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::PowerOff => 0,
            Self::Reset => 4,
            Self::Crashed(_) => 6,
            Self::Stopped => 8,
            Self::Failed(_) => 10,
            Self::TimedOut => 124,
            Self::Exit(code) => code.to_le_bytes()[0],
        }
    }

    /// Whether the guest or Ferrite could not go on.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Crashed(_) | Self::Failed(_))
    }
}

impl From<GuestExit> for End {
    fn from(exit: GuestExit) -> Self {
        match exit {
            GuestExit::PowerOff => Self::PowerOff,
            GuestExit::Reset => Self::Reset,
            GuestExit::Code(code) => Self::Exit(code),
            GuestExit::Stopped => Self::Stopped,
            GuestExit::TimedOut => Self::TimedOut,
        }
    }
}

impl From<RunError> for End {
    fn from(error: RunError) -> Self {
        let panicked = matches!(error, RunError::Panicked(_));
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            text = format!("{text}: {error}");
            source = error.source();
        }
        match panicked {
            true => Self::Failed(text),
            false => Self::Crashed(text),
        }
    }
}

impl From<&End> for RunEnd {
    fn from(end: &End) -> Self {
        match end {
            End::Crashed(_) | End::Failed(_) => Self::Crashed,
            End::Stopped => Self::Stopped,
            End::TimedOut => Self::TimedOut,
            guests => Self::Exited(guests.exit_code()),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff => write!(out, "the guest switched the machine off"),
            Self::Reset => write!(out, "the guest asked for a reset"),
            Self::Exit(code) => write!(out, "the guest ended with code {}", code & 0xff),
            Self::Crashed(why) => write!(out, "the guest crashed: {why}"),
            Self::Stopped => write!(out, "the guest was stopped"),
            Self::TimedOut => write!(out, "the guest's time is over (--timeout)"),
            Self::Failed(why) => write!(out, "{why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::CpuState;

    #[test]
    fn guests_codes_are_odd_and_ours_even() {
        let of_guest = |exit: GuestExit| End::from(exit).exit_code();
        assert_eq!(of_guest(GuestExit::Code(0x10 << 1 | 1)), 33);
        assert_eq!(of_guest(GuestExit::Code(0x1234 << 1 | 1)), 0x69);
        assert_eq!(of_guest(GuestExit::PowerOff), 0);
        assert_eq!(of_guest(GuestExit::Reset), 4);
        assert_eq!(of_guest(GuestExit::Stopped), 8);
        assert_eq!(of_guest(GuestExit::TimedOut), 124);
        let fault = RunError::TripleFault(Box::<CpuState>::default());
        assert_eq!(End::from(fault).exit_code(), 6);
        assert_eq!(End::from(RunError::Panicked(3)).exit_code(), 10);
    }
}
