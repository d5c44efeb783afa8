//! A block device that does all that a backend may do.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use storage::{
    BlockDevice, BlockQueue, Capabilities, Geometry, GuestRam, IoError, Op, OpenError, Queue,
    Reaped, Request, STEP_BYTES, Submitted,
};

use crate::choices::{Choices, Seeded};

/// About the most pieces of a request that moves data, and of one that does not.
const MOST_PIECES: [u64; 2] = [24, 4];

/// What a device is like. Times are in calls of `reap`.
#[derive(Clone, Copy, Debug)]
pub struct Traits {
    /// Bytes of the smallest piece that data is moved in: a piece never ends elsewhere than at a
    /// multiple of it from the request's start.
    pub grain: u64,
    /// The largest piece, in grains.
    pub pieces: u64,
    /// One call in so many does a request a piece further.
    pub slowness: u64,
    /// Requests that a queue holds.
    pub depth: usize,
    /// One request in so many fails; 0: none. It does at a multiple of `block` bytes.
    pub failing: u64,
    /// Bytes that are written whole or not at all, whatever fails.
    pub block: u64,
    /// The device works on by itself, and cannot tell when it will have something.
    pub asynchronous: bool,
}

impl Traits {
    /// The traits that a seed gives a device of `block` bytes a block, moving them in pieces of at
    /// least `grain` bytes.
    #[must_use]
    pub fn of(seed: u64, block: u64, grain: u64) -> Self {
        let mut seeded = Seeded::new(seed);
        let choices: &mut dyn Choices = &mut seeded;
        Self {
            grain,
            pieces: choices.pick(&[1, 2, 8, 64]),
            slowness: choices.pick(&[1, 1, 2, 6]),
            depth: choices.pick(&[1, 2, 8, 256]),
            failing: 0,
            block,
            asynchronous: choices.one_in(2),
        }
    }
}

/// The device. Its bytes begin as zeroes, and discarded ones are zeroes again.
#[derive(Clone)]
pub struct Unsteady(Arc<Mutex<State>>, u64);

struct State {
    bytes: Vec<u8>,
    traits: Traits,
    choices: Seeded,
}

impl fmt::Debug for Unsteady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Unsteady {{ {} bytes, {:?} }}",
            self.1,
            self.state().traits
        )
    }
}

impl Unsteady {
    /// A device of `bytes` bytes; `seed` decides what it does when.
    #[must_use]
    pub fn new(bytes: u64, traits: Traits, seed: u64) -> Self {
        let state = State {
            bytes: vec![0; usize::try_from(bytes).unwrap_or_default()],
            traits,
            choices: Seeded::new(seed),
        };
        Self(Arc::new(Mutex::new(state)), bytes)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BlockDevice for Unsteady {
    fn geometry(&self) -> Geometry {
        Geometry { bytes: self.1 }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            keeps_data: true,
            discard_zeroes: true,
            volatile_cache: false,
        }
    }

    fn open_queue(&self, _depth: usize) -> Result<Queue, OpenError> {
        Ok(Queue::Other(Box::new(UnsteadyQueue {
            device: self.clone(),
            held: Vec::new(),
        })))
    }
}

struct UnsteadyQueue {
    device: Unsteady,
    held: Vec<Held>,
}

struct Held {
    request: Box<Request>,
    /// It fails when so many bytes are done.
    fails_at: Option<u64>,
}

impl BlockQueue for UnsteadyQueue {
    fn submit(&mut self, mut request: Box<Request>, memory: &Arc<GuestRam>) -> Submitted {
        if let Err(error) = request.end_within(self.device.1) {
            return Submitted::Done(request, Err(error));
        }
        if request.op == Op::Write
            && let Err(error) = request.check_mapped(memory)
        {
            return Submitted::Done(request, Err(error));
        }
        let mut state = self.device.state();
        if self.held.len() >= state.traits.depth {
            return Submitted::Full(request);
        }
        let Traits { failing, block, .. } = state.traits;
        let choices: &mut dyn Choices = &mut state.choices;
        let fails = failing > 0 && choices.one_in(failing);
        let fails_at = fails.then(|| block * choices.below(request.len / block + 1));
        // Some are done before the submitter can look.
        if fails_at.is_none() && choices.one_in(4) {
            loop {
                match state.step(&mut request, memory, u64::MAX) {
                    Ok(true) => return Submitted::Done(request, Ok(())),
                    Err(error) => return Submitted::Done(request, Err(error)),
                    Ok(false) => {}
                }
            }
        }
        request.memory = Some(memory.clone());
        self.held.push(Held { request, fails_at });
        Submitted::Pending
    }

