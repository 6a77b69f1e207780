//! Attention to a prefix, a row of queries at a time: a prefix is short, and needs no matrix of scores.

use crate::backend::cpu::Cpu;
use crate::backend::cpu::simd::exp::exp;
use crate::backend::cpu::simd::isa::{madd, vectorized};
use crate::backend::cpu::simd::reduce::sum_of;
use crate::backend::cpu::simd::tasks::Need;
use crate::backend::cpu::simd::tile::TileMut;
use crate::backend::ops::{MOST_PREFIX, PrefixArgs, PrefixAttention, PrefixGradArgs};
use crate::backend::{Accumulate, AttentionShape};
use crate::memory::{ArenaBorrow, Span};
use crate::quant::fold_lanes;

/// Queries of a task.
const QUERIES: usize = 48;
/// Lanes of a sum over a whole tensor, those of a GPU's block.
const LANES: usize = 256;

/// A number for each key of a prefix.
type Row = [f32; MOST_PREFIX];

/// What one head of keys reads of a prefix: its keys and values begin at `from` of each row.
#[derive(Clone, Copy)]
struct Prefix<'a> {
    key: &'a [f32],
    value: &'a [f32],
    /// What keys and values are multiplied by.
    by: [f32; 2],
    compensate: bool,
    shape: AttentionShape,
    length: usize,
    from: usize,
}

impl<'a> Prefix<'a> {
    fn new(args: &PrefixArgs, slices: &mut ArenaBorrow<'a>) -> Self {
        let (length, shape) = (args.length(), args.shape);
        assert!(shape.heads.is_multiple_of(shape.kv_heads), "{} heads share {}", shape.heads, shape.kv_heads);
        let by = args.scales.map_or([1.0; 2], |scales| scales.map(|span| slices.read::<f32>(span)[0]));
        let [key, value] = [args.key, args.value].map(|span| slices.read::<f32>(span));
        Self { key, value, by, compensate: args.compensate, shape, length, from: 0 }
    }

    /// Of the head of keys whose first column is `from`.
    fn head(self, from: usize) -> Self {
        Self { from, ..self }
    }

    #[inline(always)]
    fn key(&self, j: usize) -> &'a [f32] {
        &self.key[j * self.shape.key_width() + self.from..][..self.shape.head_dim]
    }

    #[inline(always)]
    fn value(&self, j: usize) -> &'a [f32] {
        &self.value[j * self.shape.key_width() + self.from..][..self.shape.head_dim]
    }

    /// What a score is a product times.
    #[inline(always)]
    fn scale(&self) -> f32 {
        self.shape.scale() * self.by[0]
    }

    /// Sets `p` to the softmax over the prefix alone, and gives the logarithm of its sum.
    #[inline(always)]
    fn softmax<const FMA: bool>(&self, q: &[f32], p: &mut Row) -> f32 {
        let (scale, p) = (self.scale(), &mut p[..self.length]);
        let mut most = f32::NEG_INFINITY;
        for (j, p) in p.iter_mut().enumerate() {
            *p = scale * sum_of(q, self.key(j), madd::<FMA>);
            most = if *p > most { *p } else { most };
        }
        let mut sum = 0.0;
        for p in p.iter_mut() {
            *p = exp::<FMA>(*p - most);
            sum += *p;
        }
        p.iter_mut().for_each(|p| *p /= sum);
        most + sum.ln()
    }

    /// Sets `dp` to the products of the output's gradient and values, and gives their mean by `p`.
    #[inline(always)]
    fn products<const FMA: bool>(&self, dout: &[f32], p: &Row, dp: &mut Row) -> f32 {
        let mut mean = 0.0;
        for (j, (dp, p)) in dp[..self.length].iter_mut().zip(p).enumerate() {
            *dp = self.by[1] * sum_of(dout, self.value(j), madd::<FMA>);
            mean = madd::<FMA>(*p, *dp, mean);
        }
        mean
    }
}

