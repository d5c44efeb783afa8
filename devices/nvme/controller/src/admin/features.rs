//! Get and Set Features (Base 5.1.11, 5.1.25).

use std::sync::atomic::Ordering;

use nvme_spec::{
    FeatureId, LogId, NSID_BROADCAST, Sqe, Status,
    event::{EventType, SMART_TEMPERATURE},
    feature::{
        ARBITRATION_NO_LIMIT, Arbitration, AsyncEventConfig, Capabilities, CommandSetProfile,
        ErrorRecovery, HostBehavior, InterruptCoalescing, InterruptVectorConfig, NumberOfQueues,
        PowerManagement, Select, THSEL_OVER, THSEL_UNDER, TMPSEL_ALL, TMPSEL_COMPOSITE,
        TemperatureThreshold, Timestamp, VolatileWriteCache, WriteAtomicityNormal,
    },
    log::CriticalWarning,
    queue::{GetFeaturesCdw10, SetFeaturesCdw10},
};
use zerocopy::{FromZeros, IntoBytes};

use super::{Admin, AdminContext, Handled, Outcome, Wait, clock::Clock, keep_alive::KeepAlive};
use crate::{
    config::{CacheMode, ControllerConfig},
    mailbox::Message,
    shared::Shared,
    sync::lock,
    table::{self, FeatureKind},
};

/// Composite Temperature, in kelvins: constant, for nothing gets warm here.
pub(super) const TEMPERATURE_K: u16 = 303;
/// Warning Composite Temperature, WCTEMP, in kelvins; the default over-temperature threshold.
pub(super) const WARNING_TEMPERATURE_K: u16 = 343;
/// Critical Composite Temperature, CCTEMP, in kelvins.
pub(super) const CRITICAL_TEMPERATURE_K: u16 = 358;
/// Power states; NPSS is one less.
pub(super) const POWER_STATES: u8 = 1;

/// The current values.
#[derive(Clone, Debug)]
pub(crate) struct Features {
    arbitration: Arbitration,
    power: PowerManagement,
    over_k: u16,
    under_k: u16,
    /// By namespace, NSID 1 first.
    error_recovery: Vec<ErrorRecovery>,
    write_cache: VolatileWriteCache,
    coalescing: InterruptCoalescing,
    write_atomicity: WriteAtomicityNormal,
    pub(super) events: AsyncEventConfig,
    pub(super) clock: Clock,
    pub(super) keep_alive: KeepAlive,
    host_behavior: HostBehavior,
}

impl Features {
    /// The default values.
    pub(super) fn new(config: &ControllerConfig) -> Self {
        Self {
            arbitration: Arbitration::new().with_ab(ARBITRATION_NO_LIMIT),
            power: PowerManagement::new(),
            over_k: WARNING_TEMPERATURE_K,
            under_k: 0,
            error_recovery: vec![ErrorRecovery::new(); config.namespaces.len()],
            write_cache: VolatileWriteCache::new().with_wce(config.cache == CacheMode::Volatile),
            coalescing: InterruptCoalescing::new(),
            write_atomicity: WriteAtomicityNormal::new(),
            events: AsyncEventConfig::new(),
            clock: Clock::default(),
            keep_alive: KeepAlive::default(),
            host_behavior: HostBehavior::new_zeroed(),
        }
    }

    /// Critical Warning of the SMART log (Base 5.1.12.1.3).
    pub(super) const fn critical_warning(&self) -> CriticalWarning {
        if TEMPERATURE_K >= self.over_k || TEMPERATURE_K <= self.under_k {
            CriticalWarning::TEMPERATURE
        } else {
            CriticalWarning::empty()
        }
    }

    /// Lets others see the values that there are now.
    pub(super) fn publish(&self, shared: &Shared) {
        lock(&shared.features).clone_from(self);
    }

