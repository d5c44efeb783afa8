//! Histories that can be and that cannot, told apart by trying every order.

use super::Seen;
use crate::findings::Finding;
use crate::journal::{Line, Record};
use crate::page::{SECTOR, SECTOR_LEN, Write, fill};
use crate::random::Random;
use crate::version::{Clock, Version};

const REGION: u64 = 9;
const FIRST: u64 = 65_536;

/// A drive of some sectors in memory.
struct Drive(Vec<u8>);

impl Drive {
    fn new(sectors: usize) -> Self {
        let mut bytes = vec![0; sectors * SECTOR_LEN];
        let write = page(Version::INIT, 0, sectors);
        fill(&mut bytes, REGION, write);
        Self(bytes)
    }

    /// Writes those sectors of a page for which `is_written` says so.
    fn write(&mut self, write: Write, is_written: impl Fn(usize) -> bool) {
        let mut page = vec![0; write.size as usize];
        fill(&mut page, REGION, write);
        let begin = usize::try_from(write.offset - FIRST).unwrap();
        for (sector, bytes) in page.chunks(SECTOR_LEN).enumerate() {
            if is_written(sector) {
                let at = begin + sector * SECTOR_LEN;
                self.0[at..at + SECTOR_LEN].copy_from_slice(bytes);
            }
        }
    }

    fn judge(&self, record: &Record) -> Vec<Finding> {
        let mut seen = Seen::new(REGION, FIRST);
        seen.add(&self.0);
        seen.judge(record, 1)
    }
}

fn page(version: Version, sector: usize, sectors: usize) -> Write {
    Write {
        version,
        offset: FIRST + sector as u64 * SECTOR,
        size: u32::try_from(sectors * SECTOR_LEN).unwrap(),
        writer: 0,
    }
}

fn torn(findings: &[Finding]) -> usize {
    let torn = |finding: &&Finding| matches!(finding, Finding::Torn { .. });
    findings.iter().filter(torn).count()
}

#[test]
fn a_page_half_new_and_half_old_is_torn_and_described() {
    let clock = Clock::new(1);
    let mut drive = Drive::new(16);
    let (old, new) = (page(clock.now(), 4, 8), page(clock.now(), 4, 8));
    drive.write(old, |_| true);
    drive.write(new, |sector| sector < 3);
    let findings = drive.judge(&Record::default());
    let [
        Finding::Torn {
            write,
            parts,
            among,
        },
    ] = findings.as_slice()
    else {
        panic!("{findings:?}");
    };
    assert_eq!((*write, among.as_slice()), (new, [old, new].as_slice()));
    let parts: Vec<_> = parts.iter().map(|p| (p.offset, p.bytes, p.holds)).collect();
    let (first, second) = (FIRST + 4 * SECTOR, FIRST + 7 * SECTOR);
    assert_eq!(
        parts,
        [
            (first, 3 * SECTOR, Some(new)),
            (second, 5 * SECTOR, Some(old))
        ]
    );
}

#[test]
fn a_page_torn_over_what_init_wrote_is_found() {
    let clock = Clock::new(1);
    let mut drive = Drive::new(8);
    // The old half lies beyond the sector that says which came first: time alone tells.
    drive.write(page(clock.now(), 0, 8), |sector| sector >= 4);
    assert_eq!(torn(&drive.judge(&Record::default())), 1);
}

#[test]
fn three_pages_that_lie_over_each_other_in_a_ring_are_torn() {
    // Each pair shares a sector and could be in order; the three of them cannot.
    let clock = Clock::new(1);
    let mut drive = Drive::new(6);
    let long = page(clock.now(), 0, 6);
    let (left, right) = (page(clock.now(), 0, 3), page(clock.now(), 2, 4));
    drive.write(long, |sector| sector == 5);
    drive.write(right, |sector| sector == 0);
    drive.write(left, |sector| sector < 2);
    // Sectors 0 and 1 of `left`, 2 of `right`, 3 and 4 of the start, 5 of `long`.
    let findings = drive.judge(&Record::default());
    assert!(torn(&findings) > 0, "{findings:?}");
}

#[test]
fn a_shared_checksum_that_is_wrong_is_found_though_every_sector_is_whole() {
    let clock = Clock::new(1);
    let mut drive = Drive::new(8);
    let write = page(clock.now(), 0, 8);
    drive.write(write, |_| true);
    assert_eq!(drive.judge(&Record::default()), []);
    // The same stamp as another page's, as a program would make that used a version twice.
    let mut other = vec![0; 8 * SECTOR_LEN];
    fill(&mut other, REGION, write);
    fill(&mut other[..4 * SECTOR_LEN], REGION, write);
    drive.0.copy_from_slice(&other);
    let findings = drive.judge(&Record::default());
    assert_eq!(findings, [Finding::Checksum { write }]);
}

#[test]
fn what_is_not_ours_is_told_apart() {
    let clock = Clock::new(1);
    let mut drive = Drive::new(8);
    let write = page(clock.now(), 0, 8);
    drive.write(write, |_| true);
    drive.0[SECTOR_LEN + 100] ^= 1;
    drive.0[3 * SECTOR_LEN..5 * SECTOR_LEN].fill(0);
    let last = drive.0[5 * SECTOR_LEN..6 * SECTOR_LEN].to_vec();
    drive.0[7 * SECTOR_LEN..].copy_from_slice(&last);
    let findings = drive.judge(&Record::default());
    let places: Vec<_> = findings.iter().filter_map(Finding::part).collect();
    let places: Vec<_> = places.iter().map(|p| (p.offset, p.bytes)).collect();
    let at = |sector: u64| FIRST + sector * SECTOR;
    assert_eq!(places, [(at(1), 512), (at(3), 1024), (at(7), 512)]);
    assert!(matches!(
        findings.as_slice(),
        [
            Finding::Corrupt { .. },
            Finding::Foreign { .. },
            Finding::Misplaced { .. }
        ]
    ));
}

