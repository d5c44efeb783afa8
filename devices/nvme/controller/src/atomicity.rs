//! Atomic writes: the sizes that are configured, reported and enforced (NVM 2.1.4).
//!
//! An atomic unit is a size, not a grid: a write of at most the unit, at any block, is atomic
//! unless it crosses a boundary; only boundaries are a grid. Even the smallest unit makes each
//! block atomic. Sizes here count blocks from 1; the fields of Identify count from 0.

use crate::config::{ConfigError, ControllerConfig, NamespaceConfig};

/// The most blocks that a field of 16 bits counts: as many as a command can write.
const MOST_BLOCKS: u32 = 65_536;

/// A size in bytes or in logical blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// Bytes: a whole number of blocks, or less than one, which is taken for one.
    Bytes(u64),
    /// Logical blocks.
    Blocks(u32),
}

/// The atomic units that a controller promises for all namespaces and formats.
///
/// Fields of Identify Controller are in logical blocks, so a unit in bytes is reported as the
/// smallest number of blocks over all formats; a namespace whose format makes more of it reports
/// that in its own fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AtomicUnits {
    /// AWUN, Atomic Write Unit Normal. By default as much as every namespace has, at least a block.
    pub normal: Option<Extent>,
    /// AWUPF, Atomic Write Unit Power Fail. By default as much as every namespace has.
    pub power_fail: Option<Extent>,
    /// ACWU, Atomic Compare & Write Unit: the most that a fused Compare and Write takes. By default
    /// as AWUN.
    pub compare_and_write: Option<Extent>,
}

/// What a namespace promises beyond its controller.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NamespaceAtomics {
    /// NAWUN, Namespace Atomic Write Unit Normal.
    pub normal: Option<Extent>,
    /// NAWUPF, Namespace Atomic Write Unit Power Fail.
    pub power_fail: Option<Extent>,
    /// NACWU, Namespace Atomic Compare & Write Unit. By default as NAWUN.
    pub compare_and_write: Option<Extent>,
    /// NABSN, Namespace Atomic Boundary Size Normal: 2 to 65,536 blocks.
    pub boundary: Option<Extent>,
    /// NABSPF, Namespace Atomic Boundary Size Power Fail: 2 to 65,536 blocks.
    pub boundary_power_fail: Option<Extent>,
    /// NABO, Namespace Atomic Boundary Offset: where the first boundary lies.
    pub boundary_offset: Option<Extent>,
    /// MAM, Multiple Atomicity Mode: what a write has between two boundaries is atomic by itself.
    pub multiple: bool,
}

/// Which writes are torn: executed in pieces, between which other commands see them half done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Tear {
    /// None.
    Never,
    /// Those that the specification lets a controller tear: above the unit, or over a boundary.
    #[default]
    Legal,
    /// All of more than one block, atomic ones too: a controller that breaks its promise.
    Always,
}

/// A unit and the boundaries it holds between, in blocks of the current format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Unit {
    /// Blocks, 1 to 65,536; the latter makes every command atomic.
    pub(crate) blocks: u32,
    /// Blocks between boundaries; 0: there are none.
    pub(crate) boundary: u32,
    /// The block of the first boundary.
    pub(crate) offset: u32,
    /// Each part between boundaries is atomic by itself (MAM).
    pub(crate) multiple: bool,
}

/// What a namespace promises in its current format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Atomics {
    pub(crate) normal: Unit,
    pub(crate) power_fail: Unit,
    /// Blocks that a fused Compare and Write may have, 1 to 65,536.
    pub(crate) compare_and_write: u32,
    /// It says so itself (NSFEAT bit 1).
    pub(crate) own: bool,
}

/// What the controller promises, in blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ControllerAtomics {
    pub(crate) normal: u32,
    pub(crate) power_fail: u32,
    pub(crate) compare_and_write: u32,
}

impl Extent {
    /// Blocks of `lba_bytes`, at least 1; what is not a whole number is cut.
    pub(crate) fn blocks(self, lba_bytes: u32) -> u32 {
        let blocks = match self {
            Self::Bytes(bytes) => bytes / u64::from(lba_bytes.max(1)),
            Self::Blocks(blocks) => blocks.into(),
        };
        u32::try_from(blocks).unwrap_or(u32::MAX).max(1)
    }

