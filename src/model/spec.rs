//! What parameters a model has: one row says everything about each, and [`param_specs`] lists those of a model.

use super::adapter::{self, AdapterParam};
use super::{ModelConfig, Settings, owners};
use crate::optim::{Groups, ParamClass, ParamInfo};
use crate::quant::{GroupedShape, StateSpec, WeightFormat};

/// What a parameter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ParamKind {
    /// Token embedding (and head, if tied).
    Embedding,
    /// A parameter of the block of this number.
    Block(usize, BlockParam),
    /// Gain before the head.
    FinalNorm,
    /// Untied head.
    Head,
    /// A tensor of an adapter beside the model.
    Adapter(AdapterParam),
}

/// A parameter of a block, in the order of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockParam {
    /// Gain before attention.
    AttentionNorm,
    /// Query projection.
    Query,
    /// Key projection.
    Key,
    /// Value projection.
    Value,
    /// Bias of the queries.
    QueryBias,
    /// Bias of the keys.
    KeyBias,
    /// Bias of the values.
    ValueBias,
    /// Gain of each query head's norm.
    QueryNorm,
    /// Gain of each key head's norm.
    KeyNorm,
    /// Output projection of the attention.
    Output,
    /// Gain before the MLP.
    MlpNorm,
    /// Gate projection.
    Gate,
    /// Up projection.
    Up,
    /// Down projection.
    Down,
}

/// First values of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init {
    /// Normal with `model.init_std`: matrices.
    Normal,
    /// Normal with a standard deviation of 1: an adapter's A beside the embedding.
    StandardNormal,
    /// Ones: gains of norms, learned scales.
    Ones,
    /// Zeros: biases, and an adapter's B.
    Zeros,
    /// Uniform between -1 / sqrt(columns) and 1 / sqrt(columns): an adapter's A.
    Uniform,
    /// Uniform between 0 and 0.01: a prefix, as in LAE.
    Prefix,
    /// The norms of the rows of the base's matrix: an adapter's magnitudes.
    Measured,
}

/// Everything about one parameter of every model.
struct Row {
    /// In Hugging Face's LLaMA, Qwen2 and Qwen3, and here; of a block's parameter what follows `model.layers.N.`.
    name: &'static str,
    /// In GGUF; of a block's parameter what follows `blk.N.`.
    gguf: &'static str,
    /// Rows and columns; a vector has one row.
    shape: fn(&ModelConfig) -> [usize; 2],
    init: Init,
    /// Whether a model has it.
    exists: fn(&ModelConfig) -> bool,
}

const fn row(name: &'static str, gguf: &'static str, init: Init, shape: fn(&ModelConfig) -> [usize; 2]) -> Row {
    Row { name, gguf, shape, init, exists: |_| true }
}

impl Row {
    const fn only_if(self, exists: fn(&ModelConfig) -> bool) -> Self {
        Self { exists, ..self }
    }
}

const EMBEDDING: Row =
    row("model.embed_tokens.weight", "token_embd.weight", Init::Normal, |model| [model.vocab, model.hidden]);
const FINAL_NORM: Row = row("model.norm.weight", "output_norm.weight", Init::Ones, |model| [1, model.hidden]);
const HEAD: Row = row("lm_head.weight", "output.weight", Init::Normal, |model| [model.vocab, model.hidden])
    .only_if(|model| !model.tied);

/// The parameters of a block, in the order of the file.
#[rustfmt::skip]
static BLOCK: [(BlockParam, Row); 14] = {
    use BlockParam::*;
    use Init::{Normal, Ones, Zeros};
    [
        (AttentionNorm, row("input_layernorm.weight", "attn_norm.weight", Ones, |m| [1, m.hidden])),
        (Query, row("self_attn.q_proj.weight", "attn_q.weight", Normal, |m| [m.query_width(), m.hidden])),
        (Key, row("self_attn.k_proj.weight", "attn_k.weight", Normal, |m| [m.kv_width(), m.hidden])),
        (Value, row("self_attn.v_proj.weight", "attn_v.weight", Normal, |m| [m.kv_width(), m.hidden])),
        (QueryBias, row("self_attn.q_proj.bias", "attn_q.bias", Zeros, |m| [1, m.query_width()]).only_if(|m| m.qkv_bias)),
        (KeyBias, row("self_attn.k_proj.bias", "attn_k.bias", Zeros, |m| [1, m.kv_width()]).only_if(|m| m.qkv_bias)),
        (ValueBias, row("self_attn.v_proj.bias", "attn_v.bias", Zeros, |m| [1, m.kv_width()]).only_if(|m| m.qkv_bias)),
        (QueryNorm, row("self_attn.q_norm.weight", "attn_q_norm.weight", Ones, |m| [1, m.head_dim()]).only_if(|m| m.qk_norm)),
        (KeyNorm, row("self_attn.k_norm.weight", "attn_k_norm.weight", Ones, |m| [1, m.head_dim()]).only_if(|m| m.qk_norm)),
        (Output, row("self_attn.o_proj.weight", "attn_output.weight", Normal, |m| [m.hidden, m.query_width()])),
        (MlpNorm, row("post_attention_layernorm.weight", "ffn_norm.weight", Ones, |m| [1, m.hidden])),
        (Gate, row("mlp.gate_proj.weight", "ffn_gate.weight", Normal, |m| [m.intermediate, m.hidden])),
        (Up, row("mlp.up_proj.weight", "ffn_up.weight", Normal, |m| [m.intermediate, m.hidden])),
        (Down, row("mlp.down_proj.weight", "ffn_down.weight", Normal, |m| [m.hidden, m.intermediate])),
    ]
};

