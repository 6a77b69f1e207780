//! Attention to a prefix: keys and values that every sequence sees before its own.

use super::conformance::{Case, MAX};
use super::reference::{dot, wide};
use super::{Accumulate, AttentionArgs, AttentionGradArgs, AttentionShape};
use crate::backend::Backend;
use crate::memory::Span;

/// Keys of a prefix at most.
pub const MOST_PREFIX: usize = 1024;

/// What all of [`PrefixAttention`] takes. Effective keys and values are the given ones times their scales.
#[derive(Clone, Copy, Debug)]
pub struct PrefixArgs {
    /// Queries, activations `[B, S, H, D]`.
    pub q: Span,
    /// Keys, float32 `[P, K, D]`.
    pub key: Span,
    /// Values, float32 `[P, K, D]`.
    pub value: Span,
    /// What keys and values are multiplied by, one float32 each; None: by nothing.
    pub scales: Option<[Span; 2]>,
    /// Whether the prefix's weights are divided by their sum, so that they sum to 1 beside those of the text.
    pub compensate: bool,
    /// That of the attention to the text; `start` and `capacity` are not read.
    pub shape: AttentionShape,
}

impl PrefixArgs {
    /// P.
    ///
    /// # Panics
    /// If keys and values are not whole and as many, or more than [`MOST_PREFIX`].
    pub fn length(&self) -> usize {
        let row = 4 * self.shape.key_width();
        let length = self.key.bytes / row;
        assert!(self.key.bytes == length * row && self.value.bytes == self.key.bytes, "whole keys, and as many values");
        assert!((1..=MOST_PREFIX).contains(&length), "a prefix of {length} keys");
        length
    }
}

/// Operands of [`PrefixAttention::prefix_attention_grad`].
#[derive(Clone, Copy, Debug)]
pub struct PrefixGradArgs {
    /// What [`PrefixAttention::prefix_attention`] left.
    pub lse: Span,
    /// Gradient of the output.
    pub dout: Span,
    /// What [`super::Attention::attention_grad`] left in its `delta`.
    pub delta: Span,
    /// The gradient of `q` is added to it.
    pub dq: Span,
    /// Float32 `[P, K, D]`: the gradient of effective keys.
    pub dkey: Span,
    /// Float32 `[P, K, D]`: the gradient of effective values.
    pub dvalue: Span,
    /// Whether the last two are added to what is there.
    pub accumulate: Accumulate,
}

/// Attention to a prefix, joined to that of the text by the logarithms of their sums of exponentials, and its gradient. With L
/// and o of the text, L' and o' of the prefix alone, and `lambda = exp(L') / (exp(L) + exp(L'))`, the output is
/// `(1 - lambda) o + lambda o'`: that of one softmax over both. Compensated (LAE, arXiv 2303.10070) it is
/// `(1 - lambda) o + o'`.
pub trait PrefixAttention {
    /// After [`super::Attention::attention`]: brings `out` and `lse` from the text alone to text and prefix. `factor` is how
    /// much of the difference is added to `out`; for a gradient it must be 1.
    fn prefix_attention(&mut self, args: &PrefixArgs, out: Span, lse: Span, factor: f32);

    /// Sets `delta` to what [`super::Attention::attention_grad`] needs of the prefix.
    fn prefix_delta(&mut self, args: &PrefixArgs, lse: Span, dout: Span, delta: Span);

    /// After [`super::Attention::attention_grad`]: the gradients of keys, values and queries. Sums over tokens are in their
    /// order, so that with [`Accumulate::Yes`] the parts of a batch give the bits of the whole on a CPU.
    fn prefix_attention_grad(&mut self, args: &PrefixArgs, grads: &PrefixGradArgs);

    /// From the gradient `grad` of `scale values` to that of `values`, in place, and that of `scale`: all float32, the last two
    /// one number.
    fn scaled_grad(&mut self, grad: Span, values: Span, scale: Span, dscale: Span);
}

