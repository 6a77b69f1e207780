//! Adapters of other programs: recorded folders, every convention of theirs, and hostile ones.

mod export;
mod golden;
mod hostile;
mod merge;
mod options;

use crate::harness::fixture;
use crate::harness::llama::Recorded;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tetrad::backend::cpu::Cpu;
use tetrad::checkpoint::{Adapter, Checkpoint, Extent, Meta, save};
use tetrad::config::Config;
use tetrad::convert::adapter::{ForeignAdapter, LowRank, Parts, ScaleRule, open_adapter};
use tetrad::convert::quants::Kind;
use tetrad::convert::safetensors;
use tetrad::error::ConvertError;
use tetrad::model::{BlockParam, ModelConfig, ParamKind};
use tetrad::train::Trainer;

/// The base of the recordings: two blocks of 64 features, 172 between, 4 heads of 16 and 2 of keys, 97 tokens, an untied
/// head.
pub fn base() -> ModelConfig {
    Recorded::load("llama_gqa_untied").config.model
}

/// A recorded folder or file.
pub fn recorded(name: &str) -> PathBuf {
    fixture("golden/adapters").join(name)
}

/// The pairs of a low-rank adapter.
pub fn pairs(adapter: &ForeignAdapter) -> (ScaleRule, &[LowRank]) {
    match &adapter.parts {
        Parts::LowRank { rule, pairs } => (*rule, pairs),
        other => panic!("{other:?}"),
    }
}

/// The module of a matrix in transformers.
pub fn module(kind: ParamKind) -> String {
    kind.name().trim_end_matches(".weight").to_owned()
}

/// Matrices of two blocks: their modules, rows and columns.
pub fn modules() -> Vec<(String, u64, u64)> {
    let sizes = [
        ("self_attn.q_proj", 64, 64),
        ("self_attn.k_proj", 32, 64),
        ("self_attn.v_proj", 32, 64),
        ("self_attn.o_proj", 64, 64),
        ("mlp.gate_proj", 172, 64),
        ("mlp.up_proj", 172, 64),
        ("mlp.down_proj", 64, 172),
    ];
    (0..2).flat_map(|l| sizes.map(|(name, rows, cols)| (format!("model.layers.{l}.{name}"), rows, cols))).collect()
}

/// Tensors of a file that is to be written: names, shapes, numbers.
pub type Tensors = Vec<(String, Vec<u64>, Vec<f32>)>;

/// A tensor whose numbers tell one from the other.
pub fn tensor(name: impl Into<String>, dims: &[u64]) -> (String, Vec<u64>, Vec<f32>) {
    let (name, len) = (name.into(), dims.iter().product::<u64>());
    let seed = name.bytes().fold(7u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let number = |i: u64| ((seed.wrapping_add(i * 2_654_435_761) % 2001) as f32 - 1000.0) / 1000.0;
    (name, dims.to_vec(), (0..len).map(number).collect())
}

/// PEFT's tensors of queries and values, rank 4.
pub fn peft_tensors() -> Tensors {
    let chosen = modules().into_iter().filter(|(module, ..)| module.contains("q_proj") || module.contains("v_proj"));
    let both = chosen.flat_map(|(module, rows, cols)| {
        let name = |half| format!("base_model.model.{module}.lora_{half}.weight");
        [tensor(name("A"), &[4, cols]), tensor(name("B"), &[rows, 4])]
    });
    both.collect()
}

/// PEFT's configuration of them.
pub fn peft_config() -> Value {
    json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "lora_dropout": 0.05,
        "target_modules": ["q_proj", "v_proj"], "base_model_name_or_path": "tiny", "bias": "none",
    })
}

pub fn safetensors_file(path: &Path, tensors: &Tensors) {
    let plain: Vec<_> = tensors.iter().map(|(name, dims, _)| (name.clone(), dims.clone(), Kind::F32)).collect();
    let mut bytes = safetensors::header(&plain);
    bytes.extend(tensors.iter().flat_map(|(.., values)| values).flat_map(|x| x.to_le_bytes()));
    std::fs::write(path, bytes).unwrap();
}

/// A PEFT folder.
pub struct Folder(pub tempfile::TempDir);

impl Folder {
    pub fn peft(config: &Value, tensors: &Tensors) -> Self {
        Self::new(config, tensors, "adapter_model.safetensors")
    }

    pub fn new(config: &Value, tensors: &Tensors, name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("adapter_config.json"), config.to_string()).unwrap();
        safetensors_file(&dir.path().join(name), tensors);
        Self(dir)
    }

    pub fn open(&self) -> Result<ForeignAdapter, ConvertError> {
        open_adapter(self.0.path(), &base())
    }

    /// What is said of it, without the folder.
    pub fn refusal(&self) -> String {
        let error = self.open().map(|_| ()).unwrap_err().to_string();
        error.replace(&format!("{}/", self.0.path().display()), "").replace(&self.0.path().display().to_string(), ".")
    }
}

/// A matrix of block `l`.
pub fn of(l: usize, param: BlockParam) -> ParamKind {
    ParamKind::Block(l, param)
}

/// The recorded base as a file, stored otherwise than in float32 where `edit` says so.
pub fn golden_base(dir: &Path, edit: impl Fn(&mut Config)) -> Checkpoint {
    named_base("llama_gqa_untied", dir, edit)
}

/// The same of another recording.
pub fn named_base(name: &str, dir: &Path, edit: impl Fn(&mut Config)) -> Checkpoint {
    let mut recorded = Recorded::load(name);
    edit(&mut recorded.config);
    let trainer: Trainer = recorded.trainer(Box::new(Cpu::new()));
    let path = dir.join("base.tetrad");
    let meta = Meta::new(&recorded.config, trainer.counters(), true, "");
    // Nobody reads it here; without one every byte would have to be a token, and the recording has 97.
    save(trainer.model(), trainer.backend(), &meta, Some(b"{}"), Extent::Full, &path).unwrap();
    Checkpoint::open_sound(&path).unwrap()
}

/// A recorded adapter as one of ours.
pub fn golden_adapter(base: &Checkpoint, name: &str) -> Adapter {
    open_adapter(&recorded(name), &base.meta.model).unwrap().into_own(base).unwrap()
}
