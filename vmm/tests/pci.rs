//! PCI on the machine: BARs that the guest moves, MSI-X on irqfds with its masks. The guest's
//! half is the test kernel's `selfcheck=pci`.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail like tests"
)]

mod support;

use std::sync::Arc;

use pci::{
    Bar, Bars, ClassCode, ConfigSpace, Effects, Endpoint, Identity, MsiRouter, MsixLayout,
    PciFunction, UNASSIGNED_VENDOR_ID,
};
use support::{SUCCESS, have_kvm, machine};

/// BAR0 reads as the offset of each dword; a dword written to it is an MSI-X entry to signal.
/// BAR2 has the MSI-X table and pending bits.
struct Device(Endpoint);

impl Device {
    const VECTORS: u16 = 70;

    fn new(router: Arc<dyn MsiRouter>) -> Self {
        let identity = Identity {
            vendor: UNASSIGNED_VENDOR_ID,
            device: 0x7e57,
            subsystem_vendor: UNASSIGNED_VENDOR_ID,
            subsystem: 0,
            class: ClassCode {
                base: 0xff,
                sub: 0,
                interface: 0,
            },
            revision: 0,
        };
        let layout = MsixLayout {
            vectors: Self::VECTORS,
            table_bar: 2,
            table_offset: 0,
            pba_bar: 2,
            pba_offset: 0x1000,
        };
        let config = ConfigSpace::builder(identity)
            .bar(0, Bar::memory64(0x1000))
            .bar(2, Bar::memory32(0x2000))
            .msix(layout)
            .build()
            .expect("a correct description");
        Self(Endpoint::new(config, router))
    }
}

impl PciFunction for Device {
    fn config_read(&self, offset: u16, data: &mut [u8]) {
        self.0.config_read(offset, data);
    }

    fn config_write(&self, offset: u16, data: &[u8]) -> Effects {
        self.0.config_write(offset, data)
    }

    fn bars(&self) -> Bars {
        self.0.bars()
    }

    fn bar_base(&self, bar: u8) -> Option<u64> {
        self.0.bar_base(bar)
    }

    fn bar_read(&self, bar: u8, offset: u64, data: &mut [u8]) {
        self.0.bar_read(bar, offset, data, |offset, data| {
            let bytes = offset.to_le_bytes();
            data.copy_from_slice(&bytes[..data.len()]);
        });
    }

    fn bar_write(&self, bar: u8, offset: u64, data: &[u8]) {
        self.0.bar_write(bar, offset, data, |_, data| {
            let entry = u16::from_le_bytes(*data.first_chunk().expect("a dword"));
            self.0.msix().expect("it has vectors").signal(entry);
        });
    }

    fn reset(&self) {
        self.0.reset();
    }
}

#[test]
fn bars_move_and_masks_hold_interrupts_back() {
    if !have_kvm() {
        return;
    }
    let (mut machine, output) = machine("selfcheck=pci class=0xff0000");
    let msi = machine.msi(Device::VECTORS).expect("routes");
    let device = Arc::new(Device::new(Arc::new(msi)));
    machine.attach_pci(5, device).expect("free");
    let outcome = machine.run().expect("a run");
    println!("{}\n{outcome:?}", output.text());
    assert_eq!(outcome.exit, SUCCESS, "{}", output.text());
    assert!(
        output
            .text()
            .contains("00:05.0 fe26:7e57 class ff0000: BAR0 0xc000")
    );
}
