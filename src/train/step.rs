//! One training step.

use super::orthogonal::OrthogonalRows;
use super::team::{Straggler, Team, Together, check_ranks};
use super::{AuditReport, FrozenBase, Spike, Watch, accumulate, base};
use crate::backend::ops::Precision;
use crate::backend::{Backend, DeviceInfo, IGNORE, Param};
use crate::config::{Config, TrainConfig};
use crate::error::{BackendError, StartError, StoreError};
use crate::format::Fingerprint;
use crate::memory::{HostMemory, Plan, Span};
use crate::model::{Batch, Model, Settings, initialize, param_specs};
use crate::optim::{Groups, StepInfo};
use crate::ranks::{Alone, Ranks};
use crate::store::{WorkFile, create_folder};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::Arc;

// What is not learned according to the data is what the loss skips.
const _: () = assert!(crate::data::IGNORE == IGNORE);

/// What a run has counted so far; part of its state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Optimizer steps done.
    pub step: u64,
    /// Training sequences consumed.
    pub position: u64,
    /// Steps skipped because the loss was not finite.
    pub skipped_losses: u64,
    /// Updates of a tensor skipped because its gradient was not finite.
    pub skipped_gradients: u64,
    /// Steps in a row, up to the last, with either.
    pub nonfinite_in_a_row: u64,
    /// Steps whose gradient was scaled down to `optimizer.grad_clip`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub clipped_steps: u64,
}

/// Files of runs that never clipped do not have the counter.
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Number of the step, from 1.
    pub step: u64,
    /// Mean loss of the targets that count, in nats per token.
    pub loss: f64,
    /// Learning rate.
    pub lr: f64,
    /// Norm of the whole gradient, before any clipping; NaN if a tensor's was not finite.
    pub grad_norm: f64,
    /// What the whole gradient was multiplied by, 1 or less, if `optimizer.grad_clip` is set and the step was learned.
    pub clip_factor: Option<f64>,
    /// Groups of weights rescaled.
    pub rescales: u64,
    /// Whether the whole step was skipped.
    pub skipped_loss: bool,
    /// Tensors whose update was skipped.
    pub skipped_gradients: u64,
    /// How long the rules have searched for projections, in the steps in which they do.
    pub search_seconds: Option<f64>,
    /// For which rank others waited, if there are several.
    pub straggler: Option<Straggler>,
    /// Why its loss was a spike; then nothing of it was learned.
    pub spike: Option<Spike>,
    /// What the audit found, in the steps that are audited.
    pub audit: Option<AuditReport>,
}

/// A model in training. Between steps its weights exist as stored planes only.
pub struct Trainer {
    config: Config,
    backend: Box<dyn Backend>,
    model: Model,
    plan: Plan,
    counters: Counters,
    /// The rules that update the parameters.
    optimizer: Arc<Groups>,
    /// What becomes of gradients where earlier rows of an adapter stay.
    orthogonal: Option<OrthogonalRows>,
    /// Of the frozen base beside which an adapter is trained.
    base: Option<Fingerprint>,
    watch: Watch,
    /// Losses of the rows of a batch that are computed here.
    losses: Vec<f32>,
    team: Team,
}

/// What a gradient of norm `norm` is multiplied by, so that its norm is at most `most`: PyTorch's `clip_grad_norm_`.
fn clip_factor(norm: f64, most: f64) -> f64 {
    (most / (norm + 1e-6)).min(1.0)
}

/// The plan of a training run, and the model placed in it. The base of an adapter is in no plan where it is used in its
/// file.
pub fn plan(config: &Config, backend: &dyn DeviceInfo) -> (Plan, Model) {
    let settings = config.settings();
    let mapped = config.adapter.is_some() && backend.reads_mapped();
    let base = mapped.then(|| base::somewhere(&param_specs(&settings)));
    place(config, &settings, base.as_deref(), backend)
}

