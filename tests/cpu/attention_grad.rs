//! The gradient of attention.

use crate::harness::operands::{Harness, Random, segment_starts};
use tetrad::backend::ops::reference::{self, wide};
use tetrad::backend::{AttentionArgs, AttentionGradArgs, AttentionShape};

fn check(shape: AttentionShape, segment_start: Option<&[u32]>) {
    let (mut random, mut harness) = (Random(shape.queries as u64), Harness::default());
    let (wide_len, narrow_len) =
        (shape.batch * shape.queries * shape.query_width(), shape.batch * shape.queries * shape.key_width());
    let [q, dout] = [(); 2].map(|()| random.floats(wide_len));
    let [k, v] = [(); 2].map(|()| random.floats(narrow_len));
    let [q_at, dout_at, k_at, v_at] = [&q, &dout, &k, &v].map(|data| harness.add(&data[..]));
    let start_at = segment_start.map(|start| harness.add(start));
    let (out, lse, dq) =
        (harness.out(wide_len), harness.out(shape.batch * shape.heads * shape.queries), harness.out(wide_len));
    let [dk, dv] = [(); 2].map(|()| harness.out(narrow_len));
    let [q, k, v, dout] = [q, k, v, dout].map(|data| wide(&data));
    let [expected_dq, expected_dk, expected_dv] = reference::attention_grad(&q, &k, &v, &dout, segment_start, shape);
    let expected = [(dq, expected_dq), (dk, expected_dk), (dv, expected_dv)];
    // Sums of up to 300 products with probabilities good to about 1e-6.
    harness.check(&expected, 2e-5, |cpu| {
        let (q, k, v, segment_start) = (q_at, k_at, v_at, start_at);
        cpu.attention(&AttentionArgs { q, k, v, out, lse, segment_start, shape });
        let (out, dout) = (None, dout_at);
        cpu.attention_grad(&AttentionGradArgs {
            q,
            k,
            v,
            out,
            lse,
            dout,
            dq,
            dk,
            dv,
            delta: None,
            rotated_by: None,
            segment_start,
            shape,
        });
    });
}

#[test]
fn odd_lengths_heads_and_widths() {
    for (batch, queries, heads, kv_heads, head_dim) in [
        (1, 1, 1, 1, 1),
        (2, 7, 2, 1, 6),
        (1, 47, 3, 3, 33),
        (2, 48, 4, 2, 32),
        (1, 49, 2, 2, 16),
        (1, 63, 6, 2, 65),
        (1, 172, 1, 1, 128),
        (1, 257, 2, 1, 64),
        (1, 31, 1, 1, 300),
    ] {
        check(AttentionShape { batch, queries, start: 0, capacity: queries, heads, kv_heads, head_dim }, None);
    }
}

#[test]
fn samples_in_a_row_do_not_see_each_other() {
    for (queries, lengths) in [(7, &[1, 2, 4][..]), (100, &[47, 1, 52]), (200, &[10, 86, 100, 4]), (97, &[97])] {
        for (batch, heads, kv_heads, head_dim) in [(1, 2, 2, 33), (3, 4, 2, 16)] {
            let shape = AttentionShape { batch, queries, start: 0, capacity: queries, heads, kv_heads, head_dim };
            check(shape, Some(&segment_starts(batch, lengths)));
        }
    }
}
