//! What no sane host does with memory: queues, data and lists over each other, or nowhere.

use nvme_host::{CqConfig, Error, SqConfig, command};
use nvme_spec::{PRP_ENTRY_BYTES, Sqe};

use super::hostile::answered;
use super::place::nowhere;
use crate::env::IO;
use crate::{Env, Outcome, check};

group! { "hostile":
    data_over_its_own_completion_queue, "Base 2.1 3.3.1",
        "Data read over the completion queue does not stop the queue.";
    data_over_its_own_submission_queue, "Base 2.1 3.3.1",
        "Data read over consumed entries of the submission queue changes nothing.";
    data_over_its_own_prp_list, "Base 2.1 4.3.1",
        "Data read over the command's own PRP list ends the command, one way or the other.";
    list_chain_to_itself_ends, "Base 2.1 4.3.1",
        "A PRP list whose only entry is a pointer to itself ends the command with an error.";
    huge_log_request_ends, "Base 2.1 5.1.12",
        "Get Log Page of 16 GiB completes.";
    completion_queue_nowhere_harms_no_other, "Base 2.1 5.2.1",
        "A completion queue where there is no memory leaves the admin queue working, or a reset mends it.";
    submission_queue_nowhere_harms_no_other, "Base 2.1 5.2.2",
        "A submission queue where there is no memory leaves the admin queue working, or a reset mends it.";
    queues_over_each_other_end, "Base 2.1 3.3.1",
        "A submission queue and its completion queue in the same memory leave a controller that a reset mends.";
}

/// The fewest entries, which every controller takes.
const ENTRIES: u32 = 2;

/// Block 0 holds zeroes; a Read of it clears memory.
fn zero_block(env: &mut Env<'_>) -> Outcome {
    let ns = env.ns()?;
    let buffer = env.nvme.alloc(ns.block_bytes)?;
    env.nvme.write(IO, ns.nsid, 0, 1, buffer)?;
    env.nvme.free(buffer);
    Ok(())
}

fn data_over_its_own_completion_queue(env: &mut Env<'_>) -> Outcome {
    let ns = env.ns()?;
    // Enough entries that all of this is the first pass: zeroes do not look like new entries.
    env.need_entries(8)?;
    // Memory that a block fits into, so that nothing else is overwritten.
    let memory = env.nvme.alloc(ns.block_bytes.max(4096))?;
    env.nvme.create_cq(&CqConfig {
        memory: Some(memory.address),
        ..CqConfig::new(IO, 8)
    })?;
    env.nvme.create_sq(&SqConfig::new(IO, IO, ENTRIES))?;
    zero_block(env)?;
    let target = memory.slice(0, ns.block_bytes);
    for _ in 0..3 {
        let sqe = command::read(ns.nsid, 0, 0);
        env.nvme.io_data_ok(IO, sqe, target)?;
    }
    env.alive_after_reset()
}

fn data_over_its_own_submission_queue(env: &mut Env<'_>) -> Outcome {
    let ns = env.ns()?;
    let memory = env.nvme.alloc(ns.block_bytes.max(4096))?;
    env.nvme.create_cq(&CqConfig::new(IO, ENTRIES))?;
    env.nvme.create_sq(&SqConfig {
        memory: Some(memory.address),
        ..SqConfig::new(IO, IO, ENTRIES)
    })?;
    zero_block(env)?;
    let target = memory.slice(0, ns.block_bytes);
    for _ in 0..10 {
        let sqe = command::read(ns.nsid, 0, 0);
        env.nvme.io_data_ok(IO, sqe, target)?;
    }
    env.alive()
}

fn data_over_its_own_prp_list(env: &mut Env<'_>) -> Outcome {
    let ns = env.ns()?;
    env.io()?;
    let page = env.nvme.page_bytes();
    let blocks = (4 * page).div_ceil(ns.block_bytes);
    require!(
        blocks <= env.max_blocks(ns) && blocks <= ns.blocks / 2,
        "one command may not carry four pages"
    );
    let list = env.nvme.alloc(page)?;
    // On the namespace too, so that entries read after the data lead to the same place.
    let data = env.nvme.alloc(blocks * ns.block_bytes)?;
    env.nvme.fill(data, &list.address.to_le_bytes());
    env.nvme.write(IO, ns.nsid, 0, blocks, data)?;
    env.nvme.fill(list, &list.address.to_le_bytes());
    let sqe = Sqe {
        cid: 0x99,
        prp1: list.address,
        prp2: list.address,
        ..command::read(ns.nsid, 0, u16::try_from(blocks - 1).unwrap_or(u16::MAX))
    };
    answered(env, IO, &sqe)?;
    env.alive()
}

