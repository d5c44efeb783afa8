//! Building a [`ConfigSpace`]: the register tables and the rules a description must keep.

use thiserror::Error;

use crate::bar::{Bar, BarWidth, Bars};
use crate::capability::power::ControlStatus;
use crate::capability::{self, express, msix, power};
use crate::config::{Capabilities, ConfigSpace, bar_offset};
use crate::header::{self, Command, Identity, Status};
use crate::msix::MsixLayout;
use crate::registers::{Register, RegisterFile};

/// A description that no function can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The vendor ID reads as an absent or unready function.
    #[error("vendor ID {0:#06x} means an absent function; use one from 0x0002 to 0xfffe")]
    VendorId(u16),
    /// No such BAR, or the upper half of a 64-bit BAR would be past the last.
    #[error("BAR {0} does not fit into a type 0 header, which has BARs 0 to 5")]
    BarIndex(u8),
    /// Two BARs want the same register.
    #[error("BAR {0} is taken already, perhaps by the upper half of a 64-bit BAR below it")]
    BarTaken(u8),
    /// The size cannot be expressed.
    #[error("BAR {bar} has {size:#x} bytes; a power of two from 16 to {limit:#x} would do")]
    BarSize {
        /// BAR index.
        bar: u8,
        /// Bytes asked for.
        size: u64,
        /// The largest size of its width.
        limit: u64,
    },
    /// The number of MSI-X vectors is out of range.
    #[error("{0} MSI-X vectors; 1 to 2048 would do")]
    MsixVectors(u16),
    /// The MSI-X table or PBA is misaligned or does not lie within its BAR.
    #[error(
        "the MSI-X {part} at {offset:#x} with {size:#x} bytes must be a multiple of 8 and lie \
         within BAR {bar}"
    )]
    MsixPlace {
        /// "table" or "PBA".
        part: &'static str,
        /// BAR index asked for.
        bar: u8,
        /// Byte offset asked for.
        offset: u32,
        /// Bytes it takes.
        size: u64,
    },
    /// The MSI-X table and PBA share bytes of one BAR.
    #[error("the MSI-X table and PBA overlap in BAR {0}")]
    MsixOverlap(u8),
}

/// Which INTx# pin the function uses (PCI 3.0, 6.2.4). A single-function device uses INTA#.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InterruptPin {
    /// No INTx#.
    #[default]
    None,
    /// INTA#.
    A,
}

/// What the function says it is to PCI Express (PCIe, 7.5.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortType {
    /// An endpoint behind a link. What a vfio-user client expects, which plugs the function
    /// wherever it likes.
    Endpoint,
    /// A root complex integrated endpoint: it sits on the root bus and has no link. The
    /// truth for a function on [`Bus`](crate::Bus), which has no root port.
    IntegratedEndpoint,
}

/// The PCI Express capability to build, version 2 (PCIe, 7.5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Express {
    port: PortType,
    function_level_reset: bool,
}

impl Express {
    /// A capability without function level reset.
    #[must_use]
    pub const fn new(port: PortType) -> Self {
        Self {
            port,
            function_level_reset: false,
        }
    }

    /// Advertises function level reset. Only for a function that really resets when a write
    /// answers [`Effects::FUNCTION_LEVEL_RESET`](crate::Effects::FUNCTION_LEVEL_RESET).
    #[must_use]
    pub const fn with_function_level_reset(self) -> Self {
        Self {
            function_level_reset: true,
            ..self
        }
    }
}

/// Describes a function's configuration space.
#[derive(Clone, Debug)]
#[must_use]
pub struct ConfigBuilder {
    identity: Identity,
    bars: Vec<(u8, Bar)>,
    power_management: bool,
    msix: Option<MsixLayout>,
    express: Option<Express>,
    pin: InterruptPin,
}

impl ConfigBuilder {
    pub(crate) const fn new(identity: Identity) -> Self {
        Self {
            identity,
            bars: Vec::new(),
            power_management: false,
            msix: None,
            express: None,
            pin: InterruptPin::None,
        }
    }

    /// Adds BAR `index` (0 to 5). A 64-bit BAR takes `index + 1` too.
    pub fn bar(mut self, index: u8, bar: Bar) -> Self {
        self.bars.push((index, bar));
        self
    }

    /// Adds the power management capability: D0 and D3hot, no PME, no soft reset on the way
    /// back to D0 (PCI PM 1.2, 3.2).
    pub const fn power_management(mut self) -> Self {
        self.power_management = true;
        self
    }

