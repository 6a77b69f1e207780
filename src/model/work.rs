//! Where activations, gradients and scratch of a step lie, and when they are alive.
//!
//! The clock of a step: block `l` runs forward at tick `l + 1`, head and loss at `L + 1`, block `l` backward at
//! `2 L + 1 - l`, the embedding's gradient at `2 L + 2`. Without training the clock stops at the head.

use super::table::Entry;
use crate::backend::{Backend, Largest};
use crate::config::Config;
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
    /// `[T, K, D]`, rotated; the cache when sampling.
    pub k: Span,
    /// `[T, K, D]`; the cache when sampling.
    pub v: Span,
    /// `[B, H, S]`
    pub lse: Span,
    /// Output of the heads `[T, hidden]`.
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
    /// Gradient of a norm's output, or of the heads' output `[T, hidden]`.
    pub dn: Span,
    /// Gradient of `act` `[T, intermediate]`.
    pub dact: Span,
    pub dq: Span,
    pub dk: Span,
    pub dv: Span,
    /// The one matrix gradient that exists, float32.
    pub matrix: Span,
    /// Gradient of a gain, float32 `[hidden]`.
    pub gain: Span,
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
    /// u32 `[T]`
    pub inputs: Span,
    /// u32 `[T]`
    pub targets: Span,
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

/// Bytes that the logits of one chunk may take, unless one token needs more.
const LOGITS_BYTES: usize = 16 << 20;

/// Adds all buffers of passes up to `tokens` tokens (sequences up to `keys`) to the plan.
pub fn place(
    plan: &mut Plan,
    config: &Config,
    entries: &[Entry],
    mode: Mode,
    tokens: usize,
    keys: usize,
    backend: &dyn Backend,
) -> Work {
    let model = &config.model;
    let (h, f, kv, layers) = (model.hidden, model.intermediate, model.kv_width(), model.layers as u32);
    let bytes = backend.activation_bytes();
    let train = mode == Mode::Train;
    let head = layers + 1;
    let end = if train { 2 * layers + 2 } else { head };
    let always = Lifetime::ALWAYS;
    // A cache longer than one pass: sampling feeds few tokens at a time.
    let cached = tokens.max(keys);
    let mut rows = |name: String, rows: usize, width: usize, life: Lifetime| {
        plan.add(name, Category::Activations, rows * width * bytes, life)
    };
    let mut blocks = Vec::with_capacity(model.layers);
    for l in 0..layers {
        let tick = l + 1;
        // Kept until the block's backward; without one, until the next block has read it.
        let kept = Lifetime { from: tick, to: if train { 2 * layers + 1 - l } else { tick } };
        let input = Lifetime { from: l.max(1), to: kept.to };
        let cache = if train { kept } else { Lifetime { from: 1, to: end } };
        let mut add = |part: &str, width, life| rows(format!("block {l} {part}"), tokens, width, life);
        let (x, xn1, q) = (add("input", h, input), add("attention input", h, kept), add("queries", h, kept));
        let (heads, mid) = (add("attention output", h, kept), add("middle", h, kept));
        let (xn2, gate) = (add("feed-forward input", h, kept), add("gate", f, kept));
        let (up, act) = (add("up", f, kept), add("activation", f, kept));
        let k = rows(format!("block {l} keys"), cached, kv, cache);
        let v = rows(format!("block {l} values"), cached, kv, cache);
        blocks.push((x, xn1, q, k, v, heads, mid, xn2, gate, up, act, kept));
    }
    let x = rows("last block's output".into(), tokens, h, Lifetime { from: layers.max(1), to: head });
    let xn = rows("head input".into(), tokens, h, Lifetime { from: head, to: end });
    let mut floats = |name: String, count: usize, life| plan.add(name, Category::Activations, 4 * count, life);
    let layer_work = blocks
        .into_iter()
        .enumerate()
        .map(|(l, (x, xn1, q, k, v, heads, mid, xn2, gate, up, act, kept))| LayerWork {
            x,
            inv_rms1: floats(format!("block {l} 1/rms"), tokens, kept),
            xn1,
            q,
            k,
            v,
            lse: floats(format!("block {l} log sums"), tokens * model.heads, kept),
            heads,
            mid,
            inv_rms2: floats(format!("block {l} second 1/rms"), tokens, kept),
            xn2,
            gate,
            up,
            act,
        })
        .collect();
    let inv_rms = floats("final 1/rms".into(), tokens, Lifetime { from: head, to: head });
    let chunk = (LOGITS_BYTES / (bytes * model.vocab)).clamp(1, tokens);
    let largest = entries.iter().map(|entry| entry.geometry.len()).max().unwrap_or(0);
    let scratch_shapes = Largest {
        tokens,
        features: h.max(f).max(model.vocab),
        inputs: h.max(f),
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
        inputs: scratch("inputs", 4 * tokens, step),
        targets: scratch("targets", 4 * tokens, step),
        losses: scratch("losses", 4 * tokens, step),
        rope: scratch("rotary table", 4 * keys * model.head_dim(), always),
        logits: scratch("logits of a chunk", chunk * model.vocab * bytes, Lifetime { from: head, to: end }),
        scratch: scratch("kernels", backend.scratch_bytes(&scratch_shapes), always),
        layers: layer_work,
        x,
        inv_rms,
        xn,
        grad: place_grad(plan, config, train, tokens, bytes, largest),
    }
}

fn place_grad(plan: &mut Plan, config: &Config, train: bool, tokens: usize, bytes: usize, largest: usize) -> GradWork {
    let (h, f, kv) = (config.model.hidden, config.model.intermediate, config.model.kv_width());
    let layers = config.model.layers as u32;
    let (head, end) = (layers + 1, 2 * layers + 2);
    let blocks = Lifetime { from: head + 1, to: end - 1 };
    let mut rows = |name: &str, width: usize, life| {
        plan.add(name, Category::Activations, if train { tokens * width * bytes } else { 0 }, life)
    };
    let (dx, dn) = (
        rows("gradient of the stream", h, Lifetime { from: head, to: end }),
        rows("gradient of a norm", h, Lifetime { from: head, to: end }),
    );
    let (dact, dq) = (rows("gradient of an activation", f, blocks), rows("gradient of queries", h, blocks));
    let (dk, dv) = (rows("gradient of keys", kv, blocks), rows("gradient of values", kv, blocks));
    let mut floats = |name: &str, count: usize| {
        plan.add(name, Category::Gradient, if train { 4 * count } else { 0 }, Lifetime { from: head, to: end })
    };
    GradWork { dx, dn, dact, dq, dk, dv, matrix: floats("matrix gradient", largest), gain: floats("gain gradient", h) }
}
