//! Files that a user asks to boot.

use std::sync::OnceLock;

use ferrite::machine::{Module, load_kernel};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::input::Input;

/// Guest memory.
const MEMORY_BYTES: usize = 4 << 20;
/// Bytes of the file that is damaged.
const FILE_BYTES: usize = 0x400;

/// Loads a file as a kernel by the PVH protocol: anything, or a good kernel with damage. It is
/// refused, or its entry point is told.
pub fn kernel(data: &[u8]) {
    static MEMORY: OnceLock<GuestMemoryMmap> = OnceLock::new();
    let memory = MEMORY.get_or_init(|| {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).expect("memory")
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
    let mut good = good_kernel();
    let file = if choice & 1 == 0 {
        while !input.is_empty() {
            let at = usize::from(input.u16()) % good.len();
            // The headers more often than what follows.
            let at = if input.bool() { at } else { at % 0x140 };
            let value = input.number().to_le_bytes();
            let width = input.pick(&[1, 2, 4, 8]).min(good.len() - at);
            good[at..at + width].copy_from_slice(&value[..width]);
        }
        &good[..]
    } else {
        input.rest()
    };
    match load_kernel(memory, file, "fuzz", &modules, 0) {
        Ok(_) => {}
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
