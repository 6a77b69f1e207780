//! Training only some parameters: the others keep no state, get no gradient, and change nothing for those that are trained.

use crate::harness::small;
use std::collections::BTreeMap;
use tetrad::Cpu;
use tetrad::backend::prelude::*;
use tetrad::backend::{Backend, Param};
use tetrad::config::Config;
use tetrad::memory::{Category, Plan, Span};
use tetrad::model::{Batch, BlockParam, GradBuffer, Model, ParamKind, Settings, Trainable, initialize};

/// What a batch left behind.
struct Found {
    /// By the parameter's number.
    gradients: BTreeMap<u32, Vec<u8>>,
    /// Planned.
    state_bytes: usize,
    /// The planes of each weight.
    weights: Vec<[Vec<u8>; 4]>,
}

/// One batch through a model with first values, or with the weights of another whose residue it may lack.
fn found(config: &Config, trainable: Trainable, weights: Option<&Found>) -> Found {
    let (batch, sequence) = (config.train.batch, config.train.sequence);
    let settings = Settings { trainable, ..config.settings() };
    let (mut cpu, mut plan) = (Cpu::new(), Plan::default());
    let model = Model::place(&mut plan, &settings, batch * sequence, sequence, &cpu);
    cpu.allocate(plan.total(), None, model.acts.scratch).unwrap();
    model.prepare(&mut cpu);
    initialize(&model, &mut cpu);
    if let Some(Found { weights, .. }) = weights {
        for (param, planes) in model.params.all().zip(weights) {
            let planes = param.weight.planes().into_iter().zip(planes);
            planes.filter(|(span, _)| !span.is_none()).for_each(|(span, bytes)| cpu.upload(bytes, span));
        }
    }
    let weights = model.params.all().map(|param| param.weight.planes().map(|span| download(&cpu, span))).collect();
    let (inputs, targets) = small::batch(1);
    model.upload_tokens(&mut cpu, &inputs, &targets);
    model.upload_segments(&mut cpu, &[]);
    let pass = Batch::step(batch, sequence, 1);
    model.forward(&mut cpu, pass);
    let scale = 1.0 / inputs.len() as f32;
    model.loss_and_head_grad(&mut cpu, pass, scale);
    let mut gradients = BTreeMap::new();
    let mut take = |backend: &mut dyn Backend, param: &Param, grad: Span| {
        let twice = gradients.insert(param.id, download(backend, grad)).is_some();
        assert!(!twice, "two updates of parameter {}", param.id);
    };
    model.backward(&mut cpu, pass, scale, &mut take);
    Found { gradients, state_bytes: plan.category(Category::State), weights }
}

fn download(backend: &dyn Backend, span: Span) -> Vec<u8> {
    let mut bytes = vec![0; span.bytes];
    backend.download(span, &mut bytes);
    bytes
}

#[test]
fn only_what_is_chosen_has_state_and_gets_a_gradient_which_is_that_of_whole_training() {
    let queries = |kind| matches!(kind, ParamKind::Block(_, BlockParam::Query));
    let norms = |kind| matches!(kind, ParamKind::FinalNorm | ParamKind::Block(1, BlockParam::AttentionNorm));
    let tables = |kind| matches!(kind, ParamKind::Embedding | ParamKind::Head);
    for micro_batch in [0, 1] {
        for grad_buffer in [GradBuffer::Block, GradBuffer::Tensor] {
            let mut config = small::config();
            (config.train.micro_batch, config.run.grad_buffer) = (micro_batch, grad_buffer);
            config.model.tied = false;
            let all = found(&config, Trainable::All, None);
            for (chosen, count) in [(queries as fn(ParamKind) -> bool, 2), (norms, 2), (tables, 2)] {
                let some = found(&config, Trainable::Only(chosen), Some(&all));
                assert_eq!(some.gradients.len(), count, "parameters that are updated");
                assert!(some.state_bytes < all.state_bytes, "{} of {}", some.state_bytes, all.state_bytes);
                for (id, grad) in some.gradients {
                    assert!(grad.iter().any(|&byte| byte != 0), "parameter {id} has a gradient");
                    let same = grad == all.gradients[&id];
                    assert!(same, "parameter {id}, {micro_batch} sequences at once, {grad_buffer:?}");
                }
            }
        }
    }
}
