//! Rows of the table for each token, and their gradient.

use super::weights::Rows;
use crate::backend::Weight;
use crate::backend::cpu::Cpu;
use crate::backend::cpu::simd::isa::vectorized;
use crate::backend::cpu::simd::tasks::Need;
use crate::backend::ops::Embedding;
use crate::memory::Span;

/// Tokens of a forward task.
const BLOCK: usize = 64;
/// Tasks of the gradient: each owns a range of the vocabulary and looks at every token.
const RANGES: usize = 32;

impl Embedding for Cpu {
    fn embedding(&mut self, tokens: Span, table: &Weight, out: Span) {
        let (isa, mut scratch, mut claims) = self.begin();
        let table = Rows::claim(&mut claims, table);
        let (tokens, out) = (claims.read::<u32>(tokens), claims.write::<f32>(out));
        let width = table.cols();
        assert_eq!(out.len(), tokens.len() * width, "a row for each token");
        let (_, mut areas) = scratch.split(Need::default());
        areas.run(tokens.chunks(BLOCK).zip(out.chunks_mut(BLOCK * width)), |(tokens, out), _| {
            for (&token, out) in tokens.iter().zip(out.chunks_exact_mut(width)) {
                assert!((token as usize) < table.rows(), "token {token} of a vocabulary of {}", table.rows());
                table.read(isa, token as usize, 0, out);
            }
        });
    }

    fn embedding_grad(&mut self, tokens: Span, dout: Span, grad: Span, features: usize) {
        let (isa, mut scratch, mut claims) = self.begin();
        let (tokens, dout, grad) = (claims.read::<u32>(tokens), claims.read::<f32>(dout), claims.write::<f32>(grad));
        let vocab = grad.len() / features;
        assert_eq!(grad.len(), vocab * features, "whole rows");
        assert_eq!(dout.len(), tokens.len() * features, "a row for each token");
        if let Some(token) = tokens.iter().find(|&&token| token as usize >= vocab) {
            panic!("token {token} of a vocabulary of {vocab}");
        }
        let range = vocab.div_ceil(RANGES);
        let (_, mut areas) = scratch.split(Need::default());
        areas.run(grad.chunks_mut(range * features).enumerate(), |(i, grad), _| {
            let first = i * range;
            let own = first..first + grad.len() / features;
            for (&token, dout) in tokens.iter().zip(dout.chunks_exact(features)) {
                if own.contains(&(token as usize)) {
                    add(isa, dout, &mut grad[(token as usize - first) * features..][..features]);
                }
            }
        });
    }
}

vectorized! {
    fn add(x: &[f32], sum: &mut [f32]) {
        for (sum, &x) in sum.iter_mut().zip(x) {
            *sum += x;
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::backend::cpu::Isa;
    use crate::backend::cpu::testing::Rig;
    use crate::backend::testing::{KINDS, Random};
    use crate::quant::GroupedShape;

    #[test]
    fn rows_of_every_kind_and_the_sum_of_their_gradients() {
        for (kind, scheme) in KINDS {
            for (vocab, width, count) in [(1, 1, 1), (5, 33, 70), (257, 65, 200), (100, 300, 129)] {
                let (mut random, mut rig) = (Random(count as u64), Rig::default());
                let planes = random.planes(GroupedShape::new(vocab, width, 64), kind, scheme);
                let tokens: Vec<u32> = (0..count).map(|_| random.below(vocab) as u32).collect();
                let (dout, old) = (random.floats(count * width), random.floats(vocab * width));
                let (tokens_at, table) = (rig.add(&tokens[..]), rig.weight(&planes));
                let (out, dout_at, grad) = (rig.out(count * width), rig.add(&dout[..]), rig.add(&old[..]));
                let values = planes.values();
                let rows = tokens.iter().flat_map(|&t| values[t as usize * width..][..width].to_vec()).collect();
                let mut sums: Vec<f64> = old.iter().map(|&x| f64::from(x)).collect();
                for (i, d) in dout.iter().enumerate() {
                    sums[tokens[i / width] as usize * width + i % width] += f64::from(*d);
                }
                rig.check(&[(out, rows), (grad, sums)], 1e-5, |cpu| {
                    cpu.embedding(tokens_at, &table, out);
                    cpu.embedding_grad(tokens_at, dout_at, grad, width);
                });
            }
        }
    }

    #[test]
    #[should_panic(expected = "token 5 of a vocabulary of 5")]
    fn a_token_outside_the_vocabulary_is_refused() {
        let mut rig = Rig::default();
        let (tokens, dout, grad) = (rig.add(&[5u32]), rig.out(3), rig.out(15));
        rig.run(Isa::best(), 1, &[], |cpu| cpu.embedding_grad(tokens, dout, grad, 3));
    }
}
