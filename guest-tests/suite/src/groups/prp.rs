//! Physical Region Pages: where data lies.

use alloc::vec::Vec;

use nvme_host::prp::Prps;
use nvme_host::{Config, command};
use nvme_spec::{Cns, IDENTIFY_BYTES, PRP_ENTRY_BYTES, Sqe, Status};

use super::place::{Place, falling, list_pages, nlb_z, nowhere, span};
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
