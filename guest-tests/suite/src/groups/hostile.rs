//! What no sane host does with entries: the controller answers or refuses, and stays alive.

use nvme_host::command;
use nvme_spec::queue::{CommandFlags, Cqe};
use nvme_spec::{AdminOpcode, NvmOpcode, SQE_BYTES, Sqe, Status};
use zerocopy::{FromBytes, IntoBytes};

use crate::env::IO;
use crate::rng::Rng;
use crate::{Env, Outcome, check};

group! { "hostile":
    reserved_admin_opcodes_are_refused, "Base 2.1 5",
        "Reserved admin opcodes complete with Invalid Command Opcode.";
    reserved_io_opcodes_are_refused, "NVM 1.1 3.2",
        "Reserved I/O opcodes complete with Invalid Command Opcode.";
    admin_opcodes_on_io_queue_are_refused, "Base 2.1 5",
        "An admin command on an I/O queue is not taken for one.";
    all_ones_entry_completes, "Base 2.1 4.1.1",
        "An entry of all ones completes with an error, on the admin queue and on an I/O queue.";
    all_zero_entries_complete, "Base 2.1 4.1.1",
        "Entries the host never wrote complete with an error, each one.";
    mutated_writes_complete, "Base 2.1 4.1.1",
        "A Write with any one bit changed completes once, with its identifier.";
    random_io_entries_complete, "Base 2.1 4.1.1",
        "Reads with random fields complete once each, with their identifiers.";
    random_admin_entries_complete, "Base 2.1 4.1.1",
        "Admin commands with random fields complete once each, with their identifiers.";
    same_cid_twice_completes_both, "Base 2.1 4.1.1",
        "Two commands in flight with one identifier both complete.";
    entry_changed_after_the_doorbell_completes, "Base 2.1 3.3.1",
        "An entry overwritten after the doorbell completes once, as the old or as the new command.";
}

/// Seeds are fixed, so that a failure comes back.
pub(super) const SEED: u64 = 0x0F0E_0A01_5EED_0001;

/// A bit of an address that no machine here has memory at.
const FAR: u64 = 1 << 62;

/// Issues an entry as it is and checks that exactly one completion answers it.
pub(super) fn answered(env: &mut Env<'_>, sqid: u16, sqe: &Sqe) -> Outcome<Cqe> {
    env.nvme.push(sqid, sqe)?;
    env.nvme.ring(sqid)?;
    let cqe = env.nvme.wait_any(sqid)?;
    env.nvme.ack(sqid)?;
    ensure!(
        cqe.sqid == sqid && cqe.cid == sqe.cid,
        "expected a completion of SQID {sqid} CID {:#x}, found SQID {} CID {:#x}",
        sqe.cid,
        cqe.sqid,
        cqe.cid
    );
    Ok(cqe)
}

fn reserved_admin_opcodes_are_refused(env: &mut Env<'_>) -> Outcome {
    for opcode in [
        0x03, 0x07, 0x0B, 0x0E, 0x0F, 0x12, 0x13, 0x16, 0x17, 0x1B, 0x1F,
    ] {
        let cqe = env.nvme.admin(command::admin(AdminOpcode(opcode)))?;
        let what = alloc::format!("admin opcode {opcode:#04x}");
        check::status(&what, cqe, Status::INVALID_OPCODE)?;
    }
    env.alive()
}

fn reserved_io_opcodes_are_refused(env: &mut Env<'_>) -> Outcome {
    let ns = env.ns()?;
    env.io()?;
    for opcode in [
        0x03, 0x06, 0x07, 0x0A, 0x0B, 0x0F, 0x13, 0x14, 0x16, 0x17, 0x1A, 0x1B,
    ] {
        let cqe = env
            .nvme
            .exec(IO, command::nvm(NvmOpcode(opcode), ns.nsid))?;
        let what = alloc::format!("I/O opcode {opcode:#04x}");
        check::status(&what, cqe, Status::INVALID_OPCODE)?;
    }
    env.alive()
}

