//! CRC-32C (Castagnoli), the checksum that databases and file systems put on pages.

/// The polynomial, bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// What a byte does that is followed by as many others as the table's number: eight bytes are
/// looked up at once.
const TABLES: [[u32; 256]; 8] = tables();

#[allow(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "evaluated when it is compiled"
)]
const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[table - 1][byte];
            tables[table][byte] = (before >> 8) ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        table += 1;
    }
    tables
}

/// The checksum of bytes that come one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Crc(u32);

impl Default for Crc {
    fn default() -> Self {
        Self(!0)
    }
}

impl Crc {
    /// Goes on with `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        let (eights, rest) = bytes.as_chunks::<8>();
        for eight in eights {
            let mixed = u64::from_le_bytes(*eight) ^ u64::from(self.0);
            let [a, b, c, d, e, f, g, h] = mixed.to_le_bytes();
            let [t0, t1, t2, t3, t4, t5, t6, t7] = &TABLES;
            self.0 = entry(t7, a)
                ^ entry(t6, b)
                ^ entry(t5, c)
                ^ entry(t4, d)
                ^ entry(t3, e)
                ^ entry(t2, f)
                ^ entry(t1, g)
                ^ entry(t0, h);
        }
        let [table, ..] = &TABLES;
        for byte in rest {
            let [low, ..] = self.0.to_le_bytes();
            self.0 = (self.0 >> 8) ^ entry(table, low ^ byte);
        }
    }

    /// The checksum of all.
    #[must_use]
    pub fn value(self) -> u32 {
        !self.0
    }
}

fn entry(table: &[u32; 256], byte: u8) -> u32 {
    table.get(usize::from(byte)).copied().unwrap_or_default()
}

/// The checksum of `bytes`.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = Crc::default();
    crc.update(bytes);
    crc.value()
}

#[cfg(test)]
mod tests {
    use super::{Crc, crc32c};

    #[test]
    fn the_check_values_are_the_algorithms() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(b""), 0);
    }

    #[test]
    fn parts_of_any_length_are_the_same_as_the_whole() {
        let bytes: Vec<u8> = (0..=255).collect();
        for middle in 0..=256 {
            let mut crc = Crc::default();
            crc.update(&bytes[..middle]);
            crc.update(&bytes[middle..]);
            assert_eq!(crc.value(), crc32c(&bytes), "{middle}");
        }
    }
}
