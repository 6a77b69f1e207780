//! Rotary embeddings.

use crate::harness::operands::{Harness, Random};
use tetrad::backend::Rotation;
use tetrad::backend::ops::reference::{self, wide};

#[test]
fn rotation_of_every_sequence_starts_at_its_position() {
    for (batch, queries, heads, head_dim, start) in
        [(1, 1, 1, 2, 0), (3, 7, 2, 6, 5), (2, 65, 3, 32, 1), (1, 33, 1, 130, 31)]
    {
        for inverse in [false, true] {
            let (mut random, mut harness) = (Random(queries as u64), Harness::default());
            let x = random.floats(batch * queries * heads * head_dim);
            let angle = |i: usize| if i.is_multiple_of(2) { (i as f32).cos() } else { (i as f32 - 1.0).sin() };
            let table: Vec<f32> = (0..(start + queries + 2) * head_dim).map(angle).collect();
            let (x_at, table_at) = (harness.add(&x[..]), harness.add(&table[..]));
            let rotation = Rotation { heads, head_dim, queries, start, inverse };
            let expected = [(x_at, reference::rope(&wide(&x), &wide(&table), rotation, None))];
            // Two products and a sum of numbers of at most one.
            harness.check(&expected, 3e-7, |cpu| cpu.rope(x_at, table_at, rotation, None));
        }
    }
}
