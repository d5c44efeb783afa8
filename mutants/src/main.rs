//! Breaks Ferrite in small ways, one at a time, and sees that the test named for each notices.
//!
//! The list (`mutants/list`) has a file a mutant. Each is made in a copy of the repository, never
//! in the repository itself; the test is built there and run alone. It must fail: a mutant that
//! survives shows a rule that no test holds.

#![forbid(unsafe_code)]

mod bench;
mod mutant;
mod tree;

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use bench::{Bench, Ending};
use clap::Parser;
use mutant::{Mutant, Test};
use rustix::fs::{FlockOperation, flock};
use tree::Tree;

/// How long a test that may hang is waited for, whatever it takes without a mutant.
const LEAST_LIMIT: Duration = Duration::from_secs(20);
/// How many times as long as without a mutant it may take with one.
const LIMIT_FACTOR: u32 = 10;
/// How long any other test may take.
const MOST_LIMIT: Duration = Duration::from_secs(300);

/// Breaks the code in each way that the list says, and checks that the test named there fails.
#[derive(Parser)]
#[command(name = "mutants")]
struct Options {
    /// Mutants to make: those whose names contain one of these. All if there are none.
    names: Vec<String>,
    /// Print the mutants and make none.
    #[arg(long)]
    list: bool,
    /// Show what each test says when it fails.
    #[arg(long, short)]
    verbose: bool,
}

/// What became of a mutant.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Verdict {
    /// Its test failed, or ran out of time where that was to be expected. What it said.
    Killed(String),
    /// Its test passed.
    Survived,
    /// It could not be judged.
    Broken(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Killed(_) => "killed",
            Self::Survived => "SURVIVED",
            Self::Broken(_) => "BROKEN",
        })
    }
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "mutants: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// The repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The folder of the list.
fn list() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("list")
}

/// Whether all mutants that were asked for are killed.
fn run(options: &Options) -> anyhow::Result<bool> {
    let mutants = select(mutant::load(&list())?, &options.names)?;
    if options.list {
        for mutant in &mutants {
            say(&format!(
                "{}\n    {} ({})\n    {}\n",
                mutant.name, mutant.breaks, mutant.rule, mutant.test
            ))?;
        }
        return Ok(true);
    }
    let place = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(target) => PathBuf::from(target),
        None => root().join("target"),
    };
    let place = place.join("mutants");
    fs::create_dir_all(&place).with_context(|| place.display().to_string())?;
    let place = place.canonicalize()?;
    let lock = fs::File::create(place.join("lock"))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)
        .with_context(|| format!("another run works in {}", place.display()))?;

    let began = Instant::now();
    let tree = Tree::copy(&root(), &place.join("tree"))?;
    let bench = Bench {
        root: tree.root.clone(),
        target: place.join("build"),
    };
    let mut work: Vec<(Test, &Mutant)> = Vec::new();
    for mutant in &mutants {
        let test = mutant.test(&tree.root);
        work.push((test.with_context(|| mutant.name.clone())?, mutant));
    }
    // Neighbours share what is built. The last folder, `vmm`, comes first: it embeds the guest
    // kernel, which would be built anew after a mutant of what that is made of.
    work.sort_by(|(one, a), (other, b)| (other, &a.name).cmp(&(one, &b.name)));
    let limits = without_mutants(&bench, &work)?;

    let width = mutants.iter().map(|m| m.name.len()).max().unwrap_or(0);
    say(&format!(
        "{:width$}  verdict   build s  test s  test\n",
        "mutant"
    ))?;
    let (mut killed, mut others) = (0, Vec::new());
    for (test, mutant) in &work {
        let limit = match limits.get(test) {
            Some(&limit) if mutant.hangs => limit,
            _ => MOST_LIMIT,
        };
        let judged = judge(&tree, &bench, mutant, test, limit)?;
        say(&format!(
            "{:width$}  {:8}  {:7.1}  {:6.1}  {}\n",
            mutant.name,
            judged.verdict,
            judged.build.as_secs_f64(),
            judged.test.as_secs_f64(),
            mutant.test
        ))?;
        match judged.verdict {
            Verdict::Killed(words) => {
                killed += 1;
                if options.verbose {
                    say(&format!("{words}\n\n"))?;
                }
            }
            verdict => others.push((*mutant, verdict)),
        }
    }
    for (mutant, verdict) in &others {
        let Mutant {
            name, breaks, file, ..
        } = mutant;
        say(&match verdict {
            Verdict::Broken(reason) => format!("\n{name} is broken: {reason}\n"),
            _ => format!("\n{name} survived: {breaks} ({file}), and the test passes.\n"),
        })?;
    }
    say(&format!(
        "\n{killed} of {} mutants killed in {:.0} s\n",
        work.len(),
        began.elapsed().as_secs_f64()
    ))?;
    Ok(others.is_empty())
}

/// The mutants whose names contain one of `names`.
fn select(mut mutants: Vec<Mutant>, names: &[String]) -> anyhow::Result<Vec<Mutant>> {
    for name in names {
        ensure!(
            mutants.iter().any(|mutant| mutant.name.contains(name)),
            "no mutant's name contains `{name}`; --list names them"
        );
    }
    mutants.retain(|mutant| names.is_empty() || names.iter().any(|n| mutant.name.contains(n)));
    Ok(mutants)
}

