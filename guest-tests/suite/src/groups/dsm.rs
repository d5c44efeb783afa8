//! Dataset Management.

use alloc::vec::Vec;

use nvme_host::{Buffer, command};
use nvme_spec::identify::ONCS_DATASET_MANAGEMENT;
use nvme_spec::queue::{DSM_MAX_RANGES, DsmCdw11, DsmRange};
use nvme_spec::{Cqe, Sqe, Status};
use zerocopy::IntoBytes;

use super::logs::volume;
use super::optional::{changed, deallocated_byte, fill, nvm_limits, offered, refuses_nsids};
use super::place::nowhere;
use crate::data::pattern;
use crate::env::IO;
use crate::{Env, Namespace, Outcome, check};

group! { "dsm":
    deallocated_range_reads_as_dlfeat_says, "NVM 1.1 3.2.3.2.1",
        "A block that was deallocated reads as DLFEAT says, one that the controller kept as before, and the neighbours hold what they held.";
    deallocated_blocks_stay_as_they_read, "NVM 1.1 3.2.3.2.1",
        "What a deallocated block reads as does not change until it is written.";
    later_write_wins, "NVM 1.1 3.2.3.2.1",
        "A block written after it was deallocated holds what was written.";
    most_ranges_work, "NVM 1.1 3.2.3",
        "A command has up to 256 ranges, or DMRL, and touches no block outside them.";
    overlapping_ranges_work, "NVM 1.1 3.2.3",
        "Ranges may overlap and repeat, in any order.";
    range_of_zero_length_is_harmless, "NVM 1.1 3.2.3",
        "A range of length 0 names no block: nothing is deallocated for it.";
    range_beyond_the_end_is_refused, "NVM 1.1 3.2.3",
        "A range that is not all in the namespace, first or last of several, completes with LBA Out of Range.";
    attributes_without_deallocate_change_nothing, "NVM 1.1 3.2.3",
        "Without AD the attributes and the context attributes are hints, and no data changes.";
    list_may_start_at_any_dword, "Base 2.1 4.3.1",
        "The range list may begin anywhere in a page, and a range may lie across two pages.";
    list_goes_on_in_prp2, "Base 2.1 4.3.1",
        "A list that begins in a page's last 16 bytes goes on in the page that PRP2 names.";
    list_nowhere_is_an_error, "Base 2.1 4.2.3.1",
        "A range list where there is no memory completes with an error, and nothing changes.";
    list_is_not_written, "NVM 1.1 3.2.3",
        "The range list is read and not written.";
    invalid_nsid_is_refused, "Base 2.1 3.2.1",
        "Dataset Management of a namespace that is not there is refused.";
    smart_does_not_count_it, "NVM 1.1 4.1.4.2",
        "Deallocating counts neither as commands nor as data read or written.";
}

const NAME: &str = "Dataset Management";
const DEALLOCATE: DsmCdw11 = DsmCdw11::new().with_ad(true);
/// What ranges are aligned to, so that backends with coarse units deallocate them too.
const UNIT_BYTES: u64 = 64 * 1024;

fn range(slba: u64, nlb: u64) -> DsmRange {
    DsmRange {
        slba,
        nlb: u32::try_from(nlb).unwrap_or(u32::MAX),
        cattr: 0,
    }
}

/// Blocks of a unit that is deallocated.
fn unit(env: &mut Env<'_>, ns: Namespace) -> Outcome<u64> {
    let most = nvm_limits(env)?.dsm_range_blocks;
    Ok((UNIT_BYTES / ns.block_bytes).max(1).min(most))
}

/// Issues a command with these ranges.
fn dsm(
    env: &mut Env<'_>,
    ns: Namespace,
    ranges: &[DsmRange],
    attributes: DsmCdw11,
) -> Outcome<Cqe> {
    let list = env.nvme.alloc(size_of_val(ranges) as u64)?;
    env.nvme.copy_to(list, ranges.as_bytes());
    let count = u16::try_from(ranges.len()).unwrap_or(u16::MAX);
    let sqe = command::dsm(ns.nsid, count, attributes);
    let cqe = env.nvme.exec_data(IO, sqe, list)?;
    env.nvme.free(list);
    Ok(cqe)
}

/// An area whose blocks all hold the same data, to be deallocated in part.
struct Area {
    ns: Namespace,
    slba: u64,
    blocks: u64,
    block: Vec<u8>,
    deallocated: Option<u8>,
}

impl Area {
    /// Writes an area of `blocks` blocks.
    fn write(env: &mut Env<'_>, ns: Namespace, blocks: u64, seed: u64) -> Outcome<Self> {
        let slba = env.area(ns, blocks)?;
        let block = pattern(seed, ns.block_bytes);
        fill(env, ns, slba, blocks, &block)?;
        let identify = env.nvme.identify_namespace(ns.nsid)?;
        Ok(Self {
            ns,
            slba,
            blocks,
            block,
            deallocated: deallocated_byte(&identify),
        })
    }

