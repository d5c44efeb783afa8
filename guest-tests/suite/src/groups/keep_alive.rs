//! Keep Alive: the command, and the timer that it restarts.

use nvme_host::{Config, command};
use nvme_spec::feature::Select;
use nvme_spec::identify::CTRATT_TRAFFIC_KEEP_ALIVE;
use nvme_spec::log::ErrorLogEntry;
use nvme_spec::registers::Shn;
use nvme_spec::{FeatureId, LogId, NSID_BROADCAST, Status};
use zerocopy::FromBytes;

use crate::{Env, Outcome, check};

group! { "keep_alive":
    command_succeeds, "Base 2.1 5.1.14",
        "Keep Alive completes with success, whether the timer runs or not.";
    timeout_is_rounded_up, "Base 2.1 3.9",
        "KATO is read back as it was set, or rounded up to KAS, and is 0 after a reset.";
    silence_is_fatal, "Base 2.1 3.9",
        "Without Keep Alive commands the controller sets CSTS.CFS once KATO is over, not before, and a reset mends it.";
    silence_is_logged, "Base 2.1 3.9",
        "A timer that expires leaves an entry of status Keep Alive Timer Expired in the Error Information log.";
    commands_hold_it_off, "Base 2.1 3.9",
        "Keep Alive commands within KATO keep the controller at work.";
    other_commands_do_not_count, "Base 2.1 3.9",
        "Without Traffic Based Keep Alive (CTRATT.TBKAS) other commands do not restart the timer.";
    zero_stops_the_timer, "Base 2.1 3.9",
        "Setting KATO to 0 stops the timer.";
    reset_stops_the_timer, "Base 2.1 3.9",
        "A reset stops the timer.";
    shutdown_stops_the_timer, "Base 2.1 3.9",
        "The timer does not run while CC.SHN asks for a shutdown.";
}

const NS_PER_MS: u64 = 1_000_000;

/// KAS in milliseconds. Skips where there is none.
fn granularity(env: &Env<'_>) -> Outcome<u32> {
    let kas = env.context.controller.kas;
    require!(kas != 0, "KAS is 0: Keep Alive is not there");
    Ok(u32::from(kas) * 100)
}

/// Sets KATO, in milliseconds.
fn set(env: &mut Env<'_>, kato_ms: u32) -> Outcome {
    env.nvme
        .set_feature(FeatureId::KEEP_ALIVE_TIMER, kato_ms)
        .map(drop)?;
    Ok(())
}

fn kato(env: &mut Env<'_>) -> Outcome<u32> {
    let fid = FeatureId::KEEP_ALIVE_TIMER;
    Ok(env.nvme.get_feature(fid, Select::Current, 0)?)
}

/// Waits for so many milliseconds, or until the controller reports a fatal error: whether it
/// does.
fn fails_within(env: &mut Env<'_>, milliseconds: u32) -> bool {
    let begin = env.nvme.transport().now_ns();
    let end = begin + u64::from(milliseconds) * NS_PER_MS;
    while env.nvme.transport().now_ns() < end {
        if env.nvme.csts().cfs() {
            return true;
        }
        env.nvme.pause(NS_PER_MS / 2);
    }
    env.nvme.csts().cfs()
}

/// Lets the timer expire.
fn expire(env: &mut Env<'_>) -> Outcome {
    let kato = granularity(env)?;
    set(env, kato)?;
    ensure!(
        fails_within(env, 10 * kato),
        "CSTS.CFS is not set {} ms after KATO was set to {kato} ms",
        10 * kato
    );
    Ok(())
}

fn command_succeeds(env: &mut Env<'_>) -> Outcome {
    let kato = granularity(env)?;
    for kato in [0, 100 * kato, 0] {
        set(env, kato)?;
        let cqe = env.nvme.admin(command::keep_alive())?;
        let what = alloc::format!("Keep Alive with KATO {kato}");
        check::status(&what, cqe, Status::SUCCESS)?;
    }
    env.alive()
}

fn timeout_is_rounded_up(env: &mut Env<'_>) -> Outcome {
    let unit = granularity(env)?;
    let first = kato(env)?;
    check::equal("KATO after a reset", first, 0)?;
    for asked in [600 * unit, 600 * unit - 1, 599 * unit + 1, 0] {
        set(env, asked)?;
        let found = kato(env)?;
        let rounded = asked.next_multiple_of(unit);
        ensure!(
            found == asked || found == rounded,
            "KATO: expected {asked} or {rounded}, found {found}"
        );
    }
    Ok(())
}

