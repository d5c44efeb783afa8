//! The overlap matrix: pairs of commands, sizes around the unit, offsets, boundaries, queues,
//! workers.

use nvme::{ControllerConfig, Extent, NamespaceAtomics, Tear};
use nvme_spec::FeatureId;

use crate::{
    Run, config, enabled, machine,
    overlap::{Change, Op, Overlap, Seen},
    unit,
};

/// Blocks of the unit that most of the tests have.
const UNIT: u64 = 8;

/// What a namespace promises, as the tests know it.
#[derive(Clone, Copy, Debug)]
struct Promise {
    unit: u64,
    /// Blocks between boundaries, or 0, and the first boundary.
    boundary: u64,
    offset: u64,
}

impl Promise {
    const fn of(unit: u64) -> Self {
        Self {
            unit,
            boundary: 0,
            offset: 0,
        }
    }

    fn atomics(self, multiple: bool) -> NamespaceAtomics {
        let blocks = |count: u64| u32::try_from(count).expect("small");
        let given = |count: u64| (count != 0).then(|| Extent::Blocks(blocks(count)));
        NamespaceAtomics {
            normal: given(self.unit),
            boundary: given(self.boundary),
            boundary_offset: given(self.offset),
            multiple,
            ..NamespaceAtomics::default()
        }
    }

    /// Whether a write of `nlb` blocks from `slba` is to be atomic, counted out block by block.
    fn holds(self, slba: u64, nlb: u64) -> bool {
        let crosses = self.boundary != 0
            && (slba + 1..slba + nlb)
                .any(|lba| lba >= self.offset && (lba - self.offset).is_multiple_of(self.boundary));
        nlb <= self.unit && !crosses
    }

    fn change(self, op: Op, slba: u64, nlb: u64, byte: u8) -> Change {
        Change {
            op,
            slba,
            nlb,
            byte: if op == Op::Write { byte } else { 0 },
            // Write Zeroes and Deallocate are always done whole.
            atomic: op != Op::Write || self.holds(slba, nlb),
        }
    }
}

/// Runs every pair of commands over sizes around the unit and offsets between them.
fn matrix(config: ControllerConfig, promise: Promise, tear: Tear, run: Run, rounds: usize) -> Seen {
    let unit = promise.unit;
    let sizes = [1, unit - 1, unit, unit + 1, 2 * unit];
    let most = 4 * unit + 2;
    let block = u64::from(config.namespaces[0].lba_bytes);
    let shards = config.shards;
    let mut machine = machine(config, tear, run);
    let mut overlap = Overlap::new(enabled(&mut machine), block, most, shards.max(2));
    let mut seen = Seen::default();
    let mut turn = 0;
    for first_op in [Op::Write, Op::WriteZeroes, Op::Deallocate] {
        for second_op in [Op::Write, Op::WriteZeroes, Op::Deallocate] {
            for one in sizes {
                for other in sizes {
                    for apart in [0, 1, unit / 2, unit - 1] {
                        for _ in 0..rounds {
                            turn += 1;
                            let start = 16 + (turn % 13) as u64;
                            let first = promise.change(first_op, start, one, 1);
                            let second = promise.change(second_op, start + apart, other, 2);
                            let end = (start + one).max(start + apart + other);
                            let view = (start, end - start);
                            overlap.restore(view.0, view.1);
                            let queues = [1, 2, shards.max(2)][turn % 3];
                            let found = overlap.round(&[first, second], view, queues, turn);
                            if found.broken > 0 && tear != Tear::Always {
                                panic!("{first:?} {second:?} turn {turn} {promise:?} {run:?}");
                            }
                            seen.add(found);
                        }
                    }
                }
            }
        }
    }
    seen
}

fn plain(shards: u16, blocks: u64) -> (ControllerConfig, Promise) {
    let unit = unit(u32::try_from(blocks).expect("small"));
    (config(512, shards, unit), Promise::of(blocks))
}

#[test]
fn atomic_commands_are_seen_whole_and_larger_writes_torn() {
    for shards in 1..=4 {
        for seed in 0..3 {
            let (config, promise) = plain(shards, UNIT);
            let seen = matrix(config, promise, Tear::Legal, Run::Seed(seed), 1);
            assert!(seen.torn > 50, "{shards} shards: {seen:?}");
        }
    }
}

#[test]
fn boundaries_tear_what_crosses_them() {
    for shards in [1, 3] {
        for (boundary, offset) in [(UNIT, 0), (2 * UNIT, 5), (UNIT + 3, 1)] {
            let promise = Promise {
                unit: UNIT,
                boundary,
                offset,
            };
            let config = config(512, shards, promise.atomics(false));
            let seen = matrix(config, promise, Tear::Legal, Run::Seed(5), 1);
            assert!(seen.torn > 50, "{shards} shards: {seen:?}");
        }
    }
}

#[test]
fn without_tearing_every_command_is_whole() {
    for shards in [1, 3] {
        let (config, promise) = plain(shards, UNIT);
        let seen = matrix(config, promise, Tear::Never, Run::Seed(2), 1);
        assert_eq!(seen, Seen::default(), "{shards} shards");
    }
}

/// The check on the check: a controller that breaks its promise is found out.
#[test]
fn a_controller_that_tears_atomic_writes_is_found_out() {
    for shards in [1, 3] {
        let (config, promise) = plain(shards, UNIT);
        let seen = matrix(config, promise, Tear::Always, Run::Seed(2), 1);
        assert!(seen.broken > 50, "{shards} shards: {seen:?}");
    }
}

#[test]
fn threads_keep_the_promise() {
    for shards in [1, 2, 4] {
        let (config, promise) = plain(shards, UNIT);
        let seen = matrix(config, promise, Tear::Legal, Run::Threads, 1);
        assert!(seen.torn > 0, "{shards} shards: {seen:?}");
    }
}

