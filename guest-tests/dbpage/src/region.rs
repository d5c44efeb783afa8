//! A part of a target that pages are written to, and the header it begins with.

use std::path::Path;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::buffer::Buffer;
use crate::crc::crc32c;
use crate::error::Error;
use crate::page::{self, LARGEST, SECTOR, SECTOR_LEN, Write};
use crate::size::show;
use crate::target::{Access, Caching, How, Target};
use crate::version::Version;

/// Bytes from the region's beginning to where pages may lie: room for a header on drives with
/// blocks of up to as many bytes.
pub const HEADER: u64 = 64 << 10;
/// The most bytes of a region.
pub const MOST: u64 = 16 << 30;
/// How long a region is unless said, in bytes.
pub const USUAL: u64 = 64 << 20;
/// Bytes that a target is read by, and that a region is made by.
pub const STRIDE: u64 = 64 << 10;

const MAGIC: [u8; 8] = *b"FerrRgn1";

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    id: U64,
    offset: U64,
    length: U64,
    run: U32,
    /// CRC-32C of what is before.
    crc: U32,
}

/// A region that was found or made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region {
    /// What its sectors are told from others by.
    pub id: u64,
    /// Where its header is, in bytes from the beginning of the target.
    pub offset: u64,
    /// Bytes, the header's included.
    pub length: u64,
    /// The last run of `write`, from 1; 0 if there was none.
    pub run: u32,
}

impl Region {
    /// Where pages may begin, in bytes from the beginning of the target.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.offset + HEADER
    }

    /// Where pages must end.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset + self.length
    }

    /// Where pages of `size` bytes may lie: at multiples of `step`, from the target's beginning.
    /// The first place, and how many there are.
    #[must_use]
    pub fn places(&self, size: u64, step: u64) -> (u64, u64) {
        let first = self.first().next_multiple_of(step.max(1));
        let room = self.end().saturating_sub(first);
        let count = match room.checked_sub(size) {
            Some(more) => more / step.max(1) + 1,
            None => 0,
        };
        (first, count)
    }

    fn to_bytes(self) -> [u8; SECTOR_LEN] {
        let mut header = Header {
            magic: MAGIC,
            id: self.id.into(),
            offset: self.offset.into(),
            length: self.length.into(),
            run: self.run.into(),
            crc: U32::ZERO,
        };
        header.crc = crc_of(&header).into();
        let mut sector = [0; SECTOR_LEN];
        for (to, from) in sector.iter_mut().zip(header.as_bytes()) {
            *to = *from;
        }
        sector
    }

    fn from_bytes(sector: &[u8], offset: u64) -> Result<Self, &'static str> {
        let (header, _) = Header::ref_from_prefix(sector).map_err(|_| "it is too short")?;
        if header.magic != MAGIC {
            return Err("there is no header");
        }
        if header.crc.get() != crc_of(header) {
            return Err("the header's checksum is wrong");
        }
        let region = Self {
            id: header.id.get(),
            offset: header.offset.get(),
            length: header.length.get(),
            run: header.run.get(),
        };
        if region.offset != offset {
            return Err("the header is of another place");
        }
        if region.length <= HEADER || region.length > MOST || !region.length.is_multiple_of(STRIDE)
        {
            return Err("the header's length cannot be");
        }
        Ok(region)
    }

    /// Finds the region that begins `offset` bytes into the target.
    ///
    /// # Errors
    /// There is none; it cannot be read.
    pub fn find(target: &Target, offset: u64) -> Result<Self, Error> {
        let none = |why| Error::NoRegion {
            path: target.path().to_owned(),
            offset,
            why,
        };
        aligned("--offset", offset)?;
        check_block(target)?;
        if offset.saturating_add(HEADER) > target.length() {
            return Err(none("it ends before"));
        }
        let mut buffer = Buffer::new(usize::try_from(STRIDE).unwrap_or_default());
        target.read(offset, buffer.bytes_mut())?;
        let region = Self::from_bytes(buffer.bytes(), offset).map_err(none)?;
        if region.end() > target.length() {
            return Err(none("it is longer than the target"));
        }
        Ok(region)
    }

    /// Writes the header, and makes it durable.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn store(&self, target: &Target) -> Result<(), Error> {
        put_header(target, self.offset, &self.to_bytes())
    }

    /// Begins the next run: from then on no version is used twice, whatever becomes of this one's.
    ///
    /// # Errors
    /// There were 16 million runs; what the kernel says.
    pub fn next_run(&mut self, target: &Target) -> Result<(), Error> {
        if self.run >= Version::LAST_RUN - 1 {
            return Err(Error::NoRegion {
                path: target.path().to_owned(),
                offset: self.offset,
                why: "it had 16 million runs, and there is no number for another",
            });
        }
        self.run += 1;
        self.store(target)
    }
}

