//! A namespace: a backend seen as logical blocks.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use nvme_spec::{
    Status,
    identify::{
        DLFEAT_READS_ZEROES, DLFEAT_WRITE_ZEROES_DEALLOCATES, Flbas, IdentifyNamespace,
        NamespaceFeatures,
    },
};
use storage::{BlockDevice, Op};
use zerocopy::FromZeros;

use crate::{
    atomicity::{Atomics, field},
    config::{ControllerConfig, NamespaceConfig},
    format::Format,
    range_table::RangeTable,
};

/// In [`Namespace::state`]: the namespace is being formatted.
const FORMATTING: u8 = 1 << 7;

/// A namespace of the controller.
pub(crate) struct Namespace {
    pub(crate) nsid: u32,
    pub(crate) device: Arc<dyn BlockDevice>,
    /// Ranges in use; `None` where there is no data.
    pub(crate) ranges: Option<RangeTable>,
    /// Each LBA format that it can have.
    formats: Box<[Format]>,
    /// The index of the current one, and [`FORMATTING`]: together, so that a command learns both
    /// from one load. Written by shard 0 alone.
    state: AtomicU8,
    /// Write Zeroes can deallocate: the same for all namespaces (NVM 4.1.5.1, DLFEAT).
    pub(crate) zeroes_deallocate: bool,
    eui64: [u8; 8],
    nguid: [u8; 16],
}

impl Namespace {
    /// The namespace `nsid` of a valid configuration.
    pub(crate) fn new(nsid: u32, config: &ControllerConfig, namespace: &NamespaceConfig) -> Self {
        let low = identity(config, nsid);
        let high = identity(config, !nsid);
        let mut nguid = [0; 16];
        let (first, second) = nguid.split_at_mut(8);
        first.copy_from_slice(&high.to_be_bytes());
        second.copy_from_slice(&low.to_be_bytes());
        let formats = Format::all(config, namespace);
        let shift = namespace.lba_bytes.trailing_zeros();
        let current = formats.iter().find(|format| format.lba_shift == shift);
        Self {
            nsid,
            device: namespace.device.clone(),
            ranges: namespace
                .device
                .capabilities()
                .keeps_data
                .then(|| RangeTable::new(config.shards)),
            state: AtomicU8::new(current.map_or(0, |format| format.index)),
            formats,
            zeroes_deallocate: config
                .namespaces
                .iter()
                .all(|namespace| namespace.device.capabilities().discard_zeroes),
            eui64: low.to_be_bytes(),
            nguid,
        }
    }

    /// The format that a command finds: the one it uses to its end, which Format NVM waits for.
    ///
    /// # Errors
    /// `FORMAT_IN_PROGRESS` while the namespace is being formatted.
    pub(crate) fn current(&self) -> Result<&Format, Status> {
        let state = self.state.load(Ordering::Acquire);
        if state & FORMATTING != 0 {
            return Err(Status::FORMAT_IN_PROGRESS);
        }
        self.format(state).ok_or(Status::INTERNAL_ERROR)
    }

    /// A format by its index.
    pub(crate) fn format(&self, index: u8) -> Option<&Format> {
        self.formats.get(usize::from(index))
    }

    /// The index of the current format, or of the one before the Format NVM that is under way.
    pub(crate) fn index(&self) -> u8 {
        self.state.load(Ordering::Acquire) & !FORMATTING
    }

    /// Whether the namespace is being formatted.
    pub(crate) fn is_formatting(&self) -> bool {
        self.state.load(Ordering::Acquire) & FORMATTING != 0
    }

    /// From now on commands are refused. Shard 0 alone does this and the next two.
    pub(crate) fn begin_format(&self) {
        self.state.fetch_or(FORMATTING, Ordering::AcqRel);
    }

    /// The namespace has a format, the one that it had or another; whether it is another.
    pub(crate) fn end_format(&self, index: u8) -> bool {
        self.state.swap(index, Ordering::AcqRel) & !FORMATTING != index
    }

    /// Formatting is given up: the format stays.
    pub(crate) fn give_up_format(&self) {
        self.state.fetch_and(!FORMATTING, Ordering::AcqRel);
    }

    /// What erases the device, and its bytes: deallocated, all reads as zeroes afterwards where
    /// DLFEAT says so; else it is zeroed.
    pub(crate) fn erasure(&self) -> (Op, u64) {
        let op = match self.device.capabilities().discard_zeroes {
            true => Op::Discard,
            false => Op::WriteZeroes,
        };
        (op, self.device.geometry().bytes)
    }

