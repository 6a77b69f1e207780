//! A two-layer LLaMA recorded from transformers in float32.

use super::Golden;
use std::collections::HashMap;
use tetrad::backend::{Backend, Moment, SecondMoment};
use tetrad::config::Config;
use tetrad::model::{Pass, RopeScaling, TableStorage, Weights, fill, table};
use tetrad::optim::{OptimizerConfig, Rule, Schedule};
use tetrad::train::Trainer;

/// A recording and the run it is of.
pub struct Recorded {
    pub golden: Golden,
    pub config: Config,
    pub inputs: Vec<u32>,
    pub targets: Vec<u32>,
}

impl Recorded {
    pub fn load(name: &str) -> Self {
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
        (config.storage.m, config.storage.v) = (Moment::F32, SecondMoment::F32);
        config.optimizer = OptimizerConfig { name: Rule::Adamw, lr: 3e-3, ..OptimizerConfig::default() };
        config.train.batch = batch;
        config.train.sequence = sequence;
        (config.train.warmup, config.train.schedule) = (0, Schedule::Constant);
        let rows: Vec<Vec<u32>> =
            tokens.chunks(sequence + 1).map(|row| row.iter().map(|&t| t as u32).collect()).collect();
        let inputs = rows.iter().flat_map(|row| row[..sequence].to_vec()).collect();
        let targets = rows.iter().flat_map(|row| row[1..].to_vec()).collect();
        Self { golden, config, inputs, targets }
    }

    /// A trainer with the recorded parameters.
    pub fn trainer(&self, backend: Box<dyn Backend>) -> Trainer {
        let mut trainer = Trainer::new(&self.config, backend).unwrap();
        trainer.initialize();
        let (model, backend) = trainer.model_and_backend();
        for (entry, param) in table(&self.config.settings()).iter().zip(model.stored.all()) {
            let values = self.golden.floats(&format!("param.{}", entry.role.name()));
            let cols = entry.shape.cols;
            assert_eq!(values.len(), entry.shape.len());
            fill(backend, &param.weight, &mut |row, out| {
                out.copy_from_slice(&values[row * cols..][..cols]);
            });
        }
        trainer
    }

    pub fn pass(&self) -> Pass {
        Pass::whole(self.config.train.batch, self.config.train.sequence)
    }

    /// Names of the parameters by their numbers.
    pub fn names(&self) -> HashMap<u32, String> {
        table(&self.config.settings()).iter().map(|e| (e.id, e.role.name())).collect()
    }
}
