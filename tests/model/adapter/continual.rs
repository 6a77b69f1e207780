//! LAE: the recorded course of both modules over two tasks, the recorded ensembles, and two experts in one batch.

use crate::harness::Golden;
use crate::harness::adapter::{
    RecordedAdapter, base, lora, recorded, recorded_bottleneck, recorded_lora, recorded_prefix, trainer, write,
};
use crate::harness::operands::assert_near;
use crate::harness::small::batch;
use crate::harness::state::{read, weight_spans, whole_state};
use tetrad::backend::cpu::{Cpu, Isa};
use tetrad::backend::{Backend, IGNORE};
use tetrad::checkpoint::{Adapted, Capacity, Checkpoint, Extent};
use tetrad::config::{Config, Offline, Stage};
use tetrad::memory::Category;
use tetrad::model::{
    AdapterConfig, AdapterPlace, AdapterScale, AdapterWeights, Batch, Ensemble, ExpertLogits, Generator, ParamKind,
    Posterior, Sampling,
};
use tetrad::optim::{OptimizerConfig, Rule};
use tetrad::train::{Trainer, plan};

/// The agreement that the recordings of trajectories ask for.
const ABSOLUTE: f64 = 1e-4;
const RELATIVE: f64 = 1e-3;

fn stage(task: u64, freeze: u64, keep: f64) -> Stage {
    let offline = (task > 1).then_some(Offline { keep, keep_at_end: 1.0 });
    Stage { task, freeze, offline, ensemble: Ensemble::Posterior, orthogonal: None }
}

/// What was recorded of a module after step `step` of `steps` of a task, under the names of an adapter by itself.
fn recorded_module(golden: &Golden, task: u64, offline: bool, step: usize, steps: usize) -> Golden {
    let module = format!("task{task}.{}.", if offline { "offline" } else { "online" });
    let tensors = golden.tensors.iter().filter_map(|(name, (shape, all))| {
        let count = all.len() / steps;
        Some((name.strip_prefix(&module)?.to_owned(), (shape[1..].to_vec(), all[step * count..][..count].to_vec())))
    });
    Golden { tensors: tensors.collect(), metadata: Default::default() }
}

