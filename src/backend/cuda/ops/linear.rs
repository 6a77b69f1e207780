//! Products with a weight: forward, and the gradients of the input and of the weight.
//!
//! A panel of the weight is dequantized to bf16 in workspace that stays in the L2 cache, then cuBLASLt multiplies with it:
//! at thousands of tokens the product does hundreds of times the work of dequantizing. Up to [`SMALL_BATCH`] tokens one kernel
//! dequantizes in registers.
//!
//! cuBLASLt's fast kernels want rows and sizes that are multiples of 16 bytes, which an intermediate of 5461 is not. Panels are
//! padded with zeros to multiples of eight rows and columns, and so are the rows of the operand that a sum runs along: what
//! is added are products of zeros, and what the padding of the output receives nobody reads. A gradient whose rows are not
//! aligned is formed in the workspace, in rows that are.

use super::weights::{self, COLS, Part, codec_kernels};
use super::{ROW_MULTIPLE, bytes, dim, joined, linear_grad_int8, pitch, rows_of};
use crate::backend::cuda::Cuda;
use crate::backend::cuda::runtime::{Args, Form, Gpu, Matrix, Output, Product, Strided};
use crate::backend::ops::Linear;
use crate::backend::{Accumulate, Compute, MaxShapes, RowDraws, Weight};
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
    let tallest = max.features.max(max.inputs) + PADDING;
    // Columns of PADDING, and as many rows.
    let whole = 2 * (max.parameter + 2 * PADDING * tallest);
    whole.min(PANEL.max(2 * COLS * tallest))
}

/// Rows and columns of a panel are more than the weight's by at most this.
const PADDING: usize = ROW_MULTIPLE - 1;

/// Parts of `total` that fit `most` each, padded, as equal as multiples of `multiple` allow: (from, count).
fn parts(total: usize, most: usize, multiple: usize) -> impl Iterator<Item = (usize, usize)> {
    let most = if most >= pitch(total) { total } else { most / multiple * multiple };
    assert!(most > 0, "workspace for {multiple} of {total} rows or columns");
    let each = total.div_ceil(total.div_ceil(most)).next_multiple_of(multiple).min(most);
    (0..total).step_by(each).map(move |from| (from, each.min(total - from)))
}

/// Tokens of `x` and `y`.
///
/// # Panics
/// If these are not the same.
pub(super) fn tokens(x: Span, width: usize, y: Span, other: usize) -> usize {
    let tokens = rows_of(x, width);
    assert_eq!(rows_of(y, other), tokens, "as many rows of the output");
    tokens
}

/// A bf16 weight whose rows cuBLASLt can read where they lie.
pub(super) fn in_place(w: &Weight) -> bool {
    w.format.codec().element() == Element::Bf16 && pitch(w.shape.cols) == w.shape.cols
}

/// A part of a weight at the beginning of the panel; zeros where it is padded to multiples of [`ROW_MULTIPLE`].
pub(super) fn fill(gpu: &mut Gpu, w: &Weight, part: Part, panel: Span) {
    let row = 2 * pitch(part.cols);
    let all = panel.head(pitch(part.rows) * row);
    let written = if w.format.simulates().is_some() && part.cols < pitch(part.cols) { 0 } else { part.rows * row };
    gpu.zero(after(all, written));
    weights::dequantize(gpu, w, part, panel);
}

/// Zeros behind the rows of an operand, which may hold anything: a product sums over whole pitches.
pub(super) fn clear_padding(gpu: &mut Gpu, x: Span, width: usize) {
    if pitch(width) > width {
        let rows = rows_of(x, width);
        let args = Args::new().span(gpu, x).u32(dim(rows)).u32(dim(width));
        // SAFETY: the parameters of the kernel, which writes between the rows of `x`, of which there are as many.
        unsafe { gpu.launch("clear_padding", [dim(rows.div_ceil(256)), 1, 1], 256, 0, &args) };
    }
}

/// Where panels go: no more of the workspace than stays in the cache, unless the narrowest panel takes more.
pub(super) fn panel(gpu: &Gpu, narrowest: usize) -> Span {
    gpu.workspace().head(gpu.workspace().bytes.min(PANEL.max(narrowest)))
}

