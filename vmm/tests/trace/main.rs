//! What the controller tells of its commands, against what a host submitted and saw.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

#[path = "../support/held.rs"]
mod held;
mod looks;
mod many;
mod odd_times;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use ferrite::nvme::{WaitPolicy, inprocess::InProcess};
use held::Held;
use nvme::{
    Clock, ControllerConfig, NamespaceConfig, Trace,
    lifecycle::Lifecycle,
    trace::{CommandEvent, Dropped, End, LifecycleEvent, Operation, Watch},
};
use nvme_host::{Config, Driver, Transport, command};
use nvme_spec::{
    AdminOpcode, Cns, FeatureId, NvmOpcode, Sqe, Status,
    feature::{AsyncEventConfig, Select, TemperatureThreshold},
    log::CriticalWarning,
    queue::{FUSE_FIRST, FUSE_SECOND},
};
use nvme_suite::{Doorbells, Filter};
use storage::ram::Ram;

/// Keeps all that is told.
#[derive(Default)]
pub(crate) struct Told {
    commands: Mutex<Vec<CommandEvent>>,
    steps: Mutex<Vec<LifecycleEvent>>,
}

impl Trace for Told {
    fn command(&self, event: &CommandEvent) {
        self.commands.lock().expect("no panic").push(*event);
    }

    fn lifecycle(&self, event: &LifecycleEvent) {
        self.steps.lock().expect("no panic").push(*event);
    }
}

impl Told {
    fn take(&self) -> Vec<CommandEvent> {
        std::mem::take(&mut *self.commands.lock().expect("no panic"))
    }
}

/// A clock that the test moves.
#[derive(Default)]
struct Stepped(AtomicU64);

impl Clock for Stepped {
    fn now_ns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

pub(crate) fn watch(told: &Arc<Told>) -> Watch {
    Watch {
        trace: Some(told.clone()),
        tracing: true,
        recorder: 16,
        statistics: true,
        clock: None,
    }
}

pub(crate) fn config(shards: u16, watch: Watch) -> ControllerConfig {
    let namespace = || {
        let device = Arc::new(Ram::new(256 << 20).expect("memory"));
        NamespaceConfig {
            formats: vec![512, 4096],
            ..NamespaceConfig::new(device, 512)
        }
    };
    ControllerConfig {
        namespaces: vec![namespace(), namespace()],
        shards,
        watch,
        ..ControllerConfig::default()
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ mixed >> 31) % bound
    }

    /// Commands, right and wrong, for a queue: one, or the two of a fused operation.
    fn commands(&mut self, sqid: u16, data: u64) -> Vec<Sqe> {
        let nsid = u32::try_from(self.below(4)).expect("small");
        let slba = match self.below(8) {
            0 => u64::MAX - self.below(4),
            _ => self.below(64),
        };
        let nlb_z = u16::try_from(self.below(8)).expect("small");
        let mut sqe = match (sqid, self.below(9)) {
            (0, 0) => command::identify(Cns(self.below(9).to_le_bytes()[0]), nsid),
            (0, 1) => {
                command::get_features(FeatureId(self.below(16).to_le_bytes()[0]), Select::Current)
            }
            (0, 2) => command::abort(1, self.below(64).to_le_bytes()[0].into()),
            (0, 3) => command::async_event_request(),
            (0, 4) => command::admin(AdminOpcode(0xC0)),
            (0, _) => command::keep_alive(),
            (_, 0) => command::flush(nsid),
            (_, 1) => command::write_zeroes(nsid, slba, nlb_z),
            (_, 2) => command::nvm(NvmOpcode(0x7F), nsid),
            (_, 3) => command::verify(nsid, slba, nlb_z),
            (_, 4) => command::with_fuse(command::compare(nsid, slba, nlb_z), FUSE_FIRST),
            (_, 5 | 6) => command::write(nsid, slba, nlb_z),
            _ => command::read(nsid, slba, nlb_z),
        };
        (sqe.prp1, sqe.prp2) = (data, data + 4096);
        let mut all = vec![sqe];
        if sqe.flags.fuse() == FUSE_FIRST && self.below(2) == 0 {
            let second = command::with_fuse(command::write(nsid, slba, nlb_z), FUSE_SECOND);
            all.push(Sqe {
                prp1: data,
                prp2: data + 4096,
                ..second
            });
        }
        all
    }
}

const QUEUES: u16 = 3;

/// What a host did with its commands, by queue: in the order of their entries, and of their
/// completions.
#[derive(Default)]
struct Seen {
    submitted: BTreeMap<u16, Vec<Sqe>>,
    completed: BTreeMap<u16, Vec<(u16, Status, u32)>>,
}

