//! Several ranks: the bytes of one process, whatever their number, and however each computes its rows.

use crate::harness::adapter::{base, kinds, lora};
use crate::harness::small;
use crate::harness::state::whole_state;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tetrad::backend::cpu::{Cpu, Isa};
use tetrad::backend::{Moment, SecondMoment};
use tetrad::checkpoint::Checkpoint;
use tetrad::config::Config;
use tetrad::data::{Batches, Tokens, Windows};
use tetrad::error::{BackendError, RanksError, StartError};
use tetrad::model::{
    ActivationCheckpointing, ActivationQuant, AdapterScale, GradBuffer, Offload, Scheme, TableStorage, Weights,
};
use tetrad::optim::{OptimizerConfig, Rule};
use tetrad::ranks::{Alone, Ranks, in_process};
use tetrad::train::{FrozenBase, Observer, Samples, StepReport, StopReason, Trainer, Validation, check_ranks, run};

const BATCH: usize = 5;
const SEQUENCE: usize = 24;

/// Loss, gradient norm and factor of clipping of a step, as bits.
type Steps = Vec<[u64; 3]>;

/// What a rank ends with: its steps, and every byte of its weights and state.
type End = (Steps, Vec<Vec<u8>>);

/// What makes a variant of the configuration.
type Edit = fn(&mut Config);

fn config() -> Config {
    let mut config = Config::default();
    let model = &mut config.model;
    (model.hidden, model.intermediate, model.layers, model.heads, model.kv_heads) = (48, 88, 2, 4, 2);
    (config.train.batch, config.train.sequence, config.train.warmup) = (BATCH, SEQUENCE, 2);
    config.storage.group = 32;
    config
}

/// A run from `first` on, or from a checkpoint.
struct Life<'a> {
    config: &'a Config,
    base: Option<&'a Checkpoint>,
    from: Option<&'a Checkpoint>,
    steps: Range<u32>,
}

impl Life<'_> {
    fn new(config: &Config) -> Life<'_> {
        Life { config, base: None, from: None, steps: 0..3 }
    }

    fn trainer(&self, ranks: Arc<dyn Ranks>, threads: usize) -> Trainer {
        let mut config = self.config.clone();
        config.run.ranks = ranks.size();
        let base: Option<FrozenBase> = self.base.map(|base| base.base().unwrap());
        let cpu = Cpu::with_threads(Isa::best(), threads);
        let mut trainer = Trainer::with_ranks(&config, base, ranks, Box::new(cpu)).unwrap();
        trainer.initialize();
        if let Some(from) = self.from {
            from.restore(&mut trainer, "text").unwrap();
        }
        trainer
    }

    /// One rank's part.
    fn live(&self, trainer: &mut Trainer) -> Steps {
        let (rows, sequence) = (trainer.rows(), self.config.train.sequence);
        let tokens = self.config.train.batch * sequence;
        let part = |all: &[u32]| all[rows.start * sequence..rows.end * sequence].to_vec();
        let step = |number: u32| {
            let text: Vec<u32> = (0..=tokens as u32).map(|i| (i * i + number * 31) % 256).collect();
            let mut targets = text[1..].to_vec();
            // What is not learned is not counted, and not alike on all ranks.
            targets[..7].fill(tetrad::data::IGNORE);
            // Two samples in each row of packed data, not of the same length in every row.
            let start = |t: usize| if t % sequence < 9 + t / sequence { 0 } else { 9 + t / sequence };
            let starts: Vec<u32> = (0..tokens).map(|t| start(t) as u32).collect();
            let starts = if self.config.data.shares_rows { part(&starts) } else { Vec::new() };
            let report = trainer.step_segments(&part(&text[..tokens]), &part(&targets), &starts);
            trainer.status().unwrap();
            [report.loss, report.grad_norm, report.clip_factor.unwrap_or(1.0)].map(f64::to_bits)
        };
        self.steps.clone().map(step).collect()
    }

    /// What one process ends with.
    fn alone(&self) -> End {
        let mut trainer = self.trainer(Arc::new(Alone), 2);
        (self.live(&mut trainer), whole_state(&trainer))
    }

    /// What each of `size` ranks ends with; the first shows its trainer to `last`.
    fn on_ranks(&self, size: usize, last: &(dyn Fn(&Trainer) + Sync)) -> Vec<End> {
        on_each(size, |ranks| {
            let rank = ranks.rank();
            let mut trainer = self.trainer(ranks, 1 + rank % 2);
            let steps = self.live(&mut trainer);
            if rank == 0 {
                last(&trainer);
            }
            trainer.ranks().finish().unwrap();
            (steps, whole_state(&trainer))
        })
    }

    /// One process and every number of ranks.
    fn check(&self, sizes: &[usize], what: &str) {
        let expected = self.alone();
        let start = whole_state(&Life { from: self.from, steps: 0..0, ..*self }.trainer(Arc::new(Alone), 1));
        assert!(start != expected.1, "{what}: the steps moved nothing");
        for &size in sizes {
            for (rank, found) in self.on_ranks(size, &|_| {}).into_iter().enumerate() {
                assert_eq!(found.0, expected.0, "{what}: losses and norms of rank {rank} of {size}");
                assert!(found.1 == expected.1, "{what}: the bytes of rank {rank} of {size}");
            }
        }
    }
}

