//! What is not timed: queues, buffers with their PRPs, and whether the data was moved.
//!
//! Each 4 KiB of data begin with a stamp of eight bytes: on the namespace, one that follows from
//! the place; in buffers that are written, one that follows from the case and the buffer.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use nvme_host::{Buffer, CqConfig, Driver, Error, SqConfig, Transport, prp};

use crate::hot::{Queue, Slot};
use crate::{Case, Op, Wait};

/// Bytes from one stamp to the next.
const STAMP_EVERY: u64 = 4096;
/// Bytes of a transfer that fills the namespace, as far as MDTS allows.
const FILL: u64 = 128 << 10;
/// What stamps of the namespace follow from, besides the place.
const FILL_SALT: u64 = 0xF111;
/// Entries of a queue, as far as the controller has them.
const ENTRIES: u32 = 1024;

/// The part of a namespace that is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Area {
    pub(crate) nsid: u32,
    /// Bytes of a logical block.
    pub(crate) lba: u64,
    /// Bytes, from the start.
    pub(crate) bytes: u64,
}

/// A driver and what it drives.
pub(crate) struct Drive<'d, 't, T: Transport + ?Sized> {
    pub(crate) driver: &'d mut Driver<'t, T>,
    pub(crate) area: Area,
    /// The most data of a command in bytes.
    pub(crate) transfer: u64,
    /// I/O commands besides those that are timed.
    pub(crate) commands: u64,
}

/// Eight bytes that nothing else holds (the finaliser of splitmix64).
fn stamp(salt: u64, index: u64) -> [u8; 8] {
    let mut x = salt
        .rotate_left(40)
        .wrapping_add(index)
        .wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (x ^ (x >> 31)).to_le_bytes()
}

/// The stamp of a page of a buffer that is written.
fn written(case: u64, buffer: usize, page: u64) -> [u8; 8] {
    stamp(case, (buffer as u64) << 32 | page)
}

impl<T: Transport + ?Sized> Drive<'_, '_, T> {
    /// Writes the area with its stamps.
    pub(crate) fn fill(&mut self) -> Result<(), Error> {
        let entries = u32::from(self.driver.cap().mqes_z()) + 1;
        self.driver.create_pair(1, entries.min(64))?;
        let most = FILL.min(self.transfer);
        let buffer = self.driver.alloc(most)?;
        let mut offset = 0;
        while offset < self.area.bytes {
            let bytes = most.min(self.area.bytes - offset);
            for page in 0..bytes / STAMP_EVERY {
                let index = offset / STAMP_EVERY + page;
                let address = buffer.address + page * STAMP_EVERY;
                let stamp = stamp(FILL_SALT, index);
                self.driver.transport().mem_write(address, &stamp);
            }
            let (slba, blocks) = (offset / self.area.lba, bytes / self.area.lba);
            let data = buffer.slice(0, bytes);
            self.driver.write(1, self.area.nsid, slba, blocks, data)?;
            self.commands += 1;
            offset += bytes;
        }
        self.driver.free(buffer);
        self.delete(1)
    }

