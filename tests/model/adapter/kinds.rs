//! What holds of every kind of adapter: gradients are slopes, nothing about a run's shape changes a byte, at scale 0 there is
//! the base, packed samples and cached texts are what they are apart and whole.

use crate::harness::adapter::{base, kinds, trainer, write};
use crate::harness::operands::{assert_near, read_floats};
use crate::harness::small::batch;
use crate::harness::state::whole_state;
use tetrad::backend::cpu::{Cpu, Isa};
use tetrad::backend::{Backend, IGNORE, Param};
use tetrad::checkpoint::{Adapted, Capacity, Checkpoint, Extent};
use tetrad::config::Config;
use tetrad::memory::Span;
use tetrad::model::{ActivationCheckpointing, Batch, Generator, Model, fill};
use tetrad::train::Trainer;

/// A direction for the tensor of this number: numbers from -1 to 1.
fn direction(id: u32, count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 + id as usize * 31) % 17) as f32 / 8.0 - 1.0).collect()
}

/// A trainer whose adapter has values up to a tenth.
fn moved(config: &Config, base: &Checkpoint) -> Trainer {
    let mut trainer = trainer(config, base, Box::new(Cpu::new()));
    let (model, backend) = trainer.model_and_backend();
    let places: Vec<_> = model.specs.iter().zip(&model.stored).filter(|(spec, _)| spec.kind.is_adapter()).collect();
    for (spec, param) in places {
        let values: Vec<f32> = direction(spec.id + 5, spec.shape.len()).iter().map(|x| 0.1 * x + 0.03).collect();
        set(backend, param, &values);
    }
    trainer
}

fn set(backend: &mut dyn Backend, param: &Param, values: &[f32]) {
    let cols = param.weight.shape.cols;
    fill(backend, &param.weight, &mut |row, out| out.copy_from_slice(&values[row * cols..][..cols]));
}

/// The sum of the losses of a batch, in nats.
fn loss(model: &Model, backend: &mut dyn Backend, pass: Batch) -> f64 {
    let (inputs, targets) = batch(3);
    model.evaluate(backend, pass, &inputs, &targets, &[], &mut vec![0.0; inputs.len()])
}

#[test]
fn gradients_are_slopes_of_the_loss() {
    let folder = tempfile::tempdir().unwrap();
    let base = base(folder.path());
    for (name, config) in kinds() {
        let mut trainer = moved(&config, &base);
        let (inputs, targets) = batch(3);
        let (model, backend) = trainer.model_and_backend();
        let pass = Batch::whole(3, 33);
        model.upload_tokens(backend, &inputs, &targets);
        model.forward(backend, pass);
        model.loss_and_head_grad(backend, pass, 1.0);
        let mut slopes = Vec::new();
        let mut add = |backend: &mut dyn Backend, param: &Param, grad: Span| {
            let products = read_floats(backend, grad).into_iter().zip(direction(param.id, grad.bytes / 4));
            slopes.push((param.id, products.map(|(grad, way)| grad * f64::from(way)).sum::<f64>()));
        };
        model.backward(backend, pass, 1.0, &mut add);
        let trained = model.specs.iter().filter(|spec| spec.kind.is_adapter()).count();
        assert_eq!(slopes.len(), trained, "{name}: every tensor gets its gradient, once");
        let all = slopes.iter().map(|(_, slope)| slope.abs()).fold(0.0, f64::max);
        for (id, slope) in slopes {
            let (spec, param) = (model.specs[id as usize].clone(), model.stored[id as usize]);
            // The norms of DoRA's rows are constants to the gradients of A and B.
            if config.adapter.magnitude && !spec.kind.is_vector() {
                continue;
            }
            let values: Vec<f32> = read_floats(backend, param.weight.data).iter().map(|&x| x as f32).collect();
            const BY: f32 = 3e-3;
            let [up, down] = [BY, -BY].map(|by| {
                let way = direction(id, values.len());
                let moved: Vec<f32> = values.iter().zip(way).map(|(x, way)| x + by * way).collect();
                set(backend, &param, &moved);
                loss(model, backend, pass)
            });
            set(backend, &param, &values);
            let found = (up - down) / (2.0 * f64::from(BY));
            let error = (found - slope).abs();
            let name = format!("{name}, {}", spec.kind.name());
            assert!(error < 0.02 * slope.abs() + 2e-3 * all, "{name}: {found}, by the gradient {slope}");
        }
    }
}

