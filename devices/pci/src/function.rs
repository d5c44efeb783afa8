//! The seam between a device and whatever hosts it.

use bitflags::bitflags;

use crate::bar::Bars;

bitflags! {
    /// What a configuration write changed, for the front end to act upon.
    ///
    /// A flag says "look again"; the new value is read from the function. Flags are set only
    /// when the value really changed, so a write that repeats the old value gives none.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    #[must_use = "the front end must follow a moved BAR"]
    pub struct Effects: u16 {
        /// The address in a BAR changed, whether or not it is decoded.
        const BARS = 1 << 0;
        /// Memory decoding went on or off: Command's Memory Space, or the power state.
        const MEMORY_DECODE = 1 << 1;
        /// Bus mastering went on or off: Command's Bus Master, or the power state.
        const BUS_MASTER = 1 << 2;
        /// Command's INTx Disable changed.
        const INTX_DISABLE = 1 << 3;
        /// MSI-X Enable or Function Mask changed.
        const MSIX = 1 << 4;
        /// The function went from D0 to D3hot or back.
        const POWER_STATE = 1 << 5;
        /// A function level reset was asked for (PCIe, 6.6.2).
        const FUNCTION_LEVEL_RESET = 1 << 6;
    }
}

impl Effects {
    /// Whether the addresses at which the function answers may have changed.
    #[must_use]
    pub const fn windows(self) -> bool {
        self.intersects(Self::BARS.union(Self::MEMORY_DECODE))
    }
}

/// A PCI function, as a virtual machine or a vfio-user server drives it.
///
/// The front end finds out where an access goes (ports, ECAM, a BAR's window, a message on a
/// socket) and hands it over as *function, offset, bytes*. Bytes are little-endian, as on
/// the bus. Nothing here knows of guest addresses except [`bar_base`](Self::bar_base).
///
/// # What an implementer must do
///
/// - Answer **every** offset and every length, empty slices included: what does not exist
///   reads as all ones and ignores writes. A guest or a peer chooses both, so no offset, no
///   length and no content may panic, overflow or allocate in proportion to them.
/// - Never block: these calls run on a vCPU or on a server's only thread. A short mutex
///   between them is fine; waiting for a worker, for I/O or for guest memory is not. Work
///   that takes time is started here and observed later through a register.
/// - Take calls from several threads at once, in any order; two vCPUs may access one
///   register at the same instant.
/// - Finish a write's visible effect before returning: the next call, on any thread that is
///   ordered after this one, sees it.
/// - Report in [`Effects`] every change of where the function answers, and carry out itself
///   what concerns only the function (MSI-X state, bus mastering, function level reset).
///   [`Endpoint`](crate::Endpoint) does so.
/// - Keep [`bars`](Self::bars) constant from construction on.
///
/// # What an implementer may rely on
///
/// - `offset + data.len()` does not overflow.
/// - The front end takes no lock across a call that the function's own interrupts or DMA
///   would need, and makes no call from within [`MsiRouter`](crate::MsiRouter) or from a
///   [`WindowListener`](crate::WindowListener).
///
/// It may **not** rely on alignment, on widths of 1, 2, 4 or 8 bytes (a vfio-user client
/// reads the whole configuration space at once), on an access staying within one register,
/// or on BAR accesses stopping when memory decoding is off: a vCPU may have looked the
/// window up just before.
pub trait PciFunction: Send + Sync {
    /// Reads configuration space at byte `offset`, of which 4,096 exist (PCIe, 7.2). Bytes
    /// past the end read all ones.
    fn config_read(&self, offset: u16, data: &mut [u8]);

    /// Writes configuration space at byte `offset`; says what that changed. Bytes past the
    /// end are ignored.
    fn config_write(&self, offset: u16, data: &[u8]) -> Effects;

    /// The BARs the function has: their index, width and size. Constant.
    fn bars(&self) -> Bars;

    /// The address at which BAR `bar` answers now; `None` while memory decoding is off, in
    /// D3hot, or if there is no such BAR.
    fn bar_base(&self, bar: u8) -> Option<u64>;

    /// Reads `data.len()` bytes at byte `offset` of BAR `bar`.
    fn bar_read(&self, bar: u8, offset: u64, data: &mut [u8]);

    /// Writes `data` at byte `offset` of BAR `bar`.
    fn bar_write(&self, bar: u8, offset: u64, data: &[u8]);

    /// Conventional reset (PCIe, 6.6.1): configuration space, MSI-X and the device itself
    /// go back to their state at power-on. What takes time may go on after the return; until
    /// it is done the device's registers say so.
    fn reset(&self);
}

/// Answers a read of something that does not exist (PCI 3.0, 6.1: all ones).
pub(crate) fn read_absent(data: &mut [u8]) {
    data.fill(u8::MAX);
}