/// `y = x w^T`, added to what is given.
fn forward(gpu: &mut Gpu, x: Span, w: &Weight, y: Span, addend: Option<Span>) {
    weights::check(w);
    let (outputs, inputs) = (w.shape.rows, w.shape.cols);
    let m = tokens(x, inputs, y, outputs);
    assert!(addend.is_none_or(|addend| addend.bytes == y.bytes), "as many rows to add to");
    if is_small_batch(m, w) {
        if let Some(onto) = addend.filter(|&addend| addend != y) {
            gpu.copy(onto, y);
        }
        return small_batch(gpu, x, w, y, m, addend.is_some());
    }
    let product = |row: usize, n: usize, b: Matrix| {
        let rows = |span: Span| Matrix { span: after(span, 2 * row), pitch: pitch(outputs) };
        Product {
            form: Form::Nt,
            m,
            n,
            // As long as the rows of a weight that is read in place, too.
            k: pitch(inputs),
            a: Matrix { span: x, pitch: pitch(inputs) },
            b,
            out: rows(y),
            output: Output::Bf16,
            addend: addend.map(rows),
            strided: Strided::ONE,
        }
    };
    if in_place(w) {
        return gpu.multiply(&product(0, outputs, Matrix { span: w.data, pitch: inputs }));
    }
    clear_padding(gpu, x, inputs);
    let panel = panel(gpu, 2 * ROWS * pitch(inputs));
    for (row, rows) in parts(outputs, panel.bytes / (2 * pitch(inputs)), ROWS) {
        fill(gpu, w, Part { row, col: 0, rows, cols: inputs }, panel);
        gpu.multiply(&product(row, pitch(rows), Matrix { span: panel, pitch: pitch(inputs) }));
    }
}

/// Whether the products are computed without cuBLASLt.
pub(super) fn is_small_batch(tokens: usize, w: &Weight) -> bool {
    tokens <= SMALL_BATCH && w.format.codec().element() == Element::Nibble
}

impl Cuda {
    /// Products of bytes, as far as the weights can be multiplied so. The input is rounded anew only where the product before was
    /// of floats or of other groups.
    fn of_bytes(
        &mut self,
        compute: Compute,
        kernels: &bytes::Kernels,
        x: Span,
        products: &[(&Weight, Span)],
        accumulate: Accumulate,
    ) {
        let mut rounded = None;
        for &(w, y) in products {
            if compute.takes(w.format.codec()) {
                bytes::linear(&mut self.gpu, kernels, (x, &mut rounded), w, y, accumulate);
            } else {
                self.linear(x, w, y, accumulate);
                // It may have used the workspace.
                rounded = None;
            }
        }
    }
}

impl Linear for Cuda {
    fn linear(&mut self, x: Span, w: &Weight, y: Span, accumulate: Accumulate) {
        forward(&mut self.gpu, x, w, y, (accumulate == Accumulate::Yes).then_some(y));
    }

    fn linear_onto(&mut self, x: Span, w: &Weight, onto: Span, y: Span) {
        forward(&mut self.gpu, x, w, y, Some(onto));
    }

    fn linear_joined(&mut self, x: Span, products: &[(&Weight, Span)]) {
        if !joined::forward(&mut self.gpu, x, products) {
            products.iter().for_each(|&(w, y)| forward(&mut self.gpu, x, w, y, None));
        }
    }

    fn linear_int8(&mut self, x: Span, products: &[(&Weight, Span)], accumulate: Accumulate) {
        self.of_bytes(Compute::Int8, &bytes::INT8, x, products, accumulate);
    }

    fn linear_fp8(&mut self, x: Span, products: &[(&Weight, Span)], accumulate: Accumulate) {
        self.of_bytes(Compute::Fp8, &bytes::FP8, x, products, accumulate);
    }

    /// Panels run over columns, so that each element of `dx` is one sum in float32.
    fn linear_grad_input(&mut self, dy: Span, w: &Weight, dx: Span, accumulate: Accumulate) {
        let gpu = &mut self.gpu;
        weights::check(w);
        let (outputs, inputs) = (w.shape.rows, w.shape.cols);
        let m = tokens(dy, outputs, dx, inputs);
        let product = |col: usize, n: usize, k: usize, b: Matrix| Product {
            form: Form::Nn,
            m,
            n,
            k,
            a: Matrix { span: dy, pitch: pitch(outputs) },
            b,
            out: Matrix { span: after(dx, 2 * col), pitch: pitch(inputs) },
            output: Output::Bf16,
            addend: (accumulate == Accumulate::Yes)
                .then_some(Matrix { span: after(dx, 2 * col), pitch: pitch(inputs) }),
            strided: Strided::ONE,
        };
        if in_place(w) {
            return gpu.multiply(&product(0, inputs, outputs, Matrix { span: w.data, pitch: inputs }));
        }
        clear_padding(gpu, dy, outputs);
        let panel = panel(gpu, 2 * COLS * pitch(outputs));
        for (col, cols) in parts(inputs, panel.bytes / (2 * pitch(outputs)), COLS) {
            fill(gpu, w, Part { row: 0, col, rows: outputs, cols }, panel);
            let b = Matrix { span: panel, pitch: pitch(cols) };
            gpu.multiply(&product(col, pitch(cols), pitch(outputs), b));
        }
    }

