//! Get Log Page.

use alloc::vec::Vec;

use nvme_host::command;
use nvme_spec::identify::{LPA_EXTENDED, LPA_SMART_PER_NAMESPACE};
use nvme_spec::log::{ErrorLogEntry, FirmwareSlotLog, SMART_DATA_UNIT_BYTES, SmartLog};
use nvme_spec::{AdminOpcode, Cqe, LogId, NSID_BROADCAST, Sqe, Status};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::data::text;
use crate::env::IO;
use crate::{Env, Outcome, check};

group! { "logs":
    error_entry_names_the_command, "Base 2.1 5.1.12.1.2",
        "A failed command's entry in the Error Information log holds its SQID, CID and status.";
    error_entry_of_io_names_the_lba, "Base 2.1 5.1.12.1.2",
        "A failed I/O command's entry in the Error Information log holds its SQID, CID, status, NSID and LBA.";
    error_log_is_newest_first, "Base 2.1 5.1.12.1.2",
        "The newest error comes first, and each error has the next error count.";
    error_log_has_elpe_entries, "Base 2.1 5.1.12.1.2",
        "The Error Information log has ELPE + 1 entries; unused ones have error count 0 and follow the used ones.";
    error_count_is_smarts, "Base 2.1 5.1.12.1.3",
        "The SMART log counts the errors that the Error Information log numbers.";
    smart_counts_reads, "Base 2.1 5.1.12.1.3",
        "Reading a multiple of 512,000 bytes raises Data Units Read by that multiple, and Host Read Commands by the commands.";
    smart_counts_writes, "Base 2.1 5.1.12.1.3",
        "Writing a multiple of 512,000 bytes raises Data Units Written by that multiple, and Host Write Commands by the commands.";
    smart_does_not_count_refused_data, "Base 2.1 5.1.12.1.3",
        "A refused read moves no data and raises no Data Units Read.";
    smart_values_are_possible, "Base 2.1 5.1.12.1.3",
        "The composite temperature is told, percentages are at most 100, and reserved critical warnings are zero.";
    smart_takes_nsid_0_and_broadcast, "Base 2.1 5.1.12.1.3",
        "The SMART log of the controller is read with NSID FFFFFFFFh, and from version 2.0 on with 0 too.";
    smart_of_one_namespace_needs_lpa, "Base 2.1 5.1.12.1.3",
        "Where LPA bit 0 is 0, the SMART log of one namespace is refused.";
    firmware_slot_holds_the_active_revision, "Base 2.1 5.1.12.1.4",
        "The active slot is one of those FRMW tells, and its revision is FR of Identify Controller.";
    unknown_log_is_refused, "Base 2.1 5.1.12",
        "A reserved log page completes with Invalid Log Page or Invalid Field in Command.";
    partial_read_gives_the_beginning, "Base 2.1 5.1.12",
        "NUMD is zero-based: exactly NUMD + 1 dwords are written, from the beginning of the page.";
    offset_read_gives_the_rest, "Base 2.1 5.1.12",
        "Where LPA bit 2 is 1, a log page can be read from a dword offset.";
    offset_beyond_the_page_is_refused, "Base 2.1 5.1.12",
        "Where LPA bit 2 is 1, an offset beyond the log page completes with Invalid Field in Command.";
}

fn error_log(env: &mut Env<'_>) -> Outcome<Vec<ErrorLogEntry>> {
    let entries = usize::from(env.context.controller.elpe_z) + 1;
    let mut data = alloc::vec![0; entries * ErrorLogEntry::BYTES];
    env.nvme
        .log_page(LogId::ERROR_INFORMATION, NSID_BROADCAST, &mut data)?;
    let (entries, _) = data.as_chunks::<{ ErrorLogEntry::BYTES }>();
    Ok(entries
        .iter()
        .filter_map(|entry| ErrorLogEntry::read_from_bytes(entry).ok())
        .collect())
}

