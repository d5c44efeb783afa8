//! A CPU's registers as GDB numbers them.
//!
//! The order of [`GuestRegisters::gdb_serialize`] and of the target description is one: the core
//! and SSE registers of gdbstub_arch, then [`SYSTEM`].

use std::fmt::Write;
use std::num::NonZeroUsize;
use std::sync::LazyLock;

use gdbstub::arch::{Arch, RegId, Registers};
use gdbstub_arch::x86::reg::X86_64CoreRegs;

/// Bytes of the core and SSE registers.
const CORE_BYTES: usize = 0x218;

/// Registers beside the core's, of eight bytes each: name, type in the target description.
pub(super) const SYSTEM: [(&str, &str); 9] = [
    ("fs_base", "uint64"),
    ("gs_base", "uint64"),
    ("k_gs_base", "uint64"),
    ("cr0", "cr0_flags"),
    ("cr2", "data_ptr"),
    ("cr3", "uint64"),
    ("cr4", "cr4_flags"),
    ("cr8", "uint64"),
    ("efer", "efer_flags"),
];

/// Flags of a register: name, bit. Names of the Intel SDM and AMD's APM.
const EFLAGS: &[(&str, u8)] = &[
    ("CF", 0),
    ("PF", 2),
    ("AF", 4),
    ("ZF", 6),
    ("SF", 7),
    ("TF", 8),
    ("IF", 9),
    ("DF", 10),
    ("OF", 11),
    ("NT", 14),
    ("RF", 16),
    ("VM", 17),
    ("AC", 18),
    ("VIF", 19),
    ("VIP", 20),
    ("ID", 21),
];
const CR0: &[(&str, u8)] = &[
    ("PE", 0),
    ("MP", 1),
    ("EM", 2),
    ("TS", 3),
    ("ET", 4),
    ("NE", 5),
    ("WP", 16),
    ("AM", 18),
    ("NW", 29),
    ("CD", 30),
    ("PG", 31),
];
const CR4: &[(&str, u8)] = &[
    ("VME", 0),
    ("PVI", 1),
    ("TSD", 2),
    ("DE", 3),
    ("PSE", 4),
    ("PAE", 5),
    ("MCE", 6),
    ("PGE", 7),
    ("PCE", 8),
    ("OSFXSR", 9),
    ("OSXMMEXCPT", 10),
    ("UMIP", 11),
    ("LA57", 12),
    ("VMXE", 13),
    ("SMXE", 14),
    ("FSGSBASE", 16),
    ("PCIDE", 17),
    ("OSXSAVE", 18),
    ("SMEP", 20),
    ("SMAP", 21),
    ("PKE", 22),
];
const EFER: &[(&str, u8)] = &[
    ("SCE", 0),
    ("LME", 8),
    ("LMA", 10),
    ("NXE", 11),
    ("SVME", 12),
    ("FFXSR", 14),
];
const MXCSR: &[(&str, u8)] = &[
    ("IE", 0),
    ("DE", 1),
    ("ZE", 2),
    ("OE", 3),
    ("UE", 4),
    ("PE", 5),
    ("DAZ", 6),
    ("IM", 7),
    ("DM", 8),
    ("ZM", 9),
    ("OM", 10),
    ("UM", 11),
    ("PM", 12),
    ("FZ", 15),
];

/// x86-64 with the registers a kernel's developer looks for.
#[derive(Debug)]
pub(super) enum X86 {}

impl Arch for X86 {
    type Usize = u64;
    type Registers = GuestRegisters;
    type BreakpointKind = usize;
    type RegId = RegisterId;

    fn target_description_xml() -> Option<&'static str> {
        Some(DESCRIPTION.as_str())
    }
}

/// All registers of a CPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct GuestRegisters {
    /// Those that every x86-64 has.
    pub(super) core: X86_64CoreRegs,
    /// In the order of [`SYSTEM`].
    pub(super) system: [u64; SYSTEM.len()],
}

impl Registers for GuestRegisters {
    type ProgramCounter = u64;

    fn pc(&self) -> u64 {
        self.core.rip
    }

    fn gdb_serialize(&self, mut write_byte: impl FnMut(Option<u8>)) {
        self.core.gdb_serialize(&mut write_byte);
        let bytes = self.system.iter().flat_map(|value| value.to_le_bytes());
        bytes.for_each(|byte| write_byte(Some(byte)));
    }

