//! Data that tells where it came from.

use alloc::vec::Vec;

use crate::rng::Rng;

/// `bytes` bytes that depend on `seed` alone; no two seeds share a word.
pub(crate) fn pattern(seed: u64, bytes: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed.wrapping_mul(0xA24B_AED4_963E_E407));
    let len = usize::try_from(bytes).unwrap_or(0);
    let mut data = Vec::with_capacity(len.next_multiple_of(8));
    while data.len() < len {
        data.extend_from_slice(&rng.next().to_le_bytes());
    }
    data.truncate(len);
    data
}

/// Text of a fixed-width field: ASCII without the padding behind it.
pub(crate) fn text(field: &[u8]) -> alloc::string::String {
    alloc::string::String::from_utf8_lossy(field)
        .trim_end_matches([' ', '\0'])
        .into()
}
