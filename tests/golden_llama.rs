//! Models of two layers recorded from transformers in float32: logits, loss, every gradient, and 20 AdamW losses.
//! LLaMA, LLaMA 3 with its stretched frequencies, Qwen2 with biases, Qwen3 with normed heads of a size of their own.

mod common;

use common::{Golden, assert_near};
use std::collections::HashMap;
use tetrad::backend::cpu::Cpu;
use tetrad::backend::{Backend, Param};
use tetrad::config::{Config, Moment, Optimizer, RopeScaling, Rule, Schedule, TableStorage, Weights};
use tetrad::memory::Span;
use tetrad::model::{Pass, fill, table};
use tetrad::train::Trainer;
use zerocopy::IntoBytes;

/// The agreement that the recordings ask for.
const ABSOLUTE: f64 = 2e-5;
const RELATIVE: f64 = 2e-4;

struct Recorded {
    golden: Golden,
    config: Config,
    inputs: Vec<u32>,
    targets: Vec<u32>,
}

fn recorded(name: &str) -> Recorded {
    let golden = Golden::load(name);
    let told: serde_json::Value = serde_json::from_str(&golden.metadata["config"]).unwrap();
    let number = |key: &str| told[key].as_u64().unwrap() as usize;
    let (shape, tokens) = &golden.tensors["tokens"];
    let (batch, sequence) = (shape[0], shape[1] - 1);
    let mut config = Config::default();
    let model = &mut config.model;
    model.hidden = number("hidden_size");
    model.intermediate = number("intermediate_size");
    model.layers = number("num_hidden_layers");
    model.heads = number("num_attention_heads");
    model.kv_heads = number("num_key_value_heads");
    model.vocab = number("vocab_size");
    model.context = number("max_position_embeddings");
    model.tied = told["tie_word_embeddings"].as_bool().unwrap();
    model.norm_eps = told["rms_norm_eps"].as_f64().unwrap();
    model.rope_theta = told["rope_parameters"]["rope_theta"].as_f64().unwrap();
    if told["rope_parameters"]["rope_type"] == "llama3" {
        let rope = |key: &str| told["rope_parameters"][key].as_f64().unwrap();
        model.rope_scaling = RopeScaling::Llama3;
        (model.rope_factor, model.rope_low) = (rope("factor"), rope("low_freq_factor"));
        model.rope_high = rope("high_freq_factor");
        model.rope_original_context = rope("original_max_position_embeddings") as usize;
    }
    model.qkv_bias = told["model_type"] == "qwen2";
    model.qk_norm = told["model_type"] == "qwen3";
    if model.qk_norm {
        model.head_dim = Some(number("head_dim"));
    }
    config.storage.weights = Weights::F32;
    (config.storage.embedding, config.storage.head) = (TableStorage::F32, TableStorage::F32);
    (config.storage.m, config.storage.v) = (Moment::F32, Moment::F32);
    config.optimizer = Optimizer { name: Rule::Adamw, lr: 3e-3, ..Optimizer::default() };
    config.train.batch = batch;
    config.train.sequence = sequence;
    (config.train.warmup, config.train.schedule) = (0, Schedule::Constant);
    let rows: Vec<Vec<u32>> = tokens.chunks(sequence + 1).map(|row| row.iter().map(|&t| t as u32).collect()).collect();
    let inputs = rows.iter().flat_map(|row| row[..sequence].to_vec()).collect();
    let targets = rows.iter().flat_map(|row| row[1..].to_vec()).collect();
    Recorded { golden, config, inputs, targets }
}

impl Recorded {
    fn trainer(&self) -> Trainer {
        let mut trainer = Trainer::new(&self.config, Box::new(Cpu::new())).unwrap();
        trainer.initialize();
        for (entry, param) in table(&self.config).iter().zip(trainer.model.params.all()) {
            let values = self.golden.floats(&format!("param.{}", entry.role.name()));
            let cols = entry.geometry.cols;
            assert_eq!(values.len(), entry.geometry.len());
            fill(trainer.backend.as_mut(), &param.weight, &mut |row, out| {
                out.copy_from_slice(&values[row * cols..][..cols]);
            });
        }
        trainer
    }

    fn pass(&self) -> Pass {
        Pass::whole(self.config.train.batch, self.config.train.sequence)
    }
}

fn download(backend: &dyn Backend, span: Span) -> Vec<f32> {
    let mut out = vec![0.0f32; span.bytes / 4];
    backend.download(span, out.as_mut_bytes());
    out
}

fn logits_loss_and_gradients(name: &str) {
    let recorded = recorded(name);
    let Trainer { mut backend, model, .. } = recorded.trainer();
    let (pass, backend) = (recorded.pass(), backend.as_mut());
    backend.upload(recorded.inputs.as_bytes(), model.work.inputs);
    backend.upload(recorded.targets.as_bytes(), model.work.targets);
    model.forward(backend, pass);
    let logits = model.logits(backend, 0, pass.tokens());
    assert_near(&download(backend, logits), recorded.golden.numbers("logits"), ABSOLUTE, RELATIVE, "logits");

    let counted = recorded.targets.len();
    model.loss_and_head_grad(backend, pass, 1.0 / counted as f32);
    let losses = download(backend, model.work.losses);
    let loss = losses.iter().map(|&l| f64::from(l)).sum::<f64>() / counted as f64;
    assert_near(&[loss as f32], recorded.golden.numbers("loss"), ABSOLUTE, RELATIVE, "loss");

    let names: HashMap<u32, String> = table(&recorded.config).iter().map(|e| (e.id, e.role.name())).collect();
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
    let recorded = recorded(name);
    let mut trainer = recorded.trainer();
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
