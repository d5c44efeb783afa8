//! Worker threads: each polls one shard, and sleeps on an eventfd when there is nothing to do.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nvme::{Clock, Controller, Shard, Wake};
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    fd::OwnedFd,
};
use thiserror::Error;

use super::MonotonicClock;

/// Commands a poll may fetch before it looks at its mailbox again.
const BUDGET: u32 = 64;

/// How many times longer than [`WaitPolicy::spin`] a worker may poll: 200 microseconds by default,
/// as KVM does for a halted CPU.
const LONGEST: u32 = 10;
/// How many sleeps it polls no longer than that after it has polled so long in vain.
const PATIENCE: u32 = 100;

/// How the worker threads wait for work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WaitPolicy {
    /// How long a worker polls without finding work before it sleeps. When work comes soon after
    /// that it polls longer the next time, up to ten times as long, until it has slept or polled
    /// so long in vain: a sleep costs its host a ring, which may take longer than the work.
    pub spin: Duration,
}

/// How long a worker polls now.
#[derive(Debug)]
struct Spin {
    policy: WaitPolicy,
    limit: Duration,
    /// How many more sleeps polling longer is not tried.
    given_up: u32,
}

impl Spin {
    const fn new(policy: WaitPolicy) -> Self {
        Self {
            policy,
            limit: policy.spin,
            given_up: 0,
        }
    }

    /// Learns from a sleep: polling longer would have found the work, or not.
    fn slept(&mut self, time: Duration) {
        let longest = self.policy.spin * LONGEST;
        let soon = time < longest;
        if self.given_up > 0 {
            self.given_up -= 1;
        } else if soon && self.limit < longest {
            self.limit = (self.limit * 2).min(longest);
            return;
        } else if soon {
            // Nothing for so long, and soon after we left the CPU: its host may have waited for it.
            self.given_up = PATIENCE;
        }
        self.limit = self.policy.spin;
    }
}

impl Default for WaitPolicy {
    /// 20 microseconds: about what waking a thread costs.
    fn default() -> Self {
        Self {
            spin: Duration::from_micros(20),
        }
    }
}

