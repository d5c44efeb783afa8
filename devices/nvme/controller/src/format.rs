//! An LBA format of a namespace: what follows from the size of its blocks (NVM 4.1.5.1).

use nvme_spec::{
    Status,
    identify::{LbaFormat, RP_BEST, RP_DEGRADED},
};

use crate::{
    atomicity::Atomics,
    config::{ControllerConfig, NamespaceConfig},
    granularity::Granularity,
};

/// An LBA format, with all that a namespace is while it has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Format {
    /// Which of the namespace's formats it is.
    pub(crate) index: u8,
    /// log2 of a logical block's bytes.
    pub(crate) lba_shift: u32,
    /// Logical blocks.
    pub(crate) blocks: u64,
    pub(crate) granularity: Granularity,
    /// The atomic units in blocks of this format.
    pub(crate) atomics: Atomics,
    /// Blocks are smaller than what the device writes at once.
    degraded: bool,
}

impl Format {
    /// Each format of a namespace of a valid configuration, LBAF 0 first.
    pub(crate) fn all(config: &ControllerConfig, namespace: &NamespaceConfig) -> Box<[Self]> {
        let formats = (0..).zip(&namespace.formats);
        formats
            .map(|(index, &lba_bytes)| {
                let lba_shift = lba_bytes.trailing_zeros();
                let unit = namespace.device.write_unit();
                Self {
                    index,
                    lba_shift,
                    blocks: namespace.device.geometry().bytes >> lba_shift,
                    granularity: Granularity::new(namespace, lba_bytes),
                    atomics: Atomics::new(config, namespace, lba_bytes),
                    degraded: unit.is_some_and(|unit| unit > lba_bytes),
                }
            })
            .collect()
    }

    /// The byte range of `nlb` blocks from `slba`: offset and length.
    ///
    /// # Errors
    /// `LBA_OUT_OF_RANGE` when a block is beyond the namespace, or the sum wraps.
    pub(crate) fn range(&self, slba: u64, nlb: u64) -> Result<(u64, u64), Status> {
        match slba.checked_add(nlb) {
            Some(end) if end <= self.blocks => Ok((slba << self.lba_shift, self.bytes(nlb))),
            _ => Err(Status::LBA_OUT_OF_RANGE.dnr()),
        }
    }

    /// Bytes of `nlb` blocks; `nlb` is at most 32 bits.
    pub(crate) const fn bytes(&self, nlb: u64) -> u64 {
        nlb << self.lba_shift
    }

    /// As Identify Namespace lists it.
    pub(crate) fn lbaf(&self) -> LbaFormat {
        let lbads = u8::try_from(self.lba_shift).unwrap_or(u8::MAX);
        let rp = if self.degraded { RP_DEGRADED } else { RP_BEST };
        LbaFormat::new().with_lbads(lbads).with_rp(rp)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use storage::{media::Media, null::Null};

    use super::*;

    #[test]
    fn the_last_block_is_in_and_what_is_beyond_or_wraps_is_not() {
        let namespace = NamespaceConfig::new(Arc::new(Null::new(8 * 4096)), 4096);
        let formats = Format::all(&ControllerConfig::default(), &namespace);
        let [format] = &*formats else {
            panic!("{formats:?}")
        };
        assert_eq!(format.range(7, 1), Ok((7 * 4096, 4096)));
        assert_eq!(format.range(0, 8), Ok((0, 8 * 4096)));
        for (slba, nlb) in [(8, 1), (7, 2), (0, 9), (u64::MAX, 1), (u64::MAX, 2)] {
            let got = format.range(slba, nlb);
            assert_eq!(got, Err(Status::LBA_OUT_OF_RANGE.dnr()), "{slba} {nlb}");
        }
    }

    #[test]
    fn a_block_below_the_indirection_unit_is_listed_as_slow() {
        let device = Media::new(Arc::new(Null::new(1 << 20)), 16384).expect("a unit");
        let namespace = NamespaceConfig {
            formats: vec![512, 4096, 16384, 65536],
            ..NamespaceConfig::new(Arc::new(device), 4096)
        };
        let listed = Format::all(&ControllerConfig::default(), &namespace);
        let listed: Vec<_> = listed
            .iter()
            .map(|f| (f.lbaf().lbads(), f.lbaf().rp()))
            .collect();
        let expected = [(9, 3), (12, 3), (14, 0), (16, 0)];
        assert_eq!(listed, expected);
    }
}
