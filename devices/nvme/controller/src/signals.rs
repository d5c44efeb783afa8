//! What the controller asks of whoever hosts it.

use crate::lint::Report;

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
