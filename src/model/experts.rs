//! A model with two experts, the online and the offline module of an adapter: both score a batch in one pass over the base,
//! as the two halves of its rows.

use super::{
    AdapterRows, AdapterUse, Batch, EnsembleLosses, ExpertLogits, Model, Params, Posterior, Settings, TokenScore,
};
use crate::backend::{Backend, IGNORE};
use crate::memory::Span;
use crate::quant::bf16_to_f32;
use rayon::prelude::*;

impl Settings {
    /// How many write a text: two if there are two experts, each for half of a batch's rows.
    pub(super) fn writers(&self) -> usize {
        let part = |used: &AdapterUse| matches!(used.rows, AdapterRows::Part { .. });
        if self.adapters.iter().any(part) { 2 } else { 1 }
    }
}

impl Model {
    /// Whether it was placed with two experts, each for half of a batch's rows.
    pub fn has_experts(&self) -> bool {
        self.settings.writers() == 2
    }

    /// The same model with one of its experts, 0 the online one, for all rows.
    pub fn expert(&self, expert: usize) -> Self {
        let mut settings = self.settings.clone();
        for used in &mut settings.adapters {
            if let AdapterRows::Part { index, .. } = used.rows {
                used.rows = if index == expert { AdapterRows::All } else { AdapterRows::None };
            }
        }
        let params = Params::arrange(&settings, &self.specs, self.params.all().copied().collect());
        Self { settings, params, ..self.clone() }
    }

    /// The losses of sequences by both experts and every ensemble of them, without training. `inputs` and `targets` are
    /// `[T]`, for half as many sequences as were planned for; `segment_start` as in [`Model::upload_segments`]. The
    /// posterior starts anew with every sequence and with every sample of a row; it also reads the tokens that are no
    /// targets.
    ///
    /// # Panics
    /// If the slices are not as long as the batch, twice that exceeds what was planned, or there are no two experts.
    pub fn evaluate_experts(
        &self,
        backend: &mut dyn Backend,
        batch: Batch,
        inputs: &[u32],
        targets: &[u32],
        segment_start: &[u32],
    ) -> EnsembleLosses {
        let scores = self.score_experts(backend, batch, inputs, targets, segment_start);
        let (mut losses, mut seen) = (EnsembleLosses::default(), Posterior::default());
        for (i, score) in scores.iter().enumerate() {
            let starts = segment_start.get(i).map_or(0, |&start| start as usize);
            if i % batch.queries == starts {
                seen = Posterior::default();
            }
            match targets[i] {
                IGNORE => seen.see(score.experts),
                _ => losses.add(score, &mut seen),
            }
        }
        losses
    }

    /// The same token by token: of what follows each, its target, or if that does not count the next input of the same
    /// segment; 0 where nothing follows.
    ///
    /// # Panics
    /// As [`Model::evaluate_experts`].
    pub fn score_experts(
        &self,
        backend: &mut dyn Backend,
        batch: Batch,
        inputs: &[u32],
        targets: &[u32],
        segment_start: &[u32],
    ) -> Vec<TokenScore> {
        let tokens = batch.tokens();
        assert!([inputs.len(), targets.len()] == [tokens; 2], "one target per input");
        assert!(self.has_experts(), "placed with two experts");
        let twice = |half: &[u32]| [half, half].concat();
        self.upload_tokens(backend, &twice(inputs), &twice(targets));
        self.upload_segments(backend, &twice(segment_start));
        let both = Batch { sequences: 2 * batch.sequences, ..batch };
        self.forward(backend, both);
        let next = next_tokens(batch.queries, inputs, targets, segment_start);
        let vocab = self.settings.model.vocab;
        let [mut online, mut offline] = [(); 2].map(|()| vec![0.0; self.acts.chunk.min(tokens) * vocab]);
        let mut scores = Vec::with_capacity(tokens);
        for (from, count) in self.chunks(tokens) {
            for (expert, logits) in [&mut online, &mut offline].into_iter().enumerate() {
                let span = self.logits(backend, both, (expert * tokens + from, count));
                self.fetch_logits(backend, span, &mut logits[..count * vocab]);
            }
            let rows = online.par_chunks(vocab).zip(offline.par_chunks(vocab)).zip(&next[from..][..count]);
            let score = |((online, offline), next): ((&[f32], &[f32]), &Option<u32>)| match next {
                Some(next) => ExpertLogits::new([online, offline]).score(*next as usize),
                None => TokenScore::default(),
            };
            scores.par_extend(rows.map(score));
        }
        scores
    }

    /// Copies logits, rows of the vocabulary's length, to this machine.
    ///
    /// # Panics
    /// If `out` is no whole number of rows.
    pub(super) fn fetch_logits(&self, backend: &dyn Backend, logits: Span, out: &mut [f32]) {
        let (vocab, bytes) = (self.settings.model.vocab, self.acts.activation_bytes);
        let pitch = vocab.next_multiple_of(self.acts.row_multiple) * bytes;
        assert_eq!(out.len() % vocab, 0, "whole rows");
        let mut raw = vec![0; out.len() / vocab * pitch];
        backend.download(logits.head(raw.len()), &mut raw);
        for (row, out) in raw.chunks_exact(pitch).zip(out.chunks_exact_mut(vocab)) {
            for (logit, bytes) in out.iter_mut().zip(row.chunks_exact(bytes)) {
                *logit = match *bytes {
                    [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
                    [a, b] => bf16_to_f32(u16::from_le_bytes([a, b])),
                    _ => unreachable!("activations have four or two bytes"),
                };
            }
        }
    }
}

/// What follows each token: its target, or if that does not count the next input of the same segment.
fn next_tokens(queries: usize, inputs: &[u32], targets: &[u32], segment_start: &[u32]) -> Vec<Option<u32>> {
    let next = |(i, &target): (usize, &u32)| {
        let inside = (i + 1) % queries != 0 && segment_start.get(i) == segment_start.get(i + 1);
        match target {
            IGNORE => inside.then(|| inputs[i + 1]),
            target => Some(target),
        }
    };
    targets.iter().enumerate().map(next).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_a_token_is_its_target_or_the_next_of_its_segment() {
        let inputs = [1, 2, 3, 4, 5, 6, 7, 8];
        let targets = [IGNORE, 3, 4, IGNORE, IGNORE, 7, IGNORE, IGNORE];
        let whole = next_tokens(4, &inputs, &targets, &[]);
        assert_eq!(whole, [Some(2), Some(3), Some(4), None, Some(6), Some(7), Some(8), None]);
        let segments = next_tokens(4, &inputs, &targets, &[0, 0, 0, 0, 0, 0, 0, 3]);
        assert_eq!(segments, [Some(2), Some(3), Some(4), None, Some(6), Some(7), None, None]);
    }
}
