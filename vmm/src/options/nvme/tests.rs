//! `--nvme`: what arrives, and what is refused.

use super::*;

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
        ("lba=128K", "lba", "65536"),
        ("lba=x", "lba", "not a size"),
        ("lba=99999999999", "lba", "power of two"),
        ("size=0", "size", "at least one"),
        ("size=4097", "size", "multiple of 512"),
        ("size=8T8", "size", "not a size"),
        ("backend=disk", "backend", "ram or null"),
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
        ("lint=1", "lint", "on or off"),
        ("serial=", "serial", "1 to 20"),
        ("model=\u{e9}", "model", "ASCII"),
        ("namespaces=0", "namespaces", "1 to 1024"),
        ("ns2.lba=4K", "ns2.lba", "namespaces=2"),
        ("ns0.lba=4K", "ns0.lba", "namespace's number"),
        ("ns1.lba=3", "lba", "power of two"),
        ("ns1.colour=red", "ns1.colour", "no such key"),
        ("colour=red", "colour", "size, lba, backend, iu"),
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
        ("nabo=1b", "nabo", "nabsn or nabspf"),
        ("mam=1", "mam", "nabsn or nabspf"),
        ("mam=2", "mam", "0 to 1"),
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
fn help_names_every_key() {
    let help = NvmeOptions::help();
    for row in &CONTROLLER_KEYS {
        assert!(help.contains(row.name), "{}", row.name);
    }
}