    /// The value of a feature, as dword 0 of Get Features.
    fn value(
        &self,
        shared: &Shared,
        kind: FeatureKind,
        sqe: &Sqe,
        current: bool,
    ) -> Result<u32, Status> {
        Ok(match kind {
            FeatureKind::Arbitration => self.arbitration.into(),
            FeatureKind::PowerManagement => self.power.into(),
            FeatureKind::TemperatureThreshold => {
                let asked = TemperatureThreshold::from(sqe.cdw11);
                let tmpth = match (asked.tmpsel(), asked.thsel()) {
                    (TMPSEL_COMPOSITE, THSEL_OVER) => self.over_k,
                    (TMPSEL_COMPOSITE, THSEL_UNDER) => self.under_k,
                    _ => return Err(Status::INVALID_FIELD.dnr()),
                };
                TemperatureThreshold::new().with_tmpth(tmpth).into()
            }
            FeatureKind::ErrorRecovery => {
                let index = namespace_index(shared, sqe.nsid)?;
                self.error_recovery
                    .get(index)
                    .copied()
                    .unwrap_or_default()
                    .into()
            }
            FeatureKind::VolatileWriteCache => self.write_cache.into(),
            FeatureKind::NumberOfQueues => granted(shared).into(),
            FeatureKind::InterruptCoalescing => self.coalescing.into(),
            FeatureKind::InterruptVectorConfig => {
                let iv = InterruptVectorConfig::from(sqe.cdw11).iv();
                if iv >= shared.config.vectors {
                    return Err(Status::INVALID_FIELD.dnr());
                }
                let cd = current && shared.settings.is_coalescing_disabled(iv);
                InterruptVectorConfig::new().with_iv(iv).with_cd(cd).into()
            }
            FeatureKind::WriteAtomicityNormal => self.write_atomicity.into(),
            FeatureKind::AsyncEventConfig => self.events.into(),
            FeatureKind::KeepAliveTimer => self.keep_alive.kato_ms(),
            // The only combination of command sets.
            FeatureKind::CommandSetProfile => CommandSetProfile::new().into(),
            // Their values are data.
            FeatureKind::Timestamp | FeatureKind::HostBehavior => 0,
        })
    }

    /// The value of a feature that has it in the command's data.
    fn data(&self, now_ns: u64, kind: FeatureKind) -> Option<Vec<u8>> {
        match kind {
            FeatureKind::Timestamp => Some(self.clock.read(now_ns).as_bytes().to_vec()),
            FeatureKind::HostBehavior => Some(self.host_behavior.as_bytes().to_vec()),
            _ => None,
        }
    }
}

/// A feature's values, as Get Features returns them (Base 5.1.11).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FeatureValue {
    /// Which it is.
    pub fid: FeatureId,
    /// The namespace whose value it is, for a feature that each namespace has its own of.
    pub nsid: Option<u32>,
    /// Dword 0 of the completion, as it is now.
    pub current: u32,
    /// The same by default.
    pub default: u32,
    /// The data, of a feature that has its value there.
    pub data: Option<Vec<u8>>,
}

/// The values that a controller has at first.
pub(crate) fn features_at_first(config: &ControllerConfig) -> Features {
    Features::new(config)
}

/// All features that there are, as Get Features returns them. Of those with a selector (the
/// temperature's threshold, the vector) the first: the over temperature threshold, vector 0.
pub(crate) fn feature_values(shared: &Shared, now_ns: u64) -> Vec<FeatureValue> {
    let (features, default) = (
        lock(&shared.features).clone(),
        Features::new(&shared.config),
    );
    let mut values = Vec::new();
    for row in table::features(&shared.config) {
        let own = row.kind == FeatureKind::ErrorRecovery;
        let each = shared.namespaces.iter().map(|namespace| namespace.nsid);
        let each = each.filter(|_| own).map(Some);
        for nsid in each.chain((!own).then_some(None)) {
            let sqe = Sqe {
                nsid: nsid.unwrap_or_default(),
                ..Sqe::default()
            };
            let value = |of: &Features, current| of.value(shared, row.kind, &sqe, current);
            if let (Ok(current), Ok(default)) = (value(&features, true), value(&default, false)) {
                values.push(FeatureValue {
                    fid: row.id,
                    nsid,
                    current,
                    default,
                    data: features.data(now_ns, row.kind),
                });
            }
        }
    }
    values
}

/// The feature that a command names.
fn feature(cx: &AdminContext<'_>, fid: FeatureId) -> Result<FeatureKind, Status> {
    table::feature_kind(&cx.shared.config, fid).ok_or(Status::INVALID_FIELD.dnr())
}

/// What Number of Queues grants: all that are configured.
fn granted(shared: &Shared) -> NumberOfQueues {
    let queues_z = shared.config.io_queues - 1;
    NumberOfQueues::new()
        .with_nsq_z(queues_z)
        .with_ncq_z(queues_z)
}

/// The namespace whose value a namespace specific feature's Get asks for.
fn namespace_index(shared: &Shared, nsid: u32) -> Result<usize, Status> {
    let namespace = shared
        .namespace(nsid)
        .ok_or(Status::INVALID_NAMESPACE.dnr())?;
    Ok(namespace.nsid as usize - 1)
}

