//! What Stable-SPAM made of the gradients of a step, told from its moving averages before and after.

use super::sample::median;
use crate::backend::adam::{AdamArgs, SCALARS, Scalars, state};
use crate::memory::Span;
use crate::optim::{AdamStepInfo, Rule};
use crate::train::Trainer;
use std::ops::Range;
use zerocopy::IntoBytes;

/// The averages of all tensors; none with another rule.
pub(super) struct Averages {
    /// Where they lie, those of a rank together.
    spans: Vec<Span>,
    /// Their bytes, and which of them are of each rank.
    planes: Vec<[f32; SCALARS]>,
    parts: Vec<Range<usize>>,
    before: Vec<Scalars>,
    after: Vec<Scalars>,
    /// Room for the factors.
    factors: Vec<f32>,
}

/// What was found over all tensors.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Adapted {
    /// Median of AdaGN's factors.
    pub factor: Option<f64>,
    /// Share of the tensors whose largest elements AdaClip cut.
    pub clipped: Option<f64>,
}

impl Averages {
    pub fn of(trainer: &Trainer) -> Self {
        let adaptive = trainer.config().optimizer.name == Rule::StableSpam;
        let model = trainer.model();
        let params = model.specs.iter().zip(&model.stored).filter(|_| adaptive);
        let owned = params.filter_map(|(spec, param)| Some((spec.owner, param.state.get(state::SCALARS)?.data)));
        let mut owned: Vec<(usize, Span)> = owned.collect();
        owned.sort_by_key(|(owner, _)| *owner);
        let first = |rank| owned.partition_point(|(owner, _)| *owner < rank) * SCALARS * size_of::<f32>();
        let parts = (0..trainer.ranks().size()).map(|rank| first(rank)..first(rank + 1)).collect();
        let spans: Vec<Span> = owned.into_iter().map(|(_, span)| span).collect();
        let none = vec![Scalars::default(); spans.len()];
        let (planes, factors) = (vec![[0.0; SCALARS]; spans.len()], Vec::with_capacity(spans.len()));
        Self { before: none.clone(), after: none, factors, planes, parts, spans }
    }

    /// Before a step that is audited.
    pub fn before(&mut self, trainer: &mut Trainer) {
        self.read(trainer);
        self.planes.iter().zip(&mut self.before).for_each(|(plane, scalars)| *scalars = Scalars::load(plane));
    }

    /// Reads those of all ranks.
    fn read(&mut self, trainer: &mut Trainer) {
        for (span, plane) in self.spans.iter().zip(&mut self.planes).filter(|(span, _)| !span.is_away()) {
            trainer.backend().download(*span, plane.as_mut_bytes());
        }
        trainer.team().complete(self.planes.as_mut_bytes(), &self.parts);
    }

    /// After it; `number`, that of the optimizer, and `lr` are its own.
    pub fn after(&mut self, trainer: &mut Trainer, number: u64, lr: f64) -> Adapted {
        self.read(trainer);
        self.planes.iter().zip(&mut self.after).for_each(|(plane, scalars)| *scalars = Scalars::load(plane));
        let config = trainer.config();
        let step = AdamStepInfo::new(&config.optimizer, number, lr, config.storage.feedback, config.run.seed);
        let args = step.args(false);
        self.factors.clear();
        let mut clipped = 0;
        for (before, after) in self.before.iter().zip(&self.after) {
            if let Some((factor, cut)) = adapted(&args, before, after) {
                self.factors.push(factor);
                clipped += usize::from(cut);
            }
        }
        let count = self.factors.len();
        Adapted { factor: median(&mut self.factors), clipped: (count > 0).then(|| clipped as f64 / count as f64) }
    }
}

/// The factor of one tensor, and whether elements of it were clipped; nothing if the step left it out. The gradient's norm and
/// largest magnitude are what the averages took in.
fn adapted(args: &AdamArgs, before: &Scalars, after: &Scalars) -> Option<(f32, bool)> {
    if after.norm == before.norm && after.norm_sq == before.norm_sq {
        return None;
    }
    let taken = |i: usize, before: f32, after: f32| (after - args.gammas[i] * before) / args.one_minus_gammas[i];
    let norm = taken(0, before.norm, after.norm);
    let largest = taken(2, before.threshold, after.threshold);
    let mean = after.norm / args.gamma_corrections[0];
    let mean_sq = after.norm_sq / args.gamma_corrections[1];
    let factor = mean / (mean_sq.sqrt() + args.eps) / norm;
    // The difference of two nearly equal averages has few digits left.
    let cut = largest > 1.01 * (after.threshold / args.gamma_corrections[2]);
    (norm > 0.0 && factor.is_finite()).then_some((factor, cut))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optim::OptimizerConfig;

    #[test]
    fn the_factor_is_the_one_that_the_update_used() {
        let config = OptimizerConfig::default();
        let mut scalars = Scalars::default();
        for (number, (largest, norm)) in (1..).zip([(1.0f32, 3.0f32), (2.0, 2.5), (0.5, 0.75), (9.0, 20.0)]) {
            let args = AdamStepInfo::new(&config, number, 1e-3, false, 1).args(false);
            let before = scalars;
            let clip = args.clip(&mut scalars, largest);
            let params = args.params(&mut scalars, clip, norm);
            let (factor, cut) = adapted(&args, &before, &scalars).unwrap();
            assert!((factor / params.norm - 1.0).abs() < 1e-3, "step {number}: {factor} instead of {}", params.norm);
            assert_eq!(cut, largest > 1.01 * clip.at, "step {number}");
        }
        let args = AdamStepInfo::new(&config, 5, 1e-3, false, 1).args(false);
        assert_eq!(adapted(&args, &scalars, &scalars), None, "a step that left the tensor out");
    }
}
