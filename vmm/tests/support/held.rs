//! A block device that keeps requests until it is told, or fails them.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use storage::{
    BlockDevice, BlockQueue, Capabilities, Geometry, GuestRam, IoError, Op, OpenError, Queue,
    Reaped, Request, Submitted,
};

/// What all queues of the device obey.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    /// Requests that may come back.
    pub(crate) open: usize,
    /// Requests a queue takes before it says it is full.
    pub(crate) depth: usize,
    /// Requests come back with this.
    pub(crate) fail: Option<IoError>,
    /// The thread that brings a request dies.
    pub(crate) deadly: bool,
    /// The request that came in last was to be durable when it ends.
    pub(crate) durable: bool,
    /// It has a volatile cache.
    pub(crate) volatile: bool,
    /// Flushes that have come in, of all queues.
    pub(crate) flushes: usize,
    /// Requests that have come in, of all queues.
    pub(crate) submitted: usize,
    /// Requests held now.
    pub(crate) held: usize,
}

/// The device: moves no data.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) gate: Arc<Mutex<Gate>>,
}

impl Held {
    pub(crate) fn new(depth: usize) -> Self {
        Self {
            gate: Arc::new(Mutex::new(Gate {
                depth,
                ..Gate::default()
            })),
        }
    }

    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut Gate) -> R) -> R {
        work(&mut self.gate.lock().expect("no panic"))
    }

    /// Lets `count` more requests come back.
    pub(crate) fn release(&self, count: usize) {
        self.with(|gate| gate.open += count);
    }
}

impl BlockDevice for Held {
    fn geometry(&self) -> Geometry {
        Geometry { bytes: 64 << 20 }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            keeps_data: false,
            discard_zeroes: false,
            volatile_cache: self.with(|gate| gate.volatile),
        }
    }

    fn open_queue(&self, _depth: usize) -> Result<Queue, OpenError> {
        Ok(Queue::Other(Box::new(HeldQueue {
            device: self.clone(),
            waiting: VecDeque::new(),
        })))
    }
}

struct HeldQueue {
    device: Held,
    waiting: VecDeque<Box<Request>>,
}

impl BlockQueue for HeldQueue {
    fn submit(&mut self, mut request: Box<Request>, memory: &Arc<GuestRam>) -> Submitted {
        let deadly = self.device.with(|gate| gate.deadly);
        assert!(!deadly, "a backend with a defect");
        let full = self.device.with(|gate| {
            let full = self.waiting.len() >= gate.depth;
            gate.durable = request.fua;
            gate.submitted += usize::from(!full);
            gate.flushes += usize::from(!full && request.op == Op::Flush);
            gate.held += usize::from(!full);
            full
        });
        if full {
            return Submitted::Full(request);
        }
        request.memory = Some(memory.clone());
        self.waiting.push_back(request);
        Submitted::Pending
    }

    fn reap(&mut self, done: &mut Vec<Reaped>) {
        let (count, result) = self.device.with(|gate| {
            let count = gate.open.min(self.waiting.len());
            gate.open -= count;
            gate.held -= count;
            (count, gate.fail.map_or(Ok(()), Err))
        });
        for mut request in self.waiting.drain(..count) {
            request.memory = None;
            done.push((request, result));
        }
    }

    fn pending(&self) -> usize {
        self.waiting.len()
    }

    fn runnable(&self) -> bool {
        self.device.with(|gate| gate.open > 0)
    }
}
