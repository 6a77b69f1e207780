//! Two experts as one distribution: what LAE (arXiv 2303.10070) and its kin make of the predictions of an online and an
//! offline module. Arithmetic is float64, over logits as they come from the head.

use serde::{Deserialize, Serialize};

/// How two experts predict together, or which of them does alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ensemble {
    /// A mixture whose weights are the probabilities that each expert wrote the sequence so far: never more than ln 2 a
    /// sequence worse than the better expert.
    #[default]
    Posterior,
    /// The larger of both probabilities, divided by their sum: LAE's own rule made a distribution.
    Max,
    /// The mean of both probabilities.
    Mean,
    /// The root of their product, divided by the sum: the mean of the logits.
    Geometric,
    /// The module that learns the new task.
    Online,
    /// The module that accumulates what was learned.
    Offline,
}

impl Ensemble {
    /// Its word in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Posterior => "posterior",
            Self::Max => "max",
            Self::Mean => "mean",
            Self::Geometric => "geometric",
            Self::Online => "online",
            Self::Offline => "offline",
        }
    }

    /// All.
    pub const ALL: [Self; 6] = [Self::Online, Self::Offline, Self::Max, Self::Mean, Self::Geometric, Self::Posterior];
}

/// Which of the experts wrote a sequence, by what was read of it: Bayes' rule from even odds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Posterior {
    /// The logarithm of the odds in favour of the online expert.
    odds: f64,
}

impl Posterior {
    /// The probability that it was the online expert.
    pub fn online(self) -> f64 {
        1.0 / (1.0 + (-self.odds).exp())
    }

    /// The logarithms of both probabilities, accurate however small one is.
    fn log_weights(self) -> [f64; 2] {
        // -ln(1 + e^x)
        let log = |x: f64| -(x.max(0.0) + (-x.abs()).exp().ln_1p());
        [log(-self.odds), log(self.odds)]
    }

    /// The log-probability of the token to which the experts give these.
    pub fn mix(self, [online, offline]: [f64; 2]) -> f64 {
        let [a, b] = self.log_weights();
        add_logs(a + online, b + offline)
    }

    /// The token to which the experts gave these log-probabilities was read.
    pub fn see(&mut self, [online, offline]: [f64; 2]) {
        let odds = self.odds + online - offline;
        // A token that both thought impossible says nothing.
        if !odds.is_nan() {
            self.odds = odds;
        }
    }
}

/// `ln(e^a + e^b)`
fn add_logs(a: f64, b: f64) -> f64 {
    let (most, least) = (a.max(b), a.min(b));
    if most == f64::NEG_INFINITY { most } else { most + (least - most).exp().ln_1p() }
}

/// `ln sum e^x`
fn log_sum(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let most = values.clone().fold(f64::NEG_INFINITY, f64::max);
    if most == f64::NEG_INFINITY { most } else { most + values.map(|x| (x - most).exp()).sum::<f64>().ln() }
}

/// The log-probability of a token by these logits.
pub(super) fn log_probability(logits: &[f32], token: u32) -> f64 {
    f64::from(logits[token as usize]) - log_sum(logits.iter().map(|&x| f64::from(x)))
}

/// What both experts say of the next token: their logits, one for each token of the vocabulary.
#[derive(Clone, Copy, Debug)]
pub struct ExpertLogits<'a> {
    logits: [&'a [f32]; 2],
    /// The logarithms of the sums of their exponentials.
    norms: [f64; 2],
}

/// The log-probabilities of one token, by the experts and by those ensembles that depend on the other tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TokenScore {
    /// By the online and the offline expert.
    pub experts: [f64; 2],
    /// By [`Ensemble::Max`].
    pub max: f64,
    /// By [`Ensemble::Geometric`].
    pub geometric: f64,
}

impl<'a> ExpertLogits<'a> {
    /// The logits of the online and the offline expert.
    ///
    /// # Panics
    /// If they are not equally many.
    pub fn new(logits: [&'a [f32]; 2]) -> Self {
        assert_eq!(logits[0].len(), logits[1].len(), "two experts on one vocabulary");
        Self { logits, norms: logits.map(|logits| log_sum(logits.iter().map(|&x| f64::from(x)))) }
    }

    /// The log-probabilities that the experts give a token.
    pub fn of(&self, token: usize) -> [f64; 2] {
        [0, 1].map(|expert| f64::from(self.logits[expert][token]) - self.norms[expert])
    }

    fn all(&self) -> impl Iterator<Item = [f64; 2]> + Clone + '_ {
        (0..self.logits[0].len()).map(|token| self.of(token))
    }

    /// What the greater of the probabilities are divided by.
    fn max_norm(&self) -> f64 {
        log_sum(self.all().map(|[a, b]| a.max(b)))
    }

