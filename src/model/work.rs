//! Where activations, gradients and scratch of a step lie, and when they are alive.
//!
//! The clock of a step: block `l` runs forward at tick `l + 1`, head and loss at `L + 1`, block `l` backward at
//! `2 L + 1 - l`, the embedding's gradient at `2 L + 2`. Without training the clock stops at the head.

use super::table::Entry;
use crate::backend::{Largest, Sizes};
use crate::config::{Config, KeptActivations};
use crate::memory::{Category, Lifetime, Plan, Span};

/// What a placed model can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Forward, backward, evaluation and sampling.
    Train,
    /// Evaluation and sampling.
    Infer,
}

/// Activations of one block, kept for its backward pass when training. Rows are tokens.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct LayerWork {
    /// Input of the block `[T, hidden]`.
    pub x: Span,
    pub inv_rms1: Span,
    /// Normed input of the attention `[T, hidden]`.
    pub xn1: Span,
    /// `[T, H, D]`, rotated.
    pub q: Span,
    /// `[T, K, D]`, rotated.
    pub k: Span,
    /// `[T, K, D]`
    pub v: Span,
    /// `[T, H, D]` and `[T, K, D]` before their norms, if heads are normed.
    pub plain_q: Span,
    pub plain_k: Span,
    /// `[T, H]` and `[T, K]`, if heads are normed.
    pub inv_rms_q: Span,
    pub inv_rms_k: Span,
    /// What sampling caches of `k`: the same bytes, unless blocks share theirs.
    pub cache_k: Span,
    pub cache_v: Span,
    /// `[B, H, S]`
    pub lse: Span,
    /// Output of the heads `[T, H, D]`.
    pub heads: Span,
    /// Input of the feed-forward block `[T, hidden]`.
    pub mid: Span,
    pub inv_rms2: Span,
    /// Normed input of the feed-forward block `[T, hidden]`.
    pub xn2: Span,
    /// `[T, intermediate]`; becomes its gradient.
    pub gate: Span,
    /// `[T, intermediate]`; becomes its gradient.
    pub up: Span,
    /// silu(gate) up `[T, intermediate]`.
    pub act: Span,
}

/// Buffers of backward; empty without training.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct GradWork {
    /// Gradient of the residual stream `[T, hidden]`.
    pub dx: Span,
    /// Gradient of a norm's output `[T, hidden]`, or of the heads' output `[T, H, D]`.
    pub dn: Span,
    /// Gradient of `act` `[T, intermediate]`.
    pub dact: Span,
    pub dq: Span,
    pub dk: Span,
    pub dv: Span,
    /// The one matrix gradient that exists, float32.
    pub matrix: Span,
    /// Gradient of a gain or a bias, float32, as long as the longest.
    pub vector: Span,
}

impl GradWork {
    /// Without training.
    const NONE: Self = Self {
        dx: Span::NONE,
        dn: Span::NONE,
        dact: Span::NONE,
        dq: Span::NONE,
        dk: Span::NONE,
        dv: Span::NONE,
        matrix: Span::NONE,
        vector: Span::NONE,
    };
}

/// Everything a pass touches besides the parameters.
#[derive(Clone, Debug)]
pub struct Work {
    /// Tokens at most in one pass.
    pub tokens: usize,
    /// Tokens whose logits exist at once.
    pub chunk: usize,
    /// Bytes per element of an activation.
    pub activation_bytes: usize,
    /// Elements of which each row of activations takes a multiple.
    pub row_multiple: usize,
    /// u32 `[T]`
    pub inputs: Span,
    /// u32 `[T]`
    pub targets: Span,
    /// u32 `[T]`: the first position of each token's sample in its row; only where rows may hold several samples.
    pub first: Span,
    /// float32 `[T]`
    pub losses: Span,
    /// float32 `[context, D/2, 2]`
    pub rope: Span,
    /// Blocks.
    pub layers: Vec<LayerWork>,
    /// Output of the last block `[T, hidden]`.
    pub x: Span,
    /// Of the final norm.
    pub inv_rms: Span,
    /// Input of the head `[T, hidden]`.
    pub xn: Span,
    /// Logits of one chunk of tokens.
    pub logits: Span,
    /// Backward.
    pub grad: GradWork,
    /// The backend's.
    pub scratch: Span,
}

