//! `--nvme`: what arrives, and what is refused.

use super::*;
use crate::options::{keys::Form, parse_size};

fn built(text: &str) -> Result<ControllerConfig, OptionError> {
    let mut options = NvmeOptions::default();
    options.apply(text)?;
    options.build()
}

#[test]
fn values_arrive_in_the_configuration() {
    let config = built(
        "size=8M,lba=4K,namespaces=3,ns2.lba=64K,ns3.backend=null,queues=8,depth=128,\
         mdts=1M,workers=2,cache=volatile,serial=A1,model=M,lint=on",
    )
    .expect("valid");
    let lbas: Vec<u32> = config.namespaces.iter().map(|ns| ns.lba_bytes).collect();
    assert_eq!(lbas, [4096, 65536, 4096]);
    let keeps = |n: &NamespaceConfig| n.device.capabilities().keeps_data;
    assert_eq!(
        config.namespaces.iter().map(keeps).collect::<Vec<_>>(),
        [true, true, false]
    );
    assert_eq!(
        (config.io_queues, config.vectors, config.queue_entries),
        (8, 9, 128)
    );
    assert_eq!((config.mdts_bytes, config.shards), (1 << 20, 2));
    assert_eq!(config.cache, CacheMode::Volatile);
    assert!(config.lint.is_some());
    let later = built("version=2.1").expect("valid");
    assert_eq!((config.version, later.version), (Vs::V1_4, Vs::V2_1));
    assert!(built("lint=on,lint=off").expect("valid").lint.is_none());
    assert_eq!((config.serial.as_str(), config.model.as_str()), ("A1", "M"));
}

#[test]
fn each_wrong_value_is_refused_with_key_value_and_reason() {
    for (text, key, reason) in [
        ("lba=513", "lba", "power of two"),
        ("lba=2M", "lba", "1048576"),
        ("lba=1M", "mdts", "1048576"),
        ("formats=512:4K,lba=8K", "lba", "use lba=512"),
        ("formats=512:4K:512", "formats", "give 512 once"),
        ("formats=512:3K", "formats", "power of two"),
        ("formats=512:", "formats", "not a size"),
        ("formats=512:64K,mdts=32K", "mdts", "mdts=65536"),
        ("size=33K,formats=512:4K", "size", "multiple of 4096"),
        ("formats=4K:16K,awun=6K", "awun", "multiple of 4096"),
        ("lba=x", "lba", "not a size"),
        ("lba=99999999999", "lba", "power of two"),
        ("size=0", "size", "at least one"),
        ("size=4097", "size", "multiple of 512"),
        ("size=8T8", "size", "not a size"),
        ("backend=disk", "backend", "ram, null or file:PATH"),
        ("backend=file:", "backend", "file:PATH"),
        ("backend=file:/nonesuch", "backend", "create=on"),
        ("backend=file:/nonesuch,create=on", "backend", "size="),
        ("backend=file:/dev", "backend", "neither a file nor"),
        ("create=on", "create", "backend=file:PATH"),
        ("queues=0", "queues", "1 to 65535"),
        ("queues=65536", "queues", "1 to 65535"),
        ("depth=1", "depth", "2 to 65536"),
        ("vectors=2049", "vectors", "1 to 2048"),
        ("mdts=3M", "mdts", "power of two"),
        ("mdts=4K", "mdts", "8192"),
        ("mdts=32K,lba=64K", "mdts", "65536"),
        ("workers=0", "workers", "1 to 64"),
        ("poll=-1", "poll", "0 to 1000000"),
        ("cache=yes", "cache", "none or volatile"),
        ("version=3", "version", "1.4"),
        ("version=2.0", "version", "1.4 or 2.1"),
        ("lint=1", "lint", "off or on"),
        ("serial=", "serial", "1 to 20"),
        ("model=\u{e9}", "model", "ASCII"),
        ("namespaces=0", "namespaces", "1 to 1024"),
        ("ns2.lba=4K", "ns2.lba", "namespaces=2"),
        ("ns0.lba=4K", "ns0.lba", "namespace's number"),
        ("ns1.lba=3", "ns1.lba", "power of two"),
        ("ns1.colour=red", "ns1.colour", "no such key"),
        (
            "colour=red",
            "colour",
            "size, lba, formats, backend, create, iu",
        ),
        ("queue=3", "queue", "did you mean queues?"),
        ("ns1.queues=3", "ns1.queues", "of the whole controller"),
        (
            "namespaces=2,ns2.awun=4K",
            "ns2.awun",
            "of the whole controller",
        ),
        (
            "namespaces=2,ns2.nawun=1000",
            "ns2.nawun",
            "multiple of 512",
        ),
        ("iu=3K", "iu", "power of two"),
        ("iu=2M", "iu", "1048576"),
        ("iu=16K,nows=24K", "nows", "multiple of 32 blocks"),
        ("noiob=65536b", "noiob", "at most 65535"),
        ("awun=0", "awun", "1b"),
        ("awun=4Kb", "awun", "not a number of logical blocks"),
        ("awupf=8b", "awupf", "use awun=8b or more"),
        ("lba=4K,awun=6K", "awun", "multiple of 4096"),
        ("awun=8b,nawun=4b", "nawun", "use 8b or more"),
        ("nawun=8b,nabsn=4b", "nabsn", "use 8b or more"),
        ("acwu=8b,nacwu=4b", "nacwu", "use 8b or more"),
        ("awun=4b,ns1.nacwu=2b,acwu=1000", "acwu", "multiple of 512"),
        ("nabo=1b", "nabo", "nabsn or nabspf"),
        ("mam=1", "mam", "nabsn or nabspf"),
        ("mam=2", "mam", "0 or 1"),
        ("tear=yes", "tear", "never, legal or always"),
        ("seed=-1", "seed", "whole number"),
        ("lba", "lba", "key=value"),
    ] {
        let error = built(text).expect_err(text);
        assert_eq!(error.key, key, "{text}: {error}");
        assert!(error.to_string().contains(reason), "{text}: {error}");
    }
}

