//! Ports and memory-mapped registers: which device answers where.
//!
//! The CPUs' threads look devices up without a lock in a table that is replaced as a whole when a
//! range comes, goes or moves. What nothing claims reads as all ones and swallows writes; both
//! are counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use vm_device::bus::{MmioAddress, MmioRange, PioAddress, PioRange};
use vm_device::device_manager::{IoManager, MmioManager, PioManager};
use vm_device::{DeviceMmio, DevicePio};

use super::error::MachineError;

/// A device of ports, shared by the CPUs.
pub type PortDevice = Arc<dyn DevicePio + Send + Sync>;
/// A device of memory-mapped registers, shared by the CPUs.
pub type MmioDevice = Arc<dyn DeviceMmio + Send + Sync>;

/// The port bus and the memory bus.
#[derive(Default)]
pub struct Buses {
    current: ArcSwap<IoManager>,
    ranges: Mutex<Ranges>,
    unclaimed: Unclaimed,
}

/// Of what the current table is made: vm-device's can be filled but not copied.
#[derive(Clone, Default)]
struct Ranges {
    ports: Vec<(PioRange, PortDevice)>,
    fixed: Vec<(MmioRange, MmioDevice)>,
    movable: Vec<(MmioRange, MmioDevice)>,
}

/// How often the guest met no device.
#[derive(Debug, Default)]
struct Unclaimed {
    reads: AtomicU64,
    writes: AtomicU64,
}

impl Buses {
    /// Puts a device on `size` ports from `base` on.
    ///
    /// # Errors
    /// When the range is empty, passes the end, or overlaps another.
    pub fn add_ports(&self, base: u16, size: u16, device: PortDevice) -> Result<(), MachineError> {
        let error = |reason: String| MachineError::Bus {
            what: format!("ports {base:#x} to {:#x}", base.saturating_add(size)),
            reason,
        };
        let range = PioRange::new(PioAddress(base), size).map_err(|e| error(e.to_string()))?;
        self.change(|ranges| ranges.ports.push((range, device)))
            .map_err(error)
    }

    /// Puts a device on `size` bytes of addresses from `base` on.
    ///
    /// # Errors
    /// When the range is empty, passes the end, or overlaps another.
    pub fn add_mmio(&self, base: u64, size: u64, device: MmioDevice) -> Result<(), MachineError> {
        let error = |reason: String| MachineError::Bus {
            what: format!("addresses {base:#x} to {:#x}", base.saturating_add(size)),
            reason,
        };
        let range = MmioRange::new(MmioAddress(base), size).map_err(|e| error(e.to_string()))?;
        self.change(|ranges| ranges.fixed.push((range, device)))
            .map_err(error)
    }

    /// Replaces everything that may move (BARs): (base, size, device). A range that is none, or
    /// overlaps a fixed device or one before it in the list, does not answer; the others do.
    pub(crate) fn set_movable(&self, devices: impl IntoIterator<Item = (u64, u64, MmioDevice)>) {
        let change = |ranges: &mut Ranges| {
            ranges.movable.clear();
            for (base, size, device) in devices {
                let range = MmioRange::new(MmioAddress(base), size);
                match range.ok().filter(|range| ranges.has_room(range)) {
                    Some(range) => ranges.movable.push((range, device)),
                    // The PCI bus has sorted out overlaps among BARs and keeps them in its
                    // aperture, so that only a machine with a fixed device there loses one.
                    None => tracing::error!(base, size, "a BAR overlaps another device: silent"),
                }
            }
        };
        if let Err(error) = self.change(change) {
            tracing::error!(error, "BARs stay where they were");
        }
    }

