//! Tasks whose answers are written freely: the share of them that a model would write word for word.

use super::score::{Losses, shares, ways};
use super::setup::Held;
use crate::cli::Failure;
use crate::cli::device::{self, Device};
use tetrad::backend::IGNORE;
use tetrad::checkpoint::{Adapted, Capacity};
use tetrad::data::Windows;
use tetrad::model::Batch;

/// Prompts with their right answers, a row for each.
pub(super) struct Answers(Windows);

impl Answers {
    /// Of held-out samples, a row for each.
    ///
    /// # Errors
    /// If some were too long for a row, or have no prompt.
    pub fn new(held: Held, sequence: usize) -> Result<Self, Failure> {
        let (mut inputs, mut targets) = (vec![0; sequence], vec![0; sequence]);
        for row in 0..held.windows.len() {
            held.windows.fill(row, &mut inputs, &mut targets);
            if targets[0] != IGNORE || targets.iter().all(|&target| target == IGNORE) {
                return Err(format!(
                    "continual.task.exact: row {} of the held-out text has no prompt before its answer, or one of a single \
                     token; write lines of {{\"prompt\": ..., \"completion\": ...}}",
                    row + 1
                )
                .into());
            }
        }
        let cut = held.truncated();
        if cut > 0 {
            return Err(format!(
                "continual.task.exact: {cut} samples are longer than a row of {sequence} tokens; raise train.sequence"
            )
            .into());
        }
        Ok(Self(held.windows))
    }

    /// The shares of the answers that are written word for word, by what predicts; `rows` of them are scored at once.
    ///
    /// # Errors
    /// A device that cannot be used or fails.
    pub fn accuracy(
        &self,
        model: &Adapted<'_>,
        (rows, sequence): (usize, usize),
        device: Device,
    ) -> Result<Losses, Failure> {
        let capacity = Capacity { tokens: rows * sequence, keys: sequence, sampling: false, packing: false };
        let mut opened = device::open_for(device, model, capacity)?;
        let backend = opened.backend.as_mut();
        let model = model.open(backend, capacity)?;
        let ways = ways(model.has_experts());
        let mut hits = vec![0u64; ways.len()];
        let (mut inputs, mut targets) = (vec![0; rows * sequence], vec![0; rows * sequence]);
        for first in (0..self.0.len()).step_by(rows) {
            let count = rows.min(self.0.len() - first);
            let [inputs, targets] = [&mut inputs, &mut targets].map(|tokens| &mut tokens[..count * sequence]);
            self.0.fill(first, inputs, targets);
            let written = model.writes(backend, Batch::whole(count, sequence), inputs, targets);
            for written in written {
                hits.iter_mut().zip(written).for_each(|(hits, written)| *hits += u64::from(written));
            }
            backend.status()?;
        }
        Ok(shares(ways, hits, self.0.len()))
    }
}
