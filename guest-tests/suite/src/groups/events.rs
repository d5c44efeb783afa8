//! Asynchronous Event Request, and Abort.

use alloc::vec::Vec;

use nvme_host::{Config, Token, command};
use nvme_spec::event::{
    ERROR_INVALID_DOORBELL_REGISTER, ERROR_INVALID_DOORBELL_VALUE, EventResult, EventType,
    SMART_TEMPERATURE,
};
use nvme_spec::feature::{
    AsyncEventConfig, Select, THSEL_OVER, TMPSEL_COMPOSITE, TemperatureThreshold,
};
use nvme_spec::log::CriticalWarning;
use nvme_spec::queue::ABORT_NOT_ABORTED;
use nvme_spec::{FeatureId, LogId, NSID_BROADCAST, Status};

use crate::env::IO;
use crate::{Env, Outcome, check};

group! { "events":
    request_stays_outstanding, "Base 2.1 5.1.2",
        "An Asynchronous Event Request without an event does not complete, nor hold up other commands.";
    request_limit_is_kept, "Base 2.1 5.1.2",
        "AERL + 1 requests stay outstanding; the next completes with Asynchronous Event Request Limit Exceeded.";
    reset_drops_requests, "Base 2.1 3.7.2",
        "A reset ends outstanding requests without a completion, and as many can be made again.";
    doorbell_value_raises_event, "Base 2.1 5.1.2.1",
        "A tail beyond its ring completes a request with type Error, Invalid Doorbell Write Value and the Error Information log.";
    doorbell_register_raises_event, "Base 2.1 5.1.2.1",
        "A doorbell of a queue that does not exist completes a request with type Error and Write to Invalid Doorbell Register.";
    event_completes_one_request, "Base 2.1 5.1.2",
        "One event completes one of several outstanding requests.";
    event_type_is_masked_until_its_log_is_read, "Base 2.1 5.1.2",
        "After an event no other of its type is reported until its log page is read with RAE = 0.";
    retained_event_stays_masked, "Base 2.1 5.1.12",
        "Reading the log page with RAE = 1 does not clear the event.";
    temperature_raises_event, "Base 2.1 5.1.2.1",
        "A temperature at or above its threshold, enabled in Asynchronous Event Configuration, completes a request with type SMART, Temperature Threshold and the SMART log.";
    disabled_temperature_raises_none, "Base 2.1 5.1.25.1.6",
        "A temperature above its threshold raises no event that Asynchronous Event Configuration disables.";
    temperature_sets_critical_warning, "Base 2.1 5.1.12.1.3",
        "A temperature at or above its over threshold, or below it again, sets and clears bit 1 of Critical Warning.";
    abort_of_request_is_told_right, "Base 2.1 5.1.1",
        "Abort of an outstanding request either aborts it, with bit 0 clear and status Command Abort Requested, or leaves it, with bit 0 set.";
    abort_of_request_needs_one_entry, "Base 2.1 3.3.1.2.1",
        "Abort of an outstanding request completes although the Admin Completion Queue has room for one entry only.";
    aborted_request_makes_room, "Base 2.1 5.1.2",
        "A request that was aborted no longer counts against AERL.";
    abort_of_unknown_command_fails, "Base 2.1 5.1.1",
        "Abort of a CID that is not outstanding completes with bit 0 set.";
    abort_of_completed_command_fails, "Base 2.1 5.1.1",
        "Abort of a command that has completed completes with bit 0 set.";
    abort_of_unknown_queue_fails, "Base 2.1 5.1.1",
        "Abort on a submission queue that does not exist aborts nothing.";
}

/// A request that must not have completed.
fn outstanding(env: &mut Env<'_>, token: Token, what: &str) -> Outcome {
    env.settle();
    let done = env.nvme.try_wait(token)?;
    ensure!(
        done.is_none(),
        "{what}: the request completed with {:?} and dword 0 {:#x}",
        done.map(|cqe| cqe.status()),
        done.map_or(0, |cqe| cqe.dw0)
    );
    Ok(())
}

