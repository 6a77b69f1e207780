//! Every rule on packed weights and Adam's family on every storage learn real text, and what must not change a state does
//! not.

use crate::harness::in_one_thread;
use crate::harness::state::{read, weight_spans, whole_state};
use tetrad::backend::cpu::Cpu;
use tetrad::backend::{Compute, Moment, Param, SecondMoment};
use tetrad::config::Config;
use tetrad::data::{Batches, Tokens, Windows};
use tetrad::memory::Span;
use tetrad::model::{ActivationQuant, Attention, Block, Generator, Sampling, Scheme, TableStorage, Weights};
use tetrad::optim::{OptimizerConfig, Rule, Variant};
use tetrad::train::{Trainer, validate};

const STEPS: u64 = 100;

/// Odd widths: 40 and 72 are no multiples of 32.
fn tiny() -> Config {
    let mut config = Config::default();
    let model = &mut config.model;
    (model.hidden, model.intermediate, model.layers, model.heads, model.kv_heads) = (40, 72, 2, 4, 2);
    let train = &mut config.train;
    (train.steps, train.batch, train.sequence, train.warmup) = (STEPS, 4, 32, 10);
    config.storage.group = 32;
    config.optimizer = optimizer(Rule::StableSpam);
    config
}

/// A rule at a rate for so small a model, and for tables that have so few steps to learn in.
fn optimizer(name: Rule) -> OptimizerConfig {
    let config = match OptimizerConfig::of(name) {
        config if config.name.reads("rank") => OptimizerConfig { rank: 10, ..config },
        config => config,
    };
    match name {
        // Half a reset interval: each run sees one reset.
        Rule::StableSpam => OptimizerConfig { lr: 6e-3, reset_interval: 50, ..config },
        Rule::Spam => OptimizerConfig { lr: 6e-3, reset_interval: 50, reset_warmup: 10, ..config },
        Rule::Adamw | Rule::Adam | Rule::AdamMini => OptimizerConfig { lr: 6e-3, ..config },
        Rule::Lion | Rule::Scale => OptimizerConfig { lr: 3e-3, ..config },
        Rule::Adafactor => OptimizerConfig { lr: 3e-2, ..config },
        Rule::Muon => OptimizerConfig { adam_lr: 4e-3, ..config },
        Rule::Sgd | Rule::Galore | Rule::Fira | Rule::Apollo | Rule::ApolloMini => config,
    }
}

fn text(from: usize, len: usize) -> Tokens {
    let corpus = include_bytes!("../../assets/corpus/austen.txt");
    Tokens::from_ids(&corpus[from..from + len].iter().map(|&byte| byte.into()).collect::<Vec<u32>>())
}

fn trainer(config: &Config) -> Trainer {
    config.validate().unwrap_or_else(|e| panic!("{e}"));
    let mut trainer = Trainer::new(config, Box::new(Cpu::new())).unwrap();
    trainer.initialize();
    trainer
}

fn batch(config: &Config, samples: &Batches, position: u64) -> (Vec<u32>, Vec<u32>) {
    let tokens = config.train.batch * config.train.sequence;
    let (mut inputs, mut targets) = (vec![0; tokens], vec![0; tokens]);
    samples.fill(position, &mut inputs, &mut targets);
    (inputs, targets)
}

fn step(trainer: &mut Trainer, samples: &Batches) -> f64 {
    let (inputs, targets) = batch(trainer.config(), samples, trainer.counters().position);
    let report = trainer.step(&inputs, &targets);
    assert!(!report.skipped_loss && report.skipped_gradients == 0, "step {}: not finite", report.step);
    report.loss
}

fn held_out(trainer: &mut Trainer) -> f64 {
    let windows = Windows::new(text(100_000, 2_000), trainer.config().train.sequence, 0).unwrap();
    let (mut inputs, mut targets) = batch(trainer.config(), &Batches::new(text(0, 2_000), 32, 1).unwrap(), 0);
    validate(trainer, &windows, &mut inputs, &mut targets, &mut []).loss
}

type Planes = Vec<(Span, Vec<u8>)>;

fn planes<'a>(trainer: &Trainer, params: impl Iterator<Item = &'a Param>) -> Planes {
    params.flat_map(weight_spans).map(|span| (span, read(trainer, span))).collect()
}

fn put(trainer: &mut Trainer, planes: &Planes) {
    planes.iter().for_each(|(span, bytes)| trainer.backend_mut().upload(bytes, *span));
}

/// Trains and asserts that it learned, on text that it was not trained on.
///
/// The loss starts at ln 256 = 5.55, where it stays if updates are lost, and from where it rises if their sign is
/// wrong. Tables alone could make it fall; so the matrices of the blocks are put back to their first values, and then
/// the tables, and each time the trained loss must have been clearly better: what was learned is in both.
fn assert_learns(name: &str, config: &Config) {
    in_one_thread(|| assert_learns_here(name, config));
}

