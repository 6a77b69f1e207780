//! Training an adapter beside a frozen base: what stays, what moves, and what must not matter.

use crate::harness::adapter::{base, lora, trainer, write};
use crate::harness::small::{self, batch};
use crate::harness::state::{read, weight_spans, whole_state};
use tetrad::backend::cpu::{Cpu, Isa};
use tetrad::backend::{Backend, Moment, SecondMoment};
use tetrad::checkpoint::{Adapted, Capacity, Checkpoint, Extent};
use tetrad::config::Config;
use tetrad::memory::Category;
use tetrad::model::{ActivationCheckpointing, AdapterScale, AdapterWeights, Batch, ParamKind};
use tetrad::optim::{OptimizerConfig, Rule};
use tetrad::train::{Trainer, plan};

fn steps(trainer: &mut Trainer, numbers: std::ops::Range<u32>) -> Vec<u64> {
    let step = |number| {
        let (inputs, targets) = batch(number);
        let report = trainer.step(&inputs, &targets);
        assert!(report.loss.is_finite() && report.skipped_gradients == 0, "{report:?}");
        report.loss.to_bits()
    };
    numbers.map(step).collect()
}

/// The weights of each parameter.
fn weights(trainer: &Trainer) -> Vec<Vec<Vec<u8>>> {
    let of = |param| weight_spans(param).into_iter().map(|span| read(trainer, span)).collect();
    trainer.model().stored.iter().map(of).collect()
}

/// The sum of the losses of a batch, by the base and adapters with their scales.
fn loss(base: &Checkpoint, adapters: &[(Checkpoint, f32)], backend: &mut dyn Backend) -> f64 {
    let (inputs, targets) = batch(9);
    let capacity = Capacity { tokens: 99, keys: 33, sampling: false, packing: false };
    let model = Adapted::new(base, adapters).unwrap().open(backend, capacity).unwrap();
    model.evaluate(backend, Batch::whole(3, 33), &inputs, &targets, &[], &mut [0.0; 99])
}

#[test]
fn an_adapter_learns_and_its_base_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let base = base(folder.path());
    let bytes = std::fs::read(base.path()).unwrap();
    for edit in [
        |_: &mut Config| {},
        |config: &mut Config| config.adapter.weights = AdapterWeights::Bf16,
        |config: &mut Config| config.adapter.scale = AdapterScale::Learned,
        |config: &mut Config| (config.adapter.dropout, config.adapter.rate_b) = (0.1, 4.0),
        |config: &mut Config| (config.adapter.group, config.adapter.rate_b) = (true, 4.0),
        |config: &mut Config| (config.storage.m, config.storage.v) = (Moment::Int8, SecondMoment::Factored),
    ] {
        let mut config = lora();
        edit(&mut config);
        let mut trainer = trainer(&config, &base, Box::new(Cpu::new()));
        let (inputs, targets) = batch(0);
        let before = trainer.evaluate(3, &inputs, &targets);
        for _ in 0..30 {
            trainer.step(&inputs, &targets);
        }
        let after = trainer.evaluate(3, &inputs, &targets);
        assert!(after < before - 20.0, "the sum of the losses was {before} and is {after}");
    }
    assert!(std::fs::read(base.path()).unwrap() == bytes, "the base's file was written to");
}

#[test]
fn a_new_adapter_and_one_at_scale_zero_are_the_base() {
    let folder = tempfile::tempdir().unwrap();
    let (base, path) = (base(folder.path()), folder.path().join("adapter.tetrad"));
    let alone = loss(&base, &[], &mut Cpu::new());
    let mut trainer = trainer(&lora(), &base, Box::new(Cpu::new()));
    let (inputs, targets) = batch(9);
    assert_eq!(trainer.evaluate(3, &inputs, &targets).to_bits(), alone.to_bits(), "B is 0 at first");
    steps(&mut trainer, 0..25);
    let trained = trainer.evaluate(3, &inputs, &targets);
    write(&trainer, Extent::Weights, &path);
    let open = || Checkpoint::open_sound(&path).unwrap();
    assert_eq!(loss(&base, &[(open(), 0.0)], &mut Cpu::new()).to_bits(), alone.to_bits());
    assert_eq!(loss(&base, &[(open(), 1.0)], &mut Cpu::new()).to_bits(), trained.to_bits());
    assert!((trained - alone).abs() > 1.0, "{trained} and {alone}");
    // Two add up, and a factor is a factor.
    let halves = loss(&base, &[(open(), 0.5), (open(), 0.5)], &mut Cpu::new());
    assert!((halves - trained).abs() < 1e-3, "{halves} and {trained}");
    let twice = loss(&base, &[(open(), 2.0)], &mut Cpu::new());
    let both = loss(&base, &[(open(), 1.0), (open(), 1.0)], &mut Cpu::new());
    assert!((twice - both).abs() < 1e-3 && (twice - trained).abs() > 0.1, "{twice}, {both}, {trained}");
}

