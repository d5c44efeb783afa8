//! A PCI function that does nothing but answer: the floor under every interrupt of this machine.
//!
//! Register 0 of its BAR0 answers a write of any value with MSI-X vector 0, on the thread that
//! writes. Register 8 takes the guest address of a dword, which holds 0; from then on a
//! thread looks at it without a pause and answers each change of it, until 0 is written there. What lies between
//! guest and answer is what lies between guest and controller: the buses, MSI-X, the irqfd.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use pci::{
    Bar, Bars, ClassCode, ConfigSpace, Effects, Endpoint, Identity, MsiRouter, Msix, MsixLayout,
    PciFunction, UNASSIGNED_VENDOR_ID,
};
use storage::GuestRamHandle;
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

use super::GuestBenchError;

/// The class code that the test kernel looks for: none of those there are.
const CLASS: ClassCode = ClassCode {
    base: 0xFF,
    sub: 0,
    interface: 0,
};
const REGISTER_BAR: u8 = 0;
const MSIX_BAR: u8 = 4;
const ANSWER: u64 = 0;
const WATCH: u64 = 8;
const PAGE: u64 = 4096;

/// The function and its thread, which ends when this is dropped.
pub(super) struct Answerer {
    endpoint: Endpoint,
    watching: Arc<Watching>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread is told.
struct Watching {
    /// The guest address of the dword, or 0.
    address: AtomicU64,
    stop: AtomicBool,
}

impl Answerer {
    /// A function with one vector that goes to `router`.
    pub(super) fn new(
        memory: GuestRamHandle,
        router: Arc<dyn MsiRouter>,
    ) -> Result<Self, GuestBenchError> {
        let layout = MsixLayout {
            vectors: 1,
            table_bar: MSIX_BAR,
            table_offset: 0,
            pba_bar: MSIX_BAR,
            pba_offset: 2048,
        };
        let space = ConfigSpace::builder(Identity {
            vendor: UNASSIGNED_VENDOR_ID,
            device: 0xA115,
            subsystem_vendor: UNASSIGNED_VENDOR_ID,
            subsystem: 1,
            class: CLASS,
            revision: 1,
        })
        .bar(REGISTER_BAR, Bar::memory64(PAGE))
        .bar(MSIX_BAR, Bar::memory64(PAGE))
        .msix(layout)
        .build()?;
        let endpoint = Endpoint::new(space, router);
        let watching = Arc::new(Watching {
            address: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let mut function = Self {
            endpoint,
            watching: watching.clone(),
            thread: None,
        };
        if let Some(msix) = function.endpoint.msix().cloned() {
            let thread = thread::Builder::new()
                .name("answerer".to_string())
                .spawn(move || watch(&watching, &memory, &msix))
                .map_err(GuestBenchError::Thread)?;
            function.thread = Some(thread);
        }
        Ok(function)
    }
}

/// Answers each change of the dword, as long as there is one.
fn watch(watching: &Watching, memory: &GuestRamHandle, msix: &Msix) {
    let mut last = 0;
    while !watching.stop.load(Ordering::Acquire) {
        let address = watching.address.load(Ordering::Acquire);
        if address == 0 {
            last = 0;
            thread::park();
            continue;
        }
        let word = memory
            .memory()
            .load::<u32>(GuestAddress(address), Ordering::Acquire);
        // Where there is no memory nothing changes.
        let word = word.unwrap_or(last);
        if word != last {
            last = word;
            msix.signal(0);
        }
        std::hint::spin_loop();
    }
}

impl PciFunction for Answerer {
    fn config_read(&self, offset: u16, data: &mut [u8]) {
        self.endpoint.config_read(offset, data);
    }

    fn config_write(&self, offset: u16, data: &[u8]) -> Effects {
        self.endpoint.config_write(offset, data)
    }

    fn bars(&self) -> Bars {
        self.endpoint.bars()
    }

    fn bar_base(&self, bar: u8) -> Option<u64> {
        self.endpoint.bar_base(bar)
    }

    fn bar_read(&self, bar: u8, offset: u64, data: &mut [u8]) {
        self.endpoint
            .bar_read(bar, offset, data, |_, data| data.fill(0));
    }

    fn bar_write(&self, bar: u8, offset: u64, data: &[u8]) {
        self.endpoint.bar_write(bar, offset, data, |offset, data| {
            match (bar, offset, <[u8; 8]>::try_from(data)) {
                (REGISTER_BAR, ANSWER, _) => {
                    if let Some(msix) = self.endpoint.msix() {
                        msix.signal(0);
                    }
                }
                (REGISTER_BAR, WATCH, Ok(address)) => {
                    let address = u64::from_le_bytes(address);
                    self.watching.address.store(address, Ordering::Release);
                    if let Some(thread) = &self.thread {
                        thread.thread().unpark();
                    }
                }
                _ => {}
            }
        });
    }

    fn reset(&self) {
        self.watching.address.store(0, Ordering::Release);
        self.endpoint.reset();
    }
}

impl Drop for Answerer {
    fn drop(&mut self) {
        self.watching.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It does not panic: it only loads and signals.
            let _ = thread.join();
        }
    }
}
