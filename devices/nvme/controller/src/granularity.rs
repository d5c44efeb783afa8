//! How large writes and deallocations should be: what a namespace recommends (NVM 4.1.5.1, 5.8).

use nvme_spec::identify::{IdentifyNamespace, NamespaceFeatures};

use crate::{
    atomicity::{Extent, field},
    config::{ConfigError, ControllerConfig, NamespaceConfig},
};

/// What a namespace recommends, in blocks of its current format; 0: nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Granularity {
    /// The unit of writes and deallocations, and their alignment (NPWG, NPWA, NPDG, NPDA).
    unit: u32,
    /// The size of writes that perform best (NOWS).
    optimal_write: u32,
    /// Boundaries that reads and writes should not cross (NOIOB).
    optimal_boundary: u32,
}

impl Granularity {
    /// What `namespace` recommends when its blocks have `lba_bytes`.
    pub(crate) fn new(namespace: &NamespaceConfig, lba_bytes: u32) -> Self {
        let unit = namespace.device.write_unit();
        let unit = unit.map(|bytes| Extent::Bytes(bytes.into()).blocks(lba_bytes));
        let blocks = |size: Option<Extent>| size.map(|size| size.blocks(lba_bytes));
        Self {
            unit: unit.unwrap_or(0),
            optimal_write: blocks(namespace.optimal_write).or(unit).unwrap_or(0),
            optimal_boundary: blocks(namespace.optimal_boundary).unwrap_or(0),
        }
    }

    /// The fields of Identify Namespace. OPTPERF has one bit before version 2.1, and the same one
    /// means the same fields from there on.
    pub(crate) fn identify(self, data: &mut IdentifyNamespace) {
        data.noiob = u16::try_from(self.optimal_boundary).unwrap_or(u16::MAX);
        if self.unit == 0 && self.optimal_write == 0 {
            return;
        }
        data.nsfeat |= NamespaceFeatures::OPTPERF.bits();
        let unit = field(self.unit);
        (data.npwg_z, data.npwa_z) = (unit, unit);
        (data.npdg_z, data.npda_z) = (unit, unit);
        data.nows_z = field(self.optimal_write);
    }
}

/// Checks the rules of a configuration's recommendations (NVM 4.1.5.1).
pub(crate) fn validate(config: &ControllerConfig) -> Result<(), ConfigError> {
    for namespace in &config.namespaces {
        for &lba in &namespace.formats {
            validate_format(namespace, lba)?;
        }
    }
    Ok(())
}

/// The rules when blocks have `lba` bytes.
fn validate_format(namespace: &NamespaceConfig, lba: u32) -> Result<(), ConfigError> {
    for (key, size, least, most) in [
        ("nows", namespace.optimal_write, 1, 65_536),
        ("noiob", namespace.optimal_boundary, 1, 65_535),
    ] {
        let Some(size) = size else { continue };
        let whole = match size {
            Extent::Bytes(bytes) => bytes.is_multiple_of(lba.into()),
            Extent::Blocks(_) => true,
        };
        if !whole || !(least..=most).contains(&size.blocks(lba)) {
            return Err(ConfigError::new(
                key,
                size,
                "a whole number of logical blocks that 16 bits can count",
                format!("use a multiple of {lba}, at most {most} blocks"),
            ));
        }
    }
    let granularity = Granularity::new(namespace, lba);
    if !granularity
        .optimal_write
        .is_multiple_of(granularity.unit.max(1))
    {
        return Err(ConfigError::new(
            "nows",
            Extent::Blocks(granularity.optimal_write),
            "the optimal write size is a multiple of the indirection unit (NPWG)",
            format!("use a multiple of {} blocks", granularity.unit),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use storage::{BlockDevice, media::Media, null::Null};
    use zerocopy::FromZeros;

    use super::*;

    fn namespace(lba_bytes: u32, unit: Option<u32>) -> NamespaceConfig {
        let null = Arc::new(Null::new(64 << 20));
        let device: Arc<dyn BlockDevice> = match unit {
            Some(unit) => Arc::new(Media::new(null, unit).expect("a unit")),
            None => null,
        };
        NamespaceConfig::new(device, lba_bytes)
    }

    fn identified(namespace: &NamespaceConfig, lba_bytes: u32) -> IdentifyNamespace {
        let mut data = IdentifyNamespace::new_zeroed();
        Granularity::new(namespace, lba_bytes).identify(&mut data);
        data
    }

    #[test]
    fn a_unit_is_reported_in_blocks_of_the_format() {
        let namespace = namespace(512, Some(16384));
        for (lba, blocks) in [(512, 32), (4096, 4), (16384, 1), (65536, 1)] {
            let data = identified(&namespace, lba);
            assert_eq!(data.nsfeat, NamespaceFeatures::OPTPERF.bits());
            let fields = [
                data.npwg_z,
                data.npwa_z,
                data.npdg_z,
                data.npda_z,
                data.nows_z,
            ];
            assert_eq!(fields, [blocks - 1; 5], "{lba}");
        }
    }

    #[test]
    fn without_a_unit_nothing_is_recommended() {
        let data = identified(&namespace(512, None), 512);
        assert_eq!(
            (data.nsfeat, data.npwg_z, data.nows_z, data.noiob),
            (0, 0, 0, 0)
        );
    }

    #[test]
    fn sizes_that_cannot_be_are_refused_by_key() {
        let refused = |change: fn(&mut NamespaceConfig)| {
            let mut namespace = namespace(4096, Some(16384));
            change(&mut namespace);
            let config = ControllerConfig {
                namespaces: vec![namespace],
                ..ControllerConfig::default()
            };
            config.validate().expect_err("refused").key
        };
        assert_eq!(
            refused(|n| n.optimal_write = Some(Extent::Bytes(6144))),
            "nows"
        );
        assert_eq!(
            refused(|n| n.optimal_write = Some(Extent::Blocks(6))),
            "nows"
        );
        assert_eq!(
            refused(|n| n.optimal_boundary = Some(Extent::Blocks(65_536))),
            "noiob"
        );
        assert_eq!(
            refused(|n| n.optimal_boundary = Some(Extent::Bytes(512))),
            "noiob"
        );
    }
}
