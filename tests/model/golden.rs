//! Models of two layers recorded from transformers in float32: logits, loss, every gradient, and 20 AdamW losses.
//! LLaMA, LLaMA 3 with its scaled frequencies, Qwen2 with biases, Qwen3 with normed heads of a size of their own.

use crate::harness::llama::Recorded;
use crate::harness::operands::assert_near;
use tetrad::backend::cpu::Cpu;
use tetrad::backend::{Backend, Param};
use tetrad::memory::Span;
use zerocopy::IntoBytes;

/// The agreement that the recordings ask for.
const ABSOLUTE: f64 = 2e-5;
const RELATIVE: f64 = 2e-4;

fn download(backend: &dyn Backend, span: Span) -> Vec<f32> {
    let mut out = vec![0.0f32; span.bytes / 4];
    backend.download(span, out.as_mut_bytes());
    out
}

fn logits_loss_and_gradients(name: &str) {
    let recorded = Recorded::load(name);
    let mut trainer = recorded.trainer(Box::new(Cpu::new()));
    let pass = recorded.batch();
    let (model, backend) = trainer.model_and_backend();
    backend.upload(recorded.inputs.as_bytes(), model.acts.inputs);
    backend.upload(recorded.targets.as_bytes(), model.acts.targets);
    model.forward(backend, pass);
    let logits = model.logits(backend, pass, (0, pass.tokens()));
    assert_near(&download(backend, logits), recorded.golden.numbers("logits"), ABSOLUTE, RELATIVE, "logits");

    let counted = recorded.targets.len();
    model.loss_and_head_grad(backend, pass, 1.0 / counted as f32);
    let losses = download(backend, model.acts.losses);
    let loss = losses.iter().map(|&l| f64::from(l)).sum::<f64>() / counted as f64;
    assert_near(&[loss as f32], recorded.golden.numbers("loss"), ABSOLUTE, RELATIVE, "loss");

    let names = recorded.names();
    let mut seen = 0;
    let mut compare = |backend: &mut dyn Backend, param: &Param, grad: Span| {
        let name = format!("grad.{}", names[&param.id]);
        assert_near(&download(backend, grad), recorded.golden.numbers(&name), ABSOLUTE, RELATIVE, &name);
        seen += 1;
    };
    model.backward(backend, pass, 1.0 / counted as f32, &mut compare);
    assert_eq!(seen, names.len(), "every parameter got its gradient, once");
}

fn twenty_losses(name: &str) {
    let recorded = Recorded::load(name);
    let mut trainer = recorded.trainer(Box::new(Cpu::new()));
    for (i, &wanted) in recorded.golden.numbers("adamw_losses").iter().enumerate() {
        let report = trainer.step(&recorded.inputs, &recorded.targets);
        assert_near(&[report.loss as f32], &[wanted], 0.0, 2e-3, &format!("loss before step {}", i + 1));
    }
}

#[test]
fn golden_llama_gqa_untied_logits_loss_gradients() {
    logits_loss_and_gradients("llama_gqa_untied");
}

#[test]
fn golden_llama_mha_tied_logits_loss_gradients() {
    logits_loss_and_gradients("llama_mha_tied");
}

#[test]
fn golden_llama_gqa_untied_adamw_losses() {
    twenty_losses("llama_gqa_untied");
}

#[test]
fn golden_llama_mha_tied_adamw_losses() {
    twenty_losses("llama_mha_tied");
}

#[test]
fn golden_llama3_rope_logits_loss_gradients() {
    logits_loss_and_gradients("llama3_rope");
}

#[test]
fn golden_llama3_rope_adamw_losses() {
    twenty_losses("llama3_rope");
}

#[test]
fn golden_qwen2_logits_loss_gradients() {
    logits_loss_and_gradients("qwen2");
}

#[test]
fn golden_qwen2_adamw_losses() {
    twenty_losses("qwen2");
}

#[test]
fn golden_qwen3_logits_loss_gradients() {
    logits_loss_and_gradients("qwen3");
}

#[test]
fn golden_qwen3_adamw_losses() {
    twenty_losses("qwen3");
}
