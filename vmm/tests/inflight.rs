//! Reset, shutdown, deletion and Abort while a backend has commands; backends that fail.

#![allow(clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/held.rs"]
mod held;

use std::sync::Arc;

use ferrite::nvme::inprocess::InProcess;
use held::Held;
use nvme::{ControllerConfig, NamespaceConfig, lifecycle::Lifecycle};
use nvme_host::{Config, Driver, Token, Transport, command};
use nvme_spec::{
    FeatureId, LogId, NSID_BROADCAST, Status,
    feature::InterruptCoalescing,
    log::ErrorLogEntry,
    registers::{Cc, Csts, Register, Shn, Shst},
};
use pci::PciFunction;
use storage::{GuestRam, IoError, null::Null, ram::Ram};
use vm_memory::GuestAddress;
use zerocopy::FromBytes;

const ENTRIES: u32 = 512;

fn machine(device: &Held, shards: u16) -> InProcess {
    let namespace = || NamespaceConfig {
        device: Arc::new(device.clone()),
        lba_bytes: 512,
    };
    let config = ControllerConfig {
        namespaces: vec![namespace(), namespace()],
        shards,
        ..ControllerConfig::default()
    };
    InProcess::new(config, 11).expect("valid")
}

fn enabled(machine: &mut InProcess) -> Driver<'_, InProcess> {
    let mut driver = Driver::new(machine).expect("a controller");
    driver.enable(&Config::default()).expect("enabled");
    for qid in 1..=2 {
        driver.create_pair(qid, ENTRIES).expect("queues");
    }
    driver
}

fn flushes(driver: &mut Driver<'_, InProcess>, sqid: u16, count: usize) -> Vec<Token> {
    (0..count)
        .map(|_| driver.submit(sqid, command::flush(1)).expect("submitted"))
        .collect()
}

fn step(driver: &mut Driver<'_, InProcess>, times: usize) {
    for _ in 0..times {
        driver.transport().relax();
    }
}

fn csts(driver: &mut Driver<'_, InProcess>) -> Csts {
    driver.csts()
}

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
fn a_reset_waits_for_the_backend_and_posts_nothing_after_it() {
    for shards in 1..=3 {
        let device = Held::new(64);
        let mut machine = machine(&device, shards);
        let mut driver = enabled(&mut machine);
        flushes(&mut driver, 1, 4);
        flushes(&mut driver, 2, 4);
        step(&mut driver, 20);
        assert_eq!(device.with(|gate| gate.held), 8);
        let queues: Vec<u64> = (1..=2)
            .map(|qid| driver.cq_memory(qid).expect("queue").address)
            .collect();
        let cc = driver.cc();
        driver.set_cc(cc.with_en(false));
        step(&mut driver, 100);
        assert!(
            csts(&mut driver).rdy(),
            "RDY went to 0 with commands in flight"
        );
        device.release(8);
        step(&mut driver, 20);
        assert!(!csts(&mut driver).rdy());
        for address in queues {
            let mut entries = [0; 64];
            driver.transport().mem_read(address, &mut entries);
            assert_eq!(entries, [0; 64], "a completion after the reset");
        }
        driver.reset().expect("reset");
        driver.enable(&Config::default()).expect("enabled again");
        driver.create_pair(1, 16).expect("queues");
        device.release(1);
        assert!(
            driver
                .exec(1, command::flush(1))
                .expect("completed")
                .status()
                .is_success()
        );
    }
}

/// The host sees no RDY of before once it has set CC.EN again.
#[test]
fn enabling_again_before_the_reset_is_done_enables_after_it() {
    let device = Held::new(64);
    let mut machine = machine(&device, 2);
    let mut driver = enabled(&mut machine);
    flushes(&mut driver, 2, 1);
    step(&mut driver, 20);
    let cc = driver.cc();
    driver.set_cc(cc.with_en(false));
    assert!(csts(&mut driver).rdy());
    driver.set_cc(cc);
    assert!(
        !csts(&mut driver).rdy(),
        "RDY of before answers the new CC.EN"
    );
    step(&mut driver, 20);
    let state = driver.transport().controller().lifecycle();
    assert!(matches!(state, Lifecycle::Resetting { .. }), "{state:?}");
    device.release(1);
    step(&mut driver, 20);
    assert_eq!(
        driver.transport().controller().lifecycle(),
        Lifecycle::Ready
    );
}

