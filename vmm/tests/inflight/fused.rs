//! Fused operations between their two commands: long ones, and what ends them there.

use nvme::{AtomicUnits, Extent};
use nvme_host::Buffer;
use nvme_spec::Status;
use storage::ram::Ram;

use super::*;

/// More than one step of a backend, so that each half is under way for several polls.
const BYTES: u64 = 512 * 1024;
const BLOCKS_Z: u16 = 1023;

fn enqueue(
    driver: &mut Driver<'_, InProcess>,
    qid: u16,
    nlb_z: u16,
    [old, new]: [Buffer; 2],
) -> [Token; 2] {
    let [first, second] = command::compare_and_write(1, 0, nlb_z);
    let tokens = [
        driver.enqueue_data(qid, first, old).expect("room"),
        driver.enqueue_data(qid, second, new).expect("room"),
    ];
    driver.ring(qid).expect("a queue");
    tokens
}

/// Two pairs expect the same and both are long: one succeeds. Fails when each command takes its
/// blocks for itself.
#[test]
fn long_pairs_of_two_shards_exclude_each_other() {
    for seed in 1..=16 {
        let device = Arc::new(Ram::new(1 << 20).expect("memory"));
        let config = ControllerConfig {
            namespaces: vec![NamespaceConfig::new(device, 512)],
            shards: 2,
            atomics: AtomicUnits {
                compare_and_write: Some(Extent::Blocks(65_536)),
                ..AtomicUnits::default()
            },
            ..ControllerConfig::default()
        };
        let mut machine = InProcess::new(config, seed).expect("valid");
        let mut driver = enabled(&mut machine);
        let buffers = [(); 3].map(|()| driver.alloc(BYTES).expect("memory"));
        let fill = |driver: &mut Driver<'_, InProcess>, buffer: Buffer, byte: u8| {
            driver
                .transport()
                .mem_write(buffer.address, &vec![byte; 512 * 1024]);
        };
        let mut there = 0;
        for round in 1..=6u8 {
            let [old, one, other] = buffers;
            fill(&mut driver, old, there);
            let bytes = [2 * round, 2 * round + 1];
            fill(&mut driver, one, bytes[0]);
            fill(&mut driver, other, bytes[1]);
            let pairs = [(1, one), (2, other)]
                .map(|(qid, new)| enqueue(&mut driver, qid, BLOCKS_Z, [old, new]));
            let done = pairs.map(|pair| {
                let [first, second] = pair.map(|token| driver.wait(token).expect("done").status());
                assert_eq!(
                    first.is_success(),
                    second.is_success(),
                    "seed {seed}: {first:?}, {second:?}"
                );
                first.is_success()
            });
            assert_eq!(done[0], !done[1], "seed {seed}, round {round}");
            there = bytes[usize::from(done[1])];
        }
    }
}

/// A pair whose Compare is with the backend and whose Write comes after it.
fn halves(device: &Held, driver: &mut Driver<'_, InProcess>) -> [Token; 2] {
    let data = [(); 2].map(|()| driver.alloc(512).expect("memory"));
    let tokens = enqueue(driver, 1, 0, data);
    step(driver, 20);
    assert_eq!(device.with(|gate| (gate.held, gate.submitted)), (1, 1));
    tokens
}

fn statuses(driver: &mut Driver<'_, InProcess>, tokens: [Token; 2]) -> [Status; 2] {
    tokens.map(|token| driver.wait(token).expect("completed").status())
}

#[test]
fn the_write_begins_when_the_compare_has_succeeded() {
    for shards in 1..=2 {
        let device = Held::new(64);
        let mut machine = machine(&device, shards);
        let mut driver = enabled(&mut machine);
        let tokens = halves(&device, &mut driver);
        device.release(1);
        step(&mut driver, 30);
        assert_eq!(device.with(|gate| (gate.held, gate.submitted)), (1, 2));
        for token in tokens {
            assert_eq!(driver.try_wait(token).expect("alive"), None);
        }
        device.release(1);
        assert_eq!(statuses(&mut driver, tokens), [Status::SUCCESS; 2]);
    }
}

