//! Rotary position embedding.

use crate::memory::Span;

/// What [`Rope::rope`] rotates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// Heads of a token: H for queries, K for keys.
    pub heads: usize,
    /// D, even.
    pub head_dim: usize,
    /// S
    pub queries: usize,
    /// Position of the first query; zero in training.
    pub start: usize,
    /// Whether to rotate back, as the gradient does.
    pub inverse: bool,
}

/// The rotation of queries and keys.
pub trait Rope {
    /// Rotates each head of the activations `x` `[B, S, heads, D]` in place, in the half-split order (element i of a
    /// head is paired with element i + D/2): sequence position `start + s` uses row `start + s` of `table`, float32
    /// `[positions, D/2, 2]` of cosine and sine.
    fn rope(&mut self, x: Span, table: Span, rotation: Rotation);
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
