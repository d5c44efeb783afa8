//! Doorbell Buffer Config: tails and heads in memory.

use nvme_host::{Config, CqConfig, ShadowDoorbells, SqConfig, command, passes_event};
use nvme_spec::identify::OACS_DOORBELL_BUFFER_CONFIG;
use nvme_spec::registers::sq_tail_doorbell;
use nvme_spec::{Cns, Status};

use super::doorbells::{flush, silent};
use crate::env::IO;
use crate::{Env, Outcome, check};

group! { "shadow":
    command_is_there_as_advertised, "Base 2.1 5.2.5",
        "Doorbell Buffer Config works if OACS bit 8 is set, and is refused as an opcode if it is clear.";
    misaligned_buffers_are_refused, "Base 2.1 5.2.5",
        "A Shadow Doorbell or EventIdx buffer that does not begin at a memory page is refused with Invalid Field.";
    buffers_nowhere_are_refused, "Base 2.1 5.2.5",
        "A Shadow Doorbell or EventIdx buffer that is not memory is refused with Invalid Field.";
    ring_is_asked_for_after_a_pause, "Base 2.1 B.5",
        "A controller that does not look at the tail asks for the doorbell by the event index: no command is lost.";
    tail_in_memory_wraps, "Base 2.1 B.5",
        "Tails in memory go around the ring as those in registers, and so do event indexes.";
    head_in_memory_frees_entries, "Base 2.1 B.5",
        "A head in memory, rung if the event index asks for it, lets a full completion queue go on.";
    rings_nobody_asked_for_are_harmless, "Base 2.1 B.5",
        "Writing a doorbell with the value in memory though the event index does not ask for it changes nothing.";
    two_submission_queues_share_a_completion_queue, "Base 2.1 B.5",
        "Submission queues of one completion queue have a tail in memory each.";
    queue_made_before_is_turned, "Base 2.1 5.2.5",
        "A queue made before the command takes its tail and head from memory after it.";
    queue_made_anew_starts_at_0, "Base 2.1 B.5",
        "A queue that has the identifier of a deleted one starts with a tail and head of 0 in memory.";
    moves_to_other_buffers, "Base 2.1 5.2.5",
        "The command given again moves every queue's tail and head to the new buffers.";
    admin_queue_keeps_its_registers, "Base 2.1 B.5",
        "The admin queue is served by its registers, whatever lies in memory for it.";
    admin_queue_has_entries, "Base 2.1 B.5",
        "The admin queue is served by its tail in memory, rung if the event index asks for it.";
    reset_turns_it_off, "Base 2.1 5.2.5",
        "After a controller reset doorbells are registers again, and the buffers are not written.";
}

/// Skips the test unless the command is offered.
fn offered(env: &Env<'_>) -> Outcome {
    let offered = env.context.controller.oacs & OACS_DOORBELL_BUFFER_CONFIG != 0;
    require!(offered, "OACS does not offer Doorbell Buffer Config");
    Ok(())
}

/// Turns shadow doorbells on, unless all tests have them.
fn on(env: &mut Env<'_>) -> Outcome<ShadowDoorbells> {
    offered(env)?;
    if env.nvme.shadow_doorbells().is_none() {
        env.nvme.enable_shadow_doorbells()?;
    }
    match env.nvme.shadow_doorbells() {
        Some(buffers) => Ok(buffers),
        None => fail!("shadow doorbells are off"),
    }
}

/// The controller as it comes out of a reset, even if all tests have shadow doorbells.
fn off(env: &mut Env<'_>) -> Outcome {
    offered(env)?;
    env.nvme.set_shadow_doorbells(false);
    env.restart(&Config::default())?;
    Ok(env.request_queues()?)
}

/// Submits commands one by one, each once the controller has come to rest.
fn one_by_one(env: &mut Env<'_>, sqid: u16, count: u16) -> Outcome {
    let sqe = flush(env, 0)?;
    for _ in 0..count {
        env.settle();
        let token = env.nvme.submit(sqid, sqe)?;
        let cqe = env.nvme.wait(token)?;
        check::status("Flush", cqe, Status::SUCCESS)?;
    }
    Ok(())
}

