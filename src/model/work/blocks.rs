//! What a block computes, and how much of it outlives the block.

use crate::backend::{PACK_GROUP, packed_bytes};
use crate::memory::{Category, Lifetime, Plan, Span};
use crate::model::ActivationCheckpointing;

/// Activations of one block. Rows are tokens: of the batch (T) if blocks keep them until backward, else of one
/// micro-batch (M).
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct LayerWork {
    /// Input of the block `[T, hidden]`.
    pub x: Span,
    /// The same in four bits, if that is what backward reads; `x` then belongs to all blocks.
    pub packed: Option<Packed>,
    pub inv_rms1: Span,
    /// Normed input of the attention, hidden features.
    pub xn1: Span,
    /// `[H, D]` a token, rotated.
    pub q: Span,
    /// `[K, D]` a token, rotated.
    pub k: Span,
    /// `[K, D]` a token.
    pub v: Span,
    /// Queries and keys before their norms, if heads are normed.
    pub plain_q: Span,
    pub plain_k: Span,
    /// H and K numbers a token, if heads are normed.
    pub inv_rms_q: Span,
    pub inv_rms_k: Span,
    /// What sampling caches of `k`: the same bytes, unless blocks share theirs.
    pub cache_k: Span,
    pub cache_v: Span,
    /// `[H, S]` a sequence.
    pub lse: Span,
    /// Output of the heads, `[H, D]` a token.
    pub heads: Span,
    /// Input of the feed-forward block, hidden features.
    pub mid: Span,
    pub inv_rms2: Span,
    /// Normed input of the feed-forward block.
    pub xn2: Span,
    /// Intermediate features; becomes its gradient.
    pub gate: Span,
    /// Intermediate features; becomes its gradient.
    pub up: Span,
    /// silu(gate) up
    pub act: Span,
}

/// A block's input in four bits, see [`crate::backend::ops::ActivationPack::pack_rows`].
#[derive(Clone, Copy, Debug)]
pub struct Packed {
    /// Nibbles, whole groups a token.
    pub codes: Span,
    /// bfloat16, one a group.
    pub scales: Span,
}

/// What the sizes of a block's buffers follow from.
pub(super) struct Shapes {
    /// T
    pub tokens: usize,
    /// M
    pub micro: usize,
    pub keys: usize,
    /// Widths of rows: hidden, intermediate, queries, keys.
    pub h: usize,
    pub f: usize,
    pub q: usize,
    pub kv: usize,
    pub hidden: usize,
    pub heads: usize,
    /// K, if heads are normed.
    pub head_norms: Option<usize>,
    pub layers: u32,
    pub bytes: usize,
}

/// All blocks.
pub(super) struct Blocks {
    pub layers: Vec<LayerWork>,
    /// The last block's output.
    pub output: Span,
    /// One micro-batch of a packed input.
    pub unpacked: Span,
}

impl Shapes {
    /// Places all blocks.
    pub fn blocks(&self, plan: &mut Plan, train: bool, kept: ActivationCheckpointing) -> Blocks {
        let layers: Vec<_> = match kept {
            ActivationCheckpointing::BlockInt4 => return self.packed(plan),
            ActivationCheckpointing::Auto | ActivationCheckpointing::None => {
                (0..self.layers).map(|l| self.kept(plan, train, l)).collect()
            }
            ActivationCheckpointing::Block => {
                self.shared(plan, |shapes, plan, l| (shapes.input(plan, l, shapes.backward(l)), None))
            }
        };
        let life = Lifetime { from: self.layers.max(1), to: self.layers + 1 };
        Blocks { layers, output: self.stream(plan, "last block's output".into(), life), unpacked: Span::NONE }
    }

    /// One stream that all blocks update in place; what backward reads of it is packed before.
    fn packed(&self, plan: &mut Plan) -> Blocks {
        let stream = self.stream(plan, "residual stream".into(), Lifetime { from: 0, to: self.layers + 1 });
        let blocks = Lifetime { from: self.layers + 2, to: self.backward(0) };
        let unpacked =
            plan.add("a block's unpacked input", Category::Activations, self.micro * self.h * self.bytes, blocks);
        let (codes, scales) = packed_bytes(self.tokens, self.hidden);
        let layers = self.shared(plan, |shapes, plan, l| {
            let life = Lifetime { from: l + 1, to: shapes.backward(l) };
            let mut add = |part: &str, bytes| {
                plan.add(
                    format!("block {l} input's {part}, groups of {PACK_GROUP}"),
                    Category::Activations,
                    bytes,
                    life,
                )
            };
            (stream, Some(Packed { codes: add("codes", codes), scales: add("scales", scales) }))
        });
        Blocks { layers, output: stream, unpacked }
    }

