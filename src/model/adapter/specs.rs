//! The tensors of an adapter: names, shapes, storage, and what their optimizer keeps.

use super::config::{AdapterConfig, AdapterKind, AdapterScale, AdapterWeights};
use crate::model::spec::{Init, ParamKind, ParamSpec};
use crate::model::{LowRankSite, MatrixSite, Settings};
use crate::optim::{ParamClass, ParamInfo};
use crate::quant::{GroupedShape, WeightFormat};

/// A tensor of an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AdapterParam {
    /// Which of the adapters that the model is placed with.
    pub adapter: usize,
    /// What it stands beside.
    pub site: AdapterSite,
    /// Which part of the adapter.
    pub part: AdapterPart,
    /// Whether it is of the offline module.
    pub offline: bool,
}

/// What an adapter's tensors stand beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AdapterSite {
    /// A matrix.
    Matrix(MatrixSite),
    /// The attention of a block.
    Attention(usize),
    /// The MLP of a block.
    Mlp(usize),
}

impl AdapterSite {
    /// The number of its block, if it is in one.
    pub fn layer(self) -> Option<usize> {
        match self {
            Self::Matrix(matrix) => matrix.layer(),
            Self::Attention(layer) | Self::Mlp(layer) => Some(layer),
        }
    }

    /// The module's path as in Hugging Face's models: `model.layers.0.self_attn.q_proj`, `model.layers.0.self_attn`.
    pub fn path(self) -> String {
        match self {
            Self::Matrix(matrix) => matrix.path(),
            Self::Attention(layer) => format!("model.layers.{layer}.self_attn"),
            Self::Mlp(layer) => format!("model.layers.{layer}.mlp"),
        }
    }
}

/// The parts of adapters, in the order of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AdapterPart {
    /// A `[rank, in]`; with `group` `[rank, groups of a row]`.
    A,
    /// B transposed, `[rank, out]`: rows of `rank` numbers would each be padded to a whole group in every grouped plane.
    BTransposed,
    /// B beside the embedding, `[vocab, rank]`: its rows are looked up by tokens.
    B,
    /// DoRA's norms of the rows of the sum, `out` numbers.
    Magnitude,
    /// The learned factor, one number.
    Scale,
    /// Keys of a prefix `[length, K D]`.
    PrefixKey,
    /// Its values `[length, K D]`.
    PrefixValue,
    /// What the keys are multiplied by, one number.
    PrefixKeyScale,
    /// What the values are multiplied by, one number.
    PrefixValueScale,
    /// D of a bottleneck `[width, hidden]`.
    Down,
    /// What is added to `D x`, `width` numbers.
    DownBias,
    /// U transposed, `[width, hidden]`.
    UpTransposed,
    /// What is added to `U gelu(..)`, hidden numbers.
    UpBias,
    /// What a bottleneck is multiplied by, one number.
    BottleneckScale,
}

impl AdapterPart {
    /// What follows the module's path in a name.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::A => "lora_A",
            Self::BTransposed => "lora_B_t",
            Self::B => "lora_B",
            Self::Magnitude => "lora_magnitude",
            Self::Scale => "lora_scale",
            Self::PrefixKey => "prefix_key",
            Self::PrefixValue => "prefix_value",
            Self::PrefixKeyScale => "prefix_key_scale",
            Self::PrefixValueScale => "prefix_value_scale",
            Self::Down => "bottleneck_down",
            Self::DownBias => "bottleneck_down_bias",
            Self::UpTransposed => "bottleneck_up_t",
            Self::UpBias => "bottleneck_up_bias",
            Self::BottleneckScale => "bottleneck_scale",
        }
    }

    /// First values, wherever it stands but beside the embedding.
    fn init(self) -> Init {
        match self {
            Self::A | Self::Down => Init::Uniform,
            Self::BTransposed | Self::B | Self::DownBias | Self::UpTransposed | Self::UpBias => Init::Zeros,
            Self::Scale | Self::PrefixKeyScale | Self::PrefixValueScale | Self::BottleneckScale => Init::Ones,
            Self::PrefixKey | Self::PrefixValue => Init::Prefix,
            Self::Magnitude => Init::Measured,
        }
    }

    /// What an optimizer takes it for.
    pub fn class(self) -> ParamClass {
        match self {
            Self::A
            | Self::BTransposed
            | Self::B
            | Self::PrefixKey
            | Self::PrefixValue
            | Self::Down
            | Self::UpTransposed => ParamClass::Matrix,
            Self::Scale | Self::PrefixKeyScale | Self::PrefixValueScale | Self::BottleneckScale => ParamClass::Bias,
            Self::DownBias | Self::UpBias | Self::Magnitude => ParamClass::Bias,
        }
    }
}

