//! Physical Region Pages: where data lies, and what is refused.

use alloc::vec::Vec;

use nvme_host::prp::{Prps, build_scattered};
use nvme_host::{Buffer, Config, command};
use nvme_spec::{Cns, Cqe, IDENTIFY_BYTES, PRP_ENTRY_BYTES, Sqe, Status};

use crate::data::pattern;
use crate::env::IO;
use crate::{Env, Namespace, Outcome, check};

group! { "prp":
    data_may_start_at_any_dword, "Base 2.1 4.3.1",
        "PRP1 may have any dword-aligned offset in its page; the data goes on at the start of the next.";
    second_page_is_prp2, "Base 2.1 4.3.1",
        "Data in two pages has its second page in PRP2, wherever that lies.";
    three_pages_use_a_list, "Base 2.1 4.3.1",
        "Data in more than two pages has the others in a list at PRP2, in any order of addresses.";
    list_may_start_in_mid_page, "Base 2.1 4.3.1",
        "A PRP list may start at any 8-byte aligned offset of its page.";
    last_entry_of_a_page_chains, "Base 2.1 4.3.1",
        "Where entries remain, the last entry of a list page points to the next list page.";
    chain_may_come_first, "Base 2.1 4.3.1",
        "A list that starts at the last entry of its page holds the pointer to the next list page there.";
    full_list_page_has_no_chain, "Base 2.1 4.3.1",
        "A list that ends exactly at the end of its page has data in its last entry.";
    list_spans_whole_pages, "Base 2.1 4.3.1",
        "A transfer with more entries than a list page holds works.";
    page_may_appear_twice, "Base 2.1 4.3.1",
        "A page may stand in a list several times.";
    large_memory_pages_use_lists, "Base 2.1 3.1.4.5",
        "With the largest CC.MPS, offsets and lists count in those pages.";
    unused_prp2_is_ignored, "Base 2.1 4.3.1",
        "PRP2 is reserved where the data does not cross a page boundary.";
    nothing_outside_the_data_is_written, "Base 2.1 4.3.1",
        "A read writes the bytes of its data and none beside them.";
    prp2_with_offset_is_refused, "Base 2.1 4.3.1",
        "A second page whose address has an offset completes with PRP Offset Invalid.";
    list_entry_with_offset_is_refused, "Base 2.1 4.3.1",
        "A list entry that has an offset completes with PRP Offset Invalid.";
    prp1_below_dword_is_checked_or_ignored, "Base 2.1 4.3.1",
        "PRP1 with bits 1:0 set completes with PRP Offset Invalid, or works as if they were clear.";
    list_pointer_below_qword_is_checked_or_ignored, "Base 2.1 4.3.1",
        "A list pointer with bits 2:0 set completes with PRP Offset Invalid, or works as if they were clear.";
    data_nowhere_is_an_error, "Base 2.1 4.2.3.1",
        "Data at addresses where there is no memory completes with an error.";
    list_nowhere_is_an_error, "Base 2.1 4.2.3.1",
        "A PRP list where there is no memory completes with an error.";
    entry_nowhere_is_an_error, "Base 2.1 4.2.3.1",
        "A list entry to where there is no memory completes with an error.";
}

/// A place for data: the first piece up to its page's end, then whole pages.
struct Place {
    first: u64,
    rest: Vec<u64>,
    bytes: u64,
}

impl Place {
    /// The pieces, with their offsets in the data.
    fn pieces(&self, page: u64) -> Vec<(u64, Buffer)> {
        let mut pieces = Vec::new();
        let mut offset = 0;
        for address in core::iter::once(self.first).chain(self.rest.iter().copied()) {
            let bytes = (page - address % page).min(self.bytes - offset);
            pieces.push((offset, Buffer { address, bytes }));
            offset += bytes;
        }
        pieces
    }

    fn store(&self, env: &mut Env<'_>, data: &[u8]) {
        for (offset, piece) in self.pieces(env.nvme.page_bytes()) {
            let start = usize::try_from(offset).unwrap_or(0);
            env.nvme
                .copy_to(piece, data.get(start..).unwrap_or_default());
        }
    }

    fn load(&self, env: &mut Env<'_>) -> Vec<u8> {
        let mut data = Vec::new();
        for (_, piece) in self.pieces(env.nvme.page_bytes()) {
            data.extend(env.copy_out(piece));
        }
        data
    }

    fn clear(&self, env: &mut Env<'_>) {
        for (_, piece) in self.pieces(env.nvme.page_bytes()) {
            env.guard(piece);
        }
    }

