//! Which source each row is from: a fixed schedule that comes as close to the weights as whole rows can.

/// Rows after which the schedule repeats: shares are right to one in so many.
const PERIOD: usize = 4096;

/// A schedule: row `position` is row number `index` of its source. Both are found without looking at earlier rows, so
/// a run resumes anywhere.
#[derive(Clone, Debug)]
pub(crate) struct Mixture {
    /// The source of each row of a period, and how many rows of that source come before it in the period.
    rows: Vec<(u32, u32)>,
    /// Rows of each source in a period.
    counts: Vec<u64>,
}

impl Mixture {
    /// The schedule for sources of these weights, all above 0.
    ///
    /// # Panics
    /// If there is no source, or more than half as many as rows in a period.
    pub(crate) fn new(weights: &[f64]) -> Self {
        assert!(!weights.is_empty() && weights.len() <= PERIOD / 2, "{} sources", weights.len());
        if weights.len() == 1 {
            return Mixture { rows: vec![(0, 0)], counts: vec![1] };
        }
        let total: f64 = weights.iter().sum();
        let shares: Vec<f64> = weights.iter().map(|weight| weight / total).collect();
        let (mut rows, mut counts) = (Vec::with_capacity(PERIOD), vec![0u64; weights.len()]);
        for row in 1..=PERIOD {
            let behind = |k: usize| shares[k] * row as f64 - counts[k] as f64;
            // A source of the smallest weight still has a row.
            let starved = (0..weights.len()).filter(|&k| counts[k] == 0).collect::<Vec<_>>();
            let next = match PERIOD - row < starved.len() {
                true => starved[0],
                false => (0..weights.len()).reduce(|a, b| if behind(b) > behind(a) { b } else { a }).unwrap_or(0),
            };
            rows.push((next as u32, counts[next] as u32));
            counts[next] += 1;
        }
        Mixture { rows, counts }
    }

    /// The source of row `position`, and which of its rows it is.
    pub(crate) fn row(&self, position: u64) -> (usize, u64) {
        let period = self.rows.len() as u64;
        let (source, before) = self.rows[(position % period) as usize];
        let index = (position / period).wrapping_mul(self.counts[source as usize]).wrapping_add(before.into());
        (source as usize, index)
    }

    /// The share of the rows that a source has.
    pub(crate) fn share(&self, source: usize) -> f64 {
        self.counts[source] as f64 / self.rows.len() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_stretch_of_rows_has_the_shares_of_the_weights() {
        for weights in [&[0.7, 0.3][..], &[1.0, 1.0, 2.0], &[5.0, 0.01, 3.0], &[1e-9, 1.0], &[1.0; 40]] {
            let (mixture, total) = (Mixture::new(weights), weights.iter().sum::<f64>());
            let mut next = vec![0; weights.len()];
            for position in 0..20_000 {
                let (source, index) = mixture.row(position);
                assert_eq!(index, next[source], "{weights:?}: rows of a source are taken in order, each once");
                next[source] += 1;
                for (k, weight) in weights.iter().enumerate() {
                    let wanted = weight / total * (position + 1) as f64;
                    // A row of a period for rounding, and one for each source that shares the place.
                    let allowed = weights.len() as f64 + (position / 4096 + 1) as f64;
                    assert!((next[k] as f64 - wanted).abs() <= allowed, "{weights:?}: source {k} after {position}");
                }
            }
            assert!(next.iter().all(|rows| *rows > 0), "{weights:?}: a source without a row");
        }
    }

    #[test]
    fn one_source_is_every_row() {
        let mixture = Mixture::new(&[0.2]);
        assert_eq!((mixture.row(17), mixture.row(u64::MAX)), ((0, 17), (0, u64::MAX)));
    }
}
