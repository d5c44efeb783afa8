//! A command of several requests, and which comes next.

use nvme_spec::queue::DsmRange;
use storage::{Op, Request};

use super::{fused::Fused, pieces::Pieces, prepare::writes_through};
use crate::{
    admin::FormatPlan,
    namespace::Namespace,
    range_table::{Ticket, Use},
    shared::Shared,
    work::Work,
};

/// What a command holds, and what is left of it behind the request it has now.
#[derive(Debug)]
pub(super) struct Job {
    /// What its request has of its namespace's range table.
    pub(super) held: Option<Use>,
    /// Its place among those that wait for a range.
    pub(super) ticket: Option<Ticket>,
    /// The pieces of a write that is torn.
    pub(super) pieces: Option<Pieces>,
    /// What it is of a fused operation.
    pub(super) fused: Option<Fused>,
    /// The namespace, as an index, whose backend has or will have the request.
    pub(super) namespace: usize,
    /// The format that the namespace had when the command was checked: it has it until the command
    /// is done, whatever Format NVM waits for.
    pub(super) format: u8,
    /// The last namespace, as an index, that the command goes on to.
    pub(super) through: usize,
    /// The command is a Format NVM.
    pub(super) plan: Option<FormatPlan>,
    /// The ranges of a Dataset Management command, all checked.
    ranges: Vec<DsmRange>,
    /// The first range that is not done.
    next: usize,
}

impl Job {
    /// A job of one request, with room for ranges that was used before.
    pub(super) fn new(mut ranges: Vec<DsmRange>) -> Self {
        ranges.clear();
        Self {
            held: None,
            ticket: None,
            pieces: None,
            fused: None,
            namespace: 0,
            format: 0,
            through: 0,
            plan: None,
            ranges,
            next: 0,
        }
    }

    /// The room for ranges, to be used again.
    pub(super) fn into_ranges(self) -> Vec<DsmRange> {
        self.ranges
    }

    /// The ranges, to be filled.
    pub(super) const fn ranges(&mut self) -> &mut Vec<DsmRange> {
        &mut self.ranges
    }

    /// Makes `request` the command's next one, if there is another.
    pub(super) fn next(&mut self, work: &Work<'_>, request: &mut Request) -> bool {
        if self.pieces.is_some() {
            return self.next_piece(request);
        }
        if self.namespace < self.through {
            self.namespace += 1;
            return self.plan.is_none() || self.erase(work.shared, request);
        }
        while let Some(range) = self.ranges.get(self.next).copied() {
            self.next += 1;
            let namespace = work.shared.namespaces.get(self.namespace);
            let format = namespace.and_then(|namespace| namespace.format(self.format));
            let bytes = format.and_then(|f| f.range(range.slba, range.nlb.into()).ok());
            // A range without blocks asks for nothing.
            if let Some((offset, len)) = bytes.filter(|&(_, len)| len > 0) {
                request.reset(request.tag, Op::Discard, offset, len);
                // The last makes all of them durable.
                let mut rest = self.ranges.iter().skip(self.next);
                request.fua = writes_through(work) && rest.all(|range| range.nlb == 0);
                return true;
            }
        }
        false
    }

    /// Makes `request` the one that erases the job's namespace, if that is there.
    pub(super) fn erase(&self, shared: &Shared, request: &mut Request) -> bool {
        let namespace = shared.namespaces.get(self.namespace);
        let erasure = namespace.map(Namespace::erasure);
        if let Some((op, bytes)) = erasure {
            request.reset(request.tag, op, 0, bytes);
            // What was erased is not to come back.
            request.fua = true;
        }
        erasure.is_some()
    }

    /// Makes the next piece of a torn write what `request` moves, if there is one.
    pub(super) fn next_piece(&mut self, request: &mut Request) -> bool {
        let piece = self.pieces.as_mut().and_then(Pieces::next);
        if let Some((from, to)) = piece {
            (request.progress, request.end) = (from, to);
        }
        piece.is_some()
    }
}
