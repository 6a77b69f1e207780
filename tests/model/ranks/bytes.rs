//! The bytes of one process, whatever is trained and however each rank computes its rows.

use super::{BATCH, Edit, Life, SEQUENCE, config, joined};
use crate::harness::adapter::{base, kinds, lora};
use std::sync::Arc;
use tetrad::backend::cpu::Cpu;
use tetrad::backend::{Compute, Moment, Precision, SecondMoment};
use tetrad::config::{Config, TrainConfig};
use tetrad::error::{BackendError, RanksError, StartError};
use tetrad::model::{
    ActivationCheckpointing, ActivationQuant, AdapterScale, GradBuffer, Offload, Scheme, TableStorage, Weights,
};
use tetrad::optim::{OptimizerConfig, Rule};
use tetrad::ranks::{Ranks, in_process};
use tetrad::train::{Trainer, check_ranks};

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
    let edits: [(&str, Edit); 10] = [
        ("products in integers", |config| config.activations.compute = Compute::Int8),
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
    let edits: [(&str, Edit); 8] = [
        ("int4", |_| {}),
        ("rounded to bfloat16", |config| config.train.reduce_dtype = Precision::Bf16),
        ("rounded, clipped", |config| {
            (config.train.reduce_dtype, config.optimizer.grad_clip) = (Precision::Bf16, 0.1);
        }),
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
        let exact = Config { train: TrainConfig { reproducible: true, ..config.train.clone() }, ..config.clone() };
        assert!(Life::new(&exact).alone() == expected, "{what}: one process has one order");
        let life = Life::new(&config);
        for size in [2, 3, 5] {
            let end = joined(life.on_ranks(size, &|_| {}));
            assert!(joined(life.on_ranks(size, &|_| {})) == end, "{what}: {size} ranks end as before");
            for (number, (found, expected)) in end.0.iter().zip(&expected.0).enumerate() {
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