    /// Makes a case's queues, buffers and commands. `number` tells its stamps from other cases'.
    pub(crate) fn set_up(
        &mut self,
        case: &Case,
        number: u64,
        vector: u16,
    ) -> Result<(Vec<Queue>, Buffer), Error> {
        let entries = ENTRIES.min(u32::from(self.driver.cap().mqes_z()) + 1);
        let bytes = u64::from(case.bytes);
        let page = self.driver.page_bytes();
        let count = u64::from(case.depth) * u64::from(case.queues);
        let lists = prp::list_pages(bytes / page, page);
        let memory = self.driver.alloc(count * (bytes + lists * page))?;
        let mut queues = Vec::new();
        for qid in 1..=case.queues {
            self.driver.create_cq(&CqConfig {
                vector: (case.wait == Wait::Interrupt).then_some(vector),
                ..CqConfig::new(qid, entries)
            })?;
            self.driver.create_sq(&SqConfig::new(qid, qid, entries))?;
            let lane = self.driver.take_lane(qid)?;
            let mut slots = Vec::new();
            for cid in 0..case.depth {
                let index = usize::from(qid - 1) * usize::from(case.depth) + usize::from(cid);
                let buffer = memory.address + index as u64 * bytes;
                let list = memory.address + count * bytes + index as u64 * lists * page;
                let list: Vec<u64> = (0..lists).map(|at| list + at * page).collect();
                let transport = self.driver.transport();
                if case.op == Op::Write {
                    for at in 0..bytes / STAMP_EVERY {
                        let stamp = written(number, index, at);
                        transport.mem_write(buffer + at * STAMP_EVERY, &stamp);
                    }
                }
                let prps = prp::build(buffer, bytes, page, &list, |at, entries| {
                    transport.mem_write(at, entries);
                })?;
                let mut sqe = case.op.command(self.area.nsid, bytes / self.area.lba);
                (sqe.cid, sqe.prp1, sqe.prp2) = (cid, prps.prp1, prps.prp2);
                slots.push(Slot::new(sqe, buffer));
            }
            queues.push(Queue { lane, slots });
        }
        Ok((queues, memory))
    }

    /// Gives a case's queues and memory back, and looks whether the last transfers were made.
    pub(crate) fn tear_down(
        &mut self,
        case: &Case,
        number: u64,
        (queues, memory): (Vec<Queue>, Buffer),
    ) -> Result<(), String> {
        let mut slots = Vec::new();
        for queue in queues {
            self.driver.return_lane(queue.lane);
            slots.extend(queue.slots);
        }
        match case.op {
            Op::Read => self.check_reads(case, &slots)?,
            Op::Write => self
                .check_writes(case, number, &slots)
                .map_err(|error| error.to_string())??,
        }
        self.driver.free(memory);
        for qid in 1..=case.queues {
            self.delete(qid).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Whether each buffer holds what stands where its last command read.
    fn check_reads(&mut self, case: &Case, slots: &[Slot]) -> Result<(), String> {
        let pages = u64::from(case.bytes) / STAMP_EVERY;
        for slot in slots {
            for page in 0..pages {
                let mut found = [0; 8];
                let address = slot.buffer + page * STAMP_EVERY;
                self.driver.transport().mem_read(address, &mut found);
                let index = slot.place * pages + page;
                let expected = stamp(FILL_SALT, index);
                if found != expected {
                    return Err(format!(
                        "a Read of the {index}th 4 KiB gave {found:02x?}, and {expected:02x?} \
                         stands there"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Whether each place that was written last holds what one of the buffers does: two commands
    /// may have gone to the same.
    fn check_writes(
        &mut self,
        case: &Case,
        number: u64,
        slots: &[Slot],
    ) -> Result<Result<(), String>, Error> {
        let bytes = u64::from(case.bytes);
        let blocks = bytes / self.area.lba;
        let data = self.driver.alloc(bytes)?;
        for slot in slots {
            let slba = slot.place * blocks;
            self.driver.read(1, self.area.nsid, slba, blocks, data)?;
            self.commands += 1;
            for page in 0..bytes / STAMP_EVERY {
                let mut found = [0; 8];
                let address = data.address + page * STAMP_EVERY;
                self.driver.transport().mem_read(address, &mut found);
                let mut of_buffers = (0..slots.len()).map(|index| written(number, index, page));
                if !of_buffers.any(|expected| expected == found) {
                    return Ok(Err(format!(
                        "after a Write of {blocks} blocks at {slba}, page {page} reads {found:02x?}, \
                         which was in no buffer"
                    )));
                }
            }
        }
        self.driver.free(data);
        Ok(Ok(()))
    }

    fn delete(&mut self, qid: u16) -> Result<(), Error> {
        self.driver.delete_sq(qid)?;
        self.driver.delete_cq(qid)
    }
}
