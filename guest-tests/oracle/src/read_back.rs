//! Reading everything back when a run ends.

use nvme_host::{Transport, command};

use crate::{
    choices::Choices,
    host::{Host, What, Wrong},
    io::Io,
    legal, prp,
};

/// Bytes of a read.
const AT_ONCE: u64 = 64 * 1024;

impl<T: Transport + ?Sized> Host<'_, T> {
    /// Reads every block of every namespace, for the oracle to judge.
    pub(crate) fn read_back(&mut self, choices: &mut (dyn Choices + '_)) -> Result<(), Wrong> {
        let Some(sqid) = self.sqs.values().find(|sq| sq.qid > 0 && !sq.deleting) else {
            return Ok(());
        };
        let sqid = sqid.qid;
        for index in 0..self.facts.namespaces.len() {
            let namespace = self.facts.namespaces[index];
            let nsid = u32::try_from(index + 1).unwrap_or_default();
            let step = AT_ONCE.min(self.facts.mdts_bytes) / namespace.lba_bytes;
            let mut slba = 0;
            while slba < namespace.blocks {
                let count = step.min(namespace.blocks - slba);
                let nlb_z = u16::try_from(count - 1).unwrap_or_default();
                let mut sqe = command::read(nsid, slba, nlb_z);
                let bytes = count * namespace.lba_bytes;
                let (transport, memory) = (&mut *self.transport, &mut self.memory);
                let layout = prp::lay_out(transport, memory, choices, bytes, None);
                let layout = layout.ok_or("no memory to read back to")?;
                (sqe.prp1, sqe.prp2) = (layout.prp1, layout.prp2);
                let verdict = legal::judge(self.transport, &self.facts, &sqe);
                let io = What::Io(Io::new(verdict, 0));
                self.store(sqid, sqe, io, layout.regions);
                self.drain()?;
                slba += count;
            }
        }
        self.memory.check_all(self.transport)
    }
}
