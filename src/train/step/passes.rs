//! The passes of a step over its batch: forward and loss, a backward that measures, a backward that learns; and when what they
//! leave is read.

use super::super::team::Together;
use super::super::updates::Updates;
use super::{StepReport, Trainer};
use crate::backend::{Backend, IGNORE, Param, UpdateStats};
use crate::config::TrainConfig;
use crate::error::BackendError;
use crate::memory::Span;
use crate::model::Batch;
use crate::optim::StepInfo;

/// A batch as a step is given it.
#[derive(Clone, Copy)]
pub(super) struct Tokens<'a> {
    pub pass: Batch,
    pub inputs: &'a [u32],
    pub targets: &'a [u32],
    pub segment_start: &'a [u32],
}

/// Losses that were computed and not read yet.
struct Losses {
    /// Targets that count, of all ranks.
    counted: u64,
    /// What gradients are multiplied by, so that they are those of the mean.
    scale: f32,
}

/// What a gradient of norm `norm` is multiplied by, so that its norm is at most `most`: PyTorch's `clip_grad_norm_`.
fn clip_factor(norm: f64, most: f64) -> f64 {
    (most / (norm + 1e-6)).min(1.0)
}

impl StepReport {
    /// A step of which nothing is known yet.
    fn new(step: u64, lr: f64) -> Self {
        Self {
            step,
            loss: f64::NAN,
            lr,
            grad_norm: f64::NAN,
            clip_factor: None,
            rescales: 0,
            skipped_loss: false,
            frozen: false,
            skipped_gradients: 0,
            search_seconds: None,
            straggler: None,
            spike: None,
            audit: None,
        }
    }
}

impl Trainer {
    /// Forward and backward of no text and without an update: a device then has loaded what it loads at the first product of
    /// each kind, beyond the planned memory, and has the graphs that it will have. Several ranks do nothing.
    ///
    /// # Errors
    /// The first failure: the device has no room for that, or cannot compute a product.
    pub fn rehearse(&mut self) -> Result<(), BackendError> {
        if self.ranks().size() > 1 {
            return Ok(());
        }
        self.rehearse_once();
        // What is loaded late could not be in a graph.
        if self.backend.record_graphs(true) {
            self.rehearse_once();
            self.backend.record_graphs(false);
        }
        self.backend.status()
    }

    fn rehearse_once(&mut self) {
        let TrainConfig { batch, sequence, .. } = self.config.train;
        let (pass, tokens) = (Batch::step(batch, sequence, 1), vec![0; batch * sequence]);
        let Losses { scale, .. } =
            self.loss_and_head_grad(&Tokens { pass, inputs: &tokens, targets: &tokens, segment_start: &[] });
        let at = StepInfo { number: 1, lr: 0.0, seed: 0 };
        self.walk_back(pass, scale, &at, 1.0, true);
    }

    /// Whether the device itself can tell if a step is learned, so that the host reads nothing before all of it is queued: a
    /// loss that is not finite keeps every update from changing anything. Whether it is a spike, and what a whole gradient is
    /// clipped by, the host judges; so does it among ranks.
    pub(super) fn judges_on_device(&self) -> bool {
        let (train, clip) = (&self.config.train, self.config.optimizer.grad_clip);
        self.fused && self.backend.queues() && self.ranks().size() == 1 && train.spike_z == 0.0 && clip == 0.0
    }

    /// A step that the device judges.
    pub(super) fn learn(&mut self, batch: &Tokens<'_>, number: u64, at: &StepInfo) -> StepReport {
        let losses = self.loss_and_head_grad(batch);
        self.backend.hold_updates_unless_finite(self.model.acts.losses.head(4 * batch.pass.tokens()));
        self.backend.cut_graph();
        let mut report = StepReport::new(number, at.lr);
        self.backward(batch.pass, losses.scale, at, 1.0, &mut report);
        report.loss = self.read_loss(batch.pass, &losses);
        if !report.loss.is_finite() {
            (report.skipped_loss, report.grad_norm) = (true, f64::NAN);
        }
        report
    }