fn list_chain_to_itself_ends(env: &mut Env<'_>) -> Outcome {
    let ns = env.ns()?;
    env.io()?;
    let page = env.nvme.page_bytes();
    let blocks = (4 * page).div_ceil(ns.block_bytes);
    require!(
        blocks <= env.max_blocks(ns) && blocks <= ns.blocks / 2,
        "one command may not carry four pages"
    );
    let list = env.nvme.alloc(page)?;
    // The last entry of the page, which has to be a pointer as more entries are to come.
    let last = list.end() - PRP_ENTRY_BYTES;
    let buffer = env.nvme.alloc(page)?;
    env.nvme.fill(list, &last.to_le_bytes());
    for sqe in [command::write, command::read] {
        let sqe = Sqe {
            cid: 0x9A,
            prp1: buffer.address,
            prp2: last,
            ..sqe(ns.nsid, 0, u16::try_from(blocks - 1).unwrap_or(u16::MAX))
        };
        let cqe = answered(env, IO, &sqe)?;
        check::refused("a list that is a pointer to itself", cqe)?;
    }
    env.alive()
}

fn huge_log_request_ends(env: &mut Env<'_>) -> Outcome {
    let page = env.nvme.page_bytes();
    let buffer = env.nvme.alloc(page)?;
    let list = env.nvme.alloc(page)?;
    // Every entry is the buffer, the last one, a pointer, is the list again.
    env.nvme.fill(list, &buffer.address.to_le_bytes());
    let last = list.slice(page - PRP_ENTRY_BYTES, PRP_ENTRY_BYTES);
    env.nvme.copy_to(last, &list.address.to_le_bytes());
    let sqe = Sqe {
        cid: 0x9B,
        prp1: buffer.address,
        prp2: list.address,
        ..command::get_log_page(nvme_spec::LogId::SMART, nvme_spec::NSID_BROADCAST, u32::MAX)
    };
    answered(env, 0, &sqe)?;
    env.alive()
}

/// The admin queue works, or the controller says CFS; a reset mends either.
fn alive_or_fatal(env: &mut Env<'_>) -> Outcome {
    match env.nvme.identify_controller() {
        Ok(_) | Err(Error::Fatal { .. }) => env.alive_after_reset(),
        Err(error) => Err(error.into()),
    }
}

fn completion_queue_nowhere_harms_no_other(env: &mut Env<'_>) -> Outcome {
    let ns = env.ns()?;
    let address = nowhere(env);
    let cqe = env.nvme.admin(command::create_cq(IO, 1, address, None))?;
    if cqe.status().is_success() {
        // The driver's side, to submit to it.
        env.nvme.place_cq(&CqConfig::new(IO, ENTRIES))?;
        env.nvme.create_sq(&SqConfig::new(IO, IO, ENTRIES))?;
        env.nvme.submit(IO, command::flush(ns.nsid))?;
        env.settle();
    }
    alive_or_fatal(env)
}

fn submission_queue_nowhere_harms_no_other(env: &mut Env<'_>) -> Outcome {
    env.nvme.create_cq(&CqConfig::new(IO, ENTRIES))?;
    let address = nowhere(env);
    let cqe = env.nvme.admin(command::create_sq(IO, 1, address, IO))?;
    if cqe.status().is_success() {
        env.nvme.write_sq_doorbell(IO, 1);
        env.settle();
    }
    alive_or_fatal(env)
}

fn queues_over_each_other_end(env: &mut Env<'_>) -> Outcome {
    let ns = env.ns()?;
    env.need_entries(64)?;
    let memory = env.nvme.alloc(4096)?;
    env.nvme.create_cq(&CqConfig {
        memory: Some(memory.address),
        ..CqConfig::new(IO, 64)
    })?;
    env.nvme.create_sq(&SqConfig {
        memory: Some(memory.address),
        ..SqConfig::new(IO, IO, 16)
    })?;
    // Completions overwrite commands that are still to be fetched.
    for cid in 0..15 {
        env.nvme.push(
            IO,
            &Sqe {
                cid,
                ..command::flush(ns.nsid)
            },
        )?;
    }
    env.nvme.ring(IO)?;
    env.settle();
    env.nvme.identify_controller()?;
    env.alive_after_reset()
}
