//! The controller as a whole: registers, enabling, disabling, shutting down.

use alloc::vec::Vec;

use nvme_spec::registers::{
    Aqa, CC_AMS_ROUND_ROBIN, CC_CSS_NVM, CQE_LOG2, Cap, Cc, Csts, Register, SQE_LOG2, Shn, Shst, Vs,
};

use crate::dma::{self, Pool};
use crate::queue::{CompletionQueue, SubmissionQueue};
use crate::{Awaited, Buffer, CqConfig, Error, ShadowDoorbells, Transport};

/// How long a command may take unless [`Driver::set_command_timeout`] says otherwise.
pub const DEFAULT_COMMAND_TIMEOUT_NS: u64 = 10_000_000_000;

/// CAP.TO's unit, in nanoseconds.
const TIMEOUT_UNIT_NS: u64 = 500_000_000;

/// How the controller is enabled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// Entries of the admin submission queue, 2 to 4,096.
    pub admin_sq_entries: u32,
    /// Entries of the admin completion queue, 2 to 4,096.
    pub admin_cq_entries: u32,
    /// CC.MPS: memory pages of 2^(12 + MPS) bytes; `None` takes CAP.MPSMIN.
    pub mps: Option<u8>,
    /// CC.AMS.
    pub ams: u8,
    /// CC.CSS.
    pub css: u8,
    /// Waits for admin commands sleep until vector 0's interrupt instead of polling.
    pub admin_sleep: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            admin_sq_entries: 32,
            admin_cq_entries: 32,
            mps: None,
            ams: CC_AMS_ROUND_ROBIN,
            css: CC_CSS_NVM,
            admin_sleep: false,
        }
    }
}

/// What the driver has done so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Entries stored in submission queues.
    pub commands: u64,
    /// Entries taken from completion queues.
    pub completions: u64,
    /// Bytes of data the commands asked to move from the host to the controller.
    pub bytes_to_device: u64,
    /// Bytes of data the commands asked to move from the controller to the host.
    pub bytes_from_device: u64,
    /// Tails and heads that the controller was told.
    pub doorbells: u64,
    /// Writes of doorbell registers for them: fewer with shadow doorbells.
    pub doorbell_writes: u64,
}

/// A driver of one controller.
///
/// Made disabled or enabled, as the controller is found; [`enable`](Self::enable) needs it
/// disabled.
pub struct Driver<'t, T: Transport + ?Sized> {
    pub(crate) transport: &'t mut T,
    pub(crate) cap: Cap,
    pub(crate) page_bytes: u64,
    pub(crate) pool: Pool,
    pub(crate) sqs: Vec<Option<SubmissionQueue>>,
    pub(crate) cqs: Vec<Option<CompletionQueue>>,
    pub(crate) stats: Stats,
    pub(crate) shadow: Option<ShadowDoorbells>,
    pub(crate) shadow_wanted: bool,
    pub(crate) shadow_after_queues: bool,
    pub(crate) command_timeout_ns: u64,
    vs: Vs,
}

impl<'t, T: Transport + ?Sized> Driver<'t, T> {
    /// Reads what the controller is capable of; changes nothing.
    ///
    /// # Errors
    /// [`Error::Gone`] when there is no controller.
    pub fn new(transport: &'t mut T) -> Result<Self, Error> {
        let cap = transport.read64(Register::Cap.offset());
        let vs = transport.read32(Register::Vs.offset());
        if cap == u64::MAX || vs == u32::MAX {
            return Err(Error::Gone);
        }
        let cap = Cap::from(cap);
        Ok(Self {
            transport,
            cap,
            page_bytes: page_bytes(cap.mpsmin()),
            pool: Pool::default(),
            sqs: Vec::new(),
            cqs: Vec::new(),
            stats: Stats::default(),
            shadow: None,
            shadow_wanted: false,
            shadow_after_queues: false,
            command_timeout_ns: DEFAULT_COMMAND_TIMEOUT_NS,
            vs: Vs::from(vs),
        })
    }

    /// The transport, for what goes past the driver.
    pub fn transport(&mut self) -> &mut T {
        self.transport
    }

    /// Controller Capabilities, as read at the start.
    #[must_use]
    pub const fn cap(&self) -> Cap {
        self.cap
    }

    /// The specification version, as read at the start.
    #[must_use]
    pub const fn version(&self) -> Vs {
        self.vs
    }

    /// The memory page size in bytes that is (or was last) set in CC.MPS.
    #[must_use]
    pub const fn page_bytes(&self) -> u64 {
        self.page_bytes
    }

    /// What the driver has done so far.
    #[must_use]
    pub const fn stats(&self) -> Stats {
        self.stats
    }

    /// Sets how long a command may take, in nanoseconds of the transport's clock.
    pub const fn set_command_timeout(&mut self, ns: u64) {
        self.command_timeout_ns = ns;
    }

    /// How long a command may take, in nanoseconds.
    #[must_use]
    pub const fn command_timeout(&self) -> u64 {
        self.command_timeout_ns
    }

    /// Reads CSTS.
    pub fn csts(&mut self) -> Csts {
        Csts::from(self.transport.read32(Register::Csts.offset()))
    }

