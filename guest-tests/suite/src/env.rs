//! What a test works with: a driver of a fresh controller, and shorthand.

use alloc::vec::Vec;

use nvme_host::{Buffer, Config, CqConfig, Driver, Error, SqConfig, Transport, command};
use nvme_spec::{Cqe, NSID_BROADCAST, Sqe};

use crate::data::pattern;
use crate::{Context, Doorbells, Namespace, Outcome, Stop, check};

/// The queue identifier of [`Env::io`].
pub(crate) const IO: u16 = 1;
/// Entries of [`Env::io`]'s queues, where the controller takes as many.
const IO_ENTRIES: u32 = 32;
/// How long a command may take before the suite calls it lost.
pub(crate) const COMMAND_TIMEOUT_NS: u64 = 5_000_000_000;
/// How long a test waits to see that nothing happens.
const SETTLE_NS: u64 = 2_000_000;
/// What guard bytes hold.
const GUARD: u8 = 0xA5;

/// A controller, freshly reset and enabled, and what is known of it.
pub struct Env<'a> {
    /// The driver.
    pub nvme: Driver<'a, dyn Transport + 'a>,
    /// What is known of the controller.
    pub context: &'a Context,
    masked: Vec<u16>,
    function_masked: bool,
}

impl<'a> Env<'a> {
    /// Resets and enables the controller and asks for as many queues as the suite ever does.
    ///
    /// # Errors
    /// What stands in the way.
    pub fn fresh(
        transport: &'a mut (dyn Transport + 'a),
        context: &'a Context,
    ) -> Result<Self, Error> {
        let mut env = Self {
            nvme: Driver::new(transport)?,
            context,
            masked: Vec::new(),
            function_masked: false,
        };
        env.nvme.set_command_timeout(COMMAND_TIMEOUT_NS);
        let shadow = context.doorbells == Doorbells::Shadow;
        env.nvme.set_shadow_doorbells(shadow);
        let later = context.doorbells == Doorbells::ShadowAfterQueues;
        env.nvme.set_shadow_doorbells_after_queues(later);
        env.restart(&Config::default())?;
        env.request_queues()?;
        Ok(env)
    }

    /// Resets the controller, frees all memory and enables it again, without asking for queues.
    pub(crate) fn restart(&mut self, config: &Config) -> Result<(), Error> {
        self.nvme.reset()?;
        self.nvme.enable(config)
    }

    /// Asks for the queues that the suite reported.
    pub(crate) fn request_queues(&mut self) -> Result<(), Error> {
        let wanted = self.context.found.submission_queues;
        let wanted = wanted.max(self.context.found.completion_queues);
        self.nvme
            .request_queues(u16::try_from(wanted).unwrap_or(u16::MAX - 1))
            .map(drop)
    }

    /// Undoes what outlives a reset: interrupt masks.
    pub(crate) fn restore(&mut self) {
        while let Some(vector) = self.masked.pop() {
            self.nvme.transport().mask_vector(vector, false);
        }
        if self.function_masked {
            self.mask_function(false);
        }
    }

    // What the controller offers.

    /// The first namespace that carries data alone.
    pub(crate) fn ns(&self) -> Outcome<Namespace> {
        self.namespaces().next().ok_or_else(|| {
            Stop::Skipped("no active namespace without metadata and with blocks".into())
        })
    }

    /// The namespaces that carry data alone.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = Namespace> + use<'a> {
        let all = self.context.found.namespaces.iter().copied();
        all.filter(|ns| ns.metadata_bytes == 0 && ns.blocks >= 8 && ns.block_bytes >= 512)
    }

    /// How many pairs of I/O queues were granted.
    pub(crate) fn pairs(&self) -> u32 {
        let found = &self.context.found;
        found.submission_queues.min(found.completion_queues)
    }

    /// Skips the test unless the controller grants that many queues of each kind.
    pub(crate) fn need_pairs(&self, pairs: u32) -> Outcome {
        let granted = self.pairs();
        require!(
            granted >= pairs,
            "needs {pairs} I/O queue pairs, {granted} granted"
        );
        Ok(())
    }

    /// Skips the test unless that many submission queues are granted.
    pub(crate) fn need_submission_queues(&self, count: u32) -> Outcome {
        let granted = self.context.found.submission_queues;
        require!(
            granted >= count,
            "needs {count} I/O submission queues, {granted} granted"
        );
        Ok(())
    }

    /// Skips the test unless queues may have that many entries.
    pub(crate) fn need_entries(&self, entries: u32) -> Outcome {
        let most = self.context.found.queue_entries;
        require!(
            most >= entries,
            "needs queues of {entries} entries, MQES allows {most}"
        );
        Ok(())
    }

    /// Skips the test unless that many MSI-X vectors are there.
    pub(crate) fn need_vectors(&self, vectors: u16) -> Outcome {
        let there = self.context.found.vectors;
        require!(
            there >= vectors,
            "needs {vectors} MSI-X vectors, {there} usable"
        );
        Ok(())
    }

    /// The most blocks of one command: MDTS, NLB and the namespace's size allow.
    pub(crate) fn max_blocks(&self, ns: Namespace) -> u64 {
        let by_nlb = 65_536.min(ns.blocks);
        match self.context.found.max_transfer_bytes {
            0 => by_nlb,
            bytes => by_nlb.min(bytes / ns.block_bytes),
        }
    }

    /// The first block of an area of `blocks` blocks that tests may write. Skips if the namespace
    /// is too small.
    pub(crate) fn area(&self, ns: Namespace, blocks: u64) -> Outcome<u64> {
        require!(
            blocks <= ns.blocks / 2,
            "needs a namespace of {} blocks, this one has {}",
            blocks.saturating_mul(2),
            ns.blocks
        );
        Ok(0)
    }

    // Queues.

    /// Creates the I/O queue pair [`IO`] of 32 entries, or as many as MQES allows.
    pub(crate) fn io(&mut self) -> Outcome {
        let entries = IO_ENTRIES.min(self.context.found.queue_entries);
        Ok(self.nvme.create_pair(IO, entries)?)
    }

    /// Creates completion queue [`IO`] and submission queue [`IO`] of these sizes, polled.
    pub(crate) fn io_sized(&mut self, sq_entries: u32, cq_entries: u32) -> Outcome {
        self.need_entries(sq_entries.max(cq_entries))?;
        self.nvme.create_cq(&CqConfig::new(IO, cq_entries))?;
        Ok(self.nvme.create_sq(&SqConfig::new(IO, IO, sq_entries))?)
    }

    /// A cheap command that succeeds on an I/O queue: a one-block Read.
    pub(crate) fn cheap_read(&mut self, ns: Namespace) -> Outcome<(Sqe, Buffer)> {
        let buffer = self.nvme.alloc(ns.block_bytes)?;
        Ok((command::read(ns.nsid, 0, 0), buffer))
    }

    /// Lets enough time pass to see that nothing happens.
    pub(crate) fn settle(&mut self) {
        self.nvme.pause(SETTLE_NS);
    }

    /// Checks that the controller still answers: Identify, and a Read if the I/O queues are there.
    pub(crate) fn alive(&mut self) -> Outcome {
        let csts = self.nvme.csts();
        ensure!(
            csts.rdy() && !csts.cfs(),
            "the controller is not well afterwards: {csts:?}"
        );
        self.nvme.identify_controller()?;
        if self.nvme.sq_tail(IO).is_some()
            && let Ok(ns) = self.ns()
        {
            let buffer = self.nvme.alloc(ns.block_bytes)?;
            self.nvme.read(IO, ns.nsid, 0, 1, buffer)?;
        }
        Ok(())
    }

    /// Resets and enables the controller, then [`alive`](Self::alive) with an I/O queue pair.
    pub(crate) fn alive_after_reset(&mut self) -> Outcome {
        self.restart(&Config::default())?;
        self.request_queues()?;
        self.io()?;
        self.alive()
    }

    // Data.

    /// Writes a pattern over blocks, on queue [`IO`].
    pub(crate) fn write_pattern(
        &mut self,
        ns: Namespace,
        slba: u64,
        blocks: u64,
        seed: u64,
    ) -> Outcome {
        let bytes = blocks * ns.block_bytes;
        let buffer = self.nvme.alloc(bytes)?;
        self.nvme.copy_to(buffer, &pattern(seed, bytes));
        self.nvme.write(IO, ns.nsid, slba, blocks, buffer)?;
        self.nvme.free(buffer);
        Ok(())
    }

    /// Reads blocks, on queue [`IO`].
    pub(crate) fn read_blocks(
        &mut self,
        ns: Namespace,
        slba: u64,
        blocks: u64,
    ) -> Outcome<Vec<u8>> {
        let buffer = self.nvme.alloc(blocks * ns.block_bytes)?;
        self.nvme.fill(buffer, &[GUARD; 512]);
        self.nvme.read(IO, ns.nsid, slba, blocks, buffer)?;
        let data = self.copy_out(buffer);
        self.nvme.free(buffer);
        Ok(data)
    }

    /// Reads blocks and checks that they hold a pattern.
    pub(crate) fn expect_pattern(
        &mut self,
        ns: Namespace,
        slba: u64,
        blocks: u64,
        seed: u64,
    ) -> Outcome {
        let found = self.read_blocks(ns, slba, blocks)?;
        let what = alloc::format!("namespace {} from LBA {slba:#x}", ns.nsid);
        check::same_bytes(&what, &found, &pattern(seed, blocks * ns.block_bytes))
    }

    /// A buffer's contents.
    pub(crate) fn copy_out(&mut self, buffer: Buffer) -> Vec<u8> {
        let mut data = alloc::vec![0; usize::try_from(buffer.bytes).unwrap_or(0)];
        self.nvme.copy_from(buffer, &mut data);
        data
    }

    /// Fills a buffer with guard bytes.
    pub(crate) fn guard(&mut self, buffer: Buffer) {
        self.nvme.fill(buffer, &[GUARD; 64]);
    }

    /// Checks that a buffer still holds guard bytes.
    pub(crate) fn guarded(&mut self, what: &str, buffer: Buffer) -> Outcome {
        let data = self.copy_out(buffer);
        match data.iter().position(|byte| *byte != GUARD) {
            None => Ok(()),
            Some(at) => fail!("{what}: byte {at:#x} was written, which it may not be"),
        }
    }

    /// Issues a Read or Write whose data pointer the caller built, on queue [`IO`].
    pub(crate) fn io_exec(&mut self, sqe: Sqe) -> Outcome<Cqe> {
        Ok(self.nvme.exec(IO, sqe)?)
    }

    // Interrupts.

    /// Masks or unmasks a vector; what is left masked is unmasked after the test.
    pub(crate) fn mask(&mut self, vector: u16, masked: bool) {
        self.masked.retain(|other| *other != vector);
        if masked {
            self.masked.push(vector);
        }
        self.nvme.transport().mask_vector(vector, masked);
    }

    /// Sets or clears the function mask; it is cleared after the test.
    pub(crate) fn mask_function(&mut self, masked: bool) {
        self.function_masked = masked;
        self.nvme.transport().mask_function(masked);
    }

    // Namespace identifiers.

    /// An identifier above NN: invalid.
    pub(crate) fn invalid_nsid(&self) -> Outcome<u32> {
        let nn = self.context.controller.nn;
        match nn.checked_add(1).filter(|nsid| *nsid < NSID_BROADCAST - 1) {
            Some(nsid) => Ok(nsid),
            None => skip!("NN {nn:#x} leaves no invalid namespace identifier"),
        }
    }

    /// A valid identifier with no active namespace.
    pub(crate) fn inactive_nsid(&self) -> Outcome<u32> {
        let nn = self.context.controller.nn;
        let active = |nsid: &u32| {
            self.context
                .found
                .namespaces
                .iter()
                .any(|ns| ns.nsid == *nsid)
        };
        match (1..=nn).take(4096).find(|nsid| !active(nsid)) {
            Some(nsid) => Ok(nsid),
            None => skip!("every namespace identifier up to NN ({nn}) is active"),
        }
    }
}
