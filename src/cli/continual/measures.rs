//! What a matrix of losses says: how well the tasks are known at the end, what was forgotten, and what helped what.
//!
//! `R[i][j]` is the loss on task j after learning tasks 0 to i, `base[j]` that of the untouched base. Lower is better, so that
//! differences have the signs that those of accuracies have (GEM, arXiv 1706.08840; TRACE, arXiv 2310.06762) reversed: a
//! positive number of nats was lost.

use serde::Serialize;

/// The measures of one way of learning, in nats per token. Lower is better in all of them but `gain_kept`, a share.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Measures {
    /// The mean loss of all tasks after the last.
    pub last: f64,
    /// The mean over the tasks' ends of the mean loss of the tasks learned until then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub average: Option<f64>,
    /// How far earlier tasks are above the lowest loss that they had, in the mean.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forgetting: Option<f64>,
    /// How far earlier tasks are above their loss right after they were learned, in the mean: backward transfer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backward: Option<f64>,
    /// How far tasks are above the base's loss right before they are learned, in the mean: forward transfer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forward: Option<f64>,
    /// The loss of the last task.
    pub newest: f64,
    /// Of each task: the share of what was gained on it that is left at the end.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gain_kept: Vec<f64>,
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0);
    for value in values {
        (sum, count) = (sum + value, count + 1);
    }
    (count > 0).then(|| sum / f64::from(count))
}

impl Measures {
    /// Those of a matrix whose rows are the tasks' ends; of one row, which stands for all tasks at once, what that has.
    ///
    /// # Panics
    /// If there is no row.
    pub fn of(matrix: &[Vec<f64>], base: &[f64]) -> Self {
        let tasks = base.len();
        let end = matrix.last().expect("a task was learned");
        let last = mean(end.iter().copied()).unwrap_or_default();
        let newest = end.last().copied().unwrap_or_default();
        if matrix.len() < tasks || tasks < 2 {
            return Self { last, newest, ..Self::default() };
        }
        let earlier = 0..tasks - 1;
        let lowest = |j: usize| matrix[j..].iter().map(|row| row[j]).fold(f64::INFINITY, f64::min);
        Self {
            last,
            average: mean(matrix.iter().enumerate().filter_map(|(i, row)| mean(row[..=i].iter().copied()))),
            forgetting: mean(earlier.clone().map(|j| end[j] - lowest(j))),
            backward: mean(earlier.map(|j| end[j] - matrix[j][j])),
            forward: mean((1..tasks).map(|j| matrix[j - 1][j] - base[j])),
            newest,
            gain_kept: (0..tasks).map(|j| (base[j] - end[j]) / (base[j] - matrix[j][j])).collect(),
        }
    }
}

/// The share of the way from sequential training to joint training; nothing if joint training is no better.
pub(super) fn share_of_joint(loss: f64, sequential: f64, joint: f64) -> Option<f64> {
    (joint < sequential).then(|| (sequential - loss) / (sequential - joint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_says_what_was_forgotten_and_what_helped() {
        let base = [3.0, 4.0, 5.0];
        let matrix = vec![vec![2.0, 3.5, 5.5], vec![1.5, 2.0, 5.25], vec![2.5, 3.0, 1.0]];
        let found = Measures::of(&matrix, &base);
        assert_eq!((found.last, found.newest), (6.5 / 3.0, 1.0));
        assert_eq!(found.average, Some((2.0 + 1.75 + 6.5 / 3.0) / 3.0));
        assert_eq!(found.forgetting, Some((1.0 + 1.0) / 2.0), "of the first task from the lowest it ever had");
        assert_eq!(found.backward, Some((0.5 + 1.0) / 2.0));
        assert_eq!(found.forward, Some((-0.5 + 0.25) / 2.0));
        assert_eq!(found.gain_kept, [0.5, 0.5, 1.0]);
        let joint = Measures::of(&[vec![1.0, 2.0, 3.0]], &base);
        assert_eq!((joint.last, joint.forgetting, joint.average), (2.0, None, None));
        assert_eq!((share_of_joint(2.5, 3.0, 2.0), share_of_joint(2.5, 2.0, 2.1)), (Some(0.5), None));
    }
}
