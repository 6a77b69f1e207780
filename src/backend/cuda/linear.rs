//! Products with a weight: forward, and the gradient of the input.
//!
//! Panels of the weight are dequantized to bfloat16 in scratch that stays in the second-level cache, then multiplied.
//! Few tokens (sampling) go through a kernel that reads the weight once and writes none of it.

use super::shape::{Planes, Shape};
use super::{Args, Form, Gpu, Matrix, Output, Product};
use crate::backend::{Largest, Store, Weight, WeightKind};
use crate::memory::Span;
use crate::nibble::RUN;
use zerocopy::{Immutable, IntoBytes};

/// Bytes of a panel, unless its narrowest form is larger: with the operands at hand it stays in a cache of 50 MiB.
const PANEL: usize = 32 << 20;
/// Columns of the narrowest panel of the gradient, and what panels start at multiples of: whole groups of every size,
/// and enough for a product to run at its full rate.
const LEAST_COLS: usize = 256;
/// Rows that panels are multiples of, so that outputs start at whole lines.
const ROWS: usize = 128;
/// Up to this many tokens go through `few_tokens`.
const FEW: usize = 8;

/// `Panel` in `kernels/dequantize.cu`.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Panel {
    row: u32,
    run: u32,
    runs_per_row: u32,
    runs: u32,
    pitch: u32,
    cols: u32,
}

/// Elements from one row of a panel to the next: rows start at multiples of 16 bytes.
fn pitch(cols: usize) -> usize {
    cols.next_multiple_of(8)
}

/// Scratch for all of this file, in bytes.
pub fn need(largest: &Largest) -> usize {
    let (rows, cols) = (largest.features, largest.inputs.max(largest.features));
    // Rows of the largest parameter are not known here; each is at most seven elements longer in a panel.
    let whole = 2 * (largest.parameter + 7 * cols);
    whole.min(PANEL.max(2 * LEAST_COLS * rows).max(2 * ROWS * pitch(cols)))
}

/// A weight, or columns `from..from + cols` of rows `row..row + rows` of it, as bfloat16.
///
/// # Panics
/// If the scratch is smaller than that: the shapes exceed those it was planned for.
fn panel(gpu: &mut Gpu, w: &Weight, (row, rows): (usize, usize), (from, cols): (usize, usize)) -> Matrix {
    if w.kind == WeightKind::Bf16 {
        let (g, start) = (w.geometry, gpu.address(w.data));
        return Matrix { address: start + 2 * (row * g.cols + from) as u64, pitch: g.cols };
    }
    let pitch = pitch(cols);
    let out = gpu.scratch.head(2 * rows * pitch);
    let shape = Shape::of(w.geometry);
    // To the end of the last group, whose lanes work together.
    let runs_per_row = cols.next_multiple_of(w.geometry.group) / RUN;
    let runs = rows * runs_per_row;
    let panel = Panel {
        row: row as u32,
        run: (from / RUN) as u32,
        runs_per_row: runs_per_row as u32,
        runs: runs as u32,
        pitch: pitch as u32,
        cols: cols as u32,
    };
    let args = Args::new().bytes(&Planes::of(gpu, w)).bytes(&shape).bytes(&panel).span(gpu, out);
    gpu.launch("dequantize", [(runs as u32).div_ceil(128), 1, 1], 128, 0, &args);
    Matrix { address: gpu.address(out), pitch }
}

fn tokens_of(input: Span, input_width: usize, output: Span, output_width: usize) -> usize {
    let tokens = input.bytes / (2 * input_width);
    assert_eq!(input.bytes, 2 * tokens * input_width, "whole rows of the input");
    assert_eq!(output.bytes, 2 * tokens * output_width, "as many rows of the output");
    tokens
}

/// `y[T, O] = x[T, I] w[O, I]^T`; see [`crate::backend::Backend::linear`].
///
/// # Panics
/// If lengths do not fit, or the shapes exceed those that the scratch was planned for.
pub fn linear(gpu: &mut Gpu, x: Span, w: &Weight, y: Span, store: Store) {
    let (outputs, inputs) = (w.geometry.rows, w.geometry.cols);
    let tokens = tokens_of(x, inputs, y, outputs);
    if tokens == 0 {
        return;
    }
    if tokens <= FEW {
        return few_tokens(gpu, x, w, y, tokens, store);
    }
    let rows = match w.kind {
        WeightKind::Bf16 => outputs,
        _ => (PANEL.min(gpu.scratch.bytes) / (2 * pitch(inputs)) / ROWS * ROWS).clamp(ROWS.min(outputs), outputs),
    };
    for row in (0..outputs).step_by(rows) {
        let rows = rows.min(outputs - row);
        let b = panel(gpu, w, (row, rows), (0, inputs));
        let a = Matrix { address: gpu.address(x), pitch: inputs };
        let out = Matrix { address: gpu.address(y) + 2 * row as u64, pitch: outputs };
        let (form, output) = (Form::Nt, Output::Bf16);
        gpu.multiply(&Product { form, m: tokens, n: rows, k: inputs, a, b, out, output, store });
    }
}

fn few_tokens(gpu: &mut Gpu, x: Span, w: &Weight, y: Span, tokens: usize, store: Store) {
    let shape = Shape::of(w.geometry);
    let args = Args::new().bytes(&Planes::of(gpu, w)).bytes(&shape).span(gpu, x).span(gpu, y);
    let args = args.u32(tokens as u32).u32(u32::from(store == Store::Accumulate));
    gpu.launch("few_tokens", [shape.rows.div_ceil(4), 1, 1], 128, 0, &args);
}

/// `dx[T, I] = dy[T, O] w[O, I]`; see [`crate::backend::Backend::linear_grad_input`]. Panels are cut along the columns,
/// so that every sum is complete before it is rounded.
///
/// # Panics
/// If lengths do not fit, or the shapes exceed those that the scratch was planned for.
pub fn linear_grad_input(gpu: &mut Gpu, dy: Span, w: &Weight, dx: Span, store: Store) {
    let (outputs, inputs) = (w.geometry.rows, w.geometry.cols);
    let tokens = tokens_of(dy, outputs, dx, inputs);
    if tokens == 0 {
        return;
    }
    let most = PANEL.min(gpu.scratch.bytes);
    let cols = match w.kind {
        WeightKind::Bf16 => inputs,
        _ if 2 * outputs * pitch(inputs) <= most => inputs,
        _ => (most / (2 * outputs) / LEAST_COLS * LEAST_COLS).max(LEAST_COLS),
    };
    for from in (0..inputs).step_by(cols) {
        let cols = cols.min(inputs - from);
        let b = panel(gpu, w, (0, outputs), (from, cols));
        let a = Matrix { address: gpu.address(dy), pitch: outputs };
        let out = Matrix { address: gpu.address(dx) + 2 * from as u64, pitch: inputs };
        let (form, output) = (Form::Nn, Output::Bf16);
        gpu.multiply(&Product { form, m: tokens, n: cols, k: outputs, a, b, out, output, store });
    }
}
