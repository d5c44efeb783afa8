//! Where a configuration access goes: bus, device and function, and the register within.

use std::fmt;

use crate::header::EXTENDED_SIZE;

/// Devices a bus can have (PCI 3.0, 3.2.2.3.1: 5 bits).
pub const DEVICES_PER_BUS: u8 = 32;
/// Functions a device can have (3 bits).
pub const FUNCTIONS_PER_DEVICE: u8 = 8;
/// Bytes of ECAM that one bus takes (PCIe, 7.2.2).
pub const ECAM_BUS_SIZE: u64 = 1 << ECAM_BUS_SHIFT;

/// ECAM address bits 27:20 are the bus number (PCIe, 7.2.2, table 7-1).
const ECAM_BUS_SHIFT: u32 = 20;
/// ECAM address bits 19:15 are the device number.
const ECAM_DEVICE_SHIFT: u32 = 15;
/// ECAM address bits 14:12 are the function number; bits 11:0 are the register.
const ECAM_FUNCTION_SHIFT: u32 = 12;

/// CONFIG_ADDRESS bit 31: CONFIG_DATA accesses become configuration accesses
/// (PCI 3.0, 3.2.2.3.2).
const CONFIG_ADDRESS_ENABLE: u32 = 1 << 31;
/// CONFIG_ADDRESS bits 7:2 are the register; bits 1:0 read 0.
const CONFIG_ADDRESS_REGISTER: u32 = 0xFC;
/// The bits of CONFIG_ADDRESS that exist; 30:24 are reserved and read 0.
const CONFIG_ADDRESS_WRITABLE: u32 = 0x80FF_FF00 | CONFIG_ADDRESS_REGISTER;

/// Bus, device and function number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bdf {
    bus: u8,
    device: u8,
    function: u8,
}

impl Bdf {
    /// Function `function` (0 to 7) of device `device` (0 to 31); `None` when out of range.
    #[must_use]
    pub const fn new(bus: u8, device: u8, function: u8) -> Option<Self> {
        if device < DEVICES_PER_BUS && function < FUNCTIONS_PER_DEVICE {
            Some(Self {
                bus,
                device,
                function,
            })
        } else {
            None
        }
    }

    /// Function 0 of a device on bus 0. Only the low five bits of `device` count.
    #[must_use]
    pub const fn on_bus_0(device: u8) -> Self {
        Self {
            bus: 0,
            device: device % DEVICES_PER_BUS,
            function: 0,
        }
    }

    /// Bus number.
    #[must_use]
    pub const fn bus(self) -> u8 {
        self.bus
    }

    /// Device number, 0 to 31.
    #[must_use]
    pub const fn device(self) -> u8 {
        self.device
    }

    /// Function number, 0 to 7.
    #[must_use]
    pub const fn function(self) -> u8 {
        self.function
    }

    /// The offset in ECAM of the function's 4 KiB (PCIe, 7.2.2).
    #[must_use]
    pub const fn ecam_offset(self) -> u64 {
        (self.bus as u64) << ECAM_BUS_SHIFT
            | (self.device as u64) << ECAM_DEVICE_SHIFT
            | (self.function as u64) << ECAM_FUNCTION_SHIFT
    }

    /// The CONFIG_ADDRESS value (port CF8h) that selects dword `register` of this function
    /// (PCI 3.0, 3.2.2.3.2); only bits 7:2 of `register` count.
    #[must_use]
    pub const fn config_address(self, register: u8) -> u32 {
        CONFIG_ADDRESS_ENABLE
            | (self.bus as u32) << 16
            | (self.device as u32) << 11
            | (self.function as u32) << 8
            | (register as u32 & CONFIG_ADDRESS_REGISTER)
    }
}

impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}:{:02x}.{}", self.bus, self.device, self.function)
    }
}

impl fmt::Debug for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Splits an ECAM offset into function and register (0 to 4,095), `None` past bus 255.
pub(crate) fn decode_ecam(offset: u64) -> Option<(Bdf, u16)> {
    let bus = u8::try_from(offset >> ECAM_BUS_SHIFT).ok()?;
    let device = low_byte(offset >> ECAM_DEVICE_SHIFT) % DEVICES_PER_BUS;
    let function = low_byte(offset >> ECAM_FUNCTION_SHIFT) % FUNCTIONS_PER_DEVICE;
    let register = u16::try_from(offset % EXTENDED_SIZE as u64).ok()?;
    Some((Bdf::new(bus, device, function)?, register))
}

/// The CONFIG_ADDRESS register (PCI 3.0, 3.2.2.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConfigAddress(u32);

impl ConfigAddress {
    /// What the register holds after `value` is written: reserved bits stay 0.
    pub(crate) const fn latch(value: u32) -> Self {
        Self(value & CONFIG_ADDRESS_WRITABLE)
    }

    /// What the register reads.
    pub(crate) const fn bits(self) -> u32 {
        self.0
    }

    /// The selected function and dword, or `None` when the enable bit is clear.
    pub(crate) fn target(self) -> Option<(Bdf, u16)> {
        if self.0 & CONFIG_ADDRESS_ENABLE == 0 {
            return None;
        }
        let [register, devfn, bus, _] = self.0.to_le_bytes();
        let bdf = Bdf::new(
            bus,
            devfn / FUNCTIONS_PER_DEVICE,
            devfn % FUNCTIONS_PER_DEVICE,
        )?;
        Some((bdf, u16::from(register)))
    }
}

const fn low_byte(value: u64) -> u8 {
    value.to_le_bytes()[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ecam_and_config_address_select_the_same_function() {
        for (bus, device, function) in [(0, 0, 0), (0, 31, 7), (255, 1, 0), (3, 17, 5)] {
            let bdf = Bdf::new(bus, device, function).unwrap();
            assert_eq!(decode_ecam(bdf.ecam_offset() + 0x45), Some((bdf, 0x45)));
            let latch = ConfigAddress::latch(bdf.config_address(0x47));
            assert_eq!(latch.target(), Some((bdf, 0x44)));
        }
    }

    #[test]
    fn reserved_bits_of_config_address_stay_zero() {
        assert_eq!(ConfigAddress::latch(u32::MAX).bits(), 0x80FF_FFFC);
        assert_eq!(ConfigAddress::latch(0x7FFF_FFFF).target(), None);
    }

    #[test]
    fn an_ecam_offset_past_bus_255_selects_nothing() {
        assert_eq!(decode_ecam(256 * ECAM_BUS_SIZE), None);
        assert_eq!(decode_ecam(u64::MAX), None);
    }

    #[test]
    fn numbers_out_of_range_make_no_address() {
        assert_eq!(Bdf::new(0, 32, 0), None);
        assert_eq!(Bdf::new(0, 0, 8), None);
        assert_eq!(Bdf::new(0, 3, 0).unwrap().to_string(), "00:03.0");
    }
}
