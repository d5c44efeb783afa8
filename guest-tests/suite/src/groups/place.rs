//! Places for data in memory, and PRPs that lead there.

use alloc::vec::Vec;

use nvme_host::Buffer;
use nvme_host::prp::{Prps, build_scattered};

use crate::{Env, Namespace, Outcome};

/// A place for data: the first piece up to its page's end, then whole pages.
pub(super) struct Place {
    pub(super) first: u64,
    pub(super) rest: Vec<u64>,
    pub(super) bytes: u64,
}

impl Place {
    /// The pieces, with their offsets in the data.
    pub(super) fn pieces(&self, page: u64) -> Vec<(u64, Buffer)> {
        let mut pieces = Vec::new();
        let mut offset = 0;
        for address in core::iter::once(self.first).chain(self.rest.iter().copied()) {
            let bytes = (page - address % page).min(self.bytes - offset);
            pieces.push((offset, Buffer { address, bytes }));
            offset += bytes;
        }
        pieces
    }

    pub(super) fn store(&self, env: &mut Env<'_>, data: &[u8]) {
        for (offset, piece) in self.pieces(env.nvme.page_bytes()) {
            let start = usize::try_from(offset).unwrap_or(0);
            env.nvme
                .copy_to(piece, data.get(start..).unwrap_or_default());
        }
    }

    pub(super) fn load(&self, env: &mut Env<'_>) -> Vec<u8> {
        let mut data = Vec::new();
        for (_, piece) in self.pieces(env.nvme.page_bytes()) {
            data.extend(env.copy_out(piece));
        }
        data
    }

    pub(super) fn clear(&self, env: &mut Env<'_>) {
        for (_, piece) in self.pieces(env.nvme.page_bytes()) {
            env.guard(piece);
        }
    }

    pub(super) fn build(&self, env: &mut Env<'_>, lists: &[u64]) -> Outcome<Prps> {
        let page = env.nvme.page_bytes();
        let transport = env.nvme.transport();
        let store = |at, entries: &[u8]| transport.mem_write(at, entries);
        let rest = self.rest.iter().copied();
        Ok(build_scattered(self.first, rest, page, lists, store)?)
    }
}

/// A namespace, and how many blocks of it cover `pages` memory pages or more.
pub(super) fn span(env: &Env<'_>, pages: u64) -> Outcome<(Namespace, u64)> {
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
pub(super) fn falling(env: &mut Env<'_>, bytes: u64) -> Outcome<Place> {
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
pub(super) fn list_pages(env: &mut Env<'_>, count: u64) -> Outcome<Vec<u64>> {
    let page = env.nvme.page_bytes();
    let area = env.nvme.alloc(2 * count * page)?;
    // What is not written as an entry leads nowhere.
    env.nvme.fill(area, &u64::MAX.to_le_bytes());
    Ok((0..count).map(|i| area.address + 2 * i * page).collect())
}

pub(super) fn nlb_z(blocks: u64) -> u16 {
    u16::try_from(blocks - 1).unwrap_or(u16::MAX)
}

/// A page-aligned address where there is no memory.
pub(super) fn nowhere(env: &mut Env<'_>) -> u64 {
    let page = env.nvme.page_bytes();
    env.nvme.transport().memory_end().next_multiple_of(page)
}
