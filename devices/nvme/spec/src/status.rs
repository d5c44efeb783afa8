//! Completion status (Base 4.2.3).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The Status Field of a completion, without the phase tag: SC in bits 7:0, SCT in bits 10:8,
/// CRD in 12:11, More in 13 and Do Not Retry in 14.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct Status(pub u16);

/// The bits of a [`Status`] that identify the condition: SCT and SC.
const CODE_MASK: u16 = 0x07FF;
/// Do Not Retry: the same command will fail again.
const DNR: u16 = 1 << 14;
/// More: the error log has an entry for this command.
const MORE: u16 = 1 << 13;
/// The bits a [`Status`] uses.
const STATUS_MASK: u16 = 0x7FFF;

macro_rules! statuses {
    ($( $(#[$meta:meta])* $name:ident = ($sct:expr, $sc:expr); )*) => {
        impl Status {
            $( $(#[$meta])* pub const $name: Self = Self::code($sct, $sc); )*

            /// The specification's name of a known condition, in capitals.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 & CODE_MASK {
                    $( x if x == Self::$name.0 => Some(stringify!($name)), )*
                    _ => None,
                }
            }
        }
    };
}

/// Status Code Type: generic command status.
pub const SCT_GENERIC: u8 = 0x0;
/// Status Code Type: command specific status.
pub const SCT_COMMAND: u8 = 0x1;
/// Status Code Type: media and data integrity errors.
pub const SCT_MEDIA: u8 = 0x2;

statuses! {
    /// Successful completion.
    SUCCESS = (SCT_GENERIC, 0x00);
    /// Invalid Command Opcode.
    INVALID_OPCODE = (SCT_GENERIC, 0x01);
    /// Invalid Field in Command.
    INVALID_FIELD = (SCT_GENERIC, 0x02);
    /// Command ID Conflict.
    COMMAND_ID_CONFLICT = (SCT_GENERIC, 0x03);
    /// Data Transfer Error.
    DATA_TRANSFER_ERROR = (SCT_GENERIC, 0x04);
    /// Commands Aborted due to Power Loss Notification.
    POWER_LOSS_NOTIFICATION = (SCT_GENERIC, 0x05);
    /// Internal Error.
    INTERNAL_ERROR = (SCT_GENERIC, 0x06);
    /// Command Abort Requested.
    ABORT_REQUESTED = (SCT_GENERIC, 0x07);
    /// Command Aborted due to SQ Deletion.
    ABORTED_SQ_DELETION = (SCT_GENERIC, 0x08);
    /// Command Aborted due to Failed Fused Command.
    ABORTED_FAILED_FUSED = (SCT_GENERIC, 0x09);
    /// Command Aborted due to Missing Fused Command.
    ABORTED_MISSING_FUSED = (SCT_GENERIC, 0x0A);
    /// Invalid Namespace or Format.
    INVALID_NAMESPACE = (SCT_GENERIC, 0x0B);
    /// Command Sequence Error.
    COMMAND_SEQUENCE_ERROR = (SCT_GENERIC, 0x0C);
    /// PRP Offset Invalid.
    INVALID_PRP_OFFSET = (SCT_GENERIC, 0x13);
    /// Atomic Write Unit Exceeded.
    ATOMIC_WRITE_UNIT_EXCEEDED = (SCT_GENERIC, 0x14);
    /// Keep Alive Timer Expired.
    KEEP_ALIVE_EXPIRED = (SCT_GENERIC, 0x19);
    /// Keep Alive Timeout Invalid.
    KEEP_ALIVE_INVALID = (SCT_GENERIC, 0x1A);
    /// Command Interrupted.
    COMMAND_INTERRUPTED = (SCT_GENERIC, 0x21);
    /// LBA Out of Range (NVM).
    LBA_OUT_OF_RANGE = (SCT_GENERIC, 0x80);
    /// Capacity Exceeded (NVM).
    CAPACITY_EXCEEDED = (SCT_GENERIC, 0x81);
    /// Namespace Not Ready.
    NAMESPACE_NOT_READY = (SCT_GENERIC, 0x82);
    /// Format In Progress.
    FORMAT_IN_PROGRESS = (SCT_GENERIC, 0x84);
    /// Completion Queue Invalid.
    COMPLETION_QUEUE_INVALID = (SCT_COMMAND, 0x00);
    /// Invalid Queue Identifier.
    INVALID_QUEUE_IDENTIFIER = (SCT_COMMAND, 0x01);
    /// Invalid Queue Size.
    INVALID_QUEUE_SIZE = (SCT_COMMAND, 0x02);
    /// Abort Command Limit Exceeded.
    ABORT_LIMIT_EXCEEDED = (SCT_COMMAND, 0x03);
    /// Asynchronous Event Request Limit Exceeded.
    AER_LIMIT_EXCEEDED = (SCT_COMMAND, 0x05);
    /// Invalid Interrupt Vector.
    INVALID_INTERRUPT_VECTOR = (SCT_COMMAND, 0x08);
    /// Invalid Log Page.
    INVALID_LOG_PAGE = (SCT_COMMAND, 0x09);
    /// Invalid Format.
    INVALID_FORMAT = (SCT_COMMAND, 0x0A);
    /// Invalid Queue Deletion.
    INVALID_QUEUE_DELETION = (SCT_COMMAND, 0x0C);
    /// Feature Identifier Not Saveable.
    FEATURE_NOT_SAVEABLE = (SCT_COMMAND, 0x0D);
    /// Feature Not Changeable.
    FEATURE_NOT_CHANGEABLE = (SCT_COMMAND, 0x0E);
    /// Feature Not Namespace Specific.
    FEATURE_NOT_NAMESPACE_SPECIFIC = (SCT_COMMAND, 0x0F);
    /// I/O Command Set Combination Rejected.
    COMMAND_SETS_REJECTED = (SCT_COMMAND, 0x2B);
    /// Invalid I/O Command Set.
    INVALID_COMMAND_SET = (SCT_COMMAND, 0x2C);
    /// Write Fault.
    WRITE_FAULT = (SCT_MEDIA, 0x80);
    /// Unrecovered Read Error.
    UNRECOVERED_READ_ERROR = (SCT_MEDIA, 0x81);
    /// Compare Failure.
    COMPARE_FAILURE = (SCT_MEDIA, 0x85);
}

impl Status {
    /// A status of a type (0 to 7) and a code.
    #[must_use]
    pub const fn code(sct: u8, sc: u8) -> Self {
        Self(((sct as u16 & 0x7) << 8) | sc as u16)
    }

    /// The status a completion's last word carries above its phase tag.
    #[must_use]
    pub const fn from_wire(word: u16) -> Self {
        Self(word >> 1)
    }

    /// The completion's last word: this status above a phase tag.
    #[must_use]
    pub const fn to_wire(self, phase: bool) -> u16 {
        ((self.0 & STATUS_MASK) << 1) | phase as u16
    }

    /// The same with Do Not Retry set.
    #[must_use]
    pub const fn dnr(self) -> Self {
        Self(self.0 | DNR)
    }

    /// The same with More set: the Error Information log tells more (Base 4.2.3).
    #[must_use]
    pub const fn more(self) -> Self {
        Self(self.0 | MORE)
    }

    /// Whether Do Not Retry is set.
    #[must_use]
    pub const fn is_dnr(self) -> bool {
        self.0 & DNR != 0
    }

    /// Whether the command succeeded.
    #[must_use]
    pub const fn is_success(self) -> bool {
        self.0 & CODE_MASK == 0
    }

    /// Whether type and code are `other`'s, whatever the retry bits say.
    #[must_use]
    pub const fn same_code(self, other: Self) -> bool {
        self.0 & CODE_MASK == other.0 & CODE_MASK
    }

    /// Status Code Type.
    #[must_use]
    pub const fn sct(self) -> u8 {
        self.0.to_le_bytes()[1] & 0x7
    }

    /// Status Code.
    #[must_use]
    pub const fn sc(self) -> u8 {
        self.0.to_le_bytes()[0]
    }
}

impl core::fmt::Debug for Status {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name)?,
            None => write!(f, "SCT {:X}h SC {:02X}h", self.sct(), self.sc())?,
        }
        if self.is_dnr() {
            f.write_str("|DNR")?;
        }
        Ok(())
    }
}

impl core::fmt::Display for Status {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_word_has_phase_below_status() {
        assert_eq!(Status::SUCCESS.to_wire(true), 1);
        assert_eq!(Status::INVALID_QUEUE_SIZE.dnr().to_wire(false), 0x8204);
        assert_eq!(Status::from_wire(0x8205), Status::INVALID_QUEUE_SIZE.dnr());
        assert!(Status::from_wire(0x8205).same_code(Status::INVALID_QUEUE_SIZE));
    }
}
