//! The PVH protocol (xen/docs/misc/pvh.pandoc, hvm/start_info.h): the ELF's segments, the start
//! info with memory map, command line and modules.

use std::io::Cursor;

use linux_loader::loader::elf::PvhBootCapability;
use linux_loader::loader::elf::start_info::{
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use linux_loader::loader::{Elf, KernelLoader};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use super::{Entry, Room, low_end, memory_map, no_room, write, write_command_line};
use crate::machine::Module;
use crate::machine::error::MachineError;
use crate::machine::layout;

/// XEN_HVM_START_MAGIC_VALUE.
const MAGIC: u32 = 0x336e_c578;
/// Most modules: their list fills a page.
const MODULES: usize = 4096 / size_of::<hvm_modlist_entry>();

/// Loads an ELF; see [`super::load`].
pub(super) fn load(
    memory: &GuestMemoryMmap,
    kernel: &[u8],
    command_line: &str,
    modules: &[Module],
    rsdp: u64,
) -> Result<Entry, MachineError> {
    let (rip, kernel_end) = load_kernel(memory, kernel)?;
    write_command_line(memory, command_line, usize::MAX)?;
    let map: Vec<_> = memory_map(memory)
        .into_iter()
        .map(|stretch| hvm_memmap_table_entry {
            addr: stretch.start,
            size: stretch.bytes,
            type_: stretch.kind as u32,
            reserved: 0,
        })
        .collect();
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
    Ok(Entry::Pvh { rip })
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

/// Puts modules below the end of low memory, the first highest.
fn load_modules(
    memory: &GuestMemoryMmap,
    kernel_end: u64,
    modules: &[Module],
) -> Result<Vec<hvm_modlist_entry>, MachineError> {
    if modules.len() > MODULES {
        return Err(no_room(memory, modules));
    }
    let mut room = Room {
        floor: kernel_end.max(layout::LEGACY_END),
        top: low_end(memory),
    };
    let mut place = |data: &[u8]| {
        let place = room.place(memory, data)?;
        place.ok_or_else(|| no_room(memory, modules))
    };
    let mut list = Vec::new();
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

#[cfg(test)]
mod tests {
    use vm_memory::{ByteValued, Bytes, GuestAddressSpace};

    use super::*;
    use crate::machine::{boot::Kind, memory};

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
        assert_eq!(entry, Entry::Pvh { rip: 0x10_0000 });
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
            .filter(|stretch| stretch.kind == Kind::Ram)
            .map(|stretch| stretch.bytes)
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
        assert!(fail(b"\x7fELF", "", &[]).contains("ELF"));
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