/// Operands of the references.
#[derive(Clone, Copy, Debug)]
pub struct PrefixReference<'a> {
    /// Queries, keys and values of the text.
    pub text: [&'a [f64]; 3],
    /// Effective keys and values.
    pub prefix: [&'a [f64]; 2],
    /// As in [`PrefixArgs`].
    pub compensate: bool,
    /// As in [`AttentionArgs`].
    pub segment_start: Option<&'a [u32]>,
    /// `start` is 0, `capacity` S.
    pub shape: AttentionShape,
}

/// A query's keys, where each lies and whether it is the prefix's, and its softmax over all of them.
struct Weights {
    query: usize,
    keys: Vec<(bool, usize)>,
    p: Vec<f64>,
    lse: f64,
    /// The sum of the prefix's weights.
    lambda: f64,
}

impl PrefixReference<'_> {
    fn vector(&self, which: usize, (prefix, at): (bool, usize)) -> &[f64] {
        let all = if prefix { self.prefix[which] } else { self.text[1 + which] };
        &all[at..][..self.shape.head_dim]
    }

    fn rows(&self) -> impl Iterator<Item = Weights> {
        let AttentionShape { queries, heads, kv_heads, head_dim, .. } = self.shape;
        let length = self.prefix[0].len() / (kv_heads * head_dim);
        (0..self.text[0].len() / head_dim).map(move |i| {
            let (b, s, kv) = (i / heads / queries, i / heads % queries, i % heads / (heads / kv_heads));
            let from = self.segment_start.map_or(0, |start| start[b * queries + s] as usize);
            let of_prefix = (0..length).map(|j| (true, (j * kv_heads + kv) * head_dim));
            let of_text = (from..=s).map(|j| (false, ((b * queries + j) * kv_heads + kv) * head_dim));
            let keys: Vec<_> = of_prefix.chain(of_text).collect();
            let q = &self.text[0][i * head_dim..][..head_dim];
            let scores: Vec<f64> =
                keys.iter().map(|&key| dot(q, self.vector(0, key)) / (head_dim as f64).sqrt()).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let lse = max + scores.iter().map(|score| (score - max).exp()).sum::<f64>().ln();
            let p: Vec<f64> = scores.iter().map(|score| (score - lse).exp()).collect();
            let lambda = p[..length].iter().sum();
            Weights { query: i * head_dim, keys, p, lse, lambda }
        })
    }

    /// `out` and, in the order of queries and heads, the logarithms of sums.
    pub fn attention(&self) -> (Vec<f64>, Vec<f64>) {
        let (mut out, mut lse) = (vec![0.0; self.text[0].len()], Vec::new());
        for row in self.rows() {
            for (&key, p) in row.keys.iter().zip(&row.p) {
                let weight = if key.0 && self.compensate { p / row.lambda } else { *p };
                let out = out[row.query..].iter_mut().zip(self.vector(1, key));
                out.for_each(|(out, v)| *out += weight * v);
            }
            lse.push(row.lse);
        }
        (out, lse)
    }

    /// Gradients of queries, keys and values of the text, keys and values of the prefix.
    pub fn grad(&self, dout: &[f64]) -> [Vec<f64>; 5] {
        let d = self.shape.head_dim;
        let [q, k, v] = self.text;
        let [mut dq, mut dk, mut dv] = [q, k, v].map(|x| vec![0.0; x.len()]);
        let [mut dkey, mut dvalue] = self.prefix.map(|x| vec![0.0; x.len()]);
        for Weights { query, keys, p, lambda, .. } in self.rows() {
            let (row, dout) = (&q[query..][..d], &dout[query..][..d]);
            let du: Vec<f64> = keys.iter().map(|&key| dot(dout, self.vector(1, key))).collect();
            let of_prefix = keys.iter().zip(&p).zip(&du).filter(|((key, _), _)| key.0);
            let through_sum = of_prefix.map(|((_, p), du)| p * du).sum::<f64>() / lambda.powi(2);
            let compensated = |key: (bool, usize)| key.0 && self.compensate;
            let dp: Vec<f64> = keys
                .iter()
                .zip(&du)
                .map(|(&key, du)| if compensated(key) { du / lambda - through_sum } else { *du })
                .collect();
            let mean = dot(&p, &dp);
            for (i, &(prefix, at)) in keys.iter().enumerate() {
                let weight = if compensated((prefix, at)) { p[i] / lambda } else { p[i] };
                let ds = p[i] * (dp[i] - mean) / (d as f64).sqrt();
                let (dk, dv) = if prefix { (&mut dkey, &mut dvalue) } else { (&mut dk, &mut dv) };
                for j in 0..d {
                    dv[at + j] += weight * dout[j];
                    dk[at + j] += ds * row[j];
                    dq[query + j] += ds * self.vector(0, (prefix, at))[j];
                }
            }
        }
        [dq, dk, dv, dkey, dvalue]
    }
}

