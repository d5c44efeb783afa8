use std::sync::{Arc, Mutex};

use pci::{
    Aperture, Bar, BarWindow, Bdf, Bus, BusError, CONFIG_ADDRESS_PORT, CONFIG_DATA_PORT,
    ConfigSpace, HostBridge, PciFunction, header,
};

use crate::common::{BAR0_SIZE, Device, IDENTITY, Recorder, full};

const LOW: Aperture = Aperture {
    base: 0xE000_0000,
    size: 0x1000_0000,
};
const HIGH: Aperture = Aperture {
    base: 1 << 36,
    size: 1 << 36,
};

fn empty() -> Bus {
    let bridge = HostBridge::new(HostBridge::DEFAULT_IDENTITY).unwrap();
    Bus::new(Arc::new(bridge), vec![LOW, HIGH])
}

/// The full device at 1 and one with a single 32-bit BAR of 4,000h bytes at 2.
fn populated() -> Bus {
    let mut bus = empty();
    bus.add(1, Device::new(full(), Recorder::new())).unwrap();
    let small = ConfigSpace::builder(IDENTITY).bar(0, Bar::memory32(0x4000));
    bus.add(2, Device::new(small, Recorder::new())).unwrap();
    bus
}

fn select(bus: &Bus, device: u8, register: u8) {
    let address = Bdf::on_bus_0(device).config_address(register);
    bus.port_write(CONFIG_ADDRESS_PORT, &address.to_le_bytes());
}

fn port<const N: usize>(bus: &Bus, port: u16) -> [u8; N] {
    let mut data = [0x5A; N];
    bus.port_read(port, &mut data);
    data
}

fn ecam<const N: usize>(bus: &Bus, offset: u64) -> [u8; N] {
    let mut data = [0x5A; N];
    bus.ecam_read(offset, &mut data);
    data
}

fn write_dword(bus: &Bus, device: u8, register: u16, value: u32) {
    bus.config_write(Bdf::on_bus_0(device), register, &value.to_le_bytes());
}

fn decode(bus: &Bus, device: u8, on: bool) {
    let command = if on { 2_u16 } else { 0 };
    bus.config_write(
        Bdf::on_bus_0(device),
        header::COMMAND,
        &command.to_le_bytes(),
    );
}

fn window(device: u8, bar: u8, base: u64, size: u64) -> BarWindow {
    BarWindow {
        function: Bdf::on_bus_0(device),
        bar,
        base,
        size,
    }
}

#[test]
fn the_host_bridge_is_at_device_0_with_its_class() {
    let bus = empty();
    let mut ids = [0; 16];
    bus.config_read(Bdf::on_bus_0(0), 0, &mut ids);
    assert_eq!(ids[..4], [0x26, 0xFE, 0x01, 0x00]);
    assert_eq!(ids[9..12], [0x00, 0x00, 0x06]);
    let other = pci::Identity {
        vendor: 0x1B36,
        ..HostBridge::DEFAULT_IDENTITY
    };
    let bridge = HostBridge::new(other).unwrap();
    let bus = Bus::new(Arc::new(bridge), Vec::new());
    assert_eq!(ecam(&bus, 0), [0x36_u8, 0x1B]);
}

#[test]
fn the_host_bridge_has_no_bar_and_answers_every_access() {
    let bridge = HostBridge::new(HostBridge::DEFAULT_IDENTITY).unwrap();
    let mut data = [0; 4];
    bridge.bar_read(0, u64::MAX, &mut data);
    assert_eq!(data, [0xFF; 4]);
    bridge.bar_write(255, u64::MAX, &data);
    assert!(bridge.bars().iter().all(Option::is_none));
    assert_eq!(bridge.bar_base(0), None);
    let effects = bridge.config_write(header::COMMAND, &[0xFF; 2]);
    assert!(effects.windows());
    bridge.reset();
}

#[test]
fn ports_and_ecam_read_the_same_bytes() {
    let bus = populated();
    for device in 0..4 {
        let base = Bdf::on_bus_0(device).ecam_offset();
        for register in (0..=252).step_by(4) {
            select(&bus, device, register);
            let at = base + u64::from(register);
            assert_eq!(port::<4>(&bus, CONFIG_DATA_PORT), ecam::<4>(&bus, at));
            for lane in 0..4_u16 {
                let byte: [u8; 1] = port(&bus, CONFIG_DATA_PORT + lane);
                assert_eq!(byte, ecam(&bus, at + u64::from(lane)));
            }
            for lane in 0..3_u16 {
                let word: [u8; 2] = port(&bus, CONFIG_DATA_PORT + lane);
                assert_eq!(word, ecam(&bus, at + u64::from(lane)));
            }
        }
    }
}