/// The values of a float32 tensor.
fn values(trainer: &Trainer, id: usize) -> Vec<f32> {
    let span = weight_spans(&trainer.model().stored[id])[0];
    read(trainer, span).chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// Both modules of an adapter after every step of some tasks, `tensors` of each, the first `freeze` steps of later tasks
/// frozen.
fn course(name: &str, adapter: AdapterConfig, (tasks, steps, freeze): (u64, usize, u64), tensors: usize) {
    let mut run = RecordedAdapter::load(name, adapter);
    run.config.optimizer =
        OptimizerConfig { name: Rule::Adam, lr: 0.02, weight_decay: 0.0, ..OptimizerConfig::default() };
    (run.config.train.batch, run.config.train.sequence, run.config.train.steps) = (2, 16, steps as u64);
    let folder = tempfile::tempdir().unwrap();
    let mut previous: Option<Checkpoint> = None;
    for task in 1..=tasks {
        run.config.continual.stage = Some(stage(task, if task > 1 { freeze } else { 0 }, 0.9));
        let mut trainer = match &previous {
            None => run.trainer_from(Box::new(Cpu::new()), &run.golden, "init."),
            Some(file) => {
                let mut trainer = run.untrained(Box::new(Cpu::new()));
                file.start(&mut trainer).unwrap();
                trainer
            }
        };
        let tokens = run.golden.numbers(&format!("task{task}.tokens")).to_vec();
        let losses = run.golden.numbers(&format!("task{task}.losses")).to_vec();
        for step in 0..steps {
            let rows: Vec<Vec<u32>> =
                tokens[34 * step..][..34].chunks(17).map(|row| row.iter().map(|&id| id as u32).collect()).collect();
            let inputs: Vec<u32> = rows.iter().flat_map(|row| row[..16].to_vec()).collect();
            let targets: Vec<u32> = rows.iter().flat_map(|row| row[1..].to_vec()).collect();
            let report = trainer.step(&inputs, &targets);
            let what = format!("{name}, task {task}, step {}", step + 1);
            assert_near(&[report.loss as f32], &[losses[step]], 0.0, 2e-3, &what);
            let modules = [false, true].map(|offline| recorded_module(&run.golden, task, offline, step, steps));
            let mut seen = 0;
            for (id, spec) in trainer.model().specs.iter().enumerate().filter(|(_, spec)| spec.kind.is_adapter()) {
                let module = &modules[usize::from(!spec.kind.is_trained_adapter())];
                let wanted = recorded(module, "", spec.kind).expect("every tensor was recorded");
                let wanted: Vec<f64> = wanted.iter().map(|&x| f64::from(x)).collect();
                let what = format!("{what}: {}", spec.kind.name());
                assert_near(&values(&trainer, id), &wanted, ABSOLUTE, RELATIVE, &what);
                seen += 1;
            }
            assert_eq!(seen, if task > 1 { 2 * tensors } else { tensors }, "{what}");
            assert!(task == 1 || modules[1].tensors.len() == tensors, "and all that was recorded");
        }
        let path = folder.path().join(format!("{task}.tetrad"));
        write(&trainer, Extent::Weights, &path);
        previous = Some(Checkpoint::open_sound(&path).unwrap());
    }
}

#[test]
fn golden_lae_lora_both_modules_after_every_step_of_two_tasks() {
    // Two layers, k and v: A, B and scale.
    course("lae_lora", recorded_lora(&["k", "v"], AdapterScale::Learned), (2, 10, 0), 12);
}

#[test]
fn golden_lae_prefix_both_modules_after_every_step_of_two_tasks() {
    // Two layers: keys and values, and their scales.
    course("lae_prefix", recorded_prefix(AdapterScale::Learned, true), (2, 10, 0), 8);
}

#[test]
fn golden_lae_adapter_both_modules_after_every_step_of_three_tasks_frozen_at_first() {
    // Two layers: down, up, their biases, and a scale.
    course("lae_adapter", recorded_bottleneck(AdapterPlace::Attention), (3, 5, 2), 10);
}

#[test]
fn golden_lae_lora_ensembles() {
    let golden = Golden::load("adapters/lae_lora");
    let (online, offline) = (golden.floats("eval.logits.online"), golden.floats("eval.logits.offline"));
    let vocab = golden.tensors["eval.logits.online"].0[2];
    let tokens = golden.numbers("eval.tokens");
    let mut seen = Posterior::default();
    for at in 0..4 * 16 {
        let (row, position) = (at / 16, at % 16);
        if position == 0 {
            seen = Posterior::default();
        }
        let both = ExpertLogits::new([&online, &offline].map(|logits| &logits[at * vocab..][..vocab]));
        let weight = golden.numbers("eval.posterior_weight_online")[at];
        assert_near(&[seen.online()], &[weight], 1e-6, 1e-6, "the online expert's weight");
        let target = tokens[17 * row + position + 1] as usize;
        let score = both.score(target);
        let nll = |name: &str| [-golden.numbers(&format!("eval.nll.{name}"))[at]];
        for (ensemble, found) in [
            (Ensemble::Online, score.experts[0]),
            (Ensemble::Offline, score.experts[1]),
            (Ensemble::Max, score.max),
            (Ensemble::Geometric, score.geometric),
            (Ensemble::Mean, Posterior::default().mix(score.experts)),
            (Ensemble::Posterior, seen.mix(score.experts)),
        ] {
            assert_near(&[found], &nll(ensemble.name()), 1e-6, 1e-6, ensemble.name());
            if [Ensemble::Online, Ensemble::Offline].contains(&ensemble) {
                continue;
            }
            let mut out = vec![0.0; vocab];
            both.log_probabilities(ensemble, seen, &mut out);
            let wanted = &golden.numbers(&format!("eval.log_probabilities.{}", ensemble.name()))[at * vocab..][..vocab];
            assert_near(&out, wanted, 1e-5, 1e-6, ensemble.name());
        }
        seen.see(score.experts);
        if position == 15 {
            // The choice of the whole sequence is where the posterior ends.
            let offline = golden.numbers("eval.choice")[row] == 1.0;
            assert_eq!(seen.online() < 0.5, offline, "sequence {row}");
        }
    }
}

/// An adapter of two tasks beside the small base.
fn two_tasks(base: &Checkpoint, config: &Config, backend: impl Fn() -> Box<dyn Backend>) -> Trainer {
    let mut config = config.clone();
    (config.optimizer.lr, config.train.steps, config.train.warmup) = (0.02, 12, 0);
    config.continual.stage = Some(stage(1, 0, 0.9));
    let mut first = trainer(&config, base, backend());
    for number in 0..12 {
        let (inputs, targets) = batch(number);
        first.step(&inputs, &targets);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("first.tetrad");
    write(&first, Extent::Weights, &path);
    config.continual.stage = Some(stage(2, 3, 0.9));
    let mut second = trainer(&config, base, backend());
    Checkpoint::open_sound(&path).unwrap().start(&mut second).unwrap();
    for number in 100..112 {
        let (inputs, targets) = batch(number);
        second.step(&inputs, &targets);
    }
    second
}

#[test]
fn a_frozen_step_moves_nothing_but_the_offline_module() {
    let folder = tempfile::tempdir().unwrap();
    let base = base(folder.path());
    let mut config = lora();
    (config.train.steps, config.optimizer.lr) = (8, 0.02);
    config.continual.stage = Some(stage(2, 2, 0.5));
    let mut trainer = trainer(&config, &base, Box::new(Cpu::new()));
    let of = |trainer: &Trainer, offline: bool| -> Vec<Vec<f32>> {
        let wanted = |kind: ParamKind| kind.is_adapter() && kind.is_trained_adapter() != offline;
        let specs = trainer.model().specs.iter().enumerate().filter(|(_, spec)| wanted(spec.kind));
        specs.map(|(id, _)| values(trainer, id)).collect()
    };
    let (mut online, mut offline) = (of(&trainer, false), of(&trainer, true));
    for number in 0..4 {
        let (inputs, targets) = batch(number);
        trainer.step(&inputs, &targets);
        let now = of(&trainer, false);
        assert_eq!(now == online, number < 2, "step {number}");
        for (offline, online) in offline.iter_mut().zip(&now) {
            offline.iter_mut().zip(online).for_each(|(offline, online)| *offline = 0.5 * *offline + 0.5 * online);
        }
        for (found, expected) in of(&trainer, true).iter().zip(&offline) {
            let expected: Vec<f64> = expected.iter().map(|&x| f64::from(x)).collect();
            assert_near(found, &expected, 1e-7, 1e-6, "the offline module");
        }
        online = now;
    }
}

#[test]
fn two_experts_in_one_batch_score_as_each_does_alone_and_write_by_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let base = base(folder.path());
    let mut config = lora();
    config.adapter.targets = ["embedding", "all", "head"].map(str::to_owned).into();
    let trainer = two_tasks(&base, &config, || Box::new(Cpu::new()));
    let path = folder.path().join("adapter.tetrad");
    write(&trainer, Extent::Weights, &path);
    let adapters = [(Checkpoint::open_sound(&path).unwrap(), 1.0)];
    let (inputs, targets) = batch(9);
    let capacity = Capacity { tokens: 99, keys: 33, sampling: false, packing: false };
    let alone = |ensemble| {
        let mut backend = Cpu::new();
        let model = Adapted::new(&base, &adapters).unwrap().with_ensemble(ensemble);
        let model = model.open(&mut backend, capacity).unwrap();
        assert!(!model.has_experts());
        model.evaluate(&mut backend, Batch::whole(3, 33), &inputs, &targets, &[], &mut [0.0; 99])
    };
    let mut backend = Cpu::new();
    let adapted = Adapted::new(&base, &adapters).unwrap();
    assert_eq!(adapted.ensemble(), Some(Ensemble::Posterior));
    let model = adapted.open(&mut backend, capacity).unwrap();
    let both = model.evaluate_experts(&mut backend, Batch::whole(3, 33), &inputs, &targets, &[]);
    let (online, offline) = (alone(Ensemble::Online), alone(Ensemble::Offline));
    assert!((online - offline).abs() > 1e-2, "{online} and {offline}");
    assert!((both.sum(Ensemble::Online) - online).abs() < 1e-3, "{both:?} and {online}");
    assert!((both.sum(Ensemble::Offline) - offline).abs() < 1e-3, "{both:?} and {offline}");
    // Three sequences: at most ln 2 each, though the better expert may differ.
    assert!(both.sum(Ensemble::Posterior) < online.min(offline) + 3.0 * std::f64::consts::LN_2);
    assert!(both.sum(Ensemble::Mean) <= (online + offline) / 2.0 + 1e-3);
    // Text: what the mixture says of the next token is the mixture of what the experts say.
    let capacity = Capacity { tokens: 8, keys: 24, sampling: true, packing: false };
    let text: Vec<u32> = inputs[..20].to_vec();
    let experts = [Ensemble::Online, Ensemble::Offline].map(|ensemble| {
        let mut backend = Cpu::new();
        let model = Adapted::new(&base, &adapters).unwrap().with_ensemble(ensemble);
        let model = model.open(&mut backend, capacity).unwrap();
        let mut generator = Generator::new(&model);
        text.iter().map(|&token| generator.feed(&mut backend, &[token]).to_vec()).collect::<Vec<_>>()
    });
    let mut seen = Posterior::default();
    let at = |i: usize| ExpertLogits::new([&experts[0][i], &experts[1][i]]);
    (1..20).for_each(|i| seen.see(at(i - 1).of(text[i] as usize)));
    let model = adapted.open(&mut backend, capacity).unwrap();
    for ensemble in [Ensemble::Posterior, Ensemble::Max] {
        let mut expected = vec![0.0; 256];
        at(19).log_probabilities(ensemble, seen, &mut expected);
        let expected: Vec<f64> = expected.iter().map(|&x| f64::from(x)).collect();
        let mut whole = Generator::by(&model, ensemble);
        assert_near(whole.feed(&mut backend, &text), &expected, 1e-4, 1e-4, "fed at once");
        let mut pieces = Generator::by(&model, ensemble);
        pieces.feed(&mut backend, &text[..7]);
        pieces.feed(&mut backend, &[1, 2, 3]);
        pieces.rewind(7);
        text[7..].iter().for_each(|&token| {
            pieces.feed(&mut backend, &[token]);
        });
        pieces.rewind(19);
        assert_near(pieces.feed(&mut backend, &text[19..]), &expected, 1e-4, 1e-4, "fed in pieces, and gone back");
    }
}

/// An answer counts exactly if it is what sampling at a temperature of 0 writes, by every ensemble.
#[test]
fn answers_that_would_be_written_are_those_that_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let base = base(folder.path());
    let trainer = two_tasks(&base, &lora(), || Box::new(Cpu::new()));
    let path = folder.path().join("adapter.tetrad");
    write(&trainer, Extent::Weights, &path);
    let adapters = [(Checkpoint::open_sound(&path).unwrap(), 1.0)];
    // Where text is sampled the two experts do not get rows of their own.
    let capacity = Capacity { tokens: 132, keys: 33, sampling: true, packing: false };
    let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
    const PROMPT: usize = 9;
    for experts in [true, false] {
        let mut backend = Cpu::new();
        let adapted = Adapted::new(&base, if experts { &adapters } else { &[] }).unwrap();
        let adapted = if experts { adapted.with_ensemble(Ensemble::Posterior) } else { adapted };
        let model = adapted.open(&mut backend, capacity).unwrap();
        assert_eq!(model.has_experts(), experts);
        let mut differ = false;
        for (number, ensemble) in Ensemble::ALL.into_iter().enumerate() {
            let prompt = &batch(number as u32).0[..PROMPT];
            let mut writer = Generator::by(&model, ensemble);
            writer.feed(&mut backend, prompt);
            let mut text = prompt.to_vec();
            while text.len() < 20 {
                let token = writer.sample(&greedy).unwrap();
                text.push(token);
                writer.feed(&mut backend, &[token]);
            }
            // The same with its last token changed.
            let mut other = text.clone();
            *other.last_mut().unwrap() ^= 1;
            let (mut inputs, mut targets) = (vec![0; 66], vec![IGNORE; 66]);
            for (row, text) in [text, other].iter().enumerate() {
                inputs[33 * row..][..19].copy_from_slice(&text[..19]);
                targets[33 * row + PROMPT - 1..][..11].copy_from_slice(&text[PROMPT..]);
            }
            let written = model.writes(&mut backend, Batch::whole(2, 33), &inputs, &targets);
            assert!(written[0][number] && !written[1][number], "{ensemble:?}: {written:?}");
            differ |= written[0].contains(&false);
        }
        assert!(!experts || differ, "ensembles that all write the same would show nothing");
    }
}

