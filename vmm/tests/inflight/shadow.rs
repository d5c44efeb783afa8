//! Shadow doorbells: what a host may do to them, and when the controller lets go of them.

use nvme_host::{CqConfig, ShadowDoorbells, SqConfig};
use nvme_spec::registers::{Shn, Shst, cq_head_doorbell, sq_tail_doorbell};
use pci::PciFunction;
use storage::GuestRam;
use vm_memory::GuestAddress;

use super::*;

const GUARD: u8 = 0xA5;

/// Shadow doorbells on before the queues are made, as Linux does it.
fn shadowed(machine: &mut InProcess) -> (Driver<'_, InProcess>, ShadowDoorbells) {
    let mut driver = Driver::new(machine).expect("a controller");
    driver.set_shadow_doorbells(true);
    driver.enable(&Config::default()).expect("enabled");
    for qid in 1..=2 {
        driver.create_pair(qid, ENTRIES).expect("queues");
    }
    let buffers = driver.shadow_doorbells().expect("on");
    (driver, buffers)
}

fn flush_works(driver: &mut Driver<'_, InProcess>, sqid: u16) {
    let cqe = driver.exec(sqid, command::flush(1)).expect("completed");
    assert!(cqe.status().is_success(), "{:?}", cqe.status());
}

fn guard(driver: &mut Driver<'_, InProcess>, buffers: ShadowDoorbells) {
    for buffer in [buffers.shadow, buffers.event] {
        driver.fill(buffer, &[GUARD; 64]);
    }
}

fn guarded(driver: &mut Driver<'_, InProcess>, buffers: ShadowDoorbells, when: &str) {
    for buffer in [buffers.shadow, buffers.event] {
        let mut bytes = vec![0; 4096];
        driver.copy_from(buffer, &mut bytes);
        assert!(bytes.iter().all(|byte| *byte == GUARD), "written {when}");
    }
}

fn clear_errors(driver: &mut Driver<'_, InProcess>) {
    let (lid, all) = (
        nvme_spec::LogId::ERROR_INFORMATION,
        nvme_spec::NSID_BROADCAST,
    );
    driver.log_page(lid, all, &mut [0; 64]).expect("log");
}

/// Without the event index it would take a write for each; with it, one wakes the shard, which the
/// others find awake.
#[test]
fn a_busy_shard_is_not_rung_for() {
    let device = Held::new(64);
    device.release(64);
    let mut machine = machine(&device, 1);
    let (mut driver, _) = shadowed(&mut machine);
    step(&mut driver, 20);
    let before = driver.stats();
    let tokens = flushes(&mut driver, 1, 20);
    let after = driver.stats();
    assert_eq!(after.doorbells - before.doorbells, 20);
    assert_eq!(after.doorbell_writes - before.doorbell_writes, 1);
    for token in tokens {
        driver.wait(token).expect("completed");
    }
}

/// A head gives a sleeping shard work where a slot was missing, and nowhere else.
#[test]
fn a_sleeping_shard_is_rung_for_heads_of_full_completion_queues_alone() {
    let device = Held::new(64);
    device.release(64);
    let mut machine = machine(&device, 1);
    let (mut driver, _) = shadowed(&mut machine);
    let head_rings = |driver: &mut Driver<'_, InProcess>, qid, taken| {
        step(driver, 50);
        // Whoever may sleep has set the event indexes.
        assert!(driver.transport().all_idle(), "the shard may sleep");
        let before = driver.stats().doorbell_writes;
        assert_eq!(driver.process(qid).expect("completions"), taken);
        driver.stats().doorbell_writes - before
    };
    // Three slots for five commands, twice: an old event index is passed once a round.
    driver.create_cq(&CqConfig::new(3, 4)).expect("a queue");
    driver.create_sq(&SqConfig::new(3, 3, 8)).expect("a queue");
    for _ in 0..2 {
        flushes(&mut driver, 3, 5);
        assert_eq!(head_rings(&mut driver, 3, 3), 1, "two wait for slots");
        head_rings(&mut driver, 3, 2);
    }
    // Slots for all: but for the first head, which passes the event index of a new queue.
    for first in [true, false, false] {
        flushes(&mut driver, 1, 1);
        let rings = head_rings(&mut driver, 1, 1);
        assert_eq!(rings, u64::from(first), "nothing waits for slots");
    }
}