/// A host that submits at random, and takes completions as they come; `resets` times the
/// controller is reset in the middle. Each run of it between resets comes separately.
fn random_run(
    machine: &mut InProcess,
    told: &Told,
    seed: u64,
    resets: u64,
) -> Vec<(Seen, Vec<CommandEvent>)> {
    let mut random = Random(seed);
    let mut lives = Vec::new();
    let mut driver = Driver::new(machine).expect("a controller");
    for life in 0..=resets {
        driver.enable(&Config::default()).expect("enabled");
        for qid in 1..=QUEUES {
            driver.create_pair(qid, 64).expect("queues");
        }
        let data = driver.alloc(8192).expect("memory").address;
        told.take();
        let mut seen = Seen::default();
        let mut cid = 0u16;
        for _ in 0..200 {
            let sqid = u16::try_from(random.below(u64::from(QUEUES) + 1)).expect("small");
            for sqe in random.commands(sqid, data) {
                cid += 1;
                let sqe = Sqe { cid, ..sqe };
                if driver.push(sqid, &sqe).is_ok() {
                    seen.submitted.entry(sqid).or_default().push(sqe);
                }
            }
            if random.below(3) == 0 {
                driver.ring(sqid).expect("rung");
            }
            if random.below(4) == 0 {
                driver.transport().relax();
            }
            collect(&mut driver, &mut seen);
        }
        // What is not rung is not fetched: all or, before a reset, part of it.
        for sqid in 0..=QUEUES {
            driver.ring(sqid).expect("rung");
        }
        for _ in 0..if life == resets { 400 } else { random.below(6) } {
            driver.transport().relax();
            collect(&mut driver, &mut seen);
        }
        collect(&mut driver, &mut seen);
        driver.reset().expect("reset");
        lives.push((seen, told.take()));
    }
    lives
}

fn collect(driver: &mut Driver<'_, InProcess>, seen: &mut Seen) {
    for cqid in 0..=QUEUES {
        while let Some(cqe) = driver.poll(cqid).expect("a completion") {
            let seen = seen.completed.entry(cqe.sqid).or_default();
            seen.push((cqe.cid, cqe.status(), cqe.dw0));
        }
        driver.ack(cqid).expect("acknowledged");
    }
}

#[test]
fn every_command_of_a_random_run_is_told_once_as_the_host_saw_it() {
    for seed in 1..=12 {
        let told = Arc::new(Told::default());
        let shards = u16::try_from(seed % 3 + 1).expect("small");
        let mut machine = InProcess::new(config(shards, watch(&told)), seed).expect("valid");
        let lives = random_run(&mut machine, &told, seed, 3);
        let last = lives.len() - 1;
        let mut dropped = 0;
        for (life, (seen, events)) in lives.iter().enumerate() {
            let what = format!("seed {seed}, life {life}");
            for sqid in 0..=QUEUES {
                let of_queue = events.iter().filter(|event| event.sqid == sqid);
                let of_queue: Vec<&CommandEvent> = of_queue.collect();
                let completed: Vec<(u16, Status, u32)> = of_queue
                    .iter()
                    .filter_map(|event| match event.end {
                        End::Completed { status, dw0 } => Some((event.sqe.cid, status, dw0)),
                        _ => None,
                    })
                    .collect();
                let posted = seen.completed.get(&sqid).cloned().unwrap_or_default();
                // What was posted as the host looked for the last time it may have missed.
                assert_eq!(completed[..posted.len()], posted, "{what}, SQ {sqid}");
                // Whole entries, each once, and none that was not there.
                let mut entries: Vec<Sqe> = of_queue.iter().map(|event| event.sqe).collect();
                entries.sort_by_key(|sqe| sqe.cid);
                let submitted = seen.submitted.get(&sqid).cloned().unwrap_or_default();
                let fetched = entries.len();
                assert_eq!(entries, submitted[..fetched], "{what}, SQ {sqid}");
                if life == last {
                    assert_eq!(fetched, submitted.len(), "{what}, SQ {sqid}");
                    let ends = of_queue.iter().map(|event| event.end);
                    dropped += ends
                        .filter(|end| *end == End::Dropped(Dropped::Reset))
                        .count();
                }
            }
        }
        assert!(dropped > 0, "no event request was outstanding at the end");
        // Creating and deleting queues and the like is told of too, but not here.
        let left = machine.controller().recorded();
        assert!(
            left.iter().all(|event| event.end != End::Pending),
            "seed {seed}"
        );
    }
}