/// What `work` gives on each of `size` ranks.
fn on_each<T: Send>(size: usize, work: impl Fn(Arc<dyn Ranks>) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let work = &work;
        let ranks = in_process(size).into_iter();
        let threads: Vec<_> = ranks.map(|rank| scope.spawn(move || work(Arc::new(rank)))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn ranks_give_the_bytes_of_one_process_with_every_storage() {
    let edits: [(&str, Edit); 12] = [
        ("int4", |_| {}),
        ("asymmetric", |config| (config.storage.scheme, config.storage.feedback) = (Scheme::Asymmetric, true)),
        ("codes only", |config| (config.storage.residue, config.storage.feedback) = (false, true)),
        ("tables", |config| {
            (config.storage.embedding, config.storage.head) = (TableStorage::Int4, TableStorage::Int8);
            (config.storage.m, config.storage.v) = (Moment::Int8, SecondMoment::Int8);
        }),
        ("fp4", |config| config.storage.weights = Weights::Fp4),
        ("int8", |config| config.storage.weights = Weights::Int8),
        ("bf16", |config| (config.storage.weights, config.optimizer.name) = (Weights::Bf16, Rule::Adamw)),
        ("f32", |config| config.storage.weights = Weights::F32),
        ("simulated", |config| {
            (config.storage.weights, config.optimizer.name) = (Weights::Int4SimulatedRows, Rule::Spam);
        }),
        ("v by rows, tied", |config| (config.storage.v, config.model.tied) = (SecondMoment::Row, true)),
        ("factored", |config| config.storage.v = SecondMoment::Factored),
        ("biases, norms of heads, tied", |config| {
            (config.model.qkv_bias, config.model.qk_norm, config.model.tied) = (true, true, true);
        }),
    ];
    for (what, edit) in edits {
        let mut config = config();
        edit(&mut config);
        Life::new(&config).check(&[2, 3], what);
    }
}

#[test]
fn ranks_give_the_bytes_of_one_process_however_each_computes_its_rows() {
    let edits: [(&str, Edit); 9] = [
        ("packed rows", |config| config.data.shares_rows = true),
        ("micro-batches", |config| config.train.micro_batch = 1),
        ("micro-batches, a tensor at a time", |config| {
            (config.train.micro_batch, config.run.grad_buffer) = (2, GradBuffer::Tensor);
        }),
        ("a tensor at a time", |config| config.run.grad_buffer = GradBuffer::Tensor),
        ("recomputed", |config| config.run.activation_checkpointing = ActivationCheckpointing::Block),
        ("recomputed from four bits, tied", |config| {
            (config.run.activation_checkpointing, config.model.tied) = (ActivationCheckpointing::BlockInt4, true);
        }),
        ("four-bit activations", |config| config.activations.quant = ActivationQuant::Int4),
        ("clipped", |config| config.optimizer.grad_clip = 0.1),
        ("chunks of logits", |config| (config.model.vocab, config.run.logits_mib) = (65_536, 1)),
    ];
    for (what, edit) in edits {
        let mut config = config();
        edit(&mut config);
        Life::new(&config).check(&[2, 4, 5], what);
    }
}

/// Where each sums up its own rows they all end alike, each time the same, and near to one process: what differs is the order of
/// sums.
#[test]
fn sums_of_all_ranks_at_once_are_the_same_on_all_and_near_those_of_one_process() {
    let edits: [(&str, Edit); 6] = [
        ("int4", |_| {}),
        ("micro-batches", |config| config.train.micro_batch = 1),
        ("a tensor at a time, tied", |config| {
            (config.run.grad_buffer, config.model.tied, config.train.micro_batch) = (GradBuffer::Tensor, true, 1);
        }),
        ("clipped", |config| config.optimizer.grad_clip = 0.1),
        ("Muon", |config| config.optimizer = OptimizerConfig::of(Rule::Muon)),
        ("float32", |config| config.storage.weights = Weights::F32),
    ];
    for (what, edit) in edits {
        let mut config = config();
        edit(&mut config);
        config.train.reproducible = false;
        let life = Life::new(&config);
        let expected = life.alone();
        config.train.reproducible = true;
        assert!(Life::new(&config).alone() == expected, "{what}: one process has one order");
        config.train.reproducible = false;
        let life = Life::new(&config);
        for size in [2, 3, 5] {
            let ends = life.on_ranks(size, &|_| {});
            assert!(ends.iter().all(|end| *end == ends[0]), "{what}: {size} ranks end alike");
            assert!(life.on_ranks(size, &|_| {}) == ends, "{what}: and again");
            for (number, (found, expected)) in ends[0].0.iter().zip(&expected.0).enumerate() {
                let [found, expected] = [found, expected].map(|bits| bits.map(f64::from_bits));
                // Before the first update nothing but norms are sums of another order.
                assert!(number > 0 || found[0] == expected[0], "{what}: {found:?}, not {expected:?}");
                let near = found.iter().zip(&expected).all(|(a, b)| (a - b).abs() <= 5e-3 * b.abs());
                assert!(near, "{what}, step {number} of {size} ranks: {found:?}, not {expected:?}");
            }
        }
    }
}

/// A configuration drawn by `draw`, which gives a number below its argument.
fn drawn(draw: &mut dyn FnMut(usize) -> usize) -> Config {
    use ActivationCheckpointing::{Block, BlockInt4, None};
    let mut config = config();
    let model = &mut config.model;
    (model.heads, model.kv_heads) = [(4, 4), (4, 2), (2, 1)][draw(3)];
    (model.hidden, model.intermediate, model.layers) = (8 * model.heads * (1 + draw(2)), 24 + 8 * draw(8), 1 + draw(3));
    (model.tied, model.qkv_bias, model.qk_norm) = (draw(2) == 0, draw(2) == 0, draw(2) == 0);
    (config.train.batch, config.train.sequence) = (2 + draw(5), 5 + draw(30));
    (config.train.micro_batch, config.run.logits_mib) = (draw(3), draw(2));
    config.run.grad_buffer = [GradBuffer::Block, GradBuffer::Tensor][draw(2)];
    config.run.activation_checkpointing = [None, Block, BlockInt4][draw(3)];
    config.data.shares_rows = draw(2) == 0;
    config.optimizer = OptimizerConfig::of(Rule::ALL[draw(Rule::ALL.len())]);
    if config.optimizer.name.reads("rank") {
        config.optimizer.rank = 4;
    }
    config.optimizer.grad_clip = [0.0, 0.5][draw(2)];
    let storage = &mut config.storage;
    storage.weights = [Weights::Int4, Weights::Fp4, Weights::Int8, Weights::Bf16, Weights::F32][draw(5)];
    storage.embedding = [TableStorage::Int8, TableStorage::Int4, TableStorage::Bf16][draw(3)];
    (storage.residue, storage.v) = (draw(3) > 0, [SecondMoment::Int4, SecondMoment::Int8, SecondMoment::F32][draw(3)]);
    config
}

#[test]
fn whatever_is_combined_ranks_give_the_bytes_of_one_process() {
    let mut state = 1u64;
    let mut draw = |most: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % most
    };
    let mut tried = 0;
    while tried < 40 {
        let config = drawn(&mut draw);
        if config.validate().is_err() {
            continue;
        }
        tried += 1;
        let size = 2 + draw(config.train.batch.min(4) - 1);
        Life { steps: 0..2, ..Life::new(&config) }.check(&[size], &format!("{size} ranks of {}", config.to_toml()));
    }
}

#[test]
fn every_rule_trains_on_ranks_as_in_one_process() {
    for &rule in Rule::ALL {
        let mut config = Config { optimizer: OptimizerConfig::of(rule), ..config() };
        if rule.reads("rank") {
            config.optimizer.rank = 8;
        }
        config.validate().unwrap();
        Life::new(&config).check(&[3], rule.info().title);
    }
}

#[test]
fn adapters_train_on_ranks_as_in_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let base = base(folder.path());
    let mut config = lora();
    (config.train.batch, config.train.sequence) = (BATCH, SEQUENCE);
    (config.adapter.dropout, config.adapter.scale, config.adapter.group) = (0.2, AdapterScale::Learned, true);
    for micro_batch in [0, 1] {
        config.train.micro_batch = micro_batch;
        Life { base: Some(&base), ..Life::new(&config) }.check(&[2, 4], "an adapter");
    }
}

