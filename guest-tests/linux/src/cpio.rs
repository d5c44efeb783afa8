//! Archives that the kernel unpacks as its first root: cpio's "new ASCII" format (newc).
//!
//! Archives may follow one another in an image: the kernel unpacks each, later files over earlier
//! ones. So tools and scripts are archives of their own.

use std::collections::BTreeSet;
use std::io::{self, Write};

/// File types, as `st_mode` has them.
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
/// The last entry's name.
const END: &str = "TRAILER!!!";

/// An archive as it is written. Everything in it is owned by root and of the year 1970, so that the
/// same input gives the same bytes.
pub(crate) struct Archive<W> {
    out: W,
    entries: u32,
    folders: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    pub(crate) fn new(out: W) -> Self {
        Self {
            out,
            entries: 0,
            folders: BTreeSet::new(),
        }
    }

    /// Adds a folder and those it lies in, unless they are there. `path` is relative to the root.
    pub(crate) fn folder(&mut self, path: &str) -> io::Result<()> {
        let ends = path.match_indices('/').map(|(at, _)| at);
        for end in ends.chain([path.len()]) {
            let name = path.get(..end).unwrap_or_default();
            if !name.is_empty() && self.folders.insert(name.to_owned()) {
                self.entry(name, DIRECTORY | 0o755, &[])?;
            }
        }
        Ok(())
    }

    /// Adds a file, and the folders it lies in.
    pub(crate) fn file(&mut self, path: &str, executable: bool, data: &[u8]) -> io::Result<()> {
        self.folder_of(path)?;
        let permissions = if executable { 0o755 } else { 0o644 };
        self.entry(path, REGULAR | permissions, data)
    }

    /// Adds a symbolic link, and the folders it lies in.
    pub(crate) fn link(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.folder_of(path)?;
        self.entry(path, SYMLINK | 0o777, target.as_bytes())
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.entries = 0;
        self.entry(END, 0, &[])?;
        Ok(self.out)
    }

    fn folder_of(&mut self, path: &str) -> io::Result<()> {
        match path.rsplit_once('/') {
            Some((folder, _)) => self.folder(folder),
            None => Ok(()),
        }
    }

    fn entry(&mut self, name: &str, mode: u32, data: &[u8]) -> io::Result<()> {
        let too_long = |_| io::Error::new(io::ErrorKind::InvalidInput, format!("{name}: too long"));
        let data_size = u32::try_from(data.len()).map_err(too_long)?;
        let name_size = u32::try_from(name.len() + 1).map_err(too_long)?;
        let links = if mode & DIRECTORY != 0 { 2 } else { 1 };
        let inode = self.entries;
        self.entries += 1;
        write!(self.out, "070701")?;
        // Owner, group, time, devices and checksum are 0.
        for field in [
            inode, mode, 0, 0, links, 0, data_size, 0, 0, 0, 0, name_size, 0,
        ] {
            write!(self.out, "{field:08x}")?;
        }
        self.out.write_all(name.as_bytes())?;
        self.out.write_all(&[0])?;
        // Header and name together end at a multiple of four, and so does the data.
        self.pad(110 + name.len() + 1)?;
        self.out.write_all(data)?;
        self.pad(data.len())
    }

    fn pad(&mut self, length: usize) -> io::Result<()> {
        let zeroes = [0; 3];
        let missing = length.next_multiple_of(4) - length;
        self.out
            .write_all(zeroes.get(..missing).unwrap_or_default())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    /// Reads an archive back: names, modes and data.
    fn read(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        loop {
            assert_eq!(&bytes[..6], b"070701");
            let field = |n: usize| {
                let text = std::str::from_utf8(&bytes[6 + 8 * n..14 + 8 * n]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            let (mode, size, name_size) = (field(1), field(6) as usize, field(11) as usize);
            let name = String::from_utf8(bytes[110..110 + name_size - 1].to_vec()).unwrap();
            assert_eq!(bytes[110 + name_size - 1], 0);
            let data = (110 + name_size).next_multiple_of(4);
            let contents = bytes[data..data + size].to_vec();
            bytes = &bytes[(data + size).next_multiple_of(4)..];
            if name == END {
                assert!(bytes.is_empty());
                return entries;
            }
            entries.push((name, mode, contents));
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut archive = Archive::new(Vec::new());
        archive.file("init", true, b"#!/bin/sh\n").unwrap();
        archive.file("usr/lib/a", false, b"12345").unwrap();
        archive.link("usr/bin/sh", "busybox").unwrap();
        archive.folder("usr/lib").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0, "another may follow");
        let entry = |name: &str, mode, data: &[u8]| (name.to_owned(), mode, data.to_vec());
        let expected = [
            entry("init", 0o100_755, b"#!/bin/sh\n"),
            entry("usr", 0o040_755, b""),
            entry("usr/lib", 0o040_755, b""),
            entry("usr/lib/a", 0o100_644, b"12345"),
            entry("usr/bin", 0o040_755, b""),
            entry("usr/bin/sh", 0o120_777, b"busybox"),
        ];
        assert_eq!(read(&bytes), expected);
    }

    #[test]
    fn the_same_input_gives_the_same_bytes() {
        let archive = || {
            let mut archive = Archive::new(Vec::new());
            archive.file("a/b", false, b"c").unwrap();
            archive.finish().unwrap()
        };
        assert_eq!(archive(), archive());
    }
}
