//! The log pages that tell what there is: made from the feature table.

use nvme_spec::{
    FeatureId,
    log::{
        CSE_SAME_NAMESPACE, CommandEffects, CommandsEffectsLog, FeatureEffects, FeaturesEffectsLog,
        LogPageSupport, MiCommandsEffectsLog, SCOPE_CONTROLLER, SCOPE_NAMESPACE, SupportedLogPages,
    },
};
use zerocopy::FromZeros;

use crate::{
    config::ControllerConfig,
    table::{self, AdminKind, FeatureKind, IO, IoKind, admin, feature_kind},
};

/// Supported Log Pages (Base 5.1.12.1.1). No page has an index to its offset.
pub(crate) fn log_pages(config: &ControllerConfig) -> SupportedLogPages {
    let mut log = SupportedLogPages::new_zeroed();
    for row in table::logs(config) {
        if let Some(page) = log.pages.get_mut(usize::from(row.id.0)) {
            *page = LogPageSupport::new().with_lsupp(true);
        }
    }
    log
}

/// Commands Supported and Effects (Base 5.1.12.1.6): what the commands that are there do.
pub(crate) fn commands(config: &ControllerConfig) -> CommandsEffectsLog {
    let mut log = CommandsEffectsLog::new_zeroed();
    for row in admin(config) {
        if let Some(effects) = log.acs.get_mut(usize::from(row.id.0)) {
            // But for Format NVM none changes blocks, namespaces or capabilities.
            let effect = CommandEffects::new().with_csupp(true);
            *effects = match row.kind {
                // What the host sends to the namespace meanwhile is refused.
                AdminKind::FormatNvm => effect
                    .with_lbcc(true)
                    .with_ncc(true)
                    .with_cse(CSE_SAME_NAMESPACE)
                    .with_csp(SCOPE_NAMESPACE),
                _ => effect.with_csp(SCOPE_CONTROLLER),
            };
        }
    }
    for row in IO {
        let changes = match row.kind {
            IoKind::Write | IoKind::WriteZeroes | IoKind::DatasetManagement => true,
            IoKind::Flush | IoKind::Read | IoKind::Compare | IoKind::Verify => false,
        };
        if let Some(effects) = log.iocs.get_mut(usize::from(row.id.0)) {
            *effects = CommandEffects::new()
                .with_csupp(true)
                .with_lbcc(changes)
                .with_csp(SCOPE_NAMESPACE);
        }
    }
    log
}

/// Feature Identifiers Supported and Effects (Base 5.1.12.1). Setting a feature changes no data,
/// namespaces or capabilities.
pub(crate) fn features(config: &ControllerConfig) -> FeaturesEffectsLog {
    let mut log = FeaturesEffectsLog::new_zeroed();
    for (fid, effects) in (0..=u8::MAX).map(FeatureId).zip(&mut log.features) {
        if let Some(kind) = feature_kind(config, fid) {
            let scope = match kind {
                FeatureKind::ErrorRecovery => SCOPE_NAMESPACE,
                _ => SCOPE_CONTROLLER,
            };
            *effects = FeatureEffects::new().with_fsupp(true).with_fsp(scope);
        }
    }
    log
}

/// NVMe-MI Commands Supported and Effects (Base 5.1.12.1): there is no NVMe-MI Send or Receive.
pub(crate) fn mi_commands() -> MiCommandsEffectsLog {
    MiCommandsEffectsLog::new_zeroed()
}
