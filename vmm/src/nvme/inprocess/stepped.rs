//! Shards that one thread polls, as a schedule says, with a clock of their own.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use nvme::{Controller, Shard, Wake};

use super::schedule::Schedule;

/// The shards, and the clock.
pub(super) struct Stepped {
    seats: Vec<Seat>,
    pub(super) now_ns: u64,
    schedule: Schedule,
    /// Doorbell writes on their way, oldest first.
    posted: VecDeque<Posted>,
    /// Steps so far.
    steps: u64,
    /// Scratch for the shards of a step.
    turn: Vec<usize>,
}

/// A shard, and whether it sleeps.
struct Seat {
    shard: Shard,
    woken: Arc<Woken>,
    state: State,
    /// When it has to be polled again.
    deadline_ns: Option<u64>,
}

/// What a shard is doing.
enum State {
    Awake,
    /// It found nothing to do and goes to sleep on its next turn: what is rung in between, it has
    /// to see then.
    Drowsy,
    /// It will miss so many of its turns once something wakes it.
    Asleep {
        oversleep: u64,
    },
}

/// Notes that a sleeping shard was woken.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A doorbell write that has not arrived.
struct Posted {
    due: u64,
    offset: u64,
    value: [u8; 4],
}

impl Stepped {
    pub(super) fn new(controller: &Controller, shards: Vec<Shard>, schedule: Schedule) -> Self {
        let seats = shards.into_iter().map(|shard| {
            let woken = Arc::new(Woken::default());
            controller.set_waker(shard.id(), woken.clone());
            Seat {
                shard,
                woken,
                state: State::Awake,
                deadline_ns: None,
            }
        });
        Self {
            seats: seats.collect(),
            now_ns: 0,
            schedule,
            posted: VecDeque::new(),
            steps: 0,
            turn: Vec::new(),
        }
    }

    /// What wakes each shard, shard 0 first.
    pub(super) fn wakers(&self) -> Vec<Arc<dyn Wake>> {
        let waker = |seat: &Seat| -> Arc<dyn Wake> { seat.woken.clone() };
        self.seats.iter().map(waker).collect()
    }

    pub(super) const fn advance(&mut self, ns: u64) {
        self.now_ns = self.now_ns.saturating_add(ns);
    }

    /// Moves the clock as far as a step does.
    pub(super) fn tick(&mut self) {
        let ns = self.schedule.step_ns();
        self.advance(ns);
    }

    /// Polls the shards whose turn it is and that do not sleep.
    pub(super) fn poll(&mut self) {
        self.steps += 1;
        self.schedule.turn(self.seats.len(), &mut self.turn);
        for &index in &self.turn {
            let Some(seat) = self.seats.get_mut(index) else {
                continue;
            };
            if let State::Drowsy = seat.state {
                seat.woken.0.store(false, Ordering::Relaxed);
                let oversleep = self.schedule.oversleep();
                seat.state = match seat.shard.park() {
                    true => State::Asleep { oversleep },
                    false => State::Awake,
                };
            }
            if !seat.is_awake(self.now_ns) {
                continue;
            }
            let progress = seat.shard.poll(self.now_ns, self.schedule.budget());
            seat.deadline_ns = progress.deadline_ns;
            let idle = progress.commands == 0 && progress.completions == 0 && !progress.more;
            if self.schedule.sleeps() && idle {
                seat.state = State::Drowsy;
            }
        }
    }

    /// Whether every shard would go to sleep now, or sleeps, and nothing is on its way to one.
    pub(super) fn all_idle(&mut self) -> bool {
        self.posted.is_empty()
            && self.seats.iter_mut().all(|seat| match seat.state {
                State::Asleep { .. } => !seat.woken.0.load(Ordering::Relaxed),
                State::Awake | State::Drowsy => {
                    let idle = seat.shard.park();
                    seat.shard.unpark();
                    idle
                }
            })
    }

    /// Moves the clock to the next deadline of a shard, but not beyond `end_ns`.
    pub(super) fn sleep(&mut self, end_ns: u64) {
        let next = self.seats.iter().filter_map(|seat| seat.deadline_ns).min();
        self.now_ns = next.unwrap_or(end_ns).min(end_ns).max(self.now_ns);
    }

    /// Whether the controller runs before the host's next access.
    pub(super) fn between_accesses(&mut self) -> bool {
        self.schedule.between_accesses()
    }

    /// Takes a doorbell write, if it is to arrive later. A write never overtakes another.
    pub(super) fn post(&mut self, offset: u64, value: [u8; 4]) -> bool {
        let Some(delay) = self.schedule.doorbell_delay() else {
            return false;
        };
        let due = self.steps.saturating_add(delay);
        self.posted.push_back(Posted { due, offset, value });
        true
    }

    /// A doorbell write that arrives now: whose time has come, or, if the host waits for `all`, any.
    pub(super) fn arrived(&mut self, all: bool) -> Option<(u64, [u8; 4])> {
        let first = self.posted.front()?;
        if !all && first.due > self.steps {
            return None;
        }
        let Posted { offset, value, .. } = self.posted.pop_front()?;
        Some((offset, value))
    }
}

impl Seat {
    /// Whether the shard is awake, or wakes now.
    fn is_awake(&mut self, now_ns: u64) -> bool {
        let State::Asleep { oversleep } = &mut self.state else {
            return true;
        };
        let due = self.deadline_ns.is_some_and(|at| at <= now_ns);
        if !due && !self.woken.0.load(Ordering::Relaxed) {
            return false;
        }
        if *oversleep > 0 {
            *oversleep -= 1;
            return false;
        }
        self.state = State::Awake;
        self.shard.unpark();
        true
    }
}
