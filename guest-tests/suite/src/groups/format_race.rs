//! Format NVM beside other commands, and in the middle of a reset.

use alloc::vec::Vec;

use nvme_host::{Config, Token, command};
use nvme_spec::identify::IdentifyNamespace;
use nvme_spec::{Cqe, Status};

use super::format::{exec, how, offered, put_back, usable};
use crate::data::pattern;
use crate::env::IO;
use crate::found::describe;
use crate::{Env, Namespace, Outcome, check};

group! { "format":
    commands_beside_it_end, "Base 2.1 5.1.10",
        "Reads and Writes beside a Format NVM of their namespace succeed or say that it is in progress, and later ones work.";
    commands_of_other_namespaces_go_on, "Base 2.1 5.1.10",
        "Commands of other namespaces beside a Format NVM succeed.";
    two_at_once_leave_one_format, "Base 2.1 5.1.10",
        "Of two Format NVM commands at once one succeeds, and the namespace has the format of one that did.";
    reset_in_the_middle_leaves_a_format, "Base 2.1 3.7.2",
        "After a reset in the middle of a Format NVM the namespace has the format of before or the new one, and works.";
}

/// What a command of a namespace that is being formatted may end in.
const MEANWHILE: [Status; 4] = [
    Status::SUCCESS,
    Status::FORMAT_IN_PROGRESS,
    Status::NAMESPACE_NOT_READY,
    Status::ABORT_REQUESTED,
];
/// What a Format NVM may end in that finds commands or another Format NVM outstanding.
const REFUSED: [Status; 2] = [Status::COMMAND_SEQUENCE_ERROR, Status::FORMAT_IN_PROGRESS];
/// How often commands are made to overlap.
const ROUNDS: u64 = 12;
/// How long a namespace may be formatted behind a reset.
const SETTLE_NS: u64 = 20_000_000_000;

/// Two I/O queue pairs of 32 entries, or as many as MQES allows.
fn queues(env: &mut Env<'_>) -> Outcome {
    env.need_pairs(2)?;
    env.need_entries(4)?;
    let entries = 32.min(env.context.found.queue_entries);
    for qid in [IO, IO + 1] {
        env.nvme.create_pair(qid, entries)?;
    }
    Ok(())
}

/// Enqueues a Read and a Write of different blocks on each queue; each with what it is.
fn enqueue(env: &mut Env<'_>, ns: Namespace, round: u64) -> Outcome<Vec<(Token, &'static str)>> {
    let mut tokens = Vec::new();
    for qid in [IO, IO + 1] {
        let slba = u64::from(qid) * 2;
        let (read, write) = (
            env.nvme.alloc(ns.block_bytes)?,
            env.nvme.alloc(ns.block_bytes)?,
        );
        env.nvme.copy_to(write, &pattern(round, ns.block_bytes));
        let sqe = command::write(ns.nsid, slba, 0);
        tokens.push((env.nvme.enqueue_data(qid, sqe, write)?, "a Write"));
        let sqe = command::read(ns.nsid, slba + 1, 0);
        tokens.push((env.nvme.enqueue_data(qid, sqe, read)?, "a Read"));
    }
    Ok(tokens)
}

/// Formats to the format that is there, for a command that came from before or after is the same,
/// while commands of `other` are on both queues; what they ended in, and what it did.
fn beside(
    env: &mut Env<'_>,
    (ns, identify): (Namespace, &IdentifyNamespace),
    other: Namespace,
    round: u64,
) -> Outcome<(Vec<(Cqe, &'static str)>, Cqe)> {
    let tokens = enqueue(env, other, round)?;
    let format = command::format_nvm(ns.nsid, how(identify, identify.flbas.index()));
    let ring = |env: &mut Env<'_>| -> Outcome {
        env.nvme.ring(IO)?;
        Ok(env.nvme.ring(IO + 1)?)
    };
    if round.is_multiple_of(2) {
        ring(env)?;
    }
    let format = env.nvme.submit(0, format)?;
    if !round.is_multiple_of(2) {
        ring(env)?;
    }
    let mut ended = Vec::new();
    for (token, what) in tokens {
        ended.push((env.nvme.wait(token)?, what));
    }
    Ok((ended, env.nvme.wait(format)?))
}

fn commands_beside_it_end(env: &mut Env<'_>) -> Outcome {
    let (ns, identify) = offered(env)?;
    queues(env)?;
    for round in 0..ROUNDS {
        let (ended, format) = beside(env, (ns, &identify), ns, round)?;
        for (cqe, what) in ended {
            check::one_of(what, cqe, &MEANWHILE)?;
        }
        let mut allowed = REFUSED.to_vec();
        allowed.push(Status::SUCCESS);
        check::one_of("Format NVM", format, &allowed)?;
        env.write_pattern(ns, 2, 1, 0xFA0 + round)?;
        env.expect_pattern(ns, 2, 1, 0xFA0 + round)?;
    }
    Ok(())
}

