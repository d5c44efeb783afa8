//! `--nvme`, and `[[nvme]]` of a file: a controller and its namespaces.

mod backend;
mod file;
mod formats;
mod several;
mod table;

use std::{collections::BTreeMap, sync::Arc};

use nvme::{
    AtomicUnits, CacheMode, ControllerConfig, Extent, Lint, NamespaceAtomics, NamespaceConfig,
    Tear,
    config::{MAX_NAMESPACES, MAX_VECTORS},
    lint::LintLog,
    trace::Watch,
};
use nvme_spec::registers::Vs;
use storage::{BlockDevice, media::Media, null::Null};

use self::table::{CONTROLLER_KEYS, NAMESPACE_KEYS};
use super::{
    Size,
    keys::{self, Key, OptionError, Origin, number},
    parse_extent,
};

pub use backend::Backend;
pub use file::{ConfigFile, ConfigFileError};

/// Commands that the flight recorder keeps of each worker by default: what a driver does in its
/// last moments, for a third of the time that a Read of nothing takes.
const RECORDER: u32 = 64;

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
    /// Bytes; of an image that is there, its own.
    pub size: u64,
    /// Bytes of a logical block at first; see [`block_bytes`](Self::block_bytes).
    pub lba: Option<u64>,
    /// Bytes of a logical block in each LBA format, LBAF 0 first; those that fit unless given.
    pub formats: Option<Vec<u64>>,
    /// What stores it.
    pub backend: Backend,
    /// An image that is not there is made, of `size` bytes.
    pub create: bool,
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
    pub overrides: BTreeMap<usize, BTreeMap<&'static str, String>>,
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
    /// Whether a volatile write cache is reported; see [`cache_mode`](Self::cache_mode).
    pub cache: Option<CacheMode>,
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
    /// Commands that the flight recorder keeps of each worker.
    pub recorder: u32,
    /// Whether commands are counted and timed; where there is a control socket unless given.
    pub stats: Option<bool>,
    /// The keys that the user gave (`lba`, `ns2.lba`), and where.
    pub given: BTreeMap<String, Origin>,
}

impl Default for NamespaceOptions {
    fn default() -> Self {
        Self {
            size: 1 << 30,
            lba: None,
            formats: None,
            backend: Backend::Ram,
            create: false,
            atomics: NamespaceAtomics::default(),
            iu: None,
            nows: None,
            noiob: None,
        }
    }
}

impl Default for NvmeOptions {
    fn default() -> Self {
        let config = ControllerConfig::default();
        Self {
            namespace: NamespaceOptions::default(),
            namespaces: 1,
            overrides: BTreeMap::new(),
            queues: config.io_queues,
            depth: config.queue_entries,
            vectors: None,
            mdts: u64::from(config.mdts_bytes),
            workers: config.shards,
            poll_us: 20,
            cache: None,
            doorbells: Doorbells::default(),
            version: config.version,
            atomics: config.atomics,
            tear: config.tear,
            seed: config.seed,
            serial: config.serial,
            model: config.model,
            lint: false,
            recorder: RECORDER,
            stats: None,
            given: BTreeMap::new(),
        }
    }
}

impl NvmeOptions {
    /// Takes in a list `key=value,...`; later values win.
    ///
    /// # Errors
    /// The key, the value and what would be right.
    pub fn apply(&mut self, text: &str) -> Result<(), OptionError> {
        for pair in keys::pairs(text) {
            let (key, value) = pair?;
            self.set(&key, &value, Origin::CommandLine)?;
        }
        Ok(())
    }

    /// Takes in a list as [`apply`](Self::apply) does, as what holds unless the user says
    /// otherwise.
    ///
    /// # Errors
    /// Those of [`apply`](Self::apply).
    pub fn preset(&mut self, text: &str) -> Result<(), OptionError> {
        let given = self.given.clone();
        let result = self.apply(text);
        self.given = given;
        result
    }

    /// Sets `key` or `nsN.key`.
    fn set(&mut self, key: &str, value: &str, origin: Origin) -> Result<(), OptionError> {
        let single = key.strip_prefix("ns").and_then(|rest| rest.split_once('.'));
        let set = if let Some((nsid, inner)) = single {
            self.set_single(nsid, inner, value)
        } else if let Some(row) = row(&NAMESPACE_KEYS, key) {
            (row.set)(&mut self.namespace, value)
        } else if let Some(row) = row(&CONTROLLER_KEYS, key) {
            (row.set)(self, value)
        } else {
            Err(keys::no_such_key(key, names()))
        };
        set.map_err(|reason| OptionError {
            origin: origin.clone(),
            key: key.to_string(),
            value: value.to_string(),
            reason,
        })?;
        self.given.insert(key.to_string(), origin);
        Ok(())
    }

