//! Atomic sizes: what is promised, and what is refused.

use std::sync::Arc;

use storage::null::Null;

use super::*;

fn namespace(lba_bytes: u32, atomics: NamespaceAtomics) -> NamespaceConfig {
    NamespaceConfig {
        atomics,
        ..NamespaceConfig::new(Arc::new(Null::new(64 << 20)), lba_bytes)
    }
}

fn config(atomics: AtomicUnits, namespaces: Vec<NamespaceConfig>) -> ControllerConfig {
    ControllerConfig {
        atomics,
        namespaces,
        ..ControllerConfig::default()
    }
}

const fn bytes(bytes: u64) -> Option<Extent> {
    Some(Extent::Bytes(bytes))
}

const fn blocks(blocks: u32) -> Option<Extent> {
    Some(Extent::Blocks(blocks))
}

/// AWUN and AWUPF, and NAWUN and NAWUPF of each namespace with whether it reports them.
type Promised = ((u32, u32), Vec<(u32, u32, bool)>);

fn promised(config: &ControllerConfig) -> Promised {
    assert_eq!(config.validate(), Ok(()));
    let all = ControllerAtomics::new(config);
    let each = config.namespaces.iter().map(|namespace| {
        let own = Atomics::new(config, namespace, namespace.lba_bytes);
        (own.normal.blocks, own.power_fail.blocks, own.own)
    });
    ((all.normal, all.power_fail), each.collect())
}

#[test]
fn without_sizes_each_block_is_atomic() {
    let plain = namespace(4096, NamespaceAtomics::default());
    let config = config(AtomicUnits::default(), vec![plain]);
    assert_eq!(promised(&config), ((1, 1), vec![(1, 1, false)]));
}

#[test]
fn bytes_are_the_fewest_blocks_for_all_and_each_namespaces_own() {
    let plain = NamespaceAtomics::default();
    let units = AtomicUnits {
        normal: bytes(64 << 10),
        power_fail: bytes(16 << 10),
        ..AtomicUnits::default()
    };
    let config = config(
        units,
        vec![
            namespace(512, plain),
            namespace(16384, plain),
            namespace(65536, plain),
        ],
    );
    let each = vec![(128, 32, true), (4, 1, true), (1, 1, false)];
    assert_eq!(promised(&config), ((1, 1), each));
}

#[test]
fn blocks_are_what_they_are_in_every_format() {
    let plain = NamespaceAtomics::default();
    let units = AtomicUnits {
        normal: blocks(8),
        power_fail: blocks(4),
        ..AtomicUnits::default()
    };
    let config = config(units, vec![namespace(512, plain), namespace(4096, plain)]);
    let each = vec![(8, 4, true), (8, 4, true)];
    assert_eq!(promised(&config), ((8, 4), each));
}

#[test]
fn a_controller_promises_what_all_its_namespaces_do() {
    let own = |size| NamespaceAtomics {
        normal: bytes(size),
        power_fail: bytes(size),
        ..NamespaceAtomics::default()
    };
    let config = config(
        AtomicUnits::default(),
        vec![namespace(512, own(8192)), namespace(4096, own(16384))],
    );
    assert_eq!(
        promised(&config),
        ((4, 4), vec![(16, 16, true), (4, 4, true)])
    );
}

#[test]
fn sixty_five_thousand_blocks_make_every_command_atomic() {
    let plain = NamespaceAtomics::default();
    let units = AtomicUnits {
        normal: bytes(1 << 40),
        power_fail: blocks(70_000),
        ..AtomicUnits::default()
    };
    let config = config(units, vec![namespace(512, plain)]);
    assert_eq!(promised(&config).0, (65_536, 65_536));
    assert_eq!(field(65_536), 0xFFFF);
    let unit = Atomics::new(&config, &config.namespaces[0], 512).normal;
    assert!(unit.holds(0, 65_536));
}

#[test]
fn a_unit_is_a_size_and_a_boundary_a_grid() {
    let unit = Unit {
        blocks: 4,
        boundary: 8,
        offset: 3,
        multiple: false,
    };
    for (slba, nlb, atomic) in [
        (0, 3, true),
        (0, 4, false),
        (2, 2, false),
        (3, 4, true),
        (7, 4, true),
        (8, 4, false),
        (11, 4, true),
        (11, 5, false),
        (18, 1, true),
        (18, 2, false),
    ] {
        assert_eq!(unit.holds(slba, nlb), atomic, "{nlb} blocks at {slba}");
    }
    let free = Unit {
        boundary: 0,
        ..unit
    };
    assert!((0..100).all(|slba| free.holds(slba, 4) && !free.holds(slba, 5)));
}

#[test]
fn another_format_has_other_block_counts() {
    let own = NamespaceAtomics {
        normal: bytes(16384),
        power_fail: bytes(4096),
        boundary: bytes(32768),
        boundary_offset: bytes(8192),
        ..NamespaceAtomics::default()
    };
    let config = config(AtomicUnits::default(), vec![namespace(4096, own)]);
    let unit = |lba| Atomics::new(&config, &config.namespaces[0], lba).normal;
    let sizes = |lba| (unit(lba).blocks, unit(lba).boundary, unit(lba).offset);
    assert_eq!(sizes(512), (32, 64, 16));
    assert_eq!(sizes(4096), (4, 8, 2));
    assert_eq!(sizes(16384), (1, 2, 0));
    // A boundary around each block, which the field cannot say, is a unit of one block.
    assert_eq!(sizes(65536), (1, 0, 0));
}

