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
    AdapterConfig, AdapterKind, AdapterPart, AdapterPlace, AdapterScale, AdapterSite, ParamKind, Settings, Trainable,
    fill, param_specs, place_param,
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

/// Every kind of adapter beside the small base.
pub fn kinds() -> Vec<(&'static str, Config)> {
    use AdapterScale::{AlphaOverRank, Learned};
    let prefix = |scale, compensate| AdapterConfig {
        kind: AdapterKind::Prefix,
        length: 5,
        scale,
        compensate,
        ..AdapterConfig::default()
    };
    let bottleneck = |scale, place| AdapterConfig {
        kind: AdapterKind::Bottleneck,
        width: 5,
        scale,
        place,
        ..AdapterConfig::default()
    };
    let lora = lora().adapter;
    let of = |targets: &[&str]| AdapterConfig {
        targets: targets.iter().map(|&target| target.into()).collect(),
        ..lora.clone()
    };
    let adapters = [
        ("LoRA", lora.clone()),
        ("DoRA", AdapterConfig { magnitude: true, ..lora.clone() }),
        ("DoRA with dropout", AdapterConfig { magnitude: true, dropout: 0.2, ..lora.clone() }),
        ("LoRA of the embedding", of(&["embedding"])),
        ("LoRA of the head", of(&["head"])),
        ("LoRA of all there is", AdapterConfig { dropout: 0.2, ..of(&["embedding", "all", "head"]) }),
        (
            "LoRA of embedding and head with learned scales",
            AdapterConfig { scale: Learned, ..of(&["head", "embedding"]) },
        ),
        ("LoRA with learned scales", AdapterConfig { scale: Learned, ..lora.clone() }),
        ("a prefix", prefix(AlphaOverRank, false)),
        ("a prefix with learned scales", prefix(Learned, false)),
        ("a compensated prefix", prefix(Learned, true)),
        ("a bottleneck", bottleneck(AlphaOverRank, AdapterPlace::Attention)),
        ("a bottleneck with a learned scale", bottleneck(Learned, AdapterPlace::FeedForward)),
        ("a prefix of one block", AdapterConfig { layers: "1".into(), ..prefix(AlphaOverRank, true) }),
    ];
    let beside = |(name, adapter)| {
        let config = Config { adapter, ..small::config() };
        config.validate().unwrap();
        (name, config)
    };
    adapters.map(beside).into()
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
    let (site, layer) = (param.site.path(), param.site.layer().unwrap_or(0));
    let of_layer = |part: &str| golden.floats(&format!("{before}{part}.{layer}"));
    let place = if matches!(param.site, AdapterSite::Mlp(_)) { "mlp" } else { "attn" };
    let name_beside = |part: &str| format!("{before}{part}.{layer}.{place}");
    let beside = |part: &str| golden.floats(&name_beside(part));
    let transposed = |name: &str| {
        let (shape, values) = (&golden.tensors[name].0, golden.floats(name));
        let [rows, cols] = [shape[0], shape[1]];
        (0..rows * cols).map(|i| values[i % rows * cols + i / rows]).collect()
    };
    // PEFT keeps all of a prefix in one tensor: [P, layer, key or value, K D].
    let prompt = |which: usize| {
        let (shape, all) = golden.tensors.get(&format!("{before}prompt_embeddings"))?;
        let width = shape[1] / 4;
        let rows = all.chunks(shape[1]).flat_map(|row| &row[(2 * layer + which) * width..][..width]);
        Some(rows.map(|&x| x as f32).collect::<Vec<_>>())
    };
    let named = |part: &str| golden.floats(&format!("{before}{part}.{site}"));
    Some(match param.part {
        AdapterPart::A => named("A"),
        AdapterPart::B => named("B"),
        AdapterPart::Scale => named("scale"),
        AdapterPart::Magnitude => named("magnitude"),
        AdapterPart::Down => beside("down"),
        AdapterPart::DownBias => beside("down_bias"),
        AdapterPart::UpTransposed => transposed(&name_beside("up")),
        AdapterPart::UpBias => beside("up_bias"),
        AdapterPart::BottleneckScale => beside("scale"),
        AdapterPart::PrefixKey => prompt(0).unwrap_or_else(|| of_layer("key")),
        AdapterPart::PrefixValue => prompt(1).unwrap_or_else(|| of_layer("value")),
        AdapterPart::PrefixKeyScale => of_layer("key_scale"),
        AdapterPart::PrefixValueScale => of_layer("value_scale"),
        AdapterPart::BTransposed => transposed(&format!("{before}B.{site}")),
    })
}

/// A recorded prefix's settings.
pub fn recorded_prefix(scale: AdapterScale, compensate: bool) -> AdapterConfig {
    AdapterConfig { kind: AdapterKind::Prefix, length: 5, scale, compensate, ..AdapterConfig::default() }
}

/// A recorded bottleneck's settings.
pub fn recorded_bottleneck(place: AdapterPlace) -> AdapterConfig {
    let scale = AdapterScale::Learned;
    AdapterConfig { kind: AdapterKind::Bottleneck, width: 5, scale, place, ..AdapterConfig::default() }
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
