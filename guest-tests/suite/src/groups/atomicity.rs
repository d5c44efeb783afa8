//! Atomic writes: the units that are reported hold between commands.

use alloc::vec::Vec;

use nvme_host::{Buffer, Token, command};
use nvme_spec::feature::WriteAtomicityNormal;
use nvme_spec::identify::{IdentifyController, IdentifyNamespace, NamespaceFeatures};
use nvme_spec::{FeatureId, Status};

use super::features::set;
use super::place::nlb_z;
use crate::env::IO;
use crate::{Env, Namespace, Outcome, Writes, check};

group! { "atomicity":
    namespace_units_are_ordered, "NVM 1.1 4.1.5.1",
        "With NSFEAT's NSABP set, NAWUPF is not above NAWUN, and neither is below the controller's.";
    boundaries_leave_room_for_units, "NVM 1.1 4.1.5.1",
        "Boundaries, where there are any, are no closer than the unit is long, and NABO is before the second.";
    fields_without_their_bit_are_zero, "NVM 1.1 4.1.5.1",
        "With NSFEAT's NSABP cleared, NAWUN, NAWUPF, NACWU, NABSN, NABO and NABSPF are zero.";
    single_blocks_are_whole, "NVM 1.1 2.1.4.1",
        "Reads of a block see one of the writes to it, whole, whichever queues they are on.";
    writes_within_the_unit_are_seen_whole, "NVM 1.1 2.1.4.1",
        "Reads on other queues see a write of as many blocks as the unit allows wholly or not at all.";
    overlapping_writes_within_the_unit_leave_one_whole, "NVM 1.1 2.1.4.1",
        "Of two overlapping writes within the unit, one is whole afterwards, and no block of the other is between.";
    writes_above_the_unit_leave_blocks_whole, "NVM 1.1 2.1.4.1",
        "Of two overlapping writes above the unit, every block is one's or the other's.";
    power_fail_unit_holds_with_normal_disabled, "Base 2.1 5.1.25.1.6",
        "With Write Atomicity Normal's DN bit set, writes within the power fail unit are seen whole.";
}

/// How often commands are made to overlap.
const ROUNDS: u8 = 40;

/// What is promised between commands, in blocks.
struct Promise {
    unit: u64,
    /// Blocks between boundaries, or 0, and the block of the first.
    boundary: u64,
    offset: u64,
}

fn identified(
    env: &mut Env<'_>,
    ns: Namespace,
) -> Outcome<(IdentifyController, IdentifyNamespace)> {
    let controller = env.nvme.identify_controller()?;
    Ok((controller, env.nvme.identify_namespace(ns.nsid)?))
}

/// The unit that holds between commands; with `power_fail` the one for when the power fails.
fn promise(env: &mut Env<'_>, ns: Namespace, power_fail: bool) -> Outcome<Promise> {
    let (controller, namespace) = identified(env, ns)?;
    let writes = Writes::new(&controller, &namespace);
    let (unit, boundary) = match power_fail {
        false => (writes.unit, writes.boundary),
        true => (writes.unit_power_fail, writes.boundary_power_fail),
    };
    Ok(Promise {
        unit: unit.into(),
        boundary: boundary.into(),
        offset: writes.boundary_offset.into(),
    })
}

