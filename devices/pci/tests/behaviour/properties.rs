//! Random accesses of any width and offset: nothing panics, read-only bits never change, and
//! pending bits, masks and deliveries agree with a plain model.

use std::collections::BTreeMap;
use std::sync::Arc;

use pci::{Aperture, Bdf, Bus, ConfigSpace, HostBridge, Msix, MsixControl, PciFunction};
use proptest::prelude::*;

use crate::common::{Call, Device, Recorder, full};

/// Offsets near anything that matters, and anywhere.
fn config_offset() -> impl Strategy<Value = u16> {
    prop_oneof![8 => 0..0x110_u16, 1 => 0xFF0..0x1010_u16, 1 => any::<u16>()]
}

fn bar_offset() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0x1FF0..0x2480_u64,
        2 => 0x2FF0..0x3020_u64,
        1 => 0..0x4010_u64,
        // The trait promises that offset + length does not overflow.
        1 => 0..u64::MAX - 64,
    ]
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![Just(0), Just(0xFF), any::<u8>()];
    prop_oneof![
        3 => prop::collection::vec(byte.clone(), 4),
        1 => prop::collection::vec(byte.clone(), 8),
        2 => prop::collection::vec(byte, 0..40),
    ]
}

#[derive(Clone, Debug)]
enum Access {
    ConfigRead(u16, usize),
    ConfigWrite(u16, Vec<u8>),
    BarRead(u8, u64, usize),
    BarWrite(u8, u64, Vec<u8>),
    PortRead(u16, usize),
    PortWrite(u16, Vec<u8>),
    EcamRead(u64, usize),
    EcamWrite(u64, Vec<u8>),
    Signal(u16),
    Reset,
}

fn access() -> impl Strategy<Value = Access> {
    let port = prop_oneof![8 => 0xCF6..0xD02_u16, 1 => any::<u16>()];
    let ecam = prop_oneof![4 => 0..0x1_1000_u64, 1 => any::<u64>()];
    let bar = prop_oneof![4 => Just(0_u8), 1 => any::<u8>()];
    let length = 0..64_usize;
    prop_oneof![
        2 => (config_offset(), length.clone()).prop_map(|(o, l)| Access::ConfigRead(o, l)),
        6 => (config_offset(), bytes()).prop_map(|(o, d)| Access::ConfigWrite(o, d)),
        2 => (bar.clone(), bar_offset(), length.clone())
            .prop_map(|(b, o, l)| Access::BarRead(b, o, l)),
        6 => (bar, bar_offset(), bytes()).prop_map(|(b, o, d)| Access::BarWrite(b, o, d)),
        1 => (port.clone(), length.clone()).prop_map(|(p, l)| Access::PortRead(p, l)),
        4 => (port, bytes()).prop_map(|(p, d)| Access::PortWrite(p, d)),
        1 => (ecam.clone(), length).prop_map(|(o, l)| Access::EcamRead(o, l)),
        4 => (ecam, bytes()).prop_map(|(o, d)| Access::EcamWrite(o, d)),
        3 => any::<u16>().prop_map(|v| Access::Signal(v % 80)),
        1 => Just(Access::Reset),
    ]
}

/// The bits of the first 256 bytes that software may change, from the specification and not
/// from the crate's table. Power management is at 40h, MSI-X at 48h, PCI Express at 54h.
fn writable() -> [u8; 256] {
    let mut masks = [0; 256];
    let mut allow = |offset: usize, mask: u32| {
        for (slot, bits) in masks[offset..].iter_mut().zip(mask.to_le_bytes()) {
            *slot |= bits;
        }
    };
    allow(0x04, 0x0000_0546); // Command
    allow(0x0C, 0xFF); // cache line size
    allow(0x10, 0xFFFF_C000); // BAR 0
    allow(0x14, 0xFFFF_FFFF); // its upper half
    allow(0x18, 0xFFFF_F000); // BAR 2
    allow(0x3C, 0xFF); // interrupt line
    allow(0x44, 0x3); // power state
    allow(0x48, 0xC000_0000); // MSI-X Message Control
    allow(0x54 + 0x08, 0x781F); // Device Control; Initiate FLR reads 0
    allow(0x54 + 0x28, 0x10); // Device Control 2
    masks
}

fn snapshot(device: &Device) -> [u8; 256] {
    let mut bytes = [0; 256];
    device.config_read(0, &mut bytes);
    bytes
}

