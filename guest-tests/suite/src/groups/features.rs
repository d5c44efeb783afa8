//! Get Features and Set Features.

use nvme_host::{Config, command};
use nvme_spec::feature::{
    Arbitration, AsyncEventConfig, Capabilities, ErrorRecovery, InterruptVectorConfig,
    NumberOfQueues, PowerManagement, Select, THSEL_OVER, THSEL_UNDER, TMPSEL_COMPOSITE,
    TemperatureThreshold, VolatileWriteCache,
};
use nvme_spec::identify::ONCS_FEATURES_SAVE_SELECT;
use nvme_spec::queue::GetFeaturesCdw10;
use nvme_spec::{Cqe, FeatureId, Sqe, Status};

use crate::{Env, Outcome, check};

group! { "features":
    mandatory_features_can_be_read, "Base 2.1 3.1.2.3",
        "Every mandatory feature can be read.";
    arbitration_is_kept, "Base 2.1 5.1.25.1.1",
        "The arbitration burst that was set is read back.";
    power_state_is_kept, "Base 2.1 5.1.25.1.2",
        "The power state that was set is read back.";
    power_state_beyond_npss_is_refused, "Base 2.1 5.1.25.1.2",
        "A power state beyond NPSS completes with Invalid Field in Command, and the state stays.";
    temperature_threshold_defaults, "Base 2.1 5.1.25.1.3",
        "After a reset the over threshold is WCTEMP where that is not 0, and the under threshold is 0.";
    temperature_thresholds_are_kept, "Base 2.1 5.1.25.1.3",
        "The over and the under temperature thresholds are kept apart and read back.";
    temperature_threshold_type_is_checked, "Base 2.1 5.1.25.1.3",
        "A reserved threshold type completes with Invalid Field in Command.";
    error_recovery_is_kept, "NVM 1.1 4.1.3.2",
        "The error recovery time limit that was set for a namespace is read back.";
    write_cache_is_kept, "Base 2.1 5.1.25.1.4",
        "Where a volatile write cache is present it can be switched off and on.";
    absent_write_cache_is_refused, "Base 2.1 5.1.25.1.4",
        "Where no volatile write cache is present the feature completes with Invalid Field in Command.";
    queue_count_is_granted, "Base 2.1 5.1.25.1.5",
        "Number of Queues grants at least one queue of each kind, and is read back.";
    queue_count_65535_is_refused, "Base 2.1 5.1.25.1.5",
        "Number of Queues with FFFFh completes with Invalid Field in Command.";
    queue_count_is_fixed_by_io_queues, "Base 2.1 5.1.25.1.5",
        "Setting Number of Queues once an I/O queue exists completes with Command Sequence Error.";
    vector_config_names_its_vector, "PCIe 1.1 3.3",
        "Interrupt Vector Configuration can be read for each vector, and names it.";
    vector_config_is_kept, "PCIe 1.1 3.3",
        "Coalescing Disable can be set and cleared for a vector.";
    vector_config_refuses_vectors_beyond, "PCIe 1.1 3.3",
        "Interrupt Vector Configuration of a vector that is not there completes with Invalid Field in Command.";
    event_config_is_kept, "Base 2.1 5.1.25.1.6",
        "The SMART bits of Asynchronous Event Configuration are read back.";
    default_value_stays, "Base 2.1 5.1.11",
        "Select = Default gives the same value after the current one was changed.";
    saved_value_of_unsaveable_is_default, "Base 2.1 5.1.11",
        "Select = Saved of a feature that cannot be saved gives its default value.";
    capabilities_are_told, "Base 2.1 5.1.11",
        "Select = Supported Capabilities tells a changeable feature as changeable, and uses no reserved bit.";
    unknown_select_is_refused, "Base 2.1 5.1.11",
        "A reserved Select value completes with Invalid Field in Command.";
    saving_unsaveable_is_refused, "Base 2.1 5.1.25",
        "Save on a feature that cannot be saved completes with Feature Identifier Not Saveable, and nothing changes.";
    unknown_feature_is_refused, "Base 2.1 5.1.25",
        "Get and Set Features of a reserved identifier complete with Invalid Field in Command.";
    controller_feature_refuses_namespace, "Base 2.1 5.1.25",
        "Set Features of a controller-wide feature for one namespace completes with Feature Not Namespace Specific.";
}

