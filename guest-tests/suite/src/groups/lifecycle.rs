//! Enabling, disabling, shutting down, and what survives.

use nvme_host::{Config, command};
use nvme_spec::feature::{Select, THSEL_UNDER, TMPSEL_COMPOSITE, TemperatureThreshold};
use nvme_spec::registers::{Register, Shn, Shst};
use nvme_spec::{FeatureId, Status};

use crate::env::IO;
use crate::{Env, Outcome, check};

group! { "lifecycle":
    ready_follows_enable, "Base 2.1 3.1.4.6",
        "CSTS.RDY becomes 1 after CC.EN is set and 0 after it is cleared, each within CAP.TO.";
    status_is_clean_when_ready, "Base 2.1 3.1.4.6",
        "After enabling, CSTS shows no fatal status and no shutdown.";
    enables_twenty_times, "Base 2.1 3.7.2",
        "A controller can be disabled and enabled again any number of times and answers each time.";
    admin_registers_survive_reset, "Base 2.1 3.7.2",
        "Clearing CC.EN does not reset AQA, ASQ and ACQ.";
    enables_again_on_the_same_registers, "Base 2.1 3.5.1",
        "After a reset the admin queues start again at entry 0 with phase 1 at the same ASQ and ACQ.";
    reset_deletes_io_queues, "Base 2.1 3.7.2",
        "A controller reset deletes all I/O queues.";
    reset_ends_memory_accesses, "Base 2.1 3.7.2",
        "Once CSTS.RDY is 0 the controller posts no completion of commands issued before.";
    reset_restores_features, "Base 2.1 3.7.2",
        "A controller reset gives features that were not saved their default values.";
    data_survives_reset, "Base 2.1 3.7.2",
        "A controller reset does not change what is stored.";
    normal_shutdown_completes, "Base 2.1 3.6.1",
        "CC.SHN = 01b leads to CSTS.SHST = 10b.";
    abrupt_shutdown_completes, "Base 2.1 3.6.1",
        "CC.SHN = 10b leads to CSTS.SHST = 10b.";
    shutdown_with_io_queues_completes, "Base 2.1 3.6.1",
        "A shutdown completes when the host deleted no I/O queue before.";
    reset_after_shutdown_clears_shst, "Base 2.1 3.6.1",
        "A controller that was shut down works again after a reset, with CSTS.SHST = 00b.";
    data_survives_shutdown, "Base 2.1 3.6.1",
        "What was written before a normal shutdown is there after it.";
    smallest_admin_queues_work, "Base 2.1 3.1.4.8",
        "Admin queues of two entries work, and wrap.";
    largest_admin_queues_work, "Base 2.1 3.1.4.8",
        "Admin queues of 4,096 entries work, and wrap.";
    unequal_admin_queues_work, "Base 2.1 3.1.4.8",
        "Admin submission and completion queues may have different sizes.";
    every_page_size_works, "Base 2.1 3.1.4.5",
        "Every CC.MPS from CAP.MPSMIN to CAP.MPSMAX can be enabled and moves data.";
}

/// A threshold no controller has by default, in kelvins.
const ODD_THRESHOLD: u16 = 211;

fn ready_follows_enable(env: &mut Env<'_>) -> Outcome {
    let config = Config::default();
    // Each waits at most as long as CAP.TO says.
    env.nvme.disable()?;
    let csts = env.nvme.csts();
    ensure!(!csts.rdy(), "CSTS.RDY is set while CC.EN is 0");
    env.nvme.enable(&config)?;
    let cc = env.nvme.cc();
    ensure!(cc.en(), "CC.EN reads as 0 while CSTS.RDY is set");
    env.nvme.disable()?;
    let cc = env.nvme.cc();
    ensure!(!cc.en(), "CC.EN reads as 1 after it was cleared");
    Ok(())
}

fn status_is_clean_when_ready(env: &mut Env<'_>) -> Outcome {
    let csts = env.nvme.csts();
    ensure!(csts.rdy(), "CSTS.RDY: expected 1, found 0");
    ensure!(!csts.cfs(), "CSTS.CFS: expected 0, found 1");
    check::equal("CSTS.SHST", csts.shst(), Shst::Normal)?;
    ensure!(!csts.pp(), "CSTS.PP: expected 0, found 1");
    Ok(())
}

fn enables_twenty_times(env: &mut Env<'_>) -> Outcome {
    for _ in 0..20 {
        env.restart(&Config::default())?;
        env.nvme
            .get_feature(FeatureId::NUMBER_OF_QUEUES, Select::Current, 0)?;
    }
    env.alive()
}