#[test]
fn every_kind_of_adapter_trains_on_ranks_or_says_why_not() {
    let folder = tempfile::tempdir().unwrap();
    let base = base(folder.path());
    let mut refused = Vec::new();
    for (what, mut config) in kinds() {
        (config.train.batch, config.train.sequence, config.run.ranks) = (BATCH, SEQUENCE, 2);
        match check_ranks(&config) {
            Ok(()) => Life { base: Some(&base), ..Life::new(&config) }.check(&[2, 3], what),
            Err(error) => refused.push(error),
        }
    }
    assert!(refused.iter().all(|error| *error == RanksError::PrefixScales { ranks: 2 }), "{refused:?}");
}

#[test]
fn parameters_in_a_file_are_each_ranks_own() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config();
    config.run.dir = folder.path().into();
    (config.offload.weights, config.offload.optimizer) = (Offload::File, Offload::File);
    Life::new(&config).check(&[2], "in a file");
}

#[test]
fn a_run_goes_on_with_another_number_of_ranks() {
    let folder = tempfile::tempdir().unwrap();
    let config = config();
    let expected = Life { steps: 0..6, ..Life::new(&config) }.alone();
    let mut from: Option<Checkpoint> = None;
    for (size, steps) in [(3, 0..2), (1, 2..3), (4, 3..5), (2, 5..6)] {
        let path = folder.path().join(format!("{}.tetrad", steps.end));
        let life = Life { from: from.as_ref(), steps: steps.clone(), ..Life::new(&config) };
        let ends = life.on_ranks(size, &|trainer| small::write(trainer, &path));
        assert_eq!(ends[0].0, expected.0[steps.start as usize..steps.end as usize]);
        from = Some(Checkpoint::open_sound(&path).unwrap());
        if steps.end == 6 {
            assert!(ends.iter().all(|end| end.1 == expected.1), "the bytes after all");
        }
    }
}

