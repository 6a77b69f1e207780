//! Operands brought into the order that kernels read.

use super::{COLS, PITCH, ROWS};

/// A left operand: the `depth` elements from column `from` on of `rows` rows, `stride` apart, become rows
/// [`PITCH`] apart.
pub(crate) fn copy_rows(data: &[f32], stride: usize, rows: usize, from: usize, depth: usize, out: &mut [f32]) {
    for row in 0..rows {
        out[row * PITCH..][..depth].copy_from_slice(&data[row * stride + from..][..depth]);
    }
}

/// A left operand given transposed: columns `from..from + cols` of `depth` rows become strips `[depth][ROWS]`, one
/// behind the other, zero-padded.
pub(crate) fn rows_to_strips(data: &[f32], stride: usize, depth: usize, from: usize, cols: usize, out: &mut [f32]) {
    cut_rows::<ROWS>(data, stride, depth, from, cols, depth * ROWS, out);
}

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
    for (i, col) in (0..cols).step_by(WIDTH).enumerate() {
        let width = WIDTH.min(cols - col);
        let (out, _) = out[i * pitch..][..depth * WIDTH].as_chunks_mut::<WIDTH>();
        for (k, out) in out.iter_mut().enumerate() {
            let row = &data[k * stride + from + col..][..width];
            match <&[f32; WIDTH]>::try_from(row) {
                Ok(row) => *out = *row,
                Err(_) => {
                    out[..width].copy_from_slice(row);
                    out[width..].fill(0.0);
                }
            }
        }
    }
}

/// A right operand given transposed: `cols` rows of `depth` elements, `stride` apart, become the columns of panels
/// `[depth][COLS]`, `panel` elements apart, zero-padded.
pub(crate) fn columns_to_panels(data: &[f32], stride: usize, cols: usize, depth: usize, panel: usize, out: &mut [f32]) {
    for (p, col) in (0..cols).step_by(COLS).enumerate() {
        let width = COLS.min(cols - col);
        let (out, _) = out[p * panel..][..depth * COLS].as_chunks_mut::<COLS>();
        for (k, out) in out.iter_mut().enumerate() {
            let column = &data[col * stride + k..];
            for (j, out) in out.iter_mut().enumerate() {
                *out = if j < width { column[j * stride] } else { 0.0 };
            }
        }
    }
}
