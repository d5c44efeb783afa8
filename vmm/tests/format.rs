//! Format NVM goes round all block sizes under commands on several queues and shards: each command
//! is of one format, the one of before or the one after, and no data comes over.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

#[path = "support/seeds.rs"]
mod seeds;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ferrite::nvme::{
    WaitPolicy,
    inprocess::{InProcess, Schedule},
};
use nvme::{ControllerConfig, NamespaceConfig};
use nvme_host::{Buffer, Config, Driver, Token, command};
use nvme_spec::{Sqe, Status, queue::FormatCdw10};
use seeds::Seeds;
use storage::ram::Ram;

/// Bytes of a block in each format.
const SIZES: [usize; 4] = [512, 4096, 16384, 65536];
/// Blocks of a command, and of the area that commands are on.
const BLOCKS: usize = 4;
/// Bytes of them when blocks are largest: all buffers have room for that.
const ROOM: usize = BLOCKS * 65536;
const QUEUES: u16 = 4;
/// What buffers for reads hold before, which nothing is written of.
const GUARD: u8 = 0xA5;

fn config(shards: u16) -> ControllerConfig {
    let device = Arc::new(Ram::new(8 << 20).expect("memory"));
    ControllerConfig {
        namespaces: vec![NamespaceConfig {
            formats: SIZES
                .map(|size| u32::try_from(size).expect("small"))
                .to_vec(),
            ..NamespaceConfig::new(device, 512)
        }],
        shards,
        ..ControllerConfig::default()
    }
}

/// A command in flight: its data, and what it writes, if it does.
struct Flying {
    token: Token,
    buffer: Buffer,
    writes: Option<u8>,
}

/// The host: all that it has written since the namespace was last erased for certain.
struct Host<'d, 't> {
    driver: &'d mut Driver<'t, InProcess>,
    buffers: Vec<Buffer>,
    /// Bytes that a block may hold.
    values: BTreeSet<u8>,
    next: u8,
    done: u64,
    refused: u64,
}

impl Host<'_, '_> {
    /// A byte that was not written for long.
    fn value(&mut self) -> u8 {
        self.next = self.next % 100 + 1;
        self.next
    }

    /// Sends a Write and a Read of the area on each queue, as far as they have no buffers yet.
    fn send(&mut self, how: usize, flying: &mut Vec<Flying>) {
        for qid in 1..=QUEUES {
            let write = (how + usize::from(qid)).is_multiple_of(2);
            let buffer = self.buffers.pop().expect("a buffer");
            let byte = if write { self.value() } else { GUARD };
            self.driver.fill(buffer, &[byte; 4096]);
            let nlb_z = u16::try_from(BLOCKS - 1).expect("few");
            let sqe = match write {
                true => command::write(1, 0, nlb_z),
                false => command::read(1, 0, nlb_z),
            };
            let token = self.driver.submit_data(qid, sqe, buffer).expect("sent");
            let writes = write.then_some(byte);
            flying.push(Flying {
                token,
                buffer,
                writes,
            });
        }
    }

    /// Waits for commands, and judges what was read. `sizes` are those that blocks may have; commands
    /// are refused only `beside` a Format NVM.
    fn judge(&mut self, flying: Vec<Flying>, sizes: &[usize], beside: bool) -> Result<(), String> {
        self.values.extend(flying.iter().filter_map(|f| f.writes));
        for Flying {
            token,
            buffer,
            writes,
        } in flying
        {
            let cqe = self.driver.wait(token).map_err(|error| error.to_string())?;
            let status = cqe.status();
            self.done += u64::from(status.is_success());
            self.refused += u64::from(!status.is_success());
            let refused = beside && status.same_code(Status::FORMAT_IN_PROGRESS);
            if !status.is_success() && !refused {
                return Err(format!("status {status:?}, blocks of {sizes:?}"));
            }
            let mut data = vec![0; ROOM];
            self.driver.copy_from(buffer, &mut data);
            self.buffers.push(buffer);
            if writes.is_some() {
                continue;
            }
            let end = data
                .iter()
                .rposition(|&byte| byte != GUARD)
                .map_or(0, |last| last + 1);
            let size = end / BLOCKS;
            if status.is_success() != (end > 0) || (end > 0 && !sizes.contains(&size)) {
                return Err(format!(
                    "{end} bytes of {BLOCKS} blocks of {sizes:?}, status {status:?}"
                ));
            }
            for block in data[..end].chunks(size.max(1)) {
                let first = block[0];
                if (first != 0 && !self.values.contains(&first))
                    || block.iter().any(|&byte| byte != first)
                {
                    return Err(format!("blocks of {size}: one begins with {first:#x}"));
                }
            }
        }
        Ok(())
    }
}

