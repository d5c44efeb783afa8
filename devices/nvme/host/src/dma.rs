//! Device-visible memory: buffers, and the pool that hands them out.

use alloc::vec::Vec;

use crate::{Error, Transport};

/// The unit in which the pool hands out memory, in bytes.
const GRANULE: u64 = 4096;
/// How much the pool asks of the transport at a time, in bytes, unless more is needed.
const CHUNK: u64 = 256 * 1024;
/// What the transport aligns its allocations to, in bytes.
pub(crate) const MAX_ALIGN: u64 = 64 * 1024;

/// A contiguous piece of device-visible memory. It is a name, not an owner: reset or
/// [`Driver::free`](crate::Driver::free) end it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Buffer {
    /// The device's address of its first byte.
    pub address: u64,
    /// Its length in bytes.
    pub bytes: u64,
}

impl Buffer {
    /// The piece of `bytes` bytes at `offset`, cut to what there is.
    #[must_use]
    pub const fn slice(self, offset: u64, bytes: u64) -> Self {
        let offset = if offset < self.bytes {
            offset
        } else {
            self.bytes
        };
        let rest = self.bytes - offset;
        Self {
            address: self.address + offset,
            bytes: if bytes < rest { bytes } else { rest },
        }
    }

    /// The address just behind it.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.address + self.bytes
    }
}

/// First-fit allocator over what the transport gave.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    /// Free pieces, sorted by address, never touching each other.
    free: Vec<Buffer>,
}

impl Pool {
    /// Zeroed memory of at least `bytes` bytes, aligned to `align` (a power of two up to 64 KiB).
    /// The buffer's length is `bytes` exactly.
    pub(crate) fn alloc<T: Transport + ?Sized>(
        &mut self,
        transport: &mut T,
        bytes: u64,
        align: u64,
    ) -> Result<Buffer, Error> {
        let no_memory = Error::NoMemory { bytes };
        let whole = bytes
            .max(1)
            .checked_next_multiple_of(GRANULE)
            .ok_or(no_memory)?;
        let align = align.max(GRANULE);
        let address = match self.take(whole, align) {
            Some(address) => address,
            None => {
                self.grow(transport, whole).ok_or(no_memory)?;
                self.take(whole, align).ok_or(no_memory)?
            }
        };
        zero(transport, address, whole);
        Ok(Buffer { address, bytes })
    }

    /// Gives a buffer of [`alloc`](Self::alloc) back.
    pub(crate) fn release(&mut self, buffer: Buffer) {
        self.insert(Buffer {
            address: buffer.address,
            bytes: buffer.bytes.max(1).next_multiple_of(GRANULE),
        });
    }

    /// Forgets everything, after the transport has.
    pub(crate) fn clear(&mut self) {
        self.free.clear();
    }

    fn grow<T: Transport + ?Sized>(&mut self, transport: &mut T, whole: u64) -> Option<()> {
        let chunk = whole.max(CHUNK).checked_next_multiple_of(MAX_ALIGN)?;
        let (address, bytes) = match transport.dma_alloc(chunk) {
            Some(address) => (address, chunk),
            None => (transport.dma_alloc(whole)?, whole),
        };
        self.insert(Buffer { address, bytes });
        Some(())
    }

    fn take(&mut self, whole: u64, align: u64) -> Option<u64> {
        let fits = |piece: &Buffer| {
            let start = piece.address.checked_next_multiple_of(align)?;
            (start.checked_add(whole)? <= piece.end()).then_some(start)
        };
        let (index, start) = self
            .free
            .iter()
            .enumerate()
            .find_map(|(index, piece)| Some((index, fits(piece)?)))?;
        let piece = self.free.remove(index);
        self.insert(Buffer {
            address: piece.address,
            bytes: start - piece.address,
        });
        self.insert(Buffer {
            address: start + whole,
            bytes: piece.end() - (start + whole),
        });
        Some(start)
    }

    /// Inserts a free piece, joined with its neighbours.
    fn insert(&mut self, mut piece: Buffer) {
        if piece.bytes == 0 {
            return;
        }
        let mut index = self.free.partition_point(|p| p.address < piece.address);
        if let Some(next) = self.free.get(index).copied()
            && piece.end() == next.address
        {
            piece.bytes += next.bytes;
            self.free.remove(index);
        }
        if let Some(before) = index.checked_sub(1).and_then(|i| self.free.get(i)).copied()
            && before.end() == piece.address
        {
            index -= 1;
            self.free.remove(index);
            piece = Buffer {
                address: before.address,
                bytes: before.bytes + piece.bytes,
            };
        }
        self.free.insert(index, piece);
    }
}

/// Stores zeroes.
pub(crate) fn zero<T: Transport + ?Sized>(transport: &mut T, address: u64, bytes: u64) {
    fill(transport, address, bytes, &[0; 1024]);
}

/// Stores `pattern` again and again over `bytes` bytes.
pub(crate) fn fill<T: Transport + ?Sized>(
    transport: &mut T,
    mut address: u64,
    mut bytes: u64,
    pattern: &[u8],
) {
    let step = pattern.len() as u64;
    while bytes >= step && step > 0 {
        transport.mem_write(address, pattern);
        address += step;
        bytes -= step;
    }
    if let Some(rest) = usize::try_from(bytes).ok().and_then(|n| pattern.get(..n)) {
        transport.mem_write(address, rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(address: u64, bytes: u64) -> Buffer {
        Buffer { address, bytes }
    }

    #[test]
    fn released_neighbours_join_again() {
        let mut pool = Pool::default();
        pool.insert(piece(0x10000, 0x10000));
        let a = pool.take(0x1000, 0x1000).unwrap();
        let b = pool.take(0x2000, 0x1000).unwrap();
        let c = pool.take(0x1000, 0x1000).unwrap();
        assert_eq!((a, b, c), (0x10000, 0x11000, 0x13000));
        pool.release(piece(a, 0x1000));
        pool.release(piece(c, 1));
        pool.release(piece(b, 0x1001));
        assert_eq!(pool.free, [piece(0x10000, 0x10000)]);
    }

    #[test]
    fn alignment_leaves_the_gap_free() {
        let mut pool = Pool::default();
        pool.insert(piece(0x11000, 0x1F000));
        assert_eq!(pool.take(0x1000, 0x10000), Some(0x20000));
        assert_eq!(pool.free, [piece(0x11000, 0xF000), piece(0x21000, 0xF000)]);
        assert_eq!(pool.take(0x10000, 0x1000), None);
    }

    #[test]
    fn slice_never_leaves_the_buffer() {
        assert_eq!(piece(100, 10).slice(4, 100), piece(104, 6));
        assert_eq!(piece(100, 10).slice(20, 1), piece(110, 0));
    }
}
