//! The last words after a CPU exception: `ring0.s` keeps a record and resumes here, in ring 3 on
//! a stack of its own with interrupts off.

use crate::exit::{self, ExitCode};
use crate::println;

/// As `ring0.s` fills it.
#[repr(C)]
struct Record {
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
    cr2: u64,
    rax: u64,
    rbx: u64,
    rcx: u64,
    rdx: u64,
    rsi: u64,
    rdi: u64,
    rbp: u64,
}

unsafe extern "C" {
    #[link_name = "fault_record"]
    static RECORD: Record;
    /// The page below ring 3's stack, which is not present.
    #[link_name = "ring3_stack_guard"]
    static STACK_GUARD: [u8; 4096];
}

/// #PF.
const PAGE_FAULT: u64 = 14;

/// Intel SDM vol. 3, table 6-1.
const NAMES: [&str; 22] = [
    "#DE divide error",
    "#DB debug",
    "NMI",
    "#BP breakpoint",
    "#OF overflow",
    "#BR bound range",
    "#UD invalid opcode",
    "#NM no floating point",
    "#DF double fault",
    "coprocessor overrun",
    "#TS invalid TSS",
    "#NP segment not present",
    "#SS stack fault",
    "#GP general protection",
    "#PF page fault",
    "reserved",
    "#MF x87",
    "#AC alignment",
    "#MC machine check",
    "#XM SIMD floating point",
    "#VE virtualization",
    "#CP control protection",
];

// SAFETY: the name is this kernel's own and only ring0.s refers to it.
#[unsafe(no_mangle)]
extern "C" fn ring3_fault() -> ! {
    // SAFETY: written before this routine was entered, by the one CPU, and never again.
    let record = unsafe { &RECORD };
    let name = usize::try_from(record.vector)
        .ok()
        .and_then(|vector| NAMES.get(vector));
    println!(
        "FAULT: {} (vector {}) in ring {}: error {:#x}, RIP {:#x}, RSP {:#x}, RFLAGS {:#x}",
        name.unwrap_or(&"reserved"),
        record.vector,
        record.cs & 3,
        record.error,
        record.rip,
        record.rsp,
        record.rflags,
    );
    println!(
        "FAULT: CR2 {:#x}, CS {:#x}, SS {:#x}, RAX {:#x}, RBX {:#x}, RCX {:#x}, RDX {:#x}",
        record.cr2, record.cs, record.ss, record.rax, record.rbx, record.rcx, record.rdx,
    );
    println!(
        "FAULT: RSI {:#x}, RDI {:#x}, RBP {:#x}",
        record.rsi, record.rdi, record.rbp
    );
    let guard = &raw const STACK_GUARD as u64;
    if record.vector == PAGE_FAULT && (guard..guard + 4096).contains(&record.cr2) {
        println!("FAULT: the stack of ring 3 is full");
    }
    exit::exit(ExitCode::Fault)
}