fn command_is_there_as_advertised(env: &mut Env<'_>) -> Outcome {
    let offered = env.context.controller.oacs & OACS_DOORBELL_BUFFER_CONFIG != 0;
    if offered {
        on(env)?;
        env.io()?;
        return env.alive();
    }
    let page = env.nvme.page_bytes();
    let buffers = env.nvme.alloc(2 * page)?;
    let sqe = command::doorbell_buffer_config(buffers.address, buffers.address + page);
    let cqe = env.nvme.admin(sqe)?;
    check::status("without OACS bit 8", cqe, Status::INVALID_OPCODE)
}

fn misaligned_buffers_are_refused(env: &mut Env<'_>) -> Outcome {
    off(env)?;
    let page = env.nvme.page_bytes();
    let (one, other) = (env.nvme.alloc(2 * page)?, env.nvme.alloc(2 * page)?);
    for offset in [4, 64, page / 2, page - 4] {
        for (prp1, prp2) in [(offset, 0), (0, offset), (offset, offset)] {
            let sqe = command::doorbell_buffer_config(one.address + prp1, other.address + prp2);
            let cqe = env.nvme.admin(sqe)?;
            let what = alloc::format!("offsets {prp1:#x} and {prp2:#x}");
            check::status(&what, cqe, Status::INVALID_FIELD)?;
        }
    }
    // Nothing has changed.
    env.io()?;
    env.alive()
}

fn buffers_nowhere_are_refused(env: &mut Env<'_>) -> Outcome {
    off(env)?;
    let buffer = env.nvme.alloc(env.nvme.page_bytes())?;
    let nowhere = env.nvme.transport().memory_end();
    for (prp1, prp2) in [(nowhere, buffer.address), (buffer.address, nowhere)] {
        let cqe = env
            .nvme
            .admin(command::doorbell_buffer_config(prp1, prp2))?;
        let what = alloc::format!("buffers at {prp1:#x} and {prp2:#x}");
        check::status(&what, cqe, Status::INVALID_FIELD)?;
    }
    env.io()?;
    env.alive()
}

fn ring_is_asked_for_after_a_pause(env: &mut Env<'_>) -> Outcome {
    on(env)?;
    env.io_sized(4, 4)?;
    one_by_one(env, IO, 12)
}

fn tail_in_memory_wraps(env: &mut Env<'_>) -> Outcome {
    on(env)?;
    env.io_sized(5, 7)?;
    let sqe = flush(env, 0)?;
    // Batches that cross the rings' ends at different places, some after a pause.
    for (round, batch) in [4, 3, 4, 2, 1, 4, 4, 1, 3, 4].into_iter().enumerate() {
        if round % 3 == 0 {
            env.settle();
        }
        let mut tokens = alloc::vec::Vec::new();
        for _ in 0..batch {
            tokens.push(env.nvme.enqueue(IO, sqe)?);
        }
        env.nvme.ring(IO)?;
        for token in tokens {
            env.nvme.wait(token)?;
        }
    }
    Ok(())
}

fn head_in_memory_frees_entries(env: &mut Env<'_>) -> Outcome {
    on(env)?;
    env.io_sized(32, 4)?;
    let sqe = flush(env, 0)?;
    for cid in 0..20 {
        env.nvme.push(IO, &nvme_spec::Sqe { cid, ..sqe })?;
    }
    env.nvme.ring(IO)?;
    let mut cids = alloc::vec::Vec::new();
    while cids.len() < 18 {
        for _ in 0..3 {
            cids.push(env.nvme.wait_any(IO)?.cid);
        }
        silent(env, IO, "the completion queue is full")?;
        env.nvme.ack(IO)?;
    }
    while cids.len() < 20 {
        cids.push(env.nvme.wait_any(IO)?.cid);
        env.nvme.ack(IO)?;
    }
    cids.sort_unstable();
    check::equal("identifiers completed", cids, (0..20).collect())
}

fn rings_nobody_asked_for_are_harmless(env: &mut Env<'_>) -> Outcome {
    on(env)?;
    env.io_sized(8, 8)?;
    let sqe = flush(env, 0)?;
    for round in 0..9 {
        let token = env.nvme.submit(IO, sqe)?;
        let tail = env.nvme.sq_tail(IO).unwrap_or_default();
        env.nvme.write_sq_doorbell(IO, tail);
        env.nvme.wait(token)?;
        let (head, _) = env.nvme.cq_head(IO).unwrap_or_default();
        env.nvme.write_cq_doorbell(IO, head);
        if round % 4 == 0 {
            silent(env, IO, "a ring nobody asked for")?;
        }
    }
    silent(env, IO, "rings nobody asked for")
}

