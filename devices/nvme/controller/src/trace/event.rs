//! What a trace tells: commands and steps of the lifecycle.

use nvme_spec::{
    AdminOpcode, NvmOpcode, Sqe, Status,
    queue::{
        AbortCdw10, CreateCqCdw11, CreateSqCdw11, DsmCdw10, DsmCdw11, FUSE_FIRST, FUSE_SECOND,
        FormatCdw10, GetFeaturesCdw10, GetLogCdw10, GetLogCdw11, IdentifyCdw10, QueueCdw10,
        RwCdw12, SetFeaturesCdw10, WriteZeroesCdw12,
    },
};

use crate::lifecycle::{Event, Lifecycle};

/// A command, from its fetch to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CommandEvent {
    /// The shard that executed it.
    pub shard: u16,
    /// Its submission queue; 0 is the admin queue.
    pub sqid: u16,
    /// The entry as it was fetched.
    pub sqe: Sqe,
    /// When it was fetched, in nanoseconds of the clock that [`Watch`](super::Watch) names.
    pub fetched_ns: u64,
    /// When it ended, on the same clock; [`fetched_ns`](Self::fetched_ns) while it has not.
    pub ended_ns: u64,
    /// How.
    pub end: End,
}

/// How a command ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// It has not: only the flight recorder tells of such a command.
    Pending,
    /// Its completion was posted.
    Completed {
        /// As posted, DNR and More included.
        status: Status,
        /// Dword 0 of the completion.
        dw0: u32,
    },
    /// Nothing was posted for it, and nothing will be.
    Dropped(Dropped),
}

/// Why nothing is posted for a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dropped {
    /// A reset of the controller came first.
    Reset,
    /// Its completion queue's memory could not be written (CSTS.CFS).
    QueueFault,
    /// The controller was taken down.
    Stopped,
}

impl Dropped {
    /// Its name, one word in lower case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::QueueFault => "queue-fault",
            Self::Stopped => "stopped",
        }
    }
}

/// A field of a command, by the name that the specification gives it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Detail {
    /// In lower case, such as `slba`, `cns` or `fid`.
    pub name: &'static str,
    /// Its value; numbers that are zero-based on the wire are counts here.
    pub value: u64,
    /// It is an identifier or a mask, which people read in hexadecimal.
    pub hexadecimal: bool,
}

const fn number(name: &'static str, value: u64) -> Option<Detail> {
    Some(Detail {
        name,
        value,
        hexadecimal: false,
    })
}

const fn identifier(name: &'static str, value: u64) -> Option<Detail> {
    Some(Detail {
        name,
        value,
        hexadecimal: true,
    })
}

/// A flag is told when it is set.
const fn flag(name: &'static str, set: bool) -> Option<Detail> {
    match set {
        true => number(name, 1),
        false => None,
    }
}

/// Details that a command can have at most.
const DETAILS: usize = 6;

impl CommandEvent {
    /// The specification's name of the opcode, in capitals; `None` for one that it does not know.
    #[must_use]
    pub const fn opcode_name(&self) -> Option<&'static str> {
        match self.sqid {
            0 => AdminOpcode(self.sqe.opcode).name(),
            _ => NvmOpcode(self.sqe.opcode).name(),
        }
    }

    /// What the command asks for, field by field.
    pub fn details(&self) -> impl Iterator<Item = Detail> {
        let own = match self.sqid {
            0 => admin(&self.sqe),
            _ => io(&self.sqe),
        };
        let fuse = match self.sqe.flags.fuse() {
            0 => None,
            fuse @ (FUSE_FIRST | FUSE_SECOND) => number("fuse", fuse.into()),
            fuse => identifier("fuse", fuse.into()),
        };
        own.into_iter().chain([fuse]).flatten()
    }

    /// Its first block and how many there are, of commands that have them.
    #[must_use]
    pub fn blocks(&self) -> Option<(u64, u64)> {
        let sqe = &self.sqe;
        let has_lba = matches!(
            sqe.nvm_opcode(),
            NvmOpcode::READ
                | NvmOpcode::WRITE
                | NvmOpcode::COMPARE
                | NvmOpcode::WRITE_ZEROES
                | NvmOpcode::VERIFY
        );
        let nlb = u64::from(RwCdw12::from(sqe.cdw12).nlb_z()) + 1;
        (self.sqid != 0 && has_lba).then(|| (sqe.slba(), nlb))
    }
}

