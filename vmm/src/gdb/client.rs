//! The debugger's connection. It is not trusted: what it sends is read in pieces of a fixed size,
//! and what is sent to it has a bound in bytes and in time.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use gdbstub::conn::Connection;

/// Bytes that are gathered before they are sent.
const PIECE: usize = 4096;
/// Most bytes of one reply: more than a packet of memory takes, so that a client which asks for a
/// gigabyte is let go.
const LONGEST_REPLY: usize = 256 * 1024;
/// How long a client may let us wait to take a piece.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a debugger connects by.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A debugger.
#[derive(Debug)]
pub(super) struct Client {
    stream: Stream,
    out: Vec<u8>,
    /// Bytes of this reply that were sent.
    sent: usize,
}

impl Client {
    pub(super) fn new(stream: Stream) -> io::Result<Self> {
        match &stream {
            Stream::Tcp(stream) => stream.set_write_timeout(Some(PATIENCE))?,
            Stream::Unix(stream) => stream.set_write_timeout(Some(PATIENCE))?,
        }
        Ok(Self {
            stream,
            out: Vec::with_capacity(PIECE),
            sent: 0,
        })
    }

    /// Reads what is there. 0 bytes: the client has closed.
    pub(super) fn read(&mut self, data: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = match &mut self.stream {
                Stream::Tcp(stream) => stream.read(data),
                Stream::Unix(stream) => stream.read(data),
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }

    /// Prints on GDB's console, which it does while it waits for the guest to stop ("O" packet).
    pub(super) fn print(&mut self, text: &str) -> io::Result<()> {
        let mut packet = String::from("O");
        for byte in text.bytes() {
            packet += &format!("{byte:02x}");
        }
        let sum = packet.bytes().fold(0_u8, u8::wrapping_add);
        self.write_all(format!("${packet}#{sum:02x}").as_bytes())?;
        self.flush()
    }

    fn send(&mut self) -> io::Result<()> {
        self.sent += self.out.len();
        let sent = match &mut self.stream {
            Stream::Tcp(stream) => Write::write_all(stream, &self.out),
            Stream::Unix(stream) => Write::write_all(stream, &self.out),
        };
        self.out.clear();
        sent
    }
}

impl Connection for Client {
    type Error = io::Error;

    fn write(&mut self, byte: u8) -> io::Result<()> {
        self.write_all(&[byte])
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(PIECE) {
            self.out.extend_from_slice(piece);
            if self.out.len() >= PIECE {
                self.send()?;
            }
        }
        if self.sent > LONGEST_REPLY {
            return Err(io::Error::other("it asks for more than a reply may have"));
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let sent = self.send();
        self.sent = 0;
        sent
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.stream {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Unix(stream) => stream.as_fd(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_has_a_bound_and_the_next_begins_anew() {
        let (ours, theirs) = UnixStream::pair().expect("descriptors");
        let reader = std::thread::spawn(move || io::copy(&mut { theirs }, &mut io::sink()));
        let mut client = Client::new(Stream::Unix(ours)).expect("a socket");
        for _ in 0..3 {
            client
                .write_all(&[b'0'; LONGEST_REPLY])
                .expect("as much as may be");
            client.flush().expect("it reads");
        }
        let text = client
            .write_all(&[b'0'; LONGEST_REPLY + PIECE])
            .map_err(|error| error.to_string());
        assert!(text.expect_err("too much").contains("more than a reply"));
        assert!(client.out.capacity() <= 2 * PIECE);
        drop(client);
        assert!(reader.join().expect("no panic").is_ok());
    }

    #[test]
    fn console_text_is_a_packet() {
        let (ours, mut theirs) = UnixStream::pair().expect("descriptors");
        Client::new(Stream::Unix(ours))
            .expect("a socket")
            .print("hi\n")
            .expect("there is room");
        let mut text = String::new();
        theirs.read_to_string(&mut text).expect("text");
        assert_eq!(text, "$O68690a#bd");
    }
}
