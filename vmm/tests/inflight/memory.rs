//! Memory that goes away, or may not be used, while commands are on their way.

use std::sync::Arc;

use nvme::{Extent, NamespaceAtomics};
use nvme_host::Buffer;
use nvme_spec::Status;
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

/// A machine whose namespace promises these units, with a queue pair.
fn promising(atomics: NamespaceAtomics, seed: u64) -> InProcess {
    let mut namespace = NamespaceConfig::new(Arc::new(Ram::new(2 << 20).expect("memory")), 512);
    namespace.atomics = atomics;
    let config = ControllerConfig {
        namespaces: vec![namespace],
        mdts_bytes: 512 * 1024,
        seed,
        ..ControllerConfig::default()
    };
    InProcess::new(config, seed).expect("valid")
}

/// Reads `blocks` from `slba` into `data`, which held `old`; whether they are all `new`, or `None`
/// if they are neither all new nor all zeroes.
fn all_or_nothing(
    driver: &mut Driver<'_, InProcess>,
    data: Buffer,
    slba: u64,
    new: u8,
) -> Option<bool> {
    driver.fill(data, &[0x55]);
    let nlb_z = u16::try_from(data.bytes / 512 - 1).expect("a command's");
    let cqe = driver.exec_data(1, command::read(1, slba, nlb_z), data);
    assert_eq!(cqe.expect("completed").status(), Status::SUCCESS);
    let mut now = vec![0; usize::try_from(data.bytes).expect("little")];
    driver.copy_from(data, &mut now);
    let all = |byte| now.iter().all(|&is| is == byte);
    (all(new) || all(0)).then(|| all(new))
}

/// The power fail unit holds in the presence of errors too (NVM 1.1 4.1.5.1); one write of it is
/// more than a backend's step.
#[test]
fn a_reset_finds_a_write_within_the_power_fail_unit_done_or_not_begun() {
    const BYTES: u64 = 512 * 1024;
    let unit = Some(Extent::Bytes(BYTES));
    let mut seen = Vec::new();
    for (steps, bus_master) in (0..5).flat_map(|steps| [(steps, true), (steps, false)]) {
        let atomics = NamespaceAtomics {
            normal: unit,
            power_fail: unit,
            ..NamespaceAtomics::default()
        };
        let mut machine = promising(atomics, 3);
        let mut driver = Driver::new(&mut machine).expect("a controller");
        driver.enable(&Config::default()).expect("enabled");
        driver.create_pair(1, 16).expect("queues");
        let data = driver.alloc(BYTES).expect("memory");
        driver.fill(data, &[0xAB]);
        let sqe = command::write(1, 7, 1023);
        driver.submit_data(1, sqe, data).expect("submitted");
        step(&mut driver, steps);
        set_bus_master(&mut driver, bus_master);
        let cc = driver.cc();
        driver.set_cc(cc.with_en(false));
        step(&mut driver, 50);
        assert_eq!(u32::from(csts(&mut driver)), 0, "the reset is done");
        set_bus_master(&mut driver, true);
        driver.enable(&Config::default()).expect("enabled again");
        driver.create_pair(1, 16).expect("queues");
        let new = all_or_nothing(&mut driver, data, 7, 0xAB);
        seen.push(new.unwrap_or_else(|| panic!("a part, after {steps} steps")));
    }
    assert!(seen.contains(&true) && seen.contains(&false), "{seen:?}");
}

/// Boundaries that hold between commands alone let others see a write half done, but not an Abort.
#[test]
fn an_abort_finds_a_write_within_the_power_fail_unit_done_or_not_begun() {
    let eight = Some(Extent::Blocks(8));
    let mut written = 0;
    for (seed, steps) in (0..16).flat_map(|seed| (0..4).map(move |steps| (seed, steps))) {
        let atomics = NamespaceAtomics {
            normal: eight,
            power_fail: eight,
            boundary: eight,
            ..NamespaceAtomics::default()
        };
        let mut machine = promising(atomics, seed);
        let mut driver = Driver::new(&mut machine).expect("a controller");
        driver.enable(&Config::default()).expect("enabled");
        driver.create_pair(1, 16).expect("queues");
        let data = driver.alloc(4096).expect("memory");
        driver.fill(data, &[0xAB]);
        let write = driver.submit_data(1, command::write(1, 4, 7), data);
        let write = write.expect("submitted");
        step(&mut driver, steps);
        driver.abort(write).expect("completed");
        let status = driver.wait(write).expect("completed").status();
        let new = all_or_nothing(&mut driver, data, 4, 0xAB);
        let new = new.unwrap_or_else(|| panic!("a part: seed {seed}, {steps} steps, {status:?}"));
        written += u32::from(new);
        assert!(new || status == Status::ABORT_REQUESTED, "{status:?}");
    }
    assert!(written > 0);
}
