use pci::capability::{self, express, msix, power};
use pci::{Bar, ConfigError, ConfigSpace, Effects, Express, MsixLayout, PortType, header};

use crate::common::{IDENTITY, LAYOUT, full};

fn read<const N: usize>(config: &ConfigSpace, offset: u16) -> [u8; N] {
    let mut data = [0x5A; N];
    config.read(offset, &mut data);
    data
}

fn byte(config: &ConfigSpace, offset: u16) -> u8 {
    u8::from_le_bytes(read(config, offset))
}

fn word(config: &ConfigSpace, offset: u16) -> u16 {
    u16::from_le_bytes(read(config, offset))
}

fn dword(config: &ConfigSpace, offset: u16) -> u32 {
    u32::from_le_bytes(read(config, offset))
}

fn write_dword(config: &mut ConfigSpace, offset: u16, value: u32) -> Effects {
    config.write(offset, &value.to_le_bytes())
}

fn write_word(config: &mut ConfigSpace, offset: u16, value: u16) -> Effects {
    config.write(offset, &value.to_le_bytes())
}

/// The capabilities as software finds them: offset and identifier.
fn walk(config: &ConfigSpace) -> Vec<(u16, u8)> {
    let mut found = Vec::new();
    let mut at = u16::from(byte(config, header::CAPABILITIES_POINTER));
    while at != 0 {
        assert!(found.len() < 48, "the list has a loop");
        found.push((at, byte(config, at + capability::ID)));
        at = u16::from(byte(config, at + capability::NEXT));
    }
    found
}

fn find(config: &ConfigSpace, id: u8) -> u16 {
    walk(config)
        .into_iter()
        .find(|(_, found)| *found == id)
        .unwrap()
        .0
}

#[test]
fn the_header_shows_the_identity_it_was_given() {
    let config = full().build().unwrap();
    assert_eq!(word(&config, header::VENDOR_ID), 0x1234);
    assert_eq!(word(&config, header::DEVICE_ID), 0x5678);
    assert_eq!(read(&config, header::REVISION_ID), [0x42, 0x02, 0x08, 0x01]);
    assert_eq!(byte(&config, header::HEADER_TYPE), 0);
    assert_eq!(word(&config, header::SUBSYSTEM_VENDOR_ID), 0x9ABC);
    assert_eq!(word(&config, header::SUBSYSTEM_ID), 0xDEF0);
    assert_eq!(byte(&config, header::INTERRUPT_PIN), 1);
    assert_eq!(word(&config, header::COMMAND), 0);
}

#[test]
fn a_read_of_any_width_and_alignment_gives_the_same_bytes() {
    let config = full().build().unwrap();
    let whole: [u8; 4096] = read(&config, 0);
    for offset in 0..0x120_u16 {
        let at = usize::from(offset);
        assert_eq!(byte(&config, offset), whole[at]);
        assert_eq!(read::<2>(&config, offset), whole[at..at + 2]);
        assert_eq!(read::<4>(&config, offset), whole[at..at + 4]);
    }
}

#[test]
fn extended_space_is_empty_and_past_its_end_reads_all_ones() {
    let mut config = full().build().unwrap();
    assert_eq!(dword(&config, 0x100), 0);
    assert_eq!(dword(&config, 0xFFC), 0);
    assert_eq!(dword(&config, 0xFFE), 0xFFFF_0000);
    assert_eq!(dword(&config, 0x1000), u32::MAX);
    assert_eq!(dword(&config, u16::MAX), u32::MAX);
    for offset in [0xFE, 0x100, 0xFFE, 0x1000, u16::MAX] {
        assert_eq!(write_dword(&mut config, offset, u32::MAX), Effects::empty());
    }
    assert_eq!(dword(&config, 0x100), 0);
    assert_eq!(dword(&config, 0xFFC), 0);
}

