//! Loading a kernel, by the protocol that its file is made for: an ELF with a PVH note by PVH, a
//! Linux bzImage by Linux's 64-bit boot protocol. What both need is here: the memory map, the
//! command line, and room for the files that go along.

mod format;
mod linux;
mod pvh;
mod registers;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use super::Module;
use super::error::MachineError;
use super::layout;
use format::Format;

pub(crate) use registers::set as set_registers;

/// How the first CPU begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// As PVH prescribes: 32-bit protected mode, paging off, EBX the start info's address.
    Pvh {
        /// Where it begins, a guest physical address.
        rip: u64,
    },
    /// As Linux's 64-bit boot protocol prescribes: long mode, RSI the boot parameters' address.
    Linux64 {
        /// Where it begins, a guest physical address that is mapped to itself.
        rip: u64,
    },
}

/// Loads a kernel with its command line, a memory map and modules into guest memory of which some
/// lies at address 0. `rsdp` is where ACPI's root pointer lies, or 0.
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
) -> Result<Entry, MachineError> {
    match Format::of(kernel)? {
        Format::Elf => pvh::load(memory, kernel, command_line, modules, rsdp),
        Format::BzImage => linux::load(memory, kernel, command_line, modules, rsdp),
    }
}

/// What a stretch of the memory map is: E820's types.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Ram = 1,
    Reserved = 2,
    /// ACPI's tables: memory once they are read.
    Acpi = 3,
}

/// A stretch of the memory map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stretch {
    start: u64,
    bytes: u64,
    kind: Kind,
}

/// Usable memory, and what must not be taken for free although it is not memory; by address.
fn memory_map(memory: &GuestMemoryMmap) -> Vec<Stretch> {
    let entry = |start, bytes, kind| Stretch { start, bytes, kind };
    let mut map = vec![
        entry(0, layout::CONVENTIONAL_END, Kind::Ram),
        entry(layout::ACPI.0, layout::ACPI.1, Kind::Acpi),
        entry(layout::ECAM.0, layout::ECAM.1, Kind::Reserved),
    ];
    for region in memory.iter() {
        let (start, length) = (region.start_addr().0, region.len());
        let skip = layout::LEGACY_END.saturating_sub(start);
        map.push(entry(start + skip, length.saturating_sub(skip), Kind::Ram));
    }
    map.sort_by_key(|stretch| stretch.start);
    map
}

/// First address past the memory that begins at 0.
fn low_end(memory: &GuestMemoryMmap) -> u64 {
    let low = memory.iter().find(|region| region.start_addr().0 == 0);
    low.map_or(0, GuestMemoryRegion::len)
}

/// Puts the command line at its place. The kernel takes `most` bytes, without the NUL behind them.
fn write_command_line(
    memory: &GuestMemoryMmap,
    text: &str,
    most: usize,
) -> Result<(), MachineError> {
    if text.contains('\0') {
        return Err(MachineError::CommandLine("a NUL would end it".into()));
    }
    let most = most.min(layout::COMMAND_LINE_MAX - 1);
    if text.len() > most {
        let reason = format!("{} bytes; at most {most} can be passed", text.len());
        return Err(MachineError::CommandLine(reason));
    }
    write(memory, layout::COMMAND_LINE, text.as_bytes())?;
    write(memory, layout::COMMAND_LINE + text.len() as u64, &[0])
}

/// Memory in which files are placed from above, each at a page's start.
struct Room {
    floor: u64,
    top: u64,
}

impl Room {
    /// Places some bytes, or nothing if there is too little room.
    fn place(
        &mut self,
        memory: &GuestMemoryMmap,
        data: &[u8],
    ) -> Result<Option<u64>, MachineError> {
        let start = self.top.checked_sub(data.len() as u64);
        let Some(start) = start
            .map(|start| start & !0xfff)
            .filter(|at| *at >= self.floor)
        else {
            return Ok(None);
        };
        self.top = start;
        write(memory, start, data)?;
        Ok(Some(start))
    }
}

/// Modules that find no room.
fn no_room(memory: &GuestMemoryMmap, modules: &[Module]) -> MachineError {
    let bytes = modules.iter().map(|module| module.data.len() as u64).sum();
    let least = low_end(memory);
    MachineError::Modules { bytes, least }
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
    use super::*;
    use vm_memory::GuestAddressSpace;

    use crate::machine::memory;

    #[test]
    fn memory_below_and_above_the_hole_is_told_and_what_is_none_reserved() {
        let memory = memory::create(4 << 30).expect("only reserved").memory();
        let stretch = |start, end, kind| Stretch {
            start,
            bytes: end - start,
            kind,
        };
        assert_eq!(
            memory_map(&memory),
            [
                stretch(0, 0x9_fc00, Kind::Ram),
                stretch(0xe_0000, 0x10_0000, Kind::Acpi),
                stretch(0x10_0000, 3 << 30, Kind::Ram),
                stretch(0xe000_0000, 0xe010_0000, Kind::Reserved),
                stretch(4 << 30, 5 << 30, Kind::Ram),
            ]
        );
    }
}
