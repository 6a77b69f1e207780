//! The watchdog of a run: steps whose loss or gradient leaves its usual range, and validations that no longer improve.
//!
//! All that it decides by is part of the run's state, so a run that is stopped and resumed decides as one that is not.

use super::StepReport;
use crate::config::TrainConfig;
use serde::{Deserialize, Serialize};

/// The least deviation that counts as usual, as a share of the mean: of a quantity that hardly varies, every change would
/// be many times the usual one.
const LEAST_DEVIATION: f64 = 0.02;

/// Batches that a run may leave out; beyond that something else is wrong with it.
const MOST_LEFT_OUT: usize = 10_000;

/// Exponentially weighted mean and variance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Running {
    count: u64,
    mean: f64,
    variance: f64,
}

impl Running {
    /// How many usual deviations `value` lies above the mean; nothing before a whole window was seen.
    fn z(&self, value: f64, window: u64) -> Option<f64> {
        let deviation = self.variance.sqrt().max(LEAST_DEVIATION * self.mean.abs()).max(f64::MIN_POSITIVE);
        (self.count >= window).then(|| (value - self.mean) / deviation)
    }

    fn add(&mut self, value: f64, window: u64) {
        // Until the window is full, every value weighs the same.
        let weight = 1.0 / (self.count + 1).min(window) as f64;
        let off = value - self.mean;
        self.mean += weight * off;
        self.variance = (1.0 - weight) * (self.variance + weight * off * off);
        self.count += 1;
    }

    fn is_sound(&self) -> bool {
        self.mean.is_finite() && self.variance.is_finite() && self.variance >= 0.0
    }
}

/// Why a step was a spike.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spike {
    /// `"loss"` or `"gradient norm"`.
    pub what: &'static str,
    /// Its value.
    pub value: f64,
    /// Usual deviations above the mean; not a number if the value is not finite.
    pub z: f64,
}

/// What the watchdog has seen; part of a run's state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Watch {
    loss: Running,
    grad: Running,
    /// Steps that were spikes and passed: not learned if it was their loss.
    pub spikes: u64,
    /// The last of them in a row.
    pub in_a_row: u64,
    /// Sequences that are left out: the first, and the one after the last.
    left_out: Vec<(u64, u64)>,
    /// The lowest validation loss so far, and its step.
    pub best: Option<(f64, u64)>,
    /// Validations since.
    pub since_best: u64,
}

impl Watch {
    /// Whether it has seen nothing, as in a run without a watchdog.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a state that was read can be true; if not, what cannot.
    pub fn problem(&self) -> Option<String> {
        let ordered = self.left_out.iter().all(|(from, to)| from < to);
        let best = self.best.is_none_or(|(loss, _)| loss.is_finite());
        match (self.loss.is_sound() && self.grad.is_sound() && best, ordered, self.left_out.len()) {
            (false, ..) => Some("watch holds a number that is not finite".into()),
            (_, false, _) => Some("watch.left_out holds a range that is empty".into()),
            (.., found) if found > MOST_LEFT_OUT => {
                Some(format!("watch.left_out holds {found} batches, at most {MOST_LEFT_OUT} are possible"))
            }
            _ => None,
        }
    }

    /// The position after the batches that are left out from `position` on.
    pub fn pass(&self, mut position: u64) -> u64 {
        while let Some((_, to)) = self.left_out.iter().find(|(from, to)| (*from..*to).contains(&position)) {
            position = *to;
        }
        position
    }

    /// Batches that are left out.
    pub fn left_out(&self) -> usize {
        self.left_out.len()
    }

    /// Leaves the `count` sequences from `position` on out from now on.
    pub(super) fn leave_out(&mut self, position: u64, count: u64) {
        self.left_out.push((position, position + count));
    }

    /// Leaves out what `other` does.
    pub(super) fn leave_out_too(&mut self, other: &Watch) {
        for range in &other.left_out {
            if !self.left_out.contains(range) {
                self.left_out.push(*range);
            }
        }
    }

    /// Whether the last step was no spike: only such states are saved by a schedule, and gone back to.
    pub fn is_calm(&self) -> bool {
        self.in_a_row == 0
    }

    /// Whether `loss` is a spike; asked before anything is learned.
    pub(super) fn judge_loss(&self, loss: f64, train: &TrainConfig) -> Option<Spike> {
        judge("loss", &self.loss, loss, train)
    }

