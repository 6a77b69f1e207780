//! What moves bytes and computes little, at the sizes of a 1b model.

use super::Sizes;
use super::report::Table;
use crate::harness::operands::{Harness, floats, words};
use tetrad::backend::cuda::Cuda;
use tetrad::backend::prelude::*;
use tetrad::backend::{Accumulate, ActivationCode, NormGradArgs, Rotation};
use tetrad::quant::WeightFormat;

/// Everything that moves bytes and computes little.
pub fn rows(table: &mut Table, sizes: &Sizes) {
    let mut harness = Harness::default();
    let Sizes { tokens: t, chunk, hidden: h, intermediate: f, vocab, sequences: [sequence, _], .. } = *sizes;
    let [x, y, z] = [1, 2, 3].map(|seed| harness.random_rows(seed, t, h));
    let [gate, up, act] = [4, 5, 6].map(|seed| harness.random_rows(seed, t, f));
    let (gain, inv, dgain) = (harness.add(&vec![1.0f32; h]), harness.add(&vec![1.0f32; t]), harness.unfilled(4 * h));
    let angles = harness.add(&floats(7, sequence * 64));
    let logits = harness.random_rows(8, chunk, vocab);
    let tokens = harness.add(&words(9, t).map(|word| word % vocab as u32).collect::<Vec<_>>());
    let losses = harness.unfilled(4 * chunk);
    let embedding = harness.random_weight(vocab, h, WeightFormat::BF16);
    let grad = harness.add(&vec![0.0f32; vocab * h]);
    let mut cuda = harness.open(&sizes.largest(t, vocab));
    let (th, tf) = (t * h, t * f);
    let wide = format!("{t} x {h}");
    let mut measure = |name: &str, shape: &str, bytes: usize, work: &mut dyn FnMut(&mut Cuda)| {
        let seconds = sizes.time(&mut cuda, work);
        table.bandwidth(name, shape, seconds, bytes);
    };
    measure("rms_norm", &wide, 4 * th, &mut |cuda| cuda.rms_norm(x, gain, y, inv, 1e-6));
    measure("rms_norm, gradients", &wide, 8 * th, &mut |cuda| {
        let accumulate = Accumulate::No;
        cuda.rms_norm_grad(&NormGradArgs { x, gain, inv_rms: inv, dout: y, dx: z, dgain, accumulate })
    });
    let rotation = Rotation { heads: h / 64, head_dim: 64, queries: sequence, start: 0, inverse: false };
    measure("rope", &wide, 4 * th, &mut |cuda| cuda.rope(x, angles, rotation, None));
    measure("quantize_activations", &wide, 4 * th, &mut |cuda| {
        cuda.quantize_activations(y, h, 1, ActivationCode::Int4)
    });
    let wide = format!("{t} x {f}");
    measure("swiglu", &wide, 6 * tf, &mut |cuda| cuda.swiglu(gate, up, act));
    measure("swiglu, gradients", &wide, 10 * tf, &mut |cuda| cuda.swiglu_grad(gate, up, act));
    let wide = format!("{chunk} x {vocab}");
    let targets = tokens.head(4 * chunk);
    measure("cross_entropy", &wide, 2 * chunk * vocab, &mut |cuda| {
        cuda.cross_entropy(logits, targets, losses, vocab, None)
    });
    measure("cross_entropy, gradient", &wide, 4 * chunk * vocab, &mut |cuda| {
        cuda.cross_entropy(logits, targets, losses, vocab, Some(1e-4))
    });
    measure("embedding, bf16", &format!("{t} of {vocab} x {h}"), 4 * th, &mut |cuda| {
        cuda.embedding(tokens, &embedding, x)
    });
    measure("embedding, gradient", &format!("{t} into {vocab} x {h}"), 10 * th, &mut |cuda| {
        cuda.embedding_grad(tokens, x, grad, h)
    });
}
