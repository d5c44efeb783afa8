//! The keys of `--nvme` and of `[[nvme]]` in a file: one row each, with what it means, how it is
//! read and how it is written.

use nvme::{
    CacheMode, Extent, Tear,
    config::{MAX_IO_QUEUES, MAX_NAMESPACES, MAX_SHARDS, MAX_VECTORS},
    trace::MAX_RECORDER,
};
use nvme_spec::registers::Vs;

use super::{
    super::{
        Size,
        keys::{Form, Key, choose, number, word, words},
        parse_extent, parse_size,
    },
    Doorbells, NamespaceOptions, NvmeOptions, backend, formats,
};

/// Words and what they stand for.
const CACHES: [(&str, CacheMode); 2] =
    [("none", CacheMode::None), ("volatile", CacheMode::Volatile)];
const TEARS: [(&str, Tear); 3] = [
    ("never", Tear::Never),
    ("legal", Tear::Legal),
    ("always", Tear::Always),
];
const DOORBELLS: [(&str, Doorbells); 3] = [
    ("trapped", Doorbells::Trapped),
    ("shadow", Doorbells::Shadow),
    ("ioeventfd", Doorbells::Ioeventfd),
];
const VERSIONS: [(&str, Vs); 2] = [("1.4", Vs::V1_4), ("2.1", Vs::V2_1)];
const OFF_ON: [(&str, bool); 2] = [("off", false), ("on", true)];
const BITS: [(&str, bool); 2] = [("0", false), ("1", true)];

/// A size as it is written.
fn size(bytes: u64) -> Option<String> {
    Some(Size(bytes).to_string())
}

/// A size in bytes or blocks as it is written, if it is given.
fn extent(extent: Option<Extent>) -> Option<String> {
    extent.map(|extent| match extent {
        Extent::Bytes(bytes) => Size(bytes).to_string(),
        Extent::Blocks(blocks) => format!("{blocks}b"),
    })
}

fn text_into(field: &mut String, text: &str) -> Result<(), String> {
    text.clone_into(field);
    Ok(())
}