    fn build(&self, env: &mut Env<'_>, lists: &[u64]) -> Outcome<Prps> {
        let page = env.nvme.page_bytes();
        let transport = env.nvme.transport();
        let store = |at, entries: &[u8]| transport.mem_write(at, entries);
        let rest = self.rest.iter().copied();
        Ok(build_scattered(self.first, rest, page, lists, store)?)
    }
}

/// A namespace, and how many blocks of it cover `pages` memory pages or more.
fn span(env: &Env<'_>, pages: u64) -> Outcome<(Namespace, u64)> {
    let ns = env.ns()?;
    let blocks = (pages * env.nvme.page_bytes()).div_ceil(ns.block_bytes);
    let most = env.max_blocks(ns);
    require!(
        blocks <= most,
        "{pages} pages are {blocks} blocks, one command may carry {most}"
    );
    env.area(ns, blocks)?;
    Ok((ns, blocks))
}

/// A page-aligned place for `bytes` bytes in separate pages, in falling order of addresses.
fn falling(env: &mut Env<'_>, bytes: u64) -> Outcome<Place> {
    let page = env.nvme.page_bytes();
    let pages = bytes.div_ceil(page);
    // Every second page, so that neighbours in the data are none in memory.
    let area = env.nvme.alloc(2 * pages * page)?;
    let mut addresses = (0..pages).rev().map(|i| area.address + 2 * i * page);
    Ok(Place {
        first: addresses.next().unwrap_or(area.address),
        rest: addresses.collect(),
        bytes,
    })
}

/// `count` pages for lists, none next to another.
fn list_pages(env: &mut Env<'_>, count: u64) -> Outcome<Vec<u64>> {
    let page = env.nvme.page_bytes();
    let area = env.nvme.alloc(2 * count * page)?;
    // What is not written as an entry leads nowhere.
    env.nvme.fill(area, &u64::MAX.to_le_bytes());
    Ok((0..count).map(|i| area.address + 2 * i * page).collect())
}

fn nlb_z(blocks: u64) -> u16 {
    u16::try_from(blocks - 1).unwrap_or(u16::MAX)
}

/// Writes from a place and reads it back plainly; then reads into the place.
fn roundtrip(
    env: &mut Env<'_>,
    (ns, blocks): (Namespace, u64),
    place: &Place,
    prps: Prps,
    seed: u64,
) -> Outcome {
    let data = pattern(seed, place.bytes);
    place.store(env, &data);
    let Prps { prp1, prp2 } = prps;
    let write = Sqe {
        prp1,
        prp2,
        ..command::write(ns.nsid, 0, nlb_z(blocks))
    };
    let cqe = env.io_exec(write)?;
    check::status("Write", cqe, Status::SUCCESS)?;
    env.expect_pattern(ns, 0, blocks, seed)?;
    place.clear(env);
    let read = Sqe {
        prp1,
        prp2,
        ..command::read(ns.nsid, 0, nlb_z(blocks))
    };
    let cqe = env.io_exec(read)?;
    check::status("Read", cqe, Status::SUCCESS)?;
    let found = place.load(env);
    check::same_bytes("data read", &found, &data)
}

/// [`roundtrip`] through scattered pages, with the list at `first_list` bytes into its page.
fn roundtrip_with_list(env: &mut Env<'_>, pages: u64, first_list: u64, seed: u64) -> Outcome {
    env.io()?;
    let (ns, blocks) = span(env, pages)?;
    let place = falling(env, blocks * ns.block_bytes)?;
    let per_page = env.nvme.page_bytes() / PRP_ENTRY_BYTES;
    let entries = place.rest.len() as u64;
    let mut lists = list_pages(env, 2 + entries / (per_page - 1))?;
    if let Some(first) = lists.first_mut() {
        *first += first_list;
    }
    let prps = place.build(env, &lists)?;
    roundtrip(env, (ns, blocks), &place, prps, seed)
}