    /// Checks that no block outside `ranges` changed, and that the others read as before or as
    /// deallocated. Returns which blocks changed.
    fn check(&self, env: &mut Env<'_>, ranges: &[DsmRange]) -> Outcome<Vec<bool>> {
        let all = (self.slba, self.blocks);
        let changed = changed(env, self.ns, all, &self.block, self.deallocated)?;
        for (lba, changed) in (self.slba..).zip(&changed) {
            let inside = ranges
                .iter()
                .any(|range| range.slba <= lba && lba - range.slba < u64::from(range.nlb));
            ensure!(
                inside || !changed,
                "LBA {lba:#x} is in no range and does not hold what was written"
            );
        }
        Ok(changed)
    }

    /// Deallocates `ranges` and checks the area. Skips if no block was deallocated.
    fn deallocate(&self, env: &mut Env<'_>, ranges: &[DsmRange]) -> Outcome<Vec<bool>> {
        let cqe = dsm(env, self.ns, ranges, DEALLOCATE)?;
        let what = alloc::format!("{} ranges", ranges.len());
        check::status(&what, cqe, Status::SUCCESS)?;
        self.deallocated(env, ranges)
    }

    /// As [`check`](Self::check). Skips if no block was deallocated.
    fn deallocated(&self, env: &mut Env<'_>, ranges: &[DsmRange]) -> Outcome<Vec<bool>> {
        let changed = self.check(env, ranges)?;
        require!(
            changed.contains(&true),
            "the controller kept every block, which it may"
        );
        Ok(changed)
    }
}

fn deallocated_range_reads_as_dlfeat_says(env: &mut Env<'_>) -> Outcome {
    offered(env, ONCS_DATASET_MANAGEMENT, NAME)?;
    for ns in env.namespaces() {
        let unit = unit(env, ns)?;
        let area = Area::write(env, ns, 3 * unit, 0xD50)?;
        area.deallocate(env, &[range(area.slba + unit, unit)])?;
        // A single block, whatever the backend's unit.
        let area = Area::write(env, ns, 3, 0xD51)?;
        let ranges = [range(area.slba + 1, 1)];
        let cqe = dsm(env, ns, &ranges, DEALLOCATE)?;
        check::status("a range of one block", cqe, Status::SUCCESS)?;
        area.check(env, &ranges)?;
    }
    Ok(())
}

fn deallocated_blocks_stay_as_they_read(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env, ONCS_DATASET_MANAGEMENT, NAME)?;
    let unit = unit(env, ns)?;
    let area = Area::write(env, ns, 3 * unit, 0xD52)?;
    area.deallocate(env, &[range(area.slba + unit, unit)])?;
    let first = env.read_blocks(ns, area.slba + unit, 1)?;
    env.nvme.flush(IO, ns.nsid)?;
    env.write_pattern(ns, area.slba, 1, 0xD53)?;
    let again = env.read_blocks(ns, area.slba + unit, 1)?;
    check::same_bytes("the deallocated block", &again, &first)
}

fn later_write_wins(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env, ONCS_DATASET_MANAGEMENT, NAME)?;
    let unit = unit(env, ns)?;
    let area = Area::write(env, ns, unit, 0xD54)?;
    let cqe = dsm(env, ns, &[range(area.slba, unit)], DEALLOCATE)?;
    check::status(NAME, cqe, Status::SUCCESS)?;
    env.write_pattern(ns, area.slba, 1, 0xD55)?;
    env.expect_pattern(ns, area.slba, 1, 0xD55)
}

/// The most ranges that a command may have.
fn most_ranges(env: &mut Env<'_>) -> Outcome<usize> {
    let most = nvm_limits(env)?.dsm_ranges;
    Ok(usize::from(most).min(DSM_MAX_RANGES))
}

fn most_ranges_work(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env, ONCS_DATASET_MANAGEMENT, NAME)?;
    let count = most_ranges(env)?;
    // Every second block; where blocks are large, the ranges begin again.
    let blocks = (8 << 20) / ns.block_bytes;
    let blocks = blocks.min(2 * count as u64).min(ns.blocks / 2) & !1;
    let area = Area::write(env, ns, blocks, 0xD56)?;
    let ranges: Vec<DsmRange> = (0..count as u64)
        .map(|number| range(area.slba + (2 * number + 1) % blocks, 1))
        .collect();
    area.deallocate(env, &ranges).map(drop)
}

fn overlapping_ranges_work(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env, ONCS_DATASET_MANAGEMENT, NAME)?;
    let unit = unit(env, ns)?;
    let area = Area::write(env, ns, 6 * unit, 0xD57)?;
    let at = |number| area.slba + number * unit;
    let ranges = [
        range(at(4), unit),
        range(at(1), unit),
        range(at(1), unit),
        range(at(1) + unit / 2, unit),
    ];
    area.deallocate(env, &ranges).map(drop)
}

