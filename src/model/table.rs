//! The one table of parameters: name, shape, storage. Everything that walks over a model walks over this.

use super::Settings;
use crate::optim::{Groups, ParamClass, ParamInfo};
use crate::quant::{GroupedShape, StateSpec, WeightFormat};

/// What a parameter is for; `usize` is the block's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Token embedding (and head, if tied).
    Embedding,
    /// Gain before attention.
    AttentionNorm(usize),
    /// Query projection.
    Query(usize),
    /// Key projection.
    Key(usize),
    /// Value projection.
    Value(usize),
    /// Bias of the queries.
    QueryBias(usize),
    /// Bias of the keys.
    KeyBias(usize),
    /// Bias of the values.
    ValueBias(usize),
    /// Gain of each query head's norm.
    QueryNorm(usize),
    /// Gain of each key head's norm.
    KeyNorm(usize),
    /// Output projection of the attention.
    Output(usize),
    /// Gain before the feed-forward block.
    FeedForwardNorm(usize),
    /// Gate projection.
    Gate(usize),
    /// Up projection.
    Up(usize),
    /// Down projection.
    Down(usize),
    /// Gain before the head.
    FinalNorm,
    /// Untied head.
    Head,
}

impl Role {
    /// Whether it is a gain of a norm, which begins at 1.
    pub fn is_norm(self) -> bool {
        matches!(
            self,
            Self::AttentionNorm(_) | Self::FeedForwardNorm(_) | Self::QueryNorm(_) | Self::KeyNorm(_) | Self::FinalNorm
        )
    }

    /// Whether it is a bias, which begins at 0.
    pub fn is_bias(self) -> bool {
        matches!(self, Self::QueryBias(_) | Self::KeyBias(_) | Self::ValueBias(_))
    }

    /// Whether it is a gain or a bias: a vector, float32, without weight decay.
    pub fn is_vector(self) -> bool {
        self.is_norm() || self.is_bias()
    }

    /// What an optimizer tells apart.
    pub fn class(self) -> ParamClass {
        match self {
            Self::Embedding => ParamClass::Embedding,
            Self::Head => ParamClass::Head,
            role if role.is_bias() => ParamClass::Bias,
            role if role.is_norm() => ParamClass::Norm,
            Self::Query(_) | Self::Key(_) => ParamClass::QueryOrKey,
            _ => ParamClass::Matrix,
        }
    }

    /// The name, as in Hugging Face's LLaMA, Qwen2 and Qwen3.
    pub fn name(self) -> String {
        let (layer, part) = match self {
            Self::Embedding => return "model.embed_tokens.weight".into(),
            Self::FinalNorm => return "model.norm.weight".into(),
            Self::Head => return "lm_head.weight".into(),
            Self::AttentionNorm(l) => (l, "input_layernorm"),
            Self::Query(l) | Self::QueryBias(l) => (l, "self_attn.q_proj"),
            Self::Key(l) | Self::KeyBias(l) => (l, "self_attn.k_proj"),
            Self::Value(l) | Self::ValueBias(l) => (l, "self_attn.v_proj"),
            Self::QueryNorm(l) => (l, "self_attn.q_norm"),
            Self::KeyNorm(l) => (l, "self_attn.k_norm"),
            Self::Output(l) => (l, "self_attn.o_proj"),
            Self::FeedForwardNorm(l) => (l, "post_attention_layernorm"),
            Self::Gate(l) => (l, "mlp.gate_proj"),
            Self::Up(l) => (l, "mlp.up_proj"),
            Self::Down(l) => (l, "mlp.down_proj"),
        };
        let kind = if self.is_bias() { "bias" } else { "weight" };
        format!("model.layers.{layer}.{part}.{kind}")
    }
}

/// One parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Position in the table.
    pub id: u32,
    /// What it is for.
    pub role: Role,
    /// Rows, columns, group; a vector has one row.
    pub shape: GroupedShape,
    /// How its values are stored.
    pub format: WeightFormat,
    /// Whether rows without a gradient are left as they are.
    pub sparse: bool,
    /// Number of its group in the optimizer.
    pub group: u8,
    /// Its optimizer state, as the group's rule declares it.
    pub state: Vec<StateSpec>,
    /// Float32 numbers beside the gradient that a step of the rule needs.
    pub workspace: usize,
}

/// The parameters of a model, in the order of the file.
pub fn table(settings: &Settings) -> Vec<Entry> {
    let model = &settings.model;
    let (h, f, kv) = (model.hidden, model.intermediate, model.kv_width());
    let (q, d) = (model.query_width(), model.head_dim());
    let mut shapes = vec![(Role::Embedding, model.vocab, h)];
    for l in 0..model.layers {
        shapes.extend([
            (Role::AttentionNorm(l), 1, h),
            (Role::Query(l), q, h),
            (Role::Key(l), kv, h),
            (Role::Value(l), kv, h),
        ]);
        if model.qkv_bias {
            shapes.extend([(Role::QueryBias(l), 1, q), (Role::KeyBias(l), 1, kv), (Role::ValueBias(l), 1, kv)]);
        }
        if model.qk_norm {
            shapes.extend([(Role::QueryNorm(l), 1, d), (Role::KeyNorm(l), 1, d)]);
        }
        shapes.extend([
            (Role::Output(l), h, q),
            (Role::FeedForwardNorm(l), 1, h),
            (Role::Gate(l), f, h),
            (Role::Up(l), f, h),
            (Role::Down(l), h, f),
        ]);
    }
    shapes.push((Role::FinalNorm, 1, h));
    if !model.tied {
        shapes.push((Role::Head, model.vocab, h));
    }
    let groups = settings.optimizer.as_deref();
    let entry = |(id, (role, rows, cols))| entry(settings, groups, id, role, rows, cols);
    (0u32..).zip(shapes).map(entry).collect()
}

/// The parameters of the first block, which all others repeat.
pub fn block_entries(table: &[Entry]) -> &[Entry] {
    let first = table.iter().position(|entry| entry.role == Role::AttentionNorm(0)).unwrap_or(table.len());
    let last = table.iter().position(|entry| entry.role == Role::Down(0)).map_or(first, |down| down + 1);
    &table[first..last]
}

fn entry(settings: &Settings, groups: Option<&Groups>, id: u32, role: Role, rows: usize, cols: usize) -> Entry {
    let storage = &settings.storage;
    let format = match role {
        role if role.is_vector() => WeightFormat::F32,
        Role::Embedding => storage.table_format(storage.embedding),
        Role::Head => storage.table_format(storage.head),
        _ => storage.matrix_format(),
    };
    let shape = GroupedShape::new(rows, cols, storage.group);
    let class = match role.class() {
        ParamClass::Embedding if settings.model.tied => ParamClass::TiedEmbedding,
        class => class,
    };
    let info = ParamInfo { class, shape, head_dim: settings.model.head_dim() };
    let (group, state) = groups.map_or((0, Vec::new()), |groups| groups.declare(&info));
    Entry {
        id,
        role,
        shape,
        format,
        sparse: role == Role::Embedding && settings.sparse_embedding,
        group,
        state,
        workspace: groups.map_or(0, |groups| groups.workspace(&info)),
    }
}
