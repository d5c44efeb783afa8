//! Commands that end while it changes whether the clock is asked.

use std::sync::{Arc, atomic::Ordering};

use ferrite::nvme::inprocess::InProcess;
use nvme::{
    ControllerConfig, NamespaceConfig,
    trace::{End, Watch},
};
use nvme_host::{Config, Driver, Transport, command};
use nvme_spec::NvmOpcode;

use super::{Stepped, Told, config, held::Held, watch};

fn held_machine(device: &Held, watch: Watch) -> InProcess {
    let config = ControllerConfig {
        namespaces: vec![NamespaceConfig::new(Arc::new(device.clone()), 512)],
        ..config(1, watch)
    };
    InProcess::new(config, 3).expect("valid")
}

#[test]
fn a_command_does_not_end_before_its_fetch_when_tracing_is_switched_off_meanwhile() {
    let (device, told) = (Held::new(8), Arc::new(Told::default()));
    let clock = Arc::new(Stepped::default());
    let watch = Watch {
        clock: Some(clock.clone()),
        statistics: false,
        ..watch(&told)
    };
    let mut machine = held_machine(&device, watch);
    let mut driver = Driver::new(&mut machine).expect("a controller");
    driver.enable(&Config::default()).expect("enabled");
    driver.create_pair(1, 64).expect("queues");
    // The clock is ahead of the polls.
    clock.0.store(u64::MAX / 2, Ordering::Relaxed);
    let token = driver.submit(1, command::flush(1)).expect("submitted");
    for _ in 0..4 {
        driver.transport().relax();
    }
    assert!(!driver.transport().controller().set_tracing(false));
    device.release(1);
    driver.wait(token).expect("completed");
    let recorded = driver.transport().controller().recorded();
    let flush = recorded
        .iter()
        .find(|event| event.sqid == 1 && event.sqe.opcode == NvmOpcode::FLUSH.0)
        .expect("recorded");
    assert!(matches!(flush.end, End::Completed { .. }), "{flush:?}");
    assert_eq!(flush.fetched_ns, u64::MAX / 2);
    assert!(flush.ended_ns >= flush.fetched_ns, "{flush:?}");
}
