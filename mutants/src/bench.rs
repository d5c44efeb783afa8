//! Building one test target in the copied tree, and running one test of it with a time limit.

use std::{
    ffi::OsString,
    io::Read,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;

use crate::mutant::Test;

/// Lines of the compiler's output that are shown.
const SHOWN_LINES: usize = 30;

/// Where tests are built and run.
pub(crate) struct Bench {
    /// The tree.
    pub(crate) root: PathBuf,
    /// Cargo's target folder for it.
    pub(crate) target: PathBuf,
}

/// A test that was built: a program, and the test's whole name in it.
pub(crate) struct Built {
    program: PathBuf,
    folder: PathBuf,
    name: String,
}

/// How a test ended.
#[derive(Debug)]
pub(crate) enum Ending {
    Passed,
    /// It failed, or its process died. What it said.
    Failed(String),
    /// It was still running at the limit, and was killed.
    TimedOut,
}

/// One line of cargo's account of a build.
#[derive(Deserialize)]
struct Artifact {
    executable: Option<PathBuf>,
    profile: Option<Profile>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

impl Bench {
    /// Builds the target that has a test.
    ///
    /// # Errors
    /// The compiler's last words, when it refuses; or what the target lacks.
    pub(crate) fn build(&self, test: &Test) -> anyhow::Result<Built> {
        let mut cargo = Command::new(cargo());
        cargo
            .current_dir(&self.root)
            .args(["test", "--no-run", "--locked", "--quiet"])
            .args(["--message-format", "json-render-diagnostics"])
            .args(["--package", &test.package])
            .env("CARGO_TARGET_DIR", &self.target)
            // Nobody debugs a mutant, and linking without it takes half as long.
            .env("CARGO_PROFILE_DEV_DEBUG", "0");
        match &test.target {
            None => cargo.arg("--lib"),
            Some(target) => cargo.args(["--test", target]),
        };
        let output = cargo.output().context("cargo")?;
        if !output.status.success() {
            bail!("{}", last_lines(&String::from_utf8_lossy(&output.stderr)));
        }
        let account = String::from_utf8_lossy(&output.stdout);
        let mut programs = account.lines().filter_map(|line| {
            let artifact: Artifact = serde_json::from_str(line).ok()?;
            let is_test = artifact.profile.is_some_and(|profile| profile.test);
            artifact.executable.filter(|_| is_test)
        });
        let program = programs.next().context("cargo built no test program")?;
        let name = full_name(&program, test)?;
        Ok(Built {
            program,
            folder: self.root.join(&test.folder),
            name,
        })
    }
}

impl Built {
    /// Runs the test, for `limit` at most.
    pub(crate) fn run(&self, limit: Duration) -> anyhow::Result<(Ending, Duration)> {
        let began = Instant::now();
        let child = Command::new(&self.program)
            .args([self.name.as_str(), "--exact", "--include-ignored"])
            .current_dir(&self.folder)
            // A test that cannot run here must not look as if it had passed.
            .env("FERRITE_FORBID_SKIPS", "1")
            // What one mutant was found by must not help to find the next.
            .env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1")
            .env("RUST_BACKTRACE", "0")
            .env("FERRITE_BRIEF", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .with_context(|| self.program.display().to_string())?;
        let (status, text) = wait(child, limit)?;
        let ending = match status {
            None => Ending::TimedOut,
            Some(status) if status.success() => Ending::Passed,
            Some(status) => Ending::Failed(format!("{}\n{status}", text.trim_end())),
        };
        Ok((ending, began.elapsed()))
    }
}

/// Waits for a process, which leads a group of its own, and ends what is left of the group. Its
/// status, unless it took longer than `limit`, and what it has printed.
fn wait(mut child: Child, limit: Duration) -> anyhow::Result<(Option<ExitStatus>, String)> {
    let group = Pid::from_child(&child);
    let stdout = drain(child.stdout.take().context("standard output")?);
    let stderr = drain(child.stderr.take().context("standard error")?);
    let (sender, receiver) = mpsc::channel();
    let waiter = thread::spawn(move || sender.send(child.wait()));
    let in_time = receiver.recv_timeout(limit).ok();
    // Gone already if all went well. What it started may hold the pipes open.
    let _ = kill_process_group(group, Signal::KILL);
    let _ = waiter.join();
    let text = [stdout, stderr].map(|text| text.join().unwrap_or_default());
    let status = in_time.transpose().context("a test's process")?;
    Ok((status, text.concat()))
}

/// Reads a stream to its end beside everything else.
fn drain(mut stream: impl Read + Send + 'static) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error is text too.
        let _ = stream.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// A test's whole name in a test program, which is asked for it. Of several tests with the
/// function's name it is the one in a module with the file's.
fn full_name(program: &Path, test: &Test) -> anyhow::Result<String> {
    let output = Command::new(program)
        .args(["--list", "--format", "terse"])
        .output()
        .with_context(|| program.display().to_string())?;
    let list = String::from_utf8_lossy(&output.stdout);
    let mut names: Vec<&str> = list
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .filter(|name| name.rsplit("::").next() == Some(test.function.as_str()))
        .collect();
    if names.len() > 1 {
        names.retain(|name| name.split("::").any(|module| module == test.module));
    }
    ensure!(
        names.len() == 1,
        "{} tests of {} are called `{}`",
        names.len(),
        program.display(),
        test.function
    );
    Ok(names.concat())
}

/// The cargo that runs this, or the one there is.
fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    let from = lines.len().saturating_sub(SHOWN_LINES);
    lines.get(from..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration) -> (Option<i32>, String) {
        let child = Command::new("sh")
            .args(["-c", script])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("a shell");
        let (status, text) = wait(child, limit).expect("waited");
        (status.and_then(|status| status.code()), text)
    }

    #[test]
    fn a_process_ends_with_its_status_and_both_its_streams() {
        let (code, text) = shell("echo out; echo error >&2; exit 3", Duration::from_secs(60));
        assert_eq!((code, text.as_str()), (Some(3), "out\nerror\n"));
    }

    #[test]
    fn at_the_limit_all_that_was_started_ends() {
        let began = Instant::now();
        let (code, text) = shell(
            "echo out; sleep 600 & sleep 600",
            Duration::from_millis(200),
        );
        assert_eq!((code, text.as_str()), (None, "out\n"));
        assert!(began.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn what_a_test_leaves_running_ends_with_it() {
        let began = Instant::now();
        let (code, _) = shell("sleep 600 & exit 1", Duration::from_secs(60));
        assert_eq!(code, Some(1));
        assert!(began.elapsed() < Duration::from_secs(30));
    }
}
