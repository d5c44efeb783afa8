//! `--nvme`: a controller and its namespaces.

mod table;

use std::{collections::BTreeMap, sync::Arc};

use nvme::{
    AtomicUnits, CacheMode, ControllerConfig, Extent, Lint, NamespaceAtomics, NamespaceConfig,
    Tear,
    config::{MAX_NAMESPACES, MAX_VECTORS},
    lint::LintLog,
};
use nvme_spec::registers::Vs;
use storage::{BlockDevice, media::Media, null::Null, ram::Ram};

use self::table::{CONTROLLER_KEYS, NAMESPACE_KEYS};
use super::{
    Size,
    keys::{self, OptionError, number},
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
    /// What it promises beyond the controller's atomic units.
    pub atomics: NamespaceAtomics,
    /// Bytes of the indirection unit, if one is modelled.
    pub iu: Option<u64>,
    /// NOWS; the indirection unit unless given.
    pub nows: Option<Extent>,
    /// NOIOB.
    pub noiob: Option<Extent>,
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
    /// The atomic units of all namespaces.
    pub atomics: AtomicUnits,
    /// Which writes are torn.
    pub tear: Tear,
    /// What the controller does by chance follows from it.
    pub seed: u64,
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
                atomics: NamespaceAtomics::default(),
                iu: None,
                nows: None,
                noiob: None,
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
            atomics: config.atomics,
            tear: config.tear,
            seed: config.seed,
            serial: config.serial,
            model: config.model,
            lint: false,
        }
    }
}

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
                    atomics: ns.atomics,
                    optimal_write: ns.nows,
                    optimal_boundary: ns.noiob,
                    ..NamespaceConfig::new(with_unit(open(ns)?, ns.iu)?, lba_bytes)
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
            atomics: self.atomics,
            tear: self.tear,
            seed: self.seed,
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

/// A device with an indirection unit, if there is to be one.
fn with_unit(
    device: Arc<dyn BlockDevice>,
    unit: Option<u64>,
) -> Result<Arc<dyn BlockDevice>, OptionError> {
    let Some(unit) = unit else {
        return Ok(device);
    };
    // Beyond 32 bits it breaks the rule of its range, whatever it was.
    match Media::new(device, u32::try_from(unit).unwrap_or(u32::MAX)) {
        Ok(media) => Ok(Arc::new(media)),
        Err(error) => Err(OptionError {
            list: LIST,
            key: "iu".to_string(),
            value: unit.to_string(),
            reason: error.to_string(),
        }),
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
mod tests;
