use std::sync::Arc;

use pci::{ConfigSpace, Effects, MsiMessage, PciFunction, header};

use crate::common::{Call, Device, IDENTITY, Recorder, full};

/// Offsets in the configuration space of `full()`.
const MSIX_CONTROL: u16 = 0x48 + 2;
const POWER_CONTROL: u16 = 0x40 + 4;
const DEVICE_CONTROL: u16 = 0x54 + 8;

fn device() -> (Arc<Recorder>, Arc<Device>) {
    let recorder = Recorder::new();
    (recorder.clone(), Device::new(full(), recorder))
}

fn write_word(device: &Device, offset: u16, value: u16) -> Effects {
    device.config_write(offset, &value.to_le_bytes())
}

/// Vector 0 unmasked with some message; MSI-X on; a bus master.
fn interrupting() -> (Arc<Recorder>, Arc<Device>) {
    let (recorder, device) = device();
    assert_eq!(write_word(&device, MSIX_CONTROL, 0x8000), Effects::MSIX);
    device.bar_write(0, 0x2000, &0xFEE0_0000_u64.to_le_bytes());
    device.bar_write(0, 0x2008, &0x31_u64.to_le_bytes());
    assert_eq!(recorder.take(), []);
    let effects = write_word(&device, header::COMMAND, 6);
    assert_eq!(effects, Effects::MEMORY_DECODE | Effects::BUS_MASTER);
    let message = MsiMessage {
        address: 0xFEE0_0000,
        data: 0x31,
    };
    assert_eq!(
        recorder.take(),
        [Call::Route(0, Some(message)), Call::Commit]
    );
    (recorder, device)
}

#[test]
fn configuration_writes_reach_msix_before_they_return() {
    let (recorder, device) = interrupting();
    let signal = || device.pci.msix().unwrap().signal(0);
    signal();
    assert_eq!(recorder.take(), [Call::Signal(0)]);
    let _ = write_word(&device, MSIX_CONTROL, 0xC000);
    signal();
    assert_eq!(recorder.take(), []);
    let _ = write_word(&device, MSIX_CONTROL, 0x8000);
    assert_eq!(recorder.take(), [Call::Signal(0)]);
    let _ = write_word(&device, header::COMMAND, 2);
    signal();
    assert_eq!(recorder.take(), []);
    let _ = write_word(&device, header::COMMAND, 6);
    assert_eq!(recorder.take(), [Call::Signal(0)]);
    let _ = write_word(&device, POWER_CONTROL, 3);
    assert!(!device.pci.bus_master());
    signal();
    assert_eq!(recorder.take(), []);
    let _ = write_word(&device, POWER_CONTROL, 0);
    assert_eq!(recorder.take(), [Call::Signal(0)]);
}

#[test]
fn what_follows_a_write_sees_its_outcome_under_the_same_lock() {
    let (_, device) = device();
    let mut seen = None;
    let effects = device
        .pci
        .config_write_then(header::COMMAND, &[6], |config, effects| {
            seen = Some((config.bus_master(), effects));
        });
    assert_eq!(effects, Effects::MEMORY_DECODE | Effects::BUS_MASTER);
    assert_eq!(seen, Some((true, effects)));
}

#[test]
fn function_level_reset_resets_configuration_and_msix_and_says_all_it_changed() {
    let (recorder, device) = interrupting();
    let _ = device.config_write(0x10, &0xE000_0000_u32.to_le_bytes());
    assert_eq!(device.bar_base(0), Some(0xE000_0000));
    let effects = write_word(&device, DEVICE_CONTROL, 0x8000);
    let expected = Effects::FUNCTION_LEVEL_RESET
        | Effects::BARS
        | Effects::MEMORY_DECODE
        | Effects::BUS_MASTER
        | Effects::MSIX;
    assert_eq!(effects, expected);
    assert_eq!(device.bar_base(0), None);
    assert_eq!(recorder.take(), [Call::Route(0, None), Call::Commit]);
    device.pci.msix().unwrap().signal(0);
    assert_eq!(recorder.take(), []);
    let mut control = [0; 2];
    device.config_read(DEVICE_CONTROL, &mut control);
    assert_eq!(u16::from_le_bytes(control), 0x2810);
}

