//! Where MSI-X messages go: implemented by the front end.

/// A message as the table holds it (PCI 3.0, 6.8.2.6 to 6.8.2.8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MsiMessage {
    /// Guest physical address that the message is written to; a multiple of 4.
    pub address: u64,
    /// The 32 bits written there.
    pub data: u32,
}

/// Delivers the interrupts that [`Msix`](super::Msix) lets through: an irqfd with an MSI
/// route a vector under KVM, an eventfd a vector from a vfio-user client.
///
/// # What an implementer may rely on
///
/// - Vectors are below the function's vector count. Addresses and data are whatever the
///   guest wrote: an address outside the interrupt range is the implementer's to ignore.
/// - `route` and `commit` are called one at a time, never concurrently with each other.
/// - Before a vector is opened its message was given by `route` and then `commit` returned;
///   a `signal` that this opening lets through happens after both. A message that did not
///   change since the last `route` is not given again. (A vector that a client drives by
///   [`set_client_mask`](super::Msix::set_client_mask) is signalled without any route.)
/// - Table writes to a closed vector call nothing; closing a vector (mask, function mask,
///   disable, bus master off) calls nothing either: the old route stays, so a signal on its
///   way is delivered to it rather than lost.
/// - `route(vector, None)` comes only from [`Msix::reset`](super::Msix::reset).
/// - Each edge that found its vector open gives one `signal`; edges while it was closed give
///   one together when it opens.
///
/// # What an implementer must cope with
///
/// - `signal` is called from any thread, several at once, for one vector and for different
///   ones, also while `route` or `commit` runs.
/// - A `signal` may come a little after its vector was closed, rerouted or reset: it had
///   passed the gate before. It goes to the route of the moment.
/// - `signal` must not block, allocate or take a lock that `route` holds: writing an eventfd
///   is what it should do. `route` and `commit` may make a system call, but wait for nothing.
/// - None of them may call back into the [`Msix`](super::Msix) or its function.
pub trait MsiRouter: Send + Sync {
    /// Sets where `vector` goes from now on, or with `None` nowhere. It may take effect as
    /// late as the next [`commit`](Self::commit).
    fn route(&self, vector: u16, message: Option<MsiMessage>);

    /// Ends a batch of [`route`](Self::route) calls. A router that pays for each change (a
    /// whole KVM routing table) records in `route` and pays here, once.
    fn commit(&self) {}

    /// Delivers one interrupt for `vector`.
    fn signal(&self, vector: u16);
}
