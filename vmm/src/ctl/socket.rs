//! The socket: who may connect, and that nobody who does can hold anything up.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd, poll},
    fd::OwnedFd,
    fs::{Mode, fchmod},
    io::Errno,
    net::{
        AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind,
        connect, listen, send, socket_with,
    },
};
use thiserror::Error;

use super::{
    answer::Subjects,
    protocol::{Conversation, MAX_REQUEST, reply},
};

/// Clients at a time; one more takes the place of the one that has been silent for longest.
const CLIENTS: usize = 16;

/// The socket cannot be had.
#[derive(Debug, Error)]
pub enum SocketError {
    /// Something else is there.
    #[error("--control {}: {what}; {hint}", .path.display())]
    Taken {
        /// Where.
        path: PathBuf,
        /// What.
        what: &'static str,
        /// What would be right.
        hint: &'static str,
    },
    /// The host refuses it.
    #[error("--control {}: a socket cannot be made there", .path.display())]
    Host {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A socket that answers, until it is dropped; its file goes with it.
pub struct ControlSocket {
    path: PathBuf,
    /// Device and inode of the file: another that has come to be there stays.
    file: (u64, u64),
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl ControlSocket {
    /// Makes a socket that its owner alone can use (mode 0600), and answers on it from a thread of
    /// its own. A socket that a process left behind which is no more is replaced.
    ///
    /// # Errors
    /// [`SocketError`], with the path.
    pub fn start(path: &Path, subjects: Subjects) -> Result<Self, SocketError> {
        let host = |source: io::Error| SocketError::Host {
            path: path.to_path_buf(),
            source,
        };
        let address = SocketAddrUnix::new(path).map_err(|error| host(error.into()))?;
        make_way(path, &address)?;
        let new = || -> io::Result<(OwnedFd, OwnedFd)> {
            let listener = socket()?;
            // The file has the socket's mode, from the start.
            fchmod(&listener, Mode::RUSR | Mode::WUSR)?;
            bind(&listener, &address)?;
            let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            Ok((listener, stop))
        };
        let (listener, stop) = new().map_err(host)?;
        let metadata = fs::symlink_metadata(path).map_err(host)?;
        let mut socket = Self {
            path: path.to_path_buf(),
            file: (metadata.dev(), metadata.ino()),
            stop,
            thread: None,
        };
        let serve = || -> io::Result<JoinHandle<()>> {
            listen(&listener, 16)?;
            let stop = socket.stop.try_clone()?;
            let server = Server {
                listener,
                stop,
                subjects,
                clients: Vec::with_capacity(CLIENTS),
            };
            let thread = thread::Builder::new().name("control".into());
            thread.spawn(move || server.run())
        };
        socket.thread = Some(serve().map_err(host)?);
        Ok(socket)
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let is_ours = |metadata: fs::Metadata| (metadata.dev(), metadata.ino()) == self.file;
        if fs::symlink_metadata(&self.path).is_ok_and(is_ours) {
            // It may be gone already.
            let _ = fs::remove_file(&self.path);
        }
        // The counter is never full.
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // A defect of its own ends nobody else.
            let _ = thread.join();
        }
    }
}

fn socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

/// Sees to it that nothing is at a path but what a dead process has left.
fn make_way(path: &Path, address: &SocketAddrUnix) -> Result<(), SocketError> {
    let taken = |what, hint| SocketError::Taken {
        path: path.to_path_buf(),
        what,
        hint,
    };
    let host = |source: io::Error| SocketError::Host {
        path: path.to_path_buf(),
        source,
    };
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(host(error)),
        Ok(metadata) => metadata,
    };
    if !metadata.file_type().is_socket() {
        let hint = "give a path where nothing is, or where a socket was left";
        return Err(taken("something is there that is no socket", hint));
    }
    let probe = socket().map_err(|error| host(error.into()))?;
    match connect(&probe, address) {
        // Nobody listens there any more.
        Err(Errno::CONNREFUSED) => fs::remove_file(path).map_err(host),
        Err(Errno::NOENT) => Ok(()),
        // A full queue of connections is of somebody who listens.
        Ok(()) | Err(Errno::AGAIN) => Err(taken(
            "another process answers there",
            "give another path, or end that process (`ferrite ctl PATH quit`)",
        )),
        Err(error) => Err(host(error.into())),
    }
}

/// The thread's.
struct Server {
    listener: OwnedFd,
    stop: OwnedFd,
    subjects: Subjects,
    /// The one that has been silent for longest first.
    clients: Vec<Client>,
}

/// Whoever has connected.
struct Client {
    socket: OwnedFd,
    conversation: Conversation,
    /// What it has not taken yet. While there is something, nothing more is read of it.
    answer: Vec<u8>,
    /// How much of that it has taken.
    sent: usize,
    /// It has said all that it will.
    ended: bool,
}

impl Server {
    fn run(mut self) {
        loop {
            let wants = |client: &Client| match client.answer.is_empty() {
                true => PollFlags::IN,
                false => PollFlags::OUT,
            };
            let own = [
                PollFd::new(&self.stop, PollFlags::IN),
                PollFd::new(&self.listener, PollFlags::IN),
            ];
            let clients = self.clients.iter();
            let clients = clients.map(|client| PollFd::new(&client.socket, wants(client)));
            let mut fds: Vec<PollFd<'_>> = own.into_iter().chain(clients).collect();
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "the control socket does not answer any more");
                    return;
                }
            }
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            let [stop, arrived, ready @ ..] = &ready[..] else {
                return;
            };
            if *stop {
                self.say_farewell();
                return;
            }
            let (mut silent, mut heard) = (Vec::with_capacity(CLIENTS), Vec::new());
            for (mut client, ready) in std::mem::take(&mut self.clients).into_iter().zip(ready) {
                match ready {
                    false => silent.push(client),
                    true if client.goes_on(&self.subjects) => heard.push(client),
                    true => {}
                }
            }
            silent.append(&mut heard);
            self.clients = silent;
            if *arrived && !self.accept() {
                tracing::error!("no descriptors are left for the control socket");
                return;
            }
        }
    }

    /// What is answered already still goes out, as far as it goes at once.
    fn say_farewell(&mut self) {
        for client in &mut self.clients {
            let _ = client.send();
        }
    }

    /// Takes in who has connected; `false`: nobody can be taken in any more.
    fn accept(&mut self) -> bool {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = match accept_with(&self.listener, flags) {
            Ok(socket) => socket,
            // Who has gone again.
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return true,
            // No descriptor left: it may have one of ours.
            Err(_) => return self.clients.pop().is_some(),
        };
        if self.clients.len() >= CLIENTS {
            self.clients.remove(0);
        }
        self.clients.push(Client {
            socket,
            conversation: Conversation::default(),
            answer: Vec::new(),
            sent: 0,
            ended: false,
        });
        true
    }
}

impl Client {
    /// Takes in what there is, answers one request, and sends what can be sent; whether there may be
    /// more.
    fn goes_on(&mut self, subjects: &Subjects) -> bool {
        if self.answer.is_empty() && !self.ended {
            let mut bytes = [0; MAX_REQUEST];
            match rustix::io::read(&self.socket, &mut bytes) {
                Ok(0) => self.ended = true,
                Ok(count) => self
                    .conversation
                    .give(bytes.get(..count).unwrap_or_default()),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        while self.send() {
            let Some(request) = self.conversation.next() else {
                return !self.ended;
            };
            let answer = request.and_then(|request| subjects.answer(request));
            self.answer = reply(&answer).into_bytes();
        }
        !self.answer.is_empty()
    }

    /// Sends what is to be sent; whether nothing of it is left. A client that has gone leaves
    /// something, and nothing to be sent.
    fn send(&mut self) -> bool {
        while let Some(rest) = self.answer.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match send(&self.socket, rest, SendFlags::NOSIGNAL) {
                Ok(count) => self.sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return false,
                Err(_) => {
                    self.answer = Vec::new();
                    self.ended = true;
                    return false;
                }
            }
        }
        (self.answer, self.sent) = (Vec::new(), 0);
        true
    }
}