fn crc_of(header: &Header) -> u32 {
    let mut copy = *header;
    copy.crc = U32::ZERO;
    crc32c(copy.as_bytes())
}

/// One block: written whole by any drive.
fn put_header(target: &Target, offset: u64, sector: &[u8]) -> Result<(), Error> {
    let mut block = Buffer::new(usize::try_from(target.block()).unwrap_or(SECTOR_LEN));
    block.first_mut(sector.len()).copy_from_slice(sector);
    target.write(offset, block.bytes(), How::default())?;
    target.sync()
}

/// The header is one block, in front of the first page.
fn check_block(target: &Target) -> Result<(), Error> {
    if target.block() <= HEADER {
        return Ok(());
    }
    Err(Error::Option {
        option: "TARGET",
        value: target.path().display().to_string(),
        rule: format!(
            "it is written by {}, and a region's header has {}",
            show(target.block()),
            show(HEADER)
        ),
        would_do: format!("blocks of up to {} would do", show(HEADER)),
    })
}

fn aligned(option: &'static str, value: u64) -> Result<(), Error> {
    if value.is_multiple_of(STRIDE) {
        return Ok(());
    }
    Err(Error::Option {
        option,
        value: value.to_string(),
        rule: "regions begin and end at multiples of 64K".into(),
        would_do: format!("{} would do", show(value.next_multiple_of(STRIDE))),
    })
}

/// What region to make.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Whether to write through the page cache.
    pub caching: Caching,
    /// Whether a file that is not there is made.
    pub create: bool,
    /// Where the region begins, in bytes from the target's beginning.
    pub offset: u64,
    /// Bytes of the region; without it [`USUAL`], or what there is of a device.
    pub length: Option<u64>,
    /// What its sectors are told from others by.
    pub id: u64,
}

/// Makes a region: pages of version 0 all over it, and a header. What was there is lost.
///
/// # Errors
/// A target, length or offset that cannot be; what the kernel says.
pub fn init(path: &Path, plan: &Plan) -> Result<Region, Error> {
    let &Plan {
        caching,
        create,
        offset,
        length,
        id,
    } = plan;
    aligned("--offset", offset)?;
    if let Some(length) = length {
        aligned("--length", length)?;
        check_length(length)?;
    }
    let access = match create {
        true => Access::Create,
        false => Access::Write,
    };
    let mut target = Target::open(path, access, caching)?;
    check_block(&target)?;
    let length = length.unwrap_or_else(|| {
        let room = target.length().saturating_sub(offset) / STRIDE * STRIDE;
        if target.is_device() {
            room.min(USUAL)
        } else {
            USUAL
        }
    });
    check_length(length)?;
    let end = offset.checked_add(length).ok_or_else(|| Error::Option {
        option: "--offset",
        value: offset.to_string(),
        rule: "the region ends beyond what 64 bits count".into(),
        would_do: "0 would do".into(),
    })?;
    target.lengthen(end)?;
    let region = Region {
        id,
        offset,
        length,
        run: 0,
    };
    // No header before all is there, so that half a region is none.
    put_header(&target, offset, &[0; SECTOR_LEN])?;
    let size = u32::try_from(STRIDE).unwrap_or(u32::MAX);
    let mut buffer = Buffer::new(usize::try_from(STRIDE).unwrap_or_default());
    let mut at = region.first();
    while at < region.end() {
        let write = Write {
            version: Version::INIT,
            offset: at,
            size,
            writer: 0,
        };
        page::fill(buffer.bytes_mut(), id, write);
        target.write(at, buffer.bytes(), How::default())?;
        at += STRIDE;
    }
    target.sync()?;
    region.store(&target)?;
    Ok(region)
}