fn admin_opcodes_on_io_queue_are_refused(env: &mut Env<'_>) -> Outcome {
    env.io()?;
    // Identify is 06h and Get Features 0Ah: reserved in the NVM Command Set.
    let buffer = env.nvme.alloc(4096)?;
    env.guard(buffer);
    for opcode in [AdminOpcode::IDENTIFY, AdminOpcode::GET_FEATURES] {
        let sqe = Sqe {
            nsid: 1,
            prp1: buffer.address,
            cdw10: 1,
            ..command::admin(opcode)
        };
        let cqe = env.nvme.exec(IO, sqe)?;
        let what = alloc::format!("{opcode:?} on an I/O queue");
        check::status(&what, cqe, Status::INVALID_OPCODE)?;
    }
    env.guarded("data of a refused command", buffer)
}

fn all_ones_entry_completes(env: &mut Env<'_>) -> Outcome {
    env.io()?;
    let Ok(ones) = Sqe::read_from_bytes(&[0xFF; SQE_BYTES]) else {
        fail!("an entry has another size");
    };
    for sqid in [0, IO] {
        let cqe = answered(env, sqid, &ones)?;
        check::refused("all ones", cqe)?;
    }
    env.alive()
}

fn all_zero_entries_complete(env: &mut Env<'_>) -> Outcome {
    env.io_sized(8, 8)?;
    // Opcode 0 on an I/O queue is a Flush, here of NSID 0.
    env.nvme.write_sq_doorbell(IO, 5);
    for _ in 0..5 {
        let cqe = env.nvme.wait_any(IO)?;
        env.nvme.ack(IO)?;
        check::equal("CID", cqe.cid, 0)?;
        check::refused("a Flush of NSID 0", cqe)?;
    }
    env.settle();
    let more = env.nvme.peek(IO)?;
    ensure!(more.is_none(), "a completion too many: {more:?}");
    env.alive_after_reset()
}

fn mutated_writes_complete(env: &mut Env<'_>) -> Outcome {
    const ROUNDS: u64 = 96;
    /// Bits of the opcode, which other tests walk.
    const OPCODE_BITS: u64 = 8;
    /// The first bit of NLB's upper byte.
    const NLB_HIGH: u64 = 12 * 32 + 8;
    let ns = env.ns()?;
    env.io()?;
    let unlimited = env.context.found.max_transfer_bytes == 0;
    let buffer = env.nvme.alloc(ns.block_bytes.max(4096))?;
    // Its list, for blocks beyond two pages, repeats the first page.
    let page = env.nvme.page_bytes();
    let list = env.nvme.alloc(page)?;
    env.nvme.fill(list, &buffer.address.to_le_bytes());
    let prp2 = if ns.block_bytes > 2 * page {
        list.address
    } else {
        buffer.address
    };
    let mut rng = Rng::new(SEED);
    for round in 0..ROUNDS {
        let mut sqe = Sqe {
            cid: u16::try_from(0x4000 + round).unwrap_or(0),
            prp1: buffer.address,
            prp2,
            ..command::write(ns.nsid, 5, 0)
        };
        let bit = OPCODE_BITS + rng.below(8 * SQE_BYTES as u64 - OPCODE_BITS);
        if unlimited && (NLB_HIGH..NLB_HIGH + 8).contains(&bit) {
            // Without MDTS this is a legal Write of memory behind the buffer.
            continue;
        }
        let byte = usize::try_from(bit / 8).unwrap_or(0);
        if let Some(byte) = sqe.as_mut_bytes().get_mut(byte) {
            *byte ^= 1 << (bit % 8);
        }
        answered(env, IO, &sqe).map_err(|stop| at(stop, "bit", bit))?;
    }
    env.alive()
}

/// Adds to a failure where in a random test it happened.
fn at(stop: crate::Stop, what: &str, value: u64) -> crate::Stop {
    match stop {
        crate::Stop::Failed(message) => {
            crate::Stop::Failed(alloc::format!("{message} (seed {SEED:#x}, {what} {value})"))
        }
        skipped @ crate::Stop::Skipped(_) => skipped,
    }
}

