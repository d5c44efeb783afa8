//! The 16550 at 3F8h, interrupt line 4.

use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use vm_device::DevicePio;
use vm_device::bus::{PioAddress, PioAddressOffset};
use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

/// Where the guest's serial output goes.
pub type SerialSink = Box<dyn Write + Send>;

/// The device on the port bus.
pub(crate) struct SerialPort(Mutex<Serial<Line, NoEvents, SerialSink>>);

/// The interrupt line: an eventfd that KVM turns into an edge.
pub(crate) struct Line(pub(crate) EventFd);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

impl SerialPort {
    pub(crate) fn new(line: Line, sink: SerialSink) -> Self {
        Self(Mutex::new(Serial::new(line, sink)))
    }
}

impl DevicePio for SerialPort {
    fn pio_read(&self, _: PioAddress, offset: PioAddressOffset, data: &mut [u8]) {
        data.fill(u8::MAX);
        if let ([byte], Ok(offset)) = (data, u8::try_from(offset)) {
            *byte = self
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .read(offset);
        }
    }

    fn pio_write(&self, _: PioAddress, offset: PioAddressOffset, data: &[u8]) {
        if let ([byte], Ok(offset)) = (data, u8::try_from(offset)) {
            let mut serial = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // A sink that fails (a closed pipe) must not stop the guest.
            let _ = serial.write(offset, *byte);
        }
    }
}

/// A sink that calls a function for each line, without its end, as the line comes in. What is
/// left without an end comes when the sink is dropped. Bytes that are no UTF-8 become U+FFFD.
pub struct Lines<F: FnMut(&str)> {
    line: Vec<u8>,
    call: F,
}

/// A line is cut after this many bytes, so that a guest cannot fill our memory.
const LONGEST_LINE: usize = 64 * 1024;

impl<F: FnMut(&str)> Lines<F> {
    /// A sink that calls `call`.
    pub fn new(call: F) -> Self {
        Self {
            line: Vec::new(),
            call,
        }
    }

    fn deliver(&mut self) {
        let line = self.line.strip_suffix(b"\r").unwrap_or(&self.line);
        (self.call)(&String::from_utf8_lossy(line));
        self.line.clear();
    }
}

impl<F: FnMut(&str)> Write for Lines<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for &byte in bytes {
            match byte {
                b'\n' => self.deliver(),
                _ => self.line.push(byte),
            }
            if self.line.len() >= LONGEST_LINE {
                self.deliver();
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<F: FnMut(&str)> Drop for Lines<F> {
    fn drop(&mut self) {
        if !self.line.is_empty() {
            self.deliver();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_and_the_rest_at_the_end() {
        let mut seen = Vec::new();
        let mut lines = Lines::new(|line: &str| seen.push(line.to_owned()));
        for part in ["one\r\nt", "wo\n", "\n", "rest"] {
            lines.write_all(part.as_bytes()).expect("never fails");
        }
        drop(lines);
        assert_eq!(seen, ["one", "two", "", "rest"]);
    }
}