/// See [`super::conformance::check`].
pub(super) fn conformance(open: &dyn Fn() -> Box<dyn Backend>) {
    for (batch, queries, heads, kv_heads, head_dim, length) in
        [(1, 1, 1, 1, 2, 1), (2, 7, 4, 2, 6, 5), (1, 65, 2, 1, 32, 9)]
    {
        let shape = AttentionShape { batch, queries, start: 0, capacity: queries, heads, kv_heads, head_dim };
        // Two samples in a row.
        let start = |i: usize| if i % queries < queries / 3 { 0 } else { queries / 3 };
        let starts: Vec<u32> = (0..batch * queries).map(|i| start(i) as u32).collect();
        for how in [(false, false), (true, true)] {
            conformance_of(open, (shape, length), &starts, how);
        }
    }
}

fn conformance_of(
    open: &dyn Fn() -> Box<dyn Backend>,
    (shape, length): (AttentionShape, usize),
    starts: &[u32],
    (compensate, scaled): (bool, bool),
) {
    let AttentionShape { batch, queries, heads, .. } = shape;
    let (tokens, width, narrow) = (batch * queries, shape.query_width(), shape.key_width());
    let mut case = Case::new(open, length as u64);
    let [q, dout] = [(); 2].map(|()| case.numbers(tokens * width));
    let [k, v] = [(); 2].map(|()| case.numbers(tokens * narrow));
    let [key, value, old] = [(); 3].map(|()| case.numbers(length * narrow));
    let by = if scaled { [0.75f32, -1.5] } else { [1.0; 2] };
    let [q_at, dout_at] = [&q, &dout].map(|values| case.activations(values, width));
    let [k_at, v_at] = [&k, &v].map(|values| case.activations(values, narrow));
    let [key_at, value_at, added_key, added_value] = [&key, &value, &old, &old].map(|values| case.add(values));
    let (scales_at, segment_start) = (by.map(|scale| case.add(&[scale])), Some(case.add(starts)));
    let [out, half, dq, more_dq] = [(); 4].map(|()| case.room_of_rows(tokens, width));
    let [dk, dv] = [(); 2].map(|()| case.room_of_rows(tokens, narrow));
    let [lse, half_lse, delta] = [(); 3].map(|()| case.room(tokens * heads));
    let ([dkey, dvalue], dscale) = ([(); 2].map(|()| case.room(length * narrow)), case.room(1));
    let scales = scaled.then_some(scales_at);
    let args = PrefixArgs { q: q_at, key: key_at, value: value_at, scales, compensate, shape };
    case.run(MAX, |backend| {
        let (q, k, v, dout) = (q_at, k_at, v_at, dout_at);
        for (out, lse, factor) in [(out, lse, 1.0), (half, half_lse, 0.5)] {
            backend.attention(&AttentionArgs { q, k, v, out, lse, segment_start, shape });
            backend.prefix_attention(&args, out, lse, factor);
        }
        backend.prefix_delta(&args, lse, dout, delta);
        let (out, with_delta, rotated_by) = (None, Some(delta), None);
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
            delta: with_delta,
            rotated_by,
            segment_start,
            shape,
        });
        backend.copy(dq, more_dq);
        let accumulate = Accumulate::No;
        backend.prefix_attention_grad(&args, &PrefixGradArgs { lse, dout, delta, dq, dkey, dvalue, accumulate });
        let (dq, dkey, dvalue, accumulate) = (more_dq, added_key, added_value, Accumulate::Yes);
        backend.prefix_attention_grad(&args, &PrefixGradArgs { lse, dout, delta, dq, dkey, dvalue, accumulate });
        backend.scaled_grad(added_value, value_at, scales_at[1], dscale);
    });
    let [q, k, v, key, value, dout, old] = [q, k, v, key, value, dout, old].map(|values| wide(&values));
    let times = |x: &[f64], by: f32| x.iter().map(|x| x * f64::from(by)).collect::<Vec<_>>();
    let sum = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a + b).collect::<Vec<_>>();
    let prefix = [times(&key, by[0]), times(&value, by[1])];
    let reference = PrefixReference {
        text: [&q, &k, &v],
        prefix: [&prefix[0], &prefix[1]],
        compensate,
        segment_start: Some(starts),
        shape,
    };
    let what = format!("a prefix of {length}, {shape:?}, compensated {compensate}, scaled {scaled}");
    let (expected, sums) = reference.attention();
    case.near_rows(out, width, &expected, &format!("attention with {what}"));
    let text = super::attention::attention(&q, &k, &v, Some(starts), shape).0;
    case.near_rows(half, width, &times(&sum(&text, &expected), 0.5), &format!("attention with half of {what}"));
    let of = |i: usize| sums[(i / queries / heads * queries + i % queries) * heads + i / queries % heads];
    case.near_floats(lse, &(0..sums.len()).map(of).collect::<Vec<_>>(), &format!("logarithms of sums with {what}"));
    let [expected_dq, expected_dk, expected_dv, expected_dkey, expected_dvalue] = reference.grad(&dout);
    case.near_rows(dq, width, &expected_dq, &format!("the gradient of queries of {what}"));
    case.near_rows(more_dq, width, &expected_dq, &format!("the gradient of queries of {what}, added"));
    case.near_rows(dk, narrow, &expected_dk, &format!("the gradient of keys of {what}"));
    case.near_rows(dv, narrow, &expected_dv, &format!("the gradient of values of {what}"));
    case.near_floats(dkey, &expected_dkey, &format!("the gradient of the keys of {what}"));
    case.near_floats(dvalue, &expected_dvalue, &format!("the gradient of the values of {what}"));
    case.near_floats(added_key, &sum(&old, &expected_dkey), &format!("the gradient of the keys of {what}, added"));
    let added = sum(&old, &expected_dvalue);
    case.near_floats(added_value, &times(&added, by[1]), &format!("the gradient before the scale of {what}"));
    case.near_floats(dscale, &[dot(&added, &value)], &format!("the gradient of the scale of {what}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_are_slopes() {
        let shape = AttentionShape { batch: 2, queries: 5, start: 0, capacity: 5, heads: 4, kv_heads: 2, head_dim: 3 };
        let numbers = |count: usize, seed: usize| -> Vec<f64> {
            (0..count).map(|i| ((i * 7919 + seed * 104_729) % 1009) as f64 / 504.5 - 1.0).collect()
        };
        let (wide, narrow) = (10 * shape.query_width(), 10 * shape.key_width());
        let all =
            [(wide, 1), (narrow, 2), (narrow, 3), (4 * 6, 4), (4 * 6, 5)].map(|(count, seed)| numbers(count, seed));
        let dout = numbers(wide, 6);
        for compensate in [false, true] {
            let of = |all: &[Vec<f64>; 5]| {
                let [q, k, v, key, value] = all;
                let text = [q.as_slice(), k, v];
                let reference = PrefixReference { text, prefix: [key, value], compensate, segment_start: None, shape };
                (dot(&reference.attention().0, &dout), reference.grad(&dout))
            };
            let grads = of(&all).1;
            for (which, grad) in grads.iter().enumerate() {
                for i in (0..grad.len()).step_by(7) {
                    let [up, down] = [1e-5, -1e-5].map(|by| {
                        let mut moved = all.clone();
                        moved[which][i] += by;
                        of(&moved).0
                    });
                    let slope = (up - down) / 2e-5;
                    assert!((slope - grad[i]).abs() < 1e-8, "{which}, {i}: {slope} and {}", grad[i]);
                }
            }
        }
    }
}
