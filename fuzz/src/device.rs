//! A backend that takes its time, has no room, or fails, as the input says.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use storage::{
    BlockDevice, BlockQueue, Capabilities, Geometry, GuestRam, IoError, OpenError, Queue, Reaped,
    Request, Submitted, ram::Ram,
};

/// What becomes of requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Mood {
    /// As the memory behind it says.
    #[default]
    Pass,
    /// They are kept, and let go in the order they came.
    Hold,
    /// They are kept, and let go newest first.
    HoldNewestFirst,
    /// There is no room for them.
    Full,
    /// They fail at once.
    Fail,
    /// They are kept, and fail when they are let go.
    FailLater,
}

/// Every mood.
pub(crate) const MOODS: [Mood; 6] = [
    Mood::Pass,
    Mood::Hold,
    Mood::HoldNewestFirst,
    Mood::Full,
    Mood::Fail,
    Mood::FailLater,
];

#[derive(Debug, Default)]
struct State {
    mood: Mood,
    /// Kept requests that may go.
    released: usize,
}

/// A device in memory whose queues obey a [`Mood`].
#[derive(Clone)]
pub(crate) struct Moody {
    ram: Arc<Ram>,
    state: Arc<Mutex<State>>,
}

impl Moody {
    pub(crate) fn new(bytes: u64) -> Self {
        Self {
            ram: Arc::new(Ram::new(bytes).expect("memory")),
            state: Arc::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What becomes of requests from now on.
    pub(crate) fn set(&self, mood: Mood) {
        self.state().mood = mood;
    }

    /// Lets kept requests go.
    pub(crate) fn release(&self, count: usize) {
        let mut state = self.state();
        state.released = state.released.saturating_add(count);
    }

    /// Lets everything through from now on.
    pub(crate) fn open(&self) {
        self.set(Mood::Pass);
        self.release(usize::MAX);
    }

    /// Keeps requests again, if the mood says so.
    pub(crate) fn close(&self) {
        self.state().released = 0;
    }
}

impl BlockDevice for Moody {
    fn geometry(&self) -> Geometry {
        self.ram.geometry()
    }

    fn capabilities(&self) -> Capabilities {
        self.ram.capabilities()
    }

    fn open_queue(&self, depth: usize) -> Result<Queue, OpenError> {
        Ok(Queue::Other(Box::new(MoodyQueue {
            device: self.clone(),
            inner: self.ram.open_queue(depth)?,
            kept: VecDeque::new(),
        })))
    }
}

struct MoodyQueue {
    device: Moody,
    inner: Queue,
    /// Requests, and whether they will fail.
    kept: VecDeque<(Box<Request>, bool)>,
}

const FAILURE: IoError = IoError::Backend { errno: 5 };

impl BlockQueue for MoodyQueue {
    fn submit(&mut self, mut request: Box<Request>, memory: &Arc<GuestRam>) -> Submitted {
        let mood = self.device.state().mood;
        match mood {
            Mood::Pass => return self.inner.submit(request, memory),
            Mood::Full => return Submitted::Full(request),
            Mood::Fail => return Submitted::Done(request, Err(FAILURE)),
            Mood::Hold | Mood::HoldNewestFirst | Mood::FailLater => {}
        }
        request.memory = Some(memory.clone());
        self.kept.push_back((request, mood == Mood::FailLater));
        Submitted::Pending
    }

    fn reap(&mut self, done: &mut Vec<Reaped>) {
        self.inner.reap(done);
        loop {
            let newest = {
                let mut state = self.device.state();
                if state.released == 0 || self.kept.is_empty() {
                    return;
                }
                if state.released != usize::MAX {
                    state.released -= 1;
                }
                state.mood == Mood::HoldNewestFirst
            };
            let next = if newest {
                self.kept.pop_back()
            } else {
                self.kept.pop_front()
            };
            let Some((mut request, fails)) = next else {
                return;
            };
            let memory = request.memory.take().expect("kept with its memory");
            if fails {
                done.push((request, Err(FAILURE)));
                continue;
            }
            match self.inner.submit(request, &memory) {
                Submitted::Done(request, result) => done.push((request, result)),
                Submitted::Pending => {}
                Submitted::Full(mut request) => {
                    request.memory = Some(memory);
                    self.kept.push_front((request, false));
                    return;
                }
            }
        }
    }

    fn pending(&self) -> usize {
        self.kept.len() + self.inner.pending()
    }

    fn runnable(&self) -> bool {
        self.inner.runnable() || (!self.kept.is_empty() && self.device.state().released > 0)
    }
}
