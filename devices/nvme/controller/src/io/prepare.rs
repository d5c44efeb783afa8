//! I/O commands checked and turned into their first request (NVM 3.2).

use std::sync::atomic::Ordering;

use nvme_spec::{
    NSID_BROADCAST, Sqe, Status,
    queue::{DSM_MAX_RANGES, DsmCdw10, DsmCdw11, DsmRange, RwCdw12, WriteZeroesCdw12},
};
use storage::{Op, Request, STEP_BYTES};
use vm_memory::{Bytes, GuestAddress};
use zerocopy::IntoBytes;

use super::{fused, job::Job};
use crate::{
    format::Format,
    namespace::Namespace,
    prp,
    shared::Shared,
    table::{self, IoKind},
    work::Work,
};

/// What a command costs beyond the first [`STEP_BYTES`] of its data, in such steps.
#[inline]
pub(crate) fn cost(shared: &Shared, sqe: &Sqe) -> u32 {
    if RwCdw12::from(sqe.cdw12).nlb_z() == 0 && !shared.has_large_blocks {
        // A block is no more than a step, and what is no transfer costs nothing more.
        return 0;
    }
    let moves = matches!(
        table::io_kind(sqe.nvm_opcode()),
        Some(IoKind::Read | IoKind::Write | IoKind::Compare)
    );
    let nlb = u64::from(RwCdw12::from(sqe.cdw12).nlb_z()) + 1;
    let namespace = shared.namespace(sqe.nsid).filter(|_| moves);
    // An estimate: the format may be another when the command is checked.
    let format = namespace.and_then(|namespace| namespace.current().ok());
    let bytes = format.map_or(0, |format| format.bytes(nlb));
    u32::try_from(bytes.min(shared.config.mdts_bytes.into()) / STEP_BYTES).unwrap_or(u32::MAX)
}

/// What a checked command is made into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Prepared {
    /// Its first request is filled.
    Request,
    /// Nothing is to be done.
    Nothing,
}

/// Checks a command, and fills its first request and its job.
pub(super) fn prepare(
    work: &Work<'_>,
    sqe: &Sqe,
    request: &mut Request,
    job: &mut Job,
) -> Result<Prepared, Status> {
    let kind = table::io_kind(sqe.nvm_opcode()).ok_or(Status::INVALID_OPCODE.dnr())?;
    if sqe.flags.fuse() != 0 {
        return Err(fused::alone(sqe));
    }
    if sqe.flags.psdt() != 0 {
        return Err(Status::INVALID_FIELD.dnr());
    }
    if kind == IoKind::Flush && sqe.nsid == NSID_BROADCAST {
        // Flushes one that is being formatted, too: that is of no format.
        request.reset(0, Op::Flush, 0, 0);
        job.through = work.shared.namespaces.len().saturating_sub(1);
        return Ok(Prepared::Request);
    }
    let (index, namespace) = namespace(work, sqe)?;
    // Looked at once: what is checked and what is done are of the same format.
    let format = namespace.current()?;
    (job.namespace, job.through, job.format) = (index, index, format.index);
    match kind {
        IoKind::Flush => request.reset(0, Op::Flush, 0, 0),
        IoKind::Read => transfer(work, format, sqe, request, Op::Read)?,
        IoKind::Write => {
            // No directive is supported, so no write may name one.
            if RwCdw12::from(sqe.cdw12).dtype() != 0 {
                return Err(Status::INVALID_FIELD.dnr());
            }
            transfer(work, format, sqe, request, Op::Write)?;
            request.fua |= writes_through(work);
        }
        IoKind::Compare => transfer(work, format, sqe, request, Op::Compare)?,
        IoKind::Verify => range(format, sqe, request, Op::Verify)?,
        IoKind::WriteZeroes => {
            let cdw12 = WriteZeroesCdw12::from(sqe.cdw12);
            // Deallocated blocks must read as zeroes then (NVM 3.2.8).
            let op = if cdw12.deac() && namespace.zeroes_deallocate {
                Op::Discard
            } else {
                Op::WriteZeroes
            };
            range(format, sqe, request, op)?;
            request.fua = cdw12.fua() || writes_through(work);
        }
        IoKind::DatasetManagement => return dataset_management(work, format, sqe, request, job),
    }
    Ok(Prepared::Request)
}