#[test]
fn a_shutdown_ends_what_is_in_flight_and_then_says_so() {
    for shn in [Shn::Normal, Shn::Abrupt] {
        let device = Held::new(64);
        let mut machine = machine(&device, 2);
        let mut driver = enabled(&mut machine);
        let commands = flushes(&mut driver, 1, 2);
        step(&mut driver, 20);
        let cc = driver.cc();
        driver.set_cc(cc.with_shn(shn));
        step(&mut driver, 20);
        assert_eq!(csts(&mut driver).shst(), Shst::Occurring);
        let late = flushes(&mut driver, 1, 1);
        device.release(3);
        step(&mut driver, 20);
        assert_eq!(csts(&mut driver).shst(), Shst::Complete);
        assert!(csts(&mut driver).rdy());
        for token in commands {
            assert!(
                driver.try_wait(token).expect("alive").is_some(),
                "not completed"
            );
        }
        for token in late {
            assert_eq!(
                driver.try_wait(token).expect("alive"),
                None,
                "fetched after shutdown"
            );
        }
        driver.reset().expect("reset");
        assert_eq!(u32::from(csts(&mut driver)), 0);
        driver.enable(&Config::default()).expect("enabled again");
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
fn more_commands_than_fit_all_complete() {
    let device = Held::new(100);
    let mut machine = machine(&device, 1);
    let mut driver = enabled(&mut machine);
    let mut commands = flushes(&mut driver, 1, 400);
    commands.extend(flushes(&mut driver, 2, 400));
    step(&mut driver, 100);
    device.release(800);
    for token in commands {
        assert!(driver.wait(token).expect("completed").status().is_success());
    }
    assert_eq!(device.with(|gate| gate.submitted), 800);
    step(&mut driver, 4);
    assert!(
        driver.transport().all_idle(),
        "a shard has work after all is done"
    );
}

#[test]
fn a_flush_of_all_namespaces_reaches_each_once() {
    let device = Held::new(64);
    let mut machine = machine(&device, 1);
    let mut driver = enabled(&mut machine);
    let token = driver
        .submit(1, command::flush(NSID_BROADCAST))
        .expect("submitted");
    step(&mut driver, 20);
    assert_eq!(device.with(|gate| gate.submitted), 1);
    device.release(1);
    step(&mut driver, 20);
    assert_eq!(device.with(|gate| gate.submitted), 2);
    assert_eq!(driver.try_wait(token).expect("alive"), None);
    device.release(1);
    assert!(driver.wait(token).expect("completed").status().is_success());
    assert_eq!(device.with(|gate| gate.submitted), 2);
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
fn without_bus_master_nothing_is_fetched_until_it_is_back() {
    let device = Held::new(64);
    device.release(100);
    let mut machine = machine(&device, 2);
    let mut driver = enabled(&mut machine);
    let command_register = driver.transport().config_read32(4) & 0xFFFF;
    driver.transport().config_write32(4, command_register & !4);
    let commands = flushes(&mut driver, 2, 1);
    step(&mut driver, 50);
    assert_eq!(device.with(|gate| gate.submitted), 0);
    assert!(
        driver.transport().all_idle(),
        "a shard spins without bus master"
    );
    driver.transport().config_write32(4, command_register);
    for token in commands {
        assert!(driver.wait(token).expect("completed").status().is_success());
    }
}

#[test]
fn a_function_level_reset_returns_every_register_to_its_first_value() {
    let device = Held::new(64);
    let mut machine = machine(&device, 2);
    let mut driver = enabled(&mut machine);
    flushes(&mut driver, 1, 1);
    step(&mut driver, 20);
    // Device Control of the PCI Express capability, bit 15 (PCIe 7.5.3.4).
    let function = driver.transport().function();
    let mut at = [0];
    function.config_read(0x34, &mut at);
    let mut entry = [0; 2];
    function.config_read(at[0].into(), &mut entry);
    while entry[0] != pci::capability::ID_EXPRESS {
        function.config_read(entry[1].into(), &mut { at });
        at[0] = entry[1];
        function.config_read(at[0].into(), &mut entry);
    }
    let control = u16::from(at[0]) + pci::capability::express::DEVICE_CONTROL;
    let _ = function.config_write(control, &0x8000u16.to_le_bytes());
    device.release(1);
    step(&mut driver, 20);
    assert_eq!(
        driver.transport().controller().lifecycle(),
        Lifecycle::Disabled
    );
    for register in [Register::Cc, Register::Csts, Register::Aqa] {
        assert_eq!(
            driver.transport().read32(register.offset()),
            0,
            "{register:?}"
        );
    }
    for register in [Register::Asq, Register::Acq] {
        assert_eq!(
            driver.transport().read64(register.offset()),
            0,
            "{register:?}"
        );
    }
}

#[test]
fn queue_memory_that_goes_away_is_fatal_and_a_reset_mends_it() {
    let device = Held::new(64);
    let mut machine = machine(&device, 2);
    let mut driver = enabled(&mut machine);
    let handle = driver.transport().memory().clone();
    let whole = vm_memory::GuestAddressSpace::memory(&handle).into_inner();
    let small = GuestRam::from_ranges(&[(GuestAddress(0), 4096)]).expect("memory");
    handle.lock().expect("no panic").replace(small);
    driver.write_sq_doorbell(2, 1);
    step(&mut driver, 20);
    let status = csts(&mut driver);
    assert!(status.cfs(), "{status:?}");
    handle.lock().expect("no panic").replace((*whole).clone());
    driver.reset().expect("reset");
    assert!(!csts(&mut driver).cfs());
    driver.enable(&Config::default()).expect("enabled again");
    driver.identify_controller().expect("alive");
}

#[test]
fn registers_that_describe_no_admin_queue_are_fatal() {
    for (aqa, asq, mps) in [
        (0x001F_0000, 1 << 20, 0),
        (0x001F_001F, 1 << 40, 0),
        (0x001F_001F, 1 << 20, 9),
    ] {
        let device = Held::new(1);
        let mut machine = machine(&device, 1);
        machine.write32(Register::Aqa.offset(), aqa);
        machine.write64(Register::Asq.offset(), asq);
        machine.write64(Register::Acq.offset(), 2 << 20);
        machine.write32(
            Register::Cc.offset(),
            Cc::new().with_en(true).with_mps(mps).into(),
        );
        for _ in 0..20 {
            machine.relax();
        }
        let status = Csts::from(machine.read32(Register::Csts.offset()));
        assert!(
            status.cfs() && !status.rdy(),
            "{aqa:#x} {asq:#x} {mps}: {status:?}"
        );
    }
}

/// Counts the interrupts of vector 1 for 8 completions, one each 10 microseconds.
fn interrupts_for_eight(coalescing: InterruptCoalescing, disabled: bool) -> u64 {
    let device = Arc::new(Null::new(1 << 20));
    let config = ControllerConfig {
        namespaces: vec![NamespaceConfig {
            device,
            lba_bytes: 512,
        }],
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
fn admin_commands_are_executed_while_a_backend_has_all_it_may_have() {
    let device = Held::new(1000);
    let mut machine = machine(&device, 1);
    let mut driver = enabled(&mut machine);
    flushes(&mut driver, 1, 300);
    step(&mut driver, 50);
    assert!(
        device.with(|gate| gate.held) < 300,
        "nothing limits the commands in flight"
    );
    driver.set_command_timeout(1_000_000);
    driver
        .identify_controller()
        .expect("an admin command needs no place for I/O");
}

#[test]
fn a_command_that_found_no_room_goes_before_later_ones() {
    let device = Held::new(1);
    let mut machine = machine(&device, 1);
    let mut driver = enabled(&mut machine);
    device.release(usize::MAX / 2);
    let first = flushes(&mut driver, 1, 2);
    for _ in 0..100 {
        if driver.sq_room(2).expect("queue") > 0 {
            flushes(&mut driver, 2, 1);
        }
        step(&mut driver, 1);
        driver.process(2).expect("alive");
        driver.process(1).expect("alive");
    }
    for token in first {
        assert!(
            driver.try_wait(token).expect("alive").is_some(),
            "starved by later commands"
        );
    }
}

/// NVM 2.1.4 and the range table: reads that keep coming do not keep a write out.
#[test]
fn a_write_is_not_kept_out_by_reads_that_keep_coming() {
    for reader in [1, 2] {
        let device = Arc::new(Ram::new(64 << 20).expect("memory"));
        let namespaces = vec![NamespaceConfig {
            device,
            lba_bytes: 512,
        }];
        let config = ControllerConfig {
            namespaces,
            shards: 2,
            ..ControllerConfig::default()
        };
        let mut machine = InProcess::new(config, 3).expect("valid");
        let mut driver = enabled(&mut machine);
        // Queues 1 and 3 are on one shard, queue 2 on the other.
        driver.create_pair(3, 64).expect("queues");
        let (big, small) = (driver.alloc(512 * 1024), driver.alloc(512));
        let (big, small) = (big.expect("memory"), small.expect("memory"));
        let mut reads: Vec<Token> = Vec::new();
        let mut write = None;
        for round in 0..2000 {
            while reads.len() < 4 {
                let read = command::read(1, 0, 1023);
                reads.push(driver.submit_data(reader, read, big).expect("submitted"));
            }
            step(&mut driver, 1);
            if round == 4 {
                let sqe = command::write(1, 0, 0);
                write = Some(driver.submit_data(3, sqe, small).expect("submitted"));
            }
            reads.retain(|token| driver.try_wait(*token).expect("alive").is_none());
        }
        let write = driver.try_wait(write.expect("submitted")).expect("alive");
        assert!(
            write.is_some(),
            "a write waits for ever behind reads on queue {reader}"
        );
    }
}

/// Linux rings the completion queues' doorbells once more after it has disabled the controller.
#[test]
fn a_doorbell_while_disabled_is_not_reported_in_the_next_life() {
    let device = Held::new(1);
    let mut machine = machine(&device, 1);
    let mut driver = enabled(&mut machine);
    driver.disable().expect("disabled");
    driver.write_cq_doorbell(1, 1);
    driver.enable(&Config::default()).expect("enabled");
    let request = driver.request_event().expect("submitted");
    step(&mut driver, 20);
    assert_eq!(driver.try_wait(request).expect("alive"), None);
}

#[test]
fn a_reset_drops_what_no_backend_has_taken() {
    let device = Held::new(1);
    let mut machine = machine(&device, 1);
    let mut driver = enabled(&mut machine);
    flushes(&mut driver, 1, 3);
    step(&mut driver, 20);
    let cc = driver.cc();
    driver.set_cc(cc.with_en(false));
    step(&mut driver, 5);
    device.release(10);
    step(&mut driver, 20);
    assert!(!csts(&mut driver).rdy());
    assert_eq!(
        device.with(|gate| gate.submitted),
        1,
        "executed after CC.EN went to 0"
    );
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
fn nothing_is_posted_without_bus_master_and_nothing_is_lost() {
    let device = Held::new(8);
    let mut machine = machine(&device, 1);
    let mut driver = enabled(&mut machine);
    let commands = flushes(&mut driver, 1, 2);
    step(&mut driver, 5);
    let command_register = driver.transport().config_read32(4) & 0xFFFF;
    driver.transport().config_write32(4, command_register & !4);
    device.release(2);
    step(&mut driver, 50);
    for token in &commands {
        assert_eq!(
            driver.try_wait(*token).expect("alive"),
            None,
            "posted without bus master"
        );
    }
    driver.transport().config_write32(4, command_register);
    for token in commands {
        assert!(driver.wait(token).expect("completed").status().is_success());
    }
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
fn what_is_asked_during_a_shutdown_or_reset_follows_it() {
    let device = Held::new(1);
    let mut machine = machine(&device, 2);
    let mut driver = enabled(&mut machine);
    let cc = driver.cc();
    driver.set_cc(cc.with_en(false));
    driver.set_cc(cc.with_en(false).with_shn(Shn::Normal));
    step(&mut driver, 20);
    assert_eq!(
        csts(&mut driver).shst(),
        Shst::Complete,
        "SHN during a reset"
    );
    driver.reset().expect("reset");
    driver.prepare(&Config::default()).expect("prepared");
    driver.set_cc(cc.with_en(false).with_shn(Shn::Normal));
    driver.set_cc(cc.with_shn(Shn::None));
    step(&mut driver, 20);
    let state = driver.transport().controller().lifecycle();
    assert_eq!(
        state,
        Lifecycle::Ready,
        "CC.EN during the shutdown of a disabled controller"
    );
}

#[test]
fn a_shutdown_completes_the_deletion_it_came_upon() {
    for shards in 1..=2 {
        for seed in 0..20 {
            let device = Held::new(8);
            let namespace = NamespaceConfig {
                device: Arc::new(device.clone()),
                lba_bytes: 512,
            };
            let namespaces = vec![namespace];
            let config = ControllerConfig {
                namespaces,
                shards,
                ..ControllerConfig::default()
            };
            let mut machine = InProcess::new(config, seed * 77 + 1).expect("valid");
            let mut driver = enabled(&mut machine);
            flushes(&mut driver, 2, 1);
            step(&mut driver, 5);
            let delete = driver.submit(0, command::delete_sq(2)).expect("submitted");
            step(&mut driver, 1);
            let cc = driver.cc();
            driver.set_cc(cc.with_shn(Shn::Normal));
            device.release(1);
            step(&mut driver, 20);
            assert_eq!(csts(&mut driver).shst(), Shst::Complete);
            let cqe = driver.try_wait(delete).expect("alive");
            assert!(
                cqe.is_some(),
                "{shards} shards, seed {seed}: fetched, never completed"
            );
        }
    }
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

/// Long transfers are charged: a poll of a budget of 16 takes few of them.
#[test]
fn a_poll_takes_no_more_commands_than_its_budget_pays_for() {
    let device = Arc::new(Null::new(1 << 40));
    let config = ControllerConfig {
        namespaces: vec![NamespaceConfig {
            device,
            lba_bytes: 4096,
        }],
        mdts_bytes: 64 << 20,
        ..ControllerConfig::default()
    };
    let mut machine = InProcess::new(config, 1).expect("valid");
    let mut driver = Driver::new(&mut machine).expect("a controller");
    driver.enable(&Config::default()).expect("enabled");
    driver.create_pair(1, 64).expect("queues");
    let data = driver.alloc(1 << 20).expect("memory");
    for blocks in [256, 1] {
        let before = driver.transport().controller().stats().io_commands;
        let tokens: Vec<Token> = (0..32)
            .map(|_| {
                let part = nvme_host::Buffer {
                    bytes: u64::from(blocks) * 4096,
                    ..data
                };
                let read = command::read(1, 0, blocks - 1);
                driver.enqueue_data(1, read, part).expect("queued")
            })
            .collect();
        driver.ring(1).expect("rung");
        driver.transport().step();
        let taken = driver.transport().controller().stats().io_commands - before;
        let expected = if blocks == 1 { 16 } else { 2 };
        assert_eq!(taken, expected, "{blocks} blocks");
        for token in tokens {
            assert!(driver.wait(token).expect("completed").status().is_success());
        }
    }
}