/// A unit of 256 KiB, above what a backend moves in one step.
#[test]
fn a_unit_of_many_steps_is_seen_whole() {
    for (shards, run) in [(1, Run::Seed(4)), (3, Run::Seed(4)), (2, Run::Threads)] {
        let promise = Promise::of(64);
        let mut config = config(4096, shards, unit(64));
        config.mdts_bytes = 2 << 20;
        let block = 4096;
        let mut machine = machine(config, Tear::Legal, run);
        let mut overlap = Overlap::new(enabled(&mut machine), block, 200, 2);
        let mut seen = Seen::default();
        for turn in 0..60 {
            let (one, other) = [(64, 64), (65, 64), (64, 80), (33, 64)][turn % 4];
            let first = promise.change(Op::Write, 3, one, 1);
            let second = promise.change(Op::Write, 3 + 31, other, 2);
            overlap.restore(3, 120);
            let queues = 2;
            let found = overlap.round(&[first, second], (3, 120), queues, turn);
            assert_eq!(
                found.broken, 0,
                "{one} and {other} blocks, turn {turn}, {run:?}"
            );
            seen.add(found);
        }
        // Threads tear it too, when the machine lets two of them run.
        let by_chance = matches!(run, Run::Threads);
        assert!(by_chance || seen.torn > 0, "{shards} shards: {seen:?}");
    }
}

/// Two overlapping writes of exactly the unit and readers between them, again and again. The
/// slow test beside it does it 100,000 times.
fn at_the_unit(rounds: usize, nlb: u64) -> Seen {
    let (config, promise) = plain(3, UNIT);
    let mut machine = machine(config, Tear::Legal, Run::Seed(9));
    let mut overlap = Overlap::new(enabled(&mut machine), 512, 32, 3);
    let mut seen = Seen::default();
    for turn in 0..rounds {
        let first = promise.change(Op::Write, 1, nlb, 1);
        let second = promise.change(Op::Write, 1 + (turn as u64 % UNIT), nlb, 2);
        overlap.restore(0, 32);
        let queues = 3;
        seen.add(overlap.round(&[first, second], (0, 32), queues, turn));
    }
    seen
}

#[test]
fn one_block_above_the_unit_is_torn_within_a_few_rounds() {
    assert_eq!(at_the_unit(500, UNIT), Seen::default());
    let seen = at_the_unit(20, UNIT + 1);
    assert!(seen.torn > 0 && seen.broken == 0, "{seen:?}");
}

#[test]
#[ignore = "slow: 100,000 overlaps"]
fn at_the_unit_nothing_is_ever_torn() {
    assert_eq!(at_the_unit(100_000, UNIT), Seen::default());
}

/// Write Atomicity Normal (0Ah) with DN set: what holds when the power fails is all that holds.
#[test]
fn disable_normal_leaves_the_power_fail_unit() {
    let atomics = NamespaceAtomics {
        normal: Some(Extent::Blocks(8)),
        power_fail: Some(Extent::Blocks(4)),
        ..NamespaceAtomics::default()
    };
    let mut machine = machine(config(512, 2, atomics), Tear::Legal, Run::Seed(3));
    let mut overlap = Overlap::new(enabled(&mut machine), 512, 16, 2);
    let torn_at = |overlap: &mut Overlap<'_>, nlb, atomic| {
        let mut seen = Seen::default();
        for turn in 0..100 {
            let first = Change {
                op: Op::Write,
                slba: 2,
                nlb,
                byte: 1,
                atomic,
            };
            let second = Change {
                slba: 12,
                nlb: 1,
                byte: 2,
                atomic: true,
                ..first
            };
            overlap.restore(0, 16);
            seen.add(overlap.round(&[first, second], (0, 16), 2, turn));
        }
        assert_eq!(seen.broken, 0, "{nlb} blocks");
        seen.torn
    };
    assert_eq!(torn_at(&mut overlap, 8, true), 0);
    let dn = |overlap: &mut Overlap<'_>, dn| {
        let fid = FeatureId::WRITE_ATOMICITY_NORMAL;
        overlap.driver.set_feature(fid, dn).expect("set");
    };
    dn(&mut overlap, 1);
    assert!(torn_at(&mut overlap, 8, false) > 0);
    assert!(torn_at(&mut overlap, 5, false) > 0);
    assert_eq!(torn_at(&mut overlap, 4, true), 0);
    dn(&mut overlap, 0);
    assert_eq!(torn_at(&mut overlap, 8, true), 0);
}

/// Multiple Atomicity Mode: what lies between boundaries is atomic by itself.
#[test]
fn parts_between_boundaries_are_whole_with_mam_and_torn_without() {
    let promise = Promise {
        unit: UNIT,
        boundary: UNIT,
        offset: 0,
    };
    let inside = |multiple| {
        let config = config(512, 2, promise.atomics(multiple));
        let mut machine = machine(config, Tear::Legal, Run::Seed(6));
        let mut overlap = Overlap::new(enabled(&mut machine), 512, 16, 2);
        let mut parts_torn = 0;
        for turn in 0..200 {
            // Four blocks, a boundary, eight blocks.
            let first = promise.change(Op::Write, 4, 12, 1);
            let second = promise.change(Op::Write, 0, 1, 2);
            overlap.restore(0, 16);
            let queues = 2;
            assert_eq!(
                overlap
                    .round(&[first, second], (0, 16), queues, turn)
                    .broken,
                0
            );
            // The reader's view again, part by part.
            for part in overlap.parts(&[4..8, 8..16]) {
                parts_torn += u32::from(part);
            }
        }
        parts_torn
    };
    assert_eq!(inside(true), 0);
    assert!(inside(false) > 10);
}
