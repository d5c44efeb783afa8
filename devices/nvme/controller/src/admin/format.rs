//! Format NVM (Base 5.1.10; NVM 4.1.2): gives namespaces an LBA format and takes their data.
//!
//! The namespaces are marked, and from then on commands that come for them are refused. Every shard
//! answers when it has none in flight that it took before; then shard 0 erases them, and what
//! happens to the mark happens there. A reset in the middle gives it up: the format is the one of
//! before, and each block holds what it held or reads as erased.

use nvme_spec::{
    NSID_BROADCAST, Sqe, Status,
    queue::{FormatCdw10, PI_TYPE_MAX, SES_NONE, SES_USER_DATA},
};

use super::{Admin, AdminContext, Handled, Outcome, Wait, Waiting};
use crate::{command::Command, mailbox::Message, namespace::Namespace, shared::Shared};

/// What a Format NVM gives to which namespaces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FormatPlan {
    /// The first namespace, as an index.
    pub(crate) first: usize,
    /// The last.
    pub(crate) last: usize,
    /// The index of the LBA format that they get.
    format: u8,
}

impl Admin {
    /// Format NVM: checked whole before anything is marked. SES 000b and 001b do the same: all data
    /// is gone (Base 5.1.10).
    pub(super) fn format_nvm(&mut self, cx: &AdminContext<'_>, sqe: &Sqe) -> Handled {
        let cdw10 = FormatCdw10::from(sqe.cdw10);
        let namespaces = &cx.shared.namespaces;
        let (first, last) = if sqe.nsid == NSID_BROADCAST {
            (0, namespaces.len().saturating_sub(1))
        } else {
            let namespace = cx.shared.namespace(sqe.nsid);
            let nsid = namespace.ok_or(Status::INVALID_NAMESPACE.dnr())?.nsid;
            (nsid as usize - 1, nsid as usize - 1)
        };
        let plan = FormatPlan {
            first,
            last,
            format: cdw10.index(),
        };
        // FNA offers no cryptographic erase.
        if !matches!(cdw10.ses(), SES_NONE | SES_USER_DATA) || cdw10.pi() > PI_TYPE_MAX {
            return Err(Status::INVALID_FIELD.dnr());
        }
        // No format has metadata, which protection information needs; MSET and PIL are about either.
        let all = plan.namespaces(cx.shared);
        if cdw10.pi() != 0 || all.iter().any(|ns| ns.format(plan.format).is_none()) {
            return Err(Status::INVALID_FORMAT.dnr());
        }
        if all.iter().any(|namespace| namespace.is_formatting()) {
            return Err(Status::FORMAT_IN_PROGRESS);
        }
        all.iter().for_each(|namespace| namespace.begin_format());
        let left = cx.shared.config.shards;
        let (epoch, ticket) = (cx.epoch, self.ticket(Wait::Drain { left, plan }));
        for shard in 0..left {
            cx.shared.mailboxes.post(
                shard,
                Message::Drain {
                    epoch,
                    first,
                    last,
                    ticket,
                },
            );
        }
        Ok(Outcome::Waits(ticket))
    }

    /// Whether there is a Format NVM whose namespaces nothing uses any more.
    pub(crate) fn has_format(&self) -> bool {
        self.waiting.iter().any(|place| drained(place).is_some())
    }

    /// Such a Format NVM, to be executed now.
    pub(crate) fn next_format(&mut self) -> Option<(Command, Sqe, FormatPlan)> {
        self.waiting.iter_mut().find_map(|place| {
            let plan = drained(place)?;
            let (command, sqe) = place.take()?.command?;
            Some((command, sqe, plan))
        })
    }

    /// A Format NVM has ended. Identify Namespace then says something else, of which the host may
    /// want to hear (Base 5.1.2.1): there is no exception for the host that caused it.
    pub(crate) fn formatted(&mut self, shared: &Shared, plan: FormatPlan, status: Status) {
        for namespace in plan.namespaces(shared) {
            if !status.is_success() {
                namespace.give_up_format();
            } else if namespace.end_format(plan.format) {
                self.namespace_changed(namespace.nsid);
            }
        }
    }
}

/// What is to be formatted, once every shard has said that nothing uses it.
fn drained(place: &Option<Waiting>) -> Option<FormatPlan> {
    match place.as_ref()?.what {
        Wait::Drain { left: 0, plan } => Some(plan),
        _ => None,
    }
}

impl FormatPlan {
    fn namespaces(self, shared: &Shared) -> &[Namespace] {
        let all = shared.namespaces.get(self.first..=self.last);
        all.unwrap_or_default()
    }
}