/// An admin opcode no version up to 2.1 defines.
const RESERVED_OPCODE: AdminOpcode = AdminOpcode(0x7E);

/// An admin command that fails.
fn fail_admin(env: &mut Env<'_>) -> Outcome<Cqe> {
    let cqe = env.nvme.admin(command::admin(RESERVED_OPCODE))?;
    check::refused("a reserved opcode", cqe)?;
    Ok(cqe)
}

/// CQE bit More: the Error Information log has more about this error.
const MORE: u16 = 1 << 13;

/// The entry of a command that failed. Skips where the controller made none and did not say that
/// it would.
fn entry_of(env: &mut Env<'_>, cqe: Cqe, errors_before: u128) -> Outcome<ErrorLogEntry> {
    let errors = env.nvme.smart_log()?.error_log_entries;
    let promised = cqe.status().0 & MORE != 0;
    require!(
        errors != errors_before || promised,
        "the controller logs nothing about this error (More = 0)"
    );
    let log = error_log(env)?;
    let Some(entry) = log.first().copied() else {
        fail!("the Error Information log is empty");
    };
    ensure!(entry.error_count != 0, "the newest entry has error count 0");
    Ok(entry)
}

fn names(entry: ErrorLogEntry, cqe: Cqe) -> Outcome {
    check::equal("SQID of the entry", entry.sqid, cqe.sqid)?;
    check::equal("CID of the entry", entry.cid, cqe.cid)?;
    let status = Status::from_wire(entry.status_phase);
    ensure!(
        status.same_code(cqe.status()),
        "status of the entry: expected {}, found {status}",
        cqe.status()
    );
    Ok(())
}

fn error_entry_names_the_command(env: &mut Env<'_>) -> Outcome {
    let before = env.nvme.smart_log()?.error_log_entries;
    let cqe = fail_admin(env)?;
    let entry = entry_of(env, cqe, before)?;
    names(entry, cqe)
}

fn error_entry_of_io_names_the_lba(env: &mut Env<'_>) -> Outcome {
    let ns = env.ns()?;
    env.io()?;
    let buffer = env.nvme.alloc(ns.block_bytes)?;
    let before = env.nvme.smart_log()?.error_log_entries;
    let sqe = command::read(ns.nsid, ns.blocks, 0);
    let cqe = env.nvme.exec_data(IO, sqe, buffer)?;
    check::status("a read beyond the end", cqe, Status::LBA_OUT_OF_RANGE)?;
    let entry = entry_of(env, cqe, before)?;
    names(entry, cqe)?;
    check::equal("NSID of the entry", entry.nsid, ns.nsid)?;
    check::equal_hex("LBA of the entry", entry.lba, ns.blocks)
}

fn error_log_is_newest_first(env: &mut Env<'_>) -> Outcome {
    require!(
        env.context.controller.elpe_z >= 2,
        "ELPE leaves room for fewer than three entries"
    );
    let before = env.nvme.smart_log()?.error_log_entries;
    for cid in [0x701, 0x702, 0x703] {
        let sqe = command::admin(RESERVED_OPCODE);
        env.nvme.push(0, &Sqe { cid, ..sqe })?;
        env.nvme.ring(0)?;
        let cqe = env.nvme.wait_any(0)?;
        env.nvme.ack(0)?;
        check::refused("a reserved opcode", cqe)?;
    }
    let errors = env.nvme.smart_log()?.error_log_entries;
    require!(
        errors != before,
        "the controller logs nothing about such errors"
    );
    let log = error_log(env)?;
    let newest: Vec<u16> = log.iter().take(3).map(|entry| entry.cid).collect();
    let expected = alloc::vec![0x703, 0x702, 0x701];
    check::equal("CIDs, newest first", newest, expected)?;
    for pair in log.windows(2).take(2) {
        if let [newer, older] = pair {
            check::equal("error count", newer.error_count, older.error_count + 1)?;
        }
    }
    Ok(())
}