    /// Makes a change, or none at all: what was there answers as before when it is refused.
    fn change(&self, change: impl FnOnce(&mut Ranges)) -> Result<(), String> {
        let mut ranges = self.lock();
        let mut changed = ranges.clone();
        change(&mut changed);
        let table = changed.table()?;
        *ranges = changed;
        // Does not wait for readers: a CPU may be inside a device that moves itself.
        self.current.store(Arc::new(table));
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Ranges> {
        self.ranges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A CPU reads `data.len()` bytes at a port.
    pub fn port_read(&self, port: u16, data: &mut [u8]) {
        if self
            .current
            .load()
            .pio_read(PioAddress(port), data)
            .is_err()
        {
            self.unclaimed.read(data);
        }
    }

    /// A CPU writes to a port.
    pub fn port_write(&self, port: u16, data: &[u8]) {
        if self
            .current
            .load()
            .pio_write(PioAddress(port), data)
            .is_err()
        {
            self.unclaimed.write();
        }
    }

    /// A CPU reads `data.len()` bytes at an address that is not memory.
    pub fn mmio_read(&self, address: u64, data: &mut [u8]) {
        if self
            .current
            .load()
            .mmio_read(MmioAddress(address), data)
            .is_err()
        {
            self.unclaimed.read(data);
        }
    }

    /// A CPU writes at an address that is not memory.
    pub fn mmio_write(&self, address: u64, data: &[u8]) {
        if self
            .current
            .load()
            .mmio_write(MmioAddress(address), data)
            .is_err()
        {
            self.unclaimed.write();
        }
    }

    /// Reads and writes that no device claimed.
    #[must_use]
    pub fn unclaimed(&self) -> (u64, u64) {
        let Unclaimed { reads, writes } = &self.unclaimed;
        (
            reads.load(Ordering::Relaxed),
            writes.load(Ordering::Relaxed),
        )
    }
}

impl Unclaimed {
    fn read(&self, data: &mut [u8]) {
        data.fill(u8::MAX);
        self.reads.fetch_add(1, Ordering::Relaxed);
    }

    fn write(&self) {
        self.writes.fetch_add(1, Ordering::Relaxed);
    }
}

impl Ranges {
    /// Whether no device answers in `range`.
    fn has_room(&self, range: &MmioRange) -> bool {
        let mut taken = self.fixed.iter().chain(&self.movable);
        !taken.any(|(other, _)| other.overlaps(range))
    }

    fn table(&self) -> Result<IoManager, String> {
        let mut table = IoManager::new();
        for (range, device) in &self.ports {
            table
                .register_pio(*range, Arc::clone(device))
                .map_err(|error| error.to_string())?;
        }
        for (range, device) in self.fixed.iter().chain(&self.movable) {
            table
                .register_mmio(*range, Arc::clone(device))
                .map_err(|error| error.to_string())?;
        }
        Ok(table)
    }
}

#[cfg(test)]
mod tests {
    use vm_device::bus::{MmioAddressOffset, PioAddressOffset};

    use super::*;

    /// Reads as its own offset.
    struct Offsets;

    impl DeviceMmio for Offsets {
        fn mmio_read(&self, _: MmioAddress, offset: MmioAddressOffset, data: &mut [u8]) {
            data.fill(u8::try_from(offset).expect("small ranges"));
        }

        fn mmio_write(&self, _: MmioAddress, _: MmioAddressOffset, _: &[u8]) {}
    }

    impl DevicePio for Offsets {
        fn pio_read(&self, _: PioAddress, offset: PioAddressOffset, data: &mut [u8]) {
            data.fill(u8::try_from(offset).expect("small ranges"));
        }

        fn pio_write(&self, _: PioAddress, _: PioAddressOffset, _: &[u8]) {}
    }

    fn byte(buses: &Buses, address: u64) -> u8 {
        let mut data = [0];
        buses.mmio_read(address, &mut data);
        data[0]
    }

    #[test]
    fn unclaimed_reads_are_ones_and_counted() {
        let buses = Buses::default();
        buses.add_mmio(0x1000, 16, Arc::new(Offsets)).expect("free");
        let mut data = [0; 8];
        buses.mmio_read(0x2000, &mut data);
        assert_eq!(data, [0xff; 8]);
        // Across the end of a device is nobody's either.
        buses.mmio_read(0x100c, &mut data);
        assert_eq!(data, [0xff; 8]);
        buses.mmio_write(0x2000, &data);
        buses.port_write(0x80, &[0]);
        buses.port_read(0x80, &mut data[..1]);
        assert_eq!(buses.unclaimed(), (3, 2));
        assert_eq!(byte(&buses, 0x1007), 7);
    }

    #[test]
    fn overlaps_are_refused_and_leave_the_bus_as_it_was() {
        let buses = Buses::default();
        buses.add_mmio(0x1000, 16, Arc::new(Offsets)).expect("free");
        buses.add_ports(0x80, 4, Arc::new(Offsets)).expect("free");
        let error = buses
            .add_mmio(0x100f, 1, Arc::new(Offsets))
            .expect_err("taken");
        assert!(error.to_string().contains("0x100f"), "{error}");
        assert!(buses.add_ports(0x83, 4, Arc::new(Offsets)).is_err());
        assert!(buses.add_mmio(u64::MAX, 2, Arc::new(Offsets)).is_err());
        assert_eq!(byte(&buses, 0x100f), 15);
        buses.add_mmio(0x1010, 1, Arc::new(Offsets)).expect("free");
    }

    #[test]
    fn movable_ranges_move() {
        let buses = Buses::default();
        let device = |base| (base, 16, Arc::new(Offsets) as MmioDevice);
        buses.set_movable([device(0x1000)]);
        assert_eq!(byte(&buses, 0x1003), 3);
        buses.set_movable([device(0x3000)]);
        assert_eq!(byte(&buses, 0x1003), 0xff);
        assert_eq!(byte(&buses, 0x3003), 3);
    }

    #[test]
    fn refused_change_leaves_movable_ranges_where_they_were() {
        let buses = Buses::default();
        buses.set_movable([(0x1000, 16, Arc::new(Offsets) as MmioDevice)]);
        assert!(buses.add_mmio(0x1008, 16, Arc::new(Offsets)).is_err());
        assert_eq!(byte(&buses, 0x1003), 3);
        // The next table, too, is made with them and without the refused one.
        buses.add_mmio(0x2000, 16, Arc::new(Offsets)).expect("free");
        assert_eq!(byte(&buses, 0x1003), 3);
        assert_eq!(byte(&buses, 0x1012), 0xff);
    }

    #[test]
    fn movable_range_that_overlaps_is_silent_and_the_others_answer() {
        let buses = Buses::default();
        let device = |base| (base, 16, Arc::new(Offsets) as MmioDevice);
        buses.add_mmio(0x2000, 4, Arc::new(Offsets)).expect("free");
        buses.set_movable([device(0x5000)]);
        buses.set_movable([
            device(0x1000),
            device(0x1ff8),
            device(0x3000),
            device(0x3008),
            device(u64::MAX),
        ]);
        for (address, value) in [
            (0x1003, 3),
            (0x1fff, 0xff),
            (0x2003, 3),
            (0x3009, 9),
            (0x3012, 0xff),
            (0x5000, 0xff),
        ] {
            assert_eq!(byte(&buses, address), value, "{address:#x}");
        }
    }
}
