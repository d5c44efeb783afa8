//! Which values meet: rows in which every two values of two axes occur together.

/// Rows with one value of each axis, given how many each axis has, such that every two values of
/// two different axes meet in a row. The same sizes give the same rows. Of one axis or none, each
/// value is a row.
pub(super) fn cover(sizes: &[usize]) -> Vec<Vec<usize>> {
    if sizes.len() < 2 {
        return (0..sizes.first().copied().unwrap_or(1))
            .map(|value| sizes.iter().map(|_| value).collect())
            .collect();
    }
    let mut open = Open::new(sizes);
    let mut rows = Vec::new();
    while let Some(first) = open.pairs.first().copied() {
        let mut row: Vec<Option<usize>> = vec![None; sizes.len()];
        for (axis, value) in first {
            set(&mut row, axis, value);
        }
        // The other axes one by one, each with the value that meets the most new ones; where
        // several do, each comes in its turn.
        let turn = rows.len();
        for (axis, &size) in sizes.iter().enumerate() {
            if row.get(axis).copied().flatten().is_some() {
                continue;
            }
            let values = (0..size).map(|value| (value + turn) % size);
            let best = values.max_by_key(|&value| open.gain(&row, axis, value));
            set(&mut row, axis, best.unwrap_or(0));
        }
        let row: Vec<usize> = row.into_iter().flatten().collect();
        open.close(&row);
        rows.push(row);
    }
    rows
}

fn set(row: &mut [Option<usize>], axis: usize, value: usize) {
    if let Some(place) = row.get_mut(axis) {
        *place = Some(value);
    }
}

/// Two values of two axes, the lower axis first.
type Pair = [(usize, usize); 2];

/// Pairs that have not met.
struct Open {
    pairs: Vec<Pair>,
}

impl Open {
    fn new(sizes: &[usize]) -> Self {
        let axes = || sizes.iter().enumerate();
        let pairs = axes().flat_map(|(one, &ones)| {
            axes().skip(one + 1).flat_map(move |(other, &others)| {
                (0..ones).flat_map(move |a| (0..others).map(move |b| [(one, a), (other, b)]))
            })
        });
        Self {
            pairs: pairs.collect(),
        }
    }

    /// How many pairs a value of an axis would close in a row as far as it is.
    fn gain(&self, row: &[Option<usize>], axis: usize, value: usize) -> usize {
        let with = |(other, its): (usize, usize)| {
            (other, its) == (axis, value) || row.get(other).copied().flatten() == Some(its)
        };
        let closes = |pair: &&Pair| pair.contains(&(axis, value)) && pair.iter().all(|&v| with(v));
        self.pairs.iter().filter(closes).count()
    }

    fn close(&mut self, row: &[usize]) {
        let met = |&(axis, value): &(usize, usize)| row.get(axis) == Some(&value);
        self.pairs.retain(|pair| !pair.iter().all(met));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_two_values_meet_and_no_row_is_wasted() {
        for sizes in [&[4, 5, 8, 4][..], &[2, 2, 2], &[3, 1, 5], &[5, 8], &[1, 1]] {
            let rows = cover(sizes);
            assert!(Open::new(sizes).pairs.iter().all(|pair| {
                let has = |row: &Vec<usize>| pair.iter().all(|&(a, v)| row.get(a) == Some(&v));
                rows.iter().any(has)
            }));
            for row in &rows {
                assert_eq!(row.len(), sizes.len());
                assert!(row.iter().zip(sizes).all(|(value, size)| value < size));
            }
            // No fewer rows could do than the two longest axes have pairs.
            let mut longest = sizes.to_vec();
            longest.sort_unstable_by(|a, b| b.cmp(a));
            let least: usize = longest.iter().take(2).product();
            assert!(
                rows.len() <= least + least / 4 + 1,
                "{sizes:?}: {}",
                rows.len()
            );
        }
    }

    #[test]
    fn one_axis_or_none_gives_its_values() {
        assert_eq!(cover(&[3]), [[0], [1], [2]]);
        assert_eq!(cover(&[]), [[0; 0]]);
    }
}
