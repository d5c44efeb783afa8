//! Data transfers, followed byte by byte by a model of PRPs that knows nothing of the controller's.

use nvme::ControllerConfig;
use nvme_spec::{
    AdminOpcode, CQE_BYTES, Cqe, LogId, NvmOpcode, SQE_BYTES, Sqe, Status,
    queue::{DsmCdw10, DsmCdw11, GetLogCdw10, RwCdw12},
    registers::{Aqa, CQE_LOG2, Cc, Register, SQE_LOG2},
};
use storage::ram::Ram;
use zerocopy::IntoBytes;

use crate::{
    commands::{Area, create_cq, create_sq, pages},
    host::entries_z,
    input::Input,
    machine::{DATA, DATA_BYTES, Machine, QUEUES, QUEUES_BYTES, namespace},
    trace,
};

/// Commands of one input.
const COMMANDS: u32 = 40;
/// Bytes of the namespace.
const DISK_BYTES: u64 = 128 << 10;
/// Entries of every queue.
const ENTRIES: u32 = 16;
/// Bytes of the Commands Supported and Effects log: a constant.
const LOG_BYTES: u64 = 4096;

/// Where the bytes of a buffer lie.
enum Walk {
    /// Address and length, in order; lengths add up to the buffer's.
    Pieces(Vec<(u64, u64)>),
    /// The first fault is after so many good bytes.
    Fault(u64),
}

/// A controller with one queue pair, and what its namespace holds.
struct Bench {
    machine: Machine,
    disk: Vec<u8>,
    lba_bytes: u64,
    mdts_bytes: u64,
    page_bytes: u64,
    /// The Commands Supported and Effects log.
    log: Vec<u8>,
    /// Tails of both submission queues, heads and phases of both completion queues.
    tails: [u32; 2],
    heads: [(u32, bool); 2],
}

/// Where a queue lies, aligned to any page size: the admin pair first.
const fn place(qid: u16, is_cq: bool) -> u64 {
    QUEUES + 0x1_0000 * (2 * qid as u64 + is_cq as u64)
}

/// Reads, writes, compares, deallocates and gets a log page with PRPs and lists of every kind: the
/// bytes land where the model says, or the command fails and no byte has moved.
pub fn prp(data: &[u8]) {
    let input = &mut Input::new(data);
    let mut bench = Bench::new(input);
    for _ in 0..COMMANDS {
        if input.is_empty() {
            break;
        }
        bench.step(input);
    }
    bench.read_all();
}

impl Bench {
    fn new(input: &mut Input<'_>) -> Self {
        let mps: u8 = input.pick(&[0, 1, 2, 3, 4]);
        let mdts_bytes = input.pick(&[128 << 10, 512 << 10, 64 << 10, 8 << 10]);
        let lba_bytes = input.pick(&[512, 4096, 8192]);
        let device = Ram::new(DISK_BYTES).expect("memory");
        let mut machine = Machine::new(ControllerConfig {
            io_queues: 1,
            queue_entries: 64,
            vectors: 2,
            mdts_bytes,
            namespaces: vec![namespace(device, lba_bytes)],
            ..ControllerConfig::default()
        });
        trace!("MPS {mps}, MDTS {mdts_bytes}, LBA {lba_bytes}");
        // Every place holds something else.
        let pattern: Vec<u8> = (0..DATA_BYTES / 8)
            .flat_map(|index| (index.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1).to_le_bytes())
            .collect();
        machine.write(DATA, &pattern);
        let aqa = Aqa::new()
            .with_asqs_z(entries_z(ENTRIES))
            .with_acqs_z(entries_z(ENTRIES));
        machine.write32(Register::Aqa, aqa.into());
        machine.write64(Register::Asq, place(0, false));
        machine.write64(Register::Acq, place(0, true));
        let cc = Cc::new()
            .with_en(true)
            .with_mps(mps)
            .with_iosqes(SQE_LOG2)
            .with_iocqes(CQE_LOG2);
        machine.write32(Register::Cc, cc.into());
        machine.settle();
        assert!(machine.csts().rdy());
        let mut bench = Self {
            machine,
            disk: vec![0; small(DISK_BYTES)],
            lba_bytes: lba_bytes.into(),
            mdts_bytes: mdts_bytes.into(),
            page_bytes: 4096 << mps,
            log: Vec::new(),
            tails: [0; 2],
            heads: [(0, true); 2],
        };
        for (is_cq, mut sqe) in [
            (true, create_cq(1, ENTRIES, 1)),
            (false, create_sq(1, ENTRIES, 1)),
        ] {
            sqe.prp1 = place(1, is_cq);
            assert_eq!(bench.execute(0, sqe), Status::SUCCESS);
        }
        let before = bench.machine.image(DATA, LOG_BYTES);
        assert_eq!(bench.execute(0, log_page(0, LOG_BYTES)), Status::SUCCESS);
        bench.log = bench.machine.image(DATA, LOG_BYTES);
        bench.machine.write(DATA, &before);
        bench
    }

