//! The gradient of causal attention: probabilities are computed again from the log of their sums.

use super::attention::{ByKey, ByQuery, QUERIES, Row, Sight, as_columns, query_panels, row_panels, score, scores};
use crate::backend::cpu::simd::exp::exp;
use crate::backend::cpu::simd::gemm::{COLS, Left, PITCH, ROWS, Sum, product, rows_to_panels};
use crate::backend::cpu::simd::isa::{Isa, madd, vectorized};
use crate::backend::cpu::simd::tasks::{Need, Scratch};
use crate::backend::cpu::simd::tile::TileMut;
use crate::backend::{AttentionShape, MaxShapes};

/// What the gradient reads: `q`, `k`, `v`, `lse` and the segments' starts of the forward pass, the gradient of its
/// output.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    pub q: &'a [f32],
    pub k: &'a [f32],
    pub v: &'a [f32],
    pub lse: &'a [f32],
    pub dout: &'a [f32],
    pub segment_start: Option<&'a [u32]>,
}

/// What it overwrites.
pub(crate) struct Outputs<'a> {
    pub dq: &'a mut [f32],
    pub dk: &'a mut [f32],
    pub dv: &'a mut [f32],
    pub delta: Option<&'a mut [f32]>,
}

/// One thread's scratch.
struct Area<'a> {
    /// Copied rows of keys or values.
    strip: &'a mut [f32],
    /// A block of queries, then of output gradients, as columns.
    columns: &'a mut [f32],
    /// Scores, then probabilities, by key and query.
    p: &'a mut [f32],
    /// Gradients of the probabilities, then of the scores.
    ds: &'a mut [f32],
    /// All keys of the sequence as a right operand.
    keys: &'a mut [f32],
    /// A block of output gradients, then of queries, as a right operand.
    block: &'a mut [f32],
}

fn sizes(keys: usize, head_dim: usize) -> [usize; 6] {
    let (scores, block) = (scores(keys), row_panels(QUERIES, head_dim));
    [ROWS * PITCH, query_panels(head_dim), scores, scores, row_panels(keys, head_dim), block]
}

impl<'a> Area<'a> {
    fn new(mut area: &'a mut [f32], keys: usize, head_dim: usize) -> Self {
        let [strip, columns, p, ds, keys, block] =
            sizes(keys, head_dim).map(|size| area.split_off_mut(..size).expect("an area of the planned size"));
        Self { strip, columns, p, ds, keys, block }
    }
}

/// Scratch of the backward pass.
pub(crate) fn need(max: &MaxShapes) -> Need {
    Need { shared: 0, private: sizes(max.keys, max.head_dim).iter().sum() }
}

/// Gradients of `q`, `k` and `v`. One task is one head of keys of one sequence, so that the gradients of its keys
/// are summed over queries and heads in one order.
pub(crate) fn attention_grad(
    isa: Isa,
    mut scratch: Scratch<'_>,
    inputs: Inputs<'_>,
    outputs: Outputs<'_>,
    shape: AttentionShape,
) {
    let Inputs { q, k, v, lse, dout, segment_start } = inputs;
    let Outputs { dq, dk, dv, delta } = outputs;
    shape.check(q.len(), k.len(), v.len(), lse.len(), segment_start);
    assert!(shape.start == 0 && shape.capacity == shape.queries, "a gradient of whole sequences");
    assert!([dout.len(), dq.len()] == [q.len(); 2] && [dk.len(), dv.len()] == [k.len(); 2], "equal lengths");
    assert!(delta.as_ref().is_none_or(|delta| delta.len() == lse.len()), "a number for each query of each head");
    let AttentionShape { batch, queries, heads, head_dim, .. } = shape;
    let (tokens, wide, narrow) = (batch * queries, shape.query_width(), shape.key_width());
    let private = sizes(queries, head_dim).iter().sum();
    let (_, mut areas) = scratch.split(Need { shared: 0, private });
    let dqs = TileMut::new(dq, tokens, wide, wide).grid(queries, shape.group() * head_dim);
    let dks = TileMut::new(dk, tokens, narrow, narrow).grid(queries, head_dim);
    let dvs = TileMut::new(dv, tokens, narrow, narrow).grid(queries, head_dim);
    // Tiles in the same order as the others: sequence by sequence, head of keys by head of keys.
    let mut deltas =
        delta.map(|delta| TileMut::new(delta, batch * heads, queries, queries).grid(shape.group(), queries));
    let tasks = dqs.zip(dks).zip(dvs).map(move |tiles| (tiles, deltas.as_mut().and_then(Iterator::next)));
    areas.run(tasks, |((((row, col, mut dq), (_, key_col, mut dk)), (_, _, mut dv)), mut delta), area| {
        let mut area = Area::new(area, queries, head_dim);
        rows_to_panels(isa, shape.key_head(&k[row * narrow + key_col..]), queries, queries * COLS, area.keys);
        if segment_start.is_some() {
            // Some keys may be seen by no block.
            for grad in [&mut dk, &mut dv] {
                (0..queries).for_each(|row| grad.row(row).fill(0.0));
            }
        }
        // From the last block, which without segments sees every key and so overwrites every row of `dk` and `dv`.
        for block in (0..queries.div_ceil(QUERIES)).rev() {
            let begin = block * QUERIES;
            for head in 0..shape.group() {
                let sum = match segment_start.is_some() || head > 0 || begin + QUERIES < queries {
                    true => Sum::Added,
                    false => Sum::New,
                };
                let place = Place { shape: &shape, row, col: col + head * head_dim, key_col, begin, sum };
                let dq = dq.part(begin, head * head_dim, place.rows(), head_dim);
                let delta = delta.as_mut().map(|(_, _, delta)| &mut delta.row(head)[begin..][..place.rows()]);
                block_grad(isa, inputs, place, &mut area, dq, (&mut dk, &mut dv, delta));
            }
        }
    });
}

