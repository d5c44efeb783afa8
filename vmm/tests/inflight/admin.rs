//! What admin commands leave behind: events, timers and clocks.

use nvme_spec::command_set::{NVM_COMMAND_SET_1_1, NvmController};
use nvme_spec::event::{EventResult, EventType, NOTICE_NAMESPACE_ATTRIBUTE};
use nvme_spec::feature::{AsyncEventConfig, Select, Timestamp};
use nvme_spec::log::{ChangedNamespaces, ERROR_LOG_VERSION, ErrorLogEntry};
use nvme_spec::registers::Vs;
use nvme_spec::{Cns, FeatureId, LogId, NSID_BROADCAST};
use zerocopy::{FromZeros, IntoBytes};

use super::*;

fn enable_notices(driver: &mut Driver<'_, InProcess>, enabled: bool) {
    let value = AsyncEventConfig::new().with_namespace_attribute(enabled);
    driver
        .set_feature(FeatureId::ASYNC_EVENT_CONFIG, value.into())
        .expect("set");
}

/// Reads the Changed Attached Namespace list: its first three entries.
fn changed(driver: &mut Driver<'_, InProcess>, retain: bool) -> [u32; 3] {
    let mut log = ChangedNamespaces::new_zeroed();
    let sqe = command::get_log_page(LogId::CHANGED_NAMESPACES, NSID_BROADCAST, 1024);
    let sqe = if retain {
        command::with_retain(sqe)
    } else {
        sqe
    };
    driver
        .admin_data_ok(sqe, log.as_mut_bytes())
        .expect("the log");
    log.nsids[..3].try_into().expect("three")
}

/// Base 5.1.2.1, 5.1.12.1.5.
#[test]
fn a_changed_namespace_is_an_event_and_stays_listed_until_it_is_read() {
    let device = Held::new(1);
    let mut machine = machine(&device, 1);
    let mut driver = enabled(&mut machine);
    enable_notices(&mut driver, true);
    let request = driver.request_event().expect("submitted");
    step(&mut driver, 10);
    driver.transport().controller().namespace_changed(3);
    step(&mut driver, 10);
    assert_eq!(
        driver.try_wait(request).expect("alive"),
        None,
        "NSID 3 is no namespace"
    );
    driver.transport().controller().namespace_changed(2);
    driver.transport().controller().namespace_changed(1);
    let event = EventResult::from(driver.wait(request).expect("completed").dw0);
    assert_eq!(event.event_type(), EventType::Notice);
    assert_eq!(event.info(), NOTICE_NAMESPACE_ATTRIBUTE);
    assert_eq!(event.log_page(), LogId::CHANGED_NAMESPACES);
    // The type is masked until the log is read without RAE.
    let request = driver.request_event().expect("submitted");
    driver.transport().controller().namespace_changed(2);
    assert_eq!(changed(&mut driver, true), [1, 2, 0]);
    step(&mut driver, 10);
    assert_eq!(driver.try_wait(request).expect("alive"), None);
    assert_eq!(changed(&mut driver, false), [1, 2, 0]);
    assert_eq!(changed(&mut driver, false), [0; 3]);
    assert_eq!(driver.try_wait(request).expect("alive"), None);
    driver.transport().controller().namespace_changed(2);
    driver.wait(request).expect("a new event");
}

#[test]
fn a_changed_namespace_is_listed_without_notices_and_forgotten_by_a_reset() {
    let device = Held::new(1);
    let mut machine = machine(&device, 2);
    let mut driver = enabled(&mut machine);
    let request = driver.request_event().expect("submitted");
    driver.transport().controller().namespace_changed(1);
    step(&mut driver, 20);
    assert_eq!(driver.try_wait(request).expect("alive"), None);
    assert_eq!(changed(&mut driver, true), [1, 0, 0]);
    driver.reset().expect("reset");
    let mut driver = enabled(&mut machine);
    assert_eq!(changed(&mut driver, true), [0; 3]);
    enable_notices(&mut driver, true);
    driver.transport().controller().namespace_changed(1);
    step(&mut driver, 20);
    enable_notices(&mut driver, false);
    let request = driver.request_event().expect("submitted");
    step(&mut driver, 20);
    assert_eq!(
        driver.try_wait(request).expect("alive"),
        None,
        "switched off since"
    );
}

