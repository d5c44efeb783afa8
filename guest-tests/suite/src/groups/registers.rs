//! The register file: values, access, reserved bits.

use nvme_spec::registers::{Aqa, CAP_CRMS_WITH_MEDIA, CQE_LOG2, Cc, Crto, Register, SQE_LOG2, Vs};

use crate::{Env, Outcome, check};

group! { "registers":
    cap_limits_are_possible, "Base 2.1 3.1.4.1",
        "CAP.MQES allows at least two entries, CAP.MPSMAX is not below CAP.MPSMIN, and the NVM or an I/O command set is supported.";
    cap_reserved_bits_are_zero, "Base 2.1 3.1.4.1",
        "Reserved bits of CAP read as zero.";
    cap_as_two_dwords, "PCIe 1.1 3.1.1",
        "A 64-bit register read as two aligned dwords gives the same as in one access.";
    cap_and_vs_are_read_only, "Base 2.1 3.1.4.1",
        "Writes to CAP and VS change nothing.";
    csts_is_read_only, "Base 2.1 3.1.4.6",
        "Writes to CSTS change no bit but NSSRO.";
    crms_matches_version, "Base 2.1 3.1.4.1",
        "CAP.CRMS.CRWMS is set from version 2.0 on.";
    crto_is_not_below_to, "Base 2.1 3.1.4.20",
        "Where CAP.CRMS.CRWMS is set CRTO tells a time to be ready with media, not below CAP.TO.";
    cc_reads_back, "Base 2.1 3.1.4.5",
        "The fields of CC read back as written.";
    aqa_reads_back, "Base 2.1 3.1.4.8",
        "The queue sizes of AQA read back as written.";
    admin_bases_read_back, "Base 2.1 3.1.4.9",
        "ASQ and ACQ read back as written in one 64-bit access.";
    admin_bases_as_two_dwords, "PCIe 1.1 3.1.1",
        "ASQ and ACQ may be written and read as two aligned dwords.";
    writable_registers_keep_reserved_bits_zero, "Base 2.1 3.1.4",
        "Reserved bits of CC, AQA, ASQ and ACQ are read-only and read as zero.";
    reserved_offsets_read_zero, "Base 2.1 3.1.4",
        "Reserved offsets of the register file read as zero and ignore writes.";
    absent_registers_read_zero, "Base 2.1 3.1.4",
        "Registers of capabilities that CAP does not offer read as zero.";
    absent_nssr_ignores_the_signature, "Base 2.1 3.1.4.7",
        "Where CAP.NSSRS is 0, writing the reset signature to NSSR does nothing.";
    interrupt_masks_set_and_clear, "Base 2.1 3.1.4.3",
        "Without MSI-X, ones written to INTMS set mask bits, ones written to INTMC clear them, zeroes do nothing, and both registers read as the mask.";
}

/// Any page-aligned address, for registers that only store it.
const SOME_BASE: u64 = 0x0000_0012_3456_7000;
/// Another one that differs in both halves.
const OTHER_BASE: u64 = 0x0000_00FE_DCBA_9000;
/// "NVMe", what NSSR takes as a request.
const RESET_SIGNATURE: u32 = 0x4E56_4D65;
/// Offset of BPINFO, Boot Partition Information.
const BPINFO: u64 = 0x40;
/// Offset of PMRCAP, Persistent Memory Region Capabilities.
const PMRCAP: u64 = 0xE00;

fn cap_limits_are_possible(env: &mut Env<'_>) -> Outcome {
    let cap = env.context.cap;
    ensure!(
        cap.mqes_z() >= 1,
        "CAP.MQES is {}, at least 1 is required",
        cap.mqes_z()
    );
    ensure!(
        cap.mpsmax() >= cap.mpsmin(),
        "CAP.MPSMAX {} is below CAP.MPSMIN {}",
        cap.mpsmax(),
        cap.mpsmin()
    );
    // Bit 0: NVM; bit 6: one or more I/O command sets.
    ensure!(
        cap.css() & 0b0100_0001 != 0,
        "CAP.CSS {:#010b} offers neither the NVM nor any I/O command set",
        cap.css()
    );
    Ok(())
}

fn cap_reserved_bits_are_zero(env: &mut Env<'_>) -> Outcome {
    // Bits 23:19 and 63:62 are reserved in every version up to 2.1; 61:59 before 2.0.
    let mut reserved: u64 = 0xC000_0000_00F8_0000;
    if env.context.vs.mjr() < 2 {
        reserved |= 0x3800_0000_0000_0000;
    }
    let cap = u64::from(env.context.cap);
    check::equal_hex("reserved bits of CAP", cap & reserved, 0)
}

fn cap_as_two_dwords(env: &mut Env<'_>) -> Outcome {
    let at = Register::Cap.offset();
    let transport = env.nvme.transport();
    let whole = transport.read64(at);
    let halves = u64::from(transport.read32(at)) | u64::from(transport.read32(at + 4)) << 32;
    check::equal_hex("CAP read as two dwords", halves, whole)
}