fn silence_is_fatal(env: &mut Env<'_>) -> Outcome {
    let kato = granularity(env)?;
    let begin = env.nvme.transport().now_ns();
    set(env, kato)?;
    ensure!(
        fails_within(env, 10 * kato),
        "CSTS.CFS is not set {} ms after KATO was set to {kato} ms",
        10 * kato
    );
    let after_ms = (env.nvme.transport().now_ns() - begin) / NS_PER_MS;
    // The host's clock and the controller's need not agree to the last.
    ensure!(
        after_ms >= u64::from(kato - kato / 10),
        "CSTS.CFS is set {after_ms} ms after KATO was set to {kato} ms"
    );
    env.alive_after_reset()
}

fn silence_is_logged(env: &mut Env<'_>) -> Outcome {
    expire(env)?;
    env.restart(&Config::default())?;
    let mut data = [0; ErrorLogEntry::BYTES];
    env.nvme
        .log_page(LogId::ERROR_INFORMATION, NSID_BROADCAST, &mut data)?;
    let Ok(entry) = ErrorLogEntry::read_from_bytes(&data) else {
        fail!("an entry has another length");
    };
    ensure!(entry.error_count != 0, "the log is empty");
    let status = Status::from_wire(entry.status_phase);
    ensure!(
        status.same_code(Status::KEEP_ALIVE_EXPIRED),
        "status of the newest entry: expected {}, found {status}",
        Status::KEEP_ALIVE_EXPIRED
    );
    Ok(())
}

fn commands_hold_it_off(env: &mut Env<'_>) -> Outcome {
    let kato = 2 * granularity(env)?;
    let limit_ns = u64::from(kato) * NS_PER_MS;
    set(env, kato)?;
    let begin = env.nvme.transport().now_ns();
    let mut last = begin;
    let mut longest = 0;
    while last - begin < limit_ns + limit_ns / 2 {
        env.nvme.pause(limit_ns / 8);
        let failed = env.nvme.csts().cfs();
        let now = env.nvme.transport().now_ns();
        longest = longest.max(now - last);
        last = now;
        // A host that was held up has no claim.
        require!(
            longest < limit_ns / 2,
            "this host was silent for {longest} ns of KATO {kato} ms"
        );
        ensure!(!failed, "CSTS.CFS is set in spite of Keep Alive commands");
        env.nvme.admin_ok(command::keep_alive())?;
    }
    set(env, 0)?;
    env.alive()
}

fn other_commands_do_not_count(env: &mut Env<'_>) -> Outcome {
    let kato = granularity(env)?;
    require!(
        env.context.controller.ctratt & CTRATT_TRAFFIC_KEEP_ALIVE == 0,
        "CTRATT offers Traffic Based Keep Alive"
    );
    set(env, kato)?;
    for _ in 0..100 {
        // One that is fetched and not completed has met the timer's end.
        let answered = env
            .nvme
            .get_feature(FeatureId::ARBITRATION, Select::Current, 0);
        if fails_within(env, kato / 10) {
            return env.alive_after_reset();
        }
        answered?;
    }
    fail!("other commands restart the timer")
}

/// Starts the timer and checks that it does not expire after something that stops it.
fn stopped(env: &mut Env<'_>, stop: impl FnOnce(&mut Env<'_>) -> Outcome) -> Outcome {
    let kato = granularity(env)?;
    let begin = env.nvme.transport().now_ns();
    set(env, kato)?;
    let result = stop(env);
    let after_ms = (env.nvme.transport().now_ns() - begin) / NS_PER_MS;
    require!(
        after_ms < u64::from(kato) / 2,
        "this host was held up for {after_ms} ms of KATO {kato} ms"
    );
    result?;
    ensure!(
        !fails_within(env, kato + kato / 2),
        "a timer that was stopped expired"
    );
    Ok(())
}

fn zero_stops_the_timer(env: &mut Env<'_>) -> Outcome {
    stopped(env, |env| set(env, 0))?;
    env.alive()
}

fn reset_stops_the_timer(env: &mut Env<'_>) -> Outcome {
    stopped(env, |env| Ok(env.restart(&Config::default())?))?;
    env.alive()
}

fn shutdown_stops_the_timer(env: &mut Env<'_>) -> Outcome {
    stopped(env, |env| Ok(env.nvme.shutdown(Shn::Normal)?))?;
    env.alive_after_reset()
}
