//! Commands: looked at when their doorbell is rung, compared when they are fetched and again when
//! they are completed.

use std::{fmt, ops::Range};

use nvme_spec::{
    AdminOpcode, FeatureId, IDENTIFY_BYTES, Sqe,
    feature::{HostBehavior, Select, Timestamp},
    queue::{
        DsmCdw10, DsmRange, GetFeaturesCdw10, GetLogCdw10, GetLogCdw11, RwCdw12, SetFeaturesCdw10,
    },
};
use storage::GuestRam;

use super::{
    State,
    pointers::{self, Place, Pointers, Problem},
    queues::{Watched, overlap},
    report::{About, CommandId},
    reserved,
    rule::Rule,
};
use crate::{
    shared::Shared,
    table::{self, IoKind},
};

/// The identifier that the Error Information log uses for none (Base 4.1.1).
const CID_NONE: u16 = 0xFFFF;
/// Bits 1:0 of an opcode whose data comes to the host (Base 4.1.1).
const TO_HOST: u8 = 0b10;

impl State {
    /// Looks at an entry that its doorbell gives to the controller. `most` is how many entries of
    /// PRP lists may still be read for the doorbell.
    pub(super) fn look_at(
        &mut self,
        shared: &Shared,
        memory: &GuestRam,
        sqid: u16,
        sqe: &Sqe,
        most: &mut usize,
    ) -> Watched {
        let about = About::Command(CommandId::new(sqid, sqe));
        self.look_at_fields(about, sqid, sqe);
        if sqid == 0 && sqe.admin_opcode() == AdminOpcode::DOORBELL_BUFFER_CONFIG {
            self.look_at_doorbell_buffers(shared, memory, about, sqe);
        }
        let lists = match transfer_bytes(shared, sqid, sqe) {
            Some(bytes) => self.look_at_pointers(shared, memory, about, sqe, bytes, most),
            None => Vec::new(),
        };
        Watched { sqe: *sqe, lists }
    }

    /// The pages of Doorbell Buffer Config, which the controller writes too.
    fn look_at_doorbell_buffers(
        &mut self,
        shared: &Shared,
        memory: &GuestRam,
        about: About,
        sqe: &Sqe,
    ) {
        let page = shared.page_bytes();
        for (place, at) in [(Place::Prp1, sqe.prp1), (Place::Prp2, sqe.prp2)] {
            if !at.is_multiple_of(page) {
                let problem = Problem::Misaligned { to: page };
                let text = format_args!("{place} is {at:#x}, {problem}");
                self.journal
                    .report(Rule::PrpMisaligned, about, None, at, text);
            } else if !pointers::is_memory(memory, at, page) {
                let problem = Problem::Nowhere { bytes: page };
                let text = format_args!("{place} is {at:#x}, {problem}");
                self.journal.report(Rule::PrpNowhere, about, None, at, text);
            } else {
                let page = at..at + page;
                self.look_at_queues(about, std::slice::from_ref(&page));
            }
        }
    }

    /// Whether the controller is to write over a queue.
    fn look_at_queues(&mut self, about: About, data: &[Range<u64>]) {
        if let Some((data, queue)) = self.queues.first_over(data) {
            let text = format_args!(
                "data at {} lies over {} {} at {}",
                Span(&data),
                queue.kind.name(),
                queue.qid,
                Span(&queue.range)
            );
            let rule = Rule::DataOverQueue;
            self.journal.report(rule, about, None, data.start, text);
        }
    }

    fn look_at_fields(&mut self, about: About, sqid: u16, sqe: &Sqe) {
        if sqe.cid == CID_NONE {
            let (rule, cid) = (Rule::CidFfff, u64::from(CID_NONE));
            self.journal
                .report(rule, about, None, cid, format_args!("the CID is FFFFh"));
        }
        if let Some(masks) = reserved::reserved(sqid, sqe) {
            let dwords = reserved::dwords(sqe);
            let set = || {
                let pairs = dwords.iter().zip(masks).enumerate();
                pairs
                    .map(|(index, (dword, mask))| (index, dword & mask))
                    .filter(|(_, bits)| *bits != 0)
            };
            if let Some((_, first)) = set().next() {
                let list: Vec<String> = set()
                    .map(|(index, bits)| format!("{:#010x} of {}", bits, reserved::name(index)))
                    .collect();
                let text = list.join(", ");
                let rule = Rule::ReservedBitsSet;
                self.journal
                    .report(rule, about, 0, u64::from(first), format_args!("{text}"));
            }
        }
        if sqe.nsid != 0 && reserved::concerns_no_namespace(sqid, sqe) {
            self.journal.report(
                Rule::NsidNotUsed,
                about,
                0,
                u64::from(sqe.nsid),
                format_args!("NSID is {:#x}", sqe.nsid),
            );
        }
    }