/// Each namespace with its own promise.
fn each(
    env: &mut Env<'_>,
    power_fail: bool,
    test: impl Fn(&mut Env<'_>, Namespace, &Promise) -> Outcome,
) -> Outcome {
    env.need_pairs(2)?;
    env.need_entries(4)?;
    for ns in env.namespaces().collect::<Vec<_>>() {
        let promise = promise(env, ns, power_fail)?;
        test(env, ns, &promise)?;
    }
    Ok(())
}

fn namespace_units_are_ordered(env: &mut Env<'_>) -> Outcome {
    for ns in env.namespaces() {
        let (controller, namespace) = identified(env, ns)?;
        let Writes {
            unit,
            unit_power_fail,
            ..
        } = Writes::new(&controller, &namespace);
        let (awun_z, awupf_z) = (controller.awun_z, controller.awupf_z);
        let nsid = ns.nsid;
        ensure!(
            unit_power_fail <= unit,
            "namespace {nsid}: {unit_power_fail} blocks are atomic when the power fails, and \
             {unit} between commands"
        );
        ensure!(
            unit > u32::from(awun_z),
            "namespace {nsid}: NAWUN of {unit} blocks is below AWUN {awun_z}"
        );
        ensure!(
            unit_power_fail > u32::from(awupf_z),
            "namespace {nsid}: NAWUPF of {unit_power_fail} blocks is below AWUPF {awupf_z}"
        );
    }
    Ok(())
}

fn boundaries_leave_room_for_units(env: &mut Env<'_>) -> Outcome {
    for ns in env.namespaces() {
        let (controller, namespace) = identified(env, ns)?;
        let writes = Writes::new(&controller, &namespace);
        for (name, boundary, unit) in [
            ("NABSN", writes.boundary, writes.unit),
            ("NABSPF", writes.boundary_power_fail, writes.unit_power_fail),
        ] {
            let offset = writes.boundary_offset;
            ensure!(
                boundary == 0 || (boundary >= unit && offset < boundary),
                "namespace {}: {name} of {boundary} blocks, a unit of {unit}, and NABO {offset}",
                ns.nsid
            );
        }
    }
    Ok(())
}

fn fields_without_their_bit_are_zero(env: &mut Env<'_>) -> Outcome {
    for ns in env.namespaces() {
        let (_, namespace) = identified(env, ns)?;
        let features = NamespaceFeatures::from_bits_retain(namespace.nsfeat);
        let fields = [namespace.nawun_z, namespace.nawupf_z, namespace.nacwu_z];
        ensure!(
            features.contains(NamespaceFeatures::NSABP) || fields == [0; 3],
            "namespace {}: NAWUN, NAWUPF and NACWU are {fields:?} without NSABP",
            ns.nsid
        );
    }
    Ok(())
}

/// A writer and readers of the same blocks on queues of their own, or two writers.
struct Race {
    ns: Namespace,
    slba: u64,
    blocks: u64,
    writes: [Buffer; 2],
    reads: Vec<Buffer>,
}

impl Race {
    /// Queues, and room for commands of `blocks` blocks in an area that starts at `slba`.
    fn new(env: &mut Env<'_>, ns: Namespace, slba: u64, blocks: u64) -> Outcome<Self> {
        if env.nvme.sq_tail(IO).is_none() {
            env.io()?;
            let entries = 32.min(env.context.found.queue_entries);
            env.nvme.create_pair(IO + 1, entries)?;
        }
        let bytes = blocks * ns.block_bytes;
        let writes = [env.nvme.alloc(bytes)?, env.nvme.alloc(bytes)?];
        let reads = [env.nvme.alloc(bytes)?, env.nvme.alloc(bytes)?];
        Ok(Self {
            ns,
            slba,
            blocks,
            writes,
            reads: reads.to_vec(),
        })
    }

    fn write(
        &self,
        env: &mut Env<'_>,
        qid: u16,
        slba: u64,
        which: usize,
        byte: u8,
    ) -> Outcome<Token> {
        let buffer = self.writes.get(which).copied().unwrap_or_default();
        env.nvme.fill(buffer, &[byte; 64]);
        let sqe = command::write(self.ns.nsid, slba, nlb_z(self.blocks));
        Ok(env.nvme.enqueue_data(qid, sqe, buffer)?)
    }

    /// Writes once with each of two bytes while others read; what they see is one or the other.
    fn reads_see_whole_writes(&self, env: &mut Env<'_>) -> Outcome {
        let mut before = 0;
        for round in 1..=ROUNDS {
            // Which queue writes changes, and so does the order in which both are rung.
            let (writer, reader) = if round.is_multiple_of(2) {
                (IO, IO + 1)
            } else {
                (IO + 1, IO)
            };
            let mut tokens = alloc::vec![self.write(env, writer, self.slba, 0, round)?];
            for buffer in &self.reads {
                let sqe = command::read(self.ns.nsid, self.slba, nlb_z(self.blocks));
                tokens.push(env.nvme.enqueue_data(reader, sqe, *buffer)?);
            }
            let (first, second) = if round % 4 < 2 {
                (writer, reader)
            } else {
                (reader, writer)
            };
            env.nvme.ring(first)?;
            env.nvme.ring(second)?;
            for token in tokens {
                let cqe = env.nvme.wait(token)?;
                check::status("a Write or a Read of the same blocks", cqe, Status::SUCCESS)?;
            }
            if before != 0 {
                for buffer in &self.reads {
                    let data = env.copy_out(*buffer);
                    let seen = data.first().copied().unwrap_or_default();
                    ensure!(
                        [before, round].contains(&seen) && data.iter().all(|byte| *byte == seen),
                        "a Read of {} blocks from LBA {:#x} saw a part of a Write of them",
                        self.blocks,
                        self.slba
                    );
                }
            }
            before = round;
        }
        Ok(())
    }

    /// Two writes that begin `apart` blocks from each other; the bytes of each block afterwards,
    /// each block's checked to be alike.
    fn two_writes(&self, env: &mut Env<'_>, apart: u64, round: u8) -> Outcome<Vec<u8>> {
        let (one, other) = if round.is_multiple_of(2) {
            (IO, IO + 1)
        } else {
            (IO + 1, IO)
        };
        let tokens = [
            self.write(env, one, self.slba, 0, 1)?,
            self.write(env, other, self.slba + apart, 1, 2)?,
        ];
        env.nvme.ring(one)?;
        env.nvme.ring(other)?;
        for token in tokens {
            let cqe = env.nvme.wait(token)?;
            check::status("one of two overlapping Writes", cqe, Status::SUCCESS)?;
        }
        let data = env.read_blocks(self.ns, self.slba, self.blocks + apart)?;
        let block_bytes = usize::try_from(self.ns.block_bytes).unwrap_or(1);
        let mut bytes = Vec::new();
        for block in data.chunks(block_bytes) {
            let first = block.first().copied().unwrap_or_default();
            ensure!(
                [1, 2].contains(&first) && block.iter().all(|byte| *byte == first),
                "a block is neither of the two Writes' as a whole"
            );
            bytes.push(first);
        }
        Ok(bytes)
    }

    fn free(self, env: &mut Env<'_>) {
        for buffer in self.writes.into_iter().chain(self.reads) {
            env.nvme.free(buffer);
        }
    }
}

/// As many blocks as are atomic and fit: MDTS and what is between two boundaries bound them.
fn within(env: &Env<'_>, ns: Namespace, promise: &Promise) -> u64 {
    promise.unit.min(most(env, ns)).max(1)
}

/// The most blocks of a test's command, half of what MDTS allows: some read a few more. The
/// guest's memory holds several of them.
fn most(env: &Env<'_>, ns: Namespace) -> u64 {
    let most = (env.max_blocks(ns) / 2).min(ns.blocks / 4);
    most.min((2 << 20) / ns.block_bytes)
}

/// Where a write of `blocks` blocks crosses no boundary.
fn between_boundaries(promise: &Promise) -> u64 {
    promise.offset
}

fn single_blocks_are_whole(env: &mut Env<'_>) -> Outcome {
    each(env, false, |env, ns, _| {
        let race = Race::new(env, ns, 3, 1)?;
        race.reads_see_whole_writes(env)?;
        race.free(env);
        Ok(())
    })
}

fn writes_within_the_unit_are_seen_whole(env: &mut Env<'_>) -> Outcome {
    each(env, false, |env, ns, promise| {
        let blocks = within(env, ns, promise);
        // Not only where the unit would be aligned: it is a size, not a grid.
        let starts = match promise.boundary {
            0 => [0, 1],
            _ => [
                between_boundaries(promise),
                promise.offset + promise.boundary,
            ],
        };
        for slba in starts {
            let race = Race::new(env, ns, slba, blocks)?;
            race.reads_see_whole_writes(env)?;
            race.free(env);
        }
        Ok(())
    })
}

fn overlapping_writes_within_the_unit_leave_one_whole(env: &mut Env<'_>) -> Outcome {
    each(env, false, |env, ns, promise| {
        let mut blocks = within(env, ns, promise);
        // Both lie between the same two boundaries.
        let apart = if blocks > 2 { blocks / 2 } else { 0 };
        if promise.boundary != 0 {
            blocks = blocks
                .min(promise.boundary - apart.min(promise.boundary - 1))
                .max(1);
        }
        let race = Race::new(env, ns, between_boundaries(promise), blocks)?;
        for round in 0..ROUNDS {
            let apart = if round % 3 == 0 {
                0
            } else {
                apart.min(blocks - 1)
            };
            let bytes = race.two_writes(env, apart, round)?;
            let both = usize::try_from(apart).unwrap_or(0)..usize::try_from(blocks).unwrap_or(0);
            let shared = bytes.get(both).unwrap_or_default();
            ensure!(
                shared
                    .windows(2)
                    .all(|pair| matches!(pair, [a, b] if a == b)),
                "two Writes of {blocks} blocks, {apart} apart, left both in what they share: {shared:?}"
            );
        }
        race.free(env);
        Ok(())
    })
}

fn writes_above_the_unit_leave_blocks_whole(env: &mut Env<'_>) -> Outcome {
    each(env, false, |env, ns, promise| {
        let most = env
            .max_blocks(ns)
            .min(ns.blocks / 4)
            .min((2 << 20) / ns.block_bytes);
        let blocks = promise.unit + 1;
        // Both are read at once afterwards, and may begin a block apart.
        require!(
            blocks < most,
            "a Write above the unit of {} blocks is above MDTS or too large here",
            promise.unit
        );
        let race = Race::new(env, ns, 2, blocks)?;
        for round in 0..ROUNDS {
            race.two_writes(env, u64::from(round % 2), round)?;
        }
        race.free(env);
        Ok(())
    })
}

fn power_fail_unit_holds_with_normal_disabled(env: &mut Env<'_>) -> Outcome {
    let dn = WriteAtomicityNormal::new().with_dn(true);
    set(env, FeatureId::WRITE_ATOMICITY_NORMAL, dn.into())?;
    each(env, true, |env, ns, promise| {
        let blocks = within(env, ns, promise);
        let race = Race::new(env, ns, between_boundaries(promise), blocks)?;
        race.reads_see_whole_writes(env)?;
        race.free(env);
        Ok(())
    })
}