#[test]
fn threads_micro_batches_and_checkpointing_do_not_change_a_byte() {
    let folder = tempfile::tempdir().unwrap();
    let base = base(folder.path());
    let run = |threads: usize, edit: &dyn Fn(&mut Config)| {
        let mut config = lora();
        (config.adapter.dropout, config.adapter.scale, config.adapter.group) = (0.2, AdapterScale::Learned, true);
        config.train.batch = 4;
        config.train.sequence = 25;
        edit(&mut config);
        let cpu = Cpu::with_threads(Isa::best(), threads);
        let mut trainer = trainer(&config, &base, Box::new(cpu));
        for number in 0..4 {
            let (inputs, targets) = batch(number);
            let [inputs, targets] = [inputs, targets].map(|mut tokens| {
                tokens.push(7);
                tokens
            });
            trainer.step(&inputs, &targets);
        }
        whole_state(&trainer)
    };
    let expected = run(1, &|_| {});
    for threads in [2, 7] {
        assert!(run(threads, &|_| {}) == expected, "{threads} threads");
    }
    for micro_batch in [1, 2, 3] {
        assert!(run(1, &|config| config.train.micro_batch = micro_batch) == expected, "{micro_batch} at once");
    }
    let recomputed = |config: &mut Config| {
        (config.run.activation_checkpointing, config.train.micro_batch) = (ActivationCheckpointing::Block, 1);
    };
    assert!(run(2, &recomputed) == expected, "recomputed");
}

#[test]
fn every_rule_trains_both_factors_and_a_resumed_run_ends_in_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let (base, path) = (base(folder.path()), folder.path().join("step.tetrad"));
    for &rule in Rule::ALL {
        let mut config = Config { optimizer: OptimizerConfig::of(rule), ..lora() };
        config.optimizer.lr = config.optimizer.lr.max(1e-3);
        if rule.reads("rank") {
            config.optimizer.rank = 2;
        }
        config.validate().unwrap();
        let mut whole = trainer(&config, &base, Box::new(Cpu::new()));
        let first = weights(&whole);
        steps(&mut whole, 0..3);
        write(&whole, Extent::Full, &path);
        let size = std::fs::metadata(&path).unwrap().len();
        assert!(size < std::fs::metadata(base.path()).unwrap().len(), "{size} bytes hold more than the adapter");
        let losses = steps(&mut whole, 3..6);
        let last = whole_state(&whole);
        for (spec, (before, after)) in whole.model().specs.iter().zip(first.iter().zip(&weights(&whole))) {
            assert_eq!(before != after, spec.kind.is_adapter(), "{rule:?}: {}", spec.kind.name());
        }

        let mut resumed = trainer(&config, &base, Box::new(Cpu::new()));
        Checkpoint::open_sound(&path).unwrap().restore(&mut resumed, "text").unwrap();
        assert_eq!(steps(&mut resumed, 3..6), losses, "{rule:?}");
        assert!(whole_state(&resumed) == last, "{rule:?}");
    }
}

#[test]
fn backward_ends_at_the_lowest_adapted_block_and_nothing_is_kept_below() {
    let folder = tempfile::tempdir().unwrap();
    let base = base(folder.path());
    let mut config = lora();
    config.adapter.layers = "1".into();
    let upper = plan(&config, &Cpu::new()).0;
    let both = plan(&lora(), &Cpu::new()).0;
    let activations = [&upper, &both].map(|plan| plan.category(Category::Activations));
    assert!(activations[0] < activations[1], "{activations:?}");
    let mut trainer = trainer(&config, &base, Box::new(Cpu::new()));
    assert_eq!(trainer.plan().total(), upper.total(), "the plan is the run's");
    let passes = |trainer: &Trainer| trainer.model().passes.load(std::sync::atomic::Ordering::Relaxed);
    steps(&mut trainer, 0..1);
    assert_eq!(passes(&trainer), 3, "two blocks forward, one back");
    let kept = |plan: &tetrad::memory::Plan, category| plan.category(category);
    for category in [Category::Residue, Category::Weights] {
        let full = plan(&small::config(), &Cpu::new()).0;
        assert!(kept(&upper, category) < kept(&full, category) / 4, "{category:?} of a frozen base is not planned");
    }
    let kinds = trainer.model().specs.iter().filter(|spec| !spec.state.is_empty()).map(|spec| spec.kind);
    assert!(kinds.clone().all(ParamKind::is_adapter) && kinds.count() == 14, "state of the adapter alone");
}

#[test]
fn another_base_and_other_settings_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (base, path) = (base(folder.path()), folder.path().join("step.tetrad"));
    let config = lora();
    let mut first = trainer(&config, &base, Box::new(Cpu::new()));
    steps(&mut first, 0..1);
    write(&first, Extent::Full, &path);
    let saved = Checkpoint::open(&path).unwrap();
    let other = Config { run: tetrad::config::RunConfig { seed: 5, ..config.run.clone() }, ..config.clone() };
    let elsewhere = tempfile::tempdir().unwrap();
    let strange = small::trainer(&Config { adapter: Default::default(), ..other }, Box::new(Cpu::new()));
    small::write(&strange, &elsewhere.path().join("other.tetrad"));
    let strange = Checkpoint::open(&elsewhere.path().join("other.tetrad")).unwrap();
    let mut second = trainer(&config, &strange, Box::new(Cpu::new()));
    for found in [saved.restore(&mut second, "text"), saved.start(&mut second)] {
        let error = found.unwrap_err().to_string();
        let fingerprints = [base.fingerprint(), strange.fingerprint()].map(|found| found.to_string());
        assert!(fingerprints.iter().all(|found| error.contains(found)), "{error}");
    }
    let mut changed = config.clone();
    changed.adapter.alpha = 9.0;
    let mut third = trainer(&changed, &base, Box::new(Cpu::new()));
    for found in [saved.restore(&mut third, "text"), saved.start(&mut third)] {
        assert!(found.unwrap_err().to_string().contains("adapter.alpha"));
    }
    let mut fourth = trainer(&config, &base, Box::new(Cpu::new()));
    saved.start(&mut fourth).unwrap();
    assert_eq!(fourth.counters().step, 0, "the weights alone");
}
