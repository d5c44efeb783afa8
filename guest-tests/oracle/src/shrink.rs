//! Making a failing run shorter.

use std::collections::BTreeSet;

use crate::run::{Failure, Options};

/// Leaves out as many steps of a failing run as `attempts` tries find, while `again` still fails.
/// The shortest run's options, and its failure with all that happened.
///
/// `failure` is what `options` gave.
pub fn shrink(
    options: &Options,
    failure: Failure,
    attempts: u32,
    again: impl Fn(&Options) -> Option<Failure>,
) -> (Options, Failure) {
    let mut best = Options {
        steps: failure.step.max(1),
        ..options.clone()
    };
    let mut shortest = failure;
    let mut left = attempts;
    let mut try_without = |steps: &[u64], best: &mut Options, shortest: &mut Failure| {
        if left == 0 {
            return false;
        }
        left -= 1;
        let mut options = best.clone();
        let skip: BTreeSet<u64> = options.skip.iter().chain(steps).copied().collect();
        options.skip = skip.into_iter().collect();
        let Some(failure) = again(&options) else {
            return false;
        };
        options.steps = failure.step.clamp(1, options.steps);
        (*best, *shortest) = (options, failure);
        true
    };
    // The whole, then ever smaller parts of what is there still.
    let mut size = best.steps.next_power_of_two() / 2;
    while size > 0 {
        let kept = |best: &Options| -> Vec<u64> {
            (1..=best.steps)
                .filter(|step| !best.skip.contains(step))
                .collect()
        };
        let mut end = kept(&best).len();
        while end > 0 {
            let steps = kept(&best);
            end = end.min(steps.len());
            let start = end.saturating_sub(usize::try_from(size).unwrap_or(end));
            let part = steps.get(start..end).unwrap_or_default();
            try_without(part, &mut best, &mut shortest);
            end = start;
        }
        size /= 2;
    }
    let traced = Options {
        trace: true,
        ..best.clone()
    };
    let shortest = again(&traced).unwrap_or(shortest);
    (best, shortest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_matter_is_left_out() {
        let fails = |options: &Options| {
            let runs = |step| step <= options.steps && !options.skip.contains(&step);
            (runs(7) && runs(41)).then(|| Failure {
                step: 41,
                what: String::new(),
                trace: vec![String::new(); usize::from(options.trace)],
            })
        };
        let options = Options::default();
        let failure = fails(&options).expect("it fails");
        let (shortest, failure) = shrink(&options, failure, 1000, fails);
        let kept: Vec<u64> = (1..=shortest.steps)
            .filter(|step| !shortest.skip.contains(step))
            .collect();
        assert_eq!(kept, [7, 41]);
        assert_eq!(failure.trace.len(), 1);
    }
}
