//! Tests that run many seeds, and say how to run one of them again.

#![allow(dead_code, reason = "each test file uses its part")]

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU64, Ordering},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// The first seed, and the only one unless there is a count: decimal, or hexadecimal after `0x`.
const FIRST: &str = "FERRITE_SEED";
/// How many seeds.
const COUNT: &str = "FERRITE_SEEDS";
/// For how many seconds seeds are started, instead of a count.
const SECONDS: &str = "FERRITE_SECONDS";
/// Set for who asks only whether there is a failure: the first is told as it was found.
const BRIEF: &str = "FERRITE_BRIEF";
/// Failures after which no new seed is started.
const ENOUGH: usize = 5;

/// Which seeds to run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seeds {
    first: u64,
    /// `u64::MAX`: as many as there is time for.
    count: u64,
    time: Option<Duration>,
}

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    Some(number.unwrap_or_else(|_| panic!("{name}={text}: give a number")))
}

/// Whether one failure is enough, and need not be made shorter.
pub(crate) fn brief() -> bool {
    std::env::var_os(BRIEF).is_some_and(|value| value == "1")
}

impl Seeds {
    /// `count` seeds from 0, unless the environment asks for others.
    pub(crate) fn counted(count: u64) -> Self {
        Self::new(count, None)
    }

    /// As many seeds from 0 as `seconds` allow, unless the environment asks for others.
    pub(crate) fn timed(seconds: u64) -> Self {
        Self::new(u64::MAX, Some(seconds))
    }

    fn new(count: u64, seconds: Option<u64>) -> Self {
        let (first, asked) = (variable(FIRST), variable(COUNT));
        let seconds = variable(SECONDS).or(seconds);
        let (count, seconds) = match (asked, first) {
            (Some(asked), _) => (asked, None),
            (None, Some(_)) => (1, None),
            (None, None) => (seconds.map_or(count, |_| u64::MAX), seconds),
        };
        Self {
            first: first.unwrap_or(0),
            count,
            time: seconds.map(Duration::from_secs),
        }
    }

    /// Runs `each` for every seed, on all CPUs, and panics with what failed and the command that
    /// runs it again. `test` is the name of the calling test, which is in the crate's test `file`;
    /// `slow` if it is ignored without being asked for. What `each` returns is added up.
    pub(crate) fn run(
        self,
        file: &str,
        test: &str,
        slow: bool,
        each: impl Fn(u64) -> Result<u64, String> + Sync,
    ) {
        let start = Instant::now();
        let enough = if brief() { 1 } else { ENOUGH };
        let (next, done, sum) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        let failed = Mutex::new(Vec::new());
        let failures = || failed.lock().unwrap_or_else(PoisonError::into_inner);
        let work = || {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let late = self.time.is_some_and(|time| start.elapsed() >= time);
                if index >= self.count || late || failures().len() >= enough {
                    break;
                }
                let seed = self.first.wrapping_add(index);
                match catch_unwind(AssertUnwindSafe(|| each(seed))) {
                    Ok(Ok(count)) => {
                        sum.fetch_add(count, Ordering::Relaxed);
                    }
                    Ok(Err(what)) => failures().push((seed, what)),
                    Err(panic) => failures().push((seed, message(&*panic))),
                }
                done.fetch_add(1, Ordering::Relaxed);
            }
        };
        let threads = thread::available_parallelism().map_or(1, usize::from);
        thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(work);
            }
            work();
        });
        let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
        let (done, sum) = (done.into_inner(), sum.into_inner());
        println!(
            "{test}: {done} seeds from {}, {sum} steps, {} s, {} failed",
            self.first,
            start.elapsed().as_secs(),
            failed.len()
        );
        let ignored = if slow { " --ignored" } else { "" };
        let report: Vec<String> = failed
            .iter()
            .map(|(seed, what)| {
                format!(
                    "seed {seed}: {what}\n  again: {FIRST}={seed} cargo test -p ferrite --locked \
                     --test {file} -- --exact {test}{ignored} --nocapture"
                )
            })
            .collect();
        assert!(failed.is_empty(), "\n{}", report.join("\n\n"));
        assert!(done > 0, "no seed was run");
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panicked: {}", text.unwrap_or("no message"))
}
