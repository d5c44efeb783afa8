//! Get and Set Features (Base 5.1.11, 5.1.25).

use nvme_spec::{
    LogId, NSID_BROADCAST, Sqe, Status,
    event::{EventType, SMART_TEMPERATURE},
    feature::{
        ARBITRATION_NO_LIMIT, Arbitration, AsyncEventConfig, Capabilities, ErrorRecovery,
        InterruptCoalescing, InterruptVectorConfig, NumberOfQueues, PowerManagement, Select,
        THSEL_OVER, THSEL_UNDER, TMPSEL_ALL, TMPSEL_COMPOSITE, TemperatureThreshold,
        VolatileWriteCache, WriteAtomicityNormal,
    },
    log::CriticalWarning,
    queue::{GetFeaturesCdw10, SetFeaturesCdw10},
};

use super::{Admin, AdminContext, Handled, Outcome};
use crate::{
    config::{CacheMode, ControllerConfig},
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
pub(super) struct Features {
    arbitration: Arbitration,
    power: PowerManagement,
    over_k: u16,
    under_k: u16,
    /// By namespace, NSID 1 first.
    error_recovery: Vec<ErrorRecovery>,
    write_cache: VolatileWriteCache,
    coalescing: InterruptCoalescing,
    write_atomicity: WriteAtomicityNormal,
    events: AsyncEventConfig,
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

    /// The value of a feature, as dword 0 of Get Features.
    fn value(
        &self,
        cx: &AdminContext<'_>,
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
                let index = namespace_index(cx, sqe.nsid)?;
                self.error_recovery
                    .get(index)
                    .copied()
                    .unwrap_or_default()
                    .into()
            }
            FeatureKind::VolatileWriteCache => self.write_cache.into(),
            FeatureKind::NumberOfQueues => granted(cx).into(),
            FeatureKind::InterruptCoalescing => self.coalescing.into(),
            FeatureKind::InterruptVectorConfig => {
                let iv = InterruptVectorConfig::from(sqe.cdw11).iv();
                if iv >= cx.shared.config.vectors {
                    return Err(Status::INVALID_FIELD.dnr());
                }
                let cd = current && cx.shared.settings.is_coalescing_disabled(iv);
                InterruptVectorConfig::new().with_iv(iv).with_cd(cd).into()
            }
            FeatureKind::WriteAtomicityNormal => self.write_atomicity.into(),
            FeatureKind::AsyncEventConfig => self.events.into(),
        })
    }
}

/// What Number of Queues grants: all that are configured.
fn granted(cx: &AdminContext<'_>) -> NumberOfQueues {
    let queues_z = cx.shared.config.io_queues - 1;
    NumberOfQueues::new()
        .with_nsq_z(queues_z)
        .with_ncq_z(queues_z)
}

/// The namespace whose value a namespace specific feature's Get asks for.
fn namespace_index(cx: &AdminContext<'_>, nsid: u32) -> Result<usize, Status> {
    let namespace = cx
        .shared
        .namespace(nsid)
        .ok_or(Status::INVALID_NAMESPACE.dnr())?;
    Ok(namespace.nsid as usize - 1)
}

/// Whether a feature is there with this configuration.
fn present(cx: &AdminContext<'_>, kind: FeatureKind) -> bool {
    kind != FeatureKind::VolatileWriteCache || cx.shared.config.cache == CacheMode::Volatile
}

impl Admin {
    /// Get Features (Base 5.1.11).
    pub(super) fn get_features(&mut self, cx: &AdminContext<'_>, sqe: &Sqe) -> Handled {
        let cdw10 = GetFeaturesCdw10::from(sqe.cdw10);
        let kind = table::feature_kind(cdw10.fid()).ok_or(Status::INVALID_FIELD.dnr())?;
        if !present(cx, kind) {
            return Err(Status::INVALID_FIELD.dnr());
        }
        let value = match Select::from_bits(cdw10.sel()) {
            Some(Select::Current) => self.features.value(cx, kind, sqe, true)?,
            // Nothing is saveable, and then the saved value is the default (Base 4.4).
            Some(Select::Default | Select::Saved) => {
                Features::new(&cx.shared.config).value(cx, kind, sqe, false)?
            }
            Some(Select::Supported) => Capabilities::new()
                .with_namespace_specific(kind == FeatureKind::ErrorRecovery)
                .with_changeable(true)
                .into(),
            None => return Err(Status::INVALID_FIELD.dnr()),
        };
        Ok(Outcome::value(value))
    }

    /// Set Features (Base 5.1.25).
    pub(super) fn set_features(&mut self, cx: &AdminContext<'_>, sqe: &Sqe) -> Handled {
        let cdw10 = SetFeaturesCdw10::from(sqe.cdw10);
        let kind = table::feature_kind(cdw10.fid()).ok_or(Status::INVALID_FIELD.dnr())?;
        if !present(cx, kind) {
            return Err(Status::INVALID_FIELD.dnr());
        }
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
                let wce = VolatileWriteCache::from(sqe.cdw11).wce();
                self.features.write_cache = VolatileWriteCache::new().with_wce(wce);
            }
            FeatureKind::NumberOfQueues => {
                let asked = NumberOfQueues::from(sqe.cdw11);
                if asked.nsq_z() == u16::MAX || asked.ncq_z() == u16::MAX {
                    return Err(Status::INVALID_FIELD.dnr());
                }
                if self.queues.any() {
                    return Err(Status::COMMAND_SEQUENCE_ERROR.dnr());
                }
                return Ok(Outcome::value(granted(cx).into()));
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
            }
            FeatureKind::AsyncEventConfig => {
                let asked = AsyncEventConfig::from(sqe.cdw11);
                // OAES offers no notices.
                self.features.events = AsyncEventConfig::new().with_smart(asked.smart());
                self.raise_warnings();
            }
        }
        Ok(Outcome::SUCCESS)
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
        let index = namespace_index(cx, sqe.nsid)?;
        if let Some(value) = self.features.error_recovery.get_mut(index) {
            *value = set;
        }
        Ok(())
    }
}
