//! Memory for direct I/O.

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Alignment of every [`Buffer`] in bytes: enough for direct I/O on any kernel.
pub const ALIGNMENT: usize = 4096;

#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
struct Block([u8; ALIGNMENT]);

/// Bytes at an address that is a multiple of [`ALIGNMENT`].
pub struct Buffer {
    blocks: Vec<Block>,
    length: usize,
}

impl Buffer {
    /// `length` zero bytes.
    #[must_use]
    pub fn new(length: usize) -> Self {
        let blocks = length.div_ceil(ALIGNMENT);
        let blocks = std::iter::repeat_with(Block::new_zeroed).take(blocks);
        Self {
            blocks: blocks.collect(),
            length,
        }
    }

    /// All of it.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        let all = self.blocks.as_slice().as_bytes();
        all.get(..self.length).unwrap_or_default()
    }

    /// All of it, to be changed.
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let all = self.blocks.as_mut_slice().as_mut_bytes();
        all.get_mut(..self.length).unwrap_or_default()
    }

    /// The first `length` bytes, or all if there are fewer.
    #[must_use]
    pub fn first_mut(&mut self, length: usize) -> &mut [u8] {
        let length = length.min(self.length);
        self.bytes_mut().get_mut(..length).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::{ALIGNMENT, Buffer};

    #[test]
    fn buffers_are_aligned_and_as_long_as_asked() {
        for length in [0, 512, 4096, 5000, 65_536] {
            let mut buffer = Buffer::new(length);
            assert_eq!(buffer.bytes().len(), length);
            assert_eq!(buffer.bytes_mut().as_ptr().align_offset(ALIGNMENT), 0);
            assert_eq!(buffer.first_mut(512).len(), length.min(512));
        }
    }
}