    /// Follows a command's PRPs; the lists to be watched.
    fn look_at_pointers(
        &mut self,
        shared: &Shared,
        memory: &GuestRam,
        about: About,
        sqe: &Sqe,
        bytes: u64,
        most: &mut usize,
    ) -> Vec<pointers::List> {
        let room = self.queues.pointer_room().min(*most);
        let prps = [sqe.prp1, sqe.prp2];
        let found = pointers::walk(memory, shared.page_bytes(), prps, bytes, room);
        let entries: usize = found.lists.iter().map(|list| list.entries.len()).sum();
        *most = most.saturating_sub(entries);
        if let Some((place, value, problem)) = found.problem {
            let (rule, expected) = match problem {
                Problem::Nowhere { .. } => (Rule::PrpNowhere, None),
                Problem::Misaligned { .. } => (Rule::PrpMisaligned, None),
                Problem::Unused => (Rule::ReservedBitsSet, Some(0)),
            };
            let text = format_args!("{place} is {value:#x}, {problem} ({bytes} bytes of data)");
            self.journal.report(rule, about, expected, value, text);
            if problem != Problem::Unused {
                return Vec::new();
            }
        }
        if found.too_many {
            self.journal.unwatched();
            return Vec::new();
        }
        if sqe.opcode & 0b11 == TO_HOST && self.look_at_target(about, &found) {
            // It would be seen to change, and it is known why.
            return Vec::new();
        }
        found.lists
    }

    /// Whether data that comes to the host overwrites the command's own list.
    fn look_at_target(&mut self, about: About, found: &Pointers) -> bool {
        self.look_at_queues(about, &found.data);
        let mut lists: Vec<Range<u64>> = found.lists.iter().map(pointers::List::range).collect();
        lists.sort_unstable_by_key(|list| list.start);
        let hit = found.data.iter().find_map(|data| {
            let after = lists.partition_point(|list| list.end <= data.start);
            let list = lists.get(after).filter(|list| overlap(list, data))?;
            Some((data, list))
        });
        let Some((data, list)) = hit else {
            return false;
        };
        let text = format_args!(
            "data at {} lies over the command's PRP list at {}",
            Span(data),
            Span(list)
        );
        let rule = Rule::DataOverPrpList;
        self.journal.report(rule, about, None, data.start, text);
        true
    }

    /// The controller has fetched entries, the first of them at slot `first`.
    pub(super) fn fetched(&mut self, sqid: u16, first: u32, sqes: &[Sqe]) {
        let Some(entries) = self.queues.sqs.get(&sqid).map(|sq| sq.entries) else {
            return;
        };
        for (slot, sqe) in (first..).map(|slot| slot % entries).zip(sqes) {
            let (was, reused) = self.queues.fetched(sqid, slot, sqe);
            if let Some(was) = was {
                self.changed(sqid, slot, &was, sqe);
            }
            if reused {
                self.cid_reused(sqid, sqe);
            }
        }
    }

    fn changed(&mut self, sqid: u16, slot: u32, was: &Sqe, is: &Sqe) {
        let (old, new) = (reserved::dwords(was), reserved::dwords(is));
        let mut pairs = old.into_iter().zip(new).enumerate();
        let mut differing = pairs.by_ref().filter(|(_, (old, new))| old != new);
        let Some((index, (old, new))) = differing.next() else {
            return;
        };
        let more = differing.count();
        let about = About::Command(CommandId::new(sqid, was));
        let text = format_args!(
            "slot {slot}: {} was {old:#010x} when the doorbell was rung and is {new:#010x} when \
             it is fetched; {more} other dwords changed",
            reserved::name(index)
        );
        let (rule, old, new) = (Rule::SqeChanged, u64::from(old), u64::from(new));
        self.journal.report(rule, about, old, new, text);
    }

