//! Asynchronous events: what happened, and who asked to hear of it (Base 5.1.2).

use std::collections::VecDeque;

use nvme_spec::{
    LogId, Status,
    event::{
        ERROR_INVALID_DOORBELL_REGISTER, ERROR_INVALID_DOORBELL_VALUE, EventResult, EventType,
    },
};

use super::Delivery;
use crate::{
    doorbell::{FAULT_DOORBELL_REGISTER, FAULT_DOORBELL_VALUE},
    shared::Shared,
    sync::lock,
    trace::Tag,
};

/// Requests that may be outstanding; AERL is one less.
pub(crate) const REQUEST_LIMIT: u8 = 8;

/// An Asynchronous Event Request without an event.
#[derive(Clone, Copy, Debug)]
struct Request {
    cid: u16,
    tag: Tag,
}

/// Events and requests.
#[derive(Debug, Default)]
pub(super) struct Events {
    /// Requests without an event, oldest first.
    requests: VecDeque<Request>,
    /// What Abort has ended, to be completed: each request, and right behind it the Abort.
    aborted: VecDeque<Delivery>,
    /// Events not reported. The same event is here once.
    pending: VecDeque<EventResult>,
    /// Types that were reported and whose log page was not read since (Base 5.1.2).
    masked: [bool; EventType::COUNT],
}

impl Events {
    /// A new request.
    pub(super) fn request(&mut self, cid: u16, tag: Tag) -> Result<(), Status> {
        if self.requests.len() >= usize::from(REQUEST_LIMIT) {
            return Err(Status::AER_LIMIT_EXCEEDED.dnr());
        }
        self.requests.push_back(Request { cid, tag });
        Ok(())
    }

    /// Whether a request is outstanding.
    pub(super) fn is_request(&self, cid: u16) -> bool {
        self.requests.iter().any(|request| request.cid == cid)
    }

    /// Ends a request for the Abort command `abort`, which is completed after it.
    pub(super) fn abort(&mut self, cid: u16, (abort, abort_tag): (u16, Tag)) {
        let at = self.requests.iter().position(|request| request.cid == cid);
        if let Some(Request { tag, .. }) = at.and_then(|at| self.requests.remove(at)) {
            let ended = |cid, tag, status| Delivery {
                cid,
                tag,
                status,
                dw0: 0,
            };
            self.aborted
                .push_back(ended(cid, tag, Status::ABORT_REQUESTED));
            self.aborted
                .push_back(ended(abort, abort_tag, Status::SUCCESS));
        }
    }

    /// Abort commands that are not completed.
    pub(super) fn aborts(&self) -> usize {
        self.aborted.len().div_ceil(2)
    }

    /// Forgets events of a type that are no longer true or no longer wanted.
    pub(super) fn withdraw(&mut self, event_type: EventType) {
        self.pending
            .retain(|event| event.event_type() != event_type);
    }

    /// Something happened. Until it is reported, more of the same changes nothing.
    pub(super) fn raise(&mut self, event_type: EventType, info: u8, log_page: LogId) {
        let event = EventResult::new()
            .with_event_type(event_type)
            .with_info(info)
            .with_log_page_raw(log_page.0);
        if !self.pending.contains(&event) {
            self.pending.push_back(event);
        }
    }

    pub(super) fn doorbell_faults(&mut self, shared: &Shared, faults: u32) {
        for (fault, info) in [
            (FAULT_DOORBELL_REGISTER, ERROR_INVALID_DOORBELL_REGISTER),
            (FAULT_DOORBELL_VALUE, ERROR_INVALID_DOORBELL_VALUE),
        ] {
            if faults & fault != 0 {
                // No queue is named: a doorbell of none was written, or one was overwritten since.
                lock(&shared.error_log).event(0xFFFF, Status::INVALID_FIELD);
                self.raise(EventType::Error, info, LogId::ERROR_INFORMATION);
            }
        }
    }

    /// A log page was read without Retain Asynchronous Event: the host knows what happened so far,
    /// and what happens from now on is reported again.
    pub(super) fn log_read(&mut self, lid: LogId) {
        let event_type = match lid {
            LogId::ERROR_INFORMATION => EventType::Error,
            LogId::SMART => EventType::Smart,
            LogId::CHANGED_NAMESPACES => EventType::Notice,
            _ => return,
        };
        if let Some(masked) = self.masked.get_mut(event_type as usize) {
            *masked = false;
        }
        self.withdraw(event_type);
    }

    fn is_masked(&self, event: EventResult) -> bool {
        self.masked
            .get(event.event_type() as usize)
            .copied()
            .unwrap_or(true)
    }

    pub(super) fn has_delivery(&self) -> bool {
        !self.aborted.is_empty()
            || (!self.requests.is_empty() && self.pending.iter().any(|&e| !self.is_masked(e)))
    }

    pub(super) fn next_delivery(&mut self) -> Option<Delivery> {
        if let Some(delivery) = self.aborted.pop_front() {
            return Some(delivery);
        }
        let at = self
            .pending
            .iter()
            .position(|&event| !self.is_masked(event))?;
        let Request { cid, tag } = self.requests.pop_front()?;
        let event = self.pending.remove(at)?;
        if let Some(masked) = self.masked.get_mut(event.event_type() as usize) {
            *masked = true;
        }
        let (status, dw0) = (Status::SUCCESS, event.into());
        Some(Delivery {
            cid,
            tag,
            status,
            dw0,
        })
    }
}