/// Formats `rounds` times, each time with commands that came before it, beside it and after it.
fn rounds(machine: &mut InProcess, rounds: usize) -> Result<(u64, u64), String> {
    let mut driver = Driver::new(machine).expect("a controller");
    driver.enable(&Config::default()).expect("enabled");
    for qid in 1..=QUEUES {
        driver.create_pair(qid, 16).expect("queues");
    }
    let buffers = (0..3 * QUEUES)
        .map(|_| driver.alloc(ROOM as u64).expect("memory"))
        .collect();
    let mut host = Host {
        driver: &mut driver,
        buffers,
        values: BTreeSet::new(),
        next: 0,
        done: 0,
        refused: 0,
    };
    let mut size = SIZES[0];
    for round in 0..rounds {
        // Not in order, and and now and then the same again.
        let index = (round * 7 + round / 4) % SIZES.len();
        let mut flying = Vec::new();
        host.send(round, &mut flying);
        let how = FormatCdw10::new().with_index(u8::try_from(index).expect("few"));
        let format: Sqe = command::format_nvm(1, how);
        let format = host.driver.submit(0, format).expect("sent");
        host.send(round / 2, &mut flying);
        for _ in 0..round % 5 {
            host.driver.process(0).expect("alive");
        }
        host.send(round / 3, &mut flying);
        host.judge(flying, &[size, SIZES[index]], true)?;
        let cqe = host
            .driver
            .wait(format)
            .map_err(|error| error.to_string())?;
        if !cqe.status().is_success() {
            return Err(format!("Format NVM: {:?}", cqe.status()));
        }
        size = SIZES[index];
        let identify = host
            .driver
            .identify_namespace(1)
            .map_err(|error| error.to_string())?;
        if usize::from(identify.flbas.index()) != index || identify.nsze != (8 << 20) / size as u64
        {
            return Err(format!("{:?} of {} blocks", identify.flbas, identify.nsze));
        }
        // What is there is of the commands that came late, and the next are all of this size.
        for step in 0..3 {
            let mut flying = Vec::new();
            host.send(step, &mut flying);
            host.judge(flying, &[size], false)?;
        }
        host.values.clear();
        host.driver
            .format(1, u8::try_from(index).expect("few"))
            .expect("formatted");
        let mut flying = Vec::new();
        host.send(0, &mut flying);
        host.judge(flying, &[size], false)?;
    }
    Ok((host.done, host.refused))
}

fn under_schedule(seed: u64) -> Result<u64, String> {
    let shards = u16::try_from(1 + seed % 4).expect("few");
    let schedule = Schedule::any(seed);
    let mut machine = InProcess::with_schedule(config(shards), schedule.clone()).expect("valid");
    let found =
        rounds(&mut machine, 12).map_err(|what| format!("{shards} shards, {schedule:?}: {what}"));
    found.map(|(_, refused)| refused)
}

#[test]
fn block_sizes_switch_under_commands_whatever_the_schedule() {
    let test = "block_sizes_switch_under_commands_whatever_the_schedule";
    Seeds::counted(24).run("format", test, false, under_schedule);
}

#[test]
fn block_sizes_switch_under_commands_with_threads() {
    for (shards, spin_us) in [(1, 0), (2, 0), (2, 50), (4, 20)] {
        let policy = WaitPolicy {
            spin: Duration::from_micros(spin_us),
        };
        let mut machine = InProcess::with_threads(config(shards), policy).expect("valid");
        let (done, refused) = rounds(&mut machine, 60)
            .unwrap_or_else(|what| panic!("{shards} shards, {spin_us} us: {what}"));
        println!("{shards} shards, {spin_us} us: {done} commands done, {refused} refused");
        assert!(done > 0);
    }
}