fn place(config: &Config, settings: &Settings, base: Option<&[Param]>, backend: &dyn DeviceInfo) -> (Plan, Model) {
    assert!(config.train.batch > 0 && config.train.sequence > 0, "Config::settle comes first");
    let mut plan = Plan::default();
    let (tokens, keys) = (config.rank_batch() * config.train.sequence, config.train.sequence);
    let model = match base {
        Some(base) => Model::place_on(&mut plan, settings, base, (tokens, keys), backend),
        None => Model::place(&mut plan, settings, tokens, keys, backend),
    };
    plan.add_outside("search for projections", settings.optimizer.as_ref().map_or(0, |groups| groups.host_bytes()));
    plan.add_outside("messages between ranks", Team::bytes(config.run.ranks, config.train.reproducible));
    (plan, model)
}

/// Memory for offloaded parameters, outside the arena.
fn home(config: &Config, bytes: usize) -> Result<HostMemory, StoreError> {
    if !config.offload.uses_file() {
        return Ok(HostMemory::Bytes(bytes));
    }
    let dir = &config.run.dir;
    create_folder(dir).map_err(|e| StoreError::io(dir, "create the directory", e))?;
    Ok(HostMemory::File(Box::new(WorkFile::create(dir, bytes)?)))
}

impl Trainer {
    /// Plans, allocates once, and fills what depends on the configuration alone. The parameters are zero until
    /// [`Trainer::initialize`] or a checkpoint sets them.
    ///
    /// # Errors
    /// If the backend does not have the planned memory, or `run.dir` cannot hold a scratch file that was asked for.
    pub fn new(config: &Config, backend: Box<dyn Backend>) -> Result<Self, StartError> {
        Self::with_rules(config, config.optimizer.groups(config.storage.state()), backend)
    }

    /// The same for the adapter of a configuration that has one, beside its base. A backend that can uses the base where
    /// it lies.
    ///
    /// # Errors
    /// As [`Trainer::new`].
    ///
    /// # Panics
    /// If the configuration has no adapter, or the base has other parameters than it says.
    pub fn beside(config: &Config, base: FrozenBase, backend: Box<dyn Backend>) -> Result<Self, StartError> {
        assert!(config.adapter.is_some(), "a base is frozen beside an adapter");
        Self::build(config, config.optimizer.groups(config.storage.state()), Some(base), Arc::new(Alone), backend)
    }

    /// The same as one of the ranks of a run, with a base if the configuration has an adapter: `run.ranks` is the size of
    /// `ranks`, and steps are given this rank's rows of each batch ([`Trainer::rows`]). After a step the weights are the
    /// same on all ranks, and the bytes of one process.
    ///
    /// # Errors
    /// As [`Trainer::new`]; batches with fewer rows than there are ranks, and rows that are too short to be divided.
    ///
    /// # Panics
    /// If `run.ranks` is another number, or a base comes without an adapter or the other way round.
    pub fn with_ranks(
        config: &Config,
        base: Option<FrozenBase>,
        ranks: Arc<dyn Ranks>,
        backend: Box<dyn Backend>,
    ) -> Result<Self, StartError> {
        assert_eq!(config.run.ranks, ranks.size(), "ranks that the run was configured for");
        assert_eq!(config.adapter.is_some(), base.is_some(), "a base is frozen beside an adapter");
        check_ranks(config).map_err(BackendError::from)?;
        Self::build(config, config.optimizer.groups(config.storage.state()), base, ranks, backend)
    }

    /// The same with rules of your own instead of the one that the configuration names.
    ///
    /// # Errors
    /// As [`Trainer::new`].
    pub fn with_rules(config: &Config, rules: Groups, backend: Box<dyn Backend>) -> Result<Self, StartError> {
        assert!(!config.adapter.is_some(), "an adapter needs its base: Trainer::beside");
        Self::build(config, rules, None, Arc::new(Alone), backend)
    }