#[test]
fn a_compare_that_fails_ends_both() {
    let device = Held::new(64);
    let mut machine = machine(&device, 1);
    let mut driver = enabled(&mut machine);
    let tokens = halves(&device, &mut driver);
    device.with(|gate| gate.fail = Some(storage::IoError::Backend { errno: 5 }));
    device.release(1);
    let [first, second] = statuses(&mut driver, tokens);
    assert!(first.same_code(Status::UNRECOVERED_READ_ERROR), "{first:?}");
    assert!(second.same_code(Status::ABORTED_FAILED_FUSED), "{second:?}");
    assert_eq!(device.with(|gate| gate.submitted), 1, "the Write was begun");
}

/// What ends a pair that no backend has: nothing of it executed, or between its two commands.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Waits {
    Before,
    Between,
}

/// A pair that waits for room, which a flush has.
fn waiting(device: &Held, driver: &mut Driver<'_, InProcess>, waits: Waits) -> [Token; 2] {
    if waits == Waits::Before {
        flushes(driver, 2, 1);
        step(driver, 20);
    }
    let data = [(); 2].map(|()| driver.alloc(512).expect("memory"));
    let tokens = enqueue(driver, 1, 0, data);
    step(driver, 20);
    if waits == Waits::Between {
        // Its Compare is with the backend, and the flush behind it gets the room of its Write.
        flushes(driver, 2, 1);
        step(driver, 20);
        device.release(1);
        step(driver, 30);
        assert_eq!(device.with(|gate| gate.submitted), 2);
    }
    assert_eq!(device.with(|gate| gate.held), 1);
    tokens
}

#[test]
fn aborting_either_command_ends_both() {
    for waits in [Waits::Before, Waits::Between] {
        for aborted in 0..2 {
            let device = Held::new(1);
            let mut machine = machine(&device, 1);
            let mut driver = enabled(&mut machine);
            let tokens = waiting(&device, &mut driver, waits);
            assert!(
                driver.abort(tokens[aborted]).expect("an answer"),
                "{waits:?}"
            );
            let mut expected = [Status::ABORTED_FAILED_FUSED; 2];
            expected[aborted] = Status::ABORT_REQUESTED;
            let found = statuses(&mut driver, tokens);
            for (found, expected) in found.into_iter().zip(expected) {
                assert!(found.same_code(expected), "{waits:?}: {found:?}");
            }
        }
    }
}

#[test]
fn deleting_the_queue_ends_both() {
    for waits in [Waits::Before, Waits::Between] {
        let device = Held::new(1);
        let mut machine = machine(&device, 1);
        let mut driver = enabled(&mut machine);
        let tokens = waiting(&device, &mut driver, waits);
        let delete = driver.submit(0, command::delete_sq(1)).expect("submitted");
        assert!(
            driver
                .wait(delete)
                .expect("completed")
                .status()
                .is_success()
        );
        for token in tokens {
            let status = driver.wait(token).expect("completed").status();
            assert!(
                status.same_code(Status::ABORTED_SQ_DELETION),
                "{waits:?}: {status:?}"
            );
        }
    }
}

#[test]
fn a_reset_forgets_both_wherever_they_are() {
    for with_backend in [true, false] {
        let device = Held::new(1);
        let mut machine = machine(&device, 1);
        let mut driver = enabled(&mut machine);
        match with_backend {
            true => halves(&device, &mut driver),
            false => waiting(&device, &mut driver, Waits::Between),
        };
        device.with(|gate| gate.open = usize::MAX);
        driver.reset().expect("reset");
        driver.enable(&Config::default()).expect("enabled");
        driver.create_pair(1, ENTRIES).expect("queues");
        let data = [(); 2].map(|()| driver.alloc(512).expect("memory"));
        let tokens = enqueue(&mut driver, 1, 0, data);
        assert_eq!(statuses(&mut driver, tokens), [Status::SUCCESS; 2]);
    }
}
