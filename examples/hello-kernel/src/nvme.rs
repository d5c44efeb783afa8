//! The smallest driver: an admin queue pair, one I/O queue pair, one command at a time, polled.
//!
//! Section numbers are those of Base 2.1 and of the PCIe Transport 1.1.

extern crate alloc;

use alloc::string::{String, ToString};
use core::fmt;

use guest_kernel::memory::DmaPool;
use guest_kernel::mmio::Mmio;
use guest_kernel::time::Clock;
use nvme_spec::identify::{IdentifyController, IdentifyNamespace};
use nvme_spec::queue::{CreateCqCdw11, CreateSqCdw11, IdentifyCdw10, QueueCdw10};
use nvme_spec::registers::{
    Aqa, Cap, Cc, Csts, Register, Shn, Shst, cq_head_doorbell, sq_tail_doorbell,
};
use nvme_spec::{AdminOpcode, CQE_BYTES, Cns, Cqe, NvmOpcode, SQE_BYTES, Sqe, Status};
use zerocopy::{FromZeros, IntoBytes};

/// Entries of every queue, and a memory page: what every controller takes.
const ENTRIES: u16 = 16;
const PAGE: u64 = 4096;
/// How long a command may take.
const PATIENCE_NS: u64 = 5_000_000_000;

/// What went wrong.
pub enum Error {
    /// Something is missing, or does not come.
    Said(&'static str),
    /// A command failed.
    Command(Sqe, Status),
}

impl From<&'static str> for Error {
    fn from(said: &'static str) -> Self {
        Self::Said(said)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Said(said) => f.write_str(said),
            Self::Command(sqe, status) => {
                write!(f, "the command with opcode {:#x}: {status:?}", sqe.opcode)
            }
        }
    }
}

/// A submission queue and the completion queue of the same identifier.
struct Pair {
    sq: u64,
    cq: u64,
    sq_doorbell: u64,
    cq_doorbell: u64,
    tail: u16,
    head: u16,
    /// The phase tag of entries that are new; it flips with each round of the ring (4.2.1).
    phase: bool,
}

/// A controller with its driver.
pub struct Nvme<'m> {
    registers: Mmio,
    memory: &'m mut DmaPool,
    clock: &'m Clock,
    cap: Cap,
    /// By identifier; the admin queue pair is 0.
    pairs: [Option<Pair>; 2],
    /// A page that data is moved through.
    buffer: u64,
    nsid: u32,
    block_bytes: u64,
}

impl<'m> Nvme<'m> {
    /// Resets the controller and enables it with an admin queue pair (3.5.1).
    pub fn enable(
        registers: Mmio,
        memory: &'m mut DmaPool,
        clock: &'m Clock,
    ) -> Result<Self, Error> {
        let cap = Cap::from(registers.read64(Register::Cap.offset()));
        let admin = Pair::place(0, memory, cap)?;
        let (asq, acq) = (admin.sq, admin.cq);
        let buffer = memory.alloc(PAGE, PAGE).ok_or("no memory for a buffer")?;
        let nvme = Self {
            registers,
            memory,
            clock,
            cap,
            pairs: [Some(admin), None],
            buffer,
            nsid: 0,
            block_bytes: 0,
        };
        nvme.registers
            .write32(Register::Cc.offset(), Cc::new().into());
        nvme.wait(|csts| !csts.rdy(), "CSTS.RDY does not become 0")?;
        let aqa = Aqa::new().with_asqs_z(ENTRIES - 1).with_acqs_z(ENTRIES - 1);
        nvme.registers.write32(Register::Aqa.offset(), aqa.into());
        nvme.registers.write64(Register::Asq.offset(), asq);
        nvme.registers.write64(Register::Acq.offset(), acq);
        // Memory pages of 4 KiB; entries of 64 and 16 bytes.
        let cc = Cc::new().with_en(true).with_iosqes(6).with_iocqes(4);
        nvme.registers.write32(Register::Cc.offset(), cc.into());
        nvme.wait(|csts| csts.rdy(), "CSTS.RDY does not become 1")?;
        Ok(nvme)
    }

    /// Model and serial number (5.1.13.2.1).
    pub fn identify(&mut self) -> Result<(String, String), Error> {
        let mut controller = IdentifyController::new_zeroed();
        self.identify_into(Cns::CONTROLLER, 0, controller.as_mut_bytes())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_string();
        Ok((text(&controller.mn), text(&controller.sn)))
    }

    /// Makes an I/O queue pair for a namespace: its blocks, and their bytes.
    pub fn open(&mut self, nsid: u32) -> Result<(u64, u64), Error> {
        let mut namespace = IdentifyNamespace::new_zeroed();
        self.identify_into(Cns::NAMESPACE, nsid, namespace.as_mut_bytes())?;
        let format = usize::from(namespace.flbas.index());
        let format = namespace
            .lbaf
            .get(format)
            .ok_or("a format that is not there")?;
        let bytes = 1_u64 << format.lbads();
        if bytes > PAGE || namespace.nsze == 0 {
            return Err("this driver wants a namespace with blocks of at most a page".into());
        }

        let io = Pair::place(1, self.memory, self.cap)?;
        let queue = QueueCdw10::new().with_qid(1).with_qsize_z(ENTRIES - 1);
        self.admin(Sqe {
            opcode: AdminOpcode::CREATE_IO_CQ.0,
            prp1: io.cq,
            cdw10: queue.into(),
            cdw11: CreateCqCdw11::new().with_pc(true).into(),
            ..Sqe::default()
        })?;
        self.admin(Sqe {
            opcode: AdminOpcode::CREATE_IO_SQ.0,
            prp1: io.sq,
            cdw10: queue.into(),
            cdw11: CreateSqCdw11::new().with_pc(true).with_cqid(1).into(),
            ..Sqe::default()
        })?;
        self.pairs[1] = Some(io);
        (self.nsid, self.block_bytes) = (nsid, bytes);
        Ok((namespace.nsze, bytes))
    }