#[test]
fn threads_micro_batches_and_checkpointing_do_not_change_a_byte() {
    let folder = tempfile::tempdir().unwrap();
    let base = base(folder.path());
    for (name, config) in kinds() {
        let run = |threads: usize, edit: &dyn Fn(&mut Config)| {
            let mut config = config.clone();
            (config.train.batch, config.train.sequence) = (4, 25);
            edit(&mut config);
            let mut trainer = trainer(&config, &base, Box::new(Cpu::with_threads(Isa::best(), threads)));
            for number in 0..3 {
                let (inputs, targets) = batch(number);
                let [inputs, targets] = [inputs, targets].map(|mut tokens| {
                    tokens.push(7);
                    tokens
                });
                let report = trainer.step(&inputs, &targets);
                assert!(report.loss.is_finite() && report.skipped_gradients == 0, "{name}: {report:?}");
            }
            whole_state(&trainer)
        };
        let expected = run(1, &|_| {});
        for threads in [2, 7] {
            assert!(run(threads, &|_| {}) == expected, "{name}: {threads} threads");
        }
        for micro_batch in [1, 2, 3] {
            let edit = |config: &mut Config| config.train.micro_batch = micro_batch;
            assert!(run(1, &edit) == expected, "{name}: {micro_batch} at once");
        }
        let recomputed = |config: &mut Config| {
            (config.run.activation_checkpointing, config.train.micro_batch) = (ActivationCheckpointing::Block, 1);
        };
        assert!(run(2, &recomputed) == expected, "{name}: recomputed");
    }
}

#[test]
fn a_saved_adapter_is_resumed_evaluated_and_at_scale_zero_the_base() {
    let folder = tempfile::tempdir().unwrap();
    let (base, path) = (base(folder.path()), folder.path().join("adapter.tetrad"));
    let bytes = std::fs::read(base.path()).unwrap();
    let capacity = Capacity { tokens: 99, keys: 33, sampling: false, packing: false };
    let by = |adapters: &[(Checkpoint, f32)]| {
        let mut cpu = Cpu::new();
        let model = Adapted::new(&base, adapters).unwrap().open(&mut cpu, capacity).unwrap();
        loss(&model, &mut cpu, Batch::whole(3, 33))
    };
    let alone = by(&[]);
    let (inputs, targets) = batch(3);
    for (name, config) in kinds() {
        let mut whole = trainer(&config, &base, Box::new(Cpu::new()));
        let steps = |trainer: &mut Trainer, numbers: std::ops::Range<u32>| {
            for number in numbers {
                let (inputs, targets) = batch(number);
                trainer.step(&inputs, &targets);
            }
        };
        steps(&mut whole, 0..4);
        write(&whole, Extent::Full, &path);
        let saved = Checkpoint::open_sound(&path).unwrap();
        let trained = whole.evaluate(3, &inputs, &targets);
        assert!((trained - alone).abs() > 0.01, "{name}: {trained}, without it {alone}");
        let open = || Checkpoint::open_sound(&path).unwrap();
        assert_eq!(by(&[(open(), 1.0)]).to_bits(), trained.to_bits(), "{name}");
        assert_eq!(by(&[(open(), 0.0)]).to_bits(), alone.to_bits(), "{name} at scale 0");
        let half = by(&[(open(), 0.5)]);
        assert!(half != alone && half != trained, "{name}: {half}");
        steps(&mut whole, 4..7);
        let mut resumed = trainer(&config, &base, Box::new(Cpu::new()));
        saved.restore(&mut resumed, "text").unwrap();
        steps(&mut resumed, 4..7);
        assert!(whole_state(&resumed) == whole_state(&whole), "{name}: resumed");
    }
    assert!(std::fs::read(base.path()).unwrap() == bytes, "the base's file was written to");
}