#[test]
fn read_only_registers_stay_after_all_ones_and_all_zeroes() {
    let mut config = full().build().unwrap();
    let read_only = [
        header::VENDOR_ID,
        header::REVISION_ID,
        header::SUBSYSTEM_VENDOR_ID,
    ];
    let before = read_only.map(|offset| dword(&config, offset));
    for value in [u32::MAX, 0] {
        for offset in read_only {
            assert_eq!(write_dword(&mut config, offset, value), Effects::empty());
        }
    }
    assert_eq!(read_only.map(|offset| dword(&config, offset)), before);
}

#[test]
fn command_keeps_only_the_bits_a_memory_function_has() {
    let mut config = full().build().unwrap();
    let effects = write_word(&mut config, header::COMMAND, u16::MAX);
    assert_eq!(
        effects,
        Effects::MEMORY_DECODE | Effects::BUS_MASTER | Effects::INTX_DISABLE
    );
    assert_eq!(word(&config, header::COMMAND), 0x0546);
    assert!(config.memory_decode() && config.bus_master());
    assert_eq!(
        write_word(&mut config, header::COMMAND, u16::MAX),
        Effects::empty()
    );
    assert_eq!(config.write(header::COMMAND, &[0x02]), Effects::BUS_MASTER);
    assert_eq!(
        config.write(header::COMMAND + 1, &[0]),
        Effects::INTX_DISABLE
    );
    assert_eq!(config.write(header::COMMAND, &[0]), Effects::MEMORY_DECODE);
}

#[test]
fn interrupt_line_and_cache_line_size_are_scratch_and_the_pin_is_not() {
    let mut config = full().build().unwrap();
    let _ = write_dword(&mut config, header::INTERRUPT_LINE, 0xFFFF_FFA5);
    assert_eq!(dword(&config, header::INTERRUPT_LINE), 0x0000_01A5);
    let _ = write_dword(&mut config, header::CACHE_LINE_SIZE, 0xFFFF_FF10);
    assert_eq!(dword(&config, header::CACHE_LINE_SIZE), 0x10);
}

#[test]
fn interrupt_status_follows_the_device_and_not_software() {
    let mut config = full().build().unwrap();
    assert_eq!(word(&config, header::STATUS), 0x10);
    config.set_interrupt_status(true);
    let _ = write_word(&mut config, header::STATUS, u16::MAX);
    assert_eq!(word(&config, header::STATUS), 0x18);
    config.set_interrupt_status(false);
    assert_eq!(word(&config, header::STATUS), 0x10);
}

#[test]
fn sizing_a_64_bit_bar_gives_its_size_in_both_halves() {
    let mut config = full().build().unwrap();
    assert_eq!(write_dword(&mut config, 0x10, u32::MAX), Effects::BARS);
    assert_eq!(write_dword(&mut config, 0x14, u32::MAX), Effects::BARS);
    assert_eq!(dword(&config, 0x10), 0xFFFF_C004);
    assert_eq!(dword(&config, 0x14), 0xFFFF_FFFF);
    assert_eq!(config.bar_address(0), Some(0xFFFF_FFFF_FFFF_C000));
    assert_eq!(config.bar_base(0), None);
    let _ = write_dword(&mut config, 0x10, 0x8000_7FFF);
    let _ = write_dword(&mut config, 0x14, 0x12);
    assert_eq!(config.bar_address(0), Some(0x12_8000_4000));
}

#[test]
fn sizing_a_bar_larger_than_4_gib_reaches_the_upper_half() {
    let config = ConfigSpace::builder(IDENTITY).bar(4, Bar::memory64(1 << 34).prefetchable());
    let mut config = config.build().unwrap();
    let _ = write_dword(&mut config, 0x20, u32::MAX);
    let _ = write_dword(&mut config, 0x24, u32::MAX);
    assert_eq!(dword(&config, 0x20), 0x0000_000C);
    assert_eq!(dword(&config, 0x24), 0xFFFF_FFFC);
}

