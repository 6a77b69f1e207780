//! Computing a block's activations a second time instead of keeping them changes no byte, and takes less memory.

use crate::harness::state;
use tetrad::backend::cpu::Cpu;
use tetrad::config::Config;
use tetrad::memory::Category;
use tetrad::model::Scheme;
use tetrad::model::{ActivationCheckpointing, ActivationQuant, Generator};
use tetrad::train::{Trainer, plan};

fn config() -> Config {
    let mut config = Config::default();
    let model = &mut config.model;
    (model.hidden, model.intermediate, model.layers, model.heads, model.kv_heads) = (48, 88, 3, 4, 2);
    (config.train.batch, config.train.sequence, config.train.warmup) = (4, 24, 2);
    config.storage.group = 32;
    config
}

fn trainer(config: &Config, kept: ActivationCheckpointing) -> Trainer {
    let mut config = config.clone();
    config.run.activation_checkpointing = kept;
    let mut trainer = Trainer::new(&config, Box::new(Cpu::new())).unwrap();
    trainer.initialize();
    trainer
}

/// The text of step `number`.
fn batch(number: u32) -> (Vec<u32>, Vec<u32>) {
    let text: Vec<u32> = (0..97).map(|i| (i * i + number * 31) % 256).collect();
    (text[..96].to_vec(), text[1..].to_vec())
}

#[test]
fn recomputed_activations_give_the_same_bytes() {
    let edits: [fn(&mut Config); 4] = [
        |_| {},
        |config| config.model.tied = true,
        |config| config.activations.quant = ActivationQuant::Int4,
        |config| (config.storage.scheme, config.storage.feedback) = (Scheme::Asymmetric, true),
    ];
    for (i, edit) in edits.into_iter().enumerate() {
        let mut config = config();
        edit(&mut config);
        let mut kept = trainer(&config, ActivationCheckpointing::None);
        let mut again = trainer(&config, ActivationCheckpointing::Block);
        let start = state::whole_state(&kept);
        for number in 0..6 {
            let (inputs, targets) = batch(number);
            let (a, b) = (kept.step(&inputs, &targets), again.step(&inputs, &targets));
            assert_eq!((a.loss.to_bits(), a.grad_norm.to_bits()), (b.loss.to_bits(), b.grad_norm.to_bits()));
        }
        assert!(state::whole_state(&kept) != start, "the steps moved nothing");
        assert!(state::whole_state(&kept) == state::whole_state(&again), "variant {i} ended in other bytes");
    }
}

#[test]
fn sampling_between_steps_gives_the_same_logits_whatever_a_step_keeps() {
    let config = config();
    let (mut kept, mut again) =
        (trainer(&config, ActivationCheckpointing::None), trainer(&config, ActivationCheckpointing::Block));
    for number in 0..2 {
        let (inputs, targets) = batch(number);
        kept.step(&inputs, &targets);
        again.step(&inputs, &targets);
    }
    let logits = |trainer: &mut Trainer| {
        let (model, backend) = trainer.model_and_backend();
        let mut generator = Generator::new(model);
        let mut all = Vec::new();
        // A prompt, then token by token, past the end of the caches.
        for tokens in [&[1, 2, 3, 4, 5][..]].into_iter().chain((0..30).map(|_| &[7][..])) {
            all.extend_from_slice(generator.feed(backend, tokens));
        }
        all
    };
    assert_eq!(logits(&mut kept), logits(&mut again));
}

/// Texts of every length that a sequence has, and none at all: the plan is the same, whatever a step keeps.
#[test]
fn sampling_takes_no_byte_beside_a_step() {
    use ActivationCheckpointing::{Block, BlockInt4, None};
    for (preset, checkpointing) in
        [("quickstart", None), ("quickstart", Block), ("7b-compact", Block), ("7b-compact", BlockInt4)]
    {
        let mut config = Config::load(Some(preset), &[]).unwrap();
        (config.run.activation_checkpointing, config.train.batch) = (checkpointing, 1);
        (config.train.sequence, config.model.context) = (512, 512);
        let total = |tokens| {
            let mut config = config.clone();
            config.train.sample_tokens = tokens;
            let (plan, model) = plan(&config, &Cpu::new());
            let sampling = model.sampling.first().expect("text can be sampled");
            assert_eq!(sampling.positions, 512.min(tokens + config.train.sample_prompt.len() + 1));
            let caches = plan.items().iter().filter(|item| item.name.contains("cached"));
            let bytes: usize = caches.map(|item| item.span.bytes).sum();
            assert_eq!(bytes, 2 * config.model.layers * sampling.positions * config.model.kv_width() * 4);
            plan.total()
        };
        let totals = [0, 200, 100_000].map(total);
        assert!(totals.iter().all(|&total| total == totals[0]), "{preset} {checkpointing:?}: {totals:?}");
    }
}

#[test]
fn recomputing_keeps_one_blocks_activations_and_every_input() {
    let mut config = Config::default();
    config.model.layers = 8;
    let activations = |kept| trainer(&config, kept).plan().total();
    let (keep, recompute) = (activations(ActivationCheckpointing::None), activations(ActivationCheckpointing::Block));
    let trainer = trainer(&config, ActivationCheckpointing::Block);
    let tokens = config.train.batch * config.train.sequence;
    // 16 h + 6 f of two bytes each in the published arithmetic, of four bytes here, less the input that stays.
    let block = 4 * tokens * (7 * config.model.hidden + 3 * config.model.intermediate);
    assert!(recompute + 6 * block < keep, "{recompute} bytes planned, {keep} with everything kept");
    assert!(trainer.plan().category(Category::Activations) > 8 * 4 * tokens * config.model.hidden, "inputs are kept");
}