/// Adds all buffers of passes up to `tokens` tokens (sequences up to `keys`) to the plan.
pub fn place(
    plan: &mut Plan,
    config: &Config,
    entries: &[Entry],
    mode: Mode,
    tokens: usize,
    keys: usize,
    backend: &dyn Sizes,
) -> Work {
    let model = &config.model;
    let pitch = |width: usize| width.next_multiple_of(backend.row_multiple());
    let [h, q, f] = [model.hidden, model.query_width(), model.intermediate].map(pitch);
    let [kv, vocab] = [model.kv_width(), model.vocab].map(pitch);
    let (layers, bytes) = (model.layers as u32, backend.activation_bytes());
    let train = mode == Mode::Train;
    let head = layers + 1;
    let end = if train { 2 * layers + 2 } else { head };
    let always = Lifetime::ALWAYS;
    let shapes = Shapes {
        tokens,
        keys,
        h,
        f,
        q,
        kv,
        heads: model.heads,
        head_norms: model.qk_norm.then_some(model.kv_heads),
        layers,
        bytes,
    };
    let blocks = if train && config.run.activations == KeptActivations::Recompute {
        place_shared(plan, &shapes)
    } else {
        (0..layers).map(|l| place_kept(plan, &shapes, train, l)).collect()
    };
    let mut rows =
        |name: &str, width: usize, life: Lifetime| plan.add(name, Category::Activations, tokens * width * bytes, life);
    let x = rows("last block's output", h, Lifetime { from: layers.max(1), to: head });
    let xn = rows("head input", h, Lifetime { from: head, to: end });
    let inv_rms = plan.add("final 1/rms", Category::Activations, 4 * tokens, Lifetime { from: head, to: head });
    let chunk = (backend.logits_bytes() / (bytes * vocab)).clamp(1, tokens);
    let largest = entries.iter().map(|entry| entry.geometry.len()).max().unwrap_or(0);
    let scratch_shapes = Largest {
        tokens,
        // A norm of heads has T H rows of D: its partial sums are those of T rows of H D, and at most D more.
        features: h.max(f).max(vocab).max(q + model.head_dim()),
        inputs: h.max(f).max(q),
        keys,
        parameter: largest,
        head_dim: model.head_dim(),
    };
    let mut scratch = |name: &str, bytes, life| plan.add(name, Category::Scratch, bytes, life);
    let step = Lifetime { from: 1, to: end };
    Work {
        tokens,
        chunk,
        activation_bytes: bytes,
        row_multiple: backend.row_multiple(),
        inputs: scratch("inputs", 4 * tokens, step),
        targets: scratch("targets", 4 * tokens, step),
        first: scratch("first keys", if config.data.packed { 4 * tokens } else { 0 }, step),
        losses: scratch("losses", 4 * tokens, step),
        rope: scratch("rotary table", 4 * keys * model.head_dim(), always),
        logits: scratch("logits of a chunk", chunk * vocab * bytes, Lifetime { from: head, to: end }),
        scratch: scratch("kernels", backend.scratch_bytes(&scratch_shapes), always),
        layers: blocks,
        x,
        inv_rms,
        xn,
        grad: if train {
            place_grad(plan, &shapes, model.hidden.max(model.query_width()), largest)
        } else {
            GradWork::NONE
        },
    }
}

/// What the sizes of a block's buffers follow from.
struct Shapes {
    tokens: usize,
    keys: usize,
    h: usize,
    f: usize,
    /// H D
    q: usize,
    kv: usize,
    heads: usize,
    /// K, if heads are normed.
    head_norms: Option<usize>,
    layers: u32,
    bytes: usize,
}

impl Shapes {
    /// Block `l`'s input: alive from the end of the block before.
    fn input(&self, plan: &mut Plan, l: u32, to: u32) -> Span {
        let life = Lifetime { from: l.max(1), to };
        plan.add(format!("block {l} input"), Category::Activations, self.tokens * self.h * self.bytes, life)
    }

    /// Keys or values of `rows` positions.
    fn heads(&self, plan: &mut Plan, name: String, rows: usize, life: Lifetime) -> Span {
        plan.add(name, Category::Activations, rows * self.kv * self.bytes, life)
    }

    /// The tick of block `l`'s backward.
    fn backward(&self, l: u32) -> u32 {
        2 * self.layers + 1 - l
    }
}