#[test]
fn a_write_by_either_way_is_read_by_the_other() {
    let bus = populated();
    let base = Bdf::on_bus_0(1).ecam_offset();
    select(&bus, 1, 0x3C);
    bus.port_write(CONFIG_DATA_PORT, &[0x11]);
    assert_eq!(ecam(&bus, base + 0x3C), [0x11_u8]);
    bus.ecam_write(base + 0x3C, &[0x22]);
    assert_eq!(port(&bus, CONFIG_DATA_PORT), [0x22_u8]);
    select(&bus, 1, 0x10);
    bus.port_write(CONFIG_DATA_PORT + 2, &[0x34, 0xE2]);
    assert_eq!(u32::from_le_bytes(ecam(&bus, base + 0x10)), 0xE234_0004);
    select(&bus, 1, 0x0C);
    bus.port_write(CONFIG_DATA_PORT, &0x40_u32.to_le_bytes());
    assert_eq!(ecam(&bus, base + 0x0C), [0x40_u8, 0, 0, 0]);
}

#[test]
fn config_address_is_readable_and_latched_by_a_dword_only() {
    let bus = populated();
    bus.port_write(CONFIG_ADDRESS_PORT, &u32::MAX.to_le_bytes());
    assert_eq!(
        u32::from_le_bytes(port(&bus, CONFIG_ADDRESS_PORT)),
        0x80FF_FFFC
    );
    select(&bus, 1, 0);
    bus.port_write(CONFIG_ADDRESS_PORT, &[0xFF]);
    bus.port_write(CONFIG_ADDRESS_PORT, &[0xFF; 2]);
    bus.port_write(CONFIG_ADDRESS_PORT, &[0xFF; 8]);
    bus.port_write(CONFIG_ADDRESS_PORT + 1, &[0xFF]);
    bus.port_write(CONFIG_ADDRESS_PORT + 2, &[0xFF; 4]);
    assert_eq!(
        u32::from_le_bytes(port(&bus, CONFIG_ADDRESS_PORT)),
        0x8000_0800
    );
    assert_eq!(port(&bus, CONFIG_ADDRESS_PORT), [0xFF_u8]);
    assert_eq!(port(&bus, CONFIG_ADDRESS_PORT + 1), [0xFF_u8, 0xFF]);
}

#[test]
fn with_the_enable_bit_clear_config_data_reads_all_ones_and_ignores_writes() {
    let bus = populated();
    select(&bus, 1, 0x3C);
    let disabled = Bdf::on_bus_0(1).config_address(0x3C) & !(1 << 31);
    bus.port_write(CONFIG_ADDRESS_PORT, &disabled.to_le_bytes());
    assert_eq!(port(&bus, CONFIG_DATA_PORT), [0xFF_u8; 4]);
    bus.port_write(CONFIG_DATA_PORT, &[0x77]);
    select(&bus, 1, 0x3C);
    assert_eq!(port(&bus, CONFIG_DATA_PORT), [0_u8, 1]);
}

#[test]
fn accesses_across_the_end_of_config_data_answer_what_exists() {
    let bus = populated();
    select(&bus, 1, 0);
    assert_eq!(
        port(&bus, CONFIG_DATA_PORT + 2),
        [0x78_u8, 0x56, 0xFF, 0xFF]
    );
    assert_eq!(port(&bus, CONFIG_DATA_PORT + 4), [0xFF_u8; 4]);
    assert_eq!(port(&bus, 0), [0xFF_u8; 4]);
    assert_eq!(port(&bus, u16::MAX), [0xFF_u8; 4]);
    bus.port_write(u16::MAX, &[0; 4]);
    select(&bus, 1, 0x3C);
    bus.port_write(CONFIG_DATA_PORT, &[0x99; 64]);
    assert_eq!(port(&bus, CONFIG_DATA_PORT), [0x99_u8, 1, 0, 0]);
}

