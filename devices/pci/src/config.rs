//! A function's configuration space: reads, masked writes and what a write changed.

use crate::bar::{Bar, BarWidth, Bars, halves, join};
use crate::builder::ConfigBuilder;
use crate::capability::msix::MessageControl;
use crate::capability::power::ControlStatus;
use crate::capability::{self, express, power};
use crate::function::Effects;
use crate::header::{self, Command, Identity, Status};
use crate::msix::{MsixControl, MsixLayout};
use crate::registers::RegisterFile;

/// The configuration space of one function with a type 0 header (PCI 3.0, chapter 6).
///
/// Built by [`ConfigSpace::builder`]. Plain data without a lock: the owner decides how calls
/// are serialised. Any offset and length may be read and written.
///
/// What each register lets software change is a table made by the builder; the behaviour on
/// top of it is small: sizing falls out of the BARs' masks, an unsupported power state is
/// dropped, Initiate Function Level Reset reads 0.
pub struct ConfigSpace {
    pub(crate) registers: RegisterFile,
    pub(crate) bars: Bars,
    pub(crate) capabilities: Capabilities,
    pub(crate) msix_layout: Option<MsixLayout>,
}

/// Offsets of the capabilities that have behaviour.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Capabilities {
    pub(crate) power: Option<u16>,
    pub(crate) msix: Option<u16>,
    pub(crate) express: Option<u16>,
}

/// Everything [`Effects`] is derived from.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Snapshot {
    bars: [Option<u64>; header::BAR_COUNT as usize],
    memory_decode: bool,
    bus_master: bool,
    intx_disable: bool,
    msix: MsixControl,
    awake: bool,
}

impl ConfigSpace {
    /// Starts a configuration space with this identity and no BAR or capability.
    pub fn builder(identity: Identity) -> ConfigBuilder {
        ConfigBuilder::new(identity)
    }

