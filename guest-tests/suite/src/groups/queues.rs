//! Creating and deleting I/O queues: each check and its status.

use nvme_host::{CqConfig, SqConfig, command};
use nvme_spec::queue::{CreateCqCdw11, CreateSqCdw11};
use nvme_spec::{Cqe, Sqe, Status};

use crate::env::IO;
use crate::{Env, Outcome, check};

group! { "queues":
    create_cq_refuses_identifier_0, "Base 2.1 5.2.1",
        "Create I/O Completion Queue with QID 0 completes with Invalid Queue Identifier.";
    create_cq_refuses_identifier_in_use, "Base 2.1 5.2.1",
        "Create I/O Completion Queue with a QID in use completes with Invalid Queue Identifier.";
    create_cq_refuses_identifier_beyond_granted, "Base 2.1 5.2.1",
        "Create I/O Completion Queue beyond the queues granted completes with Invalid Queue Identifier.";
    create_cq_refuses_size_0, "Base 2.1 5.2.1",
        "Create I/O Completion Queue with QSIZE 0 completes with Invalid Queue Size.";
    create_cq_refuses_size_beyond_mqes, "Base 2.1 5.2.1",
        "Create I/O Completion Queue with QSIZE above CAP.MQES completes with Invalid Queue Size.";
    create_cq_refuses_vector_beyond, "Base 2.1 5.2.1",
        "Create I/O Completion Queue with an interrupt vector that is not there completes with Invalid Interrupt Vector.";
    create_cq_refuses_prp_offset, "Base 2.1 5.2.1",
        "Create I/O Completion Queue with a base that is not page-aligned completes with PRP Offset Invalid.";
    create_cq_refuses_scattered_memory, "Base 2.1 5.2.1",
        "Where CAP.CQR is 1, Create I/O Completion Queue with PC = 0 completes with Invalid Field in Command.";
    create_sq_refuses_identifier_0, "Base 2.1 5.2.2",
        "Create I/O Submission Queue with QID 0 completes with Invalid Queue Identifier.";
    create_sq_refuses_identifier_in_use, "Base 2.1 5.2.2",
        "Create I/O Submission Queue with a QID in use completes with Invalid Queue Identifier.";
    create_sq_refuses_identifier_beyond_granted, "Base 2.1 5.2.2",
        "Create I/O Submission Queue beyond the queues granted completes with Invalid Queue Identifier.";
    create_sq_refuses_size_0, "Base 2.1 5.2.2",
        "Create I/O Submission Queue with QSIZE 0 completes with Invalid Queue Size.";
    create_sq_refuses_size_beyond_mqes, "Base 2.1 5.2.2",
        "Create I/O Submission Queue with QSIZE above CAP.MQES completes with Invalid Queue Size.";
    create_sq_refuses_prp_offset, "Base 2.1 5.2.2",
        "Create I/O Submission Queue with a base that is not page-aligned completes with PRP Offset Invalid.";
    create_sq_refuses_scattered_memory, "Base 2.1 5.2.2",
        "Where CAP.CQR is 1, Create I/O Submission Queue with PC = 0 completes with Invalid Field in Command.";
    create_sq_refuses_admin_cq, "Base 2.1 5.2.2",
        "Create I/O Submission Queue on completion queue 0 is refused.";
    create_sq_refuses_missing_cq, "Base 2.1 5.2.2",
        "Create I/O Submission Queue on a completion queue that was not created completes with Completion Queue Invalid or Invalid Queue Identifier.";
    create_sq_accepts_every_priority, "Base 2.1 5.2.2",
        "QPRIO has no effect under round robin.";
    refused_create_leaves_no_queue, "Base 2.1 5.2.1",
        "A refused create leaves its identifier free.";
    delete_cq_refuses_bound_sq, "Base 2.1 5.2.3",
        "Delete I/O Completion Queue with a submission queue bound completes with Invalid Queue Deletion, and the queues go on working.";
    delete_cq_refuses_unknown, "Base 2.1 5.2.3",
        "Delete I/O Completion Queue of QID 0 or of no queue completes with Invalid Queue Identifier.";
    delete_sq_refuses_unknown, "Base 2.1 5.2.4",
        "Delete I/O Submission Queue of QID 0 or of no queue completes with Invalid Queue Identifier.";
    deleted_queue_is_gone, "Base 2.1 5.2.4",
        "A queue that was deleted cannot be deleted again.";
    delete_sq_with_commands_queued, "Base 2.1 5.2.4",
        "Delete I/O Submission Queue succeeds with commands queued; none of them completes after it.";
    recreates_twenty_times, "Base 2.1 3.3.1.1",
        "Queues can be deleted and created again with the same identifiers any number of times.";
    highest_identifier_works, "Base 2.1 5.2.1",
        "Identifiers need not be used in order: the highest one granted works alone.";
    unequal_identifiers_work, "Base 2.1 5.2.2",
        "A submission queue may be bound to a completion queue of another identifier.";
}