#[test]
fn each_rule_refuses_with_key_and_value() {
    type Break = fn(&mut AtomicUnits, &mut NamespaceAtomics);
    let cases: [(&str, &str, &str, Break); 15] = [
        ("nacwu", "2b", "at least ACWU", |all, own| {
            all.compare_and_write = blocks(4);
            own.compare_and_write = blocks(2);
        }),
        ("awupf", "8b", "at most AWUN", |all, _| {
            all.power_fail = blocks(8);
        }),
        ("nawun", "2b", "at least AWUN", |all, own| {
            all.normal = blocks(4);
            own.normal = blocks(2);
        }),
        ("nawupf", "1b", "at least AWUPF", |all, own| {
            (all.normal, all.power_fail) = (blocks(4), blocks(2));
            own.power_fail = blocks(1);
        }),
        ("nawupf", "2b", "NAWUPF is at most NAWUN", |_, own| {
            own.power_fail = blocks(2);
        }),
        ("nabsn", "4b", "at least NAWUN", |_, own| {
            (own.normal, own.boundary) = (blocks(8), blocks(4));
        }),
        ("nabspf", "4b", "at least NAWUPF", |_, own| {
            (own.normal, own.power_fail) = (blocks(8), blocks(8));
            own.boundary_power_fail = blocks(4);
        }),
        ("nabsn", "4096", "2 to 65536", |_, own| {
            own.boundary = bytes(4096);
        }),
        ("nabspf", "65537b", "2 to 65536", |_, own| {
            own.boundary_power_fail = blocks(65_537);
        }),
        ("nabo", "8b", "at most NABSN", |_, own| {
            (own.boundary, own.boundary_offset) = (blocks(8), blocks(8));
        }),
        ("nabo", "4b", "at most NABSN", |_, own| {
            (own.boundary, own.boundary_power_fail) = (blocks(8), blocks(4));
            own.boundary_offset = blocks(4);
        }),
        ("nabo", "1b", "at most NABSN", |_, own| {
            own.boundary_offset = blocks(1);
        }),
        ("mam", "1", "parts between boundaries", |_, own| {
            own.multiple = true;
        }),
        ("awun", "6144", "whole number", |all, _| {
            all.normal = bytes(6144);
        }),
        ("nabo", "6144", "whole number", |_, own| {
            (own.boundary, own.boundary_offset) = (blocks(8), bytes(6144));
        }),
    ];
    for (key, value, rule, breaks) in cases {
        let (mut all, mut own) = (AtomicUnits::default(), NamespaceAtomics::default());
        breaks(&mut all, &mut own);
        let config = config(all, vec![namespace(4096, own)]);
        let error = config.validate().expect_err(key);
        assert_eq!((error.key, error.value.as_str()), (key, value), "{error}");
        assert!(error.to_string().contains(rule), "{error}");
    }
}

#[test]
fn what_linux_will_not_use_is_said() {
    let notes = |own, unit: Option<u32>| {
        let mut namespace = namespace(512, own);
        if let Some(unit) = unit {
            let media = storage::media::Media::new(namespace.device, unit).expect("a unit");
            namespace.device = std::sync::Arc::new(media);
        }
        config(AtomicUnits::default(), vec![namespace])
            .notes()
            .join("\n")
    };
    let plain = NamespaceAtomics::default();
    let own = NamespaceAtomics {
        boundary_power_fail: blocks(12),
        boundary_offset: blocks(1),
        ..plain
    };
    let said = notes(own, None);
    assert!(said.contains("nabspf is 12 blocks"), "{said}");
    assert!(said.contains("nabo is not 0"), "{said}");
    let said = notes(plain, Some(16384));
    assert!(said.contains("iu is 16384 bytes and nawupf 512"), "{said}");
    // Linux does not read it.
    let own = NamespaceAtomics {
        boundary: blocks(12),
        ..plain
    };
    assert_eq!(notes(own, None), "");
    let own = NamespaceAtomics {
        normal: bytes(16384),
        power_fail: bytes(16384),
        ..plain
    };
    assert_eq!(notes(own, Some(16384)), "");
}

#[test]
fn compare_and_write_takes_what_a_write_does_unless_said_otherwise() {
    let promised = |all: AtomicUnits, own: NamespaceAtomics| {
        let config = config(all, vec![namespace(512, own)]);
        assert_eq!(config.validate(), Ok(()));
        let own = Atomics::new(&config, &config.namespaces[0], 512);
        let all = ControllerAtomics::new(&config);
        (all.compare_and_write, own.compare_and_write, own.own)
    };
    let (none, plain) = (AtomicUnits::default(), NamespaceAtomics::default());
    assert_eq!(promised(none, plain), (1, 1, false));
    let units = AtomicUnits {
        normal: blocks(8),
        ..none
    };
    assert_eq!(promised(units, plain), (8, 8, false));
    let fewer = AtomicUnits {
        compare_and_write: blocks(2),
        ..units
    };
    assert_eq!(promised(fewer, plain), (2, 2, false));
    let more = NamespaceAtomics {
        compare_and_write: blocks(4),
        ..plain
    };
    assert_eq!(promised(fewer, more), (2, 4, true));
    assert_eq!(promised(units, more), (4, 4, true));
}