/// A Feature Identifier no version up to 2.1 defines.
const RESERVED_FEATURES: [FeatureId; 2] = [FeatureId(0x00), FeatureId(0x77)];

pub(super) fn get(env: &mut Env<'_>, fid: FeatureId, cdw11: u32) -> Outcome<u32> {
    Ok(env.nvme.get_feature(fid, Select::Current, cdw11)?)
}

/// Sets a feature; skips the test where the controller says that it cannot be changed.
pub(super) fn set(env: &mut Env<'_>, fid: FeatureId, value: u32) -> Outcome {
    let cqe = env.nvme.admin(command::set_features(fid, value))?;
    changeable(env, fid, cqe)?;
    check::status("Set Features", cqe, Status::SUCCESS)
}

/// Skips the test where a feature cannot be changed, if the controller says the same when asked.
pub(super) fn changeable(env: &mut Env<'_>, fid: FeatureId, cqe: Cqe) -> Outcome {
    if !cqe.status().same_code(Status::FEATURE_NOT_CHANGEABLE) {
        return Ok(());
    }
    let contradicts = needs_select(env).is_ok() && capabilities(env, fid)?.changeable();
    ensure!(
        !contradicts,
        "{fid:?} is told as changeable, and setting it says that it is not"
    );
    skip!("{fid:?} cannot be changed on this controller")
}

pub(super) fn needs_select(env: &Env<'_>) -> Outcome {
    require!(
        env.context.controller.oncs & ONCS_FEATURES_SAVE_SELECT != 0,
        "ONCS bit 4 does not offer Select and Save"
    );
    Ok(())
}

fn threshold(thsel: u8) -> TemperatureThreshold {
    TemperatureThreshold::new()
        .with_tmpsel(TMPSEL_COMPOSITE)
        .with_thsel(thsel)
}

fn mandatory_features_can_be_read(env: &mut Env<'_>) -> Outcome {
    for (fid, cdw11) in [
        (FeatureId::ARBITRATION, 0),
        (FeatureId::POWER_MANAGEMENT, 0),
        (FeatureId::TEMPERATURE_THRESHOLD, 0),
        (FeatureId::NUMBER_OF_QUEUES, 0),
        (FeatureId::INTERRUPT_VECTOR_CONFIG, 0),
        (FeatureId::ASYNC_EVENT_CONFIG, 0),
    ] {
        let sqe = Sqe {
            cdw11,
            ..command::get_features(fid, Select::Current)
        };
        let cqe = env.nvme.admin(sqe)?;
        let what = alloc::format!("Get Features {fid:?}");
        check::status(&what, cqe, Status::SUCCESS)?;
    }
    Ok(())
}

fn arbitration_is_kept(env: &mut Env<'_>) -> Outcome {
    let fid = FeatureId::ARBITRATION;
    for ab in [0, 3, 7] {
        let value = Arbitration::new().with_ab(ab);
        set(env, fid, value.into())?;
        let found = Arbitration::from(get(env, fid, 0)?);
        check::equal("Arbitration Burst", found.ab(), ab)?;
    }
    Ok(())
}

fn power_state_is_kept(env: &mut Env<'_>) -> Outcome {
    let fid = FeatureId::POWER_MANAGEMENT;
    let last = env.context.controller.npss_z;
    for ps in [last, 0] {
        set(env, fid, PowerManagement::new().with_ps(ps).into())?;
        let found = PowerManagement::from(get(env, fid, 0)?);
        check::equal("Power State", found.ps(), ps)?;
    }
    Ok(())
}

fn power_state_beyond_npss_is_refused(env: &mut Env<'_>) -> Outcome {
    let fid = FeatureId::POWER_MANAGEMENT;
    let ps = env.context.controller.npss_z.saturating_add(1);
    require!(ps <= 31, "NPSS is 31: every power state is there");
    let before = get(env, fid, 0)?;
    let sqe = command::set_features(fid, PowerManagement::new().with_ps(ps).into());
    let cqe = env.nvme.admin(sqe)?;
    changeable(env, fid, cqe)?;
    check::status("a state beyond NPSS", cqe, Status::INVALID_FIELD)?;
    let after = get(env, fid, 0)?;
    check::equal_hex("Power Management", after, before)
}

