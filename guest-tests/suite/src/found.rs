//! What the suite found out about the controller before the tests.

use alloc::string::String;
use alloc::vec::Vec;

use nvme_host::{Config, Driver, Error, Transport};
use nvme_spec::identify::{
    FUSES_COMPARE_AND_WRITE, IdentifyController, IdentifyNamespace, NamespaceFeatures,
};
use nvme_spec::registers::{Cap, Vs};

use crate::Doorbells;
use crate::data::text;

/// The most pairs of I/O queues the suite asks for.
const QUEUES_ASKED: u16 = 1024;

/// What is reported about the controller.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Found {
    /// Model Number.
    pub model: String,
    /// Serial Number.
    pub serial: String,
    /// Firmware Revision.
    pub firmware: String,
    /// VS: major, minor, tertiary.
    pub version: (u16, u8, u8),
    /// I/O submission queues granted.
    pub submission_queues: u32,
    /// I/O completion queues granted.
    pub completion_queues: u32,
    /// The most entries of a queue.
    pub queue_entries: u32,
    /// Usable MSI-X vectors.
    pub vectors: u16,
    /// The most data of one command in bytes; 0 for no limit.
    pub max_transfer_bytes: u64,
    /// The smallest memory page in bytes.
    pub min_page_bytes: u64,
    /// The largest memory page in bytes.
    pub max_page_bytes: u64,
    /// Active namespaces.
    pub namespaces: Vec<Namespace>,
}

/// A namespace, as far as a summary needs it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Namespace {
    /// Its identifier.
    pub nsid: u32,
    /// Its size in logical blocks.
    pub blocks: u64,
    /// Bytes of a logical block.
    pub block_bytes: u64,
    /// Bytes of metadata of a logical block.
    pub metadata_bytes: u16,
    /// What it says of writes.
    pub writes: Writes,
}

/// What a namespace recommends and promises of writes, in logical blocks of its current format
/// (NVM 2.1.4, 5.8.2). Where it says nothing of its own, its controller's units are its.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Writes {
    /// NPWG: the granularity that performs best, that of the media's indirection unit; 0 if it
    /// is not told.
    pub granularity: u32,
    /// NAWUN or AWUN: what is atomic between commands, 1 to 65,536; the latter is any command.
    pub unit: u32,
    /// NAWUPF or AWUPF: what is atomic when the power fails, counted likewise.
    pub unit_power_fail: u32,
    /// NACWU or ACWU: the most that a fused Compare and Write may have, counted likewise; 0 where
    /// FUSES does not offer it.
    pub compare_and_write: u32,
    /// NABSN: blocks between boundaries that no atomic write crosses; 0 for none.
    pub boundary: u32,
    /// NABSPF: the same for when the power fails.
    pub boundary_power_fail: u32,
    /// NABO: the block of the first boundary.
    pub boundary_offset: u32,
    /// MAM: each part of a write between two boundaries is atomic by itself.
    pub multiple: bool,
}

impl Writes {
    /// What the two structures say.
    #[must_use]
    pub fn new(controller: &IdentifyController, ns: &IdentifyNamespace) -> Self {
        /// OPTPERF: bit 4 before version 2.1, bits 5:4 since; NPWG is defined unless it is 0.
        const OPTPERF: u8 = 0b11 << 4;
        let features = NamespaceFeatures::from_bits_retain(ns.nsfeat);
        let own = features.contains(NamespaceFeatures::NSABP);
        // Of a namespace's own, 0 is not one block: it has the controller's.
        let unit = |namespace_z: u16, controller_z: u16| {
            u32::from(match namespace_z {
                1.. if own => namespace_z,
                _ => controller_z,
            }) + 1
        };
        // A boundary field of 0 is none, not one block; NSABP is not about boundaries.
        let boundary = |z: u16| match z {
            0 => 0,
            _ => u32::from(z) + 1,
        };
        Self {
            granularity: match ns.nsfeat & OPTPERF {
                0 => 0,
                _ => u32::from(ns.npwg_z) + 1,
            },
            unit: unit(ns.nawun_z, controller.awun_z),
            unit_power_fail: unit(ns.nawupf_z, controller.awupf_z),
            compare_and_write: match controller.fuses & FUSES_COMPARE_AND_WRITE {
                0 => 0,
                _ => unit(ns.nacwu_z, controller.acwu_z),
            },
            boundary: boundary(ns.nabsn_z),
            boundary_power_fail: boundary(ns.nabspf_z),
            boundary_offset: ns.nabo.into(),
            multiple: features.contains(NamespaceFeatures::MAM),
        }
    }
}

impl Namespace {
    /// Its size in bytes.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.blocks.saturating_mul(self.block_bytes)
    }
}

