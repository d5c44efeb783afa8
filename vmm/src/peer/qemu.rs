//! Which QEMU there is.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::Duration,
};

use thiserror::Error;

use super::process;
use crate::options::OptionError;

/// The program, unless another is named.
const PROGRAM: &str = "qemu-system-x86_64";
/// How long it may take to say its version.
const PATIENCE: Duration = Duration::from_secs(30);

/// A version of QEMU.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct QemuVersion {
    /// The major number.
    pub major: u32,
    /// The minor number.
    pub minor: u32,
    /// The number of the stable release.
    pub micro: u32,
}

/// The oldest that is known to do: the first whose nvme device was compared.
const LEAST: QemuVersion = QemuVersion {
    major: 7,
    minor: 2,
    micro: 0,
};

impl QemuVersion {
    /// Major and minor number, which tell what the device can do.
    #[must_use]
    pub const fn release(self) -> (u32, u32) {
        (self.major, self.minor)
    }

    /// Reads what `--version` says: `QEMU emulator version 7.2.22 (...)`.
    fn of(said: &str) -> Option<Self> {
        let text = said.strip_prefix("QEMU emulator version ")?;
        let text = text.split_whitespace().next()?;
        let mut numbers = text.split('.').map(|number| number.parse().ok());
        Some(Self {
            major: numbers.next()??,
            minor: numbers.next()??,
            micro: numbers.next().flatten().unwrap_or(0),
        })
    }
}

impl fmt::Display for QemuVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            major,
            minor,
            micro,
        } = self;
        write!(f, "{major}.{minor}.{micro}")
    }
}

/// A QEMU that there is.
#[derive(Clone, Debug)]
pub struct Qemu {
    /// What is run.
    pub program: PathBuf,
    /// Its version.
    pub version: QemuVersion,
}

/// QEMU cannot be run.
#[derive(Debug, Error)]
pub enum QemuError {
    /// It is not there.
    #[error(
        "{} is not there; install it (Debian: qemu-system-x86), or name another with --qemu PATH or FERRITE_QEMU",
        .0.display()
    )]
    Missing(PathBuf),
    /// It cannot be started.
    #[error("{} cannot be run", program.display())]
    Start {
        /// What was to be run.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is another program.
    #[error("{} does not say that it is QEMU; --version says: {said}", program.display())]
    NotQemu {
        /// What was run.
        program: PathBuf,
        /// The first line it said.
        said: String,
    },
    /// It is too old.
    #[error("{} is QEMU {version}; it has to be {LEAST} or later", program.display())]
    TooOld {
        /// What was run.
        program: PathBuf,
        /// Its version.
        version: QemuVersion,
    },
    /// It ended before the guest said anything.
    #[error(
        "QEMU ended ({status}) before the guest said anything: {stderr}\nit was run as: {command}"
    )]
    Died {
        /// How it ended.
        status: ExitStatus,
        /// What it complained of.
        stderr: String,
        /// The command line.
        command: String,
    },
    /// Its nvme device cannot be what was asked for.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// Memory for its drives.
    #[error("memory for QEMU's drives")]
    Drive(#[source] io::Error),
}

impl Qemu {
    /// Asks `program` for its version; without one FERRITE_QEMU, or `qemu-system-x86_64`.
    ///
    /// # Errors
    /// When it is not there, is no QEMU, or is too old.
    pub fn find(program: Option<&Path>) -> Result<Self, QemuError> {
        let program: PathBuf = match program {
            Some(program) => program.into(),
            None => std::env::var_os("FERRITE_QEMU")
                .filter(|name| !name.is_empty())
                .unwrap_or_else(|| PROGRAM.into())
                .into(),
        };
        let mut said = Vec::new();
        let mut command = Command::new(&program);
        let ended = process::run(command.arg("--version"), PATIENCE, |line| {
            if said.len() < 8 {
                said.push(line.to_owned());
            }
        });
        match ended {
            Err(source) if source.kind() == io::ErrorKind::NotFound => {
                return Err(QemuError::Missing(program));
            }
            Err(source) => return Err(QemuError::Start { program, source }),
            Ok(_) => {}
        }
        match said.iter().find_map(|line| QemuVersion::of(line)) {
            None => Err(QemuError::NotQemu {
                program,
                said: said.into_iter().next().unwrap_or_default(),
            }),
            Some(version) if version < LEAST => Err(QemuError::TooOld { program, version }),
            Some(version) => Ok(Self { program, version }),
        }
    }

    /// Whether an error of [`Self::find`] says that there is none.
    #[must_use]
    pub const fn is_missing(error: &QemuError) -> bool {
        matches!(error, QemuError::Missing(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        for (said, version) in [
            (
                "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)",
                Some((7, 2, 22)),
            ),
            ("QEMU emulator version 10.0.2", Some((10, 0, 2))),
            ("QEMU emulator version 9.1.50 (v9.1.0-1)", Some((9, 1, 50))),
            ("QEMU emulator version 12.0", Some((12, 0, 0))),
            ("qemu-img version 7.2.22", None),
            ("QEMU emulator version next", None),
            ("", None),
        ] {
            let read = QemuVersion::of(said).map(|v| (v.major, v.minor, v.micro));
            assert_eq!(read, version, "{said}");
        }
    }

    #[test]
    fn what_is_no_qemu_is_refused_by_name() {
        let error = |program: &str| Qemu::find(Some(Path::new(program))).expect_err(program);
        let missing = error("no-such-qemu");
        assert!(Qemu::is_missing(&missing));
        for word in ["no-such-qemu", "qemu-system-x86", "--qemu"] {
            assert!(missing.to_string().contains(word), "{missing}");
        }
        let other = error("sh");
        assert!(matches!(other, QemuError::NotQemu { .. }), "{other}");
    }
}