#[test]
fn a_wrong_value_in_memory_is_one_event_however_long_it_stays() {
    for shards in 1..=2 {
        let device = Held::new(64);
        device.release(64);
        let mut machine = machine(&device, shards);
        let (mut driver, _) = shadowed(&mut machine);
        flush_works(&mut driver, 2);
        for wrong in [ENTRIES, 0xFFFF_FFFF, 0x1_0001] {
            let request = driver.request_event().expect("submitted");
            driver.write_sq_doorbell(2, wrong);
            driver.wait(request).expect("completed");
            clear_errors(&mut driver);
            let request = driver.request_event().expect("submitted");
            // Other rings make the shard look again.
            flush_works(&mut driver, 1);
            step(&mut driver, 200);
            assert_eq!(driver.try_wait(request).expect("alive"), None, "{wrong:#x}");
            driver.abort(request).expect("aborted");
            let abort = driver.wait(request).expect("completed");
            assert!(!abort.status().is_success());
            flush_works(&mut driver, 2);
        }
        // The same with a head.
        let request = driver.request_event().expect("submitted");
        driver.write_cq_doorbell(2, ENTRIES - 1);
        driver.wait(request).expect("completed");
        flush_works(&mut driver, 2);
        assert!(!csts(&mut driver).cfs());
    }
}

/// A queue that was there before: its host may be between its look at the old way and the
/// command's completion.
#[test]
fn a_register_written_while_the_command_is_under_way_counts() {
    for shards in 1..=3 {
        for steps in 0..12 {
            let device = Held::new(64);
            device.release(64);
            let mut machine = machine(&device, shards);
            let mut driver = enabled(&mut machine);
            flush_works(&mut driver, 2);
            let (shadow, event) = (driver.alloc(4096).expect("memory"), driver.alloc(4096));
            let event = event.expect("memory");
            let sqe = command::doorbell_buffer_config(shadow.address, event.address);
            let config = driver.submit(0, sqe).expect("submitted");
            step(&mut driver, steps);
            // The driver has not heard of it: it writes the register.
            let token = flushes(&mut driver, 2, 1);
            step(&mut driver, 30);
            let cqe = driver.try_wait(config).expect("alive").expect("completed");
            assert!(cqe.status().is_success());
            let done = driver.try_wait(token[0]).expect("alive");
            assert!(done.is_some(), "{shards} shards, written after {steps}");
        }
    }
}

#[test]
fn a_new_queue_takes_nothing_from_what_lies_in_its_entries() {
    let device = Held::new(64);
    device.release(64);
    let mut machine = machine(&device, 2);
    let (mut driver, buffers) = shadowed(&mut machine);
    // The driver clears the entries; a host that does not leaves what it likes.
    let sq = driver.place_sq(3, 2, 16, None).expect("memory");
    let (entry, event) = buffers.entry(sq_tail_doorbell(3, 0));
    for address in [entry, event] {
        driver.transport().mem_store32(address, 7);
    }
    let sqe = command::create_sq(3, 15, sq.address, 2);
    driver.admin_ok(sqe).expect("created");
    let transport = driver.transport();
    assert_eq!(
        (transport.mem_load32(entry), transport.mem_load32(event)),
        (0, 0)
    );
    step(&mut driver, 50);
    let stats = driver.transport().controller().stats();
    assert_eq!(stats.io_commands, 0, "fetched what nobody stored");
    flush_works(&mut driver, 3);
}

/// Rings that carry no value exist from a queue's creation to its deletion, and not beyond the
/// moment that CSTS.RDY reads 0, or CSTS.SHST complete.
#[test]
fn doorbells_are_events_while_their_queues_live() {
    for shards in 1..=3 {
        let device = Held::new(64);
        let mut machine = machine(&device, shards);
        let mut driver = enabled(&mut machine);
        assert_eq!(
            driver.transport().event_doorbells(),
            0,
            "before the command"
        );
        driver.enable_shadow_doorbells().expect("offered");
        assert_eq!(
            driver.transport().event_doorbells(),
            0,
            "queues of before keep their registers until their host stores in memory"
        );
        driver.create_pair(3, 16).expect("queues");
        driver.create_pair(4, 16).expect("queues");
        assert_eq!(driver.transport().event_doorbells(), 4);
        driver.delete_sq(4).expect("deleted");
        assert_eq!(driver.transport().event_doorbells(), 3);
        driver.delete_cq(4).expect("deleted");
        assert_eq!(driver.transport().event_doorbells(), 2);
        flushes(&mut driver, 3, 1);
        step(&mut driver, 20);
        let cc = driver.cc();
        driver.set_cc(cc.with_en(false));
        device.release(1);
        while csts(&mut driver).rdy() {
            step(&mut driver, 1);
        }
        assert_eq!(driver.transport().event_doorbells(), 0, "RDY reads 0");

        driver.disable().expect("disabled");
        let (mut driver, _) = shadowed(&mut machine);
        assert_eq!(driver.transport().event_doorbells(), 4);
        driver.shutdown(Shn::Normal).expect("shut down");
        assert_eq!(driver.transport().event_doorbells(), 0, "SHST is complete");
    }
}