    pub(super) fn cid_reused(&mut self, sqid: u16, sqe: &Sqe) {
        let about = About::Command(CommandId::new(sqid, sqe));
        let text = format_args!("a command with this CID is not completed yet");
        let (rule, cid) = (Rule::CidReused, u64::from(sqe.cid));
        self.journal.report(rule, about, None, cid, text);
    }

    /// A completion is about to be posted.
    pub(super) fn completing(&mut self, memory: &GuestRam, sqid: u16, cqid: u16, cid: u16) {
        let Some(Watched { sqe, lists }) = self.queues.completing(sqid, cqid, cid) else {
            return;
        };
        let changed = lists.iter().find_map(|list| {
            let (index, old, new) = list.changed(memory)?;
            Some((list.at, index, old, new))
        });
        let Some((at, index, old, new)) = changed else {
            return;
        };
        let about = About::Command(CommandId::new(sqid, &sqe));
        let text = format_args!(
            "entry {index} of the list at {at:#x} was {old:#x} when the doorbell was rung and is \
             {new:#x} when the command completes"
        );
        let rule = Rule::PrpListChanged;
        self.journal.report(rule, about, old, new, text);
    }
}

/// Bytes of the data that a command moves by PRPs; `None` if there are none, or the controller
/// refuses the command before it looks at them.
fn transfer_bytes(shared: &Shared, sqid: u16, sqe: &Sqe) -> Option<u64> {
    if sqe.flags.fuse() != 0 || sqe.flags.psdt() != 0 {
        return None;
    }
    let bytes = match sqid {
        0 => match sqe.admin_opcode() {
            AdminOpcode::IDENTIFY => IDENTIFY_BYTES as u64,
            AdminOpcode::GET_LOG_PAGE => {
                let low = GetLogCdw10::from(sqe.cdw10).numdl_z();
                let high = GetLogCdw11::from(sqe.cdw11).numdu();
                ((u64::from(high) << 16 | u64::from(low)) + 1) * 4
            }
            AdminOpcode::SET_FEATURES => feature_bytes(SetFeaturesCdw10::from(sqe.cdw10).fid())?,
            AdminOpcode::GET_FEATURES => {
                let cdw10 = GetFeaturesCdw10::from(sqe.cdw10);
                if Select::from_bits(cdw10.sel())? == Select::Supported {
                    return None;
                }
                feature_bytes(cdw10.fid())?
            }
            _ => return None,
        },
        _ => match table::io_kind(sqe.nvm_opcode())? {
            IoKind::Read | IoKind::Write | IoKind::Compare => {
                let nlb = u64::from(RwCdw12::from(sqe.cdw12).nlb_z()) + 1;
                // While it is being formatted, commands are refused and move nothing.
                let format = shared.namespace(sqe.nsid)?.current().ok()?;
                format.range(sqe.slba(), nlb).ok()?.1
            }
            IoKind::DatasetManagement => {
                shared.namespace(sqe.nsid)?;
                let count = u64::from(DsmCdw10::from(sqe.cdw10).nr_z()) + 1;
                count * size_of::<DsmRange>() as u64
            }
            _ => return None,
        },
    };
    (bytes <= u64::from(shared.config.mdts_bytes)).then_some(bytes)
}

/// Bytes of a feature whose value is data.
const fn feature_bytes(fid: FeatureId) -> Option<u64> {
    match fid {
        FeatureId::TIMESTAMP => Some(size_of::<Timestamp>() as u64),
        FeatureId::HOST_BEHAVIOR_SUPPORT => Some(size_of::<HostBehavior>() as u64),
        _ => None,
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nowhere { bytes } => write!(f, "where there is no memory for {bytes} bytes"),
            Self::Misaligned { to } => write!(f, "no multiple of {to:#x}"),
            Self::Unused => f.write_str("and the data ends in the page of PRP1"),
        }
    }
}

/// Addresses from the first to the last byte.
pub(super) struct Span<'a>(pub(super) &'a Range<u64>);

impl fmt::Display for Span<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}-{:#x}", self.0.start, self.0.end.saturating_sub(1))
    }
}
