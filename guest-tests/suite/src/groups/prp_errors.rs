//! Physical Region Pages that are refused.

use alloc::vec::Vec;

use nvme_host::command;
use nvme_host::prp::Prps;
use nvme_spec::{Cns, Cqe, IDENTIFY_BYTES, PRP_ENTRY_BYTES, Sqe, Status};

use super::place::{Place, falling, list_pages, nlb_z, nowhere, span};
use crate::data::pattern;
use crate::{Env, Outcome, check};

group! { "prp":
    prp2_with_offset_is_refused, "Base 2.1 4.3.1",
        "A second page whose address has an offset completes with PRP Offset Invalid.";
    list_entry_with_offset_is_refused, "Base 2.1 4.3.1",
        "A list entry that has an offset completes with PRP Offset Invalid.";
    prp1_below_dword_is_checked_or_ignored, "Base 2.1 4.3.1",
        "PRP1 with bits 1:0 set completes with PRP Offset Invalid, or works as if they were clear.";
    list_pointer_below_qword_is_checked_or_ignored, "Base 2.1 4.3.1",
        "A list pointer with bits 2:0 set completes with PRP Offset Invalid, or works as if they were clear.";
    data_nowhere_is_an_error, "Base 2.1 4.2.3.1",
        "A Write of data at addresses where there is no memory completes with an error; a Read and Identify complete.";
    list_nowhere_is_an_error, "Base 2.1 4.2.3.1",
        "A PRP list where there is no memory completes with an error.";
    entry_nowhere_is_an_error, "Base 2.1 4.2.3.1",
        "A Write with a list entry to where there is no memory completes with an error; a Read completes.";
}

fn prp2_with_offset_is_refused(env: &mut Env<'_>) -> Outcome {
    let page = env.nvme.page_bytes();
    let area = env.nvme.alloc(4 * page)?;
    for offset in [4, 8, 512, page - 4] {
        // 2,048 bytes in the first page, the others in the second.
        let sqe = Sqe {
            prp1: area.address + page - 2048,
            prp2: area.address + 2 * page + offset,
            ..command::identify(Cns::CONTROLLER, 0)
        };
        let cqe = env.nvme.admin(sqe)?;
        let what = alloc::format!("PRP2 with offset {offset:#x}");
        check::status(&what, cqe, Status::INVALID_PRP_OFFSET)?;
    }
    env.alive()
}

fn list_entry_with_offset_is_refused(env: &mut Env<'_>) -> Outcome {
    env.io()?;
    let (ns, blocks) = span(env, 4)?;
    for (entry, offset) in [(0, 8), (1, 512), (2, 4)] {
        let mut place = falling(env, blocks * ns.block_bytes)?;
        if let Some(address) = place.rest.get_mut(entry) {
            *address += offset;
        }
        let per_page = env.nvme.page_bytes() / PRP_ENTRY_BYTES;
        let lists = list_pages(env, 1 + blocks / (per_page - 1))?;
        let Prps { prp1, prp2 } = place.build(env, &lists)?;
        let sqe = Sqe {
            prp1,
            prp2,
            ..command::write(ns.nsid, 0, nlb_z(blocks))
        };
        let cqe = env.io_exec(sqe)?;
        let what = alloc::format!("list entry {entry} with offset {offset}");
        check::status(&what, cqe, Status::INVALID_PRP_OFFSET)?;
    }
    env.alive()
}

/// A status of PRP Offset Invalid, or success with the data right.
fn checked_or_ignored(
    env: &mut Env<'_>,
    what: &str,
    cqe: Cqe,
    place: &Place,
    expected: &[u8],
) -> Outcome {
    check::one_of(what, cqe, &[Status::SUCCESS, Status::INVALID_PRP_OFFSET])?;
    if cqe.status().is_success() {
        let found = place.load(env);
        check::same_bytes(what, &found, expected)?;
    }
    Ok(())
}

fn prp1_below_dword_is_checked_or_ignored(env: &mut Env<'_>) -> Outcome {
    let expected = env.nvme.identify(Cns::CONTROLLER, 0)?;
    let page = env.nvme.page_bytes();
    for low in 1..4 {
        let area = env.nvme.alloc(page)?;
        env.guard(area);
        let place = Place {
            first: area.address,
            rest: Vec::new(),
            bytes: IDENTIFY_BYTES as u64,
        };
        let sqe = Sqe {
            prp1: area.address + low,
            ..command::identify(Cns::CONTROLLER, 0)
        };
        let cqe = env.nvme.admin(sqe)?;
        let what = alloc::format!("PRP1 with bits 1:0 = {low}");
        checked_or_ignored(env, &what, cqe, &place, &expected)?;
    }
    Ok(())
}