    /// As an atomic unit: every command is atomic from 65,536 blocks on.
    fn unit(self, lba_bytes: u32) -> u32 {
        self.blocks(lba_bytes).min(MOST_BLOCKS)
    }
}

impl std::fmt::Display for Extent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{bytes}"),
            Self::Blocks(blocks) => write!(f, "{blocks}b"),
        }
    }
}

impl ControllerAtomics {
    /// What `config` makes the controller promise.
    pub(crate) fn new(config: &ControllerConfig) -> Self {
        let smallest = |all: Option<Extent>, own: fn(&NamespaceAtomics) -> Option<Extent>| {
            let each = config.namespaces.iter().flat_map(|namespace| {
                let size = all.or(own(&namespace.atomics)).unwrap_or(Extent::Blocks(1));
                namespace.formats.iter().map(move |&lba| size.unit(lba))
            });
            each.min().unwrap_or(1)
        };
        let compare_and_write = config.namespaces.iter().flat_map(|namespace| {
            let all = &config.atomics;
            let own = &namespace.atomics;
            let given = all.compare_and_write.or(own.compare_and_write);
            let size = given.or(all.normal).or(own.normal);
            let size = size.unwrap_or(Extent::Blocks(1));
            namespace.formats.iter().map(move |&lba| size.unit(lba))
        });
        Self {
            normal: smallest(config.atomics.normal, |own| own.normal),
            power_fail: smallest(config.atomics.power_fail, |own| own.power_fail),
            compare_and_write: compare_and_write.min().unwrap_or(1),
        }
    }
}

impl Atomics {
    /// What `namespace` promises when its blocks have `lba_bytes`.
    pub(crate) fn new(
        config: &ControllerConfig,
        namespace: &NamespaceConfig,
        lba_bytes: u32,
    ) -> Self {
        let all = ControllerAtomics::new(config);
        let own = &namespace.atomics;
        let size = |own: Option<Extent>, all: Option<Extent>, blocks: u32| {
            own.or(all).map_or(blocks, |size| size.unit(lba_bytes))
        };
        let offset = own.boundary_offset.map_or(0, |offset| match offset {
            Extent::Blocks(blocks) => blocks,
            Extent::Bytes(bytes) => {
                u32::try_from(bytes / u64::from(lba_bytes.max(1))).unwrap_or(u32::MAX)
            }
        });
        let unit = |blocks, boundary: Option<Extent>| {
            let boundary = boundary.map_or(0, |boundary| boundary.blocks(lba_bytes));
            Unit {
                // Between boundaries around each block, nothing more is atomic.
                blocks: if boundary == 1 { 1 } else { blocks },
                boundary: if boundary == 1 { 0 } else { boundary },
                offset: if boundary > 1 { offset % boundary } else { 0 },
                multiple: own.multiple && boundary > 1,
            }
        };
        let normal = size(own.normal, config.atomics.normal, all.normal);
        let power_fail = size(own.power_fail, config.atomics.power_fail, all.power_fail);
        let compare_and_write = size(
            own.compare_and_write,
            config
                .atomics
                .compare_and_write
                .or(own.normal)
                .or(config.atomics.normal),
            all.compare_and_write,
        );
        let given = NamespaceAtomics {
            multiple: false,
            ..*own
        };
        Self {
            normal: unit(normal, own.boundary),
            power_fail: unit(power_fail, own.boundary_power_fail),
            compare_and_write,
            // Linux takes what is atomic when the power fails from the namespace alone.
            own: given != NamespaceAtomics::default()
                || power_fail > 1
                || (normal, power_fail, compare_and_write)
                    != (all.normal, all.power_fail, all.compare_and_write),
        }
    }

    /// The unit that holds between commands: with Write Atomicity Normal's DN bit set, only what
    /// also holds when the power fails (Base 5.1.25.1.6).
    pub(crate) const fn between_commands(&self, disable_normal: bool) -> &Unit {
        if disable_normal {
            &self.power_fail
        } else {
            &self.normal
        }
    }
}

impl Unit {
    /// Whether a write of `nlb` blocks from `slba` is atomic.
    pub(crate) fn holds(&self, slba: u64, nlb: u64) -> bool {
        let within = nlb <= u64::from(self.blocks) || self.blocks == MOST_BLOCKS;
        within && (self.boundary == 0 || self.part(slba) == self.part(slba + nlb.max(1) - 1))
    }

