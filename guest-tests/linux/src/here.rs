//! Jobs on this host, whose own KVM is hardware's.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::jobs::{Job, Run};
use crate::outer::Watch;

/// Whether guests' ring 0 runs natively here: KVM is there, and the processor's virtualization.
pub(crate) fn can_run_guests() -> bool {
    let information = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    Path::new("/dev/kvm").exists() && has_virtualization(&information)
}

fn has_virtualization(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"));
    let mut flags = flags.unwrap_or_default().split_whitespace();
    flags.any(|flag| flag == "vmx" || flag == "svm")
}

/// Runs jobs one after the other, whose scripts are in a folder as [`crate::images::job_folder`]
/// makes it.
pub(crate) fn run(
    ferrite: &Path,
    guest: &Path,
    folder: &Path,
    jobs: &[&Job],
    watch: &mut dyn Watch,
) -> Result<()> {
    let mut path = OsString::from(ferrite.parent().unwrap_or(Path::new(".")));
    path.push(":");
    path.push(env::var_os("PATH").unwrap_or_default());
    let room = folder.join("room");
    for (number, job) in jobs.iter().enumerate() {
        fs::create_dir_all(&room)?;
        watch.begins(job);
        let began = Instant::now();
        let mut child = Command::new("timeout")
            .args(["-k", "10", &job.seconds.to_string()])
            .args(["sh", "-c", "exec 2>&1; . \"$0\""])
            .arg(folder.join(crate::images::script_name(number, job)))
            .env("PATH", &path)
            .env("G", guest)
            .env("J", folder)
            .env("T", &room)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("timeout(1) cannot be run")?;
        let mut run = Run::default();
        let out = child.stdout.take().context("no output of the job's")?;
        for line in BufReader::new(out).split(b'\n') {
            let line = line?;
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches('\r').to_owned();
            watch.line(&line);
            run.lines.push(line);
        }
        let status = child.wait()?;
        run.status = status.code().or(status.signal().map(|signal| 128 + signal));
        run.milliseconds = began.elapsed().as_millis();
        watch.ended(job, &run);
        fs::remove_dir_all(&room)?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn hardware_is_told_by_the_processors_flags() {
        assert!(has_virtualization("vendor_id : A\nflags\t\t: fpu svm nx\n"));
        assert!(has_virtualization("flags : fpu vmx\n"));
        assert!(!has_virtualization("flags : fpu nx\nvmx flags : ept\n"));
        assert!(!has_virtualization(""));
    }

    #[derive(Default)]
    struct Seen(Vec<Run>);

    impl Watch for Seen {
        fn up(&mut self, _: &str) {}
        fn begins(&mut self, _: &Job) {}
        fn lost(&mut self, _: &str) {}
        fn line(&mut self, _: &str) {}
        fn ended(&mut self, _: &Job, run: &Run) {
            self.0.push(run.clone());
        }
    }

    #[test]
    fn a_job_runs_with_its_folders_and_tells_how_it_ended() {
        let folder = tempfile::tempdir().unwrap();
        let jobs = folder.path().join("jobs");
        let job = Job {
            name: "a".into(),
            script: "echo $G; echo b >$T/x; cat $T/x >&2; exit 4".into(),
            files: Vec::new(),
            seconds: 60,
            tries: 1,
            status: 4,
            reports: false,
            forgiven: &[],
        };
        crate::images::job_folder(&jobs, &[&job]).unwrap();
        let mut seen = Seen::default();
        run(
            Path::new("/bin/sh"),
            Path::new("/g"),
            &jobs,
            &[&job],
            &mut seen,
        )
        .unwrap();
        let run = seen.0.first().unwrap();
        assert_eq!(run.lines, ["/g", "b"]);
        assert_eq!(run.faults(&job, false), [""; 0]);
    }
}