#[test]
fn a_durable_write_that_is_not_there_is_lost_unless_another_may_be_later() {
    let clock = Clock::new(1);
    let drive = |writes: &[Write]| {
        let mut drive = Drive::new(8);
        writes
            .iter()
            .for_each(|write| drive.write(*write, |_| true));
        drive
    };
    let old = page(clock.now(), 0, 8);
    let old_over = clock.now();
    let beside = page(clock.now(), 0, 8);
    let durable = page(clock.now(), 2, 4);
    let over = clock.now();
    let synced = clock.now();
    let later = page(clock.now(), 0, 8);
    let record = Record::of(
        &[
            Line::Ack(old, old_over, false),
            Line::Ack(durable, over, false),
            Line::Sync(synced),
        ],
        false,
    );
    assert_eq!(record.durable, [old, durable]);
    // Nothing of it, and what is there was over before it began.
    let findings = drive(&[old]).judge(&record);
    let [Finding::Lost { write, part }] = findings.as_slice() else {
        panic!("{findings:?}");
    };
    assert_eq!(
        (*write, part.bytes, part.holds),
        (durable, 4 * SECTOR, Some(old))
    );
    // Nothing at all: the older durable write is lost beside it.
    let findings = drive(&[]).judge(&record);
    assert_eq!(findings.len(), 3, "{findings:?}");
    // There; overwritten by a later one; or by one that began before it and was not over.
    for there in [&[old, durable][..], &[old, later], &[old, beside]] {
        assert_eq!(drive(there).judge(&record), [], "{there:?}");
    }
}

/// Whether some order of the writes leaves what is seen, by trying all that time allows.
fn is_possible(left: &mut Vec<(Write, Version)>, seen: &[Version], drive: &mut [Version]) -> bool {
    // From the last to the first: a sector that is not told yet is this write's, or seen so.
    if left.is_empty() {
        return drive.iter().zip(seen).all(|(told, seen)| told == seen);
    }
    for index in 0..left.len() {
        let (write, over) = left[index];
        // What began after it was over must have been before it in this list: later in time.
        let is_last = left.iter().all(|(other, _)| other.version <= over);
        if !is_last {
            continue;
        }
        left.remove(index);
        let before = drive.to_vec();
        let begin = usize::try_from((write.offset - FIRST) / SECTOR).unwrap();
        let sectors = write.size as usize / SECTOR_LEN;
        for told in &mut drive[begin..begin + sectors] {
            if *told == Version(u64::MAX) {
                *told = write.version;
            }
        }
        let fits = drive
            .iter()
            .zip(seen)
            .all(|(told, seen)| *told == Version(u64::MAX) || told == seen);
        if fits && is_possible(left, seen, drive) {
            return true;
        }
        drive.copy_from_slice(&before);
        left.insert(index, (write, over));
    }
    false
}

/// Random histories of few writes, some torn: what is reported is what no order explains.
#[test]
fn exactly_what_no_order_explains_is_reported() {
    const SECTORS: usize = 6;
    let (mut possible, mut impossible) = (0, 0);
    for seed in 0..20_000 {
        let mut random = Random::new(seed);
        let mut below = |bound: usize| usize::try_from(random.below(bound as u64)).unwrap();
        let clock = Clock::new(1);
        let mut drive = Drive::new(SECTORS);
        let mut lines = Vec::new();
        let mut running: Vec<Write> = Vec::new();
        let mut ends = Vec::new();
        for _ in 0..2 + below(4) {
            let sectors = 1 + below(4);
            let write = page(clock.now(), below(SECTORS - sectors + 1), sectors);
            running.push(write);
            if running.len() > below(3) {
                for write in std::mem::take(&mut running) {
                    let torn = below(4) == 0;
                    let bits = if torn { below(16) } else { 15 };
                    drive.write(write, |sector| bits >> sector & 1 == 1);
                    let over = clock.now();
                    lines.push(Line::Ack(write, over, false));
                    ends.push((write, over));
                }
            }
        }
        let findings = drive.judge(&Record::of(&lines, false));
        let mut seen = Seen::new(REGION, FIRST);
        seen.add(&drive.0);
        let versions: Vec<Version> = seen
            .sectors
            .iter()
            .map(|number| seen.write(*number).unwrap().version)
            .collect();
        // Writes of which nothing is seen may have been before all others.
        let init = page(Version::INIT, 0, SECTORS);
        let mut writes = vec![(init, Version::of_run(1))];
        writes.extend(ends.iter().filter(|(w, _)| versions.contains(&w.version)));
        if !versions.contains(&Version::INIT) {
            writes.remove(0);
        }
        let mut told = vec![Version(u64::MAX); SECTORS];
        if is_possible(&mut writes, &versions, &mut told) {
            possible += 1;
            assert_eq!(findings, [], "seed {seed}: {versions:?}");
        } else {
            impossible += 1;
            assert!(torn(&findings) > 0, "seed {seed}: {versions:?}");
        }
    }
    assert!(
        possible > 1000 && impossible > 1000,
        "{possible} {impossible}"
    );
}
