//! The keys of `--nvme`: one row each, with what it means and how it is read.

use nvme::{
    CacheMode, Tear,
    config::{MAX_IO_QUEUES, MAX_NAMESPACES, MAX_SHARDS, MAX_VECTORS},
};
use nvme_spec::registers::Vs;

use super::{
    super::{
        keys::{Key, number},
        parse_extent, parse_size,
    },
    Backend, Doorbells, NamespaceOptions, NvmeOptions,
};

/// Keys that a namespace may have for itself, as `nsN.key`.
pub(super) const NAMESPACE_KEYS: [Key<NamespaceOptions>; 12] = [
    Key {
        name: "size",
        form: "SIZE",
        help: "bytes of a namespace [1G]",
        set: |ns, text| {
            ns.size = parse_size(text)?;
            Ok(())
        },
    },
    Key {
        name: "lba",
        form: "SIZE",
        help: "bytes of a logical block: 512 to 64K, a power of two [512]",
        set: |ns, text| {
            ns.lba = parse_size(text)?;
            Ok(())
        },
    },
    Key {
        name: "backend",
        form: "ram|null",
        help: "what stores it: memory, or nothing (keeps no data) [ram]",
        set: |ns, text| {
            ns.backend = match text {
                "ram" => Backend::Ram,
                "null" => Backend::Null,
                _ => return Err("give ram or null".to_string()),
            };
            Ok(())
        },
    },
    Key {
        name: "iu",
        form: "SIZE",
        help: "bytes of the indirection unit: 512 to 1M, a power of two, whatever lba is [none]",
        set: |ns, text| {
            ns.iu = Some(parse_size(text)?);
            Ok(())
        },
    },
    Key {
        name: "nows",
        form: "EXTENT",
        help: "NOWS: the size of writes that perform best [iu]",
        set: |ns, text| parse_extent(text).map(|size| ns.nows = Some(size)),
    },
    Key {
        name: "noiob",
        form: "EXTENT",
        help: "NOIOB: boundaries that reads and writes should not cross [none]",
        set: |ns, text| parse_extent(text).map(|size| ns.noiob = Some(size)),
    },
    Key {
        name: "nawun",
        form: "EXTENT",
        help: "NAWUN: a write of this size is atomic between commands [awun]",
        set: |ns, text| parse_extent(text).map(|size| ns.atomics.normal = Some(size)),
    },
    Key {
        name: "nawupf",
        form: "EXTENT",
        help: "NAWUPF: a write of this size is atomic when the power fails [awupf]",
        set: |ns, text| parse_extent(text).map(|size| ns.atomics.power_fail = Some(size)),
    },
    Key {
        name: "nabsn",
        form: "EXTENT",
        help: "NABSN: a write over such a boundary is not atomic between commands [none]",
        set: |ns, text| parse_extent(text).map(|size| ns.atomics.boundary = Some(size)),
    },
    Key {
        name: "nabspf",
        form: "EXTENT",
        help: "NABSPF: the same for when the power fails [none]",
        set: |ns, text| parse_extent(text).map(|size| ns.atomics.boundary_power_fail = Some(size)),
    },
    Key {
        name: "nabo",
        form: "EXTENT",
        help: "NABO: where the first boundary lies [0]",
        set: |ns, text| parse_extent(text).map(|size| ns.atomics.boundary_offset = Some(size)),
    },
    Key {
        name: "mam",
        form: "0|1",
        help: "MAM: 1, each part of a write between boundaries is atomic by itself [0]",
        set: |ns, text| number(text, 0, 1u8).map(|n| ns.atomics.multiple = n == 1),
    },
];

