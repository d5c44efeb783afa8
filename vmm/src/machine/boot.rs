//! Loading a kernel by the PVH protocol (xen/docs/misc/pvh.pandoc, hvm/start_info.h): the ELF's
//! segments, the start info with memory map, command line and modules.

use std::io::Cursor;

use linux_loader::loader::elf::PvhBootCapability;
use linux_loader::loader::elf::start_info::{
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use linux_loader::loader::{Elf, KernelLoader};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use super::Module;
use super::error::MachineError;
use super::layout;

/// XEN_HVM_START_MAGIC_VALUE.
const MAGIC: u32 = 0x336e_c578;
/// XEN_HVM_MEMMAP_TYPE_RAM, _RESERVED and _ACPI, as E820's types.
const RAM: u32 = 1;
const RESERVED: u32 = 2;
/// ACPI's tables: memory once they are read.
const ACPI: u32 = 3;
/// Most modules: their list fills a page.
const MODULES: usize = 4096 / size_of::<hvm_modlist_entry>();

/// Loads a kernel by the PVH protocol, with its command line, a memory map and modules, into guest
/// memory of which some lies at address 0; `rsdp` is where ACPI's root pointer lies, or 0. Returns
/// the entry point, a guest physical address.
///
/// # Errors
/// [`MachineError`] naming the file's, the command line's or the modules' fault. A file may hold
/// anything; parts of it may have been written to memory then.
pub fn load(
    memory: &GuestMemoryMmap,
    kernel: &[u8],
    command_line: &str,
    modules: &[Module],
    rsdp: u64,
) -> Result<u64, MachineError> {
    let (entry, kernel_end) = load_kernel(memory, kernel)?;
    let text = command_line.as_bytes();
    if text.contains(&0) {
        return Err(MachineError::CommandLine("a NUL would end it".into()));
    }
    if text.len() >= layout::COMMAND_LINE_MAX {
        let most = layout::COMMAND_LINE_MAX - 1;
        let reason = format!("{} bytes; at most {most} can be passed", text.len());
        return Err(MachineError::CommandLine(reason));
    }
    write(memory, layout::COMMAND_LINE, text)?;
    write(memory, layout::COMMAND_LINE + text.len() as u64, &[0])?;

    let map = memory_map(memory);
    write_all(memory, layout::MEMORY_MAP, &map)?;
    let list = load_modules(memory, kernel_end, modules)?;
    write_all(memory, layout::MODULE_LIST, &list)?;
    let info = hvm_start_info {
        magic: MAGIC,
        version: 1,
        nr_modules: u32::try_from(list.len()).unwrap_or_default(),
        modlist_paddr: if list.is_empty() {
            0
        } else {
            layout::MODULE_LIST
        },
        cmdline_paddr: layout::COMMAND_LINE,
        rsdp_paddr: rsdp,
        memmap_paddr: layout::MEMORY_MAP,
        memmap_entries: u32::try_from(map.len()).unwrap_or_default(),
        ..Default::default()
    };
    write_all(memory, layout::START_INFO, &[info])?;
    Ok(entry)
}

/// Entry point and first address past the kernel.
fn load_kernel(memory: &GuestMemoryMmap, kernel: &[u8]) -> Result<(u64, u64), MachineError> {
    let error = |reason: String| MachineError::Kernel(reason);
    let loaded = Elf::load(memory, None, &mut Cursor::new(kernel), None).map_err(|e| {
        error(format!(
            "{e}; an uncompressed ELF that fits into the guest's memory is needed"
        ))
    })?;
    let PvhBootCapability::PvhEntryPresent(GuestAddress(entry)) = loaded.pvh_boot_cap else {
        return Err(error(
            "no PVH entry point (ELF note 18 of Xen); a Linux needs CONFIG_PVH=y".into(),
        ));
    };
    // BSS is only counted by the loader; it must have memory too.
    let last = GuestAddress(loaded.kernel_end.saturating_sub(1));
    if !memory.address_in_range(last) {
        let end = loaded.kernel_end;
        return Err(error(format!(
            "it reaches up to {end:#x}, past the guest's memory"
        )));
    }
    Ok((entry, loaded.kernel_end))
}

/// Usable memory, and what must not be taken for free although it is not memory.
fn memory_map(memory: &GuestMemoryMmap) -> Vec<hvm_memmap_table_entry> {
    let entry = |addr, size, type_| hvm_memmap_table_entry {
        addr,
        size,
        type_,
        reserved: 0,
    };
    let mut map = vec![entry(0, layout::CONVENTIONAL_END, RAM)];
    for region in memory.iter() {
        let (start, length) = (region.start_addr().0, region.len());
        let skip = layout::LEGACY_END.saturating_sub(start);
        map.push(entry(start + skip, length.saturating_sub(skip), RAM));
    }
    map.push(entry(layout::ACPI.0, layout::ACPI.1, ACPI));
    map.push(entry(layout::ECAM.0, layout::ECAM.1, RESERVED));
    map.sort_by_key(|entry| entry.addr);
    map
}

/// Puts modules below the end of low memory, the first highest, each at a page's start.
fn load_modules(
    memory: &GuestMemoryMmap,
    kernel_end: u64,
    modules: &[Module],
) -> Result<Vec<hvm_modlist_entry>, MachineError> {
    let low = memory.iter().find(|region| region.start_addr().0 == 0);
    let end = low.map_or(0, GuestMemoryRegion::len);
    let bytes = modules.iter().map(|module| module.data.len() as u64).sum();
    let full = || MachineError::Modules { bytes, least: end };
    if modules.len() > MODULES {
        return Err(full());
    }
    let floor = kernel_end.max(layout::LEGACY_END);
    let mut top = end;
    let mut list = Vec::new();
    let mut place = |data: &[u8]| {
        let start = top.checked_sub(data.len() as u64).ok_or_else(full)? & !0xfff;
        if start < floor {
            return Err(full());
        }
        top = start;
        write(memory, start, data).map(|()| start)
    };
    for module in modules {
        let mut text = module.command_line.clone().into_bytes();
        text.push(0);
        list.push(hvm_modlist_entry {
            paddr: place(&module.data)?,
            size: module.data.len() as u64,
            cmdline_paddr: place(&text)?,
            reserved: 0,
        });
    }
    Ok(list)
}

fn write_all<T: vm_memory::ByteValued>(
    memory: &GuestMemoryMmap,
    address: u64,
    list: &[T],
) -> Result<(), MachineError> {
    let mut at = address;
    for item in list {
        write(memory, at, item.as_slice())?;
        at += size_of::<T>() as u64;
    }
    Ok(())
}

fn write(memory: &GuestMemoryMmap, address: u64, data: &[u8]) -> Result<(), MachineError> {
    memory
        .write_slice(data, GuestAddress(address))
        .map_err(|error| MachineError::Memory {
            bytes: data.len() as u64,
            reason: format!("writing at {address:#x}: {error}"),
        })
}

#[cfg(test)]
mod tests {
    use vm_memory::{ByteValued, GuestAddressSpace};

    use super::*;
    use crate::machine::memory;

    fn read<T: ByteValued + Default>(memory: &GuestMemoryMmap, address: u64) -> T {
        memory.read_obj(GuestAddress(address)).expect("in range")
    }

    #[test]
    fn the_start_info_tells_of_memory_command_line_and_modules() {
        let memory = memory::create(64 << 20).expect("small").memory();
        let modules = [Module {
            data: vec![7; 5000].into(),
            command_line: "seven".into(),
        }];
        let entry = load(&memory, crate::TEST_KERNEL, "a=b", &modules, 0xe_0000).expect("it fits");
        assert_eq!(entry, 0x10_0000);
        let info: hvm_start_info = read(&memory, layout::START_INFO);
        assert_eq!((info.magic, info.version, info.nr_modules), (MAGIC, 1, 1));
        assert_eq!(info.rsdp_paddr, 0xe_0000);
        assert_eq!(
            read::<u32>(&memory, info.cmdline_paddr).to_le_bytes(),
            *b"a=b\0"
        );
        let module: hvm_modlist_entry = read(&memory, info.modlist_paddr);
        assert_eq!((module.paddr % 4096, module.size), (0, 5000));
        assert_eq!(read::<u8>(&memory, module.paddr + 4999), 7);
        assert_eq!(
            read::<u32>(&memory, module.cmdline_paddr).to_le_bytes(),
            *b"seve"
        );
        let map = memory_map(&memory);
        let ram: u64 = map
            .iter()
            .filter(|entry| entry.type_ == RAM)
            .map(|entry| entry.size)
            .sum();
        assert_eq!(ram, (63 << 20) + layout::CONVENTIONAL_END);
        assert_eq!(info.memmap_entries as usize, map.len());
    }

    #[test]
    fn what_cannot_be_loaded_is_refused_with_its_reason() {
        let memory = memory::create(4 << 20).expect("small").memory();
        let fail = |kernel: &[u8], line: &str, modules: &[Module]| {
            load(&memory, kernel, line, modules, 0)
                .expect_err("refused")
                .to_string()
        };
        assert!(fail(b"no ELF", "", &[]).contains("ELF"));
        let long = "x".repeat(layout::COMMAND_LINE_MAX);
        assert!(fail(crate::TEST_KERNEL, &long, &[]).contains("4095"));
        assert!(fail(crate::TEST_KERNEL, "a\0b", &[]).contains("NUL"));
        let large = Module {
            data: vec![0; 3 << 20].into(),
            command_line: String::new(),
        };
        assert!(fail(crate::TEST_KERNEL, "", &[large]).contains("modules of 3145728 bytes"));
    }
}
