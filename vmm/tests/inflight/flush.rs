//! Flushes that no command asked for: at a shutdown, and when the write cache is switched off.

use nvme::CacheMode;
use nvme_spec::{
    FeatureId, Status,
    feature::VolatileWriteCache,
    registers::{Shn, Shst},
};
use storage::IoError;

use super::*;

const SHARDS: u16 = 2;
const NAMESPACES: usize = 2;
/// Each shard flushes behind its own commands.
const ALL: usize = NAMESPACES * SHARDS as usize;

/// Two namespaces on a device with a volatile cache.
fn cached(device: &Held) -> InProcess {
    device.with(|gate| gate.volatile = true);
    let namespace = || NamespaceConfig::new(Arc::new(device.clone()), 512);
    let config = ControllerConfig {
        namespaces: vec![namespace(), namespace()],
        shards: SHARDS,
        cache: CacheMode::Volatile,
        ..ControllerConfig::default()
    };
    InProcess::new(config, 17).expect("valid")
}

fn counts(device: &Held) -> (usize, usize) {
    device.with(|gate| (gate.held, gate.flushes))
}

fn write(driver: &mut Driver<'_, InProcess>, sqid: u16) -> Token {
    let data = driver.alloc(512).expect("memory");
    let write = command::write(1, 0, 0);
    driver.submit_data(sqid, write, data).expect("submitted")
}

/// From then on the host may switch the power off (Base 3.6.1).
#[test]
fn a_shutdown_is_complete_when_what_was_written_is_durable() {
    for shn in [Shn::Normal, Shn::Abrupt] {
        for bus_master in [true, false] {
            let device = Held::new(64);
            let mut machine = cached(&device);
            let mut driver = enabled(&mut machine);
            let writes = [write(&mut driver, 1), write(&mut driver, 2)];
            step(&mut driver, 20);
            let cc = driver.cc();
            driver.set_cc(cc.with_shn(shn));
            step(&mut driver, 20);
            assert_eq!(counts(&device), (2, 0), "flushed before the writes");
            device.release(2);
            step(&mut driver, 20);
            for token in writes {
                let cqe = driver.try_wait(token).expect("alive");
                assert!(cqe.is_some_and(|cqe| cqe.status().is_success()));
            }
            // No guest memory is needed.
            set_bus_master(&mut driver, bus_master);
            for done in 0..ALL {
                let (held, flushes) = counts(&device);
                assert!(held > 0 && flushes > done, "{held} {flushes} {done}");
                assert_eq!(csts(&mut driver).shst(), Shst::Occurring);
                device.release(1);
                step(&mut driver, 20);
            }
            assert_eq!(csts(&mut driver).shst(), Shst::Complete);
            assert_eq!(counts(&device), (0, ALL));
            set_bus_master(&mut driver, true);
            driver.reset().expect("reset");
            driver.enable(&Config::default()).expect("enabled again");
        }
    }
}

#[test]
fn a_shutdown_ends_though_its_flush_fails_or_finds_the_backend_full() {
    let device = Held::new(64);
    let mut machine = cached(&device);
    let mut driver = enabled(&mut machine);
    device.with(|gate| {
        gate.fail = Some(IoError::Backend { errno: 5 });
        gate.depth = 0;
    });
    let cc = driver.cc();
    driver.set_cc(cc.with_shn(Shn::Normal));
    step(&mut driver, 100);
    assert_eq!(csts(&mut driver).shst(), Shst::Occurring);
    device.with(|gate| gate.depth = 64);
    device.release(usize::MAX >> 1);
    step(&mut driver, 100);
    assert_eq!(csts(&mut driver).shst(), Shst::Complete);
    assert_eq!(counts(&device), (0, ALL));
}

#[test]
fn a_reset_does_not_wait_for_the_flush_of_a_shutdown() {
    let device = Held::new(64);
    let mut machine = cached(&device);
    let mut driver = enabled(&mut machine);
    let cc = driver.cc();
    driver.set_cc(cc.with_shn(Shn::Normal));
    step(&mut driver, 20);
    assert_eq!(counts(&device), (2, 2));
    driver.reset().expect("reset");
    driver.enable(&Config::default()).expect("enabled");
    for qid in 1..=2 {
        driver.create_pair(qid, ENTRIES).expect("queues");
    }
    // What comes back late is nobody's.
    device.release(2);
    let commands = [flushes(&mut driver, 1, 1), flushes(&mut driver, 2, 1)].concat();
    step(&mut driver, 20);
    device.release(2);
    for token in commands {
        let cqe = driver.wait(token).expect("completed");
        assert!(cqe.status().is_success());
    }
    let cc = driver.cc();
    driver.set_cc(cc.with_shn(Shn::Normal));
    step(&mut driver, 20);
    assert_eq!(csts(&mut driver).shst(), Shst::Occurring);
    device.release(usize::MAX >> 1);
    step(&mut driver, 100);
    assert_eq!(csts(&mut driver).shst(), Shst::Complete);
}

/// What was written with the cache is not volatile without it (Base 5.1.25.1.4).
#[test]
fn the_write_cache_is_off_when_what_it_held_is_durable() {
    for fail in [None, Some(IoError::Backend { errno: 5 })] {
        let device = Held::new(64);
        let mut machine = cached(&device);
        let mut driver = enabled(&mut machine);
        let early = write(&mut driver, 2);
        step(&mut driver, 20);
        let set = |driver: &mut Driver<'_, InProcess>, on: bool| {
            let value = VolatileWriteCache::new().with_wce(on);
            let sqe = command::set_features(FeatureId::VOLATILE_WRITE_CACHE, value.into());
            driver.submit(0, sqe).expect("submitted")
        };
        let off = set(&mut driver, false);
        step(&mut driver, 20);
        let (held, flushes) = counts(&device);
        assert_eq!((held, flushes), (2, 1), "shard 0 has a queue of no write");
        let late = write(&mut driver, 2);
        step(&mut driver, 20);
        assert!(device.with(|gate| gate.durable), "of after the cache");
        assert_eq!(driver.try_wait(off).expect("alive"), None);
        device.with(|gate| gate.fail = fail);
        device.release(2 + ALL);
        let status = driver.wait(off).expect("completed").status();
        let expected = match fail {
            None => Status::SUCCESS,
            Some(_) => Status::INTERNAL_ERROR,
        };
        assert!(status.same_code(expected), "{status:?}");
        driver.wait(early).expect("completed");
        driver.wait(late).expect("completed");
        assert_eq!(counts(&device), (0, ALL));
        // Again, and on: nothing is volatile.
        for on in [false, true] {
            let token = set(&mut driver, on);
            let status = driver.wait(token).expect("completed").status();
            assert!(status.is_success(), "{status:?}");
        }
        assert_eq!(counts(&device), (0, ALL));
    }
}
