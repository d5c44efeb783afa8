//! Output on the first 16550 (port 3F8h).

use core::fmt;

use crate::port;

pub(crate) const DATA: u16 = 0x3f8;
pub(crate) const LINE_STATUS: u16 = DATA + 5;
pub(crate) const TRANSMITTER_EMPTY: u8 = 1 << 5;
/// Depth of the transmit FIFO: one look at the line status allows so many bytes.
const FIFO: usize = 16;

/// The port as a [`fmt::Write`]; used through [`print!`](crate::print) and
/// [`println!`](crate::println).
pub struct Serial;

impl fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for chunk in text.as_bytes().chunks(FIFO) {
            while port::read8(LINE_STATUS) & TRANSMITTER_EMPTY == 0 {
                core::hint::spin_loop();
            }
            for &byte in chunk {
                port::write8(DATA, byte);
            }
        }
        Ok(())
    }
}

/// Formats into a line first where it fits: one status poll per 16 bytes instead of one per
/// formatting fragment.
pub fn print(arguments: fmt::Arguments<'_>) {
    let mut line = Line {
        bytes: [0; 256],
        used: 0,
    };
    // Neither `Line` nor `Serial` fails; a Display that does has said what it could.
    let _ = fmt::write(&mut line, arguments);
    line.flush();
}

struct Line {
    bytes: [u8; 256],
    used: usize,
}

impl Line {
    fn flush(&mut self) {
        let used = core::mem::take(&mut self.used);
        let text = self
            .bytes
            .get(..used)
            .and_then(|bytes| core::str::from_utf8(bytes).ok());
        let _ = fmt::Write::write_str(&mut Serial, text.unwrap_or_default());
    }
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.used + text.len() > self.bytes.len() {
            self.flush();
        }
        match self.bytes.get_mut(self.used..self.used + text.len()) {
            Some(place) => {
                place.copy_from_slice(text.as_bytes());
                self.used += text.len();
                Ok(())
            }
            None => Serial.write_str(text),
        }
    }
}

/// Sets up the port: 8N1, FIFO on, interrupts off. Nothing any of our machines insists on, but
/// what a real 16550 would want.
pub(crate) fn init() {
    port::write8(DATA + 1, 0);
    port::write8(DATA + 2, 0x07);
    port::write8(DATA + 3, 0x03);
}

/// Prints to the serial port.
#[macro_export]
macro_rules! print {
    ($($argument:tt)*) => { $crate::serial::print(::core::format_args!($($argument)*)) };
}

/// Prints a line to the serial port.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($argument:tt)*) => {
        $crate::serial::print(::core::format_args!("{}\n", ::core::format_args!($($argument)*)))
    };
}
