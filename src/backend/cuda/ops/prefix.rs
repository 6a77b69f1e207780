//! Attention to a prefix.

use super::attention::MAX_HEAD_DIM;
use super::norm::sum_columns;
use super::{dim, product, rows_of};
use crate::backend::cuda::Cuda;
use crate::backend::cuda::runtime::{Args, Gpu};
use crate::backend::ops::{PrefixArgs, PrefixAttention, PrefixGradArgs};
use crate::backend::{AttentionShape, MaxShapes};
use crate::memory::Span;
use zerocopy::{Immutable, IntoBytes};

const THREADS: u32 = 256;
/// Warps of a block, each with a query of a head or a key.
const WARPS: usize = THREADS as usize / 32;
/// Tokens of one partial sum of a key's gradient, at least; and how many partial sums at most.
const TOKENS: usize = 64;
const CHUNKS: usize = 16;
/// Bytes of what the pass over queries leaves for that over keys: `PrefixRow` in kernels/prefix.cu.
const ROW: usize = 16;

/// Workspace in bytes: a row for each query of each head, and partial sums of the gradients of keys and values.
pub(crate) fn workspace_bytes(max: &MaxShapes) -> usize {
    let rows = ROW * max.tokens * (max.inputs / max.head_dim.max(1)).max(1);
    if max.prefix == 0 { 0 } else { rows + 8 * chunks(max.tokens).0 * max.prefix }
}

/// How many chunks of how many tokens.
fn chunks(tokens: usize) -> (usize, usize) {
    let per_chunk = tokens.div_ceil(CHUNKS).max(TOKENS);
    (tokens.div_ceil(per_chunk), per_chunk)
}

/// What all kernels take first, after checks of all that is read in it.
fn arguments(gpu: &Gpu, args: &PrefixArgs, lse: Span, like_q: &[Span]) -> Args {
    let AttentionShape { batch, queries, heads, kv_heads, head_dim, .. } = args.shape;
    assert!(heads.is_multiple_of(kv_heads), "{heads} heads share {kv_heads} key heads");
    assert!(head_dim <= MAX_HEAD_DIM, "{head_dim} elements per head: {MAX_HEAD_DIM} at most");
    let tokens = product([batch, queries]);
    assert_eq!(rows_of(args.q, product([heads, head_dim])), tokens, "rows of queries");
    assert!(like_q.iter().all(|span| span.bytes == args.q.bytes), "spans of equal length");
    assert_eq!(lse.bytes, product([4, tokens, heads]), "bytes of lse");
    assert!(args.scales.is_none_or(|scales| scales.iter().all(|scale| scale.bytes == 4)), "one number each");
    let [key_scale, value_scale] = args.scales.unwrap_or([Span::NONE; 2]);
    let all = Args::new().span(gpu, args.q).span(gpu, args.key).span(gpu, args.value);
    let all = all.span(gpu, key_scale).span(gpu, value_scale).span(gpu, lse);
    let sizes = PrefixSizes {
        rows: dim(product([tokens, heads])),
        queries: dim(queries),
        heads: dim(heads),
        kv_heads: dim(kv_heads),
        head_dim: dim(head_dim),
        length: dim(args.length()),
        compensate: u32::from(args.compensate),
        scale: 1.0 / (head_dim as f32).sqrt(),
    };
    all.bytes(&sizes)
}

// The size that `PrefixSizes` in kernels/prefix.cu asserts.
const _: () = assert!(size_of::<PrefixSizes>() == 32);

/// As in kernels/prefix.cu.
#[repr(C)]
#[derive(Clone, Copy, IntoBytes, Immutable)]
struct PrefixSizes {
    rows: u32,
    queries: u32,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    length: u32,
    compensate: u32,
    scale: f32,
}

/// Blocks with a warp for each query of each head.
fn by_row(lse: Span) -> [u32; 3] {
    [dim((lse.bytes / 4).div_ceil(WARPS)), 1, 1]
}

