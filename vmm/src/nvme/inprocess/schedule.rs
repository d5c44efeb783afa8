//! When the shards of a stepped controller run, decided by a seed.
//!
//! A machine's threads run when its operating system lets them, its CPUs' writes reach a device
//! some time after they were made, and its clock moves while nobody looks. A [`Schedule`] is a
//! choice of all that: in which order shards are polled and which are left out, how much each may
//! do, whether they sleep as worker threads do and how late they wake, how late doorbells arrive,
//! whether the controller runs between two accesses of its host, and how the clock steps.

use std::ops::RangeInclusive;

/// Clock steps of the even-handed schedule, in nanoseconds.
const EVEN_STEP_NS: u64 = 1_000;
/// Commands a shard may fetch in a poll of the even-handed schedule.
const EVEN_BUDGET: u32 = 16;
/// How long a shard that has something to do may wait for its next poll under any schedule, in
/// nanoseconds and on average: hosts give up on a controller that never runs.
const LONGEST_WAIT_NS: u64 = 400_000;

/// Which shards are polled in a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Order {
    /// All, from one that chance names on; one of several is passed over one time in four.
    Rotating,
    /// All, from the first to the last.
    Fixed,
    /// One that chance names.
    Single,
    /// One, up to so many times in a row.
    Bursts {
        longest: u64,
        shard: usize,
        left: u64,
    },
    /// All, but one of them hardly ever.
    Starving { shard: u64, one_in: u64 },
}

impl Order {
    /// About how many steps one of a few shards waits for its turn.
    const fn wait(self) -> u64 {
        match self {
            Self::Rotating | Self::Fixed => 2,
            Self::Single => 4,
            Self::Bursts { longest, .. } => 2 * longest,
            Self::Starving { one_in, .. } => one_in,
        }
    }
}

/// When the shards run, and what else a seed decides about a stepped controller.
#[derive(Clone, Debug)]
pub struct Schedule {
    random: Random,
    order: Order,
    /// Commands that a poll may fetch.
    budget: RangeInclusive<u32>,
    /// How far a step moves the clock, in nanoseconds.
    step_ns: RangeInclusive<u64>,
    /// Shards without work sleep, and oversleep a wake-up by up to so many of their turns.
    oversleep: Option<u64>,
    /// Doorbell writes arrive up to so many steps late, in order.
    doorbell_delay: u64,
    /// The controller runs between two accesses of its host, one time in so many.
    between_accesses: Option<u64>,
}

impl Schedule {
    /// The even-handed schedule: every shard runs often, has a fair budget and never sleeps, a
    /// step takes a microsecond, and what the host writes is there at once.
    #[must_use]
    pub const fn even(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            order: Order::Rotating,
            budget: EVEN_BUDGET..=EVEN_BUDGET,
            step_ns: EVEN_STEP_NS..=EVEN_STEP_NS,
            oversleep: None,
            doorbell_delay: 0,
            between_accesses: None,
        }
    }

    /// The even-handed schedule, with shards that sleep when they have nothing to do, and wake when
    /// they are woken.
    #[must_use]
    pub const fn sleeping(seed: u64) -> Self {
        Self {
            oversleep: Some(0),
            ..Self::even(seed)
        }
    }

    /// A schedule whose every trait the seed decides: fair or not.
    #[must_use]
    pub fn any(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let oversleep = match random.below(4) {
            0 => Some(0),
            1 => Some(random.range(1..=8)),
            _ => None,
        };
        // A shard that oversleeps misses its turns anyway.
        let longest = if oversleep > Some(0) { 8 } else { 48 };
        let order = match random.below(6) {
            0 => Order::Fixed,
            1 => Order::Single,
            2 => Order::Bursts {
                longest: random.range(4..=longest),
                shard: 0,
                left: 0,
            },
            3 | 4 => Order::Starving {
                shard: random.below(64),
                one_in: random.range(4..=longest),
            },
            _ => Order::Rotating,
        };
        let budget = match random.below(5) {
            0 => 1..=1,
            1 => 1..=3,
            2 => 64..=64,
            3 => 1..=256,
            _ => EVEN_BUDGET..=EVEN_BUDGET,
        };
        let fastest = LONGEST_WAIT_NS / (order.wait() * (1 + oversleep.unwrap_or_default()));
        let step_ns = match random.below(4) {
            0 => 1..=EVEN_STEP_NS,
            1 => 1..=fastest,
            2 => fastest..=fastest,
            _ => EVEN_STEP_NS..=EVEN_STEP_NS,
        };
        let doorbell_delay = match random.below(3) {
            0 => random.range(1..=16),
            _ => 0,
        };
        let between_accesses = match random.below(3) {
            0 => Some(random.range(1..=8)),
            _ => None,
        };
        Self {
            random,
            order,
            budget,
            step_ns,
            oversleep,
            doorbell_delay,
            between_accesses,
        }
    }

    /// The shards to poll in a step, in order, of `count`.
    pub(super) fn turn(&mut self, count: usize, turn: &mut Vec<usize>) {
        turn.clear();
        if count == 0 {
            return;
        }
        let random = &mut self.random;
        match &mut self.order {
            Order::Fixed => turn.extend(0..count),
            Order::Single => turn.push(random.index(count)),
            Order::Bursts {
                longest,
                shard,
                left,
            } => {
                if *left == 0 {
                    *shard = random.index(count);
                    *left = random.range(1..=*longest);
                }
                *left -= 1;
                turn.push(*shard);
            }
            Order::Starving { shard, one_in } => {
                let starved = usize::try_from(*shard % count as u64).unwrap_or_default();
                let fed = random.one_in(*one_in);
                let first = random.index(count);
                let all = (first..count).chain(0..first);
                turn.extend(all.filter(|&shard| shard != starved || fed));
            }
            Order::Rotating => {
                let first = random.index(count);
                let all = (first..count).chain(0..first);
                turn.extend(all.filter(|_| count == 1 || !random.one_in(4)));
            }
        }
    }

    /// Commands that the next poll may fetch.
    pub(super) fn budget(&mut self) -> u32 {
        let (low, high) = (*self.budget.start(), *self.budget.end());
        let budget = self.random.range(low.into()..=high.into());
        u32::try_from(budget).unwrap_or(high)
    }

    /// How far the next step moves the clock, in nanoseconds.
    pub(super) fn step_ns(&mut self) -> u64 {
        self.random.range(self.step_ns.clone())
    }

    /// Whether shards sleep when they have nothing to do.
    pub(super) const fn sleeps(&self) -> bool {
        self.oversleep.is_some()
    }

    /// For how many of its turns a shard that goes to sleep now will oversleep what wakes it.
    pub(super) fn oversleep(&mut self) -> u64 {
        self.random.range(0..=self.oversleep.unwrap_or_default())
    }

    /// For how many steps a doorbell write is on its way; `None`: it is there at once.
    pub(super) fn doorbell_delay(&mut self) -> Option<u64> {
        (self.doorbell_delay > 0).then(|| self.random.range(0..=self.doorbell_delay))
    }

    /// Whether the controller runs before the host's next access.
    pub(super) fn between_accesses(&mut self) -> bool {
        let one_in = self.between_accesses;
        one_in.is_some_and(|one_in| self.random.one_in(one_in))
    }
}

