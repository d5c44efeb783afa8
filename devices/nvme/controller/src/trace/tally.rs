//! Counters by queue, by namespace and by operation.

use nvme_spec::{NvmOpcode, Sqe};

use super::{
    event::{CommandEvent, End},
    histogram::{Histogram, Latency},
};
use crate::{config::ControllerConfig, stats::Counter};

/// What a command does, as far as it is counted apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Operation {
    /// Read.
    Read,
    /// Write.
    Write,
    /// Flush.
    Flush,
    /// Compare.
    Compare,
    /// Write Zeroes.
    WriteZeroes,
    /// Dataset Management.
    DatasetManagement,
    /// Verify.
    Verify,
    /// An I/O command of another opcode.
    Other,
    /// An admin command.
    Admin,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Read,
        Self::Write,
        Self::Flush,
        Self::Compare,
        Self::WriteZeroes,
        Self::DatasetManagement,
        Self::Verify,
        Self::Other,
        Self::Admin,
    ];

    /// Its name in lower case, words joined by `-`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
            Self::Compare => "compare",
            Self::WriteZeroes => "write-zeroes",
            Self::DatasetManagement => "dataset-management",
            Self::Verify => "verify",
            Self::Other => "other",
            Self::Admin => "admin",
        }
    }

    /// What a command of a queue does.
    #[must_use]
    pub const fn of(sqid: u16, sqe: &Sqe) -> Self {
        if sqid == 0 {
            return Self::Admin;
        }
        match sqe.nvm_opcode() {
            NvmOpcode::READ => Self::Read,
            NvmOpcode::WRITE => Self::Write,
            NvmOpcode::FLUSH => Self::Flush,
            NvmOpcode::COMPARE => Self::Compare,
            NvmOpcode::WRITE_ZEROES => Self::WriteZeroes,
            NvmOpcode::DATASET_MANAGEMENT => Self::DatasetManagement,
            NvmOpcode::VERIFY => Self::Verify,
            _ => Self::Other,
        }
    }
}

const OPERATIONS: usize = Operation::ALL.len();

/// Commands that ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    operations: [u64; OPERATIONS],
    /// Commands completed with an error.
    pub errors: u64,
    /// Commands that were dropped without a completion.
    pub dropped: u64,
    /// Bytes that successful reads, compares and verifies asked for.
    pub bytes_read: u64,
    /// Bytes that successful writes brought.
    pub bytes_written: u64,
}

impl Tally {
    /// Commands completed, with success or an error.
    #[must_use]
    pub fn completed(&self, operation: Operation) -> u64 {
        let count = self.operations.get(operation as usize);
        count.copied().unwrap_or_default()
    }

    /// Commands of all operations.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.operations.iter().sum()
    }

    fn add(&mut self, other: &Live) {
        for (count, live) in self.operations.iter_mut().zip(&other.operations) {
            *count += live.get();
        }
        self.errors += other.errors.get();
        self.dropped += other.dropped.get();
        self.bytes_read += other.bytes_read.get();
        self.bytes_written += other.bytes_written.get();
    }
}

/// The same, being counted by one writer.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Live {
    operations: [Counter; OPERATIONS],
    errors: Counter,
    dropped: Counter,
    bytes_read: Counter,
    bytes_written: Counter,
}

impl Live {
    fn count(&self, operation: Operation, end: End, bytes: u64) {
        let End::Completed { status, .. } = end else {
            self.dropped.add(1);
            return;
        };
        if let Some(count) = self.operations.get(operation as usize) {
            count.add(1);
        }
        match operation {
            _ if !status.is_success() => self.errors.add(1),
            Operation::Read | Operation::Compare | Operation::Verify => self.bytes_read.add(bytes),
            Operation::Write => self.bytes_written.add(bytes),
            _ => {}
        }
    }
}

/// A submission queue's commands since the controller was made, whichever queue had the
/// identifier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueTally {
    /// Its identifier.
    pub sqid: u16,
    /// Its commands.
    pub tally: Tally,
}

/// What was counted since the controller was made.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Statistics {
    /// Submission queues that had commands, the admin queue first.
    pub queues: Vec<QueueTally>,
    /// I/O commands by namespace, NSID 1 first. A Flush of all namespaces is nobody's.
    pub namespaces: Vec<Tally>,
    /// How long commands took that were completed, by operation, those that there were.
    pub latency: Vec<(Operation, Latency)>,
}

/// All counters.
pub(super) struct Counters {
    /// By submission queue: one shard serves it at a time.
    queues: Box<[Live]>,
    shards: Box<[OfShard]>,
}

struct OfShard {
    /// By namespace, NSID 1 first.
    namespaces: Box<[Live]>,
    latency: [Histogram; OPERATIONS],
}

impl Counters {
    pub(super) fn new(config: &ControllerConfig) -> Self {
        let live = |count: usize| (0..count).map(|_| Live::default()).collect();
        let shard = |_| OfShard {
            namespaces: live(config.namespaces.len()),
            latency: std::array::from_fn(|_| Histogram::new()),
        };
        Self {
            queues: live(usize::from(config.io_queues) + 1),
            shards: (0..config.shards).map(shard).collect(),
        }
    }

    /// Counts a command that ended on a shard, whose thread this is; `bytes` is what it moves.
    pub(super) fn count(&self, event: &CommandEvent, bytes: u64) {
        let CommandEvent {
            shard,
            sqid,
            sqe,
            end,
            ..
        } = event;
        let operation = Operation::of(*sqid, sqe);
        if let Some(queue) = self.queues.get(usize::from(*sqid)) {
            queue.count(operation, *end, bytes);
        }
        let Some(shard) = self.shards.get(usize::from(*shard)) else {
            return;
        };
        let index = sqe.nsid.wrapping_sub(1);
        let namespace = usize::try_from(index).map(|index| shard.namespaces.get(index));
        if let (Ok(Some(namespace)), true) = (namespace, operation != Operation::Admin) {
            namespace.count(operation, *end, bytes);
        }
        let latency = shard.latency.get(operation as usize);
        if let (Some(latency), End::Completed { .. }) = (latency, end) {
            latency.add(event.ended_ns.saturating_sub(event.fetched_ns));
        }
    }

    pub(super) fn read(&self) -> Statistics {
        let mut statistics = Statistics::default();
        for (sqid, live) in (0..=u16::MAX).zip(&self.queues) {
            let mut tally = Tally::default();
            tally.add(live);
            if tally != Tally::default() {
                statistics.queues.push(QueueTally { sqid, tally });
            }
        }
        for shard in &self.shards {
            let namespaces = &mut statistics.namespaces;
            namespaces.resize(shard.namespaces.len(), Tally::default());
            for (tally, live) in namespaces.iter_mut().zip(&shard.namespaces) {
                tally.add(live);
            }
        }
        for operation in Operation::ALL {
            let mut latency = Latency::default();
            for shard in &self.shards {
                if let Some(histogram) = shard.latency.get(operation as usize) {
                    latency.add(histogram);
                }
            }
            if latency.count() > 0 {
                statistics.latency.push((operation, latency));
            }
        }
        statistics
    }
}
