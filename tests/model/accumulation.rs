//! A batch in micro-batches: the same bytes as in one piece, whatever is kept and however much of a block's gradient
//! exists at once.

use crate::harness::{in_one_thread, state};
use tetrad::backend::Compute;
use tetrad::backend::cpu::Cpu;
use tetrad::config::Config;
use tetrad::memory::Category;
use tetrad::model::{ActivationCheckpointing, ActivationQuant, GradBuffer, GradCompute, Scheme, TableStorage};
use tetrad::train::{Trainer, plan};

const BATCH: usize = 6;
const SEQUENCE: usize = 24;

fn config() -> Config {
    let mut config = Config::default();
    let model = &mut config.model;
    (model.hidden, model.intermediate, model.layers, model.heads, model.kv_heads) = (48, 88, 3, 4, 2);
    (config.train.batch, config.train.sequence, config.train.warmup) = (BATCH, SEQUENCE, 2);
    config.storage.group = 32;
    config
}

/// Losses and gradient norms of three steps, and all bytes after them.
fn run(config: &Config) -> (Vec<(u64, u64)>, Vec<Vec<u8>>) {
    in_one_thread(|| run_here(config))
}

fn run_here(config: &Config) -> (Vec<(u64, u64)>, Vec<Vec<u8>>) {
    let mut trainer = Trainer::new(config, Box::new(Cpu::new())).unwrap();
    trainer.initialize();
    let start = state::whole_state(&trainer);
    let tokens = BATCH * SEQUENCE;
    let reports = (0..3u32).map(|number| {
        let text: Vec<u32> = (0..=tokens as u32).map(|i| (i * i + number * 31) % 256).collect();
        // Two samples in each row of packed data, not of the same length in every row.
        let first = (0..tokens).map(|t| 9 + t / SEQUENCE).map(|cut| cut as u32);
        let first: Vec<u32> =
            first.enumerate().map(|(t, cut)| if t % SEQUENCE < cut as usize { 0 } else { cut }).collect();
        let first = if config.data.shares_rows { &first[..] } else { &[] };
        let report = trainer.step_segments(&text[..tokens], &text[1..], first);
        (report.loss.to_bits(), report.grad_norm.to_bits())
    });
    let reports = reports.collect();
    let end = state::whole_state(&trainer);
    assert!(start != end, "the steps moved nothing");
    (reports, end)
}

#[test]
fn micro_batches_give_the_bytes_of_the_whole_batch() {
    let edits: [fn(&mut Config); 12] = [
        |_| {},
        |config| (config.activations.compute, config.storage.head) = (Compute::Int8, TableStorage::Int8),
        |config| (config.activations.compute, config.storage.head) = (Compute::Fp8, TableStorage::Int4),
        |config| config.activations.compute = Compute::Bf16,
        |config| (config.activations.compute, config.model.tied) = (Compute::Bf16, true),
        |config| {
            (config.activations.compute, config.storage.head) = (Compute::Int8, TableStorage::Int8);
            config.activations.compute_grad_weight = GradCompute::Bf16;
        },
        |config| {
            config.storage.head = TableStorage::Int8;
            (config.activations.compute_grad_input, config.activations.compute_grad_weight) =
                (GradCompute::Int8, GradCompute::Int8);
        },
        |config| {
            (config.model.tied, config.storage.embedding) = (true, TableStorage::Int8);
            (
                config.activations.compute,
                config.activations.compute_grad_input,
                config.activations.compute_grad_weight,
            ) = (Compute::Int8, GradCompute::Int8, GradCompute::Int8);
        },
        |config| config.data.shares_rows = true,
        |config| (config.model.tied, config.model.qkv_bias) = (true, true),
        |config| (config.model.qk_norm, config.activations.quant) = (true, ActivationQuant::Int4),
        |config| (config.storage.scheme, config.storage.feedback) = (Scheme::Asymmetric, true),
    ];
    for (i, edit) in edits.into_iter().enumerate() {
        let mut config = config();
        edit(&mut config);
        for kept in [ActivationCheckpointing::None, ActivationCheckpointing::Block, ActivationCheckpointing::BlockInt4]
        {
            config.run.activation_checkpointing = kept;
            config.train.micro_batch = BATCH;
            let whole = run(&config);
            for micro_batch in [1, 2, 4] {
                for gradient in [GradBuffer::Block, GradBuffer::Tensor] {
                    config.train.micro_batch = micro_batch;
                    config.run.grad_buffer = gradient;
                    assert!(
                        run(&config) == whole,
                        "variant {i}, {kept:?}, micro-batches of {micro_batch}, {gradient:?}"
                    );
                }
            }
        }
    }
}