    /// Where a write may be torn nearest to `wish`, a block strictly inside it, if anywhere:
    /// blocks from its start.
    pub(crate) fn cut(&self, slba: u64, nlb: u64, wish: u64) -> Option<u64> {
        if self.holds(slba, nlb) {
            return None;
        }
        if !self.multiple {
            return Some(wish);
        }
        // The part between boundaries that the wish lies in, as far as the write has it.
        let boundary = u64::from(self.boundary);
        let part = self.part(slba + wish);
        let start = (part * boundary + u64::from(self.offset)).saturating_sub(boundary);
        let start = start.max(slba) - slba;
        let end = (part * boundary + u64::from(self.offset) - slba).min(nlb);
        if end - start > u64::from(self.blocks) || wish == start {
            return Some(wish);
        }
        [start, end].into_iter().find(|&cut| 0 < cut && cut < nlb)
    }

    /// The number of the part between boundaries that a block lies in; the blocks before the
    /// first boundary are part 0.
    fn part(&self, lba: u64) -> u64 {
        let (boundary, offset) = (u64::from(self.boundary.max(1)), u64::from(self.offset));
        match lba.checked_sub(offset) {
            Some(beyond) => beyond / boundary + 1,
            None => 0,
        }
    }
}

/// A field that counts from 0.
pub(crate) fn field(blocks: u32) -> u16 {
    u16::try_from(blocks.saturating_sub(1)).unwrap_or(u16::MAX)
}

/// Checks the rules between the sizes of a configuration (Base 5.1.13.2.1, NVM 4.1.5.1).
pub(crate) fn validate(config: &ControllerConfig) -> Result<(), ConfigError> {
    let all = ControllerAtomics::new(config);
    // Without sizes of its own, a controller's follow from its namespaces', checked below.
    let given = config.atomics != AtomicUnits::default();
    if given && all.power_fail > all.normal {
        return Err(ConfigError::new(
            "awupf",
            Blocks(all.power_fail),
            "what is atomic when the power fails is atomic between commands: AWUPF is at most AWUN",
            format!(
                "use awun={} or more, or a smaller awupf",
                Blocks(all.power_fail)
            ),
        ));
    }
    for namespace in &config.namespaces {
        for &lba in &namespace.formats {
            validate_sizes(config, namespace, lba)?;
            validate_namespace(config, namespace, lba, all)?;
        }
    }
    Ok(())
}

/// Each size for itself: a whole number of blocks of `lba` bytes, and one that its field can hold.
fn validate_sizes(
    config: &ControllerConfig,
    namespace: &NamespaceConfig,
    lba: u32,
) -> Result<(), ConfigError> {
    let own = &namespace.atomics;
    for (key, size) in [
        ("awun", config.atomics.normal),
        ("awupf", config.atomics.power_fail),
        ("acwu", config.atomics.compare_and_write),
        ("nawun", own.normal),
        ("nawupf", own.power_fail),
        ("nacwu", own.compare_and_write),
        ("nabsn", own.boundary),
        ("nabspf", own.boundary_power_fail),
        ("nabo", own.boundary_offset),
    ] {
        let Some(size) = size else { continue };
        if let Extent::Bytes(bytes) = size
            && bytes > lba.into()
            && !bytes.is_multiple_of(lba.into())
        {
            return Err(ConfigError::new(
                key,
                size,
                "a whole number of logical blocks",
                format!("use a multiple of {lba}"),
            ));
        }
    }
    for (key, size) in [("nabsn", own.boundary), ("nabspf", own.boundary_power_fail)] {
        let Some(size) = size else { continue };
        // Blocks that are as large as that, in a format that the namespace has not at first, leave
        // nothing to be atomic but each of them.
        let least = if lba == namespace.lba_bytes { 2 } else { 1 };
        if !(least..=MOST_BLOCKS).contains(&size.blocks(lba)) {
            return Err(ConfigError::new(
                key,
                size,
                "boundaries lie 2 to 65536 logical blocks apart",
                format!(
                    "use {} to {}",
                    u64::from(least) * u64::from(lba),
                    u64::from(MOST_BLOCKS) * u64::from(lba)
                ),
            ));
        }
    }
    Ok(())
}