/// The fewest entries, which every controller takes.
const ENTRIES: u32 = 2;
const QSIZE_Z: u16 = 1;

fn create_cq(env: &mut Env<'_>, qid: u16, qsize_z: u16) -> Outcome<Cqe> {
    let memory = env.nvme.alloc(4096)?;
    Ok(env
        .nvme
        .admin(command::create_cq(qid, qsize_z, memory.address, None))?)
}

fn create_sq(env: &mut Env<'_>, qid: u16, qsize_z: u16, cqid: u16) -> Outcome<Cqe> {
    let memory = env.nvme.alloc(4096)?;
    Ok(env
        .nvme
        .admin(command::create_sq(qid, qsize_z, memory.address, cqid))?)
}

/// The first identifier beyond `granted` queues.
fn beyond(granted: u32) -> Outcome<u16> {
    match u16::try_from(granted + 1) {
        Ok(qid) => Ok(qid),
        Err(_) => skip!("every queue identifier was granted"),
    }
}

/// The first QSIZE beyond CAP.MQES.
fn too_large(env: &Env<'_>) -> Outcome<u16> {
    match env.context.cap.mqes_z().checked_add(1) {
        Some(qsize_z) => Ok(qsize_z),
        None => skip!("CAP.MQES allows every size"),
    }
}

fn create_cq_refuses_identifier_0(env: &mut Env<'_>) -> Outcome {
    let cqe = create_cq(env, 0, QSIZE_Z)?;
    check::status("QID 0", cqe, Status::INVALID_QUEUE_IDENTIFIER)
}

fn create_cq_refuses_identifier_in_use(env: &mut Env<'_>) -> Outcome {
    env.io()?;
    let cqe = create_cq(env, IO, QSIZE_Z)?;
    check::status("a QID in use", cqe, Status::INVALID_QUEUE_IDENTIFIER)?;
    env.alive()
}

fn create_cq_refuses_identifier_beyond_granted(env: &mut Env<'_>) -> Outcome {
    let granted = env.context.found.completion_queues;
    let cqe = create_cq(env, beyond(granted)?, QSIZE_Z)?;
    check::status("a QID beyond", cqe, Status::INVALID_QUEUE_IDENTIFIER)
}

fn create_cq_refuses_size_0(env: &mut Env<'_>) -> Outcome {
    let cqe = create_cq(env, IO, 0)?;
    check::status("QSIZE 0", cqe, Status::INVALID_QUEUE_SIZE)
}

fn create_cq_refuses_size_beyond_mqes(env: &mut Env<'_>) -> Outcome {
    let cqe = create_cq(env, IO, too_large(env)?)?;
    check::status("QSIZE above MQES", cqe, Status::INVALID_QUEUE_SIZE)
}

fn create_cq_refuses_vector_beyond(env: &mut Env<'_>) -> Outcome {
    env.need_vectors(1)?;
    let memory = env.nvme.alloc(4096)?;
    // MSI-X has at most 2,048 vectors.
    for vector in [2048, u16::MAX] {
        let sqe = command::create_cq(IO, QSIZE_Z, memory.address, Some(vector));
        let cqe = env.nvme.admin(sqe)?;
        check::status("a vector beyond", cqe, Status::INVALID_INTERRUPT_VECTOR)?;
    }
    Ok(())
}

/// A create command whose base lies off its page.
fn misaligned(sqe: Sqe, env: &mut Env<'_>) -> Outcome {
    for offset in [8, 64, env.nvme.page_bytes() - 4] {
        let sqe = Sqe {
            prp1: sqe.prp1 + offset,
            ..sqe
        };
        let cqe = env.nvme.admin(sqe)?;
        check::status("a base off its page", cqe, Status::INVALID_PRP_OFFSET)?;
    }
    Ok(())
}

fn create_cq_refuses_prp_offset(env: &mut Env<'_>) -> Outcome {
    let memory = env.nvme.alloc(2 * env.nvme.page_bytes())?;
    misaligned(command::create_cq(IO, QSIZE_Z, memory.address, None), env)
}

fn create_cq_refuses_scattered_memory(env: &mut Env<'_>) -> Outcome {
    require!(env.context.cap.cqr(), "CAP.CQR is 0: PC = 0 is allowed");
    let memory = env.nvme.alloc(4096)?;
    let sqe = command::create_cq(IO, QSIZE_Z, memory.address, None);
    let sqe = Sqe {
        cdw11: CreateCqCdw11::from(sqe.cdw11).with_pc(false).into(),
        ..sqe
    };
    let cqe = env.nvme.admin(sqe)?;
    check::status("PC = 0", cqe, Status::INVALID_FIELD)
}