/// Base 3.9: to the nanosecond, with nothing but the poll's deadline to wake the shard.
#[test]
fn the_keep_alive_timer_expires_at_the_deadline_that_polls_tell() {
    let device = Held::new(1);
    let mut machine = machine(&device, 2);
    let mut driver = enabled(&mut machine);
    driver
        .set_feature(FeatureId::KEEP_ALIVE_TIMER, 250)
        .expect("set");
    let begin = driver.transport().now_ns();
    driver.transport().pause(200_000_000);
    driver.admin_ok(command::keep_alive()).expect("completed");
    let left = begin + 499_000_000 - driver.transport().now_ns();
    driver.transport().pause(left);
    assert!(!csts(&mut driver).cfs(), "KATO is rounded up to 300 ms");
    driver.transport().pause(2_000_000);
    assert!(csts(&mut driver).cfs());
    assert!(csts(&mut driver).rdy());
    assert!(driver.transport().now_ns() - begin < 502_000_000);
    assert!(
        driver.transport().all_idle(),
        "a controller that has failed sleeps"
    );
}

/// A Keep Alive that stands in the queue when the timer ends counts, and without bus master none
/// is seen.
#[test]
fn a_keep_alive_that_waits_at_the_deadline_counts() {
    for bus_master in [true, false] {
        let device = Held::new(1);
        let mut machine = machine(&device, 1);
        let mut driver = enabled(&mut machine);
        driver
            .set_feature(FeatureId::KEEP_ALIVE_TIMER, 100)
            .expect("set");
        if !bus_master {
            let command_register = driver.transport().config_read32(4) & 0xFFFF;
            driver.transport().config_write32(4, command_register & !4);
        }
        driver.submit(0, command::keep_alive()).expect("submitted");
        driver.transport().advance(1_000_000_000);
        step(&mut driver, 4);
        assert_eq!(csts(&mut driver).cfs(), !bus_master);
    }
}

#[test]
fn a_timestamp_counts_from_the_reset_and_not_from_the_enabling() {
    let device = Held::new(1);
    let mut machine = machine(&device, 1);
    let mut driver = enabled(&mut machine);
    driver.reset().expect("reset");
    driver.transport().advance(50_000_000);
    let mut driver = enabled(&mut machine);
    let mut found = Timestamp::new();
    driver
        .get_feature_data(FeatureId::TIMESTAMP, Select::Current, found.as_mut_bytes())
        .expect("read");
    assert!(
        (50..60).contains(&found.milliseconds()),
        "{} ms",
        found.milliseconds()
    );
}

/// What a host can tell a controller of version 2.1 by, beside VS and CAP.CRMS.
#[test]
fn a_version_says_which_fields_are_there() {
    for (version, log_version, command_set) in [
        (Vs::V1_4, 0, 0),
        (Vs::V2_1, ERROR_LOG_VERSION, NVM_COMMAND_SET_1_1),
    ] {
        let config = ControllerConfig {
            namespaces: vec![NamespaceConfig::new(Arc::new(Held::new(1)), 512)],
            version,
            ..ControllerConfig::default()
        };
        let mut machine = InProcess::new(config, 11).expect("valid");
        let mut driver = enabled(&mut machine);
        let refused = driver.admin(command::identify(Cns(0xFF), 0));
        assert!(!refused.expect("completed").status().is_success());
        let mut entry = ErrorLogEntry::default();
        driver
            .log_page(
                LogId::ERROR_INFORMATION,
                NSID_BROADCAST,
                entry.as_mut_bytes(),
            )
            .expect("the log");
        assert_eq!(entry.log_page_version, log_version, "{version:?}");
        let mut limits = NvmController::new_zeroed();
        driver
            .admin_data_ok(
                command::identify(Cns::CSI_CONTROLLER, 0),
                limits.as_mut_bytes(),
            )
            .expect("the structure");
        assert_eq!(limits.ver, command_set, "{version:?}");
    }
}
