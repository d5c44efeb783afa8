//! Transfers where there is no memory. Our controller is told by its host's memory in both
//! directions; on a PCI Express link a controller that writes would not be, so that the suite
//! asks it of reads of memory alone.

#![allow(clippy::expect_used, reason = "tests")]

use ferrite::nvme::inprocess::InProcess;
use ferrite::options::NvmeOptions;
use nvme_host::{Config, Driver, command};
use nvme_spec::feature::Select;
use nvme_spec::{Cns, FeatureId, LogId, NSID_BROADCAST, Sqe, Status};

/// A page that no host has.
const NOWHERE: u64 = 1 << 52;

#[test]
fn transfers_in_both_directions_are_errors() {
    let config = NvmeOptions::default().build().expect("valid");
    let mut machine = InProcess::new(config, 1).expect("valid");
    let mut driver = Driver::new(&mut machine).expect("a controller");
    driver.enable(&Config::default()).expect("enabled");
    driver.create_pair(1, 64).expect("queues");
    let nowhere = |sqe: Sqe| Sqe {
        prp1: NOWHERE,
        ..sqe
    };
    for sqe in [command::read(1, 0, 0), command::write(1, 0, 0)] {
        let cqe = driver.exec(1, nowhere(sqe)).expect("a completion");
        assert!(
            cqe.status().same_code(Status::DATA_TRANSFER_ERROR),
            "{sqe:?}: {cqe:?}"
        );
    }
    for sqe in [
        command::identify(Cns::CONTROLLER, 0),
        command::get_log_page(LogId::SMART, NSID_BROADCAST, 512),
        command::get_features(FeatureId::TIMESTAMP, Select::Current),
        command::set_features(FeatureId::TIMESTAMP, 0),
    ] {
        let cqe = driver.admin(nowhere(sqe)).expect("a completion");
        assert!(
            cqe.status().same_code(Status::DATA_TRANSFER_ERROR),
            "{sqe:?}: {cqe:?}"
        );
    }
}
