//! Atomic writes between commands: what is promised holds, and what is not is really torn.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod matrix;
mod order;
mod overlap;

use std::sync::Arc;

use ferrite::nvme::{WaitPolicy, inprocess::InProcess};
use nvme::{AtomicUnits, ControllerConfig, Extent, NamespaceAtomics, NamespaceConfig, Tear};
use nvme_host::{Config, Driver};
use storage::ram::Ram;

/// A namespace in blocks of `lba_bytes` with units and boundaries as told.
pub(crate) fn config(lba_bytes: u32, shards: u16, atomics: NamespaceAtomics) -> ControllerConfig {
    let device = Arc::new(Ram::new(64 << 20).expect("memory"));
    ControllerConfig {
        namespaces: vec![NamespaceConfig {
            atomics,
            ..NamespaceConfig::new(device, lba_bytes)
        }],
        shards,
        mdts_bytes: 8 << 20,
        ..ControllerConfig::default()
    }
}

/// A unit of `blocks`, without boundaries.
pub(crate) fn unit(blocks: u32) -> NamespaceAtomics {
    NamespaceAtomics {
        normal: Some(Extent::Blocks(blocks)),
        ..NamespaceAtomics::default()
    }
}

pub(crate) fn enabled(machine: &mut InProcess) -> Driver<'_, InProcess> {
    let mut driver = Driver::new(machine).expect("a controller");
    driver.enable(&Config::default()).expect("enabled");
    driver
}

#[test]
fn what_is_configured_is_reported() {
    let own = NamespaceAtomics {
        normal: Some(Extent::Bytes(16 << 10)),
        power_fail: Some(Extent::Bytes(8 << 10)),
        compare_and_write: Some(Extent::Bytes(32 << 10)),
        boundary: Some(Extent::Bytes(64 << 10)),
        boundary_power_fail: Some(Extent::Bytes(32 << 10)),
        boundary_offset: Some(Extent::Blocks(3)),
        multiple: true,
    };
    let plain = NamespaceConfig::new(Arc::new(Ram::new(1 << 20).expect("memory")), 512);
    let mut config = config(4096, 1, own);
    config.namespaces.push(plain);
    config.atomics = AtomicUnits {
        normal: Some(Extent::Blocks(2)),
        power_fail: None,
        compare_and_write: None,
    };
    let mut machine = InProcess::new(config, 1).expect("valid");
    let mut driver = enabled(&mut machine);
    let controller = driver.identify_controller().expect("identified");
    assert_eq!((controller.awun_z, controller.awupf_z), (1, 0));
    let first = driver.identify_namespace(1).expect("identified");
    assert_eq!(first.nsfeat & 0b100_0010, 0b100_0010, "NSABP and MAM");
    assert_eq!((first.nawun_z, first.nawupf_z), (3, 1));
    assert_eq!(
        (controller.fuses, controller.acwu_z, first.nacwu_z),
        (1, 1, 7)
    );
    assert_eq!((first.nabsn_z, first.nabspf_z, first.nabo), (15, 7, 3));
    let second = driver.identify_namespace(2).expect("identified");
    assert_eq!(second.nsfeat & 0b100_0010, 0);
    let fields = [second.nawun_z, second.nawupf_z, second.nabsn_z, second.nabo];
    assert_eq!(fields, [0; 4], "the controller's units hold");
}

/// A schedule that a seed decides, or threads.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Run {
    Seed(u64),
    Threads,
}

pub(crate) fn machine(mut config: ControllerConfig, tear: Tear, run: Run) -> InProcess {
    config.tear = tear;
    match run {
        Run::Seed(seed) => {
            config.seed = seed;
            InProcess::new(config, seed)
        }
        Run::Threads => InProcess::with_threads(config, WaitPolicy::default()),
    }
    .expect("valid")
}
