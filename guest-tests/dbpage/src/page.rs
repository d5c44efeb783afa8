//! What a page looks like: sectors of 512 bytes, each with a stamp.

use std::fmt;

use serde::Serialize;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::crc::{Crc, crc32c};
use crate::random::Random;
use crate::version::Version;

/// Bytes of a sector: the least that any drive writes whole.
pub const SECTOR: u64 = 512;
/// [`SECTOR`] as lengths in memory are counted.
pub const SECTOR_LEN: usize = 512;
/// The largest page in bytes.
pub const LARGEST: u64 = 16 << 20;

const MAGIC: [u8; 8] = *b"FerrPage";
const PAYLOAD: usize = SECTOR_LEN - size_of::<Stamp>();

/// What each sector of a page begins with. Little endian.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Stamp {
    magic: [u8; 8],
    /// The region's identifier.
    region: U64,
    /// The write's [`Version`].
    version: U64,
    /// Where the page begins, in bytes from the beginning of the target.
    offset: U64,
    /// Bytes of the page.
    size: U32,
    /// Which sector of the page this is, from 0.
    sector: U32,
    /// The thread that wrote it.
    writer: U32,
    /// CRC-32C of the page while all checksums in it are 0.
    page_crc: U32,
    /// CRC-32C of the sector while this field is 0.
    sector_crc: U32,
    reserved: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Sector {
    stamp: Stamp,
    payload: [u8; PAYLOAD],
}

const _: () = assert!(size_of::<Sector>() == SECTOR_LEN);

/// A write of one page.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
pub struct Write {
    /// When it began.
    pub version: Version,
    /// Where the page begins, in bytes from the beginning of the target.
    pub offset: u64,
    /// Bytes.
    pub size: u32,
    /// The thread, from 0.
    pub writer: u32,
}

impl Write {
    /// Where the page ends, in bytes from the beginning of the target.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(u64::from(self.size))
    }
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            version,
            offset,
            size,
            writer,
        } = self;
        let size = crate::size::show(u64::from(*size));
        write!(
            f,
            "version {version} of writer {writer} ({size} at {offset})"
        )
    }
}

/// What a sector was found to hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// A part of this write, with the checksum of its page.
    Part(Write, u32),
    /// A part of this write, of another place.
    Misplaced(Write),
    /// It has a stamp, and its checksum is wrong.
    Corrupt,
    /// It has no stamp, or one of another region.
    Foreign,
}

/// Makes the page of a write, whose size `page` has.
pub fn fill(page: &mut [u8], region: u64, write: Write) {
    let mut random = Random::new(region ^ write.version.0.rotate_left(17) ^ write.offset);
    let (sectors, _) = as_sectors(page);
    for (number, sector) in (0..).zip(sectors.iter_mut()) {
        sector.stamp = Stamp {
            magic: MAGIC,
            region: region.into(),
            version: write.version.0.into(),
            offset: write.offset.into(),
            size: write.size.into(),
            sector: U32::new(number),
            writer: write.writer.into(),
            page_crc: U32::ZERO,
            sector_crc: U32::ZERO,
            reserved: U32::ZERO,
        };
        for bytes in sector.payload.chunks_mut(8) {
            let number = random.any().to_le_bytes();
            bytes.copy_from_slice(number.get(..bytes.len()).unwrap_or_default());
        }
    }
    let page_crc = crc32c(page);
    for sector in as_sectors(page).0 {
        sector.stamp.page_crc = page_crc.into();
        sector.stamp.sector_crc = crc32c(sector.as_bytes()).into();
    }
}

/// What the sector of 512 bytes holds that lies `at` this many bytes from the target's beginning.
#[must_use]
pub fn examine(sector: &[u8], region: u64, at: u64) -> Found {
    let Ok(sector) = Sector::ref_from_bytes(sector) else {
        return Found::Foreign;
    };
    let stamp = &sector.stamp;
    if stamp.magic != MAGIC || stamp.region.get() != region {
        return Found::Foreign;
    }
    if stamp.sector_crc.get() != crc_of_sector(sector) {
        return Found::Corrupt;
    }
    let write = Write {
        version: Version(stamp.version.get()),
        offset: stamp.offset.get(),
        size: stamp.size.get(),
        writer: stamp.writer.get(),
    };
    let inside = u64::from(stamp.sector.get()) * SECTOR;
    if write.offset.checked_add(inside) != Some(at) || at >= write.end() {
        return Found::Misplaced(write);
    }
    Found::Part(write, stamp.page_crc.get())
}

/// Goes on with the checksum of a page: `sector` as it was when the checksum was made.
pub fn update(crc: &mut Crc, sector: &[u8]) {
    if let Ok(sector) = Sector::ref_from_bytes(sector) {
        let stamp = Stamp {
            page_crc: U32::ZERO,
            sector_crc: U32::ZERO,
            ..sector.stamp
        };
        crc.update(stamp.as_bytes());
        crc.update(&sector.payload);
    }
}

fn crc_of_sector(sector: &Sector) -> u32 {
    let stamp = Stamp {
        sector_crc: U32::ZERO,
        ..sector.stamp
    };
    let mut crc = Crc::default();
    crc.update(stamp.as_bytes());
    crc.update(&sector.payload);
    crc.value()
}

/// The whole sectors of a page, and what is left.
fn as_sectors(page: &mut [u8]) -> (&mut [Sector], &mut [u8]) {
    let count = page.len() / SECTOR_LEN;
    let split = <[Sector]>::mut_from_prefix_with_elems(page, count);
    split.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{Crc, Found, SECTOR, SECTOR_LEN, Version, Write, examine, fill, update};

    const REGION: u64 = 0x1234;
    const WRITE: Write = Write {
        version: Version(77),
        offset: 65_536,
        size: 4096,
        writer: 3,
    };

    fn page() -> Vec<u8> {
        let mut page = vec![0; 4096];
        fill(&mut page, REGION, WRITE);
        page
    }

    #[test]
    fn every_sector_says_of_which_write_it_is() {
        let page = page();
        let mut crc = Crc::default();
        for sector in page.chunks(SECTOR_LEN) {
            update(&mut crc, sector);
        }
        let crc = crc.value();
        for (at, sector) in (65_536..).step_by(512).zip(page.chunks(SECTOR_LEN)) {
            assert_eq!(examine(sector, REGION, at), Found::Part(WRITE, crc));
            assert_eq!(examine(sector, REGION + 1, at), Found::Foreign);
            let elsewhere = examine(sector, REGION, at + SECTOR);
            assert_eq!(elsewhere, Found::Misplaced(WRITE));
        }
        assert_eq!(examine(&[0; 512], REGION, 0), Found::Foreign);
        assert_eq!(examine(&[0; 511], REGION, 0), Found::Foreign);
    }

    #[test]
    fn any_bit_that_changes_is_noticed() {
        let page = page();
        let sector = &page[512..1024];
        for bit in 0..SECTOR_LEN * 8 {
            let mut changed = sector.to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            let found = examine(&changed, REGION, 65_536 + SECTOR);
            assert!(
                matches!(found, Found::Corrupt | Found::Foreign),
                "bit {bit}: {found:?}"
            );
        }
    }

    #[test]
    fn no_two_writes_have_a_payload_in_common() {
        let mut other = page();
        let version = Version(78);
        fill(&mut other, REGION, Write { version, ..WRITE });
        for (one, other) in page().chunks(SECTOR_LEN).zip(other.chunks(SECTOR_LEN)) {
            assert_ne!(one[64..], other[64..]);
        }
    }
}
