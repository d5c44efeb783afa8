//! Events and interrupts that a stepped clock decides.

use nvme_spec::FeatureId;
use nvme_spec::feature::InterruptCoalescing;
use storage::null::Null;

use super::*;

/// Counts the interrupts of vector 1 for 8 completions, one each 10 microseconds.
fn interrupts_for_eight(coalescing: InterruptCoalescing, disabled: bool) -> u64 {
    let device = Arc::new(Null::new(1 << 20));
    let config = ControllerConfig {
        namespaces: vec![NamespaceConfig::new(device, 512)],
        ..ControllerConfig::default()
    };
    let mut machine = InProcess::new(config, 5).expect("valid");
    let mut driver = Driver::new(&mut machine).expect("a controller");
    driver.enable(&Config::default()).expect("enabled");
    driver
        .set_feature(FeatureId::INTERRUPT_COALESCING, coalescing.into())
        .expect("set");
    let vector = 1 | u32::from(disabled) << 16;
    driver
        .set_feature(FeatureId::INTERRUPT_VECTOR_CONFIG, vector)
        .expect("set");
    driver
        .create_cq(&nvme_host::CqConfig {
            vector: Some(1),
            ..nvme_host::CqConfig::new(1, 32)
        })
        .expect("queue");
    driver
        .create_sq(&nvme_host::SqConfig::new(1, 1, 32))
        .expect("queue");
    let before = driver.transport().interrupts(1);
    for _ in 0..8 {
        driver.submit(1, command::flush(1)).expect("submitted");
        step(&mut driver, 10);
    }
    // Longer than the aggregation time.
    step(&mut driver, 300);
    driver.transport().interrupts(1) - before
}

/// Interrupt Coalescing (PCIe 3.3) with a stepped clock.
#[test]
fn interrupts_are_coalesced_by_count_and_by_time() {
    let set = |thr_z, time| InterruptCoalescing::new().with_thr_z(thr_z).with_time(time);
    assert_eq!(interrupts_for_eight(set(0, 0), false), 8, "off");
    assert_eq!(interrupts_for_eight(set(3, 10), false), 2, "four at a time");
    assert_eq!(
        interrupts_for_eight(set(255, 2), false),
        1,
        "after 200 microseconds"
    );
    assert_eq!(
        interrupts_for_eight(set(255, 0), false),
        8,
        "no delay is allowed"
    );
    assert_eq!(
        interrupts_for_eight(set(3, 10), true),
        8,
        "disabled for the vector"
    );
}

#[test]
fn an_event_that_is_over_or_switched_off_is_not_reported() {
    let device = Held::new(1);
    let mut machine = machine(&device, 1);
    let mut driver = enabled(&mut machine);
    driver
        .set_feature(FeatureId::ASYNC_EVENT_CONFIG, 0xFF)
        .expect("set");
    driver
        .set_feature(FeatureId::TEMPERATURE_THRESHOLD, 300)
        .expect("set");
    driver
        .set_feature(FeatureId::TEMPERATURE_THRESHOLD, 343)
        .expect("set");
    driver
        .set_feature(FeatureId::ASYNC_EVENT_CONFIG, 0)
        .expect("set");
    let request = driver.request_event().expect("submitted");
    step(&mut driver, 20);
    assert_eq!(driver.try_wait(request).expect("alive"), None);
}

#[test]
fn no_interrupt_comes_of_a_queue_that_is_gone() {
    let device = Held::new(8);
    device.release(8);
    let mut machine = machine(&device, 1);
    let mut driver = Driver::new(&mut machine).expect("a controller");
    driver.enable(&Config::default()).expect("enabled");
    let slow = InterruptCoalescing::new().with_thr_z(255).with_time(255);
    driver
        .set_feature(FeatureId::INTERRUPT_COALESCING, slow.into())
        .expect("set");
    driver
        .create_cq(&nvme_host::CqConfig {
            vector: Some(1),
            ..nvme_host::CqConfig::new(1, 32)
        })
        .expect("queue");
    driver
        .create_sq(&nvme_host::SqConfig::new(1, 1, 32))
        .expect("queue");
    driver.exec(1, command::flush(1)).expect("completed");
    driver.delete_sq(1).expect("deleted");
    driver.delete_cq(1).expect("deleted");
    let before = driver.transport().interrupts(1);
    driver.transport().advance(1_000_000_000);
    step(&mut driver, 10);
    assert_eq!(driver.transport().interrupts(1), before);
}

#[test]
fn the_same_bad_doorbell_value_is_an_event_each_time_it_is_written() {
    let device = Held::new(512);
    let mut machine = machine(&device, 1);
    let mut driver = enabled(&mut machine);
    // More than a shard can have, so that the queue's tail is looked at in every poll.
    flushes(&mut driver, 1, 300);
    step(&mut driver, 20);
    for round in 0..3 {
        let request = driver.request_event().expect("submitted");
        step(&mut driver, 20);
        let early = driver.try_wait(request).expect("alive");
        assert_eq!(early, None, "round {round}: nothing was written");
        driver.write_sq_doorbell(1, ENTRIES);
        let cqe = driver.wait(request).expect("completed");
        assert!(cqe.status().is_success(), "round {round}");
        let mut page = [0; 64];
        let lid = nvme_spec::LogId::ERROR_INFORMATION;
        driver
            .log_page(lid, nvme_spec::NSID_BROADCAST, &mut page)
            .expect("log");
    }
}