    fn stream(&self, plan: &mut Plan, name: String, life: Lifetime) -> Span {
        plan.add(name, Category::Activations, self.tokens * self.h * self.bytes, life)
    }

    /// Block `l`'s input: alive from the end of the block before.
    fn input(&self, plan: &mut Plan, l: u32, to: u32) -> Span {
        self.stream(plan, format!("block {l} input"), Lifetime { from: l.max(1), to })
    }

    /// Keys or values of `rows` positions.
    fn heads(&self, plan: &mut Plan, name: String, rows: usize, life: Lifetime) -> Span {
        plan.add(name, Category::Activations, rows * self.kv * self.bytes, life)
    }

    /// The tick of block `l`'s backward.
    pub fn backward(&self, l: u32) -> u32 {
        2 * self.layers + 1 - l
    }

    /// Block `l` with buffers of its own, kept until its backward; without one, until the next block has read them.
    fn kept(&self, plan: &mut Plan, train: bool, l: u32) -> LayerWork {
        let kept = Lifetime { from: l + 1, to: if train { self.backward(l) } else { l + 1 } };
        let cache = if train { kept } else { Lifetime { from: 1, to: self.layers + 1 } };
        let x = self.input(plan, l, kept.to);
        // A cache may be longer than one pass: sampling feeds few tokens at a time.
        let cached = self.tokens.max(self.keys);
        let k = self.heads(plan, format!("block {l} keys"), cached, cache);
        let v = self.heads(plan, format!("block {l} values"), cached, cache);
        LayerWork { x, k, v, cache_k: k, cache_v: v, ..self.inner(plan, self.tokens, &format!("block {l}"), kept) }
    }

    /// All blocks with inputs of their own and one set of buffers for the rest, filled again before each backward.
    /// What sampling caches must outlast a block, so it has a place of its own beside forward's buffers.
    fn shared(
        &self,
        plan: &mut Plan,
        mut input: impl FnMut(&Self, &mut Plan, u32) -> (Span, Option<Packed>),
    ) -> Vec<LayerWork> {
        let blocks = Lifetime { from: 1, to: self.backward(0) };
        let inner = self.inner(plan, self.micro, "a block", blocks);
        let k = self.heads(plan, "a block's keys".into(), self.micro, blocks);
        let v = self.heads(plan, "a block's values".into(), self.micro, blocks);
        let forward = Lifetime { from: 1, to: self.layers + 1 };
        let mut layer = |l| {
            let (x, packed) = input(self, plan, l);
            let cache_k = self.heads(plan, format!("block {l} cached keys"), self.keys, forward);
            let cache_v = self.heads(plan, format!("block {l} cached values"), self.keys, forward);
            LayerWork { x, packed, k, v, cache_k, cache_v, ..inner }
        };
        (0..self.layers).map(&mut layer).collect()
    }

    /// All of `tokens` tokens but input, keys and values.
    fn inner(&self, plan: &mut Plan, tokens: usize, name: &str, kept: Lifetime) -> LayerWork {
        let mut add = |part: &str, bytes| plan.add(format!("{name} {part}"), Category::Activations, bytes, kept);
        let rows = |width: usize| tokens * width * self.bytes;
        let (h, f, q) = (rows(self.h), rows(self.f), rows(self.q));
        let normed = |bytes: usize| if self.head_norms.is_some() { bytes } else { 0 };
        let statistics = |heads: usize| normed(4 * tokens * heads);
        LayerWork {
            x: Span::NONE,
            packed: None,
            inv_rms1: add("1/rms", 4 * tokens),
            xn1: add("attention input", h),
            q: add("queries", q),
            plain_q: add("queries before their norm", normed(q)),
            plain_k: add("keys before their norm", normed(rows(self.kv))),
            inv_rms_q: add("1/rms of queries", statistics(self.heads)),
            inv_rms_k: add("1/rms of keys", statistics(self.head_norms.unwrap_or(0))),
            k: Span::NONE,
            v: Span::NONE,
            cache_k: Span::NONE,
            cache_v: Span::NONE,
            lse: add("log sums", 4 * tokens * self.heads),
            heads: add("attention output", q),
            mid: add("middle", h),
            inv_rms2: add("second 1/rms", 4 * tokens),
            xn2: add("feed-forward input", h),
            gate: add("gate", f),
            up: add("up", f),
            act: add("activation", f),
        }
    }
}
