//! bzImages, good and bad.

use vm_memory::{Bytes, GuestAddressSpace};

use super::*;
use crate::machine::memory;

/// A bzImage of one sector of setup beside the first, whose protected-mode part is `code` zeros
/// but for a mark at the 64-bit entry point; `change` may damage its header.
fn image(code: usize, change: impl FnOnce(&mut setup_header)) -> Vec<u8> {
    let mut header = setup_header {
        setup_sects: 1,
        syssize: u32::try_from(code / 16).expect("small"),
        header: 0x5372_6448,
        version: 0x020f,
        loadflags: LOADED_HIGH,
        code32_start: 0x10_0000,
        initrd_addr_max: 0x7fff_ffff,
        cmdline_size: 2047,
        xloadflags: KERNEL_64 | ABOVE_4G,
        pref_address: 0x20_0000,
        init_size: 0x10_0000,
        ..Default::default()
    };
    change(&mut header);
    let mut file = vec![0; 1024 + code];
    file[0x1f1..0x1f1 + size_of::<setup_header>()].copy_from_slice(header.as_slice());
    file[1024 + 0x200] = 0xf4;
    file
}

fn file(bytes: usize) -> Module {
    Module::unnamed(vec![7; bytes])
}

fn small() -> std::sync::Arc<GuestMemoryMmap> {
    let memory = memory::create(8 << 20).expect("small").memory();
    std::sync::Arc::new((*memory).clone())
}

fn zero_page(memory: &GuestMemoryMmap) -> boot_params {
    let address = GuestAddress(layout::BOOT_PARAMS);
    memory.read_obj(address).expect("in range")
}

#[test]
fn parameters_tell_of_memory_command_line_initrd_and_acpi() {
    let memory = small();
    let kernel = image(0x1000, |_| {});
    let entry = super::super::load(&memory, &kernel, "a=b", &[file(5000)], 0xe_0000);
    assert_eq!(entry.expect("it fits"), Entry::Linux64 { rip: 0x10_0200 });
    let code: u8 = memory.read_obj(GuestAddress(0x10_0200)).expect("in range");
    assert_eq!(code, 0xf4);
    let page = zero_page(&memory);
    let (line, start, bytes) = (
        page.hdr.cmd_line_ptr,
        page.hdr.ramdisk_image,
        page.hdr.ramdisk_size,
    );
    let text: [u8; 4] = memory
        .read_obj(GuestAddress(line.into()))
        .expect("in range");
    assert_eq!(text, *b"a=b\0");
    assert_eq!((start, bytes), ((8 << 20) - 8192, 5000));
    let last: u8 = memory
        .read_obj(GuestAddress(u64::from(start) + 4999))
        .expect("in range");
    assert_eq!(last, 7);
    assert_eq!({ page.acpi_rsdp_addr }, 0xe_0000);
    assert_eq!(page.hdr.type_of_loader, UNKNOWN_LOADER);
    // What the kernel says of itself stays.
    assert_eq!({ page.hdr.pref_address }, 0x20_0000);
    let table = page.e820_table;
    let map: Vec<_> = table[..usize::from(page.e820_entries)]
        .iter()
        .map(|entry| (entry.addr, entry.size, entry.r#type))
        .collect();
    assert_eq!(
        map,
        [
            (0, 0x9_fc00, 1),
            (0xe_0000, 0x2_0000, 3),
            (0x10_0000, 7 << 20, 1),
            (0xe000_0000, 0x10_0000, 2),
        ]
    );
}

#[test]
fn page_tables_map_the_first_4_gib_to_themselves() {
    let memory = small();
    super::super::load(&memory, &image(0x1000, |_| {}), "", &[], 0).expect("it fits");
    let entry = |address: u64| -> u64 { memory.read_obj(GuestAddress(address)).expect("in range") };
    let (mask, page) = (!0xfff, 1_u64 << 21);
    for address in [0, page, 0x734 << 21, (4 << 30) - page] {
        let pointers = entry(layout::PAGE_TABLES) & mask;
        let table = entry(pointers + (address >> 30) * 8) & mask;
        let last = entry(table + (address >> 21 & 511) * 8);
        assert_eq!(last, address | 0b1000_0011, "{address:#x}");
    }
}

#[test]
fn initrd_goes_below_what_the_kernel_takes_or_above_4_gib() {
    let memory = memory::create(4 << 30).expect("only reserved").memory();
    let place = |most: u32, flags: u16, bytes: usize| {
        let kernel = image(0x1000, |header| {
            header.initrd_addr_max = most;
            header.xloadflags = flags;
        });
        super::super::load(&memory, &kernel, "", &[file(bytes)], 0).map(|_| {
            let page = zero_page(&memory);
            u64::from(page.ext_ramdisk_image) << 32 | u64::from(page.hdr.ramdisk_image)
        })
    };
    let both = KERNEL_64 | ABOVE_4G;
    assert_eq!(place(0x7fff_ffff, both, 4096).expect("room"), 0x7fff_f000);
    assert_eq!(place(0xffff_ffff, both, 4096).expect("room"), 0xbfff_f000);
    // 1 MiB below 4 MiB is free, and 2 MiB are not.
    assert_eq!(place(0x3f_ffff, both, 1 << 20).expect("room"), 0x30_0000);
    let high = place(0x3f_ffff, both, 2 << 20).expect("room above");
    assert_eq!(high, (5 << 30) - (2 << 20));
    let error = place(0x3f_ffff, KERNEL_64, 2 << 20).expect_err("no room");
    assert!(error.to_string().contains("2097152 bytes"), "{error}");
}

#[test]
fn bad_images_are_refused_with_their_reason() {
    let memory = small();
    let fail = |kernel: &[u8], line: &str, modules: &[Module]| {
        let loaded = super::super::load(&memory, kernel, line, modules, 0);
        loaded.expect_err("refused").to_string()
    };
    let good = image(0x1000, |_| {});
    for (kernel, words) in [
        (
            good[..good.len() - 1].to_vec(),
            "cut short: 5119 bytes, and its header tells of 5120",
        ),
        (good[..0x206].to_vec(), "cut short"),
        (image(0x1000, |h| h.version = 0x020a), "protocol 2.10"),
        (
            image(0x1000, |h| h.xloadflags = 0),
            "without a 64-bit entry",
        ),
        (image(0x1000, |h| h.loadflags = 0), "bzImage"),
        (
            image(0x1000, |h| h.init_size = u32::MAX),
            "up to 0x1001fffff",
        ),
        (
            image(0x1000, |h| h.pref_address = u64::MAX),
            "up to 0xffffffffffffffff",
        ),
        (image(8 << 20, |_| {}), "guest's 8388608 bytes"),
    ] {
        let told = fail(&kernel, "", &[]);
        assert!(told.contains(words), "{told}");
    }
    assert!(fail(&good, &"x".repeat(2048), &[]).contains("2048 bytes; at most 2047"));
    assert!(fail(&good, "a\0b", &[]).contains("NUL"));
    assert!(fail(&good, "", &[file(7 << 20)]).contains("7340032 bytes"));
    assert!(fail(&good, "", &[file(1), file(1)]).contains("one initrd"));
}
