//! Format NVM between commands in flight, other shards, resets, and a backend that takes its time.

use nvme_spec::event::{EventResult, EventType};
use nvme_spec::feature::AsyncEventConfig;
use nvme_spec::log::ChangedNamespaces;
use nvme_spec::queue::{DsmCdw11, DsmRange, FormatCdw10};
use nvme_spec::registers::{Shn, Shst};
use nvme_spec::{FeatureId, LogId, NSID_BROADCAST, Sqe, Status};
use storage::{IoError, ram::Ram};
use zerocopy::{FromZeros, IntoBytes};

use super::*;

/// Two namespaces of three formats, the first of which they have.
fn formatted(device: &Held, shards: u16) -> InProcess {
    let namespace = || NamespaceConfig {
        formats: vec![512, 4096, 65536],
        ..NamespaceConfig::new(Arc::new(device.clone()), 512)
    };
    let config = ControllerConfig {
        namespaces: vec![namespace(), namespace()],
        shards,
        ..ControllerConfig::default()
    };
    InProcess::new(config, 11).expect("valid")
}

fn format(nsid: u32, index: u8) -> Sqe {
    command::format_nvm(nsid, FormatCdw10::new().with_index(index))
}

/// The index of a namespace's format, and its blocks.
fn current(driver: &mut Driver<'_, InProcess>, nsid: u32) -> (u8, u64) {
    let identify = driver.identify_namespace(nsid).expect("identified");
    (identify.flbas.index(), identify.nsze)
}

fn status(driver: &mut Driver<'_, InProcess>, token: Token) -> Option<Status> {
    let cqe = driver.try_wait(token).expect("alive")?;
    Some(cqe.status())
}

fn is(status: Option<Status>, expected: Status) -> bool {
    status.is_some_and(|status| status.same_code(expected))
}

const BLOCKS: [u64; 3] = [131_072, 16_384, 1024];

/// What is in flight ends as it would have, on every shard; what comes from then on is refused, of
/// that namespace alone; nothing is erased before, and nothing is formatted before it is erased.
#[test]
fn a_format_waits_for_commands_in_flight_and_refuses_later_ones() {
    for shards in 1..=3 {
        let device = Held::new(64);
        let mut machine = formatted(&device, shards);
        let mut driver = enabled(&mut machine);
        let before = flushes(&mut driver, 1, 2);
        let beside = flushes(&mut driver, 2, 1);
        step(&mut driver, 20);
        let token = driver.submit(0, format(1, 2)).expect("submitted");
        step(&mut driver, 20);
        assert_eq!(
            device.with(|gate| gate.submitted),
            3,
            "erased under a command"
        );
        let late = [1, 2].map(|qid| flushes(&mut driver, qid, 1)[0]);
        let other = driver.submit(2, command::flush(2)).expect("submitted");
        step(&mut driver, 20);
        for late in late {
            let found = status(&mut driver, late).expect("refused");
            assert!(found.same_code(Status::FORMAT_IN_PROGRESS), "{found:?}");
            assert!(!found.is_dnr());
        }
        assert_eq!(device.with(|gate| gate.submitted), 4, "of namespace 2");
        assert_eq!(status(&mut driver, token), None);
        assert_eq!(current(&mut driver, 1), (0, BLOCKS[0]));
        device.release(4);
        step(&mut driver, 40);
        for earlier in before.into_iter().chain(beside).chain([other]) {
            assert!(is(status(&mut driver, earlier), Status::SUCCESS));
        }
        assert_eq!(device.with(|gate| gate.submitted), 5, "the erasure");
        assert_eq!(status(&mut driver, token), None, "before it is erased");
        assert_eq!(current(&mut driver, 1), (0, BLOCKS[0]));
        device.release(1);
        step(&mut driver, 40);
        assert!(is(status(&mut driver, token), Status::SUCCESS));
        assert_eq!(current(&mut driver, 1), (2, BLOCKS[2]));
        assert_eq!(current(&mut driver, 2), (0, BLOCKS[0]));
        let after = flushes(&mut driver, 1, 1)[0];
        device.release(1);
        assert!(driver.wait(after).expect("completed").status().is_success());
    }
}

/// The ranges of a command that came before are of the format of before, whatever is asked for
/// while it is under way.
#[test]
fn a_command_keeps_the_format_that_it_began_with() {
    const RANGES: u64 = 5;
    let device = Held::new(1);
    let mut machine = formatted(&device, 2);
    let mut driver = enabled(&mut machine);
    let ranges: Vec<_> = (0..RANGES)
        .map(|at| DsmRange {
            nlb: 1,
            slba: BLOCKS[0] - 1 - at,
            ..DsmRange::default()
        })
        .collect();
    let list = driver.alloc(4096).expect("memory");
    driver.copy_to(list, ranges.as_bytes());
    let sqe = command::dsm(1, 5, DsmCdw11::new().with_ad(true));
    let dsm = driver.submit_data(2, sqe, list).expect("submitted");
    step(&mut driver, 20);
    let token = driver.submit(0, format(1, 2)).expect("submitted");
    step(&mut driver, 20);
    for done in 1..=RANGES {
        let submitted = device.with(|gate| gate.submitted as u64);
        assert_eq!(submitted, done, "a range is left out");
        assert_eq!(status(&mut driver, dsm), None);
        device.release(1);
        step(&mut driver, 30);
    }
    assert!(is(status(&mut driver, dsm), Status::SUCCESS));
    device.release(1);
    assert!(driver.wait(token).expect("completed").status().is_success());
}