/// Waits for a request's event and checks what it says.
fn event(env: &mut Env<'_>, token: Token, kind: EventType, info: u8, log: LogId) -> Outcome {
    let cqe = env.nvme.wait(token)?;
    check::status("the request", cqe, Status::SUCCESS)?;
    let found = EventResult::from(cqe.dw0);
    check::equal("event type", found.event_type(), kind)?;
    check::equal_hex("event information", found.info(), info)?;
    check::equal("log page", found.log_page(), log)
}

fn limit(env: &Env<'_>) -> u32 {
    u32::from(env.context.controller.aerl_z) + 1
}

fn admin_roundtrip(env: &mut Env<'_>) -> Outcome {
    env.nvme
        .get_feature(FeatureId::NUMBER_OF_QUEUES, Select::Current, 0)?;
    Ok(())
}

/// Makes `count` requests, none of which may complete.
fn requests(env: &mut Env<'_>, count: u32) -> Outcome<Vec<Token>> {
    let mut tokens = Vec::new();
    for number in 0..count {
        tokens.push(env.nvme.request_event()?);
        if number % 8 == 7 {
            // Its completion tells how far the submission queue was consumed.
            admin_roundtrip(env)?;
        }
    }
    admin_roundtrip(env)?;
    for token in &tokens {
        let done = env.nvme.try_wait(*token)?;
        ensure!(done.is_none(), "{token:?} of {count} completed: {done:?}");
    }
    Ok(tokens)
}

/// Reads the log page of an event, which clears it.
fn clear(env: &mut Env<'_>, log: LogId) -> Outcome {
    Ok(env.nvme.log_page(log, NSID_BROADCAST, &mut [0; 64])?)
}

/// Writes a tail beyond the ring, a different one each time: a controller that looks at the
/// doorbell's value now and then cannot tell that the same one was written again.
fn bad_tail(env: &mut Env<'_>) {
    let writes = u16::try_from(env.nvme.stats().doorbells % 64).unwrap_or(0);
    env.nvme.write_sq_doorbell(IO, u32::from(u16::MAX - writes));
}

fn request_stays_outstanding(env: &mut Env<'_>) -> Outcome {
    let token = env.nvme.request_event()?;
    admin_roundtrip(env)?;
    outstanding(env, token, "without an event")?;
    env.alive()?;
    outstanding(env, token, "after other commands")
}

fn request_limit_is_kept(env: &mut Env<'_>) -> Outcome {
    requests(env, limit(env))?;
    let cqe = env.nvme.admin(command::async_event_request())?;
    check::status("a request too many", cqe, Status::AER_LIMIT_EXCEEDED)?;
    env.alive()
}

fn reset_drops_requests(env: &mut Env<'_>) -> Outcome {
    for _ in 0..2 {
        requests(env, limit(env))?;
        let queue = env.nvme.cq_memory(0).unwrap_or_default();
        env.nvme.disable()?;
        let before = env.copy_out(queue);
        env.settle();
        let after = env.copy_out(queue);
        check::same_bytes("admin completion queue after a reset", &after, &before)?;
        env.nvme.enable(&Config::default())?;
    }
    requests(env, limit(env))?;
    env.alive()
}

fn doorbell_value_raises_event(env: &mut Env<'_>) -> Outcome {
    env.io()?;
    let token = env.nvme.request_event()?;
    admin_roundtrip(env)?;
    bad_tail(env);
    event(
        env,
        token,
        EventType::Error,
        ERROR_INVALID_DOORBELL_VALUE,
        LogId::ERROR_INFORMATION,
    )?;
    clear(env, LogId::ERROR_INFORMATION)?;
    env.alive()
}

fn doorbell_register_raises_event(env: &mut Env<'_>) -> Outcome {
    let token = env.nvme.request_event()?;
    admin_roundtrip(env)?;
    env.nvme.write_sq_doorbell(IO, 1);
    event(
        env,
        token,
        EventType::Error,
        ERROR_INVALID_DOORBELL_REGISTER,
        LogId::ERROR_INFORMATION,
    )?;
    clear(env, LogId::ERROR_INFORMATION)?;
    env.alive()
}

