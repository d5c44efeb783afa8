//! Asynchronous events (Base 5.1.2).

use bitfield_struct::bitfield;

use crate::LogId;

/// Asynchronous Event Type (Base 5.1.2.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum EventType {
    /// Error status.
    Error = 0,
    /// SMART / health status.
    Smart = 1,
    /// Notice.
    Notice = 2,
    /// Immediate.
    Immediate = 3,
    /// One-shot.
    OneShot = 4,
    /// Reserved.
    Reserved5 = 5,
    /// I/O command set specific status.
    CommandSet = 6,
    /// Vendor specific.
    Vendor = 7,
}

impl EventType {
    /// How many event types there are.
    pub const COUNT: usize = 8;

    const fn from_bits(bits: u8) -> Self {
        match bits {
            0 => Self::Error,
            1 => Self::Smart,
            2 => Self::Notice,
            3 => Self::Immediate,
            4 => Self::OneShot,
            6 => Self::CommandSet,
            7 => Self::Vendor,
            _ => Self::Reserved5,
        }
    }

    const fn into_bits(self) -> u8 {
        self as u8
    }
}

/// Error status: write to invalid doorbell register.
pub const ERROR_INVALID_DOORBELL_REGISTER: u8 = 0x00;
/// Error status: invalid doorbell write value.
pub const ERROR_INVALID_DOORBELL_VALUE: u8 = 0x01;
/// Error status: diagnostic failure.
pub const ERROR_DIAGNOSTIC_FAILURE: u8 = 0x02;
/// Error status: persistent internal error.
pub const ERROR_PERSISTENT_INTERNAL: u8 = 0x03;
/// Error status: transient internal error.
pub const ERROR_TRANSIENT_INTERNAL: u8 = 0x04;
/// SMART status: NVM subsystem reliability.
pub const SMART_RELIABILITY: u8 = 0x00;
/// SMART status: temperature threshold.
pub const SMART_TEMPERATURE: u8 = 0x01;
/// SMART status: spare below threshold.
pub const SMART_SPARE: u8 = 0x02;
/// Notice: namespace attribute changed; the Changed Attached Namespace list names it.
pub const NOTICE_NAMESPACE_ATTRIBUTE: u8 = 0x00;

/// Dword 0 of an Asynchronous Event Request's completion (Base 5.1.2.1).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct EventResult {
    /// Asynchronous Event Type.
    #[bits(3)]
    pub event_type: EventType,
    #[bits(5)]
    __: u8,
    /// Asynchronous Event Information.
    pub info: u8,
    /// The log page to read, a [`LogId`].
    pub log_page_raw: u8,
    __: u8,
}

impl EventResult {
    /// The log page whose reading clears the event.
    #[must_use]
    pub const fn log_page(self) -> LogId {
        LogId(self.log_page_raw())
    }
}
