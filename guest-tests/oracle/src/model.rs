//! Which values each logical block may hold.
//!
//! The oracle sees when the host rings a command in and when it sees its completion; in between a
//! controller may do it at any moment, block by block. From this follows what a block may hold: a
//! write that was over before another began is gone once that other is over; of writes at the same
//! time any may have been the last. A read may return what a block held at any moment between its
//! own beginning and its end, and once it has, without a write near, that is what the block holds.

use std::collections::BTreeMap;

use crate::value::Value;

/// A moment, counted in what the host did and saw.
pub(crate) type Time = u64;
/// Not yet.
const NEVER: Time = Time::MAX;

/// A command that changes blocks, by number.
pub(crate) type WriteId = u64;

/// What became of a command that was to change blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    /// It was done.
    Done,
    /// It was refused before it changed anything.
    Refused,
    /// Any of its blocks may have been changed.
    Unknown,
}

/// A value that a block may hold.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    value: Value,
    write: WriteId,
    /// When the write was over.
    over: Time,
    /// When the block could not hold it any more.
    gone: Time,
}

/// A write in flight or not long over.
#[derive(Clone, Copy, Debug)]
struct Write {
    slba: u64,
    blocks: u64,
    begun: Time,
    /// No other command may see a part of it.
    atomic: bool,
}

/// The blocks of a namespace.
#[derive(Debug)]
pub(crate) struct Model {
    blocks: BTreeMap<u64, Vec<Candidate>>,
    writes: BTreeMap<WriteId, Write>,
}

/// What a block held in the beginning.
const FIRST: Candidate = Candidate {
    value: Value::ZERO,
    write: 0,
    over: 0,
    gone: NEVER,
};

impl Model {
    /// Blocks that hold zeroes.
    pub(crate) const fn new() -> Self {
        Self {
            blocks: BTreeMap::new(),
            writes: BTreeMap::new(),
        }
    }

    fn block(&mut self, lba: u64) -> &mut Vec<Candidate> {
        self.blocks.entry(lba).or_insert_with(|| vec![FIRST])
    }

    /// A command begins that gives blocks from `slba` the values, if they do.
    pub(crate) fn begin(
        &mut self,
        write: WriteId,
        slba: u64,
        values: impl ExactSizeIterator<Item = Value>,
        atomic: bool,
        now: Time,
    ) {
        let blocks = values.len() as u64;
        for (lba, value) in (slba..).zip(values) {
            self.block(lba).push(Candidate {
                value,
                write,
                over: NEVER,
                gone: NEVER,
            });
        }
        let record = Write {
            slba,
            blocks,
            begun: now,
            atomic,
        };
        self.writes.insert(write, record);
    }

    /// A command that changes blocks from `slba` is over.
    pub(crate) fn end(&mut self, write: WriteId, slba: u64, blocks: u64, fate: Fate, now: Time) {
        let begun = self.writes.get(&write).map_or(now, |record| record.begun);
        if fate != Fate::Done
            && let Some(record) = self.writes.get_mut(&write)
        {
            // AWUN speaks of writes that succeed; AWUPF is a block here.
            record.atomic = false;
        }
        for lba in slba..slba + blocks {
            let candidates = self.block(lba);
            if fate == Fate::Refused {
                candidates.retain(|candidate| candidate.write != write);
                continue;
            }
            for candidate in candidates.iter_mut() {
                if candidate.write == write {
                    candidate.over = now;
                } else if fate == Fate::Done && candidate.over < begun {
                    candidate.gone = candidate.gone.min(now);
                }
            }
        }
    }

    /// Forgets what no command that began at `oldest` or later can see.
    pub(crate) fn forget(&mut self, oldest: Time) {
        for candidates in self.blocks.values_mut() {
            candidates.retain(|candidate| candidate.gone >= oldest);
        }
        let blocks = &self.blocks;
        self.writes.retain(|&write, record| {
            (record.slba..record.slba + record.blocks).any(|lba| {
                let candidates = blocks.get(&lba).into_iter().flatten();
                candidates.into_iter().any(|c| c.write == write)
            })
        });
    }

    /// What a command that began at `begun` and ends now may have found in a block.
    pub(crate) fn legal(&self, lba: u64, begun: Time) -> Vec<Value> {
        let Some(candidates) = self.blocks.get(&lba) else {
            return vec![Value::ZERO];
        };
        let seen = candidates.iter().filter(|c| c.gone >= begun);
        let mut values: Vec<Value> = seen.map(|c| c.value).collect();
        values.sort_unstable();
        values.dedup();
        values
    }

