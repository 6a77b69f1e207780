//! Causal attention, forward.

use super::attention_grad::{Left, in_one_pass, in_two_passes};
use super::{dim, product};
use crate::backend::cuda::Cuda;
use crate::backend::cuda::runtime::{Args, Gpu};
use crate::backend::ops::{Attention, Rope};
use crate::backend::{AttentionArgs, AttentionGradArgs, AttentionShape, MaxShapes};
use crate::memory::Span;
use zerocopy::{Immutable, IntoBytes};

/// D at most; it must be even.
pub const MAX_HEAD_DIM: usize = 128;

/// Threads of every block, forward and backward.
pub(crate) const THREADS: u32 = 128;
/// Queries of a block.
const QUERIES: usize = 128;
/// Queries of a sequence up to which the keys are divided among blocks: sampling, or decoding.
const DECODE: usize = 16;
/// Rows of a block of decoding, and keys that it takes at a time.
const DECODE_ROWS: usize = 16;
const DECODE_KEYS: usize = 64;
/// Parts of rows that there is room for: rows of `lse` by the blocks that share the keys of one.
const PARTS: usize = 4096;
/// What the heads of a wave may read, in bytes: it shall stay in the cache of any device.
const WAVE_BYTES: usize = 16 << 20;
/// Blocks in the second and in the third dimension of a grid.
const MOST_BLOCKS: usize = 65535;

// The size that `Attention` in kernels/attention.h asserts.
const _: () = assert!(size_of::<Sizes>() == 44);

/// As `Attention` in kernels/attention.h.
#[repr(C)]
#[derive(Clone, Copy, IntoBytes, Immutable)]
pub(crate) struct Sizes {
    batch: u32,
    queries: u32,
    start: u32,
    capacity: u32,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    stride: u32,
    kv_stride: u32,
    scale: f32,
    scale_log2: f32,
}

/// Workspace in bytes: the parts of rows whose keys are divided.
pub(crate) fn workspace_bytes(max: &MaxShapes) -> usize {
    PARTS * part_bytes(max.head_dim)
}

/// Sums, the highest score and the sum of the numerators.
fn part_bytes(head_dim: usize) -> usize {
    4 * (head_dim + 2)
}

/// Which of the kernels' versions takes a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// Heads padded to 32 elements.
    D32,
    /// To 64.
    D64,
    /// To 96.
    D96,
    /// To 128.
    D128,
    /// To 128, rows that are not multiples of 16 bytes.
    Odd,
}

impl Version {
    /// Elements of a row in shared memory.
    pub(crate) fn width(self) -> usize {
        match self {
            Self::D32 => 32,
            Self::D64 => 64,
            Self::D96 => 96,
            Self::D128 | Self::Odd => 128,
        }
    }
}

impl Sizes {
    /// Checks the spans, whose rows may be padded, and the limits of the kernels.
    ///
    /// # Panics
    /// If a span does not have whole rows of the shape, D is odd or beyond [`MAX_HEAD_DIM`], or a sequence of `q` or `k`
    /// has 2^31 elements.
    pub(crate) fn new(shape: &AttentionShape, q: Span, k: Span, lse: Span) -> Self {
        let AttentionShape { batch, queries, start, capacity, heads, kv_heads, head_dim } = *shape;
        let [batch32, queries32, start32, capacity32] = [batch, queries, start, capacity].map(dim);
        let [heads32, kv_heads32, head_dim32] = [heads, kv_heads, head_dim].map(dim);
        assert!(batch > 0 && queries > 0 && kv_heads > 0 && head_dim > 0, "an empty attention: {shape:?}");
        assert!(heads.is_multiple_of(kv_heads), "{heads} heads share {kv_heads} key heads");
        assert!(start + queries <= capacity, "keys up to {} of {capacity}", start + queries);
        assert!(
            head_dim <= MAX_HEAD_DIM && head_dim.is_multiple_of(2),
            "{head_dim} elements per head: an even number up to {MAX_HEAD_DIM} is possible"
        );
        let stride = |span: Span, rows: usize, least: usize, what: &str| {
            let stride = span.bytes / 2 / rows;
            assert!(span.bytes == 2 * rows * stride && stride >= least, "{what}: {rows} rows of {least} elements");
            assert!(rows / batch * stride < 1 << 31, "{what}: a sequence of {} elements", rows / batch * stride);
            dim(stride)
        };
        let scale = 1.0 / (head_dim as f32).sqrt();
        let sizes = Self {
            batch: batch32,
            queries: queries32,
            start: start32,
            capacity: capacity32,
            heads: heads32,
            kv_heads: kv_heads32,
            head_dim: head_dim32,
            stride: stride(q, batch * queries, heads * head_dim, "queries"),
            kv_stride: stride(k, batch * capacity, kv_heads * head_dim, "keys"),
            scale,
            scale_log2: scale * std::f32::consts::LOG2_E,
        };
        assert!(sizes.stride.is_multiple_of(2) && sizes.kv_stride.is_multiple_of(2), "rows of an even pitch");
        assert_eq!(lse.bytes, product([4, batch, heads, queries]), "bytes of lse");
        sizes
    }