/// What a run shows.
#[derive(Default)]
struct Log {
    losses: Vec<u64>,
    validations: Vec<(u64, u64)>,
    saved: u64,
    /// Set after this step.
    stop: Option<(u64, Arc<AtomicBool>)>,
}

impl Observer for Log {
    type Error = BackendError;

    fn on_step(&mut self, _: &Trainer, report: &StepReport, _: Duration) -> Result<(), BackendError> {
        self.losses.push(report.loss.to_bits());
        if let Some((_, stop)) = self.stop.as_ref().filter(|(at, _)| *at == report.step) {
            stop.store(true, Ordering::SeqCst);
        }
        Ok(())
    }

    fn on_validation(&mut self, validation: &Validation) -> Result<(), BackendError> {
        self.validations.push((validation.loss.to_bits(), validation.targets));
        Ok(())
    }

    fn sample(&mut self, _: &mut Trainer) -> Result<(), BackendError> {
        Ok(())
    }

    fn save(&mut self, trainer: &Trainer) -> Result<(), BackendError> {
        self.saved = trainer.counters().step;
        Ok(())
    }
}

/// The loop of rank `ranks`; `stop`: the rank that is asked to stop, and after which step.
fn looped(config: &Config, ranks: Arc<dyn Ranks>, stop: Option<(usize, u64)>) -> (Log, StopReason, Vec<Vec<u8>>) {
    let text = |len: u32| Tokens::from_ids(&(0..len).map(|i| i * i % 251).collect::<Vec<_>>());
    let validation = Windows::new(text(13 * SEQUENCE as u32 + 1), SEQUENCE, 0).unwrap();
    let train = Batches::new(text(4000), SEQUENCE, 1).unwrap();
    let (rank, asked) = (ranks.rank(), Arc::new(AtomicBool::new(false)));
    let mut trainer = Life::new(config).trainer(ranks, 1);
    let own = stop.filter(|(who, _)| *who == rank).map(|(_, step)| (step, asked.clone()));
    let mut log = Log { stop: own, ..Log::default() };
    let samples = Samples { train, validation: Some(validation) };
    let reason = run(&mut trainer, &samples, u64::MAX, &asked, &mut log).unwrap();
    trainer.ranks().finish().unwrap();
    (log, reason, whole_state(&trainer))
}

