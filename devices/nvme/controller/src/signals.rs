//! What the controller asks of whoever hosts it.

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
