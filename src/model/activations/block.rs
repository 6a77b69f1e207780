//! What a block computes, and how much of it outlives the block.

use crate::backend::{PACK_GROUP, packed_bytes};
use crate::memory::{ALIGN, Category, Lifetime, Plan, Span};
use crate::model::ActivationCheckpointing;

/// Activations of one block. Rows are tokens: of the batch (T) if blocks keep them until backward, else of one
/// micro-batch (M).
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct BlockActs {
    /// Input of the block `[T, hidden]`.
    pub x: Span,
    /// The same in four bits, if that is what backward reads; `x` then belongs to all blocks.
    pub int4_x: Option<Int4Rows>,
    pub attn_inv_rms: Span,
    /// Normed input of the attention, hidden features.
    pub attn_norm_out: Span,
    /// `[H, D]` a token, rotated.
    pub q: Span,
    /// `[K, D]` a token, rotated; in sampling of every position that is cached.
    pub k: Span,
    /// `[K, D]` a token; in sampling of every position that is cached.
    pub v: Span,
    /// Queries and keys before their norms, if heads are normed.
    pub plain_q: Span,
    pub plain_k: Span,
    /// H and K numbers a token, if heads are normed.
    pub inv_rms_q: Span,
    pub inv_rms_k: Span,
    /// `[H, S]` a sequence.
    pub lse: Span,
    /// Output of the heads, `[H, D]` a token.
    pub attn_out: Span,
    /// Input of the MLP, hidden features.
    pub resid_mid: Span,
    pub mlp_inv_rms: Span,
    /// Normed input of the MLP.
    pub mlp_norm_out: Span,
    /// Intermediate features; becomes its gradient.
    pub gate: Span,
    /// Intermediate features; becomes its gradient.
    pub up: Span,
    /// silu(gate) up
    pub act: Span,
}

/// A block's input in four bits, see [`crate::backend::ops::ActivationPack::pack_rows`].
#[derive(Clone, Copy, Debug)]
pub struct Int4Rows {
    /// Nibbles, whole groups a token.
    pub codes: Span,
    /// bfloat16, one a group.
    pub scales: Span,
}

/// What the sizes of a block's buffers follow from.
#[derive(Clone, Copy)]
pub(super) struct Shapes {
    /// T
    pub tokens: usize,
    /// M
    pub micro: usize,
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
    /// The lowest block that backward reaches; those below keep nothing for it.
    pub lowest: u32,
    pub bytes: usize,
}

/// All blocks.
pub(super) struct Blocks {
    pub blocks: Vec<BlockActs>,
    /// The last block's output.
    pub output: Span,
    /// One micro-batch of a packed input.
    pub unpacked: Span,
}

impl Shapes {
    /// Places all blocks.
    pub fn blocks(&self, plan: &mut Plan, train: bool, kept: ActivationCheckpointing) -> Blocks {
        let blocks: Vec<_> = match kept {
            ActivationCheckpointing::BlockInt4 => return self.int4_inputs(plan),
            ActivationCheckpointing::Auto | ActivationCheckpointing::None => {
                (0..self.layers).map(|l| self.kept(plan, train, l)).collect()
            }
            ActivationCheckpointing::Block => {
                self.shared(plan, |shapes, plan, l| (shapes.input(plan, l, shapes.kept_until(l)), None))
            }
        };
        let life = Lifetime { from: self.layers.max(1), to: self.layers + 1 };
        Blocks { blocks, output: self.stream(plan, "last block's output".into(), life), unpacked: Span::NONE }
    }

