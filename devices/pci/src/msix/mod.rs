//! MSI-X: the vector table, the pending bits and the way from a signal to a message.
//!
//! Two sides meet here. Workers call [`Msix::signal`], often and from any thread; it looks
//! at the vector's gate, one atomic byte, and either delivers or leaves a pending bit. vCPUs
//! write the table and the capability; those calls take a lock among themselves, work out
//! which vectors are open, route what opens, and only then move the gates. The rules of the
//! gate are in `gate.rs`.
//!
//! A vector is open when MSI-X is enabled, the function mask is clear, the function is a bus
//! master and the entry is not masked (PCI 3.0, 6.8.2.3 and 6.8.2.9; 6.8.3.5).

mod gate;
mod layout;
mod router;
mod table;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use layout::MsixLayout;
pub use router::{MsiMessage, MsiRouter};

use crate::capability::msix;
use crate::function::read_absent;
use gate::{Edge, Gate};
use table::Table;

/// The bits of Message Control that software writes (PCI 3.0, 6.8.2.3). After reset both
/// are clear.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MsixControl {
    /// MSI-X Enable.
    pub enable: bool,
    /// Function Mask.
    pub function_mask: bool,
}

/// A function's MSI-X vectors.
///
/// Every method may be called from any thread at any time and none blocks, except for the
/// short lock that table and control writes share.
pub struct Msix {
    /// By vector; what `signal` looks at.
    gates: Box<[Gate]>,
    table: Mutex<Table>,
    router: Arc<dyn MsiRouter>,
}

impl Msix {
    /// `vectors` (1 to 2,048; more are cut off) in their state after reset: MSI-X disabled,
    /// every entry masked, nothing pending.
    #[must_use]
    pub fn new(vectors: u16, router: Arc<dyn MsiRouter>) -> Self {
        let vectors = vectors.min(msix::MAX_VECTORS);
        Self {
            gates: (0..vectors).map(|_| Gate::closed()).collect(),
            table: Mutex::new(Table::new(vectors)),
            router,
        }
    }

    /// Number of vectors.
    #[must_use]
    pub fn vectors(&self) -> u16 {
        u16::try_from(self.gates.len()).unwrap_or(msix::MAX_VECTORS)
    }

    /// Raises an interrupt on `vector`: delivered at once if the vector is open, otherwise
    /// its pending bit is set and it is delivered when the vector opens. A vector that does
    /// not exist is ignored.
    ///
    /// What the caller wrote before is visible to whoever handles the interrupt. Takes no
    /// lock; with the vector open it is one load and [`MsiRouter::signal`].
    pub fn signal(&self, vector: u16) {
        let Some(gate) = self.gates.get(usize::from(vector)) else {
            return;
        };
        match gate.signal() {
            Edge::Deliver => self.router.signal(vector),
            Edge::Kept | Edge::Coalesced => {}
        }
    }

    /// Takes back a pending interrupt whose reason has gone, because software has polled
    /// (PCI 3.0, 6.8.3.5). Not to be called while another thread may signal the vector for
    /// a new reason.
    pub fn clear_pending(&self, vector: u16) {
        if let Some(gate) = self.gates.get(usize::from(vector)) {
            gate.forget();
        }
    }

    /// Whether `vector` has an interrupt waiting.
    #[must_use]
    pub fn is_pending(&self, vector: u16) -> bool {
        self.gates
            .get(usize::from(vector))
            .is_some_and(Gate::is_pending)
    }

    /// Follows Message Control and bus mastering after a configuration write. Calls must be
    /// in the order of the writes.
    pub fn set_control(&self, control: MsixControl, bus_master: bool) {
        let mut table = self.lock();
        if table.set_control(control, bus_master) {
            self.follow(&mut table, 0..self.vectors());
        }
    }

    /// Lets the front end decide about `vector` instead of the table: `Some(masked)` masks
    /// it or opens it whatever table, Message Control and bus mastering say, `None` gives it
    /// back to them.
    ///
    /// For a front end whose client keeps the table itself and only says where each vector
    /// goes (vfio-user's SET_IRQS). Reset does not change it.
    pub fn set_client_mask(&self, vector: u16, masked: Option<bool>) {
        let mut table = self.lock();
        table.set_client_mask(vector, masked);
        self.follow(&mut table, vector..vector.saturating_add(1));
    }

    /// Reads the table at byte `offset`, with any width and alignment; past its end all
    /// ones.
    pub fn table_read(&self, offset: u64, data: &mut [u8]) {
        self.lock().read(offset, data);
    }

    /// Writes the table at byte `offset`.
    ///
    /// Software must use aligned dwords or qwords (PCI 3.0, 6.8.2). A write that starts on a
    /// dword and is a whole number of dwords long is done, all of it before any vector it
    /// touches is looked at, so a qword changes both address halves at once. Any other write
    /// is ignored, as is what lies past the end. Reserved bits stay 0.
    pub fn table_write(&self, offset: u64, data: &[u8]) {
        let mut table = self.lock();
        let touched = table.write(offset, data);
        self.follow(&mut table, touched);
    }

    /// Reads the pending bits at byte `offset` of the PBA, with any width and alignment;
    /// bits without a vector read 0, bytes past the end all ones (PCI 3.0, 6.8.2.10).
    ///
    /// There is no write: software must not write the PBA, and if it does nothing happens.
    pub fn pba_read(&self, offset: u64, data: &mut [u8]) {
        let size = self.gates.len().div_ceil(64) * 8;
        read_absent(data);
        let Ok(start) = usize::try_from(offset) else {
            return;
        };
        for (position, byte) in (start..size).zip(data) {
            let gates = self.gates.iter().skip(position * 8).take(8);
            *byte = (0..).zip(gates).fold(0, |bits, (shift, gate)| {
                bits | u8::from(gate.is_pending()) << shift
            });
        }
    }

    /// State after reset: MSI-X disabled, entries masked and zero, nothing pending, routes
    /// withdrawn. Client masks stay.
    ///
    /// A signal that runs at the same time falls before or after; the owner quiets its
    /// sources first if it must know which.
    pub fn reset(&self) {
        let mut table = self.lock();
        let routed = table.reset();
        self.follow(&mut table, 0..self.vectors());
        for gate in &self.gates {
            gate.forget();
        }
        for vector in &routed {
            self.router.route(*vector, None);
        }
        if !routed.is_empty() {
            self.router.commit();
        }
    }

    /// Brings routes and gates of `vectors` to what the table says: first routes, then
    /// gates, so that nothing is delivered to an old route.
    fn follow(&self, table: &mut Table, vectors: std::ops::Range<u16>) {
        let mut routed = false;
        for vector in vectors.clone() {
            if let Some(message) = table.take_route_change(vector) {
                self.router.route(vector, Some(message));
                routed = true;
            }
        }
        if routed {
            self.router.commit();
        }
        for vector in vectors {
            let Some(gate) = self.gates.get(usize::from(vector)) else {
                continue;
            };
            if !table.is_open(vector) {
                gate.close();
            } else if gate.open() {
                self.router.signal(vector);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