/// As Linux has it: queues first, then the command.
#[test]
fn queues_of_before_are_events_once_their_host_stores_in_memory() {
    for shards in 1..=3 {
        for end in ["delete", "reset", "shutdown"] {
            let device = Held::new(64);
            device.release(100_000);
            let mut machine = machine(&device, shards);
            let mut driver = enabled(&mut machine);
            flush_works(&mut driver, 1);
            driver.enable_shadow_doorbells().expect("offered");
            flush_works(&mut driver, 2);
            step(&mut driver, 50);
            // Its head is told when the next completion is taken.
            let events = driver.transport().event_doorbells();
            assert!((1..=2).contains(&events), "queue 2 alone, not {events}");
            for round in 0..600 {
                flush_works(&mut driver, u16::from(round % 2 == 0) + 1);
            }
            step(&mut driver, 50);
            assert_eq!(driver.transport().event_doorbells(), 4, "{shards} shards");
            match end {
                "delete" => {
                    driver.delete_sq(1).expect("deleted");
                    driver.delete_cq(1).expect("deleted");
                    assert_eq!(driver.transport().event_doorbells(), 2);
                    flush_works(&mut driver, 2);
                    driver.create_pair(1, 16).expect("queues");
                    flush_works(&mut driver, 1);
                    assert_eq!(driver.transport().event_doorbells(), 4);
                }
                "reset" => {
                    let cc = driver.cc();
                    driver.set_cc(cc.with_en(false));
                    while csts(&mut driver).rdy() {
                        step(&mut driver, 1);
                    }
                    assert_eq!(driver.transport().event_doorbells(), 0, "RDY reads 0");
                }
                _ => {
                    driver.shutdown(Shn::Normal).expect("shut down");
                    assert_eq!(driver.transport().event_doorbells(), 0, "SHST is complete");
                }
            }
        }
    }
}

/// A tail that is seen in memory while a reset or shutdown comes, at any moment of both.
#[test]
fn no_doorbell_becomes_an_event_after_the_end() {
    for shards in 1..=3 {
        for steps in 0..12 {
            for shutdown in [false, true] {
                let device = Held::new(64);
                device.release(64);
                let mut machine = machine(&device, shards);
                let mut driver = enabled(&mut machine);
                driver.enable_shadow_doorbells().expect("offered");
                flushes(&mut driver, 2, 3);
                step(&mut driver, steps);
                let cc = driver.cc();
                if shutdown {
                    driver.set_cc(cc.with_shn(Shn::Normal));
                    while csts(&mut driver).shst() != Shst::Complete {
                        step(&mut driver, 1);
                    }
                } else {
                    driver.set_cc(cc.with_en(false));
                    while csts(&mut driver).rdy() {
                        step(&mut driver, 1);
                    }
                }
                let events = driver.transport().event_doorbells();
                assert_eq!(events, 0, "{shards} shards, after {steps}");
                step(&mut driver, 50);
                let events = driver.transport().event_doorbells();
                assert_eq!(events, 0, "{shards} shards, long after {steps}");
            }
        }
    }
}

/// A host that has the buffers for new queues and leaves its old ones as they were.
#[test]
fn queues_of_before_may_keep_to_their_registers_for_ever() {
    for shards in 1..=3 {
        let device = Held::new(64);
        device.release(100_000);
        let mut machine = machine(&device, shards);
        let mut driver = enabled(&mut machine);
        let (shadow, event) = (driver.alloc(4096).expect("memory"), driver.alloc(4096));
        let event = event.expect("memory");
        // Past the driver, which goes on with registers.
        let sqe = command::doorbell_buffer_config(shadow.address, event.address);
        driver.admin_ok(sqe).expect("on");
        for round in 0..600 {
            flush_works(&mut driver, u16::from(round % 2 == 0) + 1);
            step(&mut driver, usize::from(round % 3 == 0) * 40);
        }
        assert_eq!(driver.transport().event_doorbells(), 0);
    }
}