fn error_log_has_elpe_entries(env: &mut Env<'_>) -> Outcome {
    let before = env.nvme.smart_log()?.error_log_entries;
    fail_admin(env)?;
    let errors = env.nvme.smart_log()?.error_log_entries;
    let log = error_log(env)?;
    let used = log
        .iter()
        .position(|entry| entry.error_count == 0)
        .unwrap_or(log.len());
    ensure!(
        errors == before || used != 0,
        "an error was counted and the log has no entry"
    );
    let late = log.iter().skip(used).any(|entry| entry.error_count != 0);
    ensure!(!late, "an unused entry stands before a used one");
    ensure!(
        (used as u128) <= errors,
        "{used} entries are used, {errors} errors were counted"
    );
    Ok(())
}

fn error_count_is_smarts(env: &mut Env<'_>) -> Outcome {
    let before = env.nvme.smart_log()?.error_log_entries;
    for _ in 0..2 {
        fail_admin(env)?;
    }
    let errors = env.nvme.smart_log()?.error_log_entries;
    require!(
        errors != before,
        "the controller logs nothing about such errors"
    );
    check::equal("error log entries counted", errors - before, 2)?;
    let newest = error_log(env)?.first().map(|entry| entry.error_count);
    check::equal("newest error count", newest.map(u128::from), Some(errors))
}

/// Blocks whose bytes are a multiple of the SMART data unit, in commands of equal size.
pub(super) struct Volume {
    pub(super) units: u64,
    pub(super) commands: u64,
    pub(super) blocks_each: u64,
}

pub(super) fn volume(block_bytes: u64, max_blocks: u64) -> Volume {
    // The least blocks whose bytes divide by the unit, 512,000 = 2^12 * 5^3.
    let blocks = SMART_DATA_UNIT_BYTES / block_bytes.min(4096);
    let blocks_each = (1..=max_blocks.min(blocks))
        .rev()
        .find(|each| blocks.is_multiple_of(*each))
        .unwrap_or(1);
    Volume {
        units: blocks * block_bytes / SMART_DATA_UNIT_BYTES,
        commands: blocks / blocks_each,
        blocks_each,
    }
}

fn smart_counts_reads(env: &mut Env<'_>) -> Outcome {
    let ns = env.ns()?;
    env.io()?;
    let volume = volume(ns.block_bytes, env.max_blocks(ns));
    let buffer = env.nvme.alloc(volume.blocks_each * ns.block_bytes)?;
    let before = env.nvme.smart_log()?;
    for _ in 0..volume.commands {
        env.nvme.read(IO, ns.nsid, 0, volume.blocks_each, buffer)?;
    }
    let after = env.nvme.smart_log()?;
    let units = after.data_units_read.wrapping_sub(before.data_units_read);
    check::equal("Data Units Read more", units, volume.units.into())?;
    let commands = after.host_reads.wrapping_sub(before.host_reads);
    check::equal("Host Read Commands more", commands, volume.commands.into())?;
    let written = after.data_units_written;
    check::equal("Data Units Written", written, before.data_units_written)
}

fn smart_counts_writes(env: &mut Env<'_>) -> Outcome {
    let ns = env.ns()?;
    env.io()?;
    let volume = volume(ns.block_bytes, env.max_blocks(ns).min(ns.blocks / 2));
    let slba = env.area(ns, volume.blocks_each)?;
    let buffer = env.nvme.alloc(volume.blocks_each * ns.block_bytes)?;
    let before = env.nvme.smart_log()?;
    for _ in 0..volume.commands {
        env.nvme
            .write(IO, ns.nsid, slba, volume.blocks_each, buffer)?;
    }
    let after = env.nvme.smart_log()?;
    let units = after
        .data_units_written
        .wrapping_sub(before.data_units_written);
    check::equal("Data Units Written more", units, volume.units.into())?;
    let commands = after.host_writes.wrapping_sub(before.host_writes);
    check::equal("Host Write Commands more", commands, volume.commands.into())?;
    let read = after.data_units_read;
    check::equal("Data Units Read", read, before.data_units_read)
}

