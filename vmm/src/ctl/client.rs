//! The side of who asks.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use thiserror::Error;

use super::protocol::{MAX_RESPONSE, Request, VERSION};

/// How long an answer may take: it is made of what is there.
const PATIENCE: Duration = Duration::from_secs(10);

/// There is no answer.
#[derive(Debug, Error)]
pub enum CtlError {
    /// Nobody is there.
    #[error("{}: {hint}", .path.display())]
    Connect {
        /// Where.
        path: PathBuf,
        /// What would be right.
        hint: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The connection broke.
    #[error("{}: no answer came", .path.display())]
    Broken {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What came is no answer.
    #[error("{}: this is no Ferrite of protocol version {VERSION}: {what}", .path.display())]
    Foreign {
        /// Where.
        path: PathBuf,
        /// What came.
        what: String,
    },
    /// The request was refused.
    #[error("{message} ({code})")]
    Refused {
        /// The error's code.
        code: String,
        /// The error in words.
        message: String,
    },
}

/// Asks a machine: the answer's `ok` member.
///
/// # Errors
/// [`CtlError`].
pub fn ask(path: &Path, request: &Request) -> Result<Value, CtlError> {
    let broken = |source| CtlError::Broken {
        path: path.to_path_buf(),
        source,
    };
    let mut stream = UnixStream::connect(path).map_err(|source| CtlError::Connect {
        path: path.to_path_buf(),
        hint: match source.kind() {
            io::ErrorKind::NotFound => "nothing is there; give the path of `ferrite run --control`",
            io::ErrorKind::ConnectionRefused => "nobody listens there any more; its run has ended",
            io::ErrorKind::PermissionDenied => "only the user who started the run may connect",
            _ => "this cannot be connected to; give the path of `ferrite run --control`",
        },
        source,
    })?;
    let send = |stream: &mut UnixStream| {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all((request.line() + "\n").as_bytes())
    };
    send(&mut stream).map_err(broken)?;
    let mut line = String::new();
    let mut reader = BufReader::new(stream.take(MAX_RESPONSE as u64));
    reader.read_line(&mut line).map_err(broken)?;
    if line.is_empty() {
        return Err(broken(io::ErrorKind::UnexpectedEof.into()));
    }
    read(&line).ok_or_else(|| CtlError::Foreign {
        path: path.to_path_buf(),
        what: line.chars().take(80).collect(),
    })?
}

/// Reads an answer; `None` if it is none.
fn read(line: &str) -> Option<Result<Value, CtlError>> {
    let mut answer: Value = serde_json::from_str(line).ok()?;
    if answer.get("version")?.as_u64()? != VERSION {
        return None;
    }
    if let Some(ok) = answer.get_mut("ok") {
        return Some(Ok(ok.take()));
    }
    let text = |name: &str| Some(answer.get("error")?.get(name)?.as_str()?.to_string());
    Some(Err(CtlError::Refused {
        code: text("code")?,
        message: text("message")?,
    }))
}