#[test]
fn what_is_not_there_reads_all_ones() {
    let bus = populated();
    let absent = [
        (0, 3, 0),
        (0, 31, 0),
        (0, 1, 1),
        (0, 0, 7),
        (1, 1, 0),
        (255, 0, 0),
    ];
    for (number, device, function) in absent {
        let bdf = Bdf::new(number, device, function).unwrap();
        let mut data = [0; 4];
        bus.config_read(bdf, 0, &mut data);
        assert_eq!(data, [0xFF; 4], "{bdf}");
        assert_eq!(ecam(&bus, bdf.ecam_offset()), [0xFF_u8; 4], "{bdf}");
        bus.ecam_write(bdf.ecam_offset() + 4, &[0xFF; 4]);
        bus.port_write(CONFIG_ADDRESS_PORT, &bdf.config_address(0).to_le_bytes());
        assert_eq!(port(&bus, CONFIG_DATA_PORT), [0xFF_u8; 4], "{bdf}");
    }
    assert_eq!(ecam(&bus, u64::MAX), [0xFF_u8; 4]);
    bus.ecam_write(u64::MAX, &[0; 4]);
}

#[test]
fn an_ecam_access_does_not_run_into_the_next_function() {
    let mut bus = empty();
    // Device 0 function 0 is followed in ECAM by function 1, which is absent; device 1 stays
    // out of reach of an access that starts in device 0.
    bus.add(1, Device::new(full(), Recorder::new())).unwrap();
    assert_eq!(ecam(&bus, 0xFFE), [0_u8, 0, 0xFF, 0xFF]);
    let mut long = vec![0; 0x9000];
    bus.ecam_read(0, &mut long);
    assert_eq!(long[0..2], [0x26, 0xFE]);
    assert!(long[0x1000..].iter().all(|byte| *byte == 0xFF));
    bus.config_write(Bdf::on_bus_0(1), u16::MAX, &[0; 4]);
}

#[test]
fn a_device_number_is_given_once_and_0_is_the_bridge() {
    let mut bus = empty();
    let device = || Device::new(full(), Recorder::new());
    assert_eq!(bus.add(0, device()), Err(BusError::DeviceNumber(0)));
    assert_eq!(bus.add(32, device()), Err(BusError::DeviceNumber(32)));
    assert_eq!(bus.add(31, device()), Ok(Bdf::on_bus_0(31)));
    assert_eq!(bus.add(31, device()), Err(BusError::DeviceTaken(31)));
    assert!(bus.function(Bdf::on_bus_0(31)).is_some());
    assert!(bus.function(Bdf::on_bus_0(30)).is_none());
}

#[test]
fn assigning_aligns_every_bar_and_enables_nothing() {
    let bus = populated();
    let placed = bus.assign_bars(LOW).unwrap();
    assert_eq!(
        placed,
        [
            window(1, 0, 0xE000_0000, BAR0_SIZE),
            window(2, 0, 0xE000_4000, 0x4000),
            window(1, 2, 0xE000_8000, 0x1000),
        ]
    );
    assert_eq!(bus.windows(), []);
    for device in [1, 2] {
        decode(&bus, device, true);
    }
    assert_eq!(bus.windows(), placed);
}

#[test]
fn assigning_into_too_little_room_names_the_bar_and_writes_none() {
    let bus = populated();
    let error = bus
        .assign_bars(Aperture {
            size: 0x8FFF,
            ..LOW
        })
        .unwrap_err();
    let expected = BusError::NoRoom {
        function: Bdf::on_bus_0(1),
        bar: 2,
        size: 0x1000,
    };
    assert_eq!(error, expected);
    decode(&bus, 1, true);
    let device = bus.function(Bdf::on_bus_0(1)).unwrap();
    assert_eq!(device.bar_base(0), Some(0));
    assert_eq!(bus.windows(), []);
}