/// Whether writes are durable when they complete, whatever they say: the host has switched the
/// volatile write cache off (Base 5.1.25.1.4).
pub(super) fn writes_through(work: &Work<'_>) -> bool {
    work.shared.settings.write_through.load(Ordering::Relaxed)
}

/// A command that moves the data of its blocks.
pub(super) fn transfer(
    work: &Work<'_>,
    format: &Format,
    sqe: &Sqe,
    request: &mut Request,
    op: Op,
) -> Result<(), Status> {
    let nlb = u64::from(RwCdw12::from(sqe.cdw12).nlb_z()) + 1;
    if format.bytes(nlb) > u64::from(work.shared.config.mdts_bytes) {
        return Err(Status::INVALID_FIELD.dnr());
    }
    range(format, sqe, request, op)?;
    let len = request.len;
    prp::walk(
        request,
        work.memory,
        work.page_bytes(),
        buffer(sqe, len),
        len,
    )
}

/// A command's range of blocks; SLBA, NLB and FUA are where Read has them.
fn range(format: &Format, sqe: &Sqe, request: &mut Request, op: Op) -> Result<(), Status> {
    let cdw12 = RwCdw12::from(sqe.cdw12);
    let (offset, len) = format.range(sqe.slba(), u64::from(cdw12.nlb_z()) + 1)?;
    request.reset(0, op, offset, len);
    request.fua = cdw12.fua();
    Ok(())
}

/// Dataset Management (NVM 3.2.3). The ranges are copied once, and all are checked before one
/// is touched; without AD they are hints, of which nothing is made here.
fn dataset_management(
    work: &Work<'_>,
    format: &Format,
    sqe: &Sqe,
    request: &mut Request,
    job: &mut Job,
) -> Result<Prepared, Status> {
    let count = usize::from(DsmCdw10::from(sqe.cdw10).nr_z()) + 1;
    let bytes = count * size_of::<DsmRange>();
    request.segments.clear();
    let bytes = bytes as u64;
    prp::walk(
        request,
        work.memory,
        work.page_bytes(),
        buffer(sqe, bytes),
        bytes,
    )?;
    let mut ranges = [DsmRange::default(); DSM_MAX_RANGES];
    let ranges = ranges.get_mut(..count).unwrap_or_default();
    let mut rest = ranges.as_mut_bytes();
    for segment in &request.segments {
        let (now, later) = rest.split_at_mut(rest.len().min(segment.len as usize));
        work.memory
            .read_slice(now, GuestAddress(segment.addr))
            .map_err(|_| Status::DATA_TRANSFER_ERROR.dnr())?;
        rest = later;
    }
    for range in &*ranges {
        format.range(range.slba, range.nlb.into())?;
    }
    if DsmCdw11::from(sqe.cdw11).ad() {
        job.ranges().extend_from_slice(ranges);
    }
    Ok(if job.next(work, request) {
        Prepared::Request
    } else {
        Prepared::Nothing
    })
}

pub(super) const fn buffer(sqe: &Sqe, len: u64) -> prp::Buffer {
    prp::Buffer {
        prp1: sqe.prp1,
        prp2: sqe.prp2,
        len,
    }
}

/// The namespace that a command names, with its index (Base 3.2.1.2).
pub(super) fn namespace<'a>(work: &Work<'a>, sqe: &Sqe) -> Result<(usize, &'a Namespace), Status> {
    if sqe.nsid == NSID_BROADCAST {
        return Err(Status::INVALID_FIELD.dnr());
    }
    let namespace = work
        .shared
        .namespace(sqe.nsid)
        .ok_or(Status::INVALID_NAMESPACE.dnr())?;
    Ok((namespace.nsid as usize - 1, namespace))
}