impl PrefixAttention for Cpu {
    fn prefix_attention(&mut self, args: &PrefixArgs, out: Span, lse: Span, factor: f32) {
        let (isa, mut scratch, mut slices) = self.begin();
        let (prefix, q) = (Prefix::new(args, &mut slices), slices.read::<f32>(args.q));
        let [out, lse] = [out, lse].map(|span| slices.write::<f32>(span));
        let AttentionShape { batch, queries, heads, head_dim, .. } = args.shape;
        let (group, wide) = (args.shape.group(), args.shape.query_width());
        assert!(q.len() == batch * queries * wide && out.len() == q.len(), "whole rows of queries");
        assert_eq!(lse.len(), batch * heads * queries, "elements of lse");
        let outs = TileMut::new(out, batch * queries, wide, wide).grid(queries, group * head_dim).flat_map(
            |(row, col, tile)| {
                tile.grid(QUERIES, group * head_dim).map(move |(first, _, tile)| (row + first, col, tile))
            },
        );
        let lses = TileMut::new(lse, batch * heads, queries, queries).grid(group, QUERIES);
        let (_, mut areas) = scratch.split(Need::default());
        areas.run(outs.zip(lses), |((row, col, mut out), (_, _, mut lse)), _| {
            let (prefix, mut p) = (prefix.head(col / group), [0.0; MOST_PREFIX]);
            for head in 0..group {
                for i in 0..out.rows() {
                    let q = &q[(row + i) * wide + col + head * head_dim..][..head_dim];
                    let out = &mut out.row(i)[head * head_dim..][..head_dim];
                    let lse = &mut lse.row(head)[i];
                    join(isa, prefix, q, out, lse, factor, &mut p);
                }
            }
        });
    }

    fn prefix_delta(&mut self, args: &PrefixArgs, lse: Span, dout: Span, delta: Span) {
        let (isa, mut scratch, mut slices) = self.begin();
        let prefix = Prefix::new(args, &mut slices);
        let [q, lse, dout] = [args.q, lse, dout].map(|span| slices.read::<f32>(span));
        let delta = slices.write::<f32>(delta);
        let AttentionShape { queries, heads, head_dim, .. } = args.shape;
        assert!(delta.len() == lse.len() && q.len() == lse.len() * head_dim && dout.len() == q.len(), "whole rows");
        if args.compensate {
            delta.fill(0.0);
            return;
        }
        let group = args.shape.group();
        let (_, mut areas) = scratch.split(Need::default());
        // One task: a head of a sequence.
        areas.run(delta.chunks_mut(queries).zip(lse.chunks(queries)).enumerate(), |(i, (delta, lse)), _| {
            let (sequence, head) = (i / heads, i % heads);
            let prefix = prefix.head(head / group * head_dim);
            let (mut p, mut dp) = ([0.0; MOST_PREFIX], [0.0; MOST_PREFIX]);
            for (s, (delta, lse)) in delta.iter_mut().zip(lse).enumerate() {
                let at = ((sequence * queries + s) * heads + head) * head_dim;
                *delta = share(isa, prefix, &q[at..][..head_dim], &dout[at..][..head_dim], *lse, &mut p, &mut dp);
            }
        });
    }

    /// One task is one head of keys, which runs over the tokens in order.
    fn prefix_attention_grad(&mut self, args: &PrefixArgs, grads: &PrefixGradArgs) {
        let (isa, mut scratch, mut slices) = self.begin();
        let prefix = Prefix::new(args, &mut slices);
        let [q, lse, dout, delta] = [args.q, grads.lse, grads.dout, grads.delta].map(|span| slices.read::<f32>(span));
        let [dq, dkey, dvalue] = [grads.dq, grads.dkey, grads.dvalue].map(|span| slices.write::<f32>(span));
        let AttentionShape { queries, heads, head_dim, .. } = args.shape;
        let (group, wide, narrow) = (args.shape.group(), args.shape.query_width(), args.shape.key_width());
        assert!(
            delta.len() == lse.len() && q.len() == lse.len() * head_dim && q.len() % (queries * wide) == 0,
            "whole rows"
        );
        assert!([dout.len(), dq.len()] == [q.len(); 2], "equal lengths");
        assert!([dkey.len(), dvalue.len()] == [prefix.length * narrow; 2], "a gradient for each key and value");
        if grads.accumulate == Accumulate::No {
            dkey.fill(0.0);
            dvalue.fill(0.0);
        }
        let tokens = q.len() / wide;
        let dqs = TileMut::new(dq, tokens, wide, wide).grid(tokens, group * head_dim);
        let dkeys = TileMut::new(dkey, prefix.length, narrow, narrow).grid(prefix.length, head_dim);
        let dvalues = TileMut::new(dvalue, prefix.length, narrow, narrow).grid(prefix.length, head_dim);
        let (_, mut areas) = scratch.split(Need::default());
        areas.run(dqs.zip(dkeys).zip(dvalues), |(((_, col, mut dq), (_, from, mut dkey)), (_, _, mut dvalue)), _| {
            let prefix = prefix.head(from);
            let mut weights = [[0.0; MOST_PREFIX]; 2];
            for token in 0..tokens {
                for head in 0..group {
                    let number = (token / queries * heads + col / head_dim + head) * queries + token % queries;
                    let at = token * wide + col + head * head_dim;
                    let (q, dout) = (&q[at..][..head_dim], &dout[at..][..head_dim]);
                    let dq = &mut dq.row(token)[head * head_dim..][..head_dim];
                    let sums = [lse[number], delta[number]];
                    row_grad(isa, prefix, [q, dout], sums, &mut weights, dq, [&mut dkey, &mut dvalue]);
                }
            }
        });
    }

