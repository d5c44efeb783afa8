//! What is printed: progress as jobs run, consoles of those that fail, and a table at the end.

use std::io::{self, Write};
use std::time::Instant;

use crate::jobs::{Job, Run};
use crate::outer::Watch;

/// Prints a line.
macro_rules! say {
    ($($words:tt)*) => {
        $crate::show::line(&format!($($words)*))
    };
}
pub(crate) use say;

/// Prints a line. Nobody is left to tell if that fails.
pub(crate) fn line(text: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}

/// Prints a line of an error.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// How often the outer machine may end where it should not.
pub(crate) const OUTER_TRIES: usize = 3;

/// What became of jobs so far.
pub(crate) struct Progress<'j> {
    jobs: Vec<(&'j Job, Vec<Run>)>,
    verbose: bool,
    /// Whether they run under emulation.
    emulated: bool,
}

impl<'j> Progress<'j> {
    pub(crate) fn new(jobs: &'j [Job], verbose: bool, emulated: bool) -> Self {
        Self {
            jobs: jobs.iter().map(|job| (job, Vec::new())).collect(),
            verbose,
            emulated,
        }
    }

    /// The jobs to run: those that have not passed and have tries left. A run in which the outer
    /// machine ended counts apart, for that is nothing of the job's.
    pub(crate) fn due(&self) -> Vec<&'j Job> {
        let due = self.jobs.iter().filter(|(job, runs)| {
            let passed = runs
                .last()
                .is_some_and(|run| run.faults(job, self.emulated).is_empty());
            let lost = runs.iter().filter(|run| run.status.is_none()).count();
            let tries = usize::try_from(job.tries).unwrap_or(usize::MAX);
            !passed && runs.len() - lost < tries && lost < OUTER_TRIES
        });
        due.map(|(job, _)| *job).collect()
    }

    /// How the last job's script ended.
    pub(crate) fn last_status(&self) -> Option<i32> {
        self.jobs.last()?.1.last()?.status
    }

    /// Prints a table of the jobs and whether all passed.
    pub(crate) fn summary(&self, began: Instant) -> bool {
        let mut failed = 0;
        let (mut passed_tests, mut failed_tests, mut skipped_tests) = (0, 0, 0);
        say!("");
        say!(
            "{:24} {:8} {:>8}  {:>5}  tests",
            "job",
            "verdict",
            "seconds",
            "tries"
        );
        for (job, runs) in &self.jobs {
            let good = runs
                .last()
                .is_some_and(|run| run.faults(job, self.emulated).is_empty());
            let milliseconds: u128 = runs.iter().map(|run| run.milliseconds).sum();
            let totals = runs
                .last()
                .filter(|_| job.reports)
                .map(|run| run.report().totals());
            let tests = totals.map_or(String::new(), |(passed, failed, skipped)| {
                passed_tests += passed;
                failed_tests += failed;
                skipped_tests += skipped;
                format!("{passed} passed, {failed} failed, {skipped} skipped")
            });
            failed += usize::from(!good);
            let verdict = if good { "passed" } else { "FAILED" };
            let seconds = Seconds(milliseconds);
            say!(
                "{:24} {verdict:8} {seconds:>8}  {:>5}  {tests}",
                job.name,
                runs.len()
            );
        }
        let passed = self.jobs.len() - failed;
        say!("");
        say!(
            "jobs: {passed} passed, {failed} failed, after {:.0} s",
            began.elapsed().as_secs_f32()
        );
        say!("{passed_tests} passed, {failed_tests} failed, {skipped_tests} skipped");
        failed == 0
    }
}

impl Watch for Progress<'_> {
    fn up(&mut self, seconds: &str) {
        say!("the outer machine is up (its own clock: {seconds} s)");
    }

    fn begins(&mut self, job: &Job) {
        if self.verbose {
            say!("---- {}", job.name);
        }
    }

    fn line(&mut self, line: &str) {
        if self.verbose {
            say!("{line}");
        }
    }

    fn lost(&mut self, last_words: &str) {
        say!("the outer machine ended before all jobs were begun; it said last:");
        last_words.lines().for_each(|line| say!("  {line}"));
    }

    fn ended(&mut self, job: &Job, run: &Run) {
        let faults = run.faults(job, self.emulated);
        let verdict = if faults.is_empty() {
            "passed"
        } else {
            "FAILED"
        };
        say!("{verdict}  {:24} {} s", job.name, Seconds(run.milliseconds));
        if !faults.is_empty() {
            if !self.verbose {
                say!("---- console of {}", job.name);
                run.lines.iter().for_each(|line| say!("  {line}"));
            }
            faults.iter().for_each(|fault| say!("  FAULT: {fault}"));
        }
        if let Some((_, runs)) = self.jobs.iter_mut().find(|(j, _)| j.name == job.name) {
            runs.push(run.clone());
        }
    }
}

/// Milliseconds, printed as seconds.
struct Seconds(u128);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&format!("{}.{}", self.0 / 1000, self.0 % 1000 / 100))
    }
}
