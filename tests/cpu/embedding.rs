//! Lookups in tables of every kind, and their gradient.

use crate::harness::operands::{FORMATS, Harness, Random};
use tetrad::backend::cpu::Isa;
use tetrad::quant::GroupedShape;

#[test]
fn rows_of_every_kind_and_the_sum_of_their_gradients() {
    for format in FORMATS {
        for (vocab, width, count) in [(1, 1, 1), (5, 33, 70), (257, 65, 200), (100, 300, 129)] {
            let (mut random, mut harness) = (Random(count as u64), Harness::default());
            let planes = random.planes(GroupedShape::new(vocab, width, 64), format);
            let tokens: Vec<u32> = (0..count).map(|_| random.below(vocab) as u32).collect();
            let (dout, old) = (random.floats(count * width), random.floats(vocab * width));
            let (tokens_at, table) = (harness.add(&tokens[..]), harness.weight(&planes));
            let (out, dout_at, grad) = (harness.out(count * width), harness.add(&dout[..]), harness.add(&old[..]));
            let values = planes.values();
            let rows = tokens.iter().flat_map(|&t| values[t as usize * width..][..width].to_vec()).collect();
            let mut sums: Vec<f64> = old.iter().map(|&x| f64::from(x)).collect();
            for (i, d) in dout.iter().enumerate() {
                sums[tokens[i / width] as usize * width + i % width] += f64::from(*d);
            }
            harness.check(&[(out, rows), (grad, sums)], 1e-5, |cpu| {
                cpu.embedding(tokens_at, &table, out);
                cpu.embedding_grad(tokens_at, dout_at, grad, width);
            });
        }
    }
}

#[test]
#[should_panic(expected = "token 5 of a vocabulary of 5")]
fn a_token_outside_the_vocabulary_is_refused() {
    let mut harness = Harness::default();
    let (tokens, dout, grad) = (harness.add(&[5u32]), harness.out(3), harness.out(15));
    harness.run(Isa::best(), 1, &[], |cpu| cpu.embedding_grad(tokens, dout, grad, 3));
}
