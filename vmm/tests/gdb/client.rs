//! A debugger of a few lines: packets on a Unix socket.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// The client's end of a session. Everything is acknowledged, nothing is repeated.
pub(crate) struct Client {
    stream: UnixStream,
    /// Console text that came along.
    pub(crate) console: String,
}

impl Client {
    pub(crate) fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).expect("the server listens");
        let patience = Some(Duration::from_secs(30));
        stream.set_read_timeout(patience).expect("a socket");
        stream.set_write_timeout(patience).expect("a socket");
        Self {
            stream,
            console: String::new(),
        }
    }

    /// Sends bytes as they are; a server that has hung up is no error.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Sends a packet.
    pub(crate) fn send(&mut self, packet: &str) {
        let sum = packet.bytes().fold(0_u8, u8::wrapping_add);
        self.raw(format!("${packet}#{sum:02x}").as_bytes());
    }

    /// Sends a packet and gives its reply.
    pub(crate) fn ask(&mut self, packet: &str) -> String {
        self.send(packet);
        self.reply().unwrap_or_else(|| panic!("{packet}: hung up"))
    }

    /// The next packet that is no console text; none when the server has hung up.
    pub(crate) fn reply(&mut self) -> Option<String> {
        loop {
            while self.byte()? != b'$' {}
            let mut packet = Vec::new();
            loop {
                match self.byte()? {
                    b'#' => break,
                    byte => packet.push(byte),
                }
            }
            let given = String::from_utf8(vec![self.byte()?, self.byte()?]).expect("digits");
            let sum = packet
                .iter()
                .fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
            assert_eq!(given, format!("{sum:02x}"));
            self.raw(b"+");
            let packet = unpack(&packet);
            match packet.strip_prefix('O') {
                Some(hex) if hex != "K" => self.console += &text(hex),
                _ => return Some(packet),
            }
        }
    }

    fn byte(&mut self) -> Option<u8> {
        let mut byte = [0];
        match self.stream.read(&mut byte) {
            Ok(1) => Some(byte[0]),
            Ok(_) => None,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("no reply: {error}"),
        }
    }

    /// Negotiates as GDB does.
    pub(crate) fn greet(&mut self) {
        let features = self.ask("qSupported:multiprocess+;swbreak+;hwbreak+;vContSupported+");
        for feature in [
            "qXfer:features:read+",
            "swbreak+",
            "hwbreak+",
            "vContSupported+",
        ] {
            assert!(features.contains(feature), "{features}");
        }
        assert_eq!(self.ask("?"), "T05thread:p01.01;");
    }

    /// The value of register number `number` of the current thread.
    pub(crate) fn register(&mut self, number: usize) -> u64 {
        let reply = self.ask(&format!("p{number:x}"));
        bytes(&reply)
            .iter()
            .rev()
            .fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    pub(crate) fn rip(&mut self) -> u64 {
        self.register(16)
    }

    /// What a `monitor` command prints.
    pub(crate) fn monitor(&mut self, command: &str) -> String {
        let hex: String = command.bytes().map(|byte| format!("{byte:02x}")).collect();
        self.console.clear();
        assert_eq!(self.ask(&format!("qRcmd,{hex}")), "OK");
        std::mem::take(&mut self.console)
    }

    /// Lets one CPU step and the others stand.
    pub(crate) fn step(&mut self, thread: usize) -> String {
        self.ask(&format!("vCont;s:p1.{thread:x}"))
    }
}

/// Undoes run-length encoding: `x*n` is x and (n - 29) more.
fn unpack(packet: &[u8]) -> String {
    let mut out = Vec::new();
    let mut bytes = packet.iter().copied();
    while let Some(byte) = bytes.next() {
        match (byte, out.last().copied()) {
            (b'*', Some(last)) => {
                let count = bytes.next().expect("a count") - 29;
                out.extend(std::iter::repeat_n(last, count.into()));
            }
            _ => out.push(byte),
        }
    }
    String::from_utf8(out).expect("text")
}

/// Bytes of a reply in hexadecimal.
pub(crate) fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).expect("text"), 16);
    digits
        .map(|pair| byte(pair).unwrap_or_else(|_| panic!("no bytes: {hex}")))
        .collect()
}

fn text(hex: &str) -> String {
    String::from_utf8(bytes(hex)).expect("text")
}