/// The threads could not be started.
#[derive(Debug, Error)]
#[error("a worker thread cannot be started")]
pub struct WorkersError(#[source] io::Error);

impl<E: Into<io::Error>> From<E> for WorkersError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

/// A worker thread panicked: a defect of the controller.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("a thread of the controller panicked: {0}")]
pub struct WorkerPanic(String);

/// Running worker threads; they end when this is dropped.
pub struct Workers {
    threads: Vec<Worker>,
}

/// How often a worker slept, counted by it.
#[derive(Debug, Default)]
pub struct WorkerSleeps {
    woken: AtomicU64,
    timed_out: AtomicU64,
}

impl WorkerSleeps {
    /// Sleeps that something ended: the controller, or a doorbell that KVM wakes it for.
    #[must_use]
    pub fn woken(&self) -> u64 {
        self.woken.load(Ordering::Relaxed)
    }

    /// Sleeps that ended at a deadline.
    #[must_use]
    pub fn timed_out(&self) -> u64 {
        self.timed_out.load(Ordering::Relaxed)
    }

    /// The worker's own: nobody else writes.
    fn slept(&self, woken: bool) {
        let count = match woken {
            true => &self.woken,
            false => &self.timed_out,
        };
        let before = count.load(Ordering::Relaxed);
        count.store(before.wrapping_add(1), Ordering::Relaxed);
    }
}

struct Worker {
    stop: Arc<AtomicBool>,
    sleeps: Arc<WorkerSleeps>,
    wake: Arc<WakeFd>,
    thread: Option<JoinHandle<()>>,
}

/// Wakes a worker by an eventfd.
struct WakeFd(OwnedFd);

impl Wake for WakeFd {
    fn wake(&self) {
        // A full counter is a wake-up already.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }
}

impl Workers {
    /// Starts a thread for each shard. Should one panic, the controller reports a fatal error to
    /// its host and `on_panic` is called; [`stop`](Self::stop) tells of it. They poll by the clock of
    /// the controller's [`Watch`](nvme::trace::Watch), if it has one.
    ///
    /// # Errors
    /// When the kernel gives no eventfd or thread.
    pub fn start(
        controller: &Arc<Controller>,
        shards: Vec<Shard>,
        policy: WaitPolicy,
        on_panic: impl Fn() + Clone + Send + 'static,
    ) -> Result<Self, WorkersError> {
        let mut workers = Self {
            threads: Vec::with_capacity(shards.len()),
        };
        let watch = &controller.config().watch;
        let own = || Arc::new(MonotonicClock::start()) as Arc<dyn Clock>;
        let clock = watch.clock.clone().unwrap_or_else(own);
        let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
        for shard in shards {
            let stop = Arc::new(AtomicBool::new(false));
            let wake = Arc::new(WakeFd(eventfd(0, flags)?));
            controller.set_waker(shard.id(), wake.clone());
            let (stopped, woken, failed) = (stop.clone(), wake.clone(), controller.clone());
            let on_panic = on_panic.clone();
            let sleeps = Arc::new(WorkerSleeps::default());
            let (clock, slept) = (clock.clone(), sleeps.clone());
            let thread = thread::Builder::new()
                .name(format!("nvme-{}", shard.id()))
                .spawn(move || {
                    let polling = AssertUnwindSafe(|| {
                        let polled = Polled {
                            stop: &stopped,
                            wake: &woken.0,
                            clock: &*clock,
                            sleeps: &slept,
                        };
                        run(shard, &polled, policy);
                    });
                    if let Err(panic) = catch_unwind(polling) {
                        // The guest must not wait for ever.
                        failed.fail();
                        on_panic();
                        resume_unwind(panic);
                    }
                })?;
            workers.threads.push(Worker {
                stop,
                sleeps,
                wake,
                thread: Some(thread),
            });
        }
        Ok(workers)
    }
}

impl Workers {
    /// What wakes each shard's worker, shard 0's first.
    pub fn wakers(&self) -> impl Iterator<Item = Arc<dyn Wake>> {
        self.threads
            .iter()
            .map(|worker| -> Arc<dyn Wake> { worker.wake.clone() })
    }

    /// How often each worker slept, shard 0's first; to be looked at while it runs.
    pub fn sleeps(&self) -> impl Iterator<Item = Arc<WorkerSleeps>> {
        self.threads.iter().map(|worker| worker.sleeps.clone())
    }

    /// The eventfd that each worker sleeps on, shard 0's first: descriptors of the caller's own.
    /// A write to it wakes the worker.
    pub fn wake_fds(&self) -> impl Iterator<Item = io::Result<OwnedFd>> {
        self.threads.iter().map(|worker| worker.wake.0.try_clone())
    }

    /// Ends the threads.
    ///
    /// # Errors
    /// [`WorkerPanic`] when one of them had panicked.
    pub fn stop(mut self) -> Result<(), WorkerPanic> {
        self.join()
    }

    fn join(&mut self) -> Result<(), WorkerPanic> {
        for worker in &self.threads {
            worker.stop.store(true, Ordering::Release);
            worker.wake.wake();
        }
        let mut result = Ok(());
        for worker in &mut self.threads {
            if let Some(Err(panic)) = worker.thread.take().map(JoinHandle::join) {
                let text = panic.downcast_ref::<&str>().copied();
                let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
                result = Err(WorkerPanic(text.unwrap_or("no message").to_string()));
            }
        }
        result
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        if let Err(panic) = self.join() {
            tracing::error!("{panic}");
        }
    }
}

/// What a worker polls by.
struct Polled<'a> {
    stop: &'a AtomicBool,
    wake: &'a OwnedFd,
    clock: &'a dyn Clock,
    sleeps: &'a WorkerSleeps,
}

fn run(mut shard: Shard, by: &Polled<'_>, policy: WaitPolicy) {
    let mut idle_since: Option<u64> = None;
    let mut spin = Spin::new(policy);
    while !by.stop.load(Ordering::Acquire) {
        // Once a poll: a look at the clock takes as long as a good part of a poll in vain.
        let now = by.clock.now_ns();
        let progress = shard.poll(now, BUDGET);
        if progress.commands > 0 || progress.completions > 0 || progress.more {
            idle_since = None;
            continue;
        }
        let since = *idle_since.get_or_insert(now);
        if Duration::from_nanos(now.saturating_sub(since)) < spin.limit {
            std::hint::spin_loop();
            continue;
        }
        if shard.park() {
            let asleep = by.clock.now_ns();
            let deadline = progress.deadline_ns;
            let woken = wait(by.wake, deadline.map(|at| at.saturating_sub(asleep)));
            shard.unpark();
            by.sleeps.slept(woken);
            // A deadline of its own says nothing of when the guest comes back.
            if woken {
                let slept = by.clock.now_ns().saturating_sub(asleep);
                spin.slept(Duration::from_nanos(slept));
            }
        }
        idle_since = None;
    }
}

/// Sleeps until the eventfd is written, as it says, or `timeout_ns` has passed.
fn wait(wake: &OwnedFd, timeout_ns: Option<u64>) -> bool {
    let timeout = timeout_ns.map(|ns| Timespec {
        tv_sec: i64::try_from(ns / 1_000_000_000).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(ns % 1_000_000_000).unwrap_or(0),
    });
    // An interrupted wait only polls early, and an empty counter reads nothing.
    let _ = poll(&mut [PollFd::new(wake, PollFlags::IN)], timeout.as_ref());
    rustix::io::read(wake, &mut [0u8; 8]).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_is_woken_soon_polls_longer_up_to_a_limit() {
        let us = Duration::from_micros;
        let mut spin = Spin::new(WaitPolicy { spin: us(20) });
        let mut limits = Vec::new();
        for slept in [199, 0, 50, 199, 200, 10, 1_000_000] {
            spin.slept(us(slept));
            limits.push(spin.limit.as_micros());
        }
        assert_eq!(limits, [40, 80, 160, 200, 20, 40, 20]);
    }

    #[test]
    fn a_worker_that_has_polled_longest_in_vain_does_not_for_a_while() {
        let us = Duration::from_micros;
        let mut spin = Spin::new(WaitPolicy { spin: us(20) });
        let mut sleeps = || {
            spin.slept(us(10));
            spin.limit.as_micros()
        };
        let first: Vec<_> = (0..4).map(|_| sleeps()).collect();
        assert_eq!(first, [40, 80, 160, 200]);
        for _ in 0..=PATIENCE {
            assert_eq!(sleeps(), 20);
        }
        assert_eq!(sleeps(), 40);
    }

    #[test]
    fn a_worker_that_shall_not_poll_never_does() {
        let mut spin = Spin::new(WaitPolicy {
            spin: Duration::ZERO,
        });
        spin.slept(Duration::ZERO);
        assert_eq!(spin.limit, Duration::ZERO);
    }
}
