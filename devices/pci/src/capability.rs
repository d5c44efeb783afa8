//! Capability structures: identifiers, registers and bits.
//!
//! Sources: PCI Local Bus Specification 3.0, 6.7 (the list) and 6.8.2 (MSI-X); PCI Bus Power
//! Management Interface Specification 1.2, 3.2; PCI Express Base Specification, 7.5.3 (section
//! numbers of revision 4.0 and later).

use bitflags::bitflags;

/// Offset in a capability of its identifier, 1 byte (PCI 3.0, 6.7).
pub const ID: u16 = 0x00;
/// Offset in a capability of the pointer to the next, 1 byte, 0 at the end (PCI 3.0, 6.7).
pub const NEXT: u16 = 0x01;

/// Identifier of the power management capability (PCI 3.0, appendix H).
pub const ID_POWER_MANAGEMENT: u8 = 0x01;
/// Identifier of the PCI Express capability (PCI 3.0, appendix H).
pub const ID_EXPRESS: u8 = 0x10;
/// Identifier of the MSI-X capability (PCI 3.0, appendix H).
pub const ID_MSIX: u8 = 0x11;

/// Power management (PCI PM 1.2, 3.2).
pub mod power {
    use super::bitflags;

    /// Bytes of the structure.
    pub const SIZE: u16 = 8;
    /// Power Management Capabilities, 2 bytes, read-only (PCI PM 1.2, 3.2.3).
    pub const CAPABILITIES: u16 = 0x02;
    /// Power Management Control/Status, 2 bytes (PCI PM 1.2, 3.2.4).
    pub const CONTROL_STATUS: u16 = 0x04;
    /// The value of bits 2:0 of [`CAPABILITIES`] for revision 1.2.
    pub const VERSION_1_2: u16 = 0b011;

    /// PowerState value D0 (PCI PM 1.2, 3.2.4).
    pub const D0: u16 = 0b00;
    /// PowerState value D3hot.
    pub const D3_HOT: u16 = 0b11;

    bitflags! {
        /// Power Management Control/Status (PCI PM 1.2, 3.2.4).
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct ControlStatus: u16 {
            /// Bits 1:0, the power state. D1 and D2 are not supported: writing one changes
            /// nothing.
            const POWER_STATE = 0b11;
            /// Going from D3hot to D0 resets nothing: configuration and device context stay.
            const NO_SOFT_RESET = 1 << 3;
            const _ = !0;
        }
    }
}

/// PCI Express (PCIe, 7.5.3).
pub mod express {
    use super::bitflags;

    /// Bytes of the version 2 structure.
    pub const SIZE: u16 = 0x3C;
    /// PCI Express Capabilities, 2 bytes, read-only (PCIe, 7.5.3.2).
    pub const CAPABILITIES: u16 = 0x02;
    /// Device Capabilities, 4 bytes, read-only (PCIe, 7.5.3.3).
    pub const DEVICE_CAPABILITIES: u16 = 0x04;
    /// Device Control, 2 bytes (PCIe, 7.5.3.4).
    pub const DEVICE_CONTROL: u16 = 0x08;
    /// Link Capabilities, 4 bytes, read-only (PCIe, 7.5.3.6).
    pub const LINK_CAPABILITIES: u16 = 0x0C;
    /// Link Control, 2 bytes (PCIe, 7.5.3.7).
    pub const LINK_CONTROL: u16 = 0x10;
    /// Link Status, 2 bytes, read-only (PCIe, 7.5.3.8).
    pub const LINK_STATUS: u16 = 0x12;
    /// Device Capabilities 2, 4 bytes, read-only (PCIe, 7.5.3.15).
    pub const DEVICE_CAPABILITIES_2: u16 = 0x24;
    /// Device Control 2, 2 bytes (PCIe, 7.5.3.16).
    pub const DEVICE_CONTROL_2: u16 = 0x28;
    /// Link Capabilities 2, 4 bytes, read-only (PCIe, 7.5.3.18).
    pub const LINK_CAPABILITIES_2: u16 = 0x2C;

    /// Bits 3:0 of [`CAPABILITIES`]: version 2 of the structure.
    pub const VERSION_2: u16 = 2;
    /// Where the device/port type starts in [`CAPABILITIES`] (bits 7:4).
    pub const PORT_TYPE_SHIFT: u16 = 4;

    /// Device Capabilities bit 15, required of every function since PCIe 1.1.
    pub const ROLE_BASED_ERROR_REPORTING: u32 = 1 << 15;
    /// Device Capabilities bit 28: the function does a function level reset (PCIe, 6.6.2).
    pub const FUNCTION_LEVEL_RESET: u32 = 1 << 28;
    /// Device Capabilities 2 and Device Control 2 bit 4: completion timeout can be disabled.
    pub const COMPLETION_TIMEOUT_DISABLE: u16 = 1 << 4;

