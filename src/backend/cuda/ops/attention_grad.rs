//! The gradient of causal attention.

use super::attention::{Sizes, THREADS, Version, first_keys, grid};
use crate::backend::cuda::runtime::{Args, Gpu};
use crate::backend::{AttentionShape, Largest};
use crate::memory::Span;

/// Queries of a block of the first pass.
const QUERIES: usize = 128;
/// Bytes of what the first pass leaves for the second, for each query of each head: `Row` in kernels/attention_grad.cu.
const ROW: usize = 16;

/// Scratch in bytes: what the passes tell each other.
pub fn need(largest: &Largest) -> usize {
    ROW * largest.tokens * (largest.inputs / largest.head_dim.max(1)).max(1)
}

/// How the kernels for one width divide their work; as the constants at the top of the kernels.
struct Tiles {
    /// Keys at a time of the first pass.
    keys_at_once: usize,
    /// Keys of a block of the second pass.
    keys: usize,
    /// Queries at a time of the second pass.
    queries_at_once: usize,
}

impl Tiles {
    fn of(width: usize) -> Self {
        match width {
            ..=64 => Self { keys_at_once: 64, keys: 128, queries_at_once: 64 },
            _ => Self { keys_at_once: 32, keys: 64, queries_at_once: 32 },
        }
    }
}

/// See [`crate::backend::Backend::attention_grad`]; `first` as in [`super::attention::attention`].
///
/// `out`, if given, is the output exactly as `attention` left it. Without it (because what was kept of it is rounded
/// further), its products with `dout` are formed from probabilities, for two products of matrices more on top of seven.
///
/// Probabilities and the gradients of scores are rounded to bfloat16 before the last products: a relative error of 2^-9
/// of each term.
///
/// # Panics
/// As [`super::attention::attention`], and if `start` is not 0 or `capacity` not S.
#[allow(clippy::too_many_arguments)]
pub fn attention_grad(
    gpu: &mut Gpu,
    q: Span,
    k: Span,
    v: Span,
    out: Option<Span>,
    lse: Span,
    dout: Span,
    dq: Span,
    dk: Span,
    dv: Span,
    first: Option<Span>,
    shape: AttentionShape,
) {
    let sizes = Sizes::new(&shape, q, k, lse);
    assert!(shape.start == 0 && shape.capacity == shape.queries, "a gradient of whole sequences");
    let like_q = [dout, dq].into_iter().chain(out).all(|span| span.bytes == q.bytes);
    assert!(like_q && [v, dk, dv].iter().all(|span| span.bytes == k.bytes), "spans of equal length");
    let (version, first) = (sizes.version(), first_keys(gpu, first, &shape));
    let (for_queries, for_keys) = match version {
        Version::D32 => ("attention_grad_queries_32", "attention_grad_keys_32"),
        Version::D64 => ("attention_grad_queries_64", "attention_grad_keys_64"),
        Version::D96 => ("attention_grad_queries_96", "attention_grad_keys_96"),
        Version::D128 => ("attention_grad_queries_128", "attention_grad_keys_128"),
        Version::Odd => ("attention_grad_queries_odd", "attention_grad_keys_odd"),
    };
    let AttentionShape { batch, queries, heads, kv_heads, head_dim, .. } = shape;
    let rows = gpu.scratch.head(ROW * batch * heads * queries);
    let (width, tiles) = (version.width(), Tiles::of(version.width()));
    // Bytes of two tensors' head, and how many heads share one of keys.
    let (head, group) = (4 * queries * head_dim, heads / kv_heads);

    let args = Args::new().span(gpu, q).span(gpu, k).span(gpu, v).span(gpu, out.unwrap_or(Span::NONE));
    let args = args.span(gpu, lse).span(gpu, dout).span(gpu, dq).span(gpu, rows).address(first).bytes(&sizes);
    let blocks = grid(batch * heads, queries.div_ceil(QUERIES), head / group);
    // Queries and their gradients, and two stages of keys and values.
    gpu.launch(for_queries, blocks, THREADS, 2 * width * (2 * QUERIES + 4 * tiles.keys_at_once), &args);

    let args = Args::new().span(gpu, q).span(gpu, k).span(gpu, v).span(gpu, dout).span(gpu, rows);
    let args = args.span(gpu, dk).span(gpu, dv).address(first).bytes(&sizes);
    let blocks = grid(batch * kv_heads, queries.div_ceil(tiles.keys), head * group);
    // Keys and values, and two stages of queries, their gradients and rows.
    let stage = tiles.queries_at_once * (4 * width + ROW);
    gpu.launch(for_keys, blocks, THREADS, 4 * width * tiles.keys + 2 * stage, &args);
}
