//! Data buffers as PRP entries and lists name them: made, right or wrong, and read again.

use nvme_host::Transport;
use nvme_spec::{PRP_ENTRY_BYTES, Status};

use crate::{
    choices::Choices,
    memory::{Memory, Region},
};

/// A data buffer in memory, with its lists.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layout {
    pub(crate) prp1: u64,
    pub(crate) prp2: u64,
    /// What is to be given back.
    pub(crate) regions: Vec<Region>,
}

/// Something wrong with a buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Defect {
    /// PRP entry 1 is not aligned to a dword.
    FirstUnaligned,
    /// PRP entry 1 is not in memory.
    FirstNowhere,
    /// PRP entry 2, or the last entry of the list, does not begin a page.
    LastUnaligned,
    /// PRP entry 2, or the last entry of the list, is not in memory.
    LastNowhere,
    /// PRP entry 2 is not in memory, whatever it is.
    SecondNowhere,
}

pub(crate) const DEFECTS: [Defect; 5] = [
    Defect::FirstUnaligned,
    Defect::FirstNowhere,
    Defect::LastUnaligned,
    Defect::LastNowhere,
    Defect::SecondNowhere,
];

/// Lays out `len` bytes (at least 1) by chance; `None` when memory is short.
pub(crate) fn lay_out<T: Transport + ?Sized>(
    transport: &mut T,
    memory: &mut Memory,
    choices: &mut (dyn Choices + '_),
    len: u64,
    defect: Option<Defect>,
) -> Option<Layout> {
    let page = memory.page();
    let offset = match choices.below(4) {
        0 => 4 * choices.below(page / 4),
        1 => page - 4 * choices.range(1..=8),
        _ => 0,
    };
    let data = memory.alloc(offset + len)?;
    let mut layout = Layout {
        regions: vec![data],
        ..Layout::default()
    };
    let mut pages: Vec<u64> = (0..data.bytes / page)
        .map(|n| data.address + n * page)
        .collect();
    if choices.one_in(3) {
        for at in (1..pages.len()).rev() {
            pages.swap(at, choices.index(at + 1));
        }
    }
    layout.prp1 = pages[0] + offset;
    let nowhere = transport.memory_end() + page * choices.below(4);
    let mut entries = pages.split_off(1);
    if let Some(last) = entries.last_mut() {
        match defect {
            Some(Defect::LastUnaligned) => *last += 8 * choices.range(1..=page / 8 - 1),
            Some(Defect::LastNowhere) => *last = nowhere,
            _ => {}
        }
    }
    let placed = match entries[..] {
        // Not used, so anything may be there.
        [] => {
            layout.prp2 = choices.pick(&[0, nowhere, 0x1234_5679]);
            true
        }
        [only] => {
            layout.prp2 = only;
            true
        }
        _ => lists(transport, memory, choices, &entries, &mut layout),
    };
    if !placed {
        layout
            .regions
            .iter()
            .for_each(|&region| memory.free(region));
        return None;
    }
    match defect {
        Some(Defect::FirstUnaligned) => layout.prp1 |= choices.range(1..=3),
        Some(Defect::FirstNowhere) => layout.prp1 = nowhere + offset,
        Some(Defect::SecondNowhere) => layout.prp2 = nowhere,
        _ => {}
    }
    Some(layout)
}

/// Stores a list, which may begin anywhere in its page; whether there was memory for it.
fn lists<T: Transport + ?Sized>(
    transport: &mut T,
    memory: &mut Memory,
    choices: &mut (dyn Choices + '_),
    entries: &[u64],
    layout: &mut Layout,
) -> bool {
    let page = memory.page();
    let start = match choices.below(3) {
        0 => PRP_ENTRY_BYTES * choices.below(page / PRP_ENTRY_BYTES),
        1 => page - PRP_ENTRY_BYTES * choices.range(1..=3),
        _ => 0,
    };
    let Some(mut list) = memory.alloc(page) else {
        return false;
    };
    layout.regions.push(list);
    let mut at = list.address + start;
    layout.prp2 = at;
    for (index, &entry) in entries.iter().enumerate() {
        let is_last_place = at + PRP_ENTRY_BYTES == list.address + page;
        if is_last_place && index + 1 < entries.len() {
            let Some(next) = memory.alloc(page) else {
                return false;
            };
            layout.regions.push(next);
            memory.write(transport, at, &next.address.to_le_bytes());
            list = next;
            at = list.address;
        }
        memory.write(transport, at, &entry.to_le_bytes());
        at += PRP_ENTRY_BYTES;
    }
    true
}

/// What two PRP entries mean for so many bytes (Base 4.3.1).
#[derive(Clone, Debug, Default)]
pub(crate) struct Resolved {
    /// Address and length of each piece, as far as it could be followed.
    pub(crate) pieces: Vec<(u64, u64)>,
    /// A controller has to refuse it, for one of these reasons.
    pub(crate) errors: Vec<Status>,
    /// A controller may refuse it for one of these.
    pub(crate) may: Vec<Status>,
}

impl Resolved {
    fn piece<T: Transport + ?Sized>(&mut self, transport: &T, address: u64, bytes: u64) {
        if is_memory(transport, address, bytes) {
            self.pieces.push((address, bytes));
        } else {
            self.errors.push(Status::DATA_TRANSFER_ERROR);
        }
    }

    /// A piece that has to begin a page.
    fn page<T: Transport + ?Sized>(&mut self, transport: &T, page: u64, entry: u64, bytes: u64) {
        if entry.is_multiple_of(page) {
            self.piece(transport, entry, bytes);
        } else {
            self.errors.push(Status::INVALID_PRP_OFFSET);
            if !is_memory(transport, entry, bytes) {
                self.errors.push(Status::DATA_TRANSFER_ERROR);
            }
        }
    }
}

fn is_memory<T: Transport + ?Sized>(transport: &T, address: u64, bytes: u64) -> bool {
    let end = transport.memory_end();
    address.checked_add(bytes).is_some_and(|last| last <= end)
}

/// Follows PRP entries as the specification says, one by one.
pub(crate) fn resolve<T: Transport + ?Sized>(
    transport: &T,
    page: u64,
    prp1: u64,
    prp2: u64,
    len: u64,
) -> Resolved {
    let mut resolved = Resolved::default();
    // Bits 1:0 of an offset are checked or taken as zero.
    if !prp1.is_multiple_of(4) {
        resolved.may.push(Status::INVALID_PRP_OFFSET);
    }
    let first = prp1 & !3;
    let mut left = len - len.min(page - first % page);
    resolved.piece(transport, first, len - left);
    if left == 0 {
        return resolved;
    }
    if left <= page {
        resolved.page(transport, page, prp2, left);
        return resolved;
    }
    if !prp2.is_multiple_of(PRP_ENTRY_BYTES) {
        resolved.may.push(Status::INVALID_PRP_OFFSET);
    }
    let mut at = prp2 & !(PRP_ENTRY_BYTES - 1);
    while left > 0 {
        if !is_memory(transport, at, PRP_ENTRY_BYTES) {
            resolved.errors.push(Status::DATA_TRANSFER_ERROR);
            break;
        }
        let mut entry = [0; 8];
        transport.mem_read(at, &mut entry);
        let entry = u64::from_le_bytes(entry);
        let is_last_place = (at + PRP_ENTRY_BYTES).is_multiple_of(page);
        if is_last_place && left > page {
            if !entry.is_multiple_of(page) {
                resolved.errors.push(Status::INVALID_PRP_OFFSET);
                break;
            }
            at = entry;
            continue;
        }
        let bytes = left.min(page);
        resolved.page(transport, page, entry, bytes);
        left -= bytes;
        at += PRP_ENTRY_BYTES;
    }
    resolved
}