fn two_submission_queues_share_a_completion_queue(env: &mut Env<'_>) -> Outcome {
    env.need_submission_queues(2)?;
    env.need_entries(8)?;
    on(env)?;
    env.nvme.create_cq(&CqConfig::new(IO, 8))?;
    for sqid in [IO, IO + 1] {
        env.nvme.create_sq(&SqConfig::new(sqid, IO, 4))?;
    }
    let sqe = flush(env, 0)?;
    for round in 0..12 {
        let first = env.nvme.submit(IO, sqe)?;
        if round % 4 == 0 {
            env.settle();
        }
        let second = env.nvme.submit(IO + 1, sqe)?;
        env.nvme.wait(second)?;
        env.nvme.wait(first)?;
    }
    one_by_one(env, IO + 1, 5)
}

fn queue_made_before_is_turned(env: &mut Env<'_>) -> Outcome {
    off(env)?;
    env.io_sized(8, 8)?;
    one_by_one(env, IO, 5)?;
    on(env)?;
    one_by_one(env, IO, 10)
}

fn queue_made_anew_starts_at_0(env: &mut Env<'_>) -> Outcome {
    on(env)?;
    for count in [3, 6, 1, 9] {
        env.io_sized(8, 8)?;
        one_by_one(env, IO, count)?;
        env.nvme.delete_sq(IO)?;
        env.nvme.delete_cq(IO)?;
    }
    Ok(())
}

fn moves_to_other_buffers(env: &mut Env<'_>) -> Outcome {
    on(env)?;
    env.io_sized(8, 8)?;
    for _ in 0..3 {
        one_by_one(env, IO, 5)?;
        env.nvme.enable_shadow_doorbells()?;
    }
    one_by_one(env, IO, 10)
}

fn admin_queue_keeps_its_registers(env: &mut Env<'_>) -> Outcome {
    let buffers = on(env)?;
    // More than the admin queues' 32 entries, so that heads are told too.
    for round in 0..70 {
        if round % 16 == 0 {
            env.settle();
        }
        env.nvme.identify_controller()?;
    }
    let (entry, _) = buffers.entry(sq_tail_doorbell(0, env.nvme.cap().dstrd()));
    let written = env.nvme.transport().mem_load32(entry);
    let most = env.nvme.sq_memory(0).map_or(0, |memory| memory.bytes / 64);
    ensure!(
        u64::from(written) < most,
        "the admin queue's entry holds {written:#x}, beyond its queue"
    );
    env.io()?;
    env.alive()
}

fn admin_queue_has_entries(env: &mut Env<'_>) -> Outcome {
    let buffers = on(env)?;
    let page = env.nvme.alloc(nvme_spec::IDENTIFY_BYTES as u64)?;
    let register = sq_tail_doorbell(0, env.nvme.cap().dstrd());
    let (entry, event) = buffers.entry(register);
    for cid in 0..8 {
        env.settle();
        let sqe = nvme_spec::Sqe {
            cid: 0x100 + cid,
            prp1: page.address,
            ..command::identify(Cns::CONTROLLER, 0)
        };
        env.nvme.push(0, &sqe)?;
        let tail = env.nvme.sq_tail(0).unwrap_or_default();
        let transport = env.nvme.transport();
        // The driver told its tails by the register so far; here it is the entry that changes.
        let told = transport.mem_load32(entry);
        transport.mem_store32(entry, tail);
        transport.barrier();
        if passes_event(transport.mem_load32(event), told, tail) {
            transport.write32(register, tail);
        }
        let cqe = env.nvme.wait_any(0)?;
        check::equal("the identifier completed", cqe.cid, sqe.cid)?;
    }
    Ok(())
}

fn reset_turns_it_off(env: &mut Env<'_>) -> Outcome {
    off(env)?;
    // Buffers of the test's own, which the driver does not use for anything else.
    let page = env.nvme.page_bytes();
    let (shadow, event) = (env.nvme.alloc(page)?, env.nvme.alloc(page)?);
    let sqe = command::doorbell_buffer_config(shadow.address, event.address);
    env.nvme.admin_ok(sqe)?;
    env.io()?;
    env.settle();
    env.nvme.disable()?;
    for buffer in [shadow, event] {
        env.guard(buffer);
    }
    env.nvme.enable(&Config::default())?;
    env.request_queues()?;
    env.io()?;
    one_by_one(env, IO, 40)?;
    env.guarded("the Shadow Doorbell buffer of before", shadow)?;
    env.guarded("the EventIdx buffer of before", event)
}