    /// Adds the MSI-X capability (PCI 3.0, 6.8.2).
    pub const fn msix(mut self, layout: MsixLayout) -> Self {
        self.msix = Some(layout);
        self
    }

    /// Adds the PCI Express capability (PCIe, 7.5.3).
    pub const fn express(mut self, express: Express) -> Self {
        self.express = Some(express);
        self
    }

    /// Gives the function an INTx# pin; the default is none.
    pub const fn interrupt_pin(mut self, pin: InterruptPin) -> Self {
        self.pin = pin;
        self
    }

    /// Checks the description and makes the configuration space, in its state after reset.
    ///
    /// # Errors
    ///
    /// The first rule of [`ConfigError`] that it breaks.
    pub fn build(self) -> Result<ConfigSpace, ConfigError> {
        if matches!(self.identity.vendor, 0x0000 | 0x0001 | 0xFFFF) {
            return Err(ConfigError::VendorId(self.identity.vendor));
        }
        let bars = place_bars(&self.bars)?;
        if let Some(layout) = &self.msix {
            layout.check(&bars)?;
        }

        let mut registers = RegisterFile::empty();
        registers.define(header_table(&self.identity, self.pin));
        for (index, bar) in &self.bars {
            registers.define(bar_table(*index, *bar));
        }

        let mut list = CapabilityList::new(&mut registers);
        let capabilities = Capabilities {
            power: self
                .power_management
                .then(|| list.add(capability::ID_POWER_MANAGEMENT, power::SIZE, power_table())),
            msix: self
                .msix
                .map(|layout| list.add(capability::ID_MSIX, msix::SIZE, msix_table(&layout))),
            express: self
                .express
                .map(|e| list.add(capability::ID_EXPRESS, express::SIZE, express_table(e))),
        };
        Ok(ConfigSpace {
            registers,
            bars,
            capabilities,
            msix_layout: self.msix,
        })
    }
}

/// Sorts BARs to their indices; checks indices and sizes.
fn place_bars(wanted: &[(u8, Bar)]) -> Result<Bars, ConfigError> {
    let mut bars = Bars::default();
    let mut taken = [false; header::BAR_COUNT as usize];
    for &(index, bar) in wanted {
        let limit = match bar.width {
            BarWidth::Bits32 => 1 << 31,
            BarWidth::Bits64 => 1 << 63,
        };
        if !bar.size.is_power_of_two() || !(header::BAR_MINIMUM_SIZE..=limit).contains(&bar.size) {
            return Err(ConfigError::BarSize {
                bar: index,
                size: bar.size,
                limit,
            });
        }
        for half in (index..).take(bar.registers().into()) {
            let slot = taken
                .get_mut(usize::from(half))
                .ok_or(ConfigError::BarIndex(index))?;
            if std::mem::replace(slot, true) {
                return Err(ConfigError::BarTaken(index));
            }
        }
        let slot = bars
            .get_mut(usize::from(index))
            .ok_or(ConfigError::BarIndex(index))?;
        *slot = Some(bar);
    }
    Ok(bars)
}

/// The header without its BARs (PCI 3.0, 6.1).
fn header_table(identity: &Identity, pin: InterruptPin) -> [Register; 12] {
    let pin = match pin {
        InterruptPin::None => 0,
        InterruptPin::A => 1,
    };
    let class = u32::from_le_bytes([
        identity.revision,
        identity.class.interface,
        identity.class.sub,
        identity.class.base,
    ]);
    [
        Register::word(header::VENDOR_ID, identity.vendor, 0),
        Register::word(header::DEVICE_ID, identity.device, 0),
        Register::word(header::COMMAND, 0, Command::WRITABLE.bits()),
        Register::word(header::STATUS, 0, 0),
        Register::dword(header::REVISION_ID, class, 0),
        Register::byte(header::CACHE_LINE_SIZE, 0, u8::MAX),
        Register::byte(header::HEADER_TYPE, 0, 0),
        Register::word(header::SUBSYSTEM_VENDOR_ID, identity.subsystem_vendor, 0),
        Register::word(header::SUBSYSTEM_ID, identity.subsystem, 0),
        Register::byte(header::CAPABILITIES_POINTER, 0, 0),
        Register::byte(header::INTERRUPT_LINE, 0, u8::MAX),
        Register::byte(header::INTERRUPT_PIN, pin, 0),
    ]
}

