//! An adapter beside a frozen base on the GPU backend: beside the CPU's, and with a base that is fetched.

use super::training::{CHECKED, DRIFT, SAME_WEIGHTS};
use crate::harness::adapter::{base, lora, recorded_bottleneck, recorded_prefix as prefix, trainer, write};
use crate::harness::gpu;
use crate::harness::small::batch;
use crate::harness::state::whole_state;
use tetrad::backend::Backend;
use tetrad::backend::cpu::Cpu;
use tetrad::checkpoint::{Adapted, Capacity, Checkpoint, Extent};
use tetrad::config::{Config, Offline, Stage};
use tetrad::model::{ActivationCheckpointing, AdapterKind, AdapterPlace, AdapterScale, Batch, Ensemble, Offload};
use tetrad::train::Trainer;

fn steps(trainer: &mut Trainer, numbers: std::ops::Range<u32>) -> Vec<f64> {
    let step = |number| {
        let (inputs, targets) = batch(number % 4);
        let report = gpu::checked(number < CHECKED, || trainer.step(&inputs, &targets));
        assert_eq!(trainer.backend().status(), Ok(()));
        assert_eq!((report.skipped_loss, report.skipped_gradients), (false, 0), "step {number}");
        report.loss
    };
    numbers.map(step).collect()
}

#[test]
fn an_adapter_takes_the_same_course_as_on_the_cpu() {
    let folder = tempfile::tempdir().unwrap();
    let base = base(folder.path());
    for (name, edit) in [
        ("plain", (|_| {}) as fn(&mut Config)),
        ("dropout, learned scales, groups, the upper block", |config| {
            (config.adapter.dropout, config.adapter.scale) = (0.2, AdapterScale::Learned);
            (config.adapter.layers, config.adapter.group) = ("1".into(), true);
        }),
        ("micro-batches, recomputed, the base fetched", |config| {
            (config.train.micro_batch, config.run.activation_checkpointing) = (1, ActivationCheckpointing::Block);
            config.offload.weights = Offload::Host;
        }),
        ("DoRA", |config| config.adapter.magnitude = true),
        ("embedding, head and learned scales", |config| {
            config.adapter.targets = ["embedding", "q", "head"].map(str::to_owned).into();
            config.adapter.scale = AdapterScale::Learned;
        }),
        ("a prefix", |config| config.adapter = prefix(AdapterScale::AlphaOverRank, false)),
        ("a compensated prefix, recomputed", |config| {
            config.adapter = prefix(AdapterScale::Learned, true);
            (config.train.micro_batch, config.run.activation_checkpointing) = (1, ActivationCheckpointing::Block);
        }),
        ("a bottleneck", |config| config.adapter = recorded_bottleneck(AdapterPlace::FeedForward)),
    ] {
        let mut config = lora();
        edit(&mut config);
        let mut cpu = trainer(&config, &base, Box::new(Cpu::new()));
        let mut cuda = trainer(&config, &base, Box::new(gpu::open()));
        assert!(whole_state(&cpu) == whole_state(&cuda), "{name}: first values are the same bytes");
        let [a, b] = [&mut cpu, &mut cuda].map(|trainer| steps(trainer, 0..12));
        for (number, (a, b)) in a.iter().zip(&b).enumerate() {
            let tolerance = if number < 2 { SAME_WEIGHTS } else { DRIFT };
            assert!((a - b).abs() <= tolerance * a, "{name}, step {number}: {a} and {b}");
        }
        // A few steps move a prefix, or a bottleneck that begins at 0, but little.
        let least = if config.adapter.kind == AdapterKind::Lora { 0.02 } else { 0.003 };
        assert!(b[8] < b[0] - least, "{name}: {b:?}");
    }
}

