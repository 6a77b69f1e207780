//! Operands brought into the order that kernels read.

use super::{COLS, PITCH, ROWS};
use crate::backend::cpu::isa::{Isa, Level, vectorized};

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

vectorized! {
    /// A left operand given transposed: columns `from..from + cols` of `depth` rows become strips `[depth][ROWS]`,
    /// one behind the other, zero-padded.
    pub(crate) fn rows_to_strips(
        data: &[f32],
        stride: usize,
        depth: usize,
        from: usize,
        cols: usize,
        out: &mut [f32],
    ) {
        cut_rows::<ROWS>(data, stride, depth, from, cols, depth * ROWS, out);
    }
}

vectorized! {
    /// A right operand: columns `from..from + cols` of `depth` rows become panels `[depth][COLS]`, `panel` elements
    /// apart, zero-padded.
    pub(crate) fn rows_to_panels(
        data: &[f32],
        stride: usize,
        depth: usize,
        from: usize,
        cols: usize,
        panel: usize,
        out: &mut [f32],
    ) {
        cut_rows::<COLS>(data, stride, depth, from, cols, panel, out);
    }
}

/// Row by row of the source, which is longer than any cache: each is read once, from its start to its end.
#[inline(always)]
fn cut_rows<const WIDTH: usize>(
    data: &[f32],
    stride: usize,
    depth: usize,
    from: usize,
    cols: usize,
    pitch: usize,
    out: &mut [f32],
) {
    for k in 0..depth {
        let (whole, tail) = data[k * stride + from..][..cols].as_chunks::<WIDTH>();
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