impl BlockParam {
    /// The seven matrices of a block.
    pub const MATRICES: [Self; 7] =
        [Self::Query, Self::Key, Self::Value, Self::Output, Self::Gate, Self::Up, Self::Down];

    fn row(self) -> &'static Row {
        &BLOCK[self as usize].1
    }

    /// Rows and columns; a vector has one row.
    pub fn shape(self, model: &ModelConfig) -> [usize; 2] {
        (self.row().shape)(model)
    }

    /// The module that it belongs to, in its block: `self_attn.q_proj`.
    pub fn module(self) -> &'static str {
        let name = self.row().name;
        name.rsplit_once('.').map_or(name, |(module, _)| module)
    }

    /// The last part of that: `q_proj`.
    pub fn module_name(self) -> &'static str {
        let module = self.module();
        module.rsplit_once('.').map_or(module, |(_, name)| name)
    }

    /// The path of the module in a block: `model.layers.0.self_attn.q_proj`.
    pub fn path(self, layer: usize) -> String {
        format!("model.layers.{layer}.{}", self.module())
    }

    /// A matrix's word in a configuration: `q`, `down`.
    pub fn word(self) -> &'static str {
        let name = self.module_name();
        name.strip_suffix("_proj").unwrap_or(name)
    }
}

impl ParamKind {
    /// What is known of a parameter of the model itself.
    ///
    /// # Panics
    /// If it is a tensor of an adapter.
    fn row(self) -> &'static Row {
        match self {
            Self::Embedding => &EMBEDDING,
            Self::Block(_, param) => param.row(),
            Self::FinalNorm => &FINAL_NORM,
            Self::Head => &HEAD,
            Self::Adapter(param) => unreachable!("{} is no parameter of the model", param.name()),
        }
    }

    /// Whether it is a tensor of an adapter.
    pub fn is_adapter(self) -> bool {
        matches!(self, Self::Adapter(_))
    }

    /// Whether it is a tensor of an adapter that is trained: not of an offline module.
    pub fn is_trained_adapter(self) -> bool {
        matches!(self, Self::Adapter(param) if !param.offline)
    }

    /// The number of its block, if it is of one.
    pub fn block(self) -> Option<usize> {
        match self {
            Self::Block(block, _) => Some(block),
            Self::Adapter(param) => param.site.layer(),
            _ => None,
        }
    }

    /// Its first values.
    pub fn init(self) -> Init {
        match self {
            Self::Adapter(param) => param.init(),
            _ => self.row().init,
        }
    }

    /// What an optimizer tells apart.
    pub fn class(self) -> ParamClass {
        match (self, self.init()) {
            (Self::Embedding, _) => ParamClass::Embedding,
            (Self::Head, _) => ParamClass::Head,
            (Self::Adapter(param), _) => param.part.class(),
            (_, Init::Zeros) => ParamClass::Bias,
            (_, Init::Ones) => ParamClass::Norm,
            (Self::Block(_, BlockParam::Query | BlockParam::Key), _) => ParamClass::QueryOrKey,
            _ => ParamClass::Matrix,
        }
    }

    /// Whether it is a gain or a bias: a vector, float32, without weight decay.
    pub fn is_vector(self) -> bool {
        self.class().is_vector()
    }

    /// The name, as in Hugging Face's LLaMA, Qwen2 and Qwen3.
    pub fn name(self) -> String {
        match self {
            Self::Block(block, _) => format!("model.layers.{block}.{}", self.row().name),
            Self::Adapter(param) => param.name(),
            _ => self.row().name.into(),
        }
    }

    /// The name in a GGUF file.
    ///
    /// # Panics
    /// If it is a tensor of an adapter.
    pub fn gguf_name(self) -> String {
        match self {
            Self::Block(block, _) => format!("blk.{block}.{}", self.row().gguf),
            _ => self.row().gguf.into(),
        }
    }
}

