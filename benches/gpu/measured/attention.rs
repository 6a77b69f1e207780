//! Attention at the sizes of a 1b model, and whether it is right there.

use super::Sizes;
use super::report::Table;
use crate::harness::operands::{Harness, floats, words};
use half::bf16;
use tetrad::backend::cuda::Cuda;
use tetrad::backend::prelude::*;
use tetrad::backend::{AttentionArgs, AttentionGradArgs, AttentionShape};
use tetrad::memory::Span;

/// Causal attention, counted as half of the full square; backward as 2.5 times forward.
pub fn attention(table: &mut Table, sizes: &Sizes) {
    for (queries, head_dim) in sizes.sequences.into_iter().flat_map(|queries| [(queries, 64), (queries, 128)]) {
        let (batch, heads) = (sizes.tokens / queries, sizes.hidden / head_dim);
        let shape = AttentionShape { batch, queries, start: 0, capacity: queries, heads, kv_heads: heads, head_dim };
        let count = batch * queries * heads * head_dim;
        let mut harness = Harness::default();
        let [q, k, v, dout] = [1, 2, 3, 4].map(|seed| harness.random_activations(seed, count));
        let [out, dq, dk, dv] = [(); 4].map(|()| harness.unfilled(2 * count));
        let lse = harness.unfilled(4 * batch * heads * queries);
        let angles = harness.add(&floats(5, queries * head_dim));
        let mut cuda = harness.open(&sizes.largest(batch * queries, heads * head_dim));
        let work = 2.0 * (count * queries) as f64;
        let name = format!("{batch} x {queries}, {heads} heads of {head_dim}");
        let segment_start = None;
        let args = AttentionArgs { q, k, v, out, lse, segment_start, shape };
        cuda.attention(&args);
        check(&cuda, &args);
        let forward = sizes.time(&mut cuda, |cuda| cuda.attention(&args));
        table.rate("attention", &name, forward, work);
        let (out, delta, rotated_by) = (Some(out), None, None);
        let args = AttentionGradArgs { q, k, v, out, lse, dout, dq, dk, dv, delta, rotated_by, segment_start, shape };
        let backward = sizes.time(&mut cuda, |cuda| cuda.attention_grad(&args));
        table.rate("attention, gradients", &name, backward, 2.5 * work);
        // What is one pass for the shorter sequences of narrow heads, and beside it what it takes the place of.
        let twice = sizes.time(&mut cuda, |cuda| cuda.attention_grad_in_two_passes(&args));
        table.rate("attention, gradients in two passes", &name, twice, 2.5 * work);
        let args = AttentionGradArgs { rotated_by: Some(angles), ..args };
        let rotated = sizes.time(&mut cuda, |cuda| cuda.attention_grad(&args));
        table.rate("attention, gradients rotated back", &name, rotated, 2.5 * work);
        let twice = sizes.time(&mut cuda, |cuda| cuda.attention_grad_in_two_passes(&args));
        table.rate("attention, gradients in two passes, rope", &name, twice, 2.5 * work);
    }
}

/// Queries that are compared with float64, and elements of each.
const CHECKED: usize = 200;

/// The outputs of some queries against float64. Probabilities and outputs are rounded to bf16, each by 2^-9 of what it is
/// at most.
fn check(cuda: &Cuda, args: &AttentionArgs) {
    let [q, k, v, out] = [args.q, args.k, args.v, args.out].map(|span| read(cuda, span));
    let AttentionShape { batch, queries, heads, head_dim, .. } = args.shape;
    let row = heads * head_dim;
    let places: Vec<usize> = words(11, 3 * CHECKED).map(|word| word as usize).collect();
    for place in places.chunks_exact(3) {
        let (b, s, h) = (place[0] % batch, place[1] % queries, place[2] % heads);
        let at = |position: usize| (b * queries + position) * row + h * head_dim;
        let query = &q[at(s)..][..head_dim];
        let scores: Vec<f64> = (0..=s)
            .map(|j| {
                query.iter().zip(&k[at(j)..][..head_dim]).map(|(a, b)| a * b).sum::<f64>() / (head_dim as f64).sqrt()
            })
            .collect();
        let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores.iter().map(|score| (score - most).exp()).sum();
        for i in 0..head_dim {
            let terms = scores.iter().enumerate().map(|(j, score)| (score - most).exp() / sum * v[at(j) + i]);
            let (wanted, size) = terms.fold((0.0, 0.0), |(all, size), x| (all + x, size + x.abs()));
            let found = out[at(s) + i];
            assert!((found - wanted).abs() <= size / 128.0, "out[{b}][{s}][{h}][{i}] is {found}, not {wanted}");
        }
    }
}

fn read(cuda: &Cuda, span: Span) -> Vec<f64> {
    let mut bytes = vec![0u8; span.bytes];
    cuda.download(span, &mut bytes);
    bytes.chunks_exact(2).map(|b| bf16::from_bits(u16::from_le_bytes([b[0], b[1]])).to_f64()).collect()
}
