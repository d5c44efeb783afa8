//! Physical Region Pages: from a command's two entries to segments (Base 4.3.1).

use nvme_spec::{PRP_ENTRY_BYTES, Status};
use storage::{GuestRam, Request};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};
use zerocopy::IntoBytes;

/// PRP entries read from a list in one copy.
const LIST_CHUNK: usize = 64;

/// A command's data buffer, as its two PRP entries describe it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Buffer {
    pub(crate) prp1: u64,
    pub(crate) prp2: u64,
    /// Bytes; they decide what PRP entry 2 is.
    pub(crate) len: u64,
}

/// Appends the memory of the first `most` bytes of a buffer to `request`.
///
/// Each list is copied before it is looked at, and each page is checked to be memory. The work is
/// bounded by the length, which the caller has held against MDTS: a list that points to itself
/// ends when the transfer is full.
///
/// # Errors
/// `INVALID_PRP_OFFSET` for an entry that is not aligned as its place asks;
/// `DATA_TRANSFER_ERROR` for one that is not memory.
pub(crate) fn walk(
    request: &mut Request,
    memory: &GuestRam,
    page_bytes: u64,
    buffer: Buffer,
    most: u64,
) -> Result<(), Status> {
    let Buffer { prp1, prp2, len } = buffer;
    if !prp1.is_multiple_of(4) {
        return Err(Status::INVALID_PRP_OFFSET.dnr());
    }
    let mut into = Walk {
        request,
        mapped: Mapped::new(memory),
        page_bytes,
    };
    let first = len.min(page_bytes - into.offset(prp1));
    into.push(prp1, first.min(most))?;
    let left = len - first;
    let most = most.saturating_sub(first);
    if left == 0 || most == 0 {
        Ok(())
    } else if left <= page_bytes {
        into.page(prp2, left.min(most))
    } else {
        into.list(prp2, left, most)
    }
}

/// A request that is being given its segments.
struct Walk<'r, 'm> {
    request: &'r mut Request,
    mapped: Mapped<'m>,
    /// A power of two.
    page_bytes: u64,
}

/// Memory, and the region that the last page was in: another page of it needs no search.
struct Mapped<'m> {
    memory: &'m GuestRam,
    first: u64,
    last: u64,
}

impl Walk<'_, '_> {
    /// How far into its page an address is.
    const fn offset(&self, address: u64) -> u64 {
        address & (self.page_bytes - 1)
    }

    /// Follows a list of `left` bytes, and the lists chained behind it, for `most` of them.
    fn list(&mut self, mut at: u64, mut left: u64, mut most: u64) -> Result<(), Status> {
        if !at.is_multiple_of(PRP_ENTRY_BYTES) {
            return Err(Status::INVALID_PRP_OFFSET.dnr());
        }
        let page_bytes = self.page_bytes;
        let mut chunk = [0u64; LIST_CHUNK];
        loop {
            let wanted = left.div_ceil(page_bytes);
            let room = (page_bytes - self.offset(at)) / PRP_ENTRY_BYTES;
            // The last entry of a list page is a pointer to the next one if more is to come.
            let (mut entries, chained) = if wanted > room {
                (room - 1, true)
            } else {
                (wanted, false)
            };
            while entries > 0 {
                let count = entries
                    .min(LIST_CHUNK as u64)
                    .min(most.div_ceil(page_bytes));
                let part = usize::try_from(count).ok().and_then(|n| chunk.get_mut(..n));
                let part = part.unwrap_or_default();
                read(self.mapped.memory, at, part)?;
                for &entry in part.iter() {
                    let bytes = left.min(page_bytes);
                    self.page(entry, bytes.min(most))?;
                    left -= bytes;
                    most = most.saturating_sub(bytes);
                }
                if most == 0 {
                    return Ok(());
                }
                at = at.wrapping_add(count * PRP_ENTRY_BYTES);
                entries -= count;
            }
            if !chained {
                return Ok(());
            }
            let mut next = [0u64];
            read(self.mapped.memory, at, &mut next)?;
            let [next] = next;
            if self.offset(next) != 0 {
                return Err(Status::INVALID_PRP_OFFSET.dnr());
            }
            at = next;
        }
    }

    /// An entry that must name the start of a page.
    #[inline]
    fn page(&mut self, entry: u64, bytes: u64) -> Result<(), Status> {
        if self.offset(entry) != 0 {
            return Err(Status::INVALID_PRP_OFFSET.dnr());
        }
        self.push(entry, bytes)
    }