    fn gdb_deserialize(&mut self, bytes: &[u8]) -> Result<(), ()> {
        let (core, system) = bytes.split_at_checked(CORE_BYTES).ok_or(())?;
        let (values, []) = system.as_chunks::<8>() else {
            return Err(());
        };
        self.core.gdb_deserialize(core)?;
        let values: Vec<u64> = values
            .iter()
            .map(|value| u64::from_le_bytes(*value))
            .collect();
        self.system = values.try_into().map_err(|_| ())?;
        Ok(())
    }
}

/// One register: where it lies among all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RegisterId {
    number: usize,
    offset: usize,
    bytes: usize,
}

impl RegisterId {
    /// The register's bytes among those of all.
    pub(super) fn range(self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.bytes
    }
}

impl RegId for RegisterId {
    fn from_raw_id(id: usize) -> Option<(Self, Option<NonZeroUsize>)> {
        let mut offset = 0;
        for (number, register) in REGISTERS.iter().enumerate() {
            let bytes = register.bits / 8;
            if number == id {
                let id = Self {
                    number,
                    offset,
                    bytes,
                };
                return Some((id, NonZeroUsize::new(bytes)));
            }
            offset += bytes;
        }
        None
    }

    fn to_raw_id(&self) -> Option<usize> {
        Some(self.number)
    }
}

/// A line of the target description.
struct Register {
    name: String,
    bits: usize,
    kind: &'static str,
    feature: &'static str,
}

const CORE_FEATURE: &str = "org.gnu.gdb.i386.core";
const SSE_FEATURE: &str = "org.gnu.gdb.i386.sse";
const SEGMENTS_FEATURE: &str = "org.gnu.gdb.i386.segments";
const SYSTEM_FEATURE: &str = "org.ferrite.x86.system";

/// All registers by their number.
static REGISTERS: LazyLock<Vec<Register>> = LazyLock::new(|| {
    const GENERAL: [&str; 16] = [
        "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12",
        "r13", "r14", "r15",
    ];
    const X87: [&str; 8] = [
        "fctrl", "fstat", "ftag", "fiseg", "fioff", "foseg", "fooff", "fop",
    ];
    let mut list = Vec::new();
    let mut add = |feature, name: &str, bits, kind| {
        list.push(Register {
            name: name.to_owned(),
            bits,
            kind,
            feature,
        });
    };
    for name in GENERAL {
        let kind = if matches!(name, "rbp" | "rsp") {
            "data_ptr"
        } else {
            "int64"
        };
        add(CORE_FEATURE, name, 64, kind);
    }
    add(CORE_FEATURE, "rip", 64, "code_ptr");
    add(CORE_FEATURE, "eflags", 32, "eflags_flags");
    for name in ["cs", "ss", "ds", "es", "fs", "gs"] {
        add(CORE_FEATURE, name, 32, "int32");
    }
    for number in 0..8 {
        add(CORE_FEATURE, &format!("st{number}"), 80, "i387_ext");
    }
    for name in X87 {
        add(CORE_FEATURE, name, 32, "int");
    }
    for number in 0..16 {
        add(SSE_FEATURE, &format!("xmm{number}"), 128, "vec128");
    }
    add(SSE_FEATURE, "mxcsr", 32, "mxcsr_flags");
    for (name, kind) in SYSTEM {
        // GDB looks for the first two there.
        let feature = if name.starts_with(['f', 'g']) {
            SEGMENTS_FEATURE
        } else {
            SYSTEM_FEATURE
        };
        add(feature, name, 64, kind);
    }
    list
});

/// The target description (GDB's manual, "Target Description Format").
static DESCRIPTION: LazyLock<String> = LazyLock::new(|| {
    let mut xml = String::from(
        "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\"><target version=\"1.0\">\
         <architecture>i386:x86-64</architecture>",
    );
    let mut open = "";
    for register in REGISTERS.iter() {
        let Register {
            name,
            bits,
            kind,
            feature,
        } = register;
        if *feature != open {
            if !open.is_empty() {
                xml += "</feature>";
            }
            open = feature;
            let _ = write!(xml, "<feature name=\"{feature}\">{}", types(feature));
        }
        let _ = write!(
            xml,
            "<reg name=\"{name}\" bitsize=\"{bits}\" type=\"{kind}\"/>"
        );
    }
    xml += "</feature></target>";
    xml
});