#[test]
fn a_second_format_is_refused_while_one_is_under_way() {
    let device = Held::new(64);
    let mut machine = formatted(&device, 2);
    let mut driver = enabled(&mut machine);
    let first = driver.submit(0, format(1, 1)).expect("submitted");
    step(&mut driver, 20);
    for nsid in [1, NSID_BROADCAST] {
        let cqe = driver.admin(format(nsid, 2)).expect("completed");
        assert!(
            cqe.status().same_code(Status::FORMAT_IN_PROGRESS),
            "{cqe:?}"
        );
    }
    // Of another namespace both are under way; neither can be aborted.
    let second = driver.submit(0, format(2, 2)).expect("submitted");
    step(&mut driver, 20);
    assert_eq!(device.with(|gate| gate.held), 2);
    assert!(!driver.abort(first).expect("completed"));
    device.release(2);
    for token in [first, second] {
        assert!(driver.wait(token).expect("completed").status().is_success());
    }
    assert_eq!(current(&mut driver, 1), (1, BLOCKS[1]));
    assert_eq!(current(&mut driver, 2), (2, BLOCKS[2]));
}

#[test]
fn a_backend_that_fails_leaves_the_format_and_a_working_namespace() {
    let device = Held::new(64);
    let mut machine = formatted(&device, 2);
    let mut driver = enabled(&mut machine);
    device.with(|gate| gate.fail = Some(IoError::Backend { errno: 5 }));
    let token = driver
        .submit(0, format(NSID_BROADCAST, 1))
        .expect("submitted");
    device.release(1);
    let cqe = driver.wait(token).expect("completed");
    assert!(
        cqe.status().same_code(Status::WRITE_FAULT),
        "{:?}",
        cqe.status()
    );
    device.with(|gate| gate.fail = None);
    device.release(2);
    for nsid in 1..=2 {
        assert_eq!(current(&mut driver, nsid), (0, BLOCKS[0]));
        let cqe = driver.exec(2, command::flush(nsid)).expect("completed");
        assert!(cqe.status().is_success(), "{:?}", cqe.status());
    }
    assert_eq!(driver.smart_log().expect("the log").media_errors, 1);
}

/// At any time: while commands in flight are waited for, while it is erased, with the memory taken
/// away. The format is the one of before, and commands are taken.
#[test]
fn a_reset_in_the_middle_leaves_a_format_and_a_working_namespace() {
    for shards in 1..=3 {
        for busy in [false, true] {
            for bus_master in [false, true] {
                let device = Held::new(64);
                let mut machine = formatted(&device, shards);
                let mut driver = enabled(&mut machine);
                if busy {
                    flushes(&mut driver, 1, 1);
                    flushes(&mut driver, 2, 1);
                    step(&mut driver, 20);
                }
                driver
                    .submit(0, format(NSID_BROADCAST, 1))
                    .expect("submitted");
                step(&mut driver, 20);
                let command_register = driver.transport().config_read32(4) & 0xFFFF;
                if !bus_master {
                    driver.transport().config_write32(4, command_register & !4);
                }
                let cc = driver.cc();
                driver.set_cc(cc.with_en(false));
                step(&mut driver, 20);
                device.release(8);
                step(&mut driver, 40);
                assert!(!csts(&mut driver).rdy(), "{shards} {busy} {bus_master}");
                driver.transport().config_write32(4, command_register);
                driver.reset().expect("reset");
                device.with(|gate| gate.open = 64);
                let mut driver = enabled(&mut machine);
                for nsid in 1..=2 {
                    assert_eq!(current(&mut driver, nsid), (0, BLOCKS[0]));
                    for qid in 1..=2 {
                        let cqe = driver.exec(qid, command::flush(nsid)).expect("completed");
                        let found = cqe.status();
                        assert!(
                            found.is_success(),
                            "{shards} {busy} {bus_master}: {found:?}"
                        );
                    }
                    driver.format(nsid, 2).expect("formatted");
                    assert_eq!(current(&mut driver, nsid), (2, BLOCKS[2]));
                }
            }
        }
    }
}