    /// In the lanes and the order of a GPU's block.
    fn scaled_grad(&mut self, grad: Span, values: Span, scale: Span, dscale: Span) {
        let (_, _, mut slices) = self.begin();
        let (values, scale) = (slices.read::<f32>(values), slices.read::<f32>(scale)[0]);
        let [grad, dscale] = [grad, dscale].map(|span| slices.write::<f32>(span));
        assert!(grad.len() == values.len() && dscale.len() == 1, "as many gradients as values, one of the scale");
        let mut lanes = [0.0f32; LANES];
        for (grad, values) in grad.chunks_mut(LANES).zip(values.chunks(LANES)) {
            for ((lane, grad), value) in lanes.iter_mut().zip(grad).zip(values) {
                *lane += *grad * value;
                *grad *= scale;
            }
        }
        dscale[0] = fold_lanes(lanes, |low, high| low + high);
    }
}

vectorized! {
    /// Joins the prefix to the output and the logarithm of the sum of a query's text.
    fn join(prefix: Prefix<'_>, q: &[f32], out: &mut [f32], lse: &mut f32, factor: f32, p: &mut Row) {
        let own = prefix.softmax::<FMA>(q, p);
        let (low, high) = if own < *lse { (own, *lse) } else { (*lse, own) };
        let all = high + exp::<FMA>(low - high).ln_1p();
        let text = (1.0 - factor) + factor * exp::<FMA>(*lse - all);
        let lambda = if prefix.compensate { 1.0 } else { exp::<FMA>(own - all) };
        let by = factor * lambda * prefix.by[1];
        out.iter_mut().for_each(|x| *x *= text);
        for (j, p) in p[..prefix.length].iter().enumerate() {
            for (x, v) in out.iter_mut().zip(prefix.value(j)) {
                *x = madd::<FMA>(by * p, *v, *x);
            }
        }
        *lse = all;
    }
}

vectorized! {
    /// The sum over the prefix of probability times its gradient.
    fn share(prefix: Prefix<'_>, q: &[f32], dout: &[f32], lse: f32, p: &mut Row, dp: &mut Row) -> f32 {
        let own = prefix.softmax::<FMA>(q, p);
        exp::<FMA>(own - lse) * prefix.products::<FMA>(dout, p, dp)
    }
}

vectorized! {
    /// Adds what one query makes of its gradients. `sums` are the logarithm of the sum over all keys and the sum of
    /// probability times its gradient; `weights` is room.
    fn row_grad(
        prefix: Prefix<'_>,
        rows: [&[f32]; 2],
        sums: [f32; 2],
        weights: &mut [Row; 2],
        dq: &mut [f32],
        to: [&mut TileMut<'_>; 2],
    ) {
        let [dkey, dvalue] = to;
        let ([q, dout], [lse, delta], [p, dp]) = (rows, sums, weights);
        let own = prefix.softmax::<FMA>(q, p);
        let mean = prefix.products::<FMA>(dout, p, dp);
        let lambda = exp::<FMA>(own - lse);
        // What the weights are p times, and what their gradients are counted from.
        let (by, base) = if prefix.compensate { (1.0, madd::<FMA>(lambda, delta, mean)) } else { (lambda, delta) };
        for j in 0..prefix.length {
            let weight = by * p[j];
            let ds = weight * (dp[j] - base);
            let (to_q, to_key) = (ds * prefix.scale(), ds * prefix.shape.scale());
            for (x, k) in dq.iter_mut().zip(prefix.key(j)) {
                *x = madd::<FMA>(to_q, *k, *x);
            }
            for (x, q) in dkey.row(j).iter_mut().zip(q) {
                *x = madd::<FMA>(to_key, *q, *x);
            }
            for (x, dout) in dvalue.row(j).iter_mut().zip(dout) {
                *x = madd::<FMA>(weight, *dout, *x);
            }
        }
    }
}
