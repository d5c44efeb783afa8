//! Bus 0: functions by device number, and the two ways into their configuration space.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;

use crate::address::{self, Bdf, ConfigAddress};
use crate::bar::{Aperture, BarWindow};
use crate::function::{PciFunction, read_absent};
use crate::header::EXTENDED_SIZE;
use crate::windows::{self, Placement};

/// The port of CONFIG_ADDRESS, a dword register (PCI 3.0, 3.2.2.3.2).
pub const CONFIG_ADDRESS_PORT: u16 = 0xCF8;
/// The first port of CONFIG_DATA, which ends at CFFh (PCI 3.0, 3.2.2.3.2).
pub const CONFIG_DATA_PORT: u16 = 0xCFC;
/// Bytes of CONFIG_DATA.
const CONFIG_DATA_SIZE: u16 = 4;

/// Why a function could not be put on the bus or its BARs could not be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BusError {
    /// Device numbers are 0 to 31, and 0 is the host bridge.
    #[error("device number {0} is not on the bus; 1 to 31 would do")]
    DeviceNumber(u8),
    /// The device number has a function.
    #[error("device number {0} is taken")]
    DeviceTaken(u8),
    /// The range given for BARs is too small.
    #[error("no room for BAR {bar} of {function}, {size:#x} bytes, in the range for BARs")]
    NoRoom {
        /// Whose BAR it is.
        function: Bdf,
        /// BAR index.
        bar: u8,
        /// Bytes it needs.
        size: u64,
    },
}

/// Learns which BARs answer where, whenever that changes.
///
/// Called on the thread that wrote configuration space, before that write completes, one
/// call at a time and in order. The list is complete, sorted by address, free of overlaps
/// and inside the apertures. Write nothing to configuration space from here and ask for no
/// [`windows`](Bus::windows): that would deadlock; [`function`](Bus::function) is fine.
///
/// An ECAM write is itself an MMIO access: a listener that swaps an MMIO bus must not wait
/// until nobody uses the old one.
pub trait WindowListener: Send + Sync {
    /// `windows` is the whole new list.
    fn windows_changed(&self, windows: &[BarWindow]);
}

impl<F: Fn(&[BarWindow]) + Send + Sync> WindowListener for F {
    fn windows_changed(&self, windows: &[BarWindow]) {
        self(windows);
    }
}

/// A host bridge and the bus below it.
///
/// Functions are added while the machine is built; from then on every method takes `&self`
/// and may be called by several vCPUs at once. Each device has function 0 alone.
pub struct Bus {
    slots: [Option<Arc<dyn PciFunction>>; address::DEVICES_PER_BUS as usize],
    apertures: Vec<Aperture>,
    config_address: AtomicU32,
    decoded: Mutex<Decoded>,
}

#[derive(Default)]
struct Decoded {
    windows: Vec<BarWindow>,
    listener: Option<Box<dyn WindowListener>>,
}

impl Bus {
    /// A bus with `host_bridge` at 00:00.0 (see [`HostBridge`](crate::HostBridge)) that
    /// forwards the guest physical ranges `apertures`. A BAR put anywhere else does not
    /// answer, so the apertures must not hold RAM, ECAM or anything else of the machine.
    #[must_use]
    pub fn new(host_bridge: Arc<dyn PciFunction>, apertures: Vec<Aperture>) -> Self {
        let mut slots = [const { None }; address::DEVICES_PER_BUS as usize];
        let [first, ..] = &mut slots;
        *first = Some(host_bridge);
        Self {
            slots,
            apertures,
            config_address: AtomicU32::new(0),
            decoded: Mutex::default(),
        }
    }