    /// Identify Namespace, CNS 00h (NVM 4.1.5.1).
    pub(crate) fn identify(&self) -> IdentifyNamespace {
        let mut data = IdentifyNamespace::new_zeroed();
        let index = self.index();
        data.nlbaf_z = u8::try_from(self.formats.len().saturating_sub(1)).unwrap_or(u8::MAX);
        data.flbas = Flbas::new().with_index(index);
        for (place, format) in data.lbaf.iter_mut().zip(&self.formats) {
            *place = format.lbaf();
        }
        if let Some(format) = self.format(index) {
            data.nsze = format.blocks;
            data.ncap = format.blocks;
            data.nuse = format.blocks;
            identify_atomics(&format.atomics, &mut data);
            format.granularity.identify(&mut data);
            data.nvmcap = [format.bytes(format.blocks), 0];
        }
        if self.device.capabilities().discard_zeroes {
            data.dlfeat = DLFEAT_READS_ZEROES;
        }
        if self.zeroes_deallocate {
            data.dlfeat |= DLFEAT_WRITE_ZEROES_DEALLOCATES;
        }
        data.eui64 = self.eui64;
        data.nguid = self.nguid;
        data
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

/// The atomic write fields: zero where the controller's own say it all (NVM 4.1.5.1).
fn identify_atomics(atomics: &Atomics, data: &mut IdentifyNamespace) {
    let Atomics {
        normal,
        power_fail,
        compare_and_write,
        own,
    } = atomics;
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
    data.nacwu_z = field(*compare_and_write);
    data.nabsn_z = field(normal.boundary);
    data.nabspf_z = field(power_fail.boundary);
    let offset = normal.offset.max(power_fail.offset);
    data.nabo = u16::try_from(offset).unwrap_or(u16::MAX);
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

    fn namespace() -> Namespace {
        let namespace = NamespaceConfig {
            formats: vec![512, 65536, 4096],
            ..NamespaceConfig::new(Arc::new(Null::new(1 << 20)), 4096)
        };
        Namespace::new(1, &ControllerConfig::default(), &namespace)
    }

    #[test]
    fn the_format_it_begins_with_is_the_one_of_its_block_size() {
        let data = namespace().identify();
        assert_eq!((data.flbas.index(), data.nlbaf_z, data.nsze), (2, 2, 256));
        let sizes = data.lbaf.map(|format| format.lbads());
        assert_eq!(sizes[..4], [9, 16, 12, 0]);
    }

    #[test]
    fn write_zeroes_deallocates_in_all_namespaces_or_in_none() {
        let null = NamespaceConfig::new(Arc::new(Null::new(1 << 20)), 4096);
        let ram = storage::ram::Ram::new(1 << 20).expect("little");
        let ram = NamespaceConfig::new(Arc::new(ram), 4096);
        let dlfeat = |namespaces: Vec<NamespaceConfig>| {
            let config = ControllerConfig {
                namespaces,
                ..ControllerConfig::default()
            };
            let each = (1..).zip(&config.namespaces);
            let each = each.map(|(nsid, own)| Namespace::new(nsid, &config, own).identify().dlfeat);
            each.collect::<Vec<_>>()
        };
        let both = DLFEAT_READS_ZEROES | DLFEAT_WRITE_ZEROES_DEALLOCATES;
        assert_eq!(dlfeat(vec![ram.clone(), ram.clone()]), [both; 2]);
        assert_eq!(dlfeat(vec![null, ram]), [0, DLFEAT_READS_ZEROES]);
    }

    #[test]
    fn while_it_is_formatted_commands_are_refused_and_identify_goes_on() {
        let namespace = namespace();
        namespace.begin_format();
        let refused = namespace.current().map(|format| format.index);
        assert_eq!(refused, Err(Status::FORMAT_IN_PROGRESS));
        assert_eq!(namespace.identify().nsze, 256);
        namespace.give_up_format();
        assert_eq!(namespace.current().map(|format| format.index), Ok(2));
        namespace.begin_format();
        assert!(namespace.end_format(0));
        assert_eq!(namespace.current().map(|format| format.blocks), Ok(2048));
        namespace.begin_format();
        assert!(!namespace.end_format(0), "the same again");
        assert_eq!(namespace.identify().nsze, 2048);
    }
}
