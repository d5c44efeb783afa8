//! The controller's life as its host leads it: enabled, asked what it is, reset.

use std::collections::BTreeMap;

use nvme_host::{Transport, command};
use nvme_spec::{
    Cns, IDENTIFY_BYTES, Status,
    registers::{
        Aqa, CC_AMS_ROUND_ROBIN, CC_CSS_NVM, CQE_LOG2, Cap, Cc, Csts, Register, SQE_LOG2, Shn, Shst,
    },
};

use crate::{
    admin::Admin,
    choices::Choices,
    facts::Facts,
    host::{Host, What, Wrong},
    memory::{Memory, Region},
    model::Model,
    rings::{CompletionRing, SubmissionRing},
    run::Options,
};

/// Bytes of a memory page for CC.MPS 0.
const PAGE: u64 = 4096;
/// Pages that the host has for everything.
const PAGES: usize = 400;
/// Steps after which a controller that was to do nothing more may be taken at its word.
const QUIET_STEPS: u32 = 64;

impl<'a, T: Transport + ?Sized> Host<'a, T> {
    /// A host of a controller that is disabled and whose namespaces hold zeroes; enables it.
    pub(crate) fn new(
        transport: &'a mut T,
        options: Options,
        choices: &mut (dyn Choices + '_),
    ) -> Result<Self, Wrong> {
        let cap = Cap::from(transport.read64(Register::Cap.offset()));
        let unit = PAGE << cap.mpsmin();
        let log2 = choices
            .pick(&[0, 0, 0, 1, 2])
            .min(cap.mpsmax() - cap.mpsmin());
        let page = unit << log2;
        let memory = Memory::new(transport, PAGES, page).ok_or("the transport has no memory")?;
        let mut host = Self {
            transport,
            options,
            cap,
            memory,
            facts: Facts {
                page_bytes: page,
                mdts_bytes: u64::MAX,
                oncs: 0,
                fuses: 0,
                sgls: 0,
                flush_behavior: 0,
                aborts: 1,
                event_requests: 1,
                queue_entries: u32::from(cap.mqes_z()) + 1,
                io_queues: 0,
                namespaces: Vec::new(),
            },
            identify_controller: Vec::new(),
            identify_namespaces: Vec::new(),
            models: Vec::new(),
            sqs: BTreeMap::new(),
            cqs: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            now: 1,
            values: 0,
            writes: 0,
            aborted: Vec::new(),
            claims: Vec::new(),
            events_caused: false,
            next_cid: 0,
            completed: 0,
            polls: 0,
            trace: Vec::new(),
        };
        host.enable(choices)?;
        host.identify(unit)?;
        Ok(host)
    }

    /// Makes the admin queues and enables the controller (Base 3.5.1).
    fn enable(&mut self, choices: &mut (dyn Choices + '_)) -> Result<(), Wrong> {
        let mut entries = || u32::try_from(choices.range(2..=24)).unwrap_or(2);
        let (sq_entries, cq_entries) = (entries(), entries());
        let short = "no memory for the admin queues";
        let sq = self
            .queue_memory(SubmissionRing::bytes(sq_entries))
            .ok_or(short)?;
        let cq = self
            .queue_memory(CompletionRing::bytes(cq_entries))
            .ok_or(short)?;
        let size_z = |entries: u32| u16::try_from(entries - 1).unwrap_or_default();
        let aqa = Aqa::new()
            .with_asqs_z(size_z(sq_entries))
            .with_acqs_z(size_z(cq_entries));
        self.transport.write32(Register::Aqa.offset(), aqa.into());
        self.transport.write64(Register::Asq.offset(), sq.address);
        self.transport.write64(Register::Acq.offset(), cq.address);
        self.sqs
            .insert(0, SubmissionRing::new(0, 0, sq, sq_entries));
        self.cqs.insert(0, CompletionRing::new(0, cq, cq_entries));
        let mps = (self.facts.page_bytes / PAGE).trailing_zeros();
        let cc = Cc::new()
            .with_css(CC_CSS_NVM)
            .with_mps(u8::try_from(mps).unwrap_or_default())
            .with_ams(CC_AMS_ROUND_ROBIN)
            .with_iosqes(SQE_LOG2)
            .with_iocqes(CQE_LOG2);
        self.set_cc(cc);
        self.set_cc(cc.with_en(true));
        self.wait("CSTS.RDY = 1", |csts| csts.rdy())
    }

    fn set_cc(&mut self, cc: Cc) {
        self.note(|| format!("{cc:?}"));
        self.transport.write32(Register::Cc.offset(), cc.into());
    }

    fn csts(&mut self) -> Csts {
        Csts::from(self.transport.read32(Register::Csts.offset()))
    }

    fn wait(&mut self, what: &str, done: impl Fn(Csts) -> bool) -> Result<(), Wrong> {
        let start = self.transport.now_ns();
        for step in 0u32.. {
            let csts = self.csts();
            if csts.cfs() {
                return Err(format!("CSTS.CFS while waiting for {what}"));
            }
            if done(csts) {
                break;
            }
            let waited_ns = self.transport.now_ns().saturating_sub(start);
            if step > self.options.patience && waited_ns > self.options.patience_ns {
                return Err(format!("waited in vain for {what}: {csts:?}"));
            }
            self.transport.relax();
        }
        Ok(())
    }

    /// Asks what the controller is.
    fn identify(&mut self, unit: u64) -> Result<(), Wrong> {
        let page = self.ask(Cns::CONTROLLER, 0)?;
        let cut = "an Identify structure is short";
        let count = self.facts.read_controller(&page, unit).ok_or(cut)?;
        for nsid in 1..=count {
            let data = self.ask(Cns::NAMESPACE, nsid)?;
            self.facts.read_namespace(&data, &page).ok_or(cut)?;
            self.identify_namespaces.push(data);
            self.models.push(Model::new());
        }
        if self.facts.namespaces.is_empty() {
            return Err("there is no namespace".into());
        }
        self.identify_controller = page;
        self.facts.io_queues = self.options.io_queues;
        Ok(())
    }

    /// An Identify structure, without anything else in flight.
    fn ask(&mut self, cns: Cns, nsid: u32) -> Result<Vec<u8>, Wrong> {
        let bytes = IDENTIFY_BYTES as u64;
        let region = self.memory.alloc(bytes).ok_or("no memory")?;
        let address = region.address;
        let mut sqe = command::identify(cns, nsid);
        sqe.prp1 = address;
        let plain = Admin::Plain {
            legal: vec![Status::SUCCESS],
            answer: None,
            pieces: vec![(address, bytes)],
        };
        self.store(0, sqe, What::Admin(plain), vec![region]);
        self.pump(|host| !host.is_busy())?;
        Ok(self.memory.expected(Region { address, bytes }).to_vec())
    }

    /// Makes I/O queues by chance, at least one of either kind.
    pub(crate) fn make_queues(&mut self, choices: &mut (dyn Choices + '_)) -> Result<(), Wrong> {
        let most = u64::from(self.facts.io_queues);
        for _ in 0..choices.range(1..=most.min(4)) {
            self.add_cq(choices);
            self.pump(|host| !host.is_busy())?;
        }
        for _ in 0..choices.range(1..=most.min(8)) {
            self.add_sq(choices);
            self.pump(|host| !host.is_busy())?;
        }
        Ok(())
    }

    /// Waits until nothing is in flight that will be completed.
    pub(crate) fn drain(&mut self) -> Result<(), Wrong> {
        self.pump(|host| !host.is_busy())?;
        self.forget();
        Ok(())
    }

    /// Whether nothing is written while nothing is asked for.
    pub(crate) fn check_quiet(&mut self) -> Result<(), Wrong> {
        for _ in 0..QUIET_STEPS {
            self.transport.relax();
        }
        self.poll_all()?;
        self.memory.check_all(self.transport)
    }

    /// Resets the controller, whatever it is doing, and enables it again.
    pub(crate) fn reset(&mut self, choices: &mut (dyn Choices + '_)) -> Result<(), Wrong> {
        let cc = Cc::from(self.transport.read32(Register::Cc.offset()));
        if choices.one_in(4) {
            self.set_cc(cc.with_shn(choices.pick(&[Shn::Normal, Shn::Abrupt])));
            if choices.one_in(2) {
                self.wait_shut_down()?;
            }
        }
        self.set_cc(cc.with_en(false).with_shn(Shn::None));
        self.wait("CSTS.RDY = 0", |csts| !csts.rdy())?;
        // What was completed before is completed.
        self.poll_all()?;
        let lost: Vec<_> = self.in_flight.keys().copied().collect();
        lost.into_iter().for_each(|key| self.lose(key));
        self.claims.clear();
        self.aborted.clear();
        self.events_caused = false;
        self.forget();
        // The rest of the queues' memory, and of all buffers, is nobody's.
        for _ in 0..QUIET_STEPS {
            self.transport.relax();
        }
        self.memory
            .check_all(self.transport)
            .map_err(|wrong| format!("after a reset: {wrong}"))?;
        for (_, sq) in std::mem::take(&mut self.sqs) {
            self.memory.free(sq.region);
        }
        for (_, cq) in std::mem::take(&mut self.cqs) {
            self.memory.free(cq.region);
        }
        self.enable(choices)?;
        self.make_queues(choices)
    }

    /// Waits for the end of a shutdown, for which completions have to be taken.
    fn wait_shut_down(&mut self) -> Result<(), Wrong> {
        let start = self.transport.now_ns();
        for step in 0u32.. {
            if self.csts().shst() == Shst::Complete {
                break;
            }
            self.transport.relax();
            self.poll_all()?;
            self.ack_all();
            let waited_ns = self.transport.now_ns().saturating_sub(start);
            if step > self.options.patience && waited_ns > self.options.patience_ns {
                return Err("waited in vain for CSTS.SHST = 10b".into());
            }
        }
        Ok(())
    }
}
