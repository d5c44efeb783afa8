//! Port I/O from ring 3, allowed by the TSS's all-zero I/O bitmap.
//!
//! Safe functions: no port of the machines this kernel runs on reaches its memory by itself, and
//! the debug exit simply ends it. (DMA is started through BARs, by drivers that own their memory.)

use core::arch::asm;

macro_rules! access {
    ($read:ident, $write:ident, $type:ty, $register:tt, $doc:literal) => {
        #[doc = concat!("Reads ", $doc, " from `port`; all ones where nothing answers.")]
        #[must_use]
        pub fn $read(port: u16) -> $type {
            let value;
            // SAFETY: see the module's doc.
            unsafe {
                asm!(concat!("in ", $register, ", dx"), in("dx") port, out($register) value,
                     options(nomem, nostack, preserves_flags));
            }
            value
        }

        #[doc = concat!("Writes ", $doc, " to `port`.")]
        pub fn $write(port: u16, value: $type) {
            // SAFETY: see the module's doc. Memory is clobbered: a port may start a device.
            unsafe {
                asm!(concat!("out dx, ", $register), in("dx") port, in($register) value,
                     options(nostack, preserves_flags));
            }
        }
    };
}

access!(read8, write8, u8, "al", "a byte");
access!(read16, write16, u16, "ax", "a word");
access!(read32, write32, u32, "eax", "a dword");