impl Admin {
    /// Get Features (Base 5.1.11).
    pub(super) fn get_features(&mut self, cx: &AdminContext<'_>, sqe: &Sqe) -> Handled {
        let cdw10 = GetFeaturesCdw10::from(sqe.cdw10);
        let kind = feature(cx, cdw10.fid())?;
        let select = Select::from_bits(cdw10.sel()).ok_or(Status::INVALID_FIELD.dnr())?;
        let default;
        let (features, current) = match select {
            Select::Current => (&self.features, true),
            // Nothing is saveable, and then the saved value is the default (Base 4.4).
            Select::Default | Select::Saved => {
                default = Features::new(&cx.shared.config);
                (&default, false)
            }
            Select::Supported => {
                let capabilities = Capabilities::new()
                    .with_namespace_specific(kind == FeatureKind::ErrorRecovery)
                    .with_changeable(true);
                return Ok(Outcome::value(capabilities.into()));
            }
        };
        let value = features.value(cx.shared, kind, sqe, current)?;
        if let Some(data) = features.data(cx.now_ns, kind) {
            self.send(cx, sqe, &data, data.len() as u64)?;
        }
        Ok(Outcome::value(value))
    }

    /// Set Features (Base 5.1.25).
    pub(super) fn set_features(&mut self, cx: &AdminContext<'_>, sqe: &Sqe) -> Handled {
        let cdw10 = SetFeaturesCdw10::from(sqe.cdw10);
        let kind = feature(cx, cdw10.fid())?;
        if cdw10.sv() {
            return Err(Status::FEATURE_NOT_SAVEABLE.dnr());
        }
        let whole = matches!(sqe.nsid, 0 | NSID_BROADCAST);
        if kind != FeatureKind::ErrorRecovery && !whole {
            cx.shared
                .namespace(sqe.nsid)
                .ok_or(Status::INVALID_NAMESPACE.dnr())?;
            return Err(Status::FEATURE_NOT_NAMESPACE_SPECIFIC.dnr());
        }
        match kind {
            FeatureKind::Arbitration => {
                let asked = Arbitration::from(sqe.cdw11);
                self.features.arbitration = Arbitration::new()
                    .with_ab(asked.ab())
                    .with_lpw_z(asked.lpw_z())
                    .with_mpw_z(asked.mpw_z())
                    .with_hpw_z(asked.hpw_z());
                cx.shared
                    .settings
                    .set_arbitration(self.features.arbitration);
            }
            FeatureKind::PowerManagement => {
                let power = PowerManagement::from(sqe.cdw11);
                if power.ps() >= POWER_STATES {
                    return Err(Status::INVALID_FIELD.dnr());
                }
                self.features.power = PowerManagement::new()
                    .with_ps(power.ps())
                    .with_wh(power.wh());
            }
            FeatureKind::TemperatureThreshold => self.set_threshold(sqe.cdw11)?,
            FeatureKind::ErrorRecovery => self.set_error_recovery(cx, sqe)?,
            FeatureKind::VolatileWriteCache => {
                let was = self.features.write_cache.wce();
                let wce = VolatileWriteCache::from(sqe.cdw11).wce();
                self.features.write_cache = VolatileWriteCache::new().with_wce(wce);
                let through = &cx.shared.settings.write_through;
                through.store(!wce, Ordering::Relaxed);
                if was && !wce {
                    return Ok(self.flush_all(cx));
                }
            }
            FeatureKind::NumberOfQueues => {
                let asked = NumberOfQueues::from(sqe.cdw11);
                if asked.nsq_z() == u16::MAX || asked.ncq_z() == u16::MAX {
                    return Err(Status::INVALID_FIELD.dnr());
                }
                if self.queues.any() {
                    return Err(Status::COMMAND_SEQUENCE_ERROR.dnr());
                }
                return Ok(Outcome::value(granted(cx.shared).into()));
            }
            FeatureKind::InterruptCoalescing => {
                let asked = InterruptCoalescing::from(sqe.cdw11);
                let set = InterruptCoalescing::new()
                    .with_thr_z(asked.thr_z())
                    .with_time(asked.time());
                self.features.coalescing = set;
                cx.shared.settings.set_coalescing(set);
            }
            FeatureKind::InterruptVectorConfig => {
                let asked = InterruptVectorConfig::from(sqe.cdw11);
                if asked.iv() >= cx.shared.config.vectors {
                    return Err(Status::INVALID_FIELD.dnr());
                }
                cx.shared
                    .settings
                    .set_coalescing_disabled(asked.iv(), asked.cd());
            }
            FeatureKind::WriteAtomicityNormal => {
                let dn = WriteAtomicityNormal::from(sqe.cdw11).dn();
                self.features.write_atomicity = WriteAtomicityNormal::new().with_dn(dn);
                let disabled = &cx.shared.settings.disable_normal;
                disabled.store(dn, Ordering::Relaxed);
            }
            FeatureKind::AsyncEventConfig => {
                let asked = AsyncEventConfig::from(sqe.cdw11);
                // OAES offers one notice.
                self.features.events = AsyncEventConfig::new()
                    .with_smart(asked.smart())
                    .with_namespace_attribute(asked.namespace_attribute());
                self.raise_warnings();
                if !asked.namespace_attribute() {
                    self.events.withdraw(EventType::Notice);
                }
            }
            FeatureKind::Timestamp => {
                let mut asked = Timestamp::new();
                self.receive(cx, sqe, asked.as_mut_bytes())?;
                self.features.clock.set(asked, cx.now_ns);
            }
            FeatureKind::KeepAliveTimer => self.features.keep_alive.set(sqe.cdw11, cx.now_ns),
            FeatureKind::HostBehavior => self.set_host_behavior(cx, sqe)?,
            FeatureKind::CommandSetProfile => {
                if CommandSetProfile::from(sqe.cdw11).iocsci() != 0 {
                    return Err(Status::COMMAND_SETS_REJECTED.dnr());
                }
            }
        }
        Ok(Outcome::SUCCESS)
    }

