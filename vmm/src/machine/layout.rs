//! Where things are in the guest's physical address space and among its ports.
//!
//! ```text
//!   0                memory (its first pages: start info, memory map, command line)
//!   E_0000h          ACPI's tables, up to 1 MiB
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
/// The reset control register among them, and what a guest writes there to be reset.
pub const RESET_PORT: u16 = 0xcf9;
/// See [`RESET_PORT`]: a reset of the whole system, now.
pub const RESET_VALUE: u8 = 0x06;

/// First of ACPI's six ports of power management: the four of PM1's events, the two of its control.
pub const PM1_PORTS: u16 = 0x600;
/// The interrupt line of ACPI's events, of which there are none.
pub const SCI_IRQ: u32 = 9;
/// First of the two ports of the clock and its memory.
pub const CMOS_PORTS: u16 = 0x70;
/// The clock's interrupt line on a PC. This clock never interrupts.
pub const CMOS_IRQ: u32 = 8;
/// The keyboard controller's ports, of which only the reset is there.
pub const KEYBOARD_PORTS: [u16; 2] = [0x60, 0x64];
/// System control port A.
pub const PORT_92: u16 = 0x92;
/// Where firmware tells how far it is; Linux writes there to wait.
pub const POST_PORT: u16 = 0x80;

/// Registers of the IOAPIC and of every CPU's LAPIC.
pub const IOAPIC: u32 = 0xfec0_0000;
/// See [`IOAPIC`].
pub const LAPIC: u32 = 0xfee0_0000;

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
/// Linux's 64-bit protocol: segment descriptors, the boot parameters, and six pages of page tables.
pub(crate) const DESCRIPTORS: u64 = 0x6000;
pub(crate) const BOOT_PARAMS: u64 = 0x7000;
pub(crate) const PAGE_TABLES: u64 = 0x8000;
/// Memory below is the firmware's and the VGA hole's by custom; kernels are loaded above.
pub(crate) const LEGACY_END: u64 = 0x10_0000;
/// End of conventional memory (the EBDA and the VGA hole follow).
pub(crate) const CONVENTIONAL_END: u64 = 0x9_fc00;
/// Start and length of ACPI's tables, the root pointer first: where a BIOS has them.
pub(crate) const ACPI: (u64, u64) = (0xe_0000, 0x2_0000);
