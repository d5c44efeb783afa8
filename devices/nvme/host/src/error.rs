//! What can go wrong, as values.

use core::fmt;

use nvme_spec::{AdminOpcode, NvmOpcode, Status};

/// What a wait was for, named in [`Error::Timeout`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Awaited {
    /// CSTS.RDY to become this value.
    Ready(bool),
    /// CSTS.SHST to say that shutdown processing is complete.
    ShutdownComplete,
    /// The completion of a command.
    Completion {
        /// Its submission queue.
        sqid: u16,
        /// Its command identifier.
        cid: u16,
        /// Its opcode.
        opcode: u8,
    },
    /// Any entry in a completion queue.
    AnyCompletion {
        /// The completion queue.
        cqid: u16,
    },
    /// A free entry in a submission queue.
    SubmissionSpace {
        /// The submission queue.
        sqid: u16,
    },
}

impl fmt::Display for Awaited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Ready(value) => write!(f, "CSTS.RDY = {}", u8::from(value)),
            Self::ShutdownComplete => f.write_str("CSTS.SHST = 10b (shutdown complete)"),
            Self::Completion { sqid, cid, opcode } => {
                write!(f, "the completion of {}", Command { sqid, opcode })?;
                write!(f, " (SQ {sqid}, CID {cid:#x})")
            }
            Self::AnyCompletion { cqid } => write!(f, "an entry in completion queue {cqid}"),
            Self::SubmissionSpace { sqid } => write!(f, "room in submission queue {sqid}"),
        }
    }
}

/// A command's name for messages.
struct Command {
    sqid: u16,
    opcode: u8,
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.sqid == 0 {
            write!(f, "admin command {:?}", AdminOpcode(self.opcode))
        } else {
            write!(f, "I/O command {:?}", NvmOpcode(self.opcode))
        }
    }
}

/// Why the driver could not do what was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// Something did not happen in time.
    Timeout {
        /// What was waited for.
        awaited: Awaited,
        /// How long, in nanoseconds of the transport's clock.
        after_ns: u64,
    },
    /// CSTS.CFS is set: the controller reports a fatal condition.
    Fatal {
        /// What was waited for when it was seen.
        awaited: Awaited,
    },
    /// Registers read as all ones: there is no controller any more.
    Gone,
    /// The transport has no more device-visible memory.
    NoMemory {
        /// How many bytes were asked for.
        bytes: u64,
    },
    /// A value that the controller or the driver cannot take.
    OutOfRange {
        /// What the value is.
        what: &'static str,
        /// The value asked for.
        value: u64,
        /// The least that is allowed.
        min: u64,
        /// The most that is allowed.
        max: u64,
    },
    /// The submission queue has no free entry.
    SubmissionQueueFull {
        /// The submission queue.
        sqid: u16,
    },
    /// The driver has made no such submission queue.
    NoSubmissionQueue {
        /// The submission queue.
        sqid: u16,
    },
    /// The driver has made no such completion queue.
    NoCompletionQueue {
        /// The completion queue.
        cqid: u16,
    },
    /// A token whose command was never issued, or whose completion was taken before.
    StaleToken {
        /// The submission queue.
        sqid: u16,
        /// The command identifier.
        cid: u16,
    },
    /// The controller posted a completion that breaks a rule.
    BadCompletion {
        /// The completion queue it was posted to.
        cqid: u16,
        /// The submission queue it names.
        sqid: u16,
        /// The command identifier it names.
        cid: u16,
        /// The SQ head pointer it carries.
        sqhd: u16,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// A command that had to succeed completed with another status.
    Status {
        /// Its submission queue.
        sqid: u16,
        /// Its opcode.
        opcode: u8,
        /// The status.
        status: Status,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Timeout { awaited, after_ns } => {
                write!(
                    f,
                    "timed out after {} ms waiting for {awaited}",
                    after_ns / 1_000_000
                )
            }
            Self::Fatal { awaited } => write!(f, "CSTS.CFS was set while waiting for {awaited}"),
            Self::Gone => f.write_str("the controller's registers read as all ones"),
            Self::NoMemory { bytes } => {
                write!(f, "no device-visible memory for {bytes} more bytes")
            }
            Self::OutOfRange {
                what,
                value,
                min,
                max,
            } => write!(f, "{what} {value} is outside {min} to {max}"),
            Self::SubmissionQueueFull { sqid } => write!(f, "submission queue {sqid} is full"),
            Self::NoSubmissionQueue { sqid } => write!(f, "there is no submission queue {sqid}"),
            Self::NoCompletionQueue { cqid } => write!(f, "there is no completion queue {cqid}"),
            Self::StaleToken { sqid, cid } => {
                write!(
                    f,
                    "no command {cid:#x} is outstanding on submission queue {sqid}"
                )
            }
            Self::BadCompletion {
                cqid,
                sqid,
                cid,
                sqhd,
                rule,
            } => write!(
                f,
                "bad completion in CQ {cqid} (SQID {sqid}, CID {cid:#x}, SQHD {sqhd}): {rule}"
            ),
            Self::Status {
                sqid,
                opcode,
                status,
            } => write!(f, "{} completed with {status}", Command { sqid, opcode }),
        }
    }
}

impl core::error::Error for Error {}