    /// Reads CC.
    pub fn cc(&mut self) -> Cc {
        Cc::from(self.transport.read32(Register::Cc.offset()))
    }

    /// Writes CC.
    pub fn set_cc(&mut self, cc: Cc) {
        self.transport.write32(Register::Cc.offset(), cc.into());
    }

    /// How long CSTS.RDY may take to follow CC.EN, in nanoseconds: CAP.TO, or CRTO where
    /// CAP.CRMS says that it is there (Base 3.1.4.1, 3.1.4.20). At least one unit of 500 ms.
    pub fn ready_timeout(&mut self) -> u64 {
        let mut units = u64::from(self.cap.to());
        if self.cap.crms() != 0 {
            let [a, b, c, d] = self.transport.read32(Register::Crto.offset()).to_le_bytes();
            let with_media = u16::from_le_bytes([a, b]);
            let independent = u16::from_le_bytes([c, d]);
            units = units.max(u64::from(with_media.max(independent)));
        }
        units.max(1) * TIMEOUT_UNIT_NS
    }

    /// Disables the controller (CC.EN = 0) and waits for CSTS.RDY = 0. Queues and their memory
    /// are forgotten; other buffers stay.
    ///
    /// # Errors
    /// [`Error::Timeout`], [`Error::Gone`].
    pub fn disable(&mut self) -> Result<(), Error> {
        let cc = self.cc();
        if u32::from(cc) == u32::MAX {
            return Err(Error::Gone);
        }
        if cc.en() {
            // A controller on its way up has to arrive before it may be sent down (Base 3.1.4.5).
            let _ = self.wait_ready(true);
            self.set_cc(cc.with_en(false).with_shn(Shn::None));
        }
        self.wait_ready(false)?;
        self.forget_queues();
        Ok(())
    }

    /// [`disable`](Self::disable), then frees all device-visible memory: every [`Buffer`] ends.
    ///
    /// # Errors
    /// [`Error::Timeout`], [`Error::Gone`].
    pub fn reset(&mut self) -> Result<(), Error> {
        self.disable()?;
        self.pool.clear();
        self.transport.dma_reset();
        Ok(())
    }

    /// Sets up the admin queues and enables the controller; turns shadow doorbells on if
    /// [`set_shadow_doorbells`](Self::set_shadow_doorbells) says so.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for a page or queue size that cannot be, [`Error::NoMemory`],
    /// [`Error::Timeout`], [`Error::Fatal`], [`Error::Gone`]; with shadow doorbells those of
    /// [`enable_shadow_doorbells`](Self::enable_shadow_doorbells).
    pub fn enable(&mut self, config: &Config) -> Result<(), Error> {
        self.prepare(config)?;
        self.start(config);
        self.wait_ready(true)?;
        if self.shadow_wanted {
            self.enable_shadow_doorbells()?;
        }
        Ok(())
    }

    /// The part of [`enable`](Self::enable) before CC.EN: page size, admin queues, AQA, ASQ, ACQ.
    ///
    /// # Errors
    /// [`Error::OutOfRange`], [`Error::NoMemory`].
    pub fn prepare(&mut self, config: &Config) -> Result<(), Error> {
        let mps = config.mps.unwrap_or(self.cap.mpsmin());
        let largest = self.cap.mpsmax().min(page_log2(dma::MAX_ALIGN));
        check(
            "CC.MPS",
            mps.into(),
            self.cap.mpsmin().into(),
            largest.into(),
        )?;
        for entries in [config.admin_sq_entries, config.admin_cq_entries] {
            check("admin queue entries", entries.into(), 2, 4096)?;
        }
        self.forget_queues();
        self.page_bytes = page_bytes(mps);
        let cq = CqConfig {
            vector: Some(0),
            sleep: config.admin_sleep,
            ..CqConfig::new(0, config.admin_cq_entries)
        };
        let acq = self.place_cq(&cq)?;
        let asq = self.place_sq(0, 0, config.admin_sq_entries, None)?;
        let aqa = Aqa::new()
            .with_asqs_z(size_z(config.admin_sq_entries))
            .with_acqs_z(size_z(config.admin_cq_entries));
        self.transport.write32(Register::Aqa.offset(), aqa.into());
        self.transport.write64(Register::Asq.offset(), asq.address);
        self.transport.write64(Register::Acq.offset(), acq.address);
        Ok(())
    }

    /// The part of [`enable`](Self::enable) that sets CC.EN, without waiting.
    pub fn start(&mut self, config: &Config) {
        let cc = Cc::new()
            .with_css(config.css)
            .with_mps(page_log2(self.page_bytes))
            .with_ams(config.ams)
            .with_iosqes(SQE_LOG2)
            .with_iocqes(CQE_LOG2);
        self.set_cc(cc);
        self.set_cc(cc.with_en(true));
    }

    /// Waits for CSTS.RDY to become `value`.
    ///
    /// # Errors
    /// [`Error::Timeout`], [`Error::Fatal`] (waiting for 1 only), [`Error::Gone`].
    pub fn wait_ready(&mut self, value: bool) -> Result<(), Error> {
        let timeout_ns = self.ready_timeout();
        let awaited = Awaited::Ready(value);
        self.wait_csts(awaited, timeout_ns, |csts| {
            if value && csts.cfs() {
                return Some(Err(Error::Fatal { awaited }));
            }
            (csts.rdy() == value).then_some(Ok(()))
        })
    }