#[test]
fn sizing_a_32_bit_bar_leaves_the_next_register_alone() {
    let mut config = full().build().unwrap();
    assert_eq!(dword(&config, 0x18), 0x8);
    let _ = write_dword(&mut config, 0x18, u32::MAX);
    assert_eq!(write_dword(&mut config, 0x1C, u32::MAX), Effects::empty());
    assert_eq!(dword(&config, 0x18), 0xFFFF_F008);
    assert_eq!(dword(&config, 0x1C), 0);
    // BARs the function has not: sized as absent.
    assert_eq!(write_dword(&mut config, 0x20, u32::MAX), Effects::empty());
    assert_eq!(dword(&config, 0x20), 0);
}

#[test]
fn a_bar_written_by_bytes_moves_byte_by_byte() {
    let mut config = full().build().unwrap();
    assert_eq!(config.write(0x13, &[0xE0]), Effects::BARS);
    assert_eq!(config.write(0x11, &[0xFF, 0x01]), Effects::BARS);
    assert_eq!(config.bar_address(0), Some(0xE001_C000));
    assert_eq!(config.write(0x10, &[0xFF]), Effects::empty());
    assert_eq!(config.bar_address(0), Some(0xE001_C000));
}

#[test]
fn a_bar_answers_only_while_memory_decoding_is_on() {
    let mut config = full().build().unwrap();
    let _ = write_dword(&mut config, 0x10, 0xE000_0000);
    assert_eq!(config.bar_base(0), None);
    let _ = write_word(&mut config, header::COMMAND, 2);
    assert_eq!(config.bar_base(0), Some(0xE000_0000));
    assert_eq!(config.bar_base(1), None);
    assert_eq!(config.bar_base(6), None);
    assert_eq!(config.bar_base(255), None);
}

#[test]
fn the_capability_list_holds_what_was_asked_for_and_ends() {
    let ids = |config: &ConfigSpace| {
        walk(config)
            .into_iter()
            .map(|(_, id)| id)
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(&full().build().unwrap()), [0x01, 0x11, 0x10]);
    let bare = ConfigSpace::builder(IDENTITY).build().unwrap();
    assert!(walk(&bare).is_empty());
    assert_eq!(word(&bare, header::STATUS), 0);
    let one = ConfigSpace::builder(IDENTITY)
        .power_management()
        .build()
        .unwrap();
    assert_eq!(ids(&one), [0x01]);
}

#[test]
fn capabilities_do_not_overlap_and_are_dword_aligned() {
    let config = full().build().unwrap();
    let size = |id| match id {
        capability::ID_POWER_MANAGEMENT => power::SIZE,
        capability::ID_MSIX => msix::SIZE,
        _ => express::SIZE,
    };
    let mut spans: Vec<_> = walk(&config)
        .iter()
        .map(|(at, id)| (*at, at + size(*id)))
        .collect();
    spans.sort_unstable();
    assert!(
        spans
            .iter()
            .all(|(start, end)| start % 4 == 0 && *start >= 0x40 && *end <= 0x100)
    );
    assert!(spans.windows(2).all(|pair| pair[0].1 <= pair[1].0));
}

#[test]
fn msix_capability_shows_the_layout_and_takes_enable_and_function_mask() {
    let mut config = full().build().unwrap();
    let at = find(&config, capability::ID_MSIX);
    assert_eq!(word(&config, at + msix::MESSAGE_CONTROL), 69);
    assert_eq!(dword(&config, at + msix::TABLE), 0x2000);
    assert_eq!(dword(&config, at + msix::PBA), 0x3000);
    assert_eq!(
        write_word(&mut config, at + msix::MESSAGE_CONTROL, u16::MAX),
        Effects::MSIX
    );
    assert_eq!(word(&config, at + msix::MESSAGE_CONTROL), 0xC000 | 69);
    let control = config.msix_control();
    assert!(control.enable && control.function_mask);
    assert_eq!(
        config.write(at + msix::MESSAGE_CONTROL + 1, &[0x80]),
        Effects::MSIX
    );
    assert!(!config.msix_control().function_mask);
    assert_eq!(
        write_dword(&mut config, at + msix::TABLE, u32::MAX),
        Effects::empty()
    );
    assert_eq!(
        write_dword(&mut config, at + msix::PBA, u32::MAX),
        Effects::empty()
    );
    assert_eq!(dword(&config, at + msix::TABLE), 0x2000);
}