/// Runs each test once as the code is: it must pass. How long each may take with a mutant.
fn without_mutants(
    bench: &Bench,
    work: &[(Test, &Mutant)],
) -> anyhow::Result<BTreeMap<Test, Duration>> {
    let began = Instant::now();
    let mut limits = BTreeMap::new();
    for (test, mutant) in work {
        if limits.contains_key(test) {
            continue;
        }
        let built = bench.build(test);
        let built = built.with_context(|| format!("{} without a mutant", mutant.test))?;
        let (ending, took) = built.run(MOST_LIMIT)?;
        match ending {
            Ending::Passed => {}
            Ending::Failed(text) => {
                anyhow::bail!("{} fails without a mutant:\n{text}", mutant.test)
            }
            Ending::TimedOut => anyhow::bail!("{} did not end", mutant.test),
        }
        limits.insert(test.clone(), LEAST_LIMIT.max(took * LIMIT_FACTOR));
    }
    say(&format!(
        "{} tests pass without mutants ({:.0} s)\n\n",
        limits.len(),
        began.elapsed().as_secs_f64()
    ))?;
    Ok(limits)
}

/// A mutant's verdict, and how long it took to build and to run.
struct Judged {
    verdict: Verdict,
    build: Duration,
    test: Duration,
}

/// Makes a mutant, runs its test, and takes the mutant back.
///
/// # Errors
/// The tree cannot be written, or a process not be started.
fn judge(
    tree: &Tree,
    bench: &Bench,
    mutant: &Mutant,
    test: &Test,
    limit: Duration,
) -> anyhow::Result<Judged> {
    let broken = |reason: String, build| Judged {
        verdict: Verdict::Broken(reason),
        build,
        test: Duration::ZERO,
    };
    let text = tree.read(&mutant.file)?;
    let changed = match mutant.apply(&text) {
        Ok(changed) => changed,
        Err(error) => return Ok(broken(format!("{error:#}"), Duration::ZERO)),
    };
    tree.write(&mutant.file, &changed)?;
    let began = Instant::now();
    let built = bench.build(test);
    let build = began.elapsed();
    let ending = built.map(|built| built.run(limit));
    tree.write(&mutant.file, &text)?;
    let (ending, took) = match ending {
        Ok(ending) => ending?,
        Err(error) => return Ok(broken(format!("it does not build:\n{error:#}"), build)),
    };
    let verdict = verdict(mutant, ending, limit);
    Ok(Judged {
        verdict,
        build,
        test: took,
    })
}

/// What it means for a mutant that its test ended like this.
fn verdict(mutant: &Mutant, ending: Ending, limit: Duration) -> Verdict {
    match (ending, &mutant.says) {
        (Ending::Passed, _) => Verdict::Survived,
        (Ending::Failed(words), Some(says)) if !words.contains(says) => {
            Verdict::Broken(format!("its test fails, but not with `{says}`:\n{words}"))
        }
        (Ending::Failed(words), _) => Verdict::Killed(words),
        (Ending::TimedOut, _) if mutant.hangs => Verdict::Killed("it ran out of time".into()),
        (Ending::TimedOut, _) => Verdict::Broken(format!(
            "its test was still running after {} s; say `hangs = true` if it may",
            limit.as_secs()
        )),
    }
}

/// Prints; a reader who has gone away ends the run.
fn say(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout();
    out.write_all(text.as_bytes())?;
    out.flush().context("standard output")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_test_that_fails_as_it_should_kills() {
        let plain = mutant::example("x", "y").expect("valid");
        let picky = Mutant {
            says: Some("queues.create".into()),
            ..plain.clone()
        };
        let endless = Mutant {
            hangs: true,
            ..plain.clone()
        };
        let failed = |words: &str| Ending::Failed(words.into());
        for (mutant, ending, expected) in [
            (&plain, Ending::Passed, "SURVIVED"),
            (&plain, failed(""), "killed"),
            (&picky, failed("queues.create: 3"), "killed"),
            (&picky, failed("something else"), "BROKEN"),
            (&plain, Ending::TimedOut, "BROKEN"),
            (&endless, Ending::TimedOut, "killed"),
            (&endless, Ending::Passed, "SURVIVED"),
        ] {
            let what = format!("{ending:?}");
            let verdict = verdict(mutant, ending, LEAST_LIMIT);
            assert_eq!(verdict.to_string(), expected, "{what}");
        }
    }

    #[test]
    fn names_pick_by_their_parts_and_a_wrong_one_is_named() {
        let mutants = ["a/b", "a/c", "d/e"].map(|name| Mutant {
            name: name.into(),
            ..mutant::example("x", "y").expect("valid")
        });
        let picked = |names: &[&str]| -> anyhow::Result<Vec<String>> {
            let names: Vec<String> = names.iter().map(|&name| name.into()).collect();
            let picked = select(mutants.to_vec(), &names)?;
            Ok(picked.into_iter().map(|mutant| mutant.name).collect())
        };
        assert_eq!(picked(&[]).expect("all").len(), 3);
        assert_eq!(picked(&["a/"]).expect("two"), ["a/b", "a/c"]);
        assert_eq!(picked(&["c", "d/e"]).expect("two"), ["a/c", "d/e"]);
        let error = picked(&["a/", "none"]).expect_err("no such mutant");
        assert!(error.to_string().contains("`none`"), "{error}");
    }
}