fn event_completes_one_request(env: &mut Env<'_>) -> Outcome {
    require!(limit(env) >= 3, "AERL allows {} requests", limit(env));
    env.io()?;
    let tokens = requests(env, 3)?;
    bad_tail(env);
    env.settle();
    admin_roundtrip(env)?;
    let mut completed = 0;
    for token in tokens {
        if env.nvme.try_wait(token)?.is_some() {
            completed += 1;
        }
    }
    check::equal("requests completed by one event", completed, 1)
}

/// One event reported, a second request outstanding.
fn one_event_reported(env: &mut Env<'_>) -> Outcome<Token> {
    require!(limit(env) >= 2, "AERL allows {} request", limit(env));
    env.io()?;
    let first = env.nvme.request_event()?;
    admin_roundtrip(env)?;
    bad_tail(env);
    event(
        env,
        first,
        EventType::Error,
        ERROR_INVALID_DOORBELL_VALUE,
        LogId::ERROR_INFORMATION,
    )?;
    let second = env.nvme.request_event()?;
    admin_roundtrip(env)?;
    bad_tail(env);
    outstanding(env, second, "the type is masked")?;
    Ok(second)
}

fn event_type_is_masked_until_its_log_is_read(env: &mut Env<'_>) -> Outcome {
    let second = one_event_reported(env)?;
    clear(env, LogId::ERROR_INFORMATION)?;
    // Whether the masked event is reported now or was dropped, a new one is reported.
    bad_tail(env);
    event(
        env,
        second,
        EventType::Error,
        ERROR_INVALID_DOORBELL_VALUE,
        LogId::ERROR_INFORMATION,
    )
}

fn retained_event_stays_masked(env: &mut Env<'_>) -> Outcome {
    let second = one_event_reported(env)?;
    let sqe = command::get_log_page(LogId::ERROR_INFORMATION, NSID_BROADCAST, 16);
    env.nvme
        .admin_data_ok(command::with_retain(sqe), &mut [0; 64])?;
    bad_tail(env);
    outstanding(env, second, "the log was read with RAE = 1")?;
    clear(env, LogId::ERROR_INFORMATION)?;
    bad_tail(env);
    Ok(env.nvme.wait(second).map(drop)?)
}

/// Sets the over threshold of the composite temperature, in kelvins.
fn set_over(env: &mut Env<'_>, kelvins: u16) -> Outcome {
    let value = TemperatureThreshold::new()
        .with_tmpsel(TMPSEL_COMPOSITE)
        .with_thsel(THSEL_OVER)
        .with_tmpth(kelvins);
    env.nvme
        .set_feature(FeatureId::TEMPERATURE_THRESHOLD, value.into())?;
    Ok(())
}

/// Enables or disables the event of critical warnings.
fn enable_smart(env: &mut Env<'_>, warnings: CriticalWarning) -> Outcome {
    let value = AsyncEventConfig::new().with_smart(warnings.bits());
    env.nvme
        .set_feature(FeatureId::ASYNC_EVENT_CONFIG, value.into())?;
    Ok(())
}

fn temperature(env: &mut Env<'_>) -> Outcome<u16> {
    let kelvins = u16::from_le_bytes(env.nvme.smart_log()?.composite_temperature);
    require!(kelvins > 1, "the controller tells no composite temperature");
    Ok(kelvins)
}

/// A threshold above any temperature a controller has, in kelvins.
const NEVER_REACHED: u16 = 0x7000;

fn temperature_raises_event(env: &mut Env<'_>) -> Outcome {
    let kelvins = temperature(env)?;
    enable_smart(env, CriticalWarning::TEMPERATURE)?;
    let token = env.nvme.request_event()?;
    admin_roundtrip(env)?;
    set_over(env, kelvins - 1)?;
    let result = event(
        env,
        token,
        EventType::Smart,
        SMART_TEMPERATURE,
        LogId::SMART,
    );
    set_over(env, NEVER_REACHED)?;
    result
}

