//! A shard's part in Format NVM: it says when nothing uses a namespace; shard 0 erases.

use nvme_spec::Status;

use super::Lane;
use crate::{
    admin::{Admin, FormatPlan},
    ids::AdminTicket,
    io::Started,
    mailbox::Answer,
    queue::QueueFault,
    work::Work,
};

/// Namespaces that are to be formatted when no command in flight uses them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draining {
    /// The first namespace, as an index.
    pub(super) first: usize,
    /// The last.
    pub(super) last: usize,
    pub(super) ticket: AdminTicket,
}

impl Lane {
    /// Says which namespaces nothing uses any more. Since the mark was seen nothing new did.
    pub(super) fn finish_draining(&mut self, work: &Work<'_>) {
        if self.draining.is_empty() {
            return;
        }
        let mut draining = std::mem::take(&mut self.draining);
        draining.retain(|wait| {
            let used = self.io.uses(wait.first, wait.last);
            if !used {
                self.answer(work.shared, wait.ticket, Answer::Drained);
            }
            used
        });
        self.draining = draining;
    }

    /// Whether a namespace can be erased now.
    pub(super) fn can_start_format(&self) -> bool {
        let drained = |admin: &Admin| admin.has_format();
        self.io.room() > 0 && !self.resetting() && self.admin.as_deref().is_some_and(drained)
    }

    /// Erases namespaces that nothing uses any more, as far as there is room for commands.
    pub(super) fn start_formats(&mut self, work: &mut Work<'_>) -> Result<(), QueueFault> {
        while work.dma
            && self.can_start_format()
            && let Some((command, sqe, plan)) = self.admin.as_mut().and_then(|a| a.next_format())
        {
            if let Started::Done(command, status) = self.io.erase(work, command, &sqe, plan) {
                self.formatted(work, plan, status);
                self.complete(work, command, &sqe, status, 0)?;
            }
        }
        Ok(())
    }

    /// A Format NVM has ended.
    pub(super) fn formatted(&mut self, work: &Work<'_>, plan: FormatPlan, status: Status) {
        if let Some(admin) = &mut self.admin {
            admin.formatted(work.shared, plan, status);
        }
    }
}
