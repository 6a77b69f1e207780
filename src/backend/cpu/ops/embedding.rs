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
        let (isa, mut scratch, mut slices) = self.begin();
        let table = Rows::claim(&mut slices, table);
        let (tokens, out) = (slices.read::<u32>(tokens), slices.write::<f32>(out));
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
        let (isa, mut scratch, mut slices) = self.begin();
        let (tokens, dout, grad) = (slices.read::<u32>(tokens), slices.read::<f32>(dout), slices.write::<f32>(grad));
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