/// The rules between the sizes when blocks have `lba` bytes.
fn validate_namespace(
    config: &ControllerConfig,
    namespace: &NamespaceConfig,
    lba: u32,
    all: ControllerAtomics,
) -> Result<(), ConfigError> {
    let promised = Atomics::new(config, namespace, lba);
    let (normal, power_fail) = (promised.normal, promised.power_fail);
    let at_least = |key, value: u32, least: u32, rule| {
        if value >= least {
            return Ok(());
        }
        let hint = format!("use {} or more", Blocks(least));
        Err(ConfigError::new(key, Blocks(value), rule, hint))
    };
    at_least(
        "nawun",
        normal.blocks,
        all.normal,
        "a namespace promises no less than its controller: NAWUN is at least AWUN",
    )?;
    at_least(
        "nawupf",
        power_fail.blocks,
        all.power_fail,
        "a namespace promises no less than its controller: NAWUPF is at least AWUPF",
    )?;
    at_least(
        "nacwu",
        promised.compare_and_write,
        all.compare_and_write,
        "a namespace promises no less than its controller: NACWU is at least ACWU",
    )?;
    if power_fail.blocks > normal.blocks {
        let blocks = Blocks(power_fail.blocks);
        return Err(ConfigError::new(
            "nawupf",
            &blocks,
            "what is atomic when the power fails is atomic between commands: NAWUPF is at most NAWUN",
            format!("use nawun={blocks} or more, or a smaller nawupf"),
        ));
    }
    for (key, unit, rule) in [
        (
            "nabsn",
            normal,
            "a unit fits between two boundaries: NABSN is at least NAWUN",
        ),
        (
            "nabspf",
            power_fail,
            "a unit fits between two boundaries: NABSPF is at least NAWUPF",
        ),
    ] {
        if unit.boundary != 0 {
            at_least(key, unit.boundary, unit.blocks, rule)?;
        }
    }
    let own = &namespace.atomics;
    let boundaries = [own.boundary, own.boundary_power_fail];
    let smallest = boundaries.iter().flatten().map(|b| b.blocks(lba)).min();
    if own.multiple && smallest.is_none() {
        return Err(ConfigError::new(
            "mam",
            "1",
            "Multiple Atomicity Mode is about the parts between boundaries",
            "give nabsn or nabspf, or use mam=0",
        ));
    }
    if let Some(offset) = own.boundary_offset {
        let blocks = match offset {
            Extent::Bytes(bytes) => bytes / u64::from(lba),
            Extent::Blocks(blocks) => blocks.into(),
        };
        let least = smallest.unwrap_or(0);
        if blocks >= u64::from(least).max(1) {
            return Err(ConfigError::new(
                "nabo",
                offset,
                "the first boundary lies before the second: NABO is at most NABSN and NABSPF",
                match least {
                    0 => "give nabsn or nabspf too, or leave nabo out".to_string(),
                    least => format!("use {} or less", Blocks(least - 1)),
                },
            ));
        }
    }
    Ok(())
}

/// What a configuration promises and Linux will not use, for the user to know.
pub(crate) fn notes(config: &ControllerConfig) -> Vec<String> {
    let mut notes = Vec::new();
    for (nsid, namespace) in (1..).zip(&config.namespaces) {
        let promised = Atomics::new(config, namespace, namespace.lba_bytes);
        let boundary = promised.power_fail.boundary;
        if boundary != 0 && !boundary.is_power_of_two() {
            notes.push(format!(
                "namespace {nsid}: nabspf is {boundary} blocks; Linux uses boundaries that are powers of two alone"
            ));
        }
        let unit = namespace.device.write_unit().unwrap_or(0);
        let power_fail = promised
            .power_fail
            .blocks
            .saturating_mul(namespace.lba_bytes);
        if unit > power_fail {
            notes.push(format!(
                "namespace {nsid}: iu is {unit} bytes and nawupf {power_fail}; Linux takes the smaller for its physical block size"
            ));
        }
        if promised.normal.offset.max(promised.power_fail.offset) != 0 {
            notes.push(format!(
                "namespace {nsid}: nabo is not 0; Linux then uses no atomic writes"
            ));
        }
    }
    notes
}

/// A number of blocks, as options write it.
struct Blocks(u32);

impl std::fmt::Display for Blocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}b", self.0)
    }
}

#[cfg(test)]
#[path = "atomicity_tests.rs"]
mod tests;
