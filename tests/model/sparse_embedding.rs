//! A sparse embedding: a step leaves the rows of tokens that did not occur as they are.

use crate::harness::small::{config, trainer};
use crate::harness::state::{read, weight_spans};
use std::ops::Range;
use tetrad::backend::StateTensor;
use tetrad::backend::adam::state;
use tetrad::backend::cpu::Cpu;
use tetrad::backend::{Moment, SecondMoment};
use tetrad::config::Config;
use tetrad::memory::Span;
use tetrad::model::TableStorage;
use tetrad::optim::EmbeddingUpdate;
use tetrad::quant::StateShape;
use tetrad::train::Trainer;

/// 99 tokens of this range, in turn; the next token is the target.
fn batch(tokens: Range<u32>) -> (Vec<u32>, Vec<u32>) {
    let text: Vec<u32> = tokens.cycle().take(100).collect();
    (text[..99].to_vec(), text[1..].to_vec())
}

fn step(trainer: &mut Trainer, tokens: Range<u32>) {
    let (inputs, targets) = batch(tokens);
    let report = trainer.step(&inputs, &targets);
    assert_eq!((report.skipped_loss, report.skipped_gradients), (false, 0));
}

fn sparse() -> Config {
    let mut config = config();
    config.optimizer.embedding = EmbeddingUpdate::Sparse;
    config.optimizer.weight_decay = 0.1;
    config
}

/// The planes of weight and moments that have a part for each row.
fn row_planes(trainer: &Trainer) -> Vec<Span> {
    let param = trainer.model().params.embedding;
    let of_rows = |tensor: &&StateTensor| !matches!(tensor.spec.format.shape, StateShape::Scalars(_));
    let moments = param.state.tensors().filter(of_rows).flat_map(|tensor| [tensor.data, tensor.scales]);
    weight_spans(&param).into_iter().chain(moments.filter(|span| !span.is_none())).collect()
}

/// The bytes of these rows of the embedding, plane by plane.
fn rows(trainer: &Trainer, tokens: Range<u32>) -> Vec<Vec<u8>> {
    let vocab = trainer.config().model.vocab;
    let of = |span: Span| {
        let (bytes, each) = (read(trainer, span), span.bytes / vocab);
        bytes[tokens.start as usize * each..tokens.end as usize * each].to_vec()
    };
    row_planes(trainer).into_iter().map(of).collect()
}

#[test]
fn rows_of_absent_tokens_keep_weights_and_moments() {
    let kinds = [
        (TableStorage::Bf16, Moment::Int4, SecondMoment::Int4),
        (TableStorage::Int4, Moment::Int8, SecondMoment::Row),
        (TableStorage::Int8, Moment::F32, SecondMoment::F32),
    ];
    for (table, m, v) in kinds {
        let mut config = sparse();
        (config.storage.embedding, config.storage.m, config.storage.v) = (table, m, v);
        let mut sparse = trainer(&config, Box::new(Cpu::new()));
        config.optimizer.embedding = EmbeddingUpdate::Dense;
        let mut dense = trainer(&config, Box::new(Cpu::new()));
        let first = rows(&sparse, 0..256);
        for trainer in [&mut sparse, &mut dense] {
            step(trainer, 30..60);
        }
        assert_eq!(rows(&sparse, 30..60), rows(&dense, 30..60), "rows with a gradient: {table:?} {m:?} {v:?}");
        assert_ne!(rows(&sparse, 0..256), first);
        let (before, other) = (rows(&sparse, 30..60), rows(&sparse, 60..90));
        for trainer in [&mut sparse, &mut dense] {
            step(trainer, 60..90);
        }
        assert_eq!(rows(&sparse, 30..60), before, "{table:?} {m:?} {v:?}");
        assert_ne!(rows(&sparse, 60..90), other, "{table:?} {m:?} {v:?}");
        assert_ne!(rows(&dense, 30..60), before, "a dense update moves them on: {table:?} {m:?} {v:?}");
    }
}

#[test]
fn a_reset_zeroes_the_moments_of_every_row() {
    let mut config = sparse();
    (config.storage.m, config.storage.v) = (Moment::F32, SecondMoment::Row);
    config.optimizer.reset_interval = 3;
    let mut trainer = trainer(&config, Box::new(Cpu::new()));
    step(&mut trainer, 30..60);
    step(&mut trainer, 60..90);
    let plane = |name| trainer.model().params.embedding.state.get(name).unwrap().data;
    let (m, v_rows) = (plane(state::M), plane(state::V_ROWS));
    let of_30 = |trainer: &Trainer, span: Span| {
        let each = span.bytes / 256;
        read(trainer, span)[30 * each..31 * each].to_vec()
    };
    assert!(of_30(&trainer, m).iter().any(|&byte| byte != 0));
    assert!(of_30(&trainer, v_rows).iter().any(|&byte| byte != 0));
    step(&mut trainer, 60..90);
    // A zero of either sign.
    assert!(of_30(&trainer, m).chunks_exact(4).all(|x| f32::from_le_bytes(x.try_into().unwrap()) == 0.0));
    assert_eq!(of_30(&trainer, v_rows), [0; 4]);
}