    /// Notifies the controller of a shutdown and waits until it is complete (Base 3.6.1). The
    /// controller stays enabled; only [`disable`](Self::disable) is useful afterwards.
    ///
    /// # Errors
    /// [`Error::Timeout`], [`Error::Gone`].
    pub fn shutdown(&mut self, shn: Shn) -> Result<(), Error> {
        let cc = self.cc();
        self.set_cc(cc.with_shn(shn));
        self.wait_shutdown()
    }

    /// Waits until CSTS.SHST says that shutdown processing is complete.
    ///
    /// # Errors
    /// [`Error::Timeout`], [`Error::Gone`].
    pub fn wait_shutdown(&mut self) -> Result<(), Error> {
        // RTD3E may say more; without it the host is to wait at least a second.
        let timeout_ns = self.command_timeout_ns.max(2 * TIMEOUT_UNIT_NS);
        self.wait_csts(Awaited::ShutdownComplete, timeout_ns, |csts| {
            (csts.shst() == Shst::Complete).then_some(Ok(()))
        })
    }

    fn wait_csts(
        &mut self,
        awaited: Awaited,
        timeout_ns: u64,
        mut done: impl FnMut(Csts) -> Option<Result<(), Error>>,
    ) -> Result<(), Error> {
        let start = self.transport.now_ns();
        loop {
            let csts = self.csts();
            if u32::from(csts) == u32::MAX {
                return Err(Error::Gone);
            }
            if let Some(result) = done(csts) {
                return result;
            }
            let after_ns = self.transport.now_ns().saturating_sub(start);
            if after_ns > timeout_ns {
                return Err(Error::Timeout { awaited, after_ns });
            }
            self.transport.relax();
        }
    }

    /// Zeroed device-visible memory, aligned to the memory page size.
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub fn alloc(&mut self, bytes: u64) -> Result<Buffer, Error> {
        self.pool.alloc(self.transport, bytes, self.page_bytes)
    }

    /// Gives a buffer of [`alloc`](Self::alloc) back. The controller must be done with it.
    pub fn free(&mut self, buffer: Buffer) {
        self.pool.release(buffer);
    }

    /// Copies out of a buffer, from its start, as much as both hold.
    pub fn copy_from(&mut self, buffer: Buffer, data: &mut [u8]) {
        let bytes = usize::try_from(buffer.bytes).unwrap_or(usize::MAX);
        let len = data.len().min(bytes);
        if let Some(data) = data.get_mut(..len) {
            self.transport.mem_read(buffer.address, data);
        }
    }

    /// Copies into a buffer, to its start, as much as both hold.
    pub fn copy_to(&mut self, buffer: Buffer, data: &[u8]) {
        let bytes = usize::try_from(buffer.bytes).unwrap_or(usize::MAX);
        let len = data.len().min(bytes);
        if let Some(data) = data.get(..len) {
            self.transport.mem_write(buffer.address, data);
        }
    }

    /// Fills a buffer with a pattern, repeated.
    pub fn fill(&mut self, buffer: Buffer, pattern: &[u8]) {
        dma::fill(self.transport, buffer.address, buffer.bytes, pattern);
    }

    /// Lets `ns` nanoseconds of the transport's time pass, and at least a few polls.
    pub fn pause(&mut self, ns: u64) {
        let start = self.transport.now_ns();
        for _ in 0..16 {
            self.transport.relax();
        }
        let passed = self.transport.now_ns().saturating_sub(start);
        self.transport.pause(ns.saturating_sub(passed));
    }

    /// What a wait that ran out of time means: the controller may be gone or dead.
    pub(crate) fn timed_out(&mut self, awaited: Awaited, after_ns: u64) -> Error {
        let csts = self.csts();
        if u32::from(csts) == u32::MAX {
            Error::Gone
        } else if csts.cfs() {
            Error::Fatal { awaited }
        } else {
            Error::Timeout { awaited, after_ns }
        }
    }
}

/// Bytes of a memory page for a value of CC.MPS.
const fn page_bytes(mps: u8) -> u64 {
    4096 << (mps & 0xF)
}

/// The value of CC.MPS for a page size.
#[expect(clippy::cast_possible_truncation, reason = "at most 63")]
const fn page_log2(bytes: u64) -> u8 {
    bytes.trailing_zeros().saturating_sub(12) as u8
}

/// A queue size as it goes on the wire, zero-based.
pub(crate) fn size_z(entries: u32) -> u16 {
    u16::try_from(entries.saturating_sub(1)).unwrap_or(u16::MAX)
}

/// A range check as an error value.
pub(crate) fn check(what: &'static str, value: u64, min: u64, max: u64) -> Result<(), Error> {
    if (min..=max).contains(&value) {
        Ok(())
    } else {
        Err(Error::OutOfRange {
            what,
            value,
            min,
            max,
        })
    }
}
