//! A command's PRPs, followed to the end as its host built them (Base 4.3.1).
//!
//! This is no second copy of `prp`, which stops at the first thing that is wrong and says a
//! status: here it is said which entry it is, and the lists are kept to be compared later.

use std::{fmt, ops::Range};

use nvme_spec::PRP_ENTRY_BYTES;
use storage::GuestRam;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};
use zerocopy::IntoBytes;

/// A PRP list, or the part of one that lies in a memory page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct List {
    /// Its address.
    pub(super) at: u64,
    pub(super) entries: Vec<u64>,
}

impl List {
    pub(super) fn range(&self) -> Range<u64> {
        let bytes = self.entries.len() as u64 * PRP_ENTRY_BYTES;
        self.at..self.at.saturating_add(bytes)
    }

    /// The first entry that is another in memory now: its index, and what it is.
    pub(super) fn changed(&self, memory: &GuestRam) -> Option<(usize, u64, u64)> {
        let now = read(memory, self.at, self.entries.len())?;
        let pairs = self.entries.iter().copied().zip(now).enumerate();
        pairs
            .map(|(index, (old, new))| (index, old, new))
            .find(|(_, old, new)| old != new)
    }
}

/// Where an entry stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    Prp1,
    Prp2,
    /// In a list, at this address.
    List(u64),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prp1 => f.write_str("PRP1"),
            Self::Prp2 => f.write_str("PRP2"),
            Self::List(at) => write!(f, "the list entry at {at:#x}"),
        }
    }
}

/// What is wrong with an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Problem {
    /// It leads where there is no memory.
    Nowhere { bytes: u64 },
    /// It is no multiple of this.
    Misaligned { to: u64 },
    /// The data ends before it, and it is not 0.
    Unused,
}

/// What a command's PRPs are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Pointers {
    pub(super) lists: Vec<List>,
    /// The memory of the data, in its order, neighbours joined.
    pub(super) data: Vec<Range<u64>>,
    /// The first thing that is wrong; nothing behind it was looked at.
    pub(super) problem: Option<(Place, u64, Problem)>,
    /// There were more entries than `most`.
    pub(super) too_many: bool,
}

/// Follows the PRPs of `len` bytes, over at most `most` entries of lists.
pub(super) fn walk(
    memory: &GuestRam,
    page_bytes: u64,
    prps: [u64; 2],
    len: u64,
    most: usize,
) -> Pointers {
    let mut pointers = Pointers::default();
    // What stops the walk is noted in `pointers`.
    let _ = pointers.follow(memory, page_bytes, prps, len, most);
    pointers
}

impl Pointers {
    /// `None`: the walk stopped.
    fn follow(
        &mut self,
        memory: &GuestRam,
        page_bytes: u64,
        [prp1, prp2]: [u64; 2],
        len: u64,
        mut most: usize,
    ) -> Option<()> {
        let first = len.min(page_bytes - prp1 % page_bytes);
        self.data(memory, Place::Prp1, prp1, 4, first)?;
        let mut left = len - first;
        if left == 0 {
            if prp2 != 0 {
                self.problem = Some((Place::Prp2, prp2, Problem::Unused));
            }
            return Some(());
        }
        if left <= page_bytes {
            return self.data(memory, Place::Prp2, prp2, page_bytes, left);
        }
        let (mut place, mut at, mut align) = (Place::Prp2, prp2, PRP_ENTRY_BYTES);
        loop {
            self.aligned(place, at, align)?;
            let wanted = left.div_ceil(page_bytes);
            let room = (page_bytes - at % page_bytes) / PRP_ENTRY_BYTES;
            // The last entry of a list page is a pointer to the next one if more is to come.
            let chained = wanted > room;
            let count = usize::try_from(wanted.min(room)).unwrap_or(usize::MAX);
            if count > most {
                self.too_many = true;
                return None;
            }
            most -= count;
            let Some(entries) = read(memory, at, count) else {
                let bytes = count as u64 * PRP_ENTRY_BYTES;
                self.problem = Some((place, at, Problem::Nowhere { bytes }));
                return None;
            };
            let list = List { at, entries };
            let pages = count - usize::from(chained);
            let mut entry_at = at;
            for &entry in list.entries.iter().take(pages) {
                let bytes = left.min(page_bytes);
                self.data(memory, Place::List(entry_at), entry, page_bytes, bytes)?;
                left -= bytes;
                entry_at = entry_at.wrapping_add(PRP_ENTRY_BYTES);
            }
            let last = list.entries.last().copied();
            self.lists.push(list);
            if !chained {
                return Some(());
            }
            (place, at, align) = (Place::List(entry_at), last?, page_bytes);
        }
    }

    fn aligned(&mut self, place: Place, address: u64, to: u64) -> Option<()> {
        if address.is_multiple_of(to) {
            return Some(());
        }
        self.problem = Some((place, address, Problem::Misaligned { to }));
        None
    }