    /// Something that began at `begun` found `value` in a block, where it may be. If no write was
    /// near, that is what the block holds.
    pub(crate) fn found(&mut self, lba: u64, value: Value, begun: Time, now: Time) {
        let candidates = self.block(lba);
        if candidates.iter().any(|c| c.over >= begun && c.over != 0) {
            return;
        }
        for candidate in candidates.iter_mut().filter(|c| c.value != value) {
            candidate.gone = candidate.gone.min(now);
        }
    }

    /// Whether blocks that one command found together show a part of an atomic write beside what
    /// it replaced; what is wrong, if so.
    pub(crate) fn torn(&self, slba: u64, values: &[Value]) -> Option<String> {
        let end = slba + values.len() as u64;
        let find = |lba: u64, value: Value| {
            let candidates = self.blocks.get(&lba)?;
            candidates
                .iter()
                .filter(|c| c.value == value)
                .max_by_key(|c| c.over)
        };
        for (lba, &value) in (slba..).zip(values) {
            let Some(new) = find(lba, value) else {
                continue;
            };
            let Some(write) = self.writes.get(&new.write).filter(|write| write.atomic) else {
                continue;
            };
            let both = write.slba.max(slba)..(write.slba + write.blocks).min(end);
            for other in both {
                let index = usize::try_from(other - slba).unwrap_or_default();
                let found = find(other, values[index]);
                if let Some(old) = found.filter(|old| old.write != new.write)
                    && old.over < write.begun
                {
                    return Some(format!(
                        "block {lba:#x} is of write {} and block {other:#x} of before it, but that \
                         write, of {} blocks from {:#x}, is atomic",
                        new.write, write.blocks, write.slba
                    ));
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Value = Value(1);
    const B: Value = Value(2);

    fn write(model: &mut Model, id: WriteId, value: Value, begun: Time, over: Time) {
        model.begin(id, 5, [value].into_iter(), false, begun);
        model.end(id, 5, 1, Fate::Done, over);
    }

    #[test]
    fn a_write_that_is_over_is_all_there_is() {
        let mut model = Model::new();
        assert_eq!(model.legal(5, 1), [Value::ZERO]);
        write(&mut model, 1, A, 1, 2);
        assert_eq!(model.legal(5, 3), [A]);
        write(&mut model, 2, B, 3, 4);
        assert_eq!(model.legal(5, 5), [B]);
    }

    #[test]
    fn writes_at_the_same_time_leave_either_and_a_read_decides() {
        let mut model = Model::new();
        model.begin(1, 5, [A].into_iter(), false, 1);
        model.begin(2, 5, [B].into_iter(), false, 2);
        model.end(1, 5, 1, Fate::Done, 3);
        model.end(2, 5, 1, Fate::Done, 4);
        assert_eq!(model.legal(5, 5), [A, B]);
        model.found(5, A, 5, 6);
        assert_eq!(model.legal(5, 7), [A]);
    }

    #[test]
    fn a_read_beside_a_write_finds_old_or_new_and_decides_nothing() {
        let mut model = Model::new();
        write(&mut model, 1, A, 1, 2);
        model.begin(2, 5, [B].into_iter(), false, 4);
        assert_eq!(model.legal(5, 3), [A, B]);
        model.found(5, A, 3, 5);
        model.end(2, 5, 1, Fate::Done, 6);
        assert_eq!(
            model.legal(5, 3),
            [A, B],
            "the read began before the write ended"
        );
        assert_eq!(model.legal(5, 7), [B]);
    }

    #[test]
    fn refused_changes_nothing_and_unknown_may() {
        let mut model = Model::new();
        model.begin(1, 5, [A].into_iter(), false, 1);
        model.end(1, 5, 1, Fate::Refused, 2);
        assert_eq!(model.legal(5, 1), [Value::ZERO]);
        model.begin(2, 5, [B].into_iter(), false, 3);
        model.end(2, 5, 1, Fate::Unknown, 4);
        assert_eq!(model.legal(5, 5), [Value::ZERO, B]);
        model.forget(6);
        assert_eq!(model.legal(5, 7), [Value::ZERO, B]);
    }

    #[test]
    fn a_part_of_an_atomic_write_is_torn_unless_a_later_one_is_there() {
        let mut model = Model::new();
        model.begin(1, 0, [Value(1), Value(2)].into_iter(), true, 1);
        model.end(1, 0, 2, Fate::Done, 2);
        model.begin(2, 0, [Value(3), Value(4)].into_iter(), true, 3);
        assert_eq!(model.torn(0, &[Value(1), Value(2)]), None);
        assert_eq!(model.torn(0, &[Value(3), Value(4)]), None);
        assert!(model.torn(0, &[Value(3), Value(2)]).is_some());
        assert!(model.torn(0, &[Value(1), Value(4)]).is_some());
        model.begin(3, 1, [Value(5)].into_iter(), true, 4);
        assert_eq!(model.torn(0, &[Value(3), Value(5)]), None);
    }
}
