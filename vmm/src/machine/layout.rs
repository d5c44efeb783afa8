//! Where things are in the guest's physical address space and among its ports.
//!
//! ```text
//!   0                memory (the first page of it: start info, memory map, command line)
//!   3 GiB            window for BARs, 512 MiB
//!   E000_0000h       ECAM of bus 0, 1 MiB
//!   FEC0_0000h       IOAPIC, LAPIC at FEE0_0000h, KVM's own pages below 4 GiB
//!   4 GiB            the rest of the memory
//! ```

/// First byte of the hole between low and high memory.
pub const LOW_MEMORY_END: u64 = 0xc000_0000;
/// First byte of high memory.
pub const HIGH_MEMORY_START: u64 = 1 << 32;

/// Start and length of the window in which BARs are placed and may be moved.
pub const BAR_WINDOW: (u64, u64) = (0xc000_0000, 0x2000_0000);
/// Start and length of PCI's memory-mapped configuration space: bus 0 alone.
pub const ECAM: (u64, u64) = (0xe000_0000, 0x10_0000);
/// First of the eight ports of PCI's configuration mechanism.
pub const PCI_PORTS: u16 = 0xcf8;

/// First port of the 16550, and its interrupt line.
pub const SERIAL_PORT: u16 = 0x3f8;
/// The 16550's interrupt line.
pub const SERIAL_IRQ: u32 = 4;
/// First of the four ports of the debug exit (QEMU: `isa-debug-exit,iobase=0xf4,iosize=4`).
pub const DEBUG_EXIT_PORT: u16 = 0xf4;

/// Three pages that KVM on Intel processors takes for itself (KVM_SET_TSS_ADDR), and the page
/// below them for its identity map.
pub const KVM_TSS: u64 = 0xfffb_d000;
/// See [`KVM_TSS`].
pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;

/// `hvm_start_info`, its list of modules, its memory map, and the command line.
pub(crate) const START_INFO: u64 = 0x1000;
pub(crate) const MODULE_LIST: u64 = 0x2000;
pub(crate) const MEMORY_MAP: u64 = 0x3000;
pub(crate) const COMMAND_LINE: u64 = 0x4000;
/// Longest command line in bytes, its final NUL included: Linux's COMMAND_LINE_SIZE less a
/// reserve, and one page of the test kernel's patience.
pub(crate) const COMMAND_LINE_MAX: usize = 4096;
/// Memory below is the firmware's and the VGA hole's by custom; kernels are loaded above.
pub(crate) const LEGACY_END: u64 = 0x10_0000;
/// End of conventional memory (the EBDA and the VGA hole follow).
pub(crate) const CONVENTIONAL_END: u64 = 0x9_fc00;
