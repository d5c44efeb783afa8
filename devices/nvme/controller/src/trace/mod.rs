//! What the controller does, command by command: traced, recorded and counted.
//!
//! A configuration with a [`Watch`] has each shard follow its commands from the fetch to their end.
//! What is known of a command is a [`CommandEvent`]: it goes to a [`Trace`] when
//! tracing is on ([`Controller::set_tracing`](crate::Controller::set_tracing)), to the flight
//! recorder, a ring that any thread may read at any time
//! ([`Controller::recorded`](crate::Controller::recorded)), and into counters
//! ([`Controller::statistics`](crate::Controller::statistics)). Without a watch it costs a branch at
//! the fetch and one at the end.
//!
//! How a command is followed. When its completion slot is reserved it gets a `Tag`, a place in
//! its shard's table of commands under way, which travels with the slot and beyond it: commands that
//! hand their slot back (an Asynchronous Event Request, the Abort of one) keep the tag. The end
//! takes the tag back, so that each command ends once; what a reset leaves behind is ended by it.
//! A command that is fetched while there is neither recorder nor counter and tracing is off has no
//! tag: it is not told of when tracing is switched on before its end.
//!
//! Time. The core has no clock. Times are those of the polls, unless the watch has a
//! [`Clock`] and tracing or statistics are on: then it is read once for the entries
//! copied together and once at each end, for a command that is done within a poll would take no time
//! else.
//!
//! Who writes what. A shard's table, ring and counters are written by its own thread alone, with
//! plain stores; a reader finds a record whole or does not see it (`record`). Nothing is allocated
//! and nothing waits.

mod event;
mod histogram;
mod observer;
mod record;
#[cfg(test)]
mod record_tests;
mod tally;

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

pub(crate) use self::observer::Observer;
pub use self::{
    event::{CommandEvent, Detail, Dropped, End, LifecycleEvent},
    histogram::Latency,
    tally::{Operation, QueueTally, Statistics, Tally},
};
use self::{record::Records, tally::Counters};
use crate::{
    config::ControllerConfig,
    ids::ShardId,
    lifecycle::{Event, Lifecycle},
    signals::{Clock, Trace},
};

/// The most commands of a shard that the flight recorder can keep.
pub const MAX_RECORDER: u32 = 65_536;

/// How closely the controller is watched. The default is not at all.
#[derive(Clone, Default)]
pub struct Watch {
    /// Where events go: of commands while tracing is on, of the lifecycle always.
    pub trace: Option<Arc<dyn Trace>>,
    /// Tracing is on from the start.
    pub tracing: bool,
    /// Commands that the flight recorder keeps of each shard, up to [`MAX_RECORDER`]; 0: none.
    pub recorder: u32,
    /// Commands are counted by queue, namespace and operation, and how long they took.
    pub statistics: bool,
    /// The clock of events and latencies; it must be the one that polls are given.
    pub clock: Option<Arc<dyn Clock>>,
}

impl Watch {
    /// Whether commands have to be followed.
    const fn follows(&self) -> bool {
        self.trace.is_some() || self.recorder > 0 || self.statistics
    }
}

/// A command's place in its shard's table of commands under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Tag(pub(crate) u16);

impl Tag {
    /// The command is not followed.
    pub(crate) const NONE: Self = Self(u16::MAX);
}

/// A time that every shard stores, on a line of its own: what lies beside it is read for each
/// command.
#[derive(Default)]
#[repr(align(128))]
struct Polled(AtomicU64);

/// What the shards and those who ask have in common.
pub(crate) struct Watcher {
    watch: Watch,
    tracing: AtomicBool,
    /// The time of the last poll of any shard, for events that no shard sees, where there is no
    /// clock to ask.
    polled_ns: Polled,
    shards: Vec<Arc<Records>>,
    counters: Option<Counters>,
}

impl Watcher {
    /// Of a valid configuration; `None` if nothing is to be watched.
    pub(crate) fn new(config: &ControllerConfig) -> Option<Arc<Self>> {
        let watch = config.watch.clone();
        if !watch.follows() {
            return None;
        }
        let shards = 0..config.shards;
        let records = |shard| Arc::new(Records::new(shard == 0, watch.recorder));
        Some(Arc::new(Self {
            tracing: AtomicBool::new(watch.tracing && watch.trace.is_some()),
            polled_ns: Polled::default(),
            shards: shards.map(records).collect(),
            counters: watch.statistics.then(|| Counters::new(config)),
            watch,
        }))
    }

    /// Has commands traced or not; whether they are, for without a sink they never are.
    pub(crate) fn set_tracing(&self, on: bool) -> bool {
        let on = on && self.watch.trace.is_some();
        self.tracing.store(on, Ordering::Relaxed);
        on
    }

    pub(crate) fn is_tracing(&self) -> bool {
        self.tracing.load(Ordering::Relaxed)
    }

    /// Whether what a command does goes anywhere.
    fn follows(&self) -> bool {
        self.watch.recorder > 0 || self.counters.is_some() || self.is_tracing()
    }

    /// A shard polls at this time.
    fn polled(&self, now_ns: u64) {
        if self.watch.trace.is_some() && self.watch.clock.is_none() {
            self.polled_ns.0.store(now_ns, Ordering::Relaxed);
        }
    }

    /// The commands that the flight recorder keeps, and those under way, oldest end first.
    pub(crate) fn recorded(&self) -> Vec<CommandEvent> {
        let shards = (0..).zip(&self.shards);
        let mut all: Vec<CommandEvent> = shards
            .flat_map(|(shard, records)| records.read(shard))
            .collect();
        // Those under way have no end: they are last. A shard's order stays.
        all.sort_by_key(|event| match event.end {
            End::Pending => (true, event.fetched_ns),
            _ => (false, event.ended_ns),
        });
        all
    }

    pub(crate) fn statistics(&self) -> Option<Statistics> {
        self.counters.as_ref().map(Counters::read)
    }

    /// The lifecycle took a step.
    pub(crate) fn stepped(&self, from: Lifecycle, event: Event, to: Lifecycle) {
        if let Some(trace) = &self.watch.trace {
            let clock = self.watch.clock.as_ref();
            trace.lifecycle(&LifecycleEvent {
                time_ns: clock.map_or_else(
                    || self.polled_ns.0.load(Ordering::Relaxed),
                    |clock| clock.now_ns(),
                ),
                from,
                event,
                to,
            });
        }
    }

    fn records(&self, shard: ShardId) -> Option<Arc<Records>> {
        self.shards.get(usize::from(shard)).cloned()
    }
}
