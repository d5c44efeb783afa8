//! Cases that take turns, and what came of them.

use std::time::{Duration, Instant};

use serde_json::json;

/// How long a sample of a case takes: long enough for the clock, short enough for turns.
const SAMPLE: Duration = Duration::from_millis(2);

/// Something to measure.
pub(super) struct Case<'a> {
    pub(super) name: String,
    /// Bytes that one unit of work moves, for throughput.
    pub(super) bytes: u64,
    /// Does the work this many times; several threads of work count together.
    pub(super) work: Box<dyn FnMut(u64) -> Duration + 'a>,
}

/// Nanoseconds that a case took for one unit of work.
#[derive(Clone, PartialEq, Debug)]
pub struct Measured {
    /// The case.
    pub name: String,
    /// The least of all samples.
    pub least_ns: f64,
    /// The median.
    pub median_ns: f64,
    /// Nine samples of ten took no longer.
    pub p90_ns: f64,
    /// Bytes that one unit of work moves.
    pub bytes: u64,
    /// The median over the turns of how often the base case fits in.
    pub ratio: f64,
}

/// What was measured.
#[derive(Clone, PartialEq, Debug)]
pub struct Table {
    /// The case that ratios refer to.
    pub base: String,
    /// The cases in their order.
    pub cases: Vec<Measured>,
    /// Samples of each case.
    pub turns: usize,
}

/// Measures every case in turns for about `time`; ratios refer to the case named `base`.
pub(super) fn measure(mut cases: Vec<Case<'_>>, base: &str, time: Duration) -> Table {
    let counts: Vec<u64> = cases.iter_mut().map(calibrate).collect();
    let end = Instant::now() + time;
    let mut samples: Vec<Vec<f64>> = vec![Vec::new(); cases.len()];
    while Instant::now() < end || samples.iter().any(Vec::is_empty) {
        for ((case, samples), &count) in cases.iter_mut().zip(&mut samples).zip(&counts) {
            samples.push(per_unit((case.work)(count), count));
        }
    }
    let base_at = cases.iter().position(|case| case.name == base).unwrap_or(0);
    let base_samples = samples.get(base_at).cloned().unwrap_or_default();
    let measured = cases.iter().zip(&samples).map(|(case, samples)| {
        let ratios = samples
            .iter()
            .zip(&base_samples)
            .map(|(ns, base)| ns / base);
        let ratios: Vec<f64> = ratios.collect();
        Measured {
            name: case.name.clone(),
            least_ns: quantile(samples, 0.0),
            median_ns: quantile(samples, 0.5),
            p90_ns: quantile(samples, 0.9),
            bytes: case.bytes,
            ratio: quantile(&ratios, 0.5),
        }
    });
    Table {
        base: base.to_string(),
        cases: measured.collect(),
        turns: base_samples.len(),
    }
}

/// How often a case's work fits a sample.
fn calibrate(case: &mut Case<'_>) -> u64 {
    let mut count = 64;
    loop {
        let took = (case.work)(count);
        if took >= SAMPLE / 4 || count >= 1 << 30 {
            let fits = SAMPLE.as_nanos() * u128::from(count) / took.as_nanos().max(1);
            return u64::try_from(fits).unwrap_or(count).max(64);
        }
        count *= 2;
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "nanoseconds and counts far below 2^52"
)]
fn per_unit(took: Duration, count: u64) -> f64 {
    took.as_nanos() as f64 / count as f64
}

/// The value that a share `at` of the samples does not exceed.
fn quantile(samples: &[f64], at: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index of a list"
    )]
    let index = (sorted.len().saturating_sub(1) as f64 * at).round() as usize;
    sorted.get(index).copied().unwrap_or(f64::NAN)
}

impl Table {
    /// A line for each case, for people.
    #[must_use]
    pub fn text(&self) -> String {
        let width = self.cases.iter().map(|case| case.name.len()).max();
        let width = width.unwrap_or(0);
        let mut text = format!(
            "{:width$}  {:>9}  {:>9}  {:>9}  {:>9}  {:>7}\n",
            "", "least ns", "median ns", "p90 ns", "GiB/s", "ratio"
        );
        for case in &self.cases {
            let rate = case.gib_per_second();
            let rate = rate.map_or_else(String::new, |rate| format!("{rate:.2}"));
            text += &format!(
                "{:width$}  {:>9.1}  {:>9.1}  {:>9.1}  {rate:>9}  {:>7.2}\n",
                case.name, case.least_ns, case.median_ns, case.p90_ns, case.ratio
            );
        }
        text + &format!("ratios: to \"{}\", over {} turns\n", self.base, self.turns)
    }

    /// The same for programs.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let case = |case: &Measured| {
            json!({
                "name": case.name,
                "least_ns": case.least_ns,
                "median_ns": case.median_ns,
                "p90_ns": case.p90_ns,
                "bytes": case.bytes,
                "ratio": case.ratio,
            })
        };
        let cases: Vec<_> = self.cases.iter().map(case).collect();
        json!({ "base": self.base, "turns": self.turns, "cases": cases })
    }
}

impl Measured {
    /// Bytes a second by the median, in GiB; nothing for work that moves none.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "sizes far below 2^52")]
    pub fn gib_per_second(&self) -> Option<f64> {
        let gib = self.bytes as f64 / (1u64 << 30) as f64;
        (self.bytes > 0).then(|| gib / (self.median_ns * 1e-9))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_a_few_samples() {
        let samples = [5.0, 1.0, 3.0, 2.0, 4.0];
        assert!((quantile(&samples, 0.0) - 1.0).abs() < 1e-9);
        assert!((quantile(&samples, 0.5) - 3.0).abs() < 1e-9);
        assert!((quantile(&samples, 1.0) - 5.0).abs() < 1e-9);
        assert!(quantile(&[], 0.5).is_nan());
    }

    /// With work whose time is made up, ratios are exact.
    #[test]
    fn ratios_are_of_the_same_turn() {
        let case = |name: &str, ns: u64| Case {
            name: name.to_string(),
            bytes: 0,
            work: Box::new(move |count| Duration::from_nanos(ns * count)),
        };
        let table = measure(
            vec![case("base", 100), case("twice", 200)],
            "base",
            Duration::from_millis(1),
        );
        let twice = &table.cases[1];
        assert!((twice.ratio - 2.0).abs() < 1e-9 && (twice.median_ns - 200.0).abs() < 1e-9);
        assert!(table.turns > 0 && table.text().contains("twice"));
        assert_eq!(table.to_json()["cases"][1]["name"], "twice");
    }
}
