//! Where activations, gradients and scratch of a step lie, and when they are alive.
//!
//! The clock of a step: block `l` runs forward at tick `l + 1`, head and loss at `L + 1`, block `l` backward at
//! `2 L + 1 - l`, the embedding's gradient at `2 L + 2`. Without training the clock stops at the head. Sampling comes
//! after all of that: see `sampling.rs`.
//!
//! A block runs over a batch in micro-batches of whole sequences, all of them before the next block begins. What one
//! of them leaves for the next block, or for the backward of its own, is as long as the batch; the rest is as long as
//! a micro-batch.

mod block;
mod grad;
mod sampling;

pub use block::{BlockActs, Int4Rows};
pub use grad::GradBuffers;
pub use sampling::place_sampling;

use super::spec::ParamSpec;
use super::{
    ActivationCheckpointing, AdapterKind, AdapterParam, AdapterPart, AdapterSite, AdapterUse, BottleneckActs,
    LowRankActs, MagnitudeActs, MatrixSite, ModelConfig, ParamKind, SHORTEST_MICRO_SEQUENCE, Settings,
};
use crate::backend::{DeviceInfo, MaxShapes};
use crate::memory::{Category, Lifetime, Plan, Span};
use block::Shapes;

/// Everything a batch touches besides the parameters.
#[derive(Clone, Debug)]
pub struct Activations {
    /// T: tokens at most in one batch.
    pub tokens: usize,
    /// M: tokens at most in one micro-batch.
    pub micro_tokens: usize,
    /// Tokens whose logits exist at once.
    pub chunk: usize,
    /// Bytes per element of an activation.
    pub activation_bytes: usize,
    /// Elements of which each row of activations takes a multiple.
    pub row_multiple: usize,
    /// Whether the order of a gradient's sums follows the products that form it.
    pub sums_in_parts: bool,
    /// Positions of a sequence at most; of sampling those that are cached.
    pub positions: usize,
    /// Whether blocks keep what they computed of the whole batch until their backward, or compute it again.
    pub kept: bool,
    /// u32 `[T]`
    pub inputs: Span,
    /// u32 `[T]`
    pub targets: Span,
    /// u32 `[T]`: the first position of each token's segment in its row; only where rows may hold several samples.
    pub segment_start: Span,
    /// float32 `[T]`
    pub losses: Span,
    /// float32 `[P + positions, D/2, 2]`, P the keys of a prefix
    pub rope: Span,
    /// Blocks.
    pub blocks: Vec<BlockActs>,
    /// Output of the last block `[T, hidden]`.
    pub x: Span,
    /// A block's input, unpacked `[M, hidden]`; only if inputs are packed.
    pub unpacked: Span,
    /// Of the final norm.
    pub inv_rms: Span,
    /// Input of the head `[T, hidden]`.
    pub xn: Span,
    /// Logits of one chunk of tokens.
    pub logits: Span,
    /// Of adapters.
    pub low_rank: LowRankActs,
    /// Of trained norms of rows.
    pub magnitude: MagnitudeActs,
    /// Of bottlenecks beside the layers.
    pub bottleneck: BottleneckActs,
    /// Backward.
    pub grads: GradBuffers,
    /// The backend's.
    pub scratch: Span,
}

/// Workspace for every arithmetic that is asked for.
fn workspace_bytes(settings: &Settings, backend: &dyn DeviceInfo, shapes: &MaxShapes) -> usize {
    let chosen = &settings.activations;
    let of = |compute| backend.workspace_bytes(&MaxShapes { compute, ..*shapes });
    [chosen.compute, chosen.grad_input(), chosen.grad_weight()].map(of).into_iter().max().unwrap_or(0)
}

/// The lowest block that backward goes through, of a model whose base is frozen beside an adapter; else 0. One beside the
/// embedding lies below all blocks, one beside the head above them.
pub fn lowest(specs: &[ParamSpec]) -> usize {
    let layers = specs.iter().filter_map(|spec| spec.kind.block()).max().map_or(0, |last| last + 1);
    let sites = specs.iter().filter_map(|spec| match spec.kind {
        ParamKind::Adapter(param) if spec.trainable => Some(param.site),
        _ => None,
    });
    let reached = |site| match site {
        AdapterSite::Matrix(MatrixSite::Embedding) => 0,
        site => site.layer().unwrap_or(layers),
    };
    sites.map(reached).min().unwrap_or(0)
}

