//! The learning rate of each step.

use serde::{Deserialize, Serialize};

/// The learning rate after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// Cosine to `final_lr`.
    Cosine,
    /// Straight line to `final_lr`.
    Linear,
    /// The peak.
    Constant,
}

/// A learning rate over the steps of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LearningRate {
    /// The rate at the end of the warm-up.
    pub peak: f64,
    /// Steps of linear warm-up.
    pub warmup: u64,
    /// Steps of the run.
    pub steps: u64,
    /// What follows the warm-up.
    pub schedule: Schedule,
    /// The rate at the last step as a share of the peak.
    pub final_lr: f64,
}

impl LearningRate {
    /// The learning rate of step `number` (from 1): linear warm-up to the peak, then the schedule down to
    /// `peak * final_lr` at the last step, and that ever after.
    pub fn at(&self, number: u64) -> f64 {
        let &Self { peak, warmup, steps, final_lr, .. } = self;
        if number <= warmup {
            return peak * number as f64 / warmup as f64;
        }
        let span = steps.saturating_sub(warmup).max(1) as f64;
        let done = ((number - warmup) as f64 / span).min(1.0);
        let share = match self.schedule {
            Schedule::Constant => 1.0,
            Schedule::Linear => 1.0 - done,
            Schedule::Cosine => (1.0 + (std::f64::consts::PI * done).cos()) / 2.0,
        };
        peak * (final_lr + (1.0 - final_lr) * share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warm_up_peak_and_floor() {
        let cosine = LearningRate { peak: 2.0, warmup: 10, steps: 100, schedule: Schedule::Cosine, final_lr: 0.1 };
        let lr = |n| cosine.at(n);
        assert_eq!((lr(1), lr(5), lr(10)), (0.2, 1.0, 2.0));
        assert!((lr(55) - 2.0 * 0.55).abs() < 1e-12 && (lr(100) - 0.2).abs() < 1e-12);
        assert_eq!(lr(101), lr(100), "past the end the rate stays");
        let flat = LearningRate { warmup: 0, schedule: Schedule::Constant, ..cosine };
        assert_eq!(flat.at(77), 2.0);
        let line = LearningRate { schedule: Schedule::Linear, ..cosine };
        assert!((line.at(55) - 1.1).abs() < 1e-12);
    }
}
