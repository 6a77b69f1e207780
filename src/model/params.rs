//! Where the planes of every parameter lie.

use super::table::{Entry, Role};
use crate::backend::{Param, State, Weight};
use crate::memory::{Category, Span};
use crate::quant::WeightPlane;

/// The parameters of one block.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct LayerParams {
    pub attention_norm: Param,
    pub query: Param,
    pub key: Param,
    pub value: Param,
    /// Of queries, keys and values, where the model has them.
    pub biases: Option<[Param; 3]>,
    /// Gains of the norms of query heads and key heads, where the model has them.
    pub head_norms: Option<[Param; 2]>,
    pub output: Param,
    pub feed_forward_norm: Param,
    pub gate: Param,
    pub up: Param,
    pub down: Param,
}

/// All parameters.
#[derive(Clone, Debug)]
pub struct Params {
    /// Token embedding.
    pub embedding: Param,
    /// Blocks.
    pub layers: Vec<LayerParams>,
    /// Gain before the head.
    pub final_norm: Param,
    /// The head, if untied.
    pub head: Option<Param>,
}

impl LayerParams {
    /// All parameters in the table's order.
    pub fn all(&self) -> impl Iterator<Item = &Param> {
        let before = [&self.attention_norm, &self.query, &self.key, &self.value];
        let after = [&self.output, &self.feed_forward_norm, &self.gate, &self.up, &self.down];
        let between = self.biases.iter().flatten().chain(self.head_norms.iter().flatten());
        before.into_iter().chain(between).chain(after)
    }

    /// The same parameters with their weights' data, scales and offsets in other places, given in the table's order.
    pub fn moved(&self, to: &[[Span; 3]]) -> Self {
        let mut moved = self.clone();
        let LayerParams {
            attention_norm,
            query,
            key,
            value,
            biases,
            head_norms,
            output,
            feed_forward_norm,
            gate,
            up,
            down,
        } = &mut moved;
        let (before, after) = ([attention_norm, query, key, value], [output, feed_forward_norm, gate, up, down]);
        let between = biases.iter_mut().flatten().chain(head_norms.iter_mut().flatten());
        for (param, &[data, scales, offsets]) in before.into_iter().chain(between).chain(after).zip(to) {
            (param.weight.data, param.weight.scales, param.weight.offsets) = (data, scales, offsets);
        }
        moved
    }
}

impl Params {
    /// Arranges placed parameters, given in the table's order.
    ///
    /// # Panics
    /// If `placed` is not as long as the table it was made from.
    pub fn arrange(entries: &[Entry], placed: &[Param]) -> Self {
        let layers = entries.iter().filter(|entry| matches!(entry.role, Role::Query(_))).count();
        let of = |role| entries.iter().position(|entry| entry.role == role).map(|i| placed[i]);
        let must = |role| of(role).expect("the table lists every role of every block");
        let layer = |l| LayerParams {
            attention_norm: must(Role::AttentionNorm(l)),
            query: must(Role::Query(l)),
            key: must(Role::Key(l)),
            value: must(Role::Value(l)),
            biases: of(Role::QueryBias(l)).map(|query| [query, must(Role::KeyBias(l)), must(Role::ValueBias(l))]),
            head_norms: of(Role::QueryNorm(l)).map(|query| [query, must(Role::KeyNorm(l))]),
            output: must(Role::Output(l)),
            feed_forward_norm: must(Role::FeedForwardNorm(l)),
            gate: must(Role::Gate(l)),
            up: must(Role::Up(l)),
            down: must(Role::Down(l)),
        };
        Self {
            embedding: must(Role::Embedding),
            layers: (0..layers).map(layer).collect(),
            final_norm: must(Role::FinalNorm),
            head: of(Role::Head),
        }
    }

    /// The matrix that makes logits.
    pub fn head(&self) -> &Param {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// All parameters in the table's order.
    pub fn all(&self) -> impl Iterator<Item = &Param> {
        let layers = self.layers.iter().flat_map(LayerParams::all);
        [&self.embedding].into_iter().chain(layers).chain([&self.final_norm]).chain(&self.head)
    }
}

/// What a parameter consists of: what products read, and what only updates touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Data, scales, offsets.
    Weights,
    /// Residue and optimizer state.
    State,
}

impl Part {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Weights, Self::State];

    /// The part that a plane belongs to.
    pub fn of(category: Category) -> Self {
        if category == Category::Weights { Self::Weights } else { Self::State }
    }
}

/// A parameter whose planes lie where `add` puts them, given each plane's name, category and bytes; without residue
/// and state unless it is trained.
pub fn place(entry: &Entry, trained: bool, add: &mut dyn FnMut(&str, Category, usize) -> Span) -> Param {
    let g = entry.shape;
    let format = entry.format.with_residue(trained && entry.format.has_residue());
    let weight = Weight::place(g, format, |plane, bytes| {
        let category = if plane == WeightPlane::Residue { Category::Residue } else { Category::Weights };
        add(plane.name(), category, bytes)
    });
    let mut add_state = |part: &str, bytes: usize| add(part, Category::State, bytes);
    let state = State::place(if trained { &entry.state } else { &[] }, g, &mut add_state);
    let decay = !entry.role.is_vector();
    Param { id: entry.id, group: entry.group, decay, sparse: entry.sparse, weight, state }
}

/// The planes of a weight that products read.
pub const READ_PLANES: [WeightPlane; 3] = [WeightPlane::Data, WeightPlane::Scales, WeightPlane::Offsets];