    /// `nsN.key=value`.
    fn set_single(&mut self, nsid: &str, key: &str, value: &str) -> Result<(), String> {
        let nsid = number(nsid, 1, MAX_NAMESPACES)
            .map_err(|reason| format!("nsN is a namespace's number: {reason}"))?;
        let Some(row) = row(&NAMESPACE_KEYS, key) else {
            let names = NAMESPACE_KEYS.iter().map(|row| row.name);
            return Err(match CONTROLLER_KEYS.iter().any(|row| row.name == key) {
                true => format!("{key} is of the whole controller: write {key} without ns{nsid}"),
                false => keys::no_such_key(key, names),
            });
        };
        // Tried now, so that the error comes with its key; used when the others are known.
        let mut tried = self.namespace.clone();
        (row.set)(&mut tried, value)?;
        let value = (row.get)(&tried).unwrap_or_default();
        self.overrides
            .entry(nsid)
            .or_default()
            .insert(row.name, value);
        Ok(())
    }

    /// An error about a value that was given somewhere, or is a default.
    pub(crate) fn error(
        &self,
        key: &str,
        value: impl Into<String>,
        reason: impl Into<String>,
    ) -> OptionError {
        let mut error = OptionError::new(key, value, reason);
        // A rule speaks of a namespace's key without its number: whose has the value is meant,
        // else the one for all, else the first.
        let singles = self.given.keys().filter_map(|given| {
            let (nsid, inner) = given.strip_prefix("ns")?.split_once('.')?;
            let own = self.overrides.get(&nsid.parse().ok()?)?.get(key)?;
            (inner == key).then_some((given, own))
        });
        let meant = singles
            .clone()
            .find(|(_, own)| same_size(own, &error.value))
            .or_else(|| singles.take(1).find(|_| !self.given.contains_key(key)));
        let given = meant.map_or(key, |(given, _)| given);
        if let Some(origin) = self.given.get(given) {
            error.origin = origin.clone();
        }
        error.key = given.to_string();
        error
    }

    /// The options of each namespace, NSID 1 first.
    ///
    /// # Errors
    /// When there is an `nsN` beyond the number of namespaces, or an image is not there or not of
    /// a size that it can have.
    pub fn each_namespace(&self) -> Result<Vec<NamespaceOptions>, OptionError> {
        if let Some((&nsid, overrides)) = self.overrides.iter().find(|(n, _)| **n > self.namespaces)
        {
            let (key, value) = overrides.first_key_value().unzip();
            let reason = format!(
                "there are {} namespaces; add namespaces={nsid}",
                self.namespaces
            );
            return Err(self.error(
                &format!("ns{nsid}.{}", key.copied().unwrap_or_default()),
                value.cloned().unwrap_or_default(),
                reason,
            ));
        }
        (1..=self.namespaces)
            .map(|nsid| {
                let mut options = self.namespace.clone();
                for (key, value) in self.overrides.get(&nsid).into_iter().flatten() {
                    let set = row(&NAMESPACE_KEYS, key).map(|row| (row.set)(&mut options, value));
                    set.unwrap_or(Ok(()))
                        .map_err(|reason| self.error(&format!("ns{nsid}.{key}"), value, reason))?;
                }
                // A size for all says nothing of the image of one.
                let own = |key: &str| {
                    let overrides = self.overrides.get(&nsid);
                    overrides.is_some_and(|overrides| overrides.contains_key(key))
                };
                let asked = own("size") || (!own("backend") && self.given.contains_key("size"));
                self.size_of_image(&mut options, asked)?;
                Ok(options)
            })
            .collect()
    }

    /// The configuration with devices that cost nothing, every rule checked. Namespaces without
    /// formats get those that fit.
    fn draft(&self, each: &mut [NamespaceOptions]) -> Result<ControllerConfig, OptionError> {
        let mut draft = self.checked(each)?;
        let namespaces = std::mem::take(&mut draft.namespaces);
        for (options, namespace) in each.iter_mut().zip(namespaces) {
            let usual = || formats::usual(&draft, &namespace);
            options.formats.get_or_insert_with(usual);
        }
        self.checked(each)
    }

