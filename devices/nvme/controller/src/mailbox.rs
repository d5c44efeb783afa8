//! How shards, and the register front end, talk: a mailbox a shard, empty nearly always.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use storage::Notify;

use crate::{
    doorbell::Side,
    ids::{AdminTicket, Epoch, ShardId},
    park::Park,
    queue::{CompletionQueue, SubmissionQueue},
    shadow::ShadowBuffers,
    signals::Wake,
    sync::lock,
};

/// A message to a shard.
///
/// What shard 0 asks of others and what they answer carries the epoch it belongs to; a message of
/// another epoch than the receiver's is out of date and dropped.
#[derive(Debug)]
pub(crate) enum Message {
    /// To shard 0: read CC, AQA, ASQ and ACQ, make the admin queues, report.
    Enable,
    /// Fetch nothing more: the controller has failed.
    Halt,
    /// Finish or drop everything, then report for this round. A round that drops queues is an epoch.
    Quiesce { round: Epoch, drop_queues: bool },
    /// To shard 0: a namespace is not what it was.
    NamespaceChanged { nsid: u32 },
    /// To shard 0: a queue's values come from memory alone now, though it was made before Doorbell
    /// Buffer Config.
    Followed { epoch: Epoch, qid: u16, side: Side },
    /// Serve a new completion queue.
    AddCq {
        epoch: Epoch,
        queue: CompletionQueue,
    },
    /// Serve a new submission queue.
    AddSq {
        epoch: Epoch,
        queue: SubmissionQueue,
    },
    /// Stop serving a submission queue and end its commands.
    DeleteSq {
        epoch: Epoch,
        qid: u16,
        ticket: AdminTicket,
    },
    /// Stop serving a completion queue that no submission queue is bound to.
    DeleteCq {
        epoch: Epoch,
        qid: u16,
        ticket: AdminTicket,
    },
    /// Take tails and heads from shadow doorbells.
    TurnDoorbells {
        epoch: Epoch,
        buffers: ShadowBuffers,
        ticket: AdminTicket,
    },
    /// Say when no command in flight uses a namespace of these indices.
    Drain {
        epoch: Epoch,
        first: usize,
        last: usize,
        ticket: AdminTicket,
    },
    /// Flush, behind the commands in flight.
    Flush { epoch: Epoch, ticket: AdminTicket },
    /// Abort a command.
    Abort {
        epoch: Epoch,
        sqid: u16,
        cid: u16,
        ticket: AdminTicket,
    },
    /// To shard 0: the answer to one of the last six.
    Answer {
        epoch: Epoch,
        ticket: AdminTicket,
        answer: Answer,
    },
}

/// What a shard answers shard 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    /// The queue is gone.
    Deleted,
    /// Tails and heads come from shadow doorbells.
    Turned,
    /// Nothing uses the namespaces.
    Drained,
    /// What was written is durable.
    Flushed,
    /// It may not be.
    NotFlushed,
    /// The command was aborted.
    Aborted,
    /// The command was not there, or could not be aborted.
    NotAborted,
}

/// A shard's mailbox and its sleep.
pub(crate) struct Mailbox {
    waiting: AtomicUsize,
    /// A range that a command of the shard waits for may be free.
    nudged: AtomicBool,
    messages: Mutex<VecDeque<Message>>,
    park: Park,
    waker: Mutex<Option<Arc<dyn Wake>>>,
    /// How often it was called: by anyone, and so rarely that a locked instruction is no matter.
    wakes: AtomicU64,
}

impl Mailbox {
    pub(crate) fn new() -> Self {
        Self {
            waiting: AtomicUsize::new(0),
            nudged: AtomicBool::new(false),
            messages: Mutex::new(VecDeque::with_capacity(16)),
            park: Park::new(),
            waker: Mutex::new(None),
            wakes: AtomicU64::new(0),
        }
    }

