//! Calls from ring 3 into ring 0: UD2 with a number in RAX and a magic in R10, see `ring0.s`.

use core::arch::asm;

/// In R10 at every deliberate UD2, so that a stray #UD is not taken for a call.
const MAGIC: u64 = 0x4665_5269;

/// # Safety
/// What the numbered routine does with its arguments must be sound: pointers it writes through
/// must be valid for that write.
unsafe fn ring0(number: u64, rdi: u64, rsi: u64, rdx: u64) -> u64 {
    let result;
    // SAFETY: the #UD handler skips the instruction and keeps every register but RAX and R10;
    // flags come back with IRETQ. The red zone is safe, as the entry switches stacks.
    unsafe {
        asm!("ud2", inlateout("rax") number => result, in("rdi") rdi, in("rsi") rsi,
             in("rdx") rdx, inlateout("r10") MAGIC => _);
    }
    result
}

/// Halts until an interrupt arrives, unless [`crate::irq::total`] is no longer `seen`.
pub fn wait(seen: u64) {
    // SAFETY: reads a counter and halts.
    unsafe { ring0(0, seen, 0, 0) };
}

/// EAX, EBX, ECX, EDX of a CPUID leaf as the *guest* is to see them: executed in ring 3, CPUID may
/// show the host's values where there is no hardware virtualisation.
#[must_use]
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let mut values = [0_u32; 4];
    // SAFETY: the routine writes 16 bytes at RDX, which is this array.
    unsafe { ring0(1, leaf.into(), subleaf.into(), values.as_mut_ptr() as u64) };
    values
}

/// Reads a model-specific register. One that does not exist ends the kernel with #GP.
#[must_use]
pub fn rdmsr(register: u32) -> u64 {
    // SAFETY: reading an MSR changes nothing that Rust knows of.
    unsafe { ring0(2, register.into(), 0, 0) }
}

/// Writes a model-specific register.
///
/// # Safety
/// The register must not change what this program's memory or code relies on (EFER, FS base ...).
pub unsafe fn wrmsr(register: u32, value: u64) {
    // SAFETY: the caller's promise.
    unsafe { ring0(3, register.into(), value, 0) };
}

/// CR0, CR2, CR3 and CR4.
#[must_use]
pub fn control_registers() -> [u64; 4] {
    let mut values = [0_u64; 4];
    // SAFETY: the routine writes 32 bytes at RDX, which is this array.
    unsafe { ring0(4, 0, 0, values.as_mut_ptr() as u64) };
    values
}

/// Ends the virtual machine by a triple fault; for tests of the machine.
pub fn triple_fault() {
    // SAFETY: does not return to Rust at all.
    unsafe { ring0(5, 0, 0, 0) };
}

/// A page fault inside ring 0; for tests of the fault report.
pub fn ring0_fault() {
    // SAFETY: does not return here; the fault report ends the kernel.
    unsafe { ring0(6, 0, 0, 0) };
}
