//! What features and CC set for all shards: read on every poll, written by shard 0.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use nvme_spec::feature::{ARBITRATION_NO_LIMIT, Arbitration, InterruptCoalescing};

use crate::config::MIN_PAGE_BYTES;

/// Settings that the shards obey.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Bytes of a memory page (CC.MPS).
    pub(crate) page_bytes: AtomicU64,
    /// The function may read and write memory (PCI's Bus Master Enable). On
    /// until a front end says otherwise.
    pub(crate) dma: AtomicBool,
    /// Commands that a queue may have executed in its turn.
    pub(crate) arbitration_burst: AtomicU32,
    /// Completions that raise an interrupt at once, at least 1.
    pub(crate) coalescing_count: AtomicU32,
    /// How long an interrupt may wait for more completions, in nanoseconds; 0: not at all.
    pub(crate) coalescing_ns: AtomicU64,
    /// Only what holds when the power fails holds between commands (Write Atomicity Normal, DN).
    pub(crate) disable_normal: AtomicBool,
    /// The host has switched the volatile write cache off: writes are durable when they complete.
    pub(crate) write_through: AtomicBool,
    /// Vectors that do not coalesce.
    pub(crate) coalescing_disabled: Box<[AtomicBool]>,
}

impl Settings {
    /// The settings of a controller that was just reset.
    pub(crate) fn new(vectors: u16) -> Self {
        let settings = Self {
            page_bytes: AtomicU64::new(u64::from(MIN_PAGE_BYTES)),
            dma: AtomicBool::new(true),
            arbitration_burst: AtomicU32::new(0),
            coalescing_count: AtomicU32::new(0),
            coalescing_ns: AtomicU64::new(0),
            disable_normal: AtomicBool::new(false),
            write_through: AtomicBool::new(false),
            coalescing_disabled: (0..vectors).map(|_| AtomicBool::new(false)).collect(),
        };
        settings.reset();
        settings
    }

    /// Sets what features set to its defaults. Bus mastering is PCI's, and the page size is set
    /// when the controller is enabled.
    pub(crate) fn reset(&self) {
        self.set_arbitration(Arbitration::new().with_ab(ARBITRATION_NO_LIMIT));
        self.set_coalescing(InterruptCoalescing::new());
        self.disable_normal.store(false, Ordering::Relaxed);
        self.write_through.store(false, Ordering::Relaxed);
        for disabled in &self.coalescing_disabled {
            disabled.store(false, Ordering::Relaxed);
        }
    }

    pub(crate) fn set_arbitration(&self, arbitration: Arbitration) {
        let burst = match arbitration.ab() {
            ARBITRATION_NO_LIMIT => u32::MAX,
            log2 => 1 << log2,
        };
        self.arbitration_burst.store(burst, Ordering::Relaxed);
    }

    pub(crate) fn set_coalescing(&self, coalescing: InterruptCoalescing) {
        const UNIT_NS: u64 = 100_000;
        self.coalescing_count
            .store(u32::from(coalescing.thr_z()) + 1, Ordering::Relaxed);
        self.coalescing_ns
            .store(u64::from(coalescing.time()) * UNIT_NS, Ordering::Relaxed);
    }

    pub(crate) fn set_coalescing_disabled(&self, vector: u16, disabled: bool) {
        if let Some(flag) = self.coalescing_disabled.get(usize::from(vector)) {
            flag.store(disabled, Ordering::Relaxed);
        }
    }

    /// Whether `vector` does not coalesce; one that does not exist does not either.
    pub(crate) fn is_coalescing_disabled(&self, vector: u16) -> bool {
        self.coalescing_disabled
            .get(usize::from(vector))
            .is_none_or(|flag| flag.load(Ordering::Relaxed))
    }
}