fn assert_learns_here(name: &str, config: &Config) {
    let mut trainer = trainer(config);
    let samples = Batches::new(text(0, 60_000), config.train.sequence, 1).unwrap();
    let start = held_out(&mut trainer);
    let params = trainer.model().params.clone();
    let matrices = params.blocks.iter().flat_map(|Block { attention, mlp }| {
        let Attention { query, key, value, output, .. } = attention;
        [query, key, value, output, &mlp.gate, &mlp.up, &mlp.down].map(|linear| &linear.weight)
    });
    let matrices: Vec<&Param> = matrices.collect();
    let tables: Vec<&Param> =
        [&params.embedding].into_iter().chain(params.head.iter().map(|head| &head.weight)).collect();
    let first_matrices = planes(&trainer, matrices.iter().copied());
    let first_tables = planes(&trainer, tables.iter().copied());
    for _ in 0..STEPS {
        step(&mut trainer, &samples);
    }
    let (trained_matrices, end) = (planes(&trainer, matrices.iter().copied()), held_out(&mut trainer));
    put(&mut trainer, &first_matrices);
    let without_matrices = held_out(&mut trainer);
    put(&mut trainer, &trained_matrices);
    assert_eq!(held_out(&mut trainer), end);
    put(&mut trainer, &first_tables);
    let without_tables = held_out(&mut trainer);
    let said = format!(
        "{name}: {start:.3} -> {end:.3}; first matrices {without_matrices:.3}; first tables {without_tables:.3}"
    );
    assert!((start - 256f64.ln()).abs() < 0.05, "{said}");
    assert!(end < 3.4 && end < without_matrices - 0.05 && end < without_tables - 0.5, "{said}");
}

type Edit = fn(&mut Config);

fn with_rules(rules: impl Iterator<Item = Rule>, name: &str, edit: impl Fn(&mut Config)) {
    for rule in rules {
        let mut config = tiny();
        config.optimizer = optimizer(rule);
        edit(&mut config);
        assert_learns(&format!("{}, {name}", rule.name()), &config);
    }
}

fn with_every_rule(name: &str, edit: impl Fn(&mut Config)) {
    with_rules(Rule::ALL.iter().copied(), name, edit);
}

/// What a rule outside the family does with a weight is the same for all of them.
fn with_adams_family(name: &str, edit: impl Fn(&mut Config)) {
    with_rules(Rule::ALL.iter().copied().filter(|rule| rule.is_adam_like()), name, edit);
}

#[test]
fn packed_codes_and_residue_learn_with_every_rule() {
    with_every_rule("symmetric", |_| ());
    with_every_rule("four-bit floats", |config| config.storage.weights = Weights::Fp4);
    with_adams_family("asymmetric", |config| config.storage.scheme = Scheme::Asymmetric);
}

#[test]
fn codes_alone_learn_with_every_rule() {
    with_every_rule("codes", |config| config.storage.residue = false);
    with_adams_family("asymmetric codes", |config| {
        (config.storage.residue, config.storage.scheme) = (false, Scheme::Asymmetric);
    });
}

#[test]
fn packed_tables_learn_with_adams_family() {
    for (name, table) in [("int8 tables", TableStorage::Int8), ("int4 tables", TableStorage::Int4)] {
        with_adams_family(name, |config| (config.storage.embedding, config.storage.head) = (table, table));
    }
}

#[test]
fn float_storage_learns_with_adams_family() {
    let kinds = [
        ("f32", Weights::F32),
        ("bf16", Weights::Bf16),
        ("int4-simulated", Weights::Int4Simulated),
        ("int4-simulated-rows", Weights::Int4SimulatedRows),
        ("fp4-simulated", Weights::Fp4Simulated),
    ];
    for (name, weights) in kinds {
        with_adams_family(name, |config| config.storage.weights = weights);
    }
}

const SECOND_MOMENTS: [SecondMoment; 5] =
    [SecondMoment::F32, SecondMoment::Int8, SecondMoment::Int4, SecondMoment::Row, SecondMoment::Factored];

#[test]
fn every_codec_of_the_state_learns() {
    for m in [Moment::F32, Moment::Int8, Moment::Int4] {
        for v in SECOND_MOMENTS {
            let mut config = tiny();
            (config.storage.m, config.storage.v) = (m, v);
            assert_learns(&format!("m {m:?}, v {v:?}"), &config);
            config.optimizer = optimizer(Rule::Adamw);
            assert_learns(&format!("adamw, m {m:?}, v {v:?}"), &config);
        }
    }
}

#[test]
fn options_learn() {
    let options: [(&str, Edit); 9] = [
        ("tied", |c| c.model.tied = true),
        ("tied int4", |c| (c.model.tied, c.storage.embedding) = (true, TableStorage::Int4)),
        ("feedback", |c| c.storage.feedback = true),
        ("feedback without residue", |c| (c.storage.feedback, c.storage.residue) = (true, false)),
        ("int4 activations", |c| c.activations.quant = ActivationQuant::Int4),
        ("int4 activations in rows", |c| c.activations.quant = ActivationQuant::Int4Rows),
        ("fp4 activations", |c| c.activations.quant = ActivationQuant::Fp4),
        ("products in integers", |c| (c.activations.compute, c.storage.head) = (Compute::Int8, TableStorage::Int4)),
        ("weight decay", |c| c.optimizer.weight_decay = 0.1),
    ];
    for (name, option) in options {
        with_adams_family(name, option);
    }
}