    /// Reads from byte `offset`. Past 100h everything is 0, past 4 KiB all ones.
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        self.registers.read(offset, data);
    }

    /// Writes at byte `offset` what the write masks allow, and says what that changed.
    ///
    /// A function level reset is only reported: the owner carries it out with
    /// [`reset`](Self::reset).
    pub fn write(&mut self, offset: u16, data: &[u8]) -> Effects {
        let before = self.snapshot();
        let power_before = self.power_state();
        self.registers.write(offset, data);
        self.settle_power_state(power_before);
        let mut effects = before.effects(&self.snapshot());
        effects.set(Effects::FUNCTION_LEVEL_RESET, self.take_flr_request());
        effects
    }

    /// Every register back to its value after reset; says what that changed.
    ///
    /// A function level reset does the same: the registers it must preserve (PCIe, 6.6.2)
    /// are read-only here.
    pub fn reset(&mut self) -> Effects {
        let before = self.snapshot();
        self.registers.restore();
        before.effects(&self.snapshot())
    }

    /// The BARs as declared.
    #[must_use]
    pub const fn bars(&self) -> Bars {
        self.bars
    }

    /// The address that software wrote into BAR `bar`, decoded or not.
    #[must_use]
    pub fn bar_address(&self, bar: u8) -> Option<u64> {
        let declared: Bar = (*self.bars.get(usize::from(bar))?)?;
        let offset = bar_offset(bar);
        let low = self.registers.dword(offset) & header::BAR_MEMORY_ADDRESS;
        let high = match declared.width {
            BarWidth::Bits32 => 0,
            BarWidth::Bits64 => self.registers.dword(offset.saturating_add(4)),
        };
        Some(join(low, high))
    }

    /// The address at which BAR `bar` answers: `None` without memory decoding.
    #[must_use]
    pub fn bar_base(&self, bar: u8) -> Option<u64> {
        self.bar_address(bar).filter(|_| self.memory_decode())
    }

    /// Whether the BARs answer: Memory Space is set and the power state is D0
    /// (PCI PM 1.2, 5.4.1: D3hot answers configuration accesses only).
    #[must_use]
    pub fn memory_decode(&self) -> bool {
        self.command().contains(Command::MEMORY_SPACE) && self.awake()
    }

    /// Whether the function may send memory requests, MSI-X messages among them: Bus Master
    /// is set and the power state is D0.
    #[must_use]
    pub fn bus_master(&self) -> bool {
        self.command().contains(Command::BUS_MASTER) && self.awake()
    }

    /// The Command register.
    #[must_use]
    pub fn command(&self) -> Command {
        Command::from_bits_retain(self.registers.word(header::COMMAND))
    }

    /// MSI-X Enable and Function Mask; both clear if there is no MSI-X.
    #[must_use]
    pub fn msix_control(&self) -> MsixControl {
        let control = self
            .capabilities
            .msix
            .map_or(MessageControl::empty(), |capability| {
                let offset = capability.saturating_add(capability::msix::MESSAGE_CONTROL);
                MessageControl::from_bits_retain(self.registers.word(offset))
            });
        MsixControl {
            enable: control.contains(MessageControl::ENABLE),
            function_mask: control.contains(MessageControl::FUNCTION_MASK),
        }
    }

    /// Where the MSI-X table and PBA lie, if there is MSI-X.
    #[must_use]
    pub const fn msix_layout(&self) -> Option<MsixLayout> {
        self.msix_layout
    }

    /// Sets Status' Interrupt Status, which shows an INTx request to software even while
    /// INTx Disable keeps the pin quiet (PCI 3.0, 6.2.3).
    pub fn set_interrupt_status(&mut self, asserted: bool) {
        let mut status = Status::from_bits_retain(self.registers.word(header::STATUS));
        status.set(Status::INTERRUPT_STATUS, asserted);
        self.registers.set_word(header::STATUS, status.bits());
    }

    fn awake(&self) -> bool {
        self.power_state() == power::D0
    }

    fn control_status(&self) -> Option<(u16, ControlStatus)> {
        let offset = self
            .capabilities
            .power?
            .saturating_add(power::CONTROL_STATUS);
        Some((
            offset,
            ControlStatus::from_bits_retain(self.registers.word(offset)),
        ))
    }

    /// The PowerState field; D0 without the capability.
    fn power_state(&self) -> u16 {
        self.control_status().map_or(power::D0, |(_, status)| {
            (status & ControlStatus::POWER_STATE).bits()
        })
    }

    /// Undoes a change to D1 or D2, which are not supported (PCI PM 1.2, 3.2.4: the write
    /// completes and its data is discarded).
    fn settle_power_state(&mut self, before: u16) {
        if let Some((offset, status)) = self.control_status()
            && !matches!(self.power_state(), power::D0 | power::D3_HOT)
        {
            let kept = status.difference(ControlStatus::POWER_STATE).bits() | before;
            self.registers.set_word(offset, kept);
        }
    }

    /// Whether Initiate Function Level Reset was written 1; it never reads so. The bit is
    /// writable only where the capability is advertised.
    fn take_flr_request(&mut self) -> bool {
        use express::DeviceControl;
        let Some(capability) = self.capabilities.express else {
            return false;
        };
        let offset = capability.saturating_add(express::DEVICE_CONTROL);
        let control = DeviceControl::from_bits_retain(self.registers.word(offset));
        let requested = control.contains(DeviceControl::INITIATE_FLR);
        if requested {
            let kept = control.difference(DeviceControl::INITIATE_FLR);
            self.registers.set_word(offset, kept.bits());
        }
        requested
    }

    fn snapshot(&self) -> Snapshot {
        let mut bars = [None; header::BAR_COUNT as usize];
        for (index, address) in (0..).zip(&mut bars) {
            *address = self.bar_address(index);
        }
        Snapshot {
            bars,
            memory_decode: self.memory_decode(),
            bus_master: self.bus_master(),
            intx_disable: self.command().contains(Command::INTX_DISABLE),
            msix: self.msix_control(),
            awake: self.awake(),
        }
    }
}

impl Snapshot {
    fn effects(&self, after: &Self) -> Effects {
        let mut effects = Effects::empty();
        effects.set(Effects::BARS, self.bars != after.bars);
        effects.set(
            Effects::MEMORY_DECODE,
            self.memory_decode != after.memory_decode,
        );
        effects.set(Effects::BUS_MASTER, self.bus_master != after.bus_master);
        effects.set(
            Effects::INTX_DISABLE,
            self.intx_disable != after.intx_disable,
        );
        effects.set(Effects::MSIX, self.msix != after.msix);
        effects.set(Effects::POWER_STATE, self.awake != after.awake);
        effects
    }
}

/// Configuration offset of BAR `bar` (PCI 3.0, 6.2.5.1).
pub(crate) fn bar_offset(bar: u8) -> u16 {
    header::BAR0.saturating_add(u16::from(bar).saturating_mul(4))
}

/// The dwords to write into BAR `bar`, with their offsets, to put it at `address`.
pub(crate) fn bar_dwords(
    bar: u8,
    declared: Bar,
    address: u64,
) -> impl Iterator<Item = (u16, [u8; 4])> {
    let (low, high) = halves(address);
    let offsets = (bar..).map(bar_offset);
    offsets
        .zip([low, high].map(u32::to_le_bytes))
        .take(declared.registers().into())
}
