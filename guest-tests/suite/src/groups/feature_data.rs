//! Features whose value is data in the host's memory: Timestamp, Host Behavior Support.

use nvme_host::{Config, command};
use nvme_spec::feature::{
    HostBehavior, Select, TIMESTAMP_FROM_HOST, TIMESTAMP_FROM_RESET, Timestamp,
};
use nvme_spec::identify::ONCS_TIMESTAMP;
use nvme_spec::{FeatureId, Sqe, Status};
use zerocopy::{FromZeros, IntoBytes};

use super::features::{changeable, needs_select};
use super::place::nowhere;
use crate::{Env, Outcome, check};

group! { "features":
    timestamp_counts_from_the_reset, "Base 2.1 5.1.25.1",
        "After a reset the Timestamp counts milliseconds from zero, and its origin is 000b.";
    timestamp_goes_on_from_what_was_set, "Base 2.1 5.1.25.1",
        "A Timestamp that was set goes on from there, and its origin is 001b.";
    timestamp_default_is_zero, "Base 2.1 5.1.11",
        "Select = Default gives a Timestamp of zero after another was set.";
    timestamp_data_lies_over_two_pages, "Base 2.1 4.3.1",
        "A feature's data may begin at any dword of a page and end in the page of PRP2.";
    timestamp_data_nowhere_is_an_error, "Base 2.1 4.2.3.1",
        "Set Features whose data is where there is no memory completes with an error, and changes nothing.";
    host_behavior_is_kept, "Base 2.1 5.1.25.1",
        "Advanced Command Retry of Host Behavior Support can be enabled and disabled.";
    host_behavior_is_clear_after_a_reset, "Base 2.1 5.1.25.1",
        "After a reset Host Behavior Support is all zeroes.";
}

/// 2024-01-01 0:00 UTC, in milliseconds.
const SOME_TIME: u64 = 1_704_067_200_000;
/// How far a clock may be from what was set a moment ago, in milliseconds: hosts may be slow.
const SLACK_MS: u64 = 60_000;

fn needs_timestamp(env: &Env<'_>) -> Outcome {
    require!(
        env.context.controller.oncs & ONCS_TIMESTAMP != 0,
        "ONCS bit 6 does not offer Timestamp"
    );
    Ok(())
}

fn timestamp(env: &mut Env<'_>, select: Select) -> Outcome<Timestamp> {
    let mut found = Timestamp::new();
    env.nvme
        .get_feature_data(FeatureId::TIMESTAMP, select, found.as_mut_bytes())?;
    Ok(found)
}

fn set_timestamp(env: &mut Env<'_>, milliseconds: u64) -> Outcome {
    let value = Timestamp::new().with_milliseconds(milliseconds);
    let fid = FeatureId::TIMESTAMP;
    let cqe = env.nvme.set_feature_data(fid, value.as_bytes())?;
    changeable(env, fid, cqe)?;
    check::status("Set Features", cqe, Status::SUCCESS)
}

/// Checks that a timestamp is `least` or a little more.
fn is_about(found: Timestamp, least: u64, origin: u8) -> Outcome {
    let shown = found.milliseconds();
    ensure!(
        (least..least + SLACK_MS).contains(&shown),
        "expected a timestamp of {least} or a little more, found {shown}"
    );
    check::equal("Timestamp Origin", found.origin(), origin)
}

fn timestamp_counts_from_the_reset(env: &mut Env<'_>) -> Outcome {
    needs_timestamp(env)?;
    set_timestamp(env, SOME_TIME)?;
    env.restart(&Config::default())?;
    let first = timestamp(env, Select::Current)?;
    is_about(first, 0, TIMESTAMP_FROM_RESET)?;
    env.nvme.pause(5_000_000);
    let second = timestamp(env, Select::Current)?;
    is_about(second, first.milliseconds() + 4, TIMESTAMP_FROM_RESET)
}

fn timestamp_goes_on_from_what_was_set(env: &mut Env<'_>) -> Outcome {
    needs_timestamp(env)?;
    for set in [SOME_TIME, 0] {
        set_timestamp(env, set)?;
        let first = timestamp(env, Select::Current)?;
        is_about(first, set, TIMESTAMP_FROM_HOST)?;
        env.nvme.pause(5_000_000);
        let second = timestamp(env, Select::Current)?;
        is_about(second, first.milliseconds() + 4, TIMESTAMP_FROM_HOST)?;
    }
    Ok(())
}