#[test]
fn the_listener_hears_of_each_change_and_of_nothing_else() {
    let bus = populated();
    let heard: Arc<Mutex<Vec<Vec<BarWindow>>>> = Arc::default();
    let ear = heard.clone();
    bus.set_listener(move |windows: &[BarWindow]| ear.lock().unwrap().push(windows.to_vec()));
    let take = || std::mem::take(&mut *heard.lock().unwrap());
    assert_eq!(take(), [vec![]], "the windows of the moment");

    bus.assign_bars(LOW).unwrap();
    write_dword(&bus, 1, 0x3C, 0x55);
    assert_eq!(take(), Vec::<Vec<BarWindow>>::new());

    decode(&bus, 2, true);
    assert_eq!(take(), [vec![window(2, 0, 0xE000_4000, 0x4000)]]);
    // Moved while decoding, by the ports.
    select(&bus, 2, 0x10);
    bus.port_write(CONFIG_DATA_PORT, &0xE800_0000_u32.to_le_bytes());
    assert_eq!(take(), [vec![window(2, 0, 0xE800_0000, 0x4000)]]);
    decode(&bus, 2, true);
    write_dword(&bus, 2, 0x10, 0xE800_0FFF);
    assert_eq!(take(), Vec::<Vec<BarWindow>>::new(), "nothing moved");
    decode(&bus, 2, false);
    assert_eq!(take(), [vec![]]);
}

#[test]
fn a_bar_outside_every_aperture_does_not_answer() {
    let bus = populated();
    decode(&bus, 2, true);
    let outside = [
        0,           // never assigned
        0x0010_0000, // RAM
        0xDFFF_C000, // just below
        0xF000_0000, // just above
        u32::MAX,    // sizing
    ];
    for base in outside {
        write_dword(&bus, 2, 0x10, base);
        assert_eq!(bus.windows(), [], "{base:#x}");
    }
    for base in [0xE000_0000_u32, 0xEFFF_C000] {
        write_dword(&bus, 2, 0x10, base);
        assert_eq!(bus.windows(), [window(2, 0, base.into(), 0x4000)]);
    }
}

#[test]
fn a_64_bit_bar_moves_above_4_gib() {
    let bus = populated();
    decode(&bus, 1, true);
    write_dword(&bus, 1, 0x14, 0x1F);
    assert_eq!(bus.windows(), [window(1, 0, 0x1F_0000_0000, BAR0_SIZE)]);
    write_dword(&bus, 1, 0x14, u32::MAX);
    write_dword(&bus, 1, 0x10, u32::MAX);
    assert_eq!(bus.windows(), [], "the last 16 KiB of 64 bits");
}

#[test]
fn of_overlapping_bars_the_lower_device_answers_until_they_part() {
    let bus = populated();
    for device in [1, 2] {
        decode(&bus, device, true);
    }
    write_dword(&bus, 1, 0x18, 0xE000_5000);
    write_dword(&bus, 2, 0x10, 0xE000_4000);
    assert_eq!(bus.windows(), [window(1, 2, 0xE000_5000, 0x1000)]);
    // Both BARs of one function at one place: the lower index.
    write_dword(&bus, 1, 0x10, 0xE000_4000);
    assert_eq!(bus.windows(), [window(1, 0, 0xE000_4000, BAR0_SIZE)]);
    write_dword(&bus, 1, 0x10, 0xE001_0000);
    write_dword(&bus, 1, 0x18, 0xE002_0000);
    assert_eq!(
        bus.windows(),
        [
            window(2, 0, 0xE000_4000, 0x4000),
            window(1, 0, 0xE001_0000, BAR0_SIZE),
            window(1, 2, 0xE002_0000, 0x1000),
        ]
    );
}

#[test]
fn reset_closes_every_window_and_tells_the_listener() {
    let bus = populated();
    bus.assign_bars(LOW).unwrap();
    decode(&bus, 1, true);
    select(&bus, 1, 0);
    let heard: Arc<Mutex<Vec<usize>>> = Arc::default();
    let ear = heard.clone();
    bus.set_listener(move |windows: &[BarWindow]| ear.lock().unwrap().push(windows.len()));
    bus.reset();
    assert_eq!(*heard.lock().unwrap(), [2, 0]);
    assert_eq!(port(&bus, CONFIG_ADDRESS_PORT), [0_u8; 4]);
}

#[test]
fn a_function_level_reset_closes_its_windows() {
    let bus = populated();
    bus.assign_bars(LOW).unwrap();
    decode(&bus, 1, true);
    assert_eq!(bus.windows().len(), 2);
    let device_control = 0x54 + 8;
    bus.config_write(Bdf::on_bus_0(1), device_control, &0x8000_u16.to_le_bytes());
    assert_eq!(bus.windows(), []);
}