fn assert_disjoint_and_inside(bus: &Bus, apertures: &[Aperture]) {
    let windows = bus.windows();
    for window in &windows {
        assert!(
            apertures
                .iter()
                .any(|a| a.contains(window.base, window.size))
        );
        assert_eq!(window.base % window.size, 0);
    }
    for pair in windows.windows(2) {
        assert!(pair[0].base < pair[1].base && !pair[0].overlaps(&pair[1]));
    }
}

proptest! {
    #[test]
    fn no_access_panics_or_changes_a_read_only_bit(
        accesses in prop::collection::vec(access(), 1..60)
    ) {
        let apertures = [
            Aperture { base: 0, size: 0x1_0000_0000 },
            Aperture { base: 1 << 60, size: 1 << 60 },
        ];
        let bridge = HostBridge::new(HostBridge::DEFAULT_IDENTITY).unwrap();
        let mut bus = Bus::new(Arc::new(bridge), apertures.to_vec());
        let device = Device::new(full(), Recorder::new());
        bus.add(1, device.clone()).unwrap();
        bus.add(2, Device::new(full(), Recorder::new())).unwrap();
        let fresh = snapshot(&device);
        let masks = writable();
        let mut buffer = [0; 64];
        for access in accesses {
            match &access {
                Access::ConfigRead(o, l) => device.config_read(*o, &mut buffer[..*l]),
                Access::ConfigWrite(o, d) => bus.config_write(Bdf::on_bus_0(1), *o, d),
                Access::BarRead(b, o, l) => device.bar_read(*b, *o, &mut buffer[..*l]),
                Access::BarWrite(b, o, d) => device.bar_write(*b, *o, d),
                Access::PortRead(p, l) => bus.port_read(*p, &mut buffer[..*l]),
                Access::PortWrite(p, d) => bus.port_write(*p, d),
                Access::EcamRead(o, l) => bus.ecam_read(*o, &mut buffer[..*l]),
                Access::EcamWrite(o, d) => bus.ecam_write(*o, d),
                Access::Signal(v) => device.pci.msix().unwrap().signal(*v),
                Access::Reset => bus.reset(),
            }
            for (at, (now, was)) in snapshot(&device).into_iter().zip(fresh).enumerate() {
                prop_assert_eq!(now & !masks[at], was & !masks[at], "byte {:#x} by {:?}", at, access);
            }
            assert_disjoint_and_inside(&bus, &apertures);
        }
    }

    #[test]
    fn a_config_write_changes_only_bytes_it_covers_and_its_effects_tell_the_truth(
        writes in prop::collection::vec((config_offset(), bytes()), 1..40)
    ) {
        let mut config = full().build().unwrap();
        for (offset, data) in writes {
            let mut before = [0; 4096];
            config.read(0, &mut before);
            let state = observable(&config);
            let effects = config.write(offset, &data);
            let mut after = [0; 4096];
            config.read(0, &mut after);
            let covered = usize::from(offset)..usize::from(offset) + data.len();
            for at in (0..4096).filter(|at| !covered.contains(at)) {
                prop_assert_eq!(before[at], after[at]);
            }
            let now = observable(&config);
            prop_assert_eq!(effects.contains(pci::Effects::BARS), state.0 != now.0);
            prop_assert_eq!(effects.contains(pci::Effects::MEMORY_DECODE), state.1 != now.1);
            prop_assert_eq!(effects.contains(pci::Effects::BUS_MASTER), state.2 != now.2);
            prop_assert_eq!(effects.contains(pci::Effects::MSIX), state.3 != now.3);
        }
    }

    #[test]
    fn msix_agrees_with_a_plain_model(steps in prop::collection::vec(step(), 1..120)) {
        let recorder = Recorder::new();
        let msix = Msix::new(MODEL_VECTORS, recorder.clone());
        let mut model = Model::default();
        for step in steps {
            model.apply(&step);
            match step {
                Step::Signal(vector) => msix.signal(vector),
                Step::Clear(vector) => msix.clear_pending(vector),
                Step::Mask(vector, masked) => {
                    let at = u64::from(vector) * 16 + 12;
                    msix.table_write(at, &u32::from(masked).to_le_bytes());
                }
                Step::Message(vector, data) => {
                    msix.table_write(u64::from(vector) * 16 + 8, &data.to_le_bytes());
                }
                Step::Control(enable, function_mask, bus_master) => {
                    msix.set_control(MsixControl { enable, function_mask }, bus_master);
                }
                Step::Reset => msix.reset(),
            }
            let mut delivered = Vec::new();
            let mut changed = 0;
            for call in recorder.take() {
                match call {
                    Call::Signal(vector) => {
                        let data = model.entry(vector).data;
                        prop_assert_eq!(model.routes.get(&vector), Some(&data), "stale route");
                        delivered.push(vector);
                    }
                    Call::Route(vector, Some(message)) => {
                        prop_assert!(model.is_open(vector), "routed while closed");
                        let old = model.routes.insert(vector, message.data);
                        prop_assert_ne!(old, Some(message.data), "routed twice the same");
                        changed += 1;
                    }
                    Call::Route(vector, None) => {
                        model.routes.remove(&vector);
                        changed += 1;
                    }
                    Call::Commit => {
                        prop_assert!(changed > 0, "an empty commit");
                        changed = 0;
                    }
                }
            }
            prop_assert_eq!(changed, 0, "routes without a commit");
            prop_assert_eq!(delivered, std::mem::take(&mut model.owed));
            for vector in 0..MODEL_VECTORS {
                prop_assert_eq!(msix.is_pending(vector), model.entry(vector).pending);
            }
        }
    }
}

