//! Reset, shutdown and failure while a backend has commands.

use nvme::lifecycle::Lifecycle;
use nvme_spec::queue::{DsmCdw11, DsmRange};
use nvme_spec::registers::Cc;
use nvme_spec::registers::Register;
use nvme_spec::registers::Shn;
use nvme_spec::registers::Shst;
use pci::PciFunction;
use storage::GuestRam;
use vm_memory::GuestAddress;
use zerocopy::IntoBytes;

use super::*;

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

/// A command of many requests goes on to none of them: without the host's memory nobody would take
/// them up.
#[test]
fn a_reset_stops_a_command_between_its_requests() {
    let mut begun = 0;
    for (steps, bus_master) in (0..6).flat_map(|steps| [(steps, true), (steps, false)]) {
        let device = Arc::new(storage::ram::Ram::new(64 << 20).expect("memory"));
        let config = ControllerConfig {
            namespaces: vec![NamespaceConfig::new(device, 512)],
            ..ControllerConfig::default()
        };
        let mut machine = InProcess::new(config, 4).expect("valid");
        let mut driver = enabled(&mut machine);
        let data = driver.alloc(4096).expect("memory");
        driver.fill(data, &[0xAB]);
        for slba in [0, 100_000] {
            let cqe = driver.exec_data(1, command::write(1, slba, 0), data.slice(0, 512));
            assert!(cqe.expect("completed").status().is_success());
        }
        // The first is discarded in steps, the others at once.
        let ranges: Vec<_> = (0..40)
            .map(|at| DsmRange {
                nlb: if at == 0 { 65_536 } else { 8 },
                slba: if at == 0 { 0 } else { 99_992 + 8 * at },
                ..DsmRange::default()
            })
            .collect();
        driver.copy_to(data, ranges.as_bytes());
        let sqe = command::dsm(1, 40, DsmCdw11::new().with_ad(true));
        driver.submit_data(1, sqe, data).expect("submitted");
        step(&mut driver, steps);
        set_bus_master(&mut driver, bus_master);
        let cc = driver.cc();
        driver.set_cc(cc.with_en(false));
        step(&mut driver, 60);
        assert!(!csts(&mut driver).rdy(), "{steps} {bus_master}");
        set_bus_master(&mut driver, true);
        let mut driver = enabled(&mut machine);
        let mut byte = [0];
        for (slba, later) in [(0, false), (100_000, true)] {
            let cqe = driver.exec_data(1, command::read(1, slba, 0), data.slice(0, 512));
            assert!(cqe.expect("completed").status().is_success());
            driver.copy_from(data, &mut byte);
            assert!(!later || byte == [0xAB], "discarded after the reset");
            begun += u32::from(byte == [0]);
        }
    }
    assert!(begun > 0);
}

#[test]
fn a_shutdown_completes_the_deletion_it_came_upon() {
    for shards in 1..=2 {
        for seed in 0..20 {
            let device = Held::new(8);
            let namespace = NamespaceConfig::new(Arc::new(device.clone()), 512);
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
            let fetched = |driver: &mut Driver<'_, InProcess>| {
                driver.transport().controller().stats().admin_commands
            };
            let before = fetched(&mut driver);
            let delete = driver.submit(0, command::delete_sq(2)).expect("submitted");
            while fetched(&mut driver) == before {
                step(&mut driver, 1);
            }
            let cc = driver.cc();
            driver.set_cc(cc.with_shn(Shn::Normal));
            device.release(1);
            for _ in 0..20 {
                if csts(&mut driver).shst() == Shst::Complete {
                    break;
                }
                step(&mut driver, 1);
            }
            assert_eq!(csts(&mut driver).shst(), Shst::Complete);
            let cqe = driver.try_wait(delete).expect("alive");
            assert!(
                cqe.is_some(),
                "{shards} shards, seed {seed}: not completed before the shutdown was"
            );
        }
    }
}
