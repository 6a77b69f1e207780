//! What every operation computes, written to be read: naive loops in float64. Tests and benchmarks measure the fast
//! paths against these; letters are those of [`crate::backend`].

use crate::backend::{AttentionShape, IGNORE, Rotation};
use crate::quant::{GroupedShape, WeightCodec, WeightFormat, nibble};
use half::{bf16, f16};

/// The values of float32 numbers.
pub fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// A weight as plain bytes, as its planes lie in memory.
#[derive(Clone, Debug)]
pub struct Planes {
    /// Rows, columns, group.
    pub shape: GroupedShape,
    /// How `data` is to be read.
    pub format: WeightFormat,
    /// Floats, bytes or nibbles.
    pub data: Vec<u8>,
    /// f16, one per group.
    pub scales: Vec<u16>,
    /// f16, one per group.
    pub offsets: Vec<u16>,
}

impl Planes {
    /// What products see: `[rows, cols]`.
    pub fn values(&self) -> Vec<f64> {
        let GroupedShape { rows, cols, group, .. } = self.shape;
        let places = (0..rows).flat_map(|row| (0..cols).map(move |col| (row, col)));
        let group_of = |row: usize, col: usize| row * self.shape.groups_per_row() + col / group;
        let padded = |row: usize, col: usize| row * self.shape.padded_cols() + col;
        let scale = |plane: &[u16], g: usize| f16::from_bits(plane[g]).to_f64();
        // A decoder of its own: what is under test shares no code with what it is held against.
        match self.format.codec() {
            WeightCodec::F32 => match self.format.simulates() {
                None => wide(&self.floats()),
                Some(codec) => {
                    let floats = self.floats();
                    let groups = floats.chunks(cols).flat_map(|row| row.chunks(group));
                    groups.flat_map(|group| round_group(group, codec.has_offsets())).collect()
                }
            },
            WeightCodec::F16 => panic!("only files hold f16"),
            WeightCodec::Bf16 => {
                let bits = |b: &[u8]| bf16::from_le_bytes([b[0], b[1]]).to_f64();
                self.data.chunks_exact(2).map(bits).collect()
            }
            WeightCodec::Int8 => places
                .map(|(r, c)| scale(&self.scales, group_of(r, c)) * f64::from(self.data[padded(r, c)] as i8))
                .collect(),
            WeightCodec::Int4 => places
                .map(|(r, c)| scale(&self.scales, group_of(r, c)) * (f64::from(nibble(&self.data, padded(r, c))) - 8.0))
                .collect(),
            WeightCodec::Int4Offset => places
                .map(|(r, c)| {
                    let (code, g) = (f64::from(nibble(&self.data, padded(r, c))), group_of(r, c));
                    scale(&self.scales, g) * code + scale(&self.offsets, g)
                })
                .collect(),
        }
    }

    fn floats(&self) -> Vec<f32> {
        self.data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }
}

/// The four-bit rounding of arXiv 2502.17055 (asymmetric) and its symmetric counterpart. In float32, as the fast path:
/// which neighbour a quotient is rounded to is part of the definition.
fn round_group(x: &[f32], asymmetric: bool) -> Vec<f64> {
    let (low, high) = x.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &x| (low.min(x), high.max(x)));
    let round = |x: &f32| {
        if asymmetric {
            let scale = (high - low).max(1e-5) / 15.0;
            let zero = (-(low / scale).round_ties_even()).clamp(0.0, 15.0);
            scale * (((x / scale).round_ties_even() + zero).clamp(0.0, 15.0) - zero)
        } else {
            let scale = high.abs().max(low.abs()).max(1e-5) / 7.0;
            scale * (x / scale).round_ties_even().clamp(-8.0, 7.0)
        }
    };
    x.iter().map(|x| f64::from(round(x))).collect()
}

/// `a[m, k] b[k, n]`.
fn multiply(a: &[f64], b: &[f64], (m, k, n): (usize, usize, usize)) -> Vec<f64> {
    let mut out = vec![0.0; m * n];
    for i in 0..m {
        for l in 0..k {
            for j in 0..n {
                out[i * n + j] += a[i * k + l] * b[l * n + j];
            }
        }
    }
    out
}

fn transpose(a: &[f64], rows: usize, cols: usize) -> Vec<f64> {
    (0..rows * cols).map(|i| a[i % rows * cols + i / rows]).collect()
}

/// `x[T, I] w[O, I]^T`.
pub fn linear(x: &[f64], w: &[f64], inputs: usize) -> Vec<f64> {
    let outputs = w.len() / inputs;
    multiply(x, &transpose(w, outputs, inputs), (x.len() / inputs, inputs, outputs))
}

/// `dy[T, O] w[O, I]`.
pub fn linear_grad_input(dy: &[f64], w: &[f64], inputs: usize) -> Vec<f64> {
    let outputs = w.len() / inputs;
    multiply(dy, w, (dy.len() / outputs, outputs, inputs))
}

