//! Where the planes of every parameter lie.

use super::table::{Entry, Role};
use crate::backend::{Param, State, Weight, WeightKind};
use crate::config::{Moment, Scheme, SecondMoment};
use crate::memory::{Category, Lifetime, Plan};
use crate::nibble::Geometry;
use crate::optim::SCALARS;

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
        let layers = self.layers.iter().flat_map(|l| {
            let before = [&l.attention_norm, &l.query, &l.key, &l.value];
            let after = [&l.output, &l.feed_forward_norm, &l.gate, &l.up, &l.down];
            let between = l.biases.iter().flatten().chain(l.head_norms.iter().flatten());
            before.into_iter().chain(between).chain(after)
        });
        [&self.embedding].into_iter().chain(layers).chain([&self.final_norm]).chain(&self.head)
    }
}

/// Adds a parameter's planes to the plan; the state only if it is to be trained.
pub fn place(plan: &mut Plan, entry: &Entry, scheme: Scheme, trained: bool) -> Param {
    let name = entry.role.name();
    let g = entry.geometry;
    let mut add = |part: &str, category, bytes| plan.add(format!("{name} {part}"), category, bytes, Lifetime::ALWAYS);
    let grouped = matches!(entry.kind, WeightKind::Int4 | WeightKind::Int8);
    let offsets = entry.kind == WeightKind::Int4 && scheme == Scheme::Asymmetric;
    let weight = Weight {
        geometry: g,
        kind: entry.kind,
        scheme,
        data: add("data", Category::Weights, data_bytes(entry.kind, g)),
        scales: add("scales", Category::Weights, if grouped { 2 * g.groups() } else { 0 }),
        offsets: add("offsets", Category::Weights, if offsets { 2 * g.groups() } else { 0 }),
        residue: add("residue", Category::Residue, if entry.residue && trained { g.nibble_bytes() } else { 0 }),
    };
    let mut state = |part: &str, bytes: usize| add(part, Category::State, if trained { bytes } else { 0 });
    let (m_kind, v_kind) = entry.moments;
    let (m, m_scales) = moment_bytes(m_kind, g);
    let (v, v_scales) = v_kind.per_element().map_or((4 * g.rows, 0), |kind| moment_bytes(kind, g));
    let v_cols = if v_kind == SecondMoment::Factored { 4 * g.cols } else { 0 };
    let state = State {
        m_kind,
        v_kind,
        m: state("m", m),
        m_scales: state("m scales", m_scales),
        v: state("v", v),
        v_scales: state("v scales", v_scales),
        v_cols: state("v cols", v_cols),
        scalars: state("scalars", 4 * SCALARS),
    };
    Param { id: entry.id, decay: !entry.role.is_vector(), sparse: entry.sparse, weight, state }
}

fn data_bytes(kind: WeightKind, g: Geometry) -> usize {
    match kind {
        WeightKind::F32 | WeightKind::Int4Simulated => 4 * g.len(),
        WeightKind::Bf16 => 2 * g.len(),
        WeightKind::Int8 => g.padded_len(),
        WeightKind::Int4 => g.nibble_bytes(),
    }
}

/// Bytes of a moment and of its scales.
fn moment_bytes(kind: Moment, g: Geometry) -> (usize, usize) {
    match kind {
        Moment::F32 => (4 * g.len(), 0),
        Moment::Int8 => (g.padded_len(), 2 * g.groups()),
        Moment::Int4 => (g.nibble_bytes(), 2 * g.groups()),
    }
}