/// One parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamSpec {
    /// Position among the specs, which is its number in the file.
    pub id: u32,
    /// What it is.
    pub kind: ParamKind,
    /// Rows, columns, group; a vector has one row.
    pub shape: GroupedShape,
    /// How its values are stored.
    pub format: WeightFormat,
    /// Whether rows without a gradient are left as they are.
    pub sparse: bool,
    /// Whether training changes it: only then has it a gradient, a residue and optimizer state.
    pub trainable: bool,
    /// What the learning rate is multiplied by.
    pub rate: f64,
    /// Number of its group in the optimizer.
    pub group: u8,
    /// Its optimizer state, as the group's rule declares it.
    pub state: Vec<StateSpec>,
    /// Float32 numbers beside the gradient that a step of the rule needs.
    pub workspace: usize,
    /// The rank that updates it.
    pub owner: usize,
    /// Whether that is this one: only there lie residue and optimizer state.
    pub held: bool,
}

/// The parameters of a model, in the order of the file, and after them the tensors of its adapters, which have files of
/// their own.
pub fn param_specs(settings: &Settings) -> Vec<ParamSpec> {
    let blocks =
        (0..settings.model.layers).flat_map(|l| BLOCK.iter().map(move |(param, _)| ParamKind::Block(l, *param)));
    let kinds = [ParamKind::Embedding].into_iter().chain(blocks).chain([ParamKind::FinalNorm, ParamKind::Head]);
    let existing = kinds.filter(|kind| (kind.row().exists)(&settings.model));
    let groups = settings.optimizer.as_deref();
    let mut specs: Vec<_> = (0..).zip(existing).map(|(id, kind)| spec(settings, groups, id, kind)).collect();
    specs.extend(adapter::specs(settings, specs.len() as u32));
    owners::deal(&mut specs, settings.execution.ranks, settings.execution.rank);
    specs
}

/// How many of the specs are the model's own: the first ones.
pub(super) fn base_len(specs: &[ParamSpec]) -> usize {
    specs.iter().position(|spec| spec.kind.is_adapter()).unwrap_or(specs.len())
}

/// The parameters of the first block, which all others repeat in all but what is trained.
pub(super) fn block_specs(specs: &[ParamSpec]) -> &[ParamSpec] {
    let of_block = |spec: &&ParamSpec| matches!(spec.kind, ParamKind::Block(0, _));
    let first = specs.iter().take_while(|spec| !of_block(spec)).count();
    &specs[first..][..specs[first..].iter().take_while(of_block).count()]
}

/// The same, each trainable if it is in any block: what buffers that all blocks share must have room for.
pub(super) fn trained_block_specs(specs: &[ParamSpec]) -> Vec<ParamSpec> {
    let in_block = |kind| if let ParamKind::Block(_, param) = kind { Some(param) } else { None };
    let trained = |kind| specs.iter().any(|spec| spec.trainable && in_block(spec.kind) == in_block(kind));
    block_specs(specs).iter().map(|spec| ParamSpec { trainable: trained(spec.kind), ..spec.clone() }).collect()
}

fn spec(settings: &Settings, groups: Option<&Groups>, id: u32, kind: ParamKind) -> ParamSpec {
    let storage = &settings.storage;
    let format = match kind {
        kind if kind.is_vector() => WeightFormat::F32,
        ParamKind::Embedding => storage.table_format(storage.embedding),
        ParamKind::Head => storage.table_format(storage.head),
        ParamKind::Block(..) | ParamKind::FinalNorm | ParamKind::Adapter(_) => storage.matrix_format(),
    };
    let [rows, cols] = (kind.row().shape)(&settings.model);
    let shape = GroupedShape::new(rows, cols, storage.group);
    let class = match kind.class() {
        ParamClass::Embedding if settings.model.tied => ParamClass::TiedEmbedding,
        class => class,
    };
    let info = ParamInfo { class, shape, head_dim: settings.model.head_dim() };
    let trainable = settings.trainable.contains(kind);
    let groups = groups.filter(|_| trainable);
    let (group, state) = groups.map_or((0, Vec::new()), |groups| groups.declare(&info));
    ParamSpec {
        id,
        kind,
        shape,
        format,
        sparse: kind == ParamKind::Embedding && settings.sparse_embedding,
        trainable,
        rate: 1.0,
        group,
        state,
        workspace: groups.map_or(0, |groups| groups.workspace(&info)),
        owner: 0,
        held: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_block_are_found_by_their_parameter() {
        for (i, (param, _)) in BLOCK.iter().enumerate() {
            assert_eq!(*param as usize, i);
        }
    }

    #[test]
    fn names_here_and_elsewhere() {
        let names = |kind: ParamKind| (kind.name(), kind.gguf_name());
        let own = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(names(ParamKind::Embedding), own("model.embed_tokens.weight", "token_embd.weight"));
        let bias = ParamKind::Block(7, BlockParam::KeyBias);
        assert_eq!(names(bias), own("model.layers.7.self_attn.k_proj.bias", "blk.7.attn_k.bias"));
        assert_eq!(
            (bias.init(), ParamKind::FinalNorm.init(), ParamKind::Head.init()),
            (Init::Zeros, Init::Ones, Init::Normal)
        );
    }
}
