//! Operands brought into the order that kernels read.

use super::{COLS, PITCH, ROWS};
use crate::backend::cpu::simd::isa::{Isa, Level, vectorized};
use crate::backend::cpu::simd::tile::TileMut;

vectorized! {
    /// A left operand: the `depth` elements from column `from` on of `rows` rows, `stride` apart, become rows
    /// [`PITCH`] apart.
    pub(crate) fn copy_rows(data: &[f32], stride: usize, rows: usize, from: usize, depth: usize, out: &mut [f32]) {
        for row in 0..rows {
            copy(&data[row * stride + from..][..depth], &mut out[row * PITCH..][..depth]);
        }
    }
}

/// A copy of equal lengths in line: rows of a head are too short for the C library's.
#[inline(always)]
fn copy(from: &[f32], to: &mut [f32]) {
    let ((from, from_tail), (to, to_tail)) = (from.as_chunks::<16>(), to.as_chunks_mut::<16>());
    for (from, to) in from.iter().zip(to) {
        *to = *from;
    }
    for (from, to) in from_tail.iter().zip(to_tail) {
        *to = *from;
    }
}

/// Some columns of some rows, to be summed over the rows.
#[derive(Clone, Copy)]
pub(crate) struct Columns<'a> {
    /// Whole rows.
    pub data: &'a [f32],
    /// Elements between the starts of two rows.
    pub stride: usize,
    /// First column.
    pub from: usize,
    /// Columns.
    pub count: usize,
}

impl Columns<'_> {
    /// Without the first `rows` rows.
    pub fn skip(self, rows: usize) -> Self {
        Self { data: &self.data[rows * self.stride..], ..self }
    }

    /// These columns of a row.
    #[inline(always)]
    pub fn row(&self, k: usize) -> &[f32] {
        &self.data[k * self.stride + self.from..][..self.count]
    }
}

vectorized! {
    /// A left operand given transposed: columns of the first `depth` rows become strips `[depth][ROWS]`, `strip`
    /// elements apart, zero-padded.
    pub(crate) fn rows_to_strips(columns: Columns<'_>, depth: usize, strip: usize, out: &mut [f32]) {
        cut_rows::<ROWS>(columns, depth, strip, out);
    }
}

vectorized! {
    /// A right operand: columns of the first `depth` rows become panels `[depth][COLS]`, `panel` elements apart,
    /// zero-padded.
    pub(crate) fn rows_to_panels(columns: Columns<'_>, depth: usize, panel: usize, out: &mut [f32]) {
        cut_rows::<COLS>(columns, depth, panel, out);
    }
}

/// A row of a right operand becomes row `k` of the panels that are the rows of `panels`, zero-padded.
#[inline(always)]
pub(crate) fn row_to_panels(row: &[f32], k: usize, panels: &mut TileMut<'_>) {
    for (p, part) in row.chunks(COLS).enumerate() {
        let (to, rest) = panels.row(p)[k * COLS..][..COLS].split_at_mut(part.len());
        to.copy_from_slice(part);
        rest.fill(0.0);
    }
}

/// Row by row of the source, which is longer than any cache: each is read once, from its start to its end.
#[inline(always)]
fn cut_rows<const WIDTH: usize>(columns: Columns<'_>, depth: usize, pitch: usize, out: &mut [f32]) {
    for k in 0..depth {
        let (whole, tail) = columns.row(k).as_chunks::<WIDTH>();
        for (i, part) in whole.iter().enumerate() {
            out[i * pitch + k * WIDTH..][..WIDTH].copy_from_slice(part);
        }
        if !tail.is_empty() {
            let out = &mut out[whole.len() * pitch + k * WIDTH..][..WIDTH];
            let (out, rest) = out.split_at_mut(tail.len());
            copy(tail, out);
            rest.fill(0.0);
        }
    }
}

/// A right operand given transposed: `cols` rows of `depth` elements, `stride` apart, become the columns of panels
/// `[depth][COLS]`, `panel` elements apart, zero-padded.
pub(crate) fn columns_to_panels(
    isa: Isa,
    data: &[f32],
    stride: usize,
    cols: usize,
    depth: usize,
    panel: usize,
    out: &mut [f32],
) {
    for (p, col) in (0..cols).step_by(COLS).enumerate() {
        let (data, width) = (&data[col * stride..], COLS.min(cols - col));
        let out = &mut out[p * panel..][..depth * COLS];
        match isa.level() {
            // SAFETY: the level proves the features.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { super::avx512::transpose(data, stride, width, depth, out) },
            _ => transpose(data, stride, width, depth, out),
        }
    }
}

/// `out[k][j] = data[j * stride + k]`, zero for `j >= width`.
fn transpose(data: &[f32], stride: usize, width: usize, depth: usize, out: &mut [f32]) {
    for (k, out) in out.as_chunks_mut::<COLS>().0.iter_mut().enumerate().take(depth) {
        let column = &data[k..];
        for (j, out) in out.iter_mut().enumerate() {
            *out = if j < width { column[j * stride] } else { 0.0 };
        }
    }
}

/// Rows of `words`, as many as `out` has columns (16) and `stride` apart, become its columns.
///
/// # Panics
/// If they are shorter than `out` is high.
pub(crate) fn transpose_block(isa: Isa, words: &[f32], stride: usize, mut out: TileMut<'_>) {
    match isa.level() {
        // SAFETY: the level proves the features.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { super::avx512::transpose_block(words, stride, out) },
        _ => {
            for i in 0..out.rows() {
                out.row(i).iter_mut().enumerate().for_each(|(j, out)| *out = words[j * stride + i]);
            }
        }
    }
}