fn temperature_thresholds_are_kept(env: &mut Env<'_>) -> Outcome {
    let fid = FeatureId::TEMPERATURE_THRESHOLD;
    for (over, under) in [(390, 210), (400, 200)] {
        set(env, fid, threshold(THSEL_OVER).with_tmpth(over).into())?;
        set(env, fid, threshold(THSEL_UNDER).with_tmpth(under).into())?;
        for (name, thsel, expected) in [
            ("over threshold", THSEL_OVER, over),
            ("under threshold", THSEL_UNDER, under),
        ] {
            let found = get(env, fid, threshold(thsel).into())?;
            let found = TemperatureThreshold::from(found).tmpth();
            check::equal(name, found, expected)?;
        }
    }
    Ok(())
}

fn temperature_threshold_defaults(env: &mut Env<'_>) -> Outcome {
    let fid = FeatureId::TEMPERATURE_THRESHOLD;
    let under = get(env, fid, threshold(THSEL_UNDER).into())?;
    let under = TemperatureThreshold::from(under).tmpth();
    check::equal("under threshold", under, 0)?;
    let wctemp = env.context.controller.wctemp;
    if wctemp != 0 {
        let over = get(env, fid, threshold(THSEL_OVER).into())?;
        let over = TemperatureThreshold::from(over).tmpth();
        check::equal("over threshold", over, wctemp)?;
    }
    Ok(())
}

fn temperature_threshold_type_is_checked(env: &mut Env<'_>) -> Outcome {
    let fid = FeatureId::TEMPERATURE_THRESHOLD;
    for thsel in [2, 3] {
        let value = threshold(thsel).with_tmpth(390).into();
        let cqe = env.nvme.admin(command::set_features(fid, value))?;
        check::status("Set Features", cqe, Status::INVALID_FIELD)?;
    }
    Ok(())
}

fn error_recovery_is_kept(env: &mut Env<'_>) -> Outcome {
    let fid = FeatureId::ERROR_RECOVERY;
    let nsid = env.ns()?.nsid;
    for tler in [5, 0] {
        let value = ErrorRecovery::new().with_tler(tler).into();
        let sqe = Sqe {
            nsid,
            ..command::set_features(fid, value)
        };
        let cqe = env.nvme.admin(sqe)?;
        changeable(env, fid, cqe)?;
        check::status("Set Features", cqe, Status::SUCCESS)?;
        let sqe = Sqe {
            nsid,
            ..command::get_features(fid, Select::Current)
        };
        let found = env.nvme.admin_ok(sqe)?.dw0;
        check::equal("TLER", ErrorRecovery::from(found).tler(), tler)?;
    }
    Ok(())
}

fn write_cache_is_kept(env: &mut Env<'_>) -> Outcome {
    let fid = FeatureId::VOLATILE_WRITE_CACHE;
    require!(
        env.context.controller.vwc.present(),
        "no volatile write cache is present"
    );
    for wce in [false, true] {
        set(env, fid, VolatileWriteCache::new().with_wce(wce).into())?;
        let found = VolatileWriteCache::from(get(env, fid, 0)?);
        check::equal("WCE", found.wce(), wce)?;
    }
    Ok(())
}

fn absent_write_cache_is_refused(env: &mut Env<'_>) -> Outcome {
    let fid = FeatureId::VOLATILE_WRITE_CACHE;
    require!(
        !env.context.controller.vwc.present(),
        "a volatile write cache is present"
    );
    for sqe in [
        command::get_features(fid, Select::Current),
        command::set_features(fid, 1),
        command::set_features(fid, 0),
    ] {
        let cqe = env.nvme.admin(sqe)?;
        check::status("the feature", cqe, Status::INVALID_FIELD)?;
    }
    Ok(())
}

fn queue_count_is_granted(env: &mut Env<'_>) -> Outcome {
    let fid = FeatureId::NUMBER_OF_QUEUES;
    env.restart(&Config::default())?;
    let asked = NumberOfQueues::new().with_nsq_z(0).with_ncq_z(0);
    let granted = env.nvme.set_feature(fid, asked.into())?;
    let found = get(env, fid, 0)?;
    check::equal_hex("Number of Queues", found, granted)?;
    // Whatever was granted, one pair works.
    env.io()?;
    env.alive()
}