/// `dy[T, O]^T x[T, I]`.
pub fn linear_grad_weight(dy: &[f64], x: &[f64], outputs: usize) -> Vec<f64> {
    let tokens = dy.len() / outputs;
    multiply(&transpose(dy, tokens, outputs), x, (outputs, tokens, x.len() / tokens))
}

/// The output and `1 / rms` of each row.
pub fn rms_norm(x: &[f64], gain: &[f64], eps: f64) -> (Vec<f64>, Vec<f64>) {
    let width = gain.len();
    let inverse = |row: &[f64]| 1.0 / (row.iter().map(|x| x * x).sum::<f64>() / width as f64 + eps).sqrt();
    let inv_rms: Vec<f64> = x.chunks(width).map(inverse).collect();
    let out = x.iter().enumerate().map(|(i, x)| x * inv_rms[i / width] * gain[i % width]).collect();
    (out, inv_rms)
}

/// Gradients of `x` and `gain`.
pub fn rms_norm_grad(x: &[f64], gain: &[f64], inv_rms: &[f64], dout: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let width = gain.len();
    let (mut dx, mut dgain) = (vec![0.0; x.len()], vec![0.0; width]);
    for (t, &inv) in inv_rms.iter().enumerate() {
        let at = |i: usize| t * width + i;
        let mean = (0..width).map(|i| dout[at(i)] * gain[i] * x[at(i)] * inv).sum::<f64>() / width as f64;
        for i in 0..width {
            let n = x[at(i)] * inv;
            dx[at(i)] = inv * (dout[at(i)] * gain[i] - n * mean);
            dgain[i] += dout[at(i)] * n;
        }
    }
    (dx, dgain)
}

/// Each head of `x` rotated.
pub fn rope(x: &[f64], table: &[f64], rotation: Rotation) -> Vec<f64> {
    let Rotation { heads, head_dim, queries, start, inverse } = rotation;
    let half = head_dim / 2;
    let rotated = |at: usize| {
        let (i, position) = (at % head_dim, start + at / (heads * head_dim) % queries);
        let angle = (position * half + i % half) * 2;
        let (cos, sin) = (table[angle], if inverse { -table[angle + 1] } else { table[angle + 1] });
        if i < half { x[at] * cos - x[at + half] * sin } else { x[at] * cos + x[at - half] * sin }
    };
    (0..x.len()).map(rotated).collect()
}

/// One query of an attention: where it and its keys lie.
struct Query {
    q: usize,
    lse: usize,
    /// Starts of the visible rows of `k` and `v`.
    keys: Vec<usize>,
}