fn bar_table(index: u8, bar: Bar) -> impl Iterator<Item = Register> {
    let (low, high) = bar.writable_halves();
    let low = Register::dword(bar_offset(index), bar.type_bits(), low);
    let high = Register::dword(bar_offset(index.saturating_add(1)), 0, high);
    [low, high].into_iter().take(bar.registers().into())
}

fn power_table() -> Vec<Register> {
    vec![
        Register::word(power::CAPABILITIES, power::VERSION_1_2, 0),
        Register::word(
            power::CONTROL_STATUS,
            ControlStatus::NO_SOFT_RESET.bits(),
            ControlStatus::POWER_STATE.bits(),
        ),
    ]
}

fn msix_table(layout: &MsixLayout) -> Vec<Register> {
    use msix::MessageControl;
    let writable = MessageControl::ENABLE | MessageControl::FUNCTION_MASK;
    vec![
        Register::word(
            msix::MESSAGE_CONTROL,
            layout.vectors.saturating_sub(1),
            writable.bits(),
        ),
        Register::dword(
            msix::TABLE,
            layout.table_offset | u32::from(layout.table_bar),
            0,
        ),
        Register::dword(msix::PBA, layout.pba_offset | u32::from(layout.pba_bar), 0),
    ]
}

fn express_table(express: Express) -> Vec<Register> {
    use express::{DeviceControl, LinkControl};
    let port_type: u16 = match express.port {
        PortType::Endpoint => 0b0000,
        PortType::IntegratedEndpoint => 0b1001,
    };
    let mut capabilities = express::ROLE_BASED_ERROR_REPORTING;
    let mut control = DeviceControl::all().difference(DeviceControl::INITIATE_FLR);
    if express.function_level_reset {
        capabilities |= express::FUNCTION_LEVEL_RESET;
        control |= DeviceControl::INITIATE_FLR;
    }
    let control_reset = DeviceControl::RELAXED_ORDERING
        | DeviceControl::NO_SNOOP
        | DeviceControl::MAX_READ_REQUEST_512;
    let mut table = vec![
        Register::word(
            express::CAPABILITIES,
            express::VERSION_2 | port_type << express::PORT_TYPE_SHIFT,
            0,
        ),
        Register::dword(express::DEVICE_CAPABILITIES, capabilities, 0),
        Register::word(
            express::DEVICE_CONTROL,
            control_reset.bits(),
            control.bits(),
        ),
        Register::dword(
            express::DEVICE_CAPABILITIES_2,
            express::COMPLETION_TIMEOUT_DISABLE.into(),
            0,
        ),
        Register::word(
            express::DEVICE_CONTROL_2,
            0,
            express::COMPLETION_TIMEOUT_DISABLE,
        ),
    ];
    if express.port == PortType::Endpoint {
        let link = u32::from(express::LINK_2_5_GT_X1) | express::ASPM_OPTIONALITY;
        table.extend([
            Register::dword(express::LINK_CAPABILITIES, link, 0),
            Register::word(express::LINK_CONTROL, 0, LinkControl::all().bits()),
            Register::word(express::LINK_STATUS, express::LINK_2_5_GT_X1, 0),
            Register::dword(express::LINK_CAPABILITIES_2, express::SPEEDS_2_5_GT, 0),
        ]);
    }
    table
}

/// Appends capabilities to the linked list (PCI 3.0, 6.7).
struct CapabilityList<'a> {
    registers: &'a mut RegisterFile,
    /// The pointer that the next capability is written into.
    tail: u16,
    /// The next free byte, dword-aligned. The structures above take 80 bytes of 192.
    free: u16,
}

impl<'a> CapabilityList<'a> {
    const fn new(registers: &'a mut RegisterFile) -> Self {
        Self {
            registers,
            tail: header::CAPABILITIES_POINTER,
            free: header::DEVICE_SPECIFIC,
        }
    }

    /// Adds a capability of `size` bytes whose registers have offsets within it; gives its
    /// offset in configuration space.
    fn add(&mut self, id: u8, size: u16, table: Vec<Register>) -> u16 {
        let base = self.free;
        let pointer = base.to_le_bytes()[0];
        self.registers.define([
            Register::word(header::STATUS, Status::CAPABILITIES_LIST.bits(), 0),
            Register::byte(self.tail, pointer, 0),
            Register::byte(base.saturating_add(capability::ID), id, 0),
        ]);
        self.registers
            .define(table.into_iter().map(|register| register.shifted(base)));
        self.tail = base.saturating_add(capability::NEXT);
        self.free = base.saturating_add(size.next_multiple_of(4));
        base
    }
}
