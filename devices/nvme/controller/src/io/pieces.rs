//! A write that is not atomic, cut into pieces that are executed one a poll in a seeded order, so
//! that other commands really see it half done (NVM 2.1.4).

use crate::atomicity::Unit;

/// The most pieces of a write.
const MOST: usize = 4;

/// The pieces of a torn write, in the order of their execution: bytes of the request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Pieces {
    pieces: [(u64, u64); MOST],
    count: usize,
    next: usize,
}

/// What chance decides: SplitMix64.
#[derive(Debug)]
pub(super) struct Chance(u64);

impl Chance {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `limit`, which is not 0.
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ mixed >> 31) % limit.max(1)
    }
}

impl Pieces {
    /// Cuts a write of `nlb` blocks from `slba` where `unit` lets it be torn, or anywhere without
    /// one. `None` if it is to be executed whole.
    pub(super) fn cut(
        unit: Option<&Unit>,
        slba: u64,
        nlb: u64,
        lba_shift: u32,
        chance: &mut Chance,
    ) -> Option<Self> {
        if nlb < 2 || unit.is_some_and(|unit| unit.holds(slba, nlb)) {
            return None;
        }
        let mut cuts = [nlb; MOST];
        let wanted = 1 + chance.below(MOST as u64 - 1);
        for (cut, _) in cuts.iter_mut().zip(0..wanted) {
            let wish = 1 + chance.below(nlb - 1);
            let place = unit.map_or(Some(wish), |unit| unit.cut(slba, nlb, wish));
            *cut = place.unwrap_or(nlb);
        }
        cuts.sort_unstable();
        let mut pieces = Self {
            pieces: [(0, 0); MOST],
            count: 0,
            next: 0,
        };
        let mut from = 0;
        for to in cuts {
            if to > from
                && let Some(piece) = pieces.pieces.get_mut(pieces.count)
            {
                *piece = (from << lba_shift, to << lba_shift);
                pieces.count += 1;
                from = to;
            }
        }
        let shuffled = pieces.pieces.get_mut(..pieces.count).unwrap_or_default();
        for last in (1..shuffled.len()).rev() {
            let other = usize::try_from(chance.below(last as u64 + 1)).unwrap_or_default();
            shuffled.swap(last, other);
        }
        (pieces.count > 1).then_some(pieces)
    }

    /// The next piece, bytes from and to, if there is one left.
    pub(super) fn next(&mut self) -> Option<(u64, u64)> {
        let done = self.next >= self.count;
        let piece = self.pieces.get(self.next).copied().filter(|_| !done)?;
        self.next += 1;
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [u64; 0] = [];

    fn unit(blocks: u32, boundary: u32, offset: u32, multiple: bool) -> Unit {
        Unit {
            blocks,
            boundary,
            offset,
            multiple,
        }
    }

    /// The cuts of a write under many seeds, in blocks from its start.
    fn cuts(unit: &Unit, slba: u64, nlb: u64) -> Vec<u64> {
        let mut found = std::collections::BTreeSet::<u64>::new();
        for seed in 0..500 {
            let Some(mut pieces) = Pieces::cut(Some(unit), slba, nlb, 9, &mut Chance::new(seed))
            else {
                continue;
            };
            let mut all: Vec<_> = std::iter::from_fn(|| pieces.next()).collect();
            all.sort_unstable();
            let mut end = 0;
            for (from, to) in all {
                assert!(from == end && to > from, "gap or overlap at {from}");
                found.insert(from >> 9);
                end = to;
            }
            assert_eq!(end, nlb << 9);
        }
        found.remove(&0);
        found.into_iter().collect()
    }

    #[test]
    fn within_the_unit_nothing_is_cut() {
        assert_eq!(cuts(&unit(8, 0, 0, false), 3, 8), NONE);
        assert_eq!(cuts(&unit(1, 0, 0, false), 3, 1), NONE);
        assert_eq!(cuts(&unit(65_536, 0, 0, false), 0, 65_536), NONE);
    }

    #[test]
    fn above_the_unit_any_block_is_a_cut() {
        assert_eq!(cuts(&unit(8, 0, 0, false), 3, 9), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(cuts(&unit(1, 0, 0, false), 3, 2), [1]);
    }

    #[test]
    fn over_a_boundary_any_block_is_a_cut_unless_parts_are_atomic() {
        // Boundaries at 3, 11, 19.
        assert_eq!(cuts(&unit(8, 8, 3, false), 3, 8), NONE);
        assert_eq!(cuts(&unit(8, 8, 3, false), 10, 4), [1, 2, 3]);
        assert_eq!(cuts(&unit(8, 8, 3, true), 10, 4), [1]);
        assert_eq!(cuts(&unit(8, 8, 3, true), 1, 20), [2, 10, 18]);
        // Parts of eight above a unit of four tear within; the last, of two, does not.
        let torn: Vec<u64> = (1..=16).collect();
        assert_eq!(cuts(&unit(4, 8, 0, true), 0, 18), torn);
    }

    #[test]
    fn the_order_of_the_pieces_is_by_chance() {
        let first = |seed| {
            let unit = unit(1, 0, 0, false);
            let mut pieces = Pieces::cut(Some(&unit), 0, 2, 9, &mut Chance::new(seed));
            pieces.as_mut().and_then(Pieces::next)
        };
        let firsts: std::collections::BTreeSet<_> = (0..50).map(first).collect();
        assert_eq!(firsts.len(), 2, "{firsts:?}");
        assert_eq!(first(3), first(3));
    }
}
