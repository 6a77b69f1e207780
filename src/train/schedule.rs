//! The learning rate.

use crate::config::{Schedule, Train};

/// The learning rate of step `number` (from 1): linear warm-up to `peak`, then the schedule down to
/// `peak * final_lr` at the last step.
pub fn learning_rate(train: &Train, peak: f64, number: u64) -> f64 {
    if number <= train.warmup {
        return peak * number as f64 / train.warmup as f64;
    }
    let span = train.steps.saturating_sub(train.warmup).max(1) as f64;
    let done = ((number - train.warmup) as f64 / span).min(1.0);
    let share = match train.schedule {
        Schedule::Constant => 1.0,
        Schedule::Linear => 1.0 - done,
        Schedule::Cosine => (1.0 + (std::f64::consts::PI * done).cos()) / 2.0,
    };
    peak * (train.final_lr + (1.0 - train.final_lr) * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warm_up_peak_and_floor() {
        let train = Train { steps: 100, warmup: 10, final_lr: 0.1, schedule: Schedule::Cosine, ..Train::default() };
        let lr = |n| learning_rate(&train, 2.0, n);
        assert_eq!((lr(1), lr(5), lr(10)), (0.2, 1.0, 2.0));
        assert!((lr(55) - 2.0 * 0.55).abs() < 1e-12 && (lr(100) - 0.2).abs() < 1e-12);
        assert_eq!(lr(101), lr(100), "past the end the rate stays");
        let flat = Train { warmup: 0, schedule: Schedule::Constant, ..train.clone() };
        assert_eq!(learning_rate(&flat, 2.0, 77), 2.0);
        let line = Train { schedule: Schedule::Linear, ..train };
        assert!((learning_rate(&line, 2.0, 55) - 1.1).abs() < 1e-12);
    }
}