fn each_query(shape: AttentionShape, first: Option<&[u32]>) -> impl Iterator<Item = Query> {
    let AttentionShape { batch, queries, start, capacity, heads, kv_heads, head_dim } = shape;
    (0..batch * queries * heads).map(move |i| {
        let (b, s, h) = (i / heads / queries, i / heads % queries, i % heads);
        let kv = h / (heads / kv_heads);
        let key = |j| ((b * capacity + j) * kv_heads + kv) * head_dim;
        let from = first.map_or(0, |first| first[b * queries + s] as usize);
        Query { q: i * head_dim, lse: (b * heads + h) * queries + s, keys: (from..=start + s).map(key).collect() }
    })
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `out` and `lse`.
pub fn attention(
    q: &[f64],
    k: &[f64],
    v: &[f64],
    first: Option<&[u32]>,
    shape: AttentionShape,
) -> (Vec<f64>, Vec<f64>) {
    let d = shape.head_dim;
    let (mut out, mut lse) = (vec![0.0; q.len()], vec![0.0; q.len() / d]);
    for query in each_query(shape, first) {
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
    first: Option<&[u32]>,
    shape: AttentionShape,
) -> [Vec<f64>; 3] {
    let (d, scale) = (shape.head_dim, 1.0 / (shape.head_dim as f64).sqrt());
    let (_, lse) = attention(q, k, v, first, shape);
    let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
    for query in each_query(shape, first) {
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

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `silu(gate) up`.
pub fn swiglu(gate: &[f64], up: &[f64]) -> Vec<f64> {
    gate.iter().zip(up).map(|(g, u)| g * sigmoid(*g) * u).collect()
}

/// Gradients of `gate` and `up`.
pub fn swiglu_grad(gate: &[f64], up: &[f64], dout: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let one = |((&g, &u), &d): ((&f64, &f64), &f64)| {
        let s = sigmoid(g);
        (d * u * s * (1.0 + g * (1.0 - s)), d * g * s)
    };
    gate.iter().zip(up).zip(dout).map(one).unzip()
}

/// The losses, and the gradient of their sum.
pub fn cross_entropy(logits: &[f64], targets: &[u32], vocab: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut losses, mut grad) = (vec![0.0; targets.len()], vec![0.0; logits.len()]);
    for (t, &target) in targets.iter().enumerate().filter(|(_, target)| **target != IGNORE) {
        let row = &logits[t * vocab..][..vocab];
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let lse = max + row.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
        losses[t] = lse - row[target as usize];
        (0..vocab).for_each(|i| grad[t * vocab + i] = (row[i] - lse).exp() - f64::from(i == target as usize));
    }
    (losses, grad)
}

/// Rows of `features` elements in groups of 256: the two largest magnitudes exact, the others in four bits. In
/// float32, for the same reason as [`round_group`].
pub fn quantize_activations(x: &[f32], features: usize) -> Vec<f32> {
    let mut out = x.to_vec();
    for group in out.chunks_mut(features).flat_map(|row| row.chunks_mut(256)) {
        let mut order: Vec<usize> = (0..group.len()).collect();
        order.sort_by(|&a, &b| group[b].abs().total_cmp(&group[a].abs()));
        let others = order.split_off(2.min(group.len()));
        let scale = others.first().map_or(0.0, |&i| group[i].abs()) / 7.0;
        for i in others.into_iter().filter(|_| scale != 0.0) {
            group[i] = scale * (group[i] / scale).round_ties_even();
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::testing::Random;
    use super::*;

    /// Checks `grad`, the gradient of `sum(weights f(x))`, by central differences.
    fn check(x: &[f64], grad: &[f64], weights: &[f64], f: impl Fn(&[f64]) -> Vec<f64>) {
        const STEP: f64 = 1e-5;
        let loss = |x: &[f64]| dot(&f(x), weights);
        for i in 0..x.len() {
            let moved = |by: f64| {
                let mut x = x.to_vec();
                x[i] += by;
                loss(&x)
            };
            let slope = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
            // The differences' own error: STEP^2 times a third derivative, and float64's rounding over STEP.
            assert!((slope - grad[i]).abs() < 1e-7, "element {i}: {slope} and {}", grad[i]);
        }
    }

    fn random(random: &mut Random, n: usize) -> Vec<f64> {
        wide(&random.floats(n))
    }

    #[test]
    fn gradients_of_products_are_slopes() {
        let mut r = Random(1);
        let (x, w, dy) = (random(&mut r, 3 * 5), random(&mut r, 4 * 5), random(&mut r, 3 * 4));
        check(&x, &linear_grad_input(&dy, &w, 5), &dy, |x| linear(x, &w, 5));
        check(&w, &linear_grad_weight(&dy, &x, 4), &dy, |w| linear(&x, w, 5));
    }

    #[test]
    fn gradients_of_the_norm_are_slopes() {
        let mut r = Random(2);
        let (x, gain, dout) = (random(&mut r, 3 * 7), random(&mut r, 7), random(&mut r, 3 * 7));
        let (dx, dgain) = rms_norm_grad(&x, &gain, &rms_norm(&x, &gain, 1e-3).1, &dout);
        check(&x, &dx, &dout, |x| rms_norm(x, &gain, 1e-3).0);
        check(&gain, &dgain, &dout, |gain| rms_norm(&x, gain, 1e-3).0);
    }

    #[test]
    fn gradients_of_attention_are_slopes() {
        let mut r = Random(3);
        let shape = AttentionShape { batch: 2, queries: 5, start: 0, capacity: 5, heads: 4, kv_heads: 2, head_dim: 3 };
        let (q, k, v) = (random(&mut r, 120), random(&mut r, 60), random(&mut r, 60));
        let dout = random(&mut r, 120);
        for first in [None, Some(&[0, 0, 2, 2, 2, 0, 1, 1, 3, 4][..])] {
            let [dq, dk, dv] = attention_grad(&q, &k, &v, &dout, first, shape);
            check(&q, &dq, &dout, |q| attention(q, &k, &v, first, shape).0);
            check(&k, &dk, &dout, |k| attention(&q, k, &v, first, shape).0);
            check(&v, &dv, &dout, |v| attention(&q, &k, v, first, shape).0);
        }
    }

    #[test]
    fn gradients_of_swiglu_are_slopes() {
        let mut r = Random(4);
        let [gate, up, dout] = [(); 3].map(|()| random(&mut r, 9));
        let (dgate, dup) = swiglu_grad(&gate, &up, &dout);
        check(&gate, &dgate, &dout, |gate| swiglu(gate, &up));
        check(&up, &dup, &dout, |up| swiglu(&gate, up));
    }

    #[test]
    fn gradients_of_the_loss_are_slopes() {
        let logits = random(&mut Random(5), 3 * 6);
        let targets = [2, IGNORE, 5];
        let (_, grad) = cross_entropy(&logits, &targets, 6);
        check(&logits, &grad, &[1.0; 3], |logits| cross_entropy(logits, &targets, 6).0);
    }

    #[test]
    fn rotating_there_and_back_changes_nothing() {
        let mut r = Random(6);
        let x = random(&mut r, 2 * 3 * 2 * 6);
        let angles = random(&mut r, 5 * 3);
        let table: Vec<f64> = angles.iter().flat_map(|a| [a.cos(), a.sin()]).collect();
        let there = Rotation { heads: 2, head_dim: 6, queries: 3, start: 2, inverse: false };
        let back = rope(&rope(&x, &table, there), &table, Rotation { inverse: true, ..there });
        assert!(x.iter().zip(back).all(|(x, back)| (x - back).abs() < 1e-14));
    }
}
