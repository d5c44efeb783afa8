//! Cases that take turns, and what came of them.

use std::time::{Duration, Instant};

use serde_json::json;

/// How long a sample of a case takes: long enough for the clock, short enough for turns.
const SAMPLE: Duration = Duration::from_millis(2);
/// Operations before each sample that do not count: once around a ring of 1,024, whose memory
/// another case may have driven out of the caches.
const WARM_UP: u64 = 1024;

/// Something to measure.
pub(super) struct Case<'a> {
    pub(super) id: &'static str,
    pub(super) name: &'static str,
    /// The identifier of the case that the ratio refers to; its own if there is none.
    pub(super) base: &'static str,
    /// Bytes that one operation moves, for throughput.
    pub(super) bytes: u64,
    /// Does at least this many operations; several threads' count together.
    pub(super) work: Box<dyn FnMut(u64) -> Sample + 'a>,
}

/// What a piece of work took.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Sample {
    pub(super) took: Duration,
    /// Operations done.
    pub(super) count: u64,
}

/// Nanoseconds that a case took for one operation.
#[derive(Clone, PartialEq, Debug)]
pub struct Measured {
    /// What the case is called on the command line.
    pub id: String,
    /// What it is.
    pub name: String,
    /// The least of all samples.
    pub least_ns: f64,
    /// A quarter of the samples took no longer.
    pub p25_ns: f64,
    /// The median.
    pub median_ns: f64,
    /// Three quarters of the samples took no longer.
    pub p75_ns: f64,
    /// Bytes that one operation moves.
    pub bytes: u64,
    /// The case that the ratio refers to.
    pub base: String,
    /// The median of how often the base's time fits in, sample by sample: each is taken beside
    /// one of the base.
    pub ratio: f64,
    /// Where the median lies with a confidence of 95 %.
    pub ratio_range: (f64, f64),
    /// Samples taken.
    pub samples: usize,
    /// Operations of all samples.
    pub operations: u64,
}

/// What was measured.
#[derive(Clone, PartialEq, Debug)]
pub struct Table {
    /// The cases in their order.
    pub cases: Vec<Measured>,
}

/// What the samples of a case came to.
#[derive(Clone, Debug, Default)]
struct Samples {
    ns: Vec<f64>,
    ratios: Vec<f64>,
    operations: u64,
}

/// Measures every case for about `time` in all. In each turn the cases come in another order, and
/// each has a sample beside one of its base, before or after it by turns. With `operations` each
/// case has one sample of so many.
pub(super) fn measure(mut cases: Vec<Case<'_>>, time: Duration, operations: Option<u64>) -> Table {
    let mut all = vec![Samples::default(); cases.len()];
    let bases: Vec<usize> = cases
        .iter()
        .enumerate()
        .map(|(at, case)| cases.iter().position(|c| c.id == case.base).unwrap_or(at))
        .collect();
    if let Some(count) = operations {
        for (case, samples) in cases.iter_mut().zip(&mut all) {
            samples.add((case.work)(count), None);
        }
    } else {
        let counts: Vec<u64> = cases.iter_mut().map(calibrate).collect();
        let mut sample = |at: usize| {
            let count = counts.get(at).copied().unwrap_or_default();
            let case = cases.get_mut(at);
            case.map_or(Sample::default(), |case| {
                (case.work)(count.min(WARM_UP));
                (case.work)(count)
            })
        };
        let mut order: Vec<usize> = (0..counts.len()).collect();
        let mut chance = 1;
        let end = Instant::now() + time;
        let mut turn = 0u64;
        while turn == 0 || Instant::now() < end {
            shuffle(&mut order, &mut chance);
            for &at in &order {
                let base = bases.get(at).copied().filter(|&base| base != at);
                let before = base.filter(|_| turn.is_multiple_of(2)).map(&mut sample);
                let own = sample(at);
                let after = base.filter(|_| !turn.is_multiple_of(2)).map(&mut sample);
                if let Some(samples) = all.get_mut(at) {
                    samples.add(own, before.or(after));
                }
            }
            turn += 1;
        }
    }
    let measured = cases.iter().zip(all).map(|(case, samples)| {
        let at = |share| quantile(&samples.ns, share);
        Measured {
            id: case.id.to_string(),
            name: case.name.to_string(),
            least_ns: at(0.0),
            p25_ns: at(0.25),
            median_ns: at(0.5),
            p75_ns: at(0.75),
            bytes: case.bytes,
            base: case.base.to_string(),
            ratio: quantile(&samples.ratios, 0.5),
            ratio_range: median_range(&samples.ratios),
            samples: samples.ns.len(),
            operations: samples.operations,
        }
    });
    Table {
        cases: measured.collect(),
    }
}

impl Samples {
    fn add(&mut self, own: Sample, base: Option<Sample>) {
        let ns = own.per_operation();
        self.ns.push(ns);
        self.ratios
            .push(base.map_or(1.0, |base| ns / base.per_operation()));
        self.operations += own.count;
    }
}

impl Sample {
    #[expect(
        clippy::cast_precision_loss,
        reason = "nanoseconds and counts far below 2^52"
    )]
    fn per_operation(self) -> f64 {
        self.took.as_nanos() as f64 / self.count as f64
    }
}

