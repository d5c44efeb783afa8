//! The controller on raw images: `backend=file:PATH`, with the worker threads that `run` has.

#![allow(clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/held.rs"]
mod held;

use std::{fmt::Write, fs::OpenOptions, path::Path, time::Duration};

use ferrite::{
    nvme::{WaitPolicy, inprocess::InProcess},
    options::NvmeOptions,
};
use held::Held;
use nvme::{CacheMode, ControllerConfig, NamespaceConfig};
use nvme_host::{Config, Driver, Transport, command};
use nvme_spec::{
    FeatureId, LogId, NSID_BROADCAST, Status,
    feature::VolatileWriteCache,
    log::ErrorLogEntry,
    queue::{DsmCdw11, DsmRange},
};
use nvme_suite::{Event, Filter, Stop};
use pci::header::{self, Command};
use zerocopy::{FromBytes, IntoBytes};

/// A configuration as the command line makes it.
fn built(options: &str) -> ControllerConfig {
    let mut nvme = NvmeOptions::default();
    nvme.apply(options).expect(options);
    nvme.build().expect(options)
}

/// The options of a namespace on a new image of that name.
fn image(folder: &Path, name: &str, size: &str) -> String {
    let path = folder.join(name).display().to_string();
    format!("size={size},create=on,backend=file:{path}")
}

/// Workers that sleep whenever there is nothing to do.
fn machine(config: ControllerConfig) -> InProcess {
    let policy = WaitPolicy {
        spin: Duration::ZERO,
    };
    InProcess::with_threads(config, policy).expect("valid")
}

fn enabled(machine: &mut InProcess) -> Driver<'_, InProcess> {
    let mut driver = Driver::new(machine).expect("a controller");
    driver.set_command_timeout(60_000_000_000);
    driver.enable(&Config::default()).expect("enabled");
    driver.create_pair(1, 64).expect("queues");
    driver
}

#[test]
fn the_suite_passes_on_images() {
    for cache in ["volatile", "none"] {
        let folder = tempfile::tempdir().expect("a folder");
        let first = folder.path().join("first").display().to_string();
        let second = folder.path().join("second").display().to_string();
        let options = format!(
            "namespaces=2,size=256M,create=on,lba=4K,workers=2,cache={cache},\
             backend=file:{first},ns2.backend=file:{second},ns2.size=256M,ns2.iu=16K"
        );
        let mut machine = machine(built(&options));
        let mut failures = String::new();
        let summary = nvme_suite::run(&mut machine, &Filter::new(""), &mut |event| {
            if let Event::Finished {
                test,
                outcome: Err(Stop::Failed(message)),
                ..
            } = event
            {
                let _ = write!(failures, "\n{}: {message}", test.full_name());
            }
        });
        assert!(summary.good(), "cache={cache}:{failures}");
    }
}

/// An image has a volatile cache and says so; with `cache=none` there is none.
#[test]
fn the_page_cache_is_told_unless_writes_go_through_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let own = image(folder.path(), "image", "1M");
    for (cache, told) in [
        ("", CacheMode::Volatile),
        (",cache=volatile", CacheMode::Volatile),
        (",cache=none", CacheMode::None),
    ] {
        let config = built(&format!("{own}{cache}"));
        assert_eq!(config.cache, told, "{cache}");
        config.validate().expect("valid");
        let dishonest = ControllerConfig {
            cache: CacheMode::None,
            ..config
        };
        assert_eq!(dishonest.validate().is_err(), told == CacheMode::Volatile);
    }
}

/// While a thread of the image works the shard's worker sleeps, and it wakes at the end.
#[test]
fn a_worker_sleeps_while_its_image_works_and_is_woken() {
    let folder = tempfile::tempdir().expect("a folder");
    let own = image(folder.path(), "image", "512M");
    let mut machine = machine(built(&format!("{own},lba=64K,mdts=64K")));
    let mut driver = enabled(&mut machine);
    let before = driver.transport().controller().stats().polls;
    let token = driver
        .submit(1, command::verify(1, 0, 8191))
        .expect("submitted");
    let start = driver.transport().now_ns();
    let cqe = driver.wait(token).expect("completed");
    assert!(cqe.status().is_success(), "{:?}", cqe.status());
    let took = driver.transport().now_ns() - start;
    let polls = driver.transport().controller().stats().polls - before;
    // One who looks every 50 us would poll thousands of times.
    println!("{polls} polls in {} ms", took / 1_000_000);
    assert!(took > 10_000_000, "too short to tell: {took} ns");
    assert!(polls < took / 1_000_000, "{polls} polls in {took} ns");
}

