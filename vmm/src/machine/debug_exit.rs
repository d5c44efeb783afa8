//! The port at which a guest ends its machine, as QEMU's isa-debug-exit.

use std::sync::Arc;

use vm_device::DevicePio;
use vm_device::bus::{PioAddress, PioAddressOffset};

use super::control::{Control, GuestExit};

/// Number of ports.
pub(crate) const PORTS: u16 = 4;

/// A write of `value` (1, 2 or 4 bytes) ends the run with (value << 1) | 1; reads give zeros.
pub(crate) struct DebugExit(pub(crate) Arc<Control>);

impl DevicePio for DebugExit {
    fn pio_read(&self, _: PioAddress, _: PioAddressOffset, data: &mut [u8]) {
        data.fill(0);
    }

    fn pio_write(&self, _: PioAddress, _: PioAddressOffset, data: &[u8]) {
        let value = data
            .iter()
            .rev()
            .fold(0_u32, |value, &byte| value << 8 | u32::from(byte));
        self.0.end(Ok(GuestExit::Code(value << 1 | 1)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_qemus() {
        for (data, code) in [(&[0_u8][..], 1), (&[0x10], 33), (&[0x34, 0x12], 0x2469)] {
            let control = Arc::new(Control::default());
            DebugExit(Arc::clone(&control)).pio_write(PioAddress(0xf4), 0, data);
            assert_eq!(control.take().expect("no error"), GuestExit::Code(code));
        }
    }
}