fn check_length(length: u64) -> Result<(), Error> {
    let least = HEADER + STRIDE;
    if (least..=MOST).contains(&length) {
        return Ok(());
    }
    Err(Error::Option {
        option: "--length",
        value: show(length),
        rule: format!("regions have {} to {}", show(least), show(MOST)),
        would_do: format!("{} would do", show(length.clamp(least, MOST))),
    })
}

/// Checks that pages of `size` at multiples of `step` may be written to the region.
///
/// # Errors
/// The value, the rule, and a value that would do.
pub fn check_page(region: &Region, target: &Target, size: u64, step: u64) -> Result<(), Error> {
    let block = target.block();
    let refuse = |option, value, rule, would_do| {
        Err(Error::Option {
            option,
            value: show(value),
            rule,
            would_do: format!("{} would do", show(would_do)),
        })
    };
    for (option, value) in [("--page", size), ("--shift", step)] {
        if value == 0 || value % block != 0 {
            let rule = format!(
                "it is no multiple of {}, which this target is written by",
                show(block)
            );
            return refuse(option, value, rule, value.max(1).next_multiple_of(block));
        }
    }
    if size > LARGEST {
        let rule = format!("pages have at most {}", show(LARGEST));
        return refuse("--page", size, rule, LARGEST);
    }
    if region.places(size, step).1 == 0 {
        let rule = format!(
            "there is no room for one in a region of {}",
            show(region.length)
        );
        return refuse("--page", size, rule, block.max(SECTOR));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{HEADER, Region, check_block};
    use crate::target::{Access, Caching, Target};

    const REGION: Region = Region {
        id: 5,
        offset: 1 << 20,
        length: HEADER + (64 << 10),
        run: 7,
    };

    #[test]
    fn a_header_is_read_as_it_was_written_and_nowhere_else() {
        let bytes = REGION.to_bytes();
        assert_eq!(Region::from_bytes(&bytes, 1 << 20), Ok(REGION));
        assert!(Region::from_bytes(&bytes, 0).is_err());
        for bit in 0..40 * 8 {
            let mut changed = bytes;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(Region::from_bytes(&changed, 1 << 20).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn pages_lie_behind_the_header_and_end_with_the_region() {
        let first = REGION.first();
        assert_eq!(REGION.places(16_384, 16_384), (first, 4));
        assert_eq!(REGION.places(16_384, 4096), (first, 13));
        assert_eq!(REGION.places(64 << 10, 512), (first, 1));
        assert_eq!(REGION.places(128 << 10, 128 << 10).1, 0);
    }

    #[test]
    fn blocks_that_a_header_has_no_room_for_are_refused_with_the_rule() {
        let target = |block| {
            let file = tempfile::NamedTempFile::new().expect("a file");
            let target = Target::open(file.path(), Access::Read, Caching::Usual);
            target.expect("a target").with_block(block)
        };
        assert!(check_block(&target(64 << 10)).is_ok());
        for kib in [128, 1024] {
            let found = Region::find(&target(kib << 10), 0);
            let said = found.expect_err("refused").to_string();
            assert!(said.contains("blocks of up to 64K would do"), "{said}");
        }
    }
}