/// The fields of an I/O command.
fn io(sqe: &Sqe) -> [Option<Detail>; DETAILS] {
    match sqe.nvm_opcode() {
        NvmOpcode::WRITE_ZEROES => {
            let cdw12 = WriteZeroesCdw12::from(sqe.cdw12);
            [
                number("slba", sqe.slba()),
                number("nlb", u64::from(cdw12.nlb_z()) + 1),
                flag("deac", cdw12.deac()),
                flag("fua", cdw12.fua()),
                flag("nsz", cdw12.nsz()),
                None,
            ]
        }
        NvmOpcode::READ | NvmOpcode::WRITE | NvmOpcode::COMPARE | NvmOpcode::VERIFY => {
            let cdw12 = RwCdw12::from(sqe.cdw12);
            [
                number("slba", sqe.slba()),
                number("nlb", u64::from(cdw12.nlb_z()) + 1),
                flag("fua", cdw12.fua()),
                flag("lr", cdw12.lr()),
                None,
                None,
            ]
        }
        NvmOpcode::DATASET_MANAGEMENT => {
            let cdw11 = DsmCdw11::from(sqe.cdw11);
            [
                number("nr", u64::from(DsmCdw10::from(sqe.cdw10).nr_z()) + 1),
                flag("ad", cdw11.ad()),
                flag("idr", cdw11.idr()),
                flag("idw", cdw11.idw()),
                None,
                None,
            ]
        }
        NvmOpcode::FLUSH => [None; DETAILS],
        _ => unknown(sqe),
    }
}

/// The fields of an admin command.
fn admin(sqe: &Sqe) -> [Option<Detail>; DETAILS] {
    let queue = QueueCdw10::from(sqe.cdw10);
    let (qid, qsize) = (queue.qid().into(), u64::from(queue.qsize_z()) + 1);
    match sqe.admin_opcode() {
        AdminOpcode::CREATE_IO_CQ => {
            let cdw11 = CreateCqCdw11::from(sqe.cdw11);
            [
                number("qid", qid),
                number("qsize", qsize),
                number("iv", cdw11.iv().into()),
                flag("ien", cdw11.ien()),
                flag("pc", cdw11.pc()),
                identifier("prp1", sqe.prp1),
            ]
        }
        AdminOpcode::CREATE_IO_SQ => {
            let cdw11 = CreateSqCdw11::from(sqe.cdw11);
            [
                number("qid", qid),
                number("qsize", qsize),
                number("cqid", cdw11.cqid().into()),
                number("qprio", cdw11.qprio().into()),
                flag("pc", cdw11.pc()),
                identifier("prp1", sqe.prp1),
            ]
        }
        AdminOpcode::DELETE_IO_CQ | AdminOpcode::DELETE_IO_SQ => {
            [number("qid", qid), None, None, None, None, None]
        }
        AdminOpcode::IDENTIFY => {
            let cdw10 = IdentifyCdw10::from(sqe.cdw10);
            [
                identifier("cns", cdw10.cns_raw().into()),
                identifier("cntid", cdw10.cntid().into()),
                identifier("cdw11", sqe.cdw11.into()),
                None,
                None,
                None,
            ]
        }
        AdminOpcode::GET_LOG_PAGE => {
            let (cdw10, cdw11) = (GetLogCdw10::from(sqe.cdw10), GetLogCdw11::from(sqe.cdw11));
            let numd_z = u64::from(cdw10.numdl_z()) | u64::from(cdw11.numdu()) << 16;
            [
                identifier("lid", cdw10.lid_raw().into()),
                number("numd", numd_z + 1),
                identifier("lsp", cdw10.lsp().into()),
                flag("rae", cdw10.rae()),
                number("lpo", u64::from(sqe.cdw12) | u64::from(sqe.cdw13) << 32),
                None,
            ]
        }
        AdminOpcode::GET_FEATURES => {
            let cdw10 = GetFeaturesCdw10::from(sqe.cdw10);
            [
                identifier("fid", cdw10.fid_raw().into()),
                number("sel", cdw10.sel().into()),
                identifier("cdw11", sqe.cdw11.into()),
                None,
                None,
                None,
            ]
        }
        AdminOpcode::SET_FEATURES => {
            let cdw10 = SetFeaturesCdw10::from(sqe.cdw10);
            [
                identifier("fid", cdw10.fid_raw().into()),
                flag("sv", cdw10.sv()),
                identifier("cdw11", sqe.cdw11.into()),
                None,
                None,
                None,
            ]
        }
        AdminOpcode::ABORT => {
            let cdw10 = AbortCdw10::from(sqe.cdw10);
            [
                number("sqid", cdw10.sqid().into()),
                identifier("cid", cdw10.cid().into()),
                None,
                None,
                None,
                None,
            ]
        }
        AdminOpcode::FORMAT_NVM => {
            let cdw10 = FormatCdw10::from(sqe.cdw10);
            [
                number("lbaf", cdw10.index().into()),
                number("ses", cdw10.ses().into()),
                number("pi", cdw10.pi().into()),
                flag("mset", cdw10.mset()),
                flag("pil", cdw10.pil()),
                None,
            ]
        }
        AdminOpcode::DOORBELL_BUFFER_CONFIG => [
            identifier("prp1", sqe.prp1),
            identifier("prp2", sqe.prp2),
            None,
            None,
            None,
            None,
        ],
        AdminOpcode::ASYNC_EVENT_REQUEST | AdminOpcode::KEEP_ALIVE => [None; DETAILS],
        _ => unknown(sqe),
    }
}