/// An entry of random fields whose data lies far from all memory.
fn random_entry(rng: &mut Rng, opcode: u8, cid: u16) -> Sqe {
    Sqe {
        opcode,
        flags: CommandFlags::new(),
        cid,
        nsid: rng.next32() >> rng.below(32),
        cdw2: rng.next32(),
        cdw3: rng.next32(),
        mptr: rng.next() | FAR,
        prp1: rng.next() | FAR,
        prp2: rng.next() | FAR,
        cdw10: rng.next32() >> rng.below(32),
        cdw11: rng.next32() >> rng.below(32),
        cdw12: rng.next32() >> rng.below(32),
        cdw13: rng.next32(),
        cdw14: rng.next32(),
        cdw15: rng.next32(),
    }
}

fn random_io_entries_complete(env: &mut Env<'_>) -> Outcome {
    env.io()?;
    let mut rng = Rng::new(SEED + 1);
    for round in 0..64_u16 {
        let mut sqe = random_entry(&mut rng, NvmOpcode::READ.0, 0x5000 + round);
        if round.is_multiple_of(2) {
            // Get past the first checks.
            sqe.nsid = env.ns().map_or(1, |ns| ns.nsid);
            sqe.cdw11 = 0;
            sqe.cdw12 &= 0x7;
        }
        answered(env, IO, &sqe).map_err(|stop| at(stop, "round", round.into()))?;
    }
    env.alive()
}

fn random_admin_entries_complete(env: &mut Env<'_>) -> Outcome {
    let mut rng = Rng::new(SEED + 2);
    let opcodes = [
        AdminOpcode::IDENTIFY,
        AdminOpcode::GET_LOG_PAGE,
        AdminOpcode::GET_FEATURES,
        AdminOpcode::CREATE_IO_CQ,
        AdminOpcode::CREATE_IO_SQ,
        AdminOpcode::ABORT,
    ];
    for (round, opcode) in (0..60_u16).zip(opcodes.iter().copied().cycle()) {
        let sqe = random_entry(&mut rng, opcode.0, 0x6000 + round);
        answered(env, 0, &sqe).map_err(|stop| at(stop, "round", round.into()))?;
    }
    env.nvme.identify_controller()?;
    env.alive_after_reset()
}

fn same_cid_twice_completes_both(env: &mut Env<'_>) -> Outcome {
    let ns = env.ns()?;
    env.io_sized(4, 4)?;
    let sqe = Sqe {
        cid: 0x77,
        ..command::flush(ns.nsid)
    };
    for _ in 0..2 {
        env.nvme.push(IO, &sqe)?;
    }
    env.nvme.ring(IO)?;
    for _ in 0..2 {
        let cqe = env.nvme.wait_any(IO)?;
        check::equal_hex("CID", cqe.cid, 0x77)?;
        check::one_of(
            "one of two commands with one CID",
            cqe,
            &[Status::SUCCESS, Status::COMMAND_ID_CONFLICT],
        )?;
    }
    env.nvme.ack(IO)?;
    env.alive()
}

fn entry_changed_after_the_doorbell_completes(env: &mut Env<'_>) -> Outcome {
    const NEW_CID: u16 = 0x88;
    let ns = env.ns()?;
    env.io()?;
    for _ in 0..8 {
        let memory = env.nvme.sq_memory(IO).unwrap_or_default();
        let slot = u64::from(env.nvme.sq_tail(IO).unwrap_or(0));
        let old = Sqe {
            cid: 0x87,
            ..command::flush(ns.nsid)
        };
        env.nvme.push(IO, &old)?;
        env.nvme.ring(IO)?;
        let new = Sqe {
            cid: NEW_CID,
            ..command::nvm(NvmOpcode(0x0B), ns.nsid)
        };
        let at = memory.slice(slot * SQE_BYTES as u64, SQE_BYTES as u64);
        env.nvme.copy_to(at, new.as_bytes());
        let cqe = env.nvme.wait_any(IO)?;
        env.nvme.ack(IO)?;
        let expected = if cqe.cid == NEW_CID {
            Status::INVALID_OPCODE
        } else {
            check::equal_hex("CID", cqe.cid, 0x87)?;
            Status::SUCCESS
        };
        check::one_of("the command", cqe, &[expected, Status::INVALID_OPCODE])?;
        env.settle();
        let more = env.nvme.peek(IO)?;
        ensure!(more.is_none(), "a completion too many: {more:?}");
    }
    env.alive()
}