fn admin_registers_survive_reset(env: &mut Env<'_>) -> Outcome {
    let read = |env: &mut Env<'_>| {
        let transport = env.nvme.transport();
        (
            transport.read32(Register::Aqa.offset()),
            transport.read64(Register::Asq.offset()),
            transport.read64(Register::Acq.offset()),
        )
    };
    let before = read(env);
    env.nvme.disable()?;
    let after = read(env);
    check::equal_hex("AQA", after.0, before.0)?;
    check::equal_hex("ASQ", after.1, before.1)?;
    check::equal_hex("ACQ", after.2, before.2)
}

fn enables_again_on_the_same_registers(env: &mut Env<'_>) -> Outcome {
    let config = Config::default();
    env.restart(&config)?;
    for _ in 0..3 {
        env.nvme
            .get_feature(FeatureId::NUMBER_OF_QUEUES, Select::Current, 0)?;
    }
    let read = |env: &mut Env<'_>| {
        let transport = env.nvme.transport();
        let asq = transport.read64(Register::Asq.offset());
        (asq, transport.read64(Register::Acq.offset()))
    };
    let bases = read(env);
    // The driver takes the memory it just gave back, zeroed, and starts at entry 0, phase 1.
    env.restart(&config)?;
    let again = read(env);
    check::equal("ASQ and ACQ", again, bases)?;
    env.alive()
}

fn reset_deletes_io_queues(env: &mut Env<'_>) -> Outcome {
    env.io()?;
    env.restart(&Config::default())?;
    env.request_queues()?;
    let cqe = env.nvme.admin(command::delete_sq(IO))?;
    check::status(
        "deleting SQ 1 after a reset",
        cqe,
        Status::INVALID_QUEUE_IDENTIFIER,
    )?;
    let memory = env.nvme.alloc(4096)?;
    let cqe = env
        .nvme
        .admin(command::create_sq(IO, 1, memory.address, IO))?;
    check::status(
        "creating SQ 1 on CQ 1 after a reset",
        cqe,
        Status::COMPLETION_QUEUE_INVALID,
    )?;
    // Identifiers in use would be refused.
    env.io()?;
    env.alive()
}

fn reset_ends_memory_accesses(env: &mut Env<'_>) -> Outcome {
    let ns = env.ns()?;
    env.io()?;
    let (sqe, buffer) = env.cheap_read(ns)?;
    for _ in 0..env.nvme.sq_room(IO).unwrap_or(0) {
        env.nvme.enqueue_data(IO, sqe, buffer)?;
    }
    let queue = env.nvme.cq_memory(IO).unwrap_or_default();
    env.nvme.ring(IO)?;
    env.nvme.disable()?;
    let before = env.copy_out(queue);
    env.settle();
    let after = env.copy_out(queue);
    check::same_bytes("completion queue after CSTS.RDY = 0", &after, &before)?;
    env.alive_after_reset()
}

fn reset_restores_features(env: &mut Env<'_>) -> Outcome {
    let fid = FeatureId::TEMPERATURE_THRESHOLD;
    let under = TemperatureThreshold::new()
        .with_tmpsel(TMPSEL_COMPOSITE)
        .with_thsel(THSEL_UNDER);
    let default = env.nvme.get_feature(fid, Select::Current, under.into())?;
    env.nvme
        .set_feature(fid, under.with_tmpth(ODD_THRESHOLD).into())?;
    env.restart(&Config::default())?;
    let after = env.nvme.get_feature(fid, Select::Current, under.into())?;
    // A controller that fails here must not fail other tests for it.
    env.nvme.set_feature(fid, under.into())?;
    check::equal_hex("under temperature threshold after a reset", after, default)
}

fn data_survives_reset(env: &mut Env<'_>) -> Outcome {
    let ns = env.ns()?;
    env.io()?;
    let slba = env.area(ns, 1)?;
    env.write_pattern(ns, slba, 1, 0x11)?;
    env.restart(&Config::default())?;
    env.request_queues()?;
    env.io()?;
    env.expect_pattern(ns, slba, 1, 0x11)
}

fn shut_down(env: &mut Env<'_>, shn: Shn) -> Outcome {
    let csts = env.nvme.csts();
    check::equal("CSTS.SHST before a shutdown", csts.shst(), Shst::Normal)?;
    env.nvme.shutdown(shn)?;
    let csts = env.nvme.csts();
    ensure!(!csts.cfs(), "CSTS.CFS is set after the shutdown");
    Ok(())
}

fn normal_shutdown_completes(env: &mut Env<'_>) -> Outcome {
    shut_down(env, Shn::Normal)
}

fn abrupt_shutdown_completes(env: &mut Env<'_>) -> Outcome {
    shut_down(env, Shn::Abrupt)
}

