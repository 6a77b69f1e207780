//! Forward products whose operands are bytes: activations are rounded in workspace, once for a product; panels of the weight
//! are unpacked beside them, and tensor cores multiply both group by group.

use super::linear::{after, tokens};
use super::weights::{self, codec_kernels};
use super::{dim, pitch, product};
use crate::backend::cuda::runtime::{Args, Capability, Gpu};
use crate::backend::{Accumulate, Compute, MaxShapes, Weight};
use crate::memory::Span;
use crate::quant::{BLOCK, GROUPS, WeightCodec};

/// Rows and columns of the output that a block of threads computes (`kernels/bytes.h`).
pub(super) const TILE: usize = 128;
/// Shared memory of such a block, in bytes.
const SHARED: usize = 81_920;
/// Bytes of the workspace that each operand may take; both, and what a product streams, stay in the L2 cache.
pub(super) const OPERAND: usize = 16 << 20;
/// The widest group, to which rows are padded.
const WIDEST: usize = GROUPS[GROUPS.len() - 1];

/// The kernels of an arithmetic.
pub(super) struct Kernels {
    quantize: &'static str,
    unpack: [&'static str; WeightCodec::ALL.len()],
    multiply: &'static str,
}

pub(super) const INT8: Kernels =
    Kernels { quantize: "quantize_int8", unpack: codec_kernels!("unpack_int8"), multiply: "multiply_int8" };

/// Of devices since [`FP8_DEVICE`], and for weights whose codes are such floats: there is no kernel for others.
pub(super) const FP8: Kernels =
    Kernels { quantize: "quantize_fp8", unpack: codec_kernels!("unpack_fp8"), multiply: "multiply_fp8" };
/// The oldest devices that multiply floats of eight bits.
pub(crate) const FP8_DEVICE: Capability = Capability { major: 8, minor: 9 };

/// Bytes of an operand's row: its codes, and two floats for each group.
pub(super) fn row_bytes(padded: usize, group: usize) -> usize {
    padded + 8 * (padded / group)
}

/// How many of an operand's rows are in `most` bytes of workspace at once.
fn rows_at_once(rows: usize, row: usize, most: usize) -> usize {
    let fitting = (OPERAND.min(most) / row / TILE * TILE).max(TILE);
    assert!(fitting * row <= most, "{fitting} rows of {row} bytes in {most} bytes of workspace");
    fitting.min(rows.next_multiple_of(TILE))
}

/// Workspace in bytes; nothing if products are not of bytes.
pub(crate) fn workspace_bytes(max: &MaxShapes) -> usize {
    if matches!(max.compute, Compute::F32 | Compute::Bf16) {
        return 0;
    }
    // The smallest groups have the most scales. Fewer or narrower rows never need more than this: either all rows, or as many
    // as OPERAND and one tile's allow.
    let row = row_bytes((max.inputs + WIDEST - 1).next_multiple_of(GROUPS[0]), GROUPS[0]);
    let most = |rows: usize| (rows.next_multiple_of(TILE) * row).min(OPERAND.max(TILE * row));
    most(max.tokens) + most(max.features.max(max.inputs))
}

/// Rows of one operand in the workspace, and where they are.
#[derive(Clone, Copy)]
pub(super) struct Operand {
    pub codes: Span,
    pub scales: Span,
    extras: Span,
    /// How many rows there is room for: floats from one group to the next.
    pub room: usize,
}

impl Operand {
    /// At the beginning of `space`, without its last `spare` bytes; gives what is left of it.
    pub fn new(space: Span, spare: usize, rows: usize, (padded, group): (usize, usize)) -> (Self, Span) {
        let room = rows_at_once(rows, row_bytes(padded, group), space.bytes.saturating_sub(spare));
        let (codes, numbers) = (room * padded, 4 * room * (padded / group));
        let operand = Self {
            codes: space.head(codes),
            scales: space.part(codes, numbers),
            extras: space.part(codes + numbers, numbers),
            room,
        };
        (operand, after(space, codes + 2 * numbers))
    }