/// BAR addresses, memory decoding, bus mastering and MSI-X control.
fn observable(config: &ConfigSpace) -> ([Option<u64>; 6], bool, bool, MsixControl) {
    let bars = [0, 1, 2, 3, 4, 5].map(|bar| config.bar_address(bar));
    (
        bars,
        config.memory_decode(),
        config.bus_master(),
        config.msix_control(),
    )
}

const MODEL_VECTORS: u16 = 3;

#[derive(Clone, Debug)]
enum Step {
    Signal(u16),
    Clear(u16),
    Mask(u16, bool),
    Message(u16, u32),
    Control(bool, bool, bool),
    Reset,
}

fn step() -> impl Strategy<Value = Step> {
    let vector = 0..MODEL_VECTORS + 1;
    let mostly = || prop::bool::weighted(0.8);
    prop_oneof![
        6 => vector.clone().prop_map(Step::Signal),
        1 => vector.clone().prop_map(Step::Clear),
        6 => (vector.clone(), any::<bool>()).prop_map(|(v, m)| Step::Mask(v, m)),
        2 => (vector, 0..3_u32).prop_map(|(v, d)| Step::Message(v, d)),
        4 => (mostly(), mostly(), mostly()).prop_map(|(e, f, b)| Step::Control(e, !f, b)),
        1 => Just(Step::Reset),
    ]
}

#[derive(Clone, Copy)]
struct Entry {
    masked: bool,
    pending: bool,
    data: u32,
}

impl Default for Entry {
    fn default() -> Self {
        Self {
            masked: true,
            pending: false,
            data: 0,
        }
    }
}

/// MSI-X by its definition, all at once after every step.
#[derive(Default)]
struct Model {
    entries: BTreeMap<u16, Entry>,
    open: bool,
    owed: Vec<u16>,
    routes: BTreeMap<u16, u32>,
}

impl Model {
    fn entry(&self, vector: u16) -> Entry {
        self.entries.get(&vector).copied().unwrap_or_default()
    }

    fn is_open(&self, vector: u16) -> bool {
        self.open && !self.entry(vector).masked
    }

    fn apply(&mut self, step: &Step) {
        let change =
            |entries: &mut BTreeMap<u16, Entry>, vector: u16, f: fn(&mut Entry, u32), to| {
                if vector < MODEL_VECTORS {
                    f(entries.entry(vector).or_default(), to);
                }
            };
        let entries = &mut self.entries;
        match *step {
            Step::Signal(vector) => change(entries, vector, |e, _| e.pending = true, 0),
            Step::Clear(vector) => change(entries, vector, |e, _| e.pending = false, 0),
            Step::Mask(vector, to) => {
                change(entries, vector, |e, to| e.masked = to != 0, to.into())
            }
            Step::Message(vector, to) => change(entries, vector, |e, to| e.data = to, to),
            Step::Control(enable, function_mask, bus_master) => {
                self.open = enable && !function_mask && bus_master;
            }
            Step::Reset => {
                self.open = false;
                entries.clear();
            }
        }
        for vector in 0..MODEL_VECTORS {
            if self.is_open(vector) && self.entry(vector).pending {
                self.owed.push(vector);
                self.entries.entry(vector).or_default().pending = false;
            }
        }
    }
}
