//! What attention and its gradient must give in float64, and how far bfloat16 may be from it.
//!
//! Inputs are bfloat16 already. Three things are rounded to bfloat16 on the way, each by a relative error of at most
//! U: the probabilities before they meet values or gradients of outputs, the gradients of scores before they meet
//! queries or keys, and results. The first two are sums of many terms whose roundings are independent and evenly
//! spread, so their sum has a standard deviation of U / sqrt(3) times the root of the sum of squares; six of them are
//! allowed (for few terms this is more than all roundings at their worst). Everything else is float32.

use tetrad::backend::AttentionShape;

/// Half a unit in the last place of a bfloat16, relative to the smallest number with that exponent.
const U: f64 = 1.0 / 256.0;

/// Operands: `q` and `dout` are `[B, S, H, D]`, `k` and `v` are `[B, capacity, K, D]`, `first` is `[B, S]`.
pub struct Problem {
    pub shape: AttentionShape,
    pub q: Vec<f64>,
    pub k: Vec<f64>,
    pub v: Vec<f64>,
    pub dout: Vec<f64>,
    pub first: Vec<u32>,
}

/// Values and the distance that is allowed from each.
pub struct Expected {
    pub value: Vec<f64>,
    pub allowed: Vec<f64>,
}

/// Sums of terms that were rounded one by one.
struct Sums {
    value: Vec<f64>,
    squares: Vec<f64>,
    magnitude: Vec<f64>,
}

impl Sums {
    fn new(count: usize) -> Self {
        Self { value: vec![0.0; count], squares: vec![0.0; count], magnitude: vec![0.0; count] }
    }

    fn add(&mut self, at: usize, term: f64) {
        self.value[at] += term;
        self.squares[at] += term * term;
        self.magnitude[at] += term.abs();
    }

    /// `float32` is the relative error of a term before it is rounded.
    fn rounded(self, float32: f64) -> Expected {
        let allowed = (0..self.value.len()).map(|i| {
            6.0 * U / 3f64.sqrt() * self.squares[i].sqrt() + U * self.value[i].abs() + float32 * self.magnitude[i]
        });
        Expected { allowed: allowed.collect(), value: self.value }
    }
}

/// One query of one head: where its rows are, and the keys that it sees with their probabilities.
struct Row {
    q: usize,
    lse: usize,
    log_sum: f64,
    /// Starts of the rows of `k` and `v`, and probabilities.
    keys: Vec<(usize, f64)>,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

impl Problem {
    fn scale(&self) -> f64 {
        1.0 / (self.shape.head_dim as f64).sqrt()
    }

    fn rows(&self) -> impl Iterator<Item = Row> {
        let AttentionShape { batch, queries, start, capacity, heads, kv_heads, head_dim } = self.shape;
        (0..batch * queries * heads).map(move |i| {
            let (b, s, h) = (i / heads / queries, i / heads % queries, i % heads);
            let seen = self.first[b * queries + s] as usize..=start + s;
            let at = |key: usize| ((b * capacity + key) * kv_heads + h / (heads / kv_heads)) * head_dim;
            let q = &self.q[i * head_dim..][..head_dim];
            let scores: Vec<(usize, f64)> =
                seen.map(at).map(|at| (at, dot(q, &self.k[at..][..head_dim]) * self.scale())).collect();
            let highest = scores.iter().map(|key| key.1).fold(f64::NEG_INFINITY, f64::max);
            let log_sum = highest + scores.iter().map(|key| (key.1 - highest).exp()).sum::<f64>().ln();
            let keys = scores.into_iter().map(|(at, score)| (at, (score - log_sum).exp())).collect();
            Row { q: i * head_dim, lse: (b * heads + h) * queries + s, log_sum, keys }
        })
    }

    /// What float32 may be off in a score, and so relatively in a probability: the tensor cores' sums are cut off, not
    /// rounded, at the last bit of the largest term, and there are up to sixteen of them.
    fn score_error(&self) -> f64 {
        let largest = |x: &[f64]| x.iter().fold(0f64, |most, x| most.max(x.abs()));
        let d = self.shape.head_dim;
        let norm = |x: &[f64]| x.chunks(d).map(|x| dot(x, x).sqrt()).filter(|x| !x.is_nan()).fold(0.0, f64::max);
        debug_assert!(largest(&self.q) > 0.0);
        16.0 * 2f64.powi(-24) * norm(&self.q) * norm(&self.k) * self.scale() + 4e-6
    }

    /// `out` and `lse`.
    pub fn attention(&self) -> [Expected; 2] {
        let (d, error) = (self.shape.head_dim, self.score_error());
        let (mut out, mut lse) = (Sums::new(self.q.len()), vec![0.0; self.q.len() / d]);
        for row in self.rows() {
            lse[row.lse] = row.log_sum;
            for (key, p) in row.keys {
                (0..d).for_each(|i| out.add(row.q + i, p * self.v[key + i]));
            }
        }
        let allowed = lse.iter().map(|x| error + 1e-6 * x.abs()).collect();
        [out.rounded(error), Expected { value: lse, allowed }]
    }

    /// `dq`, `dk` and `dv`; `from_out` if the products of outputs with their gradients are formed from rounded outputs.
    pub fn gradient(&self, from_out: bool) -> [Expected; 3] {
        let (d, scale) = (self.shape.head_dim, self.scale());
        let [mut dq, mut dk, mut dv] = [self.q.len(), self.k.len(), self.v.len()].map(Sums::new);
        for row in self.rows() {
            let (q, dout) = (&self.q[row.q..][..d], &self.dout[row.q..][..d]);
            let dp: Vec<f64> = row.keys.iter().map(|&(key, _)| dot(dout, &self.v[key..][..d])).collect();
            let delta: f64 = row.keys.iter().zip(&dp).map(|((_, p), dp)| p * dp).sum();
            // The squares of what was rounded in it: probabilities, then outputs.
            let mut rounded: f64 = row.keys.iter().zip(&dp).map(|((_, p), dp)| (p * dp).powi(2)).sum();
            for (i, dout) in dout.iter().enumerate() {
                let out: f64 = row.keys.iter().map(|&(key, p)| p * self.v[key + i]).sum();
                rounded += (dout * out).powi(2);
            }
            let rounded = if from_out { rounded } else { 0.0 };
            for (&(key, p), dp) in row.keys.iter().zip(&dp) {
                let ds = p * (dp - delta) * scale;
                for i in 0..d {
                    dv.add(key + i, p * dout[i]);
                    dk.add(key + i, ds * q[i]);
                    dk.squares[key + i] += (p * scale * q[i]).powi(2) * rounded;
                    dq.add(row.q + i, ds * self.k[key + i]);
                    // Differences of products have the error of the products.
                    let whole = p * scale * (dp.abs() + delta.abs());
                    dk.magnitude[key + i] += (whole * q[i]).abs();
                    dq.magnitude[row.q + i] += (whole * self.k[key + i]).abs();
                }
            }
            for i in 0..d {
                let mean: f64 = row.keys.iter().map(|&(key, p)| p * self.k[key + i]).sum();
                dq.squares[row.q + i] += (mean * scale).powi(2) * rounded;
            }
        }
        let error = self.score_error();
        [dq, dk, dv].map(|sums| sums.rounded(error))
    }
}
