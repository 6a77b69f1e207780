//! Sampling: tokens in, one token out, with keys and values cached.

use super::ensemble::log_probability;
use super::{Activations, Batch, Ensemble, ExpertLogits, Model, Posterior, Purpose};
use crate::backend::Backend;
use crate::quant::{RngKey, RngUse};
use zerocopy::IntoBytes;

/// How the next token is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// 0: always the most likely token (the lowest id among equals).
    pub temperature: f64,
    /// Only the `top_k` most likely tokens; 0: all.
    pub top_k: usize,
    /// Only the most likely tokens that together reach this probability.
    pub top_p: f64,
    /// Only tokens that are at least this many times as likely as the most likely one; 0: all.
    pub min_p: f64,
    /// Logits of tokens that the text has already are divided by this if they are positive, multiplied if they are not
    /// (arXiv 1909.05858); 1: nothing.
    pub repetition_penalty: f64,
    /// Seed.
    pub seed: u64,
}

impl Default for Sampling {
    /// The model's own distribution.
    fn default() -> Self {
        Self { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0, seed: 1 }
    }
}

/// A text in the making. One generator at a time may use a model's caches, which share their memory with steps and
/// evaluations: a text ends where one of those begins.
pub struct Generator {
    /// The model, or its two experts.
    writers: Vec<Writer>,
    ensemble: Ensemble,
    /// What the posterior knows after each token of the text.
    seen: Vec<Posterior>,
    /// Tokens drawn so far: the counter of the random numbers.
    drawn: u32,
    /// Of what comes next; log-probabilities if there are two experts.
    logits: Vec<f32>,
    /// Whether the writers' logits are of a text that was gone back from.
    stale: bool,
}

impl Generator {
    /// An empty text, of a model with two experts by their posterior.
    ///
    /// # Panics
    /// If the model was placed for no text: `execution.sampled` was 0.
    pub fn new(model: &Model) -> Self {
        Self::by(model, Ensemble::default())
    }

    /// The same by an ensemble of the experts, if the model has two. Each has caches of its own, and reads the base by
    /// itself.
    ///
    /// # Panics
    /// As [`Generator::new`].
    pub fn by(model: &Model, ensemble: Ensemble) -> Self {
        let writers: Vec<_> = match model.has_experts() {
            true => (0..2).map(|expert| Writer::new(&model.expert(expert), expert)).collect(),
            false => vec![Writer::new(model, 0)],
        };
        let logits = vec![0.0; model.settings.model.vocab];
        Self { writers, ensemble, seen: Vec::new(), drawn: 0, logits, stale: false }
    }

    /// Appends tokens and gives the logits of what comes next, which are log-probabilities if two experts write. When the
    /// caches are full, the older half of the text is forgotten.
    ///
    /// # Panics
    /// If `tokens` is empty.
    pub fn feed(&mut self, backend: &mut dyn Backend, tokens: &[u32]) -> &[f32] {
        assert!(!tokens.is_empty(), "logits follow from at least one token");
        if let [writer] = self.writers.as_mut_slice() {
            writer.feed(backend, tokens, None);
            self.logits.copy_from_slice(&writer.logits);
            return &self.logits;
        }
        let known = !self.writers[0].history.is_empty();
        if std::mem::take(&mut self.stale) {
            self.writers.iter_mut().for_each(|writer| writer.read_last(backend));
        }
        let mut read = Vec::new();
        for writer in &mut self.writers {
            let mut logs = Vec::with_capacity(tokens.len());
            if known {
                logs.push(log_probability(&writer.logits, tokens[0]));
            }
            // What a full cache makes it read again was seen before.
            let mut told = tokens[1..].iter();
            let again = writer.again(tokens.len());
            let mut passed = 0;
            writer.feed(
                backend,
                tokens,
                Some(&mut |logits| {
                    passed += 1;
                    if passed > again
                        && let Some(&next) = told.next()
                    {
                        logs.push(log_probability(logits, next));
                    }
                }),
            );
            read.push(logs);
        }
        let mut seen = self.seen.last().copied().unwrap_or_default();
        // Nothing predicts the first token of a text.
        self.seen.resize(self.seen.len() + usize::from(!known), seen);
        for (&online, &offline) in read[0].iter().zip(&read[1]) {
            seen.see([online, offline]);
            self.seen.push(seen);
        }
        let forgotten = self.seen.len() - self.writers[0].history.len().min(self.seen.len());
        self.seen.drain(..forgotten);
        let both = ExpertLogits::new([&self.writers[0].logits, &self.writers[1].logits]);
        both.log_probabilities(self.ensemble, seen, &mut self.logits);
        &self.logits
    }

