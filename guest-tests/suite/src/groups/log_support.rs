//! Log pages that tell what the controller supports, held against what it does.

use nvme_host::command;
use nvme_spec::feature::Select;
use nvme_spec::identify::{LPA_COMMANDS_EFFECTS, LPA_MISCELLANEOUS, OAES_NAMESPACE_ATTRIBUTE};
use nvme_spec::log::{
    ChangedNamespaces, CommandsEffectsLog, FeaturesEffectsLog, SCOPE_NAMESPACE, SupportedLogPages,
};
use nvme_spec::{
    AdminOpcode, FeatureId, LogId, NSID_BROADCAST, NvmOpcode, Sqe, Status,
    feature::AsyncEventConfig,
};
use zerocopy::{FromZeros, IntoBytes};

use super::features::needs_select;
use crate::{Env, Outcome, check};

group! { "logs":
    supported_pages_are_there, "Base 2.1 5.1.12.1.1",
        "A log page is refused as such if, and only if, Supported Log Pages does not list it.";
    mandatory_pages_are_listed, "Base 2.1 3.1.2.2",
        "Supported Log Pages lists itself and the pages that every I/O controller has.";
    index_offset_needs_support, "Base 2.1 5.1.12",
        "An offset that is an index completes with Invalid Field in Command for a page that Supported Log Pages does not list with one.";
    feature_effects_match_features, "Base 2.1 5.1.12.1",
        "A feature can be asked about if, and only if, Feature Identifiers Supported and Effects lists it.";
    command_effects_list_mandatory_commands, "Base 2.1 5.1.12.1.6",
        "Commands Supported and Effects lists every mandatory command, and sets no other bit of a command that it does not list.";
    changed_namespaces_are_forgotten_once_read, "Base 2.1 5.1.12.1.5",
        "The Changed Attached Namespace list is ascending, and empty when it is read again.";
    offered_notices_can_be_enabled, "Base 2.1 5.1.25.1.6",
        "Namespace attribute notices can be enabled and disabled where OAES offers them.";
}

fn needs_lists(env: &Env<'_>) -> Outcome {
    require!(
        env.context.controller.lpa & LPA_MISCELLANEOUS != 0,
        "LPA bit 5 does not offer log pages 00h, 12h and 13h"
    );
    Ok(())
}

fn supported(env: &mut Env<'_>) -> Outcome<SupportedLogPages> {
    needs_lists(env)?;
    let mut log = SupportedLogPages::new_zeroed();
    let lid = LogId::SUPPORTED_LOG_PAGES;
    env.nvme.log_page(lid, NSID_BROADCAST, log.as_mut_bytes())?;
    Ok(log)
}

fn supported_pages_are_there(env: &mut Env<'_>) -> Outcome {
    let log = supported(env)?;
    for (lid, support) in (0..=u8::MAX).map(LogId).zip(log.pages) {
        let sqe = command::with_retain(command::get_log_page(lid, NSID_BROADCAST, 4));
        let cqe = env.nvme.admin_data(sqe, &mut [0; 16])?;
        let what = alloc::format!("log page {:#04x}", lid.0);
        if support.lsupp() {
            // A page that is there may need a parameter, and say so.
            let missing = cqe.status().same_code(Status::INVALID_LOG_PAGE);
            ensure!(!missing, "{what} is listed: found {}", cqe.status());
        } else {
            ensure!(
                u32::from(support) == 0,
                "{what} is not listed, and has bits {:#x}",
                u32::from(support)
            );
            check::one_of(
                &what,
                cqe,
                &[Status::INVALID_LOG_PAGE, Status::INVALID_FIELD],
            )?;
        }
    }
    Ok(())
}

fn mandatory_pages_are_listed(env: &mut Env<'_>) -> Outcome {
    let log = supported(env)?;
    for lid in [
        LogId::SUPPORTED_LOG_PAGES,
        LogId::ERROR_INFORMATION,
        LogId::SMART,
        LogId::FIRMWARE_SLOT,
        LogId::COMMANDS_SUPPORTED,
        LogId::FEATURES_SUPPORTED,
    ] {
        let support = log.pages.get(usize::from(lid.0));
        ensure!(
            support.is_some_and(|support| support.lsupp()),
            "{lid:?} is not listed"
        );
    }
    Ok(())
}

fn index_offset_needs_support(env: &mut Env<'_>) -> Outcome {
    let log = supported(env)?;
    for (lid, support) in (0..=u8::MAX).map(LogId).zip(log.pages) {
        if !support.lsupp() || support.ios() {
            continue;
        }
        let sqe = command::with_retain(command::get_log_page(lid, NSID_BROADCAST, 4));
        let sqe = command::with_index_offset(sqe);
        let cqe = env.nvme.admin_data(sqe, &mut [0; 16])?;
        let what = alloc::format!("log page {:#04x} with OT", lid.0);
        check::status(&what, cqe, Status::INVALID_FIELD)?;
    }
    Ok(())
}

