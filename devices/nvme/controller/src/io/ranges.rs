//! What a command holds of its namespace's range table, and who is told when it gives it back.

use storage::{Op, Request};

use super::job::Job;
use crate::{
    ids::ShardId,
    range_table::{Access, RangeTable, Taken, Use, Waiters},
    shared::Shared,
};

/// Takes what `request` moves now in its namespace's table; a flush has no range. A fused operation
/// takes it once, to write, for both of its commands.
pub(super) fn take_range(
    shared: &Shared,
    shard: ShardId,
    job: &mut Job,
    request: &Request,
) -> bool {
    let (Some(mut access), Some(ranges)) = (access(request.op), table(shared, job)) else {
        return true;
    };
    if job.fused.is_some() {
        if job.held.is_some() {
            return true;
        }
        access = Access::Write;
    }
    let what = Use {
        offset: request.offset + request.progress,
        len: request.end.saturating_sub(request.progress),
        access,
    };
    let Taken { result, held_up } = ranges.take(what, shard, job.ticket);
    tell(shared, held_up);
    match result {
        Ok(()) => {
            job.held = Some(what);
            job.ticket = None;
            true
        }
        Err(ticket) => {
            job.ticket = Some(ticket);
            false
        }
    }
}

/// Gives back what a command holds, and tells the shards that wait for it.
pub(super) fn give_range(shared: &Shared, job: &mut Job) {
    if let Some(what) = job.held.take()
        && let Some(ranges) = table(shared, job)
    {
        tell(shared, ranges.give(what));
    }
}

/// Gives up a command's place among those that wait: it will not be tried again.
pub(super) fn forget_range(shared: &Shared, job: &mut Job) {
    if let (Some(ranges), Some(ticket)) = (table(shared, job), job.ticket.take()) {
        tell(shared, ranges.forget(ticket));
    }
}

/// The table of the namespace that a command works on, unless that keeps no data.
fn table<'a>(shared: &'a Shared, job: &Job) -> Option<&'a RangeTable> {
    shared.namespaces.get(job.namespace)?.ranges.as_ref()
}

fn tell(shared: &Shared, waiters: Waiters) {
    for shard in waiters.shards() {
        shared.mailboxes.nudge(shard);
    }
}

const fn access(op: Op) -> Option<Access> {
    match op {
        Op::Read | Op::Compare | Op::Verify => Some(Access::Read),
        Op::Write | Op::WriteZeroes | Op::Discard => Some(Access::Write),
        Op::Flush => None,
    }
}