    /// Submits a command and takes its completion.
    fn execute(&mut self, qid: u16, mut sqe: Sqe) -> Status {
        let queue = usize::from(qid);
        sqe.cid = 0x7E57;
        let tail = self.tails[queue];
        let at = place(qid, false) + u64::from(tail) * SQE_BYTES as u64;
        self.machine.write(at, sqe.as_bytes());
        self.tails[queue] = (tail + 1) % ENTRIES;
        self.machine.ring(qid, false, self.tails[queue]);
        self.machine.settle();
        let (head, phase) = &mut self.heads[queue];
        let mut cqe = Cqe::default();
        let at = place(qid, true) + u64::from(*head) * CQE_BYTES as u64;
        self.machine.read(at, cqe.as_mut_bytes());
        assert_eq!(cqe.phase(), *phase, "no completion of {sqe:x?}");
        assert_eq!((cqe.cid, cqe.sqid), (sqe.cid, qid));
        *head = (*head + 1) % ENTRIES;
        *phase ^= *head == 0;
        let head = *head;
        self.machine.ring(qid, true, head);
        cqe.status()
    }

    /// Where a buffer lies, byte after byte (Base 4.3.1).
    fn walk(&self, prp1: u64, prp2: u64, len: u64) -> Walk {
        let page = self.page_bytes;
        let mut pieces = Vec::new();
        let mut done = len.min(page - prp1 % page);
        if !prp1.is_multiple_of(4) || !is_memory(prp1, done) {
            return Walk::Fault(0);
        }
        pieces.push((prp1, done));
        let mut at = prp2;
        let is_list = len - done > page;
        if is_list && !at.is_multiple_of(8) {
            return Walk::Fault(done);
        }
        while done < len {
            let left = len - done;
            let entry = if is_list {
                if !is_memory(at, 8) {
                    return Walk::Fault(done);
                }
                let mut entry = [0; 8];
                self.machine.read(at, &mut entry);
                u64::from_le_bytes(entry)
            } else {
                prp2
            };
            if !entry.is_multiple_of(page) {
                return Walk::Fault(done);
            }
            let ends_page = at.wrapping_add(8).is_multiple_of(page);
            if is_list && ends_page && left > page {
                at = entry;
                continue;
            }
            let bytes = left.min(page);
            if !is_memory(entry, bytes) {
                return Walk::Fault(done);
            }
            pieces.push((entry, bytes));
            done += bytes;
            at = at.wrapping_add(8);
        }
        Walk::Pieces(pieces)
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let choice = input.below(8);
        let blocks = DISK_BYTES / self.lba_bytes;
        let count = 1 + match input.below(4) {
            0 => input.below(8),
            1 => input.below(256),
            2 => self.mdts_bytes / self.lba_bytes - 1,
            _ => 0,
        };
        let count = if input.wrong() {
            count
        } else {
            count.min(blocks)
        };
        let slba = match blocks.checked_sub(count) {
            Some(room) if !input.wrong() => u64::from(input.u16()) % (room + 1),
            _ => input.number(),
        };
        match choice {
            0..=2 => self.transfer(input, NvmOpcode::READ, slba, count),
            3 | 4 => self.transfer(input, NvmOpcode::WRITE, slba, count),
            5 => self.transfer(input, NvmOpcode::COMPARE, slba, count),
            6 => self.deallocate(input),
            _ => self.get_log_page(input),
        }
    }

    fn pages(&mut self, input: &mut Input<'_>, len: u64) -> (u64, u64) {
        let (page, machine) = (self.page_bytes, &mut self.machine);
        let area = Area {
            bytes: DATA_BYTES,
            page,
        };
        pages(input, area, len, &mut |address, value| {
            machine.write(address, &value.to_le_bytes());
        })
    }