    /// Speed code 1 (2.5 GT/s) in bits 3:0 and width x1 in bits 9:4, the same place in Link
    /// Capabilities and Link Status.
    pub const LINK_2_5_GT_X1: u16 = 1 | (1 << 4);
    /// Link Capabilities bit 22, which a component without ASPM support sets.
    pub const ASPM_OPTIONALITY: u32 = 1 << 22;
    /// Link Capabilities 2, supported link speeds vector: 2.5 GT/s.
    pub const SPEEDS_2_5_GT: u32 = 1 << 1;

    bitflags! {
        /// Device Control (PCIe, 7.5.3.4). Max_Payload_Size stays 0 (128 bytes), the only
        /// size supported.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct DeviceControl: u16 {
            /// Correctable errors are reported. Kept, without effect.
            const CORRECTABLE_ERRORS = 1 << 0;
            /// Non-fatal errors are reported. Kept, without effect.
            const NON_FATAL_ERRORS = 1 << 1;
            /// Fatal errors are reported. Kept, without effect.
            const FATAL_ERRORS = 1 << 2;
            /// Unsupported requests are reported. Kept, without effect.
            const UNSUPPORTED_REQUESTS = 1 << 3;
            /// Relaxed ordering is allowed; set at reset. Kept, without effect.
            const RELAXED_ORDERING = 1 << 4;
            /// No Snoop is allowed; set at reset. Kept, without effect.
            const NO_SNOOP = 1 << 11;
            /// Bits 14:12, the maximum read request size. Kept, without effect.
            const MAX_READ_REQUEST_SIZE = 0b111 << 12;
            /// The value 010b of the same bits, 512 bytes, which reset gives.
            const MAX_READ_REQUEST_512 = 0b010 << 12;
            /// Writing 1 starts a function level reset; always reads 0.
            const INITIATE_FLR = 1 << 15;
        }

        /// Link Control (PCIe, 7.5.3.7), the bits an endpoint has. Kept, without effect.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct LinkControl: u16 {
            /// Bits 1:0, ASPM control.
            const ASPM = 0b11;
            /// Read completion boundary.
            const READ_COMPLETION_BOUNDARY = 1 << 3;
            /// Common clock configuration.
            const COMMON_CLOCK = 1 << 6;
            /// Extended synch.
            const EXTENDED_SYNCH = 1 << 7;
        }
    }
}

/// MSI-X (PCI 3.0, 6.8.2).
pub mod msix {
    use super::bitflags;

    /// Bytes of the capability.
    pub const SIZE: u16 = 12;
    /// [`MessageControl`], 2 bytes (PCI 3.0, 6.8.2.3).
    pub const MESSAGE_CONTROL: u16 = 0x02;
    /// Table offset and BIR, 4 bytes, read-only (PCI 3.0, 6.8.2.4).
    pub const TABLE: u16 = 0x04;
    /// PBA offset and BIR, 4 bytes, read-only (PCI 3.0, 6.8.2.5).
    pub const PBA: u16 = 0x08;
    /// Bits 2:0 of [`TABLE`] and [`PBA`] are the BAR index (BIR), the rest the offset in it,
    /// so offsets are multiples of this.
    pub const OFFSET_ALIGNMENT: u32 = 8;

    /// The most vectors a function can have (PCI 3.0, 6.8.2: table size is 11 bits).
    pub const MAX_VECTORS: u16 = 2048;

    /// Bytes of a table entry (PCI 3.0, 6.8.2).
    pub const ENTRY_SIZE: u64 = 16;
    /// Bits of Message Lower Address that hold an address; bits 1:0 read 0
    /// (PCI 3.0, 6.8.2.6).
    pub const ADDRESS_LOW: u32 = !0b11;
    /// Vector Control bit 0, the entry's mask, set at reset; the rest is reserved
    /// (PCI 3.0, 6.8.2.9).
    pub const VECTOR_MASKED: u32 = 1 << 0;
    /// Pending bits in one unit of the PBA (PCI 3.0, 6.8.2.10).
    pub const PBA_UNIT_BITS: u64 = 64;

    bitflags! {
        /// Message Control (PCI 3.0, 6.8.2.3).
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct MessageControl: u16 {
            /// Bits 10:0, vectors minus one, read-only.
            const TABLE_SIZE = 0x7FF;
            /// Every vector is masked, whatever its own mask bit says.
            const FUNCTION_MASK = 1 << 14;
            /// MSI-X is used and INTx# is not.
            const ENABLE = 1 << 15;
            const _ = !0;
        }
    }
}
