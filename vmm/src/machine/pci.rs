//! PCI on the machine's buses: ports, ECAM, and BARs that follow the guest.

use std::sync::Arc;

use pci::{Aperture, BarWindow, Bdf, Bus, HostBridge, PciFunction};
use vm_device::bus::{MmioAddress, MmioAddressOffset, PioAddress, PioAddressOffset};
use vm_device::{DeviceMmio, DevicePio};

use super::bus::{Buses, MmioDevice};
use super::control::Control;
use super::error::MachineError;
use super::ioevent::BarEvents;
use super::layout;
use super::power::ResetControl;

const APERTURE: Aperture = Aperture {
    base: layout::BAR_WINDOW.0,
    size: layout::BAR_WINDOW.1,
};

/// Ports of the configuration mechanism: CF8h to CFFh.
const PORTS: u16 = 8;

/// A bus with its host bridge and nothing else.
pub(crate) fn bus() -> Result<Bus, MachineError> {
    let bridge =
        HostBridge::new(HostBridge::DEFAULT_IDENTITY).map_err(|error| MachineError::Bus {
            what: "PCI host bridge".into(),
            reason: error.to_string(),
        })?;
    Ok(Bus::new(Arc::new(bridge), vec![APERTURE]))
}

/// Gives every BAR an address, as firmware would, and puts the bus on the machine's buses.
///
/// `events` follow their BARs; `control` learns of resets.
pub(crate) fn connect(
    bus: Bus,
    buses: &Arc<Buses>,
    events: Vec<(Bdf, u8, Arc<BarEvents>)>,
    control: Arc<Control>,
) -> Result<(), MachineError> {
    let bus = Arc::new(bus);
    bus.assign_bars(APERTURE)?;
    let ports = Ports {
        bus: Arc::clone(&bus),
        reset: ResetControl(control),
    };
    buses.add_ports(layout::PCI_PORTS, PORTS, Arc::new(ports))?;
    let (base, size) = layout::ECAM;
    buses.add_mmio(base, size, Arc::new(Ecam(Arc::clone(&bus))))?;
    // The buses own the PCI bus, which owns the listener: without weak references none of them,
    // nor any device, would ever be dropped.
    let (functions, buses) = (Arc::downgrade(&bus), Arc::downgrade(buses));
    bus.set_listener(move |windows: &[BarWindow]| {
        let (Some(bus), Some(buses)) = (functions.upgrade(), buses.upgrade()) else {
            return;
        };
        let places: Vec<_> = events
            .iter()
            .map(|(function, bar, events)| {
                let is_it =
                    |window: &&BarWindow| window.function == *function && window.bar == *bar;
                (events, windows.iter().find(is_it).map(|window| window.base))
            })
            .collect();
        // Gone from the old place before anything else may answer there.
        for (events, base) in &places {
            events.leave(*base);
        }
        buses.set_movable(windows.iter().filter_map(|window| {
            let function = Arc::clone(bus.function(window.function)?);
            let device: MmioDevice = Arc::new(BarDevice {
                function,
                bar: window.bar,
            });
            Some((window.base, window.size, device))
        }));
        for (events, base) in places {
            events.moved(base);
        }
    });
    Ok(())
}

/// The configuration mechanism, and among its ports the reset control register, which alone takes
/// bytes below CFCh.
struct Ports {
    bus: Arc<Bus>,
    reset: ResetControl,
}

impl DevicePio for Ports {
    fn pio_read(&self, base: PioAddress, offset: PioAddressOffset, data: &mut [u8]) {
        match (base.0.saturating_add(offset), data) {
            // Nothing is kept of what was written there.
            (layout::RESET_PORT, [byte]) => *byte = 0,
            (port, data) => self.bus.port_read(port, data),
        }
    }

    fn pio_write(&self, base: PioAddress, offset: PioAddressOffset, data: &[u8]) {
        match (base.0.saturating_add(offset), data) {
            (layout::RESET_PORT, [byte]) => self.reset.write(*byte),
            (port, data) => self.bus.port_write(port, data),
        }
    }
}

struct Ecam(Arc<Bus>);

impl DeviceMmio for Ecam {
    fn mmio_read(&self, _: MmioAddress, offset: MmioAddressOffset, data: &mut [u8]) {
        self.0.ecam_read(offset, data);
    }

    fn mmio_write(&self, _: MmioAddress, offset: MmioAddressOffset, data: &[u8]) {
        self.0.ecam_write(offset, data);
    }
}

struct BarDevice {
    function: Arc<dyn PciFunction>,
    bar: u8,
}

impl DeviceMmio for BarDevice {
    fn mmio_read(&self, _: MmioAddress, offset: MmioAddressOffset, data: &mut [u8]) {
        self.function.bar_read(self.bar, offset, data);
    }

    fn mmio_write(&self, _: MmioAddress, offset: MmioAddressOffset, data: &[u8]) {
        self.function.bar_write(self.bar, offset, data);
    }
}