    /// The kernels for it.
    pub(crate) fn version(&self) -> Version {
        let aligned = [self.head_dim, self.stride, self.kv_stride].iter().all(|x| x.is_multiple_of(8));
        match self.head_dim {
            _ if !aligned => Version::Odd,
            0..=32 => Version::D32,
            33..=64 => Version::D64,
            65..=96 => Version::D96,
            _ => Version::D128,
        }
    }
}

/// The grid for tiles of all heads of all sequences (`heads` of them, that read `bytes` each), in waves: see `place` in
/// kernels/attention.h.
pub(crate) fn grid(heads: usize, tiles: usize, bytes: usize) -> [u32; 3] {
    assert!(tiles <= MOST_BLOCKS, "{tiles} tiles of a sequence: {MOST_BLOCKS} at most");
    let most = (WAVE_BYTES / bytes.max(1)).clamp(1, heads);
    let wave = (1..=most).rev().find(|wave| heads.is_multiple_of(*wave)).unwrap_or(1);
    let wave = if heads / wave <= MOST_BLOCKS { wave } else { heads };
    [dim(wave), dim(tiles), dim(heads / wave)]
}

/// A pointer to where each query's segment starts, null where rows hold one sample each.
pub(crate) fn segments(gpu: &Gpu, segment_start: Option<Span>, shape: &AttentionShape) -> u64 {
    segment_start.map_or(0, |start| {
        assert_eq!(start.bytes, product([4, shape.batch, shape.queries]), "bytes of the segments' starts");
        gpu.address(start)
    })
}

impl Attention for Cuda {
    /// Probabilities are rounded to bfloat16 before they are multiplied with the values: a relative error of 2^-9 of
    /// each, which their sum in `lse` does not have. D is even and at most `MAX_HEAD_DIM`, and a sequence of `q` or `k`
    /// has less than 2^31 elements.
    fn attention(&mut self, args: &AttentionArgs) {
        let gpu = &mut self.gpu;
        let &AttentionArgs { q, k, v, out, lse, segment_start, shape } = args;
        let sizes = Sizes::new(&shape, q, k, lse);
        assert!(v.bytes == k.bytes && out.bytes == q.bytes, "spans of equal length");
        let args = Args::new().span(gpu, q).span(gpu, k).span(gpu, v).span(gpu, out).span(gpu, lse);
        let args = args.address(segments(gpu, segment_start, &shape));
        if shape.queries <= DECODE {
            return decode(gpu, args, out, lse, &sizes, &shape);
        }
        let version = sizes.version();
        let (name, keys) = match version {
            Version::D32 => ("attention_32", 64),
            Version::D64 => ("attention_64", 64),
            Version::D96 => ("attention_96", 64),
            Version::D128 => ("attention_128", 64),
            Version::Odd => ("attention_odd", 32),
        };
        let read = (shape.start + shape.queries) * shape.head_dim * 4 / (shape.heads / shape.kv_heads);
        let grid = grid(shape.batch * shape.heads, shape.queries.div_ceil(QUERIES), read);
        // Queries, and two stages of keys and values.
        let shared = 2 * version.width() * (QUERIES + 4 * keys);
        // SAFETY: the parameters of the version's kernel, and the shared memory of its tiles. It stays within the rows that
        // `sizes` says, which `Sizes::new` and the assertion above found in the operands; a segment's start is limited
        // to the query's own position before it is used.
        unsafe { gpu.launch(name, grid, THREADS, shared, &args.bytes(&sizes)) };
    }

    /// Without `out`, its products with `dout` are formed from probabilities, for two products of matrices more on top of
    /// seven. Probabilities and the gradients of scores are rounded to bfloat16 before the last products: a relative
    /// error of 2^-9 of each term.
    fn attention_grad(&mut self, args: &AttentionGradArgs) {
        match in_one_pass(&mut self.gpu, args) {
            Left::Nothing => (),
            Left::Rotation => self.rotate_back(args),
            Left::All => self.attention_grad_in_two_passes(args),
        }
    }
}

impl Cuda {
    /// [`Attention::attention_grad`] as it is for sequences that are too long for one pass: what one pass is compared with.
    ///
    /// # Panics
    /// If a span does not fit the shape, or the shape the kernels; if `start` is not 0 or `capacity` not S.
    pub fn attention_grad_in_two_passes(&mut self, args: &AttentionGradArgs) {
        in_two_passes(&mut self.gpu, args);
        self.rotate_back(args);
    }

