//! The part of a function that every endpoint has alike.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::bar::Bars;
use crate::config::ConfigSpace;
use crate::function::Effects;
use crate::msix::{MsiRouter, Msix, MsixLayout};

/// Configuration space and MSI-X tied together, for a [`PciFunction`](crate::PciFunction) to
/// delegate to: it keeps the lock, tells MSI-X what configuration writes change, and takes
/// the table and PBA out of BAR accesses.
///
/// ```
/// use std::sync::Arc;
/// use pci::{Bars, Effects, Endpoint, PciFunction};
///
/// struct Device {
///     pci: Endpoint,
///     // and the registers behind BAR 0
/// }
///
/// impl PciFunction for Device {
///     fn config_read(&self, offset: u16, data: &mut [u8]) {
///         self.pci.config_read(offset, data);
///     }
///     fn config_write(&self, offset: u16, data: &[u8]) -> Effects {
///         let effects = self.pci.config_write(offset, data);
///         if effects.contains(Effects::FUNCTION_LEVEL_RESET) {
///             // Reset the registers behind BAR 0.
///         }
///         effects
///     }
///     fn bars(&self) -> Bars {
///         self.pci.bars()
///     }
///     fn bar_base(&self, bar: u8) -> Option<u64> {
///         self.pci.bar_base(bar)
///     }
///     fn bar_read(&self, bar: u8, offset: u64, data: &mut [u8]) {
///         self.pci.bar_read(bar, offset, data, |offset, data| data.fill(0));
///     }
///     fn bar_write(&self, bar: u8, offset: u64, data: &[u8]) {
///         self.pci.bar_write(bar, offset, data, |offset, data| ());
///     }
///     fn reset(&self) {
///         // Reset the registers behind BAR 0, and then:
///         self.pci.reset();
///     }
/// }
/// ```
pub struct Endpoint {
    config: Mutex<ConfigSpace>,
    bars: Bars,
    msix: Option<(MsixLayout, Arc<Msix>)>,
}

/// Whose bytes a part of a BAR access are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Device,
    Table,
    Pba,
}

impl Endpoint {
    /// Ties `config` to MSI-X vectors (as many as its layout says, none without one) that
    /// deliver through `router`.
    #[must_use]
    pub fn new(config: ConfigSpace, router: Arc<dyn MsiRouter>) -> Self {
        let msix = config
            .msix_layout()
            .map(|l| (l, Arc::new(Msix::new(l.vectors, router))));
        Self {
            bars: config.bars(),
            config: Mutex::new(config),
            msix,
        }
    }

    /// The vectors; `None` without MSI-X. What signals interrupts keeps a clone.
    #[must_use]
    pub fn msix(&self) -> Option<&Arc<Msix>> {
        self.msix.as_ref().map(|(_, msix)| msix)
    }

    /// See [`PciFunction::config_read`](crate::PciFunction::config_read).
    pub fn config_read(&self, offset: u16, data: &mut [u8]) {
        self.lock().read(offset, data);
    }

    /// See [`PciFunction::config_write`](crate::PciFunction::config_write). MSI-X has
    /// followed when this returns. On a function level reset configuration space and MSI-X
    /// are reset already and the effects include that; the device behind is the caller's to
    /// reset.
    pub fn config_write(&self, offset: u16, data: &[u8]) -> Effects {
        self.config_write_then(offset, data, |_, _| ())
    }

    /// Like [`config_write`](Self::config_write), and calls `then` with the new
    /// configuration and the effects before any other configuration access: what the device
    /// keeps of them (bus mastering, say) then follows two vCPUs' writes in their order.
    /// `then` must not call back into this endpoint.
    pub fn config_write_then(
        &self,
        offset: u16,
        data: &[u8],
        then: impl FnOnce(&ConfigSpace, Effects),
    ) -> Effects {
        let mut config = self.lock();
        let mut effects = config.write(offset, data);
        if effects.contains(Effects::FUNCTION_LEVEL_RESET) {
            effects |= config.reset();
            if let Some(msix) = self.msix() {
                msix.reset();
            }
        } else if effects.intersects(Effects::MSIX | Effects::BUS_MASTER)
            && let Some(msix) = self.msix()
        {
            // Under the lock, so that MSI-X sees changes in the order of the writes.
            msix.set_control(config.msix_control(), config.bus_master());
        }
        then(&config, effects);
        effects
    }

