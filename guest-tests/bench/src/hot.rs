//! The loop that is timed.

use alloc::vec::Vec;

use nvme_host::{Lane, Transport};
use nvme_spec::{Sqe, Status};

use crate::{Case, Histogram, Measured, Op, Wait};

/// How long a command may take, in nanoseconds.
const PATIENCE_NS: u64 = 10_000_000_000;
/// The fewest operations that are measured, however long they take.
pub(crate) const LEAST: u64 = 32;
/// How many looks in vain there are between looks at the clock.
const LOOKS: u32 = 4096;

/// A queue pair and the commands that it is kept full of.
pub(crate) struct Queue {
    pub(crate) lane: Lane,
    /// By CID.
    pub(crate) slots: Vec<Slot>,
}

/// A command that is submitted again and again, at other places.
pub(crate) struct Slot {
    /// The entry; its CID is the slot's index.
    pub(crate) sqe: Sqe,
    /// The memory it transfers from or to.
    pub(crate) buffer: u64,
    /// The transfer's place: so many transfers behind the first.
    pub(crate) place: u64,
    started_ns: u64,
}

impl Slot {
    pub(crate) const fn new(sqe: Sqe, buffer: u64) -> Self {
        Self {
            sqe,
            buffer,
            place: 0,
            started_ns: 0,
        }
    }
}

/// Where transfers go.
#[derive(Clone, Copy)]
pub(crate) struct Places {
    /// How many there are.
    pub(crate) count: u64,
    /// Logical blocks of each.
    pub(crate) blocks: u64,
}

/// How long to measure.
#[derive(Clone, Copy)]
pub(crate) struct Times {
    pub(crate) warm_ns: u64,
    pub(crate) ns: u64,
}

/// Why a loop gave up.
pub(crate) enum Broken {
    /// Nothing came for as long as [`PATIENCE_NS`].
    Stuck,
    /// A completion with this status.
    Status(Status),
    /// A completion of no command.
    Cid(u16),
}

/// A generator that needs a few cycles (xorshift64*).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// A number below `end`, which is not 0.
    #[inline]
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let mixed = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D);
        let wide = (u128::from(mixed) * u128::from(end)) >> 64;
        // Below `end`.
        u64::try_from(wide).unwrap_or(0)
    }
}

impl Queue {
    /// Submits a slot's command at another place, without the doorbell.
    #[inline]
    fn submit<T: Transport + ?Sized>(
        &mut self,
        transport: &mut T,
        cid: usize,
        (places, random): (Places, &mut Random),
        now_ns: u64,
    ) {
        if let Some(slot) = self.slots.get_mut(cid) {
            slot.place = random.below(places.count);
            slot.sqe.set_slba(slot.place * places.blocks);
            slot.started_ns = now_ns;
            self.lane.store(transport, &slot.sqe);
        }
    }
}

/// Keeps every queue full until the time is over and [`LEAST`] operations were measured, and then until every command has ended.
pub(crate) fn measure<T: Transport + ?Sized>(
    transport: &mut T,
    queues: &mut [Queue],
    (case, vector): (&Case, u16),
    (times, places): (Times, Places),
    random: &mut Random,
    histogram: &mut Histogram,
) -> Result<Measured, Broken> {
    let rings = |queues: &[Queue]| -> u64 {
        let each = queues.iter().map(|queue| queue.lane.doorbell_writes());
        each.sum()
    };
    let (rings_before, interrupts_before) = (rings(queues), transport.interrupts(vector));
    let mut now = transport.now_ns();
    let warm = now.saturating_add(times.warm_ns);
    let end = warm.saturating_add(times.ns);
    let mut from = None;
    let mut outstanding = 0u64;
    let mut all_ops = 0u64;
    for queue in &mut *queues {
        for cid in 0..queue.slots.len() {
            queue.submit(transport, cid, (places, random), now);
            outstanding += 1;
        }
        queue.lane.ring(transport);
    }
    let mut looks = 0;
    let mut until = now;
    histogram.clear();
    while outstanding > 0 {
        let seen = match case.wait {
            Wait::Polled => 0,
            Wait::Interrupt => transport.interrupts(vector),
        };
        let mut found = false;
        for queue in &mut *queues {
            let mut any = false;
            while let Some(cqe) = queue.lane.next(transport) {
                any = true;
                now = transport.now_ns();
                let cid = usize::from(cqe.cid);
                let Some(slot) = queue.slots.get(cid) else {
                    return Err(Broken::Cid(cqe.cid));
                };
                if !cqe.status().is_success() {
                    return Err(Broken::Status(cqe.status()));
                }
                all_ops += 1;
                let took = now.saturating_sub(slot.started_ns);
                if now < end || histogram.count() < LEAST {
                    if from.is_some() {
                        histogram.record(took);
                        until = now;
                    } else if now >= warm {
                        from = Some(now);
                    }
                    queue.submit(transport, cid, (places, random), now);
                } else {
                    outstanding -= 1;
                }
            }
            if any {
                found = true;
                queue.lane.ring(transport);
                queue.lane.ack(transport);
            }
        }
        if found {
            looks = 0;
            continue;
        }
        match case.wait {
            Wait::Interrupt => {
                if !transport.wait_interrupt(vector, seen, PATIENCE_NS) {
                    return Err(Broken::Stuck);
                }
            }
            Wait::Polled => {
                transport.relax();
                looks += 1;
                if looks == LOOKS {
                    looks = 0;
                    if transport.now_ns().saturating_sub(now) > PATIENCE_NS {
                        return Err(Broken::Stuck);
                    }
                }
            }
        }
    }
    let ns = from.map_or(0, |from| until.saturating_sub(from));
    Ok(Measured {
        all_ops,
        rings: rings(queues) - rings_before,
        interrupts: transport.interrupts(vector) - interrupts_before,
        ..Measured::of(histogram, ns)
    })
}

impl Op {
    /// The command of `blocks` logical blocks at the start of the namespace.
    pub(crate) fn command(self, nsid: u32, blocks: u64) -> Sqe {
        let nlb_z = u16::try_from(blocks.saturating_sub(1)).unwrap_or(u16::MAX);
        match self {
            Self::Read => nvme_host::command::read(nsid, 0, nlb_z),
            Self::Write => nvme_host::command::write(nsid, 0, nlb_z),
        }
    }
}
