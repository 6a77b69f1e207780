//! A base in a file, and adapters that are trained beside it.

use super::Golden;
use super::llama::Recorded;
use super::small;
use std::path::Path;
use std::sync::Arc;
use tetrad::backend::Backend;
use tetrad::backend::cpu::Cpu;
use tetrad::checkpoint::{Checkpoint, Extent, Meta, save};
use tetrad::config::Config;
use tetrad::memory::{ALIGN, Place, Span};
use tetrad::model::{
    AdapterConfig, AdapterKind, AdapterPart, AdapterScale, ParamKind, Settings, Trainable, fill, param_specs,
    place_param,
};
use tetrad::train::{FrozenBase, Trainer};
use zerocopy::IntoBytes;

/// A small base of packed weights, in a file.
pub fn base(folder: &Path) -> Checkpoint {
    let trainer = small::trainer(&small::config(), Box::new(Cpu::new()));
    let meta = Meta::new(trainer.config(), trainer.counters(), false, "text");
    let path = folder.join("base.tetrad");
    save(trainer.model(), trainer.backend(), &meta, None, Extent::Weights, &path).unwrap();
    Checkpoint::open(&path).unwrap()
}

/// LoRA on all matrices of the small base, of rank 4.
pub fn lora() -> Config {
    let mut config = small::config();
    config.adapter = AdapterConfig { kind: AdapterKind::Lora, rank: 4, alpha: 8.0, ..AdapterConfig::default() };
    config
}

/// A trainer with the first values of an adapter.
pub fn trainer(config: &Config, base: &Checkpoint, backend: Box<dyn Backend>) -> Trainer {
    let mut trainer = Trainer::beside(config, base.base().unwrap(), backend).unwrap();
    trainer.initialize();
    trainer
}

/// Saves an adapter with its state.
pub fn write(trainer: &Trainer, extent: Extent, path: &Path) {
    let meta = Meta::new(trainer.config(), trainer.counters(), false, "text").with_base(trainer.base());
    save(trainer.model(), trainer.backend(), &meta, None, extent, path).unwrap();
}

/// Numbers that are mapped as if they were a file.
struct Floats(Vec<f32>);

impl AsRef<[u8]> for Floats {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// A recorded model as the frozen base of a recorded adapter.
pub struct RecordedAdapter {
    pub base: Recorded,
    pub golden: Golden,
    pub config: Config,
}

impl RecordedAdapter {
    pub fn load(name: &str, adapter: AdapterConfig) -> Self {
        let (base, golden) = (Recorded::load("llama_gqa_untied"), Golden::load(&format!("adapters/{name}")));
        let mut config = Config { adapter, ..base.config.clone() };
        config.storage.group = 32;
        assert_eq!(config.adapter.problems(&config.model).0, []);
        Self { base, golden, config }
    }

    fn frozen(&self) -> FrozenBase {
        let settings = Settings { trainable: Trainable::Nothing, optimizer: None, ..self.base.config.settings() };
        let mut floats: Vec<f32> = Vec::new();
        let params = param_specs(&settings);
        let params = params.iter().map(|spec| {
            let values = self.base.golden.floats(&format!("param.{}", spec.kind.name()));
            let offset = 4 * floats.len();
            floats.extend(values);
            floats.resize(floats.len().next_multiple_of(ALIGN / 4), 0.0);
            place_param(spec, &mut |_, _, bytes| match bytes {
                0 => Span::NONE,
                _ => Span { place: Place::Mapped, offset, bytes },
            })
        });
        let params = params.collect();
        FrozenBase { file: Arc::new(Floats(floats)), params, fingerprint: "0123456789abcdef".parse().unwrap() }
    }

    /// A trainer whose adapter has no values yet.
    pub fn untrained(&self, backend: Box<dyn Backend>) -> Trainer {
        Trainer::beside(&self.config, self.frozen(), backend).unwrap()
    }

    /// A trainer with the recorded values of the adapter, those of the file `values`.
    pub fn trainer(&self, backend: Box<dyn Backend>, values: &Golden) -> Trainer {
        self.trainer_from(backend, values, "")
    }

    /// The same with the values whose names begin so.
    pub fn trainer_from(&self, backend: Box<dyn Backend>, values: &Golden, before: &str) -> Trainer {
        let mut trainer = self.untrained(backend);
        trainer.initialize();
        let (model, backend) = trainer.model_and_backend();
        for (spec, param) in model.specs.iter().zip(&model.stored) {
            let Some(recorded) = recorded(values, before, spec.kind) else { continue };
            let cols = spec.shape.cols;
            assert_eq!(recorded.len(), spec.shape.len(), "{}", spec.kind.name());
            fill(backend, &param.weight, &mut |row, out| out.copy_from_slice(&recorded[row * cols..][..cols]));
        }
        trainer
    }
}

/// What was recorded of a tensor of an adapter under the names that begin so; B is transposed to be as ours.
pub fn recorded(golden: &Golden, before: &str, kind: ParamKind) -> Option<Vec<f32>> {
    let ParamKind::Adapter(param) = kind else { return None };
    let name = kind.name();
    let site = name.rsplit_once('.').unwrap().0;
    let named = |part: &str| golden.floats(&format!("{before}{part}.{site}"));
    Some(match param.part {
        AdapterPart::A => named("A"),
        AdapterPart::Scale => named("scale"),
        AdapterPart::BTransposed => {
            let shape = &golden.tensors[&format!("{before}B.{site}")].0;
            let (values, [outputs, rank]) = (named("B"), [shape[0], shape[1]]);
            (0..rank * outputs).map(|i| values[i % outputs * rank + i / outputs]).collect()
        }
    })
}

/// The settings that `alpha` and the rest of a recording are of.
pub fn recorded_lora(targets: &[&str], scale: AdapterScale) -> AdapterConfig {
    AdapterConfig {
        kind: AdapterKind::Lora,
        targets: targets.iter().map(|&target| target.into()).collect(),
        rank: 4,
        alpha: 8.0,
        scale,
        ..AdapterConfig::default()
    }
}
