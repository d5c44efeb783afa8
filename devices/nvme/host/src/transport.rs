//! What the driver needs of the machine it runs on.

/// A controller's registers, memory both sides see, interrupts and time.
///
/// Implemented in-process (the controller is stepped by [`relax`](Transport::relax)), in the bare
/// test kernel (real loads and stores), and later by a vfio-user client.
///
/// An implementer must never panic on an address or an offset: reads of nowhere give all ones,
/// writes to nowhere are dropped. It may rely on being called by one thread.
///
/// A caller may rely on memory being coherent: what `mem_write` stored is seen by the controller
/// after a later register write, and what the controller stored before a completion's phase is
/// seen after `mem_load32` saw that phase.
pub trait Transport {
    /// Reads `data.len()` bytes of BAR0 at `offset` in one access. 1, 2, 4 and 8 are single bus
    /// accesses; the hostile tests use every width and alignment.
    fn bar_read(&mut self, offset: u64, data: &mut [u8]);

    /// Writes `data.len()` bytes of BAR0 at `offset` in one access.
    fn bar_write(&mut self, offset: u64, data: &[u8]);

    /// Reads a 32-bit register.
    fn read32(&mut self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.bar_read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    /// Writes a 32-bit register.
    fn write32(&mut self, offset: u64, value: u32) {
        self.bar_write(offset, &value.to_le_bytes());
    }

    /// Reads a 64-bit register in one access.
    fn read64(&mut self, offset: u64) -> u64 {
        let mut data = [0; 8];
        self.bar_read(offset, &mut data);
        u64::from_le_bytes(data)
    }

    /// Writes a 64-bit register in one access.
    fn write64(&mut self, offset: u64, value: u64) {
        self.bar_write(offset, &value.to_le_bytes());
    }

    /// Reads an aligned dword of the function's configuration space; all ones where there is none.
    fn config_read32(&mut self, offset: u16) -> u32;

    /// Writes an aligned dword of the function's configuration space.
    fn config_write32(&mut self, offset: u16, value: u32);

    /// Allocates `bytes` of zeroed memory the device can reach, contiguous and aligned to 64 KiB
    /// (the largest memory page size the tests set). `None` when there is no more.
    ///
    /// Addresses are the device's. Nothing is freed one by one: [`dma_reset`](Self::dma_reset).
    fn dma_alloc(&mut self, bytes: u64) -> Option<u64>;

    /// Frees everything [`dma_alloc`](Self::dma_alloc) gave; the controller must be disabled.
    fn dma_reset(&mut self);

    /// The first address above all memory the device can reach, for tests that aim at nothing.
    fn memory_end(&self) -> u64;

    /// Copies out of device-visible memory; all ones from nowhere.
    fn mem_read(&self, address: u64, data: &mut [u8]);

    /// Copies into device-visible memory.
    fn mem_write(&mut self, address: u64, data: &[u8]);

    /// Loads an aligned dword with acquire ordering: later reads see what was stored before it.
    fn mem_load32(&self, address: u64) -> u32;

    /// Stores an aligned dword in one access, after everything that was stored before it.
    fn mem_store32(&mut self, address: u64, value: u32) {
        self.mem_write(address, &value.to_le_bytes());
    }

    /// Orders what was stored before it and what is loaded after it, as the controller sees it.
    fn barrier(&mut self) {
        core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
    }

    /// How many MSI-X vectors can be used; 0 when only polling works.
    fn vectors(&self) -> u16;

    /// How often the interrupt of `vector` has arrived since the transport was made.
    fn interrupts(&mut self, vector: u16) -> u64;

    /// Waits until [`interrupts`](Self::interrupts) of `vector` differs from `seen`, for at most
    /// `timeout_ns`. Returns whether it does.
    fn wait_interrupt(&mut self, vector: u16, seen: u64, timeout_ns: u64) -> bool;

    /// Masks or unmasks one MSI-X table entry.
    fn mask_vector(&mut self, vector: u16, masked: bool);

    /// The vector's bit in the MSI-X pending bit array.
    fn vector_pending(&mut self, vector: u16) -> bool;

    /// Sets or clears MSI-X's function mask.
    fn mask_function(&mut self, masked: bool);

    /// A monotonic clock in nanoseconds; in-process it is a stepped one.
    fn now_ns(&mut self) -> u64;

    /// Called in every polling loop: a pause in the guest; in-process the controller is stepped
    /// and the clock advanced.
    fn relax(&mut self);

    /// Lets at least `ns` nanoseconds pass; in-process the controller sleeps and wakes meanwhile.
    fn pause(&mut self, ns: u64) {
        let start = self.now_ns();
        while self.now_ns().saturating_sub(start) < ns {
            self.relax();
        }
    }
}