#[test]
fn the_buffers_are_the_hosts_again_after_a_reset_or_shutdown() {
    for shards in 1..=2 {
        for shutdown in [false, true] {
            let device = Held::new(64);
            device.release(64);
            let mut machine = machine(&device, shards);
            let (mut driver, buffers) = shadowed(&mut machine);
            flush_works(&mut driver, 1);
            flush_works(&mut driver, 2);
            let cc = driver.cc();
            if shutdown {
                driver.shutdown(Shn::Abrupt).expect("shut down");
            } else {
                driver.set_cc(cc.with_en(false));
                while csts(&mut driver).rdy() {
                    step(&mut driver, 1);
                }
            }
            guard(&mut driver, buffers);
            for qid in 0..4 {
                // Past the driver, which would store in the buffers as well.
                let transport = driver.transport();
                transport.write32(sq_tail_doorbell(qid, 0), 3);
                transport.write32(cq_head_doorbell(qid, 0), 3);
            }
            step(&mut driver, 50);
            guarded(&mut driver, buffers, "after the end");
            assert!(!csts(&mut driver).cfs());
        }
    }
}

#[test]
fn without_bus_master_the_buffers_are_neither_read_nor_written() {
    let device = Held::new(64);
    device.release(64);
    for shards in 1..=2 {
        let mut machine = machine(&device, shards);
        let (mut driver, buffers) = shadowed(&mut machine);
        flush_works(&mut driver, 2);
        let command = |driver: &mut Driver<'_, InProcess>, bits: u16| {
            let function = driver.transport().function();
            let _ = function.config_write(4, &bits.to_le_bytes());
        };
        command(&mut driver, 0x2);
        let token = flushes(&mut driver, 2, 1);
        let (_, event) = buffers.entry(sq_tail_doorbell(2, 0));
        driver.transport().mem_store32(event, 0x5555);
        step(&mut driver, 50);
        assert_eq!(driver.transport().mem_load32(event), 0x5555);
        assert_eq!(driver.try_wait(token[0]).expect("alive"), None);
        command(&mut driver, 0x6);
        driver.wait(token[0]).expect("completed");
    }
}

/// As queue memory is: a controller that cannot read its doorbells has failed.
#[test]
fn buffers_that_go_away_are_fatal_and_a_reset_mends_it() {
    for shards in 1..=2 {
        let device = Held::new(64);
        device.release(64);
        let mut machine = machine(&device, shards);
        let (mut driver, _) = shadowed(&mut machine);
        step(&mut driver, 20);
        let handle = driver.transport().memory().clone();
        let whole = vm_memory::GuestAddressSpace::memory(&handle).into_inner();
        let small = GuestRam::from_ranges(&[(GuestAddress(0), 4096)]).expect("memory");
        handle.lock().expect("no panic").replace(small);
        driver.transport().write32(sq_tail_doorbell(2, 0), 0);
        step(&mut driver, 20);
        let status = csts(&mut driver);
        assert!(status.cfs(), "{status:?}");
        handle.lock().expect("no panic").replace((*whole).clone());
        driver.reset().expect("reset");
        driver.enable(&Config::default()).expect("enabled again");
        driver.create_pair(1, 16).expect("queues");
        flush_works(&mut driver, 1);
    }
}

/// Doorbell Buffer Config and the end of the function's access to memory at once.
#[test]
fn the_command_waits_for_memory_and_every_one_of_several_completes() {
    for steps in 0..12 {
        let device = Held::new(64);
        device.release(64);
        let mut machine = machine(&device, 3);
        let mut driver = enabled(&mut machine);
        let mut tokens = Vec::new();
        for _ in 0..3 {
            let (shadow, event) = (driver.alloc(4096).expect("memory"), driver.alloc(4096));
            let event = event.expect("memory");
            let sqe = command::doorbell_buffer_config(shadow.address, event.address);
            tokens.push(driver.submit(0, sqe).expect("submitted"));
        }
        step(&mut driver, steps);
        let command = |driver: &mut Driver<'_, InProcess>, bits: u16| {
            let function = driver.transport().function();
            let _ = function.config_write(4, &bits.to_le_bytes());
        };
        command(&mut driver, 0x2);
        step(&mut driver, 30);
        command(&mut driver, 0x6);
        for token in tokens {
            let cqe = driver.wait(token).expect("completed");
            assert!(cqe.status().is_success(), "{:?}", cqe.status());
        }
    }
}
