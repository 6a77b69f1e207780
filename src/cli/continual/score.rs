//! The losses of a model on every task's held-out text, by both experts and their ensembles.

use super::setup::Held;
use crate::cli::Failure;
use crate::cli::device::Device;
use crate::cli::held_out::mean_loss;
use crate::cli::output::write_file;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use tetrad::checkpoint::Adapted;
use tetrad::model::Ensemble;

/// Mean losses in nats per token, by what predicts; of a model without a second expert by `online` alone.
pub(super) type Losses = BTreeMap<String, f64>;

/// What a model scores.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Scores {
    /// On the tasks, in their order.
    pub tasks: Vec<Losses>,
    /// The shares of a task's questions that are answered rightly, of those that have some.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accuracy: Vec<Option<Losses>>,
    /// On the base's own text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Losses>,
}

impl Scores {
    /// Those that were found before; nothing if there are none for so many tasks.
    pub fn read(path: &Path, tasks: usize, base: bool) -> Option<Self> {
        let found: Self = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        (found.tasks.len() == tasks && found.base.is_some() == base).then_some(found)
    }

    /// Keeps them.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), Failure> {
        let text = serde_json::to_vec_pretty(self)?;
        Ok(write_file(path, &text)?)
    }
}

/// The loss by one of the ways to predict, or by the only one there is.
pub(super) fn by(losses: &Losses, ensemble: Ensemble) -> f64 {
    let online = || losses.get(Ensemble::Online.name());
    losses.get(ensemble.name()).or_else(online).copied().unwrap_or(f64::NAN)
}

/// What predicts where a model has two experts or one.
pub(super) fn ways(experts: bool) -> &'static [Ensemble] {
    if experts { &Ensemble::ALL } else { &[Ensemble::Online] }
}

/// The shares of `count` questions that each way answered rightly.
pub(super) fn shares(ways: &[Ensemble], hits: Vec<u64>, count: usize) -> Losses {
    let share = |hits: u64| hits as f64 / count.max(1) as f64;
    ways.iter().zip(hits).map(|(way, hits)| (way.name().to_owned(), share(hits))).collect()
}

/// Scores texts in windows of `sequence` tokens.
///
/// # Errors
/// A device that cannot be used or fails.
pub(super) fn losses(
    model: &Adapted<'_>,
    texts: &[&Held],
    sequence: usize,
    device: Device,
) -> Result<Vec<Losses>, Failure> {
    let score = |text: &&Held| -> Result<Losses, Failure> {
        let all: Vec<usize> = (0..text.windows.len()).collect();
        let found = mean_loss(model, (&text.windows, &all), (sequence, text.packing), device)?;
        Ok(match found.both {
            Some(both) => Ensemble::ALL.map(|by| (by.name().to_owned(), both.mean(by))).into(),
            None => [(Ensemble::Online.name().to_owned(), found.loss)].into(),
        })
    };
    texts.iter().map(score).collect()
}
