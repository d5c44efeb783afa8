//! What the loader tells us: `hvm_start_info` of the PVH protocol
//! (xen/include/public/arch-x86/hvm/start_info.h).

use alloc::string::String;
use alloc::vec::Vec;

const MAGIC: u32 = 0x336e_c578;

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    module_count: u32,
    module_list: u64,
    command_line: u64,
    /// Physical address of the ACPI root pointer, 0 if there is none.
    pub(crate) rsdp: u64,
    // From version 1 on.
    memory_map: u64,
    memory_map_entries: u32,
    reserved: u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct ModuleEntry {
    address: u64,
    bytes: u64,
    command_line: u64,
    reserved: u64,
}

/// A stretch of the physical address space.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct MemoryEntry {
    pub(crate) address: u64,
    pub(crate) bytes: u64,
    kind: u32,
    reserved: u32,
}

impl MemoryEntry {
    /// E820 type 1: usable memory.
    pub(crate) fn is_ram(&self) -> bool {
        self.kind == 1
    }
}

/// A file the loader put into memory (QEMU's `-initrd`).
#[derive(Clone, Debug)]
pub struct Module {
    /// Its content.
    pub data: &'static [u8],
    /// Its own command line.
    pub command_line: String,
}

impl StartInfo {
    /// # Safety
    /// `address` is what a PVH loader passed in EBX.
    pub(crate) unsafe fn read(address: u64) -> Option<Self> {
        // SAFETY: the caller's promise; identity-mapped.
        let info = unsafe { (address as *const Self).read_unaligned() };
        (info.magic == MAGIC).then_some(info)
    }

    /// The memory map; empty before version 1 of the protocol. Allocates nothing: the heap is
    /// made from it.
    pub(crate) fn memory_map(&self) -> impl Iterator<Item = MemoryEntry> + use<> {
        let entries = if self.version == 0 || self.memory_map == 0 {
            0
        } else {
            self.memory_map_entries
        };
        let list = self.memory_map as *const MemoryEntry;
        // SAFETY: the loader's list has this many entries, in low memory, identity-mapped.
        (0..entries as usize).map(move |at| unsafe { list.add(at).read_unaligned() })
    }

    fn module_entries(&self) -> impl Iterator<Item = ModuleEntry> + use<> {
        let list = self.module_list as *const ModuleEntry;
        // SAFETY: the loader's list has this many entries, in low memory, identity-mapped.
        (0..self.module_count as usize).map(move |at| unsafe { list.add(at).read_unaligned() })
    }

    /// Ranges (start, end) that hold the modules.
    pub(crate) fn module_ranges(&self) -> impl Iterator<Item = (u64, u64)> + use<> {
        self.module_entries()
            .map(|entry| (entry.address, entry.address.saturating_add(entry.bytes)))
    }

    /// Ranges (start, end) that hold this information itself and what must be copied from it.
    pub(crate) fn own_ranges(&self) -> [(u64, u64); 3] {
        let map = u64::from(self.memory_map_entries) * size_of::<MemoryEntry>() as u64;
        let list = u64::from(self.module_count) * size_of::<ModuleEntry>() as u64;
        [
            (self.command_line, self.command_line.saturating_add(4096)),
            (self.memory_map, self.memory_map.saturating_add(map)),
            (self.module_list, self.module_list.saturating_add(list)),
        ]
    }

    pub(crate) fn command_line(&self) -> String {
        string(self.command_line)
    }

    pub(crate) fn modules(&self) -> Vec<Module> {
        let loaded = self.module_entries().filter(|entry| entry.address != 0);
        loaded
            .map(|entry| Module {
                // SAFETY: the loader placed the module there; memory.rs keeps all else off it, and
                // devices have no reason to write to it.
                data: unsafe {
                    core::slice::from_raw_parts(entry.address as *const u8, entry.bytes as usize)
                },
                command_line: string(entry.command_line),
            })
            .collect()
    }
}

/// Copies a NUL-terminated string; no string of a loader is longer than a page.
fn string(address: u64) -> String {
    let mut bytes = Vec::new();
    if address != 0 {
        for at in 0..4096 {
            // SAFETY: the loader's string, in identity-mapped memory.
            match unsafe { (address as *const u8).add(at).read() } {
                0 => break,
                byte => bytes.push(byte),
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