    fn checked(&self, each: &[NamespaceOptions]) -> Result<ControllerConfig, OptionError> {
        let null = |ns: &NamespaceOptions, _| Ok(Arc::new(Null::new(ns.size)) as _);
        let config = self.config(each, null)?;
        config.validate().map_err(|error| {
            let reason = format!("{}; {}", error.rule, error.hint);
            self.error(error.key, error.value, reason)
        })?;
        Ok(config)
    }

    /// Checks every rule, and opens nothing.
    ///
    /// # Errors
    /// Those of [`build`](Self::build).
    pub fn check(&self) -> Result<(), OptionError> {
        self.draft(&mut self.each_namespace()?).map(drop)
    }

    /// The controller's configuration, its backends opened and every rule checked.
    ///
    /// # Errors
    /// The key, the value, the rule and what would be right.
    pub fn build(&self) -> Result<ControllerConfig, OptionError> {
        let mut each = self.each_namespace()?;
        // Rules first: nothing is allocated for a bad value.
        self.draft(&mut each)?;
        self.config(&each, |ns, cache| self.open(ns, cache))
    }

    fn config(
        &self,
        each: &[NamespaceOptions],
        mut open: impl FnMut(&NamespaceOptions, CacheMode) -> Result<Arc<dyn BlockDevice>, OptionError>,
    ) -> Result<ControllerConfig, OptionError> {
        let cache = self.cache_mode(each);
        let namespaces = each
            .iter()
            .map(|ns| {
                // Beyond 32 bits it breaks the rule of its range, whatever it was.
                let bytes = |lba: u64| u32::try_from(lba).unwrap_or(u32::MAX);
                let lba_bytes = bytes(ns.block_bytes());
                Ok(NamespaceConfig {
                    formats: ns.format_bytes().into_iter().map(bytes).collect(),
                    atomics: ns.atomics,
                    optimal_write: ns.nows,
                    optimal_boundary: ns.noiob,
                    ..NamespaceConfig::new(self.with_unit(open(ns, cache)?, ns.iu)?, lba_bytes)
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
            cache,
            shadow_doorbells: self.doorbells != Doorbells::Trapped,
            shards: self.workers,
            atomics: self.atomics,
            tear: self.tear,
            seed: self.seed,
            namespaces,
            lint: self.lint.then(|| LintLog::new() as Arc<dyn Lint>),
            watch: Watch {
                recorder: self.recorder,
                statistics: self.stats.unwrap_or(false),
                ..Watch::default()
            },
            ..ControllerConfig::default()
        })
    }

    /// A device with an indirection unit, if there is to be one.
    fn with_unit(
        &self,
        device: Arc<dyn BlockDevice>,
        unit: Option<u64>,
    ) -> Result<Arc<dyn BlockDevice>, OptionError> {
        let Some(unit) = unit else {
            return Ok(device);
        };
        // Beyond 32 bits it breaks the rule of its range, whatever it was.
        match Media::new(device, u32::try_from(unit).unwrap_or(u32::MAX)) {
            Ok(media) => Ok(Arc::new(media)),
            Err(error) => Err(self.error("iu", Size(unit).to_string(), error.to_string())),
        }
    }

    /// What is allowed and yet may surprise: sentences for the user. Linux may not use all that
    /// is promised, and memory may be less than the namespaces take as they are written.
    ///
    /// # Errors
    /// Those of [`build`](Self::build) that need no backend.
    pub fn notes(&self) -> Result<Vec<String>, OptionError> {
        let mut notes = self.draft(&mut self.each_namespace()?)?.notes();
        notes.extend(self.memory_note());
        Ok(notes)
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

    /// The keys with their meanings, ranges and defaults, for the help text.
    #[must_use]
    pub fn help() -> String {
        let controller = CONTROLLER_KEYS.iter().map(Key::help_text);
        let namespace = NAMESPACE_KEYS.iter().map(Key::help_text);
        format!(
            "Keys of a namespace, which nsN.KEY gives namespace N alone:\n{}\n\
             Keys of the controller:\n{}",
            namespace.collect::<String>(),
            controller.collect::<String>()
        )
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

/// Whether two values are alike, as sizes if they are such.
fn same_size(one: &str, other: &str) -> bool {
    one == other || parse_extent(one).is_ok_and(|size| parse_extent(other) == Ok(size))
}

fn names() -> impl Iterator<Item = &'static str> + Clone {
    let namespace = NAMESPACE_KEYS.iter().map(|row| row.name);
    namespace.chain(CONTROLLER_KEYS.iter().map(|row| row.name))
}

fn row<'t, T>(table: &'t [Key<T>], key: &str) -> Option<&'t Key<T>> {
    table.iter().find(|row| row.name == key)
}

#[cfg(test)]
mod tests;
