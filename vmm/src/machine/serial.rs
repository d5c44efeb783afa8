//! The 16550 at 3F8h, interrupt line 4.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use vm_device::DevicePio;
use vm_device::bus::{PioAddress, PioAddressOffset};
use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

/// Where the guest's serial output goes.
pub type SerialSink = Box<dyn Write + Send>;

/// The device on the port bus.
pub(crate) struct SerialPort(Arc<Mutex<Uart>>);

/// The host's end of the serial line: what is pushed here the guest receives. It does not keep the
/// port.
#[derive(Clone)]
pub struct SerialInput(Weak<Mutex<Uart>>);

/// Called when there is room for input again: by a CPU's thread, so it must not wait.
type OnRoom = Box<dyn Fn() + Send>;

/// Bytes that wait in front of the receive FIFO.
const WAITING: usize = 4096;
/// Bytes of the receive FIFO.
const FIFO: usize = 64;
/// A guest without receive interrupts that looks at the line status so often, and sends nothing
/// meanwhile, polls for input.
const POLLS: u32 = 32;

/// Offsets of registers, and bits in them.
mod register {
    pub(super) const DATA: u8 = 0;
    pub(super) const INTERRUPT_ENABLE: u8 = 1;
    pub(super) const LINE_CONTROL: u8 = 3;
    pub(super) const LINE_STATUS: u8 = 5;
    pub(super) const DLAB: u8 = 1 << 7;
    pub(super) const RECEIVED_DATA: u8 = 1 << 0;
}
use register as r;

/// The UART, and what it does not do by itself.
///
/// Input waits until the guest listens: until it has switched receive interrupts on, or polls. A
/// driver that probes the port or opens it reads bytes away, and what was typed or piped before
/// would be lost. As long as bytes are in the FIFO the guest is told so by its registers; the
/// line, an edge to KVM, is raised again with each byte that it leaves there.
struct Uart {
    serial: Serial<Line, NoEvents, SerialSink>,
    waiting: VecDeque<u8>,
    on_room: Option<OnRoom>,
    /// Input was refused for want of room.
    refused: bool,
    interrupt_enable: u8,
    line_control: u8,
    /// Looks at the line status since the guest sent something.
    polls: u32,
}

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
        Self(Arc::new(Mutex::new(Uart {
            serial: Serial::new(line, sink),
            waiting: VecDeque::with_capacity(WAITING),
            on_room: None,
            refused: false,
            interrupt_enable: 0,
            line_control: 0,
            polls: 0,
        })))
    }

    /// The host's end.
    pub(crate) fn input(&self) -> SerialInput {
        SerialInput(Arc::downgrade(&self.0))
    }
}

impl SerialInput {
    /// Gives the guest as many of these bytes, from the first on, as there is room for; how many.
    /// If these are not all, what [`on_room`](Self::on_room) was given is called later.
    /// Nobody misses what comes after the port has gone: all of it is taken.
    #[must_use]
    pub fn push(&self, bytes: &[u8]) -> usize {
        let Some(uart) = self.0.upgrade() else {
            return bytes.len();
        };
        let mut uart = lock(&uart);
        let count = bytes.len().min(WAITING - uart.waiting.len().min(WAITING));
        uart.waiting.extend(bytes.iter().take(count));
        uart.refused |= count < bytes.len();
        uart.refill();
        count
    }

    /// Says what is called when there is room again.
    pub fn on_room(&self, call: impl Fn() + Send + 'static) {
        if let Some(uart) = self.0.upgrade() {
            lock(&uart).on_room = Some(Box::new(call));
        }
    }
}

impl Uart {
    fn read(&mut self, offset: u8) -> u8 {
        let byte = self.serial.read(offset);
        match offset {
            r::DATA if !self.latch() => {
                self.refill();
                if self.serial.fifo_capacity() < FIFO {
                    // The device forgets with a byte that others are left; this has it look again.
                    let _ = self
                        .serial
                        .write(r::INTERRUPT_ENABLE, self.interrupt_enable);
                }
            }
            r::LINE_STATUS => {
                self.polls = self.polls.saturating_add(1);
                if self.polls == POLLS {
                    self.refill();
                }
            }
            _ => {}
        }
        byte
    }

