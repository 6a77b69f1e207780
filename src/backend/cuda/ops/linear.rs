//! Products with a weight: forward, and the gradients of the input and of the weight.
//!
//! A panel of the weight is dequantized to bf16 in workspace that stays in the L2 cache, then cuBLASLt multiplies with it:
//! at thousands of tokens the product does hundreds of times the work of dequantizing. Up to [`SMALL_BATCH`] tokens one kernel
//! dequantizes in registers.

use super::weights::{self, COLS, Part, codec_kernels};
use super::{dim, pitch, rows_of};
use crate::backend::cuda::Cuda;
use crate::backend::cuda::runtime::{Args, Form, Gpu, Matrix, Output, Product};
use crate::backend::ops::Linear;
use crate::backend::{Accumulate, MaxShapes, Weight};
use crate::memory::Span;
use crate::quant::Element;

/// Up to this many tokens are multiplied without cuBLASLt.
const SMALL_BATCH: usize = 8;
/// Bytes of a panel, which should stay in the L2 cache (50 to 60 MB on Hopper) together with what a product streams.
const PANEL: usize = 32 << 20;
/// Rows of a panel are a multiple of this, the height of cuBLASLt's tiles.
const ROWS: usize = 128;

/// Workspace in bytes: a panel, at least [`COLS`] columns of the tallest weight.
pub(crate) fn workspace_bytes(max: &MaxShapes) -> usize {
    let tallest = max.features.max(max.inputs);
    let whole = 2 * (max.parameter + ROW_PADDING * tallest);
    whole.min(PANEL.max(2 * COLS * tallest))
}

/// A row of a panel is longer than the weight's by at most this.
const ROW_PADDING: usize = 7;

/// Parts of `total` that fit `most` each, as equal as multiples of `multiple` allow: (from, count).
fn parts(total: usize, most: usize, multiple: usize) -> impl Iterator<Item = (usize, usize)> {
    let most = if most >= total { total } else { most / multiple * multiple };
    assert!(most > 0, "workspace for {multiple} of {total} rows or columns");
    let each = total.div_ceil(total.div_ceil(most)).next_multiple_of(multiple).min(most);
    (0..total).step_by(each).map(move |from| (from, each.min(total - from)))
}

/// Tokens of `x` and `y`.
///
/// # Panics
/// If these are not the same.
fn tokens(x: Span, width: usize, y: Span, other: usize) -> usize {
    let tokens = rows_of(x, width);
    assert_eq!(rows_of(y, other), tokens, "as many rows of the output");
    tokens
}

/// A bf16 weight whose rows cuBLASLt can read where they lie.
fn in_place(w: &Weight) -> bool {
    w.format.codec().element() == Element::Bf16 && pitch(w.shape.cols) == w.shape.cols
}

/// Where panels go: no more of the workspace than stays in the cache, unless the narrowest panel takes more.
fn panel(gpu: &Gpu, narrowest: usize) -> Span {
    gpu.workspace().head(gpu.workspace().bytes.min(PANEL.max(narrowest)))
}

impl Linear for Cuda {
    fn linear(&mut self, x: Span, w: &Weight, y: Span, accumulate: Accumulate) {
        let gpu = &mut self.gpu;
        weights::check(w);
        let (outputs, inputs) = (w.shape.rows, w.shape.cols);
        let m = tokens(x, inputs, y, outputs);
        if m <= SMALL_BATCH && w.format.codec().element() == Element::Nibble {
            return small_batch(gpu, x, w, y, m, accumulate);
        }
        let product = |row: usize, n: usize, b: Matrix| Product {
            form: Form::Nt,
            m,
            n,
            k: inputs,
            a: Matrix { span: x, pitch: pitch(inputs) },
            b,
            out: Matrix { span: after(y, 2 * row), pitch: pitch(outputs) },
            output: Output::Bf16,
            accumulate: accumulate == Accumulate::Yes,
        };
        if in_place(w) {
            return gpu.multiply(&product(0, outputs, Matrix { span: w.data, pitch: inputs }));
        }
        let panel = panel(gpu, 2 * ROWS * pitch(inputs));
        for (row, rows) in parts(outputs, panel.bytes / (2 * pitch(inputs)), ROWS) {
            weights::dequantize(gpu, w, Part { row, col: 0, rows, cols: inputs }, panel);
            gpu.multiply(&product(row, rows, Matrix { span: panel, pitch: pitch(inputs) }));
        }
    }