    /// Nothing is dequantized. Where the rows of the gradient are not aligned, products go to the workspace first.
    fn linear_grad_weight(&mut self, dy: Span, x: Span, grad: Span, rows: usize, cols: usize, accumulate: Accumulate) {
        let gpu = &mut self.gpu;
        let tokens = tokens(dy, rows, x, cols);
        assert_eq!(grad.bytes, super::product([4, rows, cols]), "the gradient of a weight of {rows} x {cols}");
        let product = |row: usize, m: usize, n: usize, out: Matrix, accumulate: bool| Product {
            form: Form::Tn,
            m,
            n,
            k: tokens,
            a: Matrix { span: after(dy, 2 * row), pitch: pitch(rows) },
            b: Matrix { span: x, pitch: pitch(cols) },
            out,
            output: Output::F32,
            addend: accumulate.then_some(out),
            strided: Strided::ONE,
        };
        let accumulate = accumulate == Accumulate::Yes;
        let (stride, staging) = (cols.next_multiple_of(GRAD_MULTIPLE), panel(gpu, 0));
        let most = staging.bytes / (4 * stride);
        if cols.is_multiple_of(ALIGNED) || most < pitch(rows).min(ROWS) {
            return gpu.multiply(&product(0, rows, cols, Matrix { span: grad, pitch: cols }, accumulate));
        }
        for (row, count) in parts(rows, most, ROWS) {
            let out = Matrix { span: staging, pitch: stride };
            gpu.multiply(&product(row, count, pitch(cols), out, false));
            close_rows(gpu, staging, grad.part(4 * row * cols, 4 * count * cols), (count, cols, stride), accumulate);
        }
    }

    fn linear_grad_input_int8(&mut self, dy: Span, w: &Weight, dx: Span, accumulate: Accumulate, draws: &RowDraws) {
        linear_grad_int8::grad_input(&mut self.gpu, dy, w, dx, accumulate, draws);
    }

    fn linear_grad_weight_int8(
        &mut self,
        operands: [Span; 3],
        shape: (usize, usize),
        accumulate: Accumulate,
        sequence: usize,
        draws: &RowDraws,
    ) {
        linear_grad_int8::grad_weight(&mut self.gpu, operands, shape, accumulate, sequence, draws);
    }

    fn linear_grad_weight_joined(
        &mut self,
        x: Span,
        grads: &[(Span, Span)],
        (rows, cols): (usize, usize),
        accumulate: Accumulate,
    ) {
        if !joined::grad_weight(&mut self.gpu, x, grads, (rows, cols), accumulate) {
            grads.iter().for_each(|&(dy, grad)| self.linear_grad_weight(dy, x, grad, rows, cols, accumulate));
        }
    }
}

/// Floats that 16 bytes hold: rows of a gradient that are multiples of it are aligned.
pub(super) const ALIGNED: usize = 4;
/// Floats from one row to the next, where a gradient is staged, are a multiple of this.
const GRAD_MULTIPLE: usize = 32;

/// Takes rows of `cols` floats, `stride` apart, to where there are no gaps between them.
fn close_rows(gpu: &mut Gpu, from: Span, to: Span, (rows, cols, stride): (usize, usize, usize), accumulate: bool) {
    let args = Args::new().span(gpu, from.head(4 * rows * stride)).span(gpu, to).u32(dim(rows)).u32(dim(cols));
    let args = args.u32(dim(stride)).u32(u32::from(accumulate));
    let blocks = dim(super::product([rows, cols])).div_ceil(256);
    // SAFETY: the parameters of the kernel, which reads that many rows and writes as many elements as `to` has.
    unsafe { gpu.launch("close_rows", [blocks, 1, 1], 256, 0, &args) };
}

/// A span without its first `bytes` bytes.
pub(super) fn after(span: Span, bytes: usize) -> Span {
    span.part(bytes, span.bytes - bytes)
}

/// `w` has codes of four bits with planes that were checked, and `x` has `tokens` rows, at most [`SMALL_BATCH`].
fn small_batch(gpu: &mut Gpu, x: Span, w: &Weight, y: Span, tokens: usize, added: bool) {
    let g = w.shape;
    let args = weights::planes(gpu, Args::new().span(gpu, x), w).span(gpu, y);
    let args = args.u32(dim(tokens)).u32(dim(g.cols)).u32(dim(g.rows)).u32(dim(g.padded_cols()));
    let args = args.u32(g.group.trailing_zeros()).u32(u32::from(added));
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
        assert_eq!(of(100, 104, 128), [(0, 100)]);
        assert_eq!(of(100, 1000, 128), [(0, 100)]);
        assert_eq!(of(300, 290, 128), [(0, 256), (256, 44)]);
        assert_eq!(of(5461, 2048, 256), [(0, 2048), (2048, 2048), (4096, 1365)]);
        // Padded, the whole would have 304.
        assert_eq!(of(300, 303, 128), [(0, 256), (256, 44)]);
        assert_eq!(of(300, 304, 128), [(0, 300)]);
        assert_eq!(of(1000, 900, 128), [(0, 512), (512, 488)]);
    }

    #[test]
    #[should_panic(expected = "workspace for 256")]
    fn too_little_workspace_is_noticed() {
        let _ = parts(1000, 200, 256);
    }
}
