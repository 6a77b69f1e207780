//! Rotary position embedding in the half-split order: element i of a head is paired with element i + D/2.

use crate::backend::Rotation;
use crate::backend::cpu::Cpu;
use crate::backend::cpu::simd::isa::{madd, vectorized};
use crate::backend::cpu::simd::tasks::Need;
use crate::backend::ops::Rope;
use crate::memory::Span;

/// Tokens of a task.
const BLOCK: usize = 64;

impl Rope for Cpu {
    fn rope(&mut self, x: Span, table: Span, rotation: Rotation, segment_start: Option<Span>) {
        let (isa, mut scratch, mut slices) = self.begin();
        let (table, x) = (slices.read::<f32>(table), slices.write::<f32>(x));
        let segment_start = segment_start.map(|span| slices.read::<u32>(span));
        let Rotation { head_dim, heads, queries, start, .. } = rotation;
        let width = heads * head_dim;
        assert!(head_dim % 2 == 0, "heads of {head_dim} elements have no halves");
        assert!(x.len().is_multiple_of(queries * width), "whole sequences");
        let tokens = x.len() / width;
        assert!(segment_start.is_none_or(|start| start.len() == tokens), "a segment's start for each token");
        assert!((start + queries) * head_dim <= table.len(), "positions up to {} in the table", start + queries);
        let (_, mut areas) = scratch.split(Need::default());
        areas.run(x.chunks_mut(BLOCK * width).enumerate(), |(block, x), _| {
            rotate(isa, x, block * BLOCK, table, rotation, segment_start);
        });
    }
}

vectorized! {
    fn rotate(x: &mut [f32], first: usize, table: &[f32], rotation: Rotation, segment_start: Option<&[u32]>) {
        let Rotation { head_dim, heads, queries, start, inverse } = rotation;
        let sign = if inverse { -1.0 } else { 1.0 };
        for (i, token) in x.chunks_exact_mut(heads * head_dim).enumerate() {
            let from = segment_start.map_or(0, |start| start[first + i] as usize);
            let position = start + (first + i) % queries - from;
            let (angles, _) = table[position * head_dim..][..head_dim].as_chunks::<2>();
            for head in token.chunks_exact_mut(head_dim) {
                let (low, high) = head.split_at_mut(head_dim / 2);
                for ((low, high), &[cos, sin]) in low.iter_mut().zip(high).zip(angles) {
                    let (a, b, sin) = (*low, *high, sign * sin);
                    *low = madd::<FMA>(a, cos, -b * sin);
                    *high = madd::<FMA>(b, cos, a * sin);
                }
            }
        }
    }
}