/// Adds all buffers of batches up to `tokens` tokens (sequences up to `keys`) to the plan.
pub fn place(
    plan: &mut Plan,
    settings: &Settings,
    specs: &[ParamSpec],
    tokens: usize,
    keys: usize,
    backend: &dyn DeviceInfo,
) -> Activations {
    let model = &settings.model;
    let train = specs.iter().any(|spec| spec.trainable);
    let micro = if train { tokens.min(settings.execution.micro_tokens) } else { tokens };
    let shapes = Shapes { lowest: lowest(specs) as u32, ..shapes(model, (tokens, micro), backend) };
    let (Shapes { h, q, f, layers, bytes, .. }, vocab) = (shapes, pitch(model.vocab, backend));
    let (head, end) = (layers + 1, end(layers, train));
    let always = Lifetime::ALWAYS;
    let kept = match settings.execution.checkpointing {
        ActivationCheckpointing::Auto => ActivationCheckpointing::None,
        _ if !train => ActivationCheckpointing::None,
        chosen => chosen,
    };
    let blocks = shapes.blocks(plan, train, kept);
    let shortest = settings.activations.grad_weight().sum_block().unwrap_or(SHORTEST_CHUNK);
    let chunk = (logits_bytes(settings, backend) / (bytes * vocab)).max(shortest).min(tokens);
    let beside_head = |used: &AdapterUse| used.config.sites(model).iter().any(|site| site.matrix == MatrixSite::Head);
    let adapted = if settings.adapters.iter().any(beside_head) { micro.max(chunk) } else { micro };
    let low_rank = low_rank(plan, settings, specs, (adapted, end), backend);
    let magnitude = magnitude(plan, settings, specs, micro, backend);
    let bottleneck = bottleneck(plan, settings, (micro, train.then_some(end)), backend);
    let last_read = if train && model.tied { end } else { head };
    let mut rows =
        |name: &str, width: usize, life: Lifetime| plan.add(name, Category::Activations, tokens * width * bytes, life);
    let xn = rows("head input", h, Lifetime { from: head, to: last_read });
    let inv_rms = plan.add("final 1/rms", Category::Activations, 4 * tokens, Lifetime { from: head, to: head });
    let largest = specs.iter().map(|spec| spec.shape.len()).max().unwrap_or(0);
    let adapters = specs.iter().filter(|spec| spec.kind.is_adapter());
    let rank = pitch(adapters.map(|spec| spec.shape.rows).max().unwrap_or(0), backend);
    let scratch_shapes = MaxShapes {
        // Norms of rows are products of as many rows as A has.
        tokens: tokens.max(magnitude.ids.bytes / 4),
        // A norm of heads has T H rows of D: its partial sums are those of T rows of H D, and at most D more.
        features: h.max(f).max(vocab).max(q + model.head_dim()).max(rank),
        inputs: h.max(f).max(q).max(rank),
        keys,
        parameter: largest,
        head_dim: model.head_dim(),
        prefix: settings.prefix_length() * model.kv_width(),
        compute: settings.activations.compute,
    };
    let workspace = workspace_bytes(settings, backend, &scratch_shapes);
    let mut scratch = |name: &str, bytes, life| plan.add(name, Category::Scratch, bytes, life);
    let step = Lifetime { from: 0, to: end };
    Activations {
        tokens,
        micro_tokens: micro,
        chunk,
        activation_bytes: bytes,
        row_multiple: backend.row_multiple(),
        sums_in_parts: backend.sums_in_parts(),
        positions: keys,
        kept: kept == ActivationCheckpointing::None,
        inputs: scratch("token ids", 4 * tokens, step),
        targets: scratch("targets", 4 * tokens, step),
        segment_start: scratch("segment starts", if settings.packing { 4 * tokens } else { 0 }, step),
        losses: scratch("losses", 4 * tokens, step),
        rope: scratch("rotary table", 4 * (settings.prefix_length() + keys) * model.head_dim(), always),
        logits: scratch("logits of a chunk", chunk * vocab * bytes, Lifetime { from: head, to: head }),
        scratch: scratch("kernels", workspace, always),
        blocks: blocks.blocks,
        x: blocks.output,
        unpacked: blocks.unpacked,
        inv_rms,
        xn,
        low_rank,
        magnitude,
        bottleneck,
        grads: if train {
            grad::place(plan, settings, specs, &shapes, (chunk * vocab * bytes, backend.queues()))
        } else {
            GradBuffers::default()
        },
    }
}

/// Elements of a row of `width` features.
fn pitch(width: usize, backend: &dyn DeviceInfo) -> usize {
    width.next_multiple_of(backend.row_multiple())
}

/// What a block's buffers of a batch and a micro-batch follow from.
fn shapes(model: &ModelConfig, (tokens, micro): (usize, usize), backend: &dyn DeviceInfo) -> Shapes {
    let [h, q] = [model.hidden, model.query_width()].map(|width| pitch(width, backend));
    let [f, kv] = [model.intermediate, model.kv_width()].map(|width| pitch(width, backend));
    Shapes {
        tokens,
        micro,
        h,
        f,
        q,
        kv,
        hidden: model.hidden,
        heads: model.heads,
        head_norms: model.qk_norm.then_some(model.kv_heads),
        layers: model.layers as u32,
        lowest: 0,
        bytes: backend.activation_bytes(),
    }
}

/// The last tick of a step, or of a forward.
fn end(layers: u32, train: bool) -> u32 {
    if train { 2 * layers + 2 } else { layers + 1 }
}

/// Tokens of a chunk at least: its parts, see [`crate::model::Model::losses`], are then never so short that products are
/// computed another way, in another order.
const SHORTEST_CHUNK: usize = 2 * SHORTEST_MICRO_SEQUENCE;

