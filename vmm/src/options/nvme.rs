//! `--nvme`: a controller and its namespaces.

use std::{collections::BTreeMap, sync::Arc};

use nvme::{
    CacheMode, ControllerConfig, Lint, NamespaceConfig,
    config::{MAX_IO_QUEUES, MAX_NAMESPACES, MAX_SHARDS, MAX_VECTORS},
    lint::LintLog,
};
use nvme_spec::registers::Vs;
use storage::{BlockDevice, null::Null, ram::Ram};

use super::{
    Size,
    keys::{self, Key, OptionError, number},
    parse_size,
};

const LIST: &str = "nvme";

/// What stands behind a namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Backend {
    /// Memory.
    #[default]
    Ram,
    /// Nothing: what is written is dropped.
    Null,
}

/// How the guest's doorbells come to the controller.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Doorbells {
    /// By exits alone: the guest is not offered shadow doorbells.
    Trapped,
    /// Shadow doorbells are offered; what the guest rings comes by exits.
    Shadow,
    /// Shadow doorbells are offered; KVM wakes the worker that the guest rings for.
    #[default]
    Ioeventfd,
}

/// What may differ from namespace to namespace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamespaceOptions {
    /// Bytes.
    pub size: u64,
    /// Bytes of a logical block.
    pub lba: u64,
    /// What stores it.
    pub backend: Backend,
}

/// A controller, as options describe it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NvmeOptions {
    /// What every namespace has unless it says otherwise.
    pub namespace: NamespaceOptions,
    /// How many namespaces there are.
    pub namespaces: usize,
    /// What single namespaces say otherwise, by NSID: keys and values.
    pub overrides: BTreeMap<usize, Vec<(String, String)>>,
    /// I/O queue pairs.
    pub queues: u16,
    /// The most entries of a queue.
    pub depth: u32,
    /// MSI-X vectors; one more than queues, as far as they go, unless given.
    pub vectors: Option<u16>,
    /// The largest transfer in bytes.
    pub mdts: u64,
    /// Worker threads.
    pub workers: u16,
    /// How long a worker polls before it sleeps, in microseconds.
    pub poll_us: u64,
    /// Whether a volatile write cache is reported.
    pub cache: CacheMode,
    /// How doorbells come to the controller.
    pub doorbells: Doorbells,
    /// The version of the specification.
    pub version: Vs,
    /// Serial Number.
    pub serial: String,
    /// Model Number.
    pub model: String,
    /// The host is checked, and what it does wrong reported.
    pub lint: bool,
}

impl Default for NvmeOptions {
    fn default() -> Self {
        let config = ControllerConfig::default();
        Self {
            namespace: NamespaceOptions {
                size: 1 << 30,
                lba: 512,
                backend: Backend::Ram,
            },
            namespaces: 1,
            overrides: BTreeMap::new(),
            queues: config.io_queues,
            depth: config.queue_entries,
            vectors: None,
            mdts: u64::from(config.mdts_bytes),
            workers: config.shards,
            poll_us: 20,
            cache: config.cache,
            doorbells: Doorbells::default(),
            version: config.version,
            serial: config.serial,
            model: config.model,
            lint: false,
        }
    }
}

/// Keys that a namespace may have for itself, as `nsN.key`.
const NAMESPACE_KEYS: [Key<NamespaceOptions>; 3] = [
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
];

/// Keys of the controller.
const CONTROLLER_KEYS: [Key<NvmeOptions>; 13] = [
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
];

impl NvmeOptions {
    /// Takes in a list `key=value,...`; later values win.
    ///
    /// # Errors
    /// The key, the value and what would be right.
    pub fn apply(&mut self, text: &str) -> Result<(), OptionError> {
        for pair in keys::pairs(LIST, text) {
            let (key, value) = pair?;
            let single = key.strip_prefix("ns").and_then(|rest| rest.split_once('.'));
            if let Some((nsid, inner)) = single {
                self.apply_single(key, nsid, inner, value)?;
            } else if NAMESPACE_KEYS.iter().any(|row| row.name == key) {
                keys::set(LIST, &NAMESPACE_KEYS, &mut self.namespace, key, value)?;
            } else {
                keys::set(LIST, &CONTROLLER_KEYS, self, key, value).map_err(|mut error| {
                    if !CONTROLLER_KEYS.iter().any(|row| row.name == key) {
                        error.reason = format!("there is no such key; the keys are {}", names());
                    }
                    error
                })?;
            }
        }
        Ok(())
    }

    /// `nsN.key=value`.
    fn apply_single(
        &mut self,
        key: &str,
        nsid: &str,
        inner: &str,
        value: &str,
    ) -> Result<(), OptionError> {
        let error = |reason| OptionError {
            list: LIST,
            key: key.to_string(),
            value: value.to_string(),
            reason,
        };
        let nsid = number(nsid, 1, MAX_NAMESPACES)
            .map_err(|reason| error(format!("nsN is a namespace's number: {reason}")))?;
        // Tried now, so that the error comes with its key; used when the others are known.
        keys::set(
            LIST,
            &NAMESPACE_KEYS,
            &mut self.namespace.clone(),
            inner,
            value,
        )
        .map_err(|inner| error(inner.reason))?;
        self.overrides
            .entry(nsid)
            .or_default()
            .push((inner.to_string(), value.to_string()));
        Ok(())
    }

