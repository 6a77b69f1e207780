//! Products of several weights of one shape with one input, which cuBLASLt starts at once: fewer launches, and the tiles of one
//! product fill what the last wave of another leaves idle.
//!
//! Their matrices lie at equal distances, as the plan places queries, keys and values, gate and up. Where they do
//! not, or the panels do not fit the cache together, each product is started by itself.

use super::linear::{ALIGNED, clear_padding, fill, in_place, is_small_batch, panel, tokens};
use super::weights::{self, Part};
use super::{pitch, product};
use crate::backend::cuda::runtime::{Form, Gpu, Matrix, Output, Product, Strided};
use crate::backend::{Accumulate, Weight};
use crate::memory::{Place, Span};

/// Products that are joined, at most: of queries, keys and values.
const MOST: usize = 3;

/// `y = x w^T` of each pair; whether that could be done at once. If not, nothing was done.
pub(super) fn forward(gpu: &mut Gpu, x: Span, products: &[(&Weight, Span)]) -> bool {
    let Some(&(first, _)) = products.first() else { return false };
    let (outputs, inputs) = (first.shape.rows, first.shape.cols);
    let m = tokens(x, inputs, products[0].1, outputs);
    let alike = products
        .iter()
        .all(|(w, y)| w.shape == first.shape && w.format == first.format && tokens(x, inputs, *y, outputs) == m);
    if !alike || in_place(first) || is_small_batch(m, first) || products.len() > MOST {
        return false;
    }
    let each = product([2, pitch(outputs), pitch(inputs)]);
    let panel = panel(gpu, 0);
    let (mut sorted, count) = ([products[0]; MOST], products.len());
    sorted[..count].copy_from_slice(products);
    sorted[..count].sort_unstable_by_key(|(_, y)| y.offset);
    let Some((out, stride)) = spaced(sorted[..count].iter().map(|(_, y)| *y)) else { return false };
    if panel.bytes / each < count {
        return false;
    }
    clear_padding(gpu, x, inputs);
    for (i, (w, _)) in sorted[..count].iter().enumerate() {
        weights::check(w);
        fill(gpu, w, Part { row: 0, col: 0, rows: outputs, cols: inputs }, panel.part(i * each, each));
    }
    gpu.multiply(&Product {
        form: Form::Nt,
        m,
        n: pitch(outputs),
        k: pitch(inputs),
        a: Matrix { span: x, pitch: pitch(inputs) },
        b: Matrix { span: panel, pitch: pitch(inputs) },
        out: Matrix { span: out, pitch: pitch(outputs) },
        output: Output::Bf16,
        addend: None,
        strided: Strided { count, strides: [0, each / 2, stride / 2] },
    });
    true
}

/// `grad = dy^T x` of each pair of `dy` and `grad`; whether that could be done at once. If not, nothing was done.
pub(super) fn grad_weight(
    gpu: &mut Gpu,
    x: Span,
    grads: &[(Span, Span)],
    (rows, cols): (usize, usize),
    accumulate: Accumulate,
) -> bool {
    let count = grads.len();
    if !cols.is_multiple_of(ALIGNED) || count == 0 || count > MOST {
        return false;
    }
    let (mut sorted, bytes) = ([grads[0]; MOST], product([4, rows, cols]));
    sorted[..count].copy_from_slice(grads);
    sorted[..count].sort_unstable_by_key(|(dy, _)| dy.offset);
    let sorted = &sorted[..count];
    let k = tokens(sorted[0].0, rows, x, cols);
    assert!(sorted.iter().all(|(_, grad)| grad.bytes == bytes), "gradients of weights of {rows} x {cols}");
    let (Some((a, a_stride)), Some((out, stride))) =
        (spaced(sorted.iter().map(|(dy, _)| *dy)), spaced(sorted.iter().map(|(_, grad)| *grad)))
    else {
        return false;
    };
    let out = Matrix { span: out, pitch: cols };
    gpu.multiply(&Product {
        form: Form::Tn,
        m: rows,
        n: cols,
        k,
        a: Matrix { span: a, pitch: pitch(rows) },
        b: Matrix { span: x, pitch: pitch(cols) },
        out,
        output: Output::F32,
        addend: (accumulate == Accumulate::Yes).then_some(out),
        strided: Strided { count, strides: [a_stride / 2, 0, stride / 4] },
    });
    true
}

/// Spans of one length in ascending order whose beginnings are equally far apart, none overlapping the next: from the first to
/// the end of the last, and the distance in bytes, a multiple of 16.
fn spaced(mut spans: impl Iterator<Item = Span>) -> Option<(Span, usize)> {
    let first = spans.next()?;
    let (mut last, mut stride) = (first, None);
    for span in spans {
        let distance = span.offset.checked_sub(last.offset)?;
        let fits = span.place == Place::Arena && span.bytes == first.bytes && distance >= first.bytes;
        if !fits || !distance.is_multiple_of(16) || stride.is_some_and(|stride| stride != distance) {
            return None;
        }
        (last, stride) = (span, Some(distance));
    }
    let whole = Span { place: Place::Arena, offset: first.offset, bytes: last.end() - first.offset };
    (first.place == Place::Arena).then_some((whole, stride?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_distances_are_found() {
        let of = |offsets: &[usize]| {
            spaced(offsets.iter().map(|&offset| Span { place: Place::Arena, offset, bytes: 64 }))
                .map(|(whole, stride)| (whole.offset, whole.bytes, stride))
        };
        assert_eq!(of(&[128, 192, 256]), Some((128, 192, 64)));
        assert_eq!(of(&[0, 4096]), Some((0, 4160, 4096)));
        assert_eq!(of(&[0, 64, 192]), None);
        // Overlapping, descending, apart by no multiple of 16 bytes, alone.
        assert_eq!(of(&[0, 32]), None);
        assert_eq!(of(&[64, 0]), None);
        assert_eq!(of(&[0, 72]), None);
        assert_eq!(of(&[0]), None);
    }
}
