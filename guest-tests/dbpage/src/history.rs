//! Whether what is seen can be: is there an order of the writes, each done wholly or not at all,
//! that leaves exactly this?
//!
//! Of two writes whose pages share a sector, the one that is seen there came later. And a write
//! that was over before another began came earlier. If these two relations together have a cycle
//! there is no order, and the writes on the cycle are torn: for a page half new and half old, the
//! new half says that the new write came later, and the old half that it came earlier. Without a
//! cycle there is an order. So nothing that is possible is reported, whatever sizes and places
//! pages have, and nothing impossible is missed.

use std::collections::HashMap;

use crate::crc::Crc;
use crate::findings::{Finding, Part};
use crate::journal::Record;
use crate::page::{self, Found, SECTOR, SECTOR_LEN, Write};
use crate::version::Version;

/// In place of a write's number: the sector is of none.
const NONE: u32 = u32::MAX;

/// What was seen in sectors beside each other.
pub struct Seen {
    region: u64,
    first: u64,
    /// For each sector the number of its write.
    sectors: Vec<u32>,
    writes: Vec<Write>,
    /// The checksum that each write's sectors say its page has.
    checksums: Vec<u32>,
    numbers: HashMap<Write, u32>,
    odd: Vec<Finding>,
    /// The page whose sectors were seen from its first on, with its checksum thus far.
    whole: Option<(u32, Crc)>,
}

impl Seen {
    /// Nothing yet; the first sector is this many bytes from the target's beginning.
    #[must_use]
    pub fn new(region: u64, first: u64) -> Self {
        Self {
            region,
            first,
            sectors: Vec::new(),
            writes: Vec::new(),
            checksums: Vec::new(),
            numbers: HashMap::new(),
            odd: Vec::new(),
            whole: None,
        }
    }

    /// How many writes are seen, [`crate::region::init`]'s among them.
    #[must_use]
    pub fn writes(&self) -> &[Write] {
        &self.writes
    }

    /// Sectors.
    #[must_use]
    pub fn sectors(&self) -> usize {
        self.sectors.len()
    }

    fn at(&self) -> u64 {
        self.offset_of(self.sectors.len())
    }

    fn offset_of(&self, sector: usize) -> u64 {
        self.first + u64::try_from(sector).unwrap_or_default() * SECTOR
    }

    /// Adds sectors that follow those before.
    pub fn add(&mut self, bytes: &[u8]) {
        for sector in bytes.chunks_exact(SECTOR_LEN) {
            let at = self.at();
            let number = match page::examine(sector, self.region, at) {
                Found::Part(write, checksum) => self.number(write, checksum),
                Found::Misplaced(write) => {
                    self.odd(at, Some(write), |part| Finding::Misplaced { part })
                }
                Found::Corrupt => self.odd(at, None, |part| Finding::Corrupt { part }),
                Found::Foreign => self.odd(at, None, |part| Finding::Foreign { part }),
            };
            self.check_page(number, at, sector);
            self.sectors.push(number);
        }
    }

    fn number(&mut self, write: Write, checksum: u32) -> u32 {
        let Some(&number) = self.numbers.get(&write) else {
            // A region's sectors are far fewer than 32 bits count.
            let number = u32::try_from(self.writes.len()).unwrap_or(NONE);
            self.writes.push(write);
            self.checksums.push(checksum);
            self.numbers.insert(write, number);
            return number;
        };
        number
    }

    /// Notes a sector that is of no write, with the one before if that is the same.
    fn odd(&mut self, at: u64, holds: Option<Write>, kind: fn(Part) -> Finding) -> u32 {
        let part = |offset, bytes| Part {
            offset,
            bytes,
            holds,
        };
        if let Some(last) = self.odd.last_mut()
            && let Some(before) = last.part()
            && before.offset + before.bytes == at
            && *last == kind(part(before.offset, before.bytes))
        {
            *last = kind(part(before.offset, before.bytes + SECTOR));
        } else {
            self.odd.push(kind(part(at, SECTOR)));
        }
        NONE
    }