    fn write(&mut self, offset: u8, value: u8) {
        match offset {
            r::DATA => self.polls = 0,
            r::INTERRUPT_ENABLE if !self.latch() => self.interrupt_enable = value,
            r::LINE_CONTROL => self.line_control = value,
            _ => {}
        }
        // A sink that fails (a closed pipe) must not stop the guest.
        let _ = self.serial.write(offset, value);
        // It may listen now, or have left its loop.
        self.refill();
    }

    /// Whether the first two registers are the divisor's.
    const fn latch(&self) -> bool {
        self.line_control & r::DLAB != 0
    }

    /// Fills an empty FIFO with what waits, if the guest listens.
    fn refill(&mut self) {
        let listens = self.interrupt_enable & r::RECEIVED_DATA != 0 || self.polls >= POLLS;
        if !listens || self.waiting.is_empty() || self.serial.fifo_capacity() < FIFO {
            return;
        }
        let mut bytes = [0; FIFO];
        let count = self.waiting.len().min(FIFO);
        for (place, byte) in bytes.iter_mut().zip(&self.waiting) {
            *place = *byte;
        }
        // Nothing is taken in loop mode; an interrupt that cannot be raised is KVM's end.
        let bytes = bytes.get(..count).unwrap_or_default();
        let taken = self.serial.enqueue_raw_bytes(bytes).unwrap_or(count);
        self.waiting.drain(..taken.min(count));
        if self.refused && self.waiting.len() <= WAITING / 2 {
            self.refused = false;
            if let Some(on_room) = &self.on_room {
                on_room();
            }
        }
    }
}

/// No access panics half way.
fn lock(uart: &Mutex<Uart>) -> MutexGuard<'_, Uart> {
    uart.lock().unwrap_or_else(PoisonError::into_inner)
}

impl DevicePio for SerialPort {
    fn pio_read(&self, _: PioAddress, offset: PioAddressOffset, data: &mut [u8]) {
        data.fill(u8::MAX);
        if let ([byte], Ok(offset)) = (data, u8::try_from(offset)) {
            *byte = lock(&self.0).read(offset);
        }
    }

