//! Float32 products of small blocks on one thread: what linear layers and attention are built from.
//!
//! Blocks are cut into tiles of [`ROWS`] x [`COLS`], which one call of a kernel computes in registers. The left
//! operand is read in strips of [`ROWS`] rows, the right one in panels of [`COLS`] columns, `[k][COLS]`, zero-padded.
//! An element is summed in the order of k, in runs of at most [`DEPTH`]: the result depends on the instruction set
//! but not on how the rows and columns are divided among threads.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod pack;
mod portable;

#[cfg(target_arch = "x86_64")]
pub(super) use avx512::tail_mask;
pub(crate) use pack::{
    Columns, columns_to_panels, copy_rows, row_to_panels, rows_to_panels, rows_to_strips, transpose_block,
};

use super::isa::{Isa, Level};
use super::tile::TileMut;

/// Rows of a tile.
pub(crate) const ROWS: usize = 12;
/// Columns of a tile.
pub(crate) const COLS: usize = 32;
/// Products summed in registers before they are added to the output: a panel this deep stays in the first cache.
pub(crate) const DEPTH: usize = 256;
/// What a product does with its output's old values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sum {
    /// They are replaced.
    New,
    /// The sum of each run of [`DEPTH`] products is added to them: roundings are those of the sum, not of a large
    /// old value.
    Added,
    /// The sums continue from them, product by product: any division of the inner dimension gives the same bits.
    Continued,
}

impl Sum {
    /// The same for a later run of one sum.
    #[inline(always)]
    pub fn later(self) -> Self {
        if self == Self::New { Self::Added } else { self }
    }
}

/// Distance of the rows of a copied left operand. Known to the compiler, so that a kernel addresses its rows from
/// one register; not a power of two, so that rows do not compete for the same lines of the first cache.
pub(crate) const PITCH: usize = DEPTH + 16;

/// The left operand of a product, in strips: element (i, k) of a strip lies at `data[i * ROW + k * STEP]`, the next
/// strip starts `strip` elements later.
#[derive(Clone, Copy)]
pub(crate) struct Left<'a, const ROW: usize, const STEP: usize> {
    data: &'a [f32],
    strip: usize,
}

impl<'a, const ROW: usize, const STEP: usize> Left<'a, ROW, STEP> {
    /// One matrix whose rows are all `ROW` apart.
    #[inline(always)]
    pub fn whole(data: &'a [f32]) -> Self {
        Self { data, strip: ROWS * ROW }
    }

    /// Strips of `strip` elements.
    #[inline(always)]
    pub fn strips(data: &'a [f32], strip: usize) -> Self {
        Self { data, strip }
    }

    /// The operand from the strip of `row` and from `k` on.
    #[inline(always)]
    fn part(self, row: usize, k: usize) -> Self {
        Self { data: &self.data[row / ROWS * self.strip + k * STEP..], ..self }
    }
}

/// Rows of at most [`DEPTH`] elements, made by [`copy_rows`].
pub(crate) type Copied<'a> = Left<'a, PITCH, 1>;
/// Strips made by [`rows_to_strips`].
pub(crate) type Strips<'a> = Left<'a, 1, ROWS>;

/// `out = left right` or, as `sum` says, `out += left right`, with the inner dimension `depth`. `right` holds the panels of
/// `out`'s columns, `panel` elements apart. Rows of `left` up to the next multiple of [`ROWS`] must be readable.
pub(crate) fn product<const ROW: usize, const STEP: usize>(
    isa: Isa,
    left: Left<'_, ROW, STEP>,
    right: &[f32],
    panel: usize,
    depth: usize,
    mut out: TileMut<'_>,
    sum: Sum,
) {
    for from in (0..depth).step_by(DEPTH) {
        let depth = DEPTH.min(depth - from);
        let sum = if from > 0 { sum.later() } else { sum };
        for col in (0..out.cols()).step_by(COLS) {
            let right = &right[col / COLS * panel + from * COLS..];
            for row in (0..out.rows()).step_by(ROWS) {
                let left = left.part(row, from);
                let (rows, cols) = (ROWS.min(out.rows() - row), COLS.min(out.cols() - col));
                tile(isa, left, right, depth, out.part(row, col, rows, cols), sum);
            }
        }
    }
}

/// One tile of at most [`ROWS`] x [`COLS`].
#[inline(always)]
fn tile<const ROW: usize, const STEP: usize>(
    isa: Isa,
    left: Left<'_, ROW, STEP>,
    right: &[f32],
    depth: usize,
    out: TileMut<'_>,
    sum: Sum,
) {
    // Kernels compute whole strips and panels and store the part that exists.
    assert!(out.rows() <= ROWS && out.cols() <= COLS, "a tile of {} x {}", out.rows(), out.cols());
    assert!(depth == 0 || (ROWS - 1) * ROW + (depth - 1) * STEP < left.data.len(), "a left operand cut short");
    assert!(depth * COLS <= right.len(), "a right operand cut short");
    match isa.level() {
        // SAFETY: the level proves the features, the assertions above are what the kernel asks for.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::tile(left, right, depth, out, sum) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::tile(left, right, depth, out, sum) },
        Level::Portable => portable::tile(left, right, depth, out, sum),
    }
}
