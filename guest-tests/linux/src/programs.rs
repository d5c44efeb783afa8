//! Programs of an unpacked root with the libraries they need, so that an image holds those alone.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use object::elf::{DT_NEEDED, FileHeader64, PT_INTERP};
use object::read::elf::{Dyn, FileHeader, ProgramHeader, SectionHeader};
use object::{Endianness, elf};

/// Where an amd64 root of Debian has its libraries. Plugins' own folders are among them.
const LIBRARIES: [&str; 6] = [
    "usr/lib/x86_64-linux-gnu",
    "lib/x86_64-linux-gnu",
    "usr/lib64",
    "lib64",
    "usr/lib/x86_64-linux-gnu/systemd",
    "usr/lib/x86_64-linux-gnu/ceph",
];
/// Where it has its programs.
const PROGRAMS: [&str; 4] = ["usr/bin", "usr/sbin", "bin", "sbin"];

/// Files to take, by the names they get: `usr/bin/NAME` and `usr/lib/NAME`. The loader gets the name
/// that the programs ask for.
pub(crate) type Files = BTreeMap<String, PathBuf>;

/// The programs of those names with all their libraries.
pub(crate) fn with_libraries(root: &Path, programs: &[&str]) -> Result<Files> {
    let mut files = Files::new();
    for program in programs {
        let path = find(root, &PROGRAMS, program)
            .with_context(|| format!("{} has no program {program}", root.display()))?;
        let needs = needs(&path)?;
        files.insert(format!("usr/bin/{program}"), path);
        add_libraries(&mut files, needs, &|name| find(root, &LIBRARIES, name))?;
    }
    Ok(files)
}

/// A program of the host with the libraries it is linked to there.
pub(crate) fn of_host(program: &Path) -> Result<Files> {
    let mut files = Files::new();
    let name = program.file_name().and_then(|name| name.to_str());
    let name = name.with_context(|| format!("{} has no name", program.display()))?;
    files.insert(format!("usr/bin/{name}"), program.to_owned());
    let root = Path::new("/");
    add_libraries(&mut files, needs(program)?, &|name| {
        find(root, &LIBRARIES, name).or_else(|| find(root, &["usr/lib"], name))
    })?;
    Ok(files)
}

fn add_libraries(
    files: &mut Files,
    mut open: Vec<String>,
    find: &dyn Fn(&str) -> Option<PathBuf>,
) -> Result<()> {
    while let Some(name) = open.pop() {
        if let Entry::Vacant(entry) = files.entry(format!("usr/lib/{name}")) {
            let path = find(&name).with_context(|| format!("library {name} is missing"))?;
            open.extend(needs(&path)?);
            entry.insert(path);
        }
    }
    Ok(())
}

fn find(root: &Path, folders: &[&str], name: &str) -> Option<PathBuf> {
    let mut paths = folders.iter().map(|folder| root.join(folder).join(name));
    // A link may be absolute in an unpacked root, and then point out of it.
    paths.find(|path| path.is_file())
}

/// The libraries and the loader that an ELF file names.
fn needs(path: &Path) -> Result<Vec<String>> {
    let data = fs::read(path).with_context(|| path.display().to_string())?;
    read_needs(&data).with_context(|| format!("{}: not an ELF file as expected", path.display()))
}

fn read_needs(data: &[u8]) -> object::Result<Vec<String>> {
    let header = FileHeader64::<Endianness>::parse(data)?;
    let endian = header.endian()?;
    let mut names = Vec::new();
    for segment in header.program_headers(endian, data)? {
        if segment.p_type(endian) == PT_INTERP {
            let text = segment.data(endian, data).unwrap_or_default();
            let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
            let loader = String::from_utf8_lossy(text);
            names.extend(loader.rsplit('/').next().map(str::to_owned));
        }
    }
    let sections = header.sections(endian, data)?;
    for section in sections.iter() {
        if section.sh_type(endian) != elf::SHT_DYNAMIC {
            continue;
        }
        let Some((entries, link)) = section.dynamic(endian, data)? else {
            continue;
        };
        let strings = sections.strings(endian, data, link)?;
        for entry in entries {
            if entry.tag32(endian) == Some(DT_NEEDED) {
                let name = entry.string(endian, strings)?;
                names.push(String::from_utf8_lossy(name).into_owned());
            }
        }
    }
    Ok(names)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn this_program_and_its_libraries_are_found() {
        let program = std::env::current_exe().unwrap();
        let files = of_host(&program).unwrap();
        for name in ["libc.so.6", "ld-linux-x86-64.so.2"] {
            assert!(files.contains_key(&format!("usr/lib/{name}")), "{files:?}");
        }
        let error = with_libraries(Path::new("/"), &["no-such-program"]).unwrap_err();
        assert!(error.to_string().contains("no-such-program"), "{error}");
    }
}