    /// Follows the checksum of a page all of whose sectors are there.
    fn check_page(&mut self, number: u32, at: u64, sector: &[u8]) {
        let Some(write) = self.write(number) else {
            self.whole = None;
            return;
        };
        if at == write.offset {
            self.whole = Some((number, Crc::default()));
        }
        let Some((_, crc)) = self.whole.as_mut().filter(|(of, _)| *of == number) else {
            self.whole = None;
            return;
        };
        page::update(crc, sector);
        if at + SECTOR == write.end() {
            let index = usize::try_from(number).unwrap_or_default();
            if self.checksums.get(index) != Some(&crc.value()) {
                self.odd.push(Finding::Checksum { write });
            }
            self.whole = None;
        }
    }

    fn write(&self, number: u32) -> Option<Write> {
        let index = usize::try_from(number).ok()?;
        self.writes.get(index).copied()
    }

    /// The numbers of the sectors that are seen of a page.
    fn range(&self, write: &Write) -> std::ops::Range<usize> {
        let sector = |offset: u64| {
            let sector = offset.saturating_sub(self.first) / SECTOR;
            usize::try_from(sector).map_or(self.sectors.len(), |s| s.min(self.sectors.len()))
        };
        sector(write.offset)..sector(write.end())
    }

    /// What a page holds.
    fn parts(&self, write: &Write) -> Vec<Part> {
        let mut parts: Vec<Part> = Vec::new();
        for sector in self.range(write) {
            let holds = self.sectors.get(sector).and_then(|n| self.write(*n));
            match parts.last_mut() {
                Some(last) if last.holds == holds => last.bytes += SECTOR,
                _ => parts.push(Part {
                    offset: self.offset_of(sector),
                    bytes: SECTOR,
                    holds,
                }),
            }
        }
        parts
    }

    /// What cannot be, given what was recorded. `run` is the last run there was: writes of those
    /// before are over.
    #[must_use]
    pub fn judge(&self, record: &Record, run: u32) -> Vec<Finding> {
        let ends: HashMap<Write, Version> = record.acknowledged.iter().copied().collect();
        let over = |write: &Write| {
            let of_run = (write.version.run() < u64::from(run)).then(|| write.version.end_of_run());
            ends.get(write).copied().or(of_run)
        };
        let over: Vec<Option<Version>> = self.writes.iter().map(over).collect();
        let mut findings = self.odd.clone();
        findings.extend(self.torn(&over));
        findings.extend(self.lost(record, &over));
        findings
    }

    fn torn(&self, over: &[Option<Version>]) -> Vec<Finding> {
        let order = Order::of(self, over);
        let groups = crate::cycles::find(order.len(), |node, nth| order.after(node, nth));
        let mut torn = Vec::new();
        for group in groups {
            let writes = group.iter().filter_map(|node| self.writes.get(*node));
            let mut among: Vec<Write> = writes.copied().collect();
            among.sort_unstable();
            let before = torn.len();
            torn.extend(
                among
                    .iter()
                    .filter_map(|write| self.torn_alone(write, over)),
            );
            if let [_, .., newest] = among.as_slice()
                && torn.len() == before
            {
                torn.push((*newest, among));
            }
        }
        torn.sort_by_key(|(write, _)| (write.offset, write.version));
        let described = torn.into_iter().map(|(write, among)| Finding::Torn {
            write,
            parts: self.parts(&write),
            among,
        });
        described.collect()
    }

    /// The writes before this one that its page holds parts of: with it, if there are any.
    /// A cycle leads through all that happened between two writes; these are what is torn.
    fn torn_alone(&self, write: &Write, over: &[Option<Version>]) -> Option<(Write, Vec<Write>)> {
        let mut among: Vec<Write> = Vec::new();
        for part in self.parts(write) {
            let Some(other) = part.holds.filter(|other| other.version < write.version) else {
                continue;
            };
            let number = self.numbers.get(&other).copied();
            let index = number.and_then(|number| usize::try_from(number).ok());
            let end = index.and_then(|index| over.get(index).copied().flatten());
            let is_over = end.is_some_and(|end| end < write.version);
            let mut sectors = self.sectors.get(self.range(&other)).into_iter().flatten();
            if is_over || sectors.any(|number| self.write(*number) == Some(*write)) {
                among.push(other);
            }
        }
        if among.is_empty() {
            return None;
        }
        among.push(*write);
        among.sort_unstable();
        among.dedup();
        Some((*write, among))
    }

