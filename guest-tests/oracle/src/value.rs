//! What a logical block holds, as one number.
//!
//! Every block of every write gets a number of its own, and each 8 bytes of the block are made of
//! it and of their place. So a block that was read tells which write it is of, and one that is a
//! mix of two, or shifted, is of none.

/// Bits of a word that are its place in the block; blocks are at most 64 KiB.
const PLACE_BITS: u32 = 16;

/// The content of a block.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Value(pub(crate) u64);

impl Value {
    /// All zeroes.
    pub(crate) const ZERO: Self = Self(0);
    /// What no block holds.
    pub(crate) const NONE: Self = Self(u64::MAX);

    /// Fills a block; its length is a multiple of 8.
    pub(crate) fn fill(self, block: &mut [u8]) {
        for (word, place) in block.chunks_exact_mut(8).zip(0..) {
            word.copy_from_slice(&self.word(place).to_le_bytes());
        }
    }

    /// What a block holds, or the first words that are of different values.
    ///
    /// # Errors
    /// Two words of the block that cannot be of one write, as text.
    pub(crate) fn of(block: &[u8]) -> Result<Self, String> {
        let (words, _) = block.as_chunks::<8>();
        let first = words.first().map_or(0, |&word| u64::from_le_bytes(word));
        let value = Self(first >> PLACE_BITS);
        for (&word, place) in words.iter().zip(0..) {
            let word = u64::from_le_bytes(word);
            if word != value.word(place) {
                return Err(format!(
                    "a block that begins with {value:?} has the word {word:#x} at byte {}, which is \
                     of value {:?} or of none",
                    place * 8,
                    Self(word >> PLACE_BITS)
                ));
            }
        }
        Ok(value)
    }

    const fn word(self, place: u64) -> u64 {
        match self {
            Self::ZERO => 0,
            Self(number) => number << PLACE_BITS | place,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_tells_its_value_and_a_mix_does_not() {
        let (mut one, mut other) = ([0; 512], [0; 512]);
        assert_eq!(Value::of(&one), Ok(Value::ZERO));
        Value(7).fill(&mut one);
        Value(8).fill(&mut other);
        assert_eq!(Value::of(&one), Ok(Value(7)));
        for at in [8, 256, 504] {
            let mut mixed = one;
            mixed[at..].copy_from_slice(&other[at..]);
            assert!(Value::of(&mixed).is_err(), "{at}");
        }
        one.rotate_left(8);
        assert!(Value::of(&one).is_err());
        let mut zeroed = other;
        zeroed[300..].fill(0);
        assert!(Value::of(&zeroed).is_err());
    }
}