/// Rows of several samples give each the losses and, in sum, the gradients that it has alone.
#[test]
fn packed_samples_are_what_they_are_apart() {
    let folder = tempfile::tempdir().unwrap();
    let base = base(folder.path());
    const LENGTHS: [usize; 5] = [10, 23, 33, 1, 32];
    let (inputs, mut targets) = batch(3);
    targets.iter_mut().step_by(6).for_each(|target| *target = IGNORE);
    let mut starts = Vec::new();
    let mut row = 0;
    for length in LENGTHS {
        starts.extend(vec![row as u32; length]);
        row = (row + length) % 33;
    }
    let pass =
        |trainer: &mut Trainer, (rows, length): (usize, usize), inputs: &[u32], targets: &[u32], starts: &[u32]| {
            let (model, backend) = trainer.model_and_backend();
            let pass = Batch::whole(rows, length);
            model.upload_tokens(backend, inputs, targets);
            model.upload_segments(backend, starts);
            model.forward(backend, pass);
            model.loss_and_head_grad(backend, pass, 1.0);
            let losses = read_floats(backend, model.acts.losses.head(4 * inputs.len()));
            let mut grads = std::collections::BTreeMap::new();
            let mut keep = |backend: &mut dyn Backend, param: &Param, grad: Span| {
                grads.insert(param.id, read_floats(backend, grad));
            };
            model.backward(backend, pass, 1.0, &mut keep);
            (losses, grads)
        };
    for (name, config) in kinds() {
        let mut packed = config.clone();
        packed.data.shares_rows = true;
        let (losses, grads) = pass(&mut moved(&packed, &base), (3, 33), &inputs, &targets, &starts);
        let mut alone = moved(&config, &base);
        let (mut from, mut sums) = (0, std::collections::BTreeMap::<u32, Vec<f64>>::new());
        for length in LENGTHS {
            let range = from..from + length;
            let (own, grads) = pass(&mut alone, (1, length), &inputs[range.clone()], &targets[range.clone()], &[]);
            assert_near(&losses[range], &own, 1e-5, 1e-5, &format!("losses with {name}"));
            for (id, grad) in grads {
                let sum = sums.entry(id).or_insert_with(|| vec![0.0; grad.len()]);
                sum.iter_mut().zip(grad).for_each(|(sum, x)| *sum += x);
            }
            from += length;
        }
        for (id, grad) in grads {
            let most = sums[&id].iter().fold(0.0f64, |most, x| most.max(x.abs()));
            assert_near(&grad, &sums[&id], 1e-4 * most + 1e-6, 1e-4, &format!("gradients of tensor {id} with {name}"));
        }
    }
}

/// A text that is fed in parts, from caches, has the logits of the text as a whole.
#[test]
fn cached_texts_are_what_they_are_as_a_whole() {
    let folder = tempfile::tempdir().unwrap();
    let (base, path) = (base(folder.path()), folder.path().join("adapter.tetrad"));
    let text = &batch(5).0[..20];
    for (name, config) in kinds() {
        write(&moved(&config, &base), Extent::Weights, &path);
        let adapters = [(Checkpoint::open_sound(&path).unwrap(), 1.0)];
        let capacity = Capacity { tokens: 33, keys: 33, sampling: true, packing: false };
        let mut cpu = Cpu::new();
        let model = Adapted::new(&base, &adapters).unwrap().open(&mut cpu, capacity).unwrap();
        let mut generator = Generator::new(&model);
        generator.feed(&mut cpu, &text[..7]);
        for &token in &text[7..19] {
            generator.feed(&mut cpu, &[token]);
        }
        let found = generator.feed(&mut cpu, &text[19..]).to_vec();
        model.upload_tokens(&mut cpu, text, text);
        model.forward(&mut cpu, Batch::whole(1, text.len()));
        let logits = model.logits(&mut cpu, Batch::whole(1, text.len()), (text.len() - 1, 1));
        let whole = read_floats(&cpu, logits);
        let found: Vec<f64> = found.iter().map(|&x| f64::from(x)).collect();
        assert_near(&found, &whole, 1e-4, 1e-4, name);
    }
}
