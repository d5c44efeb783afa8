//! Where a debugger reaches us: an address of this host, or a Unix socket.

use std::fmt;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use thiserror::Error;

use super::client::Stream;

/// The argument of `--gdb`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GdbAddress {
    /// A TCP port; port 0 takes a free one.
    Tcp(SocketAddr),
    /// A path: what has a slash.
    Unix(PathBuf),
}

/// A wrong argument of `--gdb`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{0:?} is neither HOST:PORT nor a path: `:1234` is port 1234 of 127.0.0.1, `./gdb.sock` a \
     Unix socket (a path has a slash)"
)]
pub struct AddressError(String);

/// The debugger's socket cannot be made.
#[derive(Debug, Error)]
#[error("--gdb {address}")]
pub struct ListenError {
    address: GdbAddress,
    source: io::Error,
}

impl FromStr for GdbAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let fail = || AddressError(text.to_owned());
        if text.contains('/') {
            return Ok(Self::Unix(text.into()));
        }
        let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
        let port: u16 = port.parse().map_err(|_| fail())?;
        if host.is_empty() {
            return Ok(Self::Tcp((Ipv4Addr::LOCALHOST, port).into()));
        }
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let mut addresses = (host, port).to_socket_addrs().map_err(|_| fail())?;
        addresses.next().map(Self::Tcp).ok_or_else(fail)
    }
}

impl fmt::Display for GdbAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(out),
            Self::Unix(path) => path.display().fmt(out),
        }
    }
}

/// A socket that debuggers connect to; a Unix socket's path goes with it.
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// Listens, and says where: with the port that was free.
    pub(super) fn new(address: &GdbAddress) -> Result<(Self, GdbAddress), ListenError> {
        Self::open(address).map_err(|source| ListenError {
            address: address.clone(),
            source,
        })
    }

    fn open(address: &GdbAddress) -> io::Result<(Self, GdbAddress)> {
        let opened = match address {
            GdbAddress::Tcp(address) => {
                let listener = TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                let bound = listener.local_addr()?;
                (Self::Tcp(listener), GdbAddress::Tcp(bound))
            }
            GdbAddress::Unix(path) => {
                let listener = bind_private(path)?;
                listener.set_nonblocking(true)?;
                (Self::Unix(listener, path.clone()), address.clone())
            }
        };
        Ok(opened)
    }

    /// The next debugger; none if it is gone already.
    pub(super) fn accept(&self) -> Option<Stream> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().ok()?;
                // Many small packets, each of which is waited for.
                let _ = stream.set_nodelay(true);
                Some(Stream::Tcp(stream))
            }
            Self::Unix(listener, _) => listener
                .accept()
                .ok()
                .map(|(stream, _)| Stream::Unix(stream)),
        }
    }
}

/// A Unix socket that its owner alone may connect to, from its first moment on: it is made in a
/// folder that nobody else can enter, and moved out of it.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    match fs::symlink_metadata(path) {
        // One that nobody listens to any more is in nobody's way.
        Ok(found) if found.file_type().is_socket() && UnixStream::connect(path).is_err() => {
            fs::remove_file(path)?;
        }
        Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
        Err(_) => {}
    }
    let mut folder = path.as_os_str().to_owned();
    folder.push(format!(".{}", std::process::id()));
    let folder = PathBuf::from(folder);
    let mut builder = fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(&folder)?;
    let inside = folder.join("s");
    let bound = UnixListener::bind(&inside).and_then(|listener| {
        fs::set_permissions(&inside, fs::Permissions::from_mode(0o600))?;
        // Unlike a rename this does not replace what has come to be there.
        fs::hard_link(&inside, path)?;
        Ok(listener)
    });
    let _ = fs::remove_file(&inside);
    let _ = fs::remove_dir(&folder);
    bound
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener, _) => listener.as_fd(),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_this_one_unless_named() {
        let parse = |text: &str| {
            text.parse::<GdbAddress>()
                .map(|address| address.to_string())
        };
        assert_eq!(parse("1234").as_deref(), Ok("127.0.0.1:1234"));
        assert_eq!(parse(":1234").as_deref(), Ok("127.0.0.1:1234"));
        assert_eq!(parse("0.0.0.0:1").as_deref(), Ok("0.0.0.0:1"));
        assert_eq!(parse("[::1]:5").as_deref(), Ok("[::1]:5"));
        assert_eq!(parse("./a:1").as_deref(), Ok("./a:1"));
        for wrong in ["", "gdb", "host:", ":70000", "127.0.0.1:x"] {
            let text = parse(wrong).expect_err("refused");
            assert!(text.to_string().contains("`:1234`"), "{text}");
        }
    }

    #[test]
    fn a_unix_socket_is_its_owners_alone_and_goes_with_the_listener() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("gdb");
        let address = GdbAddress::Unix(path.clone());
        let (listener, _) = Listener::new(&address).expect("free");
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(Listener::new(&address).is_err(), "in use");
        UnixStream::connect(&path).expect("reachable");
        drop(listener);
        assert_eq!(fs::read_dir(folder.path()).expect("there").count(), 0);
        // What a killed process left.
        drop(UnixListener::bind(&path).expect("free"));
        assert!(Listener::new(&address).is_ok());
        fs::write(&path, "a file").expect("free");
        assert!(Listener::new(&address).is_err(), "somebody's file");
    }
}
