//! Training only some parameters: the others keep no state, get no gradient, and change nothing for those that are trained.

use crate::harness::small;
use std::collections::BTreeMap;
use tetrad::Cpu;
use tetrad::backend::prelude::*;
use tetrad::backend::{Backend, Param};
use tetrad::config::Config;
use tetrad::memory::{Category, Plan, Span};
use tetrad::model::{Batch, BlockParam, GradBuffer, Model, ParamKind, Settings, Trainable, initialize};

/// Gradients of one batch by the parameter's number, and the bytes planned for state.
fn gradients(config: &Config, trainable: Trainable) -> (BTreeMap<u32, Vec<u8>>, usize) {
    let (batch, sequence) = (config.train.batch, config.train.sequence);
    let settings = Settings { trainable, ..config.settings() };
    let (mut cpu, mut plan) = (Cpu::new(), Plan::default());
    let model = Model::place(&mut plan, &settings, batch * sequence, sequence, &cpu);
    cpu.allocate(plan.total(), None, model.acts.scratch).unwrap();
    model.prepare(&mut cpu);
    initialize(&model, &mut cpu);
    let (inputs, targets) = small::batch(1);
    model.upload_tokens(&mut cpu, &inputs, &targets);
    model.upload_segments(&mut cpu, &[]);
    let pass = Batch::step(batch, sequence, 1);
    model.forward(&mut cpu, pass);
    let scale = 1.0 / inputs.len() as f32;
    model.loss_and_head_grad(&mut cpu, pass, scale);
    let mut found = BTreeMap::new();
    let mut take = |backend: &mut dyn Backend, param: &Param, grad: Span| {
        let mut bytes = vec![0; grad.bytes];
        backend.download(grad, &mut bytes);
        assert!(found.insert(param.id, bytes).is_none(), "one update of parameter {}", param.id);
    };
    model.backward(&mut cpu, pass, scale, &mut take);
    (found, plan.category(Category::State))
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
            let (all, state_of_all) = gradients(&config, Trainable::All);
            for (chosen, count) in [(queries as fn(ParamKind) -> bool, 2), (norms, 2), (tables, 2)] {
                let (some, state) = gradients(&config, Trainable::Only(chosen));
                assert_eq!(some.len(), count, "parameters that are updated");
                assert!(state < state_of_all, "{state} bytes of state, {state_of_all} with all parameters");
                for (id, grad) in some {
                    assert!(grad.iter().any(|&byte| byte != 0), "parameter {id} has a gradient");
                    assert_eq!(grad, all[&id], "gradient of parameter {id}, micro-batch {micro_batch}");
                }
            }
        }
    }
}
