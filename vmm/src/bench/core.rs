//! `ferrite bench core`: the controller in this process, from doorbell to completion.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use nvme::{AtomicUnits, ControllerConfig, Extent, NamespaceConfig};
use nvme_host::command;
use nvme_spec::Sqe;
use storage::{BlockDevice, BlockQueue, GuestRam, Op, Request, Submitted, null::Null, ram::Ram};
use vm_memory::{Bytes, GuestAddress, MmapRegion, VolatileMemory};

use super::{
    Table,
    rig::{ENTRIES, Lane, Rig},
    sample::{Case, measure},
};

/// Bytes of the namespace: more than caches hold.
const DEVICE_BYTES: u64 = 256 << 20;
/// Bytes of a logical block.
const BLOCK: u32 = 4096;
/// The case that ratios refer to.
const COPY: &str = "bare copy of 4 KiB";

/// A command to measure.
struct Work {
    name: &'static str,
    shards: u16,
    ram: bool,
    /// Bytes of a block.
    lba: u32,
    /// Bytes of a transfer; 0 for a Flush.
    bytes: u64,
    write: bool,
}

const WORK: [Work; 8] = [
    Work::new("Flush over null: fetch, decode, complete", false, 0),
    Work::new("Read of 4 KiB over null", false, 4096),
    Work::new(
        "Read of 128 KiB over null: a PRP list of 31",
        false,
        128 << 10,
    ),
    Work::new("Read of 4 KiB over RAM", true, 4096),
    Work::new("Write of 4 KiB over RAM", true, 4096).writing(BLOCK),
    Work::new("the same in blocks of 512, torn", true, 4096).writing(512),
    Work::new("Read of 4 KiB over null, 2 shards", false, 4096).on(2),
    Work::new("Read of 4 KiB over RAM, 2 shards", true, 4096).on(2),
];

impl Work {
    const fn new(name: &'static str, ram: bool, bytes: u64) -> Self {
        Self {
            name,
            shards: 1,
            ram,
            lba: BLOCK,
            bytes,
            write: false,
        }
    }

    const fn writing(self, lba: u32) -> Self {
        Self {
            write: true,
            lba,
            ..self
        }
    }

    const fn on(self, shards: u16) -> Self {
        Self { shards, ..self }
    }

    fn rig(&self) -> anyhow::Result<(Rig, Vec<Lane>)> {
        let device: Arc<dyn BlockDevice> = if self.ram {
            let ram = Ram::new(DEVICE_BYTES)?;
            fill(&ram)?;
            Arc::new(ram)
        } else {
            Arc::new(Null::new(DEVICE_BYTES))
        };
        let (mut rig, lanes) = Rig::new(ControllerConfig {
            namespaces: vec![NamespaceConfig::new(device, self.lba)],
            shards: self.shards,
            atomics: AtomicUnits {
                normal: Some(Extent::Blocks(1)),
                power_fail: None,
            },
            ..ControllerConfig::default()
        })?;
        for lane in &lanes {
            let buffers = rig.data(self.bytes.max(4096) * BUFFERS)?;
            let lists = rig.data(4096 * BUFFERS)?;
            rig.fill(lane, |slot, rig| self.command(slot, buffers, lists, rig));
        }
        Ok((rig, lanes))
    }

    fn command(&self, slot: u32, buffers: u64, lists: u64, rig: &mut Rig) -> Sqe {
        use nvme_host::Transport;
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

/// Buffers of a lane that transfers use in turn.
const BUFFERS: u64 = 64;

/// Where the command in a slot transfers from and to: a byte of the device and a buffer.
fn places(slot: u32, bytes: u64) -> (u64, u64) {
    let mixed = u64::from(slot).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
    let offset = mixed % (DEVICE_BYTES / bytes) * bytes;
    (offset, mixed % BUFFERS)
}

/// Writes a whole device, so that each block has memory of its own.
fn fill(device: &dyn BlockDevice) -> anyhow::Result<()> {
    const CHUNK: u32 = 1 << 20;
    let memory = GuestRam::from_ranges(&[(GuestAddress(0), usize::try_from(CHUNK)?)])?;
    memory.write_slice(&vec![0xA5; usize::try_from(CHUNK)?], GuestAddress(0))?;
    let memory = Arc::new(memory);
    let mut queue = device.open_queue(1)?;
    let mut request = Box::new(Request::default());
    let mut reaped = Vec::new();
    for offset in (0..DEVICE_BYTES).step_by(usize::try_from(CHUNK)?) {
        request.reset(0, Op::Write, offset, u64::from(CHUNK));
        request.push_segment(0, CHUNK);
        let mut submitted = queue.submit(request, &memory);
        (request, _) = loop {
            match submitted {
                Submitted::Done(request, result) => break (request, result?),
                Submitted::Full(_) => anyhow::bail!("a queue of one request is full of none"),
                Submitted::Pending => queue.reap(&mut reaped),
            }
            submitted = match reaped.pop() {
                Some((request, result)) => Submitted::Done(request, result),
                None => Submitted::Pending,
            };
        };
    }
    Ok(())
}

/// The floor under a read over RAM: the same bytes copied, and nothing else.
fn bare_copy() -> anyhow::Result<Box<dyn FnMut(u64) -> Duration>> {
    let device = MmapRegion::<()>::new(usize::try_from(DEVICE_BYTES)?)?;
    let buffers = MmapRegion::<()>::new(usize::try_from(BUFFERS * 4096)?)?;
    let content = vec![0xA5; device.size()];
    device.as_volatile_slice().copy_from(&content);
    let places: Vec<(usize, usize)> = (0..ENTRIES)
        .map(|slot| places(slot, 4096))
        .map(|(offset, buffer)| Ok((usize::try_from(offset)?, usize::try_from(buffer * 4096)?)))
        .collect::<anyhow::Result<_>>()?;
    let mut slot = 0;
    Ok(Box::new(move |count| {
        let start = Instant::now();
        for _ in 0..count {
            let (from, to) = places.get(slot).copied().unwrap_or_default();
            if let (Ok(from), Ok(to)) = (device.get_slice(from, 4096), buffers.get_slice(to, 4096))
            {
                from.copy_to_volatile_slice(to);
            }
            slot = (slot + 1) % places.len();
        }
        start.elapsed()
    }))
}

/// Measures every case for about `time` in all.
///
/// # Errors
/// When there is no memory for it, or a command failed that should not.
pub fn run(time: Duration) -> anyhow::Result<Table> {
    let mut rigs = WORK
        .iter()
        .map(Work::rig)
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut cases = vec![Case {
        name: COPY.to_string(),
        bytes: 4096,
        work: bare_copy()?,
    }];
    for (work, (rig, lanes)) in WORK.iter().zip(&mut rigs) {
        let lane_count = u64::from(work.shards);
        cases.push(Case {
            name: work.name.to_string(),
            bytes: if work.ram { work.bytes } else { 0 },
            work: Box::new(move |count| rig.run(lanes, count.div_ceil(lane_count))),
        });
    }
    let table = measure(cases, COPY, time);
    for (work, (rig, _)) in WORK.iter().zip(&rigs) {
        anyhow::ensure!(
            rig.errors() == 0,
            "{}: {} commands failed",
            work.name,
            rig.errors()
        );
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_is_measured_and_no_command_fails() {
        let table = run(Duration::from_millis(1)).expect("measured");
        assert_eq!(table.cases.len(), 1 + WORK.len());
        for case in &table.cases {
            assert!(case.median_ns > 0.0 && case.ratio > 0.0, "{case:?}");
        }
    }
}
