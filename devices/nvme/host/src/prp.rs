//! Physical Region Page entries and lists (Base 4.3.1).

use crate::Error;

/// Bytes of one entry.
const ENTRY: u64 = nvme_spec::PRP_ENTRY_BYTES;
const _: () = assert!(ENTRY == size_of::<u64>() as u64);
/// Entries stored at a time.
const BATCH: usize = 32;

/// The two PRP entries of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Prps {
    /// PRP Entry 1: the first byte of the data.
    pub prp1: u64,
    /// PRP Entry 2: 0, the second page, or the list.
    pub prp2: u64,
}

/// How many memory pages data of `bytes` bytes at `address` touches.
#[must_use]
pub const fn pages(address: u64, bytes: u64, page_bytes: u64) -> u64 {
    if bytes == 0 {
        0
    } else {
        (address % page_bytes + bytes).div_ceil(page_bytes)
    }
}

/// How many whole list pages a transfer over `data_pages` memory pages needs.
///
/// The first page is PRP1's; with two pages the second is PRP2's; from three on PRP2 is a list
/// of the others, where the last entry of a full list page that is not the last one points to
/// the next.
#[must_use]
pub const fn list_pages(data_pages: u64, page_bytes: u64) -> u64 {
    let capacity = page_bytes / ENTRY;
    match data_pages {
        0..=2 => 0,
        // Every list page but the last loses one entry to the chain.
        pages => {
            let entries = pages - 1;
            if entries <= capacity {
                1
            } else {
                1 + (entries - capacity).div_ceil(capacity - 1)
            }
        }
    }
}

/// Builds the entries for contiguous data, with lists in the pages `lists`.
///
/// `store(address, bytes)` stores list entries. `lists` are addresses of list memory, each good up
/// to the end of its page; the first may start in mid-page (8-byte aligned).
///
/// # Errors
/// [`Error::NoMemory`] when `lists` are too few.
pub fn build(
    address: u64,
    bytes: u64,
    page_bytes: u64,
    lists: &[u64],
    store: impl FnMut(u64, &[u8]),
) -> Result<Prps, Error> {
    let count = pages(address, bytes, page_bytes);
    let base = address - address % page_bytes;
    let rest = (1..count).map(|page| base + page * page_bytes);
    build_scattered(address, rest, page_bytes, lists, store)
}

/// Builds the entries for data that starts at `first` and goes on in the pages `rest`, which need
/// not follow each other. See [`build`] for `lists` and `store`.
///
/// # Errors
/// [`Error::NoMemory`] when `lists` are too few.
pub fn build_scattered(
    first: u64,
    rest: impl Iterator<Item = u64>,
    page_bytes: u64,
    lists: &[u64],
    store: impl FnMut(u64, &[u8]),
) -> Result<Prps, Error> {
    let mut rest = rest.peekable();
    let prp1 = first;
    let Some(second) = rest.next() else {
        return Ok(Prps { prp1, prp2: 0 });
    };
    if rest.peek().is_none() {
        return Ok(Prps { prp1, prp2: second });
    }
    let mut lists = lists.iter().copied();
    let list = lists.next().ok_or(Error::NoMemory { bytes: page_bytes })?;
    let mut writer = Writer::new(store, list, page_bytes);
    let mut entry = second;
    loop {
        let more = rest.next();
        if more.is_some() && writer.room == 1 {
            let next = lists.next().ok_or(Error::NoMemory { bytes: page_bytes })?;
            writer.put(next);
            writer.go_to(next);
        }
        writer.put(entry);
        match more {
            Some(next) => entry = next,
            None => break,
        }
    }
    writer.flush();
    Ok(Prps { prp1, prp2: list })
}

/// Collects entries and stores them a batch at a time.
struct Writer<F: FnMut(u64, &[u8])> {
    store: F,
    /// Where the batch begins.
    at: u64,
    batch: [[u8; 8]; BATCH],
    filled: usize,
    /// Entries left in this list page.
    room: u64,
    page_bytes: u64,
}

impl<F: FnMut(u64, &[u8])> Writer<F> {
    fn new(store: F, list: u64, page_bytes: u64) -> Self {
        Self {
            store,
            at: list,
            batch: [[0; 8]; BATCH],
            filled: 0,
            room: (page_bytes - list % page_bytes) / ENTRY,
            page_bytes,
        }
    }