fn queue_count_65535_is_refused(env: &mut Env<'_>) -> Outcome {
    env.restart(&Config::default())?;
    for asked in [
        NumberOfQueues::new().with_nsq_z(0xFFFF),
        NumberOfQueues::new().with_ncq_z(0xFFFF),
        NumberOfQueues::new().with_nsq_z(0xFFFF).with_ncq_z(0xFFFF),
    ] {
        let sqe = command::set_features(FeatureId::NUMBER_OF_QUEUES, asked.into());
        let cqe = env.nvme.admin(sqe)?;
        check::status("FFFFh queues", cqe, Status::INVALID_FIELD)?;
    }
    Ok(())
}

fn queue_count_is_fixed_by_io_queues(env: &mut Env<'_>) -> Outcome {
    let fid = FeatureId::NUMBER_OF_QUEUES;
    let before = get(env, fid, 0)?;
    env.io()?;
    let cqe = env.nvme.admin(command::set_features(fid, 0))?;
    check::status("with I/O queues", cqe, Status::COMMAND_SEQUENCE_ERROR)?;
    let after = get(env, fid, 0)?;
    check::equal_hex("Number of Queues", after, before)
}

fn vectors(env: &Env<'_>) -> Outcome<u16> {
    env.need_vectors(1)?;
    Ok(env.context.found.vectors)
}

fn vector_config_names_its_vector(env: &mut Env<'_>) -> Outcome {
    let last = vectors(env)? - 1;
    for iv in [0, 1, last] {
        if iv <= last {
            let found = get(env, FeatureId::INTERRUPT_VECTOR_CONFIG, iv.into())?;
            let found = InterruptVectorConfig::from(found).iv();
            check::equal("IV", found, iv)?;
        }
    }
    Ok(())
}

fn vector_config_is_kept(env: &mut Env<'_>) -> Outcome {
    let fid = FeatureId::INTERRUPT_VECTOR_CONFIG;
    env.need_vectors(2)?;
    for cd in [true, false] {
        let value = InterruptVectorConfig::new().with_iv(1).with_cd(cd);
        set(env, fid, value.into())?;
        let found = InterruptVectorConfig::from(get(env, fid, 1)?);
        check::equal("Coalescing Disable", found.cd(), cd)?;
    }
    Ok(())
}

fn vector_config_refuses_vectors_beyond(env: &mut Env<'_>) -> Outcome {
    let fid = FeatureId::INTERRUPT_VECTOR_CONFIG;
    vectors(env)?;
    let beyond = u32::from(u16::MAX);
    let sqe = Sqe {
        cdw11: beyond,
        ..command::get_features(fid, Select::Current)
    };
    let cqe = env.nvme.admin(sqe)?;
    check::status("Get Features", cqe, Status::INVALID_FIELD)?;
    let cqe = env.nvme.admin(command::set_features(fid, beyond))?;
    changeable(env, fid, cqe)?;
    check::status("Set Features", cqe, Status::INVALID_FIELD)
}

fn event_config_is_kept(env: &mut Env<'_>) -> Outcome {
    let fid = FeatureId::ASYNC_EVENT_CONFIG;
    for smart in [0x1F, 0x02, 0] {
        set(env, fid, AsyncEventConfig::new().with_smart(smart).into())?;
        let found = AsyncEventConfig::from(get(env, fid, 0)?);
        check::equal_hex("SMART critical warnings", found.smart(), smart)?;
    }
    Ok(())
}

fn default_value_stays(env: &mut Env<'_>) -> Outcome {
    needs_select(env)?;
    let fid = FeatureId::ASYNC_EVENT_CONFIG;
    let default = env.nvme.get_feature(fid, Select::Default, 0)?;
    let other = default ^ 0x02;
    set(env, fid, other)?;
    let current = get(env, fid, 0)?;
    check::equal_hex("current value", current, other)?;
    let after = env.nvme.get_feature(fid, Select::Default, 0)?;
    check::equal_hex("default value", after, default)
}

