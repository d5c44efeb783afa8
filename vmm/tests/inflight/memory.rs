//! Memory that goes away, or may not be used, while commands are on their way.

use std::sync::Arc;

use nvme_spec::Status;
use pci::header::{self, Command};
use storage::{GuestRam, GuestRamHandle, ram::Ram};
use vm_memory::{GuestAddress, GuestAddressSpace};

use super::*;

/// Guest memory of which a machine's queues can be taken away.
struct Memory {
    handle: GuestRamHandle,
    whole: Arc<GuestRam>,
}

impl Memory {
    fn of(driver: &mut Driver<'_, InProcess>) -> Self {
        let handle = driver.transport().memory().clone();
        let whole = handle.memory().into_inner();
        Self { handle, whole }
    }

    /// Leaves a page at address 0, where nothing lies.
    fn take_away(&self) {
        let page = GuestRam::from_ranges(&[(GuestAddress(0), 4096)]).expect("memory");
        self.replace(page);
    }

    fn give_back(&self) {
        self.replace((*self.whole).clone());
    }

    fn replace(&self, ram: GuestRam) {
        self.handle.lock().expect("no panic").replace(ram);
    }
}

fn set_bus_master(driver: &mut Driver<'_, InProcess>, on: bool) {
    let mut command = Command::MEMORY_SPACE;
    command.set(Command::BUS_MASTER, on);
    let bits = command.bits().into();
    driver.transport().config_write32(header::COMMAND, bits);
}

/// The deletion's answer is on its way when the reset is asked for, and finds no memory.
#[test]
fn queue_memory_that_goes_away_before_a_reset_does_not_stop_it() {
    for steps in 0..6 {
        let mut machine = machine(&Held::new(64), 1);
        let mut driver = enabled(&mut machine);
        let memory = Memory::of(&mut driver);
        driver.submit(0, command::delete_sq(2)).expect("submitted");
        step(&mut driver, steps);
        let cc = driver.cc();
        driver.set_cc(cc.with_en(false));
        memory.take_away();
        step(&mut driver, 20);
        let status = csts(&mut driver);
        assert_eq!(u32::from(status), 0, "{status:?} after {steps} steps");
        memory.give_back();
        driver.enable(&Config::default()).expect("enabled again");
    }
}

/// Each of them holds a slot, which must be given back although none can be filled.
#[test]
fn commands_that_are_aborted_together_lose_no_slot_with_their_queue() {
    let device = Held::new(0);
    let mut machine = machine(&device, 1);
    let mut driver = enabled(&mut machine);
    let memory = Memory::of(&mut driver);
    let flush = command::flush(1);
    for _ in 0..3 {
        // The same identifier each time.
        driver.push(1, &flush).expect("submitted");
    }
    driver.ring(1).expect("a queue");
    step(&mut driver, 4);
    let abort = command::abort(1, flush.cid);
    driver.submit(0, abort).expect("submitted");
    step(&mut driver, 1);
    memory.take_away();
    step(&mut driver, 4);
    let status = csts(&mut driver);
    assert!(status.cfs(), "{status:?}");
    memory.give_back();
    driver.reset().expect("reset");
    driver.enable(&Config::default()).expect("enabled again");
}

#[test]
fn a_shard_that_may_not_use_memory_sleeps_until_it_may() {
    let device = Held::new(0);
    let mut machine = machine(&device, 1);
    let mut driver = enabled(&mut machine);
    let commands = flushes(&mut driver, 1, 2);
    step(&mut driver, 4);
    set_bus_master(&mut driver, false);
    step(&mut driver, 4);
    let before = driver.transport().controller().stats().polls;
    driver.pause(1_000_000_000);
    let polls = driver.transport().controller().stats().polls - before;
    assert!(polls < 100, "{polls} polls in a second without memory");
    device.with(|gate| gate.depth = 8);
    device.release(8);
    set_bus_master(&mut driver, true);
    for token in commands {
        let cqe = driver.wait(token).expect("completed");
        assert_eq!(cqe.status(), Status::SUCCESS);
    }
}

/// A host that has taken bus mastering away may use the memory for something else at once.
#[test]
fn a_reset_without_bus_master_moves_no_more_data() {
    const BYTES: u64 = 512 * 1024;
    for reads in [true, false] {
        let namespace = NamespaceConfig::new(Arc::new(Ram::new(4 * BYTES).expect("memory")), 4096);
        let config = ControllerConfig {
            namespaces: vec![namespace],
            mdts_bytes: 512 * 1024,
            // From its first byte to its last.
            tear: nvme::Tear::Never,
            ..ControllerConfig::default()
        };
        let mut machine = InProcess::new(config, 3).expect("valid");
        let mut driver = Driver::new(&mut machine).expect("a controller");
        driver.enable(&Config::default()).expect("enabled");
        driver.create_pair(1, 16).expect("queues");
        let data = driver.alloc(BYTES).expect("memory");
        driver.fill(data, &[0xAB]);
        let sqe = if reads {
            command::read(1, 0, 127)
        } else {
            command::write(1, 0, 127)
        };
        driver.submit_data(1, sqe, data).expect("submitted");
        // One step of 128 KiB, maybe two.
        step(&mut driver, 1);
        set_bus_master(&mut driver, false);
        let cc = driver.cc();
        driver.set_cc(cc.with_en(false));
        step(&mut driver, 50);
        assert_eq!(
            u32::from(csts(&mut driver)),
            0,
            "the reset is done all the same"
        );
        set_bus_master(&mut driver, true);
        driver.enable(&Config::default()).expect("enabled again");
        driver.create_pair(1, 16).expect("queues");
        if !reads {
            driver.fill(data, &[0]);
            let read = command::read(1, 0, 127);
            let cqe = driver.exec_data(1, read, data).expect("completed");
            assert_eq!(cqe.status(), Status::SUCCESS);
        }
        let mut now = vec![0; 512 * 1024];
        driver.copy_from(data, &mut now);
        let (moved, left) = if reads { (0, 0xAB) } else { (0xAB, 0) };
        assert_eq!(now.first(), Some(&moved), "it had begun");
        assert_eq!(now.last(), Some(&left), "it went on; reads: {reads}");
    }
}
