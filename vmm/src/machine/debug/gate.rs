//! Where the CPUs' threads and the debugger's meet.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use kvm_ioctls::VcpuFd;
use rustix::event::{EventfdFlags, eventfd};

use super::super::error::MachineError;
use super::super::vcpu::CpuThread;
use super::{Ended, Stop};

/// Work for a CPU's thread.
pub(super) type Request = Box<dyn FnOnce(&mut VcpuFd) + Send>;

/// The CPUs' and the debugger's common state.
pub(crate) struct Gate {
    /// Whether a CPU has to look at its slot: set and cleared under the lock.
    wanted: AtomicBool,
    state: Mutex<State>,
    /// For CPUs: there is work, or they may go on.
    orders: Condvar,
    /// For the debugger: a CPU stands, or is no more.
    reports: Condvar,
    event: OwnedFd,
}

#[derive(Default)]
struct State {
    slots: Vec<Slot>,
    attached: bool,
    ended: bool,
}

/// One CPU.
struct Slot {
    place: Place,
    /// What it shall do; it looks when `wanted` says so and when it stands.
    run: bool,
    stop: Option<Stop>,
    request: Option<Request>,
}

enum Place {
    NotStarted,
    Running(CpuThread),
    Standing,
    Gone,
}

/// Ends the gate when the run is over, or never begins.
pub(crate) struct GateOwner(pub(crate) Arc<Gate>);

impl Drop for GateOwner {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Takes a CPU off the list when its thread ends, by panic too.
pub(crate) struct Entered {
    gate: Arc<Gate>,
    cpu: usize,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut state = self.gate.lock();
        if let Some(slot) = state.slots.get_mut(self.cpu) {
            slot.place = Place::Gone;
            slot.request = None;
        }
        self.gate.reports.notify_all();
    }
}

impl Gate {
    pub(crate) fn new(cpus: usize) -> Result<Self, MachineError> {
        let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
        let event = eventfd(0, flags).map_err(|error| host(error.into()))?;
        let slots = std::iter::repeat_with(|| Slot {
            place: Place::NotStarted,
            run: true,
            stop: None,
            request: None,
        });
        Ok(Self {
            wanted: AtomicBool::new(false),
            state: Mutex::new(State {
                slots: slots.take(cpus).collect(),
                ..Default::default()
            }),
            orders: Condvar::new(),
            reports: Condvar::new(),
            event,
        })
    }

    /// A CPU's thread begins; [`Entered`] says when it ends.
    pub(crate) fn enter(self: &Arc<Self>, cpu: u8, thread: CpuThread) -> Entered {
        let cpu = usize::from(cpu);
        if let Some(slot) = self.lock().slots.get_mut(cpu) {
            slot.place = Place::Running(thread);
        }
        Entered {
            gate: Arc::clone(self),
            cpu,
        }
    }

    /// Whether a CPU has to call [`Self::stand`].
    pub(crate) fn wanted(&self) -> bool {
        self.wanted.load(Ordering::SeqCst)
    }

    /// Whether a crash is to be shown to a debugger before the run ends by it.
    pub(crate) fn attached(&self) -> bool {
        self.lock().attached
    }

    /// A CPU stands until it is told to go on or the run ends, and does what it is asked to
    /// meanwhile. If it stopped by itself, the others are stopped too.
    pub(crate) fn stand(&self, cpu: u8, stop: Stop, fd: &mut VcpuFd) {
        let cpu = usize::from(cpu);
        let mut state = self.lock();
        let own = stop != Stop::Paused;
        if own {
            self.stop_all(&mut state);
        }
        let Some(slot) = state.slots.get_mut(cpu) else {
            return;
        };
        let Place::Running(thread) = slot.place else {
            return;
        };
        if slot.run {
            return; // resumed in the meantime
        }
        slot.place = Place::Standing;
        slot.stop = Some(stop);
        self.reports.notify_all();
        if own {
            self.signal();
        }
        while !state.ended {
            let Some(slot) = state.slots.get_mut(cpu) else {
                return;
            };
            if let Some(request) = slot.request.take() {
                drop(state);
                request(fd);
                state = self.lock();
                continue;
            }
            if slot.run {
                break;
            }
            state = self
                .orders
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(slot) = state.slots.get_mut(cpu) {
            slot.place = Place::Running(thread);
            (slot.stop, slot.request) = (None, None);
        }
    }

    /// The run is over: CPUs that stand go on to see that, and the debugger is told.
    pub(crate) fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        for slot in &mut state.slots {
            slot.request = None;
        }
        self.orders.notify_all();
        self.reports.notify_all();
        self.signal();
    }

    pub(super) fn events(&self) -> Result<OwnedFd, MachineError> {
        self.event.try_clone().map_err(host)
    }

    pub(super) fn hold(&self) {
        self.stop_all(&mut self.lock());
    }

    pub(super) fn attach(&self, attached: bool) {
        self.lock().attached = attached;
    }

    pub(super) fn pause(&self) -> Result<(), Ended> {
        let mut state = self.lock();
        self.stop_all(&mut state);
        loop {
            if state.ended {
                return Err(Ended);
            }
            let moving = |slot: &Slot| matches!(slot.place, Place::NotStarted | Place::Running(_));
            if !state.slots.iter().any(moving) {
                return Ok(());
            }
            state = self
                .reports
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(super) fn resume(&self, run: impl Fn(usize) -> bool) {
        let mut state = self.lock();
        for (cpu, slot) in state.slots.iter_mut().enumerate() {
            slot.run = run(cpu);
            if slot.run && slot.stop.is_some() {
                // What it stood for is over, even if it is stopped again before it has run.
                slot.stop = Some(Stop::Paused);
            }
        }
        self.wanted.store(false, Ordering::SeqCst);
        self.orders.notify_all();
    }

    pub(super) fn stop(&self, cpu: usize) -> Option<Stop> {
        self.lock()
            .slots
            .get(cpu)
            .and_then(|slot| slot.stop.clone())
    }

    pub(super) fn ended(&self) -> bool {
        self.lock().ended
    }

    pub(super) fn request(&self, cpu: usize, request: Request) -> Result<(), Ended> {
        let mut state = self.lock();
        if state.ended {
            return Err(Ended);
        }
        match state.slots.get_mut(cpu) {
            Some(slot) if matches!(slot.place, Place::Standing) => slot.request = Some(request),
            _ => return Err(Ended),
        }
        self.orders.notify_all();
        Ok(())
    }

    /// Tells every CPU to stand. The flag comes before the signal, so that a CPU that the signal
    /// finds outside KVM_RUN sees the flag.
    fn stop_all(&self, state: &mut State) {
        for slot in &mut state.slots {
            slot.run = false;
        }
        self.wanted.store(true, Ordering::SeqCst);
        for slot in &state.slots {
            if let Place::Running(thread) = slot.place {
                thread.kick();
            }
        }
    }

    fn signal(&self) {
        // Fails only when the counter is full, and then it is readable.
        let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn host(source: std::io::Error) -> MachineError {
    MachineError::Host {
        what: "an eventfd of the debugger",
        source,
    }
}