/// All dwords of a command that nobody knows.
fn unknown(sqe: &Sqe) -> [Option<Detail>; DETAILS] {
    [
        identifier("cdw10", sqe.cdw10.into()),
        identifier("cdw11", sqe.cdw11.into()),
        identifier("cdw12", sqe.cdw12.into()),
        identifier("cdw13", sqe.cdw13.into()),
        identifier("cdw14", sqe.cdw14.into()),
        identifier("cdw15", sqe.cdw15.into()),
    ]
}

/// The controller was enabled, shut down, reset, or failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LifecycleEvent {
    /// When: by the watch's clock, or of the last poll where there is none, in nanoseconds.
    pub time_ns: u64,
    /// What it did before.
    pub from: Lifecycle,
    /// What happened.
    pub event: Event,
    /// What it does now.
    pub to: Lifecycle,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(sqid: u16, sqe: Sqe) -> CommandEvent {
        CommandEvent {
            shard: 0,
            sqid,
            sqe,
            fetched_ns: 0,
            ended_ns: 0,
            end: End::Pending,
        }
    }

    fn told(sqid: u16, sqe: Sqe) -> Vec<(&'static str, u64)> {
        let event = event(sqid, sqe);
        event.details().map(|d| (d.name, d.value)).collect()
    }

    #[test]
    fn an_opcode_means_what_its_queue_says() {
        let mut sqe = Sqe {
            opcode: 1,
            ..Sqe::default()
        };
        sqe.set_slba(7);
        sqe.cdw12 = RwCdw12::new().with_nlb_z(3).with_fua(true).into();
        assert_eq!(told(1, sqe), [("slba", 7), ("nlb", 4), ("fua", 1)]);
        assert_eq!(event(1, sqe).blocks(), Some((7, 4)));
        assert_eq!(event(1, sqe).opcode_name(), Some("WRITE"));
        assert_eq!(event(0, sqe).opcode_name(), Some("CREATE_IO_SQ"));
        assert_eq!(event(0, sqe).blocks(), None);
        assert_eq!(told(0, sqe)[..2], [("qid", 7), ("qsize", 1)]);
    }

    #[test]
    fn what_nobody_knows_is_told_whole() {
        let sqe = Sqe {
            opcode: 0xC5,
            cdw15: 9,
            ..Sqe::default()
        };
        for sqid in [0, 1] {
            assert_eq!(event(sqid, sqe).opcode_name(), None);
            assert_eq!(told(sqid, sqe).last(), Some(&("cdw15", 9)));
        }
    }
}
