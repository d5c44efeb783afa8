//! What no sane host does: the controller answers or refuses, and stays alive.

use nvme_host::{Config, CqConfig, Error, SqConfig, command};
use nvme_spec::queue::{CommandFlags, Cqe};
use nvme_spec::registers::{Aqa, Register};
use nvme_spec::{AdminOpcode, NvmOpcode, PRP_ENTRY_BYTES, SQE_BYTES, Sqe, Status};
use zerocopy::{FromBytes, IntoBytes};

use super::prp::nowhere;
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
    data_over_its_own_completion_queue, "Base 2.1 3.3.1",
        "Data read over the completion queue does not stop the queue.";
    data_over_its_own_submission_queue, "Base 2.1 3.3.1",
        "Data read over consumed entries of the submission queue changes nothing.";
    data_over_its_own_prp_list, "Base 2.1 4.3.1",
        "Data read over the command's own PRP list ends the command, one way or the other.";
    list_chain_to_itself_ends, "Base 2.1 4.3.1",
        "A PRP list whose only entry is a pointer to itself ends the command with an error.";
    huge_log_request_ends, "Base 2.1 5.1.12",
        "Get Log Page of 16 GiB completes.";
    completion_queue_nowhere_harms_no_other, "Base 2.1 5.2.1",
        "A completion queue where there is no memory leaves the admin queue working, or a reset mends it.";
    submission_queue_nowhere_harms_no_other, "Base 2.1 5.2.2",
        "A submission queue where there is no memory leaves the admin queue working, or a reset mends it.";
    admin_queues_nowhere_can_be_mended, "Base 2.1 3.5.1",
        "Enabling with admin queues where there is no memory ends, and a reset mends it.";
    one_entry_admin_queues_can_be_mended, "Base 2.1 3.1.4.8",
        "Enabling with admin queues of one entry ends, and a reset mends it.";
    page_size_beyond_range_can_be_mended, "Base 2.1 3.1.4.5",
        "Enabling with CC.MPS above CAP.MPSMAX ends, and a reset mends it.";
    configuration_changed_while_enabled, "Base 2.1 3.1.4.5",
        "Changing CC.MPS and entry sizes while enabled does not stop the controller for good.";
    odd_register_accesses_are_harmless, "PCIe 1.1 3.1.1",
        "Accesses of other widths and alignments than a register's change nothing else and hang nothing.";
    random_doorbells_can_be_mended, "PCIe 1.1 3.1.2.1",
        "Random values in every doorbell but the admin queue's leave a controller that a reset mends.";
    queues_over_each_other_end, "Base 2.1 3.3.1",
        "A submission queue and its completion queue in the same memory leave a controller that a reset mends.";
}

/// Seeds are fixed, so that a failure comes back.
const SEED: u64 = 0x0F0E_0A01_5EED_0001;
/// The fewest entries, which every controller takes.
const ENTRIES: u32 = 2;
/// A bit of an address that no machine here has memory at.
const FAR: u64 = 1 << 62;