fn commands_of_other_namespaces_go_on(env: &mut Env<'_>) -> Outcome {
    let (ns, identify) = offered(env)?;
    let other = env.namespaces().find(|other| other.nsid != ns.nsid);
    let Some(other) = other else {
        skip!("needs two namespaces");
    };
    require!(
        env.context.controller.fna & nvme_spec::identify::FNA_FORMAT_ALL == 0,
        "FNA says that a format changes all namespaces"
    );
    queues(env)?;
    for round in 0..ROUNDS {
        let (ended, format) = beside(env, (ns, &identify), other, round)?;
        for (cqe, what) in ended {
            check::status(what, cqe, Status::SUCCESS)?;
        }
        check::status("Format NVM", format, Status::SUCCESS)?;
    }
    Ok(())
}

fn two_at_once_leave_one_format(env: &mut Env<'_>) -> Outcome {
    let (ns, identify) = offered(env)?;
    let usable = usable(env, ns, &identify);
    let home = identify.flbas.index();
    let other = usable.into_iter().find(|index| *index != home);
    let Some(other) = other else {
        skip!("needs two LBA formats without metadata");
    };
    let outcome = (0..ROUNDS).try_for_each(|_| {
        let asked = [other, home];
        let tokens = asked.map(|index| {
            let sqe = command::format_nvm(ns.nsid, how(&identify, index));
            env.nvme.enqueue(0, sqe)
        });
        env.nvme.ring(0)?;
        let mut done = Vec::new();
        for (index, token) in asked.into_iter().zip(tokens) {
            let cqe = env.nvme.wait(token?)?;
            if cqe.status().is_success() {
                done.push(index);
            } else {
                check::one_of("Format NVM beside another", cqe, &REFUSED)?;
            }
        }
        let now = env.nvme.identify_namespace(ns.nsid)?.flbas.index();
        ensure!(
            done.contains(&now),
            "FLBAS is {now}; those that succeeded: {done:?}"
        );
        Ok(())
    });
    put_back(env, ns.nsid, how(&identify, home), outcome)
}

/// Waits until a namespace takes commands again, which a reset need not have stopped from being
/// formatted.
fn settled(env: &mut Env<'_>, ns: Namespace) -> Outcome {
    let end = env.nvme.transport().now_ns().saturating_add(SETTLE_NS);
    let buffer = env.nvme.alloc(ns.block_bytes)?;
    loop {
        let cqe = env
            .nvme
            .exec_data(IO, command::read(ns.nsid, 0, 0), buffer)?;
        if cqe.status().is_success() {
            return Ok(());
        }
        check::one_of("a Read after the reset", cqe, &MEANWHILE)?;
        ensure!(env.nvme.transport().now_ns() < end, "it is never done");
        env.settle();
    }
}

fn reset_in_the_middle_leaves_a_format(env: &mut Env<'_>) -> Outcome {
    let (ns, identify) = offered(env)?;
    let usable = usable(env, ns, &identify);
    let home = identify.flbas.index();
    let outcome = (0..ROUNDS)
        .zip(usable.iter().cycle())
        .try_for_each(|(round, &index)| {
            let before = env.nvme.identify_namespace(ns.nsid)?.flbas.index();
            env.io()?;
            let sqe = command::format_nvm(ns.nsid, how(&identify, index));
            env.nvme.submit(0, sqe)?;
            env.nvme.pause(round * 20_000);
            env.restart(&Config::default())?;
            env.request_queues()?;
            env.io()?;
            let identify = env.nvme.identify_namespace(ns.nsid)?;
            settled(env, describe(ns.nsid, &env.context.controller, &identify))?;
            let identify = env.nvme.identify_namespace(ns.nsid)?;
            let now = identify.flbas.index();
            ensure!(
                [before, index].contains(&now),
                "FLBAS is {now}, was {before} and was to be {index}"
            );
            let now = describe(ns.nsid, &env.context.controller, &identify);
            env.write_pattern(now, now.blocks - 1, 1, 0xFB0 + round)?;
            env.expect_pattern(now, now.blocks - 1, 1, 0xFB0 + round)?;
            env.restart(&Config::default())?;
            env.request_queues()?;
            Ok(())
        });
    // The next one finds it done.
    let cqe = exec(env, ns.nsid, how(&identify, home));
    outcome?;
    check::status("Format NVM back", cqe?, Status::SUCCESS)
}
