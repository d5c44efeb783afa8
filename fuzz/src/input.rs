//! A fuzzer's bytes as choices.
//!
//! Zero, which is also what an input that has ended gives, is always the choice of a correct host;
//! so most inputs get far before they go wrong.

use arbitrary::Unstructured;

/// Bytes from which choices are made, in order.
pub(crate) struct Input<'a>(Unstructured<'a>);

impl<'a> Input<'a> {
    pub(crate) fn new(data: &'a [u8]) -> Self {
        Self(Unstructured::new(data))
    }

    /// Whether nothing is left: a run ends here.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn u8(&mut self) -> u8 {
        self.0.arbitrary().unwrap_or_default()
    }

    pub(crate) fn u16(&mut self) -> u16 {
        self.0.arbitrary().unwrap_or_default()
    }

    pub(crate) fn u32(&mut self) -> u32 {
        self.0.arbitrary().unwrap_or_default()
    }

    pub(crate) fn u64(&mut self) -> u64 {
        self.0.arbitrary().unwrap_or_default()
    }

    pub(crate) fn bool(&mut self) -> bool {
        self.u8() & 1 != 0
    }

    /// Now and then true: the host does something wrong.
    pub(crate) fn wrong(&mut self) -> bool {
        self.u8() >= 0xE8
    }

    /// One of `count` (1 to 256), the first by default.
    pub(crate) fn below(&mut self, count: u64) -> u64 {
        u64::from(self.u8()) % count.max(1)
    }

    /// One of `choices`, the first by default.
    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::from(self.u8()) % choices.len()]
    }

    /// Up to `count` bytes.
    pub(crate) fn bytes(&mut self, count: usize) -> &'a [u8] {
        self.0.bytes(count.min(self.0.len())).unwrap_or_default()
    }

    /// All that is left.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.0.take_rest()
    }

    /// A number of bits as large as its first byte says, so that small and round ones are common.
    pub(crate) fn number(&mut self) -> u64 {
        match self.u8() {
            0 => 0,
            kind @ 1..=64 => 1 << (kind - 1),
            kind @ 65..=128 => (1u64 << (kind - 65)).wrapping_sub(1),
            kind @ 129..=160 => u64::from(kind - 129),
            161..=190 => self.u16().into(),
            191..=220 => self.u32().into(),
            _ => self.u64(),
        }
    }
}
