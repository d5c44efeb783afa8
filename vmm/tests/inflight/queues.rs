//! Deletion and Abort of what is in flight, and backends that fail.

use nvme_spec::LogId;
use nvme_spec::NSID_BROADCAST;
use nvme_spec::Status;
use nvme_spec::log::ErrorLogEntry;
use storage::IoError;
use zerocopy::FromBytes;

use super::*;

#[test]
fn a_deleted_queue_ends_its_commands_first() {
    for shards in 1..=2 {
        let device = Held::new(64);
        let mut machine = machine(&device, shards);
        let mut driver = enabled(&mut machine);
        let commands = flushes(&mut driver, 2, 3);
        step(&mut driver, 20);
        assert_eq!(device.with(|gate| gate.held), 3);
        let delete = driver.submit(0, command::delete_sq(2)).expect("submitted");
        step(&mut driver, 50);
        assert_eq!(
            driver.try_wait(delete).expect("alive"),
            None,
            "deleted under its commands"
        );
        device.release(3);
        step(&mut driver, 50);
        for token in commands {
            let cqe = driver.try_wait(token).expect("alive").expect("completed");
            assert_eq!(cqe.status(), Status::SUCCESS);
        }
        let cqe = driver.try_wait(delete).expect("alive").expect("completed");
        assert_eq!(cqe.status(), Status::SUCCESS);
        driver
            .admin_ok(command::delete_cq(2))
            .expect("no queue is bound to it");
    }
}

#[test]
fn the_admin_queue_and_other_queues_go_on_while_a_deletion_waits() {
    let device = Held::new(64);
    let mut machine = machine(&device, 1);
    let mut driver = enabled(&mut machine);
    flushes(&mut driver, 2, 1);
    step(&mut driver, 20);
    driver.submit(0, command::delete_sq(2)).expect("submitted");
    driver
        .identify_controller()
        .expect("the admin queue is not blocked");
    let other = flushes(&mut driver, 1, 1);
    device.release(2);
    for token in other {
        assert!(driver.wait(token).expect("completed").status().is_success());
    }
}

#[test]
fn abort_ends_a_command_that_waits_and_not_one_that_a_backend_has() {
    for shards in 1..=2 {
        let device = Held::new(1);
        let mut machine = machine(&device, shards);
        let mut driver = enabled(&mut machine);
        let commands = flushes(&mut driver, 2, 2);
        step(&mut driver, 20);
        let [with_backend, waiting] = commands.try_into().expect("two");
        assert!(
            !driver.abort(with_backend).expect("abort"),
            "aborted what a backend has"
        );
        assert!(driver.abort(waiting).expect("abort"), "not aborted");
        let cqe = driver.try_wait(waiting).expect("alive").expect("completed");
        assert!(
            cqe.status().same_code(Status::ABORT_REQUESTED),
            "{:?}",
            cqe.status()
        );
        device.release(1);
        assert!(
            driver
                .wait(with_backend)
                .expect("completed")
                .status()
                .is_success()
        );
    }
}

#[test]
fn a_failing_backend_is_a_status_a_log_entry_and_a_media_error() {
    let device = Held::new(64);
    let mut machine = machine(&device, 1);
    let mut driver = enabled(&mut machine);
    let data = driver.alloc(512).expect("memory");
    device.with(|gate| {
        gate.fail = Some(IoError::Backend { errno: 5 });
        gate.open = usize::MAX;
    });
    let read = driver
        .exec_data(1, command::read(1, 7, 0), data)
        .expect("completed");
    assert!(
        read.status().same_code(Status::UNRECOVERED_READ_ERROR),
        "{:?}",
        read.status()
    );
    let write = driver
        .exec_data(1, command::write(1, 9, 0), data)
        .expect("completed");
    assert!(
        write.status().same_code(Status::WRITE_FAULT),
        "{:?}",
        write.status()
    );
    assert!(!write.status().is_dnr(), "a host may try again");
    let mut page = [0; 128];
    driver
        .log_page(LogId::ERROR_INFORMATION, NSID_BROADCAST, &mut page)
        .expect("log");
    let newest = ErrorLogEntry::read_from_bytes(&page[..64]).expect("an entry");
    assert_eq!(
        (newest.sqid, newest.cid, newest.lba, newest.nsid),
        (1, write.cid, 9, 1)
    );
    assert_eq!(driver.smart_log().expect("log").media_errors, 2);
}

#[test]
fn a_deleted_queue_aborts_what_no_backend_has_taken() {
    let device = Held::new(1);
    let mut machine = machine(&device, 2);
    let mut driver = enabled(&mut machine);
    let commands = flushes(&mut driver, 2, 3);
    step(&mut driver, 20);
    let delete = driver.submit(0, command::delete_sq(2)).expect("submitted");
    step(&mut driver, 20);
    device.release(10);
    assert!(
        driver
            .wait(delete)
            .expect("completed")
            .status()
            .is_success()
    );
    let statuses: Vec<Status> = commands
        .into_iter()
        .map(|token| {
            driver
                .try_wait(token)
                .expect("alive")
                .expect("completed")
                .status()
        })
        .collect();
    let [first, rest @ ..] = statuses.as_slice() else {
        panic!("three")
    };
    assert!(first.is_success());
    assert!(
        rest.iter()
            .all(|s| s.same_code(Status::ABORTED_SQ_DELETION)),
        "{statuses:?}"
    );
    assert_eq!(device.with(|gate| gate.submitted), 1);
}

#[test]
fn an_aborted_event_request_completes_before_its_abort() {
    let device = Held::new(1);
    let mut machine = machine(&device, 1);
    let mut driver = enabled(&mut machine);
    let request = driver.request_event().expect("submitted");
    step(&mut driver, 5);
    driver
        .submit(0, command::abort(0, request.cid))
        .expect("submitted");
    assert_eq!(driver.wait_any(0).expect("completed").cid, request.cid);
}

/// Invariant 3: what may wait for ever holds no completion slot meanwhile.
#[test]
fn event_requests_leave_the_admin_completion_queue_to_others() {
    let device = Held::new(1);
    let mut machine = machine(&device, 1);
    let mut driver = Driver::new(&mut machine).expect("a controller");
    let small = Config {
        admin_cq_entries: 4,
        ..Config::default()
    };
    driver.enable(&small).expect("enabled");
    for _ in 0..8 {
        driver.request_event().expect("submitted");
        step(&mut driver, 5);
    }
    driver.set_command_timeout(1_000_000);
    driver
        .identify_controller()
        .expect("three slots are enough for one command");
}

/// Invariant 8: memory that the guest gave to a request outlives its unmapping.
#[test]
fn a_pending_request_keeps_its_memory() {
    let device = Held::new(1);
    let mut machine = machine(&device, 1);
    let mut driver = enabled(&mut machine);
    flushes(&mut driver, 1, 1);
    step(&mut driver, 5);
    let handle = driver.transport().memory().clone();
    let whole = vm_memory::GuestAddressSpace::memory(&handle).into_inner();
    let given = Arc::downgrade(&whole);
    handle.lock().expect("no panic").replace((*whole).clone());
    drop(whole);
    step(&mut driver, 5);
    assert!(given.upgrade().is_some(), "unmapped under a request");
    device.release(1);
    step(&mut driver, 5);
    assert!(given.upgrade().is_none(), "kept when nothing uses it");
}
