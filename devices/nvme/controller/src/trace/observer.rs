//! A shard's eye on its commands.

use std::sync::Arc;

use nvme_spec::Sqe;

use super::{
    CommandEvent, End, Tag, Watcher,
    event::Dropped,
    record::{Held, Records},
};
use crate::{ids::ShardId, shared::Shared};

/// Follows the commands of a shard; its thread has it alone.
pub(crate) struct Observer {
    shard: ShardId,
    watcher: Arc<Watcher>,
    records: Arc<Records>,
    /// Places of the table that no command has.
    free: Vec<u16>,
    /// When the entries that are being executed were fetched.
    fetched_ns: u64,
    /// The time of the last poll.
    now_ns: u64,
}

impl Observer {
    /// Of a shard; `None` if nothing is watched.
    pub(crate) fn new(shared: &Shared, shard: ShardId) -> Option<Box<Self>> {
        let watcher = shared.watcher.clone()?;
        let records = watcher.records(shard)?;
        let places = u16::try_from(records.places()).unwrap_or(u16::MAX);
        Some(Box::new(Self {
            shard,
            watcher,
            records,
            free: (0..places).rev().collect(),
            fetched_ns: 0,
            now_ns: 0,
        }))
    }

    /// A poll begins.
    pub(crate) fn poll(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        self.watcher.polled(now_ns);
    }

    /// Entries were copied.
    pub(crate) fn fetched(&mut self) {
        self.fetched_ns = self.time();
    }

    /// The time of what happens now: by the clock where that matters, else of the poll.
    fn time(&self) -> u64 {
        let exact = self.watcher.counters.is_some() || self.watcher.is_tracing();
        let clock = self.watcher.watch.clock.as_ref().filter(|_| exact);
        clock.map_or(self.now_ns, |clock| clock.now_ns())
    }

    /// A command begins, one of the entries that were copied last.
    pub(crate) fn begin(&mut self, sqid: u16, sqe: &Sqe) -> Tag {
        if !self.watcher.follows() {
            return Tag::NONE;
        }
        let Some(place) = self.free.pop() else {
            debug_assert!(false, "more commands are under way than can be");
            return Tag::NONE;
        };
        let held = Held {
            sqid,
            sqe: *sqe,
            fetched_ns: self.fetched_ns,
            ended_ns: self.fetched_ns,
            end: End::Pending,
        };
        self.records.begin(place, &held);
        Tag(place)
    }

    /// A command has ended. A second end of the same changes nothing.
    pub(crate) fn end(&mut self, shared: &Shared, tag: Tag, end: End) {
        if tag == Tag::NONE {
            return;
        }
        let Some(held) = self.records.take(tag.0) else {
            debug_assert!(false, "a command has ended twice");
            return;
        };
        self.free.push(tag.0);
        // The clock may have been asked at the fetch and not be now: the poll began before.
        let ended_ns = self.time().max(held.fetched_ns);
        let event = CommandEvent {
            shard: self.shard,
            sqid: held.sqid,
            sqe: held.sqe,
            fetched_ns: held.fetched_ns,
            ended_ns,
            end,
        };
        self.records.end(&Held {
            ended_ns,
            end,
            ..held
        });
        if let Some(counters) = &self.watcher.counters {
            counters.count(&event, bytes(shared, &event));
        }
        if self.watcher.is_tracing()
            && let Some(trace) = &self.watcher.watch.trace
        {
            trace.command(&event);
        }
    }

    /// Ends all commands that are under way, those first that were fetched first.
    pub(crate) fn end_all(&mut self, shared: &Shared, why: Dropped) {
        let mut left: Vec<(u16, Held)> = self.records.under_way().collect();
        left.sort_by_key(|(_, held)| held.fetched_ns);
        for (place, _) in left {
            self.end(shared, Tag(place), End::Dropped(why));
        }
    }
}

/// Bytes that a command with blocks is about, in the format that its namespace has: a Format NVM
/// that is under way waits for the command.
fn bytes(shared: &Shared, event: &CommandEvent) -> u64 {
    let Some((_, nlb)) = event.blocks() else {
        return 0;
    };
    let namespace = shared.namespace(event.sqe.nsid);
    let format = namespace.and_then(|namespace| namespace.format(namespace.index()));
    format.map_or(0, |format| nlb << format.lba_shift)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::{
        config::ControllerConfig,
        signals::{Clock, Trace},
        trace::{LifecycleEvent, Polled, Watch},
    };

    struct Nobody;

    impl Trace for Nobody {
        fn command(&self, _: &CommandEvent) {}

        fn lifecycle(&self, _: &LifecycleEvent) {}
    }

    impl Clock for Nobody {
        fn now_ns(&self) -> u64 {
            9
        }
    }

    fn observer(watch: Watch) -> Observer {
        let config = ControllerConfig {
            watch: Watch {
                trace: Some(Arc::new(Nobody)),
                ..watch
            },
            ..ControllerConfig::default()
        };
        let watcher = Watcher::new(&config).expect("watched");
        let records = watcher.records(0).expect("a shard");
        Observer {
            shard: 0,
            watcher,
            records,
            free: vec![1, 0],
            fetched_ns: 0,
            now_ns: 0,
        }
    }

    #[test]
    fn what_goes_nowhere_is_not_written_down() {
        let mut silent = observer(Watch::default());
        assert_eq!(silent.begin(1, &Sqe::default()), Tag::NONE);
        assert_eq!(silent.watcher.recorded(), []);
        assert!(silent.watcher.set_tracing(true));
        assert_eq!(silent.begin(1, &Sqe::default()), Tag(0));
        assert_eq!(silent.watcher.recorded().len(), 1);
        for (recorder, statistics) in [(1, false), (0, true)] {
            let mut kept = observer(Watch {
                recorder,
                statistics,
                ..Watch::default()
            });
            assert_eq!(kept.begin(1, &Sqe::default()), Tag(0));
        }
    }

    #[test]
    fn polls_tell_the_others_the_time_only_where_there_is_no_clock() {
        let polled = |observer: &Observer| observer.watcher.polled_ns.0.load(Ordering::Relaxed);
        let mut without = observer(Watch::default());
        without.poll(5);
        assert_eq!(polled(&without), 5);
        let mut with = observer(Watch {
            clock: Some(Arc::new(Nobody)),
            ..Watch::default()
        });
        with.poll(5);
        assert_eq!(polled(&with), 0);
        assert!(align_of::<Polled>() >= 128, "beside what others read");
    }
}