/// Issues an entry as it is and checks that exactly one completion answers it.
fn answered(env: &mut Env<'_>, sqid: u16, sqe: &Sqe) -> Outcome<Cqe> {
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

/// Block 0 holds zeroes; a Read of it clears memory.
fn zero_block(env: &mut Env<'_>) -> Outcome {
    let ns = env.ns()?;
    let buffer = env.nvme.alloc(ns.block_bytes)?;
    env.nvme.write(IO, ns.nsid, 0, 1, buffer)?;
    env.nvme.free(buffer);
    Ok(())
}

fn data_over_its_own_completion_queue(env: &mut Env<'_>) -> Outcome {
    let ns = env.ns()?;
    // Enough entries that all of this is the first pass: zeroes do not look like new entries.
    env.need_entries(8)?;
    // Memory that a block fits into, so that nothing else is overwritten.
    let memory = env.nvme.alloc(ns.block_bytes.max(4096))?;
    env.nvme.create_cq(&CqConfig {
        memory: Some(memory.address),
        ..CqConfig::new(IO, 8)
    })?;
    env.nvme.create_sq(&SqConfig::new(IO, IO, ENTRIES))?;
    zero_block(env)?;
    let target = memory.slice(0, ns.block_bytes);
    for _ in 0..3 {
        let sqe = command::read(ns.nsid, 0, 0);
        env.nvme.io_data_ok(IO, sqe, target)?;
    }
    env.alive_after_reset()
}

fn data_over_its_own_submission_queue(env: &mut Env<'_>) -> Outcome {
    let ns = env.ns()?;
    let memory = env.nvme.alloc(ns.block_bytes.max(4096))?;
    env.nvme.create_cq(&CqConfig::new(IO, ENTRIES))?;
    env.nvme.create_sq(&SqConfig {
        memory: Some(memory.address),
        ..SqConfig::new(IO, IO, ENTRIES)
    })?;
    zero_block(env)?;
    let target = memory.slice(0, ns.block_bytes);
    for _ in 0..10 {
        let sqe = command::read(ns.nsid, 0, 0);
        env.nvme.io_data_ok(IO, sqe, target)?;
    }
    env.alive()
}

fn data_over_its_own_prp_list(env: &mut Env<'_>) -> Outcome {
    let ns = env.ns()?;
    env.io()?;
    let page = env.nvme.page_bytes();
    let blocks = (4 * page).div_ceil(ns.block_bytes);
    require!(
        blocks <= env.max_blocks(ns) && blocks <= ns.blocks / 2,
        "one command may not carry four pages"
    );
    let list = env.nvme.alloc(page)?;
    // On the namespace too, so that entries read after the data lead to the same place.
    let data = env.nvme.alloc(blocks * ns.block_bytes)?;
    env.nvme.fill(data, &list.address.to_le_bytes());
    env.nvme.write(IO, ns.nsid, 0, blocks, data)?;
    env.nvme.fill(list, &list.address.to_le_bytes());
    let sqe = Sqe {
        cid: 0x99,
        prp1: list.address,
        prp2: list.address,
        ..command::read(ns.nsid, 0, u16::try_from(blocks - 1).unwrap_or(u16::MAX))
    };
    answered(env, IO, &sqe)?;
    env.alive()
}

fn list_chain_to_itself_ends(env: &mut Env<'_>) -> Outcome {
    let ns = env.ns()?;
    env.io()?;
    let page = env.nvme.page_bytes();
    let blocks = (4 * page).div_ceil(ns.block_bytes);
    require!(
        blocks <= env.max_blocks(ns) && blocks <= ns.blocks / 2,
        "one command may not carry four pages"
    );
    let list = env.nvme.alloc(page)?;
    // The last entry of the page, which has to be a pointer as more entries are to come.
    let last = list.end() - PRP_ENTRY_BYTES;
    let buffer = env.nvme.alloc(page)?;
    env.nvme.fill(list, &last.to_le_bytes());
    for sqe in [command::write, command::read] {
        let sqe = Sqe {
            cid: 0x9A,
            prp1: buffer.address,
            prp2: last,
            ..sqe(ns.nsid, 0, u16::try_from(blocks - 1).unwrap_or(u16::MAX))
        };
        let cqe = answered(env, IO, &sqe)?;
        check::refused("a list that is a pointer to itself", cqe)?;
    }
    env.alive()
}

fn huge_log_request_ends(env: &mut Env<'_>) -> Outcome {
    let page = env.nvme.page_bytes();
    let buffer = env.nvme.alloc(page)?;
    let list = env.nvme.alloc(page)?;
    // Every entry is the buffer, the last one, a pointer, is the list again.
    env.nvme.fill(list, &buffer.address.to_le_bytes());
    let last = list.slice(page - PRP_ENTRY_BYTES, PRP_ENTRY_BYTES);
    env.nvme.copy_to(last, &list.address.to_le_bytes());
    let sqe = Sqe {
        cid: 0x9B,
        prp1: buffer.address,
        prp2: list.address,
        ..command::get_log_page(nvme_spec::LogId::SMART, nvme_spec::NSID_BROADCAST, u32::MAX)
    };
    answered(env, 0, &sqe)?;
    env.alive()
}

/// The admin queue works, or the controller says CFS; a reset mends either.
fn alive_or_fatal(env: &mut Env<'_>) -> Outcome {
    match env.nvme.identify_controller() {
        Ok(_) | Err(Error::Fatal { .. }) => env.alive_after_reset(),
        Err(error) => Err(error.into()),
    }
}

fn completion_queue_nowhere_harms_no_other(env: &mut Env<'_>) -> Outcome {
    let ns = env.ns()?;
    let address = nowhere(env);
    let cqe = env.nvme.admin(command::create_cq(IO, 1, address, None))?;
    if cqe.status().is_success() {
        // The driver's side, to submit to it.
        env.nvme.place_cq(&CqConfig::new(IO, ENTRIES))?;
        env.nvme.create_sq(&SqConfig::new(IO, IO, ENTRIES))?;
        env.nvme.submit(IO, command::flush(ns.nsid))?;
        env.settle();
    }
    alive_or_fatal(env)
}

fn submission_queue_nowhere_harms_no_other(env: &mut Env<'_>) -> Outcome {
    env.nvme.create_cq(&CqConfig::new(IO, ENTRIES))?;
    let address = nowhere(env);
    let cqe = env.nvme.admin(command::create_sq(IO, 1, address, IO))?;
    if cqe.status().is_success() {
        env.nvme.write_sq_doorbell(IO, 1);
        env.settle();
    }
    alive_or_fatal(env)
}

/// Sets CC.EN and lets the controller come up, fail, or do neither.
fn try_to_enable(env: &mut Env<'_>, config: &Config) -> Outcome {
    env.nvme.start(config);
    match env.nvme.wait_ready(true) {
        Ok(()) | Err(Error::Fatal { .. } | Error::Timeout { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn admin_queues_nowhere_can_be_mended(env: &mut Env<'_>) -> Outcome {
    let config = Config::default();
    env.nvme.disable()?;
    env.nvme.prepare(&config)?;
    let address = nowhere(env);
    let transport = env.nvme.transport();
    transport.write64(Register::Asq.offset(), address);
    transport.write64(Register::Acq.offset(), address);
    try_to_enable(env, &config)?;
    env.nvme.write_sq_doorbell(0, 1);
    env.settle();
    env.alive_after_reset()
}

fn one_entry_admin_queues_can_be_mended(env: &mut Env<'_>) -> Outcome {
    let config = Config::default();
    env.nvme.disable()?;
    env.nvme.prepare(&config)?;
    let aqa = Aqa::new();
    env.nvme
        .transport()
        .write32(Register::Aqa.offset(), aqa.into());
    env.nvme.start(&config);
    env.settle();
    env.nvme.write_sq_doorbell(0, 1);
    env.settle();
    env.alive_after_reset()
}

fn page_size_beyond_range_can_be_mended(env: &mut Env<'_>) -> Outcome {
    let largest = env.context.cap.mpsmax();
    require!(largest < 15, "CAP.MPSMAX allows every page size");
    let config = Config::default();
    env.nvme.disable()?;
    env.nvme.prepare(&config)?;
    let cc = nvme_spec::registers::Cc::new()
        .with_mps(largest + 1)
        .with_iosqes(nvme_spec::registers::SQE_LOG2)
        .with_iocqes(nvme_spec::registers::CQE_LOG2);
    env.nvme.set_cc(cc);
    env.nvme.set_cc(cc.with_en(true));
    env.settle();
    env.alive_after_reset()
}

fn configuration_changed_while_enabled(env: &mut Env<'_>) -> Outcome {
    env.io()?;
    let cc = env.nvme.cc();
    env.nvme
        .set_cc(cc.with_mps(15).with_iosqes(0).with_iocqes(15));
    env.settle();
    env.nvme.set_cc(cc);
    env.settle();
    env.alive_after_reset()
}

fn odd_register_accesses_are_harmless(env: &mut Env<'_>) -> Outcome {
    let cap = env.context.cap;
    let transport = env.nvme.transport();
    for offset in [0, 1, 2, 3, 5, 7, 0x1A, 0x1D, 0x2C, 0x31, 0xFFD] {
        for bytes in [1, 2, 4, 8] {
            let mut data = [0; 8];
            if let Some(data) = data.get_mut(..bytes) {
                transport.bar_read(offset, data);
            }
        }
    }
    // Writes to what is read-only, in every width.
    for bytes in [1, 2, 4, 8] {
        let ones = [0xFF; 8];
        let ones = ones.get(..bytes).unwrap_or_default();
        for offset in [0, 1, 2, 9] {
            transport.bar_write(offset, ones);
        }
    }
    let found = transport.read64(Register::Cap.offset());
    check::equal_hex("CAP", found, u64::from(cap))?;
    env.alive()?;
    // Parts of registers that can be written: undefined, but it ends.
    let transport = env.nvme.transport();
    for offset in [0x16, 0x24, 0x29, 0x33] {
        transport.bar_write(offset, &[0xFF]);
        transport.bar_write(offset, &[0xFF; 2]);
    }
    env.settle();
    env.alive_after_reset()
}

fn random_doorbells_can_be_mended(env: &mut Env<'_>) -> Outcome {
    env.io()?;
    let mut rng = Rng::new(SEED + 3);
    for qid in 1..40 {
        env.nvme.write_sq_doorbell(qid, rng.next32());
        env.nvme
            .write_cq_doorbell(qid, rng.next32() >> rng.below(32));
    }
    env.settle();
    env.nvme.identify_controller()?;
    env.alive_after_reset()
}

fn queues_over_each_other_end(env: &mut Env<'_>) -> Outcome {
    let ns = env.ns()?;
    env.need_entries(64)?;
    let memory = env.nvme.alloc(4096)?;
    env.nvme.create_cq(&CqConfig {
        memory: Some(memory.address),
        ..CqConfig::new(IO, 64)
    })?;
    env.nvme.create_sq(&SqConfig {
        memory: Some(memory.address),
        ..SqConfig::new(IO, IO, 16)
    })?;
    // Completions overwrite commands that are still to be fetched.
    for cid in 0..15 {
        env.nvme.push(
            IO,
            &Sqe {
                cid,
                ..command::flush(ns.nsid)
            },
        )?;
    }
    env.nvme.ring(IO)?;
    env.settle();
    env.nvme.identify_controller()?;
    env.alive_after_reset()
}