    /// Writes a block that begins with `data`; the rest of it is 0.
    pub fn write(&mut self, lba: u64, data: &[u8]) -> Result<(), Error> {
        self.memory.write(self.buffer, &[0; PAGE as usize]);
        self.memory.write(self.buffer, data);
        self.move_block(NvmOpcode::WRITE, lba)
    }

    /// Reads what a block begins with.
    pub fn read(&mut self, lba: u64, data: &mut [u8]) -> Result<(), Error> {
        self.move_block(NvmOpcode::READ, lba)?;
        self.memory.read(self.buffer, data);
        Ok(())
    }

    /// A normal shutdown, and off (3.6.1).
    pub fn disable(&mut self) -> Result<(), Error> {
        let cc = Cc::from(self.registers.read32(Register::Cc.offset()));
        let stop = cc.with_shn(Shn::Normal);
        self.registers.write32(Register::Cc.offset(), stop.into());
        self.wait(
            |csts| csts.shst() == Shst::Complete,
            "it does not shut down",
        )?;
        self.registers
            .write32(Register::Cc.offset(), Cc::new().into());
        self.wait(|csts| !csts.rdy(), "CSTS.RDY does not become 0")
    }

    fn identify_into(&mut self, cns: Cns, nsid: u32, data: &mut [u8]) -> Result<(), Error> {
        self.admin(Sqe {
            opcode: AdminOpcode::IDENTIFY.0,
            nsid,
            prp1: self.buffer,
            cdw10: IdentifyCdw10::new().with_cns_raw(cns.0).into(),
            ..Sqe::default()
        })?;
        self.memory.read(self.buffer, data);
        Ok(())
    }

    /// One block (CDW12: number of logical blocks, 0's based).
    fn move_block(&mut self, opcode: NvmOpcode, lba: u64) -> Result<(), Error> {
        let sqe = Sqe {
            opcode: opcode.0,
            nsid: self.nsid,
            prp1: self.buffer,
            cdw10: lba as u32,
            cdw11: (lba >> 32) as u32,
            ..Sqe::default()
        };
        self.execute(1, sqe)
    }

    fn admin(&mut self, sqe: Sqe) -> Result<(), Error> {
        self.execute(0, sqe)
    }

    /// Puts a command in a queue, tells the controller, and waits for the entry that completes it.
    fn execute(&mut self, qid: usize, sqe: Sqe) -> Result<(), Error> {
        let pair = self.pairs[qid].as_mut().ok_or("no namespace is open")?;
        let sqe = Sqe {
            cid: pair.tail,
            ..sqe
        };
        let slot = pair.sq + u64::from(pair.tail) * SQE_BYTES as u64;
        self.memory.write(slot, sqe.as_bytes());
        pair.tail = (pair.tail + 1) % ENTRIES;
        // Behind the entry in program order, which x86 keeps: the controller sees it whole.
        self.registers.write32(pair.sq_doorbell, pair.tail.into());

        let place = pair.cq + u64::from(pair.head) * CQE_BYTES as u64;
        let began = self.clock.now_ns();
        let mut cqe = Cqe::default();
        loop {
            // The dword with the phase tag last of the controller's stores, so first of our loads.
            let last = self.memory.load32(place + Cqe::LAST_DWORD);
            if (last >> 16 & 1 == 1) == pair.phase {
                break;
            }
            if self.clock.now_ns() - began > PATIENCE_NS {
                return Err("a command is not completed".into());
            }
            core::hint::spin_loop();
        }
        self.memory.read(place, cqe.as_mut_bytes());
        pair.head = (pair.head + 1) % ENTRIES;
        pair.phase ^= pair.head == 0;
        self.registers.write32(pair.cq_doorbell, pair.head.into());
        let status = cqe.status();
        if cqe.cid != sqe.cid {
            return Err("a completion of another command".into());
        }
        if !status.is_success() {
            return Err(Error::Command(sqe, status));
        }
        Ok(())
    }

    fn wait(&self, is_so: impl Fn(Csts) -> bool, else_say: &'static str) -> Result<(), Error> {
        // CAP.TO is in units of 500 ms (3.1.4.1).
        let patience = u64::from(self.cap.to()).max(1) * 500_000_000;
        let began = self.clock.now_ns();
        while !is_so(Csts::from(self.registers.read32(Register::Csts.offset()))) {
            if self.clock.now_ns() - began > patience {
                return Err(else_say.into());
            }
            core::hint::spin_loop();
        }
        Ok(())
    }
}

impl Pair {
    fn place(qid: u16, memory: &mut DmaPool, cap: Cap) -> Result<Self, Error> {
        Ok(Self {
            sq: memory.alloc(PAGE, PAGE).ok_or("no memory for a queue")?,
            cq: memory.alloc(PAGE, PAGE).ok_or("no memory for a queue")?,
            sq_doorbell: sq_tail_doorbell(qid, cap.dstrd()),
            cq_doorbell: cq_head_doorbell(qid, cap.dstrd()),
            tail: 0,
            head: 0,
            phase: true,
        })
    }
}