    /// What the roots of their products are divided by.
    fn geometric_norm(&self) -> f64 {
        log_sum(self.all().map(|[a, b]| 0.5 * (a + b)))
    }

    /// The log-probabilities of a token.
    pub fn score(&self, token: usize) -> TokenScore {
        let [a, b] = self.of(token);
        TokenScore {
            experts: [a, b],
            max: a.max(b) - self.max_norm(),
            geometric: 0.5 * (a + b) - self.geometric_norm(),
        }
    }

    /// The log-probabilities of all tokens by an ensemble, after what the posterior has seen.
    pub fn log_probabilities(&self, ensemble: Ensemble, seen: Posterior, out: &mut [f32]) {
        let norm = match ensemble {
            Ensemble::Max => self.max_norm(),
            Ensemble::Geometric => self.geometric_norm(),
            _ => 0.0,
        };
        for (out, [a, b]) in out.iter_mut().zip(self.all()) {
            let log = match ensemble {
                Ensemble::Online => a,
                Ensemble::Offline => b,
                Ensemble::Max => a.max(b) - norm,
                Ensemble::Geometric => 0.5 * (a + b) - norm,
                Ensemble::Mean => Posterior::default().mix([a, b]),
                Ensemble::Posterior => seen.mix([a, b]),
            };
            *out = log as f32;
        }
    }
}

/// Sums of the losses of some tokens in nats, by every ensemble.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EnsembleLosses {
    sums: [f64; Ensemble::ALL.len()],
    /// Tokens.
    pub targets: u64,
}

impl EnsembleLosses {
    /// The sum of an ensemble's.
    pub fn sum(&self, ensemble: Ensemble) -> f64 {
        self.sums[ensemble as usize]
    }

    /// Their mean; 0 without tokens.
    pub fn mean(&self, ensemble: Ensemble) -> f64 {
        self.sum(ensemble) / self.targets.max(1) as f64
    }

    /// Takes a token of a sequence into account; the posterior has seen those before it, and sees it.
    pub fn add(&mut self, score: &TokenScore, seen: &mut Posterior) {
        for ensemble in Ensemble::ALL {
            self.sums[ensemble as usize] -= match ensemble {
                Ensemble::Online => score.experts[0],
                Ensemble::Offline => score.experts[1],
                Ensemble::Max => score.max,
                Ensemble::Geometric => score.geometric,
                Ensemble::Mean => Posterior::default().mix(score.experts),
                Ensemble::Posterior => seen.mix(score.experts),
            };
        }
        self.targets += 1;
        seen.see(score.experts);
    }

    /// Takes in what was counted elsewhere.
    pub fn merge(&mut self, other: &Self) {
        self.sums.iter_mut().zip(other.sums).for_each(|(sum, more)| *sum += more);
        self.targets += other.targets;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sequence that the first expert knows better, and one token on which they disagree beyond any number's range.
    fn sequence() -> Vec<[f64; 2]> {
        (0..200).map(|i| if i == 150 { [-800.0, -2.0] } else { [-1.0, -1.5 - f64::from(i % 3)] }).collect()
    }

    #[test]
    fn a_posterior_is_at_most_ln_2_a_sequence_worse_than_the_better_expert() {
        for tokens in [sequence(), sequence()[..150].to_vec(), sequence()[150..].to_vec()] {
            let (mut seen, mut mixed) = (Posterior::default(), 0.0);
            for &token in &tokens {
                mixed += seen.mix(token);
                seen.see(token);
            }
            let better = [0, 1].map(|expert| tokens.iter().map(|token| token[expert]).sum::<f64>());
            let better = better[0].max(better[1]);
            assert!(mixed >= better - std::f64::consts::LN_2 - 1e-9, "{mixed} and {better}");
            assert!(mixed <= better + 1e-9, "of a mixture of two, no sequence is likelier than by the better");
        }
    }

    #[test]
    fn every_ensemble_is_a_distribution_and_experts_that_agree_are_all_of_them() {
        let a: Vec<f32> = (0..50).map(|i| ((i * 37) % 11) as f32 - 5.0).collect();
        let b: Vec<f32> = (0..50).map(|i| ((i * 13) % 7) as f32).collect();
        let mut seen = Posterior::default();
        seen.see([-1.0, -2.5]);
        for (experts, agree) in [([&a, &b], false), ([&a, &a], true)] {
            let both = ExpertLogits::new(experts.map(Vec::as_slice));
            for ensemble in Ensemble::ALL {
                let mut out = vec![0.0; 50];
                both.log_probabilities(ensemble, seen, &mut out);
                let sum: f64 = out.iter().map(|&x| f64::from(x).exp()).sum();
                assert!((sum - 1.0).abs() < 1e-6, "{ensemble:?}: {sum}");
                assert!(!agree || (f64::from(out[7]) - both.of(7)[0]).abs() < 1e-6, "{ensemble:?}");
            }
        }
    }
}
