//! QEMU's qtest protocol: a line a request, a line an answer.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// A connection to a QEMU started with `-qtest`.
pub(crate) struct Qtest {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Qtest {
    pub(crate) fn connect(socket: &Path) -> std::io::Result<Self> {
        let writer = UnixStream::connect(socket)?;
        Ok(Self {
            reader: BufReader::new(writer.try_clone()?),
            writer,
        })
    }

    /// Sends a request and returns what follows `OK`.
    fn ask(&mut self, request: &str) -> String {
        self.writer
            .write_all(format!("{request}\n").as_bytes())
            .expect("QEMU takes requests");
        loop {
            let mut line = String::new();
            let read = self.reader.read_line(&mut line).expect("QEMU answers");
            assert!(read != 0, "QEMU went away at: {request}");
            if let Some(answer) = line.trim_end().strip_prefix("OK") {
                return answer.trim_start().to_string();
            }
            assert!(!line.starts_with("FAIL"), "{request}: {line}");
        }
    }

    fn number(&mut self, request: &str) -> u64 {
        let answer = self.ask(request);
        let digits = answer.trim_start_matches("0x");
        u64::from_str_radix(digits, 16).expect("a number")
    }

    /// A port write of 4 bytes.
    pub(crate) fn outl(&mut self, port: u16, value: u32) {
        self.ask(&format!("outl {port:#x} {value:#x}"));
    }

    /// A port read of 4 bytes.
    pub(crate) fn inl(&mut self, port: u16) -> u32 {
        u32::try_from(self.number(&format!("inl {port:#x}"))).expect("32 bits")
    }

    /// A memory read of 1, 2, 4 or 8 bytes.
    pub(crate) fn read(&mut self, address: u64, bytes: usize) -> u64 {
        let width = width(bytes);
        self.number(&format!("read{width} {address:#x}"))
    }

    /// A memory write of 1, 2, 4 or 8 bytes.
    pub(crate) fn write(&mut self, address: u64, bytes: usize, value: u64) {
        let width = width(bytes);
        self.ask(&format!("write{width} {address:#x} {value:#x}"));
    }
}

fn width(bytes: usize) -> char {
    match bytes {
        1 => 'b',
        2 => 'w',
        4 => 'l',
        _ => 'q',
    }
}
