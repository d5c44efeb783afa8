//! Sizes in bytes, as people write them.

/// Reads bytes, or a number with K, M or G (powers of 1,024).
///
/// # Errors
/// What is wrong with it, and what would be right.
pub fn parse(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no size; write bytes, or a number with K, M or G");
    let shift = match text.chars().last().map(|c| c.to_ascii_uppercase()) {
        Some('K') => 10,
        Some('M') => 20,
        Some('G') => 30,
        _ => 0,
    };
    let digits = if shift == 0 {
        text
    } else {
        text.get(..text.len() - 1).unwrap_or_default()
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).ok_or_else(wrong)
}

/// Bytes with the largest suffix that divides them.
#[must_use]
pub fn show(bytes: u64) -> String {
    for (suffix, shift) in [("G", 30), ("M", 20), ("K", 10)] {
        if bytes != 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{suffix}", bytes >> shift);
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use super::{parse, show};

    #[test]
    fn sizes_have_suffixes_or_none() {
        for (text, bytes) in [("512", 512), ("16K", 16_384), ("64m", 64 << 20), ("0", 0)] {
            assert_eq!(parse(text), Ok(bytes));
        }
        for text in ["", "K", "-1", "1.5K", "4KB", "99999999999G", "é"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(
            (show(16_384), show(513), show(0)),
            ("16K".into(), "513".into(), "0".into())
        );
    }
}