    fn transfer(&mut self, input: &mut Input<'_>, opcode: NvmOpcode, slba: u64, count: u64) {
        let len = count * self.lba_bytes;
        let (prp1, prp2) = self.pages(input, len);
        let mut sqe = Sqe {
            opcode: opcode.0,
            nsid: 1,
            prp1,
            prp2,
            ..Sqe::default()
        };
        sqe.set_slba(slba);
        let nlb_z = u16::try_from(count - 1).expect("at most 1,024");
        sqe.cdw12 = RwCdw12::new().with_nlb_z(nlb_z).into();
        let blocks = DISK_BYTES / self.lba_bytes;
        let walk = self.walk(prp1, prp2, len);
        if walk.touches_queues() {
            return;
        }
        let before = self.machine.image(DATA, DATA_BYTES);
        let status = self.execute(1, sqe);
        trace!("{sqe:x?}: {status:?}");
        let in_range = slba.checked_add(count).is_some_and(|end| end <= blocks);
        let Walk::Pieces(pieces) = walk else {
            return self.assert_refused(status, &before);
        };
        if len > self.mdts_bytes || !in_range {
            return self.assert_refused(status, &before);
        }
        let mut expected = before;
        let mut disk = small(slba * self.lba_bytes);
        let mut equal = true;
        for (address, bytes) in pieces {
            let (start, bytes) = (small(address), small(bytes));
            let memory = &mut expected[start..start + bytes];
            let stored = &mut self.disk[disk..disk + bytes];
            match opcode {
                NvmOpcode::READ => memory.copy_from_slice(stored),
                NvmOpcode::WRITE => stored.copy_from_slice(memory),
                _ => equal &= memory == stored,
            }
            disk += bytes;
        }
        let right = if equal {
            Status::SUCCESS
        } else {
            Status::COMPARE_FAILURE
        };
        assert!(status.same_code(right), "{sqe:x?}: {status:?}");
        self.assert_data(&expected, &sqe);
    }

    /// Dataset Management whose ranges lie wherever the pages are.
    fn deallocate(&mut self, input: &mut Input<'_>) {
        let count = 1 + input.below(256);
        let (prp1, prp2) = self.pages(input, count * 16);
        let blocks = DISK_BYTES / self.lba_bytes;
        let mut list = Vec::new();
        for _ in 0..count {
            let nlb = u32::from(input.u8() & 15);
            let slba = if input.wrong() {
                input.number()
            } else {
                u64::from(input.u8()) % (blocks - 15)
            };
            list.extend_from_slice(&0u32.to_le_bytes());
            list.extend_from_slice(&nlb.to_le_bytes());
            list.extend_from_slice(&slba.to_le_bytes());
        }
        let walk = self.walk(prp1, prp2, count * 16);
        if walk.touches_queues() {
            return;
        }
        if let Walk::Pieces(pieces) = &walk {
            let mut rest = &list[..];
            for &(address, bytes) in pieces {
                let (now, later) = rest.split_at(small(bytes));
                self.machine.write(address, now);
                rest = later;
            }
        }
        let sqe = Sqe {
            opcode: NvmOpcode::DATASET_MANAGEMENT.0,
            nsid: 1,
            prp1,
            prp2,
            cdw10: DsmCdw10::new()
                .with_nr_z(u8::try_from(count - 1).expect("a byte"))
                .into(),
            cdw11: DsmCdw11::new().with_ad(true).into(),
            ..Sqe::default()
        };
        // The ranges may have been written over the list.
        let walk = self.walk(prp1, prp2, count * 16);
        if walk.touches_queues() {
            return;
        }
        let before = self.machine.image(DATA, DATA_BYTES);
        let status = self.execute(1, sqe);
        trace!("{sqe:x?}: {status:?}");
        let Walk::Pieces(pieces) = walk else {
            return self.assert_refused(status, &before);
        };
        let list: Vec<u8> = pieces
            .iter()
            .flat_map(|&(address, bytes)| &before[small(address)..small(address + bytes)])
            .copied()
            .collect();
        let ranges: Vec<(u64, u64)> = list
            .chunks_exact(16)
            .map(|range| {
                let nlb = u32::from_le_bytes([range[4], range[5], range[6], range[7]]);
                let mut slba = [0; 8];
                slba.copy_from_slice(&range[8..]);
                (u64::from_le_bytes(slba), nlb.into())
            })
            .collect();
        let in_range =
            |&(slba, nlb): &(u64, u64)| slba.checked_add(nlb).is_some_and(|end| end <= blocks);
        if !ranges.iter().all(in_range) {
            return self.assert_refused(status, &before);
        }
        assert_eq!(status, Status::SUCCESS, "{sqe:x?}");
        for (slba, nlb) in ranges {
            let start = small(slba * self.lba_bytes);
            self.disk[start..start + small(nlb * self.lba_bytes)].fill(0);
        }
        self.assert_data(&before, &sqe);
    }

