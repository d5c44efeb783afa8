//! The ways a guest switches the machine off or resets it: ACPI's PM1 registers, the reset control
//! register at CF9h, the keyboard controller's reset, and port 92h.

use std::sync::{Arc, Mutex, PoisonError};

use vm_device::DevicePio;
use vm_device::bus::{PioAddress, PioAddressOffset};

use super::control::{Control, GuestExit};

/// SLP_TYP of S5 (`\_S5_` in the DSDT says so), and its place in PM1's control register.
pub(crate) const OFF: u8 = 5;
const SLP_TYP_SHIFT: u16 = 10;
const SLP_TYP: u16 = 7 << SLP_TYP_SHIFT;
/// Go to sleep now; always reads 0.
const SLP_EN: u16 = 1 << 13;
/// ACPI is on: always, as there is no other mode to switch from (SMI_CMD is 0).
const SCI_EN: u16 = 1;
/// What the control register keeps: BM_RLD and SLP_TYP.
const KEPT: u16 = 1 << 1 | SLP_TYP;
/// What the enable register keeps: every event that a PC has, and none ever happens here.
const ENABLES: u16 = 0x4721;

/// Number of ports of PM1: status and enable of its events, and its control (ACPI 6.5, 4.8.3).
pub(crate) const PM1_PORTS: u16 = 6;

/// ACPI's PM1a event and control registers.
pub(crate) struct Pm1 {
    control: Arc<Control>,
    registers: Mutex<Registers>,
}

#[derive(Clone, Copy, Default)]
struct Registers {
    enable: u16,
    control: u16,
}

impl Registers {
    /// Status, which has nothing to tell, enable, control.
    fn bytes(self) -> [u8; 6] {
        let [e0, e1] = self.enable.to_le_bytes();
        let [c0, c1] = (self.control | SCI_EN).to_le_bytes();
        [0, 0, e0, e1, c0, c1]
    }
}

impl Pm1 {
    pub(crate) fn new(control: Arc<Control>) -> Self {
        Self {
            control,
            registers: Mutex::default(),
        }
    }
}

impl DevicePio for Pm1 {
    fn pio_read(&self, _: PioAddress, offset: PioAddressOffset, data: &mut [u8]) {
        data.fill(u8::MAX);
        let registers = *self
            .registers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let bytes = registers.bytes().into_iter().skip(offset.into());
        data.iter_mut().zip(bytes).for_each(|(to, byte)| *to = byte);
    }

    fn pio_write(&self, _: PioAddress, offset: PioAddressOffset, data: &[u8]) {
        let mut registers = self
            .registers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut bytes = registers.bytes();
        let written = bytes.iter_mut().skip(offset.into());
        written.zip(data).for_each(|(to, byte)| *to = *byte);
        let [_, _, e0, e1, c0, c1] = bytes;
        let control = u16::from_le_bytes([c0, c1]);
        registers.enable = u16::from_le_bytes([e0, e1]) & ENABLES;
        registers.control = control & KEPT;
        if control & SLP_EN != 0 && (control & SLP_TYP) >> SLP_TYP_SHIFT == u16::from(OFF) {
            self.control.end(Ok(GuestExit::PowerOff));
        }
    }
}

/// The reset control register (CF9h), as Intel's south bridges have it.
pub(crate) struct ResetControl(pub(crate) Arc<Control>);

impl ResetControl {
    /// Bit 2 makes the reset happen; bit 1 says which kind.
    const NOW: u8 = 1 << 2;

    pub(crate) fn write(&self, value: u8) {
        if value & Self::NOW != 0 {
            self.0.end(Ok(GuestExit::Reset));
        }
    }
}

/// One port of a keyboard controller that has no keyboard: nothing to read, nothing to wait for.
pub(crate) enum Keyboard {
    /// Port 60h.
    Data,
    /// Port 64h, which takes the reset.
    Command(Arc<Control>),
}

impl Keyboard {
    /// "Pulse output lines": bits 3:0 say which are not pulsed, and line 0 is the CPU's reset.
    const PULSE: u8 = 0xf0;
}

