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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::testing::{Random, wide_floats as random};

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
