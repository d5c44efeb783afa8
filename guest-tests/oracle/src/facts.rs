//! What the controller says of itself, on which everything it may be asked depends.

use nvme_spec::identify::{
    DLFEAT_READS_ZEROES, IdentifyController, IdentifyNamespace, NamespaceFeatures,
};
use zerocopy::FromBytes;

/// A namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NamespaceFacts {
    pub(crate) lba_bytes: u64,
    pub(crate) blocks: u64,
    /// Blocks of a write that no other command sees a part of; 1 without promises.
    unit: u64,
    /// Blocks between boundaries that a write loses the promise at, and the first of them.
    boundary: Option<(u64, u64)>,
    /// Deallocated blocks read as zeroes.
    pub(crate) trims_to_zeroes: bool,
}

impl NamespaceFacts {
    /// Whether no command may see a part of a write of these blocks (NVM 2.1.4).
    pub(crate) fn is_atomic(&self, slba: u64, blocks: u64) -> bool {
        let crosses = self.boundary.is_some_and(|(size, first)| {
            let group = |lba: u64| (lba + size - first % size) / size;
            group(slba) != group(slba + blocks - 1)
        });
        blocks <= self.unit && !crosses
    }
}

/// A controller.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) page_bytes: u64,
    /// Bytes of the largest data transfer.
    pub(crate) mdts_bytes: u64,
    pub(crate) oncs: u16,
    pub(crate) fuses: u16,
    pub(crate) sgls: u32,
    /// VWC bits 2:1.
    pub(crate) flush_behavior: u8,
    /// Abort commands that may be outstanding.
    pub(crate) aborts: usize,
    /// Asynchronous Event Requests that may be outstanding.
    pub(crate) event_requests: usize,
    /// Entries that a queue may have.
    pub(crate) queue_entries: u32,
    /// I/O queues of either kind.
    pub(crate) io_queues: u16,
    pub(crate) namespaces: Vec<NamespaceFacts>,
}

impl Facts {
    /// Takes the controller's structure in. `unit` is CAP.MPSMIN in bytes.
    pub(crate) fn read_controller(&mut self, data: &[u8], unit: u64) -> Option<u32> {
        let (id, _) = IdentifyController::read_from_prefix(data).ok()?;
        self.mdts_bytes = match id.mdts {
            0 => u64::MAX,
            log2 => unit.checked_shl(log2.into()).unwrap_or(u64::MAX),
        };
        self.oncs = id.oncs;
        self.fuses = id.fuses;
        self.sgls = id.sgls;
        self.flush_behavior = id.vwc.flush_behavior();
        self.aborts = usize::from(id.acl_z) + 1;
        self.event_requests = usize::from(id.aerl_z) + 1;
        Some(id.nn)
    }

    /// Takes a namespace's structure in; `controller` is the controller's.
    pub(crate) fn read_namespace(&mut self, data: &[u8], controller: &[u8]) -> Option<()> {
        let (id, _) = IdentifyNamespace::read_from_prefix(data).ok()?;
        let (all, _) = IdentifyController::read_from_prefix(controller).ok()?;
        let format = id.lbaf.get(usize::from(id.flbas.index()))?;
        let features = NamespaceFeatures::from_bits_truncate(id.nsfeat);
        let own = features.contains(NamespaceFeatures::NSABP);
        // 0 is the controller's, not one block.
        let unit_z = match id.nawun_z {
            1.. if own => id.nawun_z,
            _ => all.awun_z,
        };
        let boundary = (id.nabsn_z > 0).then(|| (u64::from(id.nabsn_z) + 1, u64::from(id.nabo)));
        self.namespaces.push(NamespaceFacts {
            lba_bytes: 1 << format.lbads(),
            blocks: id.nsze,
            unit: u64::from(unit_z) + 1,
            boundary,
            trims_to_zeroes: id.dlfeat & 0b111 == DLFEAT_READS_ZEROES,
        });
        Some(())
    }

    /// The namespace of an identifier, by index.
    pub(crate) fn namespace(&self, nsid: u32) -> Option<(usize, NamespaceFacts)> {
        let index = usize::try_from(nsid.checked_sub(1)?).ok()?;
        Some((index, *self.namespaces.get(index)?))
    }
}
