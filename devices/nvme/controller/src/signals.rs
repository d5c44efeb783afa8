//! What the controller asks of whoever hosts it.

use crate::{
    lint::Report,
    trace::{CommandEvent, LifecycleEvent},
};

/// Where the controller's interrupts go.
pub trait Interrupt: Send + Sync {
    /// Signals an MSI-X vector once. Called by the threads that poll; must not block.
    fn signal(&self, vector: u16);
}

/// Wakes the thread that polls a shard.
pub trait Wake: Send + Sync {
    /// Makes the thread poll soon, wherever it is; called from any thread, must not block.
    fn wake(&self);
}

/// Where reports of what the host does wrong go; see [`lint`](crate::lint).
pub trait Lint: Send + Sync {
    /// Takes a report in. Called by any thread, one at a time, while the command or access that
    /// it is about waits; must not block, and must not call the controller.
    ///
    /// It may rely on order: what is found before a completion is reported before that completion
    /// is posted, and what an access shows before the access returns.
    fn report(&self, report: &Report);
}

/// The time, for whoever hosts a controller whose commands are [traced](crate::trace) or timed.
pub trait Clock: Send + Sync {
    /// Nanoseconds on the clock that [`Shard::poll`](crate::Shard::poll) is given; it does not go
    /// back. Called by the threads that poll, up to once a command.
    fn now_ns(&self) -> u64;
}

/// Where events go; see [`trace`](crate::trace).
///
/// Called by any thread, several at once, in the middle of what the event is about: an implementer
/// must not block, and must not call the controller. It drops what it cannot take, and counts that.
pub trait Trace: Send + Sync {
    /// A command has ended, once for each that is fetched and ends while tracing is on; where the
    /// controller also records or counts, whenever it was fetched. It may rely on order: the events of a submission queue come in the order of its completions.
    fn command(&self, event: &CommandEvent);

    /// The controller's lifecycle took a step, whether tracing is on or not.
    fn lifecycle(&self, event: &LifecycleEvent);
}

/// Lets a front end turn a doorbell into a wake-up that carries no value, as KVM's ioeventfd is.
///
/// A doorbell is offered once its value is read from memory alone (shadow doorbells), with
/// [`attach`](Self::attach), and taken back with [`detach`](Self::detach) when its queue is
/// deleted, and before CSTS.RDY reads 0 or CSTS.SHST says that a shutdown is complete.
///
/// Called by the thread that polls shard 0, one call at a time. An implementer must not wait for
/// a vCPU or a shard, and must not call the controller. It need not do anything: a write that
/// comes to [`Controller::bar_write`](crate::Controller::bar_write) has the same effect.
pub trait DoorbellWakes: Send + Sync {
    /// From now on a write of a dword at `offset` (bytes, in BAR0), whatever its value, needs only
    /// wake `shard`, as [`Wake::wake`] of that shard does.
    fn attach(&self, offset: u64, shard: u16);

    /// When this returns, writes at `offset` come to `Controller::bar_write` again. It may never
    /// have been attached.
    fn detach(&self, offset: u64);
}