    fn build(
        config: &Config,
        rules: Groups,
        base: Option<FrozenBase>,
        ranks: Arc<dyn Ranks>,
        mut backend: Box<dyn Backend>,
    ) -> Result<Self, StartError> {
        backend.check_heads(config.model.head_dim(), config.model.qk_norm)?;
        backend.check_compute(config.activations.compute)?;
        let optimizer = Arc::new(rules);
        let mut settings = Settings { optimizer: Some(optimizer.clone()), ..config.settings() };
        settings.execution.rank = Some(ranks.rank());
        let mapped = base.as_ref().filter(|_| backend.reads_mapped());
        let params = mapped.map(|base| base.params.as_slice());
        let (plan, model) = place(config, &settings, params, backend.as_ref());
        backend.allocate(plan.total(), mapped.map(|base| base.file.clone()), model.acts.scratch)?;
        if plan.host_total() > 0 {
            backend.attach(home(config, plan.host_total())?)?;
        }
        if let (Some(base), None) = (&base, mapped) {
            base.upload(&model.stored, backend.as_mut());
        }
        model.prepare(backend.as_mut());
        let base = base.map(|base| base.fingerprint);
        let losses = vec![0.0; model.acts.tokens];
        let earlier = config.continual.stage.and_then(|stage| stage.orthogonal);
        let orthogonal = earlier.map(|args| OrthogonalRows::new(args, &model));
        let team = Team::new(ranks, &config.train, backend.as_mut());
        let (config, counters, watch) = (config.clone(), Counters::default(), Watch::default());
        Ok(Self { config, backend, model, plan, counters, optimizer, orthogonal, base, watch, losses, team })
    }

    /// The ranks of the run; one if it has no others.
    pub fn ranks(&self) -> &Arc<dyn Ranks> {
        self.team.ranks()
    }

    /// The rows of a batch that are computed here: all of them, unless there are other ranks.
    pub fn rows(&self) -> Range<usize> {
        self.team.rows(self.config.train.batch)
    }

    /// Whether all that was computed so far was, here and on the other ranks.
    ///
    /// # Errors
    /// The first failure of the device, or of a rank.
    pub fn status(&self) -> Result<(), BackendError> {
        self.team.status()?;
        self.backend.status()
    }

    pub(super) fn team(&mut self) -> &mut Team {
        &mut self.team
    }

    /// Where parameters and activations lie.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The fingerprint of the base beside which an adapter is trained.
    pub fn base(&self) -> Option<Fingerprint> {
        self.base
    }

    /// What computes, and holds the arena.
    pub fn backend(&self) -> &dyn Backend {
        self.backend.as_ref()
    }

    /// The same, to compute with or to write to.
    pub fn backend_mut(&mut self) -> &mut dyn Backend {
        self.backend.as_mut()
    }

    /// Both at once, as a [`Generator`](crate::model::Generator) needs them.
    pub fn model_and_backend(&mut self) -> (&Model, &mut dyn Backend) {
        (&self.model, self.backend.as_mut())
    }

    /// The plan that the arena was made from.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Progress.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Continues from the progress of a saved state.
    pub(crate) fn set_counters(&mut self, counters: Counters) {
        self.counters = counters;
    }

    /// What the watchdog has seen.
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    /// The same, to be changed.
    pub(super) fn watch_mut(&mut self) -> &mut Watch {
        &mut self.watch
    }

    /// Continues from what the watchdog had seen at a saved state.
    pub(crate) fn set_watch(&mut self, watch: Watch) {
        self.watch = watch;
    }

    /// Passes over sequences that are left out.
    pub(super) fn pass_left_out(&mut self) {
        self.counters.position = self.watch.pass(self.counters.position);
    }

    /// First values of all parameters.
    pub fn initialize(&mut self) {
        initialize(&self.model, self.backend.as_mut());
    }

