//! The gradient of causal attention.

use super::attention::{Sizes, THREADS, Version, grid, segments};
use super::{dim, product};
use crate::backend::cuda::runtime::{Args, Gpu};
use crate::backend::{AttentionGradArgs, AttentionShape, MaxShapes};
use crate::memory::Span;

/// Queries of a block of the first pass.
const QUERIES: usize = 128;
/// Bytes of what the first pass leaves for the second, for each query of each head: `Row` in kernels/attention_grad.h.
const ROW: usize = 16;
/// Keys of a warp of the single pass, and its warps at most: `BLOCK` and `WARPS` in kernels/attention_grad_whole.cu.
const BLOCK: usize = 32;
const WARPS: usize = 8;

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
    /// Bytes by which its warps exchange probabilities.
    exchange: usize,
}

impl Tiles {
    fn of(width: usize) -> Self {
        match width {
            ..=64 => Self { keys_at_once: 64, keys: 128, queries_at_once: 64, exchange: 0 },
            _ => Self { keys_at_once: 32, keys: 64, queries_at_once: 32, exchange: 4 * 64 * 32 },
        }
    }
}

/// The kernel of a single pass and the shared memory of its block, if a block of `most` bytes has room for whole sequences.
fn single_pass(version: Version, queries: usize, most: usize) -> Option<(&'static str, usize)> {
    let kernel = match version {
        Version::D32 => "attention_grad_whole_32",
        Version::D64 => "attention_grad_whole_64",
        Version::D96 | Version::D128 | Version::Odd => return None,
    };
    let blocks = queries.div_ceil(BLOCK);
    // Keys, values, queries and gradients of outputs; a triangle of tiles, which begins as outputs; rows.
    let (head, triangle) = (2 * blocks * BLOCK * version.width(), blocks * (blocks + 1) / 2 * 2 * BLOCK * BLOCK);
    let shared = 4 * head + head.max(triangle) + blocks * BLOCK * ROW;
    (blocks <= WARPS && shared <= most).then_some((kernel, shared))
}

/// What a pass leaves to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// All of it: the operands do not fit a block, or the output is not given.
    All,
    /// `dq` and `dk` shall be rotated back.
    Rotation,
    /// Nothing.
    Nothing,
}

/// What kernels are told beside the spans, and which they are.
///
/// # Panics
/// If a span does not fit the shape, or the shape the kernels; if `start` is not 0 or `capacity` not S.
fn checked(args: &AttentionGradArgs) -> (Sizes, Version) {
    let &AttentionGradArgs { q, k, v, out, lse, dout, dq, dk, dv, delta, shape, .. } = args;
    let sizes = Sizes::new(&shape, q, k, lse);
    assert!(shape.start == 0 && shape.capacity == shape.queries, "a gradient of whole sequences");
    let like_q = [dout, dq].into_iter().chain(out).all(|span| span.bytes == q.bytes);
    assert!(like_q && [v, dk, dv].iter().all(|span| span.bytes == k.bytes), "spans of equal length");
    assert!(
        delta.is_none_or(|delta| delta.bytes == lse.bytes && out.is_none()),
        "a number for each row of lse, no output"
    );
    (sizes, sizes.version())
}

/// The gradient in one pass, where a block has room for whole sequences.
///
/// # Panics
/// As [`in_two_passes`], and if the table does not have all positions.
pub(crate) fn in_one_pass(gpu: &mut Gpu, args: &AttentionGradArgs) -> Left {
    let (sizes, version) = checked(args);
    let &AttentionGradArgs { q, k, v, lse, dout, dq, dk, dv, rotated_by, shape, .. } = args;
    let single = single_pass(version, shape.queries, gpu.shared_bytes() as usize);
    let (Some(out), Some((kernel, shared))) = (args.out, single) else { return Left::All };
    // An element and the one that it turns with are in one lane where no column is padding.
    let table = rotated_by.filter(|_| shape.head_dim == version.width());
    let needed = product([4, shape.queries, shape.head_dim]);
    assert!(table.is_none_or(|table| table.bytes >= needed), "{} positions in the table", shape.queries);
    let segment_start = segments(gpu, args.segment_start, &shape);
    let args = Args::new().span(gpu, q).span(gpu, k).span(gpu, v).span(gpu, out).span(gpu, lse).span(gpu, dout);
    let args = args.span(gpu, dq).span(gpu, dk).span(gpu, dv).span(gpu, table.unwrap_or(Span::NONE));
    let args = args.address(segment_start).bytes(&sizes);
    let blocks = dim(product([shape.batch, shape.kv_heads]));
    let threads = dim(shape.queries.next_multiple_of(BLOCK));
    // SAFETY: the parameters of both kernels, a thread for each query in whole blocks, and the shared memory of what they
    // keep. They stay within the rows that `sizes` says, which `checked` found in the operands, and within a row of the
    // table for each query; a segment's start is limited to the query's own position before it is used.
    unsafe { gpu.launch(kernel, [blocks, 1, 1], threads, shared, &args) };
    if rotated_by == table { Left::Nothing } else { Left::Rotation }
}

/// The gradient in two passes, but for a rotation back.
///
/// # Panics
/// If a span does not fit the shape, or the shape the kernels; if `start` is not 0 or `capacity` not S.
pub(crate) fn in_two_passes(gpu: &mut Gpu, args: &AttentionGradArgs) {
    let (sizes, version) = checked(args);
    let &AttentionGradArgs { q, k, v, out, lse, dout, dq, dk, dv, delta, shape, .. } = args;
    let segment_start = segments(gpu, args.segment_start, &shape);
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
    // `sizes` says, which `checked` found in the operands, and writes one `Row`, and one
    // number of delta if there is one, for each query of each head; a segment's start is limited to the query's own position before it is used.
    unsafe { gpu.launch(for_queries, blocks, THREADS, shared, &args) };

    let args = Args::new().span(gpu, q).span(gpu, k).span(gpu, v).span(gpu, dout).span(gpu, rows);
    let args = args.span(gpu, dk).span(gpu, dv).address(segment_start).bytes(&sizes);
    let blocks = grid(batch * kv_heads, queries.div_ceil(tiles.keys), head * group);
    // Keys and values, two stages of queries, their gradients and rows, and the exchange.
    let shared = 4 * width * tiles.keys + 2 * tiles.queries_at_once * (4 * width + ROW) + tiles.exchange;
    // SAFETY: as above; this pass reads the rows that the first one wrote.
    unsafe { gpu.launch(for_keys, blocks, THREADS, shared, &args) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_are_whole_as_long_as_the_shared_memory_allows() {
        let longest = |version, most| (1..=1000).take_while(|&n| single_pass(version, n, most).is_some()).last();
        // Compute capabilities 8.6, 8.0 and 9.0.
        let [least, ampere, hopper] = [99, 163, 227].map(|kib| kib * 1024);
        assert_eq!([least, ampere, hopper].map(|most| longest(Version::D64, most)), [Some(128), Some(192), Some(256)]);
        assert_eq!([least, ampere, hopper].map(|most| longest(Version::D32, most)), [Some(192), Some(256), Some(256)]);
        assert_eq!(longest(Version::D96, hopper), None);
        // 128 KiB of operands, 36 tiles of 2 KiB, 256 rows.
        assert_eq!(single_pass(Version::D64, 256, hopper), Some(("attention_grad_whole_64", (128 + 72 + 4) * 1024)));
    }
}