#[test]
fn the_loop_validates_and_stops_on_all_ranks_alike() {
    let mut config = config();
    (config.train.steps, config.train.warmup, config.train.eval_every) = (6, 2, 3);
    let (alone, reason, state) = looped(&config, Arc::new(Alone), None);
    assert_eq!((reason, alone.validations.len(), alone.losses.len()), (StopReason::Finished, 2, 6));
    for size in [2, 4] {
        for (log, reason, found) in on_each(size, |ranks| looped(&config, ranks, None)) {
            assert_eq!((reason, &log.losses), (StopReason::Finished, &alone.losses));
            assert_eq!(log.validations, alone.validations, "{size} ranks");
            assert!(found == state, "{size} ranks");
        }
    }
    // One rank is asked, and all stop after the same step.
    for (log, reason, _) in on_each(3, |ranks| looped(&config, ranks, Some((2, 4)))) {
        assert_eq!((reason, log.saved, log.losses.len()), (StopReason::Stopped, 4, 4));
    }
}

#[test]
fn a_lost_rank_ends_the_others_before_they_learn_without_it() {
    let config = config();
    let found = on_each(3, |ranks| {
        let rank = ranks.rank();
        let mut trainer = Life::new(&config).trainer(ranks, 1);
        if rank == 1 {
            // It takes one step and is gone.
            Life { steps: 0..1, ..Life::new(&config) }.live(&mut trainer);
            return None;
        }
        Life { steps: 0..1, ..Life::new(&config) }.live(&mut trainer);
        let before = whole_state(&trainer);
        let rows = trainer.rows().len() * SEQUENCE;
        trainer.step(&vec![1; rows], &vec![2; rows]);
        Some((trainer.status(), whole_state(&trainer) == before))
    });
    for (status, same) in found.into_iter().flatten() {
        assert!(matches!(status, Err(BackendError::Ranks(RanksError::Lost { .. }))), "{status:?}");
        assert!(same, "a step without a part of its batch was learned");
    }
}

#[test]
fn batches_that_cannot_be_divided_are_refused() {
    let refused = |edit: fn(&mut Config)| {
        let mut config = config();
        edit(&mut config);
        config.run.ranks = 3;
        let rank: Arc<dyn Ranks> = Arc::new(in_process(3).remove(0));
        match Trainer::with_ranks(&config, None, rank, Box::new(Cpu::new())).err() {
            Some(StartError::Backend(BackendError::Ranks(error))) => error,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(|config| config.train.batch = 2), RanksError::FewRows { ranks: 3, batch: 2 });
    assert_eq!(refused(|config| config.train.sequence = 4), RanksError::ShortRows { ranks: 3, sequence: 4, least: 5 });
}
