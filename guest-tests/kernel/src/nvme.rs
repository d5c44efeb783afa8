//! The conformance suite's way to a real controller on PCI bus 0.

use alloc::format;
use alloc::string::String;

use nvme_host::Transport;

use crate::irq::{self, Vector};
use crate::machine::Machine;
use crate::memory::DmaPool;
use crate::mmio::Mmio;
use crate::pci::{CLASS_NVME, Function, MsiX};
use crate::time::Clock;

/// BAR of the controller's registers (NVMe over PCIe Transport 1.1, 2.1.10).
const REGISTER_BAR: usize = 0;
/// Alignment that [`Transport::dma_alloc`] promises.
const DMA_ALIGN: u64 = 64 * 1024;

/// An NVMe controller found on PCI, set up for a driver.
pub struct PciTransport<'m> {
    function: Function,
    registers: Mmio,
    msix: Option<MsiX>,
    /// MSI-X entries that have a vector of the CPU.
    vectors: u16,
    dma: &'m mut DmaPool,
    clock: &'m mut Clock,
    memory_end: u64,
}

impl<'m> PciTransport<'m> {
    /// Finds the first controller, gives its BARs addresses if firmware did not, lets it master
    /// the bus, and gives each MSI-X entry a vector of the CPU, as far as they go.
    ///
    /// # Errors
    /// What is missing, as a sentence.
    pub fn find(machine: &'m mut Machine) -> Result<Self, String> {
        let bus = machine.pci.as_mut().ok_or("there is no PCI bus")?;
        let mut function = bus
            .find_class(CLASS_NVME)
            .ok_or("there is no NVMe controller on PCI bus 0")?;
        bus.set_up(&mut function)
            .map_err(|error| format!("the controller's BARs: {error:?}"))?;
        let registers = function
            .bar(REGISTER_BAR)
            .ok_or("the controller's BAR0 has no address")?;
        function.set_bus_master(true);
        let msix = function.msix();
        let vectors = msix
            .as_ref()
            .map_or(0, |msix| msix.vectors().min(Vector::AVAILABLE));
        if let Some(msix) = &msix {
            for entry in 0..vectors {
                if let Some(vector) = Vector::device(entry) {
                    msix.program(entry, vector);
                }
            }
            msix.set_function_masked(false);
            msix.set_enabled(true);
        }
        Ok(Self {
            function,
            registers,
            msix,
            vectors,
            dma: &mut machine.dma,
            clock: &mut machine.clock,
            memory_end: machine.memory.end,
        })
    }

    fn vector(&self, entry: u16) -> Option<Vector> {
        (entry < self.vectors).then(|| Vector::device(entry))?
    }
}

impl Transport for PciTransport<'_> {
    fn bar_read(&mut self, offset: u64, data: &mut [u8]) {
        self.registers.read(offset, data);
    }

    fn bar_write(&mut self, offset: u64, data: &[u8]) {
        self.registers.write(offset, data);
    }

    fn read32(&mut self, offset: u64) -> u32 {
        self.registers.read32(offset)
    }

    fn write32(&mut self, offset: u64, value: u32) {
        self.registers.write32(offset, value);
    }

    fn config_read32(&mut self, offset: u16) -> u32 {
        self.function.read32(offset)
    }

    fn config_write32(&mut self, offset: u16, value: u32) {
        self.function.write32(offset, value);
    }

    fn dma_alloc(&mut self, bytes: u64) -> Option<u64> {
        self.dma.alloc(bytes, DMA_ALIGN)
    }

    fn dma_reset(&mut self) {
        self.dma.reset();
    }

    fn memory_end(&self) -> u64 {
        self.memory_end
    }

    fn mem_read(&self, address: u64, data: &mut [u8]) {
        self.dma.read(address, data);
    }

    fn mem_write(&mut self, address: u64, data: &[u8]) {
        self.dma.write(address, data);
    }

    fn mem_load32(&self, address: u64) -> u32 {
        self.dma.load32(address)
    }

    fn mem_store32(&mut self, address: u64, value: u32) {
        self.dma.store32(address, value);
    }

    fn vectors(&self) -> u16 {
        self.vectors
    }

    fn interrupts(&mut self, vector: u16) -> u64 {
        self.vector(vector).map_or(0, Vector::count)
    }

    fn wait_interrupt(&mut self, vector: u16, seen: u64, timeout_ns: u64) -> bool {
        match self.vector(vector) {
            Some(vector) => irq::wait(self.clock, vector, seen, timeout_ns),
            None => false,
        }
    }

    fn mask_vector(&mut self, vector: u16, masked: bool) {
        if let Some(msix) = &self.msix {
            msix.set_masked(vector, masked);
        }
    }

    fn vector_pending(&mut self, vector: u16) -> bool {
        self.msix
            .as_ref()
            .is_some_and(|msix| msix.is_pending(vector))
    }

    fn mask_function(&mut self, masked: bool) {
        if let Some(msix) = &self.msix {
            msix.set_function_masked(masked);
        }
    }

    fn now_ns(&mut self) -> u64 {
        self.clock.now_ns()
    }

    fn relax(&mut self) {
        core::hint::spin_loop();
    }
}