    fn lost(&self, record: &Record, over: &[Option<Version>]) -> Vec<Finding> {
        if record.durable.is_empty() {
            return Vec::new();
        }
        // Of the durable writes of each sector the last to begin: what is there must not have
        // been over before.
        let mut durable = record.durable.clone();
        durable.sort_unstable();
        let mut newest: Vec<Option<Write>> = vec![None; self.sectors.len()];
        for write in durable {
            let sectors = newest.get_mut(self.range(&write)).unwrap_or_default();
            sectors.fill(Some(write));
        }
        let mut lost: Vec<(Write, Part)> = Vec::new();
        for (sector, (number, newest)) in self.sectors.iter().zip(newest).enumerate() {
            let (Some(there), Some(newest)) = (self.write(*number), newest) else {
                continue;
            };
            let index = usize::try_from(*number).unwrap_or_default();
            let end = over.get(index).copied().flatten();
            if end.is_none_or(|end| end > newest.version) {
                continue;
            }
            let offset = self.offset_of(sector);
            match lost.last_mut() {
                Some((write, part))
                    if *write == newest
                        && part.holds == Some(there)
                        && part.offset + part.bytes == offset =>
                {
                    part.bytes += SECTOR;
                }
                _ => lost.push((
                    newest,
                    Part {
                        offset,
                        bytes: SECTOR,
                        holds: Some(there),
                    },
                )),
            }
        }
        let lost = lost.into_iter();
        lost.map(|(write, part)| Finding::Lost { write, part })
            .collect()
    }
}

impl Finding {
    fn part(&self) -> Option<Part> {
        match self {
            Self::Corrupt { part } | Self::Foreign { part } | Self::Misplaced { part } => {
                Some(*part)
            }
            _ => None,
        }
    }
}

/// What came before what, as a graph. Its nodes are the writes, and after them their ends in
/// order of time: from a write to its end, from an end to the next and to the writes that began
/// in between. So all pairs of time take as many edges as there are writes.
struct Order<'a> {
    seen: &'a Seen,
    /// Ends of writes, in order.
    ends: Vec<Version>,
    /// For each write the number of its end.
    end_of: Vec<Option<usize>>,
    /// Writes in the order they began.
    begun: Vec<usize>,
    /// For each end the first of `begun` that is after it.
    next: Vec<usize>,
}

impl<'a> Order<'a> {
    fn of(seen: &'a Seen, over: &[Option<Version>]) -> Self {
        let mut ends: Vec<Version> = over.iter().flatten().copied().collect();
        ends.sort_unstable();
        ends.dedup();
        let end_of = |end: &Option<Version>| end.and_then(|end| ends.binary_search(&end).ok());
        let end_of = over.iter().map(end_of).collect();
        let version = |write: &usize| seen.writes.get(*write).map(|write| write.version);
        let mut begun: Vec<usize> = (0..seen.writes.len()).collect();
        begun.sort_unstable_by_key(version);
        let next = ends
            .iter()
            .map(|end| begun.partition_point(|write| version(write) <= Some(*end)))
            .collect();
        Self {
            seen,
            ends,
            end_of,
            begun,
            next,
        }
    }

    fn len(&self) -> usize {
        self.seen.writes.len() + self.ends.len()
    }

    /// The `nth` node that comes after this one: `None` after the last, `Some(None)` for none.
    fn after(&self, node: usize, nth: usize) -> Option<Option<usize>> {
        let writes = self.seen.writes.len();
        if let Some(write) = self.seen.writes.get(node) {
            let mut range = self.seen.range(write);
            return match range.nth(nth) {
                Some(sector) => {
                    let number = self.seen.sectors.get(sector).copied();
                    let number = number.and_then(|n| usize::try_from(n).ok());
                    Some(number.filter(|n| *n < writes && *n != node))
                }
                None if nth == self.seen.range(write).len() => Some(
                    self.end_of
                        .get(node)
                        .copied()
                        .flatten()
                        .map(|end| writes + end),
                ),
                None => None,
            };
        }
        let end = node - writes;
        if nth == 0 {
            return Some((end + 1 < self.ends.len()).then_some(node + 1));
        }
        let first = self.next.get(end).copied()?;
        let last = self.next.get(end + 1).copied();
        let among = self.begun.get(first..last.unwrap_or(self.begun.len()))?;
        among.get(nth - 1).map(|write| Some(*write))
    }
}

#[cfg(test)]
#[path = "history_tests.rs"]
mod tests;