fn cap_and_vs_are_read_only(env: &mut Env<'_>) -> Outcome {
    let (cap, vs) = (u64::from(env.context.cap), u32::from(env.context.vs));
    let transport = env.nvme.transport();
    transport.write64(Register::Cap.offset(), !cap);
    transport.write32(Register::Vs.offset(), !vs);
    let (cap_after, vs_after) = (
        transport.read64(Register::Cap.offset()),
        transport.read32(Register::Vs.offset()),
    );
    check::equal_hex("CAP after a write", cap_after, cap)?;
    check::equal_hex("VS after a write", vs_after, vs)
}

fn csts_is_read_only(env: &mut Env<'_>) -> Outcome {
    /// CSTS.NSSRO, which a one clears.
    const NSSRO: u32 = 1 << 4;
    let transport = env.nvme.transport();
    let at = Register::Csts.offset();
    let before = transport.read32(at);
    transport.write32(at, !before & !NSSRO);
    let flipped = transport.read32(at);
    transport.write32(at, 0);
    let cleared = transport.read32(at);
    check::equal_hex("CSTS after its complement was written", flipped, before)?;
    check::equal_hex("CSTS after zeroes were written", cleared, before)?;
    env.alive()
}

fn crms_matches_version(env: &mut Env<'_>) -> Outcome {
    let vs = env.context.vs;
    require!(
        vs.mjr() >= 2,
        "version {}.{} has no CAP.CRMS",
        vs.mjr(),
        vs.mnr()
    );
    let crms = env.context.cap.crms();
    ensure!(
        crms & 1 != 0,
        "CAP.CRMS is {crms:#04b}, bit 0 (CRWMS) must be set"
    );
    Ok(())
}

fn crto_is_not_below_to(env: &mut Env<'_>) -> Outcome {
    let cap = env.context.cap;
    require!(
        cap.crms() & CAP_CRMS_WITH_MEDIA != 0,
        "CAP.CRMS does not offer CRTO"
    );
    let crto = Crto::from(env.nvme.transport().read32(Register::Crto.offset()));
    ensure!(
        crto.crwmt() != 0 && crto.crwmt() >= cap.to().into(),
        "CRTO.CRWMT is {}, CAP.TO {}",
        crto.crwmt(),
        cap.to()
    );
    Ok(())
}

fn cc_reads_back(env: &mut Env<'_>) -> Outcome {
    env.nvme.disable()?;
    let value = Cc::new()
        .with_mps(env.context.cap.mpsmax())
        .with_iosqes(SQE_LOG2)
        .with_iocqes(CQE_LOG2);
    env.nvme.set_cc(value);
    let found = env.nvme.cc();
    check::equal_hex("CC", u32::from(found), u32::from(value))?;
    let value = value.with_mps(env.context.cap.mpsmin());
    env.nvme.set_cc(value);
    let found = env.nvme.cc();
    check::equal_hex("CC", u32::from(found), u32::from(value))
}

fn aqa_reads_back(env: &mut Env<'_>) -> Outcome {
    env.nvme.disable()?;
    let at = Register::Aqa.offset();
    for (asqs_z, acqs_z) in [(0xFFF, 1), (1, 0xFFF), (0x555, 0xAAA)] {
        let value = Aqa::new().with_asqs_z(asqs_z).with_acqs_z(acqs_z).into();
        env.nvme.transport().write32(at, value);
        let found = env.nvme.transport().read32(at);
        check::equal_hex("AQA", found, value)?;
    }
    Ok(())
}

fn admin_bases_read_back(env: &mut Env<'_>) -> Outcome {
    env.nvme.disable()?;
    let transport = env.nvme.transport();
    let (asq, acq) = (Register::Asq.offset(), Register::Acq.offset());
    transport.write64(asq, SOME_BASE);
    transport.write64(acq, OTHER_BASE);
    let found = (transport.read64(asq), transport.read64(acq));
    check::equal_hex("ASQ", found.0, SOME_BASE)?;
    check::equal_hex("ACQ", found.1, OTHER_BASE)
}

fn admin_bases_as_two_dwords(env: &mut Env<'_>) -> Outcome {
    env.nvme.disable()?;
    let transport = env.nvme.transport();
    for register in [Register::Asq, Register::Acq] {
        let at = register.offset();
        transport.write64(at, OTHER_BASE);
        let [a, b, c, d, e, f, g, h] = SOME_BASE.to_le_bytes();
        let (low, high) = (
            u32::from_le_bytes([a, b, c, d]),
            u32::from_le_bytes([e, f, g, h]),
        );
        transport.write32(at, low);
        transport.write32(at + 4, high);
        let whole = transport.read64(at);
        let halves = (transport.read32(at), transport.read32(at + 4));
        let name = if register == Register::Asq {
            "ASQ"
        } else {
            "ACQ"
        };
        check::equal_hex(name, whole, SOME_BASE)?;
        check::equal_hex(name, halves.0, low)?;
        check::equal_hex(name, halves.1, high)?;
    }
    Ok(())
}