#[test]
fn reset_is_power_on() {
    let (recorder, device) = interrupting();
    let mut fresh = [0; 256];
    Device::new(full(), Recorder::new()).config_read(0, &mut fresh);
    device.pci.set_interrupt_status(true);
    device.reset();
    let mut now = [0; 256];
    device.config_read(0, &mut now);
    assert_eq!(now, fresh);
    assert_eq!(recorder.take(), [Call::Route(0, None), Call::Commit]);
}

#[test]
fn a_bar_read_across_registers_table_and_pba_gives_each_its_own() {
    let (_, device) = device();
    device.pci.msix().unwrap().signal(0);
    let mut whole = vec![0; 0x4000];
    device.bar_read(0, 0, &mut whole);
    let register = |at: usize| at.to_le_bytes()[0];
    let table_end = 0x2000 + 70 * 16;
    assert!((0..0x2000).all(|at| whole[at] == register(at)));
    assert_eq!(
        whole[0x2000..0x2010],
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]
    );
    assert_eq!(whole[table_end - 4..table_end], [1, 0, 0, 0]);
    assert!((table_end..0x3000).all(|at| whole[at] == register(at)));
    assert_eq!(
        whole[0x3000..0x3010],
        [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    );
    assert!((0x3010..0x4000).all(|at| whole[at] == register(at)));
    // Every smaller access agrees with the large one.
    for offset in 0x1FF0..0x2020 {
        for length in 0..9 {
            let mut part = vec![0; length];
            device.bar_read(0, offset as u64, &mut part);
            assert_eq!(part, whole[offset..offset + length]);
        }
    }
}

#[test]
fn a_bar_write_across_the_table_reaches_the_device_only_with_its_own_parts() {
    let (_, device) = device();
    device.bar_write(0, 0x1FFC, &[0xAA; 8]);
    device.bar_write(0, 0x2FFC, &[0xBB; 0x20]);
    device.bar_write(2, 0x2000, &[0xCC; 4]);
    assert_eq!(
        *device.writes.lock().unwrap(),
        [
            (0, 0x1FFC, vec![0xAA; 4]),
            (0, 0x2FFC, vec![0xBB; 4]),
            (0, 0x3010, vec![0xBB; 0xC]),
            (2, 0x2000, vec![0xCC; 4]),
        ]
    );
    let mut address = [0; 4];
    device.bar_read(0, 0x2000, &mut address);
    assert_eq!(u32::from_le_bytes(address), 0xAAAA_AAA8);
}

#[test]
fn intx_is_allowed_while_neither_disabled_nor_replaced() {
    let (_, device) = device();
    assert!(device.pci.intx_allowed());
    let _ = write_word(&device, header::COMMAND, 0x400);
    assert!(!device.pci.intx_allowed());
    let _ = write_word(&device, header::COMMAND, 0);
    let _ = write_word(&device, MSIX_CONTROL, 0x8000);
    assert!(!device.pci.intx_allowed());
}

#[test]
fn without_msix_every_bar_byte_is_the_devices() {
    let config = ConfigSpace::builder(IDENTITY).bar(0, pci::Bar::memory32(0x4000));
    let device = Device::new(config, Recorder::new());
    assert!(device.pci.msix().is_none());
    device.bar_write(0, 0x2000, &[1; 4]);
    assert_eq!(*device.writes.lock().unwrap(), [(0, 0x2000, vec![1; 4])]);
    assert_eq!(write_word(&device, header::COMMAND, 4), Effects::BUS_MASTER);
    device.reset();
}
