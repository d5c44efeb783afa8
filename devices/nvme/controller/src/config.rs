//! What a controller is made of, and the rules its values obey.

use std::{fmt, sync::Arc};

use nvme_spec::registers::Vs;
use storage::BlockDevice;
use thiserror::Error;

pub use crate::atomicity::{AtomicUnits, Extent, NamespaceAtomics, Tear};
use crate::{
    atomicity, granularity,
    signals::Lint,
    trace::{MAX_RECORDER, Watch},
};

/// The smallest and largest logical block, in bytes.
pub const LBA_BYTES: std::ops::RangeInclusive<u32> = 512..=1024 * 1024;
/// The memory page size that MDTS counts in, CAP.MPSMIN, in bytes.
pub const MIN_PAGE_BYTES: u32 = 4096;
/// The smallest data transfer that can be configured as the largest, in bytes: MDTS is a power of
/// two of pages, and 0, which would be one page, means that there is no limit.
pub const MIN_MDTS_BYTES: u32 = 8192;
/// The largest data transfer that can be configured, in bytes.
pub const MAX_MDTS_BYTES: u32 = 64 << 20;
/// MSI-X vectors a function can have (PCI 3.0 6.8.2).
pub const MAX_VECTORS: u16 = 2048;
/// I/O queue pairs that a controller can have: identifiers 1 to 65,535 (Base 3.3).
pub const MAX_IO_QUEUES: u16 = 65_535;
/// I/O queue pairs whose doorbells, and the admin queue's, fit in the smallest memory page: a
/// controller has to see to it that they fit in one page (Base 5.2.5).
pub const MAX_SHADOW_QUEUES: u16 = 511;
/// Namespaces a controller can have.
pub const MAX_NAMESPACES: usize = 1024;
/// Threads that may serve a controller.
pub const MAX_SHARDS: u16 = 64;

/// A controller's configuration. [`Default`] is a controller without namespaces.
#[derive(Clone)]
pub struct ControllerConfig {
    /// Serial Number: 1 to 20 printable ASCII characters.
    pub serial: String,
    /// Model Number: 1 to 40 printable ASCII characters.
    pub model: String,
    /// Firmware Revision: 1 to 8 printable ASCII characters.
    pub firmware: String,
    /// PCI Vendor ID, which Identify repeats.
    pub vendor_id: u16,
    /// PCI Subsystem Vendor ID, which Identify repeats.
    pub subsystem_vendor_id: u16,
    /// The version that VS reports and whose rules hold.
    pub version: Vs,
    /// I/O queue pairs.
    pub io_queues: u16,
    /// The most entries of a queue, 2 to 65,536.
    pub queue_entries: u32,
    /// MSI-X vectors, 1 to 2,048.
    pub vectors: u16,
    /// Maximum Data Transfer Size in bytes: a power of two of at least two pages (8,192) and a block
    /// of every format.
    pub mdts_bytes: u32,
    /// Report a volatile write cache; see [`CacheMode`].
    pub cache: CacheMode,
    /// Offer Doorbell Buffer Config, if there are at most [`MAX_SHADOW_QUEUES`] I/O queue pairs.
    pub shadow_doorbells: bool,
    /// Threads that will poll, each its own shard.
    pub shards: u16,
    /// The atomic units promised for every namespace.
    pub atomics: AtomicUnits,
    /// Which writes are torn.
    pub tear: Tear,
    /// What the controller does by chance (where it tears a write) follows from this.
    pub seed: u64,
    /// The namespaces, NSID 1 first.
    pub namespaces: Vec<NamespaceConfig>,
    /// Check the host, and report here what it does wrong ([`lint`](crate::lint)).
    pub lint: Option<Arc<dyn Lint>>,
    /// Trace, record and count what the controller does ([`trace`](crate::trace)).
    pub watch: Watch,
}

/// Whether Identify reports a volatile write cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CacheMode {
    /// None: completed writes are durable, as far as the backend knows.
    #[default]
    None,
    /// One is reported, with feature 06h: what is written may be lost until a Flush. Memory has
    /// none in fact; an image's is the host's page cache.
    Volatile,
}

