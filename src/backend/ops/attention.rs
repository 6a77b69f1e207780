//! Causal grouped-query attention.

use super::conformance::{Case, MAX};
use super::reference::{dot, wide};
use crate::backend::{Backend, Rotation};
use crate::memory::Span;

/// Shapes of an attention: `q` and `out` are `[B, S, H, D]`; `k` and `v` are `[B, capacity, K, D]`, of which the
/// rows below `start + S` are filled; query `s` is at position `start + s` and sees the keys up to its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// B
    pub batch: usize,
    /// S
    pub queries: usize,
    /// Position of the first query; zero in training.
    pub start: usize,
    /// Rows of `k` and `v` per sequence.
    pub capacity: usize,
    /// H
    pub heads: usize,
    /// K
    pub kv_heads: usize,
    /// D
    pub head_dim: usize,
}

/// Operands of [`Attention::attention`].
#[derive(Clone, Copy, Debug)]
pub struct AttentionArgs {
    /// Queries.
    pub q: Span,
    /// Keys.
    pub k: Span,
    /// Values.
    pub v: Span,
    /// The output.
    pub out: Span,
    /// float32 `[B, H, S]`: receives the logarithm of the sum of each row's exponentials.
    pub lse: Span,
    /// u32 `[B, S]`, for rows that hold several samples: query `s` sees the keys from position `segment_start[s]` on,
    /// where its sample begins. It is at most the query's own position and does not decrease within a sequence. Without
    /// it a query sees all keys up to its own.
    pub segment_start: Option<Span>,
    /// Shapes of all of these.
    pub shape: AttentionShape,
}

/// Operands of [`Attention::attention_grad`].
#[derive(Clone, Copy, Debug)]
pub struct AttentionGradArgs {
    /// Queries.
    pub q: Span,
    /// Keys.
    pub k: Span,
    /// Values.
    pub v: Span,
    /// The output exactly as [`Attention::attention`] gave it, if it was kept: it saves a device from computing it again.
    /// None with `delta`.
    pub out: Option<Span>,
    /// What [`Attention::attention`] gave.
    pub lse: Span,
    /// Gradient of the output.
    pub dout: Span,
    /// Receives the gradient of `q`.
    pub dq: Span,
    /// Receives the gradient of `k`.
    pub dk: Span,
    /// Receives the gradient of `v`.
    pub dv: Span,
    /// float32 `[B, H, S]`, where queries see keys beside `k` too ([`super::PrefixAttention`]) and `lse` counts these: the sum over a
    /// query's keys of probability times the probability's gradient, on entry of those others, on return of all.
    pub delta: Option<Span>,
    /// The table by which [`super::Rope::rope`] rotated `q` and `k`, from position 0 of each row on, if `dq` and `dk` shall be the
    /// gradients of what they were before: the same bits as if it had rotated them back afterwards.
    pub rotated_by: Option<Span>,
    /// As in [`AttentionArgs`].
    pub segment_start: Option<Span>,
    /// `start` is 0 and `capacity` is S.
    pub shape: AttentionShape,
}

impl AttentionGradArgs {
    /// How to rotate `dq` and `dk` back, if they shall be: operands of [`super::Rope::rope`].
    pub(in crate::backend) fn rotations(&self) -> impl Iterator<Item = (Span, Span, Rotation)> + use<> {
        let AttentionShape { queries, heads, kv_heads, head_dim, start, .. } = self.shape;
        let both = [(self.dq, heads), (self.dk, kv_heads)];
        self.rotated_by.into_iter().flat_map(move |table| {
            both.map(|(x, heads)| (x, table, Rotation { heads, head_dim, queries, start, inverse: true }))
        })
    }
}

/// Attention and its gradient.
pub trait Attention {
    /// Causal attention, scaled by `1 / sqrt(D)`.
    fn attention(&mut self, args: &AttentionArgs);

    /// Overwrites `dq`, `dk` and `dv` with the gradients for `dout`.
    fn attention_grad(&mut self, args: &AttentionGradArgs);
}

/// One query of an attention: where it and its keys lie.
struct Query {
    q: usize,
    lse: usize,
    /// Starts of the visible rows of `k` and `v`.
    keys: Vec<usize>,
}

fn each_query(shape: AttentionShape, segment_start: Option<&[u32]>) -> impl Iterator<Item = Query> {
    let AttentionShape { batch, queries, start, capacity, heads, kv_heads, head_dim } = shape;
    (0..batch * queries * heads).map(move |i| {
        let (b, s, h) = (i / heads / queries, i / heads % queries, i % heads);
        let kv = h / (heads / kv_heads);
        let key = |j| ((b * capacity + j) * kv_heads + kv) * head_dim;
        let from = segment_start.map_or(0, |start| start[b * queries + s] as usize);
        Query { q: i * head_dim, lse: (b * heads + h) * queries + s, keys: (from..=start + s).map(key).collect() }
    })
}