fn list_pointer_below_qword_is_checked_or_ignored(env: &mut Env<'_>) -> Outcome {
    env.io()?;
    let (ns, blocks) = span(env, 3)?;
    env.write_pattern(ns, 0, blocks, 0x110A)?;
    let bytes = blocks * ns.block_bytes;
    for low in [1, 4, 7] {
        let place = falling(env, bytes)?;
        place.clear(env);
        let per_page = env.nvme.page_bytes() / PRP_ENTRY_BYTES;
        let lists = list_pages(env, 1 + blocks / (per_page - 1))?;
        let Prps { prp1, prp2 } = place.build(env, &lists)?;
        let sqe = Sqe {
            prp1,
            prp2: prp2 + low,
            ..command::read(ns.nsid, 0, nlb_z(blocks))
        };
        let cqe = env.io_exec(sqe)?;
        let what = alloc::format!("a list pointer with bits 2:0 = {low}");
        checked_or_ignored(env, &what, cqe, &place, &pattern(0x110A, bytes))?;
    }
    Ok(())
}

fn data_nowhere_is_an_error(env: &mut Env<'_>) -> Outcome {
    let ns = env.ns()?;
    env.io()?;
    let prp1 = nowhere(env);
    let list = env.nvme.alloc(env.nvme.page_bytes())?;
    env.nvme.fill(list, &prp1.to_le_bytes());
    // A second page or a list, as the block's size needs it.
    let page = env.nvme.page_bytes();
    let prp2 = match ns.block_bytes.div_ceil(page) {
        1 => 0,
        2 => prp1,
        _ => list.address,
    };
    let write = command::write(ns.nsid, 0, 0);
    let cqe = env.io_exec(Sqe {
        prp1,
        prp2,
        ..write
    })?;
    check::refused("Write with data nowhere", cqe)?;
    // Writes to memory are posted on PCI Express: whether they arrive is not told.
    let read = command::read(ns.nsid, 0, 0);
    env.io_exec(Sqe { prp1, prp2, ..read })?;
    env.nvme.admin(Sqe {
        prp1,
        ..command::identify(Cns::CONTROLLER, 0)
    })?;
    env.alive()
}

fn list_nowhere_is_an_error(env: &mut Env<'_>) -> Outcome {
    env.io()?;
    let (ns, blocks) = span(env, 3)?;
    let buffer = env.nvme.alloc(env.nvme.page_bytes())?;
    for sqe in [
        command::read(ns.nsid, 0, nlb_z(blocks)),
        command::write(ns.nsid, 0, nlb_z(blocks)),
    ] {
        let sqe = Sqe {
            prp1: buffer.address,
            prp2: nowhere(env),
            ..sqe
        };
        let cqe = env.io_exec(sqe)?;
        let what = alloc::format!("opcode {:#04x} with its list nowhere", sqe.opcode);
        check::refused(&what, cqe)?;
    }
    env.alive()
}

fn entry_nowhere_is_an_error(env: &mut Env<'_>) -> Outcome {
    env.io()?;
    let (ns, blocks) = span(env, 4)?;
    let mut place = falling(env, blocks * ns.block_bytes)?;
    let bad = nowhere(env);
    if let Some(address) = place.rest.get_mut(1) {
        *address = bad;
    }
    let per_page = env.nvme.page_bytes() / PRP_ENTRY_BYTES;
    let lists = list_pages(env, 1 + blocks / (per_page - 1))?;
    let Prps { prp1, prp2 } = place.build(env, &lists)?;
    let write = command::write(ns.nsid, 0, nlb_z(blocks));
    let cqe = env.io_exec(Sqe {
        prp1,
        prp2,
        ..write
    })?;
    check::refused("Write with an entry nowhere", cqe)?;
    // As above, a Read may not know.
    let read = command::read(ns.nsid, 0, nlb_z(blocks));
    env.io_exec(Sqe { prp1, prp2, ..read })?;
    env.alive()
}