/// SplitMix64: seeds next to each other give sequences that have nothing in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Random(u64);

impl Random {
    const fn new(seed: u64) -> Self {
        Self(seed)
    }

    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`; 0 for a limit of 0.
    fn below(&mut self, limit: u64) -> u64 {
        self.next().checked_rem(limit).unwrap_or_default()
    }

    fn range(&mut self, range: RangeInclusive<u64>) -> u64 {
        let (low, high) = range.into_inner();
        low + self.below((high - low).saturating_add(1))
    }

    fn index(&mut self, count: usize) -> usize {
        usize::try_from(self.below(count as u64)).unwrap_or_default()
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, reason = "tests")]
mod tests {
    use super::*;

    /// How often each of `count` shards is polled in `steps`.
    fn polls(schedule: &mut Schedule, count: usize, steps: usize) -> Vec<usize> {
        let (mut polls, mut turn) = (vec![0; count], Vec::new());
        for _ in 0..steps {
            schedule.turn(count, &mut turn);
            turn.iter().for_each(|&shard| polls[shard] += 1);
        }
        polls
    }

    #[test]
    fn every_schedule_polls_every_shard_in_the_end() {
        for seed in 0..200 {
            for count in 1..=4 {
                let polls = polls(&mut Schedule::any(seed), count, 4000);
                assert!(polls.iter().all(|&n| n > 0), "seed {seed}: {polls:?}");
            }
        }
    }

    #[test]
    fn seeds_give_all_characters() {
        let mut seen = [0; 10];
        for seed in 0..200 {
            let schedule = Schedule::any(seed);
            match schedule.order {
                Order::Rotating => seen[0] += 1,
                Order::Fixed => seen[1] += 1,
                Order::Single => seen[2] += 1,
                Order::Bursts { .. } => seen[3] += 1,
                Order::Starving { .. } => seen[4] += 1,
            }
            seen[5] += usize::from(schedule.budget == (1..=1));
            seen[6] += usize::from(schedule.oversleep.is_some());
            seen[7] += usize::from(schedule.doorbell_delay > 0);
            seen[8] += usize::from(schedule.between_accesses.is_some());
            seen[9] += usize::from(*schedule.step_ns.end() > EVEN_STEP_NS);
        }
        assert!(seen.iter().all(|&n| n >= 15), "{seen:?}");
    }

    #[test]
    fn a_starved_shard_gets_a_small_part() {
        let mut schedule = Schedule {
            order: Order::Starving {
                shard: 1,
                one_in: 50,
            },
            ..Schedule::even(1)
        };
        let polls = polls(&mut schedule, 2, 5000);
        assert!(
            polls[0] == 5000 && (50..200).contains(&polls[1]),
            "{polls:?}"
        );
    }
}