    fn rotate_back(&mut self, args: &AttentionGradArgs) {
        args.rotations().for_each(|(x, table, rotation)| self.rope(x, table, rotation, None));
    }
}

/// Keys of a block and the number of blocks that share the keys of one row, so that there are `wanted` blocks if no
/// block has less than two tiles and the parts of `rows` rows have room.
fn chunks(keys: usize, blocks: usize, wanted: usize, rows: usize) -> (usize, usize) {
    let most = keys.div_ceil(2 * DECODE_KEYS).min(PARTS / rows).clamp(1, MOST_BLOCKS);
    let keys_of_chunk = keys.div_ceil(wanted.div_ceil(blocks).clamp(1, most)).next_multiple_of(DECODE_KEYS);
    (keys_of_chunk, keys.div_ceil(keys_of_chunk))
}

/// `args` are the operands, which fit `sizes`.
fn decode(gpu: &mut Gpu, args: Args, out: Span, lse: Span, sizes: &Sizes, shape: &AttentionShape) {
    let AttentionShape { batch, queries, start, heads, kv_heads, head_dim, .. } = *shape;
    let (version, rows) = (sizes.version(), batch * heads * queries);
    let name = match version {
        Version::D32 => "attention_decode_32",
        Version::D64 => "attention_decode_64",
        Version::D96 => "attention_decode_96",
        Version::D128 => "attention_decode_128",
        Version::Odd => "attention_decode_odd",
    };
    let (blocks, tiles) = (batch * kv_heads, (queries * heads / kv_heads).div_ceil(DECODE_ROWS));
    let (chunk, count) = chunks(start + queries, blocks * tiles, 2 * gpu.multiprocessors() as usize, rows);
    let (sums, parts) = match count {
        1 => (Span::NONE, Span::NONE),
        _ => {
            let all = gpu.workspace().head(count * rows * part_bytes(head_dim));
            let sums = all.head(4 * count * rows * head_dim);
            (sums, all.part(sums.bytes, all.bytes - sums.bytes))
        }
    };
    let args = args.span(gpu, sums).span(gpu, parts).u32(dim(chunk)).bytes(sizes);
    // Queries, and two stages of keys and values.
    let shared = 2 * version.width() * (DECODE_ROWS + 4 * DECODE_KEYS);
    let grid = [dim(blocks), dim(tiles), dim(count)];
    // SAFETY: the parameters of the version's kernel, and the shared memory of its tiles. It stays within the rows that
    // `sizes` says, which the caller found in the operands, and writes `count` parts of each of `rows` rows, for which
    // `sums` and `parts` have room; of one part it writes none.
    unsafe { gpu.launch(name, grid, THREADS, shared, &args) };
    if count > 1 {
        let args = Args::new().span(gpu, sums).span(gpu, parts).u32(dim(count));
        let args = args.span(gpu, out).span(gpu, lse).bytes(sizes);
        let grid = [dim(rows.div_ceil(THREADS as usize / 32)), 1, 1];
        // SAFETY: the parameters of `attention_decode_join`, which reads the parts that were just written and writes the
        // rows of out and lse that `sizes` says.
        unsafe { gpu.launch("attention_decode_join", grid, THREADS, 0, &args) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_all_keys_and_their_parts_have_room() {
        assert_eq!(chunks(1, 1, 264, 32), (64, 1));
        // One sequence of 8 key heads on 132 multiprocessors.
        assert_eq!(chunks(2048, 8, 264, 32), (128, 16));
        assert_eq!(chunks(8192, 8, 264, 32), (256, 32));
        assert_eq!(chunks(8192, 8, 264, 1024), (2048, 4));
        assert_eq!(chunks(8192, 8, 264, 5000), (8192, 1));
        assert_eq!(chunks(8200, 300, 264, 300), (8256, 1));
        for keys in 1..1000 {
            let (chunk, count) = chunks(keys, 3, 50, 7);
            assert!(chunk % DECODE_KEYS == 0 && chunk * count >= keys && chunk * (count - 1) < keys);
        }
    }

    #[test]
    fn a_grid_covers_all_heads_in_waves_that_fit_the_cache() {
        assert_eq!(grid(1, 1, 100), [1, 1, 1]);
        // 2048 keys of 128: 1 MiB for keys and values.
        assert_eq!(grid(256, 16, 1 << 20), [16, 16, 16]);
        assert_eq!(grid(6, 3, 4 << 20), [3, 3, 2]);
        assert_eq!(grid(7, 3, 4 << 20), [1, 3, 7]);
        assert_eq!(grid(8, 3, 1 << 30), [1, 3, 8]);
        // A prime number of heads, too many for the third dimension.
        assert_eq!(grid(70_001, 1, 1 << 20), [70_001, 1, 1]);
    }
}