fn create_sq_refuses_identifier_0(env: &mut Env<'_>) -> Outcome {
    env.nvme.create_cq(&CqConfig::new(IO, ENTRIES))?;
    let cqe = create_sq(env, 0, QSIZE_Z, IO)?;
    check::status("QID 0", cqe, Status::INVALID_QUEUE_IDENTIFIER)
}

fn create_sq_refuses_identifier_in_use(env: &mut Env<'_>) -> Outcome {
    env.io()?;
    let cqe = create_sq(env, IO, QSIZE_Z, IO)?;
    check::status("a QID in use", cqe, Status::INVALID_QUEUE_IDENTIFIER)?;
    env.alive()
}

fn create_sq_refuses_identifier_beyond_granted(env: &mut Env<'_>) -> Outcome {
    env.nvme.create_cq(&CqConfig::new(IO, ENTRIES))?;
    let granted = env.context.found.submission_queues;
    let cqe = create_sq(env, beyond(granted)?, QSIZE_Z, IO)?;
    check::status("a QID beyond", cqe, Status::INVALID_QUEUE_IDENTIFIER)
}

fn create_sq_refuses_size_0(env: &mut Env<'_>) -> Outcome {
    env.nvme.create_cq(&CqConfig::new(IO, ENTRIES))?;
    let cqe = create_sq(env, IO, 0, IO)?;
    check::status("QSIZE 0", cqe, Status::INVALID_QUEUE_SIZE)
}

fn create_sq_refuses_size_beyond_mqes(env: &mut Env<'_>) -> Outcome {
    let qsize_z = too_large(env)?;
    env.nvme.create_cq(&CqConfig::new(IO, ENTRIES))?;
    let cqe = create_sq(env, IO, qsize_z, IO)?;
    check::status("QSIZE above MQES", cqe, Status::INVALID_QUEUE_SIZE)
}

fn create_sq_refuses_prp_offset(env: &mut Env<'_>) -> Outcome {
    env.nvme.create_cq(&CqConfig::new(IO, ENTRIES))?;
    let memory = env.nvme.alloc(2 * env.nvme.page_bytes())?;
    misaligned(command::create_sq(IO, QSIZE_Z, memory.address, IO), env)
}

fn create_sq_refuses_scattered_memory(env: &mut Env<'_>) -> Outcome {
    require!(env.context.cap.cqr(), "CAP.CQR is 0: PC = 0 is allowed");
    env.nvme.create_cq(&CqConfig::new(IO, ENTRIES))?;
    let memory = env.nvme.alloc(4096)?;
    let sqe = command::create_sq(IO, QSIZE_Z, memory.address, IO);
    let sqe = Sqe {
        cdw11: CreateSqCdw11::from(sqe.cdw11).with_pc(false).into(),
        ..sqe
    };
    let cqe = env.nvme.admin(sqe)?;
    check::status("PC = 0", cqe, Status::INVALID_FIELD)
}

/// The statuses of a CQID that is no I/O completion queue: which one is a "should".
fn bad_cqid(what: &str, cqe: Cqe) -> Outcome {
    check::one_of(
        what,
        cqe,
        &[
            Status::COMPLETION_QUEUE_INVALID,
            Status::INVALID_QUEUE_IDENTIFIER,
        ],
    )
}

fn create_sq_refuses_admin_cq(env: &mut Env<'_>) -> Outcome {
    let cqe = create_sq(env, IO, QSIZE_Z, 0)?;
    bad_cqid("CQID 0", cqe)
}

fn create_sq_refuses_missing_cq(env: &mut Env<'_>) -> Outcome {
    let cqe = create_sq(env, IO, QSIZE_Z, IO)?;
    bad_cqid("a CQID never created", cqe)?;
    env.nvme.create_cq(&CqConfig::new(IO, ENTRIES))?;
    env.nvme.delete_cq(IO)?;
    let cqe = create_sq(env, IO, QSIZE_Z, IO)?;
    bad_cqid("a CQID deleted", cqe)
}

fn create_sq_accepts_every_priority(env: &mut Env<'_>) -> Outcome {
    env.nvme.create_cq(&CqConfig::new(IO, ENTRIES))?;
    for qprio in 0..4 {
        env.nvme.create_sq(&SqConfig {
            qprio,
            ..SqConfig::new(IO, IO, ENTRIES)
        })?;
        env.alive()?;
        env.nvme.delete_sq(IO)?;
    }
    Ok(())
}

fn refused_create_leaves_no_queue(env: &mut Env<'_>) -> Outcome {
    let cqe = create_cq(env, IO, 0)?;
    check::refused("QSIZE 0", cqe)?;
    let cqe = env.nvme.admin(command::delete_cq(IO))?;
    check::refused("deleting what was refused", cqe)?;
    env.nvme.create_cq(&CqConfig::new(IO, ENTRIES))?;
    let cqe = create_sq(env, IO, 0, IO)?;
    check::refused("QSIZE 0", cqe)?;
    env.nvme.create_sq(&SqConfig::new(IO, IO, ENTRIES))?;
    env.alive()
}

