//! A namespace: a backend seen as logical blocks.

use std::sync::Arc;

use nvme_spec::{
    Status,
    identify::{
        DLFEAT_READS_ZEROES, DLFEAT_WRITE_ZEROES_DEALLOCATES, IdentifyNamespace, LbaFormat,
        NamespaceFeatures,
    },
};
use storage::BlockDevice;
use zerocopy::FromZeros;

use crate::{
    atomicity::{Atomics, field},
    config::{ControllerConfig, NamespaceConfig},
    granularity::Granularity,
    range_table::RangeTable,
};

/// A namespace of the controller.
pub(crate) struct Namespace {
    pub(crate) nsid: u32,
    pub(crate) device: Arc<dyn BlockDevice>,
    /// Ranges in use; `None` where there is no data.
    pub(crate) ranges: Option<RangeTable>,
    /// log2 of a logical block's bytes.
    lba_shift: u32,
    /// Logical blocks.
    blocks: u64,
    granularity: Granularity,
    /// The atomic units in blocks of the current format.
    pub(crate) atomics: Atomics,
    eui64: [u8; 8],
    nguid: [u8; 16],
}

impl Namespace {
    /// The namespace `nsid` of a valid configuration.
    pub(crate) fn new(nsid: u32, config: &ControllerConfig, namespace: &NamespaceConfig) -> Self {
        let lba_shift = namespace.lba_bytes.trailing_zeros();
        let low = identity(config, nsid);
        let high = identity(config, !nsid);
        let mut nguid = [0; 16];
        let (first, second) = nguid.split_at_mut(8);
        first.copy_from_slice(&high.to_be_bytes());
        second.copy_from_slice(&low.to_be_bytes());
        Self {
            nsid,
            device: namespace.device.clone(),
            ranges: namespace
                .device
                .capabilities()
                .keeps_data
                .then(|| RangeTable::new(config.shards)),
            granularity: Granularity::new(namespace, namespace.lba_bytes),
            atomics: Atomics::new(config, namespace, namespace.lba_bytes),
            lba_shift,
            blocks: namespace.device.geometry().bytes >> lba_shift,
            eui64: low.to_be_bytes(),
            nguid,
        }
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

    /// Identify Namespace, CNS 00h (NVM 4.1.5.1).
    pub(crate) fn identify(&self) -> IdentifyNamespace {
        let mut data = IdentifyNamespace::new_zeroed();
        data.nsze = self.blocks;
        data.ncap = self.blocks;
        data.nuse = self.blocks;
        if self.device.capabilities().discard_zeroes {
            data.dlfeat = DLFEAT_READS_ZEROES | DLFEAT_WRITE_ZEROES_DEALLOCATES;
        }
        self.identify_atomics(&mut data);
        self.granularity.identify(&mut data);
        data.nvmcap = [self.blocks << self.lba_shift, 0];
        data.eui64 = self.eui64;
        data.nguid = self.nguid;
        let lbads = u8::try_from(self.lba_shift).unwrap_or(u8::MAX);
        if let Some(format) = data.lbaf.first_mut() {
            *format = LbaFormat::new().with_lbads(lbads);
        }
        data
    }

    /// The atomic write fields: zero where the controller's own say it all (NVM 4.1.5.1).
    fn identify_atomics(&self, data: &mut IdentifyNamespace) {
        let Atomics {
            normal,
            power_fail,
            compare_and_write,
            own,
        } = self.atomics;
        if !own {
            return;
        }
        let mut features = NamespaceFeatures::NSABP;
        features.set(
            NamespaceFeatures::MAM,
            normal.multiple || power_fail.multiple,
        );
        data.nsfeat |= features.bits();
        data.nawun_z = field(normal.blocks);
        data.nawupf_z = field(power_fail.blocks);
        data.nacwu_z = field(compare_and_write);
        data.nabsn_z = field(normal.boundary);
        data.nabspf_z = field(power_fail.boundary);
        let offset = normal.offset.max(power_fail.offset);
        data.nabo = u16::try_from(offset).unwrap_or(u16::MAX);
    }

    /// log2 of a logical block's bytes.
    pub(crate) const fn lba_shift(&self) -> u32 {
        self.lba_shift
    }

    /// EUI64, big-endian.
    pub(crate) const fn eui64(&self) -> [u8; 8] {
        self.eui64
    }

    /// NGUID, big-endian.
    pub(crate) const fn nguid(&self) -> [u8; 16] {
        self.nguid
    }
}

/// The subsystem's UUID, text, of version 8 (made by its own rule; RFC 9562 5.8).
pub(crate) fn subsystem_uuid(config: &ControllerConfig) -> String {
    const VERSION: u64 = 0x8 << 12;
    const VARIANT: u64 = 0b10 << 62;
    let high = identity(config, 0) & !(0xF << 12) | VERSION;
    let low = identity(config, u32::MAX) & !(0b11 << 62) | VARIANT;
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xFFFF,
        high & 0xFFFF,
        low >> 48,
        low & 0xFFFF_FFFF_FFFF
    )
}

/// An identifier that the same controller and namespace always have: FNV-1a of the serial and
/// model numbers and `salt`, marked as locally administered so that it claims no vendor's range.
fn identity(config: &ControllerConfig, salt: u32) -> u64 {
    const OFFSET_BASIS: u64 = 0xCBF2_9CE4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01B3;
    const LOCALLY_ADMINISTERED: u64 = 0x02 << 56;
    const GROUP: u64 = 0x01 << 56;
    let hash = config
        .serial
        .bytes()
        .chain(config.model.bytes())
        .chain(salt.to_le_bytes())
        .fold(OFFSET_BASIS, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(PRIME)
        });
    (hash | LOCALLY_ADMINISTERED) & !GROUP
}

#[cfg(test)]
mod tests {
    use storage::null::Null;

    use super::*;

    #[test]
    fn the_last_block_is_in_and_what_is_beyond_or_wraps_is_not() {
        let namespace = NamespaceConfig::new(Arc::new(Null::new(8 * 4096)), 4096);
        let namespace = Namespace::new(1, &ControllerConfig::default(), &namespace);
        assert_eq!(namespace.range(7, 1), Ok((7 * 4096, 4096)));
        assert_eq!(namespace.range(0, 8), Ok((0, 8 * 4096)));
        for (slba, nlb) in [(8, 1), (7, 2), (0, 9), (u64::MAX, 1), (u64::MAX, 2)] {
            let got = namespace.range(slba, nlb);
            assert_eq!(got, Err(Status::LBA_OUT_OF_RANGE.dnr()), "{slba} {nlb}");
        }
    }
}