    /// The tokens so far, those aside that were forgotten.
    pub fn history(&self) -> &[u32] {
        &self.writers[0].history
    }

    /// Goes back to the first `len` tokens of the text; what follows them is fed next.
    ///
    /// # Panics
    /// If the text is shorter.
    pub fn rewind(&mut self, len: usize) {
        let known = self.history().len();
        assert!(len <= known, "{len} tokens of {known}");
        self.stale |= len < known;
        self.writers.iter_mut().for_each(|writer| writer.history.truncate(len));
        self.seen.truncate(len);
    }

    /// Draws the token that follows what was fed last; nothing if a logit is not a number, as those of damaged or
    /// diverged weights are.
    pub fn sample(&mut self, sampling: &Sampling) -> Option<u32> {
        if self.logits.iter().any(|logit| logit.is_nan()) {
            return None;
        }
        let key = RngKey { seed: sampling.seed, step: self.drawn, tensor: 0, usage: RngUse::Sample };
        self.drawn += 1;
        let u = f64::from(key.words(0)[0]) / 4_294_967_296.0;
        if sampling.repetition_penalty != 1.0 {
            penalize(&mut self.logits, &self.writers[0].history, sampling.repetition_penalty as f32);
        }
        Some(choose(&self.logits, sampling, u))
    }
}

/// Is shown the logits after every token.
type Shown<'a> = &'a mut dyn FnMut(&[f32]);

/// What keeps the text of one model or expert in its caches.
struct Writer {
    /// With the activations of sampling.
    model: Model,
    /// Tokens whose keys and values are cached.
    history: Vec<u32>,
    logits: Vec<f32>,
}

impl Writer {
    /// One that uses the caches of this number.
    fn new(model: &Model, caches: usize) -> Self {
        let acts = Activations::clone(model.sampling.get(caches).expect("a model that was placed for sampling"));
        let logits = vec![0.0; model.settings.model.vocab];
        Self { model: Model { acts, ..model.clone() }, history: Vec::new(), logits }
    }

    /// Positions that the caches hold.
    fn capacity(&self) -> usize {
        self.model.acts.positions
    }

    /// How many tokens before `count` new ones are read once more, since the caches are full; of the new ones fewer may be
    /// read then.
    fn again(&self, count: usize) -> usize {
        match self.history.len() + count > self.capacity() {
            true => (self.capacity() / 2).max(1).saturating_sub(count),
            false => 0,
        }
    }

    /// Finds the logits that follow the text, whose end was another.
    fn read_last(&mut self, backend: &mut dyn Backend) {
        if let Some(last) = self.history.pop() {
            self.feed(backend, &[last], None);
        }
    }

    /// Appends tokens; `each` is shown the logits after every token that is read, else those after the last are computed.
    fn feed(&mut self, backend: &mut dyn Backend, tokens: &[u32], mut each: Option<Shown<'_>>) {
        let mut pending = tokens.to_vec();
        if self.history.len() + pending.len() > self.capacity() {
            let mut all = std::mem::take(&mut self.history);
            all.append(&mut pending);
            pending = all.split_off(all.len() - (self.capacity() / 2).clamp(1, all.len()));
        }
        for part in pending.chunks(self.model.acts.micro_tokens) {
            let start = self.history.len();
            let batch = Batch { start, purpose: Purpose::Sample, ..Batch::whole(1, part.len()) };
            backend.upload(part.as_bytes(), self.model.acts.inputs.head(4 * part.len()));
            self.model.forward(backend, batch);
            self.history.extend_from_slice(part);
            let first = if each.is_some() { 0 } else { part.len() - 1 };
            for token in first..part.len() {
                let logits = self.model.logits(backend, batch, (token, 1));
                self.model.fetch_logits(backend, logits, &mut self.logits);
                if let Some(each) = &mut each {
                    each(&self.logits);
                }
            }
        }
    }
}