/// What the names of an offline module's tensors begin with.
pub const OFFLINE: &str = "offline.";

impl AdapterParam {
    /// First values.
    pub fn init(self) -> Init {
        match (self.site, self.part) {
            // As in PEFT: no input is scaled, a row is looked up.
            (AdapterSite::Matrix(MatrixSite::Embedding), AdapterPart::A) => Init::StandardNormal,
            _ => self.part.init(),
        }
    }

    /// The name in a file: `model.layers.0.self_attn.q_proj.lora_A`, of the offline module after `offline.`.
    pub fn name(self) -> String {
        let module = if self.offline { OFFLINE } else { "" };
        format!("{module}{}.{}", self.site.path(), self.part.suffix())
    }
}

impl AdapterConfig {
    /// What it stands beside, in the order of the model's file, and the rows and columns of each of its tensors there.
    fn tensors(&self, settings: &Settings) -> Vec<(AdapterSite, AdapterPart, [usize; 2])> {
        use AdapterPart as P;
        let (model, learned) = (&settings.model, self.scale == AdapterScale::Learned);
        match self.kind {
            AdapterKind::None => Vec::new(),
            AdapterKind::Lora => {
                let of = |site: LowRankSite| {
                    let [outputs, inputs] = site.matrix.shape(model);
                    let seen = if self.group { inputs.div_ceil(settings.storage.group) } else { inputs };
                    let magnitude = self.magnitude.then_some((P::Magnitude, [1, outputs]));
                    let scale = learned.then_some((P::Scale, [1, 1]));
                    let of_b = match site.matrix {
                        MatrixSite::Embedding => (P::B, [outputs, site.rank]),
                        _ => (P::BTransposed, [site.rank, outputs]),
                    };
                    let pair = [(P::A, [site.rank, seen]), of_b];
                    let at = AdapterSite::Matrix(site.matrix);
                    pair.into_iter().chain(magnitude).chain(scale).map(move |(part, shape)| (at, part, shape))
                };
                self.sites(model).into_iter().flat_map(of).collect()
            }
            AdapterKind::Prefix => {
                let keys = [self.length, model.kv_width()];
                let scales = [(P::PrefixKeyScale, [1, 1]), (P::PrefixValueScale, [1, 1])];
                let scales = scales.into_iter().filter(|_| learned);
                let parts: Vec<_> = [(P::PrefixKey, keys), (P::PrefixValue, keys)].into_iter().chain(scales).collect();
                let of = |layer| parts.iter().map(move |&(part, shape)| (AdapterSite::Attention(layer), part, shape));
                self.blocks(model).into_iter().flat_map(of).collect()
            }
            AdapterKind::Bottleneck => {
                let (matrix, width) = ([self.width, model.hidden], [1, self.width]);
                let parts = [
                    (P::Down, matrix),
                    (P::DownBias, width),
                    (P::UpTransposed, matrix),
                    (P::UpBias, [1, model.hidden]),
                    (P::BottleneckScale, [1, 1]),
                ];
                let parts: Vec<_> =
                    parts.into_iter().filter(|(part, _)| learned || *part != P::BottleneckScale).collect();
                let of = |layer| parts.iter().map(move |&(part, shape)| (self.place.site(layer), part, shape));
                self.blocks(model).into_iter().flat_map(of).collect()
            }
        }
    }
}

/// The tensors of all adapters, numbered from `first` on: adapter by adapter, in the order of what they stand beside.
pub(in crate::model) fn specs(settings: &Settings, first: u32) -> Vec<ParamSpec> {
    let mut all = Vec::new();
    for (adapter, used) in settings.adapters.iter().enumerate() {
        for (site, part, shape) in used.config.tensors(settings) {
            let param = AdapterParam { adapter, site, part, offline: used.offline };
            all.push(spec(settings, &used.config, param, shape, first + all.len() as u32));
        }
    }
    all
}

fn spec(
    settings: &Settings,
    config: &AdapterConfig,
    param: AdapterParam,
    [rows, cols]: [usize; 2],
    id: u32,
) -> ParamSpec {
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
    ParamSpec { id, kind, shape, format, sparse: false, trainable, rate, group, state, workspace, owner: 0, held: true }
}
