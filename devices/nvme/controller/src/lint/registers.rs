//! Registers, judged when they are accessed.

use nvme_spec::registers::{Aqa, Cc, DOORBELL_BASE, Register, Shn, Shst};

use super::{State, report::About, rule::Rule};
use crate::{
    registers::{self, Half, Registers, Target},
    shared::Shared,
};

/// CSTS.NSSRO: the one bit of CSTS that a host writes, to clear it (Base 3.1.4.6).
const CSTS_CLEARABLE: u64 = 1 << 4;

impl State {
    /// BAR0 is read.
    pub(super) fn read(&mut self, shared: &Shared, offset: u64, bytes: usize) {
        if let Some(index) = offset.checked_sub(DOORBELL_BASE) {
            let qid = u16::try_from(index / 8).unwrap_or(u16::MAX);
            if qid <= shared.config.io_queues {
                let about = if index % 8 < 4 {
                    About::SqDoorbell(qid)
                } else {
                    About::CqDoorbell(qid)
                };
                let text = format_args!("a read of width {bytes}");
                self.journal
                    .report(Rule::DoorbellRead, about, None, None, text);
            }
        } else if registers::decode(offset, bytes) == Target::Nothing {
            self.odd_access(offset, bytes, "read");
        }
    }

    /// An access that is none to a register as a whole or to a half of it; of those beside all
    /// registers nothing is said.
    pub(super) fn odd_access(&mut self, offset: u64, bytes: usize, what: &str) {
        let end = offset.saturating_add(bytes as u64);
        let over = |register: &Register| {
            let start = register.offset();
            start < end && offset < start + register.bytes()
        };
        let hit = Register::ALL.into_iter().find(over);
        let name = match hit {
            Some(register) => format!("{register:?}").to_ascii_uppercase(),
            None if offset >= DOORBELL_BASE => "a doorbell".to_string(),
            None => return,
        };
        let right = hit.map_or(4, Register::bytes);
        self.journal.report(
            Rule::RegisterAccessWidth,
            About::Access { offset, bytes },
            right,
            bytes as u64,
            format_args!("a {what} of width {bytes} over {name}, which has {right} bytes"),
        );
    }

    /// A register is about to be written, with the lock of the registers held.
    pub(super) fn written(
        &mut self,
        shared: &Shared,
        registers: &Registers,
        register: Register,
        half: Option<Half>,
        data: &[u8],
    ) {
        let about = About::Register(register);
        // Four bytes are a register, or half of one.
        let half = half.or((data.len() == 4).then_some(Half::Low));
        let old = shared.read(registers, register);
        let new = registers::merge(old, half, data);
        let written = registers::merge(0, half, data);
        match register {
            Register::Cc => {
                let [_, _, _, _, a, b, c, d] = new.to_be_bytes();
                self.cc_written(registers, u32::from_be_bytes([a, b, c, d]));
            }
            Register::Aqa | Register::Asq | Register::Acq => {
                let reserved = registers::reserved_bits(register) & written;
                self.reserved_written(register, reserved);
                if registers.cc.en() && old != new {
                    let text = format_args!("{old:#x} to {new:#x}");
                    let rule = Rule::AdminQueueChangedWhileEnabled;
                    self.journal.report(rule, about, old, new, text);
                }
            }
            Register::Csts if written & !CSTS_CLEARABLE == 0 => {}
            Register::Cap
            | Register::Vs
            | Register::Csts
            | Register::Cmbloc
            | Register::Cmbsz
            | Register::Crto => {
                let text = format_args!("{written:#x} was written");
                let rule = Rule::ReadOnlyRegisterWritten;
                self.journal.report(rule, about, old, written, text);
            }
            Register::Intms | Register::Intmc | Register::Nssr => {}
        }
    }

    fn reserved_written(&mut self, register: Register, bits: u64) {
        if bits != 0 {
            let (rule, about) = (Rule::ReservedBitsSet, About::Register(register));
            self.journal
                .report(rule, about, 0, bits, format_args!("bits {bits:#x} are set"));
        }
    }

    fn cc_written(&mut self, registers: &Registers, value: u32) {
        let about = About::Register(Register::Cc);
        let (old, new) = (registers.cc, Cc::from(value));
        let csts = registers.lifecycle.csts();
        let reserved = registers::reserved_bits(Register::Cc) & u64::from(value);
        self.reserved_written(Register::Cc, reserved);
        let settled = csts.rdy() == old.en() || csts.cfs() || csts.shst() != Shst::Normal;
        if old.en() != new.en() && !settled {
            let (en, rdy) = (u8::from(new.en()), u8::from(csts.rdy()));
            let text = format_args!("CC.EN was set to {en} while CSTS.RDY is still {rdy}");
            let rule = Rule::CcWrittenWhileNotReady;
            self.journal
                .report(rule, about, u64::from(!new.en()), u64::from(rdy), text);
        }
        if old.en() && new.en() {
            let fixed = |cc: Cc| (cc.css(), cc.mps(), cc.ams());
            let sizes = |cc: Cc| (cc.iosqes(), cc.iocqes());
            let resized = sizes(old) != sizes(new) && self.queues.any_io();
            if fixed(old) != fixed(new) || resized {
                let (from, to) = (u32::from(old), u32::from(new));
                let text = format_args!("CC {from:#010x} to {to:#010x}");
                let rule = Rule::CcChangedWhileEnabled;
                self.journal
                    .report(rule, about, u64::from(from), u64::from(to), text);
            }
        }
        let asks = |cc: Cc| matches!(cc.shn(), Shn::Normal | Shn::Abrupt);
        if asks(new) && !asks(old) {
            let outstanding = self.queues.outstanding();
            if outstanding > 0 {
                let text = format_args!("{outstanding} commands are not completed");
                let rule = Rule::ShutdownWithCommands;
                self.journal
                    .report(rule, about, 0, outstanding as u64, text);
            }
        }
    }

    /// The controller could not be enabled.
    pub(super) fn not_enabled(&mut self, registers: &Registers, reason: &str) {
        let Registers {
            cc, aqa, asq, acq, ..
        } = registers;
        let (cc, aqa): (u32, u32) = ((*cc).into(), Aqa::into(*aqa));
        let text =
            format_args!("{reason} (CC {cc:#010x}, AQA {aqa:#010x}, ASQ {asq:#x}, ACQ {acq:#x})");
        let about = About::Register(Register::Cc);
        self.journal
            .report(Rule::CannotBeEnabled, about, None, u64::from(cc), text);
    }
}