#[test]
fn an_image_has_its_own_size() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a,b");
    std::fs::write(&path, vec![0; 66 << 10]).expect("room");
    let file = path.display().to_string().replace(',', ",,");
    let sizes = |options: &str| -> Result<Vec<u64>, OptionError> {
        let config = built(&options.replace('@', &format!("file:{file}")))?;
        let namespaces = config.namespaces.iter();
        Ok(namespaces.map(|ns| ns.device.geometry().bytes).collect())
    };
    let own = 66 << 10;
    for (options, expected) in [
        ("backend=@", vec![own]),
        ("backend=@,size=66K", vec![own]),
        ("backend=@,create=on", vec![own]),
        ("namespaces=2,size=1M,ns2.backend=@", vec![1 << 20, own]),
        (
            "namespaces=2,size=1M,ns2.backend=@,ns2.size=66K",
            vec![1 << 20, own],
        ),
        (
            "namespaces=2,backend=@,ns1.backend=null,ns1.size=4K",
            vec![4096, own],
        ),
    ] {
        assert_eq!(sizes(options), Ok(expected), "{options}");
    }
    for (options, key, reason) in [
        ("backend=@,size=64K", "backend", "leave size out"),
        ("size=1M,backend=@", "backend", "leave size out"),
        (
            "namespaces=2,ns2.backend=@,ns2.size=1M",
            "ns2.backend",
            "leave size out",
        ),
        ("backend=@,lba=4K", "backend", "69632"),
        ("namespaces=2,backend=@", "backend", "in use"),
        ("backend=@,formats=512:4K", "size", "multiple of 4096"),
    ] {
        let error = sizes(options).expect_err(options);
        assert_eq!(error.key, key, "{options}: {error}");
        assert!(error.to_string().contains(reason), "{options}: {error}");
    }
    let made = folder.path().join("made").display().to_string();
    let options = format!("backend=file:{made},create=on,size=1M");
    let mut made = NvmeOptions::default();
    made.apply(&options).expect("valid");
    made.check().expect("valid");
    assert!(
        !folder.path().join("made").exists(),
        "a check makes nothing"
    );
    assert_eq!(sizes(&options), Ok(vec![1 << 20]));
    assert_eq!(sizes(&options), Ok(vec![1 << 20]), "and it stays");
}