/// What is erased is given up; what was not begun keeps its data.
#[test]
fn a_reset_erases_no_further_namespace() {
    let mut begun = 0;
    for (steps, bus_master) in (0..6).flat_map(|steps| [(steps, true), (steps, false)]) {
        let namespace = || NamespaceConfig {
            formats: vec![512, 4096],
            ..NamespaceConfig::new(Arc::new(Ram::new(64 << 20).expect("memory")), 512)
        };
        let config = ControllerConfig {
            namespaces: vec![namespace(), namespace()],
            ..ControllerConfig::default()
        };
        let mut machine = InProcess::new(config, 5).expect("valid");
        let mut driver = enabled(&mut machine);
        let data = driver.alloc(512).expect("memory");
        driver.fill(data, &[0xAB]);
        for nsid in 1..=2 {
            let cqe = driver.exec_data(1, command::write(nsid, 7, 0), data);
            assert!(cqe.expect("completed").status().is_success());
        }
        driver
            .submit(0, format(NSID_BROADCAST, 1))
            .expect("submitted");
        step(&mut driver, steps);
        set_bus_master(&mut driver, bus_master);
        let cc = driver.cc();
        driver.set_cc(cc.with_en(false));
        // Fewer than a namespace's erasure has.
        step(&mut driver, 12);
        assert!(!csts(&mut driver).rdy(), "{steps} {bus_master}");
        set_bus_master(&mut driver, true);
        let mut driver = enabled(&mut machine);
        let mut first = [0, 0];
        for (nsid, first) in (1..).zip(&mut first) {
            assert_eq!(current(&mut driver, nsid).0, 0);
            let cqe = driver.exec_data(1, command::read(nsid, 7, 0), data);
            assert!(cqe.expect("completed").status().is_success());
            driver.copy_from(data, std::slice::from_mut(first));
        }
        assert_eq!(first[1], 0xAB, "{steps} {bus_master}");
        begun += u32::from(first[0] == 0);
    }
    assert!(begun > 0);
}

#[test]
fn a_shutdown_completes_the_format_it_came_upon() {
    for shards in 1..=3 {
        let device = Held::new(8);
        let mut machine = formatted(&device, shards);
        let mut driver = enabled(&mut machine);
        flushes(&mut driver, 2, 1);
        step(&mut driver, 10);
        let token = driver.submit(0, format(1, 1)).expect("submitted");
        step(&mut driver, 10);
        let cc = driver.cc();
        driver.set_cc(cc.with_shn(Shn::Normal));
        step(&mut driver, 20);
        assert_eq!(csts(&mut driver).shst(), Shst::Occurring);
        device.release(1);
        step(&mut driver, 20);
        assert_eq!(
            csts(&mut driver).shst(),
            Shst::Occurring,
            "before it is erased"
        );
        device.release(1);
        step(&mut driver, 20);
        assert_eq!(csts(&mut driver).shst(), Shst::Complete);
        assert!(is(status(&mut driver, token), Status::SUCCESS));
    }
}

/// As many commands as a shard can have: the erasure waits for the place of one.
#[test]
fn a_format_waits_for_room_among_commands() {
    let device = Held::new(512);
    let mut machine = formatted(&device, 1);
    let mut driver = enabled(&mut machine);
    let others: Vec<_> = (0..300)
        .map(|_| driver.submit(1, command::flush(2)).expect("submitted"))
        .collect();
    step(&mut driver, 40);
    let token = driver.submit(0, format(1, 1)).expect("submitted");
    step(&mut driver, 40);
    assert_eq!(status(&mut driver, token), None);
    device.release(301);
    assert!(driver.wait(token).expect("completed").status().is_success());
    for other in others {
        assert!(driver.wait(other).expect("completed").status().is_success());
    }
}

/// Identify Namespace says something else then, of which a host can hear (Base 5.1.2.1); after a
/// format to the same again it does not.
#[test]
fn another_format_is_a_notice_and_the_same_again_is_none() {
    let device = Held::new(8);
    device.release(8);
    let mut machine = formatted(&device, 2);
    let mut driver = enabled(&mut machine);
    let notices = AsyncEventConfig::new().with_namespace_attribute(true);
    driver
        .set_feature(FeatureId::ASYNC_EVENT_CONFIG, notices.into())
        .expect("set");
    let request = driver.request_event().expect("submitted");
    driver.format(2, 0).expect("formatted");
    step(&mut driver, 20);
    assert_eq!(driver.try_wait(request).expect("alive"), None);
    driver.format(2, 1).expect("formatted");
    let event = EventResult::from(driver.wait(request).expect("an event").dw0);
    assert_eq!(event.event_type(), EventType::Notice);
    assert_eq!(event.log_page(), LogId::CHANGED_NAMESPACES);
    let mut log = ChangedNamespaces::new_zeroed();
    driver
        .log_page(
            LogId::CHANGED_NAMESPACES,
            NSID_BROADCAST,
            log.as_mut_bytes(),
        )
        .expect("the log");
    assert_eq!(log.nsids[..2], [2, 0]);
}
