//! Whether a model would write the very answers that are expected. A token that is drawn greedily depends on those before it
//! alone, so an answer is written word for word exactly if each of its tokens is the likeliest one after the right ones before
//! it: all of a batch are scored at once, and nothing is written.

use super::{Batch, Ensemble, ExpertLogits, Model, Posterior};
use crate::backend::{Backend, IGNORE};
use rayon::prelude::*;

/// Whether something holds for each ensemble, in the order of [`Ensemble::ALL`].
type Hits = [bool; Ensemble::ALL.len()];

impl Model {
    /// For each sequence whether all targets that count are what would be written greedily, by every ensemble of two experts;
    /// without them all are the same. `inputs` and `targets` are `[T]`, each row one sample.
    ///
    /// # Panics
    /// If the slices are not as long as the batch, or that (of two experts twice that) exceeds what was planned.
    pub fn writes(&self, backend: &mut dyn Backend, batch: Batch, inputs: &[u32], targets: &[u32]) -> Vec<Hits> {
        let (tokens, vocab, experts) = (batch.tokens(), self.settings.model.vocab, self.settings.writers());
        let seen = match experts {
            1 => {
                assert!([inputs.len(), targets.len()] == [tokens; 2], "one target per input");
                self.upload_tokens(backend, inputs, targets);
                self.forward(backend, batch);
                vec![Posterior::default(); tokens]
            }
            _ => self.seen_before(backend, batch, inputs, targets),
        };
        let all = Batch { sequences: experts * batch.sequences, ..batch };
        let mut logits = vec![vec![0.0; self.acts.chunk.min(tokens) * vocab]; experts];
        let mut written = vec![[true; Ensemble::ALL.len()]; batch.sequences];
        for (from, count) in self.chunks(tokens) {
            for (expert, logits) in logits.iter_mut().enumerate() {
                let span = self.logits(backend, all, (expert * tokens + from, count));
                self.fetch_logits(backend, span, &mut logits[..count * vocab]);
            }
            let row = |expert: usize, i: usize| &logits[expert][i * vocab..][..vocab];
            let of = |i: usize| match targets[from + i] {
                IGNORE => [true; Ensemble::ALL.len()],
                target if experts == 1 => [is_likeliest(row(0, i), target); Ensemble::ALL.len()],
                target => by_ensembles([row(0, i), row(1, i)], seen[from + i], target),
            };
            let hits: Vec<Hits> = (0..count).into_par_iter().map(of).collect();
            for (i, hits) in hits.into_iter().enumerate() {
                let whole = &mut written[(from + i) / batch.queries];
                whole.iter_mut().zip(hits).for_each(|(whole, hit)| *whole &= hit);
            }
        }
        written
    }

    /// What the posterior has seen of a row before each of its targets.
    fn seen_before(&self, backend: &mut dyn Backend, batch: Batch, inputs: &[u32], targets: &[u32]) -> Vec<Posterior> {
        let scores = self.score_experts(backend, batch, inputs, targets, &[]);
        let mut seen = Posterior::default();
        let before = scores.iter().enumerate().map(|(i, score)| {
            if i % batch.queries == 0 {
                seen = Posterior::default();
            }
            let before = seen;
            seen.see(score.experts);
            before
        });
        before.collect()
    }
}

fn by_ensembles(logits: [&[f32]; 2], seen: Posterior, target: u32) -> Hits {
    let (both, mut out) = (ExpertLogits::new(logits), vec![0.0; logits[0].len()]);
    Ensemble::ALL.map(|ensemble| {
        both.log_probabilities(ensemble, seen, &mut out);
        is_likeliest(&out, target)
    })
}

/// Whether a token is what sampling at a temperature of 0 takes: the likeliest, the first of equals. None is if a logit is no
/// number.
fn is_likeliest(logits: &[f32], token: u32) -> bool {
    let most = logits[token as usize];
    let beaten = |(id, &other): (usize, &f32)| if id < token as usize { other < most } else { other <= most };
    logits.iter().enumerate().all(beaten)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equals_is_taken_and_none_where_a_logit_is_no_number() {
        let logits = [1.0, 5.0, 5.0, -0.0];
        assert!(is_likeliest(&logits, 1) && !is_likeliest(&logits, 2) && !is_likeliest(&logits, 0));
        assert!(is_likeliest(&[-0.0, 0.0], 0));
        assert!((0..3).all(|token| !is_likeliest(&[1.0, f32::NAN, 2.0], token)));
    }
}