/// All that tests are given about the controller.
#[derive(Clone, Debug)]
pub struct Context {
    /// What is reported.
    pub found: Found,
    /// Controller Capabilities.
    pub cap: Cap,
    /// Version.
    pub vs: Vs,
    /// Identify Controller.
    pub controller: IdentifyController,
    /// What doorbells the tests use.
    pub doorbells: Doorbells,
}

impl Context {
    /// Resets and enables the controller and asks it about itself.
    ///
    /// # Errors
    /// What stands in the way: [`Error`].
    pub fn discover(transport: &mut dyn Transport) -> Result<Self, Error> {
        let vectors = transport.vectors();
        let mut nvme = Driver::new(transport)?;
        nvme.reset()?;
        nvme.enable(&Config::default())?;
        let cap = nvme.cap();
        let vs = nvme.version();
        let controller = nvme.identify_controller()?;
        let (submission_queues, completion_queues) = nvme.request_queues(QUEUES_ASKED)?;
        let min_page_bytes = 4096 << cap.mpsmin();
        let mut namespaces = Vec::new();
        let mut after = 0;
        loop {
            let ids = nvme.active_namespaces(after)?;
            let Some(last) = ids.last().copied() else {
                break;
            };
            for nsid in ids {
                namespaces.push(describe(nsid, &controller, &nvme.identify_namespace(nsid)?));
            }
            if last <= after {
                break;
            }
            after = last;
        }
        nvme.reset()?;
        Ok(Self {
            found: Found {
                model: text(&controller.mn),
                serial: text(&controller.sn),
                firmware: text(&controller.fr),
                version: (vs.mjr(), vs.mnr(), vs.ter()),
                submission_queues,
                completion_queues,
                queue_entries: u32::from(cap.mqes_z()) + 1,
                vectors,
                max_transfer_bytes: max_transfer(controller.mdts, min_page_bytes),
                min_page_bytes,
                max_page_bytes: 4096 << cap.mpsmax(),
                namespaces,
            },
            cap,
            vs,
            controller,
            doorbells: Doorbells::default(),
        })
    }
}

/// MDTS in bytes; 0 for no limit (Base 5.1.13.2.1).
fn max_transfer(mdts: u8, min_page_bytes: u64) -> u64 {
    if mdts == 0 {
        return 0;
    }
    min_page_bytes.checked_shl(mdts.into()).unwrap_or(0)
}

/// The current format of a namespace (NVM 4.1.5.1).
pub(crate) fn describe(
    nsid: u32,
    controller: &IdentifyController,
    ns: &IdentifyNamespace,
) -> Namespace {
    let format = ns.lbaf.get(usize::from(ns.flbas.index()));
    let format = format.copied().unwrap_or_default();
    Namespace {
        nsid,
        blocks: ns.nsze,
        block_bytes: 1_u64.checked_shl(format.lbads().into()).unwrap_or(0),
        metadata_bytes: format.ms(),
        writes: Writes::new(controller, ns),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    #[test]
    fn a_namespace_without_fields_of_its_own_has_its_controllers() {
        let mut controller = IdentifyController::new_zeroed();
        (controller.awun_z, controller.awupf_z) = (7, 3);
        let mut ns = IdentifyNamespace::new_zeroed();
        (ns.nawun_z, ns.nawupf_z, ns.nabsn_z, ns.nabo) = (31, 15, 63, 2);
        let writes = Writes {
            unit: 8,
            unit_power_fail: 4,
            // NSABP is not about them.
            boundary: 64,
            boundary_offset: 2,
            ..Writes::default()
        };
        assert_eq!(Writes::new(&controller, &ns), writes);
        ns.nsfeat = (NamespaceFeatures::NSABP | NamespaceFeatures::MAM).bits();
        let writes = Writes {
            unit: 32,
            unit_power_fail: 16,
            boundary: 64,
            boundary_offset: 2,
            multiple: true,
            ..Writes::default()
        };
        assert_eq!(Writes::new(&controller, &ns), writes);
        // Of its own, 0 is the controller's.
        (ns.nawun_z, ns.nawupf_z) = (0, 0);
        let writes = Writes::new(&controller, &ns);
        assert_eq!((writes.unit, writes.unit_power_fail), (8, 4));
    }

    #[test]
    fn the_preferred_granularity_is_told_by_either_bit() {
        let controller = IdentifyController::new_zeroed();
        let mut ns = IdentifyNamespace::new_zeroed();
        ns.npwg_z = 31;
        for (nsfeat, granularity) in [(0, 0), (0x10, 32), (0x20, 32), (0x30, 32)] {
            ns.nsfeat = nsfeat;
            assert_eq!(Writes::new(&controller, &ns).granularity, granularity);
        }
    }
}