    /// Forward and backward once, of no text and without an update: a device then has loaded what it loads at the first product
    /// of each kind, beyond the planned memory. Several ranks do nothing.
    ///
    /// # Errors
    /// The first failure: the device has no room for that, or cannot compute a product.
    pub fn rehearse(&mut self) -> Result<(), BackendError> {
        if self.ranks().size() > 1 {
            return Ok(());
        }
        let TrainConfig { batch, sequence, .. } = self.config.train;
        let (pass, tokens) = (Batch::step(batch, sequence, 1), vec![0; batch * sequence]);
        let (_, scale) = self.loss_and_head_grad(pass, &tokens, &tokens, &[]);
        let (specs, apply) = (self.model.specs.as_slice(), |_: &mut dyn Backend, _: &Param, _: Span| {});
        let mut grads = Together { team: &mut self.team, specs, apply, changes: false };
        self.model.gradients(self.backend.as_mut(), pass, scale, &mut grads);
        self.backend.status()
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// One optimizer step on `batch` sequences of `sequence` tokens; `inputs` and `targets` are `[T]`, of several ranks each
    /// rank's own [rows](Trainer::rows).
    ///
    /// # Panics
    /// If the slices are not `batch * sequence` long.
    pub fn step(&mut self, inputs: &[u32], targets: &[u32]) -> StepReport {
        self.step_segments(inputs, targets, &[])
    }

    /// The same where rows may hold several samples; `segment_start` as in [`Model::upload_segments`].
    ///
    /// # Panics
    /// If the slices are not `batch * sequence` long, or several samples in a row were not planned for.
    pub fn step_segments(&mut self, inputs: &[u32], targets: &[u32], segment_start: &[u32]) -> StepReport {
        let (rows, sequence) = (self.rows(), self.config().train.sequence);
        let number = self.counters.step + 1;
        let pass = Batch { before: rows.start * sequence, ..Batch::step(rows.len(), sequence, number) };
        assert!(inputs.len() == pass.tokens() && targets.len() == pass.tokens(), "one batch of tokens");
        let lr = self.config.learning_rate().at(number);
        let loss = self.loss_and_head_grad(pass, inputs, targets, segment_start);
        let mut report = StepReport {
            step: number,
            loss: loss.0,
            lr,
            grad_norm: f64::NAN,
            clip_factor: None,
            rescales: 0,
            skipped_loss: !loss.0.is_finite(),
            skipped_gradients: 0,
            search_seconds: None,
            straggler: None,
            spike: self.watch.judge_loss(loss.0, &self.config.train),
            audit: None,
        };
        let stage = self.config.continual.stage;
        let frozen = stage.map_or(0, |stage| stage.freeze);
        if !report.skipped_loss && report.spike.is_none() && number > frozen {
            // The optimizer counts its own steps.
            let at = StepInfo { number: number - frozen, lr, seed: self.config().run.seed };
            match self.config.optimizer.grad_clip {
                0.0 => self.backward(pass, loss.1, &at, 1.0, &mut report),
                most => {
                    let norm = self.gradient_norm(pass, loss.1, &mut report);
                    report.clip_factor = norm.map(|norm| clip_factor(norm, most));
                    if let (Some(norm), Some(factor)) = (norm, report.clip_factor) {
                        // The activations were used up.
                        self.loss_and_head_grad(pass, inputs, targets, segment_start);
                        self.backward(pass, loss.1, &at, factor, &mut report);
                        report.grad_norm = norm;
                    }
                }
            }
        }
        if let Some(offline) = stage.and_then(|stage| stage.offline) {
            accumulate(&self.model, self.backend.as_mut(), offline.keep);
            if number == self.config.train.steps {
                accumulate(&self.model, self.backend.as_mut(), offline.keep_at_end);
            }
        }
        report.straggler = self.team.straggler(self.backend.as_mut());
        self.count(self.config.train.batch as u64, &report);
        report
    }

    /// Makes the offline module a copy of the one that is trained.
    pub(crate) fn begin_offline(&mut self) {
        accumulate(&self.model, self.backend.as_mut(), 0.0);
    }

    /// Mean loss, and the scale of the gradients that it implies.
    fn loss_and_head_grad(
        &mut self,
        pass: Batch,
        inputs: &[u32],
        targets: &[u32],
        segment_start: &[u32],
    ) -> (f64, f32) {
        let counted = self.team.sum(targets.iter().filter(|&&target| target != IGNORE).count() as u64);
        let scale = if counted > 0 { 1.0 / counted as f32 } else { 0.0 };
        self.model.upload_tokens(self.backend.as_mut(), inputs, targets);
        self.model.upload_segments(self.backend.as_mut(), segment_start);
        self.model.forward(self.backend.as_mut(), pass);
        let (specs, apply) = (self.model.specs.as_slice(), |_: &mut dyn Backend, _: &Param, _: Span| {});
        let mut grads = Together { team: &mut self.team, specs, apply, changes: false };
        self.model.loss_and_passed_head_grad(self.backend.as_mut(), pass, scale, &mut grads);
        let losses = &mut self.losses[..pass.tokens()];
        self.model.read_losses(self.backend.as_ref(), losses);
        (self.team.sum_losses(losses) / counted.max(1) as f64, scale)
    }

    /// The norm of the whole gradient, by a backward that changes no parameter; nothing if a tensor's is not finite, which
    /// then is in the report.
    ///
    /// A factor that depends on every gradient must be known before the first is used, and there is one buffer for all of
    /// them. So a step with `optimizer.grad_clip` forms them twice. A norm from the step before would save that, and would
    /// miss the one step that clipping is for.
    fn gradient_norm(&mut self, pass: Batch, scale: f32, report: &mut StepReport) -> Option<f64> {
        let (specs, orthogonal) = (&self.model.specs, &mut self.orthogonal);
        let apply = |backend: &mut dyn Backend, param: &Param, grad: Span| {
            if let Some(rows) = orthogonal {
                rows.apply(backend, &specs[param.id as usize], param, grad);
            }
            backend.begin_update(grad, false);
        };
        let mut measure = Together { team: &mut self.team, specs, apply, changes: false };
        self.model.gradients(self.backend.as_mut(), pass, scale, &mut measure);
        let stats = measure.stats(self.backend.as_mut());
        report.skipped_gradients = stats.skipped;
        (stats.skipped == 0).then(|| stats.grad_sq.sqrt())
    }

    fn backward(&mut self, pass: Batch, scale: f32, at: &StepInfo, factor: f64, report: &mut StepReport) {
        let (groups, workspace, specs) = (&self.optimizer, self.model.acts.grads.update, &self.model.specs);
        let orthogonal = &mut self.orthogonal;
        let apply = |backend: &mut dyn Backend, param: &Param, grad: Span| {
            if let Some(rows) = orthogonal {
                rows.apply(backend, &specs[param.id as usize], param, grad);
            }
            if factor < 1.0 {
                backend.scale(grad, factor as f32, Precision::F32);
            }
            let at = StepInfo { lr: at.lr * specs[param.id as usize].rate, ..*at };
            groups.step(backend, param, grad, workspace, &at);
        };
        let mut together = Together { team: &mut self.team, specs, apply, changes: true };
        self.model.backward(self.backend.as_mut(), pass, scale, &mut together);
        let stats = together.stats(self.backend.as_mut());
        report.grad_norm = if stats.skipped == 0 { stats.grad_sq.sqrt() } else { f64::NAN };
        report.rescales = stats.rescales;
        report.skipped_gradients = stats.skipped;
        report.search_seconds = Some(groups.take_search_seconds()).filter(|seconds| *seconds > 0.0);
    }

    fn count(&mut self, sequences: u64, report: &StepReport) {
        let counters = &mut self.counters;
        counters.step = report.step;
        counters.position += sequences;
        counters.skipped_losses += u64::from(report.skipped_loss);
        counters.skipped_gradients += report.skipped_gradients;
        counters.clipped_steps += u64::from(report.clip_factor.is_some_and(|factor| factor < 1.0));
        let clean = !report.skipped_loss && report.skipped_gradients == 0;
        counters.nonfinite_in_a_row = if clean { 0 } else { counters.nonfinite_in_a_row + 1 };
    }

    /// Sum of the losses of `batch` sequences of equal length (at most a training batch), in nats, without training.
    ///
    /// # Panics
    /// If `inputs` and `targets` differ in length or exceed a training batch.
    pub fn evaluate(&mut self, batch: usize, inputs: &[u32], targets: &[u32]) -> f64 {
        self.evaluate_segments(batch, inputs, targets, &[])
    }

    /// The same where rows may hold several samples; `segment_start` as in [`Model::upload_segments`].
    ///
    /// # Panics
    /// As [`Trainer::evaluate`], and if several samples in a row were not planned for.
    pub fn evaluate_segments(&mut self, batch: usize, inputs: &[u32], targets: &[u32], segment_start: &[u32]) -> f64 {
        let pass = Batch::whole(batch, inputs.len() / batch);
        let losses = &mut self.losses[..inputs.len()];
        self.model.evaluate(self.backend.as_mut(), pass, inputs, targets, segment_start, losses)
    }

    /// The sum of the losses of a batch of which these are the rows that are computed here, maybe none; on the last rank.
    pub(super) fn evaluate_rows(&mut self, inputs: &[u32], targets: &[u32], segment_start: &[u32]) -> f64 {
        let rows = inputs.len() / self.config.train.sequence;
        if rows > 0 {
            self.evaluate_segments(rows, inputs, targets, segment_start);
        }
        self.team.chain(&self.losses[..inputs.len()])
    }
}
