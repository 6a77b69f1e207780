//! What `optimizer.grad_clip` must do to every rule, whatever computes.

use super::small::{self, batch};
use super::state::whole_state;
use tetrad::backend::ops::Precision;
use tetrad::backend::{Backend, Param};
use tetrad::config::Config;
use tetrad::memory::Span;
use tetrad::model::Batch;
use tetrad::optim::{OptimizerConfig, Rule, StepInfo};
use tetrad::train::Trainer;

/// One step in which `apply` gets every gradient.
pub fn gradients(trainer: &mut Trainer, number: u32, apply: &mut dyn FnMut(&mut dyn Backend, &Param, Span)) {
    let (inputs, targets) = batch(number);
    let (rows, sequence) = (trainer.config().train.batch, trainer.config().train.sequence);
    let (pass, scale) = (Batch::step(rows, sequence, u64::from(number) + 1), 1.0 / targets.len() as f32);
    let (model, backend) = trainer.model_and_backend();
    model.upload_tokens(backend, &inputs, &targets);
    model.upload_segments(backend, &[]);
    model.forward(backend, pass);
    model.loss_and_head_grad(backend, pass, scale);
    let mut hand = |backend: &mut dyn Backend, param: &Param, grad: Span| apply(backend, param, grad);
    model.backward(backend, pass, scale, &mut hand);
}

/// The numbers of a gradient.
pub fn numbers(backend: &dyn Backend, grad: Span) -> Vec<f32> {
    let mut bytes = vec![0; grad.bytes];
    backend.download(grad, &mut bytes);
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// A rule with its published numbers on a model of 64 features.
pub fn config(rule: Rule) -> Config {
    let mut config = small::config();
    config.optimizer = OptimizerConfig::of(rule);
    config
}

/// Some steps of every rule: what clipping leaves is what the rule makes of gradients that were multiplied by one factor, and
/// that factor is the one of the whole gradient's norm.
pub fn every_rule_sees_the_scaled_gradient(steps: u32, open: &dyn Fn() -> Box<dyn Backend>) {
    for &rule in Rule::ALL {
        let plain = config(rule);
        let mut clipped = plain.clone();
        clipped.optimizer.grad_clip = 0.5;
        clipped.validate().unwrap();
        let (mut found, mut expected) = (small::trainer(&clipped, open()), small::trainer(&plain, open()));
        for number in 0..steps {
            let mut squares = 0.0;
            gradients(&mut expected, number, &mut |backend, _, grad| {
                squares += numbers(backend, grad).iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>();
            });
            let (inputs, targets) = batch(number);
            let report = found.step(&inputs, &targets);
            let norm: f64 = squares.sqrt();
            assert!((report.grad_norm / norm - 1.0).abs() < 1e-5, "{rule:?}: {} instead of {norm}", report.grad_norm);
            let factor = report.clip_factor.expect("clipping is on");
            assert_eq!(factor, 0.5 / (report.grad_norm + 1e-6));
            assert!(factor < 0.9, "{rule:?}: the test needs a gradient that is clipped, not of norm {norm}");
            let groups = plain.optimizer.groups(plain.storage.state());
            let workspace = expected.model().acts.grads.update;
            let lr = plain.learning_rate().at(u64::from(number) + 1);
            let at = StepInfo { number: u64::from(number) + 1, lr, seed: plain.run.seed };
            gradients(&mut expected, number, &mut |backend, param, grad| {
                backend.scale(grad, factor as f32, Precision::F32);
                groups.step(backend, param, grad, workspace, &at);
            });
            assert!(whole_state(&found) == whole_state(&expected), "{rule:?}: step {}", number + 1);
        }
        assert_eq!(found.counters().clipped_steps, u64::from(steps));
    }
}
