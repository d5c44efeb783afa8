//! How a request went, as its command's status, and what of it is counted.

use nvme_spec::Status;
use storage::{IoError, Op, Request};

use crate::work::Work;

/// The status of a request that came back, and its place in the counters. What counts as read
/// and written is the SMART log's choice (NVM 4.1.4.2).
pub(super) fn settle(work: &Work<'_>, request: &Request, result: Result<(), IoError>) -> Status {
    let error = match result {
        Ok(()) => {
            match request.op {
                Op::Read | Op::Compare => {
                    work.stats.reads.add(1);
                    work.stats.bytes_read.add(request.len);
                }
                Op::Verify => work.stats.bytes_read.add(request.len),
                Op::Write => {
                    work.stats.writes.add(1);
                    work.stats.bytes_written.add(request.len);
                }
                Op::Flush | Op::WriteZeroes | Op::Discard => {}
            }
            return Status::SUCCESS;
        }
        Err(error) => error,
    };
    match error {
        IoError::OutOfRange { .. } => Status::LBA_OUT_OF_RANGE.dnr(),
        IoError::GuestMemory { .. } => Status::DATA_TRANSFER_ERROR.dnr(),
        IoError::Miscompare => Status::COMPARE_FAILURE.dnr(),
        IoError::Cancelled => Status::ABORT_REQUESTED,
        IoError::Backend { errno } => {
            work.stats.media_errors.add(1);
            tracing::debug!(errno, op = ?request.op, "the backend failed");
            match request.op {
                Op::Read | Op::Compare | Op::Verify => Status::UNRECOVERED_READ_ERROR,
                Op::Write | Op::WriteZeroes => Status::WRITE_FAULT,
                Op::Flush | Op::Discard => Status::INTERNAL_ERROR,
            }
        }
    }
}
