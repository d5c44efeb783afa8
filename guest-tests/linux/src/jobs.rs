//! What is run in the outer machine, or on this host where its KVM is hardware: a script each.

use nvme_suite::Stop;
use nvme_suite::tap::Report;

/// A script with what it needs and how it must end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Job {
    /// Its name: letters, digits, dots and dashes.
    pub(crate) name: String,
    /// For a POSIX shell. It finds `ferrite` in its path, and in the environment `G`, the folder of
    /// kernels and images; `J`, that of the jobs' archives; `T`, room for files.
    pub(crate) script: String,
    /// Files of the job's own archive, `$J/NAME.cpio`, by their paths in the guest.
    pub(crate) files: Vec<(String, String)>,
    /// How long it may take.
    pub(crate) seconds: u64,
    /// How often it may be tried.
    pub(crate) tries: u32,
    /// How the script must end.
    pub(crate) status: i32,
    /// Whether it must report a plan of tests and pass them.
    pub(crate) reports: bool,
    /// How the names of tests begin that may fail under emulation.
    pub(crate) forgiven: &'static [&'static str],
}

/// What became of a job, once.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Run {
    /// What it printed.
    pub(crate) lines: Vec<String>,
    /// How its script ended; nothing if the machine ended before.
    pub(crate) status: Option<i32>,
    /// How long it took, in milliseconds.
    pub(crate) milliseconds: u128,
}

impl Run {
    /// The tests it reported.
    pub(crate) fn report(&self) -> Report {
        Report::parse(&self.lines.join("\n"))
    }

    /// What is wrong with it; nothing if it passed. `emulated` says whether it ran under emulation.
    pub(crate) fn faults(&self, job: &Job, emulated: bool) -> Vec<String> {
        let mut faults = Vec::new();
        match self.status {
            None => faults.push("the machine ended before it".to_owned()),
            // What timeout(1) of busybox and of coreutils say, and a shell of what they killed.
            Some(124 | 137 | 143) if job.status == 0 => {
                faults.push(format!("not done after {} s", job.seconds));
            }
            Some(status) if status != job.status => {
                faults.push(format!("ended with {status} instead of {}", job.status));
            }
            Some(_) => {}
        }
        if !job.reports {
            return faults;
        }
        let report = self.report();
        for test in &report.tests {
            let forgiven = emulated && job.forgiven.iter().any(|f| test.name.starts_with(f));
            if let Err(Stop::Failed(message)) = &test.outcome
                && !forgiven
            {
                faults.push(format!("{}: {message}", test.name));
            }
        }
        faults.extend(report.problems.iter().cloned());
        match report.planned {
            None => faults.push("no plan: its tests did not come to their end".to_owned()),
            Some(planned) if planned != report.tests.len() => faults.push(format!(
                "{planned} tests planned and {} reported",
                report.tests.len()
            )),
            Some(_) if report.totals().0 == 0 => faults.push("no test passed".to_owned()),
            Some(_) => {}
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(lines: &[&str], status: Option<i32>) -> Vec<String> {
        let job = Job {
            name: "a".into(),
            script: String::new(),
            files: Vec::new(),
            seconds: 9,
            tries: 1,
            status: 0,
            reports: true,
            forgiven: &["slow."],
        };
        let run = Run {
            lines: lines.iter().map(ToString::to_string).collect(),
            status,
            milliseconds: 1,
        };
        run.faults(&job, true)
    }

    #[test]
    fn a_run_passes_only_if_its_plan_is_met_and_its_status_right() {
        let ok = "ok 1 - a.b (1 us)";
        assert!(faults(&["noise", ok, "1..1"], Some(0)).is_empty());
        for (lines, status, fault) in [
            (&[ok, "1..1"][..], Some(6), "ended with 6 instead of 0"),
            (&[ok, "1..1"], Some(143), "not done after 9 s"),
            (&[ok, "1..1"], None, "the machine ended before it"),
            (
                &[ok],
                Some(0),
                "no plan: its tests did not come to their end",
            ),
            (&[ok, "1..2"], Some(0), "2 tests planned and 1 reported"),
            (&["1..0"], Some(0), "no test passed"),
            (
                &[
                    "not ok 1 - a.b (1 us)",
                    "  ---",
                    "  message: \"bad\"",
                    "  ...",
                    "1..1",
                ],
                Some(0),
                "a.b: bad",
            ),
        ] {
            let found = faults(lines, status);
            assert!(found.iter().any(|f| f == fault), "{lines:?}: {found:?}");
        }
    }
}
