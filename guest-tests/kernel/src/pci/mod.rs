//! PCI bus 0: configuration space by ports CF8h/CFCh or, where they are absent, by ECAM; finding
//! functions; giving BARs addresses where no firmware has.

mod function;
mod msix;

pub use function::{Function, PciError};
pub use msix::MsiX;

use crate::acpi::{self, Ecam};
use crate::mmio::Mmio;
use crate::port;

const CONFIG_ADDRESS: u16 = 0xcf8;
const CONFIG_DATA: u16 = 0xcfc;
const ENABLE: u32 = 1 << 31;

/// Class code of an NVM Express I/O controller: mass storage, non-volatile, NVMe.
pub const CLASS_NVME: u32 = 0x01_08_02;

/// Where ECAM is when no ACPI table tells: Ferrite's machine and QEMU's microvm.
const ECAM_FALLBACK: u64 = 0xe000_0000;

/// Addresses for BARs that no firmware has placed: free of memory and devices on all our machines.
const BAR_WINDOW: (u64, u64) = (0xd000_0000, 0xe000_0000);

/// How configuration space is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Ports CF8h and CFCh (PCI Local Bus 3.0, section 3.2.2.3.2): the first 256 bytes.
    Ports,
    /// Memory-mapped (PCI Express Base 5.0, section 7.2.2): 4,096 bytes a function.
    Ecam(Mmio),
}

/// Bus 0.
#[derive(Clone, Copy, Debug)]
pub struct Bus {
    access: Access,
    window: (u64, u64),
}

impl Bus {
    /// Finds out how configuration space is reached; `None` when there is no PCI at all.
    pub(crate) fn find(rsdp: u64) -> Option<Self> {
        let bus = |access| Self {
            access,
            window: BAR_WINDOW,
        };
        port::write32(CONFIG_ADDRESS, ENABLE);
        if port::read32(CONFIG_ADDRESS) == ENABLE {
            return Some(bus(Access::Ports));
        }
        let ecam = acpi::ecam(rsdp).filter(|ecam| ecam.first_bus == 0);
        let ecam = ecam.unwrap_or(Ecam {
            base: ECAM_FALLBACK,
            first_bus: 0,
        });
        if ecam.base >> 32 != 0 {
            return None;
        }
        // SAFETY: configuration space by the firmware's word, or by the layout of our machines.
        let access = Access::Ecam(unsafe { Mmio::new(ecam.base, 1 << 20) });
        access.functions().next().is_some().then(|| bus(access))
    }

    /// How configuration space is reached.
    #[must_use]
    pub fn access(&self) -> Access {
        self.access
    }

    /// Every function of bus 0, lowest device first.
    pub fn functions(&self) -> impl Iterator<Item = Function> + use<> {
        let access = self.access;
        access.functions().map(move |at| Function::new(access, at))
    }

    /// The first function with this class code (class, subclass, interface).
    #[must_use]
    pub fn find_class(&self, class: u32) -> Option<Function> {
        self.functions().find(|function| function.class() == class)
    }

    /// Sizes the function's BARs, places those that have no address, and switches memory decoding
    /// and bus mastering on.
    ///
    /// # Errors
    /// When a BAR is larger than what is left of the window.
    pub fn set_up(&mut self, function: &mut Function) -> Result<(), PciError> {
        function.set_up(&mut self.window)
    }
}

/// A function's place on bus 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Device number, 0 to 31.
    pub device: u8,
    /// Function number, 0 to 7.
    pub function: u8,
}

impl Access {
    /// Reads an aligned dword of configuration space; all ones where there is nothing.
    fn read32(self, place: Place, offset: u16) -> u32 {
        match self {
            Self::Ports => match ports_address(place, offset) {
                Some(address) => {
                    port::write32(CONFIG_ADDRESS, address);
                    port::read32(CONFIG_DATA)
                }
                None => u32::MAX,
            },
            Self::Ecam(window) => match ecam_offset(place, offset) {
                Some(at) => window.read32(at),
                None => u32::MAX,
            },
        }
    }

    /// Writes an aligned dword of configuration space; dropped where there is nothing.
    fn write32(self, place: Place, offset: u16, value: u32) {
        match self {
            Self::Ports => {
                if let Some(address) = ports_address(place, offset) {
                    port::write32(CONFIG_ADDRESS, address);
                    port::write32(CONFIG_DATA, value);
                }
            }
            Self::Ecam(window) => {
                if let Some(at) = ecam_offset(place, offset) {
                    window.write32(at, value);
                }
            }
        }
    }

    fn functions(self) -> impl Iterator<Item = Place> {
        let exists = move |place| self.read32(place, 0) & 0xffff != 0xffff;
        (0..32_u8).flat_map(move |device| {
            let first = Place {
                device,
                function: 0,
            };
            let count = match exists(first) {
                false => 0,
                // Header type, bit 7: more than one function.
                true if self.read32(first, 0x0c) & 0x80_0000 != 0 => 8,
                true => 1,
            };
            (0..count)
                .map(move |function| Place { device, function })
                .filter(move |&place| exists(place))
        })
    }
}

fn ports_address(place: Place, offset: u16) -> Option<u32> {
    (offset < 0x100).then(|| {
        ENABLE
            | u32::from(place.device) << 11
            | u32::from(place.function) << 8
            | u32::from(offset & !3)
    })
}

fn ecam_offset(place: Place, offset: u16) -> Option<u64> {
    (offset < 0x1000).then(|| {
        u64::from(place.device) << 15 | u64::from(place.function) << 12 | u64::from(offset & !3)
    })
}
