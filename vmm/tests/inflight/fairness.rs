//! Whose turn it is: limits, waiting commands, budgets, bus mastering.

use nvme_spec::NSID_BROADCAST;
use storage::null::Null;
use storage::ram::Ram;

use super::*;

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
        let namespaces = vec![NamespaceConfig::new(device, 512)];
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

/// What a shard is asked while bus mastering goes off ends commands, too.
#[test]
fn a_deletion_without_bus_master_posts_nothing_and_loses_nothing() {
    for seed in 1..=20 {
        let device = Held::new(1);
        let namespaces = vec![NamespaceConfig::new(Arc::new(device.clone()), 512)];
        let config = ControllerConfig {
            namespaces,
            shards: 2,
            ..ControllerConfig::default()
        };
        let mut machine = InProcess::new(config, seed).expect("valid");
        let mut driver = enabled(&mut machine);
        let commands = flushes(&mut driver, 2, 3);
        step(&mut driver, 20);
        let queue = driver.cq_memory(2).expect("a queue");
        let fetched = |driver: &mut Driver<'_, InProcess>| {
            driver.transport().controller().stats().admin_commands
        };
        let before = fetched(&mut driver);
        let delete = driver.submit(0, command::delete_sq(2)).expect("submitted");
        while fetched(&mut driver) == before {
            step(&mut driver, 1);
        }
        let command_register = driver.transport().config_read32(4) & 0xFFFF;
        driver.transport().config_write32(4, command_register & !4);
        let posted = |driver: &mut Driver<'_, InProcess>| {
            let mut entries = [0; 64];
            driver.transport().mem_read(queue.address, &mut entries);
            entries
        };
        let before = posted(&mut driver);
        step(&mut driver, 20);
        assert_eq!(posted(&mut driver), before, "seed {seed}: posted");
        driver.transport().config_write32(4, command_register);
        device.release(1);
        driver.wait(delete).expect("deleted");
        for token in commands {
            let cqe = driver.try_wait(token).expect("alive");
            assert!(cqe.is_some(), "seed {seed}: lost");
        }
    }
}

/// Long transfers are charged: a poll of a budget of 16 takes few of them, be it of many blocks or
/// of one that is large.
#[test]
fn a_poll_takes_no_more_commands_than_its_budget_pays_for() {
    for (lba, most) in [(4096, 256), (1 << 20, 1)] {
        let device = Arc::new(Null::new(1 << 40));
        let config = ControllerConfig {
            namespaces: vec![NamespaceConfig::new(device, lba)],
            mdts_bytes: 64 << 20,
            ..ControllerConfig::default()
        };
        let mut machine = InProcess::new(config, 1).expect("valid");
        let mut driver = Driver::new(&mut machine).expect("a controller");
        driver.enable(&Config::default()).expect("enabled");
        driver.create_pair(1, 64).expect("queues");
        let data = driver.alloc(1 << 20).expect("memory");
        for blocks in [most, 1] {
            let before = driver.transport().controller().stats().io_commands;
            let bytes = u64::from(blocks) * u64::from(lba);
            let tokens: Vec<Token> = (0..32)
                .map(|_| {
                    let part = nvme_host::Buffer { bytes, ..data };
                    let read = command::read(1, 0, blocks - 1);
                    driver.enqueue_data(1, read, part).expect("queued")
                })
                .collect();
            driver.ring(1).expect("rung");
            driver.transport().step();
            let taken = driver.transport().controller().stats().io_commands - before;
            let expected = if bytes == 4096 { 16 } else { 2 };
            assert_eq!(taken, expected, "{blocks} blocks of {lba}");
            for token in tokens {
                assert!(driver.wait(token).expect("completed").status().is_success());
            }
        }
    }
}
