//! Attention of a few new tokens, as writing a text asks for: a query and head at a time. A block of 48 queries would be
//! almost empty, and laying its keys and values out would take longer than reading them once.

use super::linear::SMALL_BATCH;
use crate::backend::AttentionShape;
use crate::backend::cpu::simd;
use crate::backend::cpu::simd::exp::exp;
use crate::backend::cpu::simd::isa::{Isa, madd, vectorized};
use crate::backend::cpu::simd::reduce::{max, sum_of};
use crate::backend::cpu::simd::tasks::{Need, Scratch};
use crate::backend::cpu::simd::tile::TileMut;

/// What attention reads.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub q: &'a [f32],
    pub k: &'a [f32],
    pub v: &'a [f32],
    pub segment_start: Option<&'a [u32]>,
}

/// Whether these are few enough: as many as products take one by one.
pub(super) fn few(shape: &AttentionShape) -> bool {
    shape.queries <= SMALL_BATCH
}

/// Sets `out` and `lse`; the scratch of [`super::attention::need`] holds more than the scores of a query.
pub(super) fn attention_decode(
    isa: Isa,
    mut scratch: Scratch<'_>,
    inputs: Inputs<'_>,
    out: &mut [f32],
    lse: &mut [f32],
    shape: AttentionShape,
) {
    let AttentionShape { batch, queries, start, capacity, heads, head_dim, .. } = shape;
    let (group, wide, width) = (shape.group(), shape.query_width(), shape.key_width());
    let (_, mut areas) = scratch.split(Need { shared: 0, private: start + queries });
    // One task: a head of a query.
    let outs = TileMut::new(out, batch * queries, wide, wide).grid(1, head_dim);
    let lses = TileMut::new(lse, batch * heads, queries, queries).grid(heads, 1);
    let lses = lses.flat_map(|(_, _, tile)| tile.grid(1, 1));
    areas.run(outs.zip(lses), |((row, col, mut out), (_, _, mut lse)), scores| {
        let low = inputs.segment_start.map_or(0, |start| start[row] as usize);
        let keys = start + row % queries + 1 - low;
        let from = (row / queries * capacity + low) * width + col / head_dim / group * head_dim;
        let (q, k, v) = (&inputs.q[row * wide + col..][..head_dim], &inputs.k[from..], &inputs.v[from..]);
        lse.row(0)[0] = attend(isa, q, (k, v, width), shape.scale(), &mut scores[..keys], out.row(0));
    });
}

/// Sets `out` to the mean of values by the softmax of a query's scores, and gives the logarithm of its sum. There are
/// `scores.len()` keys and values, in rows `width` apart.
fn attend(
    isa: Isa,
    q: &[f32],
    (k, v, width): (&[f32], &[f32], usize),
    scale: f32,
    scores: &mut [f32],
    out: &mut [f32],
) -> f32 {
    simd::scores::scores(isa, q, k, width, scores);
    let (sum, lse) = softmax(isa, scores, scale);
    mean(isa, scores, v, width, 1.0 / sum, out);
    lse
}

vectorized! {
    /// Replaces scores by the numerators of their softmax; gives the sum of those, and its logarithm with the greatest
    /// score in it.
    fn softmax(scores: &mut [f32], scale: f32) -> (f32, f32) {
        let most = max(scores);
        scores.iter_mut().for_each(|score| *score = exp::<FMA>((*score - most) * scale));
        let sum = sum_of(scores, scores, |score, _, sum| sum + score);
        (sum, madd::<FMA>(most, scale, sum.ln()))
    }
}

/// Columns of values that are summed at once, in registers.
const COLUMNS: usize = 64;

vectorized! {
    /// Sets `out` to the sum of values times their weights, times `by`.
    fn mean(weights: &[f32], v: &[f32], width: usize, by: f32, out: &mut [f32]) {
        for (block, out) in out.chunks_mut(COLUMNS).enumerate() {
            let mut sums = [0.0; COLUMNS];
            for (&weight, value) in weights.iter().zip(v.chunks(width)) {
                let value = &value[block * COLUMNS..][..out.len()];
                match <&[f32; COLUMNS]>::try_from(value) {
                    Ok(value) => (0..COLUMNS).for_each(|c| sums[c] = madd::<FMA>(weight, value[c], sums[c])),
                    Err(_) => sums.iter_mut().zip(value).for_each(|(sum, &x)| *sum = madd::<FMA>(weight, x, *sum)),
                }
            }
            out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum * by);
        }
    }
}
