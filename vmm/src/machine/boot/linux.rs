//! Linux's 64-bit boot protocol (Linux: Documentation/arch/x86/boot.rst, zero-page.rst): a
//! bzImage's protected-mode part, the boot parameters, and page tables that map low memory to
//! itself.

use std::io::Cursor;

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use linux_loader::loader::{BzImage, KernelLoader};
use vm_memory::{ByteValued, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use super::{Entry, Room, low_end, memory_map, no_room, write, write_command_line};
use crate::machine::Module;
use crate::machine::error::MachineError;
use crate::machine::layout;

/// The first version of the protocol that tells of a 64-bit entry point: 2.12, Linux 3.8.
const VERSION: u16 = 0x020c;
/// `xloadflags`: there is a 64-bit entry point; kernel, initrd and command line may lie above 4 GiB.
const KERNEL_64: u16 = 1 << 0;
const ABOVE_4G: u16 = 1 << 1;
/// `loadflags`: the protected-mode part goes to 1 MiB.
const LOADED_HIGH: u8 = 1 << 0;
/// `type_of_loader` of a loader without a number of its own.
const UNKNOWN_LOADER: u8 = 0xff;
/// The 64-bit entry point, from where the protected-mode part is loaded.
const ENTRY_64: u64 = 0x200;

/// Loads a bzImage; see [`super::load`].
pub(super) fn load(
    memory: &GuestMemoryMmap,
    kernel: &[u8],
    command_line: &str,
    modules: &[Module],
    rsdp: u64,
) -> Result<Entry, MachineError> {
    let start = GuestAddress(layout::LEGACY_END);
    check_length(kernel)?;
    let loaded = BzImage::load(memory, Some(start), &mut Cursor::new(kernel), None);
    let loaded = loaded.map_err(|error| {
        let (bytes, end) = (kernel.len(), low_end(memory));
        fail(format!(
            "{error}; a bzImage of {bytes} bytes must fit into the guest's {end} bytes of low memory"
        ))
    })?;
    let header = loaded
        .setup_header
        .ok_or_else(|| fail("no setup header".into()))?;
    check(&header)?;
    let end = run_time_end(&header).max(loaded.kernel_end);
    if end > low_end(memory) {
        return Err(fail(format!(
            "it needs memory up to {end:#x} to unpack itself, and the guest's ends at {:#x}",
            low_end(memory)
        )));
    }
    let most = usize::try_from(header.cmdline_size).unwrap_or(usize::MAX);
    write_command_line(memory, command_line, most)?;
    let initrd = match modules {
        [] => None,
        [initrd] => Some((
            place_initrd(memory, &header, end, initrd)?,
            initrd.data.len() as u64,
        )),
        _ => {
            return Err(fail(
                "a bzImage takes one initrd, and there are more modules".into(),
            ));
        }
    };
    let parameters = parameters(memory, header, initrd, rsdp);
    write(memory, layout::BOOT_PARAMS, parameters.as_slice())?;
    write_page_tables(memory)?;
    write_descriptors(memory)?;
    Ok(Entry::Linux64 {
        rip: start.0 + ENTRY_64,
    })
}

fn fail(reason: String) -> MachineError {
    MachineError::Kernel(reason)
}

/// Whether the file has all that its header announces: `syssize` at 1F4h, in paragraphs, counts
/// the protected-mode part behind `setup_sects` sectors and the first.
fn check_length(kernel: &[u8]) -> Result<(), MachineError> {
    let header = kernel.get(0x1f1..0x1f8);
    let Some(&[sectors, _, _, s0, s1, s2, s3]) = header else {
        let bytes = kernel.len();
        return Err(fail(format!("its {bytes} bytes are no whole setup header")));
    };
    let sectors = if sectors == 0 { 4 } else { u64::from(sectors) };
    let code = u64::from(u32::from_le_bytes([s0, s1, s2, s3])) * 16;
    let (least, bytes) = ((sectors + 1) * 512 + code, kernel.len() as u64);
    match bytes < least {
        true => Err(fail(format!(
            "it is cut short: {bytes} bytes, and its header tells of {least}"
        ))),
        false => Ok(()),
    }
}

/// Whether it can be entered by the 64-bit protocol.
fn check(header: &setup_header) -> Result<(), MachineError> {
    let (version, flags) = (header.version, header.xloadflags);
    if version < VERSION {
        return Err(fail(format!(
            "a bzImage of boot protocol {}.{}; 2.12 (Linux 3.8) or later has a 64-bit entry point",
            version >> 8,
            version & 0xff
        )));
    }
    if flags & KERNEL_64 == 0 || header.loadflags & LOADED_HIGH == 0 {
        return Err(fail("a bzImage without a 64-bit entry point".into()));
    }
    Ok(())
}

/// The end of the memory that the kernel takes while it unpacks itself: from where it would like
/// to run on, or from where it is loaded if it can run there.
fn run_time_end(header: &setup_header) -> u64 {
    let start = header.pref_address.max(layout::LEGACY_END);
    start.saturating_add(header.init_size.into())
}

/// Places the initrd as high as the kernel takes it: below `initrd_addr_max`, or above 4 GiB if
/// there is no room and the kernel can do that.
fn place_initrd(
    memory: &GuestMemoryMmap,
    header: &setup_header,
    floor: u64,
    initrd: &Module,
) -> Result<u64, MachineError> {
    let most = u64::from(header.initrd_addr_max).saturating_add(1);
    let low = Room {
        floor,
        top: low_end(memory).min(most),
    };
    let above = header.xloadflags & ABOVE_4G != 0;
    let high = memory
        .iter()
        .filter(|region| above && region.start_addr().0 != 0);
    let high = high.map(|region| Room {
        floor: region.start_addr().0,
        top: region.start_addr().0 + region.len(),
    });
    for mut room in [low].into_iter().chain(high) {
        if let Some(at) = room.place(memory, &initrd.data)? {
            return Ok(at);
        }
    }
    Err(no_room(memory, std::slice::from_ref(initrd)))
}

/// The zero page; `initrd` is where one lies, and its bytes.
fn parameters(
    memory: &GuestMemoryMmap,
    header: setup_header,
    initrd: Option<(u64, u64)>,
    rsdp: u64,
) -> boot_params {
    let mut parameters = boot_params {
        hdr: header,
        acpi_rsdp_addr: rsdp,
        ..Default::default()
    };
    parameters.hdr.type_of_loader = UNKNOWN_LOADER;
    // Below 64 KiB.
    parameters.hdr.cmd_line_ptr = halves(layout::COMMAND_LINE).0;
    if let Some((start, bytes)) = initrd {
        (parameters.hdr.ramdisk_image, parameters.ext_ramdisk_image) = halves(start);
        (parameters.hdr.ramdisk_size, parameters.ext_ramdisk_size) = halves(bytes);
    }
    let map = memory_map(memory);
    let mut table = parameters.e820_table;
    for (place, stretch) in table.iter_mut().zip(&map) {
        *place = boot_e820_entry {
            addr: stretch.start,
            size: stretch.bytes,
            r#type: stretch.kind as u32,
        };
    }
    parameters.e820_table = table;
    parameters.e820_entries = u8::try_from(map.len()).unwrap_or(u8::MAX);
    parameters
}

/// The low and the high 32 bits.
fn halves(value: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    (
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    )
}

/// Maps the first 4 GiB to themselves, in pages of 2 MiB.
fn write_page_tables(memory: &GuestMemoryMmap) -> Result<(), MachineError> {
    const PRESENT_WRITABLE: u64 = 0b11;
    const LARGE: u64 = 1 << 7;
    const PAGE: u64 = 0x1000;
    let [top, pointers, first] = [0, 1, 2].map(|page| layout::PAGE_TABLES + page * PAGE);
    let entries = |list: &mut dyn Iterator<Item = u64>| -> Vec<u8> {
        list.flat_map(|entry| (entry | PRESENT_WRITABLE).to_le_bytes())
            .collect()
    };
    write(memory, top, &entries(&mut [pointers].into_iter()))?;
    let tables = (0..4).map(|table| first + table * PAGE);
    write(memory, pointers, &entries(&mut tables.into_iter()))?;
    let pages = (0..4 * 512_u64).map(|page| page << 21 | LARGE);
    write(memory, first, &entries(&mut pages.into_iter()))
}

/// The descriptors that the protocol asks for: code at selector 10h, data at 18h.
fn write_descriptors(memory: &GuestMemoryMmap) -> Result<(), MachineError> {
    const CODE: u64 = 0x00af_9b00_0000_ffff;
    const DATA: u64 = 0x00cf_9300_0000_ffff;
    let table: Vec<u8> = [0, 0, CODE, DATA]
        .iter()
        .flat_map(|entry: &u64| entry.to_le_bytes())
        .collect();
    write(memory, layout::DESCRIPTORS, &table)
}

#[cfg(test)]
#[path = "linux_tests.rs"]
mod tests;
