//! The cases of `ferrite bench core`.

use std::sync::Arc;

use nvme::{AtomicUnits, ControllerConfig, Extent, NamespaceConfig, trace::Watch};
use nvme_host::{Transport, command};
use nvme_spec::Sqe;
use storage::{BlockDevice, media::Media, null::Null, ram::Ram};

use super::rig::{Lane, Rig, Shape};
use crate::nvme::MonotonicClock;

/// Bytes of the namespace: more than caches hold.
pub(super) const DEVICE_BYTES: u64 = 256 << 20;
/// Entries of a queue, and so places of the device that commands are for: of 4 KiB each, 4 MiB.
const ENTRIES: u32 = 1024;
/// The same for 64 MiB, which caches do not hold.
const ENTRIES_WIDE: u32 = 16 * 1024;
/// Buffers of a lane that transfers use in turn.
pub(super) const BUFFERS: u64 = 64;
/// Bytes of a logical block, unless a case says so.
const BLOCK: u32 = 4096;
/// The indirection unit of the case that has one, in bytes: four blocks.
const INDIRECTION_UNIT: u32 = 16 * 1024;

/// The copies that transfers over RAM are measured against.
pub(super) const COPY: Copied = Copied {
    id: "copy-4k",
    name: "bare copy of 4 KiB",
    bytes: 4096,
    entries: ENTRIES,
};
/// The same from places that caches do not hold.
pub(super) const COPY_WIDE: Copied = Copied {
    id: "copy-4k-wide",
    name: "the same, from 16,384 places",
    entries: ENTRIES_WIDE,
    ..COPY
};
/// The same for large transfers.
pub(super) const COPY_LARGE: Copied = Copied {
    id: "copy-128k",
    name: "bare copy of 128 KiB",
    bytes: 128 << 10,
    ..COPY
};

/// A copy between a RAM disk and guest memory, and nothing else.
pub(super) struct Copied {
    pub(super) id: &'static str,
    pub(super) name: &'static str,
    pub(super) bytes: u64,
    /// The places it is from, in turn.
    pub(super) entries: u32,
}

/// A command to measure.
pub(super) struct Work {
    pub(super) id: &'static str,
    pub(super) name: &'static str,
    /// The case that its ratio refers to.
    pub(super) base: &'static str,
    pub(super) on: Behind,
    pub(super) shape: Shape,
    /// Bytes of a block.
    lba: u32,
    /// The atomic write unit, in blocks.
    unit: u32,
    /// Bytes of a transfer; 0 for a Flush.
    pub(super) bytes: u64,
    write: bool,
    watched: Watched,
}

/// How closely the controller is watched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Watched {
    Not,
    /// By the flight recorder.
    Recorded,
    /// By the flight recorder, and counted and timed.
    Counted,
}

impl Watched {
    fn watch(self) -> Watch {
        /// Commands that the flight recorder keeps, as by default.
        const RECORDER: u32 = 64;
        Watch {
            recorder: if self == Self::Not { 0 } else { RECORDER },
            statistics: self == Self::Counted,
            clock: Some(Arc::new(MonotonicClock::start())),
            ..Watch::default()
        }
    }
}

/// What is behind the namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Behind {
    Null,
    Ram,
    /// RAM behind a media model with an indirection unit.
    Media,
}

const NULL: Work = Work {
    id: "null-4k",
    name: "Read of 4 KiB over null",
    base: COPY.id,
    on: Behind::Null,
    shape: Shape {
        shards: 1,
        pairs: 1,
        entries: ENTRIES,
        depth: 32,
        shadow: false,
    },
    lba: BLOCK,
    unit: 1,
    bytes: 4096,
    write: false,
    watched: Watched::Not,
};
const RAM: Work = Work {
    id: "ram-4k",
    name: "Read of 4 KiB over RAM",
    on: Behind::Ram,
    ..NULL
};
const WRITE: Work = Work {
    id: "ram-write-4k",
    name: "Write of 4 KiB over RAM",
    write: true,
    ..RAM
};