    /// One residual stream that all blocks update in place; what backward reads of it is packed before.
    fn int4_inputs(&self, plan: &mut Plan) -> Blocks {
        let stream = self.stream(plan, "residual stream".into(), Lifetime { from: 0, to: self.layers + 1 });
        let backward = Lifetime { from: self.layers + 2, to: self.backward(0) };
        let unpacked =
            plan.add("a block's unpacked input", Category::Activations, self.micro * self.h * self.bytes, backward);
        let (codes, scales) = packed_bytes(self.tokens, self.hidden);
        let blocks = self.shared(plan, |shapes, plan, l| {
            let life = Lifetime { from: l + 1, to: shapes.kept_until(l) };
            let mut add = |part: &str, bytes| {
                plan.add(
                    format!("block {l} input's {part}, groups of {PACK_GROUP}"),
                    Category::Activations,
                    bytes,
                    life,
                )
            };
            (stream, Some(Int4Rows { codes: add("codes", codes), scales: add("scales", scales) }))
        });
        Blocks { blocks, output: stream, unpacked }
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

    /// The tick until which block `l` keeps what its backward reads.
    fn kept_until(&self, l: u32) -> u32 {
        if l < self.lowest { l + 1 } else { self.backward(l) }
    }

    /// The tick of block `l`'s backward.
    pub fn backward(&self, l: u32) -> u32 {
        2 * self.layers + 1 - l
    }

    /// Block `l` with buffers of its own, kept until its backward; without one, until the next block has read them.
    fn kept(&self, plan: &mut Plan, train: bool, l: u32) -> BlockActs {
        let kept = Lifetime { from: l + 1, to: if train { self.kept_until(l) } else { l + 1 } };
        let x = self.input(plan, l, kept.to);
        BlockActs { x, ..self.whole(plan, self.tokens, &format!("block {l}"), kept) }
    }

    /// All of `tokens` tokens but the input. Queries, keys and values lie at equal distances where they are equally wide, so
    /// that a device can compute them at once.
    fn whole(&self, plan: &mut Plan, tokens: usize, name: &str, kept: Lifetime) -> BlockActs {
        let [q, k, v] = self.projections(plan, format!("{name} queries, keys and values"), tokens, kept);
        BlockActs { q, k, v, ..self.inner(plan, tokens, name, kept) }
    }

    /// Rows for queries, keys and values of `tokens` tokens, one behind the other.
    pub fn projections(&self, plan: &mut Plan, name: String, tokens: usize, life: Lifetime) -> [Span; 3] {
        let bytes = [self.q, self.kv, self.kv].map(|width| tokens * width * self.bytes);
        let places = bytes.map(|bytes| bytes.next_multiple_of(ALIGN));
        let all = plan.add(name, Category::Activations, places.iter().sum(), life);
        [0, 1, 2].map(|i| all.part(places[..i].iter().sum(), bytes[i]))
    }

    /// All blocks with inputs of their own and one set of buffers for the rest, filled again before each backward.
    fn shared(
        &self,
        plan: &mut Plan,
        mut input: impl FnMut(&Self, &mut Plan, u32) -> (Span, Option<Int4Rows>),
    ) -> Vec<BlockActs> {
        let blocks = Lifetime { from: 1, to: self.backward(0) };
        let whole = self.whole(plan, self.micro, "a block", blocks);
        let mut layer = |l| {
            let (x, int4_x) = input(self, plan, l);
            BlockActs { x, int4_x, ..whole }
        };
        (0..self.layers).map(&mut layer).collect()
    }

    /// All blocks of sampling: one residual stream `x` and one set of buffers that they share, alive during `blocks`, and
    /// keys and values of `cached` positions for each, which last as long as `x`.
    pub fn cached(&self, plan: &mut Plan, x: Span, cached: usize, blocks: Lifetime, text: Lifetime) -> Vec<BlockActs> {
        let inner = self.inner(plan, self.micro, "sampling: a block", blocks);
        let queries = self.micro * self.q * self.bytes;
        let q = plan.add("sampling: a block queries", Category::Activations, queries, blocks);
        let mut layer = |l| {
            let mut cache = |what| self.heads(plan, format!("sampling: block {l} cached {what}"), cached, text);
            BlockActs { x, q, k: cache("keys"), v: cache("values"), ..inner }
        };
        (0..self.layers).map(&mut layer).collect()
    }

    /// All of `tokens` tokens but input, queries, keys and values.
    fn inner(&self, plan: &mut Plan, tokens: usize, name: &str, kept: Lifetime) -> BlockActs {
        let mut add = |part: &str, bytes| plan.add(format!("{name} {part}"), Category::Activations, bytes, kept);
        let rows = |width: usize| tokens * width * self.bytes;
        let (h, f, q) = (rows(self.h), rows(self.f), rows(self.q));
        let normed = |bytes: usize| if self.head_norms.is_some() { bytes } else { 0 };
        let statistics = |heads: usize| normed(4 * tokens * heads);
        BlockActs {
            x: Span::NONE,
            int4_x: None,
            attn_inv_rms: add("attention 1/rms", 4 * tokens),
            attn_norm_out: add("attention input", h),
            q: Span::NONE,
            plain_q: add("queries before their norm", normed(q)),
            plain_k: add("keys before their norm", normed(rows(self.kv))),
            inv_rms_q: add("1/rms of queries", statistics(self.heads)),
            inv_rms_k: add("1/rms of keys", statistics(self.head_norms.unwrap_or(0))),
            k: Span::NONE,
            v: Span::NONE,
            lse: add("log sums", 4 * tokens * self.heads),
            attn_out: add("attention output", q),
            resid_mid: add("residual after attention", h),
            mlp_inv_rms: add("MLP 1/rms", 4 * tokens),
            mlp_norm_out: add("MLP input", h),
            gate: add("gate", f),
            up: add("up", f),
            act: add("activation", f),
        }
    }
}