fn timestamp_default_is_zero(env: &mut Env<'_>) -> Outcome {
    needs_timestamp(env)?;
    needs_select(env)?;
    set_timestamp(env, SOME_TIME)?;
    let default = timestamp(env, Select::Default)?;
    check::equal("default timestamp", default.milliseconds(), 0)
}

fn timestamp_data_lies_over_two_pages(env: &mut Env<'_>) -> Outcome {
    needs_timestamp(env)?;
    let page = env.nvme.page_bytes();
    let area = env.nvme.alloc(4 * page)?;
    let half = Timestamp::BYTES as u64 / 2;
    let (low, high) = (area.slice(page - half, half), area.slice(2 * page, half));
    let place = |sqe: Sqe| Sqe {
        prp1: low.address,
        prp2: high.address,
        ..sqe
    };
    let value = Timestamp::new().with_milliseconds(SOME_TIME);
    let (first, second) = value.as_bytes().split_at(Timestamp::BYTES / 2);
    env.nvme.copy_to(low, first);
    env.nvme.copy_to(high, second);
    let cqe = env
        .nvme
        .admin(place(command::set_features(FeatureId::TIMESTAMP, 0)))?;
    check::status("Set Features", cqe, Status::SUCCESS)?;
    is_about(
        timestamp(env, Select::Current)?,
        SOME_TIME,
        TIMESTAMP_FROM_HOST,
    )?;
    env.guard(area);
    let get = command::get_features(FeatureId::TIMESTAMP, Select::Current);
    env.nvme.admin_ok(place(get))?;
    let mut found = Timestamp::new();
    let bytes = [env.copy_out(low), env.copy_out(high)].concat();
    for (place, byte) in found.as_mut_bytes().iter_mut().zip(bytes) {
        *place = byte;
    }
    is_about(found, SOME_TIME, TIMESTAMP_FROM_HOST)?;
    env.guarded("before the data", area.slice(0, page - half))?;
    env.guarded("between its parts", area.slice(page, page))?;
    let behind = 2 * page + half;
    env.guarded("behind the data", area.slice(behind, area.bytes - behind))
}

fn timestamp_data_nowhere_is_an_error(env: &mut Env<'_>) -> Outcome {
    needs_timestamp(env)?;
    set_timestamp(env, SOME_TIME)?;
    let prp1 = nowhere(env);
    let cqe = env.nvme.admin(Sqe {
        prp1,
        ..command::set_features(FeatureId::TIMESTAMP, 0)
    })?;
    check::refused("Set Features with data nowhere", cqe)?;
    is_about(
        timestamp(env, Select::Current)?,
        SOME_TIME,
        TIMESTAMP_FROM_HOST,
    )
}

/// Reads Host Behavior Support; skips where it is not there, for no bit tells of it.
fn host_behavior(env: &mut Env<'_>) -> Outcome<HostBehavior> {
    let mut found = HostBehavior::new_zeroed();
    let sqe = command::get_features(FeatureId::HOST_BEHAVIOR_SUPPORT, Select::Current);
    let cqe = env.nvme.admin_data(sqe, found.as_mut_bytes())?;
    if cqe.status().same_code(Status::INVALID_FIELD) {
        skip!("Host Behavior Support is optional, and not there");
    }
    check::status("Get Features", cqe, Status::SUCCESS)?;
    Ok(found)
}

fn host_behavior_is_kept(env: &mut Env<'_>) -> Outcome {
    host_behavior(env)?;
    let fid = FeatureId::HOST_BEHAVIOR_SUPPORT;
    for acre in [1, 0] {
        let mut value = HostBehavior::new_zeroed();
        value.acre = acre;
        let cqe = env.nvme.set_feature_data(fid, value.as_bytes())?;
        changeable(env, fid, cqe)?;
        check::status("Set Features", cqe, Status::SUCCESS)?;
        let found = host_behavior(env)?;
        check::same_bytes("Host Behavior Support", found.as_bytes(), value.as_bytes())?;
    }
    Ok(())
}

fn host_behavior_is_clear_after_a_reset(env: &mut Env<'_>) -> Outcome {
    host_behavior(env)?;
    let mut value = HostBehavior::new_zeroed();
    value.acre = 1;
    env.nvme
        .set_feature_data(FeatureId::HOST_BEHAVIOR_SUPPORT, value.as_bytes())?;
    env.restart(&Config::default())?;
    let found = host_behavior(env)?;
    check::same_bytes("Host Behavior Support", found.as_bytes(), &[0; 512])
}
