//! Compare and Write, fused: two commands that are one operation (Base 3.4.2, NVM 2.1.3).
//!
//! The pair is one job in one slot, with one lock: it takes its blocks as a write does before the
//! Compare, and gives them back after the Write. So nobody's command comes between the two, and
//! the pair waits for nobody in the middle.

use nvme_spec::{
    Sqe, Status,
    queue::{CommandFlags, FUSE_FIRST, FUSE_SECOND, RwCdw12},
};
use storage::{Op, Request};

use super::{
    IoEngine, Pending, Submission,
    job::Job,
    prepare::{buffer, namespace, transfer, writes_through},
};
use crate::{
    command::Command,
    prp,
    table::{self, FUSED, IoKind},
    work::Work,
};

/// A command and what it is.
pub(crate) type Half = (Command, Sqe);

/// What a pair's job has beside that of a single command: where the Write finds its data.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fused {
    prp1: u64,
    prp2: u64,
    fua: bool,
    /// The Write is atomic when the power fails: nothing comes into its middle.
    whole: bool,
    /// The Compare has succeeded.
    writing: bool,
}

/// Whether an entry is the first of a pair, by its own account.
pub(crate) const fn is_first(sqe: &Sqe) -> bool {
    sqe.flags.fuse() == FUSE_FIRST
}

/// Whether the two entries, next to each other, are a pair.
pub(crate) const fn is_pair(first: &Sqe, second: &Sqe) -> bool {
    is_first(first) && second.flags.fuse() == FUSE_SECOND
}

/// The status of a command that says it is fused and has no neighbour that is its other half.
pub(super) fn alone(sqe: &Sqe) -> Status {
    let Some(kind) = table::io_kind(sqe.nvm_opcode()) else {
        return Status::INVALID_OPCODE.dnr();
    };
    let is_half = FUSED
        .iter()
        .any(|&(first, second, _)| match sqe.flags.fuse() {
            FUSE_FIRST => kind == first,
            FUSE_SECOND => kind == second,
            _ => false,
        });
    match is_half {
        true => Status::ABORTED_MISSING_FUSED.dnr(),
        // No operation has such a half.
        false => Status::INVALID_FIELD.dnr(),
    }
}

/// Checks both commands, and fills the Compare's request. Nothing is executed of a pair of which
/// one is wrong.
///
/// # Errors
/// The statuses of the two.
fn prepare(
    work: &Work<'_>,
    compare: &Sqe,
    write: &Sqe,
    request: &mut Request,
    job: &mut Job,
) -> Result<(), (Status, Status)> {
    let first = |status: Status| (status, failed_with(status));
    let second = |status: Status| (failed_with(status), status);
    let invalid = Status::INVALID_FIELD.dnr();
    let kinds = [compare, write].map(|sqe| table::io_kind(sqe.nvm_opcode()));
    let is_offered =
        |&&(first, second, _): &&(IoKind, IoKind, u16)| kinds == [Some(first), Some(second)];
    if FUSED.iter().find(is_offered).is_none() {
        return Err((alone(compare), alone(write)));
    }
    let plain = |flags: CommandFlags| flags.psdt() == 0;
    if !plain(compare.flags) {
        return Err(first(invalid));
    }
    let cdw12 = RwCdw12::from(write.cdw12);
    // No directive is supported, so no write may name one.
    if !plain(write.flags) || cdw12.dtype() != 0 {
        return Err(second(invalid));
    }
    let nlb_z = RwCdw12::from(compare.cdw12).nlb_z();
    if (compare.nsid, compare.slba(), nlb_z) != (write.nsid, write.slba(), cdw12.nlb_z()) {
        return Err((invalid, invalid));
    }
    let (index, namespace) = namespace(work, compare).map_err(first)?;
    // Looked at once: both commands are of the same format.
    let format = namespace.current().map_err(first)?;
    if u64::from(nlb_z) + 1 > format.atomics.compare_and_write.into() {
        return Err(first(Status::ATOMIC_WRITE_UNIT_EXCEEDED.dnr()));
    }
    transfer(work, format, compare, request, Op::Compare).map_err(first)?;
    (job.namespace, job.through, job.format) = (index, index, format.index);
    job.fused = Some(Fused {
        prp1: write.prp1,
        prp2: write.prp2,
        fua: cdw12.fua(),
        whole: format
            .atomics
            .power_fail
            .holds(compare.slba(), u64::from(nlb_z) + 1),
        writing: false,
    });
    Ok(())
}

/// The status of a command whose other half has `status`: to be tried again if that is.
const fn failed_with(status: Status) -> Status {
    match status.is_dnr() {
        true => Status::ABORTED_FAILED_FUSED.dnr(),
        false => Status::ABORTED_FAILED_FUSED,
    }
}

impl Fused {
    /// The statuses of both, when the operation has ended with `status`.
    pub(super) const fn statuses(self, status: Status) -> (Status, Status) {
        match (self.writing, status.is_success()) {
            (true, _) | (false, true) => (Status::SUCCESS, status),
            (false, false) => (status, failed_with(status)),
        }
    }
}

impl Job {
    /// Whether the request is a Compare that its Write is to follow.
    pub(super) fn is_comparing(&self) -> bool {
        self.fused.is_some_and(|fused| !fused.writing)
    }

    /// Makes the Write of a pair out of the request of its Compare, which has succeeded.
    ///
    /// # Errors
    /// The Write's status.
    pub(super) fn write(&mut self, work: &Work<'_>, request: &mut Request) -> Result<(), Status> {
        let Some(fused) = &mut self.fused else {
            return Err(Status::INTERNAL_ERROR);
        };
        fused.writing = true;
        let (offset, len) = (request.offset, request.len);
        let data = Sqe {
            prp1: fused.prp1,
            prp2: fused.prp2,
            ..Sqe::default()
        };
        request.reset(request.tag, Op::Write, offset, len);
        request.fua = fused.fua || writes_through(work);
        request.whole = fused.whole;
        prp::walk(
            request,
            work.memory,
            work.page_bytes(),
            buffer(&data, len),
            len,
        )
    }
}

impl IoEngine {
    /// Starts a pair, first and second; the caller has made sure of [`room`](Self::room) for one
    /// command. What is finished at once comes back with the statuses.
    pub(crate) fn start_fused(
        &mut self,
        work: &Work<'_>,
        first: Half,
        second: Half,
    ) -> Option<[(Half, Status); 2]> {
        let done = |first, second, (one, other)| Some([(first, one), (second, other)]);
        let internal = (Status::INTERNAL_ERROR, Status::INTERNAL_ERROR);
        let Some((tag, mut request, mut job)) = self.take_slot() else {
            return done(first, second, internal);
        };
        if let Err(statuses) = prepare(work, &first.1, &second.1, &mut request, &mut job) {
            self.retire(tag, request, job.into_ranges());
            return done(first, second, statuses);
        }
        request.tag = u64::from(tag);
        match self.submit(work, &mut job, request) {
            Submission::Back(request, status) => {
                let statuses = job.fused.map_or(internal, |fused| fused.statuses(status));
                self.retire(tag, request, job.into_ranges());
                done(first, second, statuses)
            }
            Submission::Kept => {
                let (command, sqe) = first;
                if let Some(slot) = self.slots.get_mut(usize::from(tag)) {
                    slot.pending = Some(Pending {
                        command,
                        sqe,
                        second: Some(second),
                        job,
                    });
                }
                None
            }
        }
    }
}