#[test]
fn d3hot_stops_memory_decoding_and_bus_mastering_and_loses_nothing() {
    let mut config = full().build().unwrap();
    let at = find(&config, capability::ID_POWER_MANAGEMENT) + power::CONTROL_STATUS;
    let _ = write_dword(&mut config, 0x10, 0xE000_0000);
    let _ = write_word(&mut config, header::COMMAND, 6);
    assert_eq!(word(&config, at), 0x8);
    let all = Effects::POWER_STATE | Effects::MEMORY_DECODE | Effects::BUS_MASTER;
    assert_eq!(write_word(&mut config, at, power::D3_HOT), all);
    assert_eq!(config.bar_base(0), None);
    assert!(!config.bus_master());
    assert_eq!(word(&config, header::COMMAND), 6);
    assert_eq!(write_word(&mut config, at, power::D0), all);
    assert_eq!(config.bar_base(0), Some(0xE000_0000));
}

#[test]
fn a_power_state_that_is_not_supported_changes_nothing() {
    let mut config = full().build().unwrap();
    let at = find(&config, capability::ID_POWER_MANAGEMENT) + power::CONTROL_STATUS;
    for state in [1, 2] {
        assert_eq!(write_word(&mut config, at, state), Effects::empty());
        assert_eq!(word(&config, at), 0x8);
    }
    let _ = write_word(&mut config, at, power::D3_HOT);
    for state in [1, 2] {
        assert_eq!(write_word(&mut config, at, state), Effects::empty());
        assert_eq!(word(&config, at), 0xB);
    }
}

#[test]
fn express_capability_is_version_2_of_the_type_asked_for() {
    let build = |port| {
        ConfigSpace::builder(IDENTITY)
            .express(Express::new(port))
            .build()
            .unwrap()
    };
    let integrated = build(PortType::IntegratedEndpoint);
    let at = find(&integrated, capability::ID_EXPRESS);
    assert_eq!(word(&integrated, at + express::CAPABILITIES), 0x92);
    assert_eq!(dword(&integrated, at + express::LINK_CAPABILITIES), 0);
    let endpoint = build(PortType::Endpoint);
    assert_eq!(word(&endpoint, at + express::CAPABILITIES), 0x02);
    assert_eq!(
        dword(&endpoint, at + express::LINK_CAPABILITIES),
        0x0040_0011
    );
    assert_eq!(word(&endpoint, at + express::LINK_STATUS), 0x11);
    // Defaults of Device Control: relaxed ordering, no snoop, 512-byte read requests.
    assert_eq!(word(&endpoint, at + express::DEVICE_CONTROL), 0x2810);
}

#[test]
fn function_level_reset_is_reported_once_and_reads_zero() {
    let mut config = full().build().unwrap();
    let at = find(&config, capability::ID_EXPRESS);
    let advertised = dword(&config, at + express::DEVICE_CAPABILITIES);
    assert_ne!(advertised & express::FUNCTION_LEVEL_RESET, 0);
    let control = at + express::DEVICE_CONTROL;
    assert_eq!(
        write_word(&mut config, control, 0x8000 | 0x2810),
        Effects::FUNCTION_LEVEL_RESET
    );
    assert_eq!(word(&config, control), 0x2810);
    assert_eq!(write_word(&mut config, control, 0x2810), Effects::empty());
    assert_eq!(
        config.write(control + 1, &[0xA8]),
        Effects::FUNCTION_LEVEL_RESET
    );
}

