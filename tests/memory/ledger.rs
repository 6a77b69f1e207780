//! What is allocated is what was planned: over steps, an evaluation, a save and a sample, by the count of every byte.

use crate::alone;
use crate::counting::peak;
use crate::harness::adapter::kinds;
use tetrad::backend::cpu::Cpu;
use tetrad::checkpoint::{Checkpoint, Extent, Meta, save};
use tetrad::config::Config;
use tetrad::model::{ActivationCheckpointing, Generator, Sampling};
use tetrad::train::{Trainer, plan};

/// What is not in the plan: the plan itself, a batch's losses, a sample's logits, one piece of a file, its metadata.
const BESIDE: u64 = 3 << 20;

fn run(config: &Config, dir: &std::path::Path) {
    let mut trainer = Trainer::new(config, Box::new(Cpu::new())).unwrap();
    trainer.initialize();
    use_all(trainer, dir);
}

/// Steps, evaluates, saves and samples.
fn use_all(mut trainer: Trainer, dir: &std::path::Path) {
    let config = &trainer.config().clone();
    let tokens = config.train.batch * config.train.sequence;
    let text: Vec<u32> = (0..=tokens as u32).map(|i| i * 7 % 256).collect();
    trainer.step(&text[..tokens], &text[1..]);
    trainer.evaluate(8, &text[..8 * config.train.sequence], &text[1..=8 * config.train.sequence]);
    let meta = Meta::new(config, trainer.counters(), false, "text");
    save(trainer.model(), trainer.backend(), &meta, None, Extent::Full, &dir.join("saved")).unwrap();
    let (model, backend) = trainer.model_and_backend();
    let mut generator = Generator::new(model);
    generator.feed(backend, &text[..9]);
    let sampling = Sampling::default();
    for _ in 0..5 {
        let token = generator.sample(&sampling).unwrap();
        generator.feed(backend, &[token]);
    }
}

#[test]
fn allocations_are_the_plan() {
    alone("ledger::allocations_are_the_plan", compare);
}

fn compare() {
    let folder = tempfile::tempdir().unwrap();
    rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap().install(|| {
        for kept in [ActivationCheckpointing::None, ActivationCheckpointing::Block, ActivationCheckpointing::BlockInt4]
        {
            let mut config = Config::default();
            // Large enough that two parts in a hundred are more than what is beside the plan; many rows of few columns,
            // since work grows with the square of the columns.
            (config.model.hidden, config.model.intermediate) = (192, 512);
            (config.train.batch, config.train.micro_batch) =
                if kept == ActivationCheckpointing::None { (40, 40) } else { (96, 48) };
            config.run.activation_checkpointing = kept;
            let planned = plan(&config, &Cpu::new()).0.total() as u64;
            let measured = peak(|| run(&config, folder.path()));
            assert!(measured <= planned + BESIDE, "{kept:?}: {measured} bytes at once, {planned} planned");
            let apart = measured.abs_diff(planned) as f64 / measured as f64;
            assert!(apart <= 0.02, "{kept:?}: {measured} bytes at once, {planned} planned: {apart:.4} apart");
        }
    });
}

#[test]
fn allocations_beside_a_mapped_base_are_the_plan() {
    alone("ledger::allocations_beside_a_mapped_base_are_the_plan", compare_adapters);
}

/// The base is in its file; the adapter, its state and the activations are what is allocated.
fn compare_adapters() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("base.tetrad");
    let sized = |mut config: Config| {
        (config.model.hidden, config.model.intermediate) = (192, 512);
        (config.train.batch, config.train.sequence) = (96, 128);
        // As above, two parts in a hundred are more than what is beside the plan.
        (config.run.activation_checkpointing, config.train.micro_batch) = (ActivationCheckpointing::Block, 48);
        config
    };
    rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap().install(|| {
        let base = sized(Config { adapter: Default::default(), ..kinds().remove(0).1 });
        let mut trainer = Trainer::new(&base, Box::new(Cpu::new())).unwrap();
        trainer.initialize();
        let meta = Meta::new(&base, trainer.counters(), false, "text");
        save(trainer.model(), trainer.backend(), &meta, None, Extent::Weights, &path).unwrap();
        drop(trainer);
        // Each kind once, with what takes most memory.
        let most = ["LoRA", "DoRA with dropout", "a compensated prefix", "a bottleneck with a learned scale"];
        let kinds: Vec<_> = kinds().into_iter().filter(|(name, _)| most.contains(name)).collect();
        assert_eq!(kinds.len(), most.len());
        for (name, config) in kinds {
            let config = sized(config);
            let planned = plan(&config, &Cpu::new()).0.total() as u64;
            let measured = peak(|| {
                let base = Checkpoint::open(&path).unwrap().base().unwrap();
                let mut trainer = Trainer::beside(&config, base, Box::new(Cpu::new())).unwrap();
                trainer.initialize();
                use_all(trainer, folder.path());
            });
            assert!(measured <= planned + BESIDE, "{name}: {measured} bytes at once, {planned} planned");
            let apart = measured.abs_diff(planned) as f64 / measured as f64;
            assert!(apart <= 0.02, "{name}: {measured} bytes at once, {planned} planned: {apart:.4} apart");
        }
    });
}