impl DevicePio for Keyboard {
    fn pio_read(&self, _: PioAddress, _: PioAddressOffset, data: &mut [u8]) {
        data.fill(0);
    }

    fn pio_write(&self, _: PioAddress, _: PioAddressOffset, data: &[u8]) {
        if let (Self::Command(control), [command]) = (self, data)
            && command & Self::PULSE == Self::PULSE
            && command & 1 == 0
        {
            control.end(Ok(GuestExit::Reset));
        }
    }
}

/// System control port A: bit 0 resets, bit 1 opens A20, which is open.
pub(crate) struct Port92(pub(crate) Arc<Control>);

impl DevicePio for Port92 {
    fn pio_read(&self, _: PioAddress, _: PioAddressOffset, data: &mut [u8]) {
        data.fill(0b10);
    }

    fn pio_write(&self, _: PioAddress, _: PioAddressOffset, data: &[u8]) {
        if let [value] = data
            && value & 1 != 0
        {
            self.0.end(Ok(GuestExit::Reset));
        }
    }
}

/// A port whose writes mean nothing (80h: firmware's progress, and Linux's short waits).
pub(crate) struct Ignored;

impl DevicePio for Ignored {
    fn pio_read(&self, _: PioAddress, _: PioAddressOffset, data: &mut [u8]) {
        data.fill(u8::MAX);
    }

    fn pio_write(&self, _: PioAddress, _: PioAddressOffset, _: &[u8]) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: PioAddress = PioAddress(0);

    fn end(control: &Control) -> Option<GuestExit> {
        control
            .stopping()
            .then(|| control.take().expect("no error"))
    }

    #[test]
    fn only_s5_with_its_enable_switches_off() {
        for (words, off) in [
            (&[0x1400_u16][..], false),
            (&[0x2000], false),
            (&[0x3000], false),
            (&[0x1400, 0x3400], true),
            (&[0x3401], true),
        ] {
            let control = Arc::new(Control::default());
            let pm1 = Pm1::new(Arc::clone(&control));
            for word in words {
                pm1.pio_write(BASE, 4, &word.to_le_bytes());
            }
            assert_eq!(
                end(&control),
                off.then_some(GuestExit::PowerOff),
                "{words:x?}"
            );
        }
    }

    #[test]
    fn pm1_is_in_acpi_mode_without_events_and_keeps_what_is_enabled() {
        let control = Arc::new(Control::default());
        let pm1 = Pm1::new(Arc::clone(&control));
        pm1.pio_write(BASE, 0, &[0xff; 4]);
        // By bytes: SLP_TYP, then what is no sleep.
        pm1.pio_write(BASE, 5, &[0x14]);
        let mut all = [0; 8];
        pm1.pio_read(BASE, 0, &mut all);
        assert_eq!(all, [0, 0, 0x21, 0x47, 0x01, 0x14, 0xff, 0xff]);
        pm1.pio_write(BASE, 0xffff, &[1, 2]);
        assert_eq!(end(&control), None);
    }

    #[test]
    fn resets_are_what_a_pc_takes_for_one() {
        let reset = Some(GuestExit::Reset);
        for (value, ends) in [(0x02, None), (0x06, reset), (0x04, reset), (0x0e, reset)] {
            let control = Arc::new(Control::default());
            ResetControl(Arc::clone(&control)).write(value);
            assert_eq!(end(&control), ends, "CF9h {value:#x}");
        }
        for (command, ends) in [(0xfe, reset), (0xf0, reset), (0xff, None), (0xd1, None)] {
            let control = Arc::new(Control::default());
            Keyboard::Data.pio_write(BASE, 0, &[command]);
            Keyboard::Command(Arc::clone(&control)).pio_write(BASE, 0, &[command]);
            assert_eq!(end(&control), ends, "64h {command:#x}");
        }
        for (value, ends) in [(0x02, None), (0x03, reset)] {
            let control = Arc::new(Control::default());
            Port92(Arc::clone(&control)).pio_write(BASE, 0, &[value]);
            assert_eq!(end(&control), ends, "92h {value:#x}");
        }
    }
}