fn smart_does_not_count_refused_data(env: &mut Env<'_>) -> Outcome {
    let ns = env.ns()?;
    env.io()?;
    // Enough that the units would show it.
    let refusals = (2 * SMART_DATA_UNIT_BYTES).div_ceil(ns.block_bytes).min(64);
    let each = (2 * SMART_DATA_UNIT_BYTES)
        .div_ceil(ns.block_bytes * refusals)
        .min(env.max_blocks(ns));
    let buffer = env.nvme.alloc(each * ns.block_bytes)?;
    let before = env.nvme.smart_log()?.data_units_read;
    for _ in 0..refusals {
        let nlb_z = u16::try_from(each - 1).unwrap_or(u16::MAX);
        let sqe = command::read(ns.nsid, ns.blocks, nlb_z);
        let cqe = env.nvme.exec_data(IO, sqe, buffer)?;
        check::status("a read beyond the end", cqe, Status::LBA_OUT_OF_RANGE)?;
    }
    let after = env.nvme.smart_log()?.data_units_read;
    check::equal("Data Units Read", after, before)
}

fn smart_values_are_possible(env: &mut Env<'_>) -> Outcome {
    let log = env.nvme.smart_log()?;
    let kelvins = u16::from_le_bytes(log.composite_temperature);
    ensure!(
        (200..500).contains(&kelvins),
        "the composite temperature is {kelvins} K"
    );
    ensure!(
        log.available_spare <= 100,
        "available spare is {} %",
        log.available_spare
    );
    ensure!(
        log.available_spare_threshold <= 100,
        "the available spare threshold is {} %",
        log.available_spare_threshold
    );
    let reserved = log.critical_warning & 0b1100_0000;
    check::equal_hex("reserved critical warnings", reserved, 0)
}

fn smart_takes_nsid_0_and_broadcast(env: &mut Env<'_>) -> Outcome {
    for nsid in [NSID_BROADCAST, 0] {
        let mut log = SmartLog::new_zeroed();
        let sqe = command::get_log_page(LogId::SMART, nsid, 128);
        let cqe = env.nvme.admin_data(sqe, log.as_mut_bytes())?;
        let what = alloc::format!("NSID {nsid:#x}");
        if nsid == 0 && env.context.vs.mjr() < 2 && !cqe.status().is_success() {
            // Versions before 2.0 name FFFFFFFFh alone.
            let allowed = [Status::INVALID_FIELD, Status::INVALID_NAMESPACE];
            return check::one_of(&what, cqe, &allowed);
        }
        check::status(&what, cqe, Status::SUCCESS)?;
        ensure!(
            log.composite_temperature != [0, 0],
            "{what} gives an empty log"
        );
    }
    Ok(())
}

fn smart_of_one_namespace_needs_lpa(env: &mut Env<'_>) -> Outcome {
    let nsid = env.ns()?.nsid;
    require!(
        env.context.controller.lpa & LPA_SMART_PER_NAMESPACE == 0,
        "LPA bit 0 offers the log per namespace"
    );
    let mut log = SmartLog::new_zeroed();
    let sqe = command::get_log_page(LogId::SMART, nsid, 128);
    let cqe = env.nvme.admin_data(sqe, log.as_mut_bytes())?;
    // Versions before 2.0 name no status for it.
    check::one_of(
        "the log of one namespace",
        cqe,
        &[Status::INVALID_FIELD, Status::INVALID_NAMESPACE],
    )
}