fn shutdown_with_io_queues_completes(env: &mut Env<'_>) -> Outcome {
    let ns = env.ns()?;
    env.io()?;
    env.write_pattern(ns, env.area(ns, 1)?, 1, 0x12)?;
    shut_down(env, Shn::Normal)
}

fn reset_after_shutdown_clears_shst(env: &mut Env<'_>) -> Outcome {
    for shn in [Shn::Normal, Shn::Abrupt] {
        env.nvme.shutdown(shn)?;
        env.restart(&Config::default())?;
        let csts = env.nvme.csts();
        check::equal("CSTS.SHST after a reset", csts.shst(), Shst::Normal)?;
    }
    env.alive_after_reset()
}

fn data_survives_shutdown(env: &mut Env<'_>) -> Outcome {
    let ns = env.ns()?;
    env.io()?;
    let slba = env.area(ns, 1)?;
    env.write_pattern(ns, slba, 1, 0x13)?;
    env.nvme.shutdown(Shn::Normal)?;
    env.restart(&Config::default())?;
    env.request_queues()?;
    env.io()?;
    env.expect_pattern(ns, slba, 1, 0x13)
}

/// Issues `count` commands one after another on the admin queue.
fn admin_commands(env: &mut Env<'_>, count: u32) -> Outcome {
    for _ in 0..count {
        env.nvme
            .get_feature(FeatureId::NUMBER_OF_QUEUES, Select::Current, 0)?;
    }
    Ok(())
}

fn smallest_admin_queues_work(env: &mut Env<'_>) -> Outcome {
    env.restart(&Config {
        admin_sq_entries: 2,
        admin_cq_entries: 2,
        ..Config::default()
    })?;
    admin_commands(env, 9)?;
    env.alive()
}

fn largest_admin_queues_work(env: &mut Env<'_>) -> Outcome {
    const ENTRIES: u32 = 4096;
    env.restart(&Config {
        admin_sq_entries: ENTRIES,
        admin_cq_entries: ENTRIES,
        ..Config::default()
    })?;
    let (first, _) = env.nvme.cq_head(0).unwrap_or_default();
    let sqe = command::get_features(FeatureId::NUMBER_OF_QUEUES, Select::Current);
    let mut last = None;
    for _ in 1..ENTRIES {
        last = Some(env.nvme.enqueue(0, sqe)?);
    }
    env.nvme.ring(0)?;
    if let Some(token) = last {
        env.nvme.wait(token)?;
    }
    // The queues' last entry, and around.
    admin_commands(env, 3)?;
    let outstanding = env.nvme.outstanding(0);
    check::equal("commands without a completion", outstanding, 0)?;
    let head = env.nvme.cq_head(0);
    check::equal(
        "completion queue head and phase",
        head,
        Some((first + 2, false)),
    )?;
    env.alive()
}

fn unequal_admin_queues_work(env: &mut Env<'_>) -> Outcome {
    for (admin_sq_entries, admin_cq_entries) in [(2, 17), (17, 2), (5, 3)] {
        env.restart(&Config {
            admin_sq_entries,
            admin_cq_entries,
            ..Config::default()
        })?;
        let sqe = command::get_features(FeatureId::NUMBER_OF_QUEUES, Select::Current);
        for _ in 0..3 {
            let mut tokens = alloc::vec::Vec::new();
            for _ in 1..admin_sq_entries {
                tokens.push(env.nvme.submit(0, sqe)?);
            }
            for token in tokens {
                env.nvme.wait(token)?;
            }
        }
    }
    env.alive()
}

fn every_page_size_works(env: &mut Env<'_>) -> Outcome {
    let ns = env.ns()?;
    let cap = env.context.cap;
    // 64 KiB is the most that memory is aligned to here.
    let mut tried = 0;
    for mps in cap.mpsmin()..=cap.mpsmax().min(4) {
        env.restart(&Config {
            mps: Some(mps),
            ..Config::default()
        })?;
        let page = env.nvme.page_bytes();
        env.request_queues()?;
        env.io()?;
        // Three pages, so that a list is needed, or as much as one command may carry.
        let blocks = (3 * page).div_ceil(ns.block_bytes);
        let blocks = blocks.clamp(1, env.max_blocks(ns));
        let slba = env.area(ns, blocks)?;
        env.write_pattern(ns, slba, blocks, page)?;
        env.expect_pattern(ns, slba, blocks, page)?;
        tried += 1;
    }
    require!(
        tried != 0,
        "CAP.MPSMIN {} is beyond 64 KiB pages",
        cap.mpsmin()
    );
    Ok(())
}
