//! The LBA formats of a namespace: those that are asked for, or those that fit.

use nvme::{ControllerConfig, Extent, NamespaceConfig};

use super::{
    super::{Size, parse_size},
    NamespaceOptions,
};

/// Block sizes that drives offer, in bytes.
const USUAL: [u32; 4] = [512, 4 << 10, 16 << 10, 64 << 10];

/// Reads block sizes with colons between them, LBAF 0 first.
pub(super) fn parse(text: &str) -> Result<Vec<u64>, String> {
    text.split(':').map(parse_size).collect()
}

/// The same as it is written.
pub(super) fn text(formats: &[u64]) -> String {
    let formats = formats.iter().map(|&bytes| Size(bytes).to_string());
    formats.collect::<Vec<_>>().join(":")
}

impl NamespaceOptions {
    /// Bytes of a logical block at first: `lba`, or else the first of `formats`, or else 512.
    #[must_use]
    pub fn block_bytes(&self) -> u64 {
        let first = self.formats.as_ref().and_then(|formats| formats.first());
        self.lba.or(first.copied()).unwrap_or(512)
    }

    /// Bytes of a block in each format that is asked for; without that, the one that it has at first.
    pub(super) fn format_bytes(&self) -> Vec<u64> {
        let asked = self.formats.clone();
        asked.unwrap_or_else(|| vec![self.block_bytes()])
    }
}

/// The formats of a namespace of which none are asked for: its own and the usual ones that obey the
/// rules, in order. Sizes that are given in bytes are promised in every format, and the controller's
/// fields, in blocks, say the least of all: larger blocks than the namespace begins with would have
/// them say less than was asked for, so there are none then.
///
/// `controller` has no namespaces; `namespace` has its one format.
pub(super) fn usual(controller: &ControllerConfig, namespace: &NamespaceConfig) -> Vec<u64> {
    let first = namespace.lba_bytes;
    let own = &namespace.atomics;
    let in_bytes = [
        controller.atomics.normal,
        controller.atomics.power_fail,
        own.normal,
        own.power_fail,
        own.boundary,
        own.boundary_power_fail,
        own.boundary_offset,
        namespace.optimal_write,
        namespace.optimal_boundary,
    ]
    .into_iter()
    .flatten()
    .any(|size| matches!(size, Extent::Bytes(_)));
    let fits = |lba: u32| {
        let namespace = NamespaceConfig {
            formats: vec![first, lba],
            ..namespace.clone()
        };
        let config = ControllerConfig {
            namespaces: vec![namespace],
            ..controller.clone()
        };
        !(in_bytes && lba > first) && config.validate().is_ok()
    };
    let mut formats = vec![first];
    let others = USUAL.into_iter().filter(|&lba| lba != first);
    formats.extend(others.filter(|&lba| fits(lba)));
    formats.sort_unstable();
    formats.into_iter().map(u64::from).collect()
}