/// A namespace's configuration.
#[derive(Clone)]
pub struct NamespaceConfig {
    /// What stores it.
    pub device: Arc<dyn BlockDevice>,
    /// Bytes of a logical block at first, one of `formats`.
    pub lba_bytes: u32,
    /// Bytes of a logical block in each LBA format that Format NVM can give it, LBAF 0 first: powers
    /// of two of 512 to 1,048,576, each once.
    pub formats: Vec<u32>,
    /// What it promises beyond the controller's atomic units.
    pub atomics: NamespaceAtomics,
    /// NOWS, Namespace Optimal Write Size; by default the device's write unit, if it has one.
    pub optimal_write: Option<Extent>,
    /// NOIOB, Namespace Optimal I/O Boundary: 1 to 65,535 blocks; none by default.
    pub optimal_boundary: Option<Extent>,
}

impl NamespaceConfig {
    /// A namespace of a device in blocks of `lba_bytes`, its only format, with no promise of its own.
    #[must_use]
    pub fn new(device: Arc<dyn BlockDevice>, lba_bytes: u32) -> Self {
        Self {
            device,
            lba_bytes,
            formats: vec![lba_bytes],
            atomics: NamespaceAtomics::default(),
            optimal_write: None,
            optimal_boundary: None,
        }
    }
}

impl fmt::Debug for NamespaceConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NamespaceConfig")
            .field("bytes", &self.device.geometry().bytes)
            .field("lba_bytes", &self.lba_bytes)
            .field("formats", &self.formats)
            .field("atomics", &self.atomics)
            .finish_non_exhaustive()
    }
}

impl Default for ControllerConfig {
    fn default() -> Self {
        Self {
            serial: "FERRITE0001".into(),
            model: "Ferrite NVMe Controller".into(),
            firmware: env!("CARGO_PKG_VERSION").into(),
            vendor_id: 0,
            subsystem_vendor_id: 0,
            version: Vs::V1_4,
            io_queues: 65,
            queue_entries: 65_536,
            vectors: 66,
            mdts_bytes: 512 * 1024,
            cache: CacheMode::None,
            shadow_doorbells: true,
            shards: 1,
            atomics: AtomicUnits::default(),
            tear: Tear::default(),
            seed: 0,
            namespaces: Vec::new(),
            lint: None,
            watch: Watch::default(),
        }
    }
}

impl ControllerConfig {
    /// Whether the controller has the Doorbell Buffer Config command.
    #[must_use]
    pub const fn offers_shadow_doorbells(&self) -> bool {
        self.shadow_doorbells && self.io_queues <= MAX_SHADOW_QUEUES
    }
}

impl fmt::Debug for ControllerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControllerConfig")
            .field("serial", &self.serial)
            .field("model", &self.model)
            .field("version", &self.version)
            .field("io_queues", &self.io_queues)
            .field("queue_entries", &self.queue_entries)
            .field("vectors", &self.vectors)
            .field("mdts_bytes", &self.mdts_bytes)
            .field("cache", &self.cache)
            .field("shadow_doorbells", &self.shadow_doorbells)
            .field("shards", &self.shards)
            .field("atomics", &self.atomics)
            .field("tear", &self.tear)
            .field("seed", &self.seed)
            .field("namespaces", &self.namespaces)
            .field("lint", &self.lint.is_some())
            .finish_non_exhaustive()
    }
}

/// A configuration that breaks a rule.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{key}={value}: {rule}; {hint}")]
pub struct ConfigError {
    /// The option's key.
    pub key: &'static str,
    /// The value that was given.
    pub value: String,
    /// The rule it breaks.
    pub rule: &'static str,
    /// A value that would do.
    pub hint: String,
}

