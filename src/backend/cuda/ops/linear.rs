//! Products with a weight: forward, and the gradient of the input.
//!
//! A panel of the weight is dequantized to bf16 in scratch that stays in the L2 cache, then cuBLASLt multiplies with it:
//! at thousands of tokens the product does hundreds of times the work of dequantizing. Up to [`FEW`] tokens one kernel
//! dequantizes in registers.

use super::pitch;
use super::weights::{self, COLS, Part, codec_kernels};
use crate::backend::cuda::runtime::{Args, Form, Gpu, Matrix, Output, Product};
use crate::backend::{Largest, Store, Weight};
use crate::memory::Span;
use crate::quant::Element;

/// Up to this many tokens are multiplied without cuBLASLt.
const FEW: usize = 8;
/// Bytes of a panel, which should stay in the L2 cache (50 to 60 MB on Hopper) beside what a product streams.
const PANEL: usize = 32 << 20;
/// Rows of a panel are a multiple of this, the height of cuBLASLt's tiles.
const ROWS: usize = 128;

/// Scratch in bytes: a panel, at least [`COLS`] columns of the tallest weight.
pub(crate) fn need(largest: &Largest) -> usize {
    let tallest = largest.features.max(largest.inputs);
    let whole = 2 * (largest.parameter + ROW_PADDING * tallest);
    whole.min(PANEL.max(2 * COLS * tallest))
}

/// A row of a panel is longer than the weight's by at most this.
const ROW_PADDING: usize = 7;

/// Parts of `total` that fit `most` each, as equal as multiples of `multiple` allow: (from, count).
fn parts(total: usize, most: usize, multiple: usize) -> impl Iterator<Item = (usize, usize)> {
    let most = if most >= total { total } else { most / multiple * multiple };
    assert!(most > 0, "scratch for {multiple} of {total} rows or columns");
    let each = total.div_ceil(total.div_ceil(most)).next_multiple_of(multiple).min(most);
    (0..total).step_by(each).map(move |from| (from, each.min(total - from)))
}

fn tokens(x: Span, width: usize, y: Span, other: usize) -> usize {
    let tokens = x.bytes / (2 * pitch(width));
    assert!(x.bytes == 2 * tokens * pitch(width) && y.bytes == 2 * tokens * pitch(other), "whole rows of one batch");
    tokens
}

/// A bf16 weight whose rows cuBLASLt can read where they lie.
fn in_place(w: &Weight) -> bool {
    w.format.codec().element() == Element::Bf16 && pitch(w.shape.cols) == w.shape.cols
}

/// Where panels go: no more of the scratch than stays in the cache, unless the narrowest panel takes more.
fn panel(gpu: &Gpu, narrowest: usize) -> Span {
    gpu.scratch.head(gpu.scratch.bytes.min(PANEL.max(narrowest)))
}

/// See [`crate::backend::Backend::linear`].
pub(crate) fn linear(gpu: &mut Gpu, x: Span, w: &Weight, y: Span, store: Store) {
    let (outputs, inputs) = (w.shape.rows, w.shape.cols);
    let m = tokens(x, inputs, y, outputs);
    if m <= FEW && w.format.codec().element() == Element::Nibble {
        return small_batch(gpu, x, w, y, m, store);
    }
    let (a, out) = (gpu.address(x), gpu.address(y));
    let product = |row: usize, n: usize, b: Matrix| Product {
        form: Form::Nt,
        m,
        n,
        k: inputs,
        a: Matrix { address: a, pitch: pitch(inputs) },
        b,
        out: Matrix { address: out + 2 * row as u64, pitch: pitch(outputs) },
        output: Output::Bf16,
        accumulate: store == Store::Accumulate,
    };
    w.check();
    if in_place(w) {
        let whole = Matrix { address: gpu.address(w.data), pitch: inputs };
        return gpu.multiply(&product(0, outputs, whole));
    }
    let panel = panel(gpu, 2 * ROWS * pitch(inputs));
    for (row, rows) in parts(outputs, panel.bytes / (2 * pitch(inputs)), ROWS) {
        weights::dequantize(gpu, w, Part { row, col: 0, rows, cols: inputs }, panel);
        let b = Matrix { address: gpu.address(panel), pitch: pitch(inputs) };
        gpu.multiply(&product(row, rows, b));
    }
}

/// See [`crate::backend::Backend::linear_grad_input`]. Panels run over columns, so that each element of `dx` is one sum
/// in float32.
pub(crate) fn linear_grad_input(gpu: &mut Gpu, dy: Span, w: &Weight, dx: Span, store: Store) {
    let (outputs, inputs) = (w.shape.rows, w.shape.cols);
    let m = tokens(dy, outputs, dx, inputs);
    let (a, out) = (gpu.address(dy), gpu.address(dx));
    let product = |col: usize, n: usize, b: Matrix| Product {
        form: Form::Nn,
        m,
        n,
        k: outputs,
        a: Matrix { address: a, pitch: pitch(outputs) },
        b,
        out: Matrix { address: out + 2 * col as u64, pitch: pitch(inputs) },
        output: Output::Bf16,
        accumulate: store == Store::Accumulate,
    };
    w.check();
    if in_place(w) {
        let whole = Matrix { address: gpu.address(w.data), pitch: inputs };
        return gpu.multiply(&product(0, inputs, whole));
    }
    let panel = panel(gpu, 2 * COLS * outputs);
    let most = match 2 * outputs * pitch(inputs) <= panel.bytes {
        true => inputs,
        false => panel.bytes / (2 * outputs),
    };
    for (col, cols) in parts(inputs, most, COLS) {
        weights::dequantize(gpu, w, Part { row: 0, col, rows: outputs, cols }, panel);
        let b = Matrix { address: gpu.address(panel), pitch: pitch(cols) };
        gpu.multiply(&product(col, cols, b));
    }
}

fn small_batch(gpu: &mut Gpu, x: Span, w: &Weight, y: Span, tokens: usize, store: Store) {
    let g = w.shape;
    let args = weights::planes(gpu, Args::new().span(gpu, x), w).span(gpu, y);
    let args = args.u32(tokens as u32).u32(g.cols as u32).u32(g.rows as u32).u32(g.padded_cols() as u32);
    let args = args.u32(g.group.trailing_zeros()).u32(u32::from(store == Store::Accumulate));
    let kernels = if tokens == 1 { codec_kernels!("gemv") } else { codec_kernels!("small_batch") };
    let kernel = weights::kernel(kernels, w);
    gpu.launch(kernel, [g.rows.div_ceil(8) as u32, 1, 1], 256, 0, &args);
}

#[cfg(test)]
mod tests {
    use super::parts;

    #[test]
    fn parts_cover_all_and_are_nearly_equal() {
        let of = |total, most, multiple| parts(total, most, multiple).collect::<Vec<_>>();
        assert_eq!(of(100, 100, 128), [(0, 100)]);
        assert_eq!(of(100, 1000, 128), [(0, 100)]);
        assert_eq!(of(300, 290, 128), [(0, 256), (256, 44)]);
        assert_eq!(of(5461, 2048, 256), [(0, 2048), (2048, 2048), (4096, 1365)]);
        assert_eq!(of(1000, 900, 128), [(0, 512), (512, 488)]);
    }

    #[test]
    #[should_panic(expected = "scratch for 256")]
    fn too_little_scratch_is_noticed() {
        let _ = parts(1000, 200, 256);
    }
}