    fn pio_write(&self, _: PioAddress, offset: PioAddressOffset, data: &[u8]) {
        if let ([byte], Ok(offset)) = (data, u8::try_from(offset)) {
            lock(&self.0).write(offset, *byte);
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

/// A guest that drives the port, for tests.
#[cfg(test)]
pub(crate) mod guest {
    use super::*;

    /// The port with its line.
    pub(crate) struct Guest {
        pub(crate) port: SerialPort,
        pub(crate) line: EventFd,
    }

    impl Guest {
        pub(crate) fn new(sink: SerialSink) -> Self {
            let line = EventFd::new(libc::EFD_NONBLOCK).expect("an eventfd");
            let other = line.try_clone().expect("an eventfd");
            let port = SerialPort::new(Line(other), sink);
            Self { port, line }
        }

        pub(crate) fn input(&self) -> SerialInput {
            self.port.input()
        }

        pub(crate) fn read(&self, offset: PioAddressOffset) -> u8 {
            let mut byte = [0];
            self.port.pio_read(PioAddress(0x3f8), offset, &mut byte);
            byte[0]
        }

        pub(crate) fn write(&self, offset: PioAddressOffset, byte: u8) {
            self.port.pio_write(PioAddress(0x3f8), offset, &[byte]);
        }

        pub(crate) fn print(&mut self, bytes: &[u8]) {
            bytes.iter().for_each(|&byte| self.write(0, byte));
        }

        /// Receives `count` bytes by interrupts.
        pub(crate) fn receive(&mut self, count: usize) -> Vec<u8> {
            self.write(1, 1);
            let mut bytes = Vec::new();
            while bytes.len() < count {
                while self.line.read().is_err() {
                    std::thread::yield_now();
                }
                while bytes.len() < count && self.read(2) & 1 == 0 {
                    while bytes.len() < count && self.read(5) & 1 != 0 {
                        bytes.push(self.read(0));
                    }
                }
            }
            bytes
        }
    }
}

#[cfg(test)]
mod tests {
    use super::guest::Guest;
    use super::*;

    /// A guest, and the host's end of its port.
    fn port() -> (Guest, SerialInput) {
        let guest = Guest::new(Box::new(io::sink()));
        let input = guest.input();
        (guest, input)
    }

    /// Takes the line's edge, if there is one.
    fn edge(line: &EventFd) -> bool {
        line.read().is_ok()
    }

    const DATA_READY: u8 = 1;

    /// As an interrupt handler does that looks at the cause until there is none, and then reads no
    /// more than `most` bytes each time that the line says something.
    fn received(guest: &Guest, most: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while edge(&guest.line) {
            while guest.read(2) & 1 == 0 {
                let before = bytes.len();
                while bytes.len() - before < most && guest.read(5) & DATA_READY != 0 {
                    bytes.push(guest.read(0));
                }
            }
        }
        bytes
    }

    #[test]
    fn what_is_pasted_arrives_whole_however_little_is_read_at_a_time() {
        for most in [1, 7, 16, 64, 256, 1000] {
            let (guest, input) = port();
            guest.write(1, 1);
            let pasted: Vec<u8> = (0..251u8).cycle().take(65536).collect();
            let room = Arc::new(Mutex::new(0));
            let told = Arc::clone(&room);
            input.on_room(move || *told.lock().expect("no panic") += 1);
            let (mut sent, mut bytes) = (0, Vec::new());
            while sent < pasted.len() {
                let count = input.push(&pasted[sent..]);
                assert!(count > 0, "{most}: stuck at {sent}");
                sent += count;
                bytes.extend(received(&guest, most));
            }
            assert!(bytes == pasted, "{most}: {} bytes", bytes.len());
            assert!(*room.lock().expect("no panic") > 10, "told of room");
        }
    }

    /// A driver that reads one byte an interrupt, and the cause once.
    #[test]
    fn a_byte_that_is_left_raises_the_line_again() {
        let (guest, input) = port();
        guest.write(1, 1);
        assert_eq!(input.push(b"abc"), 3);
        let mut bytes = Vec::new();
        while edge(&guest.line) {
            if guest.read(2) & 0xf == 4 {
                bytes.push(guest.read(0));
            }
        }
        assert_eq!(bytes, b"abc");
    }

    #[test]
    fn input_waits_until_the_guest_listens() {
        let (guest, input) = port();
        assert_eq!(input.push(b"early"), 5);
        // What Linux does to find the port out, and to open it.
        guest.write(2, 7);
        guest.write(4, 0x10);
        for offset in [0, 5, 0, 2, 6, 0] {
            let _ = guest.read(offset);
        }
        assert!(!edge(&guest.line));
        guest.write(1, 1);
        assert!(!edge(&guest.line), "it is in its loop");
        guest.write(4, 0x0b);
        assert_eq!(received(&guest, 64), b"early");
        // Closed, and opened again.
        guest.write(1, 0);
        assert_eq!(input.push(b"late"), 4);
        let _ = guest.read(0);
        guest.write(1, 1);
        assert_eq!(received(&guest, 64), b"late");
    }

    #[test]
    fn a_guest_that_polls_is_heard_and_one_that_prints_is_not_taken_for_it() {
        let (guest, input) = port();
        assert_eq!(input.push(b"x"), 1);
        for _ in 0..1000 {
            assert_eq!(guest.read(5) & DATA_READY, 0);
            guest.write(0, b'.');
        }
        let polls = (0..POLLS + 1).filter(|_| guest.read(5) & DATA_READY != 0);
        assert!(polls.count() > 0);
        assert_eq!(guest.read(0), b'x');
    }

    #[test]
    fn input_beyond_the_room_is_refused_by_count() {
        let (_guest, input) = port();
        assert_eq!(input.push(&[0; WAITING - 1]), WAITING - 1);
        assert_eq!(input.push(b"ab"), 1);
        assert_eq!(input.push(b"b"), 0);
    }

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