fn delete_cq_refuses_bound_sq(env: &mut Env<'_>) -> Outcome {
    env.io()?;
    let cqe = env.nvme.admin(command::delete_cq(IO))?;
    check::status("with an SQ bound", cqe, Status::INVALID_QUEUE_DELETION)?;
    env.alive()?;
    env.nvme.delete_sq(IO)?;
    Ok(env.nvme.delete_cq(IO)?)
}

fn delete_cq_refuses_unknown(env: &mut Env<'_>) -> Outcome {
    for qid in [0, IO, u16::MAX] {
        let cqe = env.nvme.admin(command::delete_cq(qid))?;
        check::status("no such queue", cqe, Status::INVALID_QUEUE_IDENTIFIER)?;
    }
    Ok(())
}

fn delete_sq_refuses_unknown(env: &mut Env<'_>) -> Outcome {
    for qid in [0, IO, u16::MAX] {
        let cqe = env.nvme.admin(command::delete_sq(qid))?;
        check::status("no such queue", cqe, Status::INVALID_QUEUE_IDENTIFIER)?;
    }
    Ok(())
}

fn deleted_queue_is_gone(env: &mut Env<'_>) -> Outcome {
    env.io()?;
    env.nvme.delete_sq(IO)?;
    let cqe = env.nvme.admin(command::delete_sq(IO))?;
    check::refused("deleting an SQ again", cqe)?;
    env.nvme.delete_cq(IO)?;
    let cqe = env.nvme.admin(command::delete_cq(IO))?;
    check::refused("deleting a CQ again", cqe)
}

fn delete_sq_with_commands_queued(env: &mut Env<'_>) -> Outcome {
    let ns = env.ns()?;
    for _ in 0..4 {
        env.io()?;
        let (sqe, buffer) = env.cheap_read(ns)?;
        for _ in 0..env.nvme.sq_room(IO).unwrap_or(0) {
            env.nvme.enqueue_data(IO, sqe, buffer)?;
        }
        env.nvme.ring(IO)?;
        env.nvme.delete_sq(IO)?;
        // What completed, completed before the delete did; each with success or aborted.
        while let Some(cqe) = env.nvme.poll(IO)? {
            check::equal("SQID of a completion", cqe.sqid, IO)?;
            check::one_of(
                "a command of the deleted queue",
                cqe,
                &[Status::SUCCESS, Status::ABORTED_SQ_DELETION],
            )?;
        }
        env.nvme.ack(IO)?;
        env.settle();
        let late = env.nvme.peek(IO)?;
        ensure!(
            late.is_none(),
            "a completion came after the queue was deleted: {late:?}"
        );
        env.nvme.delete_cq(IO)?;
    }
    env.io()?;
    env.alive()
}

fn recreates_twenty_times(env: &mut Env<'_>) -> Outcome {
    let ns = env.ns()?;
    let buffer = env.nvme.alloc(ns.block_bytes)?;
    for round in 0..20_u32 {
        // Different sizes, so that nothing of the old queue fits the new one.
        let entries = 2 + round % 5;
        env.io_sized(entries, entries + 1)?;
        for _ in 0..entries {
            env.nvme.read(IO, ns.nsid, 0, 1, buffer)?;
        }
        env.nvme.delete_sq(IO)?;
        env.nvme.delete_cq(IO)?;
    }
    Ok(())
}

fn highest_identifier_works(env: &mut Env<'_>) -> Outcome {
    let ns = env.ns()?;
    env.need_pairs(2)?;
    let qid = u16::try_from(env.pairs()).unwrap_or(u16::MAX);
    env.nvme.create_pair(qid, ENTRIES)?;
    let buffer = env.nvme.alloc(ns.block_bytes)?;
    for _ in 0..2 * ENTRIES {
        env.nvme.read(qid, ns.nsid, 0, 1, buffer)?;
    }
    Ok(())
}

fn unequal_identifiers_work(env: &mut Env<'_>) -> Outcome {
    let ns = env.ns()?;
    env.need_pairs(2)?;
    env.nvme.create_cq(&CqConfig::new(1, ENTRIES))?;
    env.nvme.create_cq(&CqConfig::new(2, ENTRIES))?;
    env.nvme.create_sq(&SqConfig::new(1, 2, ENTRIES))?;
    env.nvme.create_sq(&SqConfig::new(2, 1, ENTRIES))?;
    let buffer = env.nvme.alloc(ns.block_bytes)?;
    for sqid in [1, 2, 2, 1] {
        env.nvme.read(sqid, ns.nsid, 0, 1, buffer)?;
    }
    Ok(())
}