    fn reap(&mut self, done: &mut Vec<Reaped>) {
        let mut state = self.device.state();
        let mut at = 0;
        while let Some(held) = self.held.get_mut(at) {
            let Traits {
                slowness, pieces, ..
            } = state.traits;
            let choices: &mut dyn Choices = &mut state.choices;
            if !choices.one_in(slowness) {
                at += 1;
                continue;
            }
            let pieces = choices.range(1..=pieces);
            match state.proceed(held, pieces) {
                Ok(false) => at += 1,
                result => {
                    // The last takes its place: the order is nobody's.
                    let Held { mut request, .. } = self.held.swap_remove(at);
                    request.memory = None;
                    done.push((request, result.map(drop)));
                }
            }
        }
    }

    fn pending(&self) -> usize {
        self.held.len()
    }

    fn runnable(&self) -> bool {
        !self.held.is_empty() && !self.device.state().traits.asynchronous
    }
}

impl State {
    /// Does up to `pieces` of a request; whether that was the rest.
    fn proceed(&mut self, held: &mut Held, pieces: u64) -> Result<bool, IoError> {
        let request = &mut held.request;
        let Some(memory) = request.memory.clone() else {
            return Err(IoError::Cancelled);
        };
        // A long one has no more pieces than a short one, or it would take for ever.
        let grain = self.traits.grain;
        let moves = matches!(request.op, Op::Read | Op::Write | Op::Compare);
        let pieces_at_most = MOST_PIECES[usize::from(!moves)];
        let least = (request.len / pieces_at_most).next_multiple_of(grain);
        let mut most = (pieces * grain).min(STEP_BYTES).max(least);
        if let Some(fails_at) = held.fails_at {
            most = most.min(fails_at.saturating_sub(request.progress));
            if most == 0 {
                const EIO: i32 = 5;
                return Err(IoError::Backend { errno: EIO });
            }
        }
        self.step(request, &memory, most)
    }

    /// Does up to `most` bytes of a request; whether that was the rest.
    fn step(
        &mut self,
        request: &mut Request,
        memory: &GuestRam,
        most: u64,
    ) -> Result<bool, IoError> {
        let from = request.progress;
        let end = request.end.min(request.len);
        let to = end.min(from.saturating_add(most));
        let start = request.offset;
        let place = |from: u64, len: usize| {
            let from = usize::try_from(start + from).unwrap_or_default();
            from..from + len
        };
        let len = usize::try_from(to - from).unwrap_or_default();
        match request.op {
            Op::Flush | Op::Verify => {}
            Op::WriteZeroes | Op::Discard => self.bytes[place(from, len)].fill(0),
            Op::Read | Op::Write | Op::Compare => {
                let bytes = &mut self.bytes;
                request.for_each_slice(memory, from, to, |at, guest| {
                    let here = &mut bytes[place(at, guest.len())];
                    match request.op {
                        Op::Read => guest.copy_from(here),
                        Op::Write => drop(guest.copy_to(here)),
                        _ => {
                            let mut theirs = vec![0; guest.len()];
                            guest.copy_to(&mut theirs);
                            if theirs != here {
                                return Err(IoError::Miscompare);
                            }
                        }
                    }
                    Ok(())
                })?;
            }
        }
        request.progress = to;
        Ok(to >= end)
    }
}