fn writable_registers_keep_reserved_bits_zero(env: &mut Env<'_>) -> Outcome {
    /// Bits 3:1 and 31:25 of CC.
    const CC_RESERVED: u32 = 0xFE00_000E;
    /// Bits 15:12 and 31:28 of AQA.
    const AQA_RESERVED: u32 = 0xF000_F000;
    env.nvme.disable()?;
    let transport = env.nvme.transport();
    transport.write32(Register::Cc.offset(), CC_RESERVED);
    let cc = transport.read32(Register::Cc.offset());
    transport.write32(Register::Cc.offset(), 0);
    check::equal_hex("reserved bits of CC", cc & CC_RESERVED, 0)?;
    transport.write32(Register::Aqa.offset(), u32::MAX);
    let aqa = transport.read32(Register::Aqa.offset());
    check::equal_hex("reserved bits of AQA", aqa & AQA_RESERVED, 0)?;
    for (name, register) in [("ASQ", Register::Asq), ("ACQ", Register::Acq)] {
        transport.write64(register.offset(), SOME_BASE | 0xFFF);
        let base = transport.read64(register.offset());
        check::equal_hex(name, base, SOME_BASE)?;
    }
    Ok(())
}

fn reserved_offsets_read_zero(env: &mut Env<'_>) -> Outcome {
    let transport = env.nvme.transport();
    // Between CC and CSTS, and far behind the last register any version defines before PMRCAP.
    for at in [0x18, 0x100, 0x7FC] {
        transport.write32(at, u32::MAX);
        let found = transport.read32(at);
        ensure!(found == 0, "offset {at:#x}: expected 0, found {found:#x}");
    }
    env.alive()
}

fn absent_registers_read_zero(env: &mut Env<'_>) -> Outcome {
    let cap = env.context.cap;
    // CAP.CMBS and CAP.PMRS came with 1.4; before, CMBSZ itself said whether there is a buffer.
    let since_1_4 = env.context.vs >= Vs::V1_4;
    let registers = [
        (
            "CMBLOC",
            Register::Cmbloc.offset(),
            since_1_4 && !cap.cmbs(),
        ),
        ("CMBSZ", Register::Cmbsz.offset(), since_1_4 && !cap.cmbs()),
        ("CRTO", Register::Crto.offset(), cap.crms() == 0),
        ("BPINFO", BPINFO, !cap.bps()),
        ("PMRCAP", PMRCAP, since_1_4 && !cap.pmrs()),
    ];
    require!(
        registers.iter().any(|(_, _, absent)| *absent),
        "CAP offers every optional register"
    );
    for (name, at, absent) in registers {
        if absent {
            let found = env.nvme.transport().read32(at);
            check::equal_hex(name, found, 0)?;
        }
    }
    Ok(())
}

fn absent_nssr_ignores_the_signature(env: &mut Env<'_>) -> Outcome {
    require!(
        !env.context.cap.nssrs(),
        "CAP.NSSRS offers a subsystem reset"
    );
    let cc = env.nvme.cc();
    let transport = env.nvme.transport();
    transport.write32(Register::Nssr.offset(), RESET_SIGNATURE);
    let found = transport.read32(Register::Nssr.offset());
    check::equal_hex("NSSR", found, 0)?;
    let cc_after = env.nvme.cc();
    check::equal_hex("CC", u32::from(cc_after), u32::from(cc))?;
    env.alive()
}

fn interrupt_masks_set_and_clear(env: &mut Env<'_>) -> Outcome {
    env.nvme.disable()?;
    let Some(msix) = super::msix_control(env) else {
        skip!("no MSI-X capability to switch off");
    };
    let transport = env.nvme.transport();
    let control = transport.config_read32(msix);
    transport.config_write32(msix, control & !super::MSIX_ENABLE);
    let still_on = transport.config_read32(msix) & super::MSIX_ENABLE != 0;
    let (intms, intmc) = (Register::Intms.offset(), Register::Intmc.offset());
    let mut steps = [(0, 0); 4];
    for (step, (set, clear)) in steps.iter_mut().zip([
        (0x0000_00F1, 0),
        (0x8000_0000, 0),
        (0, 0x0000_0011),
        (0, u32::MAX),
    ]) {
        transport.write32(intms, set);
        transport.write32(intmc, clear);
        *step = (transport.read32(intms), transport.read32(intmc));
    }
    transport.config_write32(msix, control);
    require!(!still_on, "MSI-X cannot be switched off here");
    let expected = [0x0000_00F1, 0x8000_00F1, 0x8000_00E0, 0];
    for ((by_intms, by_intmc), expected) in steps.into_iter().zip(expected) {
        check::equal_hex("INTMS", by_intms, expected)?;
        check::equal_hex("INTMC", by_intmc, expected)?;
    }
    Ok(())
}