impl ConfigError {
    pub(crate) fn new(
        key: &'static str,
        value: impl fmt::Display,
        rule: &'static str,
        hint: impl Into<String>,
    ) -> Self {
        Self {
            key,
            value: value.to_string(),
            rule,
            hint: hint.into(),
        }
    }
}

impl ControllerConfig {
    /// Checks every rule.
    ///
    /// # Errors
    /// The first rule that is broken, by key, with a value that would do.
    pub fn validate(&self) -> Result<(), ConfigError> {
        text(
            "serial",
            &self.serial,
            20,
            "a Serial Number has 1 to 20 printable ASCII characters",
        )?;
        text(
            "model",
            &self.model,
            40,
            "a Model Number has 1 to 40 printable ASCII characters",
        )?;
        text(
            "firmware",
            &self.firmware,
            8,
            "a Firmware Revision has 1 to 8 such characters",
        )?;
        if ![Vs::V1_4, Vs::V2_1].contains(&self.version) {
            return Err(ConfigError::new(
                "version",
                format_args!("{}.{}", self.version.mjr(), self.version.mnr()),
                "a version whose rules the controller holds",
                "use version=1.4 or version=2.1",
            ));
        }
        range(
            "queues",
            u64::from(self.io_queues),
            1,
            u64::from(MAX_IO_QUEUES),
            "I/O queue pairs",
        )?;
        range(
            "depth",
            u64::from(self.queue_entries),
            2,
            65_536,
            "entries of a queue",
        )?;
        range(
            "vectors",
            u64::from(self.vectors),
            1,
            u64::from(MAX_VECTORS),
            "MSI-X vectors",
        )?;
        range(
            "workers",
            u64::from(self.shards),
            1,
            u64::from(MAX_SHARDS),
            "worker threads",
        )?;
        power_of_two("mdts", self.mdts_bytes, MIN_MDTS_BYTES, MAX_MDTS_BYTES)?;
        range(
            "namespaces",
            self.namespaces.len() as u64,
            1,
            MAX_NAMESPACES as u64,
            "namespaces",
        )?;
        range(
            "recorder",
            u64::from(self.watch.recorder),
            0,
            u64::from(MAX_RECORDER),
            "commands of each worker that the flight recorder keeps",
        )?;
        for namespace in &self.namespaces {
            self.validate_formats(namespace)?;
        }
        let volatile = |ns: &NamespaceConfig| ns.device.capabilities().volatile_cache;
        if self.cache == CacheMode::None && self.namespaces.iter().any(volatile) {
            return Err(ConfigError::new(
                "cache",
                "none",
                "a backend that may lose completed writes has a volatile write cache, which is told",
                "use cache=volatile, or a backend whose writes are durable",
            ));
        }
        granularity::validate(self)?;
        atomicity::validate(self)
    }

    /// The block sizes of a namespace, each for itself and together.
    fn validate_formats(&self, namespace: &NamespaceConfig) -> Result<(), ConfigError> {
        let (current, formats) = (namespace.lba_bytes, &namespace.formats);
        power_of_two("lba", current, *LBA_BYTES.start(), *LBA_BYTES.end())?;
        let bytes = namespace.device.geometry().bytes;
        for (index, &lba) in formats.iter().enumerate() {
            power_of_two("formats", lba, *LBA_BYTES.start(), *LBA_BYTES.end())?;
            if formats.iter().take(index).any(|&earlier| earlier == lba) {
                return Err(ConfigError::new(
                    "formats",
                    lba,
                    "each LBA format has another block size",
                    format!("give {lba} once"),
                ));
            }
            if self.mdts_bytes < lba {
                return Err(ConfigError::new(
                    "mdts",
                    self.mdts_bytes,
                    "the largest transfer must hold a logical block of every format",
                    format!("use mdts={lba} or more, or formats of smaller blocks"),
                ));
            }
            if bytes < u64::from(lba) || !bytes.is_multiple_of(u64::from(lba)) {
                return Err(ConfigError::new(
                    "size",
                    bytes,
                    "a namespace is a whole number of logical blocks of every format, at least one",
                    format!("use a multiple of {lba}"),
                ));
            }
        }
        if formats.contains(&current) {
            return Ok(());
        }
        Err(ConfigError::new(
            "lba",
            current,
            "the logical blocks of a namespace have the size of one of its formats",
            match formats.first() {
                Some(first) => format!("use lba={first}, or add {current} to formats"),
                None => format!("use formats={current}"),
            },
        ))
    }

