//! Results that a change of the code's structure must not change, recorded from commit 901e013: digests of all planes
//! after 20 steps of three models, and files of every kind of storage that later versions read, verify and resume.

mod harness;

use harness::small::{batch, trainer};
use harness::state::whole_state;
use std::path::{Path, PathBuf};
use tetrad::backend::cpu::{Cpu, Isa};
use tetrad::backend::{Backend, Moment, SecondMoment};
use tetrad::checkpoint::Checkpoint;
use tetrad::config::Config;
use tetrad::model::Scheme;
use tetrad::model::{TableStorage, Weights};
use tetrad::optim::Rule;
use tetrad::train::Trainer;

/// A novel; its bytes are the tokens.
const TEXT: &[u8] = include_bytes!("../assets/corpus/austen.txt");

/// One number for all bytes of the weights and of the optimizer state.
fn digest(trainer: &Trainer) -> u64 {
    let mut hash = xxhash_rust::xxh3::Xxh3::new();
    whole_state(trainer).iter().for_each(|plane| hash.update(plane));
    hash.digest()
}

/// Takes `steps` steps over consecutive text; gives the last loss.
fn train(trainer: &mut Trainer, steps: usize) -> f64 {
    let train = trainer.config().train.clone();
    let tokens = train.batch * train.sequence;
    let mut last = 0.0;
    for text in TEXT[4096..].windows(tokens + 1).step_by(tokens).take(steps) {
        let text: Vec<u32> = text.iter().map(|&byte| byte.into()).collect();
        last = trainer.step(&text[..tokens], &text[1..]).loss;
    }
    last
}

/// Queries, keys and values with biases, norms of heads, grouped heads, a tied head, rows that are no whole groups.
fn qwen_like() -> Config {
    let mut config = harness::small::config();
    (config.model.qkv_bias, config.model.qk_norm, config.model.tied) = (true, true, true);
    (config.model.head_dim, config.train.batch, config.train.sequence) = (Some(24), 4, 48);
    (config.storage.scheme, config.storage.v) = (Scheme::Asymmetric, SecondMoment::Int8);
    config
}

/// Digests of the state after 20 steps.
struct Digests {
    /// With AVX2, and with AVX-512, for which that commit's code gave the same; in batches of the model's own size.
    avx: u64,
    /// With portable code, in batches of 2 sequences of 16 tokens.
    portable: u64,
    /// The same batches on a GPU, recorded anew where attention's gradient came to be formed in one pass, and for rows that are
    /// no power of two where a norm's gradient came to multiply by their inverse length.
    gpu: u64,
}