/// Keys of the controller.
pub(super) const CONTROLLER_KEYS: [Key<NvmeOptions>; 17] = [
    Key {
        name: "namespaces",
        form: "N",
        help: "number of namespaces [1]; nsN.KEY=VALUE for size, lba or backend of one",
        set: |o, text| number(text, 1, MAX_NAMESPACES).map(|n| o.namespaces = n),
    },
    Key {
        name: "queues",
        form: "N",
        help: "I/O queue pairs, 1 to 65535 [65]",
        set: |o, text| number(text, 1, MAX_IO_QUEUES).map(|n| o.queues = n),
    },
    Key {
        name: "depth",
        form: "N",
        help: "the most entries of a queue, 2 to 65536 [65536]",
        set: |o, text| number(text, 2, 65_536).map(|n| o.depth = n),
    },
    Key {
        name: "vectors",
        form: "N",
        help: "MSI-X vectors, 1 to 2048 [queues + 1]",
        set: |o, text| number(text, 1, MAX_VECTORS).map(|n| o.vectors = Some(n)),
    },
    Key {
        name: "mdts",
        form: "SIZE",
        help: "the largest transfer: 8K to 64M, a power of two [512K]",
        set: |o, text| {
            o.mdts = parse_size(text)?;
            Ok(())
        },
    },
    Key {
        name: "workers",
        form: "N",
        help: "threads that serve the controller [1]",
        set: |o, text| number(text, 1, MAX_SHARDS).map(|n| o.workers = n),
    },
    Key {
        name: "poll",
        form: "MICROSECONDS",
        help: "how long an idle worker polls before it sleeps, 0 to 1000000 [20]",
        set: |o, text| number(text, 0, 1_000_000).map(|n| o.poll_us = n),
    },
    Key {
        name: "cache",
        form: "none|volatile",
        help: "whether a volatile write cache is reported [none]",
        set: |o, text| {
            o.cache = match text {
                "none" => CacheMode::None,
                "volatile" => CacheMode::Volatile,
                _ => return Err("give none or volatile".to_string()),
            };
            Ok(())
        },
    },
    Key {
        name: "awun",
        form: "EXTENT",
        help: "AWUN: a write of this size is atomic between commands, on all namespaces [1b]",
        set: |o, text| parse_extent(text).map(|size| o.atomics.normal = Some(size)),
    },
    Key {
        name: "awupf",
        form: "EXTENT",
        help: "AWUPF: a write of this size is atomic when the power fails, on all namespaces [1b]",
        set: |o, text| parse_extent(text).map(|size| o.atomics.power_fail = Some(size)),
    },
    Key {
        name: "tear",
        form: "never|legal|always",
        help: "which writes of several blocks are torn: none, those above their atomic unit or over a boundary, all [legal]",
        set: |o, text| {
            o.tear = match text {
                "never" => Tear::Never,
                "legal" => Tear::Legal,
                "always" => Tear::Always,
                _ => return Err("give never, legal or always".to_string()),
            };
            Ok(())
        },
    },
    Key {
        name: "seed",
        form: "N",
        help: "what is done by chance (where a write is torn) follows from it [0]",
        set: |o, text| number(text, 0, u64::MAX).map(|n| o.seed = n),
    },
    Key {
        name: "doorbells",
        form: "HOW",
        help: "trapped, shadow (offered for up to 511 queues) or ioeventfd (and rung without exits) [ioeventfd]",
        set: |o, text| {
            o.doorbells = match text {
                "trapped" => Doorbells::Trapped,
                "shadow" => Doorbells::Shadow,
                "ioeventfd" => Doorbells::Ioeventfd,
                _ => return Err("give trapped, shadow or ioeventfd".to_string()),
            };
            Ok(())
        },
    },
    Key {
        name: "lint",
        form: "on|off",
        help: "report what the driver does wrong, by rule; `ferrite lint-rules` lists them [off]",
        set: |o, text| {
            o.lint = match text {
                "on" => true,
                "off" => false,
                _ => return Err("give on or off".to_string()),
            };
            Ok(())
        },
    },
    Key {
        name: "version",
        form: "1.4|2.1",
        help: "the version of the specification that is reported and held [1.4]",
        set: |o, text| {
            o.version = match text {
                "1.4" => Vs::V1_4,
                "2.1" => Vs::V2_1,
                _ => return Err("give 1.4 or 2.1".to_string()),
            };
            Ok(())
        },
    },
    Key {
        name: "serial",
        form: "TEXT",
        help: "Serial Number, at most 20 characters [FERRITE0001]",
        set: |o, text| {
            o.serial = text.to_string();
            Ok(())
        },
    },
    Key {
        name: "model",
        form: "TEXT",
        help: "Model Number, at most 40 characters",
        set: |o, text| {
            o.model = text.to_string();
            Ok(())
        },
    },
];