fn feature_effects_match_features(env: &mut Env<'_>) -> Outcome {
    needs_lists(env)?;
    needs_select(env)?;
    let mut log = FeaturesEffectsLog::new_zeroed();
    let lid = LogId::FEATURES_SUPPORTED;
    env.nvme.log_page(lid, NSID_BROADCAST, log.as_mut_bytes())?;
    let nsid = env.ns()?.nsid;
    for (fid, effects) in (0..=u8::MAX).map(FeatureId).zip(log.features) {
        let of_namespace = effects.fsp() & SCOPE_NAMESPACE != 0;
        let sqe = Sqe {
            nsid: if of_namespace { nsid } else { 0 },
            ..command::get_features(fid, Select::Supported)
        };
        let cqe = env.nvme.admin(sqe)?;
        let expected = if effects.fsupp() {
            Status::SUCCESS
        } else {
            Status::INVALID_FIELD
        };
        let what = alloc::format!("feature {:#04x}, FSUPP {}", fid.0, effects.fsupp());
        check::status(&what, cqe, expected)?;
    }
    Ok(())
}

fn command_effects_list_mandatory_commands(env: &mut Env<'_>) -> Outcome {
    require!(
        env.context.controller.lpa & LPA_COMMANDS_EFFECTS != 0,
        "LPA bit 1 does not offer Commands Supported and Effects"
    );
    let mut log = CommandsEffectsLog::new_zeroed();
    let lid = LogId::COMMANDS_SUPPORTED;
    env.nvme.log_page(lid, NSID_BROADCAST, log.as_mut_bytes())?;
    for opcode in [
        AdminOpcode::DELETE_IO_SQ,
        AdminOpcode::CREATE_IO_SQ,
        AdminOpcode::GET_LOG_PAGE,
        AdminOpcode::DELETE_IO_CQ,
        AdminOpcode::CREATE_IO_CQ,
        AdminOpcode::IDENTIFY,
        AdminOpcode::ABORT,
        AdminOpcode::SET_FEATURES,
        AdminOpcode::GET_FEATURES,
        AdminOpcode::ASYNC_EVENT_REQUEST,
    ] {
        let effects = log.acs.get(usize::from(opcode.0));
        ensure!(
            effects.is_some_and(|effects| effects.csupp()),
            "{opcode:?} is not listed"
        );
    }
    for opcode in [NvmOpcode::FLUSH, NvmOpcode::WRITE, NvmOpcode::READ] {
        let effects = log.iocs.get(usize::from(opcode.0));
        ensure!(
            effects.is_some_and(|effects| effects.csupp()),
            "{opcode:?} is not listed"
        );
    }
    let commands = log.acs.iter().chain(&log.iocs);
    let odd = commands
        .filter(|effects| !effects.csupp())
        .find(|effects| u32::from(**effects) != 0);
    ensure!(odd.is_none(), "a command that is not listed has {odd:?}");
    Ok(())
}

fn needs_notices(env: &Env<'_>) -> Outcome {
    require!(
        env.context.controller.oaes & OAES_NAMESPACE_ATTRIBUTE != 0,
        "OAES bit 8 does not offer namespace attribute notices"
    );
    Ok(())
}

fn changed_namespaces_are_forgotten_once_read(env: &mut Env<'_>) -> Outcome {
    needs_notices(env)?;
    let lid = LogId::CHANGED_NAMESPACES;
    let mut log = ChangedNamespaces::new_zeroed();
    env.nvme.log_page(lid, NSID_BROADCAST, log.as_mut_bytes())?;
    let used = log.nsids.iter().take_while(|nsid| **nsid != 0).count();
    let (listed, rest) = log.nsids.split_at(used);
    ensure!(
        listed.is_sorted_by(|one, next| one < next),
        "the list is not ascending: {listed:x?}"
    );
    ensure!(
        rest.iter().all(|nsid| *nsid == 0),
        "an identifier stands behind the end of the list"
    );
    env.nvme.log_page(lid, NSID_BROADCAST, log.as_mut_bytes())?;
    let first = log.nsids.first().copied().unwrap_or_default();
    check::equal_hex("first entry when read again", first, 0)
}

fn offered_notices_can_be_enabled(env: &mut Env<'_>) -> Outcome {
    needs_notices(env)?;
    let fid = FeatureId::ASYNC_EVENT_CONFIG;
    for enabled in [true, false] {
        let value = AsyncEventConfig::new().with_namespace_attribute(enabled);
        env.nvme.set_feature(fid, value.into())?;
        let found = env.nvme.get_feature(fid, Select::Current, 0)?;
        let found = AsyncEventConfig::from(found).namespace_attribute();
        check::equal("Namespace Attribute Notices", found, enabled)?;
    }
    Ok(())
}
