//! A router that writes down what it is told, and a device to put on a bus.

use std::sync::{Arc, Mutex};

use pci::{
    Bar, Bars, ClassCode, ConfigBuilder, ConfigSpace, Effects, Endpoint, Express, Identity,
    InterruptPin, MsiMessage, MsiRouter, MsixLayout, PciFunction, PortType,
};

pub(crate) const IDENTITY: Identity = Identity {
    vendor: 0x1234,
    device: 0x5678,
    subsystem_vendor: 0x9ABC,
    subsystem: 0xDEF0,
    class: ClassCode::NVM_EXPRESS,
    revision: 0x42,
};

/// BAR 0: registers, then the table at 2000h and the PBA at 3000h.
pub(crate) const LAYOUT: MsixLayout = MsixLayout {
    vectors: 70,
    table_bar: 0,
    table_offset: 0x2000,
    pba_bar: 0,
    pba_offset: 0x3000,
};

pub(crate) const BAR0_SIZE: u64 = 0x4000;

/// A 64-bit BAR 0, a 32-bit BAR 2 and every capability.
pub(crate) fn full() -> ConfigBuilder {
    ConfigSpace::builder(IDENTITY)
        .bar(0, Bar::memory64(BAR0_SIZE))
        .bar(2, Bar::memory32(0x1000).prefetchable())
        .power_management()
        .msix(LAYOUT)
        .express(Express::new(PortType::IntegratedEndpoint).with_function_level_reset())
        .interrupt_pin(InterruptPin::A)
}

/// What a router was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Route(u16, Option<MsiMessage>),
    Commit,
    Signal(u16),
}

#[derive(Default)]
pub(crate) struct Recorder(Mutex<Vec<Call>>);

impl Recorder {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The calls since the last look.
    pub(crate) fn take(&self) -> Vec<Call> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    fn note(&self, call: Call) {
        self.0.lock().unwrap().push(call);
    }
}

impl MsiRouter for Recorder {
    fn route(&self, vector: u16, message: Option<MsiMessage>) {
        self.note(Call::Route(vector, message));
    }

    fn commit(&self) {
        self.note(Call::Commit);
    }

    fn signal(&self, vector: u16) {
        self.note(Call::Signal(vector));
    }
}

/// A device whose registers read their own offset's low byte and keep a list of writes.
pub(crate) struct Device {
    pub(crate) pci: Endpoint,
    pub(crate) writes: Mutex<Vec<(u8, u64, Vec<u8>)>>,
}

impl Device {
    pub(crate) fn new(config: ConfigBuilder, router: Arc<Recorder>) -> Arc<Self> {
        let pci = Endpoint::new(config.build().unwrap(), router);
        Arc::new(Self {
            pci,
            writes: Mutex::default(),
        })
    }
}

impl PciFunction for Device {
    fn config_read(&self, offset: u16, data: &mut [u8]) {
        self.pci.config_read(offset, data);
    }

    fn config_write(&self, offset: u16, data: &[u8]) -> Effects {
        self.pci.config_write(offset, data)
    }

    fn bars(&self) -> Bars {
        self.pci.bars()
    }

    fn bar_base(&self, bar: u8) -> Option<u64> {
        self.pci.bar_base(bar)
    }

    fn bar_read(&self, bar: u8, offset: u64, data: &mut [u8]) {
        self.pci.bar_read(bar, offset, data, |offset, data| {
            for (at, byte) in (offset..).zip(data) {
                *byte = at.to_le_bytes()[0];
            }
        });
    }

    fn bar_write(&self, bar: u8, offset: u64, data: &[u8]) {
        self.pci.bar_write(bar, offset, data, |offset, data| {
            self.writes
                .lock()
                .unwrap()
                .push((bar, offset, data.to_vec()));
        });
    }

    fn reset(&self) {
        self.pci.reset();
    }
}