/// What a feature's registers are made of.
fn types(feature: &str) -> String {
    match feature {
        CORE_FEATURE => flags("eflags_flags", 4, EFLAGS),
        SSE_FEATURE => vectors() + &flags("mxcsr_flags", 4, MXCSR),
        SYSTEM_FEATURE => {
            flags("cr0_flags", 8, CR0) + &flags("cr4_flags", 8, CR4) + &flags("efer_flags", 8, EFER)
        }
        _ => String::new(),
    }
}

fn flags(id: &str, bytes: u8, list: &[(&str, u8)]) -> String {
    let mut xml = format!("<flags id=\"{id}\" size=\"{bytes}\">");
    for (name, bit) in list {
        let _ = write!(
            xml,
            "<field name=\"{name}\" start=\"{bit}\" end=\"{bit}\"/>"
        );
    }
    xml + "</flags>"
}

/// An XMM register by its elements, with the names that GDB itself has for them.
fn vectors() -> String {
    const KINDS: [(&str, &str, u8); 6] = [
        ("v4_float", "ieee_single", 4),
        ("v2_double", "ieee_double", 2),
        ("v16_int8", "int8", 16),
        ("v8_int16", "int16", 8),
        ("v4_int32", "int32", 4),
        ("v2_int64", "int64", 2),
    ];
    let (mut vectors, mut fields) = (String::new(), String::new());
    for (name, element, count) in KINDS {
        let _ = write!(
            vectors,
            "<vector id=\"t_{name}\" type=\"{element}\" count=\"{count}\"/>"
        );
        let _ = write!(fields, "<field name=\"{name}\" type=\"t_{name}\"/>");
    }
    format!(
        "{vectors}<union id=\"vec128\">{fields}<field name=\"uint128\" type=\"uint128\"/></union>"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(registers: &GuestRegisters) -> Vec<u8> {
        let mut bytes = Vec::new();
        registers.gdb_serialize(|byte| bytes.push(byte.expect("all are known")));
        bytes
    }

    #[test]
    fn registers_lie_where_their_numbers_say() {
        let mut registers = GuestRegisters::default();
        registers.core.rip = 0x1122_3344;
        registers.core.mxcsr = 0x1f80;
        registers.system[8] = 0xd01;
        let bytes = bytes(&registers);
        let value = |name: &str| {
            let id = REGISTERS.iter().position(|register| register.name == name);
            let (id, _) = RegisterId::from_raw_id(id.expect("known")).expect("known");
            bytes[id.range()]
                .iter()
                .rev()
                .fold(0, |value: u128, byte| value << 8 | u128::from(*byte))
        };
        assert_eq!(
            (value("rip"), value("mxcsr"), value("efer")),
            (0x1122_3344, 0x1f80, 0xd01)
        );
        assert_eq!(
            REGISTERS
                .iter()
                .map(|register| register.bits / 8)
                .sum::<usize>(),
            bytes.len()
        );
        assert!(RegisterId::from_raw_id(REGISTERS.len()).is_none());
    }

    #[test]
    fn what_was_written_is_read_and_other_lengths_are_refused() {
        let mut before = GuestRegisters::default();
        before.core.regs[15] = 15;
        before.system = [1, 2, 3, 4, 5, 6, 7, 8, 9];
        let mut bytes = bytes(&before);
        let mut after = GuestRegisters::default();
        assert_eq!(after.gdb_deserialize(&bytes), Ok(()));
        assert_eq!(after, before);
        bytes.pop();
        assert_eq!(after.gdb_deserialize(&bytes), Err(()));
        assert_eq!(after.gdb_deserialize(&[]), Err(()));
        bytes.extend([0; 9]);
        assert_eq!(after.gdb_deserialize(&bytes), Err(()));
    }

    #[test]
    fn description_opens_each_feature_once() {
        for feature in [CORE_FEATURE, SSE_FEATURE, SEGMENTS_FEATURE, SYSTEM_FEATURE] {
            let mut found = DESCRIPTION
                .matches(&format!("<feature name=\"{feature}\">"))
                .count();
            assert_eq!(std::mem::take(&mut found), 1, "{feature}");
        }
        assert_eq!(DESCRIPTION.matches("<reg ").count(), REGISTERS.len());
    }
}