/// How many operations of a case a sample has.
fn calibrate(case: &mut Case<'_>) -> u64 {
    let mut wanted = 64;
    loop {
        let Sample { took, count } = (case.work)(wanted);
        if took >= SAMPLE / 4 || count >= 1 << 30 {
            let fits = SAMPLE.as_nanos() * u128::from(count) / took.as_nanos().max(1);
            return u64::try_from(fits).unwrap_or(count).max(64);
        }
        wanted *= 2;
    }
}

/// Another order, by a linear congruential generator's high bits.
fn shuffle(order: &mut [usize], chance: &mut u64) {
    for last in (1..order.len()).rev() {
        *chance = chance
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let other = (*chance >> 33) % (last as u64 + 1);
        order.swap(last, usize::try_from(other).unwrap_or_default());
    }
}

/// The value that a share `at` of the samples does not exceed.
pub(super) fn quantile(samples: &[f64], at: f64) -> f64 {
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

/// Where the median lies with a confidence of 95 %, by the order of the samples alone: as many of
/// them are below it as of tossed coins show heads.
fn median_range(samples: &[f64]) -> (f64, f64) {
    #[expect(clippy::cast_precision_loss, reason = "a count of samples")]
    let half_width = 0.98 / (samples.len().max(1) as f64).sqrt();
    (
        quantile(samples, (0.5 - half_width).max(0.0)),
        quantile(samples, (0.5 + half_width).min(1.0)),
    )
}

impl Table {
    /// A line for each case, for people.
    #[must_use]
    pub fn text(&self) -> String {
        let width = |text: fn(&Measured) -> &str| {
            let widths = self.cases.iter().map(|case| text(case).len());
            widths.max().unwrap_or(0)
        };
        let (ids, names) = (width(|case| &case.id), width(|case| &case.name));
        let mut text = format!(
            "{:ids$}  {:names$}  {:>8}  {:>8}  {:>17}  {:>6}  {:>5}  {:>13}  to\n",
            "case", "", "least ns", "median", "half are within", "GiB/s", "ratio", "95 %"
        );
        for case in &self.cases {
            let rate = case.gib_per_second();
            let rate = rate.map_or_else(String::new, |rate| format!("{rate:.2}"));
            let within = format!("{:.1} to {:.1}", case.p25_ns, case.p75_ns);
            let (low, high) = case.ratio_range;
            let range = format!("{low:.2} to {high:.2}");
            let (id, name, base) = (&case.id, &case.name, &case.base);
            text += &format!(
                "{id:ids$}  {name:names$}  {:>8.1}  {:>8.1}  {within:>17}  {rate:>6}  {:>5.2}  {range:>13}  {base}\n",
                case.least_ns, case.median_ns, case.ratio
            );
        }
        let samples = self.cases.first().map_or(0, |case| case.samples);
        text + &format!("nanoseconds a command; {samples} samples of each case\n")
    }

    /// The same for programs.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let case = |case: &Measured| {
            let (low, high) = case.ratio_range;
            json!({
                "id": case.id,
                "name": case.name,
                "least_ns": case.least_ns,
                "p25_ns": case.p25_ns,
                "median_ns": case.median_ns,
                "p75_ns": case.p75_ns,
                "bytes": case.bytes,
                "base": case.base,
                "ratio": case.ratio,
                "ratio_low": low,
                "ratio_high": high,
                "samples": case.samples,
                "operations": case.operations,
            })
        };
        let cases: Vec<_> = self.cases.iter().map(case).collect();
        json!({ "cases": cases })
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

    #[test]
    fn the_range_of_a_median_narrows_with_more_samples() {
        let samples = |count: u32| (0..count).map(f64::from).collect::<Vec<_>>();
        assert_eq!(median_range(&samples(3)), (0.0, 2.0));
        // The 40th and the 61st of 100.
        let (low, high) = median_range(&samples(100));
        assert!(
            (low - 40.0).abs() < 1.1 && (high - 59.0).abs() < 1.1,
            "{low} {high}"
        );
    }

    #[test]
    fn every_order_is_a_permutation_and_they_differ() {
        let (mut order, mut chance) = ([0, 1, 2, 3, 4], 1);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..50 {
            shuffle(&mut order, &mut chance);
            let mut sorted = order;
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3, 4]);
            seen.insert(order);
        }
        assert!(seen.len() > 20);
    }

    /// With work whose time is made up, ratios are exact; and what is done beyond what was asked
    /// for counts.
    #[test]
    fn ratios_are_of_neighbouring_samples() {
        let case = |id: &'static str, ns: u64, batch: u64| Case {
            id,
            name: id,
            base: "base",
            bytes: 0,
            work: Box::new(move |count| {
                let count = count.next_multiple_of(batch);
                Sample {
                    took: Duration::from_nanos(ns * count),
                    count,
                }
            }),
        };
        let cases = || vec![case("base", 100, 1), case("twice", 200, 1000)];
        let table = measure(cases(), Duration::from_millis(1), None);
        let twice = &table.cases[1];
        assert!((twice.ratio - 2.0).abs() < 1e-9 && (twice.median_ns - 200.0).abs() < 1e-9);
        assert!(twice.samples > 0 && table.text().contains("twice"));
        assert_eq!(table.to_json()["cases"][1]["id"], "twice");
        let once = measure(cases(), Duration::from_millis(1), Some(10));
        assert_eq!(once.cases[0].operations, 10);
        assert_eq!((once.cases[1].samples, once.cases[1].operations), (1, 1000));
    }
}
