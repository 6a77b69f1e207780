//! The tensors of an adapter: names, shapes, storage, and what their optimizer keeps.

use super::config::{AdapterConfig, AdapterScale, AdapterWeights};
use super::sites::LowRankSite;
use crate::model::spec::{Init, ParamKind, ParamSpec};
use crate::model::{BlockParam, Settings};
use crate::optim::ParamInfo;
use crate::quant::{GroupedShape, WeightFormat};

/// A tensor of an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AdapterParam {
    /// Which of the adapters that the model is placed with.
    pub adapter: usize,
    /// The block.
    pub layer: usize,
    /// The matrix that it stands beside.
    pub matrix: BlockParam,
    /// Which part of the adapter.
    pub part: AdapterPart,
    /// Whether it is of the offline module.
    pub offline: bool,
}

/// The parts of a low-rank adapter, in the order of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AdapterPart {
    /// A `[rank, in]`; with `group` `[rank, groups of a row]`.
    A,
    /// B transposed, `[rank, out]`: rows of `rank` numbers would each be padded to a whole group in every grouped plane.
    BTransposed,
    /// The learned factor, one number.
    Scale,
}

impl AdapterPart {
    /// What follows the module's path in a name.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::A => "lora_A",
            Self::BTransposed => "lora_B_t",
            Self::Scale => "lora_scale",
        }
    }

    /// First values.
    pub fn init(self) -> Init {
        match self {
            Self::A => Init::Uniform,
            Self::BTransposed => Init::Zeros,
            Self::Scale => Init::Ones,
        }
    }
}

/// What the names of an offline module's tensors begin with.
pub const OFFLINE: &str = "offline.";

impl AdapterParam {
    /// The name in a file: `model.layers.0.self_attn.q_proj.lora_A`, of the offline module after `offline.`.
    pub fn name(self) -> String {
        let module = if self.offline { OFFLINE } else { "" };
        format!("{module}{}.{}", self.matrix.path(self.layer), self.part.suffix())
    }
}

impl AdapterConfig {
    /// The parts of each site.
    fn parts(&self) -> &'static [AdapterPart] {
        match self.scale {
            AdapterScale::Learned => &[AdapterPart::A, AdapterPart::BTransposed, AdapterPart::Scale],
            AdapterScale::AlphaOverRank | AdapterScale::RsLora => &[AdapterPart::A, AdapterPart::BTransposed],
        }
    }
}

/// The tensors of all adapters, numbered from `first` on: adapter by adapter, block by block.
pub(in crate::model) fn specs(settings: &Settings, first: u32) -> Vec<ParamSpec> {
    let mut all = Vec::new();
    for (adapter, used) in settings.adapters.iter().enumerate() {
        for site in used.config.sites(&settings.model) {
            for &part in used.config.parts() {
                let param =
                    AdapterParam { adapter, layer: site.layer, matrix: site.matrix, part, offline: used.offline };
                all.push(spec(settings, &used.config, &site, param, first + all.len() as u32));
            }
        }
    }
    all
}

fn spec(settings: &Settings, config: &AdapterConfig, site: &LowRankSite, param: AdapterParam, id: u32) -> ParamSpec {
    let [outputs, inputs] = site.matrix.shape(&settings.model);
    let [rows, cols] = match param.part {
        AdapterPart::A if config.group => [site.rank, inputs.div_ceil(settings.storage.group)],
        AdapterPart::A => [site.rank, inputs],
        AdapterPart::BTransposed => [site.rank, outputs],
        AdapterPart::Scale => [1, 1],
    };
    let kind = ParamKind::Adapter(param);
    let shape = GroupedShape::new(rows, cols, settings.storage.group);
    let info = ParamInfo { class: kind.class(), shape, head_dim: settings.model.head_dim() };
    let trainable = settings.trainable.contains(kind);
    let groups = settings.optimizer.as_deref().filter(|_| trainable);
    let (group, state) = groups.map_or((0, Vec::new()), |groups| groups.declare(&info));
    let format = match config.weights {
        _ if kind.is_vector() || param.offline => WeightFormat::F32,
        AdapterWeights::F32 => WeightFormat::F32,
        AdapterWeights::Bf16 => WeightFormat::BF16,
    };
    let rate = if param.part == AdapterPart::A { 1.0 } else { config.rate_b };
    let workspace = groups.map_or(0, |groups| groups.workspace(&info));
    ParamSpec { id, kind, shape, format, sparse: false, trainable, rate, group, state, workspace }
}
