//! Columns of matrices in eight bits, for sums over rows: some rows are a group, and of each group every column has its own scale.

use super::quantize::{self, SIGN, TO_INTEGER, at_random, scale_and_steps};
use super::{COLS, WORD};
use crate::backend::cpu::simd::gemm::{Columns, transpose_block};
use crate::backend::cpu::simd::isa::{Isa, vectorized};
use crate::backend::cpu::simd::tile::TileMut;
use crate::backend::cpu::simd::uniform::uniform;
use crate::backend::{GRAD_GROUP, RowDraws};

/// Words of a group.
pub(crate) const WORDS: usize = GRAD_GROUP / WORD;
/// Columns that [`columns_to_rows`] takes at once: as many as random numbers are drawn for at once.
pub(crate) const WIDTH: usize = 64;
/// The integer of zero in panels.
pub(crate) const ZERO: u8 = 128;
/// What the signed bytes of a word become unsigned ones by.
const TO_UNSIGNED: u32 = u32::from_le_bytes([ZERO; WORD]);

vectorized! {
    /// Up to [`GRAD_GROUP`] rows become a group of panels, the rows of `codes` and of `scales`: integers with [`ZERO`] for zero,
    /// rounded to the nearest. What is missing of a panel, and of the group, is zero.
    ///
    /// # Panics
    /// If the panels are too few, or a tile is not [`WORDS`] or one times [`COLS`] wide.
    pub(crate) fn columns_to_panels(columns: Columns<'_>, rows: usize, codes: &mut TileMut<'_>, scales: &mut TileMut<'_>) {
        for p in 0..columns.count.div_ceil(COLS) {
            let mut block = [[0.0f32; COLS]; GRAD_GROUP];
            let width = COLS.min(columns.count - p * COLS);
            for (k, to) in block.iter_mut().enumerate().take(rows) {
                let from = &columns.row(k)[p * COLS..][..width];
                match from.first_chunk::<COLS>() {
                    Some(from) => *to = *from,
                    None => to[..width].copy_from_slice(from),
                }
            }
            let (own, steps) = of_columns(block.iter());
            scales.row(p).copy_from_slice(&own);
            let (words, rest) = codes.row(p).as_chunks_mut::<COLS>();
            assert!(words.len() == WORDS && rest.is_empty(), "a group of {} words", words.len());
            for (words, rows) in words.iter_mut().zip(block.as_chunks::<WORD>().0) {
                for j in 0..COLS {
                    let code = |i: usize| (rows[i][j] * steps[j] + TO_INTEGER).to_bits() & 0xff;
                    let word = code(0) | code(1) << 8 | code(2) << 16 | code(3) << 24;
                    words[j] = f32::from_bits(word ^ TO_UNSIGNED);
                }
            }
        }
    }
}

/// The scales of columns and what their elements are multiplied by.
#[inline(always)]
fn of_columns<'a, const N: usize>(rows: impl Iterator<Item = &'a [f32; N]>) -> ([f32; N], [f32; N]) {
    let mut most = [0u32; N];
    for row in rows {
        for (most, x) in most.iter_mut().zip(row) {
            *most = (*most).max(x.to_bits() & !SIGN);
        }
    }
    let (mut scales, mut steps) = ([0.0; N], [0.0; N]);
    for ((scale, steps), most) in scales.iter_mut().zip(&mut steps).zip(most) {
        (*scale, *steps) = scale_and_steps(most);
    }
    (scales, steps)
}

/// Where [`columns_to_rows`] puts a group of some columns: of a row each their words, scales, and what sums begin with.
pub(crate) struct LeftTiles<'a> {
    /// [`WORDS`] wide.
    pub codes: TileMut<'a>,
    /// One wide.
    pub scales: TileMut<'a>,
    /// As the scales.
    pub starts: TileMut<'a>,
}

/// Up to [`GRAD_GROUP`] rows become a group of up to [`WIDTH`] left operands, one for each column, beside panels of
/// [`columns_to_panels`]. They are rounded at random as row `row` of a matrix and those after it, whose rows are `width` long.
///
/// # Panics
/// If there are more columns, or `columns` does not begin with a multiple of [`WIDTH`].
pub(crate) fn columns_to_rows(
    isa: Isa,
    columns: Columns<'_>,
    rows: usize,
    draws: &RowDraws,
    (row, width): (usize, usize),
    mut to: LeftTiles<'_>,
) {
    assert!(columns.count <= WIDTH && columns.from.is_multiple_of(WIDTH), "{} columns", columns.count);
    let mut block = [[0.0f32; WIDTH]; GRAD_GROUP];
    let mut random = [[0.0f32; WIDTH]; GRAD_GROUP];
    for (k, (x, random)) in block.iter_mut().zip(&mut random).enumerate().take(rows) {
        x[..columns.count].copy_from_slice(columns.row(k));
        uniform(isa, &draws.key, draws.element(row + k, width) + columns.from as u64, random);
    }
    let (mut words, mut scales, mut starts) = ([0.0f32; WORDS * WIDTH], [0.0f32; WIDTH], [0.0f32; WIDTH]);
    round_at_random(isa, &block, &random, &mut words, &mut scales, &mut starts);
    for from in (0..columns.count).step_by(WORDS) {
        let count = WORDS.min(columns.count - from);
        transpose_block(isa, &words[from..], WIDTH, to.codes.part(from, 0, count, WORDS));
    }
    for j in 0..columns.count {
        to.scales.row(j)[0] = scales[j];
        to.starts.row(j)[0] = starts[j];
    }
}

vectorized! {
    fn round_at_random(
        block: &[[f32; WIDTH]; GRAD_GROUP],
        random: &[[f32; WIDTH]; GRAD_GROUP],
        words: &mut [f32; WORDS * WIDTH],
        scales: &mut [f32; WIDTH],
        starts: &mut [f32; WIDTH],
    ) {
        let steps;
        (*scales, steps) = of_columns(block.iter());
        // Of codes as they are, which are integers more than TO_INTEGER's bits.
        let mut sums = [0u32; WIDTH];
        let fours = block.as_chunks::<WORD>().0.iter().zip(random.as_chunks::<WORD>().0);
        for (words, (rows, random)) in words.as_chunks_mut::<WIDTH>().0.iter_mut().zip(fours) {
            for j in 0..WIDTH {
                let code = |i: usize| (at_random(rows[i][j] * steps[j], random[i][j]) + TO_INTEGER).to_bits();
                let codes = [code(0), code(1), code(2), code(3)];
                let word = codes[0] & 0xff | (codes[1] & 0xff) << 8 | (codes[2] & 0xff) << 16 | codes[3] << 24;
                words[j] = f32::from_bits(word);
                sums[j] = codes.iter().fold(sums[j], |sum, &code| sum.wrapping_add(code));
            }
        }
        for (start, sum) in starts.iter_mut().zip(sums) {
            let sum = sum.wrapping_sub(TO_INTEGER.to_bits().wrapping_mul(GRAD_GROUP as u32)).cast_signed();
            *start = quantize::start(ZERO, sum);
        }
    }
}