/// Makes tokens of the text less likely, each once however often it occurs.
fn penalize(logits: &mut [f32], text: &[u32], penalty: f32) {
    let mut seen = text.to_vec();
    seen.sort_unstable();
    seen.dedup();
    for id in seen {
        let logit = &mut logits[id as usize];
        *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
    }
}

/// The token that `u` in [0, 1) selects; no logit is NaN.
fn choose(logits: &[f32], sampling: &Sampling, u: f64) -> u32 {
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    // The sum makes -0 a 0, which is its equal.
    let at = |id: u32| logits[id as usize] + 0.0;
    // The most likely first, equals in the order of their ids.
    let by_rank = |a: &u32, b: &u32| at(*b).total_cmp(&at(*a)).then(a.cmp(b));
    if sampling.temperature <= 0.0 {
        return order.into_iter().min_by(by_rank).expect("a vocabulary is not empty");
    }
    // A sort of some tens of thousands takes a tenth of a small model's step.
    if (1..order.len()).contains(&sampling.top_k) {
        order.select_nth_unstable_by(sampling.top_k - 1, by_rank);
        order.truncate(sampling.top_k);
    }
    order.sort_unstable_by(by_rank);
    let most = f64::from(at(order[0]));
    let mut weights: Vec<f64> =
        order.iter().map(|&id| ((f64::from(at(id)) - most) / sampling.temperature).exp()).collect();
    let total: f64 = weights.iter().sum();
    let mut sum = 0.0;
    let kept = weights.iter().take_while(|&&w| {
        // The most likely token has the weight 1.
        let take = sum < sampling.top_p * total && w >= sampling.min_p;
        sum += w;
        take
    });
    let kept = kept.count().max(1);
    weights.truncate(kept);
    let mut left = u * weights.iter().sum::<f64>();
    for (&id, weight) in order.iter().zip(&weights) {
        if left < *weight {
            return id;
        }
        left -= weight;
    }
    order[kept - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Sampling =
        Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0, seed: 0 };

    #[test]
    fn samples_follow_the_probabilities() {
        let logits = [0.0, 3f32.ln(), f32::NEG_INFINITY];
        // Between the thousandths, so that the last bit of a logarithm decides nothing.
        let ones = (0..1000).filter(|&i| choose(&logits, &PLAIN, (f64::from(i) + 0.5) / 1000.0) == 1).count();
        assert_eq!(ones, 750);
    }

    #[test]
    fn zero_temperature_takes_the_first_of_equals() {
        assert_eq!(choose(&[1.0, 5.0, 5.0], &Sampling { temperature: 0.0, ..PLAIN }, 0.9), 1);
        assert_eq!(choose(&[-1.0, -0.0, 0.0], &Sampling { temperature: 0.0, ..PLAIN }, 0.9), 1);
    }

    #[test]
    fn top_k_and_top_p_cut_the_tail() {
        let logits = [0.0, 1.0, 2.0, 3.0];
        for i in 0..100 {
            let u = f64::from(i) / 100.0;
            assert!(choose(&logits, &Sampling { top_k: 2, ..PLAIN }, u) >= 2);
            // The most likely token alone has 64 %.
            assert_eq!(choose(&logits, &Sampling { top_p: 0.6, ..PLAIN }, u), 3);
        }
    }
    #[test]
    fn min_p_drops_what_is_far_less_likely_than_the_most_likely() {
        // Probabilities 0.6, 0.3, 0.06, 0.04.
        let logits = [0.6f32, 0.3, 0.06, 0.04].map(f32::ln);
        for i in 0..100 {
            let u = f64::from(i) / 100.0;
            assert!(choose(&logits, &Sampling { min_p: 0.2, ..PLAIN }, u) <= 1);
            assert_eq!(choose(&logits, &Sampling { min_p: 1.0, ..PLAIN }, u), 0);
        }
        assert_eq!(choose(&logits, &PLAIN, 0.97), 3);
    }

    #[test]
    fn the_penalty_makes_tokens_of_the_text_less_likely_whatever_their_sign() {
        let mut logits = [2.0, -2.0, 1.0, 0.0];
        penalize(&mut logits, &[1, 0, 1, 3], 2.0);
        assert_eq!(logits, [1.0, -4.0, 1.0, 0.0]);
    }
}
