//! What the suite found out about the controller before the tests.

use alloc::string::String;
use alloc::vec::Vec;

use nvme_host::{Config, Driver, Error, Transport};
use nvme_spec::identify::{IdentifyController, IdentifyNamespace};
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
                namespaces.push(describe(nsid, &nvme.identify_namespace(nsid)?));
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
fn describe(nsid: u32, ns: &IdentifyNamespace) -> Namespace {
    let format = ns.lbaf.get(usize::from(ns.flbas.index()));
    let format = format.copied().unwrap_or_default();
    Namespace {
        nsid,
        blocks: ns.nsze,
        block_bytes: 1_u64.checked_shl(format.lbads().into()).unwrap_or(0),
        metadata_bytes: format.ms(),
    }
}
