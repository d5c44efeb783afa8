//! Leaving the machine through its debug-exit port.

use crate::port;

/// Where Ferrite's debug exit and QEMU's `isa-debug-exit,iobase=0xf4,iosize=4` listen.
const DEBUG_EXIT: u16 = 0xf4;

/// What is written to the port. The machine's exit code is `value << 1 | 1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// All is well: exit code 33.
    Success = 0x10,
    /// A test failed: exit code 35.
    Failure = 0x11,
    /// A Rust panic: exit code 37.
    Panic = 0x12,
    /// An unexpected CPU exception: exit code 39.
    Fault = 0x13,
    /// An exception while one was being reported, written by `ring0.s`: exit code 41.
    FaultTwice = 0x14,
}

/// Ends the machine.
pub fn exit(code: ExitCode) -> ! {
    write(code as u8)
}

/// Ends the machine with any value; for tests of the port itself.
pub fn write(value: u8) -> ! {
    port::write8(DEBUG_EXIT, value);
    // Without such a port there is nothing left to do; stay where a debugger finds us.
    loop {
        core::hint::spin_loop();
    }
}