    /// See [`PciFunction::bars`](crate::PciFunction::bars).
    #[must_use]
    pub fn bars(&self) -> Bars {
        self.bars
    }

    /// See [`PciFunction::bar_base`](crate::PciFunction::bar_base).
    #[must_use]
    pub fn bar_base(&self, bar: u8) -> Option<u64> {
        self.lock().bar_base(bar)
    }

    /// Reads a BAR: the MSI-X table and PBA are answered here, every other part of the
    /// access goes to `device` with its own offset. The device's locks are its own business:
    /// none is held here during the call.
    pub fn bar_read(
        &self,
        bar: u8,
        offset: u64,
        data: &mut [u8],
        mut device: impl FnMut(u64, &mut [u8]),
    ) {
        let (mut at, mut rest) = (offset, data);
        while !rest.is_empty() {
            let (owner, base, length) = self.owner(bar, at, rest.len());
            let (part, tail) = std::mem::take(&mut rest).split_at_mut(length);
            match (owner, self.msix()) {
                (Owner::Table, Some(msix)) => msix.table_read(base, part),
                (Owner::Pba, Some(msix)) => msix.pba_read(base, part),
                _ => device(at, part),
            }
            at = at.saturating_add(length as u64);
            rest = tail;
        }
    }

    /// Writes a BAR, split as in [`bar_read`](Self::bar_read); the PBA ignores its part.
    pub fn bar_write(&self, bar: u8, offset: u64, data: &[u8], mut device: impl FnMut(u64, &[u8])) {
        let (mut at, mut rest) = (offset, data);
        while !rest.is_empty() {
            let (owner, base, length) = self.owner(bar, at, rest.len());
            let (part, tail) = rest.split_at(length);
            match (owner, self.msix()) {
                (Owner::Table, Some(msix)) => msix.table_write(base, part),
                (Owner::Pba, _) => {}
                _ => device(at, part),
            }
            at = at.saturating_add(length as u64);
            rest = tail;
        }
    }

    /// Whether the function may read and write memory: see [`ConfigSpace::bus_master`].
    #[must_use]
    pub fn bus_master(&self) -> bool {
        self.lock().bus_master()
    }

    /// Whether the function may assert INTx#: INTx Disable is clear and MSI-X is off
    /// (PCI 3.0, 6.8.2.3).
    #[must_use]
    pub fn intx_allowed(&self) -> bool {
        let config = self.lock();
        !config
            .command()
            .contains(crate::header::Command::INTX_DISABLE)
            && !config.msix_control().enable
    }

    /// See [`ConfigSpace::set_interrupt_status`].
    pub fn set_interrupt_status(&self, asserted: bool) {
        self.lock().set_interrupt_status(asserted);
    }

    /// Configuration space and MSI-X to their state after reset.
    pub fn reset(&self) {
        let mut config = self.lock();
        // Who hosts the function looks at its windows after a reset anyway.
        let _ = config.reset();
        if let Some(msix) = self.msix() {
            msix.reset();
        }
    }

    /// Whose the byte at `offset` is, its offset within what they own, and how many of
    /// `length` bytes are theirs too (at least one).
    fn owner(&self, bar: u8, offset: u64, length: usize) -> (Owner, u64, usize) {
        let mut length = length;
        let Some((layout, _)) = &self.msix else {
            return (Owner::Device, offset, length);
        };
        let parts = [
            (
                Owner::Table,
                layout.table_bar,
                layout.table_offset,
                layout.table_size(),
            ),
            (
                Owner::Pba,
                layout.pba_bar,
                layout.pba_offset,
                layout.pba_size(),
            ),
        ];
        for (owner, part_bar, start, size) in parts {
            let start = u64::from(start);
            if part_bar != bar {
                continue;
            }
            if let Some(within) = offset.checked_sub(start) {
                if within < size {
                    return (owner, within, clamp(length, size - within));
                }
            } else {
                length = clamp(length, start - offset);
            }
        }
        (Owner::Device, offset, length)
    }

    fn lock(&self) -> MutexGuard<'_, ConfigSpace> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn clamp(length: usize, limit: u64) -> usize {
    usize::try_from(limit).map_or(length, |limit| length.min(limit))
}
