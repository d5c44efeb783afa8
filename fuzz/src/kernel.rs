//! Files that a user asks to boot.

use std::sync::OnceLock;

use ferrite::machine::{Entry, Module, load_kernel};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use crate::input::Input;

/// Guest memory.
const MEMORY_BYTES: usize = 4 << 20;
/// Bytes of the file that is damaged.
const FILE_BYTES: usize = 0x400;

/// Loads a file as a kernel: anything, or a good ELF or bzImage with damage. It is refused, or its
/// entry point is told, which lies in memory.
pub fn kernel(data: &[u8]) {
    static MEMORY: OnceLock<GuestMemoryMmap> = OnceLock::new();
    let memory = MEMORY.get_or_init(|| {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]);
        let memory = memory.expect("memory");
        for good in [good_kernel(), good_image()] {
            load_kernel(&memory, &good, "fuzz", &[], 0).expect("what is damaged below is good");
        }
        memory
    });
    let mut input = Input::new(data);
    let choice = input.u8();
    let mut modules = Vec::new();
    if choice & 2 != 0 {
        modules.push(Module {
            data: vec![7; usize::from(input.u16())].into(),
            command_line: "module".into(),
        });
    }
    let (mut good, headers) = match choice & 4 {
        0 => (good_kernel(), 0..0x140),
        _ => (good_image(), 0x1f1..0x270),
    };
    let file = if choice & 1 == 0 {
        while !input.is_empty() {
            let at = usize::from(input.u16()) % good.len();
            // The headers more often than what follows.
            let at = match input.bool() {
                true => at,
                false => headers.start + at % headers.len(),
            };
            let value = input.number().to_le_bytes();
            let width = input.pick(&[1, 2, 4, 8]).min(good.len() - at);
            good[at..at + width].copy_from_slice(&value[..width]);
        }
        &good[..]
    } else {
        input.rest()
    };
    match load_kernel(memory, file, "fuzz", &modules, 0) {
        Ok(Entry::Linux64 { rip }) => assert!(memory.address_in_range(GuestAddress(rip))),
        Ok(Entry::Pvh { .. }) => {}
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// An ELF file of a segment at 1 MiB, one without content, and the note that PVH asks for.
pub(crate) fn good_kernel() -> Vec<u8> {
    const TEXT: u64 = 0x100000;
    let mut file = vec![0; FILE_BYTES];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    // The header: 64 bits, little-endian, an executable for x86-64, three program headers at 40h.
    put(0, b"\x7FELF\x02\x01\x01");
    put(0x10, &2u16.to_le_bytes());
    put(0x12, &62u16.to_le_bytes());
    put(0x14, &1u32.to_le_bytes());
    put(0x18, &TEXT.to_le_bytes());
    put(0x20, &0x40u64.to_le_bytes());
    put(0x34, &64u16.to_le_bytes());
    put(0x36, &56u16.to_le_bytes());
    put(0x38, &3u16.to_le_bytes());
    // Type, flags, offset, virtual and physical address, bytes in file and in memory, alignment.
    let segments: [(u32, u32, [u64; 6]); 3] = [
        (1, 5, [0x200, TEXT, TEXT, 0x100, 0x100, 0x1000]),
        (1, 6, [0x300, 0x10_2000, 0x10_2000, 0, 0x2000, 0x1000]),
        (4, 4, [0x300, 0, 0, 24, 24, 4]),
    ];
    for (index, (kind, flags, values)) in segments.into_iter().enumerate() {
        let at = 0x40 + index * 56;
        put(at, &kind.to_le_bytes());
        put(at + 4, &flags.to_le_bytes());
        for (field, value) in values.into_iter().enumerate() {
            put(at + 8 + field * 8, &value.to_le_bytes());
        }
    }
    // The note: owner "Xen", type 18, the entry point in eight bytes.
    put(0x300, &4u32.to_le_bytes());
    put(0x304, &8u32.to_le_bytes());
    put(0x308, &18u32.to_le_bytes());
    put(0x30C, b"Xen\0");
    put(0x310, &TEXT.to_le_bytes());
    file
}

/// A bzImage of boot protocol 2.15: a sector of setup beside the first, and a part for protected
/// mode that wants to run at 2 MiB.
pub(crate) fn good_image() -> Vec<u8> {
    let mut file = vec![0; 0x400 + FILE_BYTES];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    // setup_sects, syssize in paragraphs, the magic, the version.
    put(0x1f1, &[1]);
    let paragraphs = u32::try_from(FILE_BYTES / 16).unwrap_or(u32::MAX);
    put(0x1f4, &paragraphs.to_le_bytes());
    put(0x202, b"HdrS\x0f\x02");
    // loadflags: high; code32_start; initrd_addr_max; relocatable; xloadflags: 64 bits, above 4 GiB.
    put(0x211, &[1]);
    put(0x214, &0x10_0000u32.to_le_bytes());
    put(0x22c, &0x7fff_ffffu32.to_le_bytes());
    put(0x234, &[1, 21, 3, 0]);
    // cmdline_size, pref_address, init_size.
    put(0x238, &2047u32.to_le_bytes());
    put(0x258, &0x20_0000u64.to_le_bytes());
    put(0x260, &0x1_0000u32.to_le_bytes());
    file
}