/// Block `l` with buffers of its own, kept until its backward; without one, until the next block has read them.
fn place_kept(plan: &mut Plan, shapes: &Shapes, train: bool, l: u32) -> LayerWork {
    let kept = Lifetime { from: l + 1, to: if train { shapes.backward(l) } else { l + 1 } };
    let cache = if train { kept } else { Lifetime { from: 1, to: shapes.layers + 1 } };
    let x = shapes.input(plan, l, kept.to);
    // A cache may be longer than one pass: sampling feeds few tokens at a time.
    let cached = shapes.tokens.max(shapes.keys);
    let k = shapes.heads(plan, format!("block {l} keys"), cached, cache);
    let v = shapes.heads(plan, format!("block {l} values"), cached, cache);
    LayerWork { x, k, v, cache_k: k, cache_v: v, ..place_inner(plan, shapes, &format!("block {l}"), kept) }
}

/// All blocks with inputs of their own and one set of buffers for the rest, filled again before each backward. What
/// sampling caches must outlast a block, so it has a place of its own beside forward's buffers.
fn place_shared(plan: &mut Plan, shapes: &Shapes) -> Vec<LayerWork> {
    let blocks = Lifetime { from: 1, to: shapes.backward(0) };
    let inner = place_inner(plan, shapes, "a block", blocks);
    let k = shapes.heads(plan, "a block's keys".into(), shapes.tokens, blocks);
    let v = shapes.heads(plan, "a block's values".into(), shapes.tokens, blocks);
    let forward = Lifetime { from: 1, to: shapes.layers + 1 };
    let mut layer = |l| LayerWork {
        x: shapes.input(plan, l, shapes.backward(l)),
        k,
        v,
        cache_k: shapes.heads(plan, format!("block {l} cached keys"), shapes.keys, forward),
        cache_v: shapes.heads(plan, format!("block {l} cached values"), shapes.keys, forward),
        ..inner
    };
    (0..shapes.layers).map(&mut layer).collect()
}

/// All but input, keys and values.
fn place_inner(plan: &mut Plan, shapes: &Shapes, name: &str, kept: Lifetime) -> LayerWork {
    let mut add = |part: &str, bytes| plan.add(format!("{name} {part}"), Category::Activations, bytes, kept);
    let rows = |width: usize| shapes.tokens * width * shapes.bytes;
    let (h, f, q) = (rows(shapes.h), rows(shapes.f), rows(shapes.q));
    let normed = |bytes: usize| if shapes.head_norms.is_some() { bytes } else { 0 };
    let statistics = |heads: usize| normed(4 * shapes.tokens * heads);
    LayerWork {
        x: Span::NONE,
        inv_rms1: add("1/rms", 4 * shapes.tokens),
        xn1: add("attention input", h),
        q: add("queries", q),
        plain_q: add("queries before their norm", normed(q)),
        plain_k: add("keys before their norm", normed(rows(shapes.kv))),
        inv_rms_q: add("1/rms of queries", statistics(shapes.heads)),
        inv_rms_k: add("1/rms of keys", statistics(shapes.head_norms.unwrap_or(0))),
        k: Span::NONE,
        v: Span::NONE,
        cache_k: Span::NONE,
        cache_v: Span::NONE,
        lse: add("log sums", 4 * shapes.tokens * shapes.heads),
        heads: add("attention output", q),
        mid: add("middle", h),
        inv_rms2: add("second 1/rms", 4 * shapes.tokens),
        xn2: add("feed-forward input", h),
        gate: add("gate", f),
        up: add("up", f),
        act: add("activation", f),
    }
}

/// `vector` elements of a gain or a bias, `largest` of a matrix.
fn place_grad(plan: &mut Plan, shapes: &Shapes, vector: usize, largest: usize) -> GradWork {
    let Shapes { tokens, h, q, f, kv, bytes, layers, .. } = *shapes;
    let (head, end) = (layers + 1, 2 * layers + 2);
    let blocks = Lifetime { from: head + 1, to: end - 1 };
    let mut rows = |name: &str, width: usize, life| plan.add(name, Category::Activations, tokens * width * bytes, life);
    let (dx, dn) = (
        rows("gradient of the stream", h, Lifetime { from: head, to: end }),
        rows("gradient of a norm", h.max(q), Lifetime { from: head, to: end }),
    );
    let (dact, dq) = (rows("gradient of an activation", f, blocks), rows("gradient of queries", q, blocks));
    let (dk, dv) = (rows("gradient of keys", kv, blocks), rows("gradient of values", kv, blocks));
    let mut floats =
        |name: &str, count: usize| plan.add(name, Category::Gradient, 4 * count, Lifetime { from: head, to: end });
    GradWork {
        dx,
        dn,
        dact,
        dq,
        dk,
        dv,
        matrix: floats("matrix gradient", largest),
        vector: floats("vector gradient", vector),
    }
}