    /// Get Log Page of a page that is constant, with a buffer that may be longer than it.
    fn get_log_page(&mut self, input: &mut Input<'_>) {
        let len = 4
            * (1 + match input.below(3) {
                0 => input.below(256),
                1 => u64::from(input.u16()) % (self.mdts_bytes / 4),
                _ => LOG_BYTES / 4 - 1,
            });
        let offset = 4 * match input.below(3) {
            0 => 0,
            1 => u64::from(input.u16()) % (LOG_BYTES / 4),
            _ => LOG_BYTES / 4 + input.below(2),
        };
        let mut sqe = log_page(offset, len);
        (sqe.prp1, sqe.prp2) = self.pages(input, len);
        let walk = self.walk(sqe.prp1, sqe.prp2, len);
        if walk.touches_queues() {
            return;
        }
        let before = self.machine.image(DATA, DATA_BYTES);
        let status = self.execute(0, sqe);
        trace!("{sqe:x?}: {status:?}");
        let filled = LOG_BYTES.saturating_sub(offset).min(len);
        let pieces = match walk {
            _ if offset > LOG_BYTES => return self.assert_refused(status, &before),
            Walk::Fault(good) if good < filled => return self.assert_refused(status, &before),
            // What lies behind the log may be looked at or not.
            Walk::Fault(_) => return,
            Walk::Pieces(pieces) => pieces,
        };
        assert_eq!(status, Status::SUCCESS, "{sqe:x?}");
        let mut expected = before;
        let mut log = &self.log[small(offset)..small(offset + filled)];
        for (address, bytes) in pieces {
            let (now, later) = log.split_at(small(bytes).min(log.len()));
            expected[small(address)..small(address) + now.len()].copy_from_slice(now);
            log = later;
        }
        self.assert_data(&expected, &sqe);
    }

    /// A command failed as it may, and moved nothing.
    fn assert_refused(&self, status: Status, before: &[u8]) {
        let legal = [
            Status::INVALID_FIELD,
            Status::INVALID_PRP_OFFSET,
            Status::DATA_TRANSFER_ERROR,
            Status::LBA_OUT_OF_RANGE,
        ];
        assert!(
            legal.iter().any(|&legal| status.same_code(legal)),
            "{status:?}"
        );
        self.assert_data(before, &Sqe::default());
    }

    fn assert_data(&self, expected: &[u8], sqe: &Sqe) {
        let now = self.machine.image(DATA, DATA_BYTES);
        if now != expected {
            let at = now
                .iter()
                .zip(expected)
                .position(|(one, other)| one != other);
            panic!("data memory at {at:x?} after {sqe:x?}");
        }
    }

    /// The namespace holds what the model says.
    fn read_all(&mut self) {
        let chunk = self
            .mdts_bytes
            .min(64 << 10)
            .min(DATA_BYTES - self.page_bytes);
        let page = self.page_bytes;
        let list = DATA_BYTES - page;
        for index in 1..chunk.div_ceil(page) {
            let at = list + (index - 1) * 8;
            self.machine.write(at, &(DATA + index * page).to_le_bytes());
        }
        for start in (0..DISK_BYTES).step_by(small(chunk)) {
            let mut sqe = Sqe {
                opcode: NvmOpcode::READ.0,
                nsid: 1,
                prp1: DATA,
                prp2: if chunk > 2 * page { list } else { page },
                ..Sqe::default()
            };
            sqe.set_slba(start / self.lba_bytes);
            let nlb_z = u16::try_from(chunk / self.lba_bytes - 1).expect("few");
            sqe.cdw12 = RwCdw12::new().with_nlb_z(nlb_z).into();
            assert_eq!(self.execute(1, sqe), Status::SUCCESS);
            let stored = &self.disk[small(start)..small(start + chunk)];
            assert!(
                self.machine.image(DATA, chunk) == stored,
                "the namespace at {start:#x}"
            );
        }
    }
}

impl Walk {
    /// Whether data lies where the queues are: nothing can be said then.
    fn touches_queues(&self) -> bool {
        let Self::Pieces(pieces) = self else {
            return false;
        };
        pieces.iter().any(|&(address, _)| address >= QUEUES)
    }
}

/// Get Log Page of Commands Supported and Effects.
fn log_page(offset: u64, len: u64) -> Sqe {
    let dwords_z = u32::try_from(len / 4 - 1).expect("below MDTS");
    let cdw10 = GetLogCdw10::new().with_lid_raw(LogId::COMMANDS_SUPPORTED.0);
    Sqe {
        opcode: AdminOpcode::GET_LOG_PAGE.0,
        prp1: DATA,
        cdw10: cdw10
            .with_numdl_z(u16::try_from(dwords_z & 0xFFFF).expect("16 bits"))
            .into(),
        cdw11: dwords_z >> 16,
        cdw12: u32::try_from(offset).expect("small"),
        ..Sqe::default()
    }
}

/// Whether a range is memory.
fn is_memory(address: u64, bytes: u64) -> bool {
    [(DATA, DATA_BYTES), (QUEUES, QUEUES_BYTES)]
        .iter()
        .any(|&(base, size)| {
            address >= base && address - base <= size && bytes <= size - (address - base)
        })
}

fn small(value: u64) -> usize {
    usize::try_from(value).expect("small")
}
