//! The threads of an image, and what waits for them.

use std::{
    collections::VecDeque,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
};

use rustix::io::Errno;

use super::io::Disk;
use crate::{IoError, Notify, Op};

/// Threads of an image: system calls under way at a time.
const THREADS: usize = 4;

/// What a thread is to do for a request, or for a part of it.
#[derive(Debug)]
pub(super) struct Job {
    /// The request's place in its queue.
    pub(super) slot: usize,
    pub(super) op: Op,
    /// First byte on the device, bytes, and how many of these are done.
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) done: u64,
    /// The data of a read, write or compare; else scratch.
    pub(super) buffer: Vec<u8>,
    /// As [`Request::whole`](crate::Request::whole).
    pub(super) whole: bool,
    /// What it writes, or what it has read, is durable when it is done.
    pub(super) durable: bool,
    /// The round of its queue that it is of.
    pub(super) round: u64,
    pub(super) result: Result<(), IoError>,
}

impl Job {
    /// Whether it may be given up where it is. Zeroes are written to the end: that is a write,
    /// which may be promised whole; one of data is a single turn.
    fn may_end(&self) -> bool {
        self.op != Op::WriteZeroes
    }
}

/// Where a queue finds its jobs again.
#[derive(Default)]
pub(super) struct Inbox {
    finished: Mutex<Vec<Job>>,
    /// How many there are.
    count: AtomicUsize,
    /// Jobs of an earlier round are given up.
    round: AtomicU64,
    notify: Mutex<Option<Arc<dyn Notify>>>,
}

impl Inbox {
    pub(super) fn set_notify(&self, notify: Arc<dyn Notify>) {
        *lock(&self.notify) = Some(notify);
    }

    pub(super) fn round(&self) -> u64 {
        self.round.load(Ordering::Acquire)
    }

    /// Whether a job has come back.
    pub(super) fn has_finished(&self) -> bool {
        self.count.load(Ordering::Acquire) > 0
    }

    /// Swaps the finished jobs with an empty list.
    pub(super) fn take(&self, into: &mut Vec<Job>) {
        if self.has_finished() {
            let mut finished = lock(&self.finished);
            std::mem::swap(&mut *finished, into);
            self.count.store(finished.len(), Ordering::Release);
        }
    }

    fn deliver(&self, job: Job) {
        let mut finished = lock(&self.finished);
        finished.push(job);
        self.count.store(finished.len(), Ordering::Release);
        drop(finished);
        if let Some(notify) = &*lock(&self.notify) {
            notify.notify();
        }
    }
}

/// A job and where it goes when it is done.
struct Errand {
    job: Job,
    inbox: Arc<Inbox>,
}

#[derive(Default)]
struct Todo {
    errands: VecDeque<Errand>,
    stopping: bool,
}

struct Shared {
    disk: Disk,
    todo: Mutex<Todo>,
    changed: Condvar,
}

/// The threads; they end when this is dropped, and what they have not begun is not done.
pub(super) struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Pool").field(&self.shared.disk).finish()
    }
}

impl Pool {
    pub(super) fn start(disk: Disk) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            disk,
            todo: Mutex::default(),
            changed: Condvar::new(),
        });
        let mut pool = Self {
            shared,
            threads: Vec::with_capacity(THREADS),
        };
        for _ in 0..THREADS {
            let shared = pool.shared.clone();
            let thread = thread::Builder::new().name("image".to_string());
            pool.threads.push(thread.spawn(move || work(&shared))?);
        }
        Ok(pool)
    }

    /// What its threads work on.
    #[cfg(test)]
    pub(super) fn disk(&self) -> &Disk {
        &self.shared.disk
    }

    /// Has a job done.
    pub(super) fn send(&self, inbox: &Arc<Inbox>, job: Job) {
        let inbox = inbox.clone();
        lock(&self.shared.todo)
            .errands
            .push_back(Errand { job, inbox });
        self.shared.changed.notify_one();
    }

    /// Gives up what a queue has here, as far as it may end: its jobs come back at once if no
    /// thread has them, and else when the system call has ended.
    pub(super) fn cancel(&self, inbox: &Arc<Inbox>) {
        inbox.round.fetch_add(1, Ordering::AcqRel);
        let mut todo = lock(&self.shared.todo);
        let (given_up, kept): (VecDeque<_>, _) = std::mem::take(&mut todo.errands)
            .into_iter()
            .partition(|errand| Arc::ptr_eq(&errand.inbox, inbox) && errand.job.may_end());
        todo.errands = kept;
        drop(todo);
        for Errand { mut job, inbox } in given_up {
            job.result = Err(IoError::Cancelled);
            inbox.deliver(job);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        lock(&self.shared.todo).stopping = true;
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            // Panics are caught within.
            let _ = thread.join();
        }
    }
}

/// A thread: turns of jobs, the oldest first; one that is not done goes behind the others.
fn work(shared: &Shared) {
    while let Some(mut errand) = next(shared) {
        let Errand { job, inbox } = &mut errand;
        let turn = if job.round != inbox.round() && job.may_end() {
            Err(IoError::Cancelled)
        } else {
            let turn = AssertUnwindSafe(|| shared.disk.turn(job));
            // The guest must not wait for ever for a defect of ours.
            catch_unwind(turn).unwrap_or(Err(IoError::Backend {
                errno: Errno::IO.raw_os_error(),
            }))
        };
        match turn {
            Ok(false) => lock(&shared.todo).errands.push_back(errand),
            ended => {
                errand.job.result = ended.map(drop);
                errand.inbox.deliver(errand.job);
            }
        }
    }
}

/// Waits for the next one; `None` when the threads are to end.
fn next(shared: &Shared) -> Option<Errand> {
    let mut todo = lock(&shared.todo);
    loop {
        if todo.stopping {
            return None;
        }
        if let Some(errand) = todo.errands.pop_front() {
            return Some(errand);
        }
        todo = shared
            .changed
            .wait(todo)
            .unwrap_or_else(PoisonError::into_inner);
    }
}

/// Nothing under these locks can panic half way.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