fn models() -> [(&'static str, Config, Digests); 3] {
    let compact = Config::preset("compact").expect("a preset of that name");
    [
        (
            "quickstart",
            Config::default(),
            Digests { avx: 0xd48d_2b68_dedc_0821, portable: 0x8bd1_c43f_a002_4944, gpu: 0x5513_5e80_e3a0_ab88 },
        ),
        (
            "compact",
            compact,
            Digests { avx: 0xadd5_2faf_c6e8_ade1, portable: 0x454b_c953_3ad7_b2f9, gpu: 0xe145_9c54_9ff3_826c },
        ),
        (
            "like Qwen",
            qwen_like(),
            Digests { avx: 0xfc85_a880_eaf5_4823, portable: 0x4d1e_3d2c_6d17_8102, gpu: 0xdbea_dff8_9a4f_e631 },
        ),
    ]
}

/// Trains for 20 steps and compares.
fn check(name: &str, config: &Config, backend: Box<dyn Backend>, recorded: u64) {
    let mut trainer = trainer(config, backend);
    let loss = train(&mut trainer, 20);
    let found = digest(&trainer);
    assert_eq!(found, recorded, "{name}: {found:#018x}, last loss {loss}");
}

fn small(mut config: Config) -> Config {
    (config.train.batch, config.train.sequence) = (2, 16);
    config
}

#[test]
fn twenty_steps_on_a_cpu_end_in_the_recorded_bytes() {
    let isa = |name| Isa::available().find(|isa| isa.name() == name);
    for (name, config, digests) in models() {
        for set in ["AVX-512", "AVX2"] {
            match isa(set) {
                Some(isa) => check(name, &config, Box::new(Cpu::with_isa(isa)), digests.avx),
                None => eprintln!("SKIPPED: this processor has no {set}, for which the digest of {name} was recorded"),
            }
        }
        let portable = isa("portable").expect("it is always there");
        check(name, &small(config), Box::new(Cpu::with_isa(portable)), digests.portable);
    }
}

#[test]
fn twenty_steps_on_the_emulated_gpu_end_in_the_recorded_bytes() {
    if harness::gpu::required() {
        eprintln!("SKIPPED: a real device adds up its products in an order of its own");
        return;
    }
    // What kernels may touch is checked in tests/cuda.
    harness::gpu::checked(false, || {
        for (name, config, digests) in models() {
            check(name, &small(config), Box::new(harness::gpu::open()), digests.gpu);
        }
    });
}

/// What makes a variant of the configuration.
type Edit = fn(&mut Config);

/// The files (written after three steps), and the digest after two more steps with portable code.
fn files() -> [(&'static str, u64, Edit); 9] {
    [
        ("int4", 0xdc19_9175_568d_a9d4, |_| {}),
        ("int4-asymmetric", 0x8374_da6d_c5e8_d2a2, |config| config.storage.scheme = Scheme::Asymmetric),
        ("int4-codes-only", 0xda12_0c4e_13a3_7abe, |config| {
            (config.storage.residue, config.storage.feedback) = (false, true)
        }),
        ("int4-tables", 0x2d3b_c106_5fba_3725, |config| {
            (config.storage.embedding, config.storage.head) = (TableStorage::Int4, TableStorage::Int8);
            (config.storage.m, config.storage.v) = (Moment::Int8, SecondMoment::Int8);
        }),
        ("bf16", 0x878d_2d19_f6f5_8b76, |config| {
            (config.storage.weights, config.optimizer.name) = (Weights::Bf16, Rule::Adamw)
        }),
        ("f32", 0xc344_57c5_1b8d_b7e3, |config| {
            (config.storage.weights, config.storage.m) = (Weights::F32, Moment::F32);
            (config.storage.v, config.storage.embedding) = (SecondMoment::F32, TableStorage::F32);
        }),
        ("int4-simulated", 0xac75_b50f_6c88_a782, |config| {
            (config.storage.weights, config.optimizer.name) = (Weights::Int4SimulatedRows, Rule::Spam);
        }),
        ("v-row", 0x9a42_f653_3eaf_b530, |config| (config.storage.v, config.model.tied) = (SecondMoment::Row, true)),
        ("v-factored", 0x3bbe_aef7_bde1_ed5d, |config| config.storage.v = SecondMoment::Factored),
    ]
}

fn file_config(edit: Edit) -> Config {
    let mut config = harness::small::config();
    let model = &mut config.model;
    (model.hidden, model.intermediate, model.layers, model.heads, model.kv_heads) = (32, 40, 1, 2, 1);
    edit(&mut config);
    config
}

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/unchanged").join(format!("{name}.tetrad"))
}

#[test]
fn files_of_every_storage_are_read_verified_and_resumed() {
    for (name, recorded, edit) in files() {
        let config = file_config(edit);
        let isa = Isa::available().last().expect("the portable one is always there");
        let mut trainer = trainer(&config, Box::new(Cpu::with_isa(isa)));
        let file = Checkpoint::open(&path(name)).unwrap_or_else(|error| panic!("{error}"));
        file.verify().unwrap_or_else(|error| panic!("{error}"));
        file.restore(&mut trainer, "text").unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(trainer.counters().step, 3, "{name}");
        for number in 4..=5 {
            let (inputs, targets) = batch(number);
            trainer.step(&inputs, &targets);
        }
        let found = digest(&trainer);
        assert_eq!(found, recorded, "{name}: {found:#018x}");
    }
}