/// Keys that a namespace may have for itself, as `nsN.key`.
pub(super) const NAMESPACE_KEYS: [Key<NamespaceOptions>; 15] = [
    Key {
        name: "size",
        form: Form::Size("a whole number of logical blocks"),
        help: "size of a namespace",
        unset: "",
        set: |ns, text| parse_size(text).map(|bytes| ns.size = bytes),
        get: |ns| size(ns.size),
    },
    Key {
        name: "lba",
        form: Form::Size("512 to 1M, a power of two"),
        help: "size of a logical block at first",
        unset: "the first of formats, or 512",
        set: |ns, text| parse_size(text).map(|bytes| ns.lba = Some(bytes)),
        get: |ns| ns.lba.and_then(size),
    },
    Key {
        name: "formats",
        form: Form::Sizes("512 to 1M, powers of two, LBAF 0 first"),
        help: "block sizes that Format NVM can give it",
        unset: "lba and of 512:4K:16K:64K what mdts, size and atomic units in bytes allow",
        set: |ns, text| formats::parse(text).map(|list| ns.formats = Some(list)),
        get: |ns| ns.formats.as_deref().map(formats::text),
    },
    Key {
        name: "backend",
        form: Form::Word(|| backend::FORMS.to_vec()),
        help: "what stores it: memory, nothing, or a raw image, whose size is the namespace's",
        unset: "",
        set: |ns, text| backend::parse(text).map(|backend| ns.backend = backend),
        get: |ns| Some(ns.backend.text()),
    },
    Key {
        name: "create",
        form: Form::Flag(["off", "on"]),
        help: "make an image that is not there, of size, all zeroes",
        unset: "",
        set: |ns, text| choose(&OFF_ON, text).map(|create| ns.create = create),
        get: |ns| word(&OFF_ON, &ns.create),
    },
    Key {
        name: "iu",
        form: Form::Size("512 to 1M, a power of two"),
        help: "the indirection unit, whatever lba is",
        unset: "none",
        set: |ns, text| parse_size(text).map(|bytes| ns.iu = Some(bytes)),
        get: |ns| ns.iu.and_then(size),
    },
    Key {
        name: "nows",
        form: Form::Extent("a multiple of iu"),
        help: "NOWS: the size of writes that perform best",
        unset: "iu",
        set: |ns, text| parse_extent(text).map(|size| ns.nows = Some(size)),
        get: |ns| extent(ns.nows),
    },
    Key {
        name: "noiob",
        form: Form::Extent("1 to 65535 blocks"),
        help: "NOIOB: boundaries that reads and writes should not cross",
        unset: "none",
        set: |ns, text| parse_extent(text).map(|size| ns.noiob = Some(size)),
        get: |ns| extent(ns.noiob),
    },
    Key {
        name: "nawun",
        form: Form::Extent("awun to 65536 blocks"),
        help: "NAWUN: a write of this size is atomic between commands",
        unset: "awun",
        set: |ns, text| parse_extent(text).map(|size| ns.atomics.normal = Some(size)),
        get: |ns| extent(ns.atomics.normal),
    },
    Key {
        name: "nawupf",
        form: Form::Extent("awupf to nawun"),
        help: "NAWUPF: a write of this size is atomic when the power fails",
        unset: "awupf",
        set: |ns, text| parse_extent(text).map(|size| ns.atomics.power_fail = Some(size)),
        get: |ns| extent(ns.atomics.power_fail),
    },
    Key {
        name: "nacwu",
        form: Form::Extent("acwu to 65536 blocks"),
        help: "NACWU: the most that a fused Compare and Write may have",
        unset: "acwu, else nawun",
        set: |ns, text| parse_extent(text).map(|size| ns.atomics.compare_and_write = Some(size)),
        get: |ns| extent(ns.atomics.compare_and_write),
    },
    Key {
        name: "nabsn",
        form: Form::Extent("nawun to 65536 blocks, 2 or more"),
        help: "NABSN: a write over such a boundary is not atomic between commands",
        unset: "none",
        set: |ns, text| parse_extent(text).map(|size| ns.atomics.boundary = Some(size)),
        get: |ns| extent(ns.atomics.boundary),
    },
    Key {
        name: "nabspf",
        form: Form::Extent("nawupf to 65536 blocks, 2 or more"),
        help: "NABSPF: the same for when the power fails",
        unset: "none",
        set: |ns, text| parse_extent(text).map(|size| ns.atomics.boundary_power_fail = Some(size)),
        get: |ns| extent(ns.atomics.boundary_power_fail),
    },
    Key {
        name: "nabo",
        form: Form::Extent("below nabsn and nabspf"),
        help: "NABO: where the first boundary lies",
        unset: "0",
        set: |ns, text| parse_extent(text).map(|size| ns.atomics.boundary_offset = Some(size)),
        get: |ns| extent(ns.atomics.boundary_offset),
    },
    Key {
        name: "mam",
        form: Form::Flag(["0", "1"]),
        help: "MAM: 1, each part of a write between boundaries is atomic by itself",
        unset: "",
        set: |ns, text| choose(&BITS, text).map(|bit| ns.atomics.multiple = bit),
        get: |ns| word(&BITS, &ns.atomics.multiple),
    },
];