    /// What is allowed and yet may surprise: sentences for the user.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        atomicity::notes(self)
    }
}

fn text(
    key: &'static str,
    value: &str,
    most: usize,
    rule: &'static str,
) -> Result<(), ConfigError> {
    let printable = value.bytes().all(|b| (0x20..0x7F).contains(&b));
    if value.is_empty() || value.len() > most || !printable {
        return Err(ConfigError::new(
            key,
            value,
            rule,
            format!("give at most {most}"),
        ));
    }
    Ok(())
}

fn range(
    key: &'static str,
    value: u64,
    least: u64,
    most: u64,
    rule: &'static str,
) -> Result<(), ConfigError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(ConfigError::new(
        key,
        value,
        rule,
        format!("give {least} to {most}"),
    ))
}

fn power_of_two(key: &'static str, value: u32, least: u32, most: u32) -> Result<(), ConfigError> {
    if value.is_power_of_two() && (least..=most).contains(&value) {
        return Ok(());
    }
    let near = value.clamp(least, most).next_power_of_two();
    let hint = format!("give {least} to {most}, for example {near}");
    Err(ConfigError::new(key, value, "bytes, a power of two", hint))
}

#[cfg(test)]
mod tests {
    use storage::null::Null;

    use super::*;

    fn good() -> ControllerConfig {
        let device = Arc::new(Null::new(1 << 20));
        ControllerConfig {
            namespaces: vec![NamespaceConfig::new(device, 4096)],
            ..ControllerConfig::default()
        }
    }

    #[test]
    fn the_default_with_a_namespace_is_valid() {
        assert_eq!(good().validate(), Ok(()));
    }

    #[test]
    fn each_rule_refuses_with_key_and_value() {
        type Break = fn(&mut ControllerConfig);
        let cases: [(&str, &str, Break); 20] = [
            ("serial", "", |c| c.serial.clear()),
            ("serial", "é", |c| c.serial = "é".into()),
            ("model", "x", |c| c.model = "x".repeat(41)),
            ("firmware", "123456789", |c| c.firmware = "123456789".into()),
            ("version", "2.0", |c| c.version = Vs::V2_0),
            ("queues", "0", |c| c.io_queues = 0),
            ("depth", "1", |c| c.queue_entries = 1),
            ("depth", "65537", |c| c.queue_entries = 65_537),
            ("vectors", "2049", |c| c.vectors = 2049),
            ("workers", "0", |c| c.shards = 0),
            ("recorder", "65537", |c| c.watch.recorder = 65_537),
            ("mdts", "4096", |c| c.mdts_bytes = 4096),
            ("lba", "513", |c| c.namespaces[0].lba_bytes = 513),
            ("lba", "2097152", |c| c.namespaces[0].lba_bytes = 2 << 20),
            ("lba", "8192", |c| c.namespaces[0].lba_bytes = 8192),
            ("lba", "4096", |c| c.namespaces[0].formats.clear()),
            ("formats", "513", |c| c.namespaces[0].formats.push(513)),
            ("formats", "4096", |c| c.namespaces[0].formats.push(4096)),
            ("mdts", "8192", |c| {
                c.mdts_bytes = 8192;
                c.namespaces[0].formats.push(16384);
            }),
            ("size", "4097", |c| {
                c.namespaces[0].device = Arc::new(Null::new(4097))
            }),
        ];
        for (key, value, breaks) in cases {
            let mut config = good();
            breaks(&mut config);
            let error = config.validate().expect_err(key);
            assert_eq!(error.key, key, "{error}");
            assert!(error.value.contains(value), "{error}");
        }
    }
}