fn data_may_start_at_any_dword(env: &mut Env<'_>) -> Outcome {
    let ns = env.ns()?;
    env.io()?;
    let page = env.nvme.page_bytes();
    let most = env.max_blocks(ns);
    for blocks in [1, (page / ns.block_bytes).clamp(1, most)] {
        for offset in [4, 512, 1020, page / 2 + 4, page - 4] {
            let bytes = blocks * ns.block_bytes;
            let data = pattern(0x1000 + offset, bytes);
            let area = env.nvme.alloc(bytes + page)?;
            let buffer = area.slice(offset, bytes);
            env.nvme.copy_to(buffer, &data);
            env.nvme.write(IO, ns.nsid, 0, blocks, buffer)?;
            env.expect_pattern(ns, 0, blocks, 0x1000 + offset)?;
            env.guard(area);
            env.nvme.read(IO, ns.nsid, 0, blocks, buffer)?;
            let found = env.copy_out(buffer);
            let what = alloc::format!("{blocks} blocks at offset {offset:#x}");
            check::same_bytes(&what, &found, &data)?;
            env.nvme.free(area);
        }
    }
    Ok(())
}

fn second_page_is_prp2(env: &mut Env<'_>) -> Outcome {
    let expected = env.nvme.identify(Cns::CONTROLLER, 0)?;
    let page = env.nvme.page_bytes();
    for in_first in [4, 512, 2048, IDENTIFY_BYTES as u64 - 4] {
        let area = env.nvme.alloc(4 * page)?;
        env.guard(area);
        // The second page lies below the first.
        let place = Place {
            first: area.address + 4 * page - in_first,
            rest: alloc::vec![area.address + page],
            bytes: IDENTIFY_BYTES as u64,
        };
        let Prps { prp1, prp2 } = place.build(env, &[])?;
        let sqe = Sqe {
            prp1,
            prp2,
            ..command::identify(Cns::CONTROLLER, 0)
        };
        env.nvme.admin_ok(sqe)?;
        let found = place.load(env);
        let what = alloc::format!("Identify with {in_first} bytes in the first page");
        check::same_bytes(&what, &found, &expected)?;
    }
    Ok(())
}

fn three_pages_use_a_list(env: &mut Env<'_>) -> Outcome {
    roundtrip_with_list(env, 3, 0, 0x1101)
}

fn list_may_start_in_mid_page(env: &mut Env<'_>) -> Outcome {
    roundtrip_with_list(env, 4, 1024 + PRP_ENTRY_BYTES, 0x1102)
}

fn last_entry_of_a_page_chains(env: &mut Env<'_>) -> Outcome {
    let page = env.nvme.page_bytes();
    roundtrip_with_list(env, 6, page - 3 * PRP_ENTRY_BYTES, 0x1103)
}

fn chain_may_come_first(env: &mut Env<'_>) -> Outcome {
    let page = env.nvme.page_bytes();
    roundtrip_with_list(env, 3, page - PRP_ENTRY_BYTES, 0x1104)
}

fn full_list_page_has_no_chain(env: &mut Env<'_>) -> Outcome {
    env.io()?;
    let (ns, blocks) = span(env, 4)?;
    let place = falling(env, blocks * ns.block_bytes)?;
    let page = env.nvme.page_bytes();
    let entries = place.rest.len() as u64;
    let lists = list_pages(env, 1)?;
    let end = lists.first().copied().unwrap_or(0) + page;
    // One list only: building fails if a chain were needed.
    let prps = place.build(env, &[end - entries * PRP_ENTRY_BYTES])?;
    roundtrip(env, (ns, blocks), &place, prps, 0x1105)
}

fn list_spans_whole_pages(env: &mut Env<'_>) -> Outcome {
    let per_page = env.nvme.page_bytes() / PRP_ENTRY_BYTES;
    roundtrip_with_list(env, per_page + 3, 0, 0x1106)
}

fn page_may_appear_twice(env: &mut Env<'_>) -> Outcome {
    env.io()?;
    let (ns, blocks) = span(env, 4)?;
    let bytes = blocks * ns.block_bytes;
    let page = env.nvme.page_bytes();
    let source = env.nvme.alloc(page)?;
    let data = pattern(0x1107, page);
    env.nvme.copy_to(source, &data);
    let pages = bytes.div_ceil(page);
    let place = Place {
        first: source.address,
        rest: (1..pages).map(|_| source.address).collect(),
        bytes,
    };
    let per_page = page / PRP_ENTRY_BYTES;
    let lists = list_pages(env, 1 + pages / (per_page - 1))?;
    let Prps { prp1, prp2 } = place.build(env, &lists)?;
    let sqe = Sqe {
        prp1,
        prp2,
        ..command::write(ns.nsid, 0, nlb_z(blocks))
    };
    let cqe = env.io_exec(sqe)?;
    check::status("Write", cqe, Status::SUCCESS)?;
    let found = env.read_blocks(ns, 0, blocks)?;
    let expected: Vec<u8> = data.iter().copied().cycle().take(found.len()).collect();
    check::same_bytes("blocks written from one page", &found, &expected)
}