    /// Puts a function at device number `device`, 1 to 31.
    ///
    /// # Errors
    ///
    /// [`BusError::DeviceNumber`] and [`BusError::DeviceTaken`].
    pub fn add(&mut self, device: u8, function: Arc<dyn PciFunction>) -> Result<Bdf, BusError> {
        let bdf = Bdf::new(0, device, 0)
            .filter(|bdf| bdf.device() != 0)
            .ok_or(BusError::DeviceNumber(device))?;
        let slot = self
            .slots
            .get_mut(usize::from(device))
            .ok_or(BusError::DeviceNumber(device))?;
        if slot.is_some() {
            return Err(BusError::DeviceTaken(device));
        }
        *slot = Some(function);
        self.refresh();
        Ok(bdf)
    }

    /// The function at an address.
    #[must_use]
    pub fn function(&self, bdf: Bdf) -> Option<&Arc<dyn PciFunction>> {
        if bdf.bus() != 0 || bdf.function() != 0 {
            return None;
        }
        self.slots.get(usize::from(bdf.device()))?.as_ref()
    }

    /// Reads from ports CF8h to CFFh.
    ///
    /// CONFIG_ADDRESS answers an aligned dword. CONFIG_DATA answers bytes, words and dwords
    /// from the selected dword; disabled, absent functions and what is past CFFh read all
    /// ones, as do bytes and words of CF8h to CFBh (PCI 3.0, 3.2.2.3.2).
    pub fn port_read(&self, port: u16, data: &mut [u8]) {
        read_absent(data);
        if let (CONFIG_ADDRESS_PORT, Ok(dword)) = (port, <&mut [u8; 4]>::try_from(&mut *data)) {
            *dword = self.selected().bits().to_le_bytes();
        } else if let Some((bdf, register, length)) = self.config_data(port, data.len())
            && let Some(part) = data.get_mut(..length)
        {
            self.config_read(bdf, register, part);
        }
    }

    /// Writes to ports CF8h to CFFh; the mirror of [`port_read`](Self::port_read). Only an
    /// aligned dword at CF8h changes CONFIG_ADDRESS.
    pub fn port_write(&self, port: u16, data: &[u8]) {
        if let (CONFIG_ADDRESS_PORT, Ok(dword)) = (port, <[u8; 4]>::try_from(data)) {
            let latch = ConfigAddress::latch(u32::from_le_bytes(dword));
            self.config_address.store(latch.bits(), Ordering::Relaxed);
        } else if let Some((bdf, register, length)) = self.config_data(port, data.len())
            && let Some(part) = data.get(..length)
        {
            self.config_write(bdf, register, part);
        }
    }

    /// Reads ECAM at byte `offset` from its base: 1 MiB a bus, 4 KiB a function
    /// (PCIe, 7.2.2). Absent functions read all ones.
    pub fn ecam_read(&self, offset: u64, data: &mut [u8]) {
        match address::decode_ecam(offset) {
            Some((bdf, register)) => self.config_read(bdf, register, data),
            None => read_absent(data),
        }
    }

    /// Writes ECAM at byte `offset` from its base.
    pub fn ecam_write(&self, offset: u64, data: &[u8]) {
        if let Some((bdf, register)) = address::decode_ecam(offset) {
            self.config_write(bdf, register, data);
        }
    }

    /// Reads the configuration space of `bdf`. An absent function, and bytes past the
    /// 4 KiB of this one, read all ones.
    pub fn config_read(&self, bdf: Bdf, register: u16, data: &mut [u8]) {
        read_absent(data);
        if let Some(function) = self.function(bdf)
            && let Some(part) = data.get_mut(..within_function(register, data.len()))
        {
            function.config_read(register, part);
        }
    }

    /// Writes the configuration space of `bdf` and, if that moved a window, tells the
    /// listener.
    pub fn config_write(&self, bdf: Bdf, register: u16, data: &[u8]) {
        if let Some(function) = self.function(bdf)
            && let Some(part) = data.get(..within_function(register, data.len()))
            && function.config_write(register, part).windows()
        {
            self.refresh();
        }
    }