    /// Adds a message and wakes the shard if it is parked.
    pub(crate) fn post(&self, message: Message) {
        let mut messages = lock(&self.messages);
        messages.push_back(message);
        self.waiting.store(messages.len(), Ordering::Release);
        drop(messages);
        self.ring();
    }

    /// The next message: one load when there is none.
    pub(crate) fn take(&self) -> Option<Message> {
        if self.is_empty() {
            return None;
        }
        let mut messages = lock(&self.messages);
        let message = messages.pop_front();
        self.waiting.store(messages.len(), Ordering::Release);
        message
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.load(Ordering::Acquire) == 0
    }

    /// Has the shard try again what waits for a range.
    fn nudge(&self) {
        self.nudged.store(true, Ordering::Release);
        self.ring();
    }

    /// Whether the shard is to try again what waits for a range.
    pub(crate) fn is_nudged(&self) -> bool {
        self.nudged.load(Ordering::Acquire)
    }

    /// The shard tries again now.
    pub(crate) fn clear_nudge(&self) {
        if self.is_nudged() {
            self.nudged.swap(false, Ordering::AcqRel);
        }
    }

    /// Wakes the shard if it is parked. Whatever the shard is to see was stored before.
    pub(crate) fn ring(&self) {
        if self.park.ring()
            && let Some(waker) = &*lock(&self.waker)
        {
            self.wakes.fetch_add(1, Ordering::Relaxed);
            waker.wake();
        }
    }

    /// How often the shard was woken from here.
    pub(crate) fn wakes(&self) -> u64 {
        self.wakes.load(Ordering::Relaxed)
    }

    /// The shard's sleep.
    pub(crate) const fn park(&self) -> &Park {
        &self.park
    }

    pub(crate) fn set_waker(&self, waker: Arc<dyn Wake>) {
        *lock(&self.waker) = Some(waker);
    }
}

/// The mailboxes of a controller.
pub(crate) struct Mailboxes(Box<[Mailbox]>);

impl Mailboxes {
    pub(crate) fn new(shards: ShardId) -> Self {
        Self((0..shards).map(|_| Mailbox::new()).collect())
    }

    pub(crate) fn get(&self, shard: ShardId) -> Option<&Mailbox> {
        self.0.get(usize::from(shard))
    }

    /// How often shards were woken from here.
    pub(crate) fn wakes(&self) -> u64 {
        self.0.iter().map(Mailbox::wakes).sum()
    }

    pub(crate) fn post(&self, shard: ShardId, message: Message) {
        if let Some(mailbox) = self.get(shard) {
            mailbox.post(message);
        }
    }

    pub(crate) fn nudge(&self, shard: ShardId) {
        if let Some(mailbox) = self.get(shard) {
            mailbox.nudge();
        }
    }

    pub(crate) fn ring(&self, shard: ShardId) {
        if let Some(mailbox) = self.get(shard) {
            mailbox.ring();
        }
    }
}

/// A backend's way to ring for the shard that has its queue. It holds nothing but the mailboxes:
/// whoever lets it go last ends no device.
pub(crate) struct Bell {
    pub(crate) mailboxes: Arc<Mailboxes>,
    pub(crate) shard: ShardId,
}

impl Notify for Bell {
    fn notify(&self) {
        self.mailboxes.ring(self.shard);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn messages_wake_who_sleeps_once_and_come_in_order() {
        let (mailbox, woken) = (Mailbox::new(), Arc::new(Woken::default()));
        mailbox.set_waker(woken.clone());
        mailbox.post(Message::Enable);
        assert_eq!(woken.0.load(Ordering::Relaxed), 0, "nobody slept");
        mailbox.park().park(|| ());
        mailbox.post(Message::Halt);
        mailbox.post(Message::Halt);
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(matches!(mailbox.take(), Some(Message::Enable)));
        assert!(matches!(mailbox.take(), Some(Message::Halt)));
        assert!(!mailbox.is_empty());
        assert!(mailbox.take().is_some());
        assert!(mailbox.is_empty() && mailbox.take().is_none());
    }
}