#[test]
fn threads_and_a_resume_change_no_byte_of_either_module() {
    let folder = tempfile::tempdir().unwrap();
    let base = base(folder.path());
    let path = folder.path().join("whole.tetrad");
    let bytes = |trainer: &Trainer| {
        write(trainer, Extent::Full, &path);
        std::fs::read(&path).unwrap()
    };
    let of = |threads| two_tasks(&base, &lora(), || Box::new(Cpu::with_threads(Isa::best(), threads)));
    let whole = bytes(&of(1));
    assert!(bytes(&of(2)) == whole && bytes(&of(7)) == whole);
    let file = Checkpoint::open_sound(&path).unwrap();
    assert!(file.meta.has_offline() && file.meta.continual.unwrap().task == 2);
    let offline = |name: &str| name.starts_with("offline.model.layers.");
    assert_eq!(file.file().tensors().iter().filter(|tensor| offline(&tensor.spec.name)).count(), 28);
    // Between two blends of the second task, after its frozen steps.
    let mut config = lora();
    (config.optimizer.lr, config.train.steps, config.train.warmup) = (0.02, 12, 0);
    config.continual.stage = Some(stage(2, 3, 0.9));
    let steps = |trainer: &mut Trainer, numbers: std::ops::Range<u32>| {
        for number in numbers {
            let (inputs, targets) = batch(number);
            trainer.step(&inputs, &targets);
        }
    };
    let mut unbroken = trainer(&config, &base, Box::new(Cpu::new()));
    steps(&mut unbroken, 0..5);
    write(&unbroken, Extent::Full, &path);
    steps(&mut unbroken, 5..9);
    let mut resumed = trainer(&config, &base, Box::new(Cpu::new()));
    Checkpoint::open_sound(&path).unwrap().restore(&mut resumed, "text").unwrap();
    steps(&mut resumed, 5..9);
    assert!(whole_state(&resumed) == whole_state(&unbroken));
    // Another course of the offline module is another run.
    config.continual.stage = Some(stage(2, 3, 0.8));
    let mut other = trainer(&config, &base, Box::new(Cpu::new()));
    let refused = Checkpoint::open_sound(&path).unwrap().restore(&mut other, "text").unwrap_err().to_string();
    assert!(refused.contains("saved with continual = "), "{refused}");
}

#[test]
fn the_plan_has_the_offline_module_in_float32_and_without_state() {
    let mut config = lora();
    config.adapter.weights = AdapterWeights::Bf16;
    let bytes = |config: &Config| {
        let (plan, model) = plan(config, &Cpu::new());
        let named = plan.items().iter().filter(|item| item.name.starts_with("offline."));
        let online = model.specs.iter().filter(|spec| spec.kind.is_trained_adapter());
        let numbers: usize = online.map(|spec| spec.shape.len()).sum();
        (named.map(|item| item.span.bytes).sum::<usize>(), 4 * numbers, plan.category(Category::State))
    };
    let (none, _, state) = bytes(&config);
    config.continual.stage = Some(stage(2, 0, 0.9));
    let (found, wanted, later) = bytes(&config);
    assert_eq!((none, found, later), (0, wanted, state));
}