fn large_memory_pages_use_lists(env: &mut Env<'_>) -> Outcome {
    let cap = env.context.cap;
    let mps = cap.mpsmax().min(4);
    require!(mps > cap.mpsmin(), "CAP.MPSMAX allows one page size");
    env.restart(&Config {
        mps: Some(mps),
        ..Config::default()
    })?;
    env.request_queues()?;
    let page = env.nvme.page_bytes();
    // Two whole pages and a start in mid-page, or as much as MDTS lets through.
    env.io()?;
    let ns = env.ns()?;
    let blocks = (2 * page).div_ceil(ns.block_bytes);
    let blocks = blocks.clamp(1, env.max_blocks(ns).min(ns.blocks / 2));
    let bytes = blocks * ns.block_bytes;
    let area = env.nvme.alloc(bytes + page)?;
    for offset in [0, 512, 4096, page - 512] {
        let data = pattern(0x1108 + offset, bytes);
        let buffer = area.slice(offset, bytes);
        env.nvme.copy_to(buffer, &data);
        env.nvme.write(IO, ns.nsid, 0, blocks, buffer)?;
        env.guard(area);
        env.nvme.read(IO, ns.nsid, 0, blocks, buffer)?;
        let found = env.copy_out(buffer);
        let what = alloc::format!("offset {offset:#x} in pages of {page} bytes");
        check::same_bytes(&what, &found, &data)?;
    }
    Ok(())
}

/// A page-aligned address where there is no memory.
pub(super) fn nowhere(env: &mut Env<'_>) -> u64 {
    let page = env.nvme.page_bytes();
    env.nvme.transport().memory_end().next_multiple_of(page)
}

fn unused_prp2_is_ignored(env: &mut Env<'_>) -> Outcome {
    let page = env.nvme.page_bytes();
    let expected = env.nvme.identify(Cns::CONTROLLER, 0)?;
    let area = env.nvme.alloc(page)?;
    for prp2 in [0, nowhere(env), u64::MAX, area.address + 3] {
        env.guard(area);
        let sqe = Sqe {
            prp1: area.end() - IDENTIFY_BYTES as u64,
            prp2,
            ..command::identify(Cns::CONTROLLER, 0)
        };
        let cqe = env.nvme.admin(sqe)?;
        let what = alloc::format!("Identify in one page with PRP2 {prp2:#x}");
        check::status(&what, cqe, Status::SUCCESS)?;
        let data = area.slice(page - IDENTIFY_BYTES as u64, page);
        let found = env.copy_out(data);
        check::same_bytes(&what, &found, &expected)?;
    }
    Ok(())
}

fn nothing_outside_the_data_is_written(env: &mut Env<'_>) -> Outcome {
    let ns = env.ns()?;
    env.io()?;
    let page = env.nvme.page_bytes();
    env.write_pattern(ns, 0, 1, 0x1109)?;
    for offset in [4, 512, page - 4, page, page + 2048] {
        let area = env.nvme.alloc(ns.block_bytes + 4 * page)?;
        env.guard(area);
        let data = area.slice(offset, ns.block_bytes);
        env.nvme.read(IO, ns.nsid, 0, 1, data)?;
        env.guarded("before the data", area.slice(0, offset))?;
        let behind = offset + ns.block_bytes;
        env.guarded("behind the data", area.slice(behind, area.bytes))?;
        env.nvme.free(area);
    }
    Ok(())
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
    for sqe in [command::read(ns.nsid, 0, 0), command::write(ns.nsid, 0, 0)] {
        let cqe = env.io_exec(Sqe { prp1, prp2, ..sqe })?;
        let what = alloc::format!("opcode {:#04x} with data nowhere", sqe.opcode);
        check::refused(&what, cqe)?;
    }
    let cqe = env.nvme.admin(Sqe {
        prp1,
        ..command::identify(Cns::CONTROLLER, 0)
    })?;
    check::refused("Identify with data nowhere", cqe)?;
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
    for sqe in [
        command::write(ns.nsid, 0, nlb_z(blocks)),
        command::read(ns.nsid, 0, nlb_z(blocks)),
    ] {
        let cqe = env.io_exec(Sqe { prp1, prp2, ..sqe })?;
        let what = alloc::format!("opcode {:#04x} with an entry nowhere", sqe.opcode);
        check::refused(&what, cqe)?;
    }
    env.alive()
}