    /// Has every shard finish the writes it began while there was a write cache, and flush that.
    fn flush_all(&mut self, cx: &AdminContext<'_>) -> Outcome {
        let left = cx.shared.config.shards;
        let failed = false;
        let (epoch, ticket) = (cx.epoch, self.ticket(Wait::Flush { left, failed }));
        for shard in 0..left {
            let message = Message::Flush { epoch, ticket };
            cx.shared.mailboxes.post(shard, message);
        }
        Outcome::Waits(ticket)
    }

    /// Temperature Threshold (Base 5.1.25.1.3). Only the composite temperature is there.
    fn set_threshold(&mut self, cdw11: u32) -> Result<(), Status> {
        let asked = TemperatureThreshold::from(cdw11);
        if !matches!(asked.tmpsel(), TMPSEL_COMPOSITE | TMPSEL_ALL) {
            return Err(Status::INVALID_FIELD.dnr());
        }
        match asked.thsel() {
            THSEL_OVER => self.features.over_k = asked.tmpth(),
            THSEL_UNDER => self.features.under_k = asked.tmpth(),
            _ => return Err(Status::INVALID_FIELD.dnr()),
        }
        self.raise_warnings();
        Ok(())
    }

    /// Raises the event of each critical warning that the host wants to hear of, and takes back
    /// one that is over or not wanted.
    fn raise_warnings(&mut self) {
        let wanted = CriticalWarning::from_bits_truncate(self.features.events.smart());
        if (self.features.critical_warning() & wanted).contains(CriticalWarning::TEMPERATURE) {
            self.events
                .raise(EventType::Smart, SMART_TEMPERATURE, LogId::SMART);
        } else {
            self.events.withdraw(EventType::Smart);
        }
    }

    /// Host Behavior Support (Base 5.1.25.1). Of what a host may be able to do, only Advanced
    /// Command Retry means anything here, and as CRDT is 0 nothing comes of that either. The rest
    /// goes with what Identify does not offer.
    fn set_host_behavior(&mut self, cx: &AdminContext<'_>, sqe: &Sqe) -> Result<(), Status> {
        let mut asked = HostBehavior::new_zeroed();
        self.receive(cx, sqe, asked.as_mut_bytes())?;
        let absent = [asked.etdas, asked.lbafee, asked.hdisns];
        if asked.acre > 1 || absent != [0; 3] || asked.cdfe != 0 {
            return Err(Status::INVALID_FIELD.dnr());
        }
        self.features.host_behavior.acre = asked.acre;
        Ok(())
    }

    /// Error Recovery (NVM 4.1.3.2), for one namespace or all.
    fn set_error_recovery(&mut self, cx: &AdminContext<'_>, sqe: &Sqe) -> Result<(), Status> {
        let asked = ErrorRecovery::from(sqe.cdw11);
        // No namespace offers the deallocated block error (NSFEAT bit 2).
        if asked.dulbe() {
            return Err(Status::INVALID_FIELD.dnr());
        }
        let set = ErrorRecovery::new().with_tler(asked.tler());
        if sqe.nsid == NSID_BROADCAST {
            self.features.error_recovery.fill(set);
            return Ok(());
        }
        let index = namespace_index(cx.shared, sqe.nsid)?;
        if let Some(value) = self.features.error_recovery.get_mut(index) {
            *value = set;
        }
        Ok(())
    }
}