fn disabled_temperature_raises_none(env: &mut Env<'_>) -> Outcome {
    let kelvins = temperature(env)?;
    enable_smart(env, CriticalWarning::empty())?;
    let token = env.nvme.request_event()?;
    admin_roundtrip(env)?;
    set_over(env, kelvins - 1)?;
    let result = outstanding(env, token, "the event is disabled");
    set_over(env, NEVER_REACHED)?;
    result
}

fn temperature_sets_critical_warning(env: &mut Env<'_>) -> Outcome {
    let kelvins = temperature(env)?;
    for (threshold, expected) in [(kelvins - 1, true), (NEVER_REACHED, false)] {
        set_over(env, threshold)?;
        let warning = CriticalWarning::from_bits_retain(env.nvme.smart_log()?.critical_warning);
        let what = alloc::format!("temperature warning at {kelvins} K, threshold {threshold} K");
        check::equal(
            &what,
            warning.contains(CriticalWarning::TEMPERATURE),
            expected,
        )?;
    }
    Ok(())
}

fn abort_of_request_is_told_right(env: &mut Env<'_>) -> Outcome {
    let token = env.nvme.request_event()?;
    admin_roundtrip(env)?;
    if env.nvme.abort(token)? {
        let cqe = env.nvme.wait(token)?;
        check::status("the aborted request", cqe, Status::ABORT_REQUESTED)?;
    } else {
        outstanding(env, token, "Abort says it was not aborted")?;
    }
    env.alive()
}

fn abort_of_request_needs_one_entry(env: &mut Env<'_>) -> Outcome {
    // One entry of the two always stays empty.
    env.restart(&Config {
        admin_cq_entries: 2,
        ..Config::default()
    })?;
    let token = env.nvme.request_event()?;
    if env.nvme.abort(token)? {
        env.nvme.wait(token)?;
    }
    admin_roundtrip(env)
}

fn aborted_request_makes_room(env: &mut Env<'_>) -> Outcome {
    let tokens = requests(env, limit(env))?;
    let Some(first) = tokens.first().copied() else {
        skip!("AERL allows no request");
    };
    require!(
        env.nvme.abort(first)?,
        "the controller does not abort requests"
    );
    env.nvme.wait(first)?;
    let again = env.nvme.request_event()?;
    admin_roundtrip(env)?;
    outstanding(env, again, "after one request was aborted")
}

fn abort_of_unknown_command_fails(env: &mut Env<'_>) -> Outcome {
    env.io()?;
    for (sqid, cid) in [(0, 0xFFFE), (IO, 0xFFFE)] {
        let cqe = env.nvme.admin(command::abort(sqid, cid))?;
        check::status("Abort", cqe, Status::SUCCESS)?;
        check::equal_hex("dword 0", cqe.dw0 & ABORT_NOT_ABORTED, ABORT_NOT_ABORTED)?;
    }
    Ok(())
}

fn abort_of_completed_command_fails(env: &mut Env<'_>) -> Outcome {
    let ns = env.ns()?;
    env.io()?;
    let token = env.nvme.submit(IO, command::flush(ns.nsid))?;
    env.nvme.wait(token)?;
    let aborted = env.nvme.abort(token)?;
    ensure!(
        !aborted,
        "Abort says that it aborted a command that had completed"
    );
    env.alive()
}

fn abort_of_unknown_queue_fails(env: &mut Env<'_>) -> Outcome {
    let cqe = env.nvme.admin(command::abort(0xFFF0, 1))?;
    if cqe.status().is_success() {
        return check::equal_hex("dword 0", cqe.dw0 & ABORT_NOT_ABORTED, ABORT_NOT_ABORTED);
    }
    check::one_of(
        "Abort",
        cqe,
        &[Status::INVALID_FIELD, Status::INVALID_QUEUE_IDENTIFIER],
    )
}