    fn put(&mut self, entry: u64) {
        if let Some(slot) = self.batch.get_mut(self.filled) {
            *slot = entry.to_le_bytes();
            self.filled += 1;
            self.room -= 1;
        }
        if self.filled == BATCH {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let entries = self.batch.get(..self.filled).unwrap_or_default();
        let bytes = entries.as_flattened();
        if !bytes.is_empty() {
            (self.store)(self.at, bytes);
        }
        self.at += bytes.len() as u64;
        self.filled = 0;
    }

    fn go_to(&mut self, list: u64) {
        self.flush();
        self.at = list;
        self.room = (self.page_bytes - list % self.page_bytes) / ENTRY;
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::BTreeMap;
    use std::vec::Vec;

    use super::*;

    const PAGE: u64 = 4096;

    fn built(address: u64, bytes: u64, page: u64, lists: &[u64]) -> (Prps, BTreeMap<u64, u64>) {
        let mut memory = BTreeMap::new();
        let prps = build(address, bytes, page, lists, |at, data| {
            for (i, entry) in data.chunks_exact(8).enumerate() {
                memory.insert(
                    at + 8 * i as u64,
                    u64::from_le_bytes(entry.try_into().unwrap()),
                );
            }
        })
        .unwrap();
        (prps, memory)
    }

    /// Follows the entries as a controller does.
    fn walk(prps: Prps, bytes: u64, page: u64, memory: &BTreeMap<u64, u64>) -> Vec<(u64, u64)> {
        let mut spans = Vec::new();
        let mut left = bytes;
        let first = left.min(page - prps.prp1 % page);
        spans.push((prps.prp1, first));
        left -= first;
        if left == 0 {
            return spans;
        }
        if left <= page {
            spans.push((prps.prp2, left));
            return spans;
        }
        let mut at = prps.prp2;
        while left > 0 {
            let mut entry = memory[&at];
            if (at + 8).is_multiple_of(page) && left > page {
                at = entry;
                entry = memory[&at];
            }
            assert_eq!(entry % page, 0);
            let step = left.min(page);
            spans.push((entry, step));
            left -= step;
            at += 8;
        }
        spans
    }

    fn check(address: u64, bytes: u64, page: u64, lists: &[u64]) {
        let (prps, memory) = built(address, bytes, page, lists);
        let mut expected = address;
        for (at, len) in walk(prps, bytes, page, &memory) {
            assert_eq!(at, expected);
            expected += len;
        }
        assert_eq!(expected, address + bytes);
    }

    #[test]
    fn one_page_uses_prp1_alone() {
        assert_eq!(
            built(0x1234, 0x100, PAGE, &[]).0,
            Prps {
                prp1: 0x1234,
                prp2: 0
            }
        );
        assert_eq!(built(0x1000, PAGE, PAGE, &[]).0.prp2, 0);
    }

    #[test]
    fn two_pages_put_the_second_in_prp2() {
        assert_eq!(
            built(0x1FFC, 8, PAGE, &[]).0,
            Prps {
                prp1: 0x1FFC,
                prp2: 0x2000
            }
        );
        assert_eq!(built(0x1004, PAGE, PAGE, &[]).0.prp2, 0x2000);
    }

    #[test]
    fn three_pages_make_a_list_of_two() {
        let (prps, memory) = built(0x10000, 3 * PAGE, PAGE, &[0xA0000]);
        assert_eq!(prps.prp2, 0xA0000);
        assert_eq!(
            memory,
            BTreeMap::from([(0xA0000, 0x11000), (0xA0008, 0x12000)])
        );
    }

    #[test]
    fn exactly_full_list_has_no_chain_and_one_more_page_has() {
        let full = (1 + 512) * PAGE;
        assert_eq!(list_pages(pages(0x100000, full, PAGE), PAGE), 1);
        let (_, memory) = built(0x100000, full, PAGE, &[0xA0000]);
        assert_eq!(memory.len(), 512);
        assert_eq!(memory[&0xA0FF8], 0x100000 + 512 * PAGE);

        let more = full + 1;
        assert_eq!(list_pages(pages(0x100000, more, PAGE), PAGE), 2);
        let (_, memory) = built(0x100000, more, PAGE, &[0xA0000, 0xC0000]);
        assert_eq!(memory[&0xA0FF8], 0xC0000);
        assert_eq!(memory[&0xC0000], 0x100000 + 512 * PAGE);
        assert_eq!(memory[&0xC0008], 0x100000 + 513 * PAGE);
        assert_eq!(memory.len(), 514);
    }

    #[test]
    fn list_pages_counts_the_chain_entries() {
        for (data, lists) in [(2, 0), (3, 1), (513, 1), (514, 2), (1024, 2), (1025, 3)] {
            assert_eq!(list_pages(data, PAGE), lists, "{data} pages");
        }
        assert_eq!(list_pages(8193, 65536), 1);
        assert_eq!(list_pages(8194, 65536), 2);
    }

    #[test]
    fn too_few_lists_is_an_error() {
        let nothing = |_: u64, _: &[u8]| {};
        assert!(build(0, 3 * PAGE, PAGE, &[], nothing).is_err());
        assert!(build(0, 514 * PAGE, PAGE, &[0xA0000], nothing).is_err());
    }

    #[test]
    fn walking_any_shape_gives_the_data_back() {
        let lists: Vec<u64> = (0..8).map(|i| 0x4000_0000 + i * 0x20000).collect();
        for page in [4096, 8192, 65536] {
            for offset in [0, 4, 512, page - 4] {
                for bytes in [
                    4,
                    512,
                    page,
                    page + 4,
                    3 * page,
                    513 * 4096,
                    514 * 4096,
                    1024 * 4096 + 512,
                    1030 * 4096,
                ] {
                    check(0x100_0000 + offset, bytes, page, &lists);
                }
            }
        }
    }

    #[test]
    fn list_may_start_in_mid_page_with_one_entry_left() {
        let lists = [0xA0FF8, 0xC0000, 0xD0000];
        check(0x100_0000, 3 * PAGE, PAGE, &lists);
        check(0x100_0000, 600 * PAGE, PAGE, &lists);
        let (prps, memory) = built(0x100_0000, 3 * PAGE, PAGE, &lists);
        assert_eq!(prps.prp2, 0xA0FF8);
        assert_eq!(memory[&0xA0FF8], 0xC0000);
    }
}