/// The first block size of each configuration, and its formats.
#[test]
fn formats_are_those_that_are_asked_for_or_fit() {
    const K: u32 = 1024;
    let usual = [512, 4 * K, 16 * K, 64 * K];
    let cases: [(&str, u32, &[u32]); 12] = [
        ("", 512, &usual),
        ("lba=4K", 4 * K, &usual),
        (
            "lba=1M,mdts=2M",
            K * K,
            &[512, 4 * K, 16 * K, 64 * K, K * K],
        ),
        ("mdts=32K", 512, &[512, 4 * K, 16 * K]),
        ("size=36K", 512, &[512, 4 * K]),
        ("formats=4K", 4 * K, &[4 * K]),
        ("formats=64K:512,lba=512", 512, &[64 * K, 512]),
        ("formats=64K:512", 64 * K, &[64 * K, 512]),
        ("awun=4b", 512, &usual),
        ("lba=4K,awun=16K", 4 * K, &[512, 4 * K]),
        ("lba=16K,nabsn=512b", 16 * K, &usual),
        ("lba=64K,awun=48K", 64 * K, &[512, 4 * K, 16 * K, 64 * K]),
    ];
    for (text, lba, formats) in cases {
        let config = built(text).expect(text);
        let ns = &config.namespaces[0];
        assert_eq!((ns.lba_bytes, &*ns.formats), (lba, formats), "{text}");
    }
}

#[test]
fn help_names_every_key_with_its_range_and_default() {
    let help = NvmeOptions::help();
    for name in names() {
        let row = help.split_once(&format!("\n  {name}="));
        let (_, rest) = row.unwrap_or_else(|| panic!("{name}"));
        let range = rest.lines().nth(1).expect("a second line");
        assert!(range.contains("default "), "{name}: {range}");
        assert!(!range.ends_with("default "), "{name}: {range}");
    }
}

#[test]
fn numbers_are_refused_outside_of_the_range_that_help_tells() {
    for row in &CONTROLLER_KEYS {
        let Form::Number(least, most) = row.form else {
            continue;
        };
        let set = |number: u128| (row.set)(&mut NvmeOptions::default(), &number.to_string());
        let (least, most) = (u128::from(least), u128::from(most));
        assert!(set(least).is_ok() && set(most).is_ok(), "{}", row.name);
        assert!(set(most + 1).is_err(), "{}", row.name);
        assert!(least == 0 || set(least - 1).is_err(), "{}", row.name);
    }
}

#[test]
fn sizes_are_refused_outside_of_the_range_that_help_tells() {
    let rows = CONTROLLER_KEYS.iter().map(|row| (row.name, &row.form));
    let rows = rows.chain(NAMESPACE_KEYS.iter().map(|row| (row.name, &row.form)));
    let mut tried = 0;
    for (name, form) in rows {
        let Form::Size(range) = form else { continue };
        let Some((least, most)) = range
            .strip_suffix(", a power of two")
            .and_then(|range| range.split_once(" to "))
        else {
            continue;
        };
        tried += 1;
        let (least, most) = (parse_size(least), parse_size(most));
        let (least, most) = (least.expect(name), most.expect(name));
        // What else has to fit.
        let check = |size: u64| {
            let mut options = NvmeOptions::default();
            let largest = Size(size.max(8192));
            options.apply(&format!("size=1G,mdts={largest},{name}={size}"))?;
            options.check()
        };
        assert_eq!(check(least), Ok(()), "{name}");
        assert_eq!(check(most), Ok(()), "{name}");
        assert!(
            check(most * 2).is_err() && check(least / 2).is_err(),
            "{name}"
        );
    }
    assert!(tried >= 3, "{tried}");
}

#[test]
fn what_is_preset_is_not_given() {
    let mut options = NvmeOptions::default();
    options.preset("lba=4K,ns2.lba=512").expect("valid");
    options.apply("queues=8,ns1.lba=16K").expect("valid");
    let given: Vec<&String> = options.given.keys().collect();
    assert_eq!(given, ["ns1.lba", "queues"]);
    assert_eq!(options.namespace.lba, Some(4096));
}

#[test]
fn notes_tell_what_linux_does_not_use() {
    let notes = |text: &str| {
        let mut options = NvmeOptions::default();
        options.apply(text).expect("valid");
        options.notes().expect("valid")
    };
    assert_eq!(notes("size=1M"), [""; 0]);
    let odd = notes("size=1M,nabspf=12K");
    assert!(
        odd.len() == 1 && odd.concat().contains("powers of two"),
        "{odd:?}"
    );
    let offset = notes("size=1M,nabspf=16K,nabo=4K");
    assert!(offset.concat().contains("nabo is not 0"), "{offset:?}");
}