fn capabilities(env: &mut Env<'_>, fid: FeatureId) -> Outcome<Capabilities> {
    let found = env.nvme.get_feature(fid, Select::Supported, 0)?;
    Ok(Capabilities::from(found))
}

fn saved_value_of_unsaveable_is_default(env: &mut Env<'_>) -> Outcome {
    needs_select(env)?;
    let fid = FeatureId::ASYNC_EVENT_CONFIG;
    let saveable = capabilities(env, fid)?.saveable();
    require!(!saveable, "{fid:?} can be saved");
    let default = env.nvme.get_feature(fid, Select::Default, 0)?;
    set(env, fid, default ^ 0x02)?;
    let saved = env.nvme.get_feature(fid, Select::Saved, 0)?;
    check::equal_hex("saved value", saved, default)
}

fn capabilities_are_told(env: &mut Env<'_>) -> Outcome {
    needs_select(env)?;
    for fid in [
        FeatureId::TEMPERATURE_THRESHOLD,
        FeatureId::NUMBER_OF_QUEUES,
        FeatureId::ASYNC_EVENT_CONFIG,
    ] {
        let found = capabilities(env, fid)?;
        ensure!(
            found.changeable(),
            "{fid:?} can be changed and is told as unchangeable"
        );
        ensure!(
            u32::from(found) & !0b111 == 0,
            "{fid:?}: reserved bits are set in {:#x}",
            u32::from(found)
        );
    }
    Ok(())
}

fn unknown_select_is_refused(env: &mut Env<'_>) -> Outcome {
    needs_select(env)?;
    for sel in 4..8 {
        let sqe = command::get_features(FeatureId::ASYNC_EVENT_CONFIG, Select::Current);
        let sqe = Sqe {
            cdw10: GetFeaturesCdw10::from(sqe.cdw10).with_sel(sel).into(),
            ..sqe
        };
        let cqe = env.nvme.admin(sqe)?;
        let what = alloc::format!("Select = {sel}");
        check::status(&what, cqe, Status::INVALID_FIELD)?;
    }
    Ok(())
}

fn saving_unsaveable_is_refused(env: &mut Env<'_>) -> Outcome {
    let fid = FeatureId::ASYNC_EVENT_CONFIG;
    let select = needs_select(env).is_ok();
    if select {
        let saveable = capabilities(env, fid)?.saveable();
        require!(!saveable, "{fid:?} can be saved");
    }
    let before = get(env, fid, 0)?;
    let sqe = command::with_save(command::set_features(fid, before ^ 0x02));
    let cqe = env.nvme.admin(sqe)?;
    if select {
        check::status("Save", cqe, Status::FEATURE_NOT_SAVEABLE)?;
    } else {
        // Without ONCS bit 4 the bit itself is reserved.
        check::one_of(
            "Save",
            cqe,
            &[Status::FEATURE_NOT_SAVEABLE, Status::INVALID_FIELD],
        )?;
    }
    let after = get(env, fid, 0)?;
    check::equal_hex("current value", after, before)
}

fn unknown_feature_is_refused(env: &mut Env<'_>) -> Outcome {
    for fid in RESERVED_FEATURES {
        for sqe in [
            command::get_features(fid, Select::Current),
            command::set_features(fid, 0),
        ] {
            let cqe = env.nvme.admin(sqe)?;
            let what = alloc::format!("feature {:#04x}, opcode {:#04x}", fid.0, sqe.opcode);
            check::status(&what, cqe, Status::INVALID_FIELD)?;
        }
    }
    Ok(())
}

fn controller_feature_refuses_namespace(env: &mut Env<'_>) -> Outcome {
    let nsid = env.ns()?.nsid;
    let fid = FeatureId::ASYNC_EVENT_CONFIG;
    let before = get(env, fid, 0)?;
    let sqe = Sqe {
        nsid,
        ..command::set_features(fid, before ^ 0x02)
    };
    let cqe = env.nvme.admin(sqe)?;
    check::status(
        "Set Features for one namespace",
        cqe,
        Status::FEATURE_NOT_NAMESPACE_SPECIFIC,
    )?;
    let after = get(env, fid, 0)?;
    check::equal_hex("current value", after, before)
}