/// Packing the blocks' inputs changes the gradients, and so everything after the first loss.
#[test]
fn packed_inputs_are_read_by_backward() {
    let mut config = config();
    config.run.activation_checkpointing = ActivationCheckpointing::Block;
    let exact = run(&config);
    config.run.activation_checkpointing = ActivationCheckpointing::BlockInt4;
    let packed = run(&config);
    assert_eq!(packed.0[0].0, exact.0[0].0, "the first forward");
    assert_ne!(packed.0[0].1, exact.0[0].1, "the first gradient");
    let norms = [packed.0[0].1, exact.0[0].1].map(f64::from_bits);
    assert!((norms[0] / norms[1] - 1.0).abs() < 0.1, "norms {norms:?}");
}

/// Bytes of the plan's gradients that exist at the same time.
fn gradient_peak(config: &Config) -> usize {
    let plan = plan(config, &Cpu::new()).0;
    let gradients: Vec<_> = plan.items().iter().filter(|item| item.category == Category::Gradient).collect();
    let at = |tick: u32| {
        let alive = gradients.iter().filter(|item| item.lifetime.from <= tick && tick <= item.lifetime.to);
        alive.map(|item| item.span.bytes).sum()
    };
    gradients.iter().map(|item| at(item.lifetime.from)).max().unwrap()
}

#[test]
fn one_tensors_gradient_is_enough() {
    for preset in ["quickstart", "60m", "7b"] {
        let mut config = Config::preset(preset).unwrap();
        let model = &config.model;
        let (h, f) = (model.hidden, model.intermediate);
        // Blocks' gains are vectors: kept beside the matrices, and never as large as a hundredth of one.
        let largest = 4 * (h * f).max(model.vocab * h);
        let vectors = 4 * 4 * h;
        assert!(gradient_peak(&config) <= largest + vectors, "{preset}, one micro-batch");
        config.train.micro_batch = 1;
        config.run.grad_buffer = GradBuffer::Tensor;
        assert!(gradient_peak(&config) <= largest + vectors, "{preset}, a tensor at a time");
        config.run.grad_buffer = GradBuffer::Block;
        let layer = 4 * (4 * h * h + 3 * h * f);
        assert!(gradient_peak(&config) >= layer, "{preset}, a layer at a time");
    }
}

/// Logits exist a chunk at a time, and the chunk decides nothing.
#[test]
fn a_vocabulary_of_128k_trains_on_4k_tokens_within_its_chunk() {
    let mut config = config();
    (config.model.vocab, config.model.hidden, config.model.layers) = (128_256, 32, 1);
    (config.train.batch, config.train.sequence, config.model.context) = (16, 256, 256);
    let run = |logits_mib: usize| {
        let mut config = config.clone();
        config.run.logits_mib = logits_mib;
        let logits =
            plan(&config, &Cpu::new()).0.items().iter().find(|item| item.name == "logits of a chunk").unwrap().span;
        let mut trainer = Trainer::new(&config, Box::new(Cpu::new())).unwrap();
        trainer.initialize();
        let text: Vec<u32> = (0..=4096).map(|i| i * 31 % 128_256).collect();
        let report = trainer.step(&text[..4096], &text[1..]);
        (logits.bytes, (report.loss.to_bits(), report.grad_norm.to_bits()), state::whole_state(&trainer))
    };
    let (few, many) = (run(6), run(50));
    assert!(few.0 <= 6 << 20 && many.0 > 49 << 20, "chunks of {} and {} bytes", few.0, many.0);
    assert!(few.1 == many.1 && few.2 == many.2, "the chunk decided something");
}

/// Beyond one micro-batch, a larger batch only lengthens what passes from block to block.
#[test]
fn memory_of_a_block_does_not_grow_with_the_batch() {
    let mut config = Config::preset("60m").unwrap();
    config.run.activation_checkpointing = ActivationCheckpointing::Block;
    config.train.micro_batch = 2;
    let total = |batch: usize| {
        let mut config = config.clone();
        config.train.batch = batch;
        plan(&config, &Cpu::new()).0.total()
    };
    let tokens = 16 * config.train.sequence;
    let grown = total(32) - total(16);
    // The blocks' inputs, the last output, the head's input, both gradients; five numbers a token.
    let rows = 4 * config.model.hidden * (config.model.layers + 4) + 4 * 5;
    assert!(grown <= tokens * rows, "{grown} bytes more for {tokens} tokens");
}
