//! What is said of a host that broke a rule, and how often it was.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use nvme_spec::{AdminOpcode, NvmOpcode, Sqe, registers::Register};

use super::rule::Rule;
use crate::signals::Lint;

/// A rule that was broken: when, where and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// Counts the reports of the controller's life, from 1; those that no [`Lint`] got are
    /// counted too.
    pub sequence: u64,
    /// The time of the poll that found it, or of the last poll before the access that did, on the
    /// clock that [`Shard::poll`](crate::Shard::poll) is given.
    pub time_ns: u64,
    /// The rule.
    pub rule: Rule,
    /// What it concerns.
    pub about: About,
    /// The value, bound or mask that would have been right, where there is one.
    pub expected: Option<u64>,
    /// The value that was found instead.
    pub found: Option<u64>,
    /// What happened, in words, values included.
    pub text: String,
}

/// What a report concerns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum About {
    /// A register.
    Register(Register),
    /// An access to BAR0 that is none to a register.
    Access {
        /// Bytes from BAR0.
        offset: u64,
        /// Its width in bytes.
        bytes: usize,
    },
    /// The tail doorbell of a submission queue.
    SqDoorbell(u16),
    /// The head doorbell of a completion queue.
    CqDoorbell(u16),
    /// A submission queue.
    SubmissionQueue(u16),
    /// A completion queue.
    CompletionQueue(u16),
    /// A command.
    Command(CommandId),
}

/// A command, as its submission queue entry describes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CommandId {
    /// Its submission queue; 0 is the admin queue.
    pub sqid: u16,
    /// Command Identifier.
    pub cid: u16,
    /// Opcode; what it means depends on the queue.
    pub opcode: u8,
    /// Namespace Identifier.
    pub nsid: u32,
    /// Starting LBA, of I/O commands that have one.
    pub slba: Option<u64>,
}

impl CommandId {
    pub(super) fn new(sqid: u16, sqe: &Sqe) -> Self {
        let has_lba = sqid != 0
            && matches!(
                sqe.nvm_opcode(),
                NvmOpcode::READ
                    | NvmOpcode::WRITE
                    | NvmOpcode::COMPARE
                    | NvmOpcode::WRITE_ZEROES
                    | NvmOpcode::VERIFY
            );
        Self {
            sqid,
            cid: sqe.cid,
            opcode: sqe.opcode,
            nsid: sqe.nsid,
            slba: has_lba.then(|| sqe.slba()),
        }
    }

    /// The specification's name of the opcode, in lower case; `None` for one that it does not
    /// know.
    #[must_use]
    pub fn opcode_name(&self) -> Option<String> {
        let name = match self.sqid {
            0 => AdminOpcode(self.opcode).name(),
            _ => NvmOpcode(self.opcode).name(),
        };
        name.map(|name| name.to_ascii_lowercase().replace('_', " "))
    }
}

impl fmt::Display for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SQ {} CID {:#06x} ", self.sqid, self.cid)?;
        match self.opcode_name() {
            Some(name) => write!(f, "{name}")?,
            None => write!(f, "opcode {:#04x}", self.opcode)?,
        }
        if self.nsid != 0 {
            write!(f, " NSID {:#x}", self.nsid)?;
        }
        match self.slba {
            Some(slba) => write!(f, " LBA {slba:#x}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Register(register) => f.write_str(&format!("{register:?}").to_ascii_uppercase()),
            Self::Access { offset, .. } => write!(f, "BAR0+{offset:#x}"),
            Self::SqDoorbell(qid) => write!(f, "SQ {qid} tail doorbell"),
            Self::CqDoorbell(qid) => write!(f, "CQ {qid} head doorbell"),
            Self::SubmissionQueue(qid) => write!(f, "SQ {qid}"),
            Self::CompletionQueue(qid) => write!(f, "CQ {qid}"),
            Self::Command(command) => command.fmt(f),
        }
    }
}

impl fmt::Display for Report {
    /// `error sq-overrun: SQ 1 tail doorbell: what happened (PCIe 3.1.2.1)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            rule, about, text, ..
        } = self;
        let (severity, section) = (rule.severity(), rule.info().section);
        write!(f, "{severity} {rule}: {about}: {text} ({section})")
    }
}

/// How often each rule was broken since the controller was made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Counts {
    pub(super) by_rule: [u64; Rule::ALL.len()],
    /// Commands and PRP lists that were not watched for changes, because too much was being
    /// watched at once.
    pub unwatched: u64,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            by_rule: [0; Rule::ALL.len()],
            unwatched: 0,
        }
    }
}

impl Counts {
    /// How often a rule was broken.
    #[must_use]
    pub fn of(&self, rule: Rule) -> u64 {
        self.by_rule.get(rule as usize).copied().unwrap_or(0)
    }

    /// The rules that were broken, with how often.
    pub fn broken(&self) -> impl Iterator<Item = (Rule, u64)> {
        let counts = Rule::ALL.into_iter().map(|rule| (rule, self.of(rule)));
        counts.filter(|&(_, count)| count > 0)
    }

    /// Reports of all rules.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.broken().map(|(_, count)| count).sum()
    }
}

/// Reports as messages of the log: errors as warnings, notes as information, up to a limit.
#[derive(Debug, Default)]
pub struct LintLog {
    messages: AtomicU32,
}

impl LintLog {
    /// Messages in all; a host must not fill a log.
    const MOST: u32 = 1000;

    /// A log without messages yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }
}

impl Lint for LintLog {
    fn report(&self, report: &Report) {
        let before = self.messages.load(Ordering::Relaxed);
        if before >= Self::MOST {
            return;
        }
        self.messages.store(before + 1, Ordering::Relaxed);
        match report.rule.severity() {
            super::Severity::Error => tracing::warn!(target: "lint", "{report}"),
            super::Severity::Note => tracing::info!(target: "lint", "{report}"),
        }
        if before + 1 == Self::MOST {
            tracing::warn!(target: "lint", "from here on reports are counted only");
        }
    }
}