    /// A step that the host judges by its loss before it is learned, as step `at` of the optimizer if at all.
    pub(super) fn judge_and_learn(
        &mut self,
        batch: &Tokens<'_>,
        number: u64,
        lr: f64,
        at: Option<StepInfo>,
    ) -> StepReport {
        let losses = self.loss_and_head_grad(batch);
        let loss = self.read_loss(batch.pass, &losses);
        let spike = self.watch.judge_loss(loss, &self.config.train);
        let (skipped_loss, frozen) = (!loss.is_finite(), at.is_none());
        let mut report = StepReport { loss, skipped_loss, frozen, spike, ..StepReport::new(number, lr) };
        let Some(at) = at.filter(|_| !report.skipped_loss && report.spike.is_none()) else { return report };
        match self.config.optimizer.grad_clip {
            0.0 => self.backward(batch.pass, losses.scale, &at, 1.0, &mut report),
            most => {
                let norm = self.gradient_norm(batch.pass, losses.scale, &mut report);
                report.clip_factor = norm.map(|norm| clip_factor(norm, most));
                if let (Some(norm), Some(factor)) = (norm, report.clip_factor) {
                    // The activations were used up.
                    self.loss_and_head_grad(batch);
                    self.backward(batch.pass, losses.scale, &at, factor, &mut report);
                    report.grad_norm = norm;
                }
            }
        }
        report
    }

    /// Losses, and the first part of backward.
    fn loss_and_head_grad(&mut self, batch: &Tokens<'_>) -> Losses {
        let &Tokens { pass, inputs, targets, segment_start } = batch;
        let counted = self.team.sum(targets.iter().filter(|&&target| target != IGNORE).count() as u64);
        let scale = if counted > 0 { 1.0 / counted as f32 } else { 0.0 };
        self.model.upload_tokens(self.backend.as_mut(), inputs, targets);
        self.model.upload_segments(self.backend.as_mut(), segment_start);
        self.model.forward(self.backend.as_mut(), pass);
        let (specs, taker) = (self.model.specs.as_slice(), |_: &mut dyn Backend, _: &Param, _: Span| {});
        let mut grads = Together { team: &mut self.team, specs, taker, changes: false };
        self.model.loss_and_passed_head_grad(self.backend.as_mut(), pass, scale, &mut grads);
        // Now the losses may be read, or decide what is learned.
        self.backend.cut_graph();
        Losses { counted, scale }
    }

    /// The mean loss.
    fn read_loss(&mut self, pass: Batch, losses: &Losses) -> f64 {
        let read = &mut self.losses[..pass.tokens()];
        self.model.read_losses(self.backend.as_ref(), read);
        self.team.sum_losses(read) / losses.counted.max(1) as f64
    }

    /// The norm of the whole gradient, by a backward that changes no parameter; nothing if a tensor's is not finite, which
    /// then is in the report.
    ///
    /// A factor that depends on every gradient must be known before the first is used, and there is one buffer for all of
    /// them. So a step with `optimizer.grad_clip` forms them twice. A norm from the step before would save that, and would
    /// miss the one step that clipping is for.
    fn gradient_norm(&mut self, pass: Batch, scale: f32, report: &mut StepReport) -> Option<f64> {
        let (specs, orthogonal) = (&self.model.specs, &mut self.orthogonal);
        let taker = |backend: &mut dyn Backend, param: &Param, grad: Span| {
            if let Some(rows) = orthogonal {
                rows.apply(backend, &specs[param.id as usize], param, grad);
            }
            backend.begin_update(grad, false);
        };
        let mut measure = Together { team: &mut self.team, specs, taker, changes: false };
        self.model.gradients(self.backend.as_mut(), pass, scale, &mut measure);
        let stats = measure.stats(self.backend.as_mut());
        report.skipped_gradients = stats.skipped;
        (stats.skipped == 0).then(|| stats.grad_sq.sqrt())
    }

    fn backward(&mut self, pass: Batch, scale: f32, at: &StepInfo, factor: f64, report: &mut StepReport) {
        let stats = self.walk_back(pass, scale, at, factor, false);
        report.grad_norm = if stats.skipped == 0 { stats.grad_sq.sqrt() } else { f64::NAN };
        report.rescales = stats.rescales;
        report.skipped_gradients = stats.skipped;
        report.search_seconds = Some(self.optimizer.take_search_seconds()).filter(|seconds| *seconds > 0.0);
    }

    /// Backward, learning what it finds or, in a `rehearsal`, nothing.
    fn walk_back(&mut self, pass: Batch, scale: f32, at: &StepInfo, factor: f64, rehearsal: bool) -> UpdateStats {
        let (groups, workspace, specs) = (&self.optimizer, self.model.acts.grads.update, &self.model.specs);
        let (orthogonal, waiting) = (&mut self.orthogonal, &mut self.waiting);
        let taker = Updates { groups, specs, orthogonal, workspace, at, factor, waiting, rehearsal };
        let mut together = Together { team: &mut self.team, specs, taker, changes: !rehearsal };
        let backend = self.backend.as_mut();
        match rehearsal {
            true => self.model.gradients(backend, pass, scale, &mut together),
            false => self.model.backward(backend, pass, scale, &mut together),
        }
        together.stats(self.backend.as_mut())
    }
}