#[test]
fn an_event_request_is_told_of_when_its_event_comes() {
    let told = Arc::new(Told::default());
    let mut machine = InProcess::new(config(1, watch(&told)), 4).expect("valid");
    let mut driver = Driver::new(&mut machine).expect("a controller");
    driver.enable(&Config::default()).expect("enabled");
    let token = driver.request_event().expect("submitted");
    let warnings = AsyncEventConfig::new().with_smart(CriticalWarning::TEMPERATURE.bits());
    let cool = TemperatureThreshold::new().with_tmpth(1);
    for (fid, value) in [
        (FeatureId::ASYNC_EVENT_CONFIG, u32::from(warnings)),
        (FeatureId::TEMPERATURE_THRESHOLD, u32::from(cool)),
    ] {
        driver.set_feature(fid, value).expect("set");
    }
    let cqe = driver.wait(token).expect("an event");
    let events = told.take();
    let ends: Vec<End> = events
        .iter()
        .filter(|event| event.sqe.opcode == AdminOpcode::ASYNC_EVENT_REQUEST.0)
        .map(|event| event.end)
        .collect();
    let (status, dw0) = (cqe.status(), cqe.dw0);
    assert_eq!(ends, [End::Completed { status, dw0 }]);
}

#[test]
fn the_whole_suite_is_told_command_by_command() {
    for shards in [1, 2] {
        let told = Arc::new(Told::default());
        let mut machine = InProcess::new(config(shards, watch(&told)), 5).expect("valid");
        let all = Filter::new("");
        let summary = nvme_suite::run_with(&mut machine, &all, Doorbells::Registers, &mut |_| ());
        assert!(summary.good());
        let stats = machine.controller().stats();
        let ended = told.take().len() as u64;
        let recorded = machine.controller().recorded();
        let pending = recorded.iter().filter(|event| event.end == End::Pending);
        let fetched = stats.admin_commands + stats.io_commands;
        assert_eq!(ended + pending.count() as u64, fetched);
        assert!(fetched > 5_000, "{fetched}");
    }
}

#[test]
fn the_last_commands_are_recorded_in_order_and_those_under_way_beside_them() {
    let device = Held::new(8);
    let told = Arc::new(Told::default());
    let mut config = config(1, watch(&told));
    config.namespaces = vec![NamespaceConfig::new(Arc::new(device.clone()), 512)];
    let mut machine = InProcess::new(config, 3).expect("valid");
    let mut driver = Driver::new(&mut machine).expect("a controller");
    driver.enable(&Config::default()).expect("enabled");
    driver.create_pair(1, 64).expect("queues");
    for _ in 0..40 {
        driver.exec(0, command::keep_alive()).expect("executed");
    }
    let held: Vec<_> = (0..3)
        .map(|_| driver.submit(1, command::flush(1)).expect("submitted"))
        .collect();
    for _ in 0..8 {
        driver.transport().relax();
    }
    let events = told.take();
    let recorded = driver.transport().controller().recorded();
    let (pending, ended) = recorded.split_at(recorded.len() - 3);
    let (ended, pending) = (pending, ended);
    assert_eq!(ended, &events[events.len() - 16..]);
    for (event, token) in pending.iter().zip(&held) {
        assert_eq!((event.end, event.sqid), (End::Pending, 1));
        assert_eq!(event.sqe.opcode, NvmOpcode::FLUSH.0);
        assert!(held.contains(token));
    }
    // A reset waits for the backend, and then tells of what it dropped.
    device.release(3);
    driver.reset().expect("reset");
    let events = told.take();
    let dropped = End::Dropped(Dropped::Reset);
    let flushes = events.iter().filter(|event| event.sqid == 1);
    assert!(flushes.clone().count() == 3 && flushes.clone().all(|event| event.end == dropped));
    assert_eq!(
        driver.transport().controller().lifecycle(),
        Lifecycle::Disabled
    );
}

#[test]
fn a_command_takes_as_long_as_the_clock_says_between_fetch_and_end() {
    let (device, told) = (Held::new(8), Arc::new(Told::default()));
    let clock = Arc::new(Stepped::default());
    let mut config = config(
        1,
        Watch {
            clock: Some(clock.clone()),
            ..watch(&told)
        },
    );
    config.namespaces = vec![NamespaceConfig::new(Arc::new(device.clone()), 512)];
    let mut machine = InProcess::new(config, 3).expect("valid");
    let mut driver = Driver::new(&mut machine).expect("a controller");
    driver.enable(&Config::default()).expect("enabled");
    driver.create_pair(1, 64).expect("queues");
    told.take();
    clock.0.store(1_000, Ordering::Relaxed);
    let token = driver.submit(1, command::flush(1)).expect("submitted");
    for _ in 0..4 {
        driver.transport().relax();
    }
    clock.0.store(8_000_000, Ordering::Relaxed);
    device.release(1);
    driver.wait(token).expect("completed");
    let [event] = told.take()[..] else {
        panic!("one command");
    };
    assert_eq!((event.fetched_ns, event.ended_ns), (1_000, 8_000_000));
    let statistics = driver.transport().controller().statistics();
    let latency = statistics.expect("counted").latency;
    let flush = latency
        .iter()
        .find(|(operation, _)| *operation == Operation::Flush);
    let (_, flush) = flush.expect("a Flush");
    assert_eq!((flush.count(), flush.most_ns()), (1, 7_999_000));
}