#[test]
fn muon_learns_with_every_codec_of_its_momentum() {
    for m in [Moment::F32, Moment::Int8, Moment::Int4] {
        for variant in [Variant::Standard, Variant::Reference] {
            let mut config = tiny();
            config.storage.m = m;
            config.optimizer = OptimizerConfig { variant, ..optimizer(Rule::Muon) };
            assert_learns(&format!("muon, {variant:?}, m {m:?}"), &config);
        }
    }
}

/// A model that cannot learn one batch by heart has a defect. Far below the entropy of the text, which is above 1.5.
#[test]
fn one_batch_can_be_learned_by_heart() {
    for residue in [true, false] {
        let mut config = tiny();
        config.storage.residue = residue;
        (config.train.batch, config.train.overfit, config.optimizer.reset_interval) = (2, true, 0);
        let mut trainer = trainer(&config);
        let (inputs, targets) = batch(&config, &Batches::new(text(0, 10_000), 32, 1).unwrap(), 0);
        let mut least = f64::INFINITY;
        for _ in 0..400 {
            least = trainer.step(&inputs, &targets).loss.min(least);
        }
        let bound = if residue { 0.05 } else { 0.3 };
        assert!(least < bound, "residue {residue}: the loss of 64 tokens falls to {least} only");
    }
}

#[test]
fn evaluating_and_sampling_change_no_byte_and_no_later_step() {
    let config = tiny();
    let samples = Batches::new(text(0, 20_000), 32, 1).unwrap();
    let (mut disturbed, mut alone) = (trainer(&config), trainer(&config));
    for _ in 0..5 {
        step(&mut disturbed, &samples);
        step(&mut alone, &samples);
        let before = whole_state(&disturbed);
        held_out(&mut disturbed);
        let model = disturbed.model().clone();
        let mut generator = Generator::new(&model);
        generator.feed(disturbed.backend_mut(), &[84, 104, 101]);
        // Past the end of the cache.
        for _ in 0..50 {
            let id = generator.sample(&Sampling::default()).unwrap();
            generator.feed(disturbed.backend_mut(), &[id]);
        }
        assert!(whole_state(&disturbed) == before, "a byte of the state changed");
    }
    assert!(whole_state(&disturbed) == whole_state(&alone), "a later step went another way");
}

/// Damaged or diverged weights: drawing from no numbers would give some text that means nothing, or a panic.
#[test]
fn nothing_is_drawn_from_logits_that_are_not_numbers() {
    let mut trainer = trainer(&tiny());
    let model = trainer.model().clone();
    let gain = model.params.final_norm.gain.weight.data.head(4);
    trainer.backend_mut().upload(&f32::NAN.to_le_bytes(), gain);
    let mut generator = Generator::new(&model);
    assert!(generator.feed(trainer.backend_mut(), &[84, 104]).iter().any(|logit| logit.is_nan()));
    for temperature in [0.0, 1.0] {
        assert_eq!(generator.sample(&Sampling { temperature, top_k: 5, top_p: 0.9, ..Sampling::default() }), None);
    }
}

fn assert_close(a: &[f32], b: &[f32], what: &str) {
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        // Another order of the same sums of 40 to 72 float32 products.
        assert!((a - b).abs() <= 1e-4 * (1.0 + b.abs()), "{what}: logit {i} is {a}, not {b}");
    }
}

#[test]
fn cached_keys_give_the_logits_of_the_whole_text_and_a_full_cache_forgets_the_older_half() {
    let mut trainer = trainer(&tiny());
    let samples = Batches::new(text(0, 20_000), 32, 1).unwrap();
    for _ in 0..30 {
        step(&mut trainer, &samples);
    }
    let tokens = text(50_000, 33).to_vec();
    let model = trainer.model().clone();
    let mut logits = |parts: &[&[u32]]| {
        let mut generator = Generator::new(&model);
        parts.iter().map(|part| generator.feed(trainer.backend_mut(), part).to_vec()).last().unwrap()
    };
    let whole = logits(&[&tokens[..32]]);
    let singly: Vec<&[u32]> = tokens[..32].chunks(1).collect();
    assert_close(&logits(&singly), &whole, "one by one");
    assert_close(&logits(&[&tokens[..7], &tokens[7..30], &tokens[30..32]]), &whole, "in parts");
    // The cache has 32 positions: with the 33rd token, the last 16 are what is left.
    let slid: Vec<&[u32]> = tokens.chunks(1).collect();
    assert_close(&logits(&slid), &logits(&[&tokens[17..]]), "slid");
}