/// Wherever the base lies it is the same, and nothing is written back; an adapter of one device goes on on another.
#[test]
fn a_fetched_base_gives_the_same_bytes_and_a_state_moves_between_devices() {
    let folder = tempfile::tempdir().unwrap();
    let (base, path) = (base(folder.path()), folder.path().join("step.tetrad"));
    let run = |weights| {
        let mut config = lora();
        (config.offload.weights, config.run.dir) = (weights, folder.path().into());
        let mut cuda = trainer(&config, &base, Box::new(gpu::open()));
        steps(&mut cuda, 0..3);
        cuda
    };
    let here = run(Offload::Device);
    let expected = whole_state(&here);
    for eager in [false, true] {
        gpu::set_eager(eager);
        for weights in [Offload::Host, Offload::File] {
            assert!(whole_state(&run(weights)) == expected, "{weights:?}, eager {eager}");
        }
    }
    gpu::set_eager(false);
    write(&here, Extent::Full, &path);
    let mut cpu = trainer(&lora(), &base, Box::new(Cpu::new()));
    Checkpoint::open_sound(&path).unwrap().restore(&mut cpu, "text").unwrap();
    assert!(whole_state(&cpu) == expected);
    let mut here = here;
    let (inputs, targets) = batch(5);
    let [a, b] = [&mut cpu, &mut here].map(|trainer| trainer.evaluate(3, &inputs, &targets));
    assert!((a - b).abs() <= SAME_WEIGHTS * a, "{a} and {b}");

    // As `eval --adapter` has it.
    write(&here, Extent::Weights, &path);
    let adapters = [(Checkpoint::open_sound(&path).unwrap(), 1.0)];
    let capacity = Capacity { tokens: 99, keys: 33, sampling: false, packing: false };
    let mut backend = gpu::open();
    let model = Adapted::new(&base, &adapters).unwrap().open(&mut backend, capacity).unwrap();
    let evaluated = model.evaluate(&mut backend, Batch::whole(3, 33), &inputs, &targets, &[], &mut [0.0; 99]);
    assert_eq!(evaluated.to_bits(), b.to_bits());
}

/// A blend is arithmetic of single numbers: the same bytes everywhere. Two experts in one batch are what each is alone.
#[test]
fn the_offline_module_follows_to_the_same_bytes_and_two_experts_share_a_batch() {
    let folder = tempfile::tempdir().unwrap();
    let (base, path) = (base(folder.path()), folder.path().join("adapter.tetrad"));
    let mut config = lora();
    config.optimizer.lr = 0.02;
    let offline = Some(Offline { keep: 0.7, keep_at_end: 1.0 });
    let ensemble = Ensemble::Posterior;
    config.continual.stage = Some(Stage { task: 2, freeze: 3, offline, ensemble, orthogonal: None });
    let mut cpu = trainer(&config, &base, Box::new(Cpu::new()));
    let mut cuda = trainer(&config, &base, Box::new(gpu::open()));
    for number in 0..3 {
        steps(&mut cpu, number..number + 1);
        steps(&mut cuda, number..number + 1);
        assert!(whole_state(&cpu) == whole_state(&cuda), "after frozen step {number}");
    }
    steps(&mut cuda, 3..8);
    write(&cuda, Extent::Weights, &path);
    let adapters = [(Checkpoint::open_sound(&path).unwrap(), 1.0)];
    let (inputs, targets) = batch(2);
    let capacity = Capacity { tokens: 99, keys: 33, sampling: false, packing: false };
    let both = |mut backend: Box<dyn Backend>| {
        let model = Adapted::new(&base, &adapters).unwrap().open(backend.as_mut(), capacity).unwrap();
        let losses = model.evaluate_experts(backend.as_mut(), Batch::whole(3, 33), &inputs, &targets, &[]);
        assert_eq!(backend.status(), Ok(()));
        losses
    };
    let (cpu, cuda) = (both(Box::new(Cpu::new())), both(Box::new(gpu::open())));
    for ensemble in Ensemble::ALL {
        let (a, b) = (cpu.sum(ensemble), cuda.sum(ensemble));
        assert!((a - b).abs() <= SAME_WEIGHTS * a, "{ensemble:?}: {a} and {b}");
    }
    for ensemble in [Ensemble::Online, Ensemble::Offline] {
        let mut backend = gpu::open();
        let model = Adapted::new(&base, &adapters).unwrap().with_ensemble(ensemble);
        let model = model.open(&mut backend, capacity).unwrap();
        let alone = model.evaluate(&mut backend, Batch::whole(3, 33), &inputs, &targets, &[], &mut [0.0; 99]);
        assert!((alone - cuda.sum(ensemble)).abs() <= SAME_WEIGHTS * alone, "{ensemble:?}: {alone}");
    }
}