#[test]
fn counters_are_what_the_host_did() {
    let told = Arc::new(Told::default());
    let mut machine = InProcess::new(config(2, watch(&told)), 9).expect("valid");
    let mut driver = Driver::new(&mut machine).expect("a controller");
    driver.enable(&Config::default()).expect("enabled");
    for qid in 1..=2 {
        driver.create_pair(qid, 64).expect("queues");
    }
    let data = driver.alloc(4096).expect("memory");
    let mut exec = |sqid, sqe| {
        driver.exec_data(sqid, sqe, data).expect("completed");
    };
    for _ in 0..3 {
        exec(1, command::read(1, 0, 7));
        exec(2, command::write(2, 8, 7));
        exec(2, command::write(2, u64::MAX, 0));
    }
    exec(2, command::read(9, 0, 0));
    let statistics = machine.controller().statistics().expect("counted");
    let tally = |sqid| {
        let of = statistics.queues.iter().find(|queue| queue.sqid == sqid);
        of.expect("commands").tally
    };
    assert_eq!(tally(1).completed(Operation::Read), 3);
    assert_eq!(
        (tally(1).bytes_read, tally(1).bytes_written, tally(1).errors),
        (3 * 4096, 0, 0)
    );
    assert_eq!(tally(2).completed(Operation::Write), 6);
    assert_eq!(
        (tally(2).bytes_written, tally(2).errors, tally(2).total()),
        (3 * 4096, 4, 7)
    );
    assert_eq!(
        tally(0).completed(Operation::Admin),
        told.take().iter().filter(|e| e.sqid == 0).count() as u64
    );
    let [first, second] = statistics.namespaces[..] else {
        panic!("two namespaces");
    };
    assert_eq!(
        (first.total(), first.bytes_read, first.errors),
        (3, 3 * 4096, 0)
    );
    assert_eq!(
        (second.total(), second.bytes_written, second.errors),
        (6, 3 * 4096, 3)
    );
}

#[test]
fn what_is_switched_off_is_not_told_and_the_lifecycle_always_is() {
    let told = Arc::new(Told::default());
    let off = Watch {
        tracing: false,
        ..watch(&told)
    };
    let mut machine = InProcess::new(config(1, off), 9).expect("valid");
    let mut driver = Driver::new(&mut machine).expect("a controller");
    driver.enable(&Config::default()).expect("enabled");
    assert_eq!(told.take(), []);
    let steps = std::mem::take(&mut *told.steps.lock().expect("no panic"));
    let states: Vec<Lifecycle> = steps.iter().map(|step| step.to).collect();
    assert_eq!(states.last(), Some(&Lifecycle::Ready));
    assert!(driver.transport().controller().set_tracing(true));
    driver.exec(0, command::keep_alive()).expect("executed");
    assert!(!driver.transport().controller().set_tracing(false));
    driver.exec(0, command::keep_alive()).expect("executed");
    assert_eq!(told.take().len(), 1);
}

#[test]
fn a_command_that_kills_its_worker_stays_under_way_for_all_to_see() {
    let (device, told) = (Held::new(8), Arc::new(Told::default()));
    let mut config = config(1, watch(&told));
    config.namespaces = vec![NamespaceConfig::new(Arc::new(device.clone()), 512)];
    let mut machine = InProcess::with_threads(config, WaitPolicy::default()).expect("valid");
    let mut driver = Driver::new(&mut machine).expect("a controller");
    driver.enable(&Config::default()).expect("enabled");
    driver.create_pair(1, 64).expect("queues");
    device.with(|gate| gate.deadly = true);
    let token = driver.submit(1, command::flush(1)).expect("submitted");
    while !driver.csts().cfs() {
        driver.transport().relax();
    }
    let recorded = driver.transport().controller().recorded();
    let last = recorded.last().expect("recorded");
    assert_eq!(
        (last.sqid, last.sqe.cid, last.end),
        (1, token.cid, End::Pending)
    );
    let steps = told.steps.lock().expect("no panic");
    let failed = steps.last().map(|step| step.to);
    assert_eq!(failed, Some(Lifecycle::Failed { rdy: true }));
}