#[test]
fn nothing_writes_the_guests_memory_after_a_reset() {
    const BYTES: u64 = 1 << 20;
    for bus_master in [true, false] {
        let folder = tempfile::tempdir().expect("a folder");
        let mut machine = machine(built(&image(folder.path(), "image", "64M")));
        for round in 0..10 {
            let mut driver = enabled(&mut machine);
            let data = driver.alloc(BYTES).expect("memory");
            for slba in 0..40 {
                driver
                    .submit_data(1, command::read(1, slba * 2048, 2047), data)
                    .expect("submitted");
            }
            let mut bits = Command::MEMORY_SPACE;
            bits.set(Command::BUS_MASTER, bus_master);
            let transport = driver.transport();
            transport.config_write32(header::COMMAND, bits.bits().into());
            driver.disable().expect("RDY is 0");
            let pattern = [0xA5; 4096];
            driver.fill(data, &pattern);
            for _ in 0..200 * round {
                driver.transport().relax();
            }
            let mut seen = vec![0; 1 << 20];
            driver.copy_from(data, &mut seen);
            assert!(seen.iter().all(|&byte| byte == 0xA5), "round {round}");
            bits.insert(Command::BUS_MASTER);
            let transport = driver.transport();
            transport.config_write32(header::COMMAND, bits.bits().into());
        }
    }
}

#[test]
fn a_file_cut_short_is_a_media_error_and_a_log_entry_and_the_rest_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut machine = machine(built(&image(folder.path(), "image", "1M")));
    let mut driver = enabled(&mut machine);
    let data = driver.alloc(4096).expect("memory");
    let path = folder.path().join("image");
    let file = OpenOptions::new().write(true).open(path).expect("a file");
    file.set_len(64 << 10).expect("shorter");
    let read = driver.exec_data(1, command::read(1, 1024, 7), data);
    let read = read.expect("completed").status();
    assert!(read.same_code(Status::UNRECOVERED_READ_ERROR), "{read:?}");
    let write = driver.exec_data(1, command::write(1, 1024, 7), data);
    let write = write.expect("completed");
    assert!(write.status().same_code(Status::WRITE_FAULT));
    assert_eq!(file.metadata().expect("a file").len(), 64 << 10);
    let read = driver.exec_data(1, command::read(1, 0, 7), data);
    assert!(read.expect("completed").status().is_success());
    let mut page = [0; 64];
    driver
        .log_page(LogId::ERROR_INFORMATION, NSID_BROADCAST, &mut page)
        .expect("log");
    let newest = ErrorLogEntry::read_from_bytes(&page).expect("an entry");
    assert_eq!((newest.cid, newest.lba, newest.nsid), (write.cid, 1024, 1));
    assert_eq!(driver.smart_log().expect("log").media_errors, 2);
}

/// Feature 06h: without the cache, writes are as if they had FUA (Base 5.1.25.1.4).
#[test]
fn writes_are_durable_while_the_write_cache_is_off() {
    let device = Held::new(8);
    device.release(usize::MAX);
    let config = ControllerConfig {
        namespaces: vec![NamespaceConfig::new(
            std::sync::Arc::new(device.clone()),
            512,
        )],
        cache: CacheMode::Volatile,
        ..ControllerConfig::default()
    };
    let mut machine = InProcess::new(config, 5).expect("valid");
    let mut driver = enabled(&mut machine);
    let data = driver.alloc(512).expect("memory");
    let range = DsmRange {
        nlb: 1,
        ..DsmRange::default()
    };
    driver.copy_to(data, [range; 2].as_bytes());
    let durable = |driver: &mut Driver<'_, InProcess>| {
        driver
            .exec_data(1, command::write(1, 0, 0), data)
            .expect("completed");
        let write = device.with(|gate| gate.durable);
        driver
            .exec(1, command::write_zeroes(1, 0, 0))
            .expect("completed");
        let zeroes = device.with(|gate| gate.durable);
        driver
            .exec_data(1, command::dsm(1, 2, DsmCdw11::new().with_ad(true)), data)
            .expect("completed");
        let deallocated = device.with(|gate| gate.durable);
        let [compare, then] = command::compare_and_write(1, 0, 0);
        let first = driver.enqueue_data(1, compare, data).expect("queued");
        let second = driver.enqueue_data(1, then, data).expect("queued");
        driver.ring(1).expect("rung");
        driver.wait(first).expect("completed");
        driver.wait(second).expect("completed");
        [write, zeroes, deallocated, device.with(|gate| gate.durable)]
    };
    let set = |driver: &mut Driver<'_, InProcess>, on| {
        let value = VolatileWriteCache::new().with_wce(on);
        driver
            .set_feature(FeatureId::VOLATILE_WRITE_CACHE, value.into())
            .expect("set");
    };
    assert_eq!(durable(&mut driver), [false; 4]);
    set(&mut driver, false);
    assert_eq!(durable(&mut driver), [true; 4]);
    set(&mut driver, true);
    assert_eq!(durable(&mut driver), [false; 4]);
    set(&mut driver, false);
    driver.reset().expect("reset");
    driver.enable(&Config::default()).expect("enabled");
    driver.create_pair(1, 64).expect("queues");
    assert_eq!(durable(&mut driver), [false; 4], "a reset is the default");
}
