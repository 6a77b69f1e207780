//! The gradient of causal attention.

use super::attention::{Sizes, THREADS, Version, grid, segments};
use super::product;
use crate::backend::cuda::runtime::{Args, Gpu};
use crate::backend::{AttentionGradArgs, AttentionShape, MaxShapes};
use crate::memory::Span;

/// Queries of a block of the first pass.
const QUERIES: usize = 128;
/// Bytes of what the first pass leaves for the second, for each query of each head: `Row` in kernels/attention_grad.cu.
const ROW: usize = 16;

/// Workspace in bytes: what the first pass leaves for the second.
pub(crate) fn workspace_bytes(max: &MaxShapes) -> usize {
    ROW * max.tokens * (max.inputs / max.head_dim.max(1)).max(1)
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

/// See [`crate::backend::ops::Attention::attention_grad`].
///
/// # Panics
/// If a span does not fit the shape, or the shape the kernels; if `start` is not 0 or `capacity` not S.
pub(crate) fn attention_grad(gpu: &mut Gpu, args: &AttentionGradArgs) {
    let &AttentionGradArgs { q, k, v, out, lse, dout, dq, dk, dv, delta, segment_start, shape } = args;
    let sizes = Sizes::new(&shape, q, k, lse);
    assert!(shape.start == 0 && shape.capacity == shape.queries, "a gradient of whole sequences");
    let like_q = [dout, dq].into_iter().chain(out).all(|span| span.bytes == q.bytes);
    assert!(like_q && [v, dk, dv].iter().all(|span| span.bytes == k.bytes), "spans of equal length");
    assert!(
        delta.is_none_or(|delta| delta.bytes == lse.bytes && out.is_none()),
        "a number for each row of lse, no output"
    );
    let (version, segment_start) = (sizes.version(), segments(gpu, segment_start, &shape));
    let (for_queries, for_keys) = match version {
        Version::D32 => ("attention_grad_queries_32", "attention_grad_keys_32"),
        Version::D64 => ("attention_grad_queries_64", "attention_grad_keys_64"),
        Version::D96 => ("attention_grad_queries_96", "attention_grad_keys_96"),
        Version::D128 => ("attention_grad_queries_128", "attention_grad_keys_128"),
        Version::Odd => ("attention_grad_queries_odd", "attention_grad_keys_odd"),
    };
    let AttentionShape { batch, queries, heads, kv_heads, head_dim, .. } = shape;
    let rows = gpu.workspace().head(product([ROW, batch, heads, queries]));
    let (width, tiles) = (version.width(), Tiles::of(version.width()));
    // Bytes of two tensors' head, and how many heads share one of keys.
    let (head, group) = (4 * queries * head_dim, heads / kv_heads);

    let args = Args::new().span(gpu, q).span(gpu, k).span(gpu, v).span(gpu, out.unwrap_or(Span::NONE));
    let args = args.span(gpu, lse).span(gpu, dout).span(gpu, dq).span(gpu, rows);
    let args = args.span(gpu, delta.unwrap_or(Span::NONE)).address(segment_start).bytes(&sizes);
    let blocks = grid(batch * heads, queries.div_ceil(QUERIES), head / group);
    // Queries and their gradients, and two stages of keys and values.
    let shared = 2 * width * (2 * QUERIES + 4 * tiles.keys_at_once);
    // SAFETY: the parameters of the version's kernel, and the shared memory of its tiles. It stays within the rows that
    // `sizes` says, which `Sizes::new` and the assertion above found in the operands, and writes one `Row`, and one
    // number of delta if there is one, for each query of each head; a segment's start is limited to the query's own position before it is used.
    unsafe { gpu.launch(for_queries, blocks, THREADS, shared, &args) };

    let args = Args::new().span(gpu, q).span(gpu, k).span(gpu, v).span(gpu, dout).span(gpu, rows);
    let args = args.span(gpu, dk).span(gpu, dv).address(segment_start).bytes(&sizes);
    let blocks = grid(batch * kv_heads, queries.div_ceil(tiles.keys), head * group);
    // Keys and values, and two stages of queries, their gradients and rows.
    let stage = tiles.queries_at_once * (4 * width + ROW);
    // SAFETY: as above; this pass reads the rows that the first one wrote.
    unsafe { gpu.launch(for_keys, blocks, THREADS, 4 * width * tiles.keys + 2 * stage, &args) };
}
