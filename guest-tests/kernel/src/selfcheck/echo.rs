//! Sends back what comes in on the serial port, to try a console with.

use crate::{
    exit::ExitCode,
    port, println,
    serial::{DATA, LINE_STATUS, TRANSMITTER_EMPTY},
};

const DATA_READY: u8 = 1 << 0;
/// End of transmission, Ctrl-D.
const END: u8 = 0x04;

/// Echoes byte for byte up to Ctrl-D, and says how many there were.
pub(super) fn run() -> ExitCode {
    println!("echo");
    let mut count = 0u64;
    loop {
        while port::read8(LINE_STATUS) & DATA_READY == 0 {
            core::hint::spin_loop();
        }
        let byte = port::read8(DATA);
        if byte == END {
            println!("\nechoed {count} bytes");
            return ExitCode::Success;
        }
        while port::read8(LINE_STATUS) & TRANSMITTER_EMPTY == 0 {
            core::hint::spin_loop();
        }
        port::write8(DATA, byte);
        count += 1;
    }
}