/// Keys of the controller.
pub(super) const CONTROLLER_KEYS: [Key<NvmeOptions>; 20] = [
    Key {
        name: "namespaces",
        form: Form::Number(1, MAX_NAMESPACES as u64),
        help: "number of namespaces; nsN.KEY=VALUE is for namespace N alone",
        unset: "",
        set: |o, text| number(text, 1, MAX_NAMESPACES).map(|n| o.namespaces = n),
        get: |o| Some(o.namespaces.to_string()),
    },
    Key {
        name: "queues",
        form: Form::Number(1, MAX_IO_QUEUES as u64),
        help: "I/O queue pairs",
        unset: "",
        set: |o, text| number(text, 1, MAX_IO_QUEUES).map(|n| o.queues = n),
        get: |o| Some(o.queues.to_string()),
    },
    Key {
        name: "depth",
        form: Form::Number(2, 65_536),
        help: "the most entries of a queue",
        unset: "",
        set: |o, text| number(text, 2, 65_536).map(|n| o.depth = n),
        get: |o| Some(o.depth.to_string()),
    },
    Key {
        name: "vectors",
        form: Form::Number(1, MAX_VECTORS as u64),
        help: "MSI-X vectors",
        unset: "queues + 1",
        set: |o, text| number(text, 1, MAX_VECTORS).map(|n| o.vectors = Some(n)),
        get: |o| o.vectors.map(|n| n.to_string()),
    },
    Key {
        name: "mdts",
        form: Form::Size("8K to 64M, a power of two"),
        help: "the largest transfer",
        unset: "",
        set: |o, text| parse_size(text).map(|bytes| o.mdts = bytes),
        get: |o| size(o.mdts),
    },
    Key {
        name: "workers",
        form: Form::Number(1, MAX_SHARDS as u64),
        help: "threads that serve the controller",
        unset: "",
        set: |o, text| number(text, 1, MAX_SHARDS).map(|n| o.workers = n),
        get: |o| Some(o.workers.to_string()),
    },
    Key {
        name: "poll",
        form: Form::Number(0, 1_000_000),
        help: "microseconds that an idle worker polls before it sleeps",
        unset: "",
        set: |o, text| number(text, 0, 1_000_000).map(|n| o.poll_us = n),
        get: |o| Some(o.poll_us.to_string()),
    },
    Key {
        name: "cache",
        form: Form::Word(|| words(&CACHES)),
        help: "whether a volatile write cache is reported; with none, writes of an image are durable at once",
        unset: "volatile with a file, else none",
        set: |o, text| choose(&CACHES, text).map(|cache| o.cache = Some(cache)),
        get: |o| o.cache.and_then(|cache| word(&CACHES, &cache)),
    },
    Key {
        name: "awun",
        form: Form::Extent("1 to 65536 blocks"),
        help: "AWUN: a write of this size is atomic between commands, on all namespaces",
        unset: "the smallest nawun, or 1b",
        set: |o, text| parse_extent(text).map(|size| o.atomics.normal = Some(size)),
        get: |o| extent(o.atomics.normal),
    },
    Key {
        name: "awupf",
        form: Form::Extent("1 block to awun"),
        help: "AWUPF: a write of this size is atomic when the power fails, on all namespaces",
        unset: "the smallest nawupf, or 1b",
        set: |o, text| parse_extent(text).map(|size| o.atomics.power_fail = Some(size)),
        get: |o| extent(o.atomics.power_fail),
    },
    Key {
        name: "acwu",
        form: Form::Extent("1 to 65536 blocks"),
        help: "ACWU: the most that a fused Compare and Write may have, on all namespaces",
        unset: "awun",
        set: |o, text| parse_extent(text).map(|size| o.atomics.compare_and_write = Some(size)),
        get: |o| extent(o.atomics.compare_and_write),
    },
    Key {
        name: "tear",
        form: Form::Word(|| words(&TEARS)),
        help: "which writes of several blocks are torn: none, those above their atomic unit or over a boundary, all",
        unset: "",
        set: |o, text| choose(&TEARS, text).map(|tear| o.tear = tear),
        get: |o| word(&TEARS, &o.tear),
    },
    Key {
        name: "seed",
        form: Form::Number(0, u64::MAX),
        help: "what is done by chance (where a write is torn) follows from it",
        unset: "",
        set: |o, text| number(text, 0, u64::MAX).map(|n| o.seed = n),
        get: |o| Some(o.seed.to_string()),
    },
    Key {
        name: "doorbells",
        form: Form::Word(|| words(&DOORBELLS)),
        help: "by exits alone; in memory too, for up to 511 queues; and rung without exits",
        unset: "",
        set: |o, text| choose(&DOORBELLS, text).map(|doorbells| o.doorbells = doorbells),
        get: |o| word(&DOORBELLS, &o.doorbells),
    },
    Key {
        name: "lint",
        form: Form::Flag(["off", "on"]),
        help: "report what the driver does wrong, by rule; `ferrite lint-rules` lists them",
        unset: "",
        set: |o, text| choose(&OFF_ON, text).map(|lint| o.lint = lint),
        get: |o| word(&OFF_ON, &o.lint),
    },
    Key {
        name: "recorder",
        form: Form::Number(0, MAX_RECORDER as u64),
        help: "commands of each worker that the flight recorder keeps; 0: none",
        unset: "",
        set: |o, text| number(text, 0, MAX_RECORDER).map(|n| o.recorder = n),
        get: |o| Some(o.recorder.to_string()),
    },
    Key {
        name: "stats",
        form: Form::Flag(["off", "on"]),
        help: "count commands by queue, namespace and kind, and time them",
        unset: "on with --control",
        set: |o, text| choose(&OFF_ON, text).map(|stats| o.stats = Some(stats)),
        get: |o| o.stats.and_then(|stats| word(&OFF_ON, &stats)),
    },
    Key {
        name: "version",
        form: Form::Word(|| words(&VERSIONS)),
        help: "the version of the specification that is reported and held",
        unset: "",
        set: |o, text| choose(&VERSIONS, text).map(|version| o.version = version),
        get: |o| word(&VERSIONS, &o.version),
    },
    Key {
        name: "serial",
        form: Form::Text("1 to 20 printable ASCII characters"),
        help: "Serial Number",
        unset: "",
        set: |o, text| text_into(&mut o.serial, text),
        get: |o| Some(o.serial.clone()),
    },
    Key {
        name: "model",
        form: Form::Text("1 to 40 printable ASCII characters"),
        help: "Model Number",
        unset: "",
        set: |o, text| text_into(&mut o.model, text),
        get: |o| Some(o.model.clone()),
    },
];