/// The buffers of low-rank terms, of `tokens` tokens each: a micro-batch, or a chunk of the head if that is longer. Sampling
/// uses them too.
fn low_rank(
    plan: &mut Plan,
    settings: &Settings,
    specs: &[ParamSpec],
    (tokens, end): (usize, u32),
    backend: &dyn DeviceInfo,
) -> LowRankActs {
    let is_a = |kind| matches!(kind, ParamKind::Adapter(AdapterParam { part: AdapterPart::A, .. }));
    let factors = specs.iter().filter(|spec| is_a(spec.kind));
    let rank = factors.clone().map(|spec| spec.shape.rows).max().unwrap_or(0);
    let input = settings.model.hidden.max(settings.model.intermediate).max(settings.model.query_width());
    let grouped = settings.adapters.iter().any(|used| used.config.group);
    let groups = if grouped { input.div_ceil(settings.storage.group) } else { 0 };
    let train = factors.clone().any(|spec| spec.trainable);
    let drops = train && settings.adapters.iter().any(|used| used.config.dropout > 0.0);
    let mut rows = |name: &str, width: usize, life| {
        let bytes = tokens * pitch(width, backend) * backend.activation_bytes();
        plan.add(name, Category::Activations, bytes, life)
    };
    let step = Lifetime { from: 0, to: end };
    LowRankActs {
        down: rows("low-rank product", rank, Lifetime::ALWAYS),
        ddown: rows("gradient of a low-rank product", if train { rank } else { 0 }, step),
        sums: rows("sums of an input's groups", groups, Lifetime::ALWAYS),
        dropped: rows("input of an adapter with elements left out", if drops { input } else { 0 }, step),
    }
}

/// The buffers of trained norms; sampling uses them too.
fn magnitude(
    plan: &mut Plan,
    settings: &Settings,
    specs: &[ParamSpec],
    micro: usize,
    backend: &dyn DeviceInfo,
) -> MagnitudeActs {
    let of = |wanted| {
        let is_it = move |kind| matches!(kind, ParamKind::Adapter(AdapterParam { part, .. }) if part == wanted);
        specs.iter().filter(move |spec| is_it(spec.kind)).map(|spec| spec.shape)
    };
    let Some(outputs) = of(AdapterPart::Magnitude).map(|shape| shape.cols).max() else {
        return MagnitudeActs::default();
    };
    let rank = of(AdapterPart::A).map(|shape| shape.rows).max().unwrap_or(0);
    let inputs = settings.model.hidden.max(settings.model.intermediate).max(settings.model.query_width());
    let mut floats = |name: String, count: usize| plan.add(name, Category::Scratch, 4 * count, Lifetime::ALWAYS);
    let squares = of(AdapterPart::Magnitude).enumerate();
    let squares = squares.map(|(i, shape)| floats(format!("squares of rows {i}"), shape.cols)).collect();
    let (ids, norms) = (floats("numbers of rows".into(), rank), floats("norms of rows".into(), outputs));
    let mut rows = |name: &str, rows: usize, width: usize| {
        let bytes = rows * pitch(width, backend) * backend.activation_bytes();
        plan.add(name, Category::Activations, bytes, Lifetime::ALWAYS)
    };
    MagnitudeActs {
        ids,
        norms,
        squares,
        a: rows("A as activations", rank, inputs),
        b: rows("B as activations", rank, outputs),
        r: rows("products of rows", rank, outputs),
        gram: rows("products of A", rank, rank),
        product: rows("product before its norms", micro, outputs),
    }
}

/// The buffers of bottlenecks, of a micro-batch each; sampling uses them too. `end` is the last tick of a step, if there is one.
fn bottleneck(
    plan: &mut Plan,
    settings: &Settings,
    (micro, end): (usize, Option<u32>),
    backend: &dyn DeviceInfo,
) -> BottleneckActs {
    let all = settings.adapters.iter().filter(|used| used.config.kind == AdapterKind::Bottleneck);
    let width = all.map(|used| used.config.width).max().unwrap_or(0);
    let hidden = if width > 0 { settings.model.hidden } else { 0 };
    let mut rows = |name: &str, width: usize, life| {
        let bytes = micro * pitch(width, backend) * backend.activation_bytes();
        plan.add(name, Category::Activations, bytes, life)
    };
    let always = Lifetime::ALWAYS;
    BottleneckActs {
        narrow: rows("bottleneck", width, always),
        act: rows("bottleneck's activation", width, always),
        dact: match end {
            Some(end) => rows("gradient of a bottleneck", width, Lifetime { from: 0, to: end }),
            None => Span::NONE,
        },
        wide: rows("bottleneck's output", hidden, always),
    }
}

/// Bytes of logits that may exist at once.
fn logits_bytes(settings: &Settings, backend: &dyn DeviceInfo) -> usize {
    match settings.execution.logits_mib {
        0 => backend.logits_bytes(settings.activations.compute),
        mib => mib << 20,
    }
}