pub(super) const WORK: [Work; 21] = [
    Work {
        id: "flush",
        name: "Flush over null: fetch, decode, complete",
        bytes: 0,
        ..NULL
    },
    NULL,
    NULL.at_depth("null-4k-depth1", "the same at depth 1", 1, NULL.id),
    NULL.at_depth("null-4k-depth256", "the same at depth 256", 256, NULL.id),
    NULL.of_64("null-4k-of64", "the same, one busy pair of 64", 32, NULL.id),
    NULL.of_64(
        "null-4k-of64-depth1",
        "the same, one busy pair of 64, depth 1",
        1,
        "null-4k-depth1",
    ),
    NULL.of_64(
        "null-4k-of64-shadow",
        "the same, one of 64, shadow doorbells",
        32,
        NULL.id,
    )
    .shadowed(),
    Work {
        id: "null-4k-recorded",
        name: "the same, with the flight recorder",
        watched: Watched::Recorded,
        base: NULL.id,
        ..NULL
    },
    Work {
        id: "null-4k-counted",
        name: "the same, recorded, counted and timed",
        watched: Watched::Counted,
        base: NULL.id,
        ..NULL
    },
    NULL.on_two("null-4k-shards2", "the same, 2 shards", NULL.id),
    Work {
        id: "null-128k",
        name: "Read of 128 KiB over null: a PRP list",
        bytes: 128 << 10,
        ..NULL
    },
    RAM,
    RAM.wide("ram-4k-wide", "the same, from 16,384 places", COPY_WIDE.id),
    RAM.at_depth("ram-4k-depth1", "the same at depth 1", 1, COPY.id),
    RAM.on_two("ram-4k-shards2", "the same, 2 shards", RAM.id),
    Work {
        id: "ram-128k",
        name: "Read of 128 KiB over RAM",
        base: COPY_LARGE.id,
        bytes: 128 << 10,
        ..RAM
    },
    WRITE,
    WRITE.in_512("ram-write-512s", "the same in blocks of 512, atomic", 8),
    WRITE.in_512("ram-write-torn", "the same in blocks of 512, torn", 1),
    Work {
        id: "media-4k",
        name: "Read of 4 KiB, media with a unit of 16 KiB",
        on: Behind::Media,
        base: RAM.id,
        ..RAM
    },
    Work {
        id: "media-write-4k",
        name: "Write of 4 KiB, media with a unit of 16 KiB",
        on: Behind::Media,
        base: WRITE.id,
        ..WRITE
    },
];

impl Work {
    const fn at_depth(
        mut self,
        id: &'static str,
        name: &'static str,
        depth: u32,
        base: &'static str,
    ) -> Self {
        self.shape.depth = depth;
        Self {
            id,
            name,
            base,
            ..self
        }
    }

    const fn of_64(
        mut self,
        id: &'static str,
        name: &'static str,
        depth: u32,
        base: &'static str,
    ) -> Self {
        self.shape.pairs = 64;
        self.at_depth(id, name, depth, base)
    }

    const fn wide(mut self, id: &'static str, name: &'static str, base: &'static str) -> Self {
        self.shape.entries = ENTRIES_WIDE;
        Self {
            id,
            name,
            base,
            ..self
        }
    }

    const fn shadowed(mut self) -> Self {
        self.shape.shadow = true;
        self
    }

    const fn on_two(mut self, id: &'static str, name: &'static str, base: &'static str) -> Self {
        self.shape.shards = 2;
        self.shape.pairs = 2;
        Self {
            id,
            name,
            base,
            ..self
        }
    }

    const fn in_512(self, id: &'static str, name: &'static str, unit: u32) -> Self {
        Self {
            id,
            name,
            base: WRITE.id,
            lba: 512,
            unit,
            ..self
        }
    }

    /// A controller whose queues are full of this command, over `ram` if it is to move data.
    pub(super) fn rig(&self, ram: &Arc<Ram>) -> anyhow::Result<(Rig, Vec<Lane>)> {
        let device: Arc<dyn BlockDevice> = match self.on {
            Behind::Null => Arc::new(Null::new(DEVICE_BYTES)),
            Behind::Ram => ram.clone(),
            Behind::Media => Arc::new(Media::new(ram.clone(), INDIRECTION_UNIT)?),
        };
        let config = ControllerConfig {
            namespaces: vec![NamespaceConfig::new(device, self.lba)],
            atomics: AtomicUnits {
                normal: Some(Extent::Blocks(self.unit)),
                power_fail: None,
                compare_and_write: None,
            },
            watch: self.watched.watch(),
            ..ControllerConfig::default()
        };
        let (mut rig, lanes) = Rig::new(config, self.shape)?;
        for lane in &lanes {
            let buffers = rig.data(self.bytes.max(4096) * BUFFERS)?;
            let lists = rig.data(4096 * BUFFERS)?;
            rig.fill(lane, |slot, rig| self.command(slot, buffers, lists, rig));
        }
        Ok((rig, lanes))
    }

    fn command(&self, slot: u32, buffers: u64, lists: u64, rig: &mut Rig) -> Sqe {
        if self.bytes == 0 {
            return command::flush(1);
        }
        let (offset, buffer) = places(slot, self.bytes);
        let slba = offset / u64::from(self.lba);
        let nlb_z = u16::try_from(self.bytes / u64::from(self.lba) - 1).unwrap_or_default();
        let mut sqe = if self.write {
            command::write(1, slba, nlb_z)
        } else {
            command::read(1, slba, nlb_z)
        };
        sqe.prp1 = buffers + buffer * self.bytes;
        if self.bytes > 4096 {
            sqe.prp2 = lists + buffer * 4096;
            for page in 1..self.bytes / 4096 {
                let entry = (sqe.prp1 + page * 4096).to_le_bytes();
                rig.mem_write(sqe.prp2 + (page - 1) * 8, &entry);
            }
        }
        sqe
    }
}

/// Where the command in a slot transfers from and to: a byte of the device and a buffer.
pub(super) fn places(slot: u32, bytes: u64) -> (u64, u64) {
    let mixed = u64::from(slot).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
    let offset = mixed % (DEVICE_BYTES / bytes) * bytes;
    (offset, mixed % BUFFERS)
}