    #[inline]
    fn push(&mut self, addr: u64, bytes: u64) -> Result<(), Status> {
        if !self.mapped.has(addr, bytes) {
            return Err(Status::DATA_TRANSFER_ERROR.dnr());
        }
        // At most a page, and pages are at most 128 MiB (CC.MPS).
        let len = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.request.push_segment(addr, len);
        Ok(())
    }
}

impl<'m> Mapped<'m> {
    const fn new(memory: &'m GuestRam) -> Self {
        Self {
            memory,
            first: 1,
            last: 0,
        }
    }

    /// Whether the range is memory.
    fn has(&mut self, addr: u64, bytes: u64) -> bool {
        self.region_has(addr, bytes) || self.search(addr, bytes)
    }

    const fn region_has(&self, addr: u64, bytes: u64) -> bool {
        self.first <= addr && addr <= self.last && bytes.wrapping_sub(1) <= self.last - addr
    }

    #[inline(never)]
    fn search(&mut self, addr: u64, bytes: u64) -> bool {
        let at = GuestAddress(addr);
        if let Some(region) = self.memory.find_region(at) {
            self.first = region.start_addr().raw_value();
            self.last = region.last_addr().raw_value();
        }
        // It may go on in the next region.
        self.region_has(addr, bytes)
            || usize::try_from(bytes).is_ok_and(|bytes| self.memory.check_range(at, bytes))
    }
}

