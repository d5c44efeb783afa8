//! What distributions compress: kernels inside bzImages, and modules.

use std::io::{self, Read};

use anyhow::{Context, Result, bail, ensure};

/// Where the setup header has what is needed here (Linux/x86 boot protocol 2.08 and later).
const SETUP_SECTORS: usize = 0x1F1;
const MAGIC: usize = 0x202;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24C;
const SECTOR: usize = 512;
/// The most that a block of a legacy LZ4 stream unpacks to.
const LZ4_LEGACY_BLOCK: usize = 8 << 20;

/// The uncompressed kernel, an ELF file, inside a bzImage.
pub(crate) fn vmlinux(bz_image: &[u8]) -> Result<Vec<u8>> {
    ensure!(
        bz_image.get(MAGIC..MAGIC + 4) == Some(b"HdrS"),
        "not a bzImage: no setup header"
    );
    let sectors = match bz_image.get(SETUP_SECTORS) {
        Some(&n) if n != 0 => usize::from(n),
        _ => 4,
    };
    let start = (sectors + 1) * SECTOR + number(bz_image, PAYLOAD_OFFSET)?;
    let payload = bz_image
        .get(start..)
        .and_then(|rest| rest.get(..number(bz_image, PAYLOAD_LENGTH).ok()?))
        .context("the setup header's payload is beyond the image's end")?;
    // The build appends the uncompressed size to every stream but gzip's, which ends with it.
    let stream = match payload.split_last_chunk::<4>() {
        Some((stream, _)) if !payload.starts_with(GZIP) => stream,
        _ => payload,
    };
    let kernel = unpacked(stream)?;
    ensure!(kernel.starts_with(b"\x7FELF"), "the payload is no ELF file");
    Ok(kernel)
}

const GZIP: &[u8] = &[0x1F, 0x8B];
const XZ: &[u8] = b"\xFD7zXZ\0";
const ZSTD: &[u8] = &[0x28, 0xB5, 0x2F, 0xFD];
const LZ4_LEGACY: &[u8] = &[0x02, 0x21, 0x4C, 0x18];

/// A stream's contents, by its first bytes: gzip, xz, zstd, legacy LZ4, or an ELF file as it is.
pub(crate) fn unpacked(stream: &[u8]) -> Result<Vec<u8>> {
    let mut data = Vec::new();
    if stream.starts_with(GZIP) {
        flate2::read::GzDecoder::new(stream).read_to_end(&mut data)?;
    } else if stream.starts_with(XZ) {
        lzma_rust2::XzReader::new(stream, false).read_to_end(&mut data)?;
    } else if stream.starts_with(ZSTD) {
        let mut decoder = ruzstd::decoding::StreamingDecoder::new(stream)
            .map_err(|error| io::Error::other(error.to_string()))?;
        decoder.read_to_end(&mut data)?;
    } else if let Some(blocks) = stream.strip_prefix(LZ4_LEGACY) {
        unpack_lz4_blocks(blocks, &mut data)?;
    } else if stream.starts_with(b"\x7FELF") {
        data.extend_from_slice(stream);
    } else {
        let first = stream.get(..4).unwrap_or(stream);
        bail!("compressed in an unknown way (it starts with {first:02x?})");
    }
    Ok(data)
}

/// Blocks of a legacy LZ4 stream, each with its compressed size before it.
fn unpack_lz4_blocks(mut blocks: &[u8], data: &mut Vec<u8>) -> Result<()> {
    while !blocks.is_empty() {
        let size = number(blocks, 0)?;
        let block = blocks
            .get(4..)
            .and_then(|rest| rest.get(..size))
            .context("an LZ4 block is beyond the stream's end")?;
        data.extend(lz4_flex::block::decompress(block, LZ4_LEGACY_BLOCK)?);
        blocks = blocks.get(4 + size..).unwrap_or_default();
    }
    Ok(())
}

/// The little-endian number of four bytes at an offset.
fn number(bytes: &[u8], at: usize) -> Result<usize> {
    let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk());
    let number = u32::from_le_bytes(*bytes.context("too short")?);
    Ok(usize::try_from(number)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;

    use super::*;

    fn elf() -> Vec<u8> {
        let mut elf = b"\x7FELF".to_vec();
        elf.extend((0..100_000_u32).flat_map(|n| (n / 7).to_le_bytes()));
        elf
    }

    fn bz_image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 3 * SECTOR];
        image[SETUP_SECTORS] = 2;
        image[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
        image[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&16_u32.to_le_bytes());
        let length = u32::try_from(payload.len()).unwrap();
        image[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&length.to_le_bytes());
        image.extend([0x90; 16]);
        image.extend(payload);
        image.extend([0xCC; 100]);
        image
    }

    fn with_size(mut stream: Vec<u8>) -> Vec<u8> {
        stream.extend(u32::try_from(elf().len()).unwrap().to_le_bytes());
        stream
    }

    #[test]
    fn a_kernel_is_found_however_it_is_compressed() {
        let elf = elf();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&elf).unwrap();
        let zstd = ruzstd::encoding::compress_to_vec(
            elf.as_slice(),
            ruzstd::encoding::CompressionLevel::Fastest,
        );
        let mut lz4 = LZ4_LEGACY.to_vec();
        for part in elf.chunks(300_000) {
            let block = lz4_flex::block::compress(part);
            lz4.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
            lz4.extend(block);
        }
        let mut xz =
            lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1)).unwrap();
        xz.write_all(&elf).unwrap();
        for payload in [
            gzip.finish().unwrap(),
            with_size(zstd),
            with_size(lz4),
            with_size(xz.finish().unwrap()),
            with_size(elf.clone()),
        ] {
            let first = payload[..4].to_vec();
            assert!(vmlinux(&bz_image(&payload)).unwrap() == elf, "{first:02x?}");
        }
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        assert!(vmlinux(&[]).is_err());
        assert!(vmlinux(&[0; 4096]).is_err());
        assert!(vmlinux(&bz_image(b"no stream at all")).is_err());
        let mut image = bz_image(&with_size(elf()));
        image.truncate(2000);
        let error = vmlinux(&image).unwrap_err().to_string();
        assert!(error.contains("beyond the image's end"), "{error}");
    }
}
