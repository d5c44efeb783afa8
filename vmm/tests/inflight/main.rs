//! The controller between a host that does what it may and a backend that takes its time.

#![allow(clippy::expect_used, clippy::panic, reason = "tests")]

mod admin;
mod fairness;
mod flush;
mod format;
mod fused;
#[path = "../support/held.rs"]
mod held;
mod interrupts;
mod memory;
mod queues;
mod ranges;
mod reset;
mod shadow;
mod sleep;

use std::sync::Arc;

use ferrite::nvme::inprocess::InProcess;
use held::Held;
use nvme::{ControllerConfig, NamespaceConfig};
use nvme_host::{Config, Driver, Token, Transport, command};
use nvme_spec::registers::Csts;
use pci::header::{self, Command};

pub(crate) const ENTRIES: u32 = 512;

pub(crate) fn machine(device: &Held, shards: u16) -> InProcess {
    let namespace = || NamespaceConfig::new(Arc::new(device.clone()), 512);
    let config = ControllerConfig {
        namespaces: vec![namespace(), namespace()],
        shards,
        ..ControllerConfig::default()
    };
    InProcess::new(config, 11).expect("valid")
}

pub(crate) fn enabled(machine: &mut InProcess) -> Driver<'_, InProcess> {
    let mut driver = Driver::new(machine).expect("a controller");
    driver.enable(&Config::default()).expect("enabled");
    for qid in 1..=2 {
        driver.create_pair(qid, ENTRIES).expect("queues");
    }
    driver
}

pub(crate) fn flushes(driver: &mut Driver<'_, InProcess>, sqid: u16, count: usize) -> Vec<Token> {
    (0..count)
        .map(|_| driver.submit(sqid, command::flush(1)).expect("submitted"))
        .collect()
}

pub(crate) fn step(driver: &mut Driver<'_, InProcess>, times: usize) {
    for _ in 0..times {
        driver.transport().relax();
    }
}

pub(crate) fn csts(driver: &mut Driver<'_, InProcess>) -> Csts {
    driver.csts()
}

pub(crate) fn set_bus_master(driver: &mut Driver<'_, InProcess>, on: bool) {
    let mut command = Command::MEMORY_SPACE;
    command.set(Command::BUS_MASTER, on);
    let bits = command.bits().into();
    driver.transport().config_write32(header::COMMAND, bits);
}
