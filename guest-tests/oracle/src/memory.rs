//! The memory that the host shares with the controller, and a copy of what it should hold.

use nvme_host::Transport;

/// Pages of one owner, in a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Region {
    pub(crate) address: u64,
    pub(crate) bytes: u64,
}

/// The memory. Nobody but the controller and this changes it, so whatever the copy does not know
/// of, the controller wrote where it should not.
#[derive(Debug)]
pub(crate) struct Memory {
    base: u64,
    page: u64,
    copy: Vec<u8>,
    used: Vec<bool>,
    /// Where the search for free pages goes on, so that what was given back rests a while.
    next: usize,
}

impl Memory {
    /// `pages` pages of `page` bytes, full of a pattern.
    pub(crate) fn new<T: Transport + ?Sized>(
        transport: &mut T,
        pages: usize,
        page: u64,
    ) -> Option<Self> {
        let bytes = pages as u64 * page;
        let base = transport.dma_alloc(bytes)?;
        // No word of it is aligned as a PRP entry has to be, none is a block's.
        let pattern = (0..bytes).map(|at| 0xC3 ^ (at >> 4).to_le_bytes()[0]);
        let memory = Self {
            base,
            page,
            copy: pattern.collect(),
            used: vec![false; pages],
            next: 0,
        };
        transport.mem_write(base, &memory.copy);
        Some(memory)
    }

    /// Bytes of a page.
    pub(crate) const fn page(&self) -> u64 {
        self.page
    }

    /// Memory for `bytes` bytes, whole pages; `None` when there is none.
    pub(crate) fn alloc(&mut self, bytes: u64) -> Option<Region> {
        let pages = usize::try_from(bytes.div_ceil(self.page).max(1)).ok()?;
        let places = (self.next..self.used.len()).chain(0..self.next);
        let is_free = |&first: &usize| {
            let wanted = self.used.get(first..first + pages);
            wanted.is_some_and(|pages| pages.iter().all(|&used| !used))
        };
        let first = places.into_iter().find(is_free)?;
        self.used[first..first + pages].fill(true);
        self.next = first + pages;
        Some(Region {
            address: self.base + first as u64 * self.page,
            bytes: pages as u64 * self.page,
        })
    }

    /// Gives memory back. What it holds it goes on holding.
    pub(crate) fn free(&mut self, region: Region) {
        let first = self.index(region.address) / self.index_of(self.page);
        let pages = self.index_of(region.bytes / self.page);
        self.used[first..first + pages].fill(false);
    }

    fn index_of(&self, number: u64) -> usize {
        usize::try_from(number).unwrap_or(usize::MAX)
    }

    fn index(&self, address: u64) -> usize {
        self.index_of(address - self.base)
    }

    /// The host writes.
    pub(crate) fn write<T: Transport + ?Sized>(&mut self, to: &mut T, address: u64, data: &[u8]) {
        to.mem_write(address, data);
        self.expect(address, data);
    }

    /// The controller has rightly written this.
    pub(crate) fn expect(&mut self, address: u64, data: &[u8]) {
        let at = self.index(address);
        self.copy[at..at + data.len()].copy_from_slice(data);
    }

    /// What should be there.
    pub(crate) fn expected(&self, region: Region) -> &[u8] {
        let at = self.index(region.address);
        &self.copy[at..at + self.index_of(region.bytes)]
    }

    /// The controller may have written what it liked there.
    pub(crate) fn accept<T: Transport + ?Sized>(&mut self, from: &mut T, region: Region) {
        let at = self.index(region.address);
        let end = at + self.index_of(region.bytes);
        from.mem_read(region.address, &mut self.copy[at..end]);
    }

    /// Whether a region holds what it should.
    ///
    /// # Errors
    /// The first difference, as text.
    pub(crate) fn check<T: Transport + ?Sized>(
        &self,
        from: &mut T,
        region: Region,
    ) -> Result<(), String> {
        let mut found = vec![0; self.index_of(region.bytes)];
        from.mem_read(region.address, &mut found);
        let expected = self.expected(region);
        if found == expected {
            return Ok(());
        }
        let at = found.iter().zip(expected).position(|(a, b)| a != b);
        let at = at.unwrap_or_default();
        let end = (at + 16).min(found.len());
        Err(format!(
            "memory at {:#x} was written by nobody who may: {:02x?} instead of {:02x?}",
            region.address + at as u64,
            &found[at..end],
            &expected[at..end]
        ))
    }

    /// Whether all of it holds what it should.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub(crate) fn check_all<T: Transport + ?Sized>(&self, from: &mut T) -> Result<(), String> {
        let all = Region {
            address: self.base,
            bytes: self.copy.len() as u64,
        };
        self.check(from, all)
    }
}