impl PrefixAttention for Cuda {
    fn prefix_attention(&mut self, args: &PrefixArgs, out: Span, lse: Span, factor: f32) {
        let gpu = &mut self.gpu;
        let all = arguments(gpu, args, lse, &[out]).span(gpu, out).f32(factor);
        // SAFETY: the parameters of `prefix_attention`, which stays within the rows, keys and sums that `arguments` found in
        // the operands, and reads a scale where there is one.
        unsafe { gpu.launch("prefix_attention", by_row(lse), THREADS, 0, &all) };
    }

    fn prefix_delta(&mut self, args: &PrefixArgs, lse: Span, dout: Span, delta: Span) {
        let gpu = &mut self.gpu;
        assert_eq!(delta.bytes, lse.bytes, "a number for each row of lse");
        let all = arguments(gpu, args, lse, &[dout]).span(gpu, dout).span(gpu, delta);
        // SAFETY: the parameters of `prefix_delta`; as above, and it writes a number for each row of lse.
        unsafe { gpu.launch("prefix_delta", by_row(lse), THREADS, 0, &all) };
    }

    fn prefix_attention_grad(&mut self, args: &PrefixArgs, grads: &PrefixGradArgs) {
        let gpu = &mut self.gpu;
        let &PrefixGradArgs { lse, dout, delta, dq, dkey, dvalue, accumulate } = grads;
        let AttentionShape { batch, queries, heads, kv_heads, .. } = args.shape;
        assert_eq!(delta.bytes, lse.bytes, "a number for each row of lse");
        assert!([dkey, dvalue].iter().all(|span| span.bytes == args.key.bytes), "a gradient for each key and value");
        let (elements, (count, per_chunk)) = (args.key.bytes / 4, chunks(batch * queries));
        let bytes = product([4, count, elements]);
        let rows = gpu.workspace().head(product([ROW, batch, queries, heads]));
        let [dkeys, dvalues] = [0, 1].map(|i| gpu.workspace().part(rows.bytes + i * bytes, bytes));
        let all = arguments(gpu, args, lse, &[dout, dq]).span(gpu, dout).span(gpu, delta).span(gpu, dq);
        // SAFETY: the parameters of `prefix_grad_queries`; as above, and it writes a `PrefixRow` for each row of lse.
        unsafe { gpu.launch("prefix_grad_queries", by_row(lse), THREADS, 0, &all.span(gpu, rows)) };
        let all = arguments(gpu, args, lse, &[dout]).span(gpu, dout).span(gpu, rows);
        let all = all.span(gpu, dkeys).span(gpu, dvalues).u32(dim(per_chunk));
        let grid = [dim(kv_heads), dim(args.length().div_ceil(WARPS)), dim(count)];
        // SAFETY: the parameters of `prefix_grad_keys`; it reads what the kernel before wrote and writes `elements` sums of
        // keys and as many of values for each of the grid's `count` chunks, for which the workspace has room.
        unsafe { gpu.launch("prefix_grad_keys", grid, THREADS, 0, &all) };
        for (partial, sum) in [(dkeys, dkey), (dvalues, dvalue)] {
            sum_columns(gpu, partial, sum, (count, elements), accumulate);
        }
    }

    fn scaled_grad(&mut self, grad: Span, values: Span, scale: Span, dscale: Span) {
        let gpu = &mut self.gpu;
        assert!(grad.bytes == values.bytes && scale.bytes == 4 && dscale.bytes == 4, "equal lengths, and two numbers");
        let args = Args::new().span(gpu, grad).span(gpu, values).span(gpu, scale).span(gpu, dscale);
        let args = args.u32(dim(grad.bytes / 4));
        // SAFETY: the parameters of `scaled_grad`, which stays within as many elements of grad and values, and two numbers.
        unsafe { gpu.launch("scaled_grad", [1, 1, 1], THREADS, 0, &args) };
    }
}
