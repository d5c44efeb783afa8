//! What a kernel's file is, by its first bytes.

use crate::machine::error::MachineError;

/// Files that can be booted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Format {
    /// An ELF for x86-64.
    Elf,
    /// A Linux bzImage.
    BzImage,
}

/// EM_X86_64.
const X86_64: u16 = 62;
/// Compressed files by their first bytes, and what uncompresses them.
const COMPRESSED: [(&[u8], &str); 6] = [
    (b"\x1f\x8b", "gzip -d"),
    (b"\xfd7zXZ\0", "xz -d"),
    (b"\x28\xb5\x2f\xfd", "zstd -d"),
    (b"\x04\x22\x4d\x18", "lz4 -d"),
    (b"\x02\x21\x4c\x18", "lz4 -d"),
    (b"BZh", "bzip2 -d"),
];
/// Kernels of other processors by what they have at 38h.
const OTHERS: [(&[u8], &str); 2] = [
    (b"ARM\x64", "an arm64 Image"),
    (b"RSC\x05", "a RISC-V Image"),
];
/// What would do.
const WANTED: &str = "an uncompressed ELF (a Linux's vmlinux) or a bzImage (vmlinuz) is needed";

impl Format {
    /// Tells by the first bytes.
    ///
    /// # Errors
    /// What it is instead, as far as that is known, and what would do.
    pub(super) fn of(file: &[u8]) -> Result<Self, MachineError> {
        let is = |at: usize, bytes: &[u8]| {
            file.get(at..)
                .is_some_and(|behind| behind.starts_with(bytes))
        };
        if is(0, b"\x7fELF") {
            return elf(file);
        }
        if is(0x202, b"HdrS") {
            return Ok(Self::BzImage);
        }
        let compressed = COMPRESSED.iter().find(|(magic, _)| is(0, magic));
        let other = OTHERS.iter().find(|(magic, _)| is(0x38, magic));
        let what = match (compressed, other) {
            (Some((_, tool)), _) => format!("it is compressed (`{tool}` undoes it)"),
            (_, Some((_, what))) => format!("it is {what}, and this machine is an x86-64"),
            _ if file.is_empty() => "it is empty".into(),
            _ if is(0, b"MZ") => "it is an EFI program without a Linux's setup header".into(),
            _ => format!("it begins with {}, as no kernel does", hexadecimal(file)),
        };
        Err(MachineError::Kernel(format!("{what}; {WANTED}")))
    }
}

/// An ELF, if it is for this machine.
fn elf(file: &[u8]) -> Result<Format, MachineError> {
    let fail = |what: String| Err(MachineError::Kernel(format!("{what}; {WANTED}")));
    let class = file.get(4).copied().unwrap_or_default();
    let machine = match file.get(0x12..0x14) {
        Some(&[low, high]) => u16::from_le_bytes([low, high]),
        _ => return fail(format!("its {} bytes are no whole ELF header", file.len())),
    };
    match (class, machine) {
        (2, X86_64) => Ok(Format::Elf),
        (1, _) => fail("it is an ELF of 32 bits, and this machine has 64".into()),
        _ => fail(format!(
            "it is an ELF for processors of kind {machine}, and this machine's is {X86_64} (x86-64)"
        )),
    }
}

fn hexadecimal(file: &[u8]) -> String {
    let bytes: Vec<String> = file
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    bytes.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: usize, bytes: &[u8]) -> Vec<u8> {
        let mut file = vec![0; 0x300];
        file[offset..offset + bytes.len()].copy_from_slice(bytes);
        file
    }

    #[test]
    fn what_cannot_be_booted_is_named() {
        let told = |file: &[u8]| Format::of(file).expect_err("refused").to_string();
        for (file, words) in [
            (vec![], "it is empty"),
            (at(0, b"\x1f\x8b\x08"), "`gzip -d` undoes it"),
            (at(0, b"\x28\xb5\x2f\xfd"), "`zstd -d` undoes it"),
            (at(0x38, b"ARM\x64"), "an arm64 Image"),
            (at(0, b"MZ"), "an EFI program"),
            (b"#!/bin/sh".to_vec(), "begins with 23 21 2f 62 69 6e 2f 73"),
            (b"\x7fELF\x02".to_vec(), "its 5 bytes are no whole ELF"),
            (at(0, b"\x7fELF\x01"), "32 bits"),
            (
                at(0, b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xb7\0"),
                "kind 183",
            ),
        ] {
            assert!(told(&file).contains(words), "{}", told(&file));
        }
    }

    #[test]
    fn kernels_are_known_by_their_magic() {
        assert_eq!(Format::of(crate::TEST_KERNEL).ok(), Some(Format::Elf));
        let mut image = at(0x202, b"HdrS");
        image[..2].copy_from_slice(b"MZ");
        assert_eq!(Format::of(&image).ok(), Some(Format::BzImage));
    }
}