#[test]
fn function_level_reset_is_neither_advertised_nor_taken_unless_asked_for() {
    let express = Express::new(PortType::Endpoint);
    let mut config = ConfigSpace::builder(IDENTITY)
        .express(express)
        .build()
        .unwrap();
    let at = find(&config, capability::ID_EXPRESS);
    let advertised = dword(&config, at + express::DEVICE_CAPABILITIES);
    assert_eq!(advertised & express::FUNCTION_LEVEL_RESET, 0);
    let effects = write_word(&mut config, at + express::DEVICE_CONTROL, u16::MAX);
    assert_eq!(effects, Effects::empty());
    assert_eq!(word(&config, at + express::DEVICE_CONTROL), 0x781F);
}

#[test]
fn reset_restores_every_byte_and_says_what_that_changed() {
    let mut config = full().build().unwrap();
    let fresh: [u8; 4096] = read(&config, 0);
    let flr = find(&config, capability::ID_EXPRESS) + express::DEVICE_CONTROL + 1;
    for offset in (0..0x100).filter(|offset| *offset != flr) {
        let _ = config.write(offset, &[0xFF]);
    }
    assert_ne!(read::<4096>(&config, 0), fresh);
    let effects = config.reset();
    assert!(effects.contains(Effects::BARS | Effects::INTX_DISABLE | Effects::MSIX));
    assert_eq!(read::<4096>(&config, 0), fresh);
    assert_eq!(config.reset(), Effects::empty());
}

#[test]
fn a_description_no_function_can_have_is_refused_with_the_rule() {
    let base = || ConfigSpace::builder(IDENTITY);
    let refused = |builder: pci::ConfigBuilder| builder.build().err().unwrap();
    for vendor in [0, 1, 0xFFFF] {
        let identity = pci::Identity { vendor, ..IDENTITY };
        assert_eq!(
            refused(ConfigSpace::builder(identity)),
            ConfigError::VendorId(vendor)
        );
    }
    assert_eq!(
        refused(base().bar(6, Bar::memory32(0x10))),
        ConfigError::BarIndex(6)
    );
    assert_eq!(
        refused(base().bar(5, Bar::memory64(0x10))),
        ConfigError::BarIndex(5)
    );
    let twice = base()
        .bar(0, Bar::memory64(0x1000))
        .bar(1, Bar::memory32(0x1000));
    assert_eq!(refused(twice), ConfigError::BarTaken(1));
    for size in [0, 8, 0x1001, 1 << 32] {
        let error = refused(base().bar(0, Bar::memory32(size)));
        assert_eq!(
            error,
            ConfigError::BarSize {
                bar: 0,
                size,
                limit: 1 << 31
            }
        );
    }
    for vectors in [0, 2049] {
        let layout = MsixLayout { vectors, ..LAYOUT };
        let with = base().bar(0, Bar::memory64(1 << 20)).msix(layout);
        assert_eq!(refused(with), ConfigError::MsixVectors(vectors));
    }
    let wrong = [
        MsixLayout {
            table_offset: 0x2004,
            ..LAYOUT
        },
        MsixLayout {
            table_offset: 0x3C00,
            ..LAYOUT
        },
        MsixLayout {
            table_bar: 1,
            ..LAYOUT
        },
        MsixLayout {
            table_bar: 7,
            ..LAYOUT
        },
        MsixLayout {
            pba_offset: 0x4000,
            ..LAYOUT
        },
        MsixLayout {
            pba_offset: u32::MAX - 7,
            ..LAYOUT
        },
    ];
    for layout in wrong {
        let error = refused(base().bar(0, Bar::memory64(0x4000)).msix(layout));
        assert!(
            matches!(error, ConfigError::MsixPlace { .. }),
            "{layout:?}: {error}"
        );
    }
    let overlap = MsixLayout {
        pba_offset: 0x2458,
        ..LAYOUT
    };
    assert_eq!(
        refused(base().bar(0, Bar::memory64(0x4000)).msix(overlap)),
        ConfigError::MsixOverlap(0)
    );
    let touching = MsixLayout {
        pba_offset: 0x2460,
        ..LAYOUT
    };
    assert!(
        base()
            .bar(0, Bar::memory64(0x4000))
            .msix(touching)
            .build()
            .is_ok()
    );
}
