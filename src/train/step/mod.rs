//! One training step.

mod passes;

use super::orthogonal::OrthogonalRows;
use super::team::{Straggler, Team, check_ranks};
use super::updates::MOST_TOGETHER;
use super::{AuditReport, FrozenBase, Spike, Watch, accumulate, base};
use crate::backend::{AdamUpdate, Backend, DeviceInfo, IGNORE, Param};
use crate::config::Config;
use crate::error::{BackendError, StartError, StoreError};
use crate::format::Fingerprint;
use crate::memory::{HostMemory, Plan};
use crate::model::{Batch, Model, ParamSpec, Settings, initialize_but, param_specs};
use crate::optim::{Groups, StepInfo};
use crate::ranks::{Alone, Ranks};
use crate::store::{WorkFile, create_folder};
use passes::Tokens;
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
    /// Whether no weight was to move yet (`continual.freeze`): there is no gradient then, and nothing is wrong.
    pub frozen: bool,
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
    /// Updates that are made at once; without room where each is made by itself.
    waiting: Vec<AdamUpdate>,
    /// Whether every update is one operation.
    fused: bool,
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
        // Of several ranks each update is told about by itself.
        let together = team.ranks().size() == 1 && backend.queues();
        let waiting = Vec::with_capacity(if together { MOST_TOGETHER } else { 0 });
        let first = StepInfo { number: 1, lr: 0.0, seed: 0 };
        let mut trained = model.specs.iter().zip(&model.stored).filter(|(spec, _)| spec.trainable);
        let fused = trained.all(|(_, param)| optimizer.fused(param, &first).is_some());
        let (config, counters, watch) = (config.clone(), Counters::default(), Watch::default());
        Ok(Self {
            config,
            backend,
            model,
            plan,
            counters,
            optimizer,
            orthogonal,
            base,
            watch,
            losses,
            team,
            waiting,
            fused,
        })
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
    pub(crate) fn watch_mut(&mut self) -> &mut Watch {
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
        self.initialize_but(|_| false);
    }

    /// The same of those that are not `given`: their weights come from elsewhere.
    pub(crate) fn initialize_but(&mut self, given: impl Fn(&ParamSpec) -> bool) {
        initialize_but(&self.model, self.backend.as_mut(), given);
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
        let stage = self.config.continual.stage;
        let frozen = stage.map_or(0, |stage| stage.freeze);
        // The optimizer counts its own steps.
        let at = (number > frozen).then(|| StepInfo { number: number - frozen, lr, seed: self.config.run.seed });
        let batch = Tokens { pass, inputs, targets, segment_start };
        let mut report = match at {
            Some(at) if self.judges_on_device() => self.learn(&batch, number, &at),
            at => self.judge_and_learn(&batch, number, lr, at),
        };
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