    /// The BARs that answer now, by address.
    ///
    /// A BAR answers if its function decodes memory, it lies wholly in one aperture, and it
    /// overlaps no BAR of a lower device number or, in the same function, of a lower index.
    #[must_use]
    pub fn windows(&self) -> Vec<BarWindow> {
        self.lock().windows.clone()
    }

    /// Sets the listener and tells it the present windows.
    pub fn set_listener(&self, listener: impl WindowListener + 'static) {
        let mut decoded = self.lock();
        listener.windows_changed(&decoded.windows);
        decoded.listener = Some(Box::new(listener));
    }

    /// Gives every BAR a naturally aligned address within `range`, which should lie below
    /// 4 GiB for the sake of 32-bit BARs, and inside an aperture. Decoding stays as it is:
    /// after reset off, so nothing answers until software enables it.
    ///
    /// Gives what was placed, by address.
    ///
    /// # Errors
    ///
    /// [`BusError::NoRoom`]; then no BAR has been written.
    pub fn assign_bars(&self, range: Aperture) -> Result<Vec<BarWindow>, BusError> {
        let placements = windows::place(self.wanted(), range)?;
        for Placement { window, bar } in &placements {
            for (register, dword) in crate::config::bar_dwords(window.bar, *bar, window.base) {
                self.config_write(window.function, register, &dword);
            }
        }
        Ok(placements
            .into_iter()
            .map(|placement| placement.window)
            .collect())
    }

    /// Resets every function and CONFIG_ADDRESS.
    pub fn reset(&self) {
        self.config_address.store(0, Ordering::Relaxed);
        for (_, function) in self.functions() {
            function.reset();
        }
        self.refresh();
    }

    /// Looks at every function's windows again and tells the listener if they changed. Only
    /// needed after a function was written or reset other than through this bus.
    pub fn refresh(&self) {
        let mut decoded = self.lock();
        // Looked at under the lock: whoever comes last has seen everybody's writes.
        let now = windows::resolve(self.answering(), &self.apertures);
        if now != decoded.windows {
            decoded.windows = now;
            if let Some(listener) = &decoded.listener {
                listener.windows_changed(&decoded.windows);
            }
        }
    }

    fn functions(&self) -> impl Iterator<Item = (Bdf, &Arc<dyn PciFunction>)> {
        (0..).zip(&self.slots).filter_map(|(device, slot)| {
            slot.as_ref()
                .map(|function| (Bdf::on_bus_0(device), function))
        })
    }

    /// Every BAR on the bus, with its address left at 0.
    fn wanted(&self) -> impl Iterator<Item = Placement> {
        self.functions().flat_map(|(function, device)| {
            let bars = (0..).zip(device.bars());
            bars.filter_map(move |(index, bar)| Some(Placement::wanted(function, index, bar?)))
        })
    }

    /// Every BAR whose function decodes memory, in order of precedence.
    fn answering(&self) -> impl Iterator<Item = BarWindow> {
        self.wanted().filter_map(|Placement { window, .. }| {
            let base = self.function(window.function)?.bar_base(window.bar)?;
            Some(BarWindow { base, ..window })
        })
    }

    fn selected(&self) -> ConfigAddress {
        ConfigAddress::latch(self.config_address.load(Ordering::Relaxed))
    }

    /// Where an access of `length` bytes at `port` goes and how many of its bytes do.
    fn config_data(&self, port: u16, length: usize) -> Option<(Bdf, u16, usize)> {
        let within = port.checked_sub(CONFIG_DATA_PORT)?;
        let left = CONFIG_DATA_SIZE.checked_sub(within)?;
        let (bdf, dword) = self.selected().target()?;
        Some((bdf, dword.saturating_add(within), length.min(left.into())))
    }

    fn lock(&self) -> MutexGuard<'_, Decoded> {
        self.decoded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many of `length` bytes at `register` belong to the same function.
fn within_function(register: u16, length: usize) -> usize {
    length.min(EXTENDED_SIZE.saturating_sub(register.into()))
}
