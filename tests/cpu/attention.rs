//! Causal attention.

use crate::harness::operands::{Harness, Random, segment_starts};
use tetrad::backend::cpu::Isa;
use tetrad::backend::ops::reference::{self, wide};
use tetrad::backend::{AttentionArgs, AttentionShape};

fn check(shape: AttentionShape, magnitude: f32, segment_start: Option<&[u32]>) {
    let (mut random, mut harness) = (Random(shape.capacity as u64), Harness::default());
    let narrow = shape.key_width();
    let q = random.floats(shape.batch * shape.queries * shape.query_width());
    let q: Vec<f32> = q.into_iter().map(|x| x * magnitude).collect();
    let [mut k, mut v] = [(); 2].map(|()| random.floats(shape.batch * shape.capacity * narrow));
    // Rows that no query may see: NaN in them would show.
    for cache in [&mut k, &mut v] {
        for rows in cache.chunks_mut(shape.capacity * narrow) {
            rows[(shape.start + shape.queries) * narrow..].fill(f32::NAN);
        }
    }
    let [q_at, k_at, v_at] = [&q, &k, &v].map(|data| harness.add(&data[..]));
    let start_at = segment_start.map(|start| harness.add(start));
    let (out, lse) = (harness.out(q.len()), harness.out(q.len() / shape.head_dim));
    let (expected_out, expected_lse) = reference::attention(&wide(&q), &wide(&k), &wide(&v), segment_start, shape);
    // Scores of up to 100 have an error of 1e-5 in float32; it is the relative error of a probability.
    harness.check(&[(out, expected_out), (lse, expected_lse)], 2e-5, |cpu| {
        cpu.attention(&AttentionArgs { q: q_at, k: k_at, v: v_at, out, lse, segment_start: start_at, shape });
    });
}

#[test]
fn whole_sequences_of_odd_lengths() {
    for (batch, queries, heads, kv_heads, head_dim) in [
        (1, 1, 1, 1, 1),
        (2, 7, 2, 1, 6),
        (1, 33, 3, 3, 33),
        (3, 48, 4, 2, 32),
        (1, 49, 2, 2, 16),
        (1, 65, 6, 2, 65),
        (1, 172, 1, 1, 128),
        (2, 257, 2, 1, 64),
        (1, 31, 1, 1, 300),
    ] {
        let shape = AttentionShape { batch, queries, start: 0, capacity: queries, heads, kv_heads, head_dim };
        check(shape, 1.0, None);
        check(shape, 30.0, None);
    }
}

#[test]
fn a_cache_that_is_partly_filled() {
    for (start, queries, capacity) in [(0, 1, 9), (5, 1, 6), (5, 3, 64), (100, 50, 172), (255, 2, 300), (40, 5, 45)] {
        let shape = AttentionShape { batch: 2, queries, start, capacity, heads: 4, kv_heads: 2, head_dim: 32 };
        check(shape, 1.0, None);
    }
    // Heads of whole and of broken registers, and of more than are summed at once; four queries are taken one by one, five
    // are not.
    for (head_dim, queries) in [(1, 1), (17, 4), (64, 1), (65, 4), (128, 2), (300, 1), (300, 5)] {
        let shape = AttentionShape { batch: 2, queries, start: 70, capacity: 77, heads: 6, kv_heads: 2, head_dim };
        check(shape, 1.0, None);
        check(shape, 30.0, None);
    }
}

#[test]
fn samples_in_a_row_do_not_see_each_other() {
    for (queries, lengths) in
        [(4, &[1, 2, 1][..]), (7, &[1, 2, 4]), (100, &[47, 1, 52]), (200, &[10, 86, 100, 4]), (97, &[97])]
    {
        for batch in [1, 3] {
            let shape =
                AttentionShape { batch, queries, start: 0, capacity: queries, heads: 4, kv_heads: 2, head_dim: 16 };
            check(shape, 1.0, Some(&segment_starts(batch, lengths)));
            check(shape, 30.0, Some(&segment_starts(batch, lengths)));
        }
    }
}

#[test]
fn nan_in_a_query_reaches_its_output_alone() {
    for queries in [4, 50] {
        let shape =
            AttentionShape { batch: 1, queries, start: 0, capacity: queries, heads: 1, kv_heads: 1, head_dim: 8 };
        let (mut random, mut harness) = (Random(1), Harness::default());
        let mut q = random.floats(8 * queries);
        q[3 * 8] = f32::NAN;
        let [k, v] = [(); 2].map(|()| random.floats(8 * queries));
        let [q, k, v] = [q, k, v].map(|data| harness.add(&data[..]));
        let (out, lse) = (harness.out(8 * queries), harness.out(queries));
        for isa in Isa::available() {
            let found = harness.run(isa, 1, &[out, lse], |cpu| {
                cpu.attention(&AttentionArgs { q, k, v, out, lse, segment_start: None, shape });
            });
            assert!(found[0].iter().enumerate().all(|(i, x)| x.is_nan() == (i / 8 == 3)));
            assert!(found[1].iter().enumerate().all(|(i, x)| x.is_nan() == (i == 3)));
        }
    }
}