/// A block of queries of one head.
#[derive(Clone, Copy)]
struct Place<'a> {
    shape: &'a AttentionShape,
    /// First row of the sequence.
    row: usize,
    /// First column of the head in `q`.
    col: usize,
    /// First column of the head in `k`.
    key_col: usize,
    /// First query, counted in the sequence.
    begin: usize,
    /// Whether `dk` and `dv` hold a sum already.
    sum: Sum,
}

impl Place<'_> {
    fn rows(&self) -> usize {
        QUERIES.min(self.shape.queries - self.begin)
    }

    /// Where the block starts in a buffer laid out as `q`.
    fn queries(&self) -> usize {
        (self.row + self.begin) * self.shape.query_width() + self.col
    }

    /// Where the head starts in a buffer laid out as `k`.
    fn keys(&self) -> usize {
        self.row * self.shape.key_width() + self.key_col
    }

    fn lse(&self, lse: &[f32]) -> Row {
        let AttentionShape { queries, heads, head_dim, .. } = *self.shape;
        let (sequence, head) = (self.row / queries, self.col / head_dim);
        let mut row = [0.0; QUERIES];
        let from = (sequence * heads + head) * queries + self.begin;
        row[..self.rows()].copy_from_slice(&lse[from..][..self.rows()]);
        row
    }
}

/// With P the probabilities and D = sum over keys of P dP: dS = P (dP - D), dV += P^T dO, dK += dS^T Q, dQ = dS K.
fn block_grad(
    isa: Isa,
    inputs: Inputs<'_>,
    place: Place<'_>,
    area: &mut Area<'_>,
    dq: TileMut<'_>,
    (dk, dv, delta): (&mut TileMut<'_>, &mut TileMut<'_>, Option<&mut [f32]>),
) {
    let Place { shape, begin, sum, .. } = place;
    let (rows, head_dim) = (place.rows(), shape.head_dim);
    let sight = Sight::new(inputs.segment_start.map(|start| &start[place.row + begin..][..rows]));
    let (low, keys) = (sight.low, begin + rows - sight.low);
    let (q, dout) = (&inputs.q[place.queries()..], &inputs.dout[place.queries()..]);
    let from = place.keys() + low * shape.key_width();
    let (k, v) = (&inputs.k[from..], &inputs.v[from..]);

    as_columns(isa, q, shape, rows, area.columns);
    score(isa, k, area.columns, shape, TileMut::new(area.p, keys, rows, QUERIES), area.strip);
    as_columns(isa, dout, shape, rows, area.columns);
    score(isa, v, area.columns, shape, TileMut::new(area.ds, keys, rows, QUERIES), area.strip);
    let lse = place.lse(inputs.lse);
    let (p, ds) = (&mut area.p.as_chunks_mut().0[..keys], &mut area.ds.as_chunks_mut().0[..keys]);
    sight.hide(p);
    let mut dot = [0.0; QUERIES];
    if let Some(delta) = &delta {
        dot[..rows].copy_from_slice(delta);
    }
    softmax_grad(isa, p, ds, &lse, &mut dot, begin - low, shape.scale());
    if let Some(delta) = delta {
        delta.copy_from_slice(&dot[..rows]);
    }

    rows_to_panels(isa, shape.query_head(dout), rows, rows * COLS, area.block);
    let p: ByKey<'_> = Left::whole(area.p);
    product(isa, p, area.block, rows * COLS, rows, dv.part(low, 0, keys, head_dim), sum);
    rows_to_panels(isa, shape.query_head(q), rows, rows * COLS, area.block);
    let ds: ByKey<'_> = Left::whole(area.ds);
    product(isa, ds, area.block, rows * COLS, rows, dk.part(low, 0, keys, head_dim), sum);
    let ds: ByQuery<'_> = Left::whole(area.ds);
    product(isa, ds, &area.keys[low * COLS..], shape.queries * COLS, keys, dq, Sum::New);
}

vectorized! {
    /// Scores become probabilities, gradients of probabilities become gradients of unscaled scores.
    /// Query i sees the first `before + i + 1` keys. The sums over keys of P dP are added to `sums`.
    fn softmax_grad(p: &mut [Row], dp: &mut [Row], lse: &Row, sums: &mut Row, before: usize, scale: f32) {
        let mut dot = *sums;
        for (key, (p, dp)) in p.iter_mut().zip(dp.iter()).enumerate() {
            for i in 0..QUERIES {
                let probability = exp::<FMA>(madd::<FMA>(p[i], scale, -lse[i]));
                p[i] = if key <= before + i { probability } else { 0.0 };
                dot[i] = madd::<FMA>(p[i], dp[i], dot[i]);
            }
        }
        for (p, dp) in p.iter().zip(dp) {
            for i in 0..QUERIES {
                dp[i] = p[i] * (dp[i] - dot[i]) * scale;
            }
        }
        *sums = dot;
    }
}
