//! Rotary position embedding.

use super::conformance::{Case, MAX};
use super::reference::wide;
use crate::backend::Backend;
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
    /// `[positions, D/2, 2]` of cosine and sine. With `segment_start`, u32 `[B, S]` as in [`super::AttentionArgs`], positions
    /// are counted anew in each segment: `start + s - segment_start[s]`.
    fn rope(&mut self, x: Span, table: Span, rotation: Rotation, segment_start: Option<Span>);
}

/// Each head of `x` rotated.
pub fn rope(x: &[f64], table: &[f64], rotation: Rotation, segment_start: Option<&[u32]>) -> Vec<f64> {
    let Rotation { heads, head_dim, queries, start, inverse } = rotation;
    let half = head_dim / 2;
    let rotated = |at: usize| {
        let (i, token) = (at % head_dim, at / (heads * head_dim));
        let position = start + token % queries - segment_start.map_or(0, |start| start[token] as usize);
        let angle = (position * half + i % half) * 2;
        let (cos, sin) = (table[angle], if inverse { -table[angle + 1] } else { table[angle + 1] });
        if i < half { x[at] * cos - x[at + half] * sin } else { x[at] * cos + x[at - half] * sin }
    };
    (0..x.len()).map(rotated).collect()
}

/// See [`super::conformance::check`].
pub(super) fn conformance(open: &dyn Fn() -> Box<dyn Backend>) {
    for (batch, heads, head_dim, queries, start) in [(2, 1, 2, 5, 0), (1, 3, 6, 4, 7), (3, 2, 32, 3, 1)] {
        for inverse in [false, true] {
            let (mut case, width) = (Case::new(open, queries as u64), heads * head_dim);
            let x = case.numbers(batch * queries * width);
            let angle = |i: usize| if i.is_multiple_of(2) { (i as f32).cos() } else { (i as f32 - 1.0).sin() };
            let table: Vec<f32> = (0..(start + queries) * head_dim).map(angle).collect();
            let [x_at, in_segments] = [(); 2].map(|()| case.activations(&x, width));
            let segment = |i: usize| if i % queries < queries / 2 { 0 } else { queries as u32 / 2 };
            let starts: Vec<u32> = (0..batch * queries).map(segment).collect();
            let (table_at, starts_at) = (case.add(&table), case.add(&starts));
            let rotation = Rotation { heads, head_dim, queries, start, inverse };
            case.run(MAX, |backend| {
                backend.rope(x_at, table_at, rotation, None);
                backend.rope(in_segments, table_at, rotation, Some(starts_at));
            });
            let [x, table] = [x, table].map(|values| wide(&values));
            case.near_rows(x_at, width, &rope(&x, &table, rotation, None), "a rotation");
            let expected = rope(&x, &table, rotation, Some(&starts));
            case.near_rows(in_segments, width, &expected, "a rotation of segments");
        }
    }
}