    /// The options of each namespace, NSID 1 first.
    ///
    /// # Errors
    /// When there is an `nsN` beyond the number of namespaces.
    pub fn each_namespace(&self) -> Result<Vec<NamespaceOptions>, OptionError> {
        if let Some((&nsid, overrides)) = self.overrides.iter().find(|(n, _)| **n > self.namespaces)
        {
            let (key, value) = overrides.first().cloned().unwrap_or_default();
            return Err(OptionError {
                list: LIST,
                key: format!("ns{nsid}.{key}"),
                value,
                reason: format!(
                    "there are {} namespaces; add namespaces={nsid}",
                    self.namespaces
                ),
            });
        }
        (1..=self.namespaces)
            .map(|nsid| {
                let mut options = self.namespace.clone();
                for (key, value) in self.overrides.get(&nsid).into_iter().flatten() {
                    keys::set(LIST, &NAMESPACE_KEYS, &mut options, key, value)?;
                }
                Ok(options)
            })
            .collect()
    }

    /// The controller's configuration, its backends opened and every rule checked.
    ///
    /// # Errors
    /// The key, the value, the rule and what would be right.
    pub fn build(&self) -> Result<ControllerConfig, OptionError> {
        let each = self.each_namespace()?;
        // Rules first, with devices that cost nothing: nothing is allocated for a bad value.
        let null = |ns: &NamespaceOptions| -> Result<Arc<dyn BlockDevice>, OptionError> {
            Ok(Arc::new(Null::new(ns.size)))
        };
        let draft = self.config(&each, null)?;
        draft.validate().map_err(|error| OptionError {
            list: LIST,
            key: error.key.to_string(),
            value: error.value.clone(),
            reason: format!("{}; {}", error.rule, error.hint),
        })?;
        self.config(&each, |ns| match ns.backend {
            Backend::Null => null(ns),
            Backend::Ram => match Ram::new(ns.size) {
                Ok(ram) => Ok(Arc::new(ram)),
                Err(error) => Err(OptionError {
                    list: LIST,
                    key: "size".to_string(),
                    value: ns.size.to_string(),
                    reason: format!("{:#}", anyhow::Error::new(error)),
                }),
            },
        })
    }

    fn config(
        &self,
        each: &[NamespaceOptions],
        mut open: impl FnMut(&NamespaceOptions) -> Result<Arc<dyn BlockDevice>, OptionError>,
    ) -> Result<ControllerConfig, OptionError> {
        let namespaces = each
            .iter()
            .map(|ns| {
                // Beyond 32 bits it breaks the rule of its range, whatever it was.
                let lba_bytes = u32::try_from(ns.lba).unwrap_or(u32::MAX);
                Ok(NamespaceConfig {
                    device: open(ns)?,
                    lba_bytes,
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(ControllerConfig {
            serial: self.serial.clone(),
            model: self.model.clone(),
            version: self.version,
            io_queues: self.queues,
            queue_entries: self.depth,
            vectors: self
                .vectors
                .unwrap_or_else(|| self.queues.saturating_add(1).min(MAX_VECTORS)),
            mdts_bytes: u32::try_from(self.mdts).unwrap_or(u32::MAX),
            cache: self.cache,
            shadow_doorbells: self.doorbells != Doorbells::Trapped,
            shards: self.workers,
            namespaces,
            lint: self.lint.then(|| LintLog::new() as Arc<dyn Lint>),
            ..ControllerConfig::default()
        })
    }

    /// What to tell the user when the namespaces may take more memory than there is: they take it
    /// as they are written.
    #[must_use]
    pub fn memory_note(&self) -> Option<String> {
        let ram = |ns: &NamespaceOptions| {
            if ns.backend == Backend::Ram {
                ns.size
            } else {
                0
            }
        };
        let total = self
            .each_namespace()
            .ok()?
            .iter()
            .map(ram)
            .fold(0, u64::saturating_add);
        let available = available_memory()?;
        (total > available).then(|| {
            format!(
                "the namespaces may take {} of memory as they are written, and {} is available",
                Size(total >> 20 << 20),
                Size(available >> 20 << 20)
            )
        })
    }

    /// The keys with their meanings, for the help text.
    #[must_use]
    pub fn help() -> String {
        let controller = CONTROLLER_KEYS
            .iter()
            .map(|row| (row.name, row.form, row.help));
        let namespace = NAMESPACE_KEYS
            .iter()
            .map(|row| (row.name, row.form, row.help));
        namespace
            .chain(controller)
            .map(|(name, form, help)| format!("  {:<22} {help}\n", format!("{name}={form}")))
            .collect()
    }
}

/// Bytes of memory that could be had (MemAvailable of /proc/meminfo).
fn available_memory() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kib.checked_mul(1024)
}

fn names() -> String {
    let namespace = NAMESPACE_KEYS.iter().map(|row| row.name);
    let controller = CONTROLLER_KEYS.iter().map(|row| row.name);
    namespace.chain(controller).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
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
        let later = built("version=2.1").expect("valid");
        assert_eq!((config.version, later.version), (Vs::V1_4, Vs::V2_1));
        assert!(config.lint.is_some());
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
            ("lint=1", "lint", "on or off"),
            ("version=3", "version", "1.4"),
            ("version=2.0", "version", "1.4 or 2.1"),
            ("serial=", "serial", "1 to 20"),
            ("model=\u{e9}", "model", "ASCII"),
            ("namespaces=0", "namespaces", "1 to 1024"),
            ("ns2.lba=4K", "ns2.lba", "namespaces=2"),
            ("ns0.lba=4K", "ns0.lba", "namespace's number"),
            ("ns1.lba=3", "lba", "power of two"),
            ("ns1.colour=red", "ns1.colour", "no such key"),
            ("colour=red", "colour", "size, lba, backend, namespaces"),
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
}
