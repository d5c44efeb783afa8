//! Commands that end while something else changes: their namespace's format, or whether the clock
//! is asked.

use std::sync::{Arc, atomic::Ordering};

use ferrite::nvme::inprocess::InProcess;
use nvme::{
    ControllerConfig, NamespaceConfig,
    trace::{End, Watch},
};
use nvme_host::{Config, Driver, Transport, command};
use nvme_spec::{NvmOpcode, queue::FormatCdw10};

use super::{Stepped, Told, config, held::Held, watch};

fn held_machine(device: &Held, watch: Watch) -> InProcess {
    let config = ControllerConfig {
        namespaces: vec![NamespaceConfig::new(Arc::new(device.clone()), 512)],
        ..config(1, watch)
    };
    InProcess::new(config, 3).expect("valid")
}

#[test]
fn a_write_that_ends_while_a_format_waits_for_it_is_counted_with_its_bytes() {
    let (device, told) = (Held::new(8), Arc::new(Told::default()));
    let mut machine = held_machine(&device, watch(&told));
    let mut driver = Driver::new(&mut machine).expect("a controller");
    driver.enable(&Config::default()).expect("enabled");
    driver.create_pair(1, 64).expect("queues");
    let data = driver.alloc(4096).expect("memory");
    // One block: more are written piece by piece, and each piece is held.
    let write = driver.enqueue_data(1, command::write(1, 0, 0), data);
    let write = write.expect("room");
    driver.ring(1).expect("rung");
    for _ in 0..8 {
        driver.transport().relax();
    }
    let format = driver.submit(0, command::format_nvm(1, FormatCdw10::new()));
    let format = format.expect("submitted");
    for _ in 0..8 {
        driver.transport().relax();
    }
    // The mark is there: what comes now is refused.
    let refused = driver.exec_data(1, command::read(1, 0, 7), data);
    assert!(!refused.expect("completed").status().is_success());
    device.release(1);
    let written = driver.wait(write).expect("completed");
    assert!(written.status().is_success());
    assert_eq!(driver.try_wait(format).expect("alive"), None);
    let statistics = driver.transport().controller().statistics();
    let statistics = statistics.expect("counted");
    let queue = statistics.queues.iter().find(|queue| queue.sqid == 1);
    let tally = queue.expect("commands").tally;
    assert_eq!((tally.bytes_written, tally.bytes_read), (512, 0));
    assert_eq!(statistics.namespaces[0].bytes_written, 512);
    device.release(10_000);
    driver.wait(format).expect("completed");
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