    fn linear_int8(&mut self, _: Span, _: &Weight, _: Span, _: Accumulate) {
        panic!("products in integers on a GPU, which check_compute refuses");
    }

    /// Panels run over columns, so that each element of `dx` is one sum in float32.
    fn linear_grad_input(&mut self, dy: Span, w: &Weight, dx: Span, accumulate: Accumulate) {
        let gpu = &mut self.gpu;
        weights::check(w);
        let (outputs, inputs) = (w.shape.rows, w.shape.cols);
        let m = tokens(dy, outputs, dx, inputs);
        let product = |col: usize, n: usize, b: Matrix| Product {
            form: Form::Nn,
            m,
            n,
            k: outputs,
            a: Matrix { span: dy, pitch: pitch(outputs) },
            b,
            out: Matrix { span: after(dx, 2 * col), pitch: pitch(inputs) },
            output: Output::Bf16,
            accumulate: accumulate == Accumulate::Yes,
        };
        if in_place(w) {
            return gpu.multiply(&product(0, inputs, Matrix { span: w.data, pitch: inputs }));
        }
        let panel = panel(gpu, 2 * COLS * outputs);
        let most = match 2 * outputs * pitch(inputs) <= panel.bytes {
            true => inputs,
            false => panel.bytes / (2 * outputs),
        };
        for (col, cols) in parts(inputs, most, COLS) {
            weights::dequantize(gpu, w, Part { row: 0, col, rows: outputs, cols }, panel);
            gpu.multiply(&product(col, cols, Matrix { span: panel, pitch: pitch(cols) }));
        }
    }

    /// One product: nothing is dequantized.
    fn linear_grad_weight(&mut self, dy: Span, x: Span, grad: Span, rows: usize, cols: usize, accumulate: Accumulate) {
        let tokens = tokens(dy, rows, x, cols);
        assert_eq!(grad.bytes, super::product([4, rows, cols]), "the gradient of a weight of {rows} x {cols}");
        self.gpu.multiply(&Product {
            form: Form::Tn,
            m: rows,
            n: cols,
            k: tokens,
            a: Matrix { span: dy, pitch: pitch(rows) },
            b: Matrix { span: x, pitch: pitch(cols) },
            out: Matrix { span: grad, pitch: cols },
            output: Output::F32,
            accumulate: accumulate == Accumulate::Yes,
        });
    }
}

/// A span without its first `bytes` bytes.
fn after(span: Span, bytes: usize) -> Span {
    span.part(bytes, span.bytes - bytes)
}

/// `w` has codes of four bits with planes that were checked, and `x` has `tokens` rows, at most [`SMALL_BATCH`].
fn small_batch(gpu: &mut Gpu, x: Span, w: &Weight, y: Span, tokens: usize, accumulate: Accumulate) {
    let g = w.shape;
    let args = weights::planes(gpu, Args::new().span(gpu, x), w).span(gpu, y);
    let args = args.u32(dim(tokens)).u32(dim(g.cols)).u32(dim(g.rows)).u32(dim(g.padded_cols()));
    let args = args.u32(g.group.trailing_zeros()).u32(u32::from(accumulate == Accumulate::Yes));
    let kernels = if tokens == 1 { codec_kernels!("gemv") } else { codec_kernels!("small_batch") };
    let kernel = weights::kernel(kernels, w);
    // SAFETY: the parameters of both kernels of linear_small_batch.cu, which stay within the planes of a weight of this
    // shape, which `planes` checked, and `tokens` rows of x and y, which `linear` did.
    unsafe { gpu.launch(kernel, [dim(g.rows.div_ceil(8)), 1, 1], 256, 0, &args) };
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
    #[should_panic(expected = "workspace for 256")]
    fn too_little_workspace_is_noticed() {
        let _ = parts(1000, 200, 256);
    }
}