/// `out` and `lse`.
pub fn attention(
    q: &[f64],
    k: &[f64],
    v: &[f64],
    segment_start: Option<&[u32]>,
    shape: AttentionShape,
) -> (Vec<f64>, Vec<f64>) {
    let d = shape.head_dim;
    let (mut out, mut lse) = (vec![0.0; q.len()], vec![0.0; q.len() / d]);
    for query in each_query(shape, segment_start) {
        let scores: Vec<f64> =
            query.keys.iter().map(|&key| dot(&q[query.q..][..d], &k[key..][..d]) / (d as f64).sqrt()).collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        lse[query.lse] = max + scores.iter().map(|s| (s - max).exp()).sum::<f64>().ln();
        for (&key, score) in query.keys.iter().zip(scores) {
            let p = (score - lse[query.lse]).exp();
            (0..d).for_each(|i| out[query.q + i] += p * v[key + i]);
        }
    }
    (out, lse)
}

/// `dq`, `dk` and `dv`.
pub fn attention_grad(
    q: &[f64],
    k: &[f64],
    v: &[f64],
    dout: &[f64],
    segment_start: Option<&[u32]>,
    shape: AttentionShape,
) -> [Vec<f64>; 3] {
    let (d, scale) = (shape.head_dim, 1.0 / (shape.head_dim as f64).sqrt());
    let (_, lse) = attention(q, k, v, segment_start, shape);
    let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
    for query in each_query(shape, segment_start) {
        let (row, dout) = (&q[query.q..][..d], &dout[query.q..][..d]);
        let p: Vec<f64> =
            query.keys.iter().map(|&key| (dot(row, &k[key..][..d]) * scale - lse[query.lse]).exp()).collect();
        let dp: Vec<f64> = query.keys.iter().map(|&key| dot(dout, &v[key..][..d])).collect();
        let mean = dot(&p, &dp);
        for (j, &key) in query.keys.iter().enumerate() {
            let ds = p[j] * (dp[j] - mean) * scale;
            for i in 0..d {
                dv[key + i] += p[j] * dout[i];
                dk[key + i] += ds * row[i];
                dq[query.q + i] += ds * k[key + i];
            }
        }
    }
    [dq, dk, dv]
}

/// See [`super::conformance::check`].
pub(super) fn conformance(open: &dyn Fn() -> Box<dyn Backend>) {
    for (batch, queries, heads, kv_heads, head_dim) in [(1, 1, 1, 1, 2), (2, 7, 4, 2, 6), (1, 65, 2, 1, 32)] {
        let shape = AttentionShape { batch, queries, start: 0, capacity: queries, heads, kv_heads, head_dim };
        conformance_of(open, shape, None);
        // Two samples in a row.
        let start = |i: usize| if i % queries < queries / 3 { 0 } else { queries / 3 };
        let starts: Vec<u32> = (0..batch * queries).map(|i| start(i) as u32).collect();
        conformance_of(open, shape, Some(&starts));
    }
    let cache = AttentionShape { batch: 2, queries: 2, start: 5, capacity: 9, heads: 4, kv_heads: 2, head_dim: 8 };
    conformance_of(open, cache, None);
}

/// The output, and the gradients of whole sequences.
fn conformance_of(open: &dyn Fn() -> Box<dyn Backend>, shape: AttentionShape, starts: Option<&[u32]>) {
    let AttentionShape { batch, queries, start, capacity, heads, kv_heads, head_dim } = shape;
    let (wide_row, narrow_row) = (heads * head_dim, kv_heads * head_dim);
    let (tokens, keys) = (batch * queries, batch * capacity);
    let mut case = Case::new(open, queries as u64);
    let [q, dout] = [(); 2].map(|()| case.numbers(tokens * wide_row));
    let [k, v] = [(); 2].map(|()| case.numbers(keys * narrow_row));
    let [q_at, dout_at] = [&q, &dout].map(|values| case.activations(values, wide_row));
    let [k_at, v_at] = [&k, &v].map(|values| case.activations(values, narrow_row));
    let segment_start = starts.map(|starts| case.add(starts));
    let (out, lse) = (case.room_of_rows(tokens, wide_row), case.room(tokens * heads));
    let [dq, dk, dv] = [(tokens, wide_row), (keys, narrow_row), (keys, narrow_row)]
        .map(|(rows, width)| case.room_of_rows(rows, width));
    let whole = start == 0 && capacity == queries;
    case.run(MAX, |backend| {
        let (q, k, v, dout) = (q_at, k_at, v_at, dout_at);
        backend.attention(&AttentionArgs { q, k, v, out, lse, segment_start, shape });
        if whole {
            let out = Some(out);
            backend.attention_grad(&AttentionGradArgs {
                q,
                k,
                v,
                out,
                lse,
                dout,
                dq,
                dk,
                dv,
                delta: None,
                rotated_by: None,
                segment_start,
                shape,
            });
        }
    });
    let [q, k, v, dout] = [q, k, v, dout].map(|values| wide(&values));
    let (expected, expected_lse) = attention(&q, &k, &v, starts, shape);
    case.near_rows(out, wide_row, &expected, &format!("attention, {shape:?}"));
    case.near_floats(lse, &expected_lse, &format!("logarithms of sums, {shape:?}"));
    if whole {
        let [expected_dq, expected_dk, expected_dv] = attention_grad(&q, &k, &v, &dout, starts, shape);
        case.near_rows(dq, wide_row, &expected_dq, &format!("the gradient of queries, {shape:?}"));
        case.near_rows(dk, narrow_row, &expected_dk, &format!("the gradient of keys, {shape:?}"));
        case.near_rows(dv, narrow_row, &expected_dv, &format!("the gradient of values, {shape:?}"));
    }
}
