//! The gradient of a weight from parts of a batch.

use crate::harness::operands::{Harness, Random};
use tetrad::backend::Accumulate;
use tetrad::backend::cpu::Isa;
use tetrad::memory::Span;

/// Any cut of the tokens gives the bits of one product over all of them.
#[test]
fn parts_of_a_batch_give_the_bits_of_the_whole() {
    let (tokens, rows, cols) = (700, 45, 130);
    let (mut random, mut harness) = (Random(11), Harness::default());
    let (dy, x) = (random.floats(tokens * rows), random.floats(tokens * cols));
    let (dy, x, grad) = (harness.add(&dy[..]), harness.add(&x[..]), harness.out(rows * cols));
    for isa in Isa::available() {
        let parts = |cuts: &[usize]| {
            harness
                .run(isa, 2, &[grad], |cpu| {
                    let mut from = 0;
                    for &to in cuts {
                        let part = |span: Span, width| span.part(4 * from * width, 4 * (to - from) * width);
                        let accumulate = if from == 0 { Accumulate::No } else { Accumulate::Yes };
                        cpu.linear_grad_weight(part(dy, rows), part(x, cols), grad, rows, cols, accumulate);
                        from = to;
                    }
                })
                .remove(0)
        };
        let bits = |sums: Vec<f32>| sums.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        let whole = bits(parts(&[tokens]));
        for cuts in [&[1, 2, 3, 700][..], &[256, 512, 700], &[100, 350, 351, 699, 700]] {
            assert!(whole == bits(parts(cuts)), "{isa:?} {cuts:?}");
        }
    }
}
