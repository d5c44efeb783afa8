//! Counters, one set a shard, written by its thread alone and read by anyone.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter with one writer.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Adds, without a locked instruction: only the owner calls it.
    pub(crate) fn add(&self, by: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(by),
            Ordering::Relaxed,
        );
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One shard's counters, on cache lines of their own: each shard writes its own all the time.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct ShardStats {
    pub(crate) admin_commands: Counter,
    pub(crate) io_commands: Counter,
    pub(crate) reads: Counter,
    pub(crate) writes: Counter,
    pub(crate) bytes_read: Counter,
    pub(crate) bytes_written: Counter,
    pub(crate) errors: Counter,
    pub(crate) media_errors: Counter,
    pub(crate) interrupts: Counter,
    pub(crate) polls: Counter,
}

/// What the controller has done since it was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Admin commands fetched.
    pub admin_commands: u64,
    /// I/O commands fetched.
    pub io_commands: u64,
    /// Read commands completed successfully.
    pub reads: u64,
    /// Write commands completed successfully.
    pub writes: u64,
    /// Bytes that successful reads moved.
    pub bytes_read: u64,
    /// Bytes that successful writes moved.
    pub bytes_written: u64,
    /// Commands completed with an error.
    pub errors: u64,
    /// Of those, failures of a backend.
    pub media_errors: u64,
    /// Interrupt vectors signalled.
    pub interrupts: u64,
    /// Polls of all shards.
    pub polls: u64,
    /// Wake-ups of sleeping shards: by doorbells that came to the controller, and by messages. What
    /// the front end wakes a shard with itself, as KVM's ioeventfds do, is not among them.
    pub wakes: u64,
}

impl Stats {
    /// All but the wake-ups, which are not counted by shards.
    pub(crate) fn sum<'a>(shards: impl IntoIterator<Item = &'a ShardStats>) -> Self {
        let mut sum = Self::default();
        for shard in shards {
            sum.admin_commands += shard.admin_commands.get();
            sum.io_commands += shard.io_commands.get();
            sum.reads += shard.reads.get();
            sum.writes += shard.writes.get();
            sum.bytes_read += shard.bytes_read.get();
            sum.bytes_written += shard.bytes_written.get();
            sum.errors += shard.errors.get();
            sum.media_errors += shard.media_errors.get();
            sum.interrupts += shard.interrupts.get();
            sum.polls += shard.polls.get();
        }
        sum
    }
}
