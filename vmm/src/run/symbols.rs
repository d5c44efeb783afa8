//! The function that an address lies in, by the symbol table of the kernel's file.

use std::{fs, path::Path};

use object::{Object, ObjectSection, ObjectSymbol, SymbolKind, read::elf::ElfFile64};

/// The nearest symbol at or below `address`, with the distance; nothing if the file is no ELF, was
/// stripped, or is no plain file that can be read again.
pub(super) fn function(kernel: &Path, address: u64) -> Option<String> {
    if !fs::metadata(kernel).ok()?.is_file() {
        return None;
    }
    nearest(&fs::read(kernel).ok()?, address)
}

fn nearest(file: &[u8], address: u64) -> Option<String> {
    let elf: ElfFile64<'_> = ElfFile64::parse(file).ok()?;
    let holds = |start: u64, bytes: u64| address.checked_sub(start).is_some_and(|at| at < bytes);
    let mut sections = elf.sections();
    let section = sections.find(|section| holds(section.address(), section.size()))?;
    let index = Some(section.index());
    // Labels of assembly code too, which say neither what they are nor how long.
    let symbols = elf.symbols().filter(|symbol| {
        let kind = matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Unknown);
        kind && symbol.section_index() == index && symbol.address() <= address
    });
    let symbol = symbols.max_by_key(ObjectSymbol::address)?;
    let distance = address.checked_sub(symbol.address())?;
    Some(format!("{}+{distance:#x}", symbol.name().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_within_a_function_has_its_name_and_what_is_no_elf_has_none() {
        // The test kernel's entry point and what follows it.
        let entry = u64::from_le_bytes(crate::TEST_KERNEL[24..32].try_into().expect("eight"));
        let first = nearest(crate::TEST_KERNEL, entry).expect("a symbol");
        let (name, distance) = first.split_once('+').expect("a distance");
        assert_eq!(distance, "0x0");
        let behind = nearest(crate::TEST_KERNEL, entry + 1).expect("a symbol");
        assert_eq!(behind, format!("{name}+0x1"));
        assert_eq!(nearest(crate::TEST_KERNEL, 0), None);
        assert_eq!(nearest(b"\x7fELF and no more", entry), None);
        assert_eq!(function(Path::new("/dev/zero"), entry), None);
    }
}