    /// An entry that names memory of the data.
    fn data(
        &mut self,
        memory: &GuestRam,
        place: Place,
        address: u64,
        align: u64,
        bytes: u64,
    ) -> Option<()> {
        self.aligned(place, address, align)?;
        if !is_memory(memory, address, bytes) {
            self.problem = Some((place, address, Problem::Nowhere { bytes }));
            return None;
        }
        match self.data.last_mut() {
            Some(last) if last.end == address => last.end += bytes,
            _ => self.data.push(address..address + bytes),
        }
        Some(())
    }
}

pub(super) fn is_memory(memory: &GuestRam, address: u64, bytes: u64) -> bool {
    usize::try_from(bytes).is_ok_and(|bytes| memory.check_range(GuestAddress(address), bytes))
}

fn read(memory: &GuestRam, at: u64, count: usize) -> Option<Vec<u64>> {
    let mut entries = vec![0u64; count];
    memory
        .read_slice(entries.as_mut_bytes(), GuestAddress(at))
        .ok()?;
    Some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 4096;

    fn memory(lists: &[(u64, &[u64])]) -> GuestRam {
        let memory = GuestRam::from_ranges(&[(GuestAddress(0), 16 << 20)]).expect("memory");
        for (at, entries) in lists {
            memory
                .write_slice(entries.as_bytes(), GuestAddress(*at))
                .expect("mapped");
        }
        memory
    }

    #[test]
    fn data_and_lists_are_found() {
        let memory = memory(&[(0x10FF0, &[0x2000, 0x30000]), (0x30000, &[0x3000, 0x5000])]);
        let found = walk(&memory, PAGE, [0x1800, 0x10FF0], 0x800 + 3 * PAGE, 4);
        assert_eq!(found.problem, None);
        assert_eq!(found.data, [0x1800..0x4000, 0x5000..0x6000]);
        let lists: Vec<_> = found.lists.iter().map(List::range).collect();
        assert_eq!(lists, [0x10FF0..0x11000, 0x30000..0x30010]);
        assert_eq!(found.lists[1].changed(&memory), None);
        memory
            .write_slice(&[1], GuestAddress(0x30008))
            .expect("mapped");
        assert_eq!(found.lists[1].changed(&memory), Some((1, 0x5000, 0x5001)));
        let short = walk(&memory, PAGE, [0x1800, 0x10FF0], 0x800 + 3 * PAGE, 3);
        assert!(short.too_many);
    }

    #[test]
    fn the_entry_that_is_wrong_is_named() {
        let memory = memory(&[
            (0x10000, &[0x2000, 0x3004, 0]),
            (0x20000, &[0x2000, !0xFFF]),
        ]);
        let problem = |prp1, prp2, len| walk(&memory, PAGE, [prp1, prp2], len, 16).problem;
        let nowhere = |place, at, bytes| Some((place, at, Problem::Nowhere { bytes }));
        let misaligned = |place, at, to| Some((place, at, Problem::Misaligned { to }));
        assert_eq!(problem(0x1002, 0, 512), misaligned(Place::Prp1, 0x1002, 4));
        assert_eq!(problem(1 << 40, 0, 512), nowhere(Place::Prp1, 1 << 40, 512));
        assert_eq!(
            problem(0x1000, 0x2000, PAGE),
            Some((Place::Prp2, 0x2000, Problem::Unused))
        );
        assert_eq!(
            problem(0x1000, 0x2008, 2 * PAGE),
            misaligned(Place::Prp2, 0x2008, PAGE)
        );
        assert_eq!(
            problem(0x1000, 0x2004, 3 * PAGE),
            misaligned(Place::Prp2, 0x2004, 8)
        );
        assert_eq!(
            problem(0x1000, 1 << 40, 3 * PAGE),
            nowhere(Place::Prp2, 1 << 40, 16)
        );
        assert_eq!(
            problem(0x1000, 0x10000, 4 * PAGE),
            misaligned(Place::List(0x10008), 0x3004, PAGE)
        );
        assert_eq!(
            problem(0x1000, 0x20000, 3 * PAGE),
            nowhere(Place::List(0x20008), !0xFFF, PAGE)
        );
    }

    #[test]
    fn a_chain_to_itself_ends() {
        let memory = memory(&[(0x10FF8, &[0x10FF8])]);
        let found = walk(&memory, PAGE, [0x1000, 0x10FF8], 4 * PAGE, 100);
        // A pointer to a list page must be that of a page.
        assert_eq!(
            found.problem,
            Some((
                Place::List(0x10FF8),
                0x10FF8,
                Problem::Misaligned { to: PAGE }
            ))
        );
        let memory = self::memory(&[(0x10000, &[0x10000; 512])]);
        let found = walk(&memory, PAGE, [0x1000, 0x10000], 4096 * PAGE, 2000);
        assert!(found.too_many);
    }
}