fn range_of_zero_length_is_harmless(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env, ONCS_DATASET_MANAGEMENT, NAME)?;
    let unit = unit(env, ns)?;
    let area = Area::write(env, ns, 3 * unit, 0xD58)?;
    let empty = range(area.slba, 0);
    for ranges in [
        Vec::from([empty]),
        Vec::from([empty, range(area.slba + unit, unit), empty]),
    ] {
        let cqe = dsm(env, ns, &ranges, DEALLOCATE)?;
        check::one_of(
            "a range of length 0",
            cqe,
            &[Status::SUCCESS, Status::INVALID_FIELD],
        )?;
        area.check(env, &ranges)?;
    }
    env.alive()
}

fn range_beyond_the_end_is_refused(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env, ONCS_DATASET_MANAGEMENT, NAME)?;
    let area = Area::write(env, ns, 4, 0xD59)?;
    let good = range(area.slba + 1, 1);
    for bad in [
        range(ns.blocks, 1),
        range(ns.blocks - 1, 2),
        range(1 << 63, 1),
        range(u64::MAX, 1),
        range(u64::MAX, 2),
    ] {
        for ranges in [
            Vec::from([bad]),
            Vec::from([bad, good]),
            Vec::from([good, bad]),
        ] {
            let cqe = dsm(env, ns, &ranges, DEALLOCATE)?;
            let what = alloc::format!("{} blocks from LBA {:#x}", bad.nlb, bad.slba);
            check::status(&what, cqe, Status::LBA_OUT_OF_RANGE)?;
            area.check(env, &[good])?;
        }
    }
    env.alive()
}

fn attributes_without_deallocate_change_nothing(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env, ONCS_DATASET_MANAGEMENT, NAME)?;
    let unit = unit(env, ns)?;
    let area = Area::write(env, ns, 2 * unit, 0xD5A)?;
    for attributes in [
        DsmCdw11::new(),
        DsmCdw11::new().with_idr(true),
        DsmCdw11::new().with_idw(true),
        DsmCdw11::new().with_idr(true).with_idw(true),
    ] {
        for cattr in [0, 0x0000_0633, 0xFF00_0000] {
            let ranges = [DsmRange {
                cattr,
                ..range(area.slba, unit)
            }];
            let cqe = dsm(env, ns, &ranges, attributes)?;
            let what = alloc::format!("{attributes:?}, context attributes {cattr:#x}");
            check::status(&what, cqe, Status::SUCCESS)?;
            area.check(env, &[])?;
        }
    }
    Ok(())
}

/// The status of a list whose last range, beyond the end, was read: what the controller answers
/// to one in a single page.
fn expected_beyond(env: &mut Env<'_>, ns: Namespace) -> Outcome<Status> {
    let cqe = dsm(env, ns, &[range(0, 0), range(ns.blocks, 1)], DEALLOCATE)?;
    Ok(cqe.status())
}

/// Deallocates two units of an area with a list at two places in memory; `first` is where it
/// begins and up to where, and `second` where it goes on. Both or none must be deallocated.
fn list_in_two_places(env: &mut Env<'_>, ns: Namespace, first: Buffer, second: Buffer) -> Outcome {
    let unit = unit(env, ns)?;
    let area = Area::write(env, ns, 5 * unit, 0xD5B)?;
    let (one, two) = (area.slba + unit, area.slba + 3 * unit);
    for (last, expected) in [
        (range(two, unit), Status::SUCCESS),
        (range(ns.blocks, 1), expected_beyond(env, ns)?),
    ] {
        let ranges = [range(one, unit), last];
        let bytes = ranges.as_bytes();
        let split = usize::try_from(first.bytes).unwrap_or(0).min(bytes.len());
        let (begin, end) = bytes.split_at(split);
        env.nvme.copy_to(first, begin);
        env.nvme.copy_to(second, end);
        let cqe = env.io_exec(Sqe {
            prp1: first.address,
            // Reserved unless the list reaches it.
            prp2: if end.is_empty() { 0 } else { second.address },
            ..command::dsm(ns.nsid, 2, DEALLOCATE)
        })?;
        let what = alloc::format!("a list at {:#x} and {:#x}", first.address, second.address);
        check::status(&what, cqe, expected)?;
        let changed = area.check(env, &[range(one, unit), range(two, unit)])?;
        if last.slba == two {
            let at = |lba: u64| changed.get(usize::try_from(lba - area.slba).unwrap_or(0));
            check::equal("the second range is as the first", at(two), at(one))?;
        }
    }
    Ok(())
}

