//! Second moments that elements share: three kernels between the verdict and the pass over the elements.

use crate::backend::adam::{AdamArgs, state};
use crate::backend::cuda::runtime::{Args, Gpu};
use crate::backend::{MaxShapes, Param};
use crate::memory::Span;
use crate::quant::{BLOCK, GroupedShape};

/// Rows that a column's sum runs over in one go, as on the CPU.
const ROWS: usize = 64;
/// Threads of a block, and rows that its warps take.
const THREADS: u32 = 256;
const WARPS: usize = 8;
/// Grids have fewer blocks than this in their second direction.
const MOST_BLOCKS: usize = 65_535;

/// Scratch in bytes, beside what the statistics need.
pub(crate) fn workspace_bytes(max: &MaxShapes) -> usize {
    let (rows, cols) = (max.features.max(max.inputs), max.inputs);
    4 * (rows.next_multiple_of(BLOCK) + 2 * cols.next_multiple_of(BLOCK) + max.parameter.div_ceil(ROWS))
}

/// Where this step's shared moments lie in the scratch.
#[derive(Clone, Copy)]
pub(crate) struct Means {
    /// Moving averages of rows, the state.
    kept_rows: Span,
    /// The same of columns; none if not factored.
    kept_cols: Span,
    /// One float32 per row.
    pub now: Span,
    /// One float32 per column, padded to whole blocks; none if not factored.
    pub factors: Span,
    /// Sums of columns over blocks of rows.
    sums: Span,
}

impl Means {
    /// In `scratch`, for a parameter that has shared moments.
    pub fn of(scratch: Span, param: &Param) -> Option<Self> {
        let g = param.weight.shape;
        let kept_rows = param.state.get(state::V_ROWS)?.data;
        let kept_cols = param.state.get(state::V_COLS).map_or(Span::NONE, |cols| cols.data);
        // Starts of blocks, so that lanes load whole pieces.
        let rows = 4 * g.rows.next_multiple_of(BLOCK);
        let factored = !kept_cols.is_none();
        let (factors, sums) = if factored { (4 * g.cols.next_multiple_of(BLOCK), sums_bytes(g)) } else { (0, 0) };
        Some(Self {
            kept_rows,
            kept_cols,
            now: scratch.head(4 * g.rows),
            factors: scratch.part(rows, factors),
            sums: scratch.part(rows + factors, sums),
        })
    }

    /// Takes a gradient into account, if the verdict says so; rows that are not `touched` keep theirs, if it is there.
    pub fn advance(
        &self,
        gpu: &mut Gpu,
        param: &Param,
        grad: Span,
        constants: &AdamArgs,
        verdict: Span,
        touched: Span,
    ) {
        let g = param.weight.shape;
        let (rows, cols) = (g.rows as u32, g.cols as u32);
        let args = Args::new().span(gpu, grad).u32(rows).u32(cols).bytes(constants).span(gpu, verdict);
        let args = args.span(gpu, touched).span(gpu, self.kept_rows).span(gpu, self.now);
        // SAFETY: the parameters of the kernel, which reads rows x cols of the gradient and one mean and flag per row,
        // all of which the step checked or cut from the workspace for this shape.
        unsafe { gpu.launch("optimizer_row_means", [g.rows.div_ceil(WARPS) as u32, 1, 1], THREADS, 0, &args) };
        if self.factors.is_none() {
            return;
        }
        let blocks = cols.div_ceil(THREADS);
        let args = Args::new().span(gpu, grad).u32(rows).u32(cols).span(gpu, verdict).span(gpu, self.sums);
        let row_blocks = g.rows.div_ceil(ROWS).min(MOST_BLOCKS) as u32;
        // SAFETY: as above; it writes one row of `cols` sums for each block of rows, for which `sums` has room.
        unsafe { gpu.launch("optimizer_col_sums", [blocks, row_blocks, 1], THREADS, 0, &args) };
        let args = Args::new().u32(rows).u32(cols).bytes(constants).span(gpu, verdict).span(gpu, self.now);
        let args = args.span(gpu, self.sums).span(gpu, self.kept_cols).span(gpu, self.factors);
        // SAFETY: as above; it reads the sums and writes `cols` means and factors.
        unsafe { gpu.launch("optimizer_factors", [blocks, 1, 1], THREADS, 0, &args) };
    }
}

fn sums_bytes(g: GroupedShape) -> usize {
    4 * g.rows.div_ceil(ROWS) * g.cols
}
