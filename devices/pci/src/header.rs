//! The type 0 configuration header: where its registers lie and what their bits mean.
//!
//! Source: PCI Local Bus Specification 3.0, chapter 6 (6.1 organization, 6.2 functions,
//! 6.2.5 base addresses) and PCI Express Base Specification, section 7.5.1
//! (numbers of revision 4.0 and later).

use bitflags::bitflags;

/// Bytes of configuration space a conventional PCI function has (PCI 3.0, 6.1).
pub const CONVENTIONAL_SIZE: usize = 256;
/// Bytes of configuration space a PCI Express function has (PCIe, 7.2).
pub const EXTENDED_SIZE: usize = 4096;
/// Base address registers in a type 0 header (PCI 3.0, 6.2.5.1).
pub const BAR_COUNT: u8 = 6;

/// Vendor ID, 2 bytes, read-only (PCI 3.0, 6.2.1).
pub const VENDOR_ID: u16 = 0x00;
/// Device ID, 2 bytes, read-only (PCI 3.0, 6.2.1).
pub const DEVICE_ID: u16 = 0x02;
/// [`Command`], 2 bytes (PCI 3.0, 6.2.2).
pub const COMMAND: u16 = 0x04;
/// [`Status`], 2 bytes (PCI 3.0, 6.2.3).
pub const STATUS: u16 = 0x06;
/// Revision ID, 1 byte, read-only (PCI 3.0, 6.2.1).
pub const REVISION_ID: u16 = 0x08;
/// Class code, 3 bytes (interface, sub-class, base class), read-only (PCI 3.0, 6.2.1).
pub const CLASS_CODE: u16 = 0x09;
/// Cache line size, 1 byte, writable and without effect here (PCIe, 7.5.1.1.7).
pub const CACHE_LINE_SIZE: u16 = 0x0C;
/// Header type, 1 byte: 0 is the type 0 layout with a single function (PCI 3.0, 6.2.1).
pub const HEADER_TYPE: u16 = 0x0E;
/// The first base address register; each is 4 bytes (PCI 3.0, 6.2.5.1).
pub const BAR0: u16 = 0x10;
/// Subsystem vendor ID, 2 bytes, read-only (PCI 3.0, 6.2.4).
pub const SUBSYSTEM_VENDOR_ID: u16 = 0x2C;
/// Subsystem ID, 2 bytes, read-only (PCI 3.0, 6.2.4).
pub const SUBSYSTEM_ID: u16 = 0x2E;
/// Offset of the first capability, 1 byte, 0 when there is none (PCI 3.0, 6.7).
pub const CAPABILITIES_POINTER: u16 = 0x34;
/// Interrupt line, 1 byte, a scratch register for system software (PCI 3.0, 6.2.4).
pub const INTERRUPT_LINE: u16 = 0x3C;
/// Interrupt pin, 1 byte: 0 is none, 1 is INTA# (PCI 3.0, 6.2.4).
pub const INTERRUPT_PIN: u16 = 0x3D;

/// The first byte after the header, where capabilities may lie (PCI 3.0, 6.7).
pub const DEVICE_SPECIFIC: u16 = 0x40;

/// BAR bits 2:1 of a memory BAR that is 64 bits wide (PCI 3.0, 6.2.5.1).
pub const BAR_MEMORY_64: u32 = 0b10 << 1;
/// BAR bit 3: reads have no side effects (PCI 3.0, 6.2.5.1).
pub const BAR_PREFETCHABLE: u32 = 1 << 3;
/// The address bits of the low half of a memory BAR; bits 3:0 tell its type
/// (PCI 3.0, 6.2.5.1).
pub const BAR_MEMORY_ADDRESS: u32 = !0xF;
/// The smallest memory BAR, in bytes, that the four type bits leave room for.
pub const BAR_MINIMUM_SIZE: u64 = 16;

bitflags! {
    /// The Command register (PCI 3.0, 6.2.2; PCIe, 7.5.1.1.3).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Command: u16 {
        /// The function answers I/O accesses. Read-only 0: no function here has an I/O BAR.
        const IO_SPACE = 1 << 0;
        /// The function answers memory accesses within its BARs.
        const MEMORY_SPACE = 1 << 1;
        /// The function may issue memory requests, and so send MSI-X messages.
        const BUS_MASTER = 1 << 2;
        /// Parity errors are reported. Kept, without effect.
        const PARITY_ERROR_RESPONSE = 1 << 6;
        /// System errors are reported. Kept, without effect.
        const SERR_ENABLE = 1 << 8;
        /// The function must not assert INTx#.
        const INTX_DISABLE = 1 << 10;
        // Bits this version does not name are kept as they are.
        const _ = !0;
    }
}

impl Command {
    /// The bits that software may change.
    pub const WRITABLE: Self = Self::MEMORY_SPACE
        .union(Self::BUS_MASTER)
        .union(Self::PARITY_ERROR_RESPONSE)
        .union(Self::SERR_ENABLE)
        .union(Self::INTX_DISABLE);
}

bitflags! {
    /// The Status register (PCI 3.0, 6.2.3; PCIe, 7.5.1.1.4).
    ///
    /// Its error bits are write-one-to-clear; nothing here ever sets one, so the whole
    /// register ignores writes.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Status: u16 {
        /// The function has an INTx interrupt outstanding, whatever INTx Disable says.
        const INTERRUPT_STATUS = 1 << 3;
        /// The capabilities pointer is valid.
        const CAPABILITIES_LIST = 1 << 4;
        const _ = !0;
    }
}

/// What kind of device a function is (PCI 3.0, 6.2.1 and appendix D).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassCode {
    /// Base class.
    pub base: u8,
    /// Sub-class.
    pub sub: u8,
    /// Register-level programming interface.
    pub interface: u8,
}

impl ClassCode {
    /// A host bridge.
    pub const HOST_BRIDGE: Self = Self {
        base: 0x06,
        sub: 0x00,
        interface: 0x00,
    };
    /// Mass storage, non-volatile memory, NVM Express I/O controller.
    pub const NVM_EXPRESS: Self = Self {
        base: 0x01,
        sub: 0x08,
        interface: 0x02,
    };
}

/// The read-only numbers by which software knows a function (PCI 3.0, 6.2.1 and 6.2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Vendor ID. FFFFh means "no function here", 0000h and 0001h are taken for a function
    /// that is absent or not ready (PCIe, 2.3.2): [`build`](crate::ConfigBuilder::build)
    /// refuses the three.
    pub vendor: u16,
    /// Device ID, the vendor's own numbering.
    pub device: u16,
    /// Subsystem vendor ID.
    pub subsystem_vendor: u16,
    /// Subsystem ID, the subsystem vendor's own numbering.
    pub subsystem: u16,
    /// Class code.
    pub class: ClassCode,
    /// Revision ID.
    pub revision: u8,
}