    /// How rows are divided: (from, count).
    pub fn parts(&self, rows: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let room = self.room;
        (0..rows).step_by(room).map(move |from| (from, room.min(rows - from)))
    }
}

/// The padded row and group of the input that lies rounded in the workspace, all rows of it.
pub(super) type Rounded = Option<(usize, usize)>;

/// `y = x w^T` by bytes, of a weight that is codes. `rounded` tells what is in the workspace of the same `x`.
///
/// # Panics
/// If spans do not fit the shape, or there is no workspace.
pub(super) fn linear(
    gpu: &mut Gpu,
    kernels: &Kernels,
    (x, rounded): (Span, &mut Rounded),
    w: &Weight,
    y: Span,
    accumulate: Accumulate,
) {
    weights::check(w);
    let (outputs, inputs, group) = (w.shape.rows, w.shape.cols, w.shape.group);
    let (tokens, padded) = (tokens(x, inputs, y, outputs), w.shape.padded_cols());
    let least = TILE * row_bytes(padded, group);
    let (left, rest) = Operand::new(gpu.workspace(), least, tokens, (padded, group));
    let (right, _) = Operand::new(rest, 0, outputs, (padded, group));
    let laid = Laid { padded, group, offsets: w.format.codec().has_offsets(), pitch: pitch(outputs) };
    for (token, count) in left.parts(tokens) {
        let row = |width: usize| 2 * pitch(width);
        if *rounded != Some((padded, group)) {
            quantize(gpu, kernels, x.part(token * row(inputs), count * row(inputs)), (count, inputs), w, left);
        }
        for (col, cols) in right.parts(outputs) {
            // All of the weight stays from the first tokens to the last.
            if token == 0 || cols < outputs {
                unpack(gpu, kernels, w, (col, cols), right);
            }
            let out = y.part(token * row(outputs), count * row(outputs));
            let out = after(out, 2 * col);
            multiply(gpu, kernels.multiply, laid, (left, count), (right, cols), out, accumulate);
        }
    }
    *rounded = (left.room >= tokens).then_some((padded, group));
}

/// Rounds rows of activations.
fn quantize(gpu: &mut Gpu, kernels: &Kernels, x: Span, (rows, inputs): (usize, usize), w: &Weight, to: Operand) {
    let padded = w.shape.padded_cols();
    let args = Args::new().span(gpu, x).span(gpu, to.codes).span(gpu, to.scales).span(gpu, to.extras);
    let args = args.u32(dim(rows)).u32(dim(inputs)).u32(dim(padded)).u32(w.shape.group.trailing_zeros());
    let args = args.u32(dim(to.room));
    let grid = [dim(rows.div_ceil(8)), dim(padded.div_ceil(WIDEST)), 1];
    // SAFETY: the parameters of the kernel, which reads `rows` rows of `x`, of which there are as many, and writes a row of codes
    // and two floats a group for each, for which `to` has room.
    unsafe { gpu.launch(kernels.quantize, grid, 256, 0, &args) };
}

/// Lays rows of the weight out as bytes.
fn unpack(gpu: &mut Gpu, kernels: &Kernels, w: &Weight, (row, rows): (usize, usize), to: Operand) {
    let per_row = w.shape.padded_cols() / BLOCK;
    let args = weights::planes(gpu, Args::new(), w).span(gpu, to.codes).span(gpu, to.scales).span(gpu, to.extras);
    let args = args.u32(dim(product([row, per_row]))).u32(dim(rows * per_row)).u32(dim(per_row));
    let args = args.u32(w.shape.group.trailing_zeros()).u32(dim(to.room));
    let kernel = weights::kernel(kernels.unpack, w);
    // SAFETY: the parameters of the kernel for this codec, which reads rows that the planes, which `planes` checked, have, and
    // writes a row of codes and up to two floats a group for each, for which `to` has room.
    unsafe { gpu.launch(kernel, [dim((rows * per_row).div_ceil(256)), 1, 1], 256, 0, &args) };
}

/// How operands and output of a product lie.
#[derive(Clone, Copy)]
pub(super) struct Laid {
    /// Bytes of an operand's row, of whole groups.
    pub padded: usize,
    pub group: usize,
    /// Whether the right operand's groups have offsets.
    pub offsets: bool,
    /// Elements from one row of the output to the next.
    pub pitch: usize,
}

/// Multiplies what lies in the workspace; `y` begins at the first column of the output, and has elements of the kernel's type.
///
/// # Panics
/// If there is no room for an operand's rows, rounded up to tiles.
pub(super) fn multiply(
    gpu: &mut Gpu,
    kernel: &'static str,
    laid: Laid,
    (x, rows): (Operand, usize),
    (right, cols): (Operand, usize),
    y: Span,
    accumulate: Accumulate,
) {
    let fits = |operand: Operand, rows: usize| rows.next_multiple_of(TILE) <= operand.room;
    assert!(fits(x, rows) && fits(right, cols), "room for {} and {} rows", x.room, right.room);
    let offsets = if laid.offsets { right.extras } else { Span::NONE };
    let args = Args::new().span(gpu, x.codes).span(gpu, x.scales).span(gpu, x.extras);
    let args = args.span(gpu, right.codes).span(gpu, right.scales).span(gpu, offsets).span(gpu, y);
    let args = args.u32(dim(rows)).u32(dim(cols)).u32(dim(x.room)).u32(dim(right.room));
    let args = args.u32(dim(laid.padded)).u32(laid.group.trailing_zeros());
    let args = args.u32(dim(laid.pitch)).u32(u32::from(accumulate == Accumulate::Yes));
    let grid = [dim(cols.div_ceil(TILE)), dim(rows.div_ceil(TILE)), 1];
    // SAFETY: the parameters of the kernel, which reads `rows` and `cols` rows of codes and the floats of as many rows rounded up
    // to tiles, for which both operands have room; and reads and writes `cols` columns of `rows` rows of `y`, a pitch apart, which
    // callers give it.
    unsafe { gpu.launch(kernel, grid, 256, SHARED, &args) };
}