fn list_may_start_at_any_dword(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env, ONCS_DATASET_MANAGEMENT, NAME)?;
    let page = env.nvme.page_bytes();
    let memory = env.nvme.alloc(3 * page)?;
    let second = memory.slice(2 * page, page);
    // Within a page, and across two in the middle of a range.
    for offset in [4, page / 2 + 12, page - 4, page - 8, page - 28] {
        let first = memory.slice(offset, (page - offset).min(32));
        list_in_two_places(env, ns, first, second)?;
    }
    Ok(())
}

fn list_goes_on_in_prp2(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env, ONCS_DATASET_MANAGEMENT, NAME)?;
    let page = env.nvme.page_bytes();
    let memory = env.nvme.alloc(3 * page)?;
    let first = memory.slice(page - 16, 16);
    list_in_two_places(env, ns, first, memory.slice(2 * page, page))?;
    // A full list of which all but the first range is in the second page.
    let count = most_ranges(env)?;
    let area = Area::write(env, ns, 4, 0xD5C)?;
    let inside = range(area.slba + 1, 1);
    let mut ranges = alloc::vec![inside; count];
    for (last, expected) in [
        (inside, Status::SUCCESS),
        (range(ns.blocks, 1), expected_beyond(env, ns)?),
    ] {
        if let Some(range) = ranges.last_mut() {
            *range = last;
        }
        let (begin, end) = ranges.as_bytes().split_at(16);
        env.nvme.copy_to(first, begin);
        env.nvme.copy_to(memory.slice(2 * page, page), end);
        let cqe = env.io_exec(Sqe {
            prp1: first.address,
            prp2: memory.address + 2 * page,
            ..command::dsm(ns.nsid, u16::try_from(count).unwrap_or(256), DEALLOCATE)
        })?;
        check::status("a full list across two pages", cqe, expected)?;
        area.check(env, &[inside])?;
    }
    Ok(())
}

fn list_nowhere_is_an_error(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env, ONCS_DATASET_MANAGEMENT, NAME)?;
    let area = Area::write(env, ns, 4, 0xD5D)?;
    let bad = nowhere(env);
    let page = env.nvme.page_bytes();
    let memory = env.nvme.alloc(page)?;
    let inside = range(area.slba + 1, 1);
    let first = memory.slice(page - 16, 16);
    env.nvme.copy_to(first, inside.as_bytes());
    for (prp1, prp2) in [(bad, 0), (first.address, bad)] {
        let cqe = env.io_exec(Sqe {
            prp1,
            prp2,
            ..command::dsm(ns.nsid, 2, DEALLOCATE)
        })?;
        let what = alloc::format!("a list at {prp1:#x} and {prp2:#x}");
        check::refused(&what, cqe)?;
        area.check(env, &[inside])?;
    }
    env.alive()
}

fn list_is_not_written(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env, ONCS_DATASET_MANAGEMENT, NAME)?;
    let page = env.nvme.page_bytes();
    let memory = env.nvme.alloc(page)?;
    env.guard(memory);
    let slba = env.area(ns, 4)?;
    let ranges = [range(slba, 1), range(slba + 2, 1)];
    env.nvme.copy_to(memory, ranges.as_bytes());
    let before = env.copy_out(memory);
    let cqe = env.io_exec(Sqe {
        prp1: memory.address,
        ..command::dsm(ns.nsid, 2, DEALLOCATE)
    })?;
    check::status(NAME, cqe, Status::SUCCESS)?;
    let after = env.copy_out(memory);
    check::same_bytes("the list's page", &after, &before)
}

fn invalid_nsid_is_refused(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env, ONCS_DATASET_MANAGEMENT, NAME)?;
    refuses_nsids(env, ns, |nsid| command::dsm(nsid, 1, DEALLOCATE))
}

fn smart_does_not_count_it(env: &mut Env<'_>) -> Outcome {
    let ns = offered(env, ONCS_DATASET_MANAGEMENT, NAME)?;
    let volume = volume(ns.block_bytes, env.max_blocks(ns).min(ns.blocks / 2));
    let slba = env.area(ns, volume.blocks_each)?;
    let before = env.nvme.smart_log()?;
    for _ in 0..volume.commands {
        let cqe = dsm(env, ns, &[range(slba, volume.blocks_each)], DEALLOCATE)?;
        check::status(NAME, cqe, Status::SUCCESS)?;
    }
    let after = env.nvme.smart_log()?;
    for (what, before, after) in [
        (
            "Data Units Written",
            before.data_units_written,
            after.data_units_written,
        ),
        (
            "Data Units Read",
            before.data_units_read,
            after.data_units_read,
        ),
        ("Host Write Commands", before.host_writes, after.host_writes),
        ("Host Read Commands", before.host_reads, after.host_reads),
    ] {
        check::equal(what, after, before)?;
    }
    Ok(())
}
