//! Sizes in bytes, as people write them.

use std::fmt;

use nvme::Extent;

/// A number of bytes that prints as it would be written: `4K`, `64M`, `512`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size(pub u64);

const UNITS: [(char, u32); 4] = [('T', 40), ('G', 30), ('M', 20), ('K', 10)];

/// Reads a number of bytes with an optional suffix K, M, G or T (powers of 1,024; `KiB` and the
/// like too).
///
/// # Errors
/// What is wrong with it, and what would be right.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let bare = text.strip_suffix("iB").unwrap_or(text);
    let bare = if bare.len() < text.len() {
        bare
    } else {
        text.strip_suffix('B').unwrap_or(text)
    };
    let last = bare.chars().last().map(|c| c.to_ascii_uppercase());
    let unit = UNITS.iter().find(|(letter, _)| Some(*letter) == last);
    let (digits, shift) = match unit {
        Some((_, shift)) => (bare.get(..bare.len() - 1).unwrap_or_default(), *shift),
        None => (bare, 0),
    };
    let wrong = || format!("`{text}` is not a size; write bytes, or a number with K, M, G or T");
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("`{text}` is more than 64 bits of bytes can count"))
}

/// Reads a size in bytes, as [`parse_size`] does, or in logical blocks: a number with `b`.
///
/// # Errors
/// What is wrong with it, and what would be right.
pub fn parse_extent(text: &str) -> Result<Extent, String> {
    let Some(blocks) = text.strip_suffix('b') else {
        return match parse_size(text)? {
            0 => Err(format!(
                "`{text}` is nothing; the least is a logical block, 1b"
            )),
            bytes => Ok(Extent::Bytes(bytes)),
        };
    };
    let digits = blocks.bytes().all(|byte| byte.is_ascii_digit());
    match blocks.parse() {
        Ok(blocks @ 1..) if digits => Ok(Extent::Blocks(blocks)),
        _ => Err(format!(
            "`{text}` is not a number of logical blocks; write 1b or more"
        )),
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |shift: u32| self.0 != 0 && self.0.trailing_zeros() >= shift;
        match UNITS.iter().find(|&&(_, shift)| whole(shift)) {
            Some((letter, shift)) => write!(f, "{}{letter}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_with_and_without_suffix() {
        for (text, bytes) in [
            ("512", 512),
            ("4K", 4096),
            ("4k", 4096),
            ("4KiB", 4096),
            ("64M", 64 << 20),
            ("3G", 3 << 30),
            ("1T", 1 << 40),
            ("10B", 10),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_named() {
        for text in [
            "",
            "K",
            "4X",
            "-1",
            "4 K",
            "1.5G",
            "0x10",
            "18446744073709551616",
            "99999999999T",
        ] {
            let error = parse_size(text).expect_err(text);
            assert!(error.contains(&format!("`{text}`")), "{error}");
        }
    }

    #[test]
    fn extents_are_bytes_or_blocks() {
        assert_eq!(parse_extent("16K"), Ok(Extent::Bytes(16384)));
        assert_eq!(parse_extent("16KB"), Ok(Extent::Bytes(16384)));
        assert_eq!(parse_extent("8b"), Ok(Extent::Blocks(8)));
        for text in ["0", "0b", "b", "-1b", "1.5b", "4294967296b", "4Kb", "8 b"] {
            let error = parse_extent(text).expect_err(text);
            assert!(error.contains(&format!("`{text}`")), "{error}");
        }
    }

    #[test]
    fn a_size_prints_as_it_is_written() {
        for text in ["512", "4K", "65K", "1M", "3G", "1T", "1000", "0"] {
            assert_eq!(Size(parse_size(text).expect(text)).to_string(), text);
        }
    }
}
