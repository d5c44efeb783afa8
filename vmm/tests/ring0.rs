//! The test kernel's ring 0 holds integer instructions alone: where there is no hardware
//! virtualisation ring 0 is emulated, and the emulator ends the VM at anything else.

use iced_x86::{CpuidFeature, Decoder, DecoderOptions, EncodingKind, Instruction, Mnemonic};
use object::{Object, ObjectSection, ObjectSymbol};

/// Everything ring 0 may execute.
const ALLOWED: [Mnemonic; 31] = [
    Mnemonic::Add,
    Mnemonic::Cld,
    Mnemonic::Cli,
    Mnemonic::Cmp,
    Mnemonic::Cpuid,
    Mnemonic::Hlt,
    Mnemonic::Inc,
    Mnemonic::Iretq,
    Mnemonic::Jb,
    Mnemonic::Je,
    Mnemonic::Jmp,
    Mnemonic::Jne,
    Mnemonic::Lea,
    Mnemonic::Lgdt,
    Mnemonic::Lidt,
    Mnemonic::Ltr,
    Mnemonic::Mov,
    Mnemonic::Nop,
    Mnemonic::Or,
    Mnemonic::Out,
    Mnemonic::Pop,
    Mnemonic::Push,
    Mnemonic::Rdmsr,
    Mnemonic::Shl,
    Mnemonic::Shr,
    Mnemonic::Sti,
    Mnemonic::Sub,
    Mnemonic::Test,
    Mnemonic::Wrmsr,
    Mnemonic::Xor,
    Mnemonic::And,
];

/// Baseline sets of what is allowed above; none has a vector register.
fn is_integer(instruction: &Instruction) -> bool {
    ALLOWED.contains(&instruction.mnemonic())
        && instruction.cpuid_features().iter().all(|feature| {
            matches!(
                feature,
                CpuidFeature::INTEL8086
                    | CpuidFeature::INTEL186
                    | CpuidFeature::INTEL286
                    | CpuidFeature::INTEL386
                    | CpuidFeature::INTEL486
                    | CpuidFeature::X64
                    | CpuidFeature::CPUID
                    | CpuidFeature::MSR
                    | CpuidFeature::MULTIBYTENOP
            )
        })
}

/// What is not allowed in `code`, as text.
fn refused(code: &[u8], bits: u32, address: u64) -> Vec<String> {
    let decoder = Decoder::with_ip(bits, code, address, DecoderOptions::NONE);
    let bad = decoder
        .into_iter()
        .filter(|instruction| !is_integer(instruction));
    bad.map(|instruction| format!("{:#x}: {instruction}", instruction.ip()))
        .collect()
}

#[test]
fn ring0_holds_integer_instructions_alone() {
    let elf = object::File::parse(ferrite::TEST_KERNEL).expect("an ELF");
    let section = elf.section_by_name(".ring0").expect("the kernel's ring 0");
    let (data, base) = (section.data().expect("in the file"), section.address());
    let symbols = || {
        elf.symbols()
            .filter(|symbol| symbol.name() == Ok("long_mode"))
    };
    let split = symbols()
        .next()
        .expect("where 64-bit code begins")
        .address()
        - base;
    let (boot, rest) = data.split_at(usize::try_from(split).expect("small"));
    assert!(
        boot.len() > 32 && rest.len() > 1000,
        "{} and {}",
        boot.len(),
        rest.len()
    );

    let mut bad = refused(boot, 32, base);
    bad.extend(refused(rest, 64, base + split));
    assert!(bad.is_empty(), "not for ring 0:\n{}", bad.join("\n"));
}

#[test]
fn what_the_emulator_lacks_is_refused() {
    for (code, what) in [
        (&[0x0f, 0x57, 0xc0][..], "xorps xmm0, xmm0"),
        (&[0x66, 0x0f, 0xef, 0xc0], "pxor xmm0, xmm0"),
        (&[0xf3, 0x0f, 0xb8, 0xc0], "popcnt eax, eax"),
        (&[0xc5, 0xf8, 0x77], "vzeroupper"),
        (&[0xcd, 0x80], "int 80h"),
        (&[0xcc], "int3"),
        (&[0x0f, 0x01, 0xd0], "xgetbv"),
        (&[0x0f, 0x05], "syscall"),
        (&[0x06], "no instruction at all"),
    ] {
        assert_eq!(refused(code, 64, 0).len(), 1, "{what}");
    }
    assert!(refused(&[0x48, 0xff, 0x05, 0, 0, 0, 0, 0x48, 0xcf], 64, 0).is_empty());
}

/// The VEX-coded (EVEX, XOP too) instructions of `code`, as text.
fn extended(code: &[u8], address: u64) -> Vec<String> {
    let decoder = Decoder::with_ip(64, code, address, DecoderOptions::NONE);
    let is_extended = |instruction: &Instruction| {
        !instruction.is_invalid() && instruction.encoding() != EncodingKind::Legacy
    };
    let bad = decoder.into_iter().filter(is_extended);
    bad.map(|instruction| format!("{:#x}: {instruction}", instruction.ip()))
        .collect()
}

#[test]
fn no_ring_has_vex_coded_instructions() {
    // CR4.OSXSAVE is never set, so that they are #UD in ring 3 as well. They come when someone's
    // flags reach the kernel's build (vmm/build.rs).
    let elf = object::File::parse(ferrite::TEST_KERNEL).expect("an ELF");
    let text = elf.section_by_name(".text").expect("ring 3");
    let bad = extended(text.data().expect("in the file"), text.address());
    assert!(bad.is_empty(), "built for another CPU:\n{}", bad.join("\n"));
    for code in [
        &[0xc5, 0xf8, 0x77][..],               // vzeroupper
        &[0xc4, 0xe2, 0xf8, 0xf3, 0xc8],       // blsr
        &[0x62, 0xf1, 0x7c, 0x48, 0x57, 0xc0], // vxorps zmm
    ] {
        assert_eq!(extended(code, 0).len(), 1, "{code:x?}");
    }
    assert!(extended(&[0x0f, 0x57, 0xc0], 0).is_empty());
}

#[test]
fn code_outside_ring0_never_runs_privileged() {
    // Only .ring0 is reachable from the entry point and the IDT; a privileged instruction in
    // .text would fault in ring 3, so that none should be there.
    let elf = object::File::parse(ferrite::TEST_KERNEL).expect("an ELF");
    assert_eq!(
        elf.entry(),
        elf.section_by_name(".ring0").expect("ring 0").address()
    );
    let text = elf.section_by_name(".text").expect("ring 3");
    let code = text.data().expect("in the file");
    let decoder = Decoder::with_ip(64, code, text.address(), DecoderOptions::NONE);
    let privileged = decoder
        .into_iter()
        .find(|instruction| instruction.is_privileged() && !is_port_io(instruction));
    assert!(privileged.is_none(), "{privileged:?}");
}

fn is_port_io(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::In | Mnemonic::Out)
}