fn read(memory: &GuestRam, at: u64, entries: &mut [u64]) -> Result<(), Status> {
    memory
        .read_slice(entries.as_mut_bytes(), GuestAddress(at))
        .map_err(|_| Status::DATA_TRANSFER_ERROR.dnr())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 4096;

    fn memory() -> GuestRam {
        GuestRam::from_ranges(&[(GuestAddress(0), 64 << 20)]).expect("memory")
    }

    fn put(memory: &GuestRam, at: u64, entries: &[u64]) {
        memory
            .write_slice(entries.as_bytes(), GuestAddress(at))
            .expect("mapped");
    }

    fn segments(
        memory: &GuestRam,
        prp1: u64,
        prp2: u64,
        len: u64,
    ) -> Result<Vec<(u64, u32)>, Status> {
        let mut request = Request::default();
        walk(&mut request, memory, PAGE, Buffer { prp1, prp2, len }, len)?;
        let total: u64 = request.segments.iter().map(|s| u64::from(s.len)).sum();
        assert_eq!(total, len);
        Ok(request.segments.iter().map(|s| (s.addr, s.len)).collect())
    }

    #[test]
    fn one_page_from_an_offset_needs_no_second_entry() {
        assert_eq!(segments(&memory(), 0x1204, 3, 512), Ok(vec![(0x1204, 512)]));
    }

    #[test]
    fn the_second_entry_is_a_page_for_up_to_two() {
        let got = segments(&memory(), 0x1800, 0x9000, 4096);
        assert_eq!(got, Ok(vec![(0x1800, 0x800), (0x9000, 0x800)]));
        let got = segments(&memory(), 0x1000, 0x9000, 2 * PAGE);
        assert_eq!(got, Ok(vec![(0x1000, 4096), (0x9000, 4096)]));
    }

    #[test]
    fn neighbouring_pages_become_one_segment() {
        assert_eq!(
            segments(&memory(), 0x1800, 0x2000, 4096),
            Ok(vec![(0x1800, 4096)])
        );
    }

    #[test]
    fn a_list_may_start_mid_page_and_chains_in_its_last_entry() {
        let memory = memory();
        let at = 0x10000 + PAGE - 16;
        put(&memory, at, &[0x20000, 0x30000]);
        put(&memory, 0x30000, &[0x40000, 0x50000]);
        let got = segments(&memory, 0x1000, at, 4 * PAGE);
        assert_eq!(
            got,
            Ok(vec![
                (0x1000, 4096),
                (0x20000, 4096),
                (0x40000, 4096),
                (0x50000, 4096)
            ])
        );
    }

    #[test]
    fn a_list_that_fills_its_page_exactly_has_no_chain() {
        let memory = memory();
        let entries: Vec<u64> = (0..512).map(|i| 0x100_0000 + i * 2 * PAGE).collect();
        put(&memory, 0x10000, &entries);
        let got = segments(&memory, 0x1000, 0x10000, 513 * PAGE).expect("valid");
        assert_eq!(got.len(), 513);
        assert_eq!(got.last(), Some(&(0x100_0000 + 511 * 2 * PAGE, 4096)));
    }

    #[test]
    fn a_list_in_the_last_slot_of_a_page_is_only_a_chain() {
        let memory = memory();
        put(&memory, 0x10FF8, &[0x30000]);
        put(&memory, 0x30000, &[0x40000, 0x50000]);
        assert!(segments(&memory, 0x1000, 0x10FF8, 3 * PAGE).is_ok());
    }

    #[test]
    fn a_part_of_a_buffer_is_found_without_the_rest() {
        let memory = memory();
        put(&memory, 0x10000, &[0x20000, 3]);
        let mut request = Request::default();
        let buffer = Buffer {
            prp1: 0x1800,
            prp2: 0x10000,
            len: 1 << 30,
        };
        assert_eq!(walk(&mut request, &memory, PAGE, buffer, 0x900), Ok(()));
        let found: Vec<_> = request.segments.iter().map(|s| (s.addr, s.len)).collect();
        assert_eq!(found, [(0x1800, 0x800), (0x20000, 0x100)]);
    }

    #[test]
    fn a_list_that_points_to_itself_ends_with_the_transfer() {
        let memory = memory();
        put(&memory, 0x10000, &[0x10000; 512]);
        assert!(segments(&memory, 0x1000, 0x10000, 32 << 20).is_ok());
    }

    #[test]
    fn misaligned_entries_are_refused() {
        let memory = memory();
        put(&memory, 0x10000, &[0x20000, 0x30004]);
        let cases = [
            (0x1001, 0, 512),
            (0x1002, 0, 512),
            (0x1000, 0x2004, 8192),
            (0x1000, 0x10004, 12288),
        ];
        for (prp1, prp2, len) in cases {
            let got = segments(&memory, prp1, prp2, len);
            assert_eq!(
                got,
                Err(Status::INVALID_PRP_OFFSET.dnr()),
                "{prp1:#x} {prp2:#x}"
            );
        }
        let got = segments(&memory, 0x1000, 0x10000, 12288);
        assert_eq!(got, Err(Status::INVALID_PRP_OFFSET.dnr()));
        // A chained list starts with its page.
        put(&memory, 0x11FF8, &[0x30008]);
        let got = segments(&memory, 0x1000, 0x11FF8, 12288);
        assert_eq!(got, Err(Status::INVALID_PRP_OFFSET.dnr()));
    }

    /// Pages of two regions that touch, of one beyond a gap, and of none.
    #[test]
    fn each_page_is_looked_for_in_its_own_region() {
        let ranges = [(0, 0x12000), (0x12000, 0x3000), (0x20000, 0x1000)];
        let ranges = ranges.map(|(at, bytes)| (GuestAddress(at), bytes));
        let memory = GuestRam::from_ranges(&ranges).expect("memory");
        let list = |entries: &[u64]| {
            put(&memory, 0x1000, entries);
            let bytes = (1 + entries.len() as u64) * PAGE;
            segments(&memory, 0x3000, 0x1000, bytes).map(|got| got.len())
        };
        assert_eq!(list(&[0x20000, 0x5000, 0x13000, 0x20000]), Ok(5));
        for outside in [0x15000, 0x1F000, 0x21000, !0xFFF] {
            let got = list(&[0x20000, outside]);
            assert_eq!(got, Err(Status::DATA_TRANSFER_ERROR.dnr()), "{outside:#x}");
        }
        // A page of guest memory, larger than the region it begins in.
        let mut request = Request::default();
        let mut walk = |prp1, len| {
            let buffer = Buffer { prp1, prp2: 0, len };
            walk(&mut request, &memory, 0x10000, buffer, len)
        };
        assert_eq!(walk(0x10000, 0x5000), Ok(()));
        assert_eq!(
            walk(0x10000, 0x5001),
            Err(Status::DATA_TRANSFER_ERROR.dnr())
        );
    }

    #[test]
    fn what_is_not_memory_is_refused() {
        let memory = memory();
        put(&memory, 0x10000, &[!0xFFF, 0]);
        for (prp1, prp2, len) in [
            (64 << 20, 0, 512),
            (!0xFFF, 0, 4096),
            (0x1000, 1 << 40, 8192),
            (0x1000, 1 << 40, 12288),
            (0x1000, 0x10000, 12288),
        ] {
            let got = segments(&memory, prp1, prp2, len);
            assert_eq!(
                got,
                Err(Status::DATA_TRANSFER_ERROR.dnr()),
                "{prp1:#x} {prp2:#x}"
            );
        }
    }
}
