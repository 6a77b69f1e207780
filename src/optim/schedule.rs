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
    /// Warm-up, stable, decay (arXiv 2404.06395): the peak, then a straight line to `final_lr` over the last steps.
    Wsd,
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
    /// Steps over which `wsd` decays.
    pub decay: u64,
}

impl LearningRate {
    /// The learning rate of step `number` (from 1): linear warm-up to the peak, then the schedule down to
    /// `peak * final_lr` at the last step, and that ever after.
    pub fn at(&self, number: u64) -> f64 {
        let &Self { peak, warmup, steps, final_lr, .. } = self;
        if number <= warmup {
            return peak * number as f64 / warmup as f64;
        }
        let done = |from: u64| {
            let span = steps.saturating_sub(from).max(1) as f64;
            (number.saturating_sub(from) as f64 / span).min(1.0)
        };
        let share = match self.schedule {
            Schedule::Constant => 1.0,
            Schedule::Linear => 1.0 - done(warmup),
            Schedule::Wsd => 1.0 - done(self.decay_from()),
            Schedule::Cosine => (1.0 + (std::f64::consts::PI * done(warmup)).cos()) / 2.0,
        };
        peak * (final_lr + (1.0 - final_lr) * share)
    }

    /// The last step at the peak, for `wsd`.
    pub fn decay_from(&self) -> u64 {
        self.steps.saturating_sub(self.decay).max(self.warmup)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warm_up_peak_and_floor() {
        let cosine =
            LearningRate { peak: 2.0, warmup: 10, steps: 100, schedule: Schedule::Cosine, final_lr: 0.1, decay: 0 };
        let lr = |n| cosine.at(n);
        assert_eq!((lr(1), lr(5), lr(10)), (0.2, 1.0, 2.0));
        assert!((lr(55) - 2.0 * 0.55).abs() < 1e-12 && (lr(100) - 0.2).abs() < 1e-12);
        assert_eq!(lr(101), lr(100), "past the end the rate stays");
        let flat = LearningRate { warmup: 0, schedule: Schedule::Constant, ..cosine };
        assert_eq!(flat.at(77), 2.0);
        let line = LearningRate { schedule: Schedule::Linear, ..cosine };
        assert!((line.at(55) - 1.1).abs() < 1e-12);
    }

    #[test]
    fn wsd_is_flat_up_to_its_decay() {
        let wsd = LearningRate { peak: 2.0, warmup: 10, steps: 100, schedule: Schedule::Wsd, final_lr: 0.0, decay: 20 };
        let lr = |n| wsd.at(n);
        assert_eq!((lr(5), lr(10), lr(11), lr(80)), (1.0, 2.0, 2.0, 2.0));
        assert!((lr(81) - 1.9).abs() < 1e-12 && (lr(90) - 1.0).abs() < 1e-12);
        assert_eq!((lr(100), lr(101)), (0.0, 0.0));
        let longer = LearningRate { steps: 200, ..wsd };
        assert_eq!(longer.at(80), lr(80), "more steps leave the stable part as it was");
        assert_eq!(LearningRate { decay: 95, ..wsd }.decay_from(), 10, "never into the warm-up");
        assert!((LearningRate { final_lr: 0.25, ..wsd }.at(100) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn every_schedule_that_falls_may_end_at_exactly_zero() {
        for schedule in [Schedule::Cosine, Schedule::Linear, Schedule::Wsd] {
            for (warmup, steps, decay) in [(0, 1, 1), (3, 7, 2), (40, 400, 80), (2000, 20_000, 4000)] {
                let rate = LearningRate { peak: 4e-3, warmup, steps, schedule, final_lr: 0.0, decay };
                assert_eq!(rate.at(steps), 0.0, "{rate:?}");
                assert!(steps == 1 || rate.at(steps - 1) > 0.0, "{rate:?}");
            }
        }
    }
}