    /// Counts a step, and says whether it was a spike. What is no spike becomes a part of what is usual.
    pub(super) fn see(&mut self, report: &StepReport, train: &TrainConfig) -> Option<Spike> {
        if train.spike_z == 0.0 {
            return None;
        }
        let norm = (!report.frozen).then_some(report.grad_norm);
        let spike = report.spike.or_else(|| judge("gradient norm", &self.grad, norm?, train));
        match spike {
            Some(_) => (self.spikes, self.in_a_row) = (self.spikes + 1, self.in_a_row + 1),
            None => {
                self.in_a_row = 0;
                self.loss.add(report.loss, train.spike_window);
                if let Some(norm) = norm {
                    self.grad.add(norm, train.spike_window);
                }
            }
        }
        spike
    }

    /// Counts a validation; whether it is the best so far.
    pub(super) fn validated(&mut self, loss: f64, step: u64) -> bool {
        let better = loss.is_finite() && self.best.is_none_or(|(best, _)| loss < best);
        match better {
            true => (self.best, self.since_best) = (Some((loss, step)), 0),
            false => self.since_best += 1,
        }
        better
    }

    /// Whether the validations have not improved for so long that the run ends.
    pub fn is_out_of_patience(&self, train: &TrainConfig) -> bool {
        train.patience > 0 && self.since_best >= train.patience
    }
}

fn judge(what: &'static str, usual: &Running, value: f64, train: &TrainConfig) -> Option<Spike> {
    if train.spike_z == 0.0 {
        return None;
    }
    if !value.is_finite() {
        return Some(Spike { what, value, z: f64::NAN });
    }
    let z = usual.z(value, train.spike_window).filter(|z| *z > train.spike_z)?;
    Some(Spike { what, value, z })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> TrainConfig {
        TrainConfig { spike_z: 4.0, spike_window: 8, patience: 2, ..TrainConfig::default() }
    }

    #[test]
    fn the_mean_and_variance_of_a_full_window_are_those_of_its_values() {
        let mut running = Running::default();
        let values = [3.0, 5.0, 4.0, 8.0];
        values.iter().for_each(|value| running.add(*value, 4));
        let mean = 5.0;
        let variance = values.iter().map(|value| (value - mean) * (value - mean)).sum::<f64>() / 4.0;
        assert!((running.mean - mean).abs() < 1e-12 && (running.variance - variance).abs() < 1e-12, "{running:?}");
    }

    #[test]
    fn only_what_lies_far_above_the_usual_is_a_spike_and_only_once_that_is_known() {
        let (train, mut watch) = (settings(), Watch::default());
        assert!(watch.judge_loss(1e9, &train).is_none(), "nothing is usual yet");
        for i in 0..8 {
            watch.loss.add(2.0 + 0.1 * f64::from(i % 2), train.spike_window);
        }
        assert!(watch.judge_loss(2.2, &train).is_none() && watch.judge_loss(0.0, &train).is_none());
        assert!(watch.judge_loss(2.5, &train).is_some_and(|spike| spike.z > 4.0));
        assert!(watch.judge_loss(f64::NAN, &train).is_some());
        assert!(watch.judge_loss(1e9, &TrainConfig { spike_z: 0.0, ..settings() }).is_none(), "switched off");
    }

    #[test]
    fn batches_that_are_left_out_are_passed_over_in_any_order() {
        let mut watch = Watch::default();
        watch.leave_out(8, 4);
        watch.leave_out(4, 4);
        assert_eq!([0, 4, 6, 8, 11, 12].map(|position| watch.pass(position)), [0, 12, 12, 12, 12, 12]);
    }

    #[test]
    fn patience_ends_after_validations_without_an_improvement() {
        let (train, mut watch) = (settings(), Watch::default());
        assert_eq!([3.0, 2.0, 2.0, f64::NAN].map(|loss| watch.validated(loss, 1)), [true, true, false, false]);
        assert!(watch.is_out_of_patience(&train) && watch.best == Some((2.0, 1)));
        assert!(watch.validated(1.0, 2) && !watch.is_out_of_patience(&train));
    }

    #[test]
    fn a_state_comes_back_from_json_to_the_bit_and_impossible_ones_are_named() {
        let mut watch = Watch::default();
        watch.loss.add(1.0 / 3.0, 8);
        watch.leave_out(4, 4);
        let json = serde_json::to_string(&watch).unwrap();
        assert_eq!(serde_json::from_str::<Watch>(&json).unwrap(), watch);
        assert_eq!(watch.problem(), None);
        watch.left_out[0].1 = 4;
        assert!(watch.problem().unwrap().contains("empty"));
    }
}
