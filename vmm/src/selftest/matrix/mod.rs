//! `ferrite selftest --matrix`: the suite over many controllers in one go.
//!
//! [`AXES`] are what varies. Not every value meets all others, but every two values of two axes
//! meet in one of the combinations: most mistakes need no more than two causes. What the user
//! fixed (`--nvme`, `--config`) holds for all, and its axis falls away.

mod output;
mod pairs;

use std::{
    num::NonZero,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use super::{Results, Selftest, SelftestError, check_filter, run};

pub use output::MatrixTotals;

/// Something that varies.
struct Axis {
    /// The keys that its values speak of.
    keys: &'static [&'static str],
    /// Lists of `--nvme`; an empty one leaves the defaults.
    values: &'static [&'static str],
}

const AXES: [Axis; 4] = [
    Axis {
        keys: &["lba"],
        values: &["lba=512", "lba=4K", "lba=16K", "lba=64K"],
    },
    Axis {
        keys: &["iu", "nows"],
        values: &["", "iu=4K", "iu=16K", "iu=64K", "iu=1M"],
    },
    Axis {
        keys: &[
            "awun", "awupf", "acwu", "nawun", "nawupf", "nacwu", "nabsn", "nabspf", "nabo", "mam",
        ],
        values: &[
            "",
            // A block, in the namespace's own fields.
            "nawun=1b,nawupf=1b",
            "awun=16K,awupf=16K",
            "awun=64K,awupf=64K",
            "awun=256K,awupf=64K,acwu=16K",
            "nawun=64K,nawupf=16K,nabsn=128K,nabspf=128K",
            "nawun=64K,nawupf=64K,nabsn=256K,nabspf=256K,nabo=64K,mam=1",
            // Every command is atomic.
            "awun=65536b,awupf=65536b",
        ],
    },
    Axis {
        keys: &["queues", "workers", "doorbells"],
        values: &[
            "queues=1",
            "queues=8",
            "queues=8,workers=4",
            "queues=8,doorbells=trapped",
        ],
    },
];

/// A row of the matrix.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Combination {
    /// What it adds to the fixed options, as `--nvme` has it.
    pub options: String,
    /// The arguments of `ferrite selftest` that repeat it.
    pub arguments: String,
}

/// What came of a combination.
#[derive(Debug)]
pub struct Outcome {
    /// Which.
    pub combination: Combination,
    /// What came of it.
    pub results: Results,
    /// How long it took.
    pub elapsed: Duration,
}

/// What came of them all.
#[derive(Debug)]
pub struct MatrixResults {
    /// Each, in the order of the plan.
    pub outcomes: Vec<Outcome>,
    /// How long all of it took.
    pub elapsed: Duration,
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Matrix {
    /// What is the same for all.
    pub selftest: Selftest,
    /// The arguments of `ferrite selftest` that say what is the same for all, but for `--nvme`.
    pub arguments: Vec<String>,
    /// The lists of `--nvme` that say what is the same for all.
    pub fixed: Vec<String>,
    /// How many guests run at a time.
    pub jobs: NonZero<usize>,
}

impl Matrix {
    /// The combinations, each of them checked: nothing runs if one cannot be.
    ///
    /// # Errors
    /// The filter, and the first combination that breaks a rule, with the rule.
    pub fn plan(&self) -> Result<Vec<(Combination, Selftest)>, SelftestError> {
        check_filter(&self.selftest.filter)?;
        let given = &self.selftest.nvme.given;
        let axes: Vec<&[&str]> = AXES
            .iter()
            .filter(|axis| !axis.keys.iter().any(|key| given.contains_key(*key)))
            .map(|axis| axis.values)
            .collect();
        let sizes: Vec<usize> = axes.iter().map(|values| values.len()).collect();
        let rows = pairs::cover(&sizes);
        rows.into_iter()
            .map(|row| self.checked(&axes, &row))
            .collect()
    }

    fn checked(
        &self,
        axes: &[&[&str]],
        row: &[usize],
    ) -> Result<(Combination, Selftest), SelftestError> {
        let values = axes.iter().zip(row).filter_map(|(axis, &at)| axis.get(at));
        let values: Vec<&str> = values.copied().filter(|value| !value.is_empty()).collect();
        let options = values.join(",");
        let mut selftest = self.selftest.clone();
        let checked = selftest
            .nvme
            .apply(&options)
            .and_then(|()| selftest.nvme.check());
        checked.map_err(|error| SelftestError::Combination(options.clone(), Box::new(error)))?;
        let lists = self.fixed.iter().map(String::as_str).chain(values);
        let list = lists.collect::<Vec<_>>().join(",");
        let mut words = self.arguments.clone();
        if !list.is_empty() {
            words.extend(["--nvme".to_string(), quoted(&list)]);
        }
        let combination = Combination {
            options,
            arguments: words.join(" "),
        };
        Ok((combination, selftest))
    }

    /// Runs all combinations, several at a time; `on_outcome` is told of each as it ends, with
    /// how many have and how many there are.
    ///
    /// # Errors
    /// Those of [`plan`](Self::plan), and the first that lets one not come to an end, after which
    /// no other is begun.
    pub fn run(
        &self,
        mut on_outcome: impl FnMut(&Outcome, usize, usize),
    ) -> Result<MatrixResults, SelftestError> {
        let start = Instant::now();
        let plan = self.plan()?;
        let next = AtomicUsize::new(0);
        let failure = Mutex::new(None);
        let (sender, ended) = mpsc::channel();
        let mut outcomes: Vec<(usize, Outcome)> = Vec::with_capacity(plan.len());
        thread::scope(|scope| {
            for _ in 0..self.jobs.get().min(plan.len()) {
                let sender = sender.clone();
                let (plan, next, failure) = (&plan, &next, &failure);
                scope.spawn(move || {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let Some((combination, selftest)) = plan.get(index) else {
                            return;
                        };
                        let began = Instant::now();
                        match run(selftest, |_, _| {}) {
                            Ok(results) => {
                                let outcome = Outcome {
                                    combination: combination.clone(),
                                    results,
                                    elapsed: began.elapsed(),
                                };
                                // The receiver is there until all senders are gone.
                                let _ = sender.send((index, outcome));
                            }
                            Err(error) => {
                                next.store(plan.len(), Ordering::Relaxed);
                                let mut failure =
                                    failure.lock().unwrap_or_else(PoisonError::into_inner);
                                failure.get_or_insert(error);
                                return;
                            }
                        }
                    }
                });
            }
            drop(sender);
            for (index, outcome) in ended {
                on_outcome(&outcome, outcomes.len() + 1, plan.len());
                outcomes.push((index, outcome));
            }
        });
        let failure = failure.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = failure {
            return Err(error);
        }
        outcomes.sort_by_key(|&(index, _)| index);
        Ok(MatrixResults {
            outcomes: outcomes.into_iter().map(|(_, outcome)| outcome).collect(),
            elapsed: start.elapsed(),
        })
    }
}

/// A word as a shell reads it back.
#[must_use]
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-+=:,./@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_string();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests;