fn firmware_slot_holds_the_active_revision(env: &mut Env<'_>) -> Outcome {
    let mut log = FirmwareSlotLog::new_zeroed();
    env.nvme
        .log_page(LogId::FIRMWARE_SLOT, NSID_BROADCAST, log.as_mut_bytes())?;
    let active = usize::from(log.afi & 0b111);
    let slots = usize::from(env.context.controller.frmw.slots());
    ensure!(
        (1..=slots).contains(&active),
        "slot {active} is active, FRMW tells {slots} slots"
    );
    let revision = log.frs.get(active - 1).copied().unwrap_or_default();
    let found = text(&revision);
    check::equal(
        "revision of the active slot",
        found,
        text(&env.context.controller.fr),
    )
}

fn unknown_log_is_refused(env: &mut Env<'_>) -> Outcome {
    for lid in [LogId(0x6E), LogId(0xBF)] {
        let mut data = [0; 64];
        let sqe = command::get_log_page(lid, NSID_BROADCAST, 16);
        let cqe = env.nvme.admin_data(sqe, &mut data)?;
        let what = alloc::format!("log page {:#04x}", lid.0);
        // The status has a name of its own; Get Log Page says "should" of the other one.
        check::one_of(
            &what,
            cqe,
            &[Status::INVALID_LOG_PAGE, Status::INVALID_FIELD],
        )?;
    }
    Ok(())
}

fn partial_read_gives_the_beginning(env: &mut Env<'_>) -> Outcome {
    let lid = LogId::FIRMWARE_SLOT;
    let mut whole = [0; 512];
    env.nvme.log_page(lid, NSID_BROADCAST, &mut whole)?;
    for dwords in [1_u32, 2, 17, 127] {
        let bytes = u64::from(dwords) * 4;
        let area = env.nvme.alloc(4096)?;
        env.guard(area);
        let sqe = command::get_log_page(lid, NSID_BROADCAST, dwords);
        let data = area.slice(0, bytes);
        let cqe = env.nvme.exec_data(0, sqe, data)?;
        check::status("a partial read", cqe, Status::SUCCESS)?;
        let what = alloc::format!("{dwords} dwords");
        env.guarded(&what, area.slice(bytes, 4096 - bytes))?;
        let found = env.copy_out(data);
        let expected = whole.get(..found.len()).unwrap_or_default();
        check::same_bytes(&what, &found, expected)?;
    }
    Ok(())
}

fn offset_read_gives_the_rest(env: &mut Env<'_>) -> Outcome {
    require!(
        env.context.controller.lpa & LPA_EXTENDED != 0,
        "LPA bit 2 does not offer offsets"
    );
    let lid = LogId::FIRMWARE_SLOT;
    let mut whole = [0; 512];
    env.nvme.log_page(lid, NSID_BROADCAST, &mut whole)?;
    for offset in [4_u16, 8, 508] {
        let mut rest = alloc::vec![0; 512 - usize::from(offset)];
        let dwords = u32::try_from(rest.len() / 4).unwrap_or(1);
        let sqe = Sqe {
            cdw12: offset.into(),
            ..command::get_log_page(lid, NSID_BROADCAST, dwords)
        };
        env.nvme.admin_data_ok(sqe, &mut rest)?;
        let what = alloc::format!("from offset {offset}");
        let expected = whole.get(usize::from(offset)..).unwrap_or_default();
        check::same_bytes(&what, &rest, expected)?;
    }
    Ok(())
}

fn offset_beyond_the_page_is_refused(env: &mut Env<'_>) -> Outcome {
    require!(
        env.context.controller.lpa & LPA_EXTENDED != 0,
        "LPA bit 2 does not offer offsets"
    );
    for (lower, upper) in [(4096, 0), (0, 1), (0xFFFF_FFFC, u32::MAX)] {
        let sqe = Sqe {
            cdw12: lower,
            cdw13: upper,
            ..command::get_log_page(LogId::SMART, NSID_BROADCAST, 1)
        };
        let cqe = env.nvme.admin_data(sqe, &mut [0; 4])?;
        let what = alloc::format!("offset {upper:#x}:{lower:08x}");
        check::status(&what, cqe, Status::INVALID_FIELD)?;
    }
    Ok(())
}
