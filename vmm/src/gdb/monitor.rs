//! The commands of GDB's `monitor`.

use std::fmt::Write;

use kvm_bindings::{
    KVM_MP_STATE_HALTED, KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_SIPI_RECEIVED,
    KVM_MP_STATE_UNINITIALIZED,
};

use super::guest::Guest;
use crate::machine::RunEnded;

const HELP: &str = "\
help               this list
kvm                what this host's KVM can do for a debugger
cpus               where each CPU is, and whether it waits
translate ADDRESS  where a virtual address lies in guest physical memory
physical ADDRESS [BYTES]
                   bytes at a guest physical address, at most 256
crash              why the guest cannot go on
";

/// Answers a command; what is wrong with it is an answer too.
pub(super) fn answer(guest: &Guest, command: &[u8]) -> Result<String, RunEnded> {
    let command = String::from_utf8_lossy(command);
    let words: Vec<&str> = command.split_whitespace().collect();
    Ok(match words.as_slice() {
        [] | ["help"] => HELP.into(),
        ["kvm"] => guest.kvm.describe(),
        ["cpus"] => cpus(guest)?,
        ["translate", address] => match number(address) {
            Some(address) => translate(guest, address)?,
            None => format!("{address}: no number\n"),
        },
        ["physical", address] => physical(guest, address, "16"),
        ["physical", address, bytes] => physical(guest, address, bytes),
        ["crash"] => guest
            .crash()
            .map_or("the guest has not crashed\n".into(), |why| why + "\n"),
        _ => format!("no such command; these are:\n{HELP}"),
    })
}

/// A number as GDB's users write it.
fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn cpus(guest: &Guest) -> Result<String, RunEnded> {
    let mut text = String::new();
    for cpu in 0..guest.debugger.cpus() {
        let state = guest.debugger.on_cpu(cpu, |fd| {
            let (regs, sregs) = (fd.get_regs().ok()?, fd.get_sregs().ok()?);
            Some((regs.rip, sregs.ss.dpl, fd.get_mp_state().ok()?.mp_state))
        })?;
        let _ = match state {
            Some((rip, ring, state)) => {
                writeln!(
                    text,
                    "CPU {cpu}: RIP {rip:#x}, ring {ring}, {}",
                    waits(state)
                )
            }
            None => writeln!(text, "CPU {cpu}: KVM does not tell"),
        };
    }
    Ok(text)
}

/// What a CPU waits for (KVM API, KVM_GET_MP_STATE).
pub(super) fn waits(mp_state: u32) -> &'static str {
    match mp_state {
        KVM_MP_STATE_RUNNABLE => "runs",
        KVM_MP_STATE_UNINITIALIZED => "waits for INIT",
        KVM_MP_STATE_SIPI_RECEIVED => "starts",
        KVM_MP_STATE_HALTED => "halted",
        _ => "waits",
    }
}

fn translate(guest: &Guest, address: u64) -> Result<String, RunEnded> {
    let cpu = guest.focus;
    Ok(match guest.place(cpu, address)? {
        Some(place) => format!("{address:#x} is {:#x} by CPU {cpu}\n", place.physical),
        None => format!("{address:#x} is not mapped by CPU {cpu}\n"),
    })
}

fn physical(guest: &Guest, address: &str, bytes: &str) -> String {
    const MOST: u64 = 256;
    let (Some(start), Some(bytes @ 1..=MOST)) = (number(address), number(bytes)) else {
        return format!("{address} {bytes}: an address and 1 to {MOST} bytes would do\n");
    };
    let mut data = vec![0; usize::try_from(bytes).unwrap_or_default()];
    if !guest.patches.read(start, &mut data) {
        return format!("{start:#x}: {bytes} bytes there are not all memory\n");
    }
    let mut text = String::new();
    for (line, bytes) in (0..).zip(data.chunks(16)) {
        let _ = write!(text, "{:#x}:", start + 16 * line);
        bytes.iter().for_each(|byte| {
            let _ = write!(text, " {byte:02x}");
        });
        text += "\n";
    }
    text
}
