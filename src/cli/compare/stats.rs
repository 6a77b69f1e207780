//! Means and Student's intervals.

use statrs::distribution::{ContinuousCDF, StudentsT};

/// The mean.
pub(super) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The standard deviation of a sample; nothing of fewer than two values.
pub(super) fn deviation(values: &[f64]) -> Option<f64> {
    let mean = mean(values);
    let squares: f64 = values.iter().map(|x| (x - mean).powi(2)).sum();
    (values.len() > 1).then(|| (squares / (values.len() - 1) as f64).sqrt())
}

/// What a few values say of the mean that they are drawn around, if they are normally distributed.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub(super) struct Interval {
    pub mean: f64,
    pub deviation: f64,
    /// Both ends of the 95 % interval.
    pub low: f64,
    pub high: f64,
    /// One-sided: with 95 % confidence the mean is below the one, and above the other.
    pub upper: f64,
    pub lower: f64,
}

impl Interval {
    /// The interval of at least two values.
    pub(super) fn of(values: &[f64]) -> Option<Self> {
        let (mean, deviation) = (mean(values), deviation(values)?);
        let error = deviation / (values.len() as f64).sqrt();
        let [two, one] = [0.975, 0.95].map(|p| quantile(p, values.len() - 1) * error);
        let (low, high, upper, lower) = (mean - two, mean + two, mean + one, mean - one);
        Some(Self { mean, deviation, low, high, upper, lower })
    }
}

/// Quantile of Student's t distribution.
fn quantile(p: f64, freedom: usize) -> f64 {
    StudentsT::new(0.0, 1.0, freedom as f64).expect("one degree of freedom or more").inverse_cdf(p)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values of the usual table, which every textbook of statistics prints.
    #[test]
    fn quantiles_are_those_of_the_table() {
        for (freedom, two_sided, one_sided) in [
            (1, 12.706, 6.314),
            (2, 4.303, 2.920),
            (3, 3.182, 2.353),
            (4, 2.776, 2.132),
            (9, 2.262, 1.833),
            (30, 2.042, 1.697),
            (1000, 1.962, 1.646),
        ] {
            let found = [quantile(0.975, freedom), quantile(0.95, freedom)];
            let near = |a: f64, b: f64| (a - b).abs() < 6e-4;
            assert!(near(found[0], two_sided) && near(found[1], one_sided), "{freedom}: {found:?}");
        }
    }

    #[test]
    fn an_interval_is_that_of_a_worked_example() {
        // Deviation sqrt(2.5), error sqrt(0.5); times 2.776 445 and 2.131 847 for four degrees of freedom.
        let found = Interval::of(&[5.0, 1.0, 4.0, 2.0, 3.0]).unwrap();
        let expected = [3.0, 1.581_139, 1.036_757, 4.963_243, 4.507_443, 1.492_557];
        let found = [found.mean, found.deviation, found.low, found.high, found.upper, found.lower];
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 2e-6, "{found} {expected}");
        }
        assert_eq!(Interval::of(&[1.0]), None);
        let same = Interval::of(&[2.0, 2.0, 2.0]).unwrap();
        assert_eq!((same.deviation, same.low, same.high), (0.0, 2.0, 2.0));
    }
}
